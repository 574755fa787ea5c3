"""Test the fitting of trees to tokens against a slow reference."""

import pytest
from hypothesis import given

from pipeline.corpus.dataset.oracle import actions_to_tree, tree_to_actions
from pipeline.corpus.dataset.token_trees import align
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import normalise_text
from pipeline.corpus.trees.matching import Span
from pipeline.corpus.trees.readers import Sentence
from pipeline.corpus.trees.trees import Phrase, normalise_tree, parse_tree
from tests.pipeline.corpus.strategies import sentences


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.train(["don't do the other a-b thing, doing other things"] * 4, vocab_size=320)


def slowly(phrases: tuple[Phrase, ...], word_spans: list[Span], text: str, token_spans: list[Span]) -> list[Phrase]:
    """Place each token under the lowest phrase that has all its words; return the phrases over the tokens."""
    holds: list[set[int]] = [set() for _ in phrases]
    for t, (start, stop) in enumerate(token_spans):
        characters = [i for i in range(start, stop) if text[i] != " "] or [stop]
        touched = [w for w, (a, b) in enumerate(word_spans) if any(a <= i < b for i in characters)]
        over = [p for p, (_, a, b) in enumerate(phrases) if all(a <= w < b for w in touched)]
        lowest = over[-1]
        above = [p for p in over if phrases[p][1] <= phrases[lowest][1] and phrases[lowest][2] <= phrases[p][2]]
        for p in above:
            holds[p].add(t)
    found = [(label, min(h), max(h) + 1) for (label, _, _), h in zip(phrases, holds, strict=True) if h]
    return [phrase for i, phrase in enumerate(found) if not i or phrase != found[i - 1]]


@given(sentence=sentences().filter(lambda s: normalise_text(s.text) == s.text))
def test_align_equals_a_slow_reference(tokenizer: Tokenizer, sentence: Sentence) -> None:
    phrases = normalise_tree(sentence.tree).phrases
    ids, spans = tokenizer.encode_batch_with_spans([sentence.text])[0]
    found = align(phrases, sentence.spans, spans)
    assert found.phrases == slowly(phrases, sentence.spans, sentence.text, spans)
    assert found.phrases[0] == ("TOP", 0, len(ids))
    assert len(found.phrases) + found.num_lost <= len(phrases)
    if all(len({w for w, (a, b) in enumerate(sentence.spans) if a < stop and start < b}) == 1 for start, stop in spans):
        assert (found.num_crossing, found.num_lost, len(found.phrases)) == (0, 0, len(phrases))
    numbers = {label: i for i, label in enumerate(dict.fromkeys(label for label, _, _ in found.phrases))}
    numbered = [(numbers[label], start, stop) for label, start, stop in found.phrases]
    assert actions_to_tree(tree_to_actions(numbered, len(ids))) == (numbered, len(ids))


def bracketed(tree: str, words: list[str], tokens: list[str]) -> tuple[list[Phrase], int, int]:
    """Call ``align`` with the spans of words and tokens of one text. A token includes the space before it."""
    word_spans, at = [], 0
    text = "".join(tokens).removeprefix(" ")
    for word in words:
        at = text.index(word, at)
        word_spans.append((at, at + len(word)))
        at += len(word)
    token_spans, at = [], 0
    for token in tokens:
        size = len(token) - (not at)
        token_spans.append((at, at + size))
        at += size
    found = align(normalise_tree(parse_tree(tree)).phrases, word_spans, token_spans)
    return found.phrases, found.num_crossing, found.num_lost


def test_pieces_of_a_word_are_siblings_under_its_phrase() -> None:
    tree = "(TOP (S (NP (DT the) (NN catfish)) (VP (VBZ swims))))"
    phrases, crossing, lost = bracketed(tree, ["the", "catfish", "swims"], [" the", " cat", "fish", " sw", "ims"])
    assert phrases == [("TOP", 0, 5), ("S", 0, 5), ("NP", 0, 3), ("VP", 3, 5)]
    assert (crossing, lost) == (0, 0)


def test_a_token_over_words_of_one_phrase_crosses_nothing() -> None:
    phrases, crossing, lost = bracketed(
        "(TOP (VP (VBP do) (RB n't) (VB go)))", ["do", "n't", "go"], [" don", "'", "t", " go"]
    )
    assert (phrases, crossing, lost) == ([("TOP", 0, 4), ("VP", 0, 4)], 0, 0)


def test_a_token_over_phrases_goes_to_their_common_ancestor() -> None:
    tree = "(TOP (S (NP (PRP we)) (VP (MD gon) (S (VP (TO na) (VP (VB go)))))))"
    phrases, crossing, lost = bracketed(tree, ["we", "gon", "na", "go"], [" we", " gonna", " go"])
    # S and the VP over (TO na)(VP go) keep only "go". VP over VP then becomes one VP.
    assert phrases == [("TOP", 0, 3), ("S", 0, 3), ("NP", 0, 1), ("VP", 1, 3), ("S", 2, 3), ("VP", 2, 3)]
    assert (crossing, lost) == (1, 0)


def test_a_phrase_whose_words_are_all_in_a_crossing_token_is_counted_as_lost() -> None:
    tree = "(TOP (S (NP (PRP we)) (VP (VBP 're))))"
    assert bracketed(tree, ["we", "'re"], [" we're"]) == ([("TOP", 0, 1), ("S", 0, 1)], 1, 2)


def test_a_token_that_is_a_space_belongs_to_the_next_word() -> None:
    tree = "(TOP (NP (NN a)) (VP (NN b)))"
    found = align(normalise_tree(parse_tree(tree)).phrases, [(0, 1), (2, 3)], [(0, 1), (0, 1), (1, 2), (2, 3)])
    assert found.phrases == [("TOP", 0, 4), ("NP", 0, 2), ("VP", 2, 4)]
