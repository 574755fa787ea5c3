"""Options of ``parse`` and ``train-parser``. Imports no torch, so that ``--help`` can read it."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from storage.errors import ConfigError

OnFailure = Literal["flat", "skip", "stop"]
"""What a sentence without a parse becomes: a tree of nothing but its words, nothing, or the end of everything."""
PARSER_POSITIONS: Final = 512
"""Positions of a trained parser: a sentence of two words fewer, and its ends."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParseConfig:
    """How ``parse`` makes trees of text."""

    on_failure: OnFailure = "flat"
    """What a sentence becomes that cannot be parsed: flat: its words directly under TOP; skip: left out; stop: the end,
    with its line. Each is counted by reason and listed in OUT.failures.tsv."""
    language: str = "en"
    """spaCy's code of the language, for its rules of what a word is."""
    max_words: int = 200
    """Longer sentences count as failures: the parser's memory grows with the square of the length."""
    doc_sentences: int = 256
    """Sentences parsed together, in one spaCy Doc."""
    shard_sentences: int = 1_000
    """Sentences a shard: the unit that is written, and that is not done again after an interruption."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {getattr(self, name)}, expected at least 1"
            for name in ("max_words", "doc_sentences", "shard_sentences")
            if getattr(self, name) < 1
        ]
        if self.on_failure not in get_args(OnFailure):
            problems.append(f"on_failure is {self.on_failure!r}, expected one of {', '.join(get_args(OnFailure))}")
        if problems:
            raise ConfigError("parse: " + "; ".join(problems))


@dataclass(frozen=True, kw_only=True, slots=True)
class ParserConfig:
    """Sizes and training of a parser: benepar's, over characters instead of a pretrained model."""

    embed_dim: int = 128
    """Size of a word's representation: half of it from its characters, half its position."""
    num_layers: int = 2
    """Transformer layers over the words of a sentence."""
    num_heads: int = 4
    """Attention heads; embed-dim is a multiple of twice as many."""
    ff_dim: int = 256
    """Size of the layers' feed-forward part, and of the classifiers' hidden layer half of it."""
    char_embed_dim: int = 64
    """Size of a character's embedding."""
    dropout: float = 0.1
    """Of every kind."""
    num_epochs: int = 8
    """Passes over the training trees."""
    batch_sentences: int = 32
    """Sentences a step."""
    lr: float = 1e-3
    """Peak learning rate of Adam, reached after the warm-up; it falls to zero as a cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    clip_norm: float = 5.0
    """Gradients are scaled down to this norm."""
    max_words: int = 80
    """Longer training trees are left out, and counted: a chart grows with the square of the length."""
    min_label_count: int = 2
    """A label, or a chain of unary ones, that training has less often is never predicted."""
    seed: int = 1
    """Seed of the initial weights, dropout and the order of sentences."""

    def __post_init__(self) -> None:
        counts = (
            "embed_dim",
            "num_layers",
            "num_heads",
            "ff_dim",
            "char_embed_dim",
            "num_epochs",
            "batch_sentences",
            "max_words",
            "min_label_count",
        )
        problems = [
            f"{name} is {getattr(self, name)}, expected at least 1" for name in counts if getattr(self, name) < 1
        ]
        if self.num_heads > 0 and self.embed_dim % (2 * self.num_heads):
            problems.append(
                f"embed_dim is {self.embed_dim}, expected a multiple of {2 * self.num_heads}, twice num_heads"
            )
        if self.embed_dim % 4:
            problems.append(f"embed_dim is {self.embed_dim}, expected a multiple of 4")
        if self.ff_dim % 2:
            problems.append(f"ff_dim is {self.ff_dim}, expected an even number")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}, expected at least 0 and below 1")
        if self.max_words > PARSER_POSITIONS - 2:
            problems.append(f"max_words is {self.max_words}, expected at most {PARSER_POSITIONS - 2}")
        if not 0 < self.lr < 1:
            problems.append(f"lr is {self.lr}, expected above 0 and below 1")
        if self.clip_norm <= 0:
            problems.append(f"clip_norm is {self.clip_norm}, expected above 0")
        if self.warmup_steps < 0 or self.seed < 0:
            problems.append("warmup_steps and seed must be at least 0")
        if problems:
            raise ConfigError("train-parser: " + "; ".join(problems))
