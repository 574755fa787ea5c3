"""With draws, the soft cross-entropy and its gradient are unbiased over dumps, and the loss equals its equation."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training.chunked_vocabulary import vocabulary_loss
from storage.dump.reader import DumpReader
from student.loss import DistillationRows
from student.targets import DrawnTargets
from tests.storage.dumps import full_distributions, make_schema, write_dump
from tests.student.reference import distillation_terms, draw, drawn_targets, estimate, soft_cross_entropy, tempered

SELECTIONS = [pytest.param(0, id="sampled"), pytest.param(3, id="stratified")]


def logits_of(seed: int, rows: int, vocab_size: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, vocab_size, generator=generator, dtype=torch.float64)


def gold_of(rows: int, vocab_size: int) -> Tensor:
    return torch.arange(rows) * 7 % vocab_size


def terms_and_gradient(student: Tensor, targets: DrawnTargets, temperature: float) -> tuple[Tensor, Tensor]:
    """Return the soft cross-entropy of each row and its gradient."""
    student = student.clone().requires_grad_()
    soft = distillation_terms(student, gold_of(*student.shape), targets, temperature=temperature)[1]
    return soft.detach(), torch.autograd.grad(soft.sum(), student)[0]


def surely_unequal(samples: Tensor, expected: Tensor) -> Tensor:
    """Return where the mean over the first axis is more than 5 standard errors from the expected value."""
    error = samples.std(0) / len(samples) ** 0.5
    return (samples.mean(0) - expected).abs() > 5 * error + 1e-12


@pytest.mark.parametrize("num_top", SELECTIONS)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("is_teacher", [False, True], ids=["another student", "the teacher itself"])
def test_soft_cross_entropy_and_gradient_are_unbiased_over_dumps(
    num_top: int, temperature: float, is_teacher: bool
) -> None:
    """With 5 standard errors, chance puts one of these few hundred figures outside in ten thousand runs."""
    num_seeds, copies, num_rows, vocab_size, num_draws = 40, 100, 3, 11, 4
    teacher = logits_of(1, num_rows, vocab_size, scale=1.5)
    student = teacher if is_teacher else logits_of(2, num_rows, vocab_size, scale=1.5)
    softs, gradients, normalised = [], [], []
    for seed in range(num_seeds):
        # Equal rows of one dump are as independent as rows of two dumps, and faster.
        reduced = draw(teacher.repeat(copies, 1), num_top + num_draws, num_top, temperature, seed)
        targets = drawn_targets(reduced, num_top, temperature)
        soft, gradient = terms_and_gradient(student.repeat(copies, 1), targets, temperature)
        softs.append(soft.view(copies, num_rows))
        gradients.append(gradient.view(copies, num_rows, vocab_size))
        to_one = DrawnTargets(ids=targets.ids, weights=targets.weights / targets.weights.sum(1, keepdim=True))
        _, gradient = terms_and_gradient(student.repeat(copies, 1), to_one, temperature)
        normalised.append(gradient.view(copies, num_rows, vocab_size))
    full = student.clone().requires_grad_()
    expected = soft_cross_entropy(tempered(teacher, temperature).exp(), full, temperature)
    expected_gradient = torch.autograd.grad(expected.sum(), full)[0]
    assert not surely_unequal(torch.cat(softs), expected.detach()).any()
    assert not surely_unequal(torch.cat(gradients), expected_gradient).any()
    if is_teacher:
        assert expected_gradient.abs().max() < 1e-12
    if temperature != 1 and not num_top:  # at T = 1 they sum to 1 as they are
        assert surely_unequal(torch.cat(normalised), expected_gradient).any(), "this test would not see a bias"


@given(
    seed=st.integers(0, 2**32),
    vocab_size=st.integers(2, 30),
    scale=st.floats(0.01, 10),
    temperature=st.sampled_from([0.7, 1.0, 2.0]),
    data=st.data(),
)
def test_loss_and_gradient_equal_the_slow_version(
    seed: int, vocab_size: int, scale: float, temperature: float, data: st.DataObject
) -> None:
    k = data.draw(st.integers(2, vocab_size))
    num_top = data.draw(st.integers(0, k - 1))
    teacher, student = logits_of(seed, 4, vocab_size, scale), logits_of(seed + 1, 4, vocab_size, scale)
    reduced = draw(teacher, k, num_top, temperature, seed)
    found = terms_and_gradient(student, drawn_targets(reduced, num_top, temperature), temperature)
    slow = student.clone().requires_grad_()
    soft = soft_cross_entropy(estimate(teacher, reduced, num_top, temperature), slow, temperature)
    torch.testing.assert_close(found[0], soft.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found[1], torch.autograd.grad(soft.sum(), slow)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("num_top", SELECTIONS)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_gradients_equal_finite_differences(num_top: int, temperature: float) -> None:
    reduced = draw(logits_of(1, 3, 9), 8, num_top, temperature, 5)
    assert reduced.counts is not None
    assert (reduced.counts[:, num_top:] == 0).any(), "no column is unused"
    targets, gold = drawn_targets(reduced, num_top, temperature), gold_of(3, 9)
    student = logits_of(2, 3, 9).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda logits: distillation_terms(logits, gold, targets, temperature=temperature), student
    )


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("chunk_rows", [4, 100])
def test_the_chunked_loss_and_its_gradients_equal_the_equation(
    alpha: float, temperature: float, chunk_rows: int
) -> None:
    states, weight = logits_of(9, 11, 6).requires_grad_(), logits_of(10, 23, 6, scale=0.5).requires_grad_()
    teacher, gold = logits_of(11, 11, 23), gold_of(11, 23)
    reduced = draw(teacher, 9, 3, temperature, 2)
    rows = DistillationRows(gold, drawn_targets(reduced, 3, temperature), alpha=alpha, temperature=temperature)
    sums = vocabulary_loss(states, weight, None, rows, num_parts=3, chunk_rows=chunk_rows)
    logits = states @ weight.T
    cross_entropy = F.cross_entropy(logits, gold, reduction="sum")
    soft = soft_cross_entropy(estimate(teacher, reduced, 3, temperature), logits, temperature).sum()
    expected = alpha * cross_entropy + (1 - alpha) * temperature**2 * soft
    torch.testing.assert_close(sums, torch.stack([expected, cross_entropy, soft]), rtol=1e-10, atol=1e-10)
    found_gradients = torch.autograd.grad(sums[0], [states, weight])
    for found, gradient in zip(found_gradients, torch.autograd.grad(expected, [states, weight]), strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("num_top", SELECTIONS)
@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("level", [0.0, 300.0])
def test_float32_is_close_to_float64(num_top: int, temperature: float, level: float) -> None:
    reduced = draw(logits_of(3, 6, 50), 20, num_top, temperature, 1)
    targets = drawn_targets(reduced, num_top, temperature)
    # At level 300 a float32 logit is rounded by 1.5e-5. The loss is not responsible, so both sides start from this
    # logit.
    student = (logits_of(4, 6, 50) + level).float()
    soft, gradient = terms_and_gradient(student, targets, temperature)
    assert soft.dtype == gradient.dtype == torch.float32
    expected, expected_gradient = terms_and_gradient(student.double(), targets, temperature)
    # log q is a difference of numbers near the level. Logits over T are rounded once more at level 300.
    torch.testing.assert_close(soft.double(), expected, rtol=1e-5, atol=1e-6 + 4e-7 * level)
    torch.testing.assert_close(gradient.double(), expected_gradient, rtol=1e-4, atol=1e-6 + 4e-7 * level)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_a_rest_with_almost_no_mass_keeps_float32_finite(temperature: float) -> None:
    teacher = torch.zeros(5, 12)
    teacher[0, 3:] = -torch.inf  # nothing left
    teacher[1, 3:] = -20.0
    teacher[2, 3:] = -200.0  # no float32 after exp
    teacher[3, 3:] = -70_000.0  # no float16 before
    teacher[4, 3:] = -1e30
    reduced = draw(teacher, 8, 3, temperature, 1)
    assert reduced.counts is not None
    assert reduced.counts.sum(1).tolist() == [0, 5, 5, 5, 5]
    for stored in (reduced.logp, reduced.logp.half().float()):
        reduced.logp.copy_(stored)
        targets = drawn_targets(reduced, 3, temperature)
        assert torch.isfinite(targets.weights).all()
        torch.testing.assert_close(targets.weights.sum(1), torch.ones(5), rtol=0, atol=1e-3)
        soft, gradient = terms_and_gradient(logits_of(6, 5, 12).float(), targets, temperature)
        assert torch.isfinite(soft).all()
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("changes", [{"selection": "sampled"}, {"selection": "stratified", "num_top": 2}])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_positions_of_a_dump_become_targets(tmp_path: Path, changes: dict[str, object], temperature: float) -> None:
    lengths = [5, 30, 7]
    schema = make_schema(lengths, **changes)
    rows = write_dump(tmp_path / "dump", schema, lengths)
    assert rows.counts is not None
    reader = DumpReader(tmp_path / "dump")
    targets = DrawnTargets.from_positions(
        reader.read_sentences([2, 0]), schema, reader.temperature_index(temperature), torch.device("cpu")
    )
    order = np.r_[35:42, 0:5]
    log_probs = torch.from_numpy(full_distributions(schema)[order])
    p, p_t = log_probs.exp(), tempered(log_probs, temperature).exp()
    assert targets.ids.dtype == torch.int64
    assert targets.weights.dtype == torch.float32
    for row, position in enumerate(order):
        rest = 1 - sum(float(p[row, token]) for token in rows.ids[position, : schema.num_top].astype(int))
        for column, (token, count) in enumerate(zip(rows.ids[position], rows.counts[position], strict=True)):
            if column < schema.num_top:
                expected = float(p_t[row, token])
            elif count:
                expected = count / schema.num_draws * rest / float(p[row, token]) * float(p_t[row, token])
            else:
                assert float(targets.weights[row, column]) == 0
                assert 0 <= int(targets.ids[row, column]) < schema.vocab_size
                continue
            assert int(targets.ids[row, column]) == token
            # float16 rounds |logp| < 16 by at most 2^-8.
            assert float(targets.weights[row, column]) == pytest.approx(expected, rel=2**-7)
    part = targets[3:5]
    assert part.ids.tolist() == targets.ids[3:5].tolist()
    assert part.weights.tolist() == targets.weights[3:5].tolist()
