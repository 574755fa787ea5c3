"""Compare the rate of training a student on a quiet machine with the rate while its cores are busy.

    python -m benchmarks.busy [--quick] [--json FILE]

A student of 4 transformer blocks of size 128 trains on batches of 1,024 positions of the sample corpus, with one thread
per core. On the busy machine, one other process per core computes without end. Start this benchmark on a machine that
has nothing else to do.

kept_share            Positions per second on the busy machine / on the quiet machine. OpenMP has the setting that
                      cli.py chooses for all commands. With it, a waiting thread spins for microseconds only.
kept_share_spinning   The same ratio with OpenMP's default setting: a waiting thread spins for milliseconds.
quiet_ratio           Positions per second on the quiet machine: with the commands' setting / with OpenMP's default.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import ROOT, parser, report
from benchmarks.dump import sample_dataset
from pipeline.runtime.workers import usable_cores

SIZES = ("--embed-dim", "128", "--num-blocks", "4", "--num-heads", "4", "--batch-tokens", "1024")
OPENMP = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
SETTINGS = {"": {}, "_spinning": {"GOMP_SPINCOUNT": "300000"}}
"""Environment variables of the two OpenMP settings. Without variables, the command chooses its own setting. The
variable of ``_spinning`` restores the default of GNU OpenMP, which torch uses on Linux."""


def main() -> None:
    """Measure and print the figures."""
    given = parser(__doc__).parse_args()
    rounds = 1 if given.quick else 4
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        sample_dataset(Path(folder), num_sentences=1000)
        for _ in range(rounds):
            for name, setting in SETTINGS.items():
                rates.setdefault(f"quiet{name}", []).append(rate(Path(folder), 120, setting))
                # OpenMP's default setting gets only 10 steps: on the busy machine, each takes several seconds.
                with busy_processes(usable_cores()):
                    rates.setdefault(f"busy{name}", []).append(rate(Path(folder), 10 if setting else 60, setting))
    median = {name: statistics.median(found) for name, found in rates.items()}
    figures = {
        "kept_share": median["busy"] / median["quiet"],
        "kept_share_spinning": median["busy_spinning"] / median["quiet_spinning"],
        "quiet_ratio": median["quiet"] / median["quiet_spinning"],
        **{f"{name}_positions_per_s": value for name, value in median.items()},
    }
    report(figures, given)


def rate(folder: Path, steps: int, setting: dict[str, str]) -> float:
    """Train a student. Return its positions per second, the median over stretches of ten steps, without the first."""
    out = folder / f"run-{time.monotonic_ns()}"
    arguments = ["train-student", "--data", folder / "dataset", "--out", out, "--device", "cpu", *SIZES]
    command = [sys.executable, ROOT / "cli.py", *arguments, "--max-steps", steps + 10, "--log-every", 10]
    inherited = {name: value for name, value in os.environ.items() if name not in OPENMP}
    environment = inherited | setting
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return statistics.median(row["positions_per_s"] for row in [r for r in rows if r["split"] == "train"][1:])


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Run ``number`` processes that compute without end."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
