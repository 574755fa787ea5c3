"""Compare the speed of training a student with soft targets, a student without them, and transformers' GPT-2.

    python -m benchmarks.student [--quick] [--json FILE] [--data DATASET --dump DUMP]

Without --data and --dump, the sample corpus is used, with a dump of it by an untrained teacher: k = 64, temperatures 1
and 2. The vocabulary of the models is 12,000, whatever the vocabulary of the dataset. A step is forward, backward,
clipping and AdamW. A distilling step has soft targets, a plain step has none. One process with one thread takes batches
of 4,096 positions.

distill_step_vs_plain         Seconds of a distilling step / seconds of a plain step, at T = 1, for the default model.
distill_step_vs_plain_t2      The same ratio at T = 2.
NAME_d384                     The figure NAME for a model of 6 blocks of size 384.
tokens_vs_transformers        The rate of a plain step / the rate of a step of ``GPT2LMHeadModel`` (transformers) of the
                              same sizes, with the same optimiser and the same sentences, padded to the longest.
data_wait_share               The share of its running time that the command ``train-student --dump`` waits for batches.
scaling_2                     Positions per second of this command with two processes, divided by its positions per
                              second with one process. Each process has one thread.
step_mb_vVOCAB_kK             By how many MB four distilling steps of 4,080 positions raise the peak resident memory of
                              a process that already holds the model, the targets and the optimiser's state.
"""

import argparse
import statistics
import tempfile
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from benchmarks.common import interleaved, parser, ratio, report, run_python, train, use_one_thread
from benchmarks.dump import sample_dataset, untrained_teacher
from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_loop import DumpJob
from pipeline.dumping.dump_loop import dump as write_dump
from pipeline.runtime.distributed import World
from pipeline.training.batching import BatchPlan
from pipeline.training.training_loop import adamw
from storage.dump.reader import DumpReader
from storage.ragged import Ragged
from student.model import Student
from student.rows import Rows, StudentInputs
from student.stream import StudentBatch, student_batches
from student.student_config import StudentConfig, StudentTrainConfig
from student.targets import DumpTargets, SoftTargets, TargetOptions
from student.train_student import DistillationObjective
from teacher.teacher_config import TeacherConfig

CPU = torch.device("cpu")
VOCAB_SIZE = 12_000
NUM_BATCHES = 4
IGNORED = -100


def main() -> None:
    """Measure and print the figures."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, help="a dataset")
    options.add_argument("--dump", type=Path, help="a dump of the dataset's train split at temperatures 1 and 2")
    options.add_argument("--memory", type=int, nargs=2, help=argparse.SUPPRESS)
    given = options.parse_args()
    use_one_thread()
    if given.memory:
        print(step_memory(*given.memory))
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), given)
    report(figures, given)


def measure(folder: Path, given: argparse.Namespace) -> dict[str, float]:
    """Return all figures."""
    if given.data:
        dataset, path = load_dataset(given.data), given.dump
    else:
        dataset, path = sample_dataset(folder, num_sentences=1500 if given.quick else 6000), folder / "dump"
        teacher = untrained_teacher(dataset, TeacherConfig(embed_dim=64, hidden_dim=64))
        config = DumpConfig(temperatures=(1.0, 2.0), device="cpu")
        job = DumpJob(models=[teacher], dataset=dataset, config=config, teachers=["0" * 64], device=CPU)
        write_dump(job, path, World())
    reader = DumpReader(path)
    rounds = 1 if given.quick else 4
    figures: dict[str, float] = {"threads": 1, "k": reader.schema.k, "vocab_size": VOCAB_SIZE}
    figures |= steps(dataset, reader, {}, rounds=rounds)
    wide = steps(dataset, reader, {"embed_dim": 384, "num_heads": 6}, rounds=max(1, rounds // 2))
    figures |= {f"{name}_d384": value for name, value in wide.items()}
    figures |= processes(dataset, path, folder, quick=given.quick)
    for vocab_size, k in ((12_000, 64), (50_000, 64), (12_000, 1024)):
        figures[f"step_mb_v{vocab_size}_k{k}"] = float(
            run_python(["-m", "benchmarks.student", "--memory", vocab_size, k])
        )
    return figures


def steps(dataset: Dataset, reader: DumpReader, sizes: dict[str, Any], *, rounds: int) -> dict[str, float]:
    """Return the ratios between distilling, plain and transformers' steps for one size of the model."""
    config = StudentConfig(vocab_size=VOCAB_SIZE, **sizes)
    plain = _batches(dataset, None, 1.0)
    runs = {
        "plain": _ours(config, plain, temperature=1.0),
        "distill": _ours(config, _batches(dataset, reader, 1.0), temperature=1.0),
        "distill_t2": _ours(config, _batches(dataset, reader, 2.0), temperature=2.0),
        "transformers": _transformers(config, plain),
    }
    seconds = interleaved(runs, rounds * NUM_BATCHES)
    positions = statistics.mean(len(batch.gold) for batch in plain)
    return {
        "distill_step_vs_plain": ratio(seconds, "plain", "distill"),
        "distill_step_vs_plain_t2": ratio(seconds, "plain", "distill_t2"),
        "tokens_vs_transformers": ratio(seconds, "plain", "transformers"),
        "distill_tokens_vs_transformers": ratio(seconds, "distill", "transformers"),
        "plain_positions_per_s": positions / statistics.mean(seconds["plain"]),
    }


