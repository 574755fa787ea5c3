"""List the training runs below a folder: the state of each, its best dev loss, and what differs between them.

This module reads only ``run.json``, ``tokenizer.json``, ``history.jsonl`` and ``metrics.jsonl``. A damaged run becomes
a row with an error. To see whether a process is training a run now, this module tries to lock the run, and releases the
lock at once.
"""

import json
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pipeline.runtime.display import table
from pipeline.runtime.metric_rows import METRICS, read_rows
from pipeline.runtime.run_directory import open_run
from pipeline.runtime.run_history import is_held, read_history
from storage.errors import InputError, RnngDistillError

log = logging.getLogger(__name__)

RunState: TypeAlias = Literal["finished", "stopped", "failed", "training", "interrupted"]
"""finished: training completed. stopped: a signal ended it. failed: an error ended it. training: it still runs.
interrupted: it ended without an entry in the history, as after kill -9."""
Differences: TypeAlias = dict[str, dict[str, dict[str, Any]]]
"""``differences[kind][path][name]`` is a value of the run at ``path``: the value of an option, or the first digits of
the sha256 of an input, such as the dataset. Names with equal values in all runs of the kind are left out."""

FINGERPRINT_LENGTH = 12
_HEADER = ("run", "kind", "state", "step", "best dev loss", "perplexity", "at step", "last start")


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRow:
    """A run in the list. A damaged run has only ``path`` and ``error``."""

    path: str
    """Relative to the folder that was searched."""
    kind: str | None = None
    state: RunState | None = None
    reason: str | None = None
    """Why the run is in this state, if the history says so."""
    step: int | None = None
    """Number of steps taken."""
    best_dev_loss: float | None = None
    """Lowest dev cross-entropy in nats per position; for a teacher, joint with the tree."""
    best_dev_perplexity: float | None = None
    best_step: int | None = None
    last_start: str | None = None
    error: str | None = None


def list_runs(folder: Path) -> tuple[list[RunRow], Differences]:
    """Return a row for each run at or below ``folder``, sorted by path, and what differs between runs of a kind.

    Raises:
        InputError: If the folder does not exist.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder, expected one with run directories below it")
    rows, made_by = [], {}
    for path in _run_directories(folder):
        name = path.relative_to(folder).as_posix()
        try:
            row, made_by[name] = _described(path, name)
        except RnngDistillError as error:
            row = RunRow(path=name, error=str(error))
        rows.append(row)
    rows.sort(key=lambda row: row.path)
    return rows, _differences([row for row in rows if row.error is None], made_by)


def runs_as_json(rows: Sequence[RunRow], differences: Differences) -> dict[str, Any]:
    """Return a list of runs as JSON values."""
    return {"runs": [asdict(row) for row in rows], "differences": differences}


def runs_as_text(rows: Sequence[RunRow], differences: Differences) -> str:
    """Return a list of runs as text: a table of runs, then errors, then one table of differences per kind of run."""
    if not rows:
        return "no runs here"
    cells = [
        (
            row.path,
            row.kind,
            row.state or "damaged",
            row.step,
            row.best_dev_loss,
            row.best_dev_perplexity,
            row.best_step,
            row.last_start,
        )
        for row in rows
    ]
    parts = [table(cells, header=_HEADER)]
    reasons = [f"{row.path} failed: {row.reason}" for row in rows if row.state == "failed"]
    reasons += [f"{row.path} is damaged: {row.error}" for row in rows if row.error is not None]
    if reasons:
        parts.append("\n".join(reasons))
    if any(row.kind == "teacher" and row.best_dev_loss is not None for row in rows):
        parts.append(
            "A teacher's dev loss and perplexity are joint with the tree. Do not compare them with a student's."
        )
    for kind, by_run in differences.items():
        names = list(next(iter(by_run.values())))
        values = [(path, *(made[name] for name in names)) for path, made in by_run.items()]
        parts.append(f"What differs between {kind} runs:\n{table(values, header=('run', *names))}")
    return "\n\n".join(parts)


def _run_directories(folder: Path) -> Iterator[Path]:
    """Yield the run directories at or below a folder. Folders inside runs and Zarr stores are not searched."""

    def left_out(error: OSError) -> None:
        log.warning("%s: cannot be read (%s), so runs in it are left out", error.filename, error.strerror)

    for here, subfolders, files in os.walk(folder, onerror=left_out):
        if "run.json" in files:
            yield Path(here)
        if "run.json" in files or "zarr.json" in files:
            subfolders.clear()


def _described(path: Path, name: str) -> tuple[RunRow, dict[str, Any]]:
    """Return the row of a run, and its options and shortened fingerprints by name."""
    run = open_run(path)
    held = is_held(path)
    events = read_history(path)
    starts = [event["time"] for event in events if event["event"] == "start"]
    ends = [event for event in events if event["event"] == "end"]
    last_step, best = _figures(path)
    state: RunState = "training" if held else "interrupted"
    reason = None
    if not held and events and events[-1]["event"] == "end":
        state, reason = events[-1]["state"], events[-1]["reason"]
        last_step = events[-1]["step"] or last_step  # 0: training failed before it read its checkpoint
    elif ends and not held:
        last_step = max(last_step, ends[-1]["step"])
    loss, best_step = best if best is not None else (None, None)
    row = RunRow(
        path=name,
        kind=run.kind,
        state=state,
        reason=reason,
        step=last_step,
        best_dev_loss=loss,
        best_dev_perplexity=math.exp(loss) if loss is not None and loss < math.log(1e300) else None,
        best_step=best_step,
        last_start=starts[-1] if starts else None,
    )
    fingerprints = {
        "dump" if what == "manifest" else what: sha256[:FINGERPRINT_LENGTH]
        for what, sha256 in run.fingerprints.items()
        if isinstance(sha256, str)
    }
    return row, run.configuration | fingerprints


def _figures(run: Path) -> tuple[int, tuple[float, int] | None]:
    """Return the step of the last row of ``metrics.jsonl`` (0 without rows), and the best dev loss with its step."""
    if not (run / METRICS).exists():
        return 0, None
    rows, _ = read_rows(run)
    losses = [(row.get("cross_entropy", row.get("loss")), row["step"]) for row in rows if row["split"] == "dev"]
    best = min(((loss, int(step or 0)) for loss, step in losses if isinstance(loss, float | int)), default=None)
    return (int(rows[-1]["step"] or 0) if rows else 0), best


def _differences(rows: Sequence[RunRow], made_by: Mapping[str, Mapping[str, Any]]) -> Differences:
    """Return options and fingerprints that are not equal in all runs of a kind. A missing value becomes None."""
    found: Differences = {}
    for kind in dict.fromkeys(str(row.kind) for row in rows):
        made = {row.path: made_by[row.path] for row in rows if row.kind == kind}
        names = dict.fromkeys(name for each in made.values() for name in each)
        differing = [
            name for name in names if len({json.dumps([name in each, each.get(name)]) for each in made.values()}) > 1
        ]
        if differing:
            found[kind] = {path: {name: each.get(name) for name in differing} for path, each in made.items()}
    return found
