"""Test sentence splitting: an example of each rule, and properties of any paragraph."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.splitting import boundaries, scores
from pipeline.corpus.text.sentences import has_word, split_long, split_sentences
from pipeline.corpus.text.text_files import normalise_text

SPLIT = [  # a bar marks the end of a sentence
    "It rained. | We stayed in! | Why? | Who knows\u2026 | Nobody.",
    "Mr. Fox met Dr. Hare at St. Ives. | They ate.",
    "He lives in the U.S. | He likes it.",
    "The U.S. Navy and J. R. R. Fox agreed with Miss E. Hare.",
    "Pens, cups, etc. are here. | Pens, cups, etc. | The rest is gone.",
    "See Fig. 3 and pp. 12-14, e.g. Table 2. | It shows 3.5 cups at 5 p.m. daily.",
    "Born in 1996. | The year was cold.",
    "1. Wash your hands.",
    "Wait... what? | Wait... | What?",
    '"Come in!" said the fox. | "No." | She left.',
    "\u201cI know. | You go,\u201d he said. | \u201cGo!\u201d cried the fox.",
    "\u201cStop!\u201d Anna said. | \u201cStop!\u201d | Anna left.",
    "He said (as one does. Or not.) that it rained. | (This is whole. | And this.) | Done.",
    "A smiley :( is open. | Then more. | And more.",
    "It was shown [1, see (2). Ibid.] before.[3] | Others [4] agree. [5] | Good.",
    "It is so--Mrs. Hare said so. | 'Mrs. Fox did.'",
    "They ran. | mRNA was found. | iPhones too.",
    "Secretary George P. Fox spoke. | It was Nicholas B. Hare.",
    "He and I. | They know him.",
    "R. Fox met J. R. R. Hare, D'A. Fox and \u00c9. Hare. | (R. Fox was late.)",
    "By Wm. Fox, Geo. Hare and Th. Fox. | It was E. May, not T. Will. | A. A. Fox went.",
    "It is I. | May I come in?",
    "no capitals. no stops, no cuts",
    "It is 3 p.m. | The train left. | Fox v. Hare is known.",
    "Visit www.fox.com for more. | Really?! | Yes.",
]


@pytest.mark.parametrize("marked", SPLIT)
def test_sentences_end_where_people_end_sentences(marked: str) -> None:
    assert split_sentences(marked.replace(" |", "")) == marked.split(" | ")


@given(
    st.lists(st.sampled_from([*"aB1.?!,()[]\"'\u201c\u201d -", "Mr. ", ". ", "The ", "e.g. "]), max_size=60).map(
        "".join
    )
)
def test_joined_sentences_are_the_paragraph_and_each_has_a_word(drawn: str) -> None:
    text = normalise_text(drawn)
    sentences = split_sentences(text)
    assert " ".join(sentences) == text
    assert all(map(has_word, sentences)) or not has_word(sentences[0])


@given(st.lists(st.sampled_from(["a", "b,", "c;", "--", "d", "e.", "F"]), min_size=1, max_size=60), st.integers(2, 9))
def test_long_sentences_lose_no_word(words: list[str], most: int) -> None:
    pieces = split_long(" ".join(words), most)
    assert " ".join(pieces).split() == words
    assert max(len(piece.split()) for piece in pieces) <= most


def test_a_long_sentence_is_cut_at_the_semicolon_next_to_its_middle() -> None:
    assert split_long("a b, c d; e f, g h", 5) == ["a b, c d;", "e f, g h"]
    assert split_long("a b, c d; e f, g h", 8) == ["a b, c d; e f, g h"]


def test_the_benchmark_compares_boundaries_without_spaces() -> None:
    assert boundaries(["a b", "c"]) == boundaries(["ab", "c"]) == {2, 3}
    assert scores({1, 2}, {2, 3, 4, 5}) == {"precision": 0.5, "recall": 0.25, "f1": 1 / 3}
