"""Read a student's run: its weights, and how many of its position embeddings were trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from pipeline.runtime.run_directory import RunInfo, Which, check_size, load_weights, open_run, weights_metadata
from storage.errors import RunError
from storage.json_files import Count
from student.model import Student
from student.student_config import StudentConfig

TRAINED_POSITIONS: Final = "num_trained_positions"
"""The metadata of a weights file holds the number of trained positions under this name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class _Model:
    """What ``run.json`` says about the model besides its sizes."""

    bos_id: Count


def load_student(path: Path, device: torch.device, which: Which = "best") -> tuple[Student, RunInfo]:
    """Return a trained student in evaluation mode, and the description of its run.

    Raises:
        RunError: If ``path`` is not a student's run, or has no such checkpoint, or the weights do not fit the sizes.
    """
    run = open_run(path, "student")
    config, bos_id = run.options(StudentConfig), run.model_as(_Model).bos_id
    if bos_id >= config.vocab_size:
        raise RunError(f"{path}: bos_id is {bos_id}, expected less than vocab_size, {config.vocab_size}. Train again")
    check_size(run.checkpoint(which), config.num_weights)
    model = Student(config, bos_id=bos_id, seed=0)
    run = load_weights(run, which, model)
    return model.to(device).eval(), run


def num_trained_positions(run: RunInfo, which: Which) -> int | None:
    """Return how many position embeddings of a checkpoint have had a gradient. The others have their initial values.

    A sequence of n positions gives a gradient to the first n embeddings. So the number is the length of the longest
    sequence that training has read. The result is None for checkpoints of older versions of this project, which do not
    record the number, and for runs that start from such a checkpoint (``--init``).
    """
    recorded = weights_metadata(run.checkpoint(which)).get(TRAINED_POSITIONS)
    return int(recorded) if recorded is not None and recorded.isdecimal() else None
