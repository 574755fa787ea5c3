"""Define the options of the teacher: sizes, training, beam search and sampling.

This module imports no torch, so that ``--help`` is quick.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

from pipeline.runtime.options import flag, refuse, too_small
from pipeline.runtime.train_config import TrainConfig
from storage.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherConfig:
    """The kind of RNNG and its sizes."""

    embed_dim: int = 256
    """Size of the vectors of tokens, labels and constituents, and of each LSTM of the composition."""
    hidden_dim: int = 256
    """Size of the stack LSTM. If it differs from --embed-dim, a projection comes before the output layer."""
    num_layers: int = 2
    """Number of layers of the stack LSTM."""
    strategy: Literal["top-down", "binary"] = "top-down"
    """Trees to generate. top-down: labelled trees. binary: unlabelled binary trees, by SHIFT and REDUCE alone. See
    docs/teacher.md."""
    branching: Literal["left", "right"] = "right"
    """Direction in which --strategy binary pairs the children of a constituent with more than two children."""
    composition: Literal["bilstm", "attention", "treelstm"] = "bilstm"
    """Function that makes a constituent's vector from those of its children. treelstm needs --strategy binary."""
    dropout: float = 0.1
    """Dropout on pushed vectors, between layers and before the outputs. The stack states from which later pushes are
    computed get no dropout."""

    def __post_init__(self) -> None:
        problems = too_small(self, 1, "embed_dim", "hidden_dim", "num_layers")
        if not 0 <= self.dropout < 1:
            problems.append(f"--dropout is {self.dropout}, expected 0 <= dropout < 1")
        if self.composition == "treelstm" and self.strategy != "binary":
            problems.append(
                f"composition treelstm joins two children, but constituents of strategy {self.strategy} have any "
                "number; give --strategy binary, or --composition bilstm or attention"
            )
        if self.branching != "right" and self.strategy != "binary":
            problems.append(
                f"--branching is {self.branching}, but strategy {self.strategy} pairs no children; give --strategy "
                "binary, or leave --branching out"
            )
        refuse("teacher", problems)

    def least_weights(self, *, vocab_size: int, num_labels: int) -> int:
        """Return a lower bound on the number of weights."""
        stack = 4 * self.hidden_dim * (self.embed_dim + self.hidden_dim * (2 * self.num_layers - 1))
        labels = num_labels if self.strategy == "top-down" else 1
        return (vocab_size + labels + self.embed_dim) * self.embed_dim + stack


@dataclass(frozen=True, kw_only=True, slots=True)
class TeacherTrainConfig(TrainConfig):
    """The options of ``train-teacher``'s training."""

    num_epochs: int = 0
    """Passes over the training split. 0: as many as suit its size (docs/decisions/0017): 20 up to 80,000 positions
    (tokens and <eos>), and for more 20 sqrt(80,000 / positions), for example 7 for 700,000; at least 1."""
    batch_tokens: int = 1024
    """Maximum number of positions (tokens and <eos>) per batch, over all processes. A small corpus needs small
    batches."""
    lr: float = 5e-3
    """Peak learning rate of AdamW (docs/decisions/0017)."""
    leave_out: int = 0
    """Do not train on the sentences of this fold. With build-dataset --folds N there are folds 1 to N. 0: train
    on all training sentences."""

    LEAST_EPOCHS: ClassVar[int] = 0

    def for_positions(self, num_positions: int) -> Self:
        """Return these options with the number of epochs for a training split of this size."""
        epochs = min(20, max(1, round(20 * math.sqrt(80_000 / max(1, num_positions)))))
        return replace(self, num_epochs=self.num_epochs or epochs)


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamConfig:
    """The sizes of the beam search over the trees of a sentence; see ``teacher.beam``."""

    beam: int = 50
    """Beam search: number of hypotheses per sentence to keep after each action."""
    word_beam: int = 10
    """Beam search: number of hypotheses per sentence to keep after each token."""
    max_actions: int = 16
    """Beam search: largest number of NTs and REDUCEs between two tokens. The default suffices for 99.9 % of the tokens
    in GUM."""

    def __post_init__(self) -> None:
        refuse("beam search", too_small(self, 1, "beam", "word_beam") + too_small(self, 0, "max_actions"))


@dataclass(frozen=True, kw_only=True, slots=True)
class SampleConfig:
    """How ``sample`` draws sentences from a teacher; see ``teacher.sampling``."""

    num_sentences: int
    """Number of sentences to draw. OUT can have fewer: a sentence that cannot be read back from OUT, for example
    because it contains a line break, is dropped and counted."""
    temperature: float = 1.0
    """T: draw each token and each action of a tree from p^(1/T), renormalised. Below 1: more probable tokens and
    trees."""
    max_actions: int = 1_000
    """Drop and count a sentence whose tree has more actions (NT, SHIFT and REDUCE) than this."""
    seed: int = 1
    """Seed of the draws. Sentence n does not depend on how many sentences are drawn."""
    batch_sentences: int = 256
    """Number of sentences to draw at a time in each process. This number changes speed and memory, not the sample."""
    threads: int = 0
    """CPU threads per process; 0: divide the cores among the processes of this machine."""

    def __post_init__(self) -> None:
        problems = too_small(self, 1, "num_sentences", "batch_sentences") + too_small(self, 0, "seed", "threads")
        problems += too_small(self, 4, "max_actions")
        if not 0 < self.temperature < math.inf:
            problems.append(f"--temperature is {self.temperature}, expected more than 0 and finite")
        refuse("sample", problems)


def refuse_without_search(sizes: Iterable[str], needed: str) -> None:
    """Check that no sizes of the beam search were given for a command that makes no search.

    The error message names ``needed``, the option with which the command would search.

    Raises:
        ConfigError: If any size was given.
    """
    if flags := ", ".join(map(flag, sizes)):
        raise ConfigError(
            f"{flags}: sizes of a beam search, expected only with {needed}; give {needed}, or leave {flags} out"
        )
