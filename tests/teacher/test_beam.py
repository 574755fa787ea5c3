"""The beam search equals the slow search, never looks ahead, and never exceeds the sum over all trees."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from pipeline.corpus.dataset.oracle import actions_to_tree, tree_to_actions
from pipeline.corpus.trees.trees import TokenPhrase
from storage.errors import ConfigError
from storage.ragged import Ragged
from teacher.beam import BeamResult, BeamSearch, BeamTeacher
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig, TeacherConfig
from tests.reference_beam import beam_search, binary_phrases, enumerate_trees
from tests.strategies import EOS_ID, VOCAB_SIZE

TOLERANCE = 1e-10
"""Both sides compute in float64. They differ only by the order of additions."""
KINDS = {
    "bilstm": {"embed_dim": 6, "hidden_dim": 6, "num_layers": 2},
    "attention and a projection": {"embed_dim": 5, "hidden_dim": 7, "num_layers": 1, "composition": "attention"},
    "binary treelstm": {"strategy": "binary", "composition": "treelstm", "embed_dim": 6, "hidden_dim": 7},
    "binary bilstm": {"strategy": "binary", "embed_dim": 6, "hidden_dim": 5, "num_layers": 3},
}
TWO_KINDS = ["bilstm", "binary treelstm"]
EVERYTHING = {"beam": 3_000, "word_beam": 3_000}
"""More than the number of hypotheses of the short sentences."""
SHORT = [[], [5], [2, 3], [EOS_ID, 4]]
"""A sentence's text can have <eos> as a token. Only the last <eos> ends the sentence."""


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_model(kind: str = "bilstm", *, num_labels: int = 3, seed: int = 0) -> Rnng:
    torch.manual_seed(seed)
    config = TeacherConfig(**KINDS[kind], dropout=0.0)
    model = Rnng(config, vocab_size=VOCAB_SIZE, num_labels=num_labels, eos_id=EOS_ID).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)  # so that states and hypotheses differ much
    return model


def search(
    model: Rnng, tokens: list[list[int]], config: BeamConfig, *, with_states: bool = True, **limits: int
) -> BeamResult:
    return BeamSearch(model, config, **limits).search(Ragged.from_lists(tokens, np.int64), with_states=with_states)


def mixtures(model: Rnng, result: BeamResult, config: BeamConfig) -> list[np.ndarray]:
    rows = BeamTeacher(model, config).logits(result.states).numpy()
    return np.split(rows, result.token_log_probs.offsets[1:-1])


def assert_same(found: BeamResult, expected: BeamResult) -> None:
    for name in ("token_log_probs", "prefix_log_probs", "num_effective"):
        np.testing.assert_allclose(getattr(found, name).values, getattr(expected, name).values, atol=TOLERANCE)
    np.testing.assert_allclose(found.parse_log_probs, expected.parse_log_probs, atol=TOLERANCE)
    torch.testing.assert_close(found.states, expected.states, atol=TOLERANCE, rtol=TOLERANCE)
    assert found.phrases == expected.phrases


def beams() -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({"beam": st.integers(1, 12), "word_beam": st.integers(1, 8)})


def kinds() -> st.SearchStrategy[str]:
    return st.sampled_from(list(KINDS))


def phrases_of(model: Rnng, actions: list[int]) -> list[TokenPhrase]:
    return binary_phrases(actions) if model.config.strategy == "binary" else actions_to_tree(actions)[0]


def random_tokens(lengths: list[int], seed: int = 0) -> list[list[int]]:
    generator = np.random.default_rng(seed)
    return [generator.integers(2, VOCAB_SIZE, length).tolist() for length in lengths]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num_labels", "max_actions"), [(2, 3), (3, 2), (4, 0)])
