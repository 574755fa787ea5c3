"""Count the kernels that a training step launches, and predict the step's time on an H200 from this count.

    python -m benchmarks.launches [--json FILE]

Nothing here runs on a GPU. ``benchmarks.gpu`` measures the rates of such steps on a GPU.

launches              PyTorch operations of a step that start at least one kernel. Views and allocations start none.
rounds                The number of LSTM steps of a teacher that must run one after the other: those of one stack layer
                      plus those of the composition. One such step computes many cells at once.
gflop                 Multiplications and additions in the step's matrix products, in units of 10^9.
launch_bound_ms       The time of a step if launching kernels limits it: launches times LAUNCH_US (the time of one
                      launch). It falls only if kernels are fused, or captured in a CUDA graph.
arithmetic_bound_ms   The time of a step if arithmetic limits it. The rate of the arithmetic is assumed to be PEAK_SHARE
                      (a constant of this module) times the H200's peak rate in bfloat16.
positions_per_s       Positions per second if a step takes the longer of these two times.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.common import parser, report, use_one_thread
from benchmarks.gpu import BOS_ID, EOS_ID, NUM_LABELS, VOCAB_SIZE, K, _student_batch, random_sentences
from pipeline.training import chunked_vocabulary
from storage.ragged import Ragged
from student.flops import training_flops
from student.loss import NUM_PARTS
from student.model import Student
from student.student_config import StudentConfig
from teacher.levels import TreeBatch
from teacher.rnng import Rnng
from teacher.teacher_config import TeacherConfig

LAUNCH_US = 5.0
"""Microseconds that the host takes to dispatch and launch an operation in eager PyTorch. 4 to 10 are usual."""
PEAK_TFLOPS = 989.0
"""Dense bfloat16 rate of an H200 SXM (NVIDIA's data sheet)."""
PEAK_SHARE = 0.4
"""The share of the peak that large products usually reach in training."""


class LaunchCounter(TorchDispatchMode):
    """Count the operations that start a kernel, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.by_name: dict[str, int] = {}

    def __torch_dispatch__(self, operation, types, arguments=(), options=None) -> Any:  # noqa: ANN001, ANN401
        name = operation.overloadpacket.__name__
        if not operation.is_view and not name.startswith(("empty", "new_empty", "detach", "_unsafe_view", "alias")):
            self.by_name[name] = self.by_name.get(name, 0) + 1
        return operation(*arguments, **(options or {}))

    @property
    def total(self) -> int:
        """The number of all counted operations."""
        return sum(self.by_name.values())


def launches_of(step: Callable[[], object]) -> LaunchCounter:
    """Call a function once, and return its launches."""
    with LaunchCounter() as counter:
        step()
    return counter


def teacher_step(
    config: TeacherConfig, num_sentences: int, *, vocab_size: int = VOCAB_SIZE
) -> tuple[Callable[[], None], TreeBatch]:
    """Return a function and a batch of random trees. The function runs a teacher forward and backward on this batch."""
    tokens, actions = random_sentences(np.random.default_rng(2), num_sentences, vocab_size=vocab_size)
    model = Rnng(config, vocab_size=vocab_size, num_labels=NUM_LABELS, eos_id=EOS_ID)
    batch = TreeBatch(schedule=model.prepare(tokens, actions), num_positions_global=1)

    def step() -> None:
        model(batch)[0].backward()
        model.zero_grad()

    return step, batch


def student_step(config: StudentConfig, lengths: np.ndarray) -> tuple[Callable[[], None], int]:
    """Return a function that runs a student with soft targets forward and backward.

    Also return the number of positions of the batch on which it runs.
    """
    tokens = Ragged.from_lengths(np.full(int(lengths.sum() - len(lengths)), 5), lengths - 1)
    inputs, rows, num_positions = _student_batch(tokens, config.vocab_size, K, 1.0, torch.device("cpu"))
    model = Student(config, bos_id=BOS_ID, seed=1)

    def step() -> None:
        model(inputs, rows, num_parts=NUM_PARTS)[0].backward()
        model.zero_grad()

    return step, num_positions


def main() -> None:
    """Count, predict and print."""
    given = parser(__doc__).parse_args()
    use_one_thread()
    chunked_vocabulary.CHUNK_ROWS = chunked_vocabulary.CHUNK_ROWS_GPU
    figures: dict[str, float] = {}
    sizes = TeacherConfig(embed_dim=650, hidden_dim=650)
    for num_sentences in (64, 512):
        # The number of launches does not depend on the sizes of vectors, so small vectors save time.
        step, batch = teacher_step(dataclasses.replace(sizes, embed_dim=8, hidden_dim=8), num_sentences, vocab_size=97)
        name = f"teacher_{num_sentences}"
        figures[f"{name}_rounds"] = batch.schedule.num_rounds
        large = teacher_step(sizes, 16)
        share = len(batch.schedule.gold) / len(large[1].schedule.gold)
        figures |= predicted(name, len(batch.schedule.gold), launches_of(step).total, share * flops_of(large[0]))
    # The launches depend only on the numbers of blocks and positions, so small vectors and short rows save time.
    small = StudentConfig(vocab_size=97, embed_dim=12, num_blocks=12, num_heads=12, max_length=512)
    real = StudentConfig(vocab_size=VOCAB_SIZE, embed_dim=768, num_blocks=12, num_heads=12, max_length=512)
    step, num_positions = student_step(small, np.full(4096, 8))
    flops = float(training_flops(real, np.full(64, 512)).sum())
    figures |= predicted("student_rows_of_512", num_positions, launches_of(step).total, flops)
    report(figures, given)


def flops_of(step: Callable[[], object]) -> float:
    """Return the floating-point operations of the matrix products of one call."""
    with FlopCounterMode(display=False) as counter:
        step()
    return float(counter.get_total_flops())


def predicted(name: str, num_positions: int, launches: int, flops: float) -> dict[str, float]:
    """Return the figures of a step."""
    launch_ms, arithmetic_ms = launches * LAUNCH_US / 1e3, flops / (PEAK_SHARE * PEAK_TFLOPS * 1e12) * 1e3
    return {
        f"{name}_positions": num_positions,
        f"{name}_launches": launches,
        f"{name}_gflop": flops / 1e9,
        f"{name}_launch_bound_ms": launch_ms,
        f"{name}_arithmetic_bound_ms": arithmetic_ms,
        f"{name}_positions_per_s": num_positions / max(launch_ms, arithmetic_ms) * 1e3,
    }


if __name__ == "__main__":
    main()
