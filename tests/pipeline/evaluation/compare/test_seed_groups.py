"""Tests of seed groups: which runs belong together, and how the groups are named."""

from typing import Any

import pytest

from pipeline.evaluation.compare.seed_groups import seed_groups
from storage.errors import ConfigError
from tests.evaluated_runs import from_dump, record_of, write_run


def grouped(tmp_path, runs: dict[str, dict[str, Any]]) -> dict[str, list[int]]:
    """Return the seeds of each group by the name of the group."""
    records = [record_of(write_run(tmp_path / name, **changes)) for name, changes in runs.items()]
    return {one.name: list(one.runs) for one in seed_groups(records)}


def test_the_seed_the_device_and_options_of_display_do_not_separate_runs(tmp_path):
    runs = {
        "a-seed2": {"seed": 2, "threads": 8, "device": "cuda"},
        "a-seed1": {"seed": 1, "log_every": 7, "word_checkpoints": ["1M"], "out": "elsewhere"},
        "b-seed1": {"seed": 1, "lr": 0.002},
    }
    assert grouped(tmp_path, runs) == {"a": [1, 2], "b": [1]}


def test_options_of_the_dump_separate_runs_only_if_they_have_one(tmp_path):
    runs = {
        "base-seed1": {"seed": 1, "alpha": 0.7},
        "base-seed2": {"seed": 2, "alpha": 0.3, "temperature": 2.0, "tail": "drop"},
        "low-seed1": {"seed": 1, "alpha": 0.3, **from_dump("1", "t")},
        "high-seed1": {"seed": 1, "alpha": 0.7, **from_dump("1", "t")},
    }
    assert grouped(tmp_path, runs) == {"base": [1, 2], "low": [1], "high": [1]}


@pytest.mark.parametrize("what", ["dataset", "tokenizer", "initial weights"])
def test_another_fingerprint_is_another_group(what, tmp_path):
    runs = {"a-seed1": {"seed": 1}, "b-seed2": {"seed": 2, "fingerprints": {what: "9" * 64}}}
    assert grouped(tmp_path, runs) == {"a": [1], "b": [2]}


def test_different_dumps_are_one_group_only_if_each_seed_has_its_own(tmp_path):
    own = {f"again-seed{seed}": {"seed": seed, **from_dump(str(seed), f"teacher {seed}")} for seed in (1, 2)}
    assert grouped(tmp_path / "own", own) == {"again": [1, 2]}
    crossed = own | {f"other-seed{seed}": {"seed": seed, **from_dump("9", "teacher 9")} for seed in (1, 2)}
    assert sorted(grouped(tmp_path / "crossed", crossed).values()) == [[1, 2], [1, 2]]
    unlike = own | {"again-seed2": {"seed": 2, **from_dump("2", "teacher 2", k=16)}}
    assert list(grouped(tmp_path / "unlike", unlike).values()) == [[1], [2]]
    same_seed = {"again-seed1": own["again-seed1"], "x": {"seed": 1, **from_dump("2", "teacher 2")}}
    assert list(grouped(tmp_path / "same seed", same_seed).values()) == [[1], [1]]
    named_apart = {"a-seed1": own["again-seed1"], "b-seed2": own["again-seed2"]}
    assert grouped(tmp_path / "named apart", named_apart) == {"a": [1], "b": [2]}
    assert len(grouped(tmp_path / "no seed in the name", {"a": own["again-seed1"], "b": own["again-seed2"]})) == 2
    folds = {
        f"again-seed{seed}": {
            "seed": seed,
            **from_dump(str(seed), "", fingerprints={f"teacher of fold {i}": f"{seed}{i}" for i in (1, 2)}),
        }
        for seed in (1, 2)
    }
    assert grouped(tmp_path / "folds", folds) == {"again": [1, 2]}
    assert len(grouped(tmp_path / "one with folds", own | {"again-seed2": folds["again-seed2"]})) == 2
    both = own | {"more-seed1": {"seed": 1, **from_dump("2", "teacher 2")}}
    assert sorted(grouped(tmp_path / "both", both).values()) == [[1], [1, 2]]


def test_dumps_that_count_as_replicates_are_named(tmp_path):
    runs = {f"again-seed{seed}": {"seed": seed, **from_dump(str(seed), f"teacher {seed}")} for seed in (1, 2)}
    runs |= {f"shared-seed{seed}": {"seed": seed, "lr": 0.5, **from_dump("9", "teacher 9")} for seed in (1, 2)}
    runs["again-seed2"]["dump"]["path"] = "other dump"
    records = [record_of(write_run(tmp_path / name, **changes)) for name, changes in runs.items()]
    again, shared = seed_groups(records)
    assert again.note is not None
    assert "again: each seed has a dump of its own" in again.note
    assert "seed 1: dump, seed 2: other dump" in again.note
    assert shared.note is None


def test_groups_are_named_by_settings_if_directories_do_not_separate_them(tmp_path):
    runs = {
        "x1": {"seed": 1},
        "x2": {"seed": 2},
        "y1": {"seed": 1, "alpha": 0.5, **from_dump("1", "t")},
        "y2": {"seed": 2, "alpha": 0.5, **from_dump("1", "t")},
        "z1": {"seed": 1, "alpha": 0.8, **from_dump("1", "t")},
    }
    assert grouped(tmp_path, runs) == {
        "no dump": [1, 2],
        "dump 11111111, alpha 0.5": [1, 2],
        "dump 11111111, alpha 0.8": [1],
    }


def test_a_number_that_is_not_the_seed_stays_in_the_name(tmp_path):
    runs = {"a-seed3": {"seed": 1}, "b-seed1": {"seed": 1, "lr": 0.002}}
    assert list(grouped(tmp_path, runs)) == ["a-seed3", "b"]


def test_two_runs_of_one_group_with_the_same_seed_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"b and .*a: both have seed 1 and no setting differs, .*leave one"):
        grouped(tmp_path, {"a": {"seed": 1}, "b": {"seed": 1}})
    with pytest.raises(ConfigError, match=r"c/run.json: seed is None"):
        grouped(tmp_path, {"c": {"seed": None}})
