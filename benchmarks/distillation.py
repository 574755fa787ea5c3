"""What distillation does to students: seeds and controls on one dataset, by the commands that users type.

    python -m benchmarks.distillation --data DATASET --teacher RUN --pairs FOLDER --out FOLDER [--json FILE] [--quick]
        [--seeds 1,2,3] [--jobs 2] [--name LABEL] [-- OPTIONS OF train-student]

For every seed: a baseline; students of the teacher's dump at alpha 0.5, 0.7 and 0.8 (T 1) and at alpha 0.7, T 2; at
alpha 0.7 one whose targets are other positions' (``shuffled``), and one of the baseline's own dump (``born-again``).
All have the same options, and so the same steps. Runs that are there are not made again, so an interrupted study goes
on with the same command. Each process has one thread; JOBS of them at a time.

Of each configuration over the seeds: perplexity a token of dev, best over training and after the last step, and
accuracy on the minimal pairs of the best checkpoint: mean and standard deviation. Differences to the baseline are taken
seed by seed, with the 95 % interval of Student's t for their mean. The rows of all runs go beside FILE, one file a run.
"""

import argparse
import json
import math
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import machine, parser
from pipeline.runtime.display import table

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "baseline"
CONFIGURATIONS = {
    BASELINE: "",
    "alpha 0.5": "--alpha 0.5",
    "alpha 0.7": "--alpha 0.7",
    "alpha 0.8": "--alpha 0.8",
    "alpha 0.7, T 2": "--alpha 0.7 --temperature 2",
    "shuffled": "--alpha 0.7 --targets shuffled",
    "born-again": "--alpha 0.7",
}
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""97.5 % quantile of Student's t by number of seeds."""


def main() -> None:
    """Train, evaluate, print."""
    options = parser(__doc__)
    for name in ("data", "teacher", "pairs", "out"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--seeds", default="1,2,3")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--name", default="", help="what the dataset is called in the results")
    options.add_argument("student", nargs="*", help="options of train-student, after --")
    given = options.parse_args()
    study = Study(given)
    study.run()
    report(study.summary(), given)


class Study:
    """All runs of one dataset."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.seeds = [int(seed) for seed in given.seeds.split(",")][: 2 if given.quick else None]
        if len(self.seeds) not in T_95:
            sys.exit(f"--seeds: {len(self.seeds)} of them, expected {min(T_95)} to {max(T_95)}")
        self._given = given
        self._out: Path = given.out
        self._options = [*given.student, *(["--max-steps", "20"] if given.quick else [])]

    def path(self, configuration: str, seed: int) -> Path:
        """Return the run directory of a configuration and seed."""
        return self._out / f"{configuration.replace(', ', '-').replace(' ', '')}-seed{seed}"

    def run(self) -> None:
        """Make what is not there: the dump, the baselines, then everything else."""
        dumping = ["dump-teacher", "--data", self._given.data, "--device", "cpu"]
        dump = self._out / "dump"
        _command([*dumping, "--teacher", self._given.teacher, "--out", dump, "--temperatures", "1,2"])
        self._parallel([self._trained(BASELINE, seed, None) for seed in self.seeds])
        works = []
        for seed in self.seeds:
            again = self._out / f"born-again-dump-seed{seed}"
            source = self.path(BASELINE, seed)
            works.append(self._born_again([*dumping, "--teacher", source, "--out", again], seed, again))
            works += [
                self._trained(name, seed, dump) for name in CONFIGURATIONS if name not in (BASELINE, "born-again")
            ]
        self._parallel(works)

    def summary(self) -> dict[str, Any]:
        """Return the figures of every configuration."""
        runs = {name: [_figures(self.path(name, seed)) for seed in self.seeds] for name in CONFIGURATIONS}
        return {
            name: {
                figure: {
                    "values": [run[figure] for run in of_name],
                    "mean": statistics.mean(run[figure] for run in of_name),
                    "sd": statistics.stdev(run[figure] for run in of_name),
                    "minus_baseline": _interval(
                        [run[figure] - base[figure] for run, base in zip(of_name, runs[BASELINE], strict=True)]
                    ),
                }
                for figure in of_name[0]
            }
            for name, of_name in runs.items()
        }

    def _parallel(self, works: list[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(self._given.jobs) as pool:
            for done in [pool.submit(work) for work in works]:
                done.result()

    def _trained(self, name: str, seed: int, dump: Path | None) -> Callable[[], None]:
        run = self.path(name, seed)
        training = ["train-student", "--data", self._given.data, "--out", run, "--seed", seed, "--threads", 1]
        training += ["--device", "cpu", *CONFIGURATIONS[name].split(), *self._options]
        training += ["--dump", dump] if dump is not None else []

        def work() -> None:
            _command(training)
            if not list((run / "results").glob("minimal-pairs*.json")):
                _command(["evaluate", "minimal-pairs", run, self._given.pairs, "--device", "cpu"])
            print(f"{run.name}: {_figures(run)}", flush=True)

        return work

    def _born_again(self, dumping: list[object], seed: int, dump: Path) -> Callable[[], None]:
        training = self._trained("born-again", seed, dump)

        def work() -> None:
            _command(dumping)
            training()

        return work


def _figures(run: Path) -> dict[str, float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    losses = [(row["loss"], row["step"], row["epoch"]) for row in rows if row["split"] == "dev"]
    (path,) = (run / "results").glob("minimal-pairs*.json")
    best_loss, best_step, _ = min(losses)
    return {
        "best_dev_perplexity": math.exp(best_loss),
        "best_step": best_step,
        "last_dev_perplexity": math.exp(losses[-1][0]),
        "pairs_accuracy": json.loads(path.read_text())["figures"]["accuracy_macro"],
    }


def _interval(differences: list[float]) -> list[float]:
    """Return the mean and the ends of its 95 % interval."""
    mean = statistics.mean(differences)
    half = T_95[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
    return [mean, mean - half, mean + half]


def report(summary: Mapping[str, Any], given: argparse.Namespace) -> None:
    """Print the table; write the figures, and the rows of all runs, where ``--json`` says."""
    shown = {"best_dev_perplexity": 2, "last_dev_perplexity": 2, "pairs_accuracy": 4}
    rows = []
    for name, figures in summary.items():
        row: list[object] = [name]
        for figure, digits in shown.items():
            found = figures[figure]
            mean, low, high = found["minus_baseline"]
            row.append(f"{found['mean']:.{digits}f} ± {found['sd']:.{digits}f}")
            row.append("" if name == BASELINE else f"{mean:+.{digits}f} ({low:+.{digits}f} to {high:+.{digits}f})")
        rows.append(tuple(row))
    header = ["", *(part for figure in shown for part in (figure, "minus baseline, 95 %"))]
    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    print(table(rows, header=header))
    if given.json:
        about = {"name": given.name, "options": " ".join(given.student), "seeds": given.seeds, **machine()}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps({**about, "configurations": summary}, indent=1) + "\n")
        folder = given.json.with_suffix("")
        folder.mkdir(exist_ok=True)
        for run in sorted(given.out.glob("*/metrics.jsonl")):
            shutil.copyfile(run, folder / f"{run.parent.name}.jsonl")


def _command(arguments: list[object]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


if __name__ == "__main__":
    main()
