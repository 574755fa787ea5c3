"""``import-trees``: any bracketed treebank, with its raw text or without, to STEM.mrg and STEM.txt, line by line.

What is imported is a list of files, each with its text if there is one, and with the names of its documents: one name
for the file, where it is of a folder, or a file of names.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from pipeline.corpus.text.documents import (
    SPEAKERS_SUFFIX,
    SUFFIX,
    TABLE_SUFFIX,
    Document,
    read_document_table,
    read_documents,
    write_document_table,
)
from pipeline.corpus.text.text_files import OnError, escape_brackets, find_file
from pipeline.corpus.trees.parse_record import SUFFIX as PARSE_RECORD_SUFFIX
from pipeline.corpus.trees.readers import Counts, Sentence, read_sentences
from pipeline.corpus.trees.treebanks import Format, TreeFile, find_trees, parse_sections
from pipeline.corpus.trees.trees import Tree, format_tree
from storage.errors import ConfigError, InputError
from storage.files import beside, written_whole
from storage.fingerprints import Json


@dataclass(frozen=True, kw_only=True, slots=True)
class DocumentOptions:
    """What is known of documents beside the trees."""

    names: Sequence[Path] = ()
    """One file for each source, a document's name for each tree; or none."""
    table: Path | None = None
    """A STEM.documents.tsv with a row for each document."""
    source_name: str = ""
    """Source of all documents; empty: what the folder says, or the table."""
    licence: str = ""
    """Licence of all documents; empty: that of the table."""


def import_trees(
    sources: Sequence[Path],
    out_stem: Path,
    *,
    texts: Sequence[Path] = (),
    documents: Sequence[Path] | DocumentOptions = (),
    wanted: Format = "auto",
    sections: str | None = None,
    on_error: OnError = "stop",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Json]:
    """Write ``OUT.mrg``, one normalised tree a line, and its text in ``OUT.txt``.

    The words of a written tree are the characters of the text, round brackets escaped, so importing what was imported
    changes nothing. Where documents are known, also ``OUT.docs`` and ``OUT.documents.tsv``: they are if names are
    given, or if a source is a folder, of which each file is a document. All files appear whole or not at all; what was
    there is replaced, or removed where documents are not known.

    Args:
        sources: Files of trees, plain or gzipped, or folders of them, in this order.
        out_stem: OUT; its folder is made.
        texts: For each source, a file of text, or a folder of STEM.txt for each file of trees; or none: text is put
            together from the words.
        documents: As ``DocumentOptions.names``, or all of them.
        wanted: The format of all sources, see ``treebanks``.
        sections: Such as ``02-21``, of folders of the Penn Treebank.
        on_error: "stop" at the first line that is not a tree or not UTF-8, or "skip" and count it.
        progress: Called with the number of trees read since the last call.

    Returns:
        ``num_trees``, ``num_kept``, ``dropped`` and ``repaired`` by reason; ``num_files`` read, ``passed_over`` by
        reason, ``format``; ``texts`` of the sentences kept, given and rebuilt; ``num_other_parses`` of n-best lists.

    Raises:
        ConfigError: If there are not as many texts or files of names as sources, options do not go together, or an
            output would replace an input.
        InputError: Naming file and line where there is one; also if no sentence is left.
        StoreError: If the files cannot be written.
    """
    options = documents if isinstance(documents, DocumentOptions) else DocumentOptions(names=documents)
    parts, passed_over = _parts(sources, texts, options, wanted, sections)
    counts = Counts()
    num_given = 0
    with written_whole(_outputs(parts, out_stem, options)) as (mrg, txt, *docs):
        names = _Names(options, docs)
        for part in parts:
            before, num_kept, kept = counts.num_trees, counts.num_kept, []
            read = part.file.read
            for sentence in read_sentences(part.file.path, part.text, on_error=on_error, counts=counts, read=read):
                mrg.write(format_tree(with_words_of_text(sentence)) + "\n")
                txt.write(sentence.text + "\n")
                kept.append(sentence.number - before)
                if progress is not None:
                    progress(1)
            num_given += (counts.num_kept - num_kept) if part.text else 0
            names.write(part, kept, num_trees=counts.num_trees - before)
        if not counts.num_kept:
            raise InputError(
                f"{sources[0]}: no sentence left of {counts.num_trees} trees: {dict(counts.dropped)}; expected trees "
                "with the text of each in the same line of the text file, or without text"
            )
        names.finish()
    # Of trees that were there before.
    for suffix in (PARSE_RECORD_SUFFIX, SPEAKERS_SUFFIX, *(() if docs else (SUFFIX, TABLE_SUFFIX))):
        beside(out_stem, suffix).unlink(missing_ok=True)
    return {
        **counts.to_json(),
        "num_files": len(parts),
        "passed_over": dict(sorted(passed_over.items())),
        "format": ", ".join(sorted({part.file.format for part in parts})),
        "texts": {"given": num_given, "rebuilt": counts.num_kept - num_given},
        "num_other_parses": counts.num_other_parses,
    }


