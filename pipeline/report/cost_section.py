"""What runs and dumps cost: time, speed, machine, bytes; and what is paid once against what each student costs.

Time of a run is its ``elapsed_s``: training with its evaluations on dev, over all processes that trained it one after
another; what an interrupted one did after its last checkpoint is not in it. Time of a dump is that between the events
``begin`` and ``complete`` of its history: calls that were interrupted left no end, so that it is at least that.
"""

import datetime as dt
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from pipeline.evaluation.compare.run_records import Row, RunRecord, value
from pipeline.report.dump_section import DumpRecord
from pipeline.report.tables import NOTHING, Cell, Comparison, Table, duration, size


@dataclass(frozen=True, kw_only=True, slots=True)
class Cost:
    """What one run or dump cost; None and empty for what is not recorded."""

    label: str | Markup
    kind: str
    """``teacher``, ``dump`` or ``student``."""
    devices: Sequence[str]
    processes: Sequence[str]
    """Number of processes, each distinct one of its starts."""
    num_starts: int
    steps: float | None
    positions: float | None
    seconds: float | None
    is_whole: bool
    """Whether ``seconds`` is all of it."""
    size_bytes: float | None


def costs_of(comparison: Comparison, dumps: Sequence[DumpRecord]) -> list[Cost]:
    """Return the costs of teachers, then of dumps, then of students."""
    teachers, students = comparison.of_kind("teacher"), comparison.of_kind("student")
    return [
        *(_of_run(comparison, run) for run in teachers),
        *(_of_dump(dump) for dump in dumps),
        *(_of_run(comparison, run) for run in students),
    ]


def cost_table(costs: Sequence[Cost]) -> Table:
    """Return a row for each run and dump; the bars in it are its share of the longest time."""
    longest = max((cost.seconds for cost in costs if cost.seconds is not None), default=0)
    header = ["", "time", "positions/s", "steps", "positions", "processes", "device", "stored"]
    return Table(header=header, rows=[_row(cost, longest) for cost in costs])


def cost_summary(costs: Sequence[Cost]) -> Table:
    """Return the time of what is done once, and of the students that share it."""
    rows: list[list[Cell]] = []
    for kind, title in (("teacher", "teachers, once"), ("dump", "dumps, once"), ("student", "students")):
        of_kind = [cost for cost in costs if cost.kind == kind]
        known = [cost.seconds for cost in of_kind if cost.seconds is not None]
        if of_kind:
            at_least = "" if all(cost.is_whole for cost in of_kind) else "at least "
            rows.append(
                [
                    title,
                    f"{len(of_kind):,}",
                    at_least + duration(sum(known)) if known else NOTHING,
                    at_least + duration(sum(known) / len(known)) if known else NOTHING,
                    f"{len(of_kind) - len(known):,}",
                ]
            )
    return Table(header=["", "number", "time in all", "mean time of each", "not recorded"], rows=rows)


def seconds_of_dump(history: Sequence[Row]) -> tuple[float | None, bool]:
    """Return the seconds between begins and completes, None where there are none, and whether no call lacks its end."""
    seconds, begun, is_whole = None, None, True
    for event in history:
        at = _time(event)
        if event.get("event") == "begin":
            is_whole = is_whole and begun is None
            begun = at
        elif event.get("event") == "complete" and begun is not None and at is not None:
            seconds, begun = (seconds or 0.0) + (at - begun).total_seconds(), None
    return seconds, is_whole and begun is None


def _of_run(comparison: Comparison, run: RunRecord) -> Cost:
    return Cost(
        label=comparison.label(run),
        kind=run.kind,
        devices=_distinct(run.starts, "device"),
        processes=_distinct(run.starts, "world_size"),
        num_starts=len(run.starts),
        steps=value(run.last, "step"),
        positions=value(run.last, "positions"),
        seconds=value(run.last, "elapsed_s"),
        is_whole=True,
        size_bytes=None,
    )


def _of_dump(dump: DumpRecord) -> Cost:
    begins = [event for event in dump.history if event.get("event") == "begin"]
    seconds, is_whole = seconds_of_dump(dump.history)
    device = dump.about.get("computation: device")
    return Cost(
        label=Markup("{} <small>dump</small>").format(dump.title),
        kind="dump",
        devices=[str(device)] if device is not None else [],
        processes=_distinct(begins, "world_size"),
        num_starts=len(begins),
        steps=None,
        positions=value(dump.about, "num_positions"),
        seconds=seconds,
        is_whole=is_whole,
        size_bytes=value(dump.about, "size_bytes"),
    )


def _row(cost: Cost, longest: float) -> list[Cell]:
    seconds, positions = cost.seconds, cost.positions
    time: Cell = NOTHING
    if seconds is not None:
        share = 100 * seconds / longest if longest else 0
        time = Markup('<span class="meter"><span style="width:{}%"></span></span>{}').format(
            f"{share:.0f}", ("" if cost.is_whole else "at least ") + duration(seconds)
        )
    stored: Cell = NOTHING
    if cost.size_bytes is not None:
        stored = size(cost.size_bytes).partition(" (")[0]
        if positions:
            stored = Markup("{} <small>{:,.0f} bytes a position</small>").format(stored, cost.size_bytes / positions)
    devices: Cell = ", then ".join(cost.devices) or NOTHING
    if cost.num_starts > 1:
        devices = Markup("{} <small>{}</small>").format(devices, f"{cost.num_starts:,} starts")
    return [
        cost.label,
        time,
        f"{positions / seconds:,.0f}" if positions and seconds and cost.is_whole else NOTHING,
        NOTHING if cost.steps is None else f"{cost.steps:,.0f}",
        NOTHING if positions is None else f"{positions:,.0f}",
        ", then ".join(cost.processes) or NOTHING,
        devices,
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
