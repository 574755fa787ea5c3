"""Define the blocks of the report's page: headings, paragraphs, lists, tables and figures, in sections.

Each section's module returns a ``Section``. The template ``page.html.j2`` draws any section, and ``tables_in`` collects
the tables of all sections, to export them as Markdown, LaTeX or CSV.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

from markupsafe import Markup

from pipeline.report.tables import AnyCell, Table


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading inside a section."""

    kind: ClassVar = "heading"
    text: str


@dataclass(frozen=True, slots=True)
class Paragraph:
    """A paragraph of explanation."""

    kind: ClassVar = "paragraph"
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """A list of sentences."""

    kind: ClassVar = "items"
    texts: Sequence[str]


@dataclass(frozen=True, slots=True)
class Commands:
    """Command lines, each with a label, which may be empty."""

    kind: ClassVar = "commands"
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True, kw_only=True, slots=True)
class TitledTable:
    """A table with a title."""

    kind: ClassVar = "table"
    title: str
    """Heading or caption in Markdown, LaTeX and CSV. If the title is empty, these formats leave the table out."""
    table: Table
    note: str = ""
    """Sentences that explain the numbers in an exported table. The page does not show them, because other blocks of the
    page say the same."""
    style: str = ""
    """CSS class."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A figure with its heading, key, caption, commands and data."""

    kind: ClassVar = "plot"
    title: str
    svg: Markup
    key: Sequence[tuple[Markup, str]]
    """(mark, label) of each series."""
    caption: str
    sources: Sequence[str]
    """Commands that made the data."""
    data: Table
    topic: str = ""
    """Written before the title in Markdown, LaTeX and CSV."""


@dataclass(frozen=True, slots=True)
class Details:
    """Blocks that a reader opens by a click on the summary."""

    kind: ClassVar = "details"
    summary: AnyCell
    blocks: Sequence["Block"]
    style: str = ""
    """CSS class."""


Block = Heading | Paragraph | Items | Commands | TitledTable | Plot | Details


@dataclass(frozen=True, kw_only=True, slots=True)
class Section:
    """A section of the page."""

    name: str
    """Identifier that links point to."""
    title: str
    blocks: Sequence[Block]
    link: str = ""
    """Shorter title for the list of sections; if empty, ``title`` is shown."""


def tables_in(blocks: Iterable[Block]) -> Iterator[TitledTable]:
    """Yield the titled tables of blocks in order, and the data behind each figure."""
    for block in blocks:
        if isinstance(block, TitledTable) and block.title and block.table.rows:
            yield block
        elif isinstance(block, Plot) and block.data.rows:
            title = f"{block.topic}: {block.title}" if block.topic else block.title
            yield TitledTable(title=title, note=block.caption, table=block.data)
        elif isinstance(block, Details):
            yield from tables_in(block.blocks)
