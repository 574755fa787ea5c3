"""Write the report: one self-contained HTML page about runs, or the tables of this page for papers.

The page shows what the run directories contain. The report trains and evaluates nothing; it only computes differences
and their intervals. The page has no script and makes no request, and all text is escaped. The same runs give the same
bytes.
"""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Final, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from pipeline.evaluation.compare.compare_runs import Comparisons
from pipeline.evaluation.compare.run_records import RunRecord, read_runs
from pipeline.report.answer import Answer, answer_of
from pipeline.report.answer_section import answer_section
from pipeline.report.comparisons import compare_for_report, comparisons_section
from pipeline.report.cost_section import costs_section
from pipeline.report.curves_section import curves_section
from pipeline.report.data_section import Descriptions, data_section, read_datasets
from pipeline.report.drawing import swatch
from pipeline.report.dump_section import dumps_of, dumps_section
from pipeline.report.mixture_section import mixtures_section
from pipeline.report.page_blocks import Section, TitledTable, tables_in
from pipeline.report.phenomena_section import pairs_section, suites_section
from pipeline.report.reported_runs import ReportedRuns, have_one_tokenizer
from pipeline.report.run_tables import figures_section, runs_section, settings_section
from pipeline.report.surprisal_section import surprisals_section
from pipeline.report.table_text import Form, render_tables
from pipeline.report.tables import Cell, plural
from pipeline.report.words_section import words_section
from storage.errors import RnngDistillError, RunError
from storage.files import make_directory, write_atomically
from storage.locations import Place

log = logging.getLogger(__name__)

_MARKDOWN_MARK: Final = "<!-- rnng-distill report -->\n\n"
"""The beginning of a report in Markdown. A later report may replace a file that begins with this comment."""
_NOT_SHOWN: Final = re.compile(r"[^\t\n -~\u00a0-\ud7ff\ue000-\U0010ffff]")
"""Matches control characters, which could steer a terminal, and surrogates, which UTF-8 cannot encode. They are removed
from the finished page. Its texts are already escaped, so removing a character cannot create markup."""


def write_report(
    runs: Sequence[Path], out: Path, *, datasets: Sequence[Place] = (), form: Form | Literal["html"] = "html"
) -> None:
    """Write a page about runs, or its tables, to ``out`` atomically.

    Args:
        runs: Run directories of students and teachers, in the order in which to show them.
        out: The file. An existing file is replaced.
        datasets: Datasets to describe, such as those that the runs were trained on.
        form: ``html`` for the page, else the format of its tables.

    Raises:
        RunError: If no run is given, or one of ``runs`` is not a run directory or is damaged.
        InputError: If a result is damaged. Missing results are no error; the page lists them.
        StoreError: If ``out`` or its folder cannot be written, or one of ``datasets`` cannot be read.
    """
    if not runs:
        raise RunError("report: no run named, expected one or more; name the --out of a training command")
    records, described = read_runs(runs), read_datasets(datasets)
    if form == "html":
        text = render_report(records, described)
    else:
        text = (_MARKDOWN_MARK if form == "markdown" else "") + render_tables(report_tables(records, described), form)
    make_directory(out.absolute().parent)
    write_atomically(out, text.encode())


def render_report(records: Sequence[RunRecord], datasets: Descriptions = MappingProxyType({})) -> str:
    """Return the HTML page that ``write_report`` writes."""
    reported = ReportedRuns(records)
    found, notes = _comparisons(records)
    answer = answer_of(reported, found, failed=bool(notes))
    missing: dict[str, list[Cell]] = {}
    for run in reported.runs:
        for sentence in run.missing:
            missing.setdefault(sentence, []).append(reported.label(run))
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    counts = Counter(run.kind for run in reported.runs)
    page = environment.get_template("page.html.j2").render(
        css=Markup((here / "page.css").read_text(encoding="utf-8")),  # noqa: S704 - our own file
        swatch=swatch,
        title=", ".join(plural(count, kind) for kind, count in counts.items()),
        answers=answer.sentences,
        sections=_sections(reported, datasets, found, answer),
        notes=[*notes, *_what_does_not_compare(reported.runs)],
        missing=list(missing.items()),
        has_datasets=bool(datasets),
    )
    return _NOT_SHOWN.sub("", page)


def report_tables(records: Sequence[RunRecord], datasets: Descriptions = MappingProxyType({})) -> list[TitledTable]:
    """Return the tables of the page and the data behind its plots, in the order of the page.

    What is missing and what cannot be compared is logged as a warning.
    """
    found, notes = _comparisons(records)
    missing = [f"{run.path}: {sentence}" for run in records for sentence in run.missing]
    for note in [*missing, *notes, *(found.notes if found is not None else [])]:
        log.warning("%s", note)
    reported = ReportedRuns(records)
    sections = _sections(reported, datasets, found, answer_of(reported, found))
    return [table for section in sections for table in tables_in(section.blocks)]


def _sections(
    reported: ReportedRuns, datasets: Descriptions, found: Comparisons | None, answer: Answer
) -> list[Section]:
    dumps, mixtures = dumps_of(reported), mixtures_section(reported)
    by_words = words_section(reported, answer.baseline)
    return [
        answer_section(reported, answer),
        curves_section(reported),
        *([by_words] if by_words is not None else []),
        *([comparisons_section(found)] if found is not None else []),
        figures_section(reported),
        pairs_section(reported),
        suites_section(reported),
        surprisals_section(reported),
        *([mixtures] if mixtures is not None else []),
        dumps_section(reported, dumps),
        costs_section(reported, dumps),
        *([data_section(datasets, reported)] if datasets else []),
        settings_section(reported),
        runs_section(reported),
    ]


def _comparisons(records: Sequence[RunRecord]) -> tuple[Comparisons | None, list[str]]:
    """Compare the seed groups (runs that differ only in the seed). If this fails, return a note with the reason."""
    if max(sum(run.kind == kind for run in records) for kind in ("student", "teacher")) < 2:
        return None, []
    try:
        return compare_for_report(records), []
    except RnngDistillError as error:
        # This happens, for example, if two runs of a group have the same seed. The rest of the page is still useful.
        return None, [f"Groups of runs are not compared: {error}."]


def _what_does_not_compare(runs: Sequence[RunRecord]) -> list[str]:
    notes = []
    if not have_one_tokenizer(runs):
        notes.append(
            "The runs have different tokenizers. Perplexities per token and nats above a floor are therefore not "
            "comparable, and are left out. Perplexities per word and bits per byte are comparable."
        )
    texts = Counter(key.name for key in {source.key for run in runs for source in run.splits.values()})
    notes += [
        f"The runs were evaluated on {number} different texts called {name}. The first digits of the sha256 tell the "
        "texts apart. Perplexities are comparable only on one text."
        for name, number in sorted(texts.items())
        if number > 1
    ]
    return notes
