"""Test that every rule gives its example, and that words are always found in the rebuilt text."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.detokenisation import compare
from pipeline.corpus.trees.detokenisation import CONTEXT_RULES, PAIR_RULES, WORD_RULES, detokenise
from pipeline.corpus.trees.matching import match_words
from pipeline.corpus.trees.readers import Counts, read_sentences
from pipeline.corpus.trees.trees import Tree, format_tree, parse_tree
from tests.pipeline.corpus.strategies import trees

RULES = [*PAIR_RULES, *CONTEXT_RULES, *WORD_RULES]
# Shares of sentences rebuilt exactly, measured with benchmarks.detokenisation. They are tight, so that losing one rule
# fails the test.
FLOORS = {"gum": (0.964, 0.975), "craft": (0.964, 0.962), "masc": (0.933, 0.958)}
"""Shares of train and dev."""


def text_of(tagged: str) -> str:
    pairs = [each.rpartition("/") for each in tagged.split()]
    return detokenise([word for word, _, _ in pairs], [tag for _, _, tag in pairs])


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.text)
def test_every_rule_does_what_its_example_says(rule: object) -> None:
    assert text_of(rule.tagged) == rule.text


@pytest.mark.parametrize(
    ("tagged", "text"),
    [
        ("I/PRP do/VBP n't/RB know/VB ./.", "I don't know."),
        ("I/PRP wan/VBP na/TO stay/VB ,/, do/VBP n't/RB I/PRP ?/.", "I wanna stay, don't I?"),
        ("a/DT face/NN -/HYPH to/IN -/HYPH face/NN talk/NN", "a face-to-face talk"),
        ("black/JJ -/HYPH and/CC -/HYPH tan/JJ", "black-and-tan"),
        ("in/IN the/DT U.S./NNP ./.", "in the U.S."),
        ("the/DT U.S./NNP said/VBD no/UH ./.", "the U.S. said no."),
        ("the/DT end/NN .../: ./.", "the end ...."),
        ("Smith/NNP &/CC Co./NNP ,/, he/PRP said/VBD", "Smith & Co., he said"),
        ("\"/`` Go/VB ,/, \"/'' he/PRP said/VBD", '"Go," he said'),
        ('He/PRP said/VBD :/: "/" Go/VB ./. "/"', 'He said: "Go."'),
        ("He/PRP said/VBD \"/'' Go/VB \"/'' ./.", 'He said "Go".'),
        ("\"/'' Go/VB on/RP ./.", '"Go on.'),
        ("\u201c/`` Go/VB ,/, \u201d/'' he/PRP said/VBD", "\u201cGo,\u201d he said"),
        ("a/DT `/`` b/NN '/'' c/NN", "a `b' c"),
        ("``/`` Yes/UH ,/, ''/'' he/PRP said/VBD ,/, ``/`` now/RB ./. ''/''", '"Yes," he said, "now."'),
        ("Yes/UH ,/, ''/'' he/PRP said/VBD ,/, ``/`` but/CC", 'Yes," he said, "but'),
        ("a/DT '/'' b/NN '/'' c/NN", "a 'b' c"),
        ("so/RB ./: ./: ./: no/UH", "so . . . no"),
        ("Luke/NNP 8/CD :/: 65/CD", "Luke 8:65"),
        ("May/NNP 5/CD -/SYM 6/CD", "May 5-6"),
        ("one/CD \u2014/: two/CD \u2014/:", "one\u2014two \u2014"),
        ("A/NN +/SYM B/NN", "A + B"),
        ("friend-LRB-s-RRB-/NNS -LRB-a-RRB-/LS", "friend(s) (a)"),
        (r"1\/2/CD a\*/NN 10%/CD", "1/2 a* 10%"),
        ("the/DT 1st/JJ of/IN 10,000/CD men/NNS", "the 1st of 10,000 men"),
        ("C$/$ 5.3/CD million/CD ,/, or/CC 3/CD %/NN", "C$5.3 million, or 3%"),
        ("yes/UH --/: no/UH", "yes -- no"),
        ("dogs/NNS '/POS ''/'' tails/NNS", "dogs'\" tails"),
        ("a/DT -LRB-/-LRB- b/LS -RRB-/-RRB- c/NN", "a (b) c"),
        ("\u00bb/`` b/NN \u00ab/'' or/CC \u2039/: b/NN \u203a/:", "\u00bbb\u00ab or \u2039b\u203a"),
        ("it/PRP \u2018s/VBZ red/JJ ,/, is/VBZ n`t/RB it/PRP", "it\u2018s red, isn`t it"),
        ("for/IN \u20b9/$ 5/CD", "for \u20b95"),
        ("5/CD \u20ac/SYM and/CC", "5 \u20ac and"),
        ("x/NN", "x"),
    ],
)
def test_rebuilt_texts_look_like_written_texts(tagged: str, text: str) -> None:
    assert text_of(tagged) == text


@pytest.mark.parametrize(
    ("tagged", "text"),
    [
        ("``/`` in/IN the/DT U.K./NNP ./. ''/''", '"in the U.K."'),
        ("so/RB -LRB-/-LRB- by/IN Roe/NNP Inc./NNP ./. -RRB-/-RRB- ./.", "so (by Roe Inc.)."),
        ("``/`` -LSB-/-LRB- at/IN 5/CD p.m./NN ./. -RSB-/-RRB- ''/''", '"[at 5 p.m.]"'),
        ("figs/NNS ,/, etc./FW ./. '/'' he/PRP said/VBD", "figs, etc.' he said"),
        ("by/IN Ray/NNP Jr./NNP ./. \u201d/''", "by Ray Jr.\u201d"),
        ("in/IN the/DT U.K./NNP ?/.", "in the U.K.?"),
        ("No/DT end/NN .../: ./. ''/''", 'No end ...."'),
        ("he/PRP said/VBD 5./CD ./.", "he said 5.."),
    ],
)
def test_an_abbreviation_and_its_sentence_share_a_period(tagged: str, text: str) -> None:
    assert text_of(tagged) == text
    words, tags = zip(*[pair.rpartition("/")[::2] for pair in tagged.split()], strict=True)
    spans = match_words(Tree(words, tags, (("TOP", 0, len(words)),)), text)
    assert spans is not None
    assert None not in spans


SPECIAL = st.sampled_from(
    [
        *("do", "n't", "``", "''", '"', "'", "`", "-LRB-", "-RRB-", "-LSB-", "(", "[", "]", "$", "%", "--", "-", "/"),
        *(
            ".",
            ",",
            ":",
            "...",
            "U.S.",
            "can",
            "not",
            "\\/",
            "\u201c",
            "\u2019s",
            "\u0301",
            "\u200b",
            "5",
            "+",
            "\u2212",
        ),
    ]
)


@given(trees(st.one_of(SPECIAL, st.text(st.characters(codec="utf-8"), max_size=4))))
def test_words_are_always_found_in_the_rebuilt_text(tmp_path_factory: pytest.TempPathFactory, tree: Tree) -> None:
    path = tmp_path_factory.mktemp("rebuilt") / "x.mrg"
    path.write_text(format_tree(tree))
    counts = Counts()
    found = list(read_sentences(path, None, on_error="stop", counts=counts))
    assert counts.dropped.keys() <= {"no words"}
    for sentence in found:
        assert [s for s in match_words(sentence.tree, sentence.text) or () if s is not None] == sentence.spans
        covered = "".join(sentence.text[start:stop] for start, stop in sentence.spans)
        assert covered.replace(" ", "") == sentence.text.replace(" ", "")


def test_a_combining_mark_is_separated_from_the_word_before_it(tmp_path: Path) -> None:
    (tmp_path / "x.mrg").write_text("(S (HYPH e) (NN \u0301))\n")
    [sentence] = read_sentences(tmp_path / "x.mrg", None, on_error="stop", counts=Counts())
    assert (sentence.text, sentence.spans) == ("e \u0301", [(0, 1), (2, 3)])


def test_speakers_restarts_and_traces_are_not_in_the_text(tmp_path: Path) -> None:
    (tmp_path / "x.mrg").write_text(
        "( (CODE (SYM SpeakerA1) (. .)) )\n"
        "( (S (EDITED (-DFL- \\[) (NP (PRP I)) (-DFL- \\+)) (NP (PRP I)) (VP (VBP go)) (-NONE- *) (-DFL- E_S)) )\n"
    )
    counts = Counts()
    found = list(read_sentences(tmp_path / "x.mrg", None, on_error="stop", counts=counts))
    assert [sentence.text for sentence in found] == ["I I go"]
    assert counts.dropped == {"no words": 1}
    assert counts.repaired == {"traces removed": 1, "markup left out that is not in the text": 1}


def test_a_shared_last_period_is_found_in_a_given_text() -> None:
    tree = parse_tree("(S (NP (DT the) (NNP U.S.)) (. .))")
    assert match_words(tree, "the U.S.") == [(0, 3), (4, 7), (7, 8)]
    assert match_words(tree, "the U.S..") == [(0, 3), (4, 8), (8, 9)]
    assert match_words(parse_tree("(S (CD 5.) (. .))"), "5.") is None


def test_dashes_that_could_be_split_in_many_ways_are_matched_quickly() -> None:
    tree = Tree(("--",) * 40, (":",) * 40, (("TOP", 0, 40),))
    assert match_words(tree, "-" * 100 + "x") is None
    assert match_words(tree, "-" * 100) is not None


@pytest.mark.parametrize("treebank", FLOORS)
def test_most_sentences_of_real_treebanks_are_rebuilt_exactly(shared_data: Path, treebank: str) -> None:
    for split, floor in zip(("train", "dev"), FLOORS[treebank], strict=True):
        assert compare(shared_data / treebank / split).share >= floor
