"""Draw the results of word checkpoints: perplexity and accuracy of students against the words of training.

The last point of each curve is the best checkpoint. Each other seed group is compared with the baseline: after how many
words is it as good as the baseline at its best checkpoint?
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from statistics import mean
from typing import Final, NamedTuple

import numpy as np
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from pipeline.evaluation.compare.run_records import RunRecord, value
from pipeline.evaluation.perplexity import OF_STUDENTS
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, SYNTAXGYM, PairResult, RunResults, SuiteResult
from pipeline.report.drawing import MUTED, WIDE, drawn, line_style, new_figure
from pipeline.report.page_blocks import Block, Items, Plot, Section
from pipeline.report.reported_runs import ReportedRuns, have_one_tokenizer
from pipeline.report.tables import Number, Table

_NAMES: Final = {PERPLEXITY: "perplexity", MINIMAL_PAIRS: "minimal-pair accuracy", SYNTAXGYM: "SyntaxGym accuracy"}
_EXPLANATION: Final = (
    "Each point is a checkpoint: first the word checkpoints, last the best checkpoint. At a word checkpoint, the "
    "learning rate may still have been high. So a training that ends there can be better than this point. "
)


class _Measure(NamedTuple):
    """What was measured, and how. Figures of equal measures are comparable."""

    kind: str
    """``PERPLEXITY``, ``MINIMAL_PAIRS`` or ``SYNTAXGYM``."""
    subject: str
    """Name of the data."""
    fingerprint: str
    """sha256 of the data."""
    convention: str
    """How sentences were scored."""
    unit: str
    """Unit of the figures: ``%``, ``per token`` or ``per word``."""

    @property
    def form(self) -> str:
        """Format of a figure."""
        return ".1f" if self.unit == "%" else ",.2f"

    def reaches(self, figure: float, other: float) -> bool:
        """Return whether a figure is at least as good as another one."""
        return figure >= other if self.unit == "%" else figure <= other


class _Point(NamedTuple):
    words: float
    """Words of training."""
    figure: float
    """A perplexity, or an accuracy in percent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Curve:
    """The figures of a run on one measure."""

    run: RunRecord
    series: int
    group: str
    """Name of the run's seed group."""
    at_words: dict[int, _Point] = field(default_factory=dict)
    """The points of the word checkpoints before the best checkpoint, by number of words, ascending."""
    best: list[_Point] = field(default_factory=list)
    """The point of the best checkpoint; empty if it is not known."""
    commands: list[str] = field(default_factory=list)
    """The commands that measured the points."""

    @property
    def points(self) -> list[_Point]:
        """All points in order."""
        return [*self.at_words.values(), *self.best]


def words_section(reported: ReportedRuns, baseline: str) -> Section | None:
    """Return the section of the page; None if no student was evaluated at word checkpoints.

    ``baseline`` is the name of the seed group with which all others are compared. Empty: nothing is compared.
    """
    runs = [run for run in reported.of_kind("student") if run.results.at_words]
    by_measure: dict[_Measure, list[_Curve]] = {}
    for run in runs:
        for measure, curve in _curves(reported, run, "per token" if have_one_tokenizer(runs) else "per word").items():
            by_measure.setdefault(measure, []).append(curve)
    if not by_measure:
        return None
    titles = _titles(list(by_measure))
    sentences = [
        f"{titles[measure]}: {sentence}"
        for measure, curves in by_measure.items()
        for sentence in _compared(measure, curves, baseline)
    ]
    plots = [
        _plot(reported, f"words-{number}", titles[measure], measure, curves)
        for number, (measure, curves) in enumerate(by_measure.items())
    ]
    blocks: list[Block] = [*([Items(sentences)] if sentences else []), *plots]
    return Section(name="words", title="Results by words of training", link="By words", blocks=blocks)


