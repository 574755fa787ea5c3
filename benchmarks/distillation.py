"""Train students with and without distillation, and controls, with several seeds on one dataset, and compare them.

    python -m benchmarks.distillation --data DATASET --teacher RUN --pairs FOLDER --out FOLDER [--json FILE] [--quick]
        [--alphas 0.5] [--seeds 1,2,3] [--jobs 2] [--split test] [--suites FOLDER] [--oracle CORPUS] [--beam 10,5]
        [--folds RUN,RUN,...] [--right DATASET,RUN] [--mixture] [--first-seed-only NAME,...] [--name LABEL]
        [-- OPTIONS OF train-student]

The benchmark trains these students, with the same options, number of steps and order of data:

baseline            without a dump
alpha A             with the teacher's dump and alpha A. All values of --alphas are tried with the first seed. The one
                    with the lowest loss on dev is trained with all seeds. With --beam, the dump is made by beam search,
                    which does not see the dataset's trees. Without --beam, the distributions in the dump depend on
                    these trees.
shuffled            with the teacher's dump, but each position gets the targets of another position
born-again          with a dump in which the baseline of the same seed is the teacher
oracle              only with --oracle: with the exact distributions of the grammar that wrote the corpus. No teacher
                    can be better.
given-the-tree      only with --beam: with a second dump of the teacher, made without beam search
folds               only with --folds: with a dump of several teachers. Each teacher left one fold out of its training
                    and gives the distributions for the sentences of this fold.
right-branching     only with --right: with the dump of a teacher that was trained on right-branching trees. The student
                    is trained on the dataset named with this teacher, and the dump is made given its trees. They tell
                    only where a sentence ends.
mixture             only with --mixture: with two dumps, the teacher's and the baseline's. The target is their mean.

All students below ``alpha A`` have the chosen alpha. They are trained with all seeds, except for those that
--first-seed-only names. The choice favours the distilled students a little: it is made for them, and on dev.

Runs, dumps and results that exist are not made again, so the same command continues an interrupted study. If another
value of --alphas is added, the chosen alpha may change. Then give another --out, or remove the students with the old
one. Each process has one thread, and JOBS processes run at a time.

Each student's best checkpoint is evaluated: perplexity per token on SPLIT, accuracy on the minimal pairs and, with
--suites, on SyntaxGym. Each figure has a mean and a standard deviation over the seeds. Two students are compared seed
by seed, and the mean of the differences has a 95 % interval by Student's t. One seed has no interval. Perplexities
are compared by their logarithms, and the difference is given in percent. With --json, the metrics.jsonl of each run is
copied to a folder next to FILE.
"""

import argparse
import json
import math
import shlex
import shutil
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from benchmarks.common import ROOT, machine, parser, run_python
from pipeline.evaluation.intervals_and_p_values import mean_over_seeds
from pipeline.evaluation.perplexity import UNCONDITIONAL
from pipeline.evaluation.results import load_results
from pipeline.runtime.display import configure_logging, table
from pipeline.runtime.progress import Progress

BASELINE, SHUFFLED, BORN_AGAIN, RIGHT, MIXTURE = "baseline", "shuffled", "born-again", "right-branching", "mixture"
CONTROLS = (BASELINE, SHUFFLED, BORN_AGAIN, RIGHT)
PERPLEXITIES = ("best_dev_perplexity", "perplexity")


def main() -> None:
    """Train, evaluate and print the figures."""
    options = parser(__doc__)
    for name in ("data", "teacher", "pairs", "out"):
        options.add_argument(f"--{name}", type=Path, required=True)
    options.add_argument("--alphas", default="0.5")
    options.add_argument("--seeds", default="1,2,3")
    options.add_argument("--jobs", type=int, default=2)
    options.add_argument("--split", default="test", help="the split on which perplexity is measured")
    options.add_argument("--suites", type=Path, help="folder of SyntaxGym suites")
    options.add_argument("--oracle", type=Path, help="folder that sample-corpus wrote")
    options.add_argument("--beam", help="beam and word beam, such as 10,5")
    options.add_argument("--folds", help="one teacher per fold, trained without this fold")
    options.add_argument("--right", help="dataset of right-branching trees, and the run of its teacher")
    options.add_argument("--mixture", action="store_true", help="also train students of two dumps")
    options.add_argument("--first-seed-only", default="", help="students to train with the first seed only")
    options.add_argument("--name", default="", help="name of the dataset in the results")
    options.add_argument("student", nargs="*", help="options for train-student, after --")
    given = options.parse_args()
    configure_logging()
    study = Study(given)
    study.run()
    report(study, given)


