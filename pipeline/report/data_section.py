"""The report's section on data: what the datasets that runs learned from hold, as tables and distributions.

Figures are those that ``build-dataset`` stored with the dataset; a dataset written before there were any has its sizes
only. A dataset belongs to a run if the run's fingerprint of it is the dataset's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pipeline.corpus.dataset.dataset import describe_dataset
from pipeline.evaluation.compare.run_records import value
from pipeline.report.charts import distributions
from pipeline.report.plots import Plot
from pipeline.report.svg import swatch
from pipeline.report.tables import NOTHING, Cell, Comparison, Table, percent
from storage.locations import Place

MAX_POINTS: Final = 50
"""Of a line: sizes are put together in bins of equal width until there are no more."""

_HISTOGRAMS: Final = (
    ("tokens", "Length of sentences", "tokens", "sentences"),
    ("heights", "Height of trees", "phrases over the deepest token, TOP among them", "sentences"),
    ("children", "Branching", "children of a phrase, TOP left out", "phrases"),
)
_ROWS: Final = (
    ("sentences", "num_sentences", "{:,.0f}"),
    ("words", "num_words", "{:,.0f}"),
    ("tokens", "num_tokens", "{:,.0f}"),
    ("documents", "num_documents", "{:,.0f}"),
    ("tokens a word", "tokens_per_word", "{:.3f}"),
    ("bytes a token", "bytes_per_token", "{:.3f}"),
    ("longest sentence, tokens", "longest_sentence", "{:,.0f}"),
    ("mean height", "mean_height", "{:.2f}"),
    ("children a phrase", "mean_children", "{:.3f}"),
    ("share of phrases over one phrase", "unary_share", "{:.3f}"),
    ("tokens across an edge of a phrase", "num_crossing_tokens", "{:,.0f}"),
    ("phrases lost to them", "num_lost_phrases", "{:,.0f}"),
    ("sentences that are in dev or test too", "num_exact_duplicates", "{:,.0f}"),
    ("sentences that nearly are", "num_near_duplicates", "{:,.0f}"),
    ("sentences that are in train too", "num_in_train", "{:,.0f}"),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetRecord:
    """What the report knows of a dataset."""

    location: str
    about: Mapping[str, Any]
    """As ``describe_dataset`` says it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetSection:
    """What the page shows of a dataset."""

    title: str
    read_by: str
    sizes: Table
    sources: Table | None
    plots: Sequence[Plot]
    labels: Table | None


def read_datasets(locations: Sequence[Place]) -> list[DatasetRecord]:
    """Return what datasets hold.

    Raises:
        StoreError: If one is missing or damaged.
    """
    return [DatasetRecord(location=str(each), about=describe_dataset(each)) for each in locations]


def dataset_section(number: int, dataset: DatasetRecord, comparison: Comparison) -> DatasetSection:
    """Return the part of the page on one dataset; ``number`` sets its figures apart from other datasets'."""
    about = dataset.about
    readers = [run for run in comparison.runs if run.fingerprints.get("dataset") == about["sha256"]]
    used = about["vocab_size"] - about["num_entries_not_used"]
    trees = f"Trees: {about['tree_source']}. {used:,} of {about['vocab_size']:,} entries of the tokenizer occur."
    read_by = f"Read by {comparison.names(readers)}." if readers else "No run on this page was trained on it."
    splits = {name: {"sources": {}, **split, **split["statistics"]} for name, split in about["splits"].items()}
    return DatasetSection(
        title=dataset.location,
        read_by=f"{read_by} {trees}",
        sizes=_sizes(splits),
        sources=_sources(splits),
        plots=[
            plot
            for name, title, unit, of in _HISTOGRAMS
            if (plot := _plot(f"data-{number}-{name}", dataset, splits, name, title, unit, of))
        ],
        labels=_labels(splits),
    )


