"""Results: written whole, read back the same, refused where damaged."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipeline.evaluation.results import PERPLEXITY, Result, read_results, write_result
from pipeline.runtime.json_files import number
from storage.errors import InputError, RunError

RESULT = Result(
    kind=PERPLEXITY,
    subject="dev",
    figures=[{"distribution": "unconditional", "nats": 0.1}],
    settings={"batch_tokens": 8192, "device": "cpu"},
    fingerprints={"split": "ab" * 32},
    versions={"torch": "2.13.0"},
    command="python cli.py evaluate perplexity runs/é --data DATASET --split dev",
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


def test_results_are_read_back_by_name_and_replaced_by_later_ones(run: Path) -> None:
    assert read_results(run) == {}
    path = write_result(run, "perplexity-dev", RESULT)
    assert path == run / "results" / "perplexity-dev.json"
    other = dataclasses.replace(RESULT, subject="test")
    write_result(run, "perplexity-dev", other)
    write_result(run, "a", RESULT)
    assert read_results(run) == {"a": RESULT, "perplexity-dev": other}
    assert sorted(file.name for file in (run / "results").iterdir()) == ["a.json", "perplexity-dev.json"]


def test_the_same_result_is_the_same_bytes(run: Path) -> None:
    reordered = dataclasses.replace(RESULT, settings=dict(reversed(list(RESULT.settings.items()))))
    assert write_result(run, "a", RESULT).read_bytes() == write_result(run, "b", reordered).read_bytes()


def test_only_run_directories_and_plain_names_are_written_to(run: Path) -> None:
    with pytest.raises(RunError, match=r"neither run\.json nor config\.json"):
        write_result(run / "elsewhere", "a", RESULT)
    for name in ("", "../a", "a/b", ".hidden"):
        with pytest.raises(InputError, match="result name"):
            write_result(run, name, RESULT)


def test_numbers_that_json_does_not_have_are_a_bug(run: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_result(run, "a", dataclasses.replace(RESULT, figures={"nats": float("nan")}))
    assert read_results(run) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format version 2"),
        ({"settings": None}, "wrong type: settings"),
        ({"kind": 1, "figures": "x"}, "wrong type: kind, figures"),
    ],
)
def test_damaged_results_are_refused_by_file(run: Path, changes: dict[str, object], message: str) -> None:
    path = write_result(run, "a", RESULT)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
        read_results(run)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"a\.json: not a result"):
        read_results(run)


@pytest.mark.parametrize("found", [10**400, -(1 << 63), float("nan"), float("inf"), True, "1", None])
def test_what_nothing_can_be_computed_with_is_no_number(found: object) -> None:
    with pytest.raises(InputError, match=r"file: num_words is .*, expected a number"):
        number({"num_words": found}, "num_words", where="file")
