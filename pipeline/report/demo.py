"""Run the demo: every stage of the work on the built-in corpus, with commands that a user could type. Print a table.

The demo takes a few minutes on two cores. Two commands run side by side, with one thread each, if neither needs the
output of the other. All students have the same data, steps and seed.
"""

import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import click

from pipeline.evaluation.perplexity import FLOOR, PerplexityFigure
from pipeline.evaluation.results import load_results
from pipeline.runtime.display import table
from storage.errors import InputError, RunError

CLI = Path(__file__).resolve().parents[2] / "cli.py"
NUM_SENTENCES = 6000
VOCAB_SIZE = 1000
ONE_THREAD = ("--device", "cpu", "--threads", "1")
TEACHER = "--embed-dim 128 --hidden-dim 128 --num-epochs 14 --lr 0.01"
DUMP = "--device cpu --shard-positions 8192"
STUDENT = "--embed-dim 128 --num-blocks 4 --num-heads 4 --num-epochs 10 --batch-tokens 1024"
SEARCH = "--condition beam --beam 10 --word-beam 5"
DISTILLED = "--alpha 0.3"


@dataclass(frozen=True, slots=True)
class _Stage:
    """One command of the demo."""

    title: str
    about: Path
    """The file or folder that the command makes or measures. If two commands run side by side, each line that a command
    prints begins with the name of this file or folder."""
    arguments: Sequence[object]

    @property
    def typed(self) -> list[str]:
        """The arguments of ``cli.py``."""
        return [str(argument) for argument in self.arguments]

    def announce(self) -> None:
        """Print the title, and the command as a user would type it."""
        click.echo(f"\n== {self.title}\n$ python {CLI.name} {shlex.join(self.typed)}", err=True)

    def start(self, output: int | None = None) -> "subprocess.Popen[str]":
        """Start the command. It prints to ``output`` or, by default, to the terminal."""
        command = [sys.executable, str(CLI), *self.typed]
        errors = subprocess.STDOUT if output is not None else None
        return subprocess.Popen(command, text=True, stdout=output, stderr=errors)


def run_demo(out: Path) -> None:
    """Run all stages in a new folder and print the closing table.

    Raises:
        InputError: If the folder already exists.
        RunError: If a stage fails. The failed command prints its own message first.
    """
    if out.exists():
        raise InputError(f"{out}: already exists; remove it, or choose another folder with --out")
    start = time.monotonic()
    corpus, dataset, dump, oracle_dump = (out / name for name in ("corpus", "dataset", "dump", "oracle-dump"))
    tokenizer, page = out / "tokenizer.json", out / "report.html"
    names = ("teacher", "baseline", "distilled", "shuffled", "oracle-distilled")
    teacher, baseline, distilled, shuffled, oracle = runs = [out / "runs" / name for name in names]
    data, student = ["--data", dataset], [*ONE_THREAD, *STUDENT.split()]

    def trained(title: str, run: Path, *options: object) -> _Stage:
        return _Stage(title, run, ["train-student", *data, "--out", run, *student, *options])

    def measured(run: Path) -> list[_Stage]:
        perplexity = ["evaluate", "perplexity", run, *data, "--split", "test", "--truth", corpus]
        stages = [_Stage(f"Evaluate the perplexity of {run.name}", run, [*perplexity, "--device", "cpu"])]
        if run != teacher:
            pairs = ["evaluate", "minimal-pairs", run, corpus / "minimal_pairs", "--device", "cpu"]
            stages.append(_Stage(f"Evaluate {run.name} on minimal pairs", run, pairs))
        return stages

    text = corpus / "train.txt"
    stems = [part for split in ("train", "dev", "test") for part in (f"--{split}", corpus / split)]
    soft = [*DISTILLED.split(), "--dump"]
    _run(
        _Stage(
            "Sample a corpus from a known grammar", corpus, ["sample-corpus", corpus, "--num-sentences", NUM_SENTENCES]
        )
    )
    training = ["train-tokenizer", text, "--out", tokenizer, "--vocab-size", VOCAB_SIZE]
    _run(_Stage("Train one tokenizer for both models", tokenizer, training))
    _run(
        _Stage(
            "Fit the trees to the tokens",
            dataset,
            ["build-dataset", *stems, "--tokenizer", tokenizer, "--out", dataset],
        )
    )
    fitting = ["train-teacher", *data, "--out", teacher, *ONE_THREAD, *TEACHER.split()]
    searching = ["dump-teacher", *data, "--teacher", teacher, "--out", dump, *SEARCH.split(), *DUMP.split()]
    summing = ["dump-teacher", *data, "--teacher", corpus, "--out", oracle_dump, *DUMP.split()]
    _run_side_by_side(
        [
            _Stage("Train the RNNG teacher", teacher, fitting),
            _Stage("Dump its soft targets, once for all students", dump, searching),
        ],
        [
            trained("Train the baseline: a student without a dump", baseline),
            _Stage("Dump the probabilities of the grammar itself, the best possible teacher", oracle_dump, summing),
            trained("Train a student on the dump of the grammar itself", oracle, *soft, oracle_dump),
            *measured(baseline),
            *measured(oracle),
        ],
    )
    control = "Train a control: each position gets the soft target of another position"
    _run_side_by_side(
        [trained("Train the distilled student", distilled, *soft, dump), *measured(distilled), *measured(teacher)],
        [trained(control, shuffled, *soft, dump, "--targets", "shuffled"), *measured(shuffled)],
    )
    _run(_Stage("Write the report", page, ["report", *runs, "--out", page]))

    click.echo(f"\n{closing_table(runs, split='test')}\n")
    click.echo(f"Report: {page}   ({(time.monotonic() - start) / 60:.1f} minutes)")


