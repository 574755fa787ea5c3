"""Describe the datasets of the runs: sizes, sources, labels, and distributions of lengths and heights.

``build-dataset`` stored these statistics with the dataset. A dataset counts as read by a run if the run recorded the
dataset's fingerprint.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from matplotlib.figure import Figure

from pipeline.corpus.dataset.dataset_store import describe_dataset
from pipeline.evaluation.compare.run_records import value
from pipeline.report.drawing import WIDE, drawn, line_style, new_figure, swatch
from pipeline.report.page_blocks import Block, Details, Heading, Paragraph, Plot, Section, TitledTable
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.tables import Cells, Number, Table, percent
from storage.locations import Place

_MAX_POINTS: Final = 50
"""Maximum number of points of a line in a plot. If there are more values, they are put into bins of equal width."""

_HISTOGRAMS: Final = (
    ("tokens", "Length of sentences", "tokens", "sentences"),
    ("heights", "Height of trees", "phrases over the deepest token, including TOP", "sentences"),
    ("children", "Branching", "children of a phrase other than TOP", "phrases"),
)
_ROWS: Final = (
    ("sentences", "num_sentences", ",.0f"),
    ("words", "num_words", ",.0f"),
    ("tokens", "num_tokens", ",.0f"),
    ("documents", "num_documents", ",.0f"),
    ("tokens per word", "tokens_per_word", ".3f"),
    ("bytes per token", "bytes_per_token", ".3f"),
    ("longest sentence, tokens", "longest_sentence", ",.0f"),
    ("mean height", "mean_height", ".2f"),
    ("children per phrase", "mean_children", ".3f"),
    ("share of phrases whose only child is a phrase", "unary_share", ".3f"),
    ("tokens that cross a phrase boundary", "num_crossing_tokens", ",.0f"),
    ("phrases lost because a token crosses their boundary", "num_lost_phrases", ",.0f"),
    ("sentences that are also in dev or test", "num_exact_duplicates", ",.0f"),
    ("sentences that are nearly the same as one in dev or test", "num_near_duplicates", ",.0f"),
    ("sentences that are also in train", "num_in_train", ",.0f"),
)


Descriptions = Mapping[str, Mapping[str, Any]]
"""Results of ``describe_dataset``, by location."""


def read_datasets(locations: Sequence[Place]) -> Descriptions:
    """Describe datasets.

    Raises:
        StoreError: If a dataset is missing or damaged.
    """
    return {str(each): describe_dataset(each) for each in locations}


def data_section(datasets: Descriptions, reported: ReportedRuns) -> Section:
    """Return the section on datasets."""
    blocks: list[Block] = []
    for number, (title, about) in enumerate(datasets.items()):
        blocks += dataset_blocks(number, title, about, reported)
    return Section(name="data", title="Data", blocks=blocks)


def dataset_blocks(number: int, title: str, about: Mapping[str, Any], reported: ReportedRuns) -> list[Block]:
    """Return the blocks about one dataset. ``number`` makes the ids of its plots unique."""
    readers = [run for run in reported.runs if run.fingerprints.get("dataset") == about["sha256"]]
    used = about["vocab_size"] - about["num_entries_not_used"]
    read_by = f"Read by {reported.names(readers)}." if readers else "No run on this page was trained on it."
    note = (
        f"{read_by} Trees: {about['tree_source']}. {used:,} of {about['vocab_size']:,} entries of the tokenizer occur."
    )
    splits = {name: {"sources": {}, **split, **split["statistics"]} for name, split in about["splits"].items()}
    blocks: list[Block] = [
        Heading(title),
        Paragraph(note),
        TitledTable(title=f"{title}: sizes", note=note, table=_sizes(splits)),
    ]
    if (sources := _sources(splits)) is not None:
        blocks.append(TitledTable(title=f"{title}: sources", note=note, table=sources))
    if (labels := _labels(splits)) is not None:
        table = TitledTable(title=f"{title}: labels", note=note, table=labels)
        blocks.append(Details("Labels of phrases other than TOP", [table]))
    for name, plot_title, unit, of_what in _HISTOGRAMS:
        histograms = {split: found[name] for split, found in splits.items() if found.get(name)}
        if histograms:
            blocks.append(_plot(f"data-{number}-{name}", title, histograms, plot_title, unit, of_what))
    return blocks


def _sizes(splits: Mapping[str, Mapping[str, Any]]) -> Table:
    rows: list[Cells] = []
    for title, name, form in _ROWS:
        figures = [value(split, name) for split in splits.values()]
        if any(figure is not None for figure in figures):
            rows.append([title, *(Number(figure, form) for figure in figures)])
    for what in ("dropped", "repaired"):
        reasons = sorted({reason for split in splits.values() for reason in split.get(what, {})})
        rows += [
            [f"{what}: {reason}", *(Number(split.get(what, {}).get(reason, 0), ",") for split in splits.values())]
            for reason in reasons
        ]
    return Table(header=["", *splits], rows=rows)


def _sources(splits: Mapping[str, Mapping[str, Any]]) -> Table | None:
    names = list(dict.fromkeys(name for split in splits.values() for name in split["sources"]))
    if not names:
        return None
    rows: list[Cells] = []
    for name in names:
        licences = [split["sources"][name]["licences"] for split in splits.values() if name in split["sources"]]
        row: Cells = [name, "; ".join(dict.fromkeys(licences))]
        for split in splits.values():
            found = split["sources"].get(name)
            tokens = found["num_tokens"] / split["num_tokens"] if found and split["num_tokens"] else None
            row += [Number(found[count] if found else None, ",") for count in ("num_sentences", "num_tokens")]
            row.append(percent(tokens))
        rows.append(row)
    header = ["source", "licences", *(title for _ in splits for title in ("sentences", "tokens", "tokens, %"))]
    return Table(header=header, rows=rows, groups=[("", 2), *((name, 3) for name in splits)])


def _labels(splits: Mapping[str, Mapping[str, Any]]) -> Table | None:
    counts = {name: split.get("labels", {}) for name, split in splits.items()}
    train: Mapping[str, int] = next(iter(counts.values()), {})
    labels = {label for by_label in counts.values() for label in by_label}
    if not labels:
        return None
    rows: list[Cells] = []
    for label in sorted(labels, key=lambda label: (-train.get(label, 0), label)):
        row: Cells = [label]
        for by_label in counts.values():
            number, total = by_label.get(label, 0), sum(by_label.values())
            row += [Number(number, ","), percent(number / total if total else None)]
        rows.append(row)
    header = ["label", *(title for _ in splits for title in ("phrases", "%"))]
    return Table(header=header, rows=rows, groups=[("", 1), *((name, 2) for name in splits)])


def _plot(
    identifier: str, dataset: str, histograms: Mapping[str, Sequence[int]], title: str, unit: str, of_what: str
) -> Plot:
    """Return a plot with one line per split: how often each size (of sentences, trees or phrases) occurs."""
    width = -(-max(map(len, histograms.values())) // _MAX_POINTS)
    binned = {split: _binned(counts, width) for split, counts in histograms.items()}
    lines = [
        [(i * width + (width - 1) / 2, count / sum(counts)) for i, count in enumerate(counts)]
        for counts in binned.values()
    ]
    rows: list[Cells] = [
        [split, str(i * width) if width == 1 else f"{i * width}\u2013{(i + 1) * width - 1}", Number(count, ",")]
        for split, counts in binned.items()
        for i, count in enumerate(counts)
        if count
    ]

    def draw(width: int) -> Figure:
        figure, axes = new_figure(width, 270, left=48, right=14, top=26, bottom=46)
        axes.yaxis.grid(visible=True)
        for series, line in enumerate(lines):
            axes.plot([x for x, _ in line], [y for _, y in line], **(line_style(series) | {"markersize": 3.5}))
        axes.set_xlim(0, max((x for line in lines for x, _ in line), default=0) * 1.015 + 0.5)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(lambda y, _: f"{100 * y:g} %")
        axes.locator_params(axis="x", nbins=10 if width == WIDE else 5, integer=True)
        axes.locator_params(axis="y", nbins=6)
        axes.set_xlabel(unit, labelpad=5)
        return figure

    in_bins = f" Each point counts {width} neighbouring sizes together." if width > 1 else ""
    return Plot(
        topic=dataset,
        title=title,
        svg=drawn(identifier, f"{title} in {dataset}", draw),
        key=[(swatch(i), f"{split}: {sum(counts):,} {of_what}") for i, (split, counts) in enumerate(binned.items())],
        caption=f"Share of {of_what} by {unit}.{in_bins} The last point also counts all larger sizes.",
        sources=[f"inspect {dataset} --json"],
        data=Table(header=["split", unit, of_what], rows=rows),
    )


def _binned(counts: Sequence[int], width: int) -> list[int]:
    return [sum(counts[i : i + width]) for i in range(0, len(counts), width)]
