"""The report: one self-contained HTML page that sets runs side by side.

It shows what the run directories say and computes no new figure but distances to the floor. Students and teachers
stand in tables and plots of their own, each perplexity under the name of its distribution: a teacher's is given the
tree, and is low for that reason too. No script, no request to anywhere, all text escaped; the same runs give the same
bytes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluation.perplexity import (
    FLOOR,
    GIVEN_TREE,
    JOINT,
    MARGINAL,
    NORMALISERS,
    OF_STUDENTS,
    UNCONDITIONAL,
    PerplexityFigure,
)
from pipeline.evaluation.report_costs import cost_summary, cost_table, costs_of
from pipeline.evaluation.report_data import DatasetRecord, dataset_section, read_datasets
from pipeline.evaluation.report_dumps import dump_plots, dump_tables, dumps_of
from pipeline.evaluation.report_phenomena import phenomenon_plots, suite_plots
from pipeline.evaluation.report_plots import Plot, student_curves, teacher_curves
from pipeline.evaluation.report_runs import RunRecord, read_runs
from pipeline.evaluation.report_surprisals import surprisal_plots
from pipeline.evaluation.report_tables import (
    Comparison,
    Table,
    comparison_table,
    have_one_tokenizer,
    perplexity,
    perplexity_table,
    plural,
    settings_table,
    splits_of,
)
from storage.errors import RunError
from storage.files import make_directory, write_atomically
from storage.locations import Place

TitledTable = tuple[str, str, Table]
"""Title, note, table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfigurationPart:
    """A part of the section on configurations."""

    title: str
    """Empty where it goes on with what the part before is about."""
    sentences: Sequence[str]
    """What was found, and what it rests on; over the table."""
    table: Table | None


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


def write_report(runs: Sequence[Path], out: Path, *, datasets: Sequence[Place] = ()) -> None:
    """Write a page about runs to ``out``, atomically.

    Args:
        runs: Run directories of students and teachers, in the order in which to show them.
        out: The HTML file; replaced where there is one.
        datasets: Datasets to describe, such as those the runs were trained on.

    Raises:
        RunError: If there is no run, or one of ``runs`` is no run directory or is damaged.
        InputError: If a result is damaged. Where a piece is only absent, the page says so.
        StoreError: If ``out`` or its folder cannot be written, or one of ``datasets`` cannot be read.
    """
    if not runs:
        raise RunError("report: no run named, expected one or more; name the --out of a training command")
    html = render_report(read_runs(runs), read_datasets(datasets))
    make_directory(out.absolute().parent)
    write_atomically(out, html.encode())


def render_report(
    records: Sequence[RunRecord],
    datasets: Sequence[DatasetRecord] = (),
    *,
    configurations: Sequence[ConfigurationPart] | None = None,
) -> str:
    """Return the page; see ``write_report``.

    Args:
        records: The runs.
        datasets: The datasets to describe.
        configurations: What is found of configurations over their seeds, shown first; None where nothing was tested.
    """
    comparison = _comparison(records)
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("report.html.j2").render(
        css=Markup((here / "report.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        configurations=configurations,
        datasets=[dataset_section(number, dataset, comparison) for number, dataset in enumerate(datasets)],
        **_content(comparison),
    )


def report_tables(
    records: Sequence[RunRecord],
    datasets: Sequence[DatasetRecord] = (),
    *,
    configurations: Sequence[ConfigurationPart] | None = None,
) -> list[TitledTable]:
    """Return the tables of the page in its order, those behind its figures included.

    Args:
        records: As in ``render_report``.
        datasets: As in ``render_report``.
        configurations: As in ``render_report``.
    """
    comparison = _comparison(records)
    content = _content(comparison)
    tables: list[TitledTable] = [
        (part.title, " ".join(part.sentences), part.table) for part in configurations or () if part.table
    ]
    if content["students"]:
        tables.append(
            ("Students", f"Perplexities are unconditional. {content['comparison_note']}", content["students"])
        )
    if content["teachers"]:
        tables.append(("Teachers", "No perplexity compares with a student's.", content["teachers"]))
    tables.append(("Perplexities", "By every normaliser.", content["perplexities"]))
    tables += _of_plots(content["curves"], "Learning curves")
    tables += _of_plots([plot for both in content["pairs"] for plot in both], "Minimal pairs")
    tables += _of_plots(content["suites"], "SyntaxGym")
    tables += _of_plots(content["surprisals"])
    if content["dumps"]:
        tables += [("Dumps", "", content["dumps"][0]), ("Dumps, all else", "", content["dumps"][1])]
    tables += _of_plots(content["dump_plots"])
    tables += [("Costs in all", content["cost_note"], content["cost_summary"]), ("Costs", "", content["costs"])]
    for number, dataset in enumerate(datasets):
        section = dataset_section(number, dataset, comparison)
        parts = (("sizes", section.sizes), ("sources", section.sources), ("labels", section.labels))
        tables += [(f"{section.title}: {name}", section.read_by, part) for name, part in parts if part]
        tables += _of_plots(section.plots, section.title)
    tables += [
        (f"Settings that differ between {kind}", "", differing) for kind, differing in content["settings"] if differing
    ]
    return [(title, note, table) for title, note, table in tables if table.rows]


def _of_plots(plots: Sequence[Plot], part: str = "") -> list[TitledTable]:
    return [(f"{part}: {plot.title}" if part else plot.title, plot.caption, plot.data) for plot in plots]


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
        "teachers": (
            comparison_table(comparison, "teacher", (GIVEN_TREE, MARGINAL, JOINT, UNCONDITIONAL)) if teachers else None
        ),
        "comparison_note": _COMPARISON_NOTE,
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
    for split in splits_of(runs):
        sizes = {
            (figure.num_sentences, figure.num_words)
            for run in runs
            for figure in run.perplexities.get(split, {}).values()
        }
        if len(sizes) > 1:
            notes.append(
                f"The runs were evaluated on {split} splits of different sizes: these perplexities do not compare."
            )
    return notes


def _summary(comparison: Comparison) -> str:
    """Return one sentence about the best student on test, or on dev where nothing was evaluated on test."""
    students = comparison.of_kind("student")
    for split in ("test", "dev"):
        scored = [run for run in students if UNCONDITIONAL in run.perplexities.get(split, {})]
        if not scored:
            continue
        best = min(scored, key=lambda run: run.perplexities[split][UNCONDITIONAL].per_word)
        figure = best.perplexities[split][UNCONDITIONAL]
        which = (
            f"{best.name} has the lowest of the {len(scored)} students evaluated on it"
            if len(scored) > 1
            else best.name
        )
        text = f"Unconditional perplexity on {split}: {which}, {perplexity(figure.per_word)} a word"
        compares = have_one_tokenizer(students)
        if compares:
            text += f" and {perplexity(figure.per_token)} a token"
        if compares and (floor := comparison.floors.get((best.name, split))) is not None:
            text += f", {figure.nats_per_position - floor.nats_per_position:.3f} nats a position above the floor"
        return text + "."
    return ""