def _sizes(splits: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[list[Cell]] = []
    for title, name, form in _ROWS:
        figures = [value(split, name) for split in splits.values()]
        if any(figure is not None for figure in figures):
            rows.append([title, *(NOTHING if figure is None else form.format(figure) for figure in figures)])
    for what in ("dropped", "repaired"):
        reasons = sorted({reason for split in splits.values() for reason in split.get(what, {})})
        rows += [
            [f"{what}: {reason}", *(f"{split.get(what, {}).get(reason, 0):,}" for split in splits.values())]
            for reason in reasons
        ]
    return Table(header=["", *splits], rows=rows)


def _sources(splits: Mapping[str, Mapping[str, Any]]) -> Table | None:
    names = list(dict.fromkeys(name for split in splits.values() for name in split.get("sources", {})))
    if not names:
        return None
    rows: list[list[Cell]] = []
    for name in names:
        licences = [split["sources"][name]["licences"] for split in splits.values() if name in split["sources"]]
        row: list[Cell] = [name, "; ".join(dict.fromkeys(licences))]
        for split in splits.values():
            found = split["sources"].get(name)
            tokens = found["num_tokens"] / split["num_tokens"] if found and split["num_tokens"] else None
            row += [f"{found['num_sentences']:,}", f"{found['num_tokens']:,}"] if found else [NOTHING, NOTHING]
            row.append(percent(tokens))
        rows.append(row)
    header = ["source", "licences", *(title for _ in splits for title in ("sentences", "tokens", "tokens, %"))]
    return Table(header=header, rows=rows, groups=[("", 2), *((name, 3) for name in splits)])


def _labels(splits: Mapping[str, Mapping[str, Any]]) -> Table | None:
    counts = {name: split.get("labels", {}) for name, split in splits.items()}
    train: Mapping[str, int] = next(iter(counts.values()), {})
    labels = sorted(dict.fromkeys(label for of_split in counts.values() for label in of_split))
    if not labels:
        return None
    rows: list[list[Cell]] = []
    for label in sorted(labels, key=lambda label: -train.get(label, 0)):
        row: list[Cell] = [label]
        for of_split in counts.values():
            number, total = of_split.get(label, 0), sum(of_split.values())
            row += [f"{number:,}", percent(number / total) if total else NOTHING]
        rows.append(row)
    header = ["label", *(title for _ in splits for title in ("phrases", "%"))]
    return Table(header=header, rows=rows, groups=[("", 1), *((name, 2) for name in splits)])


def _plot(
    identifier: str,
    dataset: DatasetRecord,
    splits: Mapping[str, Mapping[str, Any]],
    name: str,
    title: str,
    unit: str,
    of: str,
) -> Plot | None:
    histograms = {split: found[name] for split, found in splits.items() if found.get(name)}
    if not histograms:
        return None
    width = -(-max(map(len, histograms.values())) // MAX_POINTS)
    binned = {split: _binned(counts, width) for split, counts in histograms.items()}
    lines = [
        [(i * width + (width - 1) / 2, count / sum(counts)) for i, count in enumerate(counts)]
        for counts in binned.values()
    ]
    rows: list[list[Cell]] = [
        [split, str(i * width) if width == 1 else f"{i * width}\u2013{(i + 1) * width - 1}", f"{count:,}"]
        for split, counts in binned.items()
        for i, count in enumerate(counts)
        if count
    ]
    in_bins = f" Sizes are put together by {width}." if width > 1 else ""
    return Plot(
        title=title,
        svg=distributions(identifier, f"{title} in {dataset.location}", lines, x_label=unit),
        key=[(swatch(i), f"{split}: {sum(counts):,} {of}") for i, (split, counts) in enumerate(binned.items())],
        caption=f"Share of {of} against {unit}.{in_bins} The largest counts all beyond it.",
        sources=[f"inspect {dataset.location} --json"],
        data=Table(header=["split", unit, of], rows=rows),
    )


def _binned(counts: Sequence[int], width: int) -> list[int]:
    return [sum(counts[i : i + width]) for i in range(0, len(counts), width)]
