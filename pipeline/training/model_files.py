"""Describe the files of a model that is evaluated, and check that a dataset has the tokenizer of the model."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pipeline.corpus.dataset.dataset_store import Dataset
from pipeline.runtime.run_directory import RunInfo, Which, results_folder
from storage.errors import FingerprintMismatchError, StoreError


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelFiles:
    """The place of a model that is evaluated, and the fingerprints of its files. Results record these fingerprints."""

    path: Path
    """A run directory or an exported folder. `results_folder` says where its results go."""
    loaded: str | None
    """The sha256 of the weight file that was loaded. None if no weights were loaded."""
    tokenizer_sha256: str
    """The sha256 of the tokenizer. The tokenizer of an exported folder is first converted into the form that datasets
    use. So a run and the folder that was exported from it have the same sha256."""
    which: Which = "best"
    """The name of the checkpoint, or ``exported``. The file names of results contain it, unless it is ``best`` or
    ``exported``."""

    @property
    def weights_sha256(self) -> str:
        """The sha256 of the weight file that was loaded."""
        assert self.loaded is not None, "a model is loaded before it is evaluated"
        return self.loaded

    def check_writable(self) -> None:
        """Check before scoring that results can be written.

        Raises:
            StoreError: If the folder of results is a link, or cannot be created or written to.
        """
        folder = results_folder(self.path)
        if folder.is_symlink():
            raise StoreError(
                f"{folder}: is a link, expected a folder for the results. Replace the link by a copy of the folder "
                "that it leads to"
            )
        there = folder if folder.exists() else folder.absolute().parent
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise StoreError(
                f"{folder}: cannot be written, expected a folder for the results. Fix its permissions, or evaluate a "
                "copy of the model"
            )

    @classmethod
    def of_run(cls, run: RunInfo, which: Which = "best") -> "ModelFiles":
        """Return the files of a checkpoint of a run."""
        return cls(
            path=run.path,
            loaded=run.weights_sha256,
            tokenizer_sha256=run.fingerprints["tokenizer"],
            which=which,
        )


EXPORTED: Final = "exported"
"""The value of ``ModelFiles.which`` for a folder in Hugging Face's format."""


def check_tokenizer(model: ModelFiles, dataset: Dataset) -> None:
    """Check that a dataset has the tokenizer of the model.

    Raises:
        FingerprintMismatchError: If the dataset has another tokenizer.
    """
    found, expected = dataset.tokenizer.sha256, model.tokenizer_sha256
    if found != expected:
        own = str(model.path / "tokenizer.json")
        if model.which == EXPORTED:
            own = (
                "the tokenizer.json of the run that was exported. If the model was not exported from a run, convert "
                f"{own} with adopt-tokenizer first, and build the dataset with the output"
            )
        raise FingerprintMismatchError(
            f"{dataset.location}: tokenizer is {found[:12]}, but {model.path} was trained with {expected[:12]}. "
            f"Give a model that was trained on this dataset, or build the dataset with {own}"
        )
