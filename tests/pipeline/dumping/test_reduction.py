"""The reduced form of a distribution follows the equations of the module."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.dumping.reduction import UNUSED, Reduced, draw_generator, reduce_logits

CPU = torch.device("cpu")


def reduce(logits: Tensor, k: int, num_top: int, *, seed: int = 1, temperatures: tuple[float, ...] = (1.0,)) -> Reduced:
    gold = torch.zeros(len(logits), dtype=torch.int64)
    generator = draw_generator(seed, 0, CPU)
    return reduce_logits(logits, gold, k=k, num_top=num_top, temperatures=temperatures, generator=generator)


def slow(logits: np.ndarray, k: int, temperature: float) -> tuple[list[int], float, float]:
    """Return ids, tail and logz of one row of logits, in float64."""
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
def test_reduced_logits_follow_the_equations(seed, vocab_size, spread, levels, data):
    k = data.draw(st.integers(1, vocab_size))
    num_top = data.draw(st.sampled_from([k, k // 2, 0]))
    logits = np.random.default_rng(seed).normal(scale=spread, size=(5, vocab_size))
    if levels:  # many ties
        logits = np.round(logits / spread * levels / 2)
    gold = np.arange(5) % vocab_size
    reduced = reduce_logits(
        torch.from_numpy(logits),
        torch.from_numpy(gold),
        k=k,
        num_top=num_top,
        temperatures=(1.0, 2.0, 0.7),
        generator=draw_generator(1, 0, CPU),
    )
    for row in range(5):
        log_p = logits[row] - np.logaddexp.reduce(logits[row])
        for t, temperature in enumerate((1.0, 2.0, 0.7)):
            ids, tail, logz = slow(logits[row], num_top, temperature)
            assert reduced.ids[row, :num_top].tolist() == ids
            np.testing.assert_allclose(float(reduced.tail[row, t]), tail, atol=1e-9)
            np.testing.assert_allclose(float(reduced.logz[row, t]), logz, atol=1e-9)
            p_t = np.exp(reduced.logp[row, :num_top].numpy() / temperature - float(reduced.logz[row, t]))
            np.testing.assert_allclose(p_t.sum() + np.exp(float(reduced.tail[row, t])), 1, atol=1e-9)
        np.testing.assert_allclose(reduced.logp[row, :num_top].numpy(), log_p[ids], atol=1e-12)
        np.testing.assert_allclose(float(reduced.gold_logp[row]), log_p[gold[row]], atol=1e-12)


def test_a_tiny_tail_keeps_its_digits_in_float32():
    logits = torch.full((1, 1000), -30.0)
    logits[0, :4] = 0.0
    exact = reduce(logits.double(), 4, 4, temperatures=(1.0, 2.0))
    single = reduce(logits, 4, 4, temperatures=(1.0, 2.0))
    assert float(exact.tail[0, 0].exp()) < 1e-8
    np.testing.assert_allclose(single.tail.numpy(), exact.tail.numpy(), atol=1e-5)


def draws_of(reduced: Reduced, row: int, num_top: int) -> dict[int, int]:
    """Return the draws of one row, id → count, after checking every column."""
    assert reduced.counts is not None
    assert reduced.counts.dtype == torch.uint8
    ids, logp, counts = (each[row].tolist() for each in (reduced.ids, reduced.logp, reduced.counts))
    assert counts[:num_top] == [0] * num_top
    num_used = num_top + sum(count > 0 for count in counts)
    assert all(counts[num_top:num_used])
    assert ids[num_used:] == [UNUSED] * (len(ids) - num_used)
    assert np.isnan(logp[num_used:]).all()
    assert not np.isnan(logp[:num_used]).any()
    drawn = list(zip(logp[num_top:num_used], ids[num_top:num_used], strict=True))
    assert drawn == sorted(drawn, key=lambda pair: (-pair[0], pair[1])), "not most probable first, ties by id"
    assert len(set(ids[:num_used])) == num_used, "an id has two columns"
    return dict(zip(ids[num_top:num_used], counts[num_top:num_used], strict=True))


@settings(max_examples=100)
@given(
    seed=st.integers(0, 2**32 - 1),
    vocab_size=st.integers(2, 40),
    spread=st.sampled_from([0.1, 3.0, 30.0]),
    levels=st.sampled_from([0, 3]),
    data=st.data(),
)
def test_a_row_holds_its_top_tokens_and_then_all_its_draws(seed, vocab_size, spread, levels, data):
    k = data.draw(st.integers(2, vocab_size))
    num_top = data.draw(st.integers(0, k - 1))
    logits = spread * torch.randn(5, vocab_size, generator=torch.Generator().manual_seed(seed))
    if levels:
        logits = torch.round(logits / spread * levels / 2)
    reduced = reduce(logits, k, num_top, seed=seed)
    log_p = logits.log_softmax(1)
    for row in range(5):
        draws = draws_of(reduced, row, num_top)
        assert sum(draws.values()) == k - num_top
        assert not set(draws) & set(reduced.ids[row, :num_top].tolist())
        num_used = num_top + len(draws)
        ids = reduced.ids[row, :num_used]
        assert reduced.logp[row, :num_used].tolist() == log_p[row, ids].tolist()


@pytest.mark.parametrize("num_top", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_counts_follow_the_multinomial_law(num_top, dtype):
    """Means and covariances over 4,000 generators; 5 standard deviations, so a right program fails once in 10,000."""
    num_seeds, num_draws, vocab_size = 4000, 6, 9
    logits = torch.randn(2, vocab_size, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    logits[0, 4] = logits[0].min() - 4  # a rare token
    p = logits.softmax(1)
    top = p.topk(num_top, dim=1).indices
    p = p.scatter(1, top, 0.0)
    p = (p / p.sum(1, keepdim=True)).numpy()
    counts = np.zeros((num_seeds, 2, vocab_size))
    for seed in range(num_seeds):
        reduced = reduce(logits.to(dtype), num_top + num_draws, num_top, seed=seed)
        for row in range(2):
            for token, count in draws_of(reduced, row, num_top).items():
                counts[seed, row, token] = count
    for row in range(2):
        deviation = np.sqrt(num_draws * p[row] * (1 - p[row]) / num_seeds)
        assert (np.abs(counts[:, row].mean(0) - num_draws * p[row]) <= 5 * deviation).all()
        centred = counts[:, row] - num_draws * p[row]
        products = centred[:, :, None] * centred[:, None, :]
        expected = num_draws * (np.diag(p[row]) - np.outer(p[row], p[row]))
        assert (np.abs(products.mean(0) - expected) <= 5 * products.std(0) / np.sqrt(num_seeds) + 1e-12).all()
    # Rows are independent of one another.
    both = (counts[:, 0] - num_draws * p[0])[:, :, None] * (counts[:, 1] - num_draws * p[1])[:, None, :]
    assert (np.abs(both.mean(0)) <= 5 * both.std(0) / np.sqrt(num_seeds) + 1e-12).all()


def test_draws_depend_only_on_seed_and_shard():
    logits = torch.randn(700, 50, generator=torch.Generator().manual_seed(2))
    gold = torch.zeros(700, dtype=torch.int64)

    def draws(seed: int, shard: int, cuts: list[int]) -> list[list[int]]:
        generator = draw_generator(seed, shard, CPU)
        parts = [
            reduce_logits(part, gold[: len(part)], k=20, num_top=5, temperatures=(1.0,), generator=generator)
            for part in logits.split(cuts)
        ]
        return torch.cat([part.ids * 1000 + part.counts for part in parts if part.counts is not None]).tolist()

    whole = draws(1, 0, [700])
    assert draws(1, 0, [700]) == whole
    assert draws(1, 0, [1, 298, 257, 144]) == whole
    for other in (draws(2, 0, [700]), draws(1, 1, [700])):
        assert sum(a == b for a, b in zip(other, whole, strict=True)) < 10


def test_seeds_of_any_size_work():
    for seed in (0, 2**31, 2**63, 2**100):
        assert draw_generator(seed, 0, CPU).initial_seed() >= 0
    seeds = {draw_generator(seed, shard, CPU).initial_seed() for seed in range(50) for shard in range(50)}
    assert len(seeds) == 2500


@pytest.mark.parametrize("num_top", [0, 4])
def test_rare_tokens_are_drawn_as_often_as_they_should_be(num_top):
    """A running float32 sum above 1 does not change at five of six of 11,999 tokens with probability 2e-8."""
    logits = torch.full((4, 12_000), 2e-8).log()
    logits[:, 0] = 0.0
    logits[:, 1 : 1 + num_top] = 20.0  # hold nearly all mass; the others must keep their proportions
    p = logits[0].double().exp()
    p[1 : 1 + num_top] = 0.0
    stepped_over = (p.cumsum(0).float().diff(prepend=torch.zeros(1)) == 0) & (p > 0)
    assert 0.8 < stepped_over.double().mean() < 0.9
    drawn = [
        token
        for seed in range(300)
        for row in range(4)
        for token, count in draws_of(reduce(logits, num_top + 200, num_top, seed=seed), row, num_top).items()
        for _ in range(count)
    ]
    for some in (stepped_over, p < 1e-7):
        expected = len(drawn) * float(p[some].sum() / p.sum())  # about 48 and 58, Poisson
        assert abs(int(some[drawn].sum()) - expected) <= 5 * expected**0.5


def test_tails_too_small_for_float32_are_drawn_from_in_proportion():
    logits = torch.tensor([[0.0, -300.0, -300.0, -301.0]])
    tokens = [token for seed in range(2000) for token in reduce(logits, 2, 1, seed=seed).ids[0, 1:].tolist()]
    expected = torch.tensor([0.0, 1.0, 1.0, float(np.exp(-1))]) / (2 + np.exp(-1))
    found = torch.bincount(torch.tensor(tokens), minlength=4) / 2000
    assert found[0] == 0
    assert (found - expected).abs().max() <= 5 * 0.5 / 2000**0.5


def test_nothing_is_drawn_if_no_mass_is_left():
    logits = torch.tensor([[0.0, -torch.inf, 1.0, -torch.inf], [0.0, 0.0, 0.0, 0.0]])
    reduced = reduce(logits, 4, 2, temperatures=(1.0, 2.0))
    assert draws_of(reduced, 0, 2) == {}
    assert torch.isneginf(reduced.tail[0]).all()
    assert reduced.ids[0].tolist() == [2, 0, UNUSED, UNUSED]
    assert sum(draws_of(reduced, 1, 2).values()) == 2
    assert torch.isfinite(reduced.logz).all()


def test_all_of_255_draws_may_be_one_token():
    logits = torch.zeros(1, 300)
    logits[0, 17] = 100.0
    assert draws_of(reduce(logits, 255, 0), 0, 0) == {17: 255}


def test_a_minus_one_becomes_the_fill_value():
    for dtype in (np.uint16, np.uint32):
        ids = np.empty(2, dtype)
        ids[:] = torch.tensor([UNUSED, 3]).numpy()
        assert ids.tolist() == [np.iinfo(dtype).max, 3]
