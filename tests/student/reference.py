"""Write out the targets of a dump and the distillation loss over the whole vocabulary: slow and obvious."""

from typing import Any

import torch
from torch import Tensor

from pipeline.dumping.reduction import Reduced, draw_generator, reduce_logits
from student.loss import DistillationRows
from student.targets import DrawnTargets, SoftTargets, Targets, estimated_probabilities


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Return log p_T ``[R, V]``."""
    return (logits / temperature).log_softmax(-1)


def soft_targets(teacher_logits: Tensor, k: int, temperature: float) -> SoftTargets:
    """Return the targets of a dump without rounding by storage."""
    log_p = tempered(teacher_logits, 1.0)
    top = log_p.topk(k, dim=-1)
    rest = tempered(teacher_logits, temperature).scatter(-1, top.indices, -torch.inf)
    return SoftTargets(
        ids=top.indices,
        log_probs=top.values,
        tail=rest.logsumexp(-1),
        logz=(log_p / temperature).logsumexp(-1),
    )


def full_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Return KL(teacher_T || student_T) over the whole vocabulary, ``[R]``."""
    log_p, log_q = tempered(teacher_logits, temperature), tempered(student_logits, temperature)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def full_reverse_kl(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Return KL(student_T || teacher_T) over the whole vocabulary, ``[R]``."""
    return full_kl(student_logits, teacher_logits, temperature)


def full_jensen_shannon(teacher_logits: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Return the Jensen-Shannon divergence over the whole vocabulary, ``[R]``."""
    log_p, log_q = tempered(teacher_logits, temperature), tempered(student_logits, temperature)
    log_m = torch.stack([log_p, log_q]).logsumexp(0) - torch.tensor(2.0).double().log()
    return 0.5 * (log_p.exp() * (log_p - log_m) + log_q.exp() * (log_q - log_m)).sum(-1)


def draw(teacher_logits: Tensor, k: int, num_top: int, temperature: float, seed: int) -> Reduced:
    """Return the positions of a dump with draws, before they are stored. ``temperature`` has index 1."""
    gold = torch.zeros(len(teacher_logits), dtype=torch.int64)
    generator = draw_generator(seed, 0, torch.device("cpu"))
    temperatures = (1.0, temperature)
    return reduce_logits(teacher_logits, gold, k=k, num_top=num_top, temperatures=temperatures, generator=generator)


def drawn_targets(reduced: Reduced, num_top: int, temperature: float) -> DrawnTargets:
    """Return the targets of a dump without rounding by storage."""
    assert reduced.counts is not None
    tail, logz = reduced.tail[:, 0], reduced.logz[:, 1]
    weights = estimated_probabilities(
        reduced.logp, reduced.counts, tail, logz, num_top=num_top, temperature=temperature
    )
    return DrawnTargets(ids=reduced.ids.clamp(min=0), weights=weights)


def estimate(teacher_logits: Tensor, reduced: Reduced, num_top: int, temperature: float) -> Tensor:
    """Return the estimate of p_T over the whole vocabulary, ``[R, V]``, token by token."""
    assert reduced.counts is not None
    p, p_t = tempered(teacher_logits, 1.0).exp(), tempered(teacher_logits, temperature).exp()
    result = torch.zeros_like(p)
    num_draws = reduced.ids.shape[1] - num_top
    for row in range(len(p)):
        exact = reduced.ids[row, :num_top].tolist()
        rest = sum(float(p[row, token]) for token in range(p.shape[1]) if token not in exact)
        for token in exact:
            result[row, token] = p_t[row, token]
        for token, count in zip(
            reduced.ids[row, num_top:].tolist(), reduced.counts[row, num_top:].tolist(), strict=True
        ):
            if count:
                result[row, token] = count / num_draws * rest / p[row, token] * p_t[row, token]
    return result


def soft_cross_entropy(weights: Tensor, student_logits: Tensor, temperature: float) -> Tensor:
    """Return -sum of weights times log student_T over the whole vocabulary, ``[R]``."""
    return -(weights * tempered(student_logits, temperature)).sum(-1)


class _Differentiated(torch.autograd.Function):
    """One part of a loss, row by row, with the gradient of the loss itself. It is called once for each part."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, gold: Tensor, targets: Targets | None, part: int, options: Any) -> Tensor:
        # At alpha = 1 the loss is the cross-entropy, at alpha = 0 it is T^2 times the other part.
        rows = DistillationRows(gold, targets, alpha=float(part == 1), **options)
        terms, gradient = rows.terms(logits.detach().clone(), slice(0, len(logits)), with_gradient=True)
        assert gradient is not None
        scale = 1.0 if part == 1 else options["temperature"] ** 2
        ctx.save_for_backward(gradient / scale)
        return terms[part]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return grad[:, None] * gradient, None, None, None, None


def distillation_terms(
    logits: Tensor, gold: Tensor, targets: Targets | None, *, temperature: float = 1.0, **options: Any
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy and the divergence of each row, computed by the loss, with its own gradients."""
    options |= {"temperature": temperature}
    first, second = (_Differentiated.apply(logits, gold, targets, part, options) for part in (1, 2))
    return first, second