def test_without_pruning_the_search_equals_the_sum_over_all_trees(kind, num_labels, max_actions):
    model = make_model(kind, num_labels=num_labels)
    config = BeamConfig(max_actions=max_actions, **EVERYTHING)
    found = search(model, SHORT, config)
    rows = mixtures(model, found, config)
    for m, tokens in enumerate(SHORT):
        expected = enumerate_trees(model, tokens, max_actions)
        np.testing.assert_allclose(found.prefix_log_probs[m], expected.prefix_log_probs, atol=TOLERANCE)
        np.testing.assert_allclose(found.num_effective[m], expected.num_effective, rtol=TOLERANCE)
        np.testing.assert_allclose(rows[m], torch.stack(expected.mixtures).numpy(), atol=TOLERANCE)
        if expected.actions:
            assert found.phrases[m] == phrases_of(model, expected.actions)
            assert found.parse_log_probs[m] == pytest.approx(expected.parse_log_prob, abs=TOLERANCE)


@settings(max_examples=25, deadline=None)
@given(beams(), kinds(), st.integers(0, 2), st.lists(st.integers(2, VOCAB_SIZE - 1), max_size=2), st.integers(0, 5))
def test_prefix_probabilities_never_exceed_the_sum_over_all_trees(sizes, kind, max_actions, tokens, seed):
    model = make_model(kind, seed=seed)
    expected = enumerate_trees(model, tokens, max_actions)
    found = search(model, [tokens], BeamConfig(max_actions=max_actions, **sizes))
    assert (found.prefix_log_probs.values <= np.array(expected.prefix_log_probs) + TOLERANCE).all()
    if np.isfinite(found.prefix_log_probs.values[-1]):  # else the parse may have taken more actions than the cap allows
        assert found.parse_log_probs[0] <= expected.parse_log_prob + TOLERANCE


@settings(max_examples=40, deadline=None)
@given(beams(), kinds(), st.integers(0, 5), st.lists(st.integers(2, VOCAB_SIZE - 1), max_size=5), st.integers(0, 5))
def test_the_search_equals_the_slow_search_which_drops_nothing_early(sizes, kind, max_actions, tokens, seed):
    model = make_model(kind, seed=seed)
    config = BeamConfig(max_actions=max_actions, **sizes)
    expected, found = beam_search(model, tokens, config), search(model, [tokens], config)
    rows = torch.stack(expected.mixtures)
    np.testing.assert_allclose(mixtures(model, found, config)[0], rows.numpy(), atol=TOLERANCE)
    gold = rows.gather(1, torch.tensor([*tokens, EOS_ID])[:, None])[:, 0]
    np.testing.assert_allclose(found.token_log_probs.values, gold.numpy(), atol=TOLERANCE)
    np.testing.assert_allclose(found.prefix_log_probs.values, expected.prefix_log_probs, atol=TOLERANCE)
    np.testing.assert_allclose(found.num_effective.values, expected.num_effective, rtol=TOLERANCE)
    if expected.actions:
        assert found.phrases[0] == phrases_of(model, expected.actions)
        assert found.parse_log_probs[0] == pytest.approx(expected.parse_log_prob, abs=TOLERANCE)


@settings(max_examples=20, deadline=None)
@given(beams(), kinds(), st.integers(0, 4), st.integers(0, 100))
def test_the_best_parse_has_its_probability_under_the_level_parallel_model(sizes, kind, max_actions, seed):
    model, tokens = make_model(kind, seed=seed % 3), random_tokens([0, 1, 4, 9, 9], seed)
    found = search(model, tokens, BeamConfig(max_actions=max_actions, **sizes))
    actions = [tree_to_actions(phrases, len(words)) for phrases, words in zip(found.phrases, tokens, strict=True)]
    schedule = model.prepare(Ragged.from_lists(tokens, np.int64), Ragged.from_lists(actions, np.int64))
    gold = torch.from_numpy(schedule.gold)[:, None]
    of_tokens = model.logits(model.states(schedule)).log_softmax(1).gather(1, gold)[:, 0].numpy()
    joint = [a.sum() for a in model.states_and_action_log_probs(schedule)[1]]
    joint = np.array(joint) + np.add.reduceat(of_tokens, found.token_log_probs.offsets[:-1])
    np.testing.assert_allclose(found.parse_log_probs, joint, atol=TOLERANCE)


