"""What each figure of the report shows: its curves or bars, its key, where it is from, and the data as a table."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from pipeline.evaluation.minimal_pairs import PairCounts
from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT, MARGINAL, UNCONDITIONAL
from pipeline.evaluation.report_runs import Row, RunRecord, value
from pipeline.evaluation.report_svg import Bar, BarGroup, Curve, learning_curves, left_out_mass, paradigm_bars, swatch
from pipeline.evaluation.report_tables import (
    NOTHING,
    Cell,
    Comparison,
    Table,
    accuracy_with_ties,
    pair_cells,
    pair_sets,
    perplexity,
    plural,
    size,
)

DISTRIBUTIONS = {"tree": GIVEN_TREE, "beam": MARGINAL, "none": UNCONDITIONAL}
"""What a dump's perplexity is of, by its condition."""
CURVE_ROWS = 40
"""Most rows a curve and split in the table under a figure; the figure is drawn from all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plot:
    """A figure and all that stands around it."""

    title: str
    svg: Markup
    key: Sequence[tuple[Markup, str]]
    """(mark, label) of each series."""
    caption: str
    sources: Sequence[str]
    """Commands that made what is drawn."""
    data: Table


def student_curves(comparison: Comparison) -> Plot | None:
    """Return the students' curves over the floor, or None where no student has one."""
    runs = [run for run in comparison.of_kind("student") if _points((*run.train, *run.dev), "cross_entropy", "loss")]
    if not runs:
        return None
    curves = [
        Curve(
            label=run.name,
            series=comparison.series(run),
            dev=_points(run.dev, "cross_entropy", "loss"),
            train=_points(run.train, "cross_entropy", "loss"),
        )
        for run in runs
    ]
    floors = sorted({round(f.nats_per_position, 9) for (_, split), f in comparison.floors.items() if split == "dev"})
    caption = "Cross-entropy with the gold tokens, for distilled students too. "
    if floors:
        caption += "Dashed: the floor, which the grammar that wrote the dev sentences gives them. "
    elif comparison.has_floor:
        caption += "No floor is drawn: none is recorded for dev; run evaluate perplexity with --floor on it. "
    return _curve_plot("students", "Students", curves, floors, caption, runs)


def teacher_curves(comparison: Comparison) -> list[Plot]:
    """Return a figure for each teacher: its joint loss and the two parts of it."""
    parts = (("loss", JOINT), ("token_loss", f"tokens, {GIVEN_TREE}"), ("action_loss", "actions"))
    plots = []
    for number, run in enumerate(comparison.of_kind("teacher")):
        curves = [
            Curve(label=label, series=i, dev=_points(run.dev, name), train=_points(run.train, name))
            for i, (name, label) in enumerate(parts)
            if _points((*run.dev, *run.train), name)
        ]
        if curves:
            caption = "The joint loss is the sum of the two others. None compares with a student's: the tree is given. "
            plots.append(_curve_plot(f"teacher-{number}", f"Teacher {run.name}", curves, [], caption, [run]))
    return plots


def pair_plots(comparison: Comparison) -> list[Plot]:
    """Return a figure for each set of minimal pairs, paradigm by paradigm."""
    return [
        _pair_plot(comparison, number, title, key)
        for number, (title, key) in enumerate(pair_sets(comparison.runs).items())
    ]


def dump_table(comparison: Comparison) -> Table | None:
    """Return what the runs say of their dumps, a column a dump; None where no run read one."""
    dumps = [(title, _flat(runs[0].dump or {})) for title, runs in _dumps(comparison)]
    if not dumps:
        return None
    names = dict.fromkeys(name for _, dump in dumps for name in dump if name != "kept_mass_by_k")
    return Table(
        header=["", *(title for title, _ in dumps)],
        rows=[[name.replace("_", " "), *(_dump_cell(dump, name) for _, dump in dumps)] for name in names],
    )


def dump_plot(comparison: Comparison) -> Plot | None:
    """Return the mass that a smaller k would leave out, or None where no run says it."""
    lines = [
        (title, runs, _masses(_flat(runs[0].dump or {}).get("kept_mass_by_k"))) for title, runs in _dumps(comparison)
    ]
    lines = [(title, runs, masses) for title, runs, masses in lines if len(masses) > 1]
    if not lines:
        return None
    title = "Probability mass that a smaller k would leave out"
    return Plot(
        title=title,
        svg=left_out_mass("mass", title, [masses for _, _, masses in lines]),
        key=[(swatch(i), line) for i, (line, _, _) in enumerate(lines)],
        caption="Mean over all positions of the dump, at temperature 1. From run.json of "
        + ", ".join(run.name for _, runs, _ in lines for run in runs)
        + ".",
        sources=[run.command for _, runs, _ in lines for run in runs],
        data=Table(
            header=["dump", "k\u2032", "mean mass kept", "left out"],
            rows=[
                [line, str(k), f"{mass:.6f}", f"{max(1 - mass, 0):.2e}"]
                for line, _, masses in lines
                for k, mass in masses
            ],
        ),
    )


def _dumps(comparison: Comparison) -> list[tuple[str, list[RunRecord]]]:
    """Return each distinct dump once: a title, and the runs that read it."""
    readers: dict[str, list[RunRecord]] = {}
    for run in comparison.runs:
        if run.dump is not None:
            readers.setdefault(json.dumps(run.dump, sort_keys=True), []).append(run)
    return [("read by " + ", ".join(run.name for run in runs), runs) for runs in readers.values()]


