"""The report: one self-contained HTML page that sets runs side by side.

It shows what the run directories say and computes no new figure but distances to the floor. Students and teachers
stand in tables and plots of their own, each perplexity under the name of its distribution: a teacher's is given the
tree, and is low for that reason too. No script, no request to anywhere, all text escaped; the same runs give the same
bytes.
"""

from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluation.perplexity import (
    FLOOR,
    GIVEN_TREE,
    JOINT,
    NORMALISERS,
    OF_STUDENTS,
    UNCONDITIONAL,
    PerplexityFigure,
)
from pipeline.evaluation.report_data import DatasetRecord, dataset_section, read_datasets
from pipeline.evaluation.report_plots import dump_plot, dump_table, pair_plots, student_curves, teacher_curves
from pipeline.evaluation.report_runs import RunRecord, read_runs
from pipeline.evaluation.report_tables import (
    Comparison,
    comparison_table,
    perplexity,
    perplexity_table,
    plural,
    settings_table,
    splits_of,
)
from storage.errors import RunError
from storage.files import make_directory, write_atomically
from storage.locations import Place


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


def render_report(records: Sequence[RunRecord], datasets: Sequence[DatasetRecord] = ()) -> str:
    """Return the page; see ``write_report``."""
    runs = sorted(records, key=lambda run: run.kind)  # students first; the order given otherwise
    comparison = Comparison(runs=runs, floors=_floors(runs))
    students, teachers = comparison.of_kind("student"), comparison.of_kind("teacher")
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
        title=f"{plural(len(students), 'student')}, {plural(len(teachers), 'teacher')}",
        summary=_summary(comparison),
        notes=_what_does_not_compare(runs),
        missing=[(comparison.label(run), run.missing) for run in runs if run.missing],
        students=comparison_table(comparison, "student", OF_STUDENTS) if students else None,
        teachers=comparison_table(comparison, "teacher", (GIVEN_TREE, JOINT, UNCONDITIONAL)) if teachers else None,
        perplexities=perplexity_table(comparison),
        normalisers=NORMALISERS,
        curves=[plot for plot in (student_curves(comparison), *teacher_curves(comparison)) if plot],
        pairs=pair_plots(comparison),
        dumps=dump_table(comparison),
        dump_plot=dump_plot(comparison),
        datasets=[dataset_section(number, dataset, comparison) for number, dataset in enumerate(datasets)],
        settings=[
            ("students", settings_table(comparison, "student")),
            ("teachers", settings_table(comparison, "teacher")),
        ],
        runs=[(comparison.label(run), run) for run in runs],
    )


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
    tokenizers = {run.fingerprints.get("tokenizer", run.fingerprints.get("tokenizer_file")) for run in runs}
    if len(tokenizers) > 1:
        notes.append(
            "The runs do not share one tokenizer: perplexity a token compares only among those that do; perplexity a "
            "word and bits a byte compare throughout."
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
        text = (
            f"Unconditional perplexity on {split}: {which}, {perplexity(figure.per_token)} a token and "
            f"{perplexity(figure.per_word)} a word"
        )
        if (floor := comparison.floors.get((best.name, split))) is not None:
            text += f", {figure.nats_per_position - floor.nats_per_position:.3f} nats a position above the floor"
        return text + "."
    return ""
