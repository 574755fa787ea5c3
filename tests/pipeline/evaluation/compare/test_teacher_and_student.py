"""Tests of paradigms: those that a teacher knows better are found in recorded results, whatever the distribution."""

import json
from pathlib import Path

import pytest

from pipeline.evaluation.compare.teacher_and_student import ParadigmsOfBoth, paradigms_of_both
from pipeline.evaluation.intervals_and_p_values import Interval
from pipeline.evaluation.results import load_results
from tests.evaluated_runs import add_pairs, write_run

KNOWN, UNKNOWN = [1] * 18 + [0] * 2, [1, 0] * 10


@pytest.fixture
def teacher(tmp_path: Path) -> Path:
    """A run with a result by beam search that knows two of four paradigms."""
    run = write_run(tmp_path / "teacher", seed=1)
    add_pairs(run, {"a": KNOWN, "b": UNKNOWN, "c": UNKNOWN[::-1], "d": [1] * 20})
    (path,) = (run / "results").glob("*.json")
    result = json.loads(path.read_bytes())
    result["settings"] |= {"distribution": "marginal by beam search", "beam": 50, "word_beam": 10}
    path.write_text(json.dumps(result))
    return run


def compared(teacher: Path, student: Path) -> list[ParadigmsOfBoth]:
    return paradigms_of_both(load_results(teacher).pairs, load_results(student).pairs)


def test_paradigms_that_the_teacher_knows_better_come_with_the_largest_difference_first(
    teacher: Path, tmp_path: Path
) -> None:
    student = write_run(tmp_path / "student", seed=1)
    add_pairs(student, {"a": [0] * 16 + [1] * 4, "b": UNKNOWN, "c": UNKNOWN, "d": [0] * 20})
    (found,) = compared(teacher, student)
    assert "marginal by beam search, beam 50, word beam 10" in found.title
    assert list(found.better_by("first")) == ["d", "a"]
    assert not found.better_by("second")
    best = found.paradigms["d"]
    assert (best.first, best.second, best.interval, best.num_units, best.num_tests) == (1, 0, Interval(1, 1), 20, 4)
    # Of the 2^20 ways to flip the signs, two reach the sum. There are four tests.
    assert best.adjusted_p_value == pytest.approx(4 * 2.0**-19, rel=1e-4)
    as_json = found.to_json()["paradigms"]
    assert {name: row["better"] for name, row in as_json.items()} == {
        "d": "teacher", "a": "teacher", "b": "neither", "c": "neither"
    }  # fmt: skip


def test_results_with_another_treatment_of_eos_or_without_rows_are_not_compared(teacher: Path, tmp_path: Path) -> None:
    student = write_run(tmp_path / "student", seed=1)
    outcomes = {"a": KNOWN, "b": UNKNOWN, "c": UNKNOWN, "d": KNOWN}
    add_pairs(student, outcomes, eos=True)
    assert compared(teacher, student) == []
    add_pairs(student, outcomes)
    assert len(compared(teacher, student)) == 1
    for path in (student / "results").glob("*.jsonl"):
        path.unlink()
    assert compared(teacher, student) == []
