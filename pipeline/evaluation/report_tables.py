"""The report's tables, and how a figure is written in a cell."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from pipeline.evaluation.minimal_pairs import PairCounts
from pipeline.evaluation.perplexity import FLOOR, OF_STUDENTS, PerplexityFigure
from pipeline.evaluation.report_runs import PairResult, Row, RunRecord, value
from pipeline.evaluation.report_svg import swatch

NOTHING = "\u2013"
"""Stands in a cell that has no figure."""

Cell = str | Markup


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a header; the first column names the row."""

    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    groups: Sequence[tuple[str, int]] = field(default_factory=tuple)
    """(label, number of columns) over the header, where it is in two levels."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """The runs of a report, and what the figures of several of them share."""

    runs: Sequence[RunRecord]
    """Students, then teachers."""
    floors: Mapping[tuple[str, str], PerplexityFigure]
    """By name of the run and split, where one is recorded with the run's unconditional figure."""

    @property
    def has_floor(self) -> bool:
        """Whether a floor is recorded with any result."""
        return bool(self.floors)

    def of_kind(self, kind: str) -> list[RunRecord]:
        """Return the runs of a kind, in order."""
        return [run for run in self.runs if run.kind == kind]

    def series(self, run: RunRecord) -> int:
        """Return the number of a run, which decides its colour and mark everywhere."""
        return [other.name for other in self.runs].index(run.name)

    def label(self, run: RunRecord) -> Markup:
        """Return a run's mark and name."""
        return Markup("{} {}").format(swatch(self.series(run)), run.name)


def comparison_table(comparison: Comparison, kind: str, distributions: Sequence[str]) -> Table:
    """Return a row a run of one kind; each perplexity stands under its split and the name of its distribution."""
    runs = comparison.of_kind(kind)
    columns = [
        (split, distribution)
        for split in splits_of(runs)
        for distribution in distributions
        if any(distribution in run.perplexities.get(split, {}) for run in runs)
    ]
    sets = pair_sets(runs)
    header = ["run"]
    groups = [("", 1)]
    rows: list[list[Cell]] = [[_run_cell(comparison, run)] for run in runs]
    for split, distribution in columns:
        with_floor = distribution in OF_STUDENTS and comparison.has_floor
        names = ["per token", "per word", *(["nats above floor"] if with_floor else [])]
        header += names
        groups.append((f"{split} perplexity, {distribution}", len(names)))
        for run, row in zip(runs, rows, strict=True):
            figure = run.perplexities.get(split, {}).get(distribution)
            row.extend((perplexity(figure.per_token), perplexity(figure.per_word)) if figure else (NOTHING, NOTHING))
            if with_floor:
                floor = comparison.floors.get((run.name, split))
                gap = figure.nats_per_position - floor.nats_per_position if figure and floor else None
                row.append(NOTHING if gap is None else f"{gap:+.4f}")
    for title, key in sets.items():
        header += ["right, %", "ties"]
        groups.append((f"pairs, {title}", 2))
        for run, row in zip(runs, rows, strict=True):
            found = next((pair.figures for pair in run.pairs if (pair.subject, pair.fingerprint) == key), None)
            row.extend((percent(found.macro_accuracy), f"{found.overall.num_ties:,}") if found else (NOTHING, NOTHING))
    header += ["steps", "positions", "time"]
    groups.append(("training", 3))
    for run, row in zip(runs, rows, strict=True):
        row.extend((_count(run.last, "step"), _count(run.last, "positions"), _duration(value(run.last, "elapsed_s"))))
    return Table(header=header, rows=rows, groups=groups)


def perplexity_table(comparison: Comparison) -> Table:
    """Return every perplexity of every run by every normaliser, and the floors under them."""
    rows: list[list[Cell]] = []
    for run in comparison.runs:
        for split in splits_of([run]):
            figures = [figure for name, figure in run.perplexities[split].items() if name != FLOOR]
            if (floor := comparison.floors.get((run.name, split))) is not None:
                figures.append(floor)
            rows += [
                [
                    comparison.label(run),
                    split,
                    figure.distribution,
                    perplexity(figure.per_token),
                    perplexity(figure.per_token_without_eos),
                    perplexity(figure.per_word),
                    f"{figure.bits_per_byte:.4f}",
                    f"{figure.num_sentences:,}",
                    f"{figure.num_tokens:,}",
                    f"{figure.num_words:,}",
                    f"{figure.num_bytes:,}",
                ]
                for figure in figures
            ]
    header = ["run", "split", "distribution", "per token", "per token, without <eos>", "per word", "bits per byte"]
    return Table(header=[*header, "sentences", "tokens", "words", "bytes"], rows=rows)


