"""Write files that look like the files of both BabyLM releases, with sentences of the built-in grammar.

Each source has the layout of its release, and the noise that its rules remove. The functions return the sentences that
cleaning must find, so tests of a pipeline that starts from BabyLM do not need the real files.
"""

import random
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.pcfg import text_of_words

ENDING = "train"
ASS = r"""[Script Info]
Title: x

[V4+ Styles]
Format: Name, Bold

[Events]
Format: Layer, Start
Dialogue: 0,0:00:01.00,0:00:02.00,Default,Ann,0,0,0,,{\i1}Is it{\i0}\Nate?
Comment: 0,0:00:02.00,0:00:02.10,Default,,0,0,0,,no line
Dialogue: Marked=0,0:00:03.00,0:00:04.00,Default,,0000,0000,0000,,It, too, is.
Dialogue: 1,0:00:03.00,0:00:04.00,Default,,0,0,0,,{\an7\p1}m 0 0 l 10 0{\p0}
"""
"""Subtitles in the format ASS, and a line as in SSA."""


class Row(NamedTuple):
    """A sentence that cleaning must find."""

    document: str
    speaker: str
    text: str


class Page:
    """A file under construction: its lines, and the sentences that cleaning must find."""

    def __init__(self, source: str, seed: int) -> None:
        self.source, self.lines, self.rows = source, [], []
        self.random = random.Random(f"{source} {seed}")
        self.grammar = english_grammar()
        self.document = f"{source}/{source}.{ENDING}"
        self.num_dropped = 0

    def title(self, title: str) -> None:
        self.document = f"{self.source}/{title}"

    def numbered(self, number: int) -> None:
        self.document = f"{self.source}/{self.source}.{ENDING}:{number}"

    def words(self) -> list[str]:
        return self.grammar.words(self.grammar.sample(self.random.random))

    def sentence(self, words: list[str] | None = None, *, speaker: str = "-") -> str:
        """Draw a sentence, add it to the expected sentences, and return it."""
        return self.expect(text_of_words(words or self.words()), speaker=speaker)

    def expect(self, text: str, *, speaker: str = "-") -> str:
        self.rows.append(Row(self.document, speaker, text))
        return text

    def write(self, *lines: str) -> None:
        self.lines += lines

    def dropped(self, *lines: str) -> None:
        self.lines += lines
        self.num_dropped += len(lines)

    def paragraph(self, num_sentences: int = 4) -> str:
        return " ".join(self.sentence() for _ in range(num_sentences))


def spaced(sentence: str) -> str:
    """Put a space before punctuation marks, as in transcripts."""
    return "".join(f" {char}" if char in ",.?!" else char for char in sentence)


def aochildes(page: Page, number: int) -> None:
    del number
    page.write(*(spaced(page.sentence()) for _ in range(8)))
    page.dropped("xxx .")


def bnc_spoken(page: Page, number: int) -> None:
    page.numbered(number)
    page.write(*(spaced(page.sentence()) for _ in range(8)))
    page.dropped(".")
    page.write("")


def cbt(page: Page, number: int) -> None:
    title = f"Nobody___The_Book_{number}.txt.out"
    page.title(title)
    page.write(f"_BOOK_TITLE_ : {title}", page.expect(f"CHAPTER {number}"))
    for _ in range(6):
        words = page.words()
        page.sentence(words)
        page.write(" ".join([words[0][0].upper() + words[0][1:], *words[1:]]))
    page.write("`` Come in ! '' said the fox -LRB- who could n't wait -RRB- .")
    page.expect('"Come in!" said the fox (who couldn\'t wait).')


def childes(page: Page, number: int) -> None:
    title = f"childes/Eng-NA/Nobody/{number:02d}.cha"
    page.title(title)
    page.write(f"= = = {title} = = =")
    page.dropped("[sits on the floor with a book]")
    for speaker in ("MOT", "CHI", "MOT", "FAT"):
        page.write(f"*{speaker}:\t{spaced(page.sentence(speaker=speaker))}")
    page.dropped("*CHI:\txxx .", "*CHI:\t[laughs]")
    page.write("*CHI:\twant xxx ball [points] .")
    page.expect("want ball.", speaker="CHI")


def children_stories(page: Page, number: int) -> None:
    page.write(page.expect(f"The story of number {number}"), "")
    page.write(f"    {page.paragraph()}", page.paragraph(), "")


