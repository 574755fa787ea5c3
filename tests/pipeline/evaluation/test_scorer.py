"""Tests of scorers: scores are right and in the order of the sentences, for every batch size."""

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.evaluation.scorer import NextTokenScorer, Scorer
from storage.ragged import Ragged

VOCAB_SIZE = 11
EOS = 1
sentences_of_ids = st.lists(st.lists(st.integers(3, VOCAB_SIZE - 1), max_size=9), max_size=12)


class Bigrams:
    """Takes the logits of a position from a table, by the token before it. ``<bos>`` is 0."""

    vocab_size = VOCAB_SIZE

    def __init__(self) -> None:
        self.table = torch.randn(VOCAB_SIZE, VOCAB_SIZE, generator=torch.Generator().manual_seed(0))
        self.batches: list[list[int]] = []

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> Ragged:
        assert actions is None
        return tokens

    def states(self, tokens: Ragged) -> Tensor:
        self.batches.append([int(n) for n in tokens.lengths])
        before = [np.concatenate([[0], tokens[m]]) for m in range(len(tokens))]
        return self.table[torch.from_numpy(np.concatenate(before).astype(np.int64))]

    def logits(self, states: Tensor) -> Tensor:
        return states


def one_by_one(model: Bigrams, sentence: list[int]) -> list[float]:
    """Return each log-probability from the table, in plain Python."""
    scores = []
    for before, token in zip([0, *sentence], [*sentence, EOS], strict=True):
        row = [float(x) for x in model.table[before]]
        scores.append(row[token] - math.log(sum(math.exp(x) for x in row)))
    return scores


@settings(max_examples=60, deadline=None)
@given(sentences=sentences_of_ids, batch_tokens=st.integers(1, 40))
def test_each_score_is_that_of_the_sentence_alone_in_the_order_of_the_sentences(
    sentences: list[list[int]], batch_tokens: int
) -> None:
    model = Bigrams()
    scorer: Scorer = NextTokenScorer(model, eos_id=EOS, batch_tokens=batch_tokens)
    scores = scorer.log_probs([np.array(sentence, np.int64) for sentence in sentences])
    assert len(scores) == len(sentences)
    for sentence, score in zip(sentences, scores, strict=True):
        assert score.dtype == np.float32
        # float32 against double: logits are below 4, so a few units of 2e-7 each
        np.testing.assert_allclose(score, one_by_one(model, sentence), atol=2e-6)


def test_the_longest_sentences_share_a_batch_and_go_first() -> None:
    model = Bigrams()
    sentences = [np.full(n, 3) for n in (1, 5, 2, 5, 1)]
    NextTokenScorer(model, eos_id=EOS, batch_tokens=12).log_probs(sentences)
    assert model.batches == [[5, 5], [2, 1, 1]]


@settings(max_examples=40, deadline=None)
@given(
    pairs=st.lists(st.tuples(*[st.lists(st.integers(3, VOCAB_SIZE - 1), max_size=6)] * 2), min_size=1, max_size=8),
    batch_tokens=st.integers(1, 40),
)
def test_distributions_are_those_of_the_sentences_after_the_text_before_them(
    pairs: list[tuple[list[int], list[int]]], batch_tokens: int
) -> None:
    model = Bigrams()
    scorer = NextTokenScorer(model, eos_id=EOS, batch_tokens=batch_tokens)
    before, sentences = zip(*(([*earlier, 0] if earlier else [], sentence) for earlier, sentence in pairs), strict=True)
    arrays = [[np.array(each, np.int64) for each in lists] for lists in (sentences, before)]
    found = scorer.distributions(*arrays, np.array([EOS, 4, 7]))
    for sentence, scores in zip(sentences, found, strict=True):
        rows = [[float(x) for x in model.table[i].double().softmax(0)] for i in [0, *sentence]]
        np.testing.assert_allclose(scores.log_probs, one_by_one(model, sentence), atol=2e-6)
        np.testing.assert_allclose(
            np.exp(scores.boundary_log_probs), [row[EOS] + row[4] + row[7] for row in rows], atol=2e-6
        )
        np.testing.assert_allclose(scores.entropies, [-sum(p * math.log(p) for p in row) for row in rows], atol=5e-6)
