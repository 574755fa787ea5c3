"""Describe the dumps from which runs have learned: sizes, kept probability mass and entropies.

These numbers come from the ``run.json`` of the runs that learned from a dump. If the dump is still at the path that a
run recorded, the dump's history is read too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from pipeline.dumping.dump_description import history_events
from pipeline.evaluation.compare.run_records import Row, RunRecord, value
from pipeline.evaluation.perplexity import FLOOR, GIVEN_TREE, MARGINAL, UNCONDITIONAL
from pipeline.report.drawing import INK, MUTED, NARROW, PAPER, colour_of, drawn, line_style, margin, new_figure, swatch
from pipeline.report.page_blocks import Block, Details, Paragraph, Plot, Section, TitledTable
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.tables import NOTHING, AnyCell, Cells, Number, Table, perplexity, size
from pipeline.runtime.run_directory import dump_summaries
from storage.dump.manifest import MANIFEST
from storage.dump.schema import cross_fitted
from storage.fingerprints import sha256_file
from storage.locations import is_url, local_path, open_folder

_DISTRIBUTIONS: Final = {"tree": GIVEN_TREE, "beam": MARGINAL, "none": UNCONDITIONAL, "exact": FLOOR}
"""For each condition of a dump: the distribution whose perplexity the dump records. For example, a dump with the
condition ``beam`` records the perplexity of ``MARGINAL``.

