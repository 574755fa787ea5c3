"""The text that ``parse`` reads, gathered into one file: a sentence a line, and what belongs to each.

STEM.txt              a normalised sentence a line
STEM.docs             the name of its document, where documents are known
STEM.documents.tsv    a row a document
STEM.speakers         who says it, where speakers are known
STEM.dropped.tsv      a sample of what cleaning left out
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Final

from pipeline.corpus.text.cleaning import NO_SPEAKER, clean_texts
from pipeline.corpus.text.documents import (
    SPEAKERS_SUFFIX,
    SUFFIX,
    TABLE_SUFFIX,
    Document,
    find_documents,
    read_document_table,
    write_document_table,
)
from pipeline.corpus.text.text_files import OnError, read_texts
from pipeline.corpus.trees.readers import looks_like_trees
from pipeline.corpus.trees.trees import shortened
from pipeline.runtime.progress import Progress
from storage.errors import InputError
from storage.files import beside, list_files, written_whole
from storage.fingerprints import Json, sha256_file

NO_WORDS: Final = "no words"
_LOOKED_AT: Final = 100
"""Lines at the beginning of a file that show whether it holds trees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TextInput:
    """Which text, and how it is read."""

    paths: Sequence[Path]
    """Files of a sentence a line, ``NAME.txt``, with what ``clean-text`` wrote beside them; with a source, files and
    folders of raw text."""
    source: str | None = None
    """How raw text is cleaned, as ``clean_texts`` knows it; None: it is cleaned already."""
    licence: str = ""
    """Of raw text, for the table of documents."""
    on_error: OnError = "stop"
    """What a line that is not UTF-8 does."""

    def files(self) -> list[Path]:
        """Return what is read: the files, those of folders, and what stands beside text that is cleaned already."""
        found = []
        for path in self.paths:
            if path.is_dir():
                found += [path / name for name in list_files(path)]
                continue
            found.append(path)
            if self.source is None:
                beside = (find_documents(_stem(path), suffix) for suffix in (SUFFIX, TABLE_SUFFIX, SPEAKERS_SUFFIX))
                found += [file for file in beside if file is not None]
        return found

    def depends_on(self) -> dict[str, Any]:
        """Return what decides the sentences, as JSON: the digests of the files, and how they are read.

        Raises:
            InputError: If a file cannot be read.
        """
        try:
            digests = {str(file): sha256_file(file) for file in self.files()}
        except OSError as error:
            raise InputError(f"{error.filename}: cannot be read ({error.strerror}); expected a file of text") from error
        return {"texts": digests, "source": self.source, "licence": self.licence, "on_error": self.on_error}

    def gather(self, stem: Path) -> dict[str, Json]:
        """Write all sentences to ``stem``; see above. Return counts by what became of the lines.

        Raises:
            InputError: As ``gather_sentences`` and ``clean_texts``.
        """
        with Progress("read", total=None, unit="lines") as progress:
            if self.source is None:
                return gather_sentences(self.paths, stem, on_error=self.on_error, progress=progress.update)
            return clean_texts(
                self.paths,
                stem,
                source=self.source,
                licence=self.licence,
                on_error=self.on_error,
                progress=progress.update,
            )


