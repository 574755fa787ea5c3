"""The level-parallel RNNG equals the one-action-at-a-time RNNG."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from pipeline.dumping.next_token import gold_log_probs
from storage.errors import ConfigError
from storage.ragged import Ragged
from teacher.levels import TreeBatch
from teacher.rnng import PARTS, Rnng
from teacher.teacher_config import TeacherConfig
from tests.reference import sentence_log_probs
from tests.strategies import CORNER_CASES, EOS_ID, NUM_LABELS, VOCAB_SIZE, batch, sentences

SIZES = [(8, 8, 2), (6, 9, 1), (9, 5, 3)]
"""Embedding size, hidden size, layers: equal sizes, and a projection in both directions."""
KINDS = [
    {"strategy": "top-down", "composition": "bilstm"},
    {"strategy": "top-down", "composition": "attention"},
    *(
        {"strategy": "binary", "composition": composition, "branching": branching}
        for composition, branching in itertools.product(("treelstm", "bilstm", "attention"), ("left", "right"))
    ),
]
"""Every strategy with each of its compositions."""
TOLERANCE = 1e-10
"""Both sides compute in float64. They differ only by the order of additions."""


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_model(
    sizes: tuple[int, int, int], *, vocab_size: int = VOCAB_SIZE, num_labels: int = NUM_LABELS, **kind: str
) -> Rnng:
    torch.manual_seed(0)
    config = TeacherConfig(embed_dim=sizes[0], hidden_dim=sizes[1], num_layers=sizes[2], dropout=0.0, **kind)
    return Rnng(config, vocab_size=vocab_size, num_labels=num_labels, eos_id=EOS_ID)


def assert_equal_to_reference(model: Rnng, tokens: Ragged, actions: Ragged, *, gradients: bool) -> None:
    expected = [sentence_log_probs(model, list(t), list(map(int, a))) for t, a in zip(tokens, actions, strict=True)]
    schedule = model.prepare(tokens, actions)
    states, found_actions = model.states_and_action_log_probs(schedule)
    found_tokens = gold_log_probs(model, tokens, actions, eos_id=EOS_ID, batch_tokens=50)
    for m, (action_log_probs, token_log_probs) in enumerate(expected):
        np.testing.assert_allclose(found_actions[m], action_log_probs.detach().numpy(), atol=TOLERANCE, rtol=0)
        # gold_log_probs returns float32. The states below compare the float64 values.
        np.testing.assert_allclose(found_tokens[m], token_log_probs.detach().numpy(), atol=1e-5, rtol=1e-6)
    all_tokens = torch.cat([token_log_probs for _, token_log_probs in expected])
    log_probs = model.logits(states).log_softmax(1)
    found = log_probs.gather(1, torch.from_numpy(schedule.gold)[:, None])[:, 0]
    torch.testing.assert_close(found, all_tokens, atol=TOLERANCE, rtol=0)
    if not gradients:
        return

    loss = -sum(a.sum() + t.sum() for a, t in expected)
    model.zero_grad()
    loss.backward()
    wanted = {name: p.grad if p.grad is not None else torch.zeros_like(p) for name, p in model.named_parameters()}
    model.zero_grad()
    sums = model(TreeBatch(schedule=schedule, num_positions_global=len(schedule.gold)))
    sums[0].backward()
    torch.testing.assert_close(sums[0], loss, atol=TOLERANCE, rtol=1e-12)
    for name, parameter in model.named_parameters():
        scale = 1 + float(wanted[name].abs().max())
        assert float((parameter.grad - wanted[name]).abs().max()) < TOLERANCE * scale, name


@pytest.mark.parametrize("sizes", SIZES)
@settings(max_examples=25, deadline=None)
@given(st.lists(sentences(), min_size=1, max_size=5))
def test_level_parallel_equals_one_action_at_a_time(sizes, some):
    assert_equal_to_reference(make_model(sizes), *batch(some), gradients=True)


@pytest.mark.parametrize("kind", KINDS[1:], ids=lambda kind: "-".join(kind.values()))
@settings(max_examples=25, deadline=None)
@given(st.lists(sentences(), min_size=1, max_size=5))
def test_every_strategy_and_composition_equals_one_action_at_a_time(kind, some):
    assert_equal_to_reference(make_model(SIZES[1], **kind), *batch(some), gradients=True)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_corner_cases_equal_the_reference_alone_and_together(kind):
    for some in [*([case] for case in CORNER_CASES), CORNER_CASES]:
        assert_equal_to_reference(make_model(SIZES[0], **kind), *batch(some), gradients=True)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_cached_inputs_change_nothing(kind):
    model = make_model(SIZES[2], **kind).eval()
    tokens, actions = batch(CORNER_CASES)
    with torch.no_grad():
        plain = model.states(model.prepare(tokens, actions))
        model.cache_inputs()
        cached = model.states(model.prepare(tokens, actions))
    torch.testing.assert_close(cached, plain, atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", [KINDS[0], KINDS[1], KINDS[2]], ids=lambda kind: "-".join(kind.values()))
def test_compose_by_level_equals_forward(kind):
    """``compose``, called level by level, equals ``forward``."""
    model = make_model(SIZES[0], **kind)
    schedule = model.prepare(*batch(CORNER_CASES))
    vectors = model.token_embedding[torch.from_numpy(schedule.tokens)]
    values = model.composition.leaves(vectors)
    for level in schedule.compositions:
        values = torch.cat([values, model.composition.compose(values, level)])
    expected = model.composition(vectors, schedule.compositions, model.dropout)
    torch.testing.assert_close(model.composition.vectors(values), expected, atol=1e-12, rtol=0)


def test_a_chain_of_two_thousand_constituents_trains():
    model = make_model(SIZES[1])
    actions = [FIRST_NT, *[FIRST_NT + 1] * 2000, SHIFT, *[REDUCE] * 2000, SHIFT, REDUCE]
    sums = model(TreeBatch(schedule=model.prepare(*batch([([5], actions)])), num_positions_global=2))
    sums[0].backward()
    assert torch.isfinite(sums).all()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


def test_treelstm_is_refused_for_labelled_trees():
    with pytest.raises(ConfigError, match="treelstm joins two children"):
        TeacherConfig(composition="treelstm")


def test_branching_is_refused_for_labelled_trees():
    with pytest.raises(ConfigError, match="branching is left, but strategy top-down pairs no children"):
        TeacherConfig(branching="left")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_an_empty_batch_has_zero_loss_and_reaches_every_parameter(kind):
    model = make_model(SIZES[1], **kind)
    schedule = model.prepare(*batch([]))
    sums = model(TreeBatch(schedule=schedule, num_positions_global=3))
    sums[0].backward()
    assert sums.tolist() == [0.0] * len(PARTS)
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_a_batch_with_nothing_to_compose_reaches_every_parameter(kind):
    model = make_model(SIZES[0], **kind)
    schedule = model.prepare(*batch([CORNER_CASES[2]]))
    model(TreeBatch(schedule=schedule, num_positions_global=2))[0].backward()
    assert all(p.grad is not None for p in model.parameters())


def test_parts_are_the_joint_loss_and_its_two_parts():
    model = make_model(SIZES[0])
    tokens, actions = batch(CORNER_CASES)
    schedule = model.prepare(tokens, actions)
    loss, token_loss, action_loss = model(TreeBatch(schedule=schedule, num_positions_global=1)).tolist()
    assert loss == pytest.approx(token_loss + action_loss, rel=1e-12)
    _, log_probs = model.states_and_action_log_probs(schedule)
    assert action_loss == pytest.approx(-float(log_probs.values.sum()), rel=1e-12)


def test_dropout_changes_training_and_never_evaluation():
    torch.manual_seed(0)
    model = Rnng(
        TeacherConfig(embed_dim=8, hidden_dim=8, dropout=0.5), vocab_size=VOCAB_SIZE, num_labels=6, eos_id=EOS_ID
    )
    schedule = model.prepare(*batch(CORNER_CASES))
    one = TreeBatch(schedule=schedule, num_positions_global=1)
    assert model(one)[0] != model(one)[0]
    model.eval()
    assert model(one)[0] == model(one)[0]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_bfloat16_products_stay_near_float32(kind):
    """Products are rounded to 8 bits (2^-9 relative, half a unit). Sums, states and losses are float32."""
    torch.set_default_dtype(torch.float32)
    model = make_model((64, 48, 2), **kind)
    batch_of_all = TreeBatch(schedule=model.prepare(*batch(CORNER_CASES)), num_positions_global=1)
    losses, gradients = [], []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            sums = model(batch_of_all)
        sums[0].backward()
        assert sums.dtype == torch.float32
        # If autocast rounded a sum to 8 bits, there would be only a few possible values.
        assert (sums != sums.bfloat16()).all()
        losses.append(float(sums[0].detach()))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    assert losses[1] == pytest.approx(losses[0], rel=2e-3)
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 2e-2


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: "-".join(kind.values()))
def test_a_step_on_the_meta_device_uses_no_other_device_and_reads_no_value(kind):
    model = make_model(SIZES[1], **kind).to("meta")
    model.dropout.p = 0.5
    for some in (CORNER_CASES, []):
        sums = model(TreeBatch(schedule=model.prepare(*batch(some)), num_positions_global=1))
        sums[0].backward()
    assert all(parameter.grad.is_meta for parameter in model.parameters())


@pytest.mark.parametrize("dim", [32, 128])
def test_new_constituents_are_not_much_smaller_than_tokens(dim):
    model = make_model((dim, dim, 1))
    schedule = model.prepare(*batch(CORNER_CASES))
    tokens = model.input_scale * model.token_embedding[torch.from_numpy(schedule.tokens)]
    values = model.composition(tokens, schedule.compositions, model.dropout)
    ratio = values[len(tokens) :].std() / tokens.std()
    assert 0.25 < ratio < 2, "smaller constituents hide what is inside them"
