"""The report is one self-contained page that lists what is missing and keeps incomparable figures apart."""

import itertools
import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.compare.run_records import read_runs
from pipeline.evaluation.perplexity import FLOOR, GIVEN_TREE, IN_DOCUMENT, JOINT, MARGINAL, PREFIX, UNCONDITIONAL
from pipeline.report import curves_section
from pipeline.report.drawing import NUM_COLOURS, swatch
from pipeline.report.page import render_report, report_tables, write_report
from pipeline.report.reported_runs import ReportedRuns
from storage.errors import InputError, RunError, StoreError
from storage.fingerprints import sha256_file
from tests.pipeline.report.html_page import Page

MadeUpRuns = Any


def page_of(runs: list[Path], out: Path) -> Page:
    write_report(runs, out)
    return Page(out.read_text(encoding="utf-8"))


def test_the_page_is_self_contained_and_small(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    page = page_of(made_up_runs.all, tmp_path / "new" / "report.html")
    assert len(page.html.encode()) < 1_000_000
    assert not {"script", "img", "link", "iframe", "image", "base"} & page.tags
    assert not {"src", "srcset"} & page.attributes
    assert not re.search(r"https?:|@import|//\w", page.html)
    assert "default-src 'none'" in page.html
    assert len(page.ids) == len(set(page.ids))
    assert page.references <= set(page.ids)


def test_the_same_runs_give_the_same_bytes(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    for name in ("a.html", "b.html"):
        write_report(made_up_runs.all, tmp_path / name)
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_each_perplexity_is_in_a_column_of_its_distribution_and_kinds_have_separate_tables(
    made_up_runs: MadeUpRuns, tmp_path: Path
) -> None:
    page = page_of(made_up_runs.all, tmp_path / "report.html")
    students, teachers = page.table("dev perplexity, unconditional"), page.table("dev perplexity, given the tree")
    assert [row[0].split()[0] for row in students[2:]] == ["baseline", "distilled", "born-again"]
    assert [row[0].split()[0] for row in teachers[2:]] == ["rnng"]
    assert not any(GIVEN_TREE in cell or "joint" in cell for cell in students[0])
    assert not any(UNCONDITIONAL in cell for cell in teachers[0])
    distilled = dict(zip(students[1], students[3], strict=True))
    assert students[3][1] == f"{math.exp(2.11):.2f}"
    assert students[3][3] == "+0.1280"  # 2.11 less the floor's 1.982
    assert (distilled["ties"], distilled["steps"], distilled["positions"]) == ("120", "1,500", "6,018,000")
    everything = page.table("distribution")
    assert all(row[2] in {"unconditional", "given the tree", "joint with the tree", "floor"} for row in everything[1:])
    assert "lowest" not in page.text


def test_students_are_drawn_with_the_floor_and_teachers_separately(
    made_up_runs: MadeUpRuns, tmp_path: Path, helpers: Any
) -> None:
    page = page_of(made_up_runs.all, tmp_path / "report.html")
    assert page.text.count("floor 1.982") == 4  # over positions and over time, each wide and narrow
    assert "Teacher rnng" in page.text
    students = page.table("curve")[1:]
    assert {row[0] for row in students} == {"baseline", "distilled", "born-again"}
    for run, split in itertools.product(made_up_runs.students, ("dev", "test")):
        helpers.add_perplexity(run, split, {UNCONDITIONAL: 2.15})
    without = page_of(made_up_runs.all, tmp_path / "without.html")
    assert "floor 1.982" not in without.text
    assert "nats above floor" not in without.text


def test_a_floor_applies_only_to_the_run_that_recorded_it(
    made_up_runs: MadeUpRuns, tmp_path: Path, helpers: Any
) -> None:
    for run in (made_up_runs.baseline, made_up_runs.born_again):
        helpers.add_perplexity(run, "dev", {UNCONDITIONAL: 2.15})
    page = page_of(made_up_runs.all, tmp_path / "report.html")
    assert page.text.count("floor 1.982") == 4
    students = page.table("dev perplexity, unconditional")
    assert [row[3] for row in students[2:]] == ["\u2013", "+0.1280", "\u2013"]
    floors = [row[:3] for row in page.table("distribution")[1:] if row[2] == "floor"]
    assert [row[0].split()[-1] for row in floors if row[1] == "dev"] == ["distilled"]


def test_a_floor_of_another_split_is_not_drawn_and_the_caption_says_how_to_record_one(
    made_up_runs: MadeUpRuns, tmp_path: Path, helpers: Any
) -> None:
    for run in made_up_runs.students:
        helpers.add_perplexity(run, "dev", {UNCONDITIONAL: 2.15})
    page = page_of(made_up_runs.all, tmp_path / "report.html")
    assert "floor 1.982" not in page.text
    assert "No floor is drawn, because none is recorded for dev: run evaluate perplexity with --truth" in page.text


def test_the_page_reports_a_second_result_of_a_split_without_showing_it(
    made_up_runs: MadeUpRuns, tmp_path: Path, helpers: Any
) -> None:
    helpers.add_perplexity(made_up_runs.baseline, "dev", {UNCONDITIONAL: 2.15, FLOOR: 2.0}, name="second")
    page = page_of([made_up_runs.baseline], tmp_path / "report.html")
    assert "results/second.json repeats a perplexity of dev: it is not shown" in page.text
    dev = [row for row in page.table("distribution")[1:] if row[1] == "dev"]
    assert [(row[2], row[3]) for row in dev] == [("unconditional", f"{math.exp(2.16):.2f}"), ("floor", "7.26")]


def test_two_results_of_a_teacher_are_merged_by_distribution(made_up_runs: MadeUpRuns, helpers: Any) -> None:
    helpers.add_perplexity(
        made_up_runs.teacher, "dev", {GIVEN_TREE: 1.7, JOINT: 2.4, MARGINAL: 2.1}, name="perplexity-z"
    )
    helpers.add_perplexity(made_up_runs.teacher, "dev", {PREFIX: 2.2}, name="perplexity-a")
    (run,) = read_runs([made_up_runs.teacher])
    found = {name: round(figure.nats_per_position, 6) for name, figure in run.perplexities["dev"].items()}
    assert found == {GIVEN_TREE: 1.7, JOINT: 2.4, MARGINAL: 2.1, PREFIX: 2.2}
    assert run.splits["dev"].rows.name == "perplexity-z.jsonl"
    assert not any("repeats" in sentence for sentence in run.missing)


def test_splits_with_one_name_and_different_texts_have_separate_columns(
    made_up_runs: MadeUpRuns, tmp_path: Path, helpers: Any
) -> None:
    helpers.add_perplexity(made_up_runs.baseline, "dev", {UNCONDITIONAL: 2.5}, text="9" * 64)
    helpers.add_perplexity(made_up_runs.distilled, "dev", {UNCONDITIONAL: 2.6, FLOOR: 2.0}, name="a", text="9" * 64)
    page = page_of(made_up_runs.students, tmp_path / "report.html")
    header, _, *rows = page.table("test perplexity, unconditional")
    dev = [header.index(f"dev ({digit * 8}) perplexity, unconditional") for digit in "09"]
    assert dev == [1, 2]
    assert header[3] == "test perplexity, unconditional"
    assert [row[1] for row in rows] == ["\u2013", f"{math.exp(2.11):.2f}", f"{math.exp(2.14):.2f}"]
    assert [row[4] for row in rows] == [f"{math.exp(2.5):.2f}", f"{math.exp(2.6):.2f}", "\u2013"]
    assert "The runs were evaluated on 2 different texts called dev" in page.text
    assert page.text.count("floor 1.982") == page.text.count("floor 2.000") == 4
    assert "dev (" not in page_of(made_up_runs.students[2:], tmp_path / "one.html").text


def test_a_result_with_two_figures_of_one_distribution_is_refused(made_up_runs: MadeUpRuns) -> None:
    path = made_up_runs.baseline / "results" / "perplexity-dev.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"figures": result["figures"] * 2}))
    with pytest.raises(InputError, match=r"perplexity-dev\.json: two figures of one distribution"):
        read_runs([made_up_runs.baseline])


def test_distilled_students_are_drawn_by_their_cross_entropy(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (made_up_runs.distilled / "metrics.jsonl").read_text().splitlines()]
    last = next(row for row in reversed(rows) if row["split"] == "dev")
    page = page_of([made_up_runs.distilled], tmp_path / "report.html")
    assert f"distilled: {last['cross_entropy']:.3f} at the end" in page.text
    assert f"{last['loss']:.3f} at the end" not in page.text


def test_dumps_are_described_and_their_perplexity_is_named_by_its_condition(
    made_up_runs: MadeUpRuns, tmp_path: Path
) -> None:
    page = page_of(made_up_runs.all, tmp_path / "report.html")
    described = [table for table in page.tables if table[0] == ["", "dump", "dump-of-student"]]
    dumps = {row[0]: row[1:] for table in described for row in table[1:]}
    assert dumps["read by"] == ["distilled", "born-again"]
    assert dumps["perplexity"] == ["6.61 (given the tree)", "6.61 (unconditional)"]
    assert dumps["split"] == ["train", "train"]
    assert dumps["fingerprints: split"] == ["c" * 64] * 2
    assert dumps["temperatures"] == ["1.0, 2.0"] * 2
    assert dumps["size bytes"][0] == "47.3 MB (47,310,221 bytes), 400 per position"
    kept = next(t for t in page.tables if t[0] == ["dump", "k\u2032", "mean mass kept", "left out"])
    assert ["dump", "64", "0.988120", "1.19e-02"] in kept
    entropies = next(t for t in page.tables if t[0][:2] == ["dump", "mean"])
    assert entropies[1:] == [["dump", "1.300", "0.100", "0.700", "1.200", "1.900", "2.800"]]


def test_settings_that_differ_are_listed_and_others_are_not(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    page = page_of(made_up_runs.all, tmp_path / "report.html")
    settings = {row[0]: row[1:] for row in page.table("setting")[1:]}
    assert settings["temperature"] == ["\u2013", "1.0", "2.0"]
    assert "lr" not in settings
    assert "There are fewer than two teachers to compare." in page.text


def test_text_from_run_directories_is_escaped(made_up_runs: MadeUpRuns, tmp_path: Path, helpers: Any) -> None:
    attack = "<img src=x onerror=alert(1)>"
    odd = made_up_runs.teacher.parent / "<b>$x_{$ \u4f60&\"'"
    helpers.made_up_run(odd, "student", 2.0, command=attack, configuration={attack: {"a": [attack]}})
    named = made_up_runs.teacher.parent / "esc\x1b[31m\x85"
    helpers.made_up_run(named, "student", 2.0, command="a\x1b]0;b\x07c")
    helpers.add_pairs(named, 0.6, paradigms={"agree\x1b[2J": "t\x9b"})
    helpers.add_pairs(odd, 0.6, paradigms={f"{attack}$\\frac": "]]><script>", 'id="x" #fe0100 1.23456': "t"})
    made = [odd, named, made_up_runs.baseline]
    described = json.loads((odd / "run.json").read_text())
    (odd / "run.json").write_text(json.dumps(described | {"dump": {attack: attack, "kept_mass_by_k": {"x": 1}}}))
    page = page_of(made, tmp_path / "report.html")
    assert not {"img", "script", "b"} & page.tags
    assert attack in page.text
    assert odd.name in page.text
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", page.html)
    assert {"esc[31m", "a]0;bc", "agree[2J"} <= set(re.findall(r"esc\[31m|a\]0;bc|agree\[2J", page.text))
    assert 'id="x" #fe0100 1.23456' in page.text


def test_results_of_outdated_weights_are_not_shown(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    weights = made_up_runs.distilled / "checkpoints" / "best" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"new")
    path = made_up_runs.distilled / "results" / "perplexity-test.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"fingerprints": result["fingerprints"] | {"weights": sha256_file(weights)}}))
    page = page_of([made_up_runs.distilled], tmp_path / "report.html")
    missing = page.text.split("Not in this report")[1].split("Comparison")[0]
    assert "results/perplexity-dev.json is of weights ffffffff, but the best weights are" in missing
    assert "evaluate again: cli.py evaluate perplexity distilled --data sample/dataset --split dev" in missing
    assert "results/minimal_pairs-sample.json" in missing
    assert "perplexity-test" not in missing
    assert {row[1] for row in page.table("distribution")[1:]} == {"test"}


def test_the_page_lists_what_is_missing(tmp_path: Path, helpers: Any) -> None:
    bare = helpers.made_up_run(tmp_path / "bare", "student", 2.0)
    (bare / "metrics.jsonl").unlink()
    page = page_of([bare], tmp_path / "report.html")
    for sentence in (
        "no metrics.jsonl: no learning curve: bare",
        "no perplexity: run evaluate perplexity",
        "no minimal pairs: run evaluate minimal-pairs",
        "No run has a metrics.jsonl with a loss",
        "No run was evaluated on minimal pairs",
        "No student here learned from a dump",
        "No run was evaluated on SyntaxGym suites",
        "No teacher and student with the same tokenizer were evaluated on the same split",
    ):
        assert sentence in page.text


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '{"split": "train", "loss": 1.5, "positions": 10, "step": 1}\n{"spl',
            "last line of metrics.jsonl is cut",
        ),
        ('{"split": "train", "loss": NaN, "positions": 10, "step": 1}\n', "not finite numbers"),
        ('{"split": "train", "loss": 1.5, "positions": 10, "step": 1}\n', "no evaluation on dev yet"),
        ('{"split": "dev", "loss": "x", "positions": null, "step": 3}\n', "not finite numbers"),
        ("", "metrics.jsonl is empty"),
    ],
)
def test_runs_that_were_killed_or_diverged_are_shown(
    made_up_runs: MadeUpRuns, tmp_path: Path, content: str, message: str
) -> None:
    (made_up_runs.baseline / "metrics.jsonl").write_text(content)
    page = page_of([made_up_runs.baseline, made_up_runs.distilled], tmp_path / "report.html")
    assert message in page.text


