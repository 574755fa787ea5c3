"""Say where the files of a trained model are, and refuse a dataset that it cannot read."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.corpus.dataset.dataset import Dataset
from pipeline.runtime.run_directory import RunInfo, Which
from storage.errors import FingerprintMismatchError, StoreError
from storage.files import make_directory


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """What results say of the model they are of, and where they go."""

    path: Path
    """A run directory, or an exported folder; results go below it."""
    weights: Path
    tokenizer_sha256: str
    """Of the tokenizer in this project's form, also of an exported model."""
    which: Which = "best"
    """The checkpoint; a result of one that is not the best, or all there is, has it in its file's name."""

    def check_writable(self) -> None:
        """Make the folder of results, so that hours of scoring are not lost for want of it.

        Raises:
            StoreError: If it cannot be made or written to.
        """
        folder = self.path / "results"
        make_directory(folder)
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise StoreError(
                f"{folder}: cannot be written, expected a folder for the results; mend its rights, or evaluate a copy"
            )

    @classmethod
    def of_run(cls, run: RunInfo, which: Which = "best") -> "ModelFiles":
        """Return those of a run's checkpoint."""
        return cls(
            path=run.path, weights=run.checkpoint(which), tokenizer_sha256=run.fingerprints["tokenizer"], which=which
        )


EXPORTED: Final = "exported"
"""``ModelFiles.which`` of a folder in Hugging Face's format."""


def check_tokenizer(model: ModelFiles, dataset: Dataset) -> None:
    """Refuse a dataset whose token ids are not those the model knows.

    Raises:
        FingerprintMismatchError: With both fingerprints.
    """
    found, expected = dataset.tokenizer.sha256, model.tokenizer_sha256
    if found != expected:
        raise FingerprintMismatchError(
            f"{dataset.location}: tokenizer is {found[:12]}, but {model.path} was trained with {expected[:12]}; "
            f"build the dataset with {_own_tokenizer(model)}, or name the model trained on this dataset"
        )


def _own_tokenizer(model: ModelFiles) -> str:
    file = model.path / "tokenizer.json"
    if model.which != EXPORTED:
        return str(file)
    return f"that of the run it was exported from, or, of a model made elsewhere, what adopt-tokenizer makes of {file}"
