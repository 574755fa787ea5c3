"""Gather the text that ``parse`` reads into one file, one sentence per line, and write the files that describe it.

STEM.txt              one normalised sentence per line
STEM.docs             the document name of each sentence, if documents are known
STEM.documents.tsv    one row per document, if documents are known
STEM.speakers         the speaker of each sentence, if speakers are known
STEM.dropped.tsv      examples of what cleaning left out, if the text was raw
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import repeat
from pathlib import Path
from typing import Final

from pipeline.corpus.text.cleaning import clean_texts
from pipeline.corpus.text.corpus_config import CleanConfig
from pipeline.corpus.text.documents import (
    DOCS_SUFFIX,
    NO_SPEAKER,
    SPEAKERS_SUFFIX,
    TABLE_SUFFIX,
    Document,
    find_companion,
    read_document_table,
    write_document_table,
)
from pipeline.corpus.text.file_forms import refuse_unless_text
from pipeline.corpus.text.text_files import OnError, read_texts
from pipeline.corpus.trees.readers import looks_like_trees
from pipeline.corpus.trees.trees import shortened
from pipeline.parsing.parse_config import ParseConfig
from pipeline.runtime import options
from pipeline.runtime.progress import Progress
from storage.errors import InputError
from storage.files import beside, list_files, written_whole
from storage.fingerprints import Json

NO_WORDS: Final = "no words"
_TREE_LINES: Final = 100
"""Number of lines at the beginning of a text that are checked for trees."""


def input_files(texts: Sequence[Path], *, is_raw: bool) -> list[Path]:
    """Return all files that are read: the texts, all files in folders, and the files that describe a cleaned text."""
    found = []
    for path in texts:
        if path.is_dir():
            found += [path / name for name in list_files(path)]
            continue
        found.append(path)
        if not is_raw:
            companions = (find_companion(_stem(path), s) for s in (DOCS_SUFFIX, TABLE_SUFFIX, SPEAKERS_SUFFIX))
            found += [file for file in companions if file is not None]
    return found


def gather(
    texts: Sequence[Path], stem: Path, config: ParseConfig, *, before_line: Callable[[], None] = lambda: None
) -> dict[str, Json]:
    """Write all sentences to the files of ``stem``. Return how many lines were read, kept and dropped.

    ``before_line`` is called at every line. If it raises an error, nothing is written.

    Raises:
        InputError: If a text or a file that describes it cannot be used, or no sentence is left.
    """
    with Progress("read", total=None, unit="lines") as progress:

        def read(num_lines: int) -> None:
            before_line()
            progress.update(num_lines)

        if not config.source:
            return gather_sentences(texts, stem, on_error=config.on_error, progress=read)
        return clean_texts(texts, stem, options.build(CleanConfig, asdict(config)), read)


def gather_sentences(
    texts: Sequence[Path], out_stem: Path, *, on_error: OnError, progress: Callable[[int], None]
) -> dict[str, Json]:
    """Concatenate files with one sentence per line, as ``clean-text`` writes them.

    NAME.docs, NAME.documents.tsv and NAME.speakers are read if they are next to NAME.txt. Either all texts must have a
    NAME.docs, or no text may have one.

    Args:
        texts: Files ``NAME.txt``, plain or gzipped.
        out_stem: STEM of the files to write.
        on_error: What to do at a line that is not UTF-8.
        progress: Called with the number of lines read since the last call.

    Returns:
        ``num_lines``, ``num_sentences``, and ``dropped`` by reason.

    Raises:
        InputError: If a file cannot be read, is given twice or does not hold running text; if a file next to a text has
            another number of lines; if only some texts have a file of documents; if two texts have a document of the
            same name; or if no sentence is left.
    """
    stems = [_stem(path) for path in texts]
    for path in texts:
        refuse_unless_text(path)
    documents = _find_names(texts, stems)
    speakers = [find_companion(stem, SPEAKERS_SUFFIX) for stem in stems]
    suffixes = [
        ".txt",
        *[DOCS_SUFFIX, TABLE_SUFFIX] * all(documents),
        *[SPEAKERS_SUFFIX] * any(found is not None for found in speakers),
    ]
    dropped: Counter[str] = Counter()
    num_lines = num_sentences = 0
    with written_whole([beside(out_stem, suffix) for suffix in suffixes]) as files:
        out = dict(zip(suffixes, files, strict=True))
        rows: dict[str, Document] = {}
        for path, stem, names, tags in zip(texts, stems, documents, speakers, strict=True):
            table = find_companion(stem, TABLE_SUFFIX)
            given = {row.document: row for row in read_document_table(table)} if table is not None else {}
            for text, name, tag in _read_lines(path, names, tags, on_error):
                num_lines += 1
                progress(1)
                if not text:
                    dropped["not UTF-8" if text is None else NO_WORDS] += 1
                    continue
                num_sentences += 1
                out[".txt"].write(text + "\n")
                if DOCS_SUFFIX in out:
                    out[DOCS_SUFFIX].write(name + "\n")
                    rows.setdefault(name, given.get(name, Document(name)))
                if SPEAKERS_SUFFIX in out:
                    out[SPEAKERS_SUFFIX].write(tag + "\n")
        if not num_sentences:
            raise InputError(f"{texts[0]}: no sentence in {num_lines} lines; expected one sentence per line")
        if DOCS_SUFFIX in out:
            write_document_table(out[TABLE_SUFFIX], rows.values())
    return {"num_lines": num_lines, "num_sentences": num_sentences, "dropped": dict(sorted(dropped.items()))}


def _find_names(texts: Sequence[Path], stems: Sequence[Path]) -> list[Path | None]:
    """Return, for each text, the path of its file ``NAME.docs``. If no text has such a file, all values are None.

    Raises:
        InputError: If only some texts have such a file, a document name is in two texts, or a text is given twice.
    """
    if twice := {str(path) for path in texts if texts.count(path) > 1}:
        raise InputError(f"{', '.join(sorted(twice))}: given more than once; name each file once")
    found = [find_companion(stem, DOCS_SUFFIX) for stem in stems]
    if any(found) and not all(found):
        without = [str(path) for path, file in zip(texts, found, strict=True) if file is None]
        raise InputError(
            f"{', '.join(without)}: no {DOCS_SUFFIX} next to it, but other texts have one; expected such a file for "
            "all texts or for none. Parse the texts with and without such a file in separate commands"
        )
    if len(found) > 1:
        seen: dict[str | None, Path] = {}
        for file in filter(None, found):
            for name in set(read_texts(file)):
                if (other := seen.setdefault(name, file)) is not file:
                    raise InputError(
                        f"{file}: document {name!r} is in {other} too; rename one, or "
                        "parse the texts in separate commands"
                    )
    return found


def _read_lines(
    path: Path, documents: Path | None, speakers: Path | None, on_error: OnError
) -> Iterator[tuple[str | None, str, str]]:
    """Yield text, document and speaker of each line. The text is None if the line is not UTF-8."""
    names: Iterator[str | None] = repeat("") if documents is None else read_texts(documents)
    tags: Iterator[str | None] = repeat(NO_SPEAKER) if speakers is None else read_texts(speakers)
    number = 0
    for number, text in enumerate(read_texts(path, on_error), 1):
        if number <= _TREE_LINES and looks_like_trees(text or ""):
            raise InputError(f"{path}:{number}: looks like a tree, expected running text: {shortened(text or '')}")
        name, tag = next(names, None), next(tags, None)
        for found, file in (name, documents), (tag, speakers):
            if file is not None and not found:
                problem = "ends before" if found is None else "is empty at"
                raise InputError(f"{file}: {problem} line {number} of {path}; expected one name for each line of text")
        yield text, name or "", tag or NO_SPEAKER
    for rest, file in (names, documents), (tags, speakers):
        if file is not None and next(rest, None) is not None:
            raise InputError(
                f"{file}: has more than the {number} lines of {path}; expected one name for each line of text"
            )


def _stem(path: Path) -> Path:
    name = path.name.removesuffix(".gz")
    if not name.endswith(".txt"):
        raise InputError(
            f"{path}: expected the name of a file .txt or .txt.gz with one sentence per line; for folders and raw "
            "text, give --source"
        )
    return path.with_name(name.removesuffix(".txt"))
