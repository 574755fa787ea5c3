"""The report: one self-contained HTML page that sets runs side by side.

It shows what the run directories say and computes no new figure but distances to the floor. Students and teachers
stand in tables and plots of their own, each perplexity under the name of its distribution: a teacher's is given the
tree, and is low for that reason too. No script, no request to anywhere, all text escaped; the same runs give the same
bytes.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluation.compare.run_records import RunRecord, read_runs
from pipeline.evaluation.perplexity import (
    FLOOR,
    GIVEN_TREE,
    IN_DOCUMENT,
    JOINT,
    MARGINAL,
    NORMALISERS,
    OF_STUDENTS,
    UNCONDITIONAL,
    PerplexityFigure,
)
from pipeline.report.comparisons import ConfigurationTables, configuration_tables
from pipeline.report.cost_section import cost_summary, cost_table, costs_of
from pipeline.report.data_section import DatasetRecord, dataset_section, read_datasets
from pipeline.report.dump_section import dump_plots, dump_tables, dumps_of
from pipeline.report.phenomena_section import phenomenon_plots, suite_plots
from pipeline.report.plots import Plot, student_curves, teacher_curves
from pipeline.report.surprisal_section import surprisal_plots
from pipeline.report.table_text import Form, TitledTable, render_tables
from pipeline.report.tables import (
    Comparison,
    comparison_table,
    have_one_tokenizer,
    perplexity,
    perplexity_table,
    plural,
    settings_table,
)
from storage.errors import RnngDistillError, RunError
from storage.files import make_directory, write_atomically
from storage.locations import Place

_NO_TEXT = re.compile(r"[^\t\n -~\u00a0-\ud7ff\ue000-\U0010ffff]")
"""Control characters, which a terminal could obey, and surrogates, which UTF-8 has no bytes for: run.json and names of
directories may hold them. Dropped when all is escaped, so that nothing that is left can become markup."""
_TEACHER_COLUMNS = (GIVEN_TREE, MARGINAL, JOINT, UNCONDITIONAL)
_DISTRIBUTION_NOTES: Mapping[str, str] = {
    UNCONDITIONAL: "Perplexities that are unconditional: the model sees the words before, and no tree.",
    IN_DOCUMENT: (
        "Perplexities given the document before it: the student sees the sentences before too, so that these compare "
        "with no unconditional one."
    ),
    GIVEN_TREE: (
        "Perplexities given the tree: of the words of a sentence whose tree is known, also where it opens what is yet "
        "to come; these compare with no student\u2019s."
    ),
    MARGINAL: (
        "Perplexities that are marginal by beam search: the teacher sees the words before, and no tree; these compare "
        "with a student\u2019s unconditional ones."
    ),
    JOINT: "Perplexities joint with the tree: of words and tree together; these compare with no student\u2019s.",
}
"""What is said over a table that has a column of the distribution."""
_COMPARISON_NOTE = (
    "Nats above the floor are per position. Pairs right: mean of paradigms; suites right: mean of suites; ties are not "
    "right. Small, under them: all pairs or items taken together, with the 95 % Wilson interval of that share, which "
    "holds for this training and says nothing of another seed."
)
_COST_NOTE = (
    "Time of a run is that of training with its evaluations on dev, all its starts together; positions/s is the mean "
    "over it. Time of a dump is from its history, where that still lies beside it. From run.json, metrics.jsonl and "
    "history.jsonl of each run; the commands are under Runs."
)


def write_report(
    runs: Sequence[Path], out: Path, *, datasets: Sequence[Place] = (), form: Form | Literal["html"] = "html"
) -> None:
    """Write a page about runs to ``out``, or its tables, atomically.

    Args:
        runs: Run directories of students and teachers, in the order in which to show them.
        out: The file; replaced where there is one.
        datasets: Datasets to describe, such as those the runs were trained on.
        form: The page, or all its tables for a paper or a program.

    Raises:
        RunError: If there is no run, or one of ``runs`` is no run directory or is damaged.
        InputError: If a result is damaged. Where a piece is only absent, the page says so.
        StoreError: If ``out`` or its folder cannot be written, or one of ``datasets`` cannot be read.
    """
    if not runs:
        raise RunError("report: no run named, expected one or more; name the --out of a training command")
    records, described = read_runs(runs), read_datasets(datasets)
    configurations, notes = _configurations(records)
    if form == "html":
        text = render_report(records, described, configurations=configurations, notes=notes)
    else:
        text = render_tables(report_tables(records, described, configurations=configurations), form)
    make_directory(out.absolute().parent)
    write_atomically(out, text.encode())


def render_report(
    records: Sequence[RunRecord],
    datasets: Sequence[DatasetRecord] = (),
    *,
    configurations: ConfigurationTables | None = None,
    notes: Sequence[str] = (),
) -> str:
    """Return the page; see ``write_report``.

    Args:
        records: The runs.
        datasets: The datasets to describe.
        configurations: What is found of configurations over their seeds, shown first; None where nothing was tested.
        notes: What to say before all else.
    """
    comparison = _comparison(records)
    content = _content(comparison)
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    page = environment.get_template("page.html.j2").render(
        css=Markup((here / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        configurations=configurations,
        datasets=[dataset_section(number, dataset, comparison) for number, dataset in enumerate(datasets)],
        **content | {"notes": [*notes, *content["notes"]]},
    )
    return _NO_TEXT.sub("", page)


def report_tables(
    records: Sequence[RunRecord],
    datasets: Sequence[DatasetRecord] = (),
    *,
    configurations: ConfigurationTables | None = None,
) -> list[TitledTable]:
    """Return the tables of the page in its order, those behind its figures included.

    Args:
        records: As in ``render_report``.
        datasets: As in ``render_report``.
        configurations: As in ``render_report``.
    """
    comparison = _comparison(records)
    content = _content(comparison)
    tables = _of_configurations(configurations) if configurations else []
    if students := content["students"]:
        tables.append(TitledTable(title="Students", note=content["student_note"], table=students))
    if teachers := content["teachers"]:
        tables.append(TitledTable(title="Teachers", note=content["teacher_note"], table=teachers))
    tables.append(TitledTable(title="Perplexities", note="By every normaliser.", table=content["perplexities"]))
    tables += _of_plots(content["curves"], "Learning curves")
    tables += _of_plots([plot for both in content["pairs"] for plot in both], "Minimal pairs")
    tables += _of_plots(content["suites"], "SyntaxGym")
    tables += _of_plots(content["surprisals"])
    if content["dumps"]:
        first, others = content["dumps"]
        tables += [TitledTable(title="Dumps", table=first), TitledTable(title="Dumps, all else", table=others)]
    tables += _of_plots(content["dump_plots"])
    tables.append(TitledTable(title="Costs in all", note=content["cost_note"], table=content["cost_summary"]))
    tables.append(TitledTable(title="Costs", table=content["costs"]))
    for number, dataset in enumerate(datasets):
        section = dataset_section(number, dataset, comparison)
        parts = (("sizes", section.sizes), ("sources", section.sources), ("labels", section.labels))
        tables += [
            TitledTable(title=f"{section.title}: {name}", note=section.read_by, table=part)
            for name, part in parts
            if part
        ]
        tables += _of_plots(section.plots, section.title)
    tables += [
        TitledTable(title=f"Settings that differ between {kind}", table=differing)
        for kind, differing in content["settings"]
        if differing
    ]
    return [each for each in tables if each.table.rows]


def _configurations(records: Sequence[RunRecord]) -> tuple[ConfigurationTables | None, list[str]]:
    """Return what is found of configurations, None where no two runs could be compared, and why they are not."""
    if max(sum(run.kind == kind for run in records) for kind in ("student", "teacher")) < 2:
        return None, []
    try:
        return configuration_tables(records), []
    except RnngDistillError as error:
        # Seeds that clash, rows that are damaged or of other items: the rest of a page is worth having even so.
        return None, [f"Configurations are not compared: {error}."]


def _of_configurations(found: ConfigurationTables) -> list[TitledTable]:
    tables = [TitledTable(title="Configurations", table=found.configurations)]
    for section in found.benchmarks:
        tables.append(TitledTable(title=f"{section.title}: means over seeds", table=section.means))
        if section.differences is not None:
            note = " ".join(section.verdicts)
            tables.append(TitledTable(title=f"{section.title}: differences", note=note, table=section.differences))
        tables += [
            TitledTable(title=f"{section.title}: parts that differ", note=part.caption, table=part.table)
            for part in section.parts
            if part.table is not None
        ]
    return tables


def _of_plots(plots: Sequence[Plot], part: str = "") -> list[TitledTable]:
    return [
        TitledTable(title=f"{part}: {plot.title}" if part else plot.title, note=plot.caption, table=plot.data)
        for plot in plots
    ]


def _comparison(records: Sequence[RunRecord]) -> Comparison:
    runs = sorted(records, key=lambda run: run.kind)  # students first; the order given otherwise
    return Comparison(runs=runs, floors=_floors(runs))


def _content(comparison: Comparison) -> dict[str, Any]:
    """Return all that the page shows of runs, by the names in the template."""
    runs = comparison.runs
    students, teachers = comparison.of_kind("student"), comparison.of_kind("teacher")
    dumps = dumps_of(comparison)
    costs = costs_of(comparison, dumps)
    surprisals, rows_missing = surprisal_plots(comparison)
    missing: dict[str, list[Markup]] = {}
    for run in runs:
        for sentence in run.missing:
            missing.setdefault(sentence, []).append(comparison.label(run))
    return {
        "title": f"{plural(len(students), 'student')}, {plural(len(teachers), 'teacher')}",
        "summary": _summary(comparison),
        "notes": _what_does_not_compare(runs),
        "missing": list(missing.items()),
        "students": comparison_table(comparison, "student", OF_STUDENTS) if students else None,
        "teachers": comparison_table(comparison, "teacher", _TEACHER_COLUMNS) if teachers else None,
        "student_note": " ".join([*_distribution_notes(students, OF_STUDENTS), _COMPARISON_NOTE]),
        "teacher_note": " ".join(_distribution_notes(teachers, _TEACHER_COLUMNS)),
        "perplexities": perplexity_table(comparison),
        "normalisers": NORMALISERS,
        "curves": [plot for plot in (student_curves(comparison), *teacher_curves(comparison)) if plot],
        "pairs": phenomenon_plots(comparison),
        "suites": suite_plots(comparison),
        "surprisals": surprisals,
        "rows_missing": rows_missing,
        "dumps": dump_tables(comparison, dumps) if dumps else None,
        "dump_plots": dump_plots(comparison, dumps),
        "cost_note": _COST_NOTE,
        "cost_summary": cost_summary(costs),
        "costs": cost_table(costs),
        "settings": [
            ("students", settings_table(comparison, "student")),
            ("teachers", settings_table(comparison, "teacher")),
        ],
        "runs": [(comparison.label(run), run) for run in runs],
    }


def _distribution_notes(runs: Sequence[RunRecord], columns: Sequence[str]) -> list[str]:
    """Return what there is to say of the distributions that a table of the runs shows."""
    shown = {distribution for run in runs for figures in run.perplexities.values() for distribution in figures}
    return [_DISTRIBUTION_NOTES[distribution] for distribution in columns if distribution in shown]


def _floors(runs: Sequence[RunRecord]) -> dict[tuple[str, str], PerplexityFigure]:
    """Return the floors recorded with students' figures, by run and split."""
    return {
        (run.name, split): figures[FLOOR]
        for run in runs
        for split, figures in run.perplexities.items()
        if FLOOR in figures and any(distribution in figures for distribution in OF_STUDENTS)
    }


