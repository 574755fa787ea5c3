"""What the runs say of the dumps they learned from: sizes, mass kept, entropies, and who wrote them when.

Figures are those in the runs' ``run.json``. Of a dump that still lies where a run found it, and is still the same one,
the history beside it is read too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.dumping.dump_description import history_events
from pipeline.evaluation.compare.run_records import Row, RunRecord, value
from pipeline.evaluation.perplexity import GIVEN_TREE, MARGINAL, UNCONDITIONAL
from pipeline.report.charts import left_out_mass, quantile_strips
from pipeline.report.plots import Plot
from pipeline.report.svg import swatch
from pipeline.report.tables import NOTHING, Cell, Comparison, Table, perplexity, size
from storage.dump.manifest import MANIFEST
from storage.fingerprints import sha256_file
from storage.locations import is_url, local_path, open_folder

DISTRIBUTIONS = {"tree": GIVEN_TREE, "beam": MARGINAL, "none": UNCONDITIONAL}
"""What a dump's perplexity is of, by its condition."""
QUANTILES = ("5", "25", "50", "75", "95")
"""Percent, as a dump's statistics name them."""
_FIGURES = ("kept_mass_by_k", "entropy_nats_quantiles")
"""Shown by plots and the tables under them."""
_FIRST = (
    "condition", "tree_source", "split", "num_sentences", "num_positions", "k", "selection", "temperatures", "profile",
    "size_bytes", "mean_kept_mass", "mean_kept_mass_without_eos", "mean_entropy_nats", "perplexity",
    "perplexity_without_eos",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True, slots=True)
class DumpRecord:
    """What the report knows of a dump."""

    title: str
    about: Mapping[str, Any]
    """Its schema and statistics on one level, as the runs have them."""
    readers: Sequence[RunRecord]
    history: Sequence[Row]
    """Events beside it, oldest first; none where it is gone, is another one by now, or lies at a URL."""

    @property
    def commands(self) -> list[str]:
        """The commands that wrote it; those of the runs that read it where its own are not known."""
        own = dict.fromkeys(str(event["command"]) for event in self.history if "command" in event)
        return list(own) or list(dict.fromkeys(run.command for run in self.readers))


def dumps_of(comparison: Comparison) -> list[DumpRecord]:
    """Return each distinct dump that a run on the page read, once, in the order of the runs."""
    readers: dict[str, list[RunRecord]] = {}
    for run in comparison.runs:
        if run.dump is not None:
            readers.setdefault(json.dumps(run.dump, sort_keys=True), []).append(run)
    paths = [str((runs[0].dump or {}).get("path") or "not recorded") for runs in readers.values()]
    names = [path.rstrip("/").rpartition("/")[2] for path in paths]
    titles = names if len(set(names)) == len(names) else [f"{name} {i}" for i, name in enumerate(names, start=1)]
    return [
        DumpRecord(title=title, about=_flat(runs[0].dump or {}), readers=runs, history=_history(path, runs[0]))
        for title, path, runs in zip(titles, paths, readers.values(), strict=True)
    ]


def dump_tables(comparison: Comparison, dumps: Sequence[DumpRecord]) -> tuple[Table, Table]:
    """Return what tells dumps apart, and all else that the runs say of them; a column a dump."""
    names = dict.fromkeys(name for dump in dumps for name in dump.about if name not in _FIGURES)
    header = ["", *(dump.title for dump in dumps)]

    def rows(names: Sequence[str]) -> list[list[Cell]]:
        return [[name.replace("_", " "), *(_dump_cell(dump.about, name) for dump in dumps)] for name in names]

    first = rows([name for name in _FIRST if name in names])
    read_by: list[Cell] = ["read by", *(comparison.names(dump.readers) for dump in dumps)]
    rest = rows([name for name in names if name not in _FIRST])
    return Table(header=header, rows=[read_by, *first]), Table(header=header, rows=rest)


def dump_plots(comparison: Comparison, dumps: Sequence[DumpRecord]) -> list[Plot]:
    """Return the mass that a smaller k would leave out, and the entropies, as far as the runs say them."""
    return [plot for plot in (_mass_plot(comparison, dumps), _entropy_plot(comparison, dumps)) if plot]


