"""Show the cost of runs and dumps: time, speed, machine and bytes, and which costs are paid only once.

The time of a run is its ``elapsed_s``: training and evaluations on dev, summed over all its starts. It excludes what
an interrupted process did after its last checkpoint. The time of a dump is the time between the events ``begin`` and
``complete`` of its history. If ``dump-teacher`` was interrupted, a ``begin`` has no ``complete``, and the time is a
lower bound.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pipeline.evaluation.compare.run_records import Row, value
from pipeline.report.dump_section import DumpRecord
from pipeline.report.page_blocks import Block, Paragraph, Section, TitledTable
from pipeline.report.reported_runs import ReportedRuns
from pipeline.report.tables import NOTHING, AnyCell, Cell, Cells, Number, Table, duration, size

_COST_NOTE: Final = (
    "The time of a run includes evaluations on dev, and is summed over all its starts. positions/s is the "
    "mean over this time. The time of a dump comes from its history, if the history is still next to the dump. "
    "Sources: run.json, metrics.jsonl and history.jsonl of each run. The commands are under Runs."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """The cost of one run or dump. A field that was not recorded is None or an empty sequence."""

    label: Cell
    kind: str
    """``teacher``, ``dump`` or ``student``."""
    starts: Sequence[Row]
    """Events of the history: each ``start`` of a run, or each ``begin`` of a dump."""
    devices: Sequence[str]
    steps: float | None = None
    positions: float | None
    seconds: float | None
    is_whole: bool = True
    """Whether ``seconds`` is the whole time and not a lower bound."""
    size_bytes: float | None = None


def costs_section(reported: ReportedRuns, dumps: Sequence[DumpRecord]) -> Section:
    """Return the section on costs."""
    costs = costs_of(reported, dumps)
    blocks: list[Block] = [
        Paragraph(_COST_NOTE),
        TitledTable(title="Costs in all", note=_COST_NOTE, table=cost_summary(costs)),
        TitledTable(title="Costs", table=cost_table(costs), style="costs"),
    ]
    return Section(name="costs", title="Costs", blocks=blocks)


def costs_of(reported: ReportedRuns, dumps: Sequence[DumpRecord]) -> list[Cost]:
    """Return the costs of teachers, then of dumps, then of students."""
    of_runs = [
        Cost(
            label=reported.label(run),
            kind=run.kind,
            starts=run.starts,
            devices=_distinct(run.starts, "device"),
            steps=value(run.last, "step"),
            positions=value(run.last, "positions"),
            seconds=value(run.last, "elapsed_s"),
        )
        for run in reported.runs
    ]
    of_dumps = []
    for dump in dumps:
        seconds, is_whole = seconds_of_dump(dump.history)
        of_dumps.append(
            Cost(
                label=Cell(dump.title, note="dump"),
                kind="dump",
                starts=[event for event in dump.history if event.get("event") == "begin"],
                devices=_distinct([dump.about], "computation: device"),
                positions=value(dump.about, "num_positions"),
                seconds=seconds,
                is_whole=is_whole,
                size_bytes=value(dump.about, "size_bytes"),
            )
        )
    return sorted([*of_runs, *of_dumps], key=lambda cost: ("teacher", "dump", "student").index(cost.kind))


def cost_table(costs: Sequence[Cost]) -> Table:
    """Return one row per run and dump, with bars relative to the longest time."""
    longest = max((cost.seconds for cost in costs if cost.seconds is not None), default=0)
    header = ["", "time", "positions/s", "steps", "positions", "processes", "device", "stored"]
    return Table(header=header, rows=[_row(cost, longest) for cost in costs])


def cost_summary(costs: Sequence[Cost]) -> Table:
    """Return the time of teachers and dumps, which are made once, and of the students that share them."""
    rows: list[Cells] = []
    for kind, title in (("teacher", "teachers, once"), ("dump", "dumps, once"), ("student", "students")):
        of_kind = [cost for cost in costs if cost.kind == kind]
        known = [cost.seconds for cost in of_kind if cost.seconds is not None]
        if of_kind:
            at_least = "" if all(cost.is_whole for cost in of_kind) else "at least "
            rows.append(
                [
                    title,
                    Number(len(of_kind), ","),
                    at_least + duration(sum(known)) if known else NOTHING,
                    at_least + duration(sum(known) / len(known)) if known else NOTHING,
                    Number(len(of_kind) - len(known), ","),
                ]
            )
    return Table(header=["", "number", "time in all", "mean time of each", "not recorded"], rows=rows)


def seconds_of_dump(history: Sequence[Row]) -> tuple[float | None, bool]:
    """Return the seconds from ``begin`` to ``complete``, summed, and whether every ``begin`` has a ``complete``."""
    seconds, begun, is_whole = None, None, True
    for event in history:
        at = _time(event)
        if event.get("event") == "begin":
            is_whole = is_whole and begun is None
            begun = at
        elif event.get("event") == "complete" and begun is not None and at is not None:
            seconds, begun = (seconds or 0.0) + (at - begun).total_seconds(), None
    return seconds, is_whole and begun is None


def _row(cost: Cost, longest: float) -> Cells:
    seconds, positions = cost.seconds, cost.positions
    time: AnyCell = NOTHING
    if seconds is not None:
        text = ("" if cost.is_whole else "at least ") + duration(seconds)
        time = Cell(text, bar=seconds / longest if longest else 0)
    stored: AnyCell = NOTHING
    if cost.size_bytes is not None:
        note = f"{cost.size_bytes / positions:,.0f} bytes per position" if positions else ""
        stored = Cell(size(cost.size_bytes).partition(" (")[0], note=note)
    return [
        cost.label,
        time,
        Number(positions / seconds if positions and seconds and cost.is_whole else None, ",.0f"),
        Number(cost.steps, ",.0f"),
        Number(positions, ",.0f"),
        ", then ".join(_distinct(cost.starts, "world_size")) or NOTHING,
        Cell(
            ", then ".join(cost.devices) or NOTHING, note=f"{len(cost.starts):,} starts" if len(cost.starts) > 1 else ""
        ),
        stored,
    ]


def _distinct(events: Sequence[Row], name: str) -> list[str]:
    return list(dict.fromkeys(str(event[name]) for event in events if isinstance(event.get(name), str | int)))


def _time(event: Row) -> dt.datetime | None:
    try:
        at = dt.datetime.fromisoformat(str(event.get("time")))
    except ValueError:
        return None
    return at if at.tzinfo is not None else None
