"""Enumerate all trees of a short sentence, and search with a slow, obvious beam: one hypothesis, one action at a time.

Neither function drops a hypothesis early. In both, ``max_actions`` is the largest number of NTs and REDUCEs between two
tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig
from tests.reference import Parser


@dataclass
class Hypothesis:
    """A partial sentence, and the actions that led to it."""

    parser: Parser
    actions: list[int]
    score: float = 0.0

    @staticmethod
    def first(model: Rnng) -> "Hypothesis":
        return Hypothesis(Parser(model), []).after(FIRST_NT, 0.0)

    @property
    def is_complete(self) -> bool:
        if self.parser.is_binary:
            return len(self.parser.stack) <= 2
        return sum(element.label is not None for element in self.parser.stack) == 1

    def successors(self, *, shift_only: bool) -> Iterator[tuple[int, float]]:
        """Yield each valid action with the score after it, in the order SHIFT, REDUCE, NTs."""
        for action in sorted(self.parser.valid_actions(ended=False)):
            if action == SHIFT or not shift_only:
                yield action, self.score + float(self.parser.action_log_prob(action, ended=False))

    def after(self, action: int, score: float, token: int | None = None) -> "Hypothesis":
        """Return the hypothesis after an action. A SHIFT needs its token."""
        parser = Parser(self.parser.model, list(self.parser.stack))
        if action == SHIFT:
            assert token is not None
            parser.shift(token)
        elif action == REDUCE:
            parser.reduce()
        else:
            parser.open(action - FIRST_NT)
        return Hypothesis(parser, [*self.actions, action], score)


@dataclass
class Found:
    """The result for one sentence: the same values as ``teacher.beam.BeamResult``, and also the mixtures."""

    mixtures: list[Tensor] = field(default_factory=list)
    prefix_log_probs: list[float] = field(default_factory=list)
    num_effective: list[float] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    """Empty if no candidate was complete."""
    parse_log_prob: float = -torch.inf

    def add(self, candidates: list[tuple[Hypothesis, float]], token: int, *, is_last: bool) -> list[Hypothesis]:
        """Record the mixture of the candidates at a position. Return the candidates after they have shifted its token.

        Each candidate comes with its score after SHIFT.
        """
        scores = torch.tensor([score for _, score in candidates])
        weights = scores.softmax(0)
        rows = torch.stack([hypothesis.parser.token_log_probs() for hypothesis, _ in candidates])
        self.mixtures.append((weights.log()[:, None] + rows).logsumexp(0))
        self.num_effective.append(float(torch.exp(-torch.xlogy(weights, weights).sum())))
        shifted = [
            hypothesis.after(SHIFT, score + float(row[token]), token)
            for (hypothesis, score), row in zip(candidates, rows, strict=True)
            if not is_last or hypothesis.is_complete
        ]
        self.prefix_log_probs.append(float(torch.tensor([h.score for h in shifted]).logsumexp(0)))
        if is_last and shifted:
            best = max(shifted, key=lambda hypothesis: hypothesis.score)
            self.actions, self.parse_log_prob = [*best.actions, REDUCE], best.score
        return shifted


def enumerate_trees(model: Rnng, tokens: list[int], max_actions: int) -> Found:
    """Return sums over all trees with at most ``max_actions`` actions between two tokens."""

    def reaching_shift(hypothesis: Hypothesis, num_left: int) -> Iterator[tuple[Hypothesis, float]]:
        for action, score in hypothesis.successors(shift_only=num_left == 0):
            if action == SHIFT:
                yield hypothesis, score
            else:
                yield from reaching_shift(hypothesis.after(action, score), num_left - 1)

    found, hypotheses = Found(), [Hypothesis.first(model)]
    for t, token in enumerate([*tokens, model.eos_id]):
        candidates = [pair for h in hypotheses for pair in reaching_shift(h, max_actions)]
        hypotheses = found.add(candidates, token, is_last=t == len(tokens))
    return found


def beam_search(model: Rnng, tokens: list[int], config: BeamConfig) -> Found:
    """Search as the docstring of ``teacher.beam`` describes it, step by step."""
    found, hypotheses = Found(), [Hypothesis.first(model)]
    for t, token in enumerate([*tokens, model.eos_id]):
        candidates: list[tuple[Hypothesis, float]] = []
        for num_actions in range(config.max_actions + 1):
            pairs = [
                (hypothesis, action, score)
                for hypothesis in hypotheses
                for action, score in hypothesis.successors(shift_only=num_actions == config.max_actions)
            ]
            survivors = sorted(pairs, key=lambda pair: -pair[2])[: config.beam]
            candidates += [(hypothesis, score) for hypothesis, action, score in survivors if action == SHIFT]
            hypotheses = [h.after(action, score) for h, action, score in survivors if action != SHIFT]
        kept = sorted(candidates, key=lambda pair: -pair[1])[: config.beam]
        shifted = found.add(kept, token, is_last=t == len(tokens))
        hypotheses = sorted(shifted, key=lambda hypothesis: -hypothesis.score)[: config.word_beam]
    return found


def binary_phrases(actions: list[int]) -> list[tuple[int, int, int]]:
    """Return the phrases that binary actions build: TOP, and one phrase of label 1 for each REDUCE but the last."""
    stack: list[tuple[int, list]] = []
    position = 0
    for action in actions[1:-2]:
        if action == SHIFT:
            stack.append((position, []))
            position += 1
        else:
            (middle, right), (start, left) = stack.pop(), stack.pop()
            assert start < middle
            stack.append((start, [(1, start, position), *left, *right]))
    return [(0, 0, position), *(phrase for _, phrases in stack for phrase in phrases)]
