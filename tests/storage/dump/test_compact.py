"""Rows of the compact profile are decoded to within half a step: in order, with sum 1, and with a bounded KL."""

import dataclasses
import warnings
from pathlib import Path

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from zarr.storage import MemoryStore

from storage.dump.compact import TO_ZERO, decode_positions, decode_rows, encode_rows
from storage.dump.positions import Positions, check_positions
from storage.dump.schema import GAPS
from storage.errors import StoreError
from tests.storage.dump.compact_dumps import create_with_zarr, write_with_zarr_metadata
from tests.storage.dumps import assert_same, make_positions, make_schema

STEP = 1 / 16
CODES = np.arange(TO_ZERO)
NATS = np.append(CODES / 16 + (CODES / 64) ** 3, np.inf)
"""``[256]`` float64: the gap of every code in nats."""


def truncated(log_probs: np.ndarray, k: int, temperatures: tuple[float, ...]) -> Positions:
    """Return the positions of ``[n, V]`` log-probabilities, computed in an obvious, slow way."""
    ids = np.argsort(-log_probs, axis=1, kind="stable")
    ranked = np.take_along_axis(log_probs, ids, 1)
    with np.errstate(divide="ignore"):
        logz = np.stack([np.logaddexp.reduce(ranked / t, axis=1) for t in temperatures], axis=1)
        outside = [np.exp(ranked[:, k:] / t).sum(1) for t in temperatures]
        tail = np.log(np.stack(outside, axis=1)) - logz
    return Positions(
        tokens=ids[:, -1].astype(np.uint16),
        ids=ids[:, :k].astype(np.uint16),
        logp=ranked[:, :k].astype(np.float16),
        gold_logp=np.maximum(ranked[:, -1], -1e30).astype(np.float32),
        tail=tail.astype(np.float32),
        logz=logz.astype(np.float32),
    )


