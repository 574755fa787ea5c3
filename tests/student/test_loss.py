import dataclasses
from typing import Any, get_args

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from pipeline.training.chunked_vocabulary import vocabulary_loss
from storage.dump.positions import Positions
from student.loss import DistillationRows, Divergence, Tail
from student.targets import SoftTargets
from tests.student.reference import (
    distillation_terms,
    full_jensen_shannon,
    full_kl,
    full_reverse_kl,
    soft_targets,
    tempered,
)

TAILS = get_args(Tail)
DIVERGENCES = get_args(Divergence)
FULL = {"kl": full_kl, "reverse-kl": full_reverse_kl, "js": full_jensen_shannon}
TEMPERATURES = (0.7, 1.0, 2.0)


def logits_of(seed: int, rows: int, vocab_size: int, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return scale * torch.randn(rows, vocab_size, generator=generator, dtype=torch.float64)


def gold_of(rows: int, vocab_size: int) -> Tensor:
    return torch.arange(rows) * 7 % vocab_size


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, Tensor, int, float]:
    vocab_size = draw(st.integers(1, 40))
    seed = draw(st.integers(0, 2**32))
    scale = st.floats(0.01, 30)
    teacher, student = (logits_of(seed + i, 4, vocab_size, draw(scale)) for i in range(2))
    return teacher, student, draw(st.integers(1, vocab_size)), draw(st.sampled_from(TEMPERATURES))


