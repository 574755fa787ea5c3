"""What a dump keeps of a distribution is what its equations say."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.dump import reduce_logits


def slow(logits: np.ndarray, k: int, temperature: float) -> tuple[list[int], float, float]:
    """Ids, tail and logz of one row of logits, in float64."""
    log_p = logits - np.logaddexp.reduce(logits)
    ids = sorted(range(len(log_p)), key=lambda i: (-log_p[i], i))[:k]
    logz = np.logaddexp.reduce(log_p / temperature)
    outside = np.delete(log_p, ids) / temperature
    tail = np.logaddexp.reduce(outside) - logz if len(outside) else -np.inf
    return ids, tail, logz


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab_size=st.integers(2, 40),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    levels=st.sampled_from([0, 3]),
    data=st.data(),
)
def test_reduced_logits_are_the_equations(seed, vocab_size, spread, levels, data):
    k = data.draw(st.integers(1, vocab_size))
    logits = np.random.default_rng(seed).normal(scale=spread, size=(5, vocab_size))
    if levels:  # many ties
        logits = np.round(logits / spread * levels / 2)
    gold = np.arange(5) % vocab_size
    reduced = reduce_logits(torch.from_numpy(logits), torch.from_numpy(gold), k=k, temperatures=(1.0, 2.0, 0.7))
    for row in range(5):
        log_p = logits[row] - np.logaddexp.reduce(logits[row])
        for t, temperature in enumerate((1.0, 2.0, 0.7)):
            ids, tail, logz = slow(logits[row], k, temperature)
            assert reduced.ids[row].tolist() == ids
            np.testing.assert_allclose(float(reduced.tail[row, t]), tail, atol=1e-9)
            np.testing.assert_allclose(float(reduced.logz[row, t]), logz, atol=1e-9)
            p_t = np.exp(reduced.logp[row].numpy() / temperature - float(reduced.logz[row, t]))
            np.testing.assert_allclose(p_t.sum() + np.exp(float(reduced.tail[row, t])), 1, atol=1e-9)
        np.testing.assert_allclose(reduced.logp[row].numpy(), log_p[ids], atol=1e-12)
        np.testing.assert_allclose(float(reduced.gold_logp[row]), log_p[gold[row]], atol=1e-12)


def test_a_tiny_tail_keeps_its_digits_in_float32():
    logits = torch.full((1, 1000), -30.0)
    logits[0, :4] = 0.0
    exact = reduce_logits(logits.double(), torch.zeros(1, dtype=torch.int64), k=4, temperatures=(1.0, 2.0))
    single = reduce_logits(logits, torch.zeros(1, dtype=torch.int64), k=4, temperatures=(1.0, 2.0))
    assert float(exact.tail[0, 0].exp()) < 1e-8
    np.testing.assert_allclose(single.tail.numpy(), exact.tail.numpy(), atol=1e-5)
