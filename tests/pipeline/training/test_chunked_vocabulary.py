"""A loss computed in chunks has the value and the gradient of the loss computed at once."""

import pytest
import torch
import torch.nn.functional as F

from pipeline.training.chunked_vocabulary import CrossEntropyRows, vocabulary_loss


def tensors(rows: int, *, bias: bool) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None, torch.Tensor]:
    generator = torch.Generator().manual_seed(rows)
    states = torch.randn(rows, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(19, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(19, generator=generator, dtype=torch.float64, requires_grad=True) if bias else None
    return states, weight, offset, torch.randint(19, (rows,), generator=generator)


@pytest.mark.parametrize("rows", [1, 8, 9, 25])
@pytest.mark.parametrize("bias", [True, False])
def test_chunks_give_the_cross_entropy_and_its_gradient(rows, bias):
    states, weight, offset, gold = tensors(rows, bias=bias)
    parameters = [p for p in (states, weight, offset) if p is not None]
    (loss,) = vocabulary_loss(states, weight, offset, CrossEntropyRows(gold), chunk_rows=8)
    found = torch.autograd.grad(3 * loss, parameters)
    expected_loss = F.cross_entropy(F.linear(states, weight, offset), gold, reduction="sum")
    expected = torch.autograd.grad(3 * expected_loss, parameters)
    torch.testing.assert_close(loss, expected_loss)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_all_parts_are_summed_and_only_the_first_has_a_gradient():
    states, weight, _, gold = tensors(20, bias=False)

    def row_loss(logits, rows, *, with_gradient):
        (nll,), gradient = CrossEntropyRows(gold)(logits, rows, with_gradient=with_gradient)
        return torch.stack([nll, 2 * nll, torch.tensor(float(len(logits)), dtype=torch.float64)]), gradient

    sums = vocabulary_loss(states, weight, None, row_loss, num_parts=3, chunk_rows=6)
    found = sums.detach().tolist()
    assert found[2] == 20
    assert found[1] == pytest.approx(2 * found[0])
    (gradient,) = torch.autograd.grad(sums.sum(), states)
    (alone,) = torch.autograd.grad(F.cross_entropy(states @ weight.T, gold, reduction="sum"), states)
    torch.testing.assert_close(gradient, alone)


def test_no_rows_give_zero_and_a_zero_gradient():
    states, weight, offset, gold = tensors(0, bias=True)
    (loss,) = vocabulary_loss(states, weight, offset, CrossEntropyRows(gold))
    loss.backward()
    assert float(loss.detach()) == 0
    assert not weight.grad.any()


def test_without_gradients_nothing_is_differentiated():
    states, weight, offset, gold = tensors(9, bias=True)
    with torch.no_grad():
        (loss,) = vocabulary_loss(states, weight, offset, CrossEntropyRows(gold), chunk_rows=4)
    assert not loss.requires_grad