@settings(max_examples=20, deadline=None)
@given(st.data(), beams(), kinds())
def test_the_mixture_depends_on_no_token_at_or_after_its_position(data, sizes, kind):
    model = make_model(kind)
    config = BeamConfig(max_actions=4, **sizes)
    tokens = random_tokens([8], data.draw(st.integers(0, 100)))[0]
    t = data.draw(st.integers(0, 8))
    others = data.draw(st.lists(st.integers(2, VOCAB_SIZE - 1), max_size=9 - t))
    one, other = (mixtures(model, search(model, [x], config), config)[0] for x in (tokens, tokens[:t] + others))
    np.testing.assert_allclose(one[: t + 1], other[: t + 1], atol=1e-12)


def test_mixtures_are_distributions_and_give_the_gold_log_probabilities():
    model, tokens, config = make_model(), random_tokens([7, 3, 0, 12]), BeamConfig(beam=6, word_beam=3)
    found = search(model, tokens, config)
    rows = np.concatenate(mixtures(model, found, config))
    np.testing.assert_allclose(np.exp(rows).sum(1), 1, atol=TOLERANCE)
    gold = np.concatenate([[*words, EOS_ID] for words in tokens])
    np.testing.assert_allclose(rows[np.arange(len(gold)), gold], found.token_log_probs.values, atol=TOLERANCE)
    assert (found.num_effective.values >= 1 - TOLERANCE).all()
    assert (found.num_effective.values <= 6 + TOLERANCE).all()


@settings(max_examples=6, deadline=None)
@given(beams(), st.permutations([0, 1, 5, 5, 12]))
def test_a_sentence_has_the_same_result_alone_and_in_a_batch(sizes, lengths):
    model, tokens, config = make_model(), random_tokens(lengths), BeamConfig(max_actions=5, **sizes)
    together = search(model, tokens, config)
    for m, words in enumerate(tokens):
        alone = search(model, [words], config)
        np.testing.assert_allclose(alone.token_log_probs.values, together.token_log_probs[m], atol=TOLERANCE)
        np.testing.assert_allclose(alone.prefix_log_probs.values, together.prefix_log_probs[m], atol=TOLERANCE)
        assert alone.phrases[0] == together.phrases[m]
        assert alone.parse_log_probs[0] == pytest.approx(together.parse_log_probs[m], abs=TOLERANCE)


ALIKE = [[2, 3, 4], [2, 3], [2, 3, 5], [2, 3], [2, 3, EOS_ID], [], [2, 3, EOS_ID, 4], [6], [2, 3, 4, 7]]
"""Sentences that begin alike, two that are the same, and two with <eos> in the text."""


