"""Define the options of ``clean-text`` and ``import-trees``. Imports no numpy, so that ``--help`` stays quick."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.corpus.text.text_files import OnError

TreeFormat = Literal["auto", "ptb", "bllip", "brackets"]
Joiner = Literal["english", "space", "none"]


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanConfig:
    """How ``clean-text`` reads raw text."""

    source: str
    """How to read the texts. plain: one paragraph per line. sentences: one sentence per line. In both, a blank line
    separates documents, except with --wrapped and in JSON lines and tables. babylm: apply to each file the rules of the
    BabyLM source that it is named after. childes, or another name of a BabyLM source: apply the rules of this source to
    all files."""
    column: str = ""
    """Read the text in this field of JSON lines or this column of a table (CSV, TSV). Each object or row is a document.
    If a table has no header, give the number of the column, from 1. Without this option, the field named text
    is read from JSON lines, and a table is an error."""
    wrapped: bool = False
    """Join the lines of each paragraph. A blank line ends a paragraph. Each file is then one document. Only with
    --source plain."""
    source_name: str = ""
    """Name of the corpus that all documents come from. It is written to the column source of OUT.documents.tsv, and the
    name of each document begins with it. The command 'evaluate perplexity' gives separate figures for each corpus.
    Without this option, the name is the value of --source, such as plain. With --source babylm, it is the BabyLM source
    that the file is named after, such as childes."""
    licence: str = ""
    """Licence of all documents, written to OUT.documents.tsv."""
    on_error: OnError = "stop"
    """What to do at a line that is not UTF-8, and at an object or row without text. stop: end with an error that names
    the line. skip: leave the line out and count it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ImportConfig:
    """How ``import-trees`` reads treebanks. SOURCES are the files and folders of trees that the command is given."""

    text: tuple[Path, ...] = ()
    """Raw text of one of the SOURCES: one sentence per line, CoNLL-U, or the Penn Treebank's raw files. Give --text
    once for each of the SOURCES, or not at all. For a folder of trees, give a folder of texts. Without texts, the text
    is rebuilt from the words of the trees as --joiner says."""
    joiner: Joiner = "english"
    """How to rebuild the text of trees without --text. english: by rules of English. space: join the words with single
    spaces. none: join the words without spaces, as in Chinese and Japanese."""
    format: TreeFormat = "auto"
    """Format of the sources: the Penn Treebank (ptb), parses by the Charniak parser (bllip) or any other bracketed
    trees (brackets). auto: detect the format. With another value than auto, files of a folder may have any suffix."""
    sections: str = "all"
    """Import only these sections of the Penn Treebank's wsj folders, for example 02-21 or 00,01,24. all: import every
    file."""
    split_list: Path | None = None
    """Import only the documents that this file lists, one per line, as GUM's splits.md does. Lines that begin with #
    are headings of splits."""
    split: str = ""
    """Import only the documents below this heading of the --split-list, for example dev."""
    documents: tuple[Path, ...] = ()
    """File with the document name of each tree, one per line. Give --documents once for each of the SOURCES, or not at
    all."""
    document_table: Path | None = None
    """Table (TSV) with the columns document, source and licence, and one row per document."""
    source_name: str = ""
    """Name of the corpus that all documents come from. It replaces the names that are taken from folders or from the
    column source of the table."""
    licence: str = ""
    """Licence of all documents. It replaces the licences that the table gives."""
    on_error: OnError = "stop"
    """What to do at a malformed line or tree. stop: end with an error that names the line. skip: leave it out and count
    it."""