The condition says what made the dump. ``tree``: a teacher that is given the tree. ``beam``: a teacher's beam search.
``none``: a language model without trees. ``exact``: the grammar that wrote the corpus."""
_QUANTILES: Final = ("5", "25", "50", "75", "95")
"""The plot of entropies shows these quantiles, in percent. The strings are keys of ``entropy_nats_quantiles`` in a
dump's statistics."""
_IN_PLOTS: Final = ("kept_mass_by_k", "entropy_nats_quantiles")
_FIRST: Final = (
    "condition", "tree_source", "split", "num_sentences", "num_positions", "k", "selection", "temperatures", "profile",
    "size_bytes", "mean_kept_mass", "mean_kept_mass_without_eos", "mean_entropy_nats", "perplexity",
    "perplexity_without_eos",
)  # fmt: skip
"""The facts that the page shows without a click, in this order."""
_EXPLANATION: Final = (
    "A dump holds the next-token distribution of a teacher at every position: k tokens with their probabilities, and "
    "the probability of all other tokens together. A position is one predicted token or the end of a sentence. "
    "The kept mass is the probability of the k tokens."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpRecord:
    """A dump from which students on the page have learned."""

    title: str
    about: Mapping[str, Any]
    """The dump's schema and statistics, flattened, as recorded in the runs."""
    readers: Sequence[RunRecord]
    history: Sequence[Row]
    """Events of the dump's history, oldest first. Empty if the dump was removed or replaced, or is at a URL."""

    @property
    def commands(self) -> list[str]:
        """The commands that wrote the dump or, if they are unknown, the commands of the runs that learned from it."""
        own = dict.fromkeys(str(event["command"]) for event in self.history if "command" in event)
        return list(own) or list(dict.fromkeys(run.command for run in self.readers))


def dumps_of(reported: ReportedRuns) -> list[DumpRecord]:
    """Return each dump that a run on the page learned from, in the order of the runs."""
    readers: dict[str, tuple[Mapping[str, Any], list[RunRecord]]] = {}
    for run in reported.runs:
        for dump in dump_summaries(run.dump):
            about = {name: item for name, item in dump.items() if name != "weight"}
            about.setdefault("manifest", run.fingerprints.get("manifest"))
            readers.setdefault(json.dumps(about, sort_keys=True), (about, []))[1].append(run)
    paths = [str(about.get("path") or "not recorded") for about, _ in readers.values()]
    names = [path.rstrip("/").rpartition("/")[2] for path in paths]
    titles = names if len(set(names)) == len(names) else [f"{name} {i}" for i, name in enumerate(names, start=1)]
    return [
        DumpRecord(title=title, about=_flat(about), readers=runs, history=_history(path, about.get("manifest")))
        for title, path, (about, runs) in zip(titles, paths, readers.values(), strict=True)
    ]


def dumps_section(reported: ReportedRuns, dumps: Sequence[DumpRecord]) -> Section:
    """Return the section on dumps."""
    if not dumps:
        blocks: list[Block] = [Paragraph("No student here learned from a dump.")]
    else:
        first, rest = _dump_tables(reported, dumps)
        others = TitledTable(title="Dumps, all else", table=rest, style="text")
        blocks = [
            Paragraph(_EXPLANATION),
            TitledTable(title="Dumps", table=first, style="text"),
            Details("Everything else recorded about these dumps", [others], style="data"),
            *_mass_plot(reported, dumps),
            *_entropy_plot(reported, dumps),
        ]
    return Section(name="dumps", title="Dumps", blocks=blocks)


def _dump_tables(reported: ReportedRuns, dumps: Sequence[DumpRecord]) -> tuple[Table, Table]:
    """Return a table of the facts in ``_FIRST`` and a table of all others."""
    names = dict.fromkeys(name for dump in dumps for name in dump.about if name not in _IN_PLOTS)
    header = ["", *(dump.title for dump in dumps)]

    def rows(names: Sequence[str]) -> list[Cells]:
        return [[name.replace("_", " "), *(_dump_cell(dump.about, name) for dump in dumps)] for name in names]

    first = rows([name for name in _FIRST if name in names])
    read_by: Cells = ["read by", *(reported.names(dump.readers) for dump in dumps)]
    rest = rows([name for name in names if name not in _FIRST])
    return Table(header=header, rows=[read_by, *first]), Table(header=header, rows=rest)


def _mass_plot(reported: ReportedRuns, dumps: Sequence[DumpRecord]) -> list[Plot]:
    """Draw the mean mass outside the k' most probable tokens against k', with logarithmic axes."""
    lines = [(dump, masses) for dump in dumps if len(masses := _masses(dump.about.get("kept_mass_by_k"))) > 1]
    if not lines:
        return []
    title = "Probability mass that a smaller k would leave out"

    def draw(width: int) -> Figure:
        figure, axes = new_figure(width, 270, left=56, right=20, top=26, bottom=46)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.yaxis.grid(visible=True)
        for series, (_, masses) in enumerate(lines):
            left_out = [max(1 - mass, 1e-9) for _, mass in masses]
            axes.plot([k for k, _ in masses], left_out, **line_style(series))
        ks = sorted({k for _, masses in lines for k, _ in masses})
        axes.set_xticks(ks, map(str, ks))
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda v, _: f"{100 * v:.6g} %")
        axes.minorticks_off()
        axes.set_xlabel("k\u2032, most probable tokens kept", labelpad=5)
        axes.set_title("mean mass left out", loc="left", size=11.5, color=MUTED, x=-(42 / width), pad=10)
        return figure

    plot = Plot(
        title=title,
        svg=drawn("mass", title, draw),
        key=[(swatch(i), dump.title) for i, (dump, _) in enumerate(lines)],
        caption="Mean over all positions of the dump, at temperature 1. "
        f"{_from(reported, [dump for dump, _ in lines])}",
        sources=[command for dump, _ in lines for command in dump.commands],
        data=Table(
            header=["dump", "k\u2032", "mean mass kept", "left out"],
            rows=[
                [dump.title, Number(k, "d"), Number(mass, ".6f"), Number(max(1 - mass, 0), ".2e")]
                for dump, masses in lines
                for k, mass in masses
            ],
        ),
    )
    return [plot]