def test_the_page_says_which_figures_are_not_comparable(made_up_runs: MadeUpRuns, tmp_path: Path, helpers: Any) -> None:
    other = helpers.made_up_run(tmp_path / "other", "student", 2.0, fingerprints={"tokenizer": "9" * 64})
    helpers.add_pairs(other, 0.6, pairs="b" * 64)
    helpers.add_perplexity(other, "dev", {UNCONDITIONAL: 2.0})
    page = page_of([made_up_runs.baseline, other], tmp_path / "report.html")
    assert "have different tokenizers" in page.text
    students = page.table("dev perplexity, unconditional")
    dev = {name: [row[1 + i] for row in students[2:]] for i, name in enumerate(students[1][1:5])}
    assert dev["per token"] == dev["nats above floor"] == ["\u2013"] * 2
    assert "\u2013" not in dev["per word"] + dev["bits per byte"]
    assert all(row[3] == row[4] == "\u2013" for row in page.table("distribution")[1:])
    assert "a token" not in page.text.split("Each row is one run")[0]
    assert "minimal_pairs (aaaaaaaa)" in page.text
    assert "minimal_pairs (bbbbbbbb)" in page.text


def test_a_path_that_is_not_a_run_is_refused(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    run = made_up_runs.baseline
    for runs, message in (
        ([], "no run named"),
        ([tmp_path], "no run.json"),
        ([tmp_path / "none"], "no run.json"),
        ([run, run], "more than once"),
    ):
        with pytest.raises(RunError, match=message):
            write_report(runs, out)
    for content, message in (
        ("{", "not JSON"),
        ("[]", "expected object"),
        ('{"kind": "student"}', "missing required field configuration"),
    ):
        (run / "run.json").write_text(content)
        with pytest.raises(RunError, match=message):
            write_report([run], out)
    assert not out.exists()


def test_a_page_that_cannot_be_written_is_a_store_error(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StoreError, match="cannot be written"):
        write_report([made_up_runs.baseline], tmp_path / "file" / "new" / "report.html")


def test_a_malformed_metrics_row_is_named_by_line(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    for line, message in (
        ("{", "not JSON"),
        ("3", ".*found int"),
        ('{"split": "dev", "loss": 1.5, "step": null}', "step: expected int, found null"),
        (f'{{"split": "dev", "loss": {10**400}, "step": 3}}', "an integer of 1329 bits"),
        ('{"split": "dev", "loss": [1.5], "step": 3}', ".*found array"),
    ):
        (made_up_runs.baseline / "metrics.jsonl").write_text('{"split": "dev", "step": 1}\n' + line + "\n")
        with pytest.raises(RunError, match=rf"metrics\.jsonl:2: {message}"):
            write_report([made_up_runs.baseline], tmp_path / "report.html")


def test_runs_with_one_name_are_shown_with_their_parent_folders(tmp_path: Path, helpers: Any) -> None:
    paths = [helpers.made_up_run(tmp_path / folder / "run", "student", 2.0) for folder in ("a", "b")]
    assert [run.name for run in read_runs(paths)] == ["a/run", "b/run"]


@given(points=st.lists(st.tuples(st.floats(0, 1e9), st.floats(0, 20)), max_size=200), most=st.integers(2, 50))
def test_thinned_curves_are_short_keep_their_end_and_stay_within_bounds(
    points: list[tuple[float, float]], most: int
) -> None:
    thinned = curves_section._thinned(points, most)
    assert len(thinned) <= max(most, 0)
    if points:
        assert thinned[-1] == points[-1]
        for axis in (0, 1):
            values = [point[axis] for point in points]
            # a mean of equal values may differ from them in the last place
            assert all(min(values) * (1 - 1e-12) <= p[axis] <= max(values) * (1 + 1e-12) for p in thinned)


def test_runs_of_one_seed_group_share_a_mark_whatever_their_names(tmp_path: Path, helpers: Any) -> None:
    settings = {"a-seed2": (2, 0.5), "a-seed1": (1, 0.5), "b-seed1": (1, 0.7), "a-seed3": (3, 0.9), "c": (4, 0.7)}
    paths = [
        helpers.made_up_run(tmp_path / name, "student", 2.0, configuration={"seed": seed, "lr": lr})
        for name, (seed, lr) in settings.items()
    ]
    paths.append(helpers.made_up_run(tmp_path / "teacher", "teacher", 2.0, configuration={"seed": None}))
    comparison = ReportedRuns(read_runs(paths))
    assert [comparison.series(run) for run in comparison.runs] == [0, 0, 1, 2, 1, 3]
    assert comparison.names(comparison.runs) == "lr 0.5 (2 runs), lr 0.7 (2 runs), a-seed3, teacher"
    assert comparison.names(comparison.runs[:1]) == "a-seed2"
    one = ReportedRuns(comparison.runs[:2])
    assert one.names(one.runs) == "a (2 runs)"
    twice = helpers.made_up_run(tmp_path / "d", "student", 2.0, configuration={"seed": 1, "lr": 0.5})
    clash = ReportedRuns(read_runs([*paths, twice]))
    assert [clash.series(run) for run in clash.runs] == list(range(7))


def test_series_differ_by_more_than_colour() -> None:
    marks = [re.sub(r"--series-\d", "", swatch(series)) for series in range(21)]
    for first, second in itertools.combinations(range(21), 2):
        if first % NUM_COLOURS == second % NUM_COLOURS:
            assert marks[first] != marks[second]


def test_two_runs_with_one_seed_give_a_note_instead_of_a_comparison(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    again = tmp_path / "again"
    shutil.copytree(made_up_runs.baseline, again)
    write_report([made_up_runs.baseline, again], tmp_path / "page.html")
    page = Page((tmp_path / "page.html").read_text())
    assert "Groups of runs are not compared" in page.text
    assert "both have seed" in page.text


def test_damaged_rows_give_a_note_and_the_page_is_written(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    (made_up_runs.baseline / "results" / "minimal_pairs-sample.jsonl").write_text("{\n")
    page = page_of([made_up_runs.baseline, made_up_runs.distilled], tmp_path / "report.html")
    assert "the groups of runs could not be compared. A note below says why." in page.text
    note = page.text.split("Before comparing")[1].split("Not in this report")[0]
    assert "Groups of runs are not compared" in note
    assert "minimal_pairs-sample.jsonl:1: not JSON" in note


@pytest.mark.parametrize("change", [{"prefix": []}, {"prefix": "tab"}, {"eos": None}, {"eos": "false"}])
def test_pairs_without_a_recorded_scoring_convention_are_refused(
    made_up_runs: MadeUpRuns, change: dict[str, Any]
) -> None:
    path = made_up_runs.baseline / "results" / "minimal_pairs-sample.json"
    result = json.loads(path.read_text())
    path.write_text(json.dumps(result | {"settings": result["settings"] | change}))
    with pytest.raises(
        InputError, match=r"minimal_pairs-sample\.json: settings\.(prefix|eos) is .*, expected (none or space|true)"
    ):
        read_runs([made_up_runs.baseline])


def test_the_notes_name_the_distributions_that_are_shown(made_up_runs: MadeUpRuns, helpers: Any) -> None:
    def notes() -> list[str]:
        return [each.note for each in report_tables(read_runs(runs)) if each.title in {"Students", "Teachers"}]

    runs = [made_up_runs.baseline, made_up_runs.teacher]
    students, teachers = notes()
    assert students.startswith("Unconditional perplexities: ")
    assert "document" not in students
    assert "given the tree" in teachers
    assert "marginal" not in teachers
    for split in ("dev", "test"):
        helpers.add_perplexity(made_up_runs.baseline, split, {IN_DOCUMENT: 2.0})
        helpers.add_perplexity(made_up_runs.teacher, split, {MARGINAL: 2.0})
    students, teachers = notes()
    assert students.startswith("Perplexities of a sentence given the document before it: ")
    assert "Unconditional perplexities" not in students
    assert teachers.startswith("Perplexities marginal by beam search: ")
    assert "comparable with a student\u2019s unconditional perplexities" in teachers
    page = Page(render_report(read_runs(runs))).text
    assert students in page
    assert teachers in page


def test_the_tables_can_be_written_for_papers(made_up_runs: MadeUpRuns, tmp_path: Path) -> None:
    runs = [made_up_runs.baseline, made_up_runs.distilled]
    for form, sign in (("markdown", "| --- |"), ("latex", r"\toprule"), ("csv", "table,row_number,row,column,value")):
        write_report(runs, tmp_path / form, form=form)
        assert sign in (tmp_path / form).read_text()


def test_every_table_of_the_page_has_a_unique_title_in_the_formats_for_papers(made_up_runs: MadeUpRuns) -> None:
    records = read_runs([made_up_runs.teacher, made_up_runs.distilled])
    tables = report_tables(records)
    assert len({each.title for each in tables}) == len(tables)
    headers = [list(each.table.header) for each in tables]
    of_runs = len(records)  # each lists its options under Runs, without a header
    shown = [found for found in Page(render_report(records)).tables if len(found[0]) != 2][: -of_runs or None]
    assert all(len(row) == len(table.header) for table in (each.table for each in tables) for row in table.rows)
    for found in shown:
        assert found[0] in headers or found[1] in headers