def gather_sentences(
    paths: Sequence[Path], out_stem: Path, *, on_error: OnError, progress: Callable[[int], None]
) -> dict[str, Json]:
    """Put files of a sentence a line, as ``clean-text`` writes them, one after the other.

    Beside NAME.txt, NAME.docs, NAME.documents.tsv and NAME.speakers are taken where they are; documents are known
    where all files have them.

    Args:
        paths: Files ``NAME.txt``, plain or gzipped.
        out_stem: Where; see above.
        on_error: What a line that is not UTF-8 does.
        progress: Called with the number of lines read since the last call.

    Returns:
        ``num_lines``, ``num_sentences``, and ``dropped`` by reason.

    Raises:
        InputError: If a file cannot be read, is given twice or holds trees, what is beside it has not as many lines,
            some files have documents and others none, two have one of the same name, or no sentence is left.
    """
    stems = [_stem(path) for path in paths]
    documents = _documents(paths, stems)
    speakers = [find_documents(stem, SPEAKERS_SUFFIX) for stem in stems]
    suffixes = [
        ".txt",
        *[SUFFIX, TABLE_SUFFIX] * all(documents),
        *[SPEAKERS_SUFFIX] * any(found is not None for found in speakers),
    ]
    dropped: Counter[str] = Counter()
    num_lines = num_sentences = 0
    with written_whole([beside(out_stem, suffix) for suffix in suffixes]) as files:
        out = dict(zip(suffixes, files, strict=True))
        rows: dict[str, Document] = {}
        for path, stem, names, tags in zip(paths, stems, documents, speakers, strict=True):
            table = find_documents(stem, TABLE_SUFFIX)
            known = {row.document: row for row in read_document_table(table)} if table is not None else {}
            for text, name, tag in _lines(path, names if SUFFIX in out else None, tags, on_error):
                num_lines += 1
                progress(1)
                if not text:
                    dropped["not UTF-8" if text is None else NO_WORDS] += 1
                    continue
                num_sentences += 1
                out[".txt"].write(text + "\n")
                if SUFFIX in out:
                    out[SUFFIX].write(name + "\n")
                    rows.setdefault(name, known.get(name, Document(name)))
                if SPEAKERS_SUFFIX in out:
                    out[SPEAKERS_SUFFIX].write(tag + "\n")
        if not num_sentences:
            raise InputError(f"{paths[0]}: no sentence in {num_lines} lines; expected a sentence a line")
        if SUFFIX in out:
            write_document_table(out[TABLE_SUFFIX], rows.values())
    return {"num_lines": num_lines, "num_sentences": num_sentences, "dropped": dict(sorted(dropped.items()))}


def _documents(paths: Sequence[Path], stems: Sequence[Path]) -> list[Path | None]:
    """Return each text's file of documents: all have one or none has, and no document is in two texts."""
    if twice := {str(path) for path in paths if paths.count(path) > 1}:
        raise InputError(f"{', '.join(sorted(twice))}: given more than once; name each file once")
    found = [find_documents(stem) for stem in stems]
    if any(found) and not all(found):
        without = [str(path) for path, file in zip(paths, found, strict=True) if file is None]
        raise InputError(
            f"{', '.join(without)}: no {SUFFIX} beside it, but others have one; expected all to name their documents, "
            "or none: parse them apart"
        )
    if len(found) > 1:
        seen: dict[str | None, Path] = {}
        for file in filter(None, found):
            for name in set(read_texts(file)):
                if (other := seen.setdefault(name, file)) is not file:
                    raise InputError(f"{file}: document {name!r} is in {other} too; rename one, or parse them apart")
    return found


def _lines(
    path: Path, documents: Path | None, speakers: Path | None, on_error: OnError
) -> Iterator[tuple[str | None, str, str]]:
    """Yield text, document and speaker of each line; text is None where it is not UTF-8."""
    names: Iterator[str | None] = repeat("") if documents is None else read_texts(documents)
    tags: Iterator[str | None] = repeat(NO_SPEAKER) if speakers is None else read_texts(speakers)
    number = 0
    for number, text in enumerate(read_texts(path, on_error), 1):
        if number <= _LOOKED_AT and looks_like_trees(text or ""):
            raise InputError(f"{path}:{number}: looks like a tree, expected running text: {shortened(text or '')}")
        name, tag = next(names, None), next(tags, None)
        for found, file in (name, documents), (tag, speakers):
            if file is not None and not found:
                problem = "ends before" if found is None else "is empty at"
                raise InputError(f"{file}: {problem} line {number} of {path}; expected a name for each line of it")
        yield text, name or "", tag or NO_SPEAKER
    for rest, file in (names, documents), (tags, speakers):
        if file is not None and next(rest, None) is not None:
            raise InputError(f"{file}: more than the {number} lines of {path}; expected a name for each line of it")


def _stem(path: Path) -> Path:
    name = path.name.removesuffix(".gz")
    if not name.endswith(".txt"):
        raise InputError(
            f"{path}: expected the name of a file .txt or .txt.gz, a sentence a line; for folders and raw text, give "
            "--source"
        )
    return path.with_name(name.removesuffix(".txt"))
