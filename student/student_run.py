"""Read a student's run: its configuration, its weights and how many of its position embeddings were trained."""

from pathlib import Path
from typing import Final

import torch

from pipeline.runtime import options
from pipeline.runtime.run_directory import RunInfo, Which, load_weights, open_run, weights_metadata
from student.model import Student
from student.student_config import StudentConfig

TRAINED_POSITIONS: Final = "num_trained_positions"
"""The key of a weights file's metadata that holds the number of trained positions."""


def student_config(run: RunInfo) -> StudentConfig:
    """Return the sizes of a run's student."""
    return options.build(StudentConfig, run.configuration)


def load_student(path: Path, device: torch.device, which: Which = "best") -> tuple[Student, RunInfo]:
    """Return a trained student in evaluation mode, and the description of its run.

    Raises:
        RunError: If ``path`` is not a student's run, or has no such checkpoint.
    """
    run = open_run(path, "student")
    model = Student(student_config(run), bos_id=run.model["bos_id"], seed=0)
    run = load_weights(run, which, model)
    return model.to(device).eval(), run


def num_trained_positions(run: RunInfo, which: Which) -> int | None:
    """Return how many position embeddings of a checkpoint have had a gradient. The others have their initial values.

    Training writes the number into the checkpoint, because it depends on the rows that training had read by then.

    Returns:
        The number, or None if the checkpoint does not record it. Older versions of this project did not record it. Runs
        that start (``--init``) from weights without this number do not record it either.
    """
    recorded = weights_metadata(run.checkpoint(which)).get(TRAINED_POSITIONS)
    return int(recorded) if recorded is not None and recorded.isdecimal() else None
