"""Dump a trained student's distributions, as a teacher's are: born-again distillation (Furlanello et al. 2018).

A student that learns from a student tells what soft targets are worth without any structure in them: the control of a
claim about grammars. Its distributions are p(w | x_<t): the condition is ``none``.

A dump's batches are cut in the order of the corpus, and a student pads its rows to the longest. So the sentences of a
batch are computed in groups of similar length: a function of the batch alone, as the bytes of a dump have to be.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline.corpus.dataset.dataset import Dataset
from pipeline.dumping.dump_config import Condition
from pipeline.dumping.dump_source import Dumped, verify_run
from pipeline.dumping.next_token import NextTokenModel
from pipeline.runtime import options
from pipeline.training.model_files import ModelFiles, check_tokenizer
from storage.errors import ConfigError, InputError
from storage.locations import Place
from storage.ragged import Ragged, concatenated_ranges
from student.student_config import StudentTrainConfig
from student.student_run import open_student, student_config, student_fingerprint
from student.train_student import load_student

MOST_PADDING = 0.25
"""Share of a group's rows that may be padding. On a treebank's sentences (mean 22 tokens, longest 109) and the default
sizes this is 1.6 times as fast as padding whole batches, in 240 MB less."""


class StudentSource:
    """A student's run, whose distributions are given nothing but the words before: a ``DumpSource``.

    Raises:
        RunError: If ``path`` is no student's run.
    """

    conditions: tuple[Condition, ...] = ("none",)

    def __init__(self, path: Path) -> None:
        self.run = open_student(path)

    def fingerprint(self) -> str:
        """Return the sha256 of weights, sizes and special tokens."""
        return student_fingerprint(self.run)

    def check_reads(self, dataset: Dataset, split: str) -> None:
        """Refuse a dataset of other tokens, a split with a sentence that is too long, and a student of documents."""
        check_tokenizer(ModelFiles.of_run(self.run), dataset)
        if options.build(StudentTrainConfig, self.run.configuration).context != "sentence":
            raise ConfigError(
                f"{self.run.path}: trained with --context document, expected sentence: a dump holds what sentences are "
                "given alone, which this student rarely saw. Give a student of sentences"
            )
        lengths, max_length = dataset.split(split).tokens.lengths + 1, student_config(self.run).max_length
        if len(lengths) and lengths.max() > max_length:
            sentence = int(lengths.argmax())
            raise InputError(
                f"{dataset.location}: sentence {sentence} of split {split} has {lengths[sentence]} positions, but "
                f"{self.run.path} reads at most {max_length}; train a student with --max-length {lengths[sentence]} or "
                f"more, or build the dataset without the {np.count_nonzero(lengths > max_length)} longer sentences"
            )

    def load(self, condition: Condition, device: torch.device) -> Dumped:  # noqa: ARG002  it has but one
        """Return the student."""
        model, _ = load_student(self.run.path, device)
        return Dumped(model=GroupedByLength(model))


class GroupedByLength:
    """A model that pads, given the sentences of a batch in groups of similar length. Itself a ``NextTokenModel``."""

    def __init__(self, model: NextTokenModel) -> None:
        self._model = model

    @property
    def vocab_size(self) -> int:
        """V."""
        return self._model.vocab_size

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> tuple[list[Any], Tensor]:
        """Return what the model prepared of each group, and int64 ``[P]``: where each position is among theirs."""
        lengths = tokens.lengths + 1
        order = np.argsort(-lengths, kind="stable")
        groups = [
            self._model.prepare(tokens.take(rows), actions.take(rows) if actions is not None else None)
            for rows in _groups(order, lengths)
        ]
        starts = np.cumsum(lengths) - lengths
        places = np.empty(int(lengths.sum()), np.int64)
        places[concatenated_ranges(starts[order], lengths[order])] = np.arange(len(places))
        return groups, torch.from_numpy(places)

    def states(self, inputs: tuple[list[Any], Tensor]) -> Tensor:
        """Return ``[P, D]`` in the order of the batch."""
        groups, places = inputs
        states = torch.cat([self._model.states(group) for group in groups])
        return states.index_select(0, places.to(states.device, non_blocking=True))

    def logits(self, states: Tensor) -> Tensor:
        """Return ``[R, V]`` unnormalised log-probabilities for ``[R, D]`` states."""
        return self._model.logits(states)


def _groups(order: np.ndarray, lengths: np.ndarray) -> list[np.ndarray]:
    """Cut sentences, longest first, into runs of which no more than `MOST_PADDING` is padding."""
    groups, first, num_positions = [], 0, 0
    for at, sentence in enumerate(order):
        num_positions += int(lengths[sentence])
        size = (at + 1 - first) * int(lengths[order[first]])
        if num_positions < (1 - MOST_PADDING) * size:
            groups.append(order[first:at])
            first, num_positions = at, int(lengths[sentence])
    return [*groups, order[first:]]


def verify_recomputing(
    dump: Place, data: Place, teacher: Path, *, num_shards: int, seed: int, device: str
) -> dict[str, Any]:
    """Check every byte of a student's dump, then recompute some shards; see ``verify_run``."""
    return verify_run(dump, data, StudentSource(teacher), num_shards=num_shards, seed=seed, device=device)