def settings_table(comparison: Comparison, kind: str) -> Table | None:
    """Return the options, fingerprints and versions in which runs of a kind differ; None for fewer than two runs."""
    runs = comparison.of_kind(kind)
    if len(runs) < 2:
        return None
    settings = [
        {name: item for name, item in run.configuration.items() if name != "out"}
        | {f"{name} sha256": str(item)[:12] for name, item in run.fingerprints.items()}
        | {f"{name} version": item for name, item in run.versions.items()}
        for run in runs
    ]
    names = dict.fromkeys(name for found in settings for name in found)
    differing = [name for name in names if len({_written(found, name) for found in settings}) > 1]
    return Table(
        header=["setting", *(run.name for run in runs)],
        rows=[[name, *(_written(found, name) for found in settings)] for name in differing],
    )


def splits_of(runs: Sequence[RunRecord]) -> list[str]:
    """Return the splits that any of the runs has a perplexity of: train, dev, test, then others."""
    known = ["train", "dev", "test"]
    names = {split for run in runs for split in run.perplexities}
    return sorted(names, key=lambda name: (known.index(name) if name in known else len(known), name))


def pair_sets(runs: Sequence[RunRecord]) -> dict[str, tuple[str, str]]:
    """Return the sets of minimal pairs by title; sets of one name with other pairs are set apart by fingerprint."""
    keys = list(dict.fromkeys((pair.subject, pair.fingerprint) for run in runs for pair in run.pairs))
    subjects = [subject for subject, _ in keys]
    return {
        subject if subjects.count(subject) == 1 else f"{subject} ({fingerprint[:8]})": (subject, fingerprint)
        for subject, fingerprint in keys
    }


def plural(count: int, noun: str) -> str:
    """Return ``1 pair``, ``2 pairs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def perplexity(figure: float | None) -> str:
    """Return a perplexity with as many decimals as could matter."""
    if figure is None:
        return NOTHING
    return f"{figure:,.2f}" if figure < 1000 else f"{figure:,.0f}" if figure < 1e7 else f"{figure:.2e}"


def percent(share: float | None) -> str:
    """Return a share in percent, with one decimal."""
    return NOTHING if share is None else f"{100 * share:.1f}"


def accuracy_with_ties(result: PairResult) -> str:
    """Return the mean over paradigms, and the number of ties."""
    return f"{percent(result.figures.macro_accuracy)} % ({plural(result.figures.overall.num_ties, 'tie')})"


def pair_cells(counts: PairCounts) -> list[Cell]:
    """Return pairs, right, ties, accuracy and mean difference."""
    return [
        f"{counts.num_pairs:,}",
        f"{counts.num_right:,}",
        f"{counts.num_ties:,}",
        percent(counts.accuracy),
        f"{counts.mean_difference:+.3f}",
    ]


def size(num_bytes: float) -> str:
    """Return a size in bytes, readable."""
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.1f} {name} ({num_bytes:,.0f} bytes)"
    return f"{num_bytes:,.0f} bytes"


def _run_cell(comparison: Comparison, run: RunRecord) -> Markup:
    return Markup("{} <small>{}</small>").format(comparison.label(run), _trained_on(run))


def _trained_on(run: RunRecord) -> str:
    if run.kind == "teacher":
        return "sentences and trees"
    made_by = run.configuration
    told = ["documents" if made_by.get("context") == "document" else "sentences"]
    if run.dump is not None:
        schema = run.dump.get("schema")
        of_student = isinstance(schema, dict) and schema.get("condition") == "none"
        source = "a student's dump" if of_student else "dump"
        shuffled = "shuffled " if made_by.get("targets") == "shuffled" else ""
        told[0] += f" and {shuffled}{source}"
        told += [f"\u03b1\u00a0{made_by.get('alpha')}", f"T\u00a0{made_by.get('temperature')}"]
        told += [
            f"{name} {made_by[name]}"
            for name, usual in (("divergence", "kl"), ("tail", "bucket"))
            if made_by.get(name, usual) != usual
        ]
    return ", ".join(told)


def _count(row: Row, name: str) -> str:
    found = value(row, name)
    return NOTHING if found is None else f"{found:,.0f}"


def _duration(seconds: float | None) -> str:
    if seconds is None:
        return NOTHING
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours} h {m:02} min" if hours else f"{m} min {s:02} s"


def _written(settings: Mapping[str, Any], name: str) -> str:
    if name not in settings:
        return NOTHING
    found = settings[name]
    return found if isinstance(found, str) else json.dumps(found, sort_keys=True, ensure_ascii=False)
