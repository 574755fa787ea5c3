"""Sizes and training options of the student. Imports no torch, so that ``--help`` can read it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.runtime.train_config import MOST, ResumeConfig, TrainConfig
from storage.errors import ConfigError, InputError

INITIALIZER_RANGE = 0.02
"""Standard deviation of initial weights (Radford et al. 2019)."""
LAYER_NORM_EPSILON = 1e-5

Tail: TypeAlias = Literal["bucket", "renormalise", "drop"]
Divergence: TypeAlias = Literal["kl", "reverse-kl", "js"]
Context: TypeAlias = Literal["sentence", "document"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """The student: GPT-2's architecture (Radford et al. 2019)."""

    vocab_size: int
    """Rows of the embedding: the tokenizer's size."""
    embed_dim: int = 256
    """Size of token and position embeddings and of the residual stream; a multiple of --num-heads."""
    num_blocks: int = 6
    """Transformer blocks."""
    num_heads: int = 4
    """Attention heads a block."""
    ff_dim: int = 0
    """Size of the feed-forward layers; 0: four times --embed-dim."""
    max_length: int = 512
    """Most positions of a row: a sentence's tokens and <eos>, or as much of a document."""
    dropout: float = 0.1
    """Dropout on embeddings, attention weights and what each layer adds to the residual stream."""

    def __post_init__(self) -> None:
        problems = [
            f"{name.replace('_', '-')} is {value}, expected at least {least}"
            for name, least in (
                ("vocab_size", 1),
                ("embed_dim", 1),
                ("num_blocks", 1),
                ("num_heads", 1),
                ("ff_dim", 0),
                ("max_length", 1),
            )
            if (value := getattr(self, name)) < least
        ]
        if self.num_heads >= 1 and self.embed_dim % self.num_heads:
            problems.append(f"embed-dim is {self.embed_dim}, expected a multiple of num-heads ({self.num_heads})")
        if not 0 <= self.dropout < 1:
            problems.append(f"dropout is {self.dropout}, expected 0 <= dropout < 1")
        if problems:
            raise ConfigError("student: " + "; ".join(problems))

    @property
    def inner_dim(self) -> int:
        """Size of the feed-forward layers, resolved."""
        return self.ff_dim or 4 * self.embed_dim

    def check_length(self, num_tokens: int) -> None:
        """Refuse a sentence that has more positions than there are position embeddings.

        Raises:
            InputError: If ``num_tokens`` and ``<eos>`` are more than ``max_length``.
        """
        if num_tokens + 1 > self.max_length:
            raise InputError(
                f"student: a sentence of {num_tokens} tokens has {num_tokens + 1} positions, expected at most "
                f"{self.max_length}; train with --max-length {num_tokens + 1} or more, or leave the sentence out"
            )

    def to_hf(self) -> dict[str, int | float | str | bool | None]:
        """Return the same architecture in the keys of transformers' ``GPT2Config``, without special token ids."""
        return {
            "vocab_size": self.vocab_size,
            "n_positions": self.max_length,
            "n_embd": self.embed_dim,
            "n_layer": self.num_blocks,
            "n_head": self.num_heads,
            "n_inner": self.inner_dim,
            "activation_function": "gelu_new",
            "resid_pdrop": self.dropout,
            "embd_pdrop": self.dropout,
            "attn_pdrop": self.dropout,
            "layer_norm_epsilon": LAYER_NORM_EPSILON,
            "initializer_range": INITIALIZER_RANGE,
            "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
            "reorder_and_upcast_attn": False,
            "tie_word_embeddings": True,
        }


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentTrainConfig(TrainConfig):
    """How ``train-student`` trains."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Decoupled weight decay on matrices; biases, gains and embeddings have none."""
    alpha: float = 0.7
    """Weight of the cross-entropy with the gold tokens; the teacher has 1 - alpha. Not used without a dump."""
    temperature: float = 1.0
    """Temperature of the soft targets: one that the dump declares."""
    divergence: Divergence = "kl"
    """From the soft targets: KL(teacher || student); or, of a dump of the top k, KL(student || teacher) or
    Jensen-Shannon."""
    targets: Literal["dump", "shuffled", "none"] = "dump"
    """What the dump gives a position: its own distribution; as a control, that of a random one, by a permutation that
    reads the dump everywhere at once; or nothing, as without a dump."""
    context: Context = "sentence"
    """What a position sees: its sentence, as the teacher did; or the document before it too, up to --max-length
    positions."""
    long_sentences: Literal["refuse", "truncate"] = "refuse"
    """What becomes of sentences of more than --max-length positions: of each the first can be kept, and what is lost
    is counted. Words are counted whole."""
    tail: Tail = "bucket"
    """What becomes of the mass outside the top k: one outcome of its own, or (for comparison only) ignored. With
    draws there is no choice."""
    compile: bool = False
    """Compile the Transformer (torch.compile); needs a C++ compiler on CPUs, Triton on GPUs; dropout draws others."""
    peak_tflops: float = 0.0
    """Peak of one device in 10^12 floating-point operations a second, for mfu; 0: what is known of it, if anything."""

    def __post_init__(self) -> None:
        # A dataclass with slots is rebuilt as another class, which the short form of super() would not find.
        super(StudentTrainConfig, self).__post_init__()
        problems = []
        if not 0 <= self.alpha <= 1:
            problems.append(f"alpha is {self.alpha}, expected 0 to 1")
        if not self.temperature > 0:
            problems.append(f"temperature is {self.temperature}, expected more than 0")
        if not 0 <= self.peak_tflops <= MOST:
            problems.append(f"peak-tflops is {self.peak_tflops}, expected at least 0 and at most {MOST:g}")
        if problems:
            raise ConfigError("student training: " + "; ".join(problems))


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentCommandConfig(ResumeConfig):
    """How ``train-student`` starts."""

    init: Path | None = None
    """Start from the best weights of this student's run. All sizes must be equal, also those left at their defaults."""
    cache_gb: float = 10.0
    """For a dump at a URL: the size of the local cache in gigabytes."""

    def __post_init__(self) -> None:
        if not self.cache_gb > 0:
            raise ConfigError(f"train-student: cache-gb is {self.cache_gb}, expected above 0")