def _batches(dataset: Dataset, reader: DumpReader | None, temperature: float) -> list[StudentBatch]:
    split, tokenizer = dataset.split("train"), dataset.tokenizer
    targets = None
    if reader is not None:
        options = TargetOptions(tokenizer_sha256=tokenizer.sha256, eos_id=tokenizer.eos_id, temperature=temperature)
        targets = DumpTargets(reader, split, options)
    rows = Rows(split, context="sentence", max_length=StudentConfig(vocab_size=VOCAB_SIZE).max_length, truncate=True)
    slices = BatchPlan(rows.lengths, StudentTrainConfig(), World()).slices(0)
    some = [next(slices) for _ in range(NUM_BATCHES)]
    ids = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    return list(student_batches(some, split, rows, **ids, device=CPU, targets=targets))


def _ours(config: StudentConfig, batches: list[StudentBatch], *, temperature: float) -> Callable[[], None]:
    training = StudentTrainConfig(temperature=temperature)
    student = Student(config, bos_id=0, seed=1).train()
    objective, coming = DistillationObjective(student, training), cycle(batches)

    def loss() -> torch.Tensor:
        batch = next(coming)
        sums: torch.Tensor = objective(batch)
        return sums[0] / len(batch.gold)

    return _step(student, training, loss)


def _transformers(config: StudentConfig, batches: list[StudentBatch]) -> Callable[[], None]:
    model = GPT2LMHeadModel(GPT2Config(**config.to_hf())).train()
    padded = cycle([_padded(batch) for batch in batches])

    def loss() -> torch.Tensor:
        input_ids, labels = next(padded)
        of_step: torch.Tensor = model(input_ids, attention_mask=(labels != IGNORED).long(), labels=labels).loss
        return of_step

    return _step(model, StudentTrainConfig(), loss)


def _padded(batch: StudentBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Return rows ``<bos> w1 .. wn <eos>`` and their labels. The model shifts the labels itself."""
    inputs = batch.inputs.input_ids
    labels = torch.full((len(inputs), inputs.shape[1] + 1), IGNORED)
    labels[:, 0] = inputs[:, 0]
    after = torch.full((inputs.numel(),), IGNORED).scatter_(0, batch.inputs.valid, batch.gold)
    labels[:, 1:] = after.view_as(inputs)
    return labels.clamp(min=0), labels


def _step(model: nn.Module, training: StudentTrainConfig, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    optimizer = adamw(model, training)

    def run() -> None:
        optimizer.zero_grad()
        loss().backward()
        nn.utils.clip_grad_norm_(model.parameters(), training.clip_norm)
        optimizer.step()

    return run


def processes(dataset: Dataset, dump: Path, folder: Path, *, quick: bool) -> dict[str, float]:
    """Return the share of time that a whole training waits for batches, and the speed-up by a second process."""
    rates: dict[int, list[float]] = {1: [], 2: []}
    waits: dict[int, list[float]] = {1: [], 2: []}
    max_steps, log_every = (12, 2) if quick else (32, 4)
    for count, found in rates.items():
        options = ["--data", dataset.path, "--dump", dump, "--max-steps", max_steps, "--log-every", log_every]
        rows = train("train-student", folder / f"run-{count}", options, num_processes=count)
        for before, row in pairwise(rows):
            found.append(row["positions_per_s"])
            seconds = (row["positions"] - before["positions"]) / row["positions_per_s"]
            waits[count].append(row["data_wait_s"] / seconds)
    return {
        "data_wait_share": statistics.mean(waits[1]),
        "data_wait_share_2": statistics.mean(waits[2]),
        "train_command_positions_per_s_1": statistics.median(rates[1]),
        "train_command_positions_per_s_2": statistics.median(rates[2]),
        # Both trainings take the same batches, so the rates of the same step are compared.
        "scaling_2": statistics.median(two / one for one, two in zip(rates[1], rates[2], strict=True)),
    }


def step_memory(vocab_size: int, k: int) -> float:
    """Return by how many MB four distilling steps raise the peak resident memory of this process."""
    num_sentences, length = 204, 20
    generator = torch.Generator().manual_seed(1)
    student = Student(StudentConfig(vocab_size=vocab_size), bos_id=0, seed=1).train()
    training = StudentTrainConfig()
    tokens = Ragged.from_lengths(np.full(num_sentences * (length - 1), 5), np.full(num_sentences, length - 1))
    num_positions = num_sentences * length
    log_probs = torch.rand(num_positions, k, generator=generator).log_softmax(1) - 0.5
    batch = StudentBatch(
        inputs=StudentInputs.of(tokens, np.arange(num_sentences + 1), bos_id=0),
        gold=torch.full((num_positions,), 5),
        targets=SoftTargets(
            ids=torch.rand(num_positions, vocab_size, generator=generator).topk(k).indices,
            log_probs=log_probs,
            tail=torch.log1p(-log_probs.exp().sum(1)),
            logz=torch.zeros(num_positions),
        ),
        num_positions_global=num_positions,
    )
    objective = DistillationObjective(student, training)
    optimizer = adamw(student, training)
    for parameter in student.parameters():  # this gives the optimiser its state
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak resident memory
    before = _peak_bytes()
    run = _step(student, training, lambda: objective(batch)[0] / num_positions)
    for _ in range(4):
        run()
    return (_peak_bytes() - before) / 1e6


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


if __name__ == "__main__":
    main()
