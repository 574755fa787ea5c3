"""Mixtures of dumps are compared with mixtures of whole distributions, written out token by token."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.runtime.distributed import World
from storage.dump.reader import DumpReader
from storage.errors import ConfigError, FingerprintMismatchError, StoreError
from student.loss import DistillationRows
from student.mixed_targets import MixedTargets, mix, mixture_weights, open_targets
from student.targets import DumpTargets, SoftTargets, TargetOptions
from tests.student.reference import draw, drawn_targets, estimate, soft_targets, tempered
from tests.student.test_stream import EOS, FINGERPRINTS, VOCAB_SIZE, K, batches_of, make_split, plan_of, write_dump

R, V = 5, 12


def teachers(seed: int, number: int = 2, *, rows: int = R, vocab_size: int = V, shared: float = 0.5) -> list[Tensor]:
    """Return the logits of teachers that agree in part, float64 ``[rows, vocab_size]`` each."""
    generator = torch.Generator().manual_seed(seed)

    def normal() -> Tensor:
        return 2.5 * torch.randn(rows, vocab_size, generator=generator, dtype=torch.float64)

    common = normal()
    return [shared**0.5 * common + (1 - shared) ** 0.5 * normal() for _ in range(number)]


def spread_evenly(logits: Tensor, k: int, temperature: float) -> Tensor:
    """Return p_T ``[R, V]`` in which all tokens outside the top k share their mass evenly."""
    p = tempered(logits, temperature).exp()
    for row in p:
        others = row.argsort(descending=True)[k:]
        row[others] = row[others].mean() if len(others) else 0.0
    return p


def mixed(all_logits: list[Tensor], ks: list[int], weights: list[float], temperature: float) -> SoftTargets:
    parts = [soft_targets(logits, k, temperature) for logits, k in zip(all_logits, ks, strict=True)]
    return mix(parts, weights, temperature=temperature, vocab_size=all_logits[0].shape[1])


def whole(all_logits: list[Tensor], weights: list[float], temperature: float) -> Tensor:
    return sum(w * tempered(x, temperature).exp() for w, x in zip(weights, all_logits, strict=True))


@given(
    seed=st.integers(0, 999),
    ks=st.lists(st.integers(1, V), min_size=2, max_size=3),
    temperature=st.sampled_from([0.5, 1.0, 2.0]),
)
def test_the_target_is_the_mixture_with_evenly_spread_tails_and_within_the_stated_bounds(
    seed: int, ks: list[int], temperature: float
) -> None:
    all_logits, weights = teachers(seed, len(ks)), mixture_weights(list(range(1, len(ks) + 1)), len(ks))
    found = mixed(all_logits, ks, weights, temperature)
    expected = sum(w * spread_evenly(x, k, temperature) for w, x, k in zip(weights, all_logits, ks, strict=True))
    p = (found.log_probs / temperature - found.logz[:, None]).exp()
    assert found.ids.shape[1] == min(V, sum(ks))
    assert all(len(set(row)) == len(row) for row in found.ids.tolist())
    torch.testing.assert_close(p, expected.gather(1, found.ids), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(found.tail.exp(), 1 - p.sum(1), rtol=1e-9, atol=1e-12)

    truth, bounds, moved = whole(all_logits, weights, temperature), torch.zeros(R, V).double(), torch.zeros(R).double()
    for w, logits, k in zip(weights, all_logits, ks, strict=True):
        own = tempered(logits, temperature).exp()
        largest = own.topk(k).values
        rest = 1 - largest.sum(1)
        is_kept = own >= largest[:, -1:]
        assert (found.ids[:, :, None] == own.topk(k).indices[:, None]).any(1).all(), "a kept token is missing"
        bounds += w * torch.where(is_kept, 0.0, torch.minimum(largest[:, -1], rest)[:, None])
        moved += w * rest
    errors = (p - truth.gather(1, found.ids)).abs()
    assert (errors <= bounds.gather(1, found.ids) + 1e-12).all()
    in_rest = (found.tail.exp() - (1 - truth.gather(1, found.ids).sum(1))).abs()
    assert ((errors.sum(1) + in_rest) / 2 <= moved + 1e-12).all()


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_with_all_tokens_kept_the_student_that_minimises_the_loss_is_the_mixture(temperature: float) -> None:
    all_logits, weights = teachers(3), [0.7, 0.3]
    rows = DistillationRows(
        torch.zeros(R, dtype=torch.int64), mixed(all_logits, [V, V], weights, temperature),
        alpha=0.0, temperature=temperature,
    )  # fmt: skip
    mixture = whole(all_logits, weights, temperature)
    loss, gradient = rows.terms((temperature * mixture.log()).clone(), slice(0, R), with_gradient=True)
    assert loss[0].abs().max() < 1e-12
    assert gradient is not None
    assert gradient.abs().max() < 1e-12
    logits = sum(w * x for w, x in zip(weights, all_logits, strict=True))  # the mean of the logits is not the mixture
    assert (tempered(logits, temperature).exp() - mixture).abs().max() > 0.03
    for _ in range(1500):
        _, gradient = rows.terms(logits.clone(), slice(0, R), with_gradient=True)
        logits = logits - 2 * gradient
    torch.testing.assert_close(tempered(logits, temperature).exp(), mixture, atol=2e-3, rtol=0)


def test_the_mixture_is_of_tempered_distributions_and_not_the_tempered_mixture() -> None:
    all_logits, weights = teachers(4), [0.5, 0.5]
    found = mixed(all_logits, [V, V], weights, 2.0)
    other = tempered(whole(all_logits, weights, 1.0).log(), 2.0).exp().gather(1, found.ids)
    assert ((found.log_probs / 2).exp() - other).abs().max() > 0.01


@pytest.mark.parametrize("shared", [0.3, 0.7, 0.95])
@pytest.mark.parametrize("k", [16, 64])
def test_the_gradient_is_closer_to_the_full_gradient_than_with_common_tokens_alone(k: int, shared: float) -> None:
    first, second, student = teachers(5, 3, rows=60, vocab_size=1000, shared=shared)
    q, m = student.softmax(1), whole([first, second], [0.5, 0.5], 1.0)
    gold = torch.zeros(60, dtype=torch.int64)

    def error(targets: SoftTargets) -> float:
        rows = DistillationRows(gold, targets, alpha=0.0)
        _, gradient = rows.terms(student.clone(), slice(0, 60), with_gradient=True)
        assert gradient is not None
        return float((gradient - (q - m)).norm())

    kept = [set(map(tuple, x.topk(k).indices.sort(1).values.tolist())) for x in (first, second)]
    assert kept[0] != kept[1]
    row_errors = []
    for row in range(60):  # the common tokens of a row, with their exact probabilities and the exact rest
        common = sorted({*first[row].topk(k).indices.tolist()} & {*second[row].topk(k).indices.tolist()})
        rest = (1 - m[row, common].sum()).log()
        outside = torch.ones(1000, dtype=torch.bool)
        outside[common] = False
        gradient = torch.where(outside, q[row] - rest.exp() * q[row] / q[row, outside].sum(), q[row] - m[row])
        row_errors.append((gradient - (q - m)[row]).square().sum())
    assert error(mixed([first, second], [k, k], [0.5, 0.5], 1.0)) < 0.9 * float(torch.stack(row_errors).sum().sqrt())


def test_a_grammars_impossible_tokens_and_empty_tails_stay_impossible() -> None:
    logits = torch.tensor([[1.0, 2.0, -torch.inf, -torch.inf, -torch.inf]]).double()
    other = torch.tensor([[0.0, 0.0, 1.0, -torch.inf, -torch.inf]]).double()
    parts = [soft_targets(each, 3, 1.0) for each in (logits, other)]
    found = mix(parts, [0.5, 0.5], temperature=1.0, vocab_size=5)
    p = torch.zeros(5).double().scatter(0, found.ids[0], found.log_probs[0].exp())
    torch.testing.assert_close(p, whole([logits, other], [0.5, 0.5], 1.0)[0])
    rows = DistillationRows(torch.zeros(1, dtype=torch.int64), found, alpha=0.0)
    terms, gradient = rows.terms(torch.zeros(1, 5).double(), slice(0, 1), with_gradient=True)
    assert terms.isfinite().all()
    assert gradient is not None
    assert gradient.isfinite().all()


def test_draws_of_two_dumps_give_the_weighted_sum_of_their_estimates() -> None:
    all_logits, dense = teachers(6), torch.zeros(R, V).double()
    ids, weights = [], []
    for seed, (w, logits) in enumerate(zip([0.25, 0.75], all_logits, strict=True)):
        reduced = draw(logits, 6, 2, 2.0, seed)
        targets = drawn_targets(reduced, 2, 2.0)
        ids.append(targets.ids)
        weights.append(w * targets.weights)
        dense += w * estimate(logits, reduced, 2, 2.0)
    found = torch.zeros(R, V).double().scatter_add(1, torch.cat(ids, 1), torch.cat(weights, 1))
    torch.testing.assert_close(found, dense, rtol=1e-6, atol=1e-9)


@pytest.fixture(scope="module")
def split():
    return make_split()


@pytest.fixture(scope="module")
def dumps(tmp_path_factory: pytest.TempPathFactory, split) -> list[DumpReader]:
    folder = tmp_path_factory.mktemp("dumps")
    return [write_dump(folder / str(seed), split, seed=seed) for seed in (3, 4)]


def options(temperature: float = 1.0, **changes):
    return TargetOptions(tokenizer_sha256=FINGERPRINTS["tokenizer"], eos_id=EOS, temperature=temperature, **changes)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_the_ranks_batches_together_hold_the_mixture_of_each_position(split, dumps, temperature: float) -> None:
    targets = open_targets(dumps, [0.3, 0.7], split, options(temperature))
    parts = [
        SoftTargets.from_positions(
            dump.read_range(0, dump.schema.num_positions), dump.temperature_index(temperature), torch.device("cpu")
        )
        for dump in dumps
    ]
    expected = mix(parts, [0.3, 0.7], temperature=temperature, vocab_size=VOCAB_SIZE)
    num_positions = 0
    for rank in range(2):
        plan = plan_of(split, World(rank=rank, size=2))
        for (sentences, _), batch in zip(plan, batches_of(plan, split, targets=targets), strict=True):
            rows = [p for m in sentences for p in range(dumps[0].offsets[m], dumps[0].offsets[m + 1])]
            assert batch.targets.ids.tolist() == expected.ids[rows].tolist()
            torch.testing.assert_close(batch.targets.log_probs, expected.log_probs[rows])
            torch.testing.assert_close(batch.targets.tail, expected.tail[rows])
            num_positions += len(rows)
    assert num_positions == split.num_positions
    (empty,) = batches_of([(np.empty(0, np.int64), 7)], split, targets=targets)
    assert empty.targets.ids.shape == (0, 2 * K)


def test_shuffled_targets_of_all_dumps_come_from_the_same_position(split, dumps) -> None:
    mixture = MixedTargets(dumps, [0.5, 0.5], split, options(shuffle_seed=1))
    parts = [DumpTargets(dump, split, options(shuffle_seed=1)) for dump in dumps]
    where = (np.arange(6), split.tokens.lengths[:6] + 1, torch.device("cpu"))
    expected = mix([part.read(*where) for part in parts], [0.5, 0.5], temperature=1.0, vocab_size=VOCAB_SIZE)
    assert mixture.read(*where).ids.tolist() == expected.ids.tolist()


def test_one_dump_is_read_as_before(split, dumps) -> None:
    assert isinstance(open_targets(dumps[:1], [1.0], split, options()), DumpTargets)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        (
            {"fingerprints": FINGERPRINTS | {"tokenizer": "7" * 64}},
            FingerprintMismatchError,
            "tokenizer: sha256 is 777",
        ),
        ({"fingerprints": FINGERPRINTS | {"split": "7" * 64}}, FingerprintMismatchError, "split train: sha256 is 777"),
        ({"temperatures": (1.0, 3.0)}, StoreError, "temperature 2 is not declared"),
    ],
)
def test_a_dump_that_does_not_belong_to_the_others_is_refused(
    tmp_path: Path, split, dumps, changes, error, message: str
) -> None:
    other = write_dump(tmp_path / "other", split, **changes)
    with pytest.raises(error, match=message):
        open_targets([dumps[0], other], [0.5, 0.5], split, options(2.0))


@pytest.mark.parametrize(
    ("given", "number", "expected"), [((), 2, [0.5, 0.5]), ((3.0, 1.0), 2, [0.75, 0.25]), ((), 0, []), ((2.0,), 1, [1])]
)
def test_weights_are_divided_by_their_sum(given, number: int, expected) -> None:
    assert mixture_weights(given, number) == expected


def test_a_missing_weight_is_refused() -> None:
    with pytest.raises(ConfigError, match="--dump-weights has 1 values, but there are 2 dumps"):
        mixture_weights((0.5,), 2)
