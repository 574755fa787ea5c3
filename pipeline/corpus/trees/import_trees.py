"""Import bracketed treebanks, with or without raw text, as OUT.mrg and OUT.txt. Line n of both is the same sentence.

A source is a file of trees, or a folder of such files. In a folder, each file is one document. If the source is one
file, a second file may give the name of the document of each tree.
"""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import IO

from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.text.documents import (
    COMPANION_SUFFIXES,
    DOCS_SUFFIX,
    TABLE_SUFFIX,
    Document,
    read_document_table,
    read_documents,
    write_document_table,
)
from pipeline.corpus.text.text_files import check_replaces_no_input, escape_brackets
from pipeline.corpus.trees.joiners import JOINERS, EnglishCheck
from pipeline.corpus.trees.raw_trees import ALWAYS_DROPPED
from pipeline.corpus.trees.readers import Counts, read_sentences
from pipeline.corpus.trees.tree_texts import find_text
from pipeline.corpus.trees.treebanks import TreeFile, find_trees, parse_sections, read_split_list
from pipeline.corpus.trees.trees import Tree, format_tree
from storage.errors import ConfigError, InputError
from storage.files import beside, written_whole
from storage.fingerprints import Json

log = logging.getLogger(__name__)


def import_trees(
    sources: Sequence[Path], out_stem: Path, config: ImportConfig, progress: Callable[[int], None] | None = None
) -> dict[str, Json]:
    """Write ``OUT.mrg``, one normalised tree per line, and its text in the same line of ``OUT.txt``.

    Each word of a written tree is spelt as in the text, with round brackets escaped. Importing the output again changes
    nothing. If document names are given, or a source is a folder, ``OUT.docs`` and ``OUT.documents.tsv`` are written
    too.

    The old files of OUT stay until all new files are on disk under temporary names. If the run is killed while it
    replaces files, ``OUT.mrg`` may be missing, and then every command refuses OUT. New trees are never next to an old
    text.

    Args:
        sources: Files of trees, plain or gzipped, or folders of such files. They are read in this order.
        out_stem: OUT. Its folder is created.
        config: Formats, texts, documents and what to do at an error.
        progress: Called with the number of trees kept since the last call.

    Returns:
        A summary of the import:

        - ``num_trees``, ``num_kept``: number of all trees, and of the trees that were written.
        - ``dropped``, ``repaired``: number of trees for each reason.
        - ``num_files``: number of files that were read.
        - ``passed_over``: number of files that were not read, for each reason.
        - ``format``: formats of the files.
        - ``texts``: number of kept sentences whose text was ``given``, and whose text was ``rebuilt``.
        - ``rebuilt_by``: value of ``--joiner``, the way to rebuild texts. Only if texts were rebuilt.
        - ``num_other_parses``: number of parses left out because their sentence has a better parse in its n-best list.
        - ``dialects``: number of trees for each dialect (way to write leaves). Plain brackets are not counted.
        - ``lines_left_out``: number of lines that belong to no tree, for each kind of line.

    Raises:
        ConfigError: If texts, or files of document names, are given but not one for each source; if options do not go
            together; or if an output would replace an input.
        InputError: If an input is malformed (the message names the file and, if possible, the line), or if no sentence
            is left.
        StoreError: If the files cannot be written.
    """
    inputs, passed_over = _find_inputs(sources, config)
    read = [config.document_table, *chain.from_iterable((each.file.path, each.text, each.names) for each in inputs)]
    written = [beside(out_stem, suffix) for suffix in (".mrg", ".txt", *COMPANION_SUFFIXES)]
    check_replaces_no_input("import-trees", written, filter(None, read))
    has_documents = inputs[0].names is not None or inputs[0].file.document is not None
    suffixes = (".txt", *[DOCS_SUFFIX, TABLE_SUFFIX] * has_documents, ".mrg")
    stale = [beside(out_stem, suffix) for suffix in (".mrg", *COMPANION_SUFFIXES)]
    counts = Counts()
    num_given = 0
    english = EnglishCheck()
    with written_whole([beside(out_stem, suffix) for suffix in suffixes], stale=stale) as (txt, *document_files, mrg):
        names = _DocumentWriter(config, document_files)
        for source in inputs:
            before, kept = counts.num_trees, []
            for sentence in read_sentences(
                source.file.path,
                source.text,
                on_error=config.on_error,
                counts=counts,
                read=source.file.read,
                rebuild=JOINERS[config.joiner],
            ):
                english.add(sentence.tree.words)
                words = tuple(escape_brackets(sentence.text[start:stop]) for start, stop in sentence.spans)
                mrg.write(format_tree(Tree(words, sentence.tree.tags, sentence.tree.phrases)) + "\n")
                txt.write(sentence.text + "\n")
                kept.append(sentence.number - before)
                if progress is not None:
                    progress(1)
            num_given += len(kept) if source.text else 0
            names.write(source, kept, num_trees=counts.num_trees - before)
        if not counts.num_kept:
            remedy = "run again without --on-error skip to see the first fault"
            if config.text:
                remedy = "give a text file with one line per tree, or leave out --text"
            elif ALWAYS_DROPPED.issuperset(counts.dropped):
                remedy = "give a source with words"
            raise InputError(
                f"{sources[0]}: no sentence left of {counts.num_trees} trees: {dict(counts.dropped)}; {remedy}"
            )
        names.write_table()
    if not config.text and config.joiner == "english" and english.is_other_language:
        log.warning(
            "%s: does not look like English (%d of %d words are frequent English words), but the texts were rebuilt by "
            "English rules. Give the texts with --text, or use --joiner space (--joiner none for Chinese and Japanese)",
            sources[0],
            english.num_frequent,
            english.num_words,
        )
    return {
        **counts.to_json(),
        "num_files": len(inputs),
        "passed_over": dict(sorted(passed_over.items())),
        "format": ", ".join(sorted({source.file.format for source in inputs})),
        "texts": {"given": num_given, "rebuilt": counts.num_kept - num_given},
        **({} if config.text else {"rebuilt_by": config.joiner}),
        "num_other_parses": counts.num_other_parses,
        "dialects": dict(sorted(counts.dialects.items())),
        "lines_left_out": dict(sorted(counts.lines_left_out.items())),
    }