def _mass_plot(comparison: Comparison, dumps: Sequence[DumpRecord]) -> Plot | None:
    lines = [(dump, masses) for dump in dumps if len(masses := _masses(dump.about.get("kept_mass_by_k"))) > 1]
    if not lines:
        return None
    title = "Probability mass that a smaller k would leave out"
    return Plot(
        title=title,
        svg=left_out_mass("mass", title, [masses for _, masses in lines]),
        key=[(swatch(i), dump.title) for i, (dump, _) in enumerate(lines)],
        caption="Mean over all positions of the dump, at temperature 1. "
        f"{_from(comparison, [dump for dump, _ in lines])}",
        sources=[command for dump, _ in lines for command in dump.commands],
        data=Table(
            header=["dump", "k\u2032", "mean mass kept", "left out"],
            rows=[
                [dump.title, str(k), f"{mass:.6f}", f"{max(1 - mass, 0):.2e}"]
                for dump, masses in lines
                for k, mass in masses
            ],
        ),
    )


def _entropy_plot(comparison: Comparison, dumps: Sequence[DumpRecord]) -> Plot | None:
    strips = []
    for dump in dumps:
        found = dump.about.get("entropy_nats_quantiles")
        quantiles = [value(found, q) for q in QUANTILES] if isinstance(found, dict) else []
        known = [nats for nats in quantiles if nats is not None]
        if len(known) == len(QUANTILES) and known == sorted(known):
            strips.append((dump, known, value(dump.about, "mean_entropy_nats")))
    if not strips:
        return None
    title = "Entropy of the dumped distributions"
    return Plot(
        title=title,
        svg=quantile_strips(
            "entropy", title, [(dump.title, known, mean) for dump, known, mean in strips], x_label="nats a position"
        ),
        key=[],
        caption="Line: 5 to 95 % of positions; box: 25 to 75 %; bar: median; diamond: mean. At temperature 1, of the "
        "tokens kept and one bucket for all others: a lower bound on the entropy over the vocabulary. "
        f"{_from(comparison, [dump for dump, _, _ in strips])}",
        sources=[command for dump, _, _ in strips for command in dump.commands],
        data=Table(
            header=["dump", "mean", *(f"{q} %" for q in QUANTILES)],
            rows=[
                [dump.title, NOTHING if mean is None else f"{mean:.3f}", *(f"{nats:.3f}" for nats in known)]
                for dump, known, mean in strips
            ],
        ),
    )


def _from(comparison: Comparison, dumps: Sequence[DumpRecord]) -> str:
    return f"From run.json of {comparison.names([run for dump in dumps for run in dump.readers])}."


def _history(path: str, run: RunRecord) -> Sequence[Row]:
    if is_url(path):
        return []
    manifest = local_path(path) / MANIFEST
    try:
        if not manifest.is_file() or sha256_file(manifest) != run.fingerprints.get("manifest"):
            return []
        return history_events(open_folder(path).history())
    except (OSError, ValueError):  # a path that names nothing here, as of a run that was made elsewhere
        return []


def _flat(dump: Mapping[str, Any]) -> dict[str, Any]:
    """Return the dump's schema and statistics on one level; what is nested deeper is named by its parent too."""
    flat: dict[str, Any] = {}
    for name, item in dump.items():
        if name in {"schema", "statistics"} and isinstance(item, dict):
            flat |= _flat(item)
        elif isinstance(item, dict) and name not in _FIGURES:
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
        per_position = figure / positions if (positions := value(dump, "num_positions")) else None
        return size(figure) + (f", {per_position:,.0f} a position" if per_position else "")
    if name.startswith("perplexity"):
        condition = dump.get("condition", "not recorded")
        return f"{perplexity(figure)} ({DISTRIBUTIONS.get(str(condition), f'condition: {condition}')})"
    return f"{figure:.6f}" if name.startswith("mean_") else f"{figure:,.10g}"