def _curve_plot(
    name: str, title: str, curves: Sequence[Curve], floors: Sequence[float], caption: str, runs: Sequence[RunRecord]
) -> Plot:
    rows: list[list[Cell]] = [
        [curve.label, split, f"{x:,.0f}", f"{y:.4f}"]
        for curve in curves
        for split, points in (("dev", curve.dev), ("train", curve.train))
        for x, y in _sample(points)
    ]
    caption += "Marked: dev; thin: training. A steep start may lie above the frame; the table has it. "
    return Plot(
        title=title,
        svg=learning_curves(f"curves-{name}", f"Learning curves: {title}", curves, floors),
        key=[
            (swatch(curve.series), f"{curve.label}: {curve.dev[-1][1]:.3f} at the end" if curve.dev else curve.label)
            for curve in curves
        ],
        caption=f"{caption}From metrics.jsonl of {', '.join(run.name for run in runs)}.",
        sources=[run.command for run in runs],
        data=Table(header=["curve", "split", "positions seen", "nats a position"], rows=rows),
    )


def _pair_plot(comparison: Comparison, number: int, title: str, key: tuple[str, str]) -> Plot:
    scored = [(run, pair) for run in comparison.runs for pair in run.pairs if (pair.subject, pair.fingerprint) == key]
    terms = {name: term for _, pair in scored for name, term in pair.figures.terms.items()}
    groups = [
        BarGroup(
            label="mean of paradigms",
            bars=[
                Bar(
                    series=comparison.series(run),
                    right=pair.figures.macro_accuracy or 0.0,
                    ties=_mean_tie_share(pair.figures.by_paradigm.values()),
                )
                for run, pair in scored
            ],
        )
    ]
    rows: list[list[Cell]] = [
        ["all pairs", NOTHING, run.name, *pair_cells(pair.figures.overall)] for run, pair in scored
    ]
    for term in sorted(set(terms.values())):
        groups.append(BarGroup(label=term.replace("_", " ")))
        of_term = [(run, pair.figures.by_term.get(term)) for run, pair in scored]
        rows += [[f"all of {term}", term, run.name, *pair_cells(counts)] for run, counts in of_term if counts]
        for name in sorted(name for name in terms if terms[name] == term):
            found = [(run, counts) for run, pair in scored if (counts := pair.figures.by_paradigm.get(name))]
            bars = [Bar(series=comparison.series(run), right=c.accuracy or 0.0, ties=_tie_share(c)) for run, c in found]
            groups.append(BarGroup(label=name, bars=bars))
            rows += [[name, term, run.name, *pair_cells(counts)] for run, counts in found]
    caption = (
        "Share of pairs of which the grammatical sentence is strictly the more probable one. Paler, beyond it: ties, "
        "which are not right. Dashed: chance. Bars stand in the order of the key. "
    )
    if identical := scored[0][1].figures.num_identical:
        caption += f"{plural(identical, 'pair')} of two identical sentences left out. "
    return Plot(
        title=title,
        svg=paradigm_bars(f"pairs-{number}", f"Minimal pairs: {title}", groups),
        key=[(swatch(comparison.series(run)), f"{run.name}: {accuracy_with_ties(pair)}") for run, pair in scored],
        caption=f"{caption}From results of {', '.join(run.name for run, _ in scored)}.",
        sources=[pair.command for _, pair in scored],
        data=Table(
            header=["paradigm", "term", "run", "pairs", "right", "ties", "right, %", "mean difference, nats"], rows=rows
        ),
    )


def _points(rows: Iterable[Row], *names: str) -> list[tuple[float, float]]:
    """Return (positions, figure) of the rows, the figure being the first of ``names`` that a row has."""
    points = []
    for row in rows:
        x = value(row, "positions")
        y = next((found for name in names if (found := value(row, name)) is not None), None)
        if x is not None and y is not None:
            points.append((x, y))
    return points


def _sample(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return at most ``CURVE_ROWS`` of the points, first and last among them."""
    if len(points) <= CURVE_ROWS:
        return list(points)
    return [points[int(i)] for i in np.linspace(0, len(points) - 1, CURVE_ROWS).round()]


def _tie_share(counts: PairCounts) -> float:
    return counts.num_ties / counts.num_pairs if counts.num_pairs else 0.0


def _mean_tie_share(by_paradigm: Iterable[PairCounts]) -> float:
    shares = [_tie_share(counts) for counts in by_paradigm if counts.num_pairs]
    return sum(shares) / len(shares) if shares else 0.0


def _flat(dump: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dump's schema and statistics on one level; what is nested deeper is named by its parent too."""
    flat: dict[str, Any] = {}
    for name, item in dump.items():
        if name in {"schema", "statistics"} and isinstance(item, dict):
            flat |= _flat(item)
        elif isinstance(item, dict) and name != "kept_mass_by_k":
            flat |= {f"{name}: {key}": found for key, found in item.items()}
        else:
            flat[name] = item
    return flat


def _masses(found: Any) -> list[tuple[int, float]]:  # noqa: ANN401 - parsed JSON
    if not isinstance(found, dict):
        return []
    return sorted(
        (int(k), mass) for k in found if k.isdecimal() and int(k) > 0 and (mass := value(found, k)) is not None
    )


def _dump_cell(dump: Mapping[str, Any], name: str) -> str:
    if name not in dump:
        return NOTHING
    item = dump[name]
    if (figure := value(dump, name)) is None:
        if isinstance(item, list):
            return ", ".join(str(part) for part in item)
        return item if isinstance(item, str) else json.dumps(item, sort_keys=True, ensure_ascii=False)
    if name == "size_bytes":
        return size(figure)
    if name.startswith("perplexity"):
        condition = dump.get("condition", "not recorded")
        return f"{perplexity(figure)} ({DISTRIBUTIONS.get(str(condition), f'condition: {condition}')})"
    return f"{figure:.6f}" if name.startswith("mean_kept_mass") else f"{figure:,.10g}"
