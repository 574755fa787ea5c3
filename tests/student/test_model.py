import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel

from pipeline.dumping.next_token import append_eos
from pipeline.training.chunked_vocabulary import CrossEntropyRows
from storage.errors import ConfigError, InputError
from storage.ragged import Ragged
from student.model import Student
from student.student_config import StudentConfig

BOS, EOS = 0, 1
SMALL = StudentConfig(vocab_size=37, embed_dim=24, num_blocks=3, num_heads=4, ff_dim=50, max_length=16, dropout=0.1)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}  # logits are of order 1; the two sum in different orders


def small_student(dtype: torch.dtype = torch.float64) -> Student:
    student = Student(SMALL, bos_id=BOS, seed=3).to(dtype).eval()
    for parameter in student.parameters():  # larger than at the start, so that every part matters
        noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
        parameter.data += 0.2 * noise
    return student


def transformers_model(dtype: torch.dtype, attention: str = "eager") -> GPT2LMHeadModel:
    config = GPT2Config(**SMALL.to_hf(), bos_token_id=BOS, eos_token_id=EOS, attn_implementation=attention)
    return GPT2LMHeadModel(config).to(dtype).eval()


def sentences(*lengths: int) -> Ragged:
    generator = np.random.default_rng(sum(lengths))
    return Ragged.from_lists([generator.integers(2, SMALL.vocab_size, n).tolist() for n in lengths], np.uint16)


def states_of(student: Student, tokens: Ragged) -> Tensor:
    return student.states(student.prepare(tokens, None))


