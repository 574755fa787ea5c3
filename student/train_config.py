"""Training options of the student. Imports no torch, so that ``--help`` can read it."""

from dataclasses import dataclass
from typing import Literal

from pipeline.runtime.train_config import MOST, TrainConfig
from storage.errors import ConfigError


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
    divergence: Literal["kl", "reverse-kl", "js"] = "kl"
    """From the soft targets: KL(teacher || student); or, of a dump of the top k, KL(student || teacher) or
    Jensen-Shannon."""
    targets: Literal["dump", "shuffled", "none"] = "dump"
    """What the dump gives a position: its own distribution; as a control, that of a random one, by a permutation that
    reads the dump everywhere at once; or nothing, as without a dump."""
    context: Literal["sentence", "document"] = "sentence"
    """What a position sees: its sentence, as the teacher did; or the document before it too, up to --max-length
    positions."""
    long_sentences: Literal["refuse", "truncate"] = "refuse"
    """What becomes of sentences of more than --max-length positions: of each the first can be kept, and what is lost
    is counted. Words are counted whole."""
    tail: Literal["bucket", "renormalise", "drop"] = "bucket"
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