@dataclass(frozen=True, kw_only=True, slots=True)
class _Input:
    """A file of trees, with its text and the names of its documents."""

    file: TreeFile
    text: Path | None
    names: Path | None
    """File with the document name of each tree. None if ``file`` is one document, or if its documents are unknown."""


class _DocumentWriter:
    """Write the document of each sentence, and the table of documents, if documents are known."""

    def __init__(self, config: ImportConfig, files: Sequence[IO[str]]) -> None:
        self._config = config
        self._files = files
        rows = read_document_table(config.document_table) if config.document_table else []
        self._table = {row.document: row for row in rows}
        self._rows: dict[str, Document] = {}
        self._last: tuple[Path | None, str] = (None, "")

    def write(self, source: _Input, kept: Sequence[int], *, num_trees: int) -> None:
        """Write the document name of each kept tree of one file.

        Raises:
            InputError: If the file of document names is malformed, or a name has no row in the table.
        """
        if not self._files:
            return
        if source.names is None:
            assert source.file.document is not None
            names = [source.file.document.document] * num_trees
        else:
            names = read_documents(source.names, num_trees=num_trees)
            before, last = self._last
            if names[:1] == [last]:
                raise InputError(
                    f"{source.names}:1: document {last!r} is also the last document of {before}, so both would "
                    "become one document; rename one of them"
                )
            self._last = (source.names, names[-1]) if names else self._last
        self._files[0].writelines(names[tree] + "\n" for tree in kept)
        for name in dict.fromkeys(names[tree] for tree in kept):
            self._rows.setdefault(name, self._row(name, source))

    def _row(self, name: str, source: _Input) -> Document:
        table = self._config.document_table
        if table is not None and name not in self._table:
            raise InputError(f"{table}: no row of document {name!r}, expected one row per document")
        row = self._table[name] if table is not None else source.file.document or Document(name)
        return Document(name, self._config.source_name or row.source, self._config.licence or row.licence)

    def write_table(self) -> None:
        """Write one row for each document seen so far."""
        if self._files:
            write_document_table(self._files[1], self._rows.values())


def _find_inputs(sources: Sequence[Path], config: ImportConfig) -> tuple[list[_Input], Counter[str]]:
    """Return the files of trees with their texts and document names, and count the files that are passed over.

    The counts have an entry for each reason to pass over a file.
    """
    if not sources or (config.text and len(config.text) != len(sources)):
        raise ConfigError(
            f"import-trees: {len(config.text)} texts for {len(sources)} sources; give one --text per source, or none"
        )
    if config.text and config.joiner != "english":
        raise ConfigError(
            f"import-trees: --joiner {config.joiner} rebuilds texts, but --text gives them; leave out one of the two"
        )
    if config.documents and len(config.documents) != len(sources):
        raise ConfigError(
            f"import-trees: {len(config.documents)} files of documents for {len(sources)} sources; give one "
            "--documents per source, or none"
        )
    folders = [source for source in sources if source.is_dir()]
    if config.documents and folders:
        raise ConfigError(f"import-trees: each file of the folder {folders[0]} is a document; leave out --documents")
    if not (config.documents or folders) and (config.document_table or config.source_name or config.licence):
        raise ConfigError(
            "import-trees: --document-table, --source-name and --licence need --documents; give the names of documents"
        )
    sections = None if config.sections == "all" else parse_sections(config.sections)
    if config.split and config.split_list is None:
        raise ConfigError("import-trees: --split without --split-list; give the list of the documents of each split")
    names = read_split_list(config.split_list, config.split) if config.split_list is not None else None
    inputs, passed_over = [], Counter[str]()
    for number, source in enumerate(sources):
        files, others = find_trees(source, config.format, sections=sections, names=names)
        passed_over += others
        for file in files:
            text = _find_text(file, config.text[number]) if config.text else None
            named = replace(file, document=file.document or Document(file.stem.name)) if folders else file
            names_of = config.documents[number] if config.documents else None
            inputs.append(_Input(file=named, text=text, names=names_of))
    _check_names(inputs)
    return inputs, passed_over


def _find_text(file: TreeFile, text: Path) -> Path:
    if text.is_dir():
        return find_text(file.stem, text)
    if file.document is not None:
        raise ConfigError(
            f"import-trees: the trees are in a folder, but {text} is a file; give --text a folder with {file.stem}.txt"
        )
    return text


def _check_names(inputs: Sequence[_Input]) -> None:
    """Raise InputError if two files are the same document."""
    paths: dict[str, Path] = {}
    for source in inputs:
        if source.file.document is not None:
            other = paths.setdefault(source.file.document.document, source.file.path)
            if other != source.file.path:
                raise InputError(
                    f"{source.file.path}: this file and {other} would both be document "
                    f"{source.file.document.document!r}; leave one out, or import them in separate runs"
                )
