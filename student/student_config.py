"""Define the sizes and training options of the student. This module imports no torch, so that ``--help`` is quick."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from pipeline.runtime.options import refuse, too_small
from pipeline.runtime.train_config import MOST, ResumeConfig, TrainConfig
from storage.errors import ConfigError, InputError

INITIALIZER_RANGE = 0.02
"""Standard deviation of the initial weights (Radford et al. 2019)."""
LAYER_NORM_EPSILON = 1e-5

Tail: TypeAlias = Literal["bucket", "renormalise", "drop"]
Divergence: TypeAlias = Literal["kl", "reverse-kl", "js"]
Context: TypeAlias = Literal["sentence", "document"]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentConfig:
    """The student: GPT-2's architecture (Radford et al. 2019)."""

    vocab_size: int
    """Size of the tokenizer's vocabulary."""
    embed_dim: int = 256
    """Size of the token and position embeddings and of the residual stream. A multiple of --num-heads."""
    num_blocks: int = 6
    """Number of Transformer blocks."""
    num_heads: int = 4
    """Number of attention heads per block."""
    ff_dim: int = 0
    """Size of the feed-forward layers. 0: four times --embed-dim."""
    max_length: int = 512
    """Largest number of positions of a row. A row is a sentence's tokens and <eos>, or part of a document."""
    dropout: float = 0.1
    """Dropout on embeddings, on attention weights and on the output of each layer."""

    def __post_init__(self) -> None:
        problems = too_small(self, 1, "vocab_size", "embed_dim", "num_blocks", "num_heads", "max_length")
        problems += too_small(self, 0, "ff_dim")
        if self.num_heads >= 1 and self.embed_dim % self.num_heads:
            problems.append(f"--embed-dim is {self.embed_dim}, expected a multiple of --num-heads ({self.num_heads})")
        if not 0 <= self.dropout < 1:
            problems.append(f"--dropout is {self.dropout}, expected 0 <= dropout < 1")
        refuse("student", problems)

    @property
    def inner_dim(self) -> int:
        """Size of the feed-forward layers, with the default resolved."""
        return self.ff_dim or 4 * self.embed_dim

    @property
    def num_weights(self) -> int:
        """The number of weights in matrices and embeddings, without biases and gains."""
        in_blocks = self.num_blocks * self.embed_dim * (4 * self.embed_dim + 2 * self.inner_dim)
        return (self.vocab_size + self.max_length) * self.embed_dim + in_blocks

    def check_length(self, num_tokens: int) -> None:
        """Check that a sentence has at most as many positions as there are position embeddings.

        Raises:
            InputError: If ``num_tokens`` + 1 is more than ``max_length``.
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
    """The options of ``train-student``'s training."""

    lr: float = 1e-3
    """Peak learning rate of AdamW."""
    weight_decay: float = 0.1
    """Decoupled weight decay on matrices. Biases, gains and embeddings have no decay."""
    alpha: float = 0.7
    """Weight of the cross-entropy with the gold tokens. The soft targets have the weight 1 - alpha. Not used without a
    dump."""
    temperature: float = 1.0
    """Temperature of the soft targets. The dump must have been made for it."""
    divergence: Divergence = "kl"
    """Divergence from the soft targets. kl: KL(teacher || student). reverse-kl: KL(student || teacher). js:
    Jensen-Shannon. reverse-kl and js need a dump of the k most probable tokens, not one with draws."""
    targets: Literal["dump", "shuffled", "none"] = "dump"
    """Soft targets of a position. dump: the position's own distribution. shuffled (a control): the distribution of
    a random position. Each batch then reads from the whole dump, so the dump should fit into memory. none: no soft
    targets, as without a dump."""
    context: Context = "sentence"
    """Text that a position sees. sentence: its own sentence, as for the teacher. document: also earlier sentences of
    its document, in rows of up to --max-length positions."""
    long_sentences: Literal["refuse", "truncate"] = "refuse"
    """Treatment of sentences with more than --max-length positions. refuse: stop with an error. truncate: keep the
    first positions and count the lost ones. Word counts include the lost words."""
    tail: Tail = "bucket"
    """Treatment of the mass outside the top k. bucket: one outcome for all of it. renormalise and drop ignore the
    mass and are for comparison only. A dump with draws (dump-teacher --selection sampled or stratified) needs the
    default."""
    compile: bool = False
    """Compile the Transformer (torch.compile). This needs a C++ compiler on CPUs and Triton on GPUs. It changes the
    random numbers of dropout."""
    peak_tflops: float = 0.0
    """Peak of one device in 10^12 floating-point operations per second. The metric mfu is the share of this peak that
    training reaches. 0: look up the device in a table."""

    def __post_init__(self) -> None:
        # super() without arguments does not work in a dataclass with slots.
        super(StudentTrainConfig, self).__post_init__()
        problems = []
        if not 0 <= self.alpha <= 1:
            problems.append(f"--alpha is {self.alpha}, expected 0 to 1")
        if not self.temperature > 0:
            problems.append(f"--temperature is {self.temperature}, expected more than 0")
        if not 0 <= self.peak_tflops <= MOST:
            problems.append(f"--peak-tflops is {self.peak_tflops}, expected at least 0 and at most {MOST:g}")
        refuse("student training", problems)


@dataclass(frozen=True, kw_only=True, slots=True)
class ExportConfig:
    """What ``export`` writes into the model card, and where it sends the folders."""

    licence: str = "unknown"
    """Licence of the model, for the model card. Write it as the Hugging Face hub does, for example cc-by-4.0."""
    language: str = "en"
    """Language of the training text, for the model card. Write it as the hub does, for example en."""
    hub_datasets: tuple[str, ...] = ()
    """Datasets on the hub from which the training text was taken. The model card names them."""
    push: str = ""
    """Also send the export to this repository of the hub, OWNER/NAME. The checkpoint goes to the branch main. If the
    run has --word-checkpoints, the weights after 1M words go to the branch chck_1M, and so on."""
    private: bool = False
    """If --push creates the repository, make it private."""
    dry_run: bool = False
    """With --push: show what would be sent. Nothing is sent, and OUT is not written."""

    def __post_init__(self) -> None:
        if self.dry_run and not self.push:
            raise ConfigError("export: --dry-run without --push, expected a repository; give --push OWNER/NAME")


@dataclass(frozen=True, kw_only=True, slots=True)
class StudentCommandConfig(ResumeConfig):
    """How ``train-student`` starts."""

    init: Path | None = None
    """Directory of another student's run. The new student starts from its best weights. Give it the same sizes, such as
    --embed-dim: they are not copied from that run."""
    cache_gb: float = 10.0
    """For a dump at a URL: the size of the local cache in gigabytes."""
    dump_weights: tuple[float, ...] = ()
    """With several dumps: the weight of each in the mixture, comma-separated, in the order of --dump. The weights are
    divided by their sum. Default: equal weights."""

    def __post_init__(self) -> None:
        ResumeConfig.__post_init__(self)  # super() does not work in a dataclass with slots
        problems = [] if self.cache_gb > 0 else [f"--cache-gb is {self.cache_gb}, expected above 0"]
        if any(not 0 < weight < math.inf for weight in self.dump_weights):
            problems.append(
                f"--dump-weights are {', '.join(f'{w:g}' for w in self.dump_weights)}, expected all above 0"
            )
        refuse("train-student", problems)