def gutenberg(page: Page, number: int) -> None:
    page.title(f"PG{number}")
    page.write(f"= = = PG{number} = = =", page.expect(f"THE BOOK OF NUMBER {number}"))
    page.dropped("Produced by Nobody At All")
    page.write(page.paragraph(), f"{page.paragraph()} [Illustration: a cup]")
    page.dropped("[Pg 12]", "* * * * *")
    page.write("He said _no_ to Mr. Fox. It was 3.5 miles away.", "")
    page.expect("He said no to Mr. Fox.")
    page.expect("It was 3.5 miles away.")


def gutenberg_wrapped(page: Page, number: int) -> None:
    """Write hard-wrapped lines as in 2023: no headers, a blank line between paragraphs."""
    page.numbered(1)
    page.write(page.expect(f"CHAPTER {number}"), "")
    for _ in range(3):
        page.write(*textwrap.wrap(page.paragraph(5), 70), "")
    page.dropped("[Pg 13]")
    page.write("")


def open_subtitles(page: Page, number: int) -> None:
    page.numbered(number)
    page.write(page.sentence(), f"<i>{page.sentence()}</i>", f"- {page.sentence()} - {page.sentence()}")
    page.dropped("[door slams]", "(SIGHS)", "\u266a \u266a", "Subtitles by Nobody")
    page.write("\u266a l'm a tune \u266a", "")
    page.expect("I'm a tune")


def qed(page: Page, number: int) -> None:
    del number
    page.write(*(page.sentence() for _ in range(5)))
    page.dropped("[Music]")
    page.write("&amp;gt;&amp;gt; WHAT lS a &quot;cup&quot; ?")
    page.expect('WHAT IS a "cup"?')


def simple_wiki(page: Page, number: int) -> None:
    page.title(f"Thing {number}")
    page.write(f"= = = Thing {number} = = =", page.paragraph(), f"{page.paragraph()[:-1]}.[1]")
    page.write("")


def simple_wikipedia(page: Page, number: int) -> None:
    page.numbered(number)
    page.write(page.expect(f"Thing {number}"), page.paragraph(), page.paragraph(), "")


def switchboard(page: Page, number: int) -> None:
    for speaker in ("A", "B", "A"):
        page.write(f"{speaker}:\t{page.sentence(speaker=speaker)}")
    page.write(f"B:\tNo. Huh-uh, {number}. *two utts")
    page.expect(f"No. Huh-uh, {number}.", speaker="B")


def wikipedia(page: Page, number: int) -> None:
    page.title(f"Thing {number}")
    page.write(f"= = = Thing {number} = = =", "", page.paragraph(), "", "= = History = =")
    page.expect("History")
    page.write("The [[cup|old cups]] are ''well'' @-@ known ( ; ).")
    page.expect("The old cups are well-known.")
    page.write(page.paragraph())
    page.dropped("[[Category:Things]]")


RELEASES: dict[int, dict[str, Callable[[Page, int], None]]] = {
    2023: {
        "aochildes": aochildes,
        "bnc_spoken": bnc_spoken,
        "cbt": cbt,
        "children_stories": children_stories,
        "gutenberg": gutenberg_wrapped,
        "open_subtitles": open_subtitles,
        "qed": qed,
        "simple_wikipedia": simple_wikipedia,
        "switchboard": switchboard,
        "wikipedia": wikipedia,
    },
    2024: {
        "bnc_spoken": bnc_spoken,
        "childes": childes,
        "gutenberg": gutenberg,
        "open_subtitles": open_subtitles,
        "simple_wiki": simple_wiki,
        "switchboard": switchboard,
    },
}


def write_babylm(folder: Path, *, release: int, num_documents: int = 3, seed: int = 1) -> dict[str, Page]:
    """Write a file SOURCE.train for each source of a release. Return the lines and the expected sentences of each file.

    Args:
        folder: Created if it does not exist.
        release: 2023 or 2024.
        num_documents: Documents per source, with some 8 to 20 sentences each.
        seed: The same arguments give the same bytes.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = {}
    for source, write in RELEASES[release].items():
        page = pages[source] = Page(source, seed)
        for number in range(1, num_documents + 1):
            write(page, number)
        (folder / f"{source}.{ENDING}").write_text("".join(line + "\n" for line in page.lines), encoding="utf-8")
    return pages
