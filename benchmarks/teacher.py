"""The teacher beside the floor of its arithmetic; its memory, a second process, and beam search.

    python -m benchmarks.teacher [--quick] [--json FILE] [--data DATASET] [--teacher RUN]

Without a dataset of your own: the sample corpus. Models of size 256 and 650 with a vocabulary of 12,000, whatever the
dataset's, in one process and one thread; batches of 32, 128 and 512 sentences of similar length (``--quick``: 128).

TASK_floor_dSIZE   floating-point operations counted (``benchmarks.teacher_flops``) over seconds, as a share of the rate
                   of a 2,048 x 2,048 float32 matrix product with the same threads; at 128 sentences; a round takes both
TASK_positions_per_s_dSIZE_BATCH  and floor_… of other batches, in the same rounds
train_peak_rss_gb  a whole ``train-teacher`` of size 256 with 128 sentences a batch: the most resident memory
scaling_2          its positions/s with two processes of one thread over those with one
beam_tokens_per_s  beam search (beam 10, word beam 5) over sentences of dev with RUN, or with what was just trained
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import beam as beam_search
from benchmarks.common import interleaved, parser, report
from benchmarks.dump import sample_dataset
from benchmarks.teacher_flops import inference_flops, training_flops
from pipeline.corpus.dataset.dataset import Dataset, load_dataset
from pipeline.dumping.next_token import LOGIT_ROWS
from pipeline.training.batching import plan_epoch
from teacher.levels import Schedule, TreeBatch
from teacher.rnng import Rnng
from teacher.teacher_config import TeacherConfig
from teacher.train_teacher import load_teacher

VOCAB_SIZE = 12_000
MATRIX = 2048
ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Measure and print."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="a dataset")
    options.add_argument("--teacher", type=Path, help="a teacher's run that reads it, for beam search")
    given = options.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given)
    report(figures, given)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return all figures."""
    dataset = load_dataset(given.data) if given.data else sample_dataset(folder, num_sentences=1200)
    # First: a child's peak begins with what its parent holds.
    figures = {"threads": torch.get_num_threads()} | processes(dataset, folder, given)
    for dim in (256, 650):
        for num_sentences in (128,) if given.quick else (128, 32, 512):
            figures |= speed(dataset, dim, num_sentences, rounds=2 if given.quick else 3)
    model, _ = load_teacher(given.teacher or folder / "run-1-0", torch.device("cpu"))
    sizes = {"num_sentences": 16, "rounds": 1} if given.quick else {"num_sentences": 128, "rounds": 3}
    return figures | beam(model, dataset, **sizes)


def speed(dataset: Dataset, dim: int, num_sentences: int, *, rounds: int) -> dict[str, float]:
    """Return rates and shares of the floor of one size of model and batch."""
    torch.manual_seed(0)
    sizes = {"vocab_size": VOCAB_SIZE, "num_labels": len(dataset.labels), "eos_id": dataset.tokenizer.eos_id}
    model = Rnng(TeacherConfig(embed_dim=dim, hidden_dim=dim), **sizes)
    evaluated = Rnng(TeacherConfig(embed_dim=dim, hidden_dim=dim), **sizes).eval()
    evaluated.cache_inputs()
    schedule = _median_batch(model, dataset, num_sentences)
    square = torch.randn(MATRIX, MATRIX)
    positions = len(schedule.gold)
    runs = {
        "matrix": lambda: square @ square,
        "train": _training(model, schedule),
        "infer": _inference(evaluated, schedule),
    }
    seconds = interleaved(runs, rounds)
    flops = {"train": training_flops(model, schedule), "infer": inference_flops(model, schedule)}
    name = f"d{dim}_{num_sentences}"
    figures: dict[str, float] = {
        f"positions_{name}": positions,
        f"sequential_rounds_{name}": schedule.num_rounds,
        f"actions_of_the_longest_sentence_{name}": int(schedule.actions.lengths.max()),
        f"matrix_gflops_{name}": 2e-9 * MATRIX**3 / statistics.median(seconds["matrix"]),
    }
    for task, count in flops.items():
        share = statistics.median(
            count / its * of_matrix / (2 * MATRIX**3)
            for its, of_matrix in zip(seconds[task], seconds["matrix"], strict=True)
        )
        figures[f"{task}_positions_per_s_{name}"] = positions / statistics.median(seconds[task])
        figures[f"{task}_mflop_a_position_{name}"] = 1e-6 * count / positions
        figures[f"{task}_floor_{name}" if num_sentences != 128 else f"{task}_floor_d{dim}"] = share
    return figures


def _median_batch(model: Rnng, dataset: Dataset, num_sentences: int) -> Schedule:
    """Return the schedule of the batch with the median number of positions of an epoch."""
    split = dataset.split("train")
    lengths = np.diff(split.position_offsets)
    plan = plan_epoch(lengths, seed=0, epoch=0, batch_tokens=10**9, batch_sentences=num_sentences)
    rows = sorted(plan, key=lambda batch: int(lengths[batch].sum()))[len(plan) // 2]
    return model.prepare(split.tokens.take(rows), split.actions.take(rows))


def _training(model: Rnng, schedule: Schedule) -> Callable[[], None]:
    """Return a forward and backward pass."""
    batch = TreeBatch(schedule=schedule, num_positions_global=len(schedule.gold))

    def run() -> None:
        model.zero_grad()
        model(batch)[0].backward()

    return run


def _inference(model: Rnng, schedule: Schedule) -> Callable[[], None]:
    """Return the log-probability of every gold token."""
    gold = torch.from_numpy(schedule.gold)[:, None]

    @torch.no_grad()
    def run() -> None:
        states = model.states(schedule)
        for rows, targets in zip(states.split(LOGIT_ROWS), gold.split(LOGIT_ROWS), strict=True):
            model.logits(rows).log_softmax(1).gather(1, targets)

    return run


def processes(dataset: Dataset, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of one training process, and what a second one brings."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    memory = []
    steps, log_every = (8, 1) if given.quick else (12, 4)
    for number in range(1 if given.quick else 2):
        for count in rates:
            out = folder / f"run-{count}-{number}"
            options = ["--batch-sentences", 128, "--batch-tokens", 10**9, "--threads", 1, "--device", "cpu"]
            options += ["--max-steps", steps, "--log-every", log_every]
            command = [ROOT / "cli.py", "train-teacher", "--data", dataset.path, "--out", out, *options]
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", count] if count > 1 else []
            _run([sys.executable, *launcher, *command])
            if count == 1:
                memory.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9)
            rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
            rates[count] += [row["positions_per_s"] for row in rows if row["split"] == "train"][1:]
    one, two = (statistics.median(rates[count]) for count in (1, 2))
    return {
        "train_peak_rss_gb": max(memory[:1]),
        "train_command_positions_per_s_1": one,
        "train_command_positions_per_s_2": two,
        # Both take the same batches: rows of the same steps are compared.
        "scaling_2": statistics.median(both / alone for alone, both in zip(rates[1], rates[2], strict=True)),
    }


def _run(command: list[object]) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(part) for part in command], env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr)


def beam(model: Rnng, dataset: Dataset, *, num_sentences: int, rounds: int) -> dict[str, float]:
    """Return the rate of beam search over some sentences of dev, evenly spaced, and what it found."""
    split = dataset.split("dev")
    rows = np.linspace(0, split.num_sentences - 1, min(num_sentences, split.num_sentences)).astype(np.int64)
    found = beam_search.measure(model, split.tokens.take(rows), rounds=rounds)
    return {name if name.startswith("beam_") else f"beam_{name}": value for name, value in found.items()}


if __name__ == "__main__":
    main()