def _what_does_not_compare(runs: Sequence[RunRecord]) -> list[str]:
    notes = []
    if not have_one_tokenizer(runs):
        notes.append(
            "The runs do not share one tokenizer: perplexities a token and nats above a floor do not compare, and are "
            "left out; perplexity a word and bits a byte compare throughout."
        )
    texts = Counter(key.name for key in {source.key for run in runs for source in run.splits.values()})
    notes += [
        f"The runs were evaluated on {number} texts called {name}: the first digits of their "
        "sha256 tell them apart, and perplexities compare on one text only."
        for name, number in sorted(texts.items())
        if number > 1
    ]
    return notes


def _summary(comparison: Comparison) -> str:
    """Return one sentence about the students on test, or on dev where nothing was evaluated on test; no winner."""
    students = comparison.of_kind("student")
    for split in ("test", "dev"):
        found = [run.perplexities.get(split, {}).get(UNCONDITIONAL) for run in students]
        figures = [figure for figure in found if figure is not None]
        if not figures:
            continue
        text = f"Unconditional perplexity on {split}: {_range([figure.per_word for figure in figures])} a word"
        if have_one_tokenizer(students):
            text += f", {_range([figure.per_token for figure in figures])} a token"
        return f"{text}{f', over {len(figures)} students' if len(figures) > 1 else ''}."
    return ""


def _range(figures: Sequence[float]) -> str:
    low, high = perplexity(min(figures)), perplexity(max(figures))
    return low if low == high else f"{low} to {high}"