@st.composite
def distributions(draw: st.DrawFn) -> tuple[Positions, tuple[float, ...]]:
    """Draw rows that fall by 1e-4 to 40 nats, with ties, impossible tokens, one kept token or all tokens."""
    vocab_size = draw(st.integers(2, 90))
    temperatures = draw(st.sampled_from([(1.0,), (1.0, 2.0), (1.0, 0.5, 4.0)]))
    generator = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    logits = generator.uniform(0, 1, (draw(st.integers(1, 5)), vocab_size)) ** draw(st.sampled_from([0.2, 1, 5]))
    logits *= draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0, 10.0, 40.0, 1_000.0]))
    if draw(st.booleans()):
        logits = np.round(logits)
    num_impossible = draw(st.integers(0, vocab_size - 1)) if draw(st.booleans()) else 0
    logits[:, :num_impossible] = -np.inf
    log_probs = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    k = draw(st.sampled_from(sorted({1, 2, (vocab_size + 1) // 2, vocab_size})))
    return truncated(log_probs, k, temperatures), temperatures


def added_kl(positions: Positions, logp: np.ndarray, logz: np.ndarray, temperature: float, index: int) -> np.ndarray:
    """Return KL(exact || compact) over the kept ids and the tail, ``[n]`` float64.

    Rounding to float16 changes the sum of the exact row. The row is scaled to sum to 1 again, because otherwise the sum
    below would not be a divergence.
    """
    kept = -np.expm1(positions.tail[:, index].astype(np.float64))
    exact = positions.logp.astype(np.float64) / temperature
    exact += (np.log(kept) - np.logaddexp.reduce(exact, axis=1))[:, None]
    found = logp.astype(np.float64) / temperature - logz[:, index : index + 1]
    possible = np.isfinite(exact)
    ratio = np.subtract(exact, found, where=possible, out=np.zeros_like(exact))
    return (np.exp(exact) * ratio).sum(axis=1)  # the term of the tail is 0, since the tail is the same on both sides


def round_trip(positions: Positions, temperatures: tuple[float, ...]) -> Positions:
    return decode_positions(encode_rows(positions, temperatures, where="rows"), temperatures)


@settings(max_examples=300, deadline=None)
@given(distributions())
def test_decoded_rows_keep_order_zeros_and_sum(case: tuple[Positions, tuple[float, ...]]) -> None:
    positions, temperatures = case
    arrays = encode_rows(positions, temperatures, where="rows")
    assert arrays[GAPS].dtype == np.uint8
    assert not arrays[GAPS][:, 0].any()
    logp, logz = decode_rows(arrays[GAPS], arrays["tail"], temperatures)
    assert (logp.dtype, logz.dtype) == (np.float32, np.float32)
    assert not np.isnan(logp).any()
    assert (logp[:, 1:] <= logp[:, :-1]).all()
    # Only probabilities that are 0 in float16 are decoded as 0. Float16 reaches down to -65,504 nats.
    assert np.array_equal(np.isneginf(logp), np.isneginf(positions.logp))
    assert not logz[:, 0].any()
    for index, temperature in enumerate(temperatures):
        total = np.exp(logp / temperature - logz[:, index : index + 1]).sum(1) + np.exp(positions.tail[:, index])
        assert total == pytest.approx(1, abs=1e-5)


def half_steps(gaps: np.ndarray) -> np.ndarray:
    """Return the largest error of a fall: half the step to the next code plus half the table's grid; inf at code 254.

    If the codes before a gap of 0 are too deep, the gap cannot correct them. So the bound of the column before applies.
    """
    bounds = np.diff(NATS[:TO_ZERO], append=np.inf)[np.minimum(gaps, TO_ZERO - 1)] / 2 + 2**-11
    for column in range(1, gaps.shape[1]):
        before = np.where(gaps[:, column] == 0, bounds[:, column - 1], 0)
        bounds[:, column] = np.maximum(bounds[:, column], before)
    return bounds


@settings(max_examples=300, deadline=None)
@given(distributions())
def test_falls_are_off_by_at_most_half_a_step_and_errors_do_not_add_up(
    case: tuple[Positions, tuple[float, ...]],
) -> None:
    positions, temperatures = case
    gaps = encode_rows(positions, temperatures, where="rows")[GAPS]
    finite = np.isfinite(positions.logp)
    exact = positions.logp[:, :1].astype(np.float64) - positions.logp
    found = np.cumsum(NATS[gaps], axis=1)
    assert (np.abs(found[finite] - exact[finite]) <= half_steps(gaps)[finite]).all()


@settings(max_examples=300, deadline=None)
@given(distributions())
def test_the_added_kl_is_bounded(case: tuple[Positions, tuple[float, ...]]) -> None:
    positions, temperatures = case
    arrays = encode_rows(positions, temperatures, where="rows")
    logp, logz = decode_rows(arrays[GAPS], arrays["tail"], temperatures)
    for index, temperature in enumerate(temperatures):
        kl = added_kl(positions, logp, logz, temperature, index)
        # With Q proportional to P exp(e), KL(P || Q) = log E[exp(e)] - E[e] <= E[b² exp(b)] / 2 if |e| <= b.
        # Beyond the widest gap P is below exp(-78 / T).
        b = half_steps(arrays[GAPS]) / temperature
        b[np.isinf(b)] = 0
        weights = np.exp(logp.astype(np.float64) / temperature - logz[:, index : index + 1])
        bound = (weights * np.exp(2 * b) * b**2 / 2).sum(axis=1)
        assert (kl > -1e-5).all()
        assert (kl < bound + 1e-5).all()
        if temperature >= 1:
            assert (kl < 6e-4).all()


def test_the_kl_of_a_dense_row_is_that_of_uniform_rounding() -> None:
    generator = np.random.default_rng(0)
    logits = generator.normal(0, 2, (2_000, 200))
    log_probs = logits - np.logaddexp.reduce(logits, axis=1)[:, None]
    temperatures = (1.0, 2.0)
    positions = truncated(log_probs, 64, temperatures)
    arrays = encode_rows(positions, temperatures, where="rows")
    logp, logz = decode_rows(arrays[GAPS], arrays["tail"], temperatures)
    # The error is uniform within a step, so half its variance is step²/24, and a quarter of that at T = 2.
    assert added_kl(positions, logp, logz, 1.0, 0).mean() < STEP**2 / 24
    assert added_kl(positions, logp, logz, 2.0, 1).mean() < STEP**2 / 24 / 4


def test_the_other_arrays_equal_those_of_the_exact_profile() -> None:
    schema = make_schema([40, 30])
    positions = make_positions(schema)
    decoded = round_trip(positions, schema.temperatures)
    check_positions(decoded, schema, num_positions=70, where="rows")
    for name in ("tokens", "ids", "gold_logp", "tail"):
        assert np.array_equal(getattr(decoded, name), getattr(positions, name)), name
    assert np.abs(decoded.logz - positions.logz).max() < STEP / 2
    assert np.abs(decoded.logp - positions.logp).max() < STEP


def test_encoding_decoded_rows_again_gives_the_same_codes() -> None:
    schema = make_schema([40, 30])
    once = round_trip(make_positions(schema), schema.temperatures)
    assert_same(round_trip(once, schema.temperatures), once)


@pytest.mark.parametrize(
    ("change", "index"),
    [({"tail": -0.1}, 0), ({"tail": 0.0}, 0), ({"tail": -0.1}, 1), ({"logz": 0.5}, 1), ({"tail": np.nan}, 1)],
)
def test_rows_that_do_not_sum_to_1_are_refused(change: dict[str, float], index: int) -> None:
    schema = make_schema([40, 30])
    positions = make_positions(schema)
    ((name, value),) = change.items()
    getattr(positions, name)[50, index] = value
    expected = rf"^dump: row 50: logp and tail add up to .* at temperature {schema.temperatures[index]:g}"
    with pytest.raises(StoreError, match=expected):
        encode_rows(positions, schema.temperatures, where="dump")


def test_a_row_whose_tail_has_all_the_mass_is_refused() -> None:
    positions = truncated(np.full((1, 60_000), -np.log(60_000)), 1, (1.0,))
    assert encode_rows(positions, (1.0,), where="dump")
    positions.tail[0, 0] = 0.0  # within the tolerance of 1, but the log of the remaining mass does not exist
    with pytest.raises(StoreError, match=r"the tail alone is 1\.000, not below 1"):
        encode_rows(positions, (1.0,), where="dump")


def test_plain_zarr_reads_every_array_without_a_warning(tmp_path: Path) -> None:
    schema = make_schema([40, 30, 9])
    arrays = encode_rows(make_positions(schema), schema.temperatures, where="rows")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        write_with_zarr_metadata(tmp_path, schema, arrays)
        group = zarr.open_group(tmp_path, mode="r")
        for name, values in arrays.items():
            assert np.array_equal(group[name][...], values), name


def test_a_missing_array_shows_fill_values() -> None:
    schema = make_schema([40, 30])
    gaps = next(spec for spec in dataclasses.replace(schema, profile="compact").stored_arrays if spec.name == GAPS)
    assert gaps.fill == TO_ZERO
    array = create_with_zarr(gaps, MemoryStore())
    assert (np.asarray(array[...])[:, 0] != 0).all()
