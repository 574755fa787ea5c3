"""Define the options of ``parse`` and ``train-parser``. This module imports no torch, so ``--help`` is quick."""

from dataclasses import dataclass
from typing import Final, Literal, get_args

from pipeline.corpus.text.text_files import OnError
from pipeline.runtime.options import refuse, too_small

OnFailure = Literal["flat", "skip", "stop"]
"""What to do with a sentence without a parse."""
PARSER_POSITIONS: Final = 512
"""Largest number of positions in the input of a parser that ``train-parser`` makes. Two positions mark the ends of a
sentence, so the longest sentence has 510 words."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParseConfig:
    """How ``parse`` turns text into trees."""

    model: str = ""
    """Name of a model that benepar.download installed, such as benepar_en3, or path of a model made by train-parser."""
    flat: bool = False
    """Use no model: every tree has all its words directly under TOP."""
    source: str = ""
    """Clean raw text first, as clean-text --source does. Without this option, texts must have one sentence per line."""
    column: str = ""
    """Read the text in this field of JSON lines or this column of a table, as clean-text --column does. Only with
    --source."""
    wrapped: bool = False
    """Join the lines of each paragraph, as clean-text --wrapped does. Only with --source plain."""
    licence: str = ""
    """Licence of all documents. Only with --source."""
    on_error: OnError = "stop"
    """What to do at a line that is not UTF-8. stop: end with an error that names the line. skip: leave the line out and
    count it."""
    workers: int = 1
    """Number of processes on this machine. Under torchrun, which starts its own processes, leave this option at 1."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute. auto: on a GPU if there is one."""
    on_failure: OnFailure = "flat"
    """What to do with a sentence that cannot be parsed. flat: put its words directly under TOP. skip: leave it out.
    stop: end with an error that names its line. OUT.failures.tsv lists all such sentences."""
    language: str = "en"
    """Code of the language whose rules spaCy uses to split text into words."""
    max_words: int = 200
    """Do not parse sentences with more words than this; count them as failures. The parser's memory grows with the
    square of the length."""
    doc_sentences: int = 256
    """Sentences parsed together in one spaCy Doc."""
    shard_sentences: int = 1_000
    """Sentences per shard. A process parses one shard at a time, and stores it when it is complete. If the command is
    interrupted, the complete shards are kept."""

    def __post_init__(self) -> None:
        problems = too_small(self, 1, "workers", "max_words", "doc_sentences", "shard_sentences")
        if self.flat == bool(self.model):
            problems.append("give either --model or --flat")
        if self.on_failure not in get_args(OnFailure):
            problems.append(f"--on-failure is {self.on_failure!r}, expected one of {', '.join(get_args(OnFailure))}")
        refuse("parse", problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class ParserConfig:
    """Sizes and training of a benepar parser that reads words as characters, without a pretrained encoder."""

    embed_dim: int = 128
    """Size of a word's representation. One half encodes the word's characters, the other half its position."""
    num_layers: int = 2
    """Transformer layers over the words of a sentence."""
    num_heads: int = 4
    """Attention heads. Twice this number must divide --embed-dim."""
    ff_dim: int = 256
    """Size of the feed-forward part of each layer. The classifiers of labels and tags have a hidden layer half as
    large."""
    char_embed_dim: int = 64
    """Size of a character's embedding."""
    dropout: float = 0.1
    """Probability of every kind of dropout."""
    num_epochs: int = 8
    """Passes over the training trees."""
    batch_sentences: int = 32
    """Sentences per step."""
    lr: float = 1e-3
    """Peak learning rate of Adam, reached after the warm-up. Then it falls to zero as a cosine."""
    warmup_steps: int = 100
    """Steps over which the learning rate rises linearly from zero."""
    clip_norm: float = 5.0
    """Largest norm of the gradients. Larger gradients are scaled down to this norm."""
    max_words: int = 80
    """Leave out training trees with more words than this, and count them. The parser's memory grows with the square of
    the length."""
    min_label_count: int = 2
    """Never predict a label, or a chain of unary labels, that occurs fewer than this many times in the training
    trees."""
    seed: int = 1
    """Seed of the initial weights, dropout and the order of sentences."""

    def __post_init__(self) -> None:
        sizes = ("embed_dim", "num_layers", "num_heads", "ff_dim", "char_embed_dim", "max_words", "min_label_count")
        problems = too_small(self, 1, *sizes, "num_epochs", "batch_sentences") + too_small(
            self, 0, "warmup_steps", "seed"
        )
        if self.num_heads > 0 and self.embed_dim % (2 * self.num_heads):
            problems.append(
                f"--embed-dim is {self.embed_dim}, expected a multiple of {2 * self.num_heads}, twice --num-heads"
            )
        if self.embed_dim % 4:
            problems.append(f"--embed-dim is {self.embed_dim}, expected a multiple of 4")
        if self.ff_dim % 2:
            problems.append(f"--ff-dim is {self.ff_dim}, expected an even number")
        if not 0 <= self.dropout < 1:
            problems.append(f"--dropout is {self.dropout}, expected at least 0 and below 1")
        if self.max_words > PARSER_POSITIONS - 2:
            problems.append(f"--max-words is {self.max_words}, expected at most {PARSER_POSITIONS - 2}")
        if not 0 < self.lr < 1:
            problems.append(f"--lr is {self.lr}, expected above 0 and below 1")
        if self.clip_norm <= 0:
            problems.append(f"--clip-norm is {self.clip_norm}, expected above 0")
        refuse("train-parser", problems)
