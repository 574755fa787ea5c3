"""The entropies of a dump equal those of a slow version, to within a bin, whichever process wrote the shards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.dump.dump_statistics import ENTROPY_BINS, QUANTILES, DumpSummary, entropy_quantiles
from storage.dump.manifest import Manifest
from storage.dump.reader import DumpReader, inspect_dump, verify_dump
from storage.dump.writer import DumpWriter
from storage.fingerprints import canonical_json
from storage.json_files import decode
from tests.storage.dumps import (
    LENGTHS,
    full_distributions,
    make_offsets,
    make_positions,
    make_schema,
    write_dump,
    write_shards,
)


def slow_entropies(schema) -> list[float]:
    """Return the entropy in nats of each position's top tokens and one bucket for the rest, one at a time."""
    entropies = []
    for log_probs in full_distributions(schema):
        kept = np.exp(np.sort(log_probs)[::-1][: schema.num_top])
        buckets = [*kept, 1 - kept.sum()]
        entropies.append(-sum(p * np.log(p) for p in buckets if p > 1e-12))
    return entropies


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"k": 50, "vocab_size": 50},
        {"k": 1},
        {"k": 9, "selection": "stratified", "num_top": 4},
        {"profile": "compact"},
    ],
    ids=["k 6", "k = V", "k 1", "stratified", "compact"],
)
def test_entropies_equal_those_of_a_slow_version(tmp_path: Path, changes) -> None:
    schema = make_schema(LENGTHS, **changes)
    write_dump(tmp_path / "dump", schema, LENGTHS)
    summary, slow = DumpReader(tmp_path / "dump").summary, slow_entropies(schema)
    # float16 moves log p by at most 2⁻¹¹ of itself, which moves the entropy by at most 2⁻¹¹ of itself.
    assert summary.mean_entropy_nats == pytest.approx(np.mean(slow), rel=2**-11)
    quantiles = summary.entropy_nats_quantiles
    assert quantiles is not None
    assert list(quantiles) == list(QUANTILES)
    for percent, found in quantiles.items():
        expected = np.quantile(slow, percent / 100)
        assert found == pytest.approx(expected, abs=1 / ENTROPY_BINS + expected * 2**-11)
    assert decode(canonical_json(summary.to_json()), DumpSummary, where="", remedy="") == summary


@given(st.lists(st.floats(0, 9.5), min_size=1, max_size=300))
def test_a_quantile_equals_that_of_numpy_to_within_a_bin(entropies: list[float]) -> None:
    histogram = np.bincount((np.array(entropies) * ENTROPY_BINS).astype(int)).tolist()
    quantiles = entropy_quantiles(histogram)
    assert quantiles is not None
    for percent, found in quantiles.items():
        assert abs(found - np.quantile(entropies, percent / 100)) < 1 / ENTROPY_BINS + 1e-12


def test_the_order_and_number_of_writers_do_not_change_the_figures(tmp_path: Path) -> None:
    schema, offsets = make_schema(LENGTHS), make_offsets(LENGTHS)
    rows = write_dump(tmp_path / "one", schema, LENGTHS)
    with DumpWriter.open(tmp_path / "two", schema, offsets, main=True) as main:
        other = DumpWriter.open(tmp_path / "two", schema, offsets, main=False)
        write_shards(other, rows, [2])
        write_shards(main, rows, [1])
        write_shards(other, rows, [0])
        main.finish()
    assert (tmp_path / "two/manifest.json").read_bytes() == (tmp_path / "one/manifest.json").read_bytes()


def test_quantiles_are_computed_over_all_shards_together(tmp_path: Path) -> None:
    write_dump(tmp_path / "one", make_schema(LENGTHS), LENGTHS)
    write_dump(tmp_path / "whole", make_schema(LENGTHS, shard_positions=96), LENGTHS)
    assert inspect_dump(tmp_path / "one")["num_shards"] == 3
    one, whole = (DumpReader(tmp_path / name).summary for name in ("one", "whole"))
    assert one.entropy_nats_quantiles == whole.entropy_nats_quantiles
    assert one.mean_entropy_nats == pytest.approx(whole.mean_entropy_nats, rel=1e-12)


@pytest.mark.parametrize(
    ("lengths", "changes"), [([], {}), ([9, 4], {"k": 8, "selection": "sampled"})], ids=["empty", "draws alone"]
)
def test_without_positions_or_top_tokens_there_is_no_entropy(tmp_path: Path, lengths, changes) -> None:
    write_dump(tmp_path / "dump", make_schema(lengths, **changes), lengths)
    summary = verify_dump(tmp_path / "dump")
    assert summary.mean_entropy_nats is None
    assert summary.entropy_nats_quantiles is None
    assert canonical_json(summary.to_json())
    assert not any(
        entry.figures.entropy_histogram for entry in Manifest.read(DumpReader(tmp_path / "dump").folder).shards
    )


def test_a_certain_position_has_entropy_0(tmp_path: Path) -> None:
    schema = make_schema([4], k=2, vocab_size=2)
    rows = replace(
        make_positions(schema),
        logp=np.tile(np.array([2**-11, -np.inf], np.float16), (4, 1)),  # above 0 by rounding
        tail=np.full((4, 2), -np.inf, np.float32),
    )
    write_dump(tmp_path / "dump", schema, [4], rows)
    summary = DumpReader(tmp_path / "dump").summary
    assert summary.mean_entropy_nats == 0
    assert summary.entropy_nats_quantiles is not None
    assert max(summary.entropy_nats_quantiles.values()) < 1 / ENTROPY_BINS
