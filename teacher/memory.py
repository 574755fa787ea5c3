"""Whether the longest sentence fits into memory, asked before training instead of being killed within it."""

import numpy as np

from pipeline.corpus.dataset.dataset import Split
from storage.errors import InputError
from teacher.teacher_config import TeacherConfig

_NUMBERS_OF_COMPOSITION = 28
_NUMBERS_OF_A_LAYER = 10
"""Float32 numbers that training holds an action: so many times the embedding size for values, compositions and
their gradients, so many times the hidden size for each layer of the stack. Measured as peak memory on 64 to 512
sentences of real trees, sizes 128 and 256: 37, 46 and 64 numbers for 1, 2 and 4 layers of equal sizes."""


def training_bytes(config: TeacherConfig, num_actions: int) -> int:
    """Return about how many bytes a step over sentences of ``num_actions`` in all holds besides weights."""
    stack = _NUMBERS_OF_A_LAYER * config.num_layers * config.hidden_dim
    return 4 * num_actions * (_NUMBERS_OF_COMPOSITION * config.embed_dim + stack)


def check_longest(split: Split, config: TeacherConfig, *, available_bytes: int) -> None:
    """Refuse a split whose longest sentence, which is never divided, does not fit.

    Raises:
        InputError: Naming the sentence.
    """
    if not split.num_sentences:
        return
    longest = int(np.argmax(split.actions.lengths))
    needed = training_bytes(config, int(split.actions.lengths[longest]))
    if needed > available_bytes:
        raise InputError(
            f"split {split.name}, sentence {longest + 1}: {split.tokens.lengths[longest]} tokens and "
            f"{split.actions.lengths[longest]} actions need about {needed / 1e9:.1f} GB in a step, but "
            f"{available_bytes / 1e9:.1f} GB are free; divide the sentence, leave it out, or train a smaller model"
        )
