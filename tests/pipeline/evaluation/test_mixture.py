"""Tests of mixtures: the weight is the most probable one, the gain is measured elsewhere, and its interval covers."""

import math
from dataclasses import asdict, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pipeline.evaluation.intervals_and_p_values import Interval
from pipeline.evaluation.mixture import (
    MixtureFigure,
    MixtureFigures,
    halves_of,
    mixed,
    mixture_figure,
    teacher_weight,
)
from pipeline.evaluation.perplexity import GIVEN_TREE, MARGINAL, UNCONDITIONAL
from storage.errors import InputError
from storage.json_files import convert
from storage.ragged import Ragged
from tests.pipeline.evaluation.test_perplexity import make_split

CONTEXTS = np.random.default_rng(0).dirichlet(np.full(6, 0.5), (2, 40))
"""A made-up teacher and student: ``[model, context, token]`` probabilities of six tokens in forty contexts."""
FIGURE = MixtureFigure(
    distribution=MARGINAL,
    student_distribution=UNCONDITIONAL,
    teacher_weight=0.25,
    gain_nats=0.031,
    interval=Interval(0.022, 0.04),
    gain_nats_without_eos=0.03,
    student_nats=3.0,
    teacher_nats=2.5,
    num_fitted=5,
    num_sentences=4,
    num_positions=40,
)