class Study:
    """All dumps, students and evaluations of a study."""

    def __init__(self, given: argparse.Namespace) -> None:
        self.seeds = [int(seed) for seed in given.seeds.split(",")][: 2 if given.quick else None]
        if len(self.seeds) < 2:
            sys.exit(f"--seeds: {len(self.seeds)} seed, expected at least 2; give more")
        self._given = given
        self._out: Path = given.out
        self._options = [*given.student, *(["--max-steps", "20"] if given.quick else [])]
        # For each dump, by name: its dataset, its teachers, and options of dump-teacher.
        tree: tuple[Path, list[Path], list[str]] = (given.data, [given.teacher], [])
        self._dumps = {"dump": tree}
        if given.oracle:
            self._dumps["oracle"] = (given.data, [given.oracle], [])
        if given.beam:
            beam, word_beam = given.beam.split(",")
            search = ["--condition", "beam", "--beam", beam, "--word-beam", word_beam]
            self._dumps |= {"dump": (given.data, [given.teacher], search), "given-the-tree": tree}
        if given.folds:
            self._dumps["folds"] = (given.data, [Path(run) for run in given.folds.split(",")], [])
        if given.right:
            data, run = map(Path, given.right.split(","))
            self._dumps[RIGHT] = (data, [run], [])
        self._alphas = {f"alpha {alpha}": alpha for alpha in given.alphas.split(",")}
        self.distilled = next(iter(self._alphas))
        self._others = [SHUFFLED, BORN_AGAIN, *(name for name in self._dumps if name != "dump")]
        if given.mixture:
            self._others.append(MIXTURE)
        self._first_seed_only = set(filter(None, given.first_seed_only.split(",")))
        if unknown := self._first_seed_only - set(self._others):
            sys.exit(f"--first-seed-only: {', '.join(sorted(unknown))} is unknown, expected {', '.join(self._others)}")

    def path(self, configuration: str, seed: int) -> Path:
        """Return the run directory of a student, such as ``alpha 0.5``, with a seed."""
        return self._out / f"{configuration.replace(' ', '')}-seed{seed}"

    def run(self) -> None:
        """Make what does not exist yet: dumps, baselines, a student per alpha, then all others."""
        self._parallel("dumps", [self._dumped(self._out / name, *source) for name, source in self._dumps.items()])
        baselines = [self._trained(BASELINE, seed, self._given.data, []) for seed in self.seeds]
        self._parallel("baselines", baselines)
        first = self.seeds[0]
        self._parallel("values of alpha", [self._distilled(name, first) for name in self._alphas])
        self.distilled = min(self._alphas, key=lambda name: _best_on_dev(self.path(name, first))["loss"])
        needing = [name for name in self._others if name in (BORN_AGAIN, MIXTURE)]
        taught = sorted({seed for name in needing for seed in self._seeds(name)})
        dumps = [
            self._dumped(self._dump_of_baseline(s), self._given.data, [self.path(BASELINE, s)], []) for s in taught
        ]
        self._parallel("dumps of baselines", dumps)
        names = [self.distilled, *self._others]
        students = [(name, seed) for seed in self.seeds for name in names if seed in self._seeds(name)]
        students.remove((self.distilled, first))  # it has been trained
        self._parallel("students", [self._distilled(name, seed) for name, seed in students])

    def figures(self) -> dict[str, list[dict[str, float]]]:
        """Return the figures of every student by its name, one dict per seed, in the order of the seeds."""
        names = [BASELINE, *self._alphas, *self._others]
        return {name: [self._figures(self.path(name, seed)) for seed in self._seeds(name)] for name in names}

    def _seeds(self, name: str) -> list[int]:
        """Return the seeds with which a student is trained."""
        is_first_only = name in self._first_seed_only or (name in self._alphas and name != self.distilled)
        return self.seeds[:1] if is_first_only else self.seeds

    def _dump_of_baseline(self, seed: int) -> Path:
        return self._out / f"{BORN_AGAIN}-dump-seed{seed}"

    def _distilled(self, name: str, seed: int) -> Callable[[], None]:
        """Return a function that trains and evaluates a student that learns from dumps."""
        dumps = [self._out / (name if name in self._dumps else "dump")]
        if name == BORN_AGAIN:
            dumps = [self._dump_of_baseline(seed)]
        elif name == MIXTURE:
            dumps.append(self._dump_of_baseline(seed))
        options: list[object] = [part for dump in dumps for part in ("--dump", dump)]
        options += ["--alpha", self._alphas[name if name in self._alphas else self.distilled]]
        if name == SHUFFLED:
            options += ["--targets", "shuffled"]
        return self._trained(name, seed, self._dumps[name][0] if name in self._dumps else self._given.data, options)

    def _parallel(self, what: str, works: list[Callable[[], None]]) -> None:
        with ThreadPoolExecutor(self._given.jobs) as pool, Progress(what, total=len(works), unit=what) as progress:
            for done in as_completed([pool.submit(work) for work in works]):
                done.result()
                progress.update(1)

    def _dumped(self, out: Path, data: Path, teachers: list[Path], options: list[str]) -> Callable[[], None]:
        sources = [part for teacher in teachers for part in ("--teacher", teacher)]
        return lambda: _command(["dump-teacher", "--data", data, *sources, "--out", out, "--device", "cpu", *options])

    def _trained(self, name: str, seed: int, data: Path, options: list[object]) -> Callable[[], None]:
        run = self.path(name, seed)
        training = ["train-student", "--data", data, "--out", run, "--seed", seed, "--threads", 1, "--device", "cpu"]

        def work() -> None:
            print(f"{run.name}: begins", file=sys.stderr, flush=True)
            _command([*training, *options, *self._options])
            results = load_results(run)
            made = {perplexity.command for perplexity in results.perplexities}
            made |= {pairs.command for pairs in results.pairs} | {suites.command for suites in results.suites}
            for evaluation in self._evaluations(run):
                if _line(evaluation) not in made:
                    _command(evaluation)
            figures = ", ".join(f"{name} {value:.5g}" for name, value in self._figures(run).items())
            print(f"{run.name}: {figures}", flush=True)

        return work

    def _evaluations(self, run: Path) -> list[list[object]]:
        """Return the commands that evaluate a run."""
        given = self._given
        arguments = [
            ["perplexity", run, "--data", given.data, "--split", given.split],
            ["minimal-pairs", run, given.pairs],
            *([["syntaxgym", run, given.suites]] if given.suites else []),
        ]
        return [["evaluate", *some, "--device", "cpu"] for some in arguments]

    def _figures(self, run: Path) -> dict[str, float]:
        best = _best_on_dev(run)
        figures = {"best_dev_perplexity": math.exp(best["loss"]), "best_step": best["step"]}
        results, lines = load_results(run), {_line(evaluation) for evaluation in self._evaluations(run)}
        (perplexity,) = (result for result in results.perplexities if result.command in lines)
        figures["perplexity"] = perplexity.figures[UNCONDITIONAL].per_token
        (pairs,) = (result for result in results.pairs if result.command in lines)
        figures["pairs_accuracy"] = pairs.figures.macro_accuracy
        if self._given.suites:
            (suites,) = (result for result in results.suites if result.command in lines)
            figures["suites_accuracy"] = suites.figures.mean_of_suites
        return figures


