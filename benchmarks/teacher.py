"""Compare the teacher's speed with that of matrix products alone. Also measure memory, two processes and beam search.

    python -m benchmarks.teacher [--quick] [--json FILE] [--data DATASET] [--teacher RUN]

Without --data, the sample corpus is used. The models have size 256 and 650 and a vocabulary of 12,000, whatever the
vocabulary of the dataset. One process and one thread compute batches of 32, 128 and 512 sentences of similar length
(``--quick``: only 128). In the names below, TASK is train or infer, SIZE is the size of the model, and BATCH is the
number of sentences per batch.

TASK_floor_dSIZE   Operations per second of the task at 128 sentences per batch, divided by the operations per second of
                   a float32 product of 2,048 x 2,048 matrices, also on one thread. ``training_flops`` and
                   ``inference_flops`` count the operations of a task. The figure is the median of three rounds
                   (``--quick``: two).
                   ``TASK_floor_dSIZE_32`` and ``TASK_floor_dSIZE_512`` are the same ratio with 32 and 512 sentences per
                   batch.
TASK_positions_per_s_dSIZE_BATCH   Positions per second with BATCH sentences per batch.
train_peak_rss_gb  The peak resident memory of a whole ``train-teacher`` of size 256 with 128 sentences per batch.
scaling_2          Positions per second of this training with two processes, divided by its positions per second with
                   one process. Each process has one thread.
beam_tokens_per_s  Tokens per second of beam search (beam 10, word beam 5) over sentences of dev. The model is RUN or,
                   without --teacher, the model that this benchmark has trained.
"""

import argparse
import resource
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from benchmarks import beam as beam_search
from benchmarks.common import interleaved, parser, report, train, use_one_thread
from benchmarks.dump import sample_dataset
from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.dumping.next_token import LOGIT_ROWS
from pipeline.runtime.train_config import TrainConfig
from pipeline.training.batching import plan_epoch
from teacher.levels import Schedule, TreeBatch
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig, TeacherConfig
from teacher.train_teacher import load_teacher

VOCAB_SIZE = 12_000
MATRIX = 2048


def main() -> None:
    """Measure and print the figures."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="a dataset")
    options.add_argument("--teacher", type=Path, help="a teacher of this dataset, for beam search")
    given = options.parse_args()
    use_one_thread()
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given)
    report(figures, given)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return all figures."""
    dataset = load_dataset(given.data) if given.data else sample_dataset(folder, num_sentences=1200)
    # The trainings come first, while this process still has little memory: the peak memory of a child process is never
    # below the memory that its parent has when it starts the child.
    figures = {"threads": torch.get_num_threads()} | processes(dataset, folder, given)
    for dim in (256, 650):
        for num_sentences in (128,) if given.quick else (128, 32, 512):
            figures |= speed(dataset, dim, num_sentences, rounds=2 if given.quick else 3)
    model, _ = load_teacher(given.teacher or folder / "run-1-0", torch.device("cpu"))
    sizes = {"num_sentences": 16, "rounds": 1} if given.quick else {"num_sentences": 128, "rounds": 3}
    return figures | beam(model, dataset, **sizes)


