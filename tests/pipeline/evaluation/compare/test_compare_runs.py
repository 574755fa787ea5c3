"""Tests of the command compare, and of the tables of seed groups in the report."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from pipeline.report.comparisons import compare_for_report, comparison_blocks
from pipeline.report.page_blocks import TitledTable, tables_in
from tests.evaluated_runs import PAIRS, add_pairs, add_sentences, add_suites, from_dump, record_of, write_run

PARADIGMS = [f"paradigm {letter}" for letter in "abcdefghij"]


def compare(*arguments: object) -> str:
    result = CliRunner().invoke(cli.main, ["compare", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> str:
    result = CliRunner().invoke(cli.main, ["compare", *map(str, arguments)])
    assert result.exit_code == 1, result.output
    (line,) = result.stderr.strip().splitlines()
    return line


def tables_of_report(runs: Sequence[Path]) -> list[TitledTable]:
    found = compare_for_report([record_of(run) for run in runs])
    assert found is not None
    return list(tables_in(comparison_blocks(found)))


def add_all(run: Path, share: float, seed: int) -> None:
    """Record pairs, of which about ``share`` are right, and sentences that are about as good."""
    draw = np.random.default_rng([seed, round(100 * share)])
    add_pairs(run, {name: (draw.random(60) < share).astype(int).tolist() for name in PARADIGMS})
    noise = np.random.default_rng(0).normal(0, 1, 40)
    add_sentences(run, [[-5.0 + share + one, -1.0] for one in noise])


@pytest.fixture
def runs(tmp_path: Path) -> Sequence[Path]:
    """Write three seed groups of two seeds. The second is better than the others, which are alike."""
    found = []
    for name, lr, share in (("plain", 0.001, 0.6), ("better", 0.002, 0.85), ("alike", 0.003, 0.6)):
        for seed in (1, 2):
            found.append(write_run(tmp_path / f"{name}-seed{seed}", seed=seed, lr=lr))
            add_all(found[-1], share, seed)
    return found


def test_the_better_group_is_named_and_equal_groups_are_not(runs):
    text = compare(*runs)
    assert "better is better than plain: 8" in text
    assert "better is better than alike" in text
    assert "The other pair of groups shows no difference." in text
    assert "By paradigm: 30 differences tested" in text
    assert "By field: 3 differences tested; 2 are significant over paradigms after correction" in text
    assert "; 10 of 10 terms have fewer than 6 paradigms, too few for any difference to be significant." in text
    (pairs,) = (
        one for one in json.loads(compare(*runs, "--json"))["benchmarks"] if "pairs" in one["benchmark"]["kind"]
    )
    assert [(one["first"], one["second"], one["overall"]["better"]) for one in pairs["pairs"]] == [
        ("plain", "better", "second"),
        ("plain", "alike", "neither"),
        ("better", "alike", "first"),
    ]
    assert pairs["pairs"][0]["overall"]["num_tests"] == 3
    assert pairs["pairs"][0]["by_paradigm"]["paradigm a"]["num_tests"] == 30


def test_with_one_seed_each_the_sentence_is_about_the_trainings(runs):
    text = compare(runs[0], runs[2])
    assert "This is about these trainings and not about the settings" in text
    assert "\u2013" in text


def test_runs_without_rows_are_a_one_line_error_with_the_command(runs):
    for run in runs:
        for path in (run / "results").glob("*.jsonl"):
            path.unlink()
    line = refused(*runs)
    assert f"plain-seed1/results/{PAIRS}.jsonl: missing" in line
    assert "evaluate again: cli.py evaluate minimal_pairs plain-seed1" in line


def test_a_benchmark_of_only_some_runs_is_noted_and_not_compared(runs):
    for run in runs[:3]:
        add_suites(run, {"suite": [1, 0, 1]})
    found = json.loads(compare(*runs, "--json"))
    (suites,) = (one for one in found["benchmarks"] if one["benchmark"]["kind"] == "syntaxgym")
    assert list(suites["figures"]) == ["plain"]
    (note,) = found["notes"]
    assert "better-seed2, alike-seed1, alike-seed2 have no result on it" in note
    assert "evaluate in the same way as: cli.py evaluate syntaxgym plain-seed1" in note


def test_other_items_under_one_name_are_not_compared(runs):
    for run in runs[:2]:
        path = run / "results" / f"{PAIRS}.json"
        path.write_text(path.read_text().replace("a" * 64, "0" * 64))
    found = json.loads(compare(*runs, "--json"))
    compared = {
        one["benchmark"]["fingerprint"][0]: list(one["figures"])
        for one in found["benchmarks"]
        if one["benchmark"]["kind"] == "minimal_pairs"
    }
    assert compared == {"0": ["plain"], "a": ["better", "alike"]}


def test_rows_of_other_items_under_one_fingerprint_are_refused(runs):
    path = runs[3] / "results" / f"{PAIRS}.jsonl"
    path.write_text("".join(reversed(path.read_text().splitlines(keepends=True))))
    line = refused(*runs)
    assert f"better-seed2/results/{PAIRS}.jsonl: has other items than " in line


def test_across_tokenizers_perplexities_compare_only_per_word_and_per_byte(tmp_path):
    runs = []
    for name in "ef":
        for seed in (1, 2):
            fingerprints = {"tokenizer": name * 64}
            runs.append(write_run(tmp_path / f"{name}-seed{seed}", seed=seed, fingerprints=fingerprints))
            parts = [[-3.0 - seed, -1.0]] if name == "e" else [[-2.0, -2.0, -0.5 - seed]]
            add_sentences(runs[-1], parts * 8, tokenizer=name)
    line = refused(*runs)
    assert "tokenizer is ffffffffffff" in line
    assert "give --normaliser word or byte" in line
    assert "nats per word" in compare(*runs, "--normaliser", "word")
    assert "bits per byte" in compare(*runs, "--normaliser", "byte")
    assert tables_of_report(runs)[1].table.header[2] == "nats per word"
    # with another text nothing compares
    for run in runs[:2]:
        path = run / "results" / "perplexity-dev.json"
        path.write_text(path.read_text().replace("c" * 64, "0" * 64))
    assert "no result on it" in refused(*runs, "--normaliser", "word")


def test_dumps_that_count_as_replicates_are_noted(runs):
    for seed in (1, 2):
        path = runs[0].parent / f"again-seed{seed}"
        write_run(path, seed=seed, **from_dump(str(seed), f"teacher {seed}"))
        add_all(path, 0.7, seed)
        runs.append(path)
    (note,) = json.loads(compare(*runs, "--json"))["notes"]
    assert note.startswith("again: each seed has a dump of its own")
    assert f"Notes:\n{note}" in compare(*runs)


def test_one_seed_group_alone_is_an_error(runs):
    assert "expected two seed groups of one kind with a benchmark in common" in refused(*runs[:2])


@pytest.mark.parametrize(
    ("suites", "start"),
    [
        ({"one": [1, 0, 1]}, "1 suite is too few to show a difference: the smallest possible p is 1,"),
        ({"one": [1, 0, 1], "two": [0, 0, 1]}, "2 suites are too few to show a difference: the smallest"),
    ],
)
def test_too_few_suites_for_any_difference_are_reported(runs, suites, start):
    for run in runs[:4]:
        for path in (run / "results").iterdir():
            path.unlink()
        add_suites(run, suites)
    text = compare(*runs[:4])
    assert start in text
    assert f"; {len(suites)} of {len(suites)} suite{'s have' if len(suites) > 1 else ' has'} fewer than 6 items" in text


def test_the_report_has_means_differences_and_verdicts(runs):
    groups, means, differences, *others = (titled.table for titled in tables_of_report(runs))
    assert [row[0] for row in groups.rows] == ["plain", "better", "alike"]
    assert [row[:2] for row in means.rows] == [["plain", "2"], ["better", "2"], ["alike", "2"]]
    assert [row[-1] for row in differences.rows] == ["better", "not shown", "better"]
    for table in (means, differences, *others):
        assert {len(row) for row in table.rows} == {len(table.header)}
    alone = write_run(runs[0].parent / "alone", seed=1)
    assert compare_for_report([record_of(alone)]) is None