@pytest.mark.parametrize("divergence", DIVERGENCES)
@settings(deadline=None)  # a shared machine stalls now and then
@given(case=cases())
def test_a_divergence_is_a_lower_bound_that_is_tight_at_full_k(
    divergence: Divergence, case: tuple[Tensor, Tensor, int, float]
) -> None:
    teacher, student, k, temperature = case
    gold, full = gold_of(*teacher.shape), FULL[divergence](teacher, student, temperature)
    slack = 1e-12 * (1 + full.max())
    options = {"temperature": temperature, "divergence": divergence}
    found = distillation_terms(student, gold, soft_targets(teacher, k, temperature), **options)[1]
    assert (found >= -slack).all()
    assert (found <= full + slack).all()
    tight = distillation_terms(student, gold, soft_targets(teacher, teacher.shape[1], temperature), **options)[1]
    torch.testing.assert_close(tight, full, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(cases())
def test_keeping_more_tokens_never_lowers_kl(case: tuple[Tensor, Tensor, int, float]) -> None:
    teacher, student, k, temperature = case
    gold = gold_of(*teacher.shape)
    fewer, more = (
        distillation_terms(student, gold, soft_targets(teacher, kept, temperature), temperature=temperature)[1]
        for kept in (k, min(k + 3, teacher.shape[1]))
    )
    assert (fewer <= more + 1e-12 * (1 + more)).all()


@settings(deadline=None)
@given(cases(), st.sampled_from(TAILS))
def test_cross_entropy_equals_torchs(case: tuple[Tensor, Tensor, int, float], tail: Tail) -> None:
    teacher, student, k, temperature = case
    gold = gold_of(*teacher.shape)
    expected = F.cross_entropy(student, gold, reduction="none")
    for targets in (None, soft_targets(teacher, k, temperature)):
        found = distillation_terms(student, gold, targets, temperature=temperature, tail=tail)[0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@settings(deadline=None)
@given(cases(), st.sampled_from(TAILS), st.sampled_from(DIVERGENCES), st.randoms(use_true_random=False))
def test_the_order_of_the_kept_tokens_does_not_matter(
    case: tuple[Tensor, Tensor, int, float], tail: Tail, divergence: Divergence, random: Any
) -> None:
    teacher, student, k, temperature = case
    gold, targets = gold_of(*teacher.shape), soft_targets(teacher, k, temperature)
    order = torch.tensor(random.sample(range(k), k))
    permuted = dataclasses.replace(targets, ids=targets.ids[:, order], log_probs=targets.log_probs[:, order])
    found, expected = (
        distillation_terms(student, gold, each, temperature=temperature, tail=tail, divergence=divergence)[1]
        for each in (permuted, targets)
    )
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("k", [1, 4, 9])
@pytest.mark.parametrize("temperature", TEMPERATURES)
@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("divergence", DIVERGENCES)
def test_gradients_equal_finite_differences(k: int, temperature: float, tail: Tail, divergence: Divergence) -> None:
    targets, gold = soft_targets(logits_of(1, 3, 9), k, temperature), gold_of(3, 9)
    student = logits_of(2, 3, 9).requires_grad_()
    options = {"temperature": temperature, "tail": tail, "divergence": divergence}
    assert torch.autograd.gradcheck(lambda logits: distillation_terms(logits, gold, targets, **options), student)


@pytest.mark.parametrize("k", [1, 5])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("level", [0.0, 300.0])
def test_student_tails_of_1e_8_are_right_in_float32(k: int, temperature: float, level: float) -> None:
    num_rows, vocab_size = 6, 50
    teacher = logits_of(3, num_rows, vocab_size)
    targets = soft_targets(teacher, k, temperature)
    student = logits_of(4, num_rows, vocab_size, scale=0.5)
    # The selected logits are raised until the others have a mass of 1e-8 together.
    rest = (student / temperature).scatter(1, targets.ids, -torch.inf).logsumexp(1)
    selected = (student / temperature).gather(1, targets.ids).logsumexp(1)
    raised = temperature * (rest - selected - np.log(1e-8))
    student = student.scatter_add(1, targets.ids, raised[:, None].expand(-1, k)) + level
    # At level 300 a float32 logit is rounded by 1.5e-5. The loss is not responsible, so both sides start from this
    # logit.
    student = student.float().double()
    log_q = tempered(student, temperature)
    rest = log_q.scatter(1, targets.ids, -torch.inf).logsumexp(1)
    torch.testing.assert_close(rest.exp(), torch.full_like(rest, 1e-8), rtol=1e-3, atol=0)

    results = []
    for dtype in (torch.float32, torch.float64):
        logits = student.to(dtype).requires_grad_()
        kl = distillation_terms(logits, gold_of(*student.shape), targets, temperature=temperature)[1]
        kl.sum().backward()
        assert kl.dtype == dtype
        assert logits.grad is not None
        results.append((kl.detach().double(), logits.grad.double()))
    (kl_32, gradient_32), (kl_64, gradient_64) = results
    assert kl_64.min() > 1
    torch.testing.assert_close(kl_32, kl_64, rtol=1e-4, atol=0)
    # With 1 - sum the rest, which is most of the loss here, would have no correct digit. Here each entry keeps four.
    torch.testing.assert_close(gradient_32, gradient_64, rtol=1e-4, atol=1e-6)


def test_a_teacher_without_a_tail_asks_for_none() -> None:
    teacher = logits_of(5, 4, 20)
    teacher[:, 6:] = -torch.inf
    targets = soft_targets(teacher, 8, 1.0)  # two of the kept have no mass either
    assert torch.isneginf(targets.tail).all()
    assert torch.isneginf(targets.log_probs).any()
    student = logits_of(6, 4, 20).requires_grad_()
    kl = distillation_terms(student, gold_of(4, 20), targets)[1]
    log_p, log_q = tempered(teacher[:, :6], 1.0), tempered(student, 1.0)[:, :6]
    torch.testing.assert_close(kl, (log_p.exp() * (log_p - log_q)).sum(1), rtol=1e-12, atol=1e-12)
    kl.sum().backward()
    expected = tempered(student.detach(), 1.0).exp() - teacher.softmax(1)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
def test_the_chunked_loss_and_its_gradients_equal_the_equation(
    alpha: float, temperature: float, chunk_rows: int
) -> None:
    states, weight = logits_of(9, 11, 6).requires_grad_(), logits_of(10, 23, 6, scale=0.5).requires_grad_()
    teacher, gold = logits_of(11, 11, 23), gold_of(11, 23)
    targets = soft_targets(teacher, 23, temperature)
    rows = DistillationRows(gold, targets, alpha=alpha, temperature=temperature)
    sums = vocabulary_loss(states, weight, None, rows, num_parts=3, chunk_rows=chunk_rows)
    logits = states @ weight.T
    cross_entropy = F.cross_entropy(logits, gold, reduction="sum")
    kl = full_kl(teacher, logits, temperature).sum()
    expected = alpha * cross_entropy + (1 - alpha) * temperature**2 * kl
    torch.testing.assert_close(sums, torch.stack([expected, cross_entropy, kl]), rtol=1e-12, atol=1e-12)
    found_gradients = torch.autograd.grad(sums[0], [states, weight])
    for found, gradient in zip(found_gradients, torch.autograd.grad(expected, [states, weight]), strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-10, atol=1e-10)


def test_without_targets_the_loss_is_the_cross_entropy() -> None:
    logits, gold = logits_of(12, 5, 8), gold_of(5, 8)
    expected = F.cross_entropy(logits, gold, reduction="sum")
    sums, gradient = DistillationRows(gold, None, alpha=0.3)(logits, slice(0, 5), with_gradient=False)
    assert gradient is None
    torch.testing.assert_close(sums, torch.stack([expected, expected, torch.tensor(0.0, dtype=torch.float64)]))


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([np.uint16, np.uint32]), st.integers(0, 1))
def test_positions_of_a_dump_become_targets(dtype: type[np.generic], index: int) -> None:
    ids = np.array([[60_000, 1], [3, 2]], dtype)
    tail, logz = np.array([[-1, -2], [-3, -np.inf]], np.float32), np.array([[0, 0.5], [0, 0.25]], np.float32)
    logp = np.log(np.array([[0.5, 0.25], [0.5, 0.125]])).astype(np.float16)
    gold_logp = np.zeros(2, np.float32)
    positions = Positions(tokens=np.array([3, 1], dtype), ids=ids, logp=logp, gold_logp=gold_logp, tail=tail, logz=logz)
    targets = SoftTargets.from_positions(positions, index, torch.device("cpu"))
    assert targets.ids.dtype == torch.int64
    assert targets.ids.tolist() == ids.tolist()
    assert targets.log_probs.tolist() == logp.tolist()
    assert targets.tail.tolist() == tail[:, index].tolist()
    assert targets.logz.tolist() == logz[:, index].tolist()
    assert targets[1:].ids.tolist() == [[3, 2]]