def speed(dataset: Dataset, dim: int, num_sentences: int, *, rounds: int) -> dict[str, float]:
    """Return the figures of both tasks for one size of the model and of the batch."""
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
    """Return the schedule of the batch whose number of positions is the median of an epoch."""
    split = dataset.split("train")
    lengths = np.diff(split.position_offsets)
    plan = plan_epoch(lengths, TrainConfig(seed=0, batch_tokens=10**9, batch_sentences=num_sentences), 0)
    rows = sorted(plan, key=lambda batch: int(lengths[batch].sum()))[len(plan) // 2]
    return model.prepare(split.tokens.take(rows), split.actions.take(rows))


def _training(model: Rnng, schedule: Schedule) -> Callable[[], None]:
    """Return a function that takes a forward and a backward pass."""
    batch = TreeBatch(schedule=schedule, num_positions_global=len(schedule.gold))

    def run() -> None:
        model.zero_grad()
        model(batch)[0].backward()

    return run


def _inference(model: Rnng, schedule: Schedule) -> Callable[[], None]:
    """Return a function that computes the log-probability of every gold token."""
    gold = torch.from_numpy(schedule.gold)[:, None]

    @torch.no_grad()
    def run() -> None:
        states = model.states(schedule)
        for rows, targets in zip(states.split(LOGIT_ROWS), gold.split(LOGIT_ROWS), strict=True):
            model.logits(rows).log_softmax(1).gather(1, targets)

    return run


def processes(dataset: Dataset, folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return the peak memory of a training in one process, and the speed-up by a second process."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    memory = []
    steps, log_every = (8, 1) if given.quick else (12, 4)
    for number in range(1 if given.quick else 2):
        for count in rates:
            options = ["--data", dataset.path, "--batch-sentences", 128, "--batch-tokens", 10**9]
            options += ["--max-steps", steps, "--log-every", log_every]
            rows = train("train-teacher", folder / f"run-{count}-{number}", options, num_processes=count)
            if count == 1:
                memory.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e9)
            rates[count] += [row["positions_per_s"] for row in rows][1:]
    one, two = (statistics.median(rates[count]) for count in (1, 2))
    return {
        "train_peak_rss_gb": max(memory[:1]),
        "train_command_positions_per_s_1": one,
        "train_command_positions_per_s_2": two,
        # Both trainings take the same batches, so the rates of the same step are compared.
        "scaling_2": statistics.median(both / alone for alone, both in zip(rates[1], rates[2], strict=True)),
    }


def beam(model: Rnng, dataset: Dataset, *, num_sentences: int, rounds: int) -> dict[str, float]:
    """Return the rate of beam search over evenly spaced sentences of dev, and figures of its results."""
    split = dataset.split("dev")
    rows = np.linspace(0, split.num_sentences - 1, min(num_sentences, split.num_sentences)).astype(np.int64)
    found = beam_search.measure(model, split.tokens.take(rows), BeamConfig(beam=10, word_beam=5), rounds=rounds)
    return {name if name.startswith("beam_") else f"beam_{name}": value for name, value in found.items()}


def training_flops(model: Rnng, schedule: Schedule) -> float:
    """Return the floating-point operations of one forward and backward pass, when shared results are computed once.

    All pushes onto a stack state share the recurrent product of this state. All constituents with the same label share
    the first step of their composition. Only matrix products count. A multiplication and an addition
    are two operations. The backward pass counts twice as much as the forward pass.

    The count is for the top-down strategy with the BiLSTM.
    """
    dim, hidden = model.config.embed_dim, model.config.hidden_dim
    num_children = sum(level.children.shape[1] for level in schedule.compositions)
    num_values = len(schedule.tokens) + _num_constituents(schedule)
    # Per direction, the BiLSTM takes one input product per token and constituent, and one recurrent product per child.
    composition = _product(num_values, dim, 8 * dim) + 2 * _product(num_children, dim, 4 * dim)
    labels = _product(model.num_labels, dim, 8 * dim)
    first = _product(len(schedule.inputs), dim, 4 * hidden)
    return 3 * (composition + labels + _composed(model, schedule) + first + _shared(model, schedule))


def inference_flops(model: Rnng, schedule: Schedule) -> float:
    """Return the floating-point operations that compute the states and logits of all positions.

    The input products of tokens do not count, because they are cached before the measurement. The input products of
    nonterminals do not count either, because there are few: one per label in each batch.
    """
    dim, hidden = model.config.embed_dim, model.config.hidden_dim
    num_children = sum(level.children.shape[1] for level in schedule.compositions)
    num_constituents = _num_constituents(schedule)
    composition = _product(num_constituents, dim, 8 * dim) + 2 * _product(num_children, dim, 4 * dim)
    first = _product(num_constituents, dim, 4 * hidden)
    actions = _product(len(schedule.inputs), hidden, model.action_head.out_features)
    return composition + _composed(model, schedule) + first + _shared(model, schedule) - actions


def _shared(model: Rnng, schedule: Schedule) -> float:
    """Return the operations of action logits, token logits and stack.

    The input product of the stack's first layer is not included.
    """
    dim, hidden, layers = model.config.embed_dim, model.config.hidden_dim, model.config.num_layers
    num_rows, num_positions = len(schedule.inputs), len(schedule.gold)
    num_parents = sum(len(level.parents) for level in schedule.stack)
    stack = (layers - 1) * _product(num_rows, hidden, 4 * hidden) + layers * _product(num_parents, hidden, 4 * hidden)
    actions = _product(num_rows, hidden, model.action_head.out_features)
    projection = _product(num_positions, hidden, dim) if hidden != dim else 0
    return stack + actions + projection + _product(num_positions, dim, model.vocab_size)


def _composed(model: Rnng, schedule: Schedule) -> float:
    return _product(_num_constituents(schedule), 2 * model.config.embed_dim, model.config.embed_dim)


def _num_constituents(schedule: Schedule) -> int:
    return sum(len(level.labels) for level in schedule.compositions)


def _product(rows: int, inner: int, columns: int) -> float:
    return 2.0 * rows * inner * columns


if __name__ == "__main__":
    main()
