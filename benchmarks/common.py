"""Share code among benchmarks: options, interleaved rounds, subprocesses, and a report that describes the machine."""

import argparse
import ctypes
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from pipeline.runtime.workers import usable_cores

ROOT = Path(__file__).resolve().parents[1]


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="measure less, so that it takes less than a minute")
    options.add_argument("--json", type=Path, help="also write the figures to this file, as JSON")
    return options


def use_one_thread() -> None:
    """Let torch compute in one thread, and treat subnormal numbers as 0, as in commands (`subnormals_as_zero`)."""
    import torch

    torch.set_flush_denormal(True)
    torch.set_num_threads(1)


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Call each function of ``runs`` once per round. For each name in ``runs``, return the seconds of every call.

    The order within a round is random, because each function inherits the caches and the heap of the previous one. An
    additional first round is not counted.
    """
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    generator, names = random.Random(1), list(runs)  # noqa: S311
    for number in range(-1, rounds):
        generator.shuffle(names)
        for name in names:
            start = time.perf_counter()
            runs[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def ratio(seconds: Mapping[str, list[float]], ours: str, theirs: str) -> float:
    """Return seconds of ``theirs`` / seconds of ``ours``, the median over rounds. Above 1, ``ours`` is faster."""
    return statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))


def keep_freed_memory() -> None:
    """Make malloc keep the memory that this process has freed.

    Otherwise malloc sometimes takes the memory for an array of 100 kB to 32 MB from the system. The system zeroes new
    memory page by page, which takes ten times as long as copying into the array.
    """
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3
    libc.mallopt(trim_threshold, 1 << 30)
    libc.mallopt(mmap_threshold, 1 << 25)


def run_python(arguments: Iterable[object], *, num_processes: int = 1) -> str:
    """Run Python with these arguments, one thread per process, and return what it prints.

    If Python fails, this process prints the error output and ends.
    """
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", num_processes]
    command = [sys.executable, *(torchrun if num_processes > 1 else []), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    return done.stdout


def train(command: str, out: Path, arguments: Iterable[object], *, num_processes: int) -> list[dict[str, Any]]:
    """Run a training command on the CPU, one thread per process. Return the ``train`` rows of its metrics.jsonl."""
    options = ["--out", out, "--threads", 1, "--device", "cpu", *arguments]
    run_python([ROOT / "cli.py", command, *options], num_processes=num_processes)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if row["split"] == "train"]


def report(figures: Mapping[str, float], options: argparse.Namespace) -> None:
    """Print the figures and the machine; with ``--json``, also write them to that file."""
    about = machine()
    print("; ".join(f"{name} {value}" for name, value in about.items()))
    for name, value in figures.items():
        print(f"{name:<44}{value:>16,.4g}" if abs(value) < 1000 else f"{name:<44}{value:>16,.0f}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(
            json.dumps({**figures, **{f"machine_{k}": v for k, v in about.items()}}, indent=2) + "\n"
        )


def machine() -> dict[str, str | int]:
    """Return the date, the machine and the versions of the libraries."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    names = [name for name in ("torch", "numpy", "zarr", "numcodecs") if _installed(name)]
    return {
        "date": datetime.now(tz=UTC).date().isoformat(),
        "cpu": model,
        "cores": usable_cores(),
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in names},
    }


def _installed(name: str) -> bool:
    return bool(list(metadata.distributions(name=name)))