@pytest.mark.parametrize("kind", TWO_KINDS)
@pytest.mark.parametrize("max_actions", [0, 4])
def test_sentences_that_begin_alike_have_the_same_results_as_alone(kind, max_actions):
    model = make_model(kind)
    config = BeamConfig(beam=6, word_beam=3, max_actions=max_actions)
    together = search(model, ALIKE, config)
    for i, tokens in enumerate(ALIKE):
        alone = search(model, [tokens], config)
        for name in ("token_log_probs", "prefix_log_probs", "num_effective"):
            np.testing.assert_allclose(getattr(together, name)[i], getattr(alone, name)[0], atol=TOLERANCE)
        assert together.phrases[i] == alone.phrases[0]
        assert together.parse_log_probs[i] == pytest.approx(alone.parse_log_probs[0], abs=TOLERANCE)
        offsets = together.token_log_probs.offsets
        torch.testing.assert_close(together.states[offsets[i] : offsets[i + 1]], alone.states, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("shift", [0, 200, -200])
def test_a_vocabulary_in_tiles_candidates_in_parts_and_large_logits_change_nothing(monkeypatch, shift):
    torch.set_default_dtype(torch.float32)  # exp(200) is finite in float64 only
    model, config = make_model(), BeamConfig(beam=6, word_beam=4)
    tokens = random_tokens([1, 4, 6])
    expected = search(model, tokens, config)
    rows = mixtures(model, expected, config)
    monkeypatch.setattr("teacher.beam._TILE_COLUMNS", 3)
    monkeypatch.setattr("teacher.beam._MIXTURE_ROWS", 4)
    model.token_bias += shift
    found = search(model, tokens, config)
    tolerance = 1e-3 if shift else 1e-5  # a bias of 200 rounds the logits
    for result in (found, search(model, tokens, config, with_states=False)):
        np.testing.assert_allclose(result.token_log_probs.values, expected.token_log_probs.values, atol=tolerance)
    for row, other in zip(mixtures(model, found, config), rows, strict=True):
        np.testing.assert_allclose(row, other, atol=tolerance)


def test_equal_prefixes_are_searched_once():
    def num_operations(tokens: list[list[int]]) -> int:
        with FlopCounterMode(display=False) as counter:
            search(model, tokens, BeamConfig(beam=6, word_beam=3))
        return counter.get_total_flops()

    model = make_model()
    assert num_operations([[2, 3, 4]] * 5) == num_operations([[2, 3, 4]])
    apart = num_operations([[2, 3, 4]]) + num_operations([[2, 3, 5]])
    assert num_operations([[2, 3, 4], [2, 3, 5]]) < 0.75 * apart


@pytest.mark.parametrize("kind", TWO_KINDS)
def test_batches_and_compaction_change_nothing(kind):
    model, tokens = make_model(kind), random_tokens([3, 20, 7, 7, 11, 1])
    with torch.no_grad():
        model.action_head.bias[1:] += 1  # without it few constituents stay open from token to token
    config = BeamConfig(beam=8, word_beam=4, max_actions=6)
    expected = search(model, tokens, config)
    if kind == "bilstm":
        assert max(stop - start for phrases in expected.phrases for label, start, stop in phrases if label) > 5
    assert_same(search(model, tokens, config, max_nodes=0), expected)
    assert_same(search(model, tokens, config, max_nodes=100), expected)
    assert_same(search(model, tokens, config, batch_sentences=2), expected)
    assert_same(search(model, tokens, config, batch_tokens=12, max_nodes=0), expected)


@pytest.mark.parametrize("column", [0, 2], ids=["flat", "deep"])
def test_long_sentences_and_deep_stacks_are_searched(column):
    model, tokens, config = make_model(), random_tokens([300]), BeamConfig(beam=4, word_beam=2, max_actions=3)
    with torch.no_grad():
        model.action_head.bias[column] += 4
    found = search(model, tokens, config, max_nodes=2_000)
    assert np.isfinite(found.token_log_probs.values).all()
    assert found.phrases[0][0] == (0, 0, 300)
    assert (len(found.phrases[0]) > 300) == (column == 2)


def test_a_search_of_no_sentences_is_empty():
    found = search(make_model(), [], BeamConfig())
    assert len(found.phrases) == len(found.token_log_probs) == len(found.states) == 0


def test_ties_go_to_the_earlier_hypothesis():
    model = make_model(num_labels=5)
    with torch.no_grad():
        for parameter in model.action_head.parameters():
            parameter.zero_()
    for beam, word_beam in itertools.product(range(1, 9), range(1, 5)):
        config = BeamConfig(beam=beam, word_beam=word_beam, max_actions=3)
        expected, found = beam_search(model, [], config), search(model, [[]], config)
        assert found.num_effective[0] == pytest.approx(expected.num_effective, abs=TOLERANCE)
        np.testing.assert_allclose(mixtures(model, found, config)[0][0], expected.mixtures[0], atol=TOLERANCE)


def test_all_problems_of_a_configuration_are_reported_together():
    with pytest.raises(
        ConfigError, match=r"beam is 0, .*; --word-beam is -1, .*; --max-actions is -1, expected at least 0"
    ):
        BeamConfig(beam=0, word_beam=-1, max_actions=-1)
