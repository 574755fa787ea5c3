"""A student's run as others start from it: what it says, its fingerprint, its weights as the start of another run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from pipeline.corpus.dataset.dataset import Dataset
from pipeline.runtime import options
from pipeline.runtime.run_directory import RunInfo, open_run
from pipeline.training.model_files import ModelFiles, check_tokenizer
from storage.errors import ConfigError, RunError
from storage.fingerprints import canonical_json, sha256_bytes, sha256_file
from student.model import Student
from student.student_config import StudentConfig, StudentTrainConfig

_SIZES = {
    "embed_dim": "embed_dim",
    "num_blocks": "num_blocks",
    "num_heads": "num_heads",
    "ff_dim": "inner_dim",
    "max_length": "max_length",
}
"""Options that the weights depend on, and what they come down to; dropout is none of them."""


def open_student(path: Path) -> RunInfo:
    """Return what a student's run says.

    Raises:
        RunError: If ``path`` is no student's run.
    """
    run = open_run(path)
    if run.kind != "student":
        raise RunError(f"{path}: this run is a {run.kind}'s, expected a student's; give the output of train-student")
    return run


def student_config(run: RunInfo) -> StudentConfig:
    """Return the sizes of a run's student."""
    return options.build(StudentConfig, run.configuration)


def student_fingerprint(run: RunInfo) -> str:
    """Return the sha256 of what makes a student's distributions: weights, sizes, special tokens."""
    return sha256_bytes(
        canonical_json(
            {
                "weights": sha256_file(run.checkpoint()),
                "model": run.model,
                "configuration": options.to_json(student_config(run)),
            }
        )
    )


def num_trained_positions(model: Student, run: RunInfo) -> int | None:
    """Return how many position embeddings training has changed, the last one counted; None if it began from weights.

    AdamW does not move an embedding that never had a gradient (and decays none), so one that still has its initial
    value, which the seed gives, was never used.
    """
    if run.init is not None:
        return None
    initial = Student(model.config, bos_id=model.bos_id, seed=options.build(StudentTrainConfig, run.configuration).seed)
    changed = (model.transformer.wpe.weight.cpu() != initial.transformer.wpe.weight).any(dim=1).nonzero()
    return int(changed.max()) + 1 if len(changed) else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class InitialWeights:
    """The best weights of a student's run, read once: what is loaded is what the digest is of."""

    run: Path
    sha256: str
    _weights: dict[str, Tensor]

    @classmethod
    def read(cls, path: Path, config: StudentConfig, dataset: Dataset) -> "InitialWeights":
        """Return the weights of the run ``path``, which must fit a student of ``config`` that reads ``dataset``.

        Raises:
            RunError: If ``path`` is no student's run, or has no checkpoint or a damaged one.
            FingerprintMismatchError: If its tokenizer is not the dataset's.
            ConfigError: If its sizes are others, naming each option and the value to give.
        """
        run = open_student(path)
        check_tokenizer(ModelFiles.of_run(run), dataset)
        theirs = student_config(run)
        wrong = {
            "--" + option.replace("_", "-"): (getattr(config, size), getattr(theirs, size))
            for option, size in _SIZES.items()
            if getattr(config, size) != getattr(theirs, size)
            # Left to --embed-dim by both, it needs no option of its own.
            and not (option == "ff_dim" and config.ff_dim == theirs.ff_dim == 0)
        }
        if wrong:
            found = "; ".join(f"{option} is {mine}, expected {other}" for option, (mine, other) in wrong.items())
            give = " ".join(f"{option} {other}" for option, (_, other) in wrong.items())
            raise ConfigError(f"{path}: --init needs the sizes of the run it starts from: {found}. Give {give}")
        checkpoint = run.checkpoint()
        try:
            data = checkpoint.read_bytes()
            weights = safetensors.torch.load(data)
        except OSError as error:
            raise RunError(
                f"{checkpoint}: cannot be read ({error.strerror}); the run may have ended before its first evaluation"
            ) from error
        except safetensors.SafetensorError as error:
            raise RunError(f"{checkpoint}: not a checkpoint ({error}); restore it, or train that run again") from error
        return cls(run=path, sha256=sha256_bytes(data), _weights=weights)

    def fill(self, model: Student) -> None:
        """Give them to a student.

        Raises:
            RunError: If the file has other parameters than its run says.
        """
        try:
            model.load_state_dict(self._weights)
        except RuntimeError as error:
            reason = str(error).splitlines()[-1].strip()
            raise RunError(
                f"{self.run}: its best checkpoint is not of the sizes in its run.json ({reason}); restore it, or train "
                "that run again"
            ) from error

    def described(self) -> dict[str, Any]:
        """Return what a run remembers of them."""
        return {"run": str(self.run), "sha256": self.sha256}