def drawn(
    draw: np.random.Generator, num_positions: int, weight: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Draw tokens from the mixture of ``CONTEXTS``. Return the log-probabilities under its teacher and its student."""
    contexts = draw.integers(0, CONTEXTS.shape[1], num_positions)
    model = np.where(draw.random(num_positions) < weight, 0, 1)
    sums = np.cumsum(CONTEXTS[model, contexts], axis=-1)
    tokens = np.minimum((draw.random((num_positions, 1)) > sums).sum(axis=-1), CONTEXTS.shape[2] - 1)
    of_teacher, of_student = np.log(CONTEXTS[:, contexts, tokens])
    return of_teacher, of_student


def figure_of(teacher: Ragged, student: Ragged, is_fitted: NDArray[np.bool_] | None = None) -> MixtureFigure:
    if is_fitted is None:
        is_fitted = np.arange(len(teacher)) % 2 == 0
    return mixture_figure(teacher, student, is_fitted, distribution=MARGINAL, student_distribution=UNCONDITIONAL)


def in_sentences(values: NDArray[np.float64], length: int) -> Ragged:
    return Ragged.from_lengths(values, [length] * (len(values) // length))


@pytest.mark.parametrize("weight", [0.1, 0.35, 0.8])
def test_the_weight_of_a_known_mixture_is_recovered(weight: float) -> None:
    found = teacher_weight(*drawn(np.random.default_rng(1), 20_000, weight))
    # The standard deviation of the estimate is below 0.007 here.
    assert found == pytest.approx(weight, abs=0.02)


pairs_of_logs = st.lists(st.tuples(*[st.floats(-2000, 0)] * 2), min_size=1, max_size=20)


@given(pairs_of_logs)
def test_no_other_weight_makes_the_tokens_more_probable(pairs: list[tuple[float, float]]) -> None:
    teacher, student = np.array(pairs).T
    best = mixed(teacher, student, teacher_weight(teacher, student)).sum()
    others = [mixed(teacher, student, weight).sum() for weight in np.linspace(0, 1, 101)]
    # The sums are of up to 40,000 nats. Near 0 and 1, a bisection ends 2^-60 from the end.
    assert best >= max(others) - 1e-9


def test_a_mixture_is_the_logarithm_of_the_weighted_mean() -> None:
    p, q = np.array([0.5, 0.01, 1e-9]), np.array([0.2, 0.3, 0.9])
    assert mixed(np.log(p), np.log(q), 0.3) == pytest.approx(np.log(0.3 * p + 0.7 * q), rel=1e-12)
    assert np.array_equal(mixed(np.log(p), np.log(q), 0.0), np.log(q))
    assert np.array_equal(mixed(np.log(p), np.log(q), 1.0), np.log(p))


def test_a_model_gains_nothing_from_itself() -> None:
    rows = in_sentences(drawn(np.random.default_rng(2), 400, 0.5)[0], 10)
    found = figure_of(rows, rows)
    assert (found.teacher_weight, found.gain_nats, found.interval) == (0, 0, Interval(0, 0))
    assert not found.is_gain
    assert "better than the student alone: there is no sign that the teacher has anything to teach" in found.conclusion


def test_a_teacher_that_knows_the_truth_gets_all_the_weight() -> None:
    teacher, student = drawn(np.random.default_rng(3), 20_000, 1.0)
    found = figure_of(in_sentences(teacher, 10), in_sentences(student, 10))
    assert found.teacher_weight > 0.98
    assert found.gain_nats == pytest.approx(found.student_nats - found.teacher_nats, abs=1e-3)
    assert found.is_gain
    assert "the teacher knows something the student does not" in found.conclusion
    given_tree = replace(found, distribution=GIVEN_TREE).conclusion
    assert given_tree.startswith("Given the tree, ")
    assert "no proof" in given_tree


def test_the_gain_is_that_of_the_sentences_the_weight_was_not_fitted_on() -> None:
    draw = np.random.default_rng(4)
    lengths = [1, 3, 2, 5, 4, 1]
    teacher, student = (Ragged.from_lengths(-draw.exponential(2, sum(lengths)), lengths) for _ in range(2))
    is_fitted = np.array([True, False, True, False, False, True])
    found = figure_of(teacher, student, is_fitted)
    fitted = [np.concatenate([rows[i] for i in (0, 2, 5)]) for rows in (teacher, student)]
    assert found.teacher_weight == teacher_weight(*fitted)
    gains = [mixed(teacher[i], student[i], found.teacher_weight) - student[i] for i in (1, 3, 4)]
    assert found.gain_nats == pytest.approx(np.concatenate(gains).mean(), rel=1e-12)
    assert found.gain_nats_without_eos == pytest.approx(np.concatenate([row[:-1] for row in gains]).mean(), rel=1e-12)
    assert (found.num_fitted, found.num_sentences, found.num_positions) == (3, 3, 12)


def test_the_interval_covers_the_true_gain() -> None:
    draw, covered, num_trials = np.random.default_rng(5), 0, 200
    truth = 0.3 * CONTEXTS[0] + 0.7 * CONTEXTS[1]
    for _ in range(num_trials):
        lengths = draw.integers(2, 20, 60)
        teacher, student = drawn(draw, int(lengths.sum()), 0.3)
        found = figure_of(Ragged.from_lengths(teacher, lengths), Ragged.from_lengths(student, lengths))
        weight = found.teacher_weight
        log_ratio = np.log((weight * CONTEXTS[0] + (1 - weight) * CONTEXTS[1]) / CONTEXTS[1])
        true_gain = float((truth * log_ratio).sum(axis=-1).mean())
        covered += found.interval.low <= true_gain <= found.interval.high
    # 0.95, less what a percentile interval of 30 sentences lacks; binomial sd below 0.019
    assert 0.89 <= covered / num_trials <= 0.99


def test_halves_keep_documents_whole_and_are_balanced() -> None:
    split = replace(make_split([3] * 12), document_ids=np.repeat([4, 1, 7, 2], [5, 1, 2, 4]).astype(np.int32))
    is_fitted, halves = halves_of(split)
    assert halves == "documents"
    assert is_fitted.sum() == 6
    for document in set(split.document_ids):
        assert len(set(is_fitted[split.document_ids == document])) == 1
    assert np.array_equal(is_fitted, halves_of(split)[0])


@pytest.mark.parametrize("documents", [[0] * 6, [1] * 6, [1] * 5 + [2]], ids=["not known", "one", "one and a bit"])
def test_without_enough_documents_sentences_take_turns(documents: list[int]) -> None:
    is_fitted, halves = halves_of(replace(make_split([2] * 6), document_ids=np.array(documents, np.int32)))
    assert halves == "sentences"
    assert list(is_fitted) == [True, False] * 3


@pytest.mark.parametrize("num_sentences", [0, 1, 3])
def test_too_few_sentences_are_refused(num_sentences: int) -> None:
    with pytest.raises(InputError, match=rf"split dev has {num_sentences} sentences, expected at least 4"):
        halves_of(make_split([2] * num_sentences))


def test_figures_survive_a_round_trip_and_their_sentence_has_three_digits() -> None:
    by_distribution = [FIGURE, replace(FIGURE, distribution=GIVEN_TREE)]
    figures = MixtureFigures(teacher="runs/teacher", halves="documents", by_distribution=by_distribution)
    assert convert(figures.to_json(), MixtureFigures, where="file", remedy="") == figures
    expected = "The mixture gains 0.031 nats per position (0.022 to 0.040): the teacher knows something the student"
    assert figures.first.conclusion.startswith(expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distribution": "joint with the tree"}, "distribution is 'joint with the tree', expected one of"),
        ({"teacher_weight": 1.5}, "teacher_weight: expected float <= 1.0"),
        ({"interval": [0.1]}, "interval: expected array of length 2"),
        ({"gain_nats": math.nan}, "gain_nats: expected float"),
        ({"num_sentences": "4"}, "num_sentences: expected int, found str"),
    ],
)
def test_damaged_figures_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=f"file: {message}"):
        convert(asdict(FIGURE) | changes, MixtureFigure, where="file", remedy="")
