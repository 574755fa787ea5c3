"""Estimate what 100 million words cost at every stage, on four machines, from the rates of other benchmarks.

    python -m benchmarks.on_paper

The benchmark prints the table of docs/costs.md. Rates come from benchmarks/results; rates that no benchmark writes are
in `RATES`. Hours with a star rest on a scaling or a rate that was never measured.
"""

import json
from dataclasses import dataclass

from benchmarks.common import ROOT, parser

NUM_WORDS = 100e6
POSITIONS_PER_WORD = 1.4
"""An assumption: GUM has 1.5 with a vocabulary of 12,000, and simpler text has fewer."""
WORDS_PER_SENTENCE = 18.0
RATES = {
    "clean": 600_000.0,  # words/s of one process, by CPU time, on 3.6 million words (2026-11-30)
    "parse": 258.0,  # sentences/s of one process: half of what two processes reach together, docs/parsing.md
    # Positions/s of one process, by dump-teacher --plan on GUM, CRAFT and MASC; teacher of size 256 (2026-11-30).
    "dump by beam 10/5": 340.0,
    "dump by beam 50/10": 115.0,
}
GPU_TEACHER, GPU_STUDENT = 722_000.0, 636_000.0
"""Positions per second of an H200, predicted in docs/gpu.md for a teacher of size 650 and a student of 12 blocks of
size 768. The other rates in the table are those of smaller models."""
GPU_SHARE = 0.9
"""A guess: the rate of eight GPUs / eight times the rate of one GPU."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A stage of the work, and its costs."""

    name: str
    amount: float
    """Number of words, sentences or positions to process."""
    rate: float
    """Words, sentences or positions per second of one process on one core."""
    memory: str
    disk_gb: float
    keeps: float = 1.0
    """Share of the rate per process that is left when the number of processes doubles."""
    processes: int = 64
    """Largest number of processes that the stage can use on one machine."""
    on_gpu: float | None = None
    """Words, sentences or positions per second of a GPU. None: no code for GPUs, or the rate is not known."""

    def cells(self) -> list[str]:
        """Return the row of this stage in the table."""
        two, many = (self._hours(cores) for cores in (2, 64))
        # A stage of at most two processes gets no star: its hours on 64 cores are those on 2 cores, without scaling.
        star = "*" if self.processes > 2 else ""
        gpus = ["", ""]
        if self.on_gpu is not None:
            one = self.amount / self.on_gpu / 3600
            gpus = [_hours(one) + "*", _hours(one / 8 / GPU_SHARE) + "*"]
        return [self.name, _hours(two), _hours(many) + star, *gpus, self.memory, f"{self.disk_gb:.3g} GB"]

    def _hours(self, cores: int) -> float:
        processes = min(cores, self.processes)
        rate = self.rate * processes * self.keeps ** (processes.bit_length() - 1)
        return self.amount / rate / 3600


def main() -> None:
    """Print the table."""
    parser(__doc__ or "").parse_args()
    found = {}
    for name in ("corpus-scale", "dump", "storage"):
        found |= _figures(name)
    teacher, student = _figures("teacher-gum"), _figures("student")
    positions = NUM_WORDS * POSITIONS_PER_WORD
    dump_gb = positions * found["exact_bytes_per_position"] / 1e9
    stages = [
        Stage(name="clean", amount=NUM_WORDS, rate=RATES["clean"], memory="< 0.1 GB", disk_gb=0.63, processes=1),
        Stage(
            name="parse, small parser", amount=NUM_WORDS / WORDS_PER_SENTENCE, rate=RATES["parse"],
            memory="0.8 GB per process", disk_gb=2.5,
        ),
        Stage(
            name="tokenizer", amount=NUM_WORDS, rate=found["tokenizer_words_per_s"] / 2, memory="0.7 GB", disk_gb=0.001,
            processes=2,
        ),
        Stage(
            name="build", amount=NUM_WORDS, rate=found["build_words_per_s"] / 2, memory="0.6 GB with 2 processes",
            disk_gb=NUM_WORDS * found["dataset_bytes_per_word"] / 1e9,
        ),
        Stage(
            name="teacher, an epoch", amount=positions, rate=teacher["train_command_positions_per_s_1"],
            keeps=teacher["scaling_2"] / 2, memory="1.4 GB per process", disk_gb=0.1, on_gpu=GPU_TEACHER,
        ),
        Stage(
            name="dump by tree", amount=positions, rate=found["dump_positions_per_s"], memory="0.8 GB per process",
            disk_gb=dump_gb, on_gpu=GPU_TEACHER,
        ),
        Stage(
            name="dump by beam 10/5", amount=positions, rate=RATES["dump by beam 10/5"], memory="0.9 GB per process",
            disk_gb=dump_gb,
        ),
        Stage(
            name="dump by beam 50/10", amount=positions, rate=RATES["dump by beam 50/10"], memory="1.0 GB per process",
            disk_gb=dump_gb,
        ),
        Stage(
            name="student, an epoch", amount=positions, rate=student["train_command_positions_per_s_1"],
            keeps=student["scaling_2"] / 2, memory="0.8 GB per process", disk_gb=0.1, on_gpu=GPU_STUDENT,
        ),
    ]  # fmt: skip
    header = ["stage", "2 cores", "64 cores", "one H200", "eight H200", "memory", "disk"]
    for row in (header, ["---"] * len(header), *(stage.cells() for stage in stages)):
        print("| " + " | ".join(row) + " |")


def _figures(name: str) -> dict[str, float]:
    found: dict[str, float] = json.loads((ROOT / f"benchmarks/results/2026-11-24-{name}.json").read_text())
    return found


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"


if __name__ == "__main__":
    main()