def _entropy_plot(reported: ReportedRuns, dumps: Sequence[DumpRecord]) -> list[Plot]:
    """Draw each dump's entropies: line from 5 to 95 %, box from 25 to 75 %, bar at the median, diamond at the mean."""
    strips = []
    for dump in dumps:
        found = dump.about.get("entropy_nats_quantiles")
        quantiles = [value(found, q) for q in _QUANTILES] if isinstance(found, dict) else []
        known = [nats for nats in quantiles if nats is not None]
        if len(known) == len(_QUANTILES) and known == sorted(known):
            strips.append((dump, known, value(dump.about, "mean_entropy_nats")))
    if not strips:
        return []
    title = "Entropy of the dumped distributions"

    def draw(width: int) -> Figure:
        narrow = width == NARROW
        row = 44 if narrow else 34
        left = 8 if narrow else margin((dump.title for dump, _, _ in strips), most=340)
        figure, axes = new_figure(width, 60 + row * len(strips), left=left, right=16, top=8, bottom=46)
        axes.set_ylim(len(strips), 0)
        axes.set_xlim(0, max(max(quantiles) for _, quantiles, _ in strips) * 1.05 or 1)
        axes.xaxis.grid(visible=True)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.locator_params(axis="x", nbins=5 if narrow else 10)
        for i, (dump, (low, first, median, third, high), mean) in enumerate(strips):
            at, half = i + (0.68 if narrow else 0.5), 0.2
            colour = colour_of(i)
            if narrow:
                axes.text(0, i + 0.22, dump.title, ha="left", va="center", size=11.5, color=MUTED)
            else:
                axes.annotate(
                    dump.title, (0, at), xycoords=("axes fraction", "data"), xytext=(-8, 0), textcoords="offset points",
                    ha="right", va="center", size=11.5, color=MUTED,
                )  # fmt: skip
            axes.plot([low, high], [at, at], color=colour, linewidth=1.6, zorder=2)
            axes.barh(at, third - first, left=first, height=2 * half, color=colour, alpha=0.42, zorder=2)
            axes.vlines(median, at - half, at + half, color=INK, linewidth=2, zorder=3)
            if mean is not None:
                axes.plot([mean], [at], color=colour, marker="D", markersize=6, markeredgecolor=PAPER, zorder=4)
        axes.set_xlabel("nats per position", labelpad=5)
        return figure

    plot = Plot(
        title=title,
        svg=drawn("entropy", title, draw),
        key=[],
        caption="Line: 5 to 95 % of positions. Box: 25 to 75 %. Bar: median. Diamond: mean. The entropy is at "
        "temperature 1, over the kept tokens and one bucket for all others. It is a lower bound on the entropy over "
        "the vocabulary. "
        f"{_from(reported, [dump for dump, _, _ in strips])}",
        sources=[command for dump, _, _ in strips for command in dump.commands],
        data=Table(
            header=["dump", "mean", *(f"{q} %" for q in _QUANTILES)],
            rows=[
                [dump.title, Number(mean, ".3f"), *(Number(nats, ".3f") for nats in known)]
                for dump, known, mean in strips
            ],
        ),
    )
    return [plot]


def _from(reported: ReportedRuns, dumps: Sequence[DumpRecord]) -> str:
    return f"From run.json of {reported.names([run for dump in dumps for run in dump.readers])}."


def _history(path: str, manifest_sha256: object) -> Sequence[Row]:
    if is_url(path):
        return []
    manifest = local_path(path) / MANIFEST
    try:
        if not manifest.is_file() or sha256_file(manifest) != manifest_sha256:
            return []
        return history_events(open_folder(path).history())
    except (OSError, ValueError):  # The run was made elsewhere, and this machine has something else at the path.
        return []


def _flat(dump: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dump's schema and statistics on one level.

    A deeper name gets its parent's name in front, as in ``fingerprints: split``.
    """
    flat: dict[str, Any] = {}
    for name, item in dump.items():
        if name in {"schema", "statistics"} and isinstance(item, dict):
            flat |= _flat(item)
        elif isinstance(item, dict) and name not in _IN_PLOTS:
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


def _dump_cell(dump: Mapping[str, Any], name: str) -> AnyCell:
    if name not in dump:
        return NOTHING
    item = dump[name]
    if (figure := value(dump, name)) is None:
        if isinstance(item, list):
            return ", ".join(str(part) for part in item)
        return item if isinstance(item, str) else json.dumps(item, sort_keys=True, ensure_ascii=False)
    if name == "size_bytes":
        per_position = figure / positions if (positions := value(dump, "num_positions")) else None
        return size(figure) + (f", {per_position:,.0f} per position" if per_position else "")
    if name.startswith("perplexity"):
        condition = dump.get("condition", "not recorded")
        distribution = _DISTRIBUTIONS.get(str(condition), f"condition: {condition}")
        names = [each.removeprefix("fingerprints: ") for each in dump]
        return f"{perplexity(figure)} ({distribution}{cross_fitted(names)})"
    return Number(figure, ".6f" if name.startswith("mean_") else ",.10g")
