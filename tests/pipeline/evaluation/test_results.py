"""Tests of results: written and read back, loaded with checks, and refused if damaged."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.evaluation import results as results_module
from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT, UNCONDITIONAL
from pipeline.evaluation.results import PERPLEXITY, Result, load_results, read_results, read_sentence_rows, write_result
from storage.errors import InputError, RunError
from storage.fingerprints import sha256_file
from tests.evaluated_runs import add_pairs, add_sentences, add_suites, write_run

RESULT = Result(
    kind=PERPLEXITY,
    subject="dev",
    figures=[{"distribution": "unconditional", "nats": 0.1}],
    settings={"batch_tokens": 8192, "device": "cpu"},
    fingerprints={"split": "ab" * 32},
    versions={"torch": "2.13.0"},
    command="python cli.py evaluate perplexity runs/é --data DATASET --split dev",
)


ROWS = [{GIVEN_TREE: [-1.5, -0.25], JOINT: [-2, -0.5]}, {GIVEN_TREE: [-3.0], JOINT: [-4.0]}]


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


def test_a_number_that_json_does_not_have_is_a_bug(run: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_result(run, "a", dataclasses.replace(RESULT, figures={"nats": float("nan")}))
    assert read_results(run) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format_version": 1}, "format version 1, expected 2"),
        ({"settings": None}, "settings: expected object, found null"),
        ({"figures": "x"}, "figures: expected object .* array, found str"),
    ],
)
def test_damaged_results_are_refused_by_file(run: Path, changes: dict[str, object], message: str) -> None:
    path = write_result(run, "a", RESULT)
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes))
    with pytest.raises(InputError, match=rf"a\.json: .*{message}"):
        read_results(run)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(InputError, match=r"a\.json: not JSON"):
        read_results(run)


@pytest.fixture
def evaluated(tmp_path: Path) -> Path:
    """A run with a perplexity, minimal pairs and suites."""
    run = write_run(tmp_path / "run", seed=1)
    add_sentences(run, [[-1.5, -0.25], [-2.0, -0.5]])
    add_pairs(run, {"a": [1, 0], "b": [-1]}, eos=True)
    add_suites(run, {"s": [1, 0]})
    return run


def test_loaded_results_have_checked_figures_conventions_and_lazy_rows(evaluated: Path) -> None:
    results = load_results(evaluated)
    (perplexity,), (pairs,), (suites,) = results.perplexities, results.pairs, results.suites
    assert perplexity.figures[UNCONDITIONAL].nats == 4.25
    assert (perplexity.key.name, perplexity.convention) == ("dev", "")
    assert pairs.convention == "no space before the sentence, <eos> counted"
    assert pairs.figures.by_paradigm["b"].num_ties == 1
    assert [(row.paradigm, row.pair, row.good - row.bad) for row in pairs.pairs()] == [
        ("a", 0, 1.0), ("a", 1, -1.0), ("b", 0, 0.0)
    ]  # fmt: skip
    assert suites.convention == "regions joined as running text"
    assert list(suites.items()) == [("s", 1, True), ("s", 2, False)]
    assert not results.skipped
    pairs.rows.unlink()
    assert len(load_results(evaluated).pairs) == 1  # rows are read on request


def test_results_of_other_weights_are_skipped_with_the_command_to_run_again(evaluated: Path) -> None:
    weights = evaluated / "checkpoints" / "best" / "model.safetensors"
    before = sha256_file(weights)
    weights.write_text("other weights")
    results = load_results(evaluated)
    assert [*results.perplexities, *results.pairs, *results.suites] == []
    assert all(skipped.is_outdated for skipped in results.skipped)
    assert "now; evaluate again: cli.py evaluate minimal_pairs run" in results.skipped[0].note
    assert len(load_results(evaluated, weights_sha256=before).suites) == 1  # by digest, whatever the checkpoint is now
    weights.unlink()
    assert len(load_results(evaluated).suites) == 1  # a copy without weights


def test_results_of_word_checkpoints_are_kept_apart_and_checked(evaluated: Path) -> None:
    best = next((evaluated / "results").glob("perplexity*.json"))
    result = json.loads(best.read_text())
    for name in ("words_1k", "words_2M", "last", "words_01", "words_0M"):
        changed = result | {
            "settings": {"checkpoint": name},
            "fingerprints": result["fingerprints"] | {"weights": name},
        }
        best.with_name(f"{name}.json").write_text(json.dumps(changed))
    weights = evaluated / "checkpoints" / "words_2M" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_text("other weights")
    results = load_results(evaluated)
    assert len(results.perplexities) == 1
    assert {words: len(found.perplexities) for words, found in results.at_words.items()} == {1000: 1}
    notes = {skipped.note.partition(" is ")[0]: skipped.note for skipped in results.skipped}
    assert notes.keys() == {f"results/{name}.json" for name in ("last", "words_01", "words_0M", "words_2M")}
    assert "of weights words_2M, but the words_2M weights are" in notes["results/words_2M.json"]
    assert not any(skipped.is_outdated for skipped in results.skipped)  # this is for the best checkpoint


def test_the_weights_are_hashed_once_per_run(evaluated: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    monkeypatch.setattr(results_module, "sha256_file", lambda path: hashed.append(path) or "0" * 64)
    load_results(evaluated)
    assert len(hashed) == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"eos": true', '"eos": 1', "settings.eos is 1, expected true or false"),
        ('"prefix": "none"', '"prefix": "tab"', "settings.prefix is 'tab', expected none or space"),
        ('"linguistics_term": "term a"', '"linguistics_term": null', "linguistics_term: expected str, found null"),
        ('"num_right": 1', '"num_right": 9', "9 right and"),
        ('"pairs": "aaaa', '"other": "aaaa', "no sha256 of the pairs"),
    ],
)
def test_a_result_without_its_fingerprints_is_refused(evaluated: Path, old: str, new: str, message: str) -> None:
    path = evaluated / "results" / "minimal-pairs-made-up-eos.json"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(InputError, match=message) as caught:
        load_results(evaluated).pairs[0].fingerprint  # noqa: B018 - reading it checks it
    assert "again" in str(caught.value)


def written(path, rows):
    path.write_text("".join(json.dumps({"sentence": i, "log_probs": row}) + "\n" for i, row in enumerate(rows)))
    return path


def test_rows_are_read_one_at_a_time_as_arrays_by_distribution(tmp_path):
    path = written(tmp_path / "rows.jsonl", ROWS)
    found = list(read_sentence_rows(path, remedy="evaluate again"))
    assert [{name: values.tolist() for name, values in row.items()} for row in found] == ROWS
    assert {values.dtype for row in found for values in row.values()} == {np.dtype(np.float64)}
    path.write_text(path.read_text().splitlines()[0] + "\n{")
    rows = read_sentence_rows(path, remedy="evaluate again")
    assert next(rows)[JOINT].tolist() == [-2, -0.5]
    with pytest.raises(InputError, match=r"rows\.jsonl:2: not JSON .*; evaluate again"):
        next(rows)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence": 0, "log_probs": ROWS[1]}, "sentence 0, expected sentence 1"),
        ({"sentence": True, "log_probs": ROWS[1]}, "sentence: expected int, found bool"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1], JOINT: [10**400]}}, "number out of range"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1], JOINT: [float("inf")]}}, "not JSON"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: []}}, "expected array of length >= 1"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1], JOINT: [-1, -1]}}, "distributions of different lengths"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1]}}, "distributions .*, expected "),
        ({"sentence": 1, "log_probs": {UNCONDITIONAL: [-1], GIVEN_TREE: [-1], JOINT: [-1]}}, "distributions .*, exp"),
    ],
)
def test_a_damaged_row_is_named_by_line(row, message, tmp_path):
    path = written(tmp_path / "rows.jsonl", ROWS[:1])
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: .*{message}"):
        list(read_sentence_rows(path, remedy="evaluate again"))
