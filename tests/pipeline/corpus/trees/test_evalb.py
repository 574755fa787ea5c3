"""Test the figures against those that EVALB, compiled from its source, printed for the same trees with COLLINS.prm."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.trees.evalb import DELETED, EvalbFigure, GoldAndPredicted, score_by_evalb
from pipeline.corpus.trees.trees import Phrase, parse_tree

LONG = " ".join(f"(NP (NN w{i}) (, ,))" for i in range(20))
GOLDEN = [
    # punctuation at the edge of a phrase
    (
        "(TOP (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .)))",
        "(TOP (S (NP (DT the) (NN dog)) (VP (VBZ barks) (. .))))",
        (3, 3, 3, 0),
    ),
    # quotes, and PRT for ADVP
    (
        "(TOP (S (`` ``) (NP (PRP they)) (VP (VBD gave) (PRT (RP up))) (. .) ('' '')))",
        "(TOP (S (`` ``) (NP (PRP they)) (VP (VBD gave) (ADVP (RP up)) (. .)) ('' '')))",
        (4, 4, 4, 0),
    ),
    # function tags, and a crossing bracket
    (
        "(TOP (S (NP-SBJ (NN rain)) (VP (VBZ falls) (PP-LOC=2 (IN on) (NP (NNS hills))))))",
        "(TOP (S (NP (NN rain)) (VP (VP (VBZ falls) (PP (IN on))) (NP (NNS hills)))))",
        (4, 5, 6, 1),
    ),
    # a phrase of punctuation
    (
        "(TOP (NP (NP (NN tea)) (PRN (, ,) (: --) (. .)) (CC and) (NP (NN milk))))",
        "(TOP (NP (NX (NP (NN tea)) (, ,) (: --) (. .) (CC and)) (NP (NN milk))))",
        (3, 3, 4, 0),
    ),
    # a sentence of punctuation is skipped
    ("(TOP (FRAG (: --) (. .)))", "(TOP (FRAG (X (: --)) (. .)))", None),
    (
        "(TOP (S (NP (DT a) (JJ red) (NN kite)) (VP (VBD rose) (ADVP (RB up) (RB there)))))",
        "(TOP (S (NP (DT a)) (VP (JJ red) (NP (NN kite) (VBD rose)) (PRT (RB up))) (ADVP (RB there))))",
        (1, 4, 6, 2),
    ),
    # 41 words with punctuation, 21 without
    (
        f"(TOP (S {LONG} (VP (VB go))))",
        f"(TOP (S {LONG.replace('(NP ', '').replace('(, ,))', '(, ,)')} (VP (VB go))))",
        (2, 22, 2, 0),
    ),
    ("(TOP (UCP (NN salt) (CC and) (JJ sour)))", "(TOP (UCP (NN salt) (CC and) (JJ sour)))", (1, 1, 1, 0)),
    # a unary chain in another order
    ("(TOP (NP (QP (NP (NN moss)))))", "(TOP (NP (NP (QP (NN moss)))))", (3, 3, 3, 0)),
]
"""Gold tree, predicted tree, and matched, gold, predicted and crossing brackets. None: skipped."""


def pair(gold: str, predicted: str) -> GoldAndPredicted:
    want, got = parse_tree(gold), parse_tree(predicted)
    spans = [(i, i + 1) for i in range(len(want.words))]
    return GoldAndPredicted(tags=want.tags, spans=spans, gold=want.phrases, predicted=got.phrases)


@pytest.mark.parametrize(("gold", "predicted", "counts"), GOLDEN)
def test_a_sentence_has_the_counts_of_evalb(gold: str, predicted: str, counts: tuple[int, ...] | None) -> None:
    figure, _ = score_by_evalb([pair(gold, predicted)])
    found = (figure.num_matched, figure.num_gold, figure.num_predicted, figure.num_crossing)
    assert (found if figure.num_valid else None) == counts


def test_a_corpus_has_the_figures_of_evalb() -> None:
    of_all, short = score_by_evalb(pair(gold, predicted) for gold, predicted, _ in GOLDEN)
    for figure, sizes, expected in (
        (of_all, (9, 8), (46.67, 72.41, 56.76, 50.00, 0.38, 75.00)),
        (short, (8, 7), (82.61, 70.37, 76.00, 57.14, 0.43, 71.43)),
    ):
        assert (figure.num_sentences, figure.num_valid) == sizes
        percent = [figure.recall, figure.precision, figure.f1, figure.complete_match, figure.no_crossing]
        found = [round(100 * (value or 0), 2) for value in percent]
        found.insert(4, round(figure.average_crossing or 0, 2))
        assert tuple(found) == expected
        assert figure.to_json()["f1"]["value"] == figure.f1


def test_a_sentence_without_a_parse_is_skipped() -> None:
    sentence = replace(pair(*GOLDEN[0][:2]), predicted=None)
    figure, _ = score_by_evalb([sentence])
    assert figure == EvalbFigure(num_sentences=1)
    assert (figure.f1, figure.complete_match) == (None, None)


def test_a_bracket_that_ends_inside_a_word_counts_and_matches_nothing() -> None:
    # "the dogs bark." in characters
    words = [(0, 3), (4, 8), (9, 13), (13, 14)]
    gold = [("TOP", 0, 14), ("S", 0, 14), ("NP", 0, 8), ("VP", 9, 13)]
    for predicted, matched, crossing in (
        ([("TOP", 0, 14), ("S", 0, 13), ("NP", 0, 8), ("VP", 8, 14)], 3, 0),
        ([("TOP", 0, 14), ("S", 0, 14), ("NP", 0, 7), ("VP", 7, 14)], 1, 1),
    ):
        sentence = GoldAndPredicted(tags=("DT", "NNS", "VBP", "."), spans=words, gold=gold, predicted=predicted)
        figure, _ = score_by_evalb([sentence])
        assert (figure.num_matched, figure.num_predicted, figure.num_crossing) == (matched, 3, crossing)


@st.composite
def sentences(draw: st.DrawFn) -> GoldAndPredicted:
    n = draw(st.integers(1, 6))
    edges = st.tuples(st.integers(0, n), st.integers(0, n)).map(sorted).filter(lambda both: both[0] < both[1])
    phrase = st.tuples(st.sampled_from(["S", "NP", "NP-SBJ", "ADVP", "PRT"]), edges).map(lambda p: (p[0], *p[1]))
    top = ("TOP", 0, n)
    gold, predicted = draw(st.lists(phrase, max_size=6)), draw(st.lists(phrase, max_size=6))
    tags = draw(st.lists(st.sampled_from(["NN", ",", ".", "''"]), min_size=n, max_size=n))
    spans = [(i, i + 1) for i in range(n)]
    return GoldAndPredicted(tags=tags, spans=spans, gold=[top, *gold], predicted=[top, *predicted])


@given(sentences())
def test_counts_equal_those_of_a_loop_over_deleted_words(sentence: GoldAndPredicted) -> None:
    def brackets(phrases: list[Phrase]) -> list[tuple[str, tuple[int, ...]]]:
        found = []
        for label, start, stop in phrases:
            left = tuple(i for i in range(start, stop) if sentence.tags[i] not in DELETED)
            if left and label != "TOP":
                found.append(("ADVP" if label == "PRT" else label.split("-")[0], left))
        return found

    gold, predicted = brackets(list(sentence.gold)), brackets(list(sentence.predicted or ()))
    crossing = sum(any(set(a) & set(b) and set(a) - set(b) and set(b) - set(a) for _, b in gold) for _, a in predicted)
    left, matched = list(gold), 0
    for bracket in predicted:
        if bracket in left:
            left.remove(bracket)
            matched += 1
    figure, _ = score_by_evalb([sentence])
    if figure.num_valid:
        found = (figure.num_matched, figure.num_gold, figure.num_predicted, figure.num_crossing)
        assert found == (matched, len(gold), len(predicted), crossing)