def rows_of(tokens: Ragged) -> list[Tensor]:
    return [torch.tensor([[BOS, *tokens[m].tolist()]]) for m in range(len(tokens))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_transformers_with_the_students_weights_has_the_same_logits(dtype: torch.dtype, attention: str) -> None:
    student, reference = small_student(dtype), transformers_model(dtype, attention)
    outcome = reference.load_state_dict(student.state_dict(), strict=False)
    assert outcome.missing_keys == ["lm_head.weight"]  # tied: the token embedding again
    assert outcome.unexpected_keys == []
    tokens = sentences(5, 0, 15, 1)
    expected = torch.cat([reference(row).logits[0] for row in rows_of(tokens)])
    found = student.logits(states_of(student, tokens))
    assert found.dtype == dtype
    torch.testing.assert_close(found, expected, rtol=0, atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_with_transformers_weights_has_the_same_logits(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    student, reference = small_student(dtype), transformers_model(dtype)
    weights = {name: value for name, value in reference.state_dict().items() if name != "lm_head.weight"}
    student.load_state_dict(weights)
    input_ids = torch.randint(SMALL.vocab_size, (3, 11), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(
        student.logits(student.hidden(input_ids)), reference(input_ids).logits, rtol=0, atol=TOLERANCE[dtype]
    )


def test_gradients_equal_those_of_transformers() -> None:
    student, reference = small_student(), transformers_model(torch.float64)
    reference.load_state_dict(student.state_dict(), strict=False)
    tokens = sentences(7, 3, 0)
    gold = torch.from_numpy(append_eos(tokens, EOS).values)
    student(student.prepare(tokens, None), CrossEntropyRows(gold), num_parts=1, chunk_rows=4)[0].backward()
    logits = torch.cat([reference(row).logits[0] for row in rows_of(tokens)])
    F.cross_entropy(logits, gold, reduction="sum").backward()
    found = {name: parameter.grad for name, parameter in student.named_parameters()}
    expected = {name: parameter.grad for name, parameter in reference.named_parameters()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-9, msg=lambda text, name=name: name + text)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=5), st.randoms(use_true_random=False))
def test_states_of_a_sentence_do_not_depend_on_the_rest_of_the_batch(lengths: list[int], random: object) -> None:
    student = small_student()
    tokens = sentences(*lengths)
    order = np.argsort([random.random() for _ in lengths])  # type: ignore[attr-defined]
    together = states_of(student, tokens.take(order)).split([int(n) + 1 for n in tokens.lengths[order]])
    for m, states in zip(order, together, strict=True):
        alone = states_of(student, tokens.take(np.array([m])))
        torch.testing.assert_close(states, alone, rtol=0, atol=1e-12)


def test_a_position_does_not_see_the_token_that_it_predicts() -> None:
    student = small_student()
    changed = states_of(student, Ragged.from_lists([[5, 6, 7, 9]], np.int64))
    states = states_of(student, Ragged.from_lists([[5, 6, 7, 8]], np.int64))
    assert torch.equal(states[:4], changed[:4])
    assert not torch.allclose(states[4], changed[4])


def test_initial_weights_are_distributed_as_in_gpt2() -> None:
    config = StudentConfig(vocab_size=500, embed_dim=128, num_blocks=8, num_heads=4)
    for name, parameter in Student(config, bos_id=BOS, seed=1).named_parameters():
        if parameter.dim() == 1:
            assert parameter.unique().tolist() == [1.0 if "ln_" in name and name.endswith("weight") else 0.0], name
            continue
        std = 0.02 / math.sqrt(2 * 8) if name.endswith("c_proj.weight") else 0.02
        # 5 standard errors of a standard deviation and of a mean over n draws.
        n = parameter.numel()
        assert abs(parameter.std().item() / std - 1) < 5 / math.sqrt(2 * n), name
        assert abs(parameter.mean().item()) < 5 * std / math.sqrt(n), name


def test_initial_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> list[Tensor]:
        return list(Student(SMALL, bos_id=BOS, seed=seed).state_dict().values())

    first = weights(1)
    torch.manual_seed(99)
    assert all(torch.equal(a, b) for a, b in zip(first, weights(1), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(first, weights(2), strict=True) if a.dim() == 2)


def test_dropout_is_active_in_training_only() -> None:
    student = small_student()
    tokens = sentences(6)
    assert torch.equal(states_of(student, tokens), states_of(student, tokens))
    student.train()
    assert not torch.equal(states_of(student, tokens), states_of(student, tokens))


def test_an_empty_batch_has_no_states_and_gradients_of_zero() -> None:
    student = Student(SMALL, bos_id=BOS, seed=3)
    empty = Ragged.from_lists([], np.uint16)
    assert states_of(student, empty).shape == (0, SMALL.embed_dim)
    sums = student(student.prepare(empty, None), CrossEntropyRows(torch.empty(0, dtype=torch.int64)), num_parts=1)
    sums[0].backward()
    assert sums.tolist() == [0.0]
    assert all(parameter.grad is not None and not parameter.grad.any() for parameter in student.parameters())


def test_a_forward_on_the_meta_device_uses_no_other_device() -> None:
    student = Student(SMALL, bos_id=BOS, seed=3).to("meta")
    assert student.logits(states_of(student, sentences(4, 2))).shape == (8, SMALL.vocab_size)


def test_a_sentence_of_max_length_is_read_and_a_longer_one_refused() -> None:
    student = small_student()
    assert len(states_of(student, sentences(15))) == 16
    with pytest.raises(InputError, match="16 tokens has 17 positions, expected at most 16; train with --max-length 17"):
        states_of(student, sentences(2, 16))


def test_impossible_sizes_are_reported_together() -> None:
    with pytest.raises(ConfigError) as caught:
        StudentConfig(vocab_size=0, embed_dim=30, num_heads=4, num_blocks=0, ff_dim=-1, max_length=0, dropout=1.0)
    for name in ("vocab-size", "embed-dim is 30", "num-blocks", "ff-dim", "max-length", "dropout"):
        assert name in str(caught.value)


def test_feed_forward_layers_are_four_times_the_embedding_by_default() -> None:
    assert StudentConfig(vocab_size=5, embed_dim=8, num_heads=2).to_hf()["n_inner"] == 32