def _curves(reported: ReportedRuns, run: RunRecord, unit: str) -> dict[_Measure, _Curve]:
    """Return the curves of a run, by measure."""
    found: dict[_Measure, _Curve] = {}
    for words, results in sorted(run.results.at_words.items()):
        for measure, (figure, command) in _figures(results, unit).items():
            new = _Curve(run=run, series=reported.series(run), group=reported.group_name(run))
            curve = found.setdefault(measure, new)
            curve.at_words[words] = _Point(words, figure)
            curve.commands.append(command)
    evaluated = [(loss, at) for row in run.dev if (loss := value(row, "loss")) and (at := value(row, "words"))]
    if evaluated:
        words_of_best = min(evaluated)[1]
        for measure, (figure, command) in _figures(run.results, unit).items():
            if measure in found:
                curve = found[measure]
                curve.best.append(_Point(words_of_best, figure))
                curve.commands.append(command)
                for words in [words for words in curve.at_words if words >= words_of_best]:
                    del curve.at_words[words]
    return found


def _figures(results: RunResults, unit: str) -> dict[_Measure, tuple[float, str]]:
    """Return the figures of a checkpoint, and the command of each. Of two equal measures, the first is taken."""
    found: dict[_Measure, tuple[float, str]] = {}
    for result in results.perplexities:
        for distribution, figure in result.figures.items():
            if distribution in OF_STUDENTS:
                measure = _Measure(PERPLEXITY, *result.key, distribution, unit)
                perplexity = figure.per_token if unit == "per token" else figure.per_word
                found.setdefault(measure, (perplexity, result.command))
    accuracies: list[tuple[PairResult | SuiteResult, float | None]] = [
        *((pairs, pairs.figures.macro_accuracy) for pairs in results.pairs),
        *((suites, suites.figures.mean_of_suites) for suites in results.suites),
    ]
    for scored, accuracy in accuracies:
        if accuracy is not None:
            measure = _Measure(scored.kind, scored.subject, scored.fingerprint, scored.convention, "%")
            found.setdefault(measure, (100 * accuracy, scored.command))
    return found


def _titles(measures: Sequence[_Measure]) -> dict[_Measure, str]:
    """Return a title for each measure. It names the data's sha256 and the convention if two would be alike."""
    short = {
        measure: f"{measure.subject} perplexity"
        if measure.kind == PERPLEXITY
        else f"{_NAMES[measure.kind]} on {measure.subject}"
        for measure in measures
    }
    repeated = {title for title in short.values() if list(short.values()).count(title) > 1}
    return {
        measure: f"{title} ({measure.fingerprint[:8]}, {measure.convention})" if title in repeated else title
        for measure, title in short.items()
    }


