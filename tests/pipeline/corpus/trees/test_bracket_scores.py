"""Test that brackets are counted as in a slow loop, and that written parses are read as the same parses."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dataset.oracle import actions_to_tree
from pipeline.corpus.dataset.token_trees import LEAF_TAG, TokenSentence, align, read_gold_trees, tree_over_words
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.trees.bracket_scores import score_parses
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.matching import match_words
from pipeline.corpus.trees.readers import Sentence
from pipeline.corpus.trees.trees import TokenPhrase, format_tree, normalise_tree, parse_tree
from storage.errors import InputError
from teacher.teacher_commands import write_parses
from tests.pipeline.corpus.strategies import sentences as sentences_with_trees
from tests.strategies import actions_of, phrases

Tree = list[TokenPhrase]


def tree(children: list) -> Tree:
    return actions_to_tree([2, *actions_of(children), 0, 1])[0]


def slow(gold: list[Tree], predicted: list[Tree | None], *, labelled: bool = True) -> dict[str, Any]:
    """Compute the definitions with lists: a predicted bracket uses up one equal gold bracket."""
    counts: dict[str, Any] = dict.fromkeys(("gold", "predicted", "matched", "spans", "exact", "longer", "flat"), 0)
    f1s = []
    for want, got in zip(gold, predicted, strict=True):
        n = want[0][2]
        brackets, found = want[1:], (got or [])[1:]
        counts["gold"] += len(brackets)
        counts["predicted"] += len(found)
        matches = {}
        for name, key in (("matched", lambda phrase: phrase), ("spans", lambda phrase: phrase[1:])):
            left = [key(phrase) for phrase in brackets]
            matches[name] = 0
            for phrase in found:
                if key(phrase) in left:
                    left.remove(key(phrase))
                    matches[name] += 1
            counts[name] += matches[name]
        right = matches["matched" if labelled else "spans"]
        counts["exact"] += got is not None and right == len(brackets) == len(found)
        if n == 1:
            continue
        g = {phrase[1:] for phrase in brackets if phrase[2] - phrase[1] not in (1, n)}
        p = {phrase[1:] for phrase in found if phrase[2] - phrase[1] not in (1, n)}
        counts["longer"] += 1
        counts["flat"] += not g
        # by precision and recall, as in the code of Kim et al. (2019)
        precision = len(g & p) / len(p) if p else float(not g)
        recall = len(g & p) / len(g) if g else 1.0
        f1s.append(0 if got is None or not precision + recall else 2 * precision * recall / (precision + recall))
    return counts | {"f1s": f1s}


@st.composite
def corpora(draw: st.DrawFn) -> tuple[list[Tree], list[Tree | None]]:
    gold, predicted = [], []
    for want in draw(st.lists(phrases().map(tree), min_size=1, max_size=4)):
        n = want[0][2]
        other = draw(phrases().map(tree))
        # clipped to the sentence: another shape that is often partly right
        clipped = [(label, start, min(stop, n)) for label, start, stop in other[1:] if start < n]
        part = [phrase for phrase in want[1:] if draw(st.booleans())]
        gold.append(want)
        predicted.append(draw(st.sampled_from([[want[0], *clipped], [want[0], *part], want, None])))
    return gold, predicted


@settings(max_examples=100)
@given(corpora(), st.booleans())
def test_figures_equal_those_of_a_slow_loop(corpus: tuple[list[Tree], list[Tree | None]], labelled: bool) -> None:
    gold, predicted = corpus
    figure, expected = score_parses(gold, predicted, labelled=labelled), slow(gold, predicted, labelled=labelled)
    assert figure.num_sentences == len(gold)
    assert figure.num_unparsed == predicted.count(None)
    assert figure.num_matched == (expected["matched"] if labelled else None)
    for name, key in {
        "num_gold": "gold",
        "num_predicted": "predicted",
        "num_matched_spans": "spans",
        "num_exact": "exact",
        "num_longer": "longer",
        "num_without_spans": "flat",
    }.items():
        assert getattr(figure, name) == expected[key], name
    f1s = expected["f1s"]
    assert figure.sentence_f1 == (pytest.approx(sum(f1s) / len(f1s)) if f1s else None)
    if labelled and figure.precision and figure.recall:
        harmonic = 2 * figure.precision * figure.recall / (figure.precision + figure.recall)
        assert figure.f1 == pytest.approx(harmonic)


@given(phrases().map(tree))
def test_a_tree_agrees_with_itself(found: Tree) -> None:
    figure = score_parses([found], [found])
    assert figure.exact_match == 1
    assert figure.sentence_f1 in {1, None}
    assert figure.f1 == figure.unlabelled_f1 == figure.precision == (1 if len(found) > 1 else None)


def test_an_example_by_hand() -> None:
    # the dog barks . : (S (NP the dog) (VP barks) .), predicted (S (NP the dog) (VP (VP barks .)))
    gold = [(0, 0, 4), (3, 0, 4), (1, 0, 2), (2, 2, 3)]
    predicted = [(0, 0, 4), (3, 0, 4), (1, 0, 2), (2, 2, 4), (2, 2, 4)]
    figure = score_parses([gold], [predicted])
    assert (figure.num_gold, figure.num_predicted, figure.num_matched) == (3, 4, 2)
    assert (figure.precision, figure.recall) == (2 / 4, 2 / 3)
    assert figure.f1 == 2 * 2 / 7
    assert figure.sentence_f1 == 2 * 1 / (1 + 2)
    assert figure.exact_match == 0


def test_unary_chains_count_as_many_brackets_and_each_matches_once() -> None:
    gold = [(0, 0, 1), (3, 0, 1), (1, 0, 1)]
    figure = score_parses([gold, gold], [[(0, 0, 1), (1, 0, 1), (1, 0, 1)], [(0, 0, 1), (2, 0, 1)]])
    assert (figure.num_gold, figure.num_predicted, figure.num_matched, figure.num_matched_spans) == (4, 3, 1, 3)
    assert figure.sentence_f1 is None
    assert figure.num_longer == 0


def test_sentences_without_gold_spans_count_as_in_unsupervised_parsing() -> None:
    flat, bracketed = [(0, 0, 3)], [(0, 0, 3), (1, 0, 2)]
    for gold, predicted, expected in (
        (flat, flat, 1),
        (flat, bracketed, 0),
        (bracketed, flat, 0),
        (bracketed, bracketed, 1),
        (flat, None, 0),
    ):
        figure = score_parses([gold], [predicted])
        assert figure.sentence_f1 == expected
        assert figure.num_without_spans == (gold is flat)


def test_trees_without_labels_have_only_figures_of_spans() -> None:
    gold, predicted = [(0, 0, 3), (3, 0, 3), (1, 0, 2)], [(0, 0, 3), (1, 0, 3), (1, 0, 2)]
    figure = score_parses([gold], [predicted], labelled=False)
    assert (figure.precision, figure.recall, figure.f1) == (None, None, None)
    assert figure.unlabelled_f1 == figure.exact_match == 1
    assert score_parses([gold], [predicted]).exact_match == 0


def test_labels_unknown_to_the_model_lower_only_recall() -> None:
    figure = score_parses([[(0, 0, 2), (9, 0, 2)]], [[(0, 0, 2), (1, 0, 2)]])
    assert (figure.recall, figure.unlabelled_f1) == (0, 1)


def test_trees_of_other_sentences_are_a_bug_and_an_empty_treebank_is_refused() -> None:
    with pytest.raises(ValueError, match="TOP over the same tokens"):
        score_parses([[(0, 0, 3)]], [[(0, 0, 2)]])
    with pytest.raises(ValueError, match="shorter"):
        score_parses([[(0, 0, 3)]], [])
    with pytest.raises(InputError, match="num_sentences is 0"):
        score_parses([], [])


TEXTS = ["the dog barks.", "the (bad) cat", 'don\'t "bark"', "naïve dog-cat 1990s", "\U0001f600 x\u0303"]
TOKENIZER = Tokenizer.train(TEXTS * 3, 290)


@settings(max_examples=100)
@given(sentences_with_trees())
def test_written_words_are_the_text_and_every_phrase_keeps_its_tokens(sentence: Sentence) -> None:
    if not sentence.text:
        return
    _, spans = TOKENIZER.encode_batch_with_spans([sentence.text])[0]
    over_tokens = align(normalise_tree(sentence.tree).phrases, sentence.spans, spans).phrases
    found = tree_over_words(over_tokens, sentence.text, spans)
    again = normalise_tree(parse_tree(format_tree(found)))
    assert again == found
    word_spans = match_words(again, sentence.text)
    assert word_spans is not None
    # A phrase that ends inside a token can end with a token of white space, which belongs to no word.
    tokens = [sentence.text[slice(*span)].strip() for span in spans]
    expected = [
        (label, first, max(at + 1 for at in range(first, stop) if tokens[at] or at == first))
        for label, first, stop in over_tokens
    ]
    assert align(again.phrases, [span for span in word_spans if span], spans).phrases == expected


def test_a_word_is_written_in_pieces_if_the_tree_splits_it() -> None:
    text = "don't bark (ever)."
    ids, spans = TOKENIZER.encode_batch_with_spans([text])[0]
    n = len(ids)
    end = next(i for i, (start, _) in enumerate(spans) if text[start] == ".")
    flat = tree_over_words([("TOP", 0, n)], text, spans)
    assert format_tree(flat) == "(TOP (XX don't) (XX bark) (XX -LRB-ever-RRB-.))"
    parsed = tree_over_words([("TOP", 0, n), ("VP", 0, end), ("X", end, n)], text, spans)
    assert parsed.words == ("don't", "bark", "-LRB-ever-RRB-", ".")
    assert set(parsed.tags) == {LEAF_TAG}


def test_phrases_that_cannot_be_written_are_left_out() -> None:
    text = "\U0001f600 qx"
    ids, spans = TOKENIZER.encode_batch_with_spans([text])[0]
    first_of_two = next(i for i, span in enumerate(spans) if spans[i + 1] == span)
    space = next(i for i, (start, stop) in enumerate(spans) if text[start:stop] == " ")
    top = ("TOP", 0, len(ids))
    for lost in (("X", 0, first_of_two + 1), ("X", space, space + 1), top):
        assert tree_over_words([top, lost], text, spans).phrases == (("TOP", 0, 2),)


def test_written_parses_can_be_imported(tmp_path: Path) -> None:
    made, predicted = [], []
    for text in TEXTS:
        ids, spans = TOKENIZER.encode_batch_with_spans([text])[0]
        n = len(ids)
        starts = [i for i, (start, _) in enumerate(spans) if i and text[start] == " "]
        gold = [(0, 0, n), (2, 0, n)]
        sentence = Sentence(number=0, text=text, tree=parse_tree("(S (X x))"), spans=[])
        made.append(TokenSentence(text=text, ids=ids, spans=spans, phrases=gold, sentence=sentence))
        predicted.append([(0, 0, n), (2, 0, n), (1, 0, n), *((1, start, n) for start in starts)])
    predicted[1] = None
    labels = ("TOP", "NP", "S")
    assert write_parses(tmp_path / "parses", made, predicted, labels) == 0
    mrg, txt = tmp_path / "parses.mrg", tmp_path / "parses.txt"
    counts = import_trees([mrg], tmp_path / "again", ImportConfig(text=[txt]))
    assert counts["num_kept"] == len(TEXTS)
    assert (tmp_path / "again.mrg").read_bytes() == mrg.read_bytes()
    sentences, _ = read_gold_trees(tmp_path / "again", TOKENIZER, labels)
    assert [sentence.text for sentence in sentences] == TEXTS
    assert [sentence.phrases for sentence in sentences] == [
        found or sentence.phrases[:1] for found, sentence in zip(predicted, made, strict=True)
    ]
