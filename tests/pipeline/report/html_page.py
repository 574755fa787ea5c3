"""Read the report's page and tables in tests."""

import re
from collections.abc import Iterable, Sequence
from html.parser import HTMLParser

VOID = {"meta", "path", "circle", "use", "rect", "br", "line"}


def texts(rows: Iterable[Sequence[object]]) -> list[list[str]]:
    return [[str(cell) for cell in row] for row in rows]


class Page(HTMLParser):
    """Collects text, tables, ids and references, and fails on tags that do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.ids: list[str] = []
        self.references: set[str] = set()
        self.attributes: set[str] = set()
        self.texts: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        self._seen(tag, attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._seen(tag, attrs)

    def _seen(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, found in attrs:
            self.attributes.add(name)
            if name == "id":
                self.ids.append(found or "")
            self.references.update(re.findall(r"#([\w-]+)\)", found or ""))
            if name == "href":
                assert found is not None
                assert found.startswith("#")
                self.references.add(found[1:])
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in {"td", "th"}:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)
        if self.open and ("td" in self.open or "th" in self.open):
            self.tables[-1][-1][-1] += data

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def table(self, first_row_has: str) -> list[list[str]]:
        return next(t for t in self.tables if any(first_row_has in cell for cell in t[0]))
