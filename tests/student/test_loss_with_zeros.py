"""Test the loss on soft targets of which some have probability exactly 0, as the grammar of a sample corpus gives."""

import pytest
import torch

from pipeline.dumping.reduction import draw_generator, reduce_logits
from student.loss import DistillationRows
from student.targets import SoftTargets

POSSIBLE, K, V = 5, 8, 12
LOG_P = torch.full((6, V), -torch.inf, dtype=torch.float64)
LOG_P[:, 2 : 2 + POSSIBLE] = (
    torch.randn(6, POSSIBLE, generator=torch.Generator().manual_seed(1)).double().log_softmax(1)
)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("divergence", ["kl", "js", "reverse-kl"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_loss_and_its_gradient_are_finite_and_kl_is_exact(temperature, divergence, dtype):
    gold = torch.full((6,), 3)
    generator = draw_generator(1, 0, torch.device("cpu"))
    reduced = reduce_logits(LOG_P.to(dtype), gold, k=K, num_top=K, temperatures=(1.0, temperature), generator=generator)
    assert (reduced.tail == -torch.inf).all()
    assert (reduced.logp == -torch.inf).sum() == 6 * (K - POSSIBLE)
    targets = SoftTargets(ids=reduced.ids, log_probs=reduced.logp, tail=reduced.tail[:, 1], logz=reduced.logz[:, 1])
    rows = DistillationRows(gold, targets, alpha=0.0, temperature=temperature, divergence=divergence)
    logits = torch.randn(6, V, generator=torch.Generator().manual_seed(2)).to(dtype)
    terms, gradient = rows.terms(logits.clone(), slice(0, 6), with_gradient=True)
    assert terms.isfinite().all()
    assert gradient is not None
    assert gradient.isfinite().all()
    if divergence == "kl":
        variable = logits.double().requires_grad_()
        log_q = (variable / temperature).log_softmax(1)
        log_p = (LOG_P / temperature).log_softmax(1)
        expected = (log_p.exp() * (log_p - log_q).where(log_p > -torch.inf, 0.0)).sum(1)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5
        torch.testing.assert_close(terms[2].double(), expected.detach(), rtol=0, atol=tolerance)
        (temperature**2 * expected.sum()).backward()
        torch.testing.assert_close(gradient.double(), variable.grad, rtol=0, atol=tolerance)
