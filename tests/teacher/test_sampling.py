"""Samples follow the model's own probabilities, and a sentence depends on its number alone."""

import math
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from storage.errors import ConfigError
from teacher.rnng import Rnng
from teacher.sampling import Sampler
from teacher.teacher_config import SampleConfig, TeacherConfig
from tests.reference import Parser

EOS_ID = 1
NUM_SENTENCES = 10_000
KINDS = {
    "bilstm": {"embed_dim": 6, "hidden_dim": 6, "num_layers": 2},
    "attention and a projection": {"embed_dim": 5, "hidden_dim": 7, "num_layers": 1, "composition": "attention"},
    "binary treelstm": {"strategy": "binary", "composition": "treelstm", "embed_dim": 6, "hidden_dim": 7},
}


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_model(kind: str = "bilstm") -> Rnng:
    torch.manual_seed(0)
    model = Rnng(TeacherConfig(**KINDS[kind]), vocab_size=4, num_labels=3, eos_id=EOS_ID).eval().requires_grad_(False)
    for parameter in model.parameters():
        parameter.mul_(2)  # so that states differ much
    # So that there are short sentences with and without constituents.
    model.token_bias[EOS_ID] += 1.5
    model.action_head.bias[SHIFT] += 1
    model.action_head.bias[REDUCE] += 2
    return model


def outcomes(
    parser: Parser, *, max_actions: int, temperature: float, least: float
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...], float]]:
    """Yield each sentence with at most ``max_actions`` actions: its tokens, its actions and its probability.

    Leave out sentences whose probability is below ``least``.
    """

    def following(parser: Parser, ids: tuple[int, ...], actions: tuple[int, ...], probability: float):
        if probability < least or len(actions) > max_actions - 2:  # the drawn action and the last REDUCE follow
            return
        valid = parser.valid_actions(ended=False)
        scores = torch.stack([parser.action_log_prob(action, ended=False) for action in valid]) / temperature
        num_open = sum(element.label is not None for element in parser.stack)
        is_complete = len(parser.stack) <= 2 if parser.is_binary else num_open == 1
        for action, share in zip(valid, scores.softmax(0).tolist(), strict=True):
            tokens = (parser.token_log_probs() / temperature).softmax(0).tolist() if action == SHIFT else [1.0]
            for token, token_share in enumerate(tokens):
                after = Parser(parser.model, list(parser.stack))
                now = (ids, (*actions, action), probability * share * token_share)
                if action == SHIFT and token == EOS_ID and is_complete:
                    yield ids, (*actions, SHIFT, REDUCE), now[2]
                    continue
                if action == SHIFT:
                    after.shift(token)
                    now = ((*ids, token), *now[1:])
                elif action == REDUCE:
                    after.reduce()
                else:
                    after.open(action - FIRST_NT)
                yield from following(after, *now)

    parser.open(0)
    yield from (found for found in following(parser, (), (FIRST_NT,), 1.0) if found[2] >= least)


@pytest.mark.parametrize(
    ("kind", "temperature"), [("bilstm", 1.0), ("attention and a projection", 0.7), ("binary treelstm", 0.6)]
)
def test_samples_follow_the_probabilities_of_the_model(kind, temperature):
    model, max_actions = make_model(kind), 9
    drawn = Sampler(model, seed=3, max_actions=max_actions, temperature=temperature).draw(range(NUM_SENTENCES))
    counts = Counter((tuple(each.ids), tuple(each.actions)) for each in drawn if each is not None)
    found = outcomes(Parser(model), max_actions=max_actions, temperature=temperature, least=2e-3)
    expected = {(ids, actions): NUM_SENTENCES * probability for ids, actions, probability in found}
    assert sum(len(actions) > len(ids) + 3 for ids, actions in expected) >= 5  # five have a constituent below TOP
    assert sum(expected.values()) > 0.2 * NUM_SENTENCES
    num_others = NUM_SENTENCES - sum(counts[outcome] for outcome in expected)
    others = NUM_SENTENCES - sum(expected.values())
    chi_squared = (num_others - others) ** 2 / others
    chi_squared += sum((counts[outcome] - number) ** 2 / number for outcome, number in expected.items())
    # The statistic has the mean len(expected) and the deviation sqrt(2 len(expected)). Four deviations above the mean
    # have a probability below 0.002.
    assert chi_squared < len(expected) + 4 * math.sqrt(2 * len(expected))


@pytest.mark.parametrize("kind", ["bilstm", "binary treelstm"])
def test_a_sentence_depends_on_its_number_alone(kind):
    model = make_model(kind)
    together = Sampler(model, seed=1, max_actions=25).draw(range(40))
    assert max(len(each.actions) for each in together if each is not None) > 9
    compacting = Sampler(model, seed=1, max_actions=25, max_nodes=0)
    assert [compacting.draw([number])[0] for number in range(39, -1, -1)] == together[::-1]
    assert compacting.draw(range(40)) == together
    assert Sampler(model, seed=2, max_actions=25).draw(range(40)) != together


def test_a_sentence_has_at_most_max_actions_and_no_cap_changes_a_shorter_one():
    model = make_model()
    long, short = (Sampler(model, seed=1, max_actions=cap).draw(range(200)) for cap in (40, 10))
    assert short == [each if each is not None and len(each.actions) <= 10 else None for each in long]
    assert any(each is not None and len(each.actions) == 10 for each in short)


def test_a_low_temperature_draws_the_most_probable_choices():
    model = make_model()
    first, *others = Sampler(model, seed=1, max_actions=40, temperature=1e-9).draw(range(20))
    assert all(each == first for each in others)


def test_all_problems_of_a_configuration_are_reported_together():
    with pytest.raises(ConfigError, match=r"num-sentences is 0, .*; --temperature is nan, expected more than 0"):
        SampleConfig(num_sentences=0, temperature=np.nan)
