"""What the benchmarks share: options, interleaved rounds, and the machine that a figure belongs to."""

import argparse
import ctypes
import json
import platform
import random
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from pipeline.runtime.workers import usable_cores


def parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="smaller and within a minute; the same figures")
    options.add_argument("--json", type=Path, help="write the figures here, one flat object")
    return options


def interleaved(runs: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of every round of every run; the runs of a round follow one another.

    Each round has a random order, since a run leaves caches and heap to the next. A first round is not counted.
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
    """Return how many times as fast ``ours`` is, the median over the rounds."""
    return statistics.median(b / a for a, b in zip(seconds[ours], seconds[theirs], strict=True))


def keep_freed_memory() -> None:
    """Let malloc keep what is freed, for this process.

    Arrays of some 100 kB to 32 MB come from the system, page by page and zeroed, or from what was freed before, as
    malloc happens to decide; it is ten times the cost of copying into them, and the same whatever is measured.
    """
    libc = ctypes.CDLL(None)
    trim_threshold, mmap_threshold = -1, -3
    libc.mallopt(trim_threshold, 1 << 30)
    libc.mallopt(mmap_threshold, 1 << 25)


def report(figures: Mapping[str, float], options: argparse.Namespace) -> None:
    """Print the figures with the machine they were measured on; write them where ``--json`` says."""
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
    """Return when and on what this runs."""
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
