"""The sections on phenomena, surprisals and costs show the figures in the runs' files and name damaged files."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.compare.run_records import read_runs
from pipeline.evaluation.intervals_and_p_values import wilson_interval
from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT, MARGINAL, UNCONDITIONAL
from pipeline.report.cost_section import cost_summary, cost_table, costs_of, seconds_of_dump
from pipeline.report.dump_section import dumps_of
from pipeline.report.phenomena_section import phenomenon_plots, suite_plots
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.run_tables import figures_table
from pipeline.report.surprisal_section import agreement, density_panel, read_rows, surprisal_plots
from pipeline.report.tables import interval
from storage.errors import InputError
from storage.fingerprints import sha256_file
from tests.pipeline.report.html_page import texts

ROWS = [[-1.0, -2.0, -0.5], [-3.0, -0.1]]
"""Log-probabilities of two sentences, with two tokens and with one."""


def reported(*runs: Path) -> ReportedRuns:
    return ReportedRuns(read_runs(runs))


def test_each_phenomenon_has_the_interval_of_its_own_counts(made_up_runs: Any) -> None:
    comparison = reported(made_up_runs.baseline)
    ((by_phenomenon, by_paradigm),) = phenomenon_plots(comparison)
    rows = {row[0]: row for row in texts(by_phenomenon.data.rows)}
    assert rows.keys() == {"all pairs", "syntax", *comparison.runs[0].results.pairs[0].figures.by_term}
    for row in texts([*by_phenomenon.data.rows, *by_paradigm.data.rows]):
        num_pairs, num_right = (int(cell.replace(",", "")) for cell in row[3:5])
        assert row[7] == interval(wilson_interval(num_right, num_pairs))
    assert rows["npi_licensing"][3] == "1,000"
    assert "Scored with no space before the sentence, <eos> left out." in by_phenomenon.caption


def test_pairs_scored_in_two_ways_are_two_sets(made_up_runs: Any) -> None:
    path = made_up_runs.distilled / "results" / "minimal_pairs-sample.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"settings": result["settings"] | {"prefix": "space", "eos": True}}))
    comparison = reported(made_up_runs.baseline, made_up_runs.distilled)
    titles = [by_phenomenon.title for by_phenomenon, _ in phenomenon_plots(comparison)]
    assert titles == [
        "minimal_pairs, no space before the sentence, <eos> left out",
        "minimal_pairs, a space before the sentence, <eos> counted",
    ]


def test_results_of_different_searches_or_distributions_have_separate_columns(tmp_path: Path, helpers: Any) -> None:
    runs = []
    for name, change in {
        "a": {"distribution": MARGINAL, "beam": 50, "word_beam": 10},
        "b": {"distribution": MARGINAL, "beam": 100, "word_beam": 10},
        "c": {"distribution": UNCONDITIONAL},
    }.items():
        runs.append(helpers.made_up_run(tmp_path / name, "teacher", 2.0))
        helpers.add_pairs(runs[-1], 0.7)
        helpers.add_suites(runs[-1], {"npi": ("Licensing", 3, 4)})
        for path in (runs[-1] / "results").iterdir():
            result = json.loads(path.read_text())
            path.write_text(json.dumps(result | {"settings": result["settings"] | change}))
    comparison = reported(*runs)
    table = figures_table(comparison, "teacher", ())
    conventions = [label.removeprefix("pairs, minimal_pairs, ") for label, _ in table.groups[1:4]]
    assert conventions == [
        f"no space before the sentence, <eos> left out; {MARGINAL}, beam 50, word beam 10",
        f"no space before the sentence, <eos> left out; {MARGINAL}, beam 100, word beam 10",
        f"no space before the sentence, <eos> left out; {UNCONDITIONAL}",
    ]
    assert sum(label.startswith("suites, ") for label, _ in table.groups) == 3
    assert "beam 100, word beam 10. From" in suite_plots(comparison)[1].caption


def test_impossible_counts_are_refused(made_up_runs: Any) -> None:
    path = made_up_runs.baseline / "results" / "minimal_pairs-sample.json"
    result = json.loads(path.read_text())
    result["figures"]["by_term"]["npi_licensing"]["num_right"] = 1001
    path.write_text(json.dumps(result))
    with pytest.raises(InputError, match=r"minimal_pairs-sample\.json: 1001 right and 120 ties of 1000 pairs"):
        read_runs([made_up_runs.baseline])


def test_suites_are_shown_as_the_mean_of_suites_and_each_with_its_interval(made_up_runs: Any, helpers: Any) -> None:
    helpers.add_suites(made_up_runs.baseline, {"npi": ("Licensing", 3, 4), "agree": ("Agreement", 1, 20)})
    comparison = reported(made_up_runs.baseline, made_up_runs.distilled)
    (plot,) = suite_plots(comparison)
    assert [row[:2] for row in plot.data.rows] == [
        ["all items", "\u2013"],
        ["agree", "Agreement"],
        ["npi", "Licensing"],
    ]
    assert texts(plot.data.rows)[0][3:] == ["24", "4", "2", "16.7", interval(wilson_interval(4, 24))]
    assert plot.key[0][1] == "baseline: 40.0 %"  # the mean of 75 % and 5 %
    table = figures_table(comparison, "student", ())
    column = table.header.index("right, %", table.header.index("right, %") + 1)
    assert str(table.rows[0][column]).startswith("40.0 ")
    assert table.rows[1][column] == "\u2013"


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), min_size=1, max_size=30))
def test_agreement_equals_the_textbook_formulas(points: list[tuple[int, int]]) -> None:
    x, y = (np.array(of, np.float64) for of in zip(*points, strict=True))

    def ranks(values: Sequence[float]) -> list[float]:
        return [sum(v < w for v in values) + (sum(v == w for v in values) - 1) / 2 for w in values]

    mean_difference, pearson, spearman = agreement(x, y)
    assert mean_difference == pytest.approx(float(np.mean(y - x)), abs=1e-12)
    if len(set(x)) > 1 and len(set(y)) > 1:
        assert pearson == pytest.approx(np.corrcoef(x, y)[0, 1], abs=1e-9)
        assert spearman == pytest.approx(np.corrcoef(ranks(list(x)), ranks(list(y)))[0, 1], abs=1e-9)
    else:
        assert pearson is spearman is None


def test_a_panel_counts_tokens_beyond_the_axes_in_the_outermost_cells() -> None:
    panel = density_panel("x", "<a>", np.array([0.2, 0.7, 50.0]), np.array([19.9, 19.9, 0.0]))
    assert 'd="M234 234h6v6h-6zM0 0h12v6h-12z"' in panel
    assert "<a>" not in panel


def test_surprisals_are_compared_under_each_distribution_over_tokens_without_eos(
    made_up_runs: Any, helpers: Any
) -> None:
    shifted = [[nats - math.log(2) for nats in row] for row in ROWS]
    helpers.add_rows(made_up_runs.teacher, "dev", {GIVEN_TREE: ROWS, JOINT: ROWS, MARGINAL: shifted})
    helpers.add_rows(made_up_runs.baseline, "dev", {UNCONDITIONAL: shifted})
    plots, missing = surprisal_plots(reported(made_up_runs.teacher, made_up_runs.baseline, made_up_runs.distilled))
    assert [plot.title for plot in plots] == [
        f"Surprisals on dev: rnng, {GIVEN_TREE}, against students",
        f"Surprisals on dev: rnng, {MARGINAL}, against students",
    ]
    mean = 6 / 3 / math.log(2)
    assert texts(plots[0].data.rows) == [
        ["baseline", UNCONDITIONAL, "3", f"{mean:.3f}", f"{mean + 1:.3f}", "+1.000", "1.000", "1.000"]
    ]
    assert texts(plots[1].data.rows)[0][5] == "+0.000"
    assert missing[0][0] == "perplexity-dev.jsonl of distilled"
    assert "cli.py evaluate perplexity distilled" in missing[0][1]
    assert all("distilled" in command or "--split test" in command for _, command in missing)


def test_surprisals_of_different_tokens_are_not_compared(made_up_runs: Any, helpers: Any, tmp_path: Path) -> None:
    other = helpers.made_up_run(tmp_path / "other", "student", 2.0, fingerprints={"tokenizer": "9" * 64})
    helpers.add_perplexity(other, "dev", {UNCONDITIONAL: 2.0})
    for run, name in ((made_up_runs.teacher, GIVEN_TREE), (other, UNCONDITIONAL)):
        helpers.add_rows(run, "dev", {name: ROWS})
    assert surprisal_plots(reported(made_up_runs.teacher, other))[0] == []
    helpers.add_rows(made_up_runs.baseline, "dev", {UNCONDITIONAL: ROWS[:1]})
    found, expected = "1 sentence with 2 tokens in all", "2 sentences with 3 tokens in all"
    with pytest.raises(
        InputError, match=rf"perplexity-dev\.jsonl: has other sentences than .*: found {found}, expected {expected};"
    ):
        surprisal_plots(reported(made_up_runs.teacher, made_up_runs.baseline))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON"),
        ("[]", "expected object, found array"),
        ('{"sentence": 2, "log_probs": {"unconditional": [-1]}}', "sentence 2, expected sentence 1"),
        ('{"sentence": 1, "log_probs": {"<b>": [-1]}}', "distribution '<b>', expected one of"),
        ('{"sentence": 1, "log_probs": {"unconditional": []}}', "expected array of length >= 1"),
        ('{"sentence": 1, "log_probs": {"unconditional": [NaN]}}', "not JSON"),
        ('{"sentence": 1, "log_probs": {"unconditional": [true]}}', "expected float, found bool"),
        ('{"sentence": 1, "log_probs": {"unconditional": [-1], "joint with the tree": [-1, -2]}}', "different lengths"),
        ('{"sentence": 1, "log_probs": {"joint with the tree": [-1]}}', "expected \\['unconditional'\\]"),
    ],
)
def test_the_error_names_the_line_of_a_damaged_row(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"sentence": 0, "log_probs": {"unconditional": [-1]}}\n' + line + "\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: .*{message}"):
        read_rows(tmp_path / "rows.jsonl")


def events(*codes: str) -> list[dict[str, str]]:
    """Return events from codes of first letter and minute."""
    names = {"b": "begin", "c": "complete"}
    return [{"event": names[code[0]], "time": f"2026-11-24T10:{code[1:]}:00+00:00"} for code in codes]


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        (events("b00", "c03"), (180, True)),
        (events("b00", "c03", "b10", "c11"), (240, True)),
        (events("b00", "b10", "c11"), (60, False)),
        (events("b00", "c03", "b10"), (180, False)),
        (events("b00"), (None, False)),
        ([], (None, True)),
        ([{"event": "begin", "time": "2026-11-24T10:00:00"}, {"event": "complete", "time": 3}], (None, True)),
    ],
)
def test_the_time_of_a_dump_comes_from_its_history(
    history: list[dict[str, str]], expected: tuple[float | None, bool]
) -> None:
    assert seconds_of_dump(history) == expected


def test_costs_come_from_the_last_row_the_starts_and_the_unchanged_dump(made_up_runs: Any, tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    dump.mkdir()
    (dump / "manifest.json").write_text("{}")
    history = [event | {"world_size": 4, "command": "dump it"} for event in events("b00", "c01")]
    (tmp_path / "dump.history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in history))
    run = json.loads((made_up_runs.distilled / "run.json").read_text())
    run["dump"]["path"] = str(dump)
    run["fingerprints"]["manifest"] = sha256_file(dump / "manifest.json")
    (made_up_runs.distilled / "run.json").write_text(json.dumps(run))
    start = {"event": "start", "time": "2026-11-24T10:00:00+00:00", "device": "NVIDIA <X>", "world_size": 2}
    starts = [start, start | {"world_size": 8}]
    (made_up_runs.distilled / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in starts))

    comparison = reported(made_up_runs.distilled, made_up_runs.teacher)
    dumps = dumps_of(comparison)
    assert dumps[0].commands == ["dump it"]
    costs = costs_of(comparison, dumps)
    assert [cost.kind for cost in costs] == ["teacher", "dump", "student"]
    teacher, dumped, student = texts(cost_table(costs).rows)
    assert teacher[5:7] == ["\u2013", "\u2013"]
    assert dumped[2:6] == [f"{118_204 / 60:,.0f}", "\u2013", "118,204", "4"]
    assert student[2:6] == [f"{6_018_000 / 465:,.0f}", "1,500", "6,018,000", "2, then 8"]
    assert student[6] == "NVIDIA <X> (2 starts)"
    assert texts(cost_summary(costs).rows)[1] == ["dumps, once", "1", "1 min 00 s", "1 min 00 s", "0"]

    (dump / "manifest.json").write_text("{} ")  # another dump lies there now
    assert dumps_of(comparison)[0].history == []
    for path in ("a\0b", "x" * 5000, "s3://bucket/dump", str(tmp_path / "nowhere")):
        run["dump"]["path"] = path
        (made_up_runs.distilled / "run.json").write_text(json.dumps(run))
        assert dumps_of(reported(made_up_runs.distilled))[0].history == []
