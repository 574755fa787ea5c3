"""Training options that teacher and student share. Imports no torch, so that ``--help`` can read it."""

from dataclasses import dataclass
from typing import Literal

from pipeline.runtime.lr_schedule import DECAY_SHARE, Schedule
from pipeline.runtime.word_counts import word_thresholds
from storage.errors import ConfigError

MOST = 1e30
"""Of a learning rate, norm or decay: a float32 times a few of these is still a float32."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How a model is trained, whatever it is."""

    num_epochs: int = 10
    """Passes over the training split."""
    max_steps: int = 0
    """Optimiser steps, whatever --num-epochs says; 0: as many as those epochs have."""
    batch_tokens: int = 4096
    """Most positions (tokens and <eos>) a batch, over all processes."""
    batch_sentences: int = 0
    """Most sentences a batch, over all processes (with --context document, rows); 0: no limit but --batch-tokens."""
    accumulate_batches: int = 1
    """Consecutive batches of an epoch whose gradients make one step; an epoch's last step may have fewer."""
    shuffle_window: int = 0
    """Positions shuffled together; 0: the whole split. For a dump larger than memory or --cache-gb, say 1000000."""
    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    schedule: Schedule = "cosine"
    """What the learning rate does after the warm-up: all but constant end at zero; wsd is constant before it falls."""
    decay_share: float = 0.0
    """With --schedule wsd, the last share of the steps, in which the rate falls linearly to zero; 0: 0.2."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    weight_decay: float = 0.01
    """Decoupled weight decay on matrices; biases, gains and embeddings have none."""
    clip_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    eval_every: int = 0
    """Steps between dev evaluations; 0: at the end of each epoch."""
    patience: int = 0
    """Dev evaluations without a new best after which training ends; 0: it goes on to its last step."""
    checkpoint_every: int = 0
    """Steps between checkpoints to go on from, beside those at each dev evaluation; 0: those alone."""
    word_checkpoints: tuple[str, ...] = ()
    """Words after which the weights are kept as RUN/checkpoints/words_1M and so on: 500k,1M,2M; or babylm: every 1M up
    to 10M, every 10M up to 100M, every 100M up to 1000M. White-space-separated words; repeated passes count again."""
    log_every: int = 10
    """Steps between rows of metrics.jsonl."""
    seed: int = 1
    """Seed of initialisation, data order and dropout."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of the training forward's matrix products; weights, optimiser and dev evaluation stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute; auto: a GPU if there is one."""
    threads: int = 0
    """CPU threads a process; 0: the cores shared out over the processes of this machine."""
    deterministic: bool = False
    """On a GPU, only algorithms that give the same bits again, which are slower; on CPUs all do in any case."""

    def __post_init__(self) -> None:
        problems = [
            f"{name.replace('_', '-')} is {value}, expected at least {least}"
            for name, least in (
                ("num_epochs", 1),
                ("max_steps", 0),
                ("batch_tokens", 1),
                ("batch_sentences", 0),
                ("accumulate_batches", 1),
                ("shuffle_window", 0),
                ("warmup_steps", 0),
                ("eval_every", 0),
                ("patience", 0),
                ("checkpoint_every", 0),
                ("log_every", 1),
                ("seed", 0),
                ("threads", 0),
            )
            if (value := getattr(self, name)) < least
        ]
        problems += [
            f"{name.replace('_', '-')} is {value}, expected more than 0 and at most {MOST:g}"
            for name in ("lr", "clip_norm")
            if not 0 < (value := getattr(self, name)) <= MOST
        ]
        if not 0 <= self.weight_decay <= MOST:
            problems.append(f"weight-decay is {self.weight_decay}, expected at least 0 and at most {MOST:g}")
        if not 0 <= self.decay_share <= 1:
            problems.append(f"decay-share is {self.decay_share}, expected 0 to 1 (0: {DECAY_SHARE})")
        elif self.decay_share and self.schedule != "wsd":
            problems.append(
                f"decay-share is {self.decay_share}, but schedule {self.schedule} has no such share; give --schedule "
                "wsd, or leave --decay-share out"
            )
        try:
            word_thresholds(self.word_checkpoints)
        except ConfigError as error:
            problems.append(str(error))
        if problems:
            raise ConfigError("training: " + "; ".join(problems))