def _compared(measure: _Measure, curves: Sequence[_Curve], baseline: str) -> list[str]:
    """Say for each group from which point on all its runs are as good as all runs of the baseline at their best.

    This says nothing if a run of the baseline does not need all its words, because its figure hardly improves.
    """
    groups: dict[str, list[_Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    groups = {name: of_group for name, of_group in groups.items() if all(curve.best for curve in of_group)}
    if baseline not in groups:
        return []
    of_baseline = groups.pop(baseline)
    ends = [curve.best[0] for curve in of_baseline]
    figures = sorted((end.figure for end in ends), reverse=measure.unit == "%")
    before = [point for curve in of_baseline for point in curve.at_words.values()]
    if any(measure.reaches(point.figure, figures[-1]) for point in before):
        return [
            f"{baseline} was as good before its best checkpoint. So these curves do not show who needs fewer words."
        ]
    sentences = []
    for name, of_group in groups.items():
        common = [words for words in of_group[0].at_words if all(words in curve.at_words for curve in of_group)]
        stages = [[curve.at_words[words] for curve in of_group] for words in common]
        stages.append([curve.best[0] for curve in of_group])
        as_good = list(
            takewhile(lambda stage: all(measure.reaches(each.figure, figures[0]) for each in stage), reversed(stages))
        )
        best = f"as good as {baseline} at its best checkpoint ({figures[0]:{measure.form}})"
        if as_good:
            words, total = max(each.words for each in as_good[-1]), mean(end.words for end in ends)
            share = f"{100 * words / total:.0f}\u00a0% of the words"
            sentences.append(f"{name} is {best} after {share} ({words:,.0f} of {total:,.0f}), and stays so.")
        else:
            sentences.append(f"{name} does not become {best}.")
    if len(curves) > len(groups) + 1:
        sentences.append("Here a group is as good if its worst run is as good as the best run of the other group.")
    return sentences


def _plot(reported: ReportedRuns, name: str, title: str, measure: _Measure, curves: Sequence[_Curve]) -> Plot:
    form = measure.form
    axes = "Both axes are logarithmic." if measure.kind == PERPLEXITY else "The axis of words is logarithmic."
    return Plot(
        topic="By words of training",
        title=title,
        svg=_drawing(name, title, measure, curves),
        key=reported.key([(curve.run, "".join(f"{end.figure:{form}}" for end in curve.best)) for curve in curves]),
        caption=f"{_EXPLANATION}{axes} From results of {reported.names([curve.run for curve in curves])}.",
        sources=[command for curve in curves for command in curve.commands],
        data=Table(
            header=["run", "words of training", f"{_NAMES[measure.kind]}, {measure.unit}"],
            rows=[
                [curve.run.name, Number(point.words, ",.0f"), Number(point.figure, form)]
                for curve in curves
                for point in curve.points
            ],
        ),
    )


def _drawing(name: str, title: str, measure: _Measure, curves: Sequence[_Curve]) -> Markup:
    """Return a drawing of figures against words of training, on a logarithmic axis."""
    points = [point for curve in curves for point in curve.points]
    words = sorted({point.words for point in points})

    def draw(width: int) -> Figure:
        figure, axes = new_figure(width, 400 if width == WIDE else 330, left=48, right=14, top=26, bottom=46)
        axes.set_xscale("log")
        ticks = _ticks(words, most=width // 60)
        axes.set_xticks(ticks, [_short(tick) for tick in ticks])
        axes.xaxis.set_minor_formatter(NullFormatter())
        if measure.kind == PERPLEXITY:
            axes.set_yscale("log")
            # A perplexity can be infinite; it is not drawn.
            figures = [point.figure for point in points if math.isfinite(point.figure)] or [1.0]
            # Two digits, so that the ticks are close to both ends of the curves, however near they are to each other.
            axes.set_yticks(sorted({float(f"{tick:.2g}") for tick in np.geomspace(min(figures), max(figures), 7)}))
            axes.yaxis.set_major_formatter(lambda y, _: f"{y:,g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.grid(visible=True)
        for curve in curves:
            axes.plot(*zip(*curve.points, strict=True), **line_style(curve.series))
        axes.set_xlabel("words of training", labelpad=5)
        axes.set_title(
            f"{_NAMES[measure.kind]}, {measure.unit}", loc="left", size=11.5, color=MUTED, x=-(34 / width), pad=10
        )
        return figure

    return drawn(name, f"{title}, against words of training", draw)


def _ticks(words: Sequence[float], *, most: int) -> list[float]:
    """Return some of the ascending numbers of words: the last one, and others that are not too close to each other.

    Their least distance is such that at most ``most`` would fit next to each other on a logarithmic axis.
    """
    factor = (words[-1] / words[0]) ** (1 / most)
    ticks = [words[-1]]
    for each in reversed(words):
        if each * factor <= ticks[-1] and each < ticks[-1]:
            ticks.append(each)
    return ticks[::-1]


def _short(words: float) -> str:
    """Return a number of words with two digits."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if words >= unit:
            return f"{float(f'{words / unit:.2g}'):g} {name}"
    return f"{words:g}"