def difference(figure: str, runs: list[dict[str, float]], others: list[dict[str, float]]) -> tuple[float, ...]:
    """Return the mean over seeds of ``runs`` minus ``others``, and both ends of its 95 % interval.

    Seeds that one side lacks are left out. If one seed is left, there is no interval, and the mean is returned alone.
    If the figure is a perplexity, all values are in percent.
    """
    is_perplexity = figure in PERPLEXITIES
    pairs = [(run[figure], other[figure]) for run, other in zip(runs, others, strict=False)]
    found = mean_over_seeds([math.log(a / b) if is_perplexity else a - b for a, b in pairs])
    ends = (found.mean, *((found.interval.low, found.interval.high) if found.interval else ()))
    return tuple(100 * math.expm1(end) if is_perplexity else end for end in ends)


def report(study: Study, given: argparse.Namespace) -> None:
    """Print the tables; with ``--json``, also write the figures to that file and the metrics of all runs next to it."""
    runs = study.figures()
    headers = {
        "best_dev_perplexity": "dev perplexity", "perplexity": f"{given.split} perplexity",
        "pairs_accuracy": "minimal pairs, %", "suites_accuracy": "SyntaxGym, %",
    }  # fmt: skip
    if given.split == "dev":
        del headers["best_dev_perplexity"]
    names = [name for name in headers if name in runs[BASELINE][0]]

    def shown(figure: str, ends: tuple[float, ...]) -> str:
        scale, unit = (1, "%") if figure in PERPLEXITIES else (100, "")
        mean, *interval = (f"{scale * end:+.1f}" for end in ends)
        return f"{mean}{unit}" + (f" ({' to '.join(interval)})" if interval else "")

    rows = []
    for name, of_name in runs.items():
        row: list[object] = [f"{name}, distilled" if name == study.distilled else name]
        if len(of_name) < len(study.seeds):
            row[0] = f"{name}, seed {study.seeds[0]} only"
        for figure in names:
            scale = 1 if figure in PERPLEXITIES else 100
            values = mean_over_seeds([scale * run[figure] for run in of_name])
            row.append(f"{values.mean:.2f}" + (f" ± {values.standard_deviation:.2f}" if values.interval else ""))
            row.append("" if name == BASELINE else shown(figure, difference(figure, of_name, runs[BASELINE])))
        rows.append(tuple(row))
    print("; ".join(f"{name} {value}" for name, value in machine().items()))
    print(table(rows, header=["", *(part for figure in names for part in (headers[figure], "minus baseline, 95 %"))]))
    print("A student with one seed is compared with the baseline of this seed.")
    controls = [control for control in CONTROLS if control in runs]
    minus = {control: {f: difference(f, runs[study.distilled], runs[control]) for f in names} for control in controls}
    rows = [(f"{study.distilled} minus {c}", *(shown(f, ends) for f, ends in of.items())) for c, of in minus.items()]
    print(table(rows, header=["", *(headers[figure] for figure in names)]))
    if given.json:
        about = {"name": given.name, "options": " ".join(given.student), "seeds": given.seeds, **machine()}
        given.json.parent.mkdir(parents=True, exist_ok=True)
        content = {**about, "configurations": runs, "distilled": study.distilled, "distilled_minus": minus}
        given.json.write_text(json.dumps(content, indent=1) + "\n")
        folder = given.json.with_suffix("")
        folder.mkdir(exist_ok=True)
        for run in sorted(given.out.glob("*/metrics.jsonl")):
            shutil.copyfile(run, folder / f"{run.parent.name}.jsonl")


def _command(arguments: list[object]) -> None:
    run_python([ROOT / "cli.py", *arguments])


def _best_on_dev(run: Path) -> dict[str, float]:
    """Return the row of metrics.jsonl of the evaluation with the lowest loss on dev."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return min((row for row in rows if row["split"] == "dev"), key=lambda row: row["loss"])


def _line(arguments: list[object]) -> str:
    """Return the command line that is recorded in the result of this command."""
    return shlex.join(["cli.py", *map(str, arguments)])


if __name__ == "__main__":
    main()
