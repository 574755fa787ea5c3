"""Define the training options that teacher and student share, with the learning-rate schedules and word counts.

This module imports no torch, so that ``--help`` is quick.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Final, Literal

from pipeline.runtime.options import refuse, too_small
from pipeline.runtime.plan_config import PlanConfig
from storage.errors import ConfigError

Schedule = Literal["cosine", "linear", "constant", "wsd"]
LogTo = Literal["tensorboard", "wandb", "trackio"]
DECAY_SHARE: Final = 0.2
"""Default share of the steps in which the learning rate of the schedule ``wsd`` falls. Hu et al. (2024) take a tenth of
a much longer training. Hägele et al. (2024) find that a decay over a fifth of the steps does as well as cosine."""
MOST = 1e30
"""Upper bound of learning rate, clipping norm and weight decay. Small multiples of it are finite in float32."""

SUFFIXES: Final = {"": 1, "k": 10**3, "M": 10**6, "B": 10**9}
BABYLM: Final = "babylm"
"""The value of ``--word-checkpoints`` for the word counts of the BabyLM challenge (Charpentier et al. 2025)."""
BABYLM_MILLIONS: Final = (*range(1, 10), *range(10, 100, 10), *range(100, 1001, 100))
_COUNT = re.compile(r"([1-9][0-9]*)([kMB]?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Training options that teacher and student share."""

    num_epochs: int = 10
    """Passes over the training split."""
    max_steps: int = 0
    """Stop after this number of optimiser steps, whatever --num-epochs says; 0: stop after --num-epochs."""
    batch_tokens: int = 4096
    """Maximum number of positions (tokens and <eos>) per batch, over all processes."""
    batch_sentences: int = 0
    """Maximum number of sentences per batch, over all processes; 0: no limit. With --context document, the
    maximum number of rows; a row holds consecutive sentences."""
    accumulate_batches: int = 1
    """Number of consecutive batches whose gradients make one step. The last step of an epoch may have fewer."""
    shuffle_window: int = 0
    """Shuffle about this number of positions at a time; 0: the whole split. Use 1000000 if a dump is larger than memory
    or --cache-gb."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Schedule = "cosine"
    """Shape of the learning rate after the warm-up. With cosine, linear and wsd it falls to zero. With wsd it first
    stays at the peak."""
    decay_share: float = 0.0
    """With --schedule wsd: share of the steps, at the end, in which the rate falls linearly to zero; 0 means the
    default, 0.2."""
    warmup_steps: int = 100
    """Raise the learning rate linearly from zero over this number of steps."""
    weight_decay: float = 0.01
    """Decoupled weight decay of matrices. Biases, gains and embeddings do not decay."""
    clip_norm: float = 1.0
    """Scale the gradient down to this norm if its norm is larger."""
    eval_every: int = 0
    """Number of steps between evaluations on dev; 0: evaluate at the end of each epoch."""
    patience: int = 0
    """Stop after this number of dev evaluations without a new lowest loss; 0: never stop early."""
    checkpoint_every: int = 0
    """Number of steps between additional checkpoints, besides those at each evaluation on dev; 0: none."""
    word_checkpoints: tuple[str, ...] = ()
    """Keep the weights after these numbers of words, for example 500k,1M,2M, in folders such as
    RUN/checkpoints/words_1M. The value babylm stands for every 1M up to 10M, every 10M up to 100M, every 100M up to
    1000M. Words are separated by white space; each pass over a word counts."""
    log_every: int = 10
    """Number of steps between rows of metrics.jsonl."""
    log_to: LogTo = "tensorboard"
    """Where to show the metrics. Every choice writes metrics.jsonl and the files of TensorBoard. With wandb or
    trackio, the metrics are also sent to Weights & Biases or Trackio."""
    log_project: str = "rnng-distill"
    """Name of the project in Weights & Biases or Trackio."""
    seed: int = 1
    """Seed of initialisation, data order and dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of the matrix products in training. Weights, optimiser and dev evaluation stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: on a GPU if there is one."""
    threads: int = 0
    """CPU threads per process; 0: divide the cores among the processes of this machine."""
    deterministic: bool = False
    """On a GPU, use only deterministic algorithms, which are slower. On CPUs all algorithms are deterministic."""

    LEAST_EPOCHS: ClassVar[int] = 1
    """The smallest value of ``num_epochs``."""

    def __post_init__(self) -> None:
        problems = too_small(self, self.LEAST_EPOCHS, "num_epochs")
        problems += too_small(self, 1, "batch_tokens", "accumulate_batches", "log_every")
        problems += too_small(self, 0, "max_steps", "batch_sentences", "shuffle_window", "warmup_steps", "eval_every")
        problems += too_small(self, 0, "patience", "checkpoint_every", "seed", "threads")
        problems += [
            f"{name.replace('_', '-')} is {value}, expected more than 0 and at most {MOST:g}"
            for name in ("lr", "clip_norm")
            if not 0 < (value := getattr(self, name)) <= MOST
        ]
        if not 0 <= self.weight_decay <= MOST:
            problems.append(f"--weight-decay is {self.weight_decay}, expected at least 0 and at most {MOST:g}")
        if not 0 <= self.decay_share <= 1:
            problems.append(
                f"--decay-share is {self.decay_share}, expected 0 to 1 (0 means the default, {DECAY_SHARE})"
            )
        elif self.decay_share and self.schedule != "wsd":
            problems.append(
                f"--decay-share is {self.decay_share}, but schedule {self.schedule} has no decay phase. Give "
                "--schedule wsd, or leave --decay-share out"
            )
        try:
            word_thresholds(self.word_checkpoints)
        except ConfigError as error:
            problems.append(str(error))
        refuse("training", problems)


def lr_factor(
    step: int, *, num_steps: int, warmup_steps: int, schedule: Schedule, decay_share: float = DECAY_SHARE
) -> float:
    """Return the factor in (0, 1] that multiplies the peak learning rate at a step.

    With a warm-up, the factor of the first step is ``1 / warmup_steps``. All schedules but ``constant`` would reach 0
    one step after the last step.

    Args:
        step: Counted from 0.
        num_steps: Steps of the whole training.
        warmup_steps: Steps of the linear warm-up.
        schedule: The shape after the warm-up. ``wsd`` is warm-up, stable, decay (Hu et al. 2024, MiniCPM, section 4).
        decay_share: With ``wsd``, the share of ``num_steps``, rounded to whole steps, in which the rate falls linearly.
            If the warm-up reaches into these steps, there is no stable phase.
    """
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    if schedule == "constant":
        return 1.0
    begin = warmup_steps
    if schedule == "wsd":
        begin = max(warmup_steps, num_steps - max(1, round(decay_share * num_steps)))
    left = 1 - max(0, step - begin) / max(1, num_steps - begin)
    return 0.5 * (1 - math.cos(math.pi * left)) if schedule == "cosine" else left


def word_thresholds(entries: Iterable[str]) -> list[int]:
    """Return the word counts that entries of ``--word-checkpoints`` stand for, ascending and without repetitions.

    Raises:
        ConfigError: If an entry is neither a number of words nor ``babylm``. The message names every such entry.
    """
    found: set[int] = set()
    wrong = []
    for entry in entries:
        if entry == BABYLM:
            found.update(millions * SUFFIXES["M"] for millions in BABYLM_MILLIONS)
        elif match := _COUNT.fullmatch(entry):
            found.add(int(match[1]) * SUFFIXES[match[2]])
        else:
            wrong.append(repr(entry))
    if wrong:
        raise ConfigError(
            f"word-checkpoints has {', '.join(wrong)}, expected numbers of words such as 500k, 1M or 1B, or {BABYLM}"
        )
    return sorted(found)


def words_name(num_words: int) -> str:
    """Return the name of a word checkpoint, such as ``words_1000M`` (not ``words_1B``), ``words_500k``, ``words_7``."""
    for suffix in ("M", "k"):
        if num_words % SUFFIXES[suffix] == 0:
            return f"words_{num_words // SUFFIXES[suffix]}{suffix}"
    return f"words_{num_words}"


def num_words_of(name: str) -> int:
    """Return the number of words in a checkpoint's name; 0 for ``best`` and ``last``."""
    match = _COUNT.fullmatch(name.removeprefix("words_"))
    return int(match[1]) * SUFFIXES[match[2]] if match else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class ResumeConfig(PlanConfig):
    """How a training command starts, and how it treats a run that exists already."""

    resume: Literal["auto", "never"] = "auto"
    """If --out holds a run of the same command: continue it from its last checkpoint (auto), or refuse to start
    (never)."""
