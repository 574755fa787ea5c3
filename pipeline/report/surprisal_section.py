"""Plot the surprisal that a teacher gives each token of a split against the surprisal that a student gives it.

The log-probabilities come from the item rows (one per sentence) that ``evaluate perplexity`` wrote. ``<eos>`` is left
out: a teacher that is given the tree is almost certain of ``<eos>``, which would distort the agreement.

A panel counts the tokens in each cell of a grid and shows the counts as shades. It is SVG with one path per shade, not
one mark per token, so it takes some kilobytes, however many tokens it shows.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.intervals_and_p_values import correlation, spearman
from pipeline.evaluation.perplexity import GIVEN_TREE, MARGINAL, OF_STUDENTS
from pipeline.evaluation.results import read_sentence_rows
from pipeline.report.page_blocks import Block, Commands, Details, Paragraph, Plot, Section
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.tables import Cells, Number, Table, plural
from storage.errors import InputError

_OF_TEACHERS: Final = (GIVEN_TREE, MARGINAL)
"""Distributions of a teacher. The joint distribution is left out, because it adds the log-probabilities of actions to
those of the tokens."""
_REMEDY: Final = "run evaluate perplexity again"
_AGREEMENT_HEADER: Final = ("difference", "Pearson", "Spearman")
_LEVELS: Final = ("1\u20132", "3\u20139", "10\u201331", "32\u201399", "100\u2013315", "316 and more tokens per cell")
"""Labels of the shades: ranges of the number of tokens in a cell. From range to range, the lower limit grows by a
factor of about √10."""
_LEVEL_STARTS: Final = np.array([1, 3, 10, 32, 100, 316])
_OPACITY: Final = (0.13, 0.26, 0.42, 0.6, 0.8, 1.0)
_MAX_BITS: Final = 20
"""End of the axes. Tokens beyond it are counted in the outermost cells."""
_NUM_CELLS: Final = 40
"""Number of cells along each axis. A cell is half a bit wide."""
_CELL: Final = 6
_LEFT, _TOP, _BOTTOM = 34, 22, 36


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSurprisals:
    """Surprisals of the tokens of a split, without ``<eos>``, under each distribution of a run."""

    lengths: NDArray[np.int64]
    """``[M]`` number of tokens of each sentence."""
    bits: Mapping[str, NDArray[np.float64]]
    """By distribution: ``[N]``, the surprisal ``-log2 p`` of each token."""


def surprisals_section(reported: ReportedRuns) -> Section:
    """Return the section on the agreement of teachers and students."""
    plots, missing = surprisal_plots(reported)
    blocks: list[Block] = [*plots]
    if missing:
        text = "For some runs the file with the log-probability of each token is missing. Run these evaluations again:"
        blocks += [Paragraph(text), Details("Missing files and the commands that write them", [Commands(missing)])]
    elif not plots:
        blocks.append(
            Paragraph(
                "No teacher and student with the same tokenizer were evaluated on the same split. Run evaluate "
                "perplexity on both."
            )
        )
    return Section(name="surprisals", title="Surprisals of teacher and students", link="Surprisals", blocks=blocks)


def surprisal_plots(reported: ReportedRuns) -> tuple[list[Plot], list[tuple[str, str]]]:
    """Return the plots, and a list of missing files.

    There is one plot per teacher, split and distribution. A missing file comes with the command that writes it.

    Raises:
        InputError: If a file of rows is damaged, or two files of one split have different sentences.
    """
    plots: list[Plot] = []
    missing: list[tuple[str, str]] = []
    students = reported.of_kind("student")
    for teacher in reported.of_kind("teacher"):
        for split, source in teacher.splits.items():
            same = [
                run
                for run in students
                if split in run.splits
                and run.splits[split].fingerprint == source.fingerprint
                and run.tokenizer == teacher.tokenizer
            ]
            without = [run for run in (teacher, *same) if not run.splits[split].rows.is_file()]
            missing += [(f"{run.splits[split].rows.name} of {run.name}", run.splits[split].command) for run in without]
            same = [run for run in same if run not in without]
            if teacher in without or not same:
                continue
            found = read_rows(source.rows)
            for distribution in _OF_TEACHERS:
                if distribution in found.bits:
                    plots.append(_plot(reported, f"{len(plots)}", teacher, split, distribution, found, same))
    return plots, list(dict.fromkeys(missing))


def read_rows(path: Path) -> TokenSurprisals:
    """Return the surprisals in a file of item rows.

    Raises:
        InputError: If there is no row, or a line is damaged.
    """
    values: dict[str, array[float]] = {}
    lengths: array[int] = array("q")
    for row in read_sentence_rows(path, remedy=_REMEDY):
        for name, log_probs in row.items():
            values.setdefault(name, array("d")).frombytes(log_probs[:-1].tobytes())
        lengths.append(len(next(iter(row.values()))) - 1)
    if not lengths:
        raise InputError(f"{path}: no row, expected one per sentence; {_REMEDY}")
    return TokenSurprisals(
        lengths=np.array(lengths, np.int64),
        bits={name: np.asarray(nats) / -math.log(2) for name, nats in values.items()},
    )


def agreement(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> tuple[float, float | None, float | None]:
    """Return how well the surprisals of two models agree. Both arrays are ``[N]`` in bits, and N is at least 1.

    Returns:
        The mean of student minus teacher, Pearson's correlation, and Spearman's correlation (equal values share their
        mean rank). A correlation is None if one of the models has the same surprisal for all tokens.
    """
    return float(student.mean() - teacher.mean()), correlation(teacher, student), spearman(teacher, student)


def _plot(
    reported: ReportedRuns,
    name: str,
    teacher: RunRecord,
    split: str,
    distribution: str,
    of_teacher: TokenSurprisals,
    students: Sequence[RunRecord],
) -> Plot:
    bits = of_teacher.bits[distribution]
    panels: list[Markup] = []
    rows: list[Cells] = []
    drawn: set[int] = set()
    for run in students:
        rows_of_run = run.splits[split].rows
        found = read_rows(rows_of_run)
        if not np.array_equal(found.lengths, of_teacher.lengths):
            raise InputError(
                f"{rows_of_run}: has other sentences than {teacher.splits[split].rows}: found {_counts(found)}, "
                f"expected {_counts(of_teacher)}; {_REMEDY}"
            )
        for own in (own for own in OF_STUDENTS if own in found.bits):
            means = float(bits.mean()), float(found.bits[own].mean())
            difference, *correlations = agreement(bits, found.bits[own])
            rows.append(
                [
                    run.name,
                    own,
                    Number(len(bits), ","),
                    *(Number(mean, ".3f") for mean in means),
                    Number(difference, "+.3f"),
                    *(Number(each, ".3f") for each in correlations),
                ]
            )
            if reported.series(run) not in drawn:
                panels.append(density_panel(f"density-{name}-{len(panels)}", run.name, bits, found.bits[own]))
        drawn.add(reported.series(run))
    several = (
        " Of the runs that differ only in their seed, the first is drawn; the table has all runs."
        if len(rows) > len(panels)
        else ""
    )
    return Plot(
        title=f"Surprisals on {split}: {teacher.name}, {distribution}, against students",
        svg=Markup('<div class="panels">{}</div>').format(Markup("").join(panels)),
        key=[(_level_swatch(level), label) for level, label in enumerate(_LEVELS)],
        caption=f"Each token of {split}. Across: the teacher's surprisal ({distribution}). Up: the student's. "
        f"{len(bits):,} tokens, without <eos>. The outermost cells also count the tokens beyond the axes. Dashed: "
        f"equal surprisal.{several} From the perplexity rows of {reported.names([teacher, *students])}.",
        sources=[run.splits[split].command for run in (teacher, *students)],
        data=Table(
            header=["run", "distribution", "tokens", "teacher, bits", "student, bits", *_AGREEMENT_HEADER],
            rows=rows,
        ),
    )


def _counts(found: TokenSurprisals) -> str:
    return f"{plural(len(found.lengths), 'sentence')} with {plural(int(found.lengths.sum()), 'token')} in all"


def density_panel(name: str, title: str, across: NDArray[np.float64], up: NDArray[np.float64]) -> Markup:
    """Draw a grid of cells, and the diagonal. The shade of a cell shows how many of the N tokens lie in it.

    Args:
        name: Identifier of the panel's title element.
        title: Name of the student, shown above the panel.
        across: Surprisals of the teacher, drawn across: ``[N]`` in bits, not negative.
        up: Surprisals of the student, drawn upwards: ``[N]`` in bits, not negative.
    """
    edges = np.linspace(0, _MAX_BITS, _NUM_CELLS + 1)
    last = np.nextafter(_MAX_BITS, 0)
    counts, _, _ = np.histogram2d(across.clip(0, last), up.clip(0, last), bins=(edges, edges))
    levels = np.searchsorted(_LEVEL_STARTS, counts, side="right") - 1  # -1 for a cell without tokens
    size = _NUM_CELLS * _CELL
    shades = "".join(
        f'<path fill-opacity="{opacity}" d="{_cells(levels == level)}"/>'
        for level, opacity in enumerate(_OPACITY)
        if (levels == level).any()
    )
    ticks = range(0, _MAX_BITS + 1, 5)
    grid = "".join(f"M{_x(t)} 0V{size}M0 {_x(t)}H{size}" for t in ticks)
    labels = "".join(
        f'<text x="{_x(t)}" y="{size + 15}" text-anchor="middle">{t}</text>'
        f'<text x="-6" y="{size - _x(t) + 4}" text-anchor="end">{t}</text>'
        for t in ticks
    )
    return Markup(  # noqa: S704 - built of numbers, and of text that is escaped here
        f'<svg class="panel" viewBox="{-_LEFT} {-_TOP} {size + _LEFT + 12} {size + _TOP + _BOTTOM}" role="img" '
        f'aria-labelledby="{escape(name)}"><title id="{escape(name)}">Density of surprisals: {escape(title)}</title>'
        f'<path class="grid" d="{grid}"/><g class="cells">{shades}</g>'
        f'<path class="diagonal" d="M0 {size}L{size} 0"/><g class="ticks">{labels}'
        f'<text x="{size / 2:g}" y="{size + 31}" text-anchor="middle">teacher, bits</text></g>'
        f'<text class="name" x="0" y="-8">{escape(title)}, bits</text></svg>'
    )


def _level_swatch(level: int) -> Markup:
    """Return a square in one of the shades, for the legend."""
    return Markup(  # noqa: S704 - our own constants
        f'<svg class="shade" viewBox="0 0 12 12" aria-hidden="true"><path class="cells" d="M0 0h12v12H0z" '
        f'fill-opacity="{_OPACITY[level]}"/></svg>'
    )


def _cells(which: NDArray[np.bool_]) -> str:
    """Return the cells as one path. Horizontal neighbours form one rectangle."""
    edges = np.diff(np.pad(which.T.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    lengths = np.nonzero(edges == -1)[1] - starts
    return "".join(
        f"M{start * _CELL} {(_NUM_CELLS - 1 - row) * _CELL}h{length * _CELL}v{_CELL}h-{length * _CELL}z"
        for row, start, length in zip(rows.tolist(), starts.tolist(), lengths.tolist(), strict=True)
    )


def _x(bits: float) -> int:
    return round(bits * _NUM_CELLS * _CELL / _MAX_BITS)
