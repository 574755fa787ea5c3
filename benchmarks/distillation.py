"""Measure the effect of distillation on students, over seeds and with controls, on one dataset, by commands of cli.py.

    python -m benchmarks.distillation --data DATASET --teacher RUN --pairs FOLDER --out FOLDER [--json FILE] [--quick]
        [--seeds 1,2,3] [--jobs 2] [--name LABEL] [-- OPTIONS OF train-student]

For every seed the benchmark trains a baseline, students of the teacher's dump at alpha 0.5, 0.7 and 0.8 (T 1), and a
student at alpha 0.7 and T 2. There are two controls at alpha 0.7: ``shuffled`` gets the targets of other positions, and
``born-again`` learns from a dump of the baseline. All other options are the same, and so are the steps. Runs that exist
are not made again, so the same command continues an interrupted study. Each process has one thread, and JOBS processes
run at a time.

The figures of each student are perplexity per token on dev, best over training and after the last step, and accuracy on
the minimal pairs, of the best checkpoint. Each figure has a mean and a standard deviation over the seeds. The
difference to the baseline is taken seed by seed, with the 95 % interval of Student's t for its mean. The metrics of all
runs are written to a folder next to FILE, one file per run.
"""

import argparse
import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, machine, parser, run_python
from pipeline.evaluation.intervals_and_p_values import mean_over_seeds
from pipeline.runtime.display import table

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


def main() -> None:
    """Train, evaluate and print the figures."""
    options = parser(__doc__)
    for name in ("data", "teacher", "pairs", "out"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--seeds", default="1,2,3")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--name", default="", help="name of the dataset in the results")
    options.add_argument("student", nargs="*", help="options for train-student, after --")
    given = options.parse_args()
    study = Study(given)
    study.run()
    report(study.summary(), given)


class Study:
    """All runs of one dataset."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.seeds = [int(seed) for seed in given.seeds.split(",")][: 2 if given.quick else None]
        if len(self.seeds) < 2:
            sys.exit(f"--seeds: {len(self.seeds)} seed, expected at least 2; give more")
        self._given = given
        self._out: Path = given.out
        self._options = [*given.student, *(["--max-steps", "20"] if given.quick else [])]

    def path(self, configuration: str, seed: int) -> Path:
        """Return the run directory of a configuration and seed."""
        return self._out / f"{configuration.replace(', ', '-').replace(' ', '')}-seed{seed}"

    def run(self) -> None:
        """Make what does not exist yet: the dump, the baselines, then everything else."""
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
            name: {figure: _summary(figure, of_name, runs[BASELINE]) for figure in of_name[0]}
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


def _summary(figure: str, runs: list[dict[str, float]], baselines: list[dict[str, float]]) -> dict[str, Any]:
    """Return a figure over the seeds, and its mean difference to the baseline with the ends of the 95 % interval."""
    values = mean_over_seeds([run[figure] for run in runs])
    minus = mean_over_seeds([run[figure] - base[figure] for run, base in zip(runs, baselines, strict=True)])
    assert minus.interval is not None
    return {
        "values": [run[figure] for run in runs],
        "mean": values.mean,
        "sd": values.standard_deviation,
        "minus_baseline": [minus.mean, minus.interval.low, minus.interval.high],
    }


def report(summary: Mapping[str, Any], given: argparse.Namespace) -> None:
    """Print the table; with ``--json``, also write the figures to that file and the rows of all runs next to it."""
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
    run_python([ROOT / "cli.py", *arguments])


if __name__ == "__main__":
    main()
