"""A teacher's surprisals against its students', token by token of the same split.

Read from the rows that ``evaluate perplexity`` keeps beside its result. ``<eos>`` is left out: given the tree it is
certain, so it would make two models look alike, or unlike, that are not.

The teacher's distribution is always named. Given the tree it knows what a student cannot: where the student is far
above the diagonal, the tree told what was to come.
"""

import math
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from pipeline.evaluation.compare.run_records import RunRecord
from pipeline.evaluation.perplexity import GIVEN_TREE, IN_DOCUMENT, MARGINAL, UNCONDITIONAL
from pipeline.evaluation.results import read_sentence_rows
from pipeline.report.density import LEVELS, density_panel, level_swatch
from pipeline.report.plots import Plot
from pipeline.report.tables import Cell, Comparison, Table
from storage.errors import InputError

OF_TEACHERS: Final = (GIVEN_TREE, MARGINAL)
"""Of a teacher, what is a distribution over tokens alone."""
OF_STUDENTS: Final = (UNCONDITIONAL, IN_DOCUMENT)
REMEDY: Final = "run evaluate perplexity again"


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenSurprisals:
    """Surprisals of the tokens of a split, ``<eos>`` left out, under each distribution of a run."""

    lengths: NDArray[np.int64]
    """``[M]`` tokens of each sentence."""
    bits: Mapping[str, NDArray[np.float64]]
    """``[N]`` by distribution, ``-log2 p``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Agreement:
    """How two rows of surprisals go together."""

    pearson: float | None
    """Correlation; None where one of them is constant."""
    spearman: float | None
    """Correlation of ranks, equal values sharing their mean rank."""
    mean_difference: float
    """Student minus teacher, bits a token."""


def surprisal_plots(comparison: Comparison) -> tuple[list[Plot], list[tuple[str, str]]]:
    """Return a figure for each teacher, split and distribution; and what is missing for more: (file, its command).

    Raises:
        InputError: If a file of rows is damaged, or does not have the sentences of another of the same split.
    """
    plots: list[Plot] = []
    missing: list[tuple[str, str]] = []
    students = comparison.of_kind("student")
    for teacher in comparison.of_kind("teacher"):
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
            for distribution in OF_TEACHERS:
                if distribution in found.bits:
                    plots.append(_plot(comparison, f"{len(plots)}", teacher, split, distribution, found, same))
    return plots, list(dict.fromkeys(missing))


def read_rows(path: Path) -> TokenSurprisals:
    """Return the surprisals in a file of rows.

    Raises:
        InputError: If there is no row, or a line is none that ``read_sentence_rows`` takes; it is named.
    """
    values: dict[str, array[float]] = {}
    lengths: array[int] = array("q")
    for row in read_sentence_rows(path, remedy=REMEDY):
        for name, log_probs in row.items():
            values.setdefault(name, array("d")).frombytes(log_probs[:-1].tobytes())
        lengths.append(len(next(iter(row.values()))) - 1)
    if not lengths:
        raise InputError(f"{path}: no row, expected one a sentence; {REMEDY}")
    return TokenSurprisals(
        lengths=np.array(lengths, np.int64),
        bits={name: np.asarray(of) / -math.log(2) for name, of in values.items()},
    )


def agreement(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> Agreement:
    """Return how the surprisals ``[N]`` of two models go together, N at least 1."""
    return Agreement(
        pearson=_correlation(teacher, student),
        spearman=_correlation(_ranks(teacher), _ranks(student)),
        mean_difference=float(student.mean() - teacher.mean()),
    )


def _plot(
    comparison: Comparison,
    name: str,
    teacher: RunRecord,
    split: str,
    distribution: str,
    of_teacher: TokenSurprisals,
    students: Sequence[RunRecord],
) -> Plot:
    bits = of_teacher.bits[distribution]
    panels: list[Markup] = []
    rows: list[list[Cell]] = []
    drawn: set[str] = set()
    for run in students:
        rows_of_run = run.splits[split].rows
        found = read_rows(rows_of_run)
        if not np.array_equal(found.lengths, of_teacher.lengths):
            raise InputError(
                f"{rows_of_run}: {len(found.lengths)} sentences, {found.lengths.sum()} tokens, but "
                f"{teacher.splits[split].rows} has {len(of_teacher.lengths)}, {of_teacher.lengths.sum()}, expected the "
                f"same, sentence by sentence; {REMEDY}"
            )
        for own in (own for own in OF_STUDENTS if own in found.bits):
            agree = agreement(bits, found.bits[own])
            rows.append(_agreement_row(run, own, bits, found.bits[own], agree))
            if comparison.family(run) not in drawn:
                panels.append(density_panel(f"density-{name}-{len(panels)}", run.name, bits, found.bits[own]))
        drawn.add(comparison.family(run))
    several = " One run is drawn of those that share a mark; the table has all." if len(rows) > len(panels) else ""
    return Plot(
        title=f"Surprisals on {split}: {teacher.name}, {distribution}, against students",
        svg=Markup('<div class="panels">{}</div>').format(Markup("").join(panels)),
        key=[(level_swatch(level), label) for level, label in enumerate(LEVELS)],
        caption=f"Each token of {split} at the teacher's surprisal ({distribution}; across) and the student's (up), "
        f"{len(bits):,} tokens, <eos> left out; the outermost cells hold all beyond them. Dashed: equal surprisal."
        f"{several} From perplexity rows of {comparison.names([teacher, *students])}.",
        sources=[run.splits[split].command for run in (teacher, *students)],
        data=Table(
            header=[
                "run",
                "distribution",
                "tokens",
                "teacher, bits",
                "student, bits",
                "difference",
                "Pearson",
                "Spearman",
            ],
            rows=rows,
        ),
    )


def _agreement_row(
    run: RunRecord, own: str, teacher: NDArray[np.float64], student: NDArray[np.float64], agree: Agreement
) -> list[Cell]:
    return [
        run.name,
        own,
        f"{len(student):,}",
        f"{teacher.mean():.3f}",
        f"{student.mean():.3f}",
        f"{agree.mean_difference:+.3f}",
        *("\u2013" if r is None else f"{r:.3f}" for r in (agree.pearson, agree.spearman)),
    ]


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ranks ``[N]`` from 0, equal values sharing their mean."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts) - 1
    ranks: NDArray[np.float64] = (last - (counts - 1) / 2)[inverse]
    return ranks


def _correlation(x: NDArray[np.float64], y: NDArray[np.float64]) -> float | None:
    x, y = x - x.mean(), y - y.mean()
    spread = math.sqrt(float(x @ x) * float(y @ y))
    return float(x @ y) / spread if spread else None
