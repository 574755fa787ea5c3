r"""Mix the next-token distributions of a teacher and a student, and measure what the student alone lacks.

    p_mix(w | x_<t) = λ p_teacher(w | x_<t) + (1 - λ) p_student(w | x_<t)        one λ in [0, 1] for all positions

If no mixture predicts better than the student alone, there is no sign that the student could learn more from the
teacher's distributions. λ is fitted by maximum likelihood on one half of a split's sentences. The gain of the mixture
over the student alone is measured on the other half.

A gain with the teacher's distribution given the tree does not prove that the teacher knows more. The parser or
annotator saw the whole sentence, so the tree can reveal later words (a leak). The teacher's *marginal by beam search*
has no leak: it is summed over trees that a beam search finds from the words so far.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Final, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset_store import Split
from pipeline.evaluation.intervals_and_p_values import Interval, bootstrap_mean
from pipeline.evaluation.perplexity import GIVEN_TREE, IN_DOCUMENT, MARGINAL, UNCONDITIONAL
from storage.errors import InputError
from storage.json_files import Count, Number
from storage.ragged import Ragged

NEXT_TOKEN: Final = (MARGINAL, UNCONDITIONAL, IN_DOCUMENT, GIVEN_TREE)
"""The distributions that give each token a probability of its own, and so can be mixed. Those without a leak come
first."""
Halves = Literal["documents", "sentences"]
LEAST_SENTENCES: Final = 4
"""Least number of sentences of a split. Each half needs two, because a half of one sentence has no interval."""
_LEAST_SHARE: Final = 0.25
"""The halves consist of whole documents if each half then gets at least this share of the sentences."""
_SEED: Final = 1
_BISECTIONS: Final = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureFigure:
    """What a mixture gains over the student alone, under one distribution of the teacher.

    The fields ``teacher_weight`` and ``num_fitted`` are about the half of the sentences on which λ was fitted. All
    other numbers are about the other half.
    """

    distribution: str
    """The teacher's distribution, one of ``NEXT_TOKEN``."""
    student_distribution: str
    teacher_weight: Annotated[float, msgspec.Meta(ge=0, le=1)]
    """λ in [0, 1]; 0 if no mixture fits better than the student alone."""
    gain_nats: Number
    """Mean of ``log p_mix - log p_student`` over positions, ``<eos>`` included."""
    interval: Interval
    """95 % interval of ``gain_nats`` over sentences, by the bootstrap. λ is not fitted again for each sample."""
    gain_nats_without_eos: Number | None = None
    """``gain_nats`` without the positions of ``<eos>``; None if all sentences are empty."""
    student_nats: Number
    """Mean negative log-probability per position under the student alone."""
    teacher_nats: Number
    """Mean negative log-probability per position under the teacher alone."""
    num_fitted: Count
    """Number of sentences on which λ was fitted."""
    num_sentences: Count
    num_positions: Count

    def __post_init__(self) -> None:
        """Check that the distribution can be mixed.

        Raises:
            InputError: If it cannot.
        """
        if self.distribution not in NEXT_TOKEN:
            raise InputError(f"distribution is {self.distribution!r:.60}, expected one of {', '.join(NEXT_TOKEN)}")

    @property
    def is_gain(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.interval.low > 0

    @property
    def conclusion(self) -> str:
        """What the gain says about the teacher, in plain words."""
        given = "Given the tree, the" if self.distribution == GIVEN_TREE else "The"
        form = "z.3f" if abs(self.gain_nats) >= 0.01 else "z.5f"
        ends = f"{self.interval.low:{form}} to {self.interval.high:{form}}"
        size = f"{self.gain_nats:{form}} nats per position ({ends})"
        if not self.is_gain:
            return (
                f"{given} mixture gains {size}. This does not show that it is better than the student alone: there is "
                "no sign that the teacher has anything to teach."
            )
        if self.distribution == GIVEN_TREE:
            return (
                f"{given} mixture gains {size}. This is no proof that the teacher knows more than the student: the "
                "trees were made from the whole sentence and can reveal later words."
            )
        return f"{given} mixture gains {size}: the teacher knows something the student does not."


@dataclass(frozen=True, kw_only=True, slots=True)
class MixtureFigures:
    """The mixtures of one teacher and one student, by distribution of the teacher."""

    teacher: str
    """The path of the teacher."""
    halves: Halves
    """What the halves are made of: whole documents, or every second sentence."""
    by_distribution: Annotated[Sequence[MixtureFigure], msgspec.Meta(min_length=1)]
    """A figure for each distribution, in the order of ``NEXT_TOKEN``."""

    @property
    def first(self) -> MixtureFigure:
        """The mixture to draw conclusions from: one without a leak if there is one, else the one given the tree."""
        return self.by_distribution[0]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


def halves_of(split: Split) -> tuple[NDArray[np.bool_], Halves]:
    """Divide a split into two halves. The same split always gives the same halves.

    If the documents are known, each document goes in turn to the half with fewer sentences so far. If the documents are
    not known, or do not make two halves of similar size, the sentences go to the two halves in turn.

    Returns:
        First an array bool ``[M]`` that is True for the sentences on which λ is fitted. Then a word that says what the
        halves are made of.

    Raises:
        InputError: If the split has fewer than ``LEAST_SENTENCES`` sentences.
    """
    num_sentences = split.num_sentences
    if num_sentences < LEAST_SENTENCES:
        raise InputError(
            f"split {split.name} has {num_sentences} sentences, expected at least {LEAST_SENTENCES}: two to fit the "
            "mixture and two to measure its gain; give another --split"
        )
    if split.has_documents:
        document_of_sentence, sizes = np.unique(split.document_ids, return_inverse=True, return_counts=True)[1:]
        first = np.zeros(len(sizes), bool)
        counts = [0, 0]
        for document, size in enumerate(sizes):
            first[document] = counts[0] <= counts[1]
            counts[0 if first[document] else 1] += int(size)
        if min(counts) >= _LEAST_SHARE * num_sentences:
            return first[document_of_sentence], "documents"
    return np.arange(num_sentences) % 2 == 0, "sentences"


def mixed(teacher: NDArray[np.float64], student: NDArray[np.float64], weight: float) -> NDArray[np.float64]:
    """Return ``log(λ exp(teacher) + (1 - λ) exp(student))`` for log-probabilities ``[P]`` of the same tokens."""
    logs = [math.log(share) if share > 0 else -math.inf for share in (weight, 1 - weight)]
    return np.logaddexp(logs[0] + teacher, logs[1] + student)


def teacher_weight(teacher: NDArray[np.float64], student: NDArray[np.float64]) -> float:
    """Return the λ in [0, 1] that gives the gold tokens the highest probability under the mixture.

    Let t and s be the probabilities that the teacher and the student give to a gold token. The log-likelihood ``Σ log(λ
    t + (1 - λ) s)`` is concave in λ. The root of its derivative ``Σ (t - s) / (λ t + (1 - λ) s)`` is found by
    bisection. If the derivative has no root between 0 and 1, the result is 0 or 1.

    ``teacher`` and ``student`` are the natural log-probabilities ``[P]`` of the gold tokens, finite, P at least 1.
    """
    log_ratios = teacher - student
    with np.errstate(over="ignore"):  # a ratio may be beyond any float; an infinite derivative has the correct sign
        if np.expm1(log_ratios).sum() <= 0:  # at 0 the derivative is Σ (t / s - 1)
            return 0.0
        if np.expm1(-log_ratios).sum() <= 0:  # at 1 it is Σ (1 - s / t)
            return 1.0
    largest = np.maximum(teacher, student)
    t, s = np.exp(teacher - largest), np.exp(student - largest)
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        weight = (low + high) / 2
        if ((t - s) / (weight * t + (1 - weight) * s)).sum() > 0:
            low = weight
        else:
            high = weight
    return (low + high) / 2


def mixture_figure(
    teacher: Ragged,
    student: Ragged,
    is_fitted: NDArray[np.bool_],
    *,
    distribution: str,
    student_distribution: str,
) -> MixtureFigure:
    """Fit the mixture on one half of the sentences, and measure its gain on the other half.

    The interval is the percentile bootstrap of the mean over sentences, as in
    ``pipeline.evaluation.compare.significance``. The value of a sentence is the sum of the gains at its positions,
    divided by the mean number of positions per sentence.

    ``teacher`` and ``student`` have M rows, one per sentence. The row of a sentence of n tokens has the natural
    log-probabilities of these tokens and of ``<eos>``, all finite. ``is_fitted`` ``[M]`` is True for the sentences of
    the half for the fit. Both halves must have sentences.

    Raises:
        ValueError: If the rows do not have the same lengths.
    """
    if not np.array_equal(teacher.offsets, student.offsets):
        raise ValueError("rows of teacher and student have different lengths")
    fitted, held = np.flatnonzero(is_fitted), np.flatnonzero(~is_fitted)
    weight = teacher_weight(*(rows.take(fitted).values.astype(np.float64) for rows in (teacher, student)))
    offsets = teacher.take(held).offsets
    of_teacher, of_student = (rows.take(held).values.astype(np.float64) for rows in (teacher, student))
    gains = mixed(of_teacher, of_student, weight) - of_student
    num_sentences, num_positions = len(held), len(gains)
    num_tokens = num_positions - num_sentences
    units = np.add.reduceat(gains, offsets[:-1]) * (num_sentences / num_positions)
    return MixtureFigure(
        distribution=distribution,
        student_distribution=student_distribution,
        teacher_weight=weight,
        gain_nats=float(gains.mean()),
        interval=bootstrap_mean(units, seed=_SEED),
        gain_nats_without_eos=float(np.delete(gains, offsets[1:] - 1).sum()) / num_tokens if num_tokens else None,
        student_nats=-float(of_student.mean()),
        teacher_nats=-float(of_teacher.mean()),
        num_fitted=len(fitted),
        num_sentences=num_sentences,
        num_positions=num_positions,
    )
