"""What a dump holds and what distillation loses, written out over the whole vocabulary: slow and obvious."""

import torch
from torch import Tensor

from student.loss import SoftTargets


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Return log p_T ``[R, V]``."""
    return (logits / temperature).log_softmax(-1)


def soft_targets(teacher_logits: Tensor, k: int, temperature: float) -> SoftTargets:
    """Return the targets of a dump that stored nothing in low precision."""
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
