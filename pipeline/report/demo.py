"""Run the demo: every stage on the built-in corpus, as commands that a user would type, then a closing table.

The demo only runs commands; it imports no model. At the small sizes chosen here, it takes a few minutes on two cores.
The baseline and the distilled student have the same data, steps and seed, so the table compares like with like.
"""

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click

from pipeline.evaluation.perplexity import FLOOR, PerplexityFigure
from pipeline.evaluation.results import load_results
from pipeline.runtime.display import table
from storage.errors import InputError, RunError

CLI = Path(__file__).resolve().parents[2] / "cli.py"
NUM_SENTENCES = 6000
VOCAB_SIZE = 1000
TEACHER = "--device cpu --embed-dim 128 --hidden-dim 128 --num-epochs 5 --batch-tokens 1024 --dropout 0.2"
DUMP = "--device cpu --temperatures 1,2 --shard-positions 8192"
STUDENT = "--device cpu --embed-dim 128 --num-blocks 4 --num-heads 4 --num-epochs 9 --batch-tokens 1024"


def run_demo(out: Path) -> None:
    """Run all stages in a new folder and print the closing table.

    Raises:
        InputError: If the folder already exists.
        RunError: If a stage fails. The failed command prints its own message first.
    """
    if out.exists():
        raise InputError(f"{out}: already exists; remove it, or choose another folder with --out")
    start = time.monotonic()
    corpus, dataset, dump, runs = (out / name for name in ("corpus", "dataset", "dump", "runs"))
    tokenizer, page = out / "tokenizer.json", out / "report.html"
    teacher, baseline, distilled = (runs / name for name in ("teacher", "baseline", "distilled"))
    data = ["--data", dataset]

    _stage("Sample a corpus from a known grammar", ["sample-corpus", corpus, "--num-sentences", NUM_SENTENCES])
    text = corpus / "train.txt"
    training = ["train-tokenizer", text, "--out", tokenizer, "--vocab-size", VOCAB_SIZE]
    _stage("Train one tokenizer for both models", training)
    stems = [part for split in ("train", "dev", "test") for part in (f"--{split}", corpus / split)]
    _stage("Fit the trees to the tokens", ["build-dataset", *stems, "--tokenizer", tokenizer, "--out", dataset])
    _stage("Train the RNNG teacher", ["train-teacher", *data, "--out", teacher, *TEACHER.split()])
    dumping = ["dump-teacher", *data, "--teacher", teacher, "--out", dump, *DUMP.split()]
    _stage("Dump its soft targets once, with two processes", dumping, processes=2)
    options = STUDENT.split()
    _stage("Train the baseline: a student without a dump", ["train-student", *data, "--out", baseline, *options])
    _stage("Train the distilled student", ["train-student", *data, "--dump", dump, "--out", distilled, *options])
    for run, split in (
        (teacher, "test"),
        *((run, split) for split in ("dev", "test") for run in (baseline, distilled)),
    ):
        evaluation = ["evaluate", "perplexity", run, *data, "--split", split, "--truth", corpus]
        _stage(f"Evaluate the perplexity of {run.name} on {split}", evaluation)
    for run in (baseline, distilled):
        _stage(f"Evaluate {run.name} on minimal pairs", ["evaluate", "minimal-pairs", run, corpus / "minimal_pairs"])
    _stage("Write the report", ["report", teacher, baseline, distilled, "--out", page])

    click.echo(f"\n{closing_table([teacher, baseline, distilled], split='test')}\n")
    click.echo(f"Report: {page}   ({(time.monotonic() - start) / 60:.1f} minutes)")


def closing_table(runs: list[Path], *, split: str) -> str:
    """Return a table of perplexities on a split and minimal-pair accuracies.

    The first row is the floor, if it was recorded. Then there is one row per run and distribution.
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


def _stage(title: str, arguments: Sequence[object], *, processes: int = 1) -> None:
    """Run one command.

    With several processes, each gets one thread. torchrun would also choose one thread, but would print a warning.
    """
    shown, launcher, environment = "python", [], dict(os.environ)
    if processes > 1:
        shown = f"torchrun --nproc-per-node {processes}"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
        environment["OMP_NUM_THREADS"] = "1"
    typed = [str(argument) for argument in arguments]
    click.echo(f"\n== {title}\n$ {shown} {CLI.name} {shlex.join(typed)}", err=True)
    command = [sys.executable, *launcher, str(CLI), *typed]
    if status := subprocess.run(command, env=environment, check=False).returncode:
        raise RunError(f"demo: {typed[0]} ended with status {status}; see its message above")