def with_words_of_text(sentence: Sentence) -> Tree:
    """Return the sentence's tree with its words spelt as in the text, round brackets escaped."""
    words = tuple(escape_brackets(sentence.text[start:stop]) for start, stop in sentence.spans)
    return Tree(words, sentence.tree.tags, sentence.tree.phrases)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Part:
    """A file of trees and what goes with it."""

    file: TreeFile
    text: Path | None
    names: Path | None
    """The names of its documents, if they are given; else it is one, or they are not known."""

    @property
    def has_documents(self) -> bool:
        """Return whether it is known of which documents its trees are."""
        return self.names is not None or self.file.document is not None


class _Names:
    """Writes which sentence is of which document, if that is known, and notes the rows of their table."""

    def __init__(self, options: DocumentOptions, files: Sequence[IO[str]]) -> None:
        self._options = options
        self._files = files
        self._table = {row.document: row for row in read_document_table(options.table)} if options.table else None
        self._rows: dict[str, Document] = {}
        self._last: tuple[Path | None, str] = (None, "")

    def write(self, part: _Part, kept: Sequence[int], *, num_trees: int) -> None:
        """Write the names of a file's sentences.

        Raises:
            InputError: If its file of names is not right, or a name has no row in the table.
        """
        if not self._files:
            return
        if part.names is None:
            assert part.file.document is not None
            names = [part.file.document.document] * num_trees
        else:
            names = read_documents(part.names, num_trees=num_trees)
            before, last = self._last
            if names[:1] == [last]:
                raise InputError(
                    f"{part.names}:1: document {last!r}, the last one of {before}; expected another name, since a "
                    "document is a run of lines with the same one"
                )
            self._last = (part.names, names[-1]) if names else self._last
        self._files[0].writelines(names[tree] + "\n" for tree in kept)
        for name in dict.fromkeys(names[tree] for tree in kept):
            self._rows.setdefault(name, self._row(name, part))

    def _row(self, name: str, part: _Part) -> Document:
        if self._table is not None and name not in self._table:
            raise InputError(f"{self._options.table}: no row of document {name!r}, expected one a document")
        row = self._table[name] if self._table is not None else part.file.document or Document(name)
        return Document(name, self._options.source_name or row.source, self._options.licence or row.licence)

    def finish(self) -> None:
        """Write the table."""
        if self._files:
            write_document_table(self._files[1], self._rows.values())


def _parts(
    sources: Sequence[Path],
    texts: Sequence[Path],
    options: DocumentOptions,
    wanted: Format,
    sections: str | None,
) -> tuple[list[_Part], Counter[str]]:
    if not sources or (texts and len(texts) != len(sources)):
        raise ConfigError(
            f"import-trees: {len(texts)} texts for {len(sources)} sources, expected one --text a source, or none"
        )
    if options.names and len(options.names) != len(sources):
        raise ConfigError(
            f"import-trees: {len(options.names)} files of documents for {len(sources)} sources, expected one "
            "--documents a source, or none"
        )
    folders = [source for source in sources if source.is_dir()]
    if options.names and folders:
        raise ConfigError(f"import-trees: --documents for the folder {folders[0]}, whose files are its documents")
    if not (options.names or folders) and (options.table or options.source_name or options.licence):
        raise ConfigError("import-trees: sources or licences of documents, but no documents; give --documents")
    chosen = parse_sections(sections) if sections is not None else None
    parts, passed_over = [], Counter[str]()
    for number, source in enumerate(sources):
        files, others = find_trees(source, wanted, sections=chosen)
        passed_over += others
        for file in files:
            text = _text_of(file, texts[number]) if texts else None
            named = replace(file, document=file.document or Document(file.stem.name)) if folders else file
            parts.append(_Part(file=named, text=text, names=options.names[number] if options.names else None))
    _check_names(parts)
    return parts, passed_over


def _text_of(file: TreeFile, text: Path) -> Path:
    if text.is_dir():
        return find_file(text / file.stem, ".txt")
    if file.document is not None:
        raise ConfigError(
            f"import-trees: the file {text} for a folder of trees; expected a folder, {file.stem}.txt in it"
        )
    return text


def _check_names(parts: Sequence[_Part]) -> None:
    """Refuse two files that would be the same document.

    Raises:
        InputError: Naming both.
    """
    paths: dict[str, Path] = {}
    for part in parts:
        if part.file.document is not None:
            other = paths.setdefault(part.file.document.document, part.file.path)
            if other != part.file.path:
                raise InputError(
                    f"{part.file.path}: document {part.file.document.document!r}, as is {other}; expected a name of "
                    "its own for each file, leave one out or import them apart"
                )


def _outputs(parts: Sequence[_Part], out_stem: Path, options: DocumentOptions) -> list[Path]:
    inputs = {part.file.path for part in parts} | {part.text for part in parts if part.text} | set(options.names)
    resolved = {path.resolve() for path in (inputs | {options.table} if options.table else inputs) if path}
    suffixes = (".mrg", ".txt", *((SUFFIX, TABLE_SUFFIX) if parts[0].has_documents else ()))
    outputs = [beside(out_stem, suffix) for suffix in suffixes]
    for path in outputs:
        if path.resolve() in resolved:
            raise ConfigError(f"import-trees: {path} is read and would be replaced; give another --out")
    return outputs