def closing_table(runs: list[Path], *, split: str) -> str:
    """Return a table of minimal-pair accuracies and of perplexities on a split.

    The first row is the perplexity of the grammar, if it was recorded. Then there is one row per run and distribution.
    """
    rows: list[tuple[object, ...]] = []
    floor: PerplexityFigure | None = None
    for run in runs:
        results = load_results(run)
        accuracy = ties = None
        for pairs in results.pairs:
            accuracy, ties = pairs.figures.macro_accuracy, pairs.figures.overall.num_ties
        for perplexity in results.perplexities:
            if perplexity.subject != split:
                continue
            for name, figure in perplexity.figures.items():
                if name == FLOOR:
                    floor = figure
                    continue
                rows.append((run.name, name, figure.per_token, figure.per_word, accuracy, ties))
    if floor is not None:
        rows.insert(0, ("the grammar itself", FLOOR, floor.per_token, floor.per_word, None, None))
    header = ("model", "distribution", f"{split} ppl/token", "ppl/word", "pairs right", "ties")
    return table(rows, header=header)


def _run(stage: _Stage) -> None:
    stage.announce()
    _check(stage, stage.start().wait())


def _run_side_by_side(*lanes: Sequence[_Stage]) -> None:
    """Run the lists in ``lanes`` at once, and the commands of a list one after the other.

    If a command fails, the running commands of the other lists are ended, and no further command starts.
    """
    failed = threading.Event()
    running: dict[int, subprocess.Popen[str]] = {}

    def run(number: int, lane: Sequence[_Stage]) -> None:
        for stage in lane:
            if failed.is_set():
                return
            stage.announce()
            with stage.start(subprocess.PIPE) as process:
                running[number] = process
                assert process.stdout is not None
                for line in process.stdout:
                    click.echo(f"{stage.about.name}: {line}", err=True, nl=False)
            if process.returncode and not failed.is_set():
                failed.set()
                for other in running.values():
                    other.terminate()
                _check(stage, process.returncode)

    with ThreadPoolExecutor(len(lanes)) as pool:
        futures = [pool.submit(run, number, lane) for number, lane in enumerate(lanes)]
    for future in futures:
        future.result()


def _check(stage: _Stage, status: int) -> None:
    if status:
        raise RunError(f"demo: {stage.typed[0]} ended with status {status}; see its message above")
