"""Kill trainings, or stop them by SIGTERM, at random instants, and resume them. test_training_faults runs this program.

    python -m tests.kill_trainings SMALL_WORLD FOLDER NUM_KILLS SEED

``exact`` trainings have one process and dropout, and must be bit-identical. ``mixed`` trainings have no dropout; each
attempt has one or two processes at random, and losses must agree to 1e-5. Both go on until NUM_KILLS attempts were
killed (``mixed``: half as many). If a training finishes before it is killed, the program compares it with the reference
and begins a new training. It prints one line of JSON.
"""

import functools
import json
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.dumping.dump_config import DumpConfig
from pipeline.dumping.dump_source import dump_run
from pipeline.runtime.run_directory import checkpoint_names
from storage.locations import open_folder
from student.student_config import StudentTrainConfig
from student.train_student import train_student
from teacher.teacher_commands import TeacherSource
from teacher.teacher_config import BeamConfig, TeacherConfig, TeacherTrainConfig
from teacher.train_teacher import train_teacher
from tests.killing import attempt

# Rows, evaluations, checkpoints and word checkpoints fall on different steps. A step has several batches, and an epoch
# ends in between.
TRAINING: dict[str, Any] = {
    "max_steps": 18, "accumulate_batches": 2, "batch_tokens": 400, "eval_every": 9, "checkpoint_every": 3,
    "log_every": 5, "warmup_steps": 4, "threads": 1, "device": "cpu", "word_checkpoints": ("1k", "2k", "2100"),
}  # fmt: skip
TIMES = {"elapsed_s", "positions_per_s", "data_wait_s", "data_wait_share", "model_flops_per_s"}


def main() -> None:
    """Kill trainings of both sorts, of teacher and student, and finish the last training of each."""
    world, folder, num_kills, seed = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    torch.optim.AdamW([torch.zeros(1)])  # the first optimiser imports for seconds; do it here once, not in each child
    config = DumpConfig(k=8, shard_positions=2048, device="cpu")
    source = TeacherSource(world / "teacher", BeamConfig())
    work = functools.partial(dump_run, world / "dataset", [source], folder / "dump", config)
    attempt(work, 1, log=folder / "log", patience_s=None)
    counts = {}
    for kind in ("teacher", "student"):
        for sort, kills in (("exact", num_kills), ("mixed", (num_kills + 1) // 2)):
            name = f"{kind} {sort}"
            counts[name] = Trial(kind, world, folder, sort).run(kills, random.Random(f"{seed} {name}"))
    print(json.dumps(counts))


class Trial:
    """A training that is killed and resumed again and again."""

    def __init__(self, kind: str, world: Path, folder: Path, sort: str) -> None:
        self.sort, self.log = sort, folder / "log"
        self.sizes = [1] if sort == "exact" else [1, 2]
        self.expected, self.run_path = folder / f"{kind}-{sort}", folder / f"{kind}-{sort}-killed"
        dropout = 0.2 if sort == "exact" else 0.0
        self.begin = _trainer(kind, world, folder / "dump", dropout)

    def run(self, num_kills: int, generator: random.Random) -> dict[str, int]:
        start = time.monotonic()
        attempt(lambda: self.begin(self.expected), 1, log=self.log, patience_s=None)
        whole_s = time.monotonic() - start
        counts = {"killed": 0, "finished": 0, "sizes_changed": 0, "went_on": 0}
        last_size = 1
        enough = {"killed": num_kills, "went_on": 1, "sizes_changed": len(self.sizes) - 1}
        while any(counts[name] < number for name, number in enough.items()):
            size = generator.choice(self.sizes)
            went_on = (self.run_path / "checkpoints/last/training_state.pt").exists()
            by = generator.choice([signal.SIGKILL, signal.SIGTERM])
            if self.attempt(size, generator.uniform(0, whole_s * size), by):
                counts["killed"] += 1
            else:
                self.compare(counts)
            counts["went_on"] += went_on
            counts["sizes_changed"] += went_on and size != last_size
            last_size = size
        self.attempt(generator.choice(self.sizes), None)
        self.compare(counts)
        return counts

    def attempt(self, size: int, patience_s: float | None, by: signal.Signals = signal.SIGKILL) -> bool:
        return attempt(lambda: self.begin(self.run_path), size, log=self.log, patience_s=patience_s, by=by)

    def compare(self, counts: dict[str, int]) -> None:
        """Compare the run with the uninterrupted run, then remove it."""
        found, expected = _rows(self.run_path), _rows(self.expected)
        assert [row.keys() for row in found] == [row.keys() for row in expected]
        if self.sort == "exact":
            assert found == expected
            names = checkpoint_names(self.expected)
            assert names == checkpoint_names(self.run_path) == ["best", "last", "words_1k", "words_2k", "words_2100"]
            for which in names:
                name = f"checkpoints/{which}/model.safetensors"
                assert (self.run_path / name).read_bytes() == (self.expected / name).read_bytes(), name
            _assert_same(_state(self.run_path), _state(self.expected))
        else:
            for one, other in zip(found, expected, strict=True):
                assert (one["step"], one["positions"]) == (other["step"], other["positions"])
                for name in one.keys() & {"loss", "token_loss", "action_loss", "cross_entropy", "kl"}:
                    assert abs(one[name] - other[name]) < 1e-5, (one, other)
        counts["finished"] += 1
        shutil.rmtree(self.run_path)


def _trainer(kind: str, world: Path, dump: Path, dropout: float) -> Callable[[Path], object]:
    data = world / "dataset"
    if kind == "teacher":
        sizes = TeacherConfig(embed_dim=16, hidden_dim=24, dropout=dropout)
        return lambda out: train_teacher(data, out, sizes, TeacherTrainConfig(**TRAINING))
    student = {"embed_dim": 16, "num_blocks": 1, "num_heads": 2, "dropout": dropout}
    training = StudentTrainConfig(**TRAINING)
    return lambda out: train_student(data, open_folder(dump), out, student, training)


def _rows(run: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def _state(run: Path) -> dict[str, Any]:
    state = torch.load(run / "checkpoints/last/training_state.pt", weights_only=True)
    del state["elapsed_s"]
    return state


def _assert_same(found: object, expected: object) -> None:
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected)
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            _assert_same(found[name], value)
    else:
        assert found == expected


if __name__ == "__main__":
    main()
