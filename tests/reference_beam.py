"""All trees of a short sentence, and the slow, obvious beam search: one hypothesis, one action at a time.

Neither drops anything early. Both are told by ``max_actions`` how many NTs and REDUCEs may stand between two tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

from pipeline.corpus.oracle import FIRST_NT, REDUCE, SHIFT
from teacher.beam_config import BeamConfig
from teacher.rnng import Rnng
from tests import reference


@dataclass
class Hypothesis:
    """A stack as in ``tests.reference``, and how it came about."""

    model: Rnng
    stack: list
    actions: list[int]
    score: float = 0.0

    @staticmethod
    def first(model: Rnng) -> "Hypothesis":
        zeros = torch.zeros(model.config.hidden_dim, dtype=model.token_bias.dtype)
        empty = Hypothesis(model, [], [])
        empty.stack = [("empty", None, [(zeros, zeros) for _ in model.stack])]
        return empty.after(FIRST_NT, 0.0)

    @property
    def u(self) -> Tensor:
        return self.stack[-1][2][-1][0]

    @property
    def is_complete(self) -> bool:
        return sum(kind == "open" for kind, _, _ in self.stack) == 1

    def successors(self, *, shift_only: bool) -> Iterator[tuple[int, float]]:
        """Valid actions with the scores of what they lead to, in the order SHIFT, REDUCE, NTs."""
        valid = [SHIFT] + [FIRST_NT + label for label in range(1, self.model.num_labels)]
        if self.stack[-1][0] != "open" and not self.is_complete:
            valid.insert(1, REDUCE)
        columns = [a if a < FIRST_NT else a - 1 for a in valid]
        log_probs = self.model.action_head(self.u)[columns].log_softmax(0)
        for action, log_prob in zip(valid, log_probs.tolist(), strict=True):
            if action == SHIFT or not shift_only:
                yield action, self.score + log_prob

    def token_log_probs(self) -> Tensor:
        return (self.model.token_embedding @ self.model.projection(self.u) + self.model.token_bias).log_softmax(0)

    def after(self, action: int, score: float, token: int | None = None) -> "Hypothesis":
        """This hypothesis after an action; a SHIFT is executed with its token only."""
        model, stack = self.model, list(self.stack)
        if action == REDUCE:
            children = []
            while stack[-1][0] != "open":
                children.append(stack.pop()[1])
            label = stack.pop()[1]
            kind, item = "constituent", reference._compose(model, label, children[::-1])
            vector = item
        elif action == SHIFT:
            kind, item = "token", model.config.embed_dim**0.5 * model.token_embedding[token]
            vector = item
        else:
            kind, item = "open", action - FIRST_NT
            vector = model.config.embed_dim**0.5 * model.nt_embedding[item]
        stack.append((kind, item, reference._push(model, vector, stack[-1][2])))
        return Hypothesis(model, stack, [*self.actions, action], score)


@dataclass
class Found:
    """As ``teacher.beam.BeamResult``, of one sentence, and the mixtures themselves."""

    mixtures: list[Tensor] = field(default_factory=list)
    prefix_log_probs: list[float] = field(default_factory=list)
    num_effective: list[float] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    """Empty if no candidate was complete."""
    parse_log_prob: float = -torch.inf

    def add(self, candidates: list[tuple[Hypothesis, float]], token: int, *, is_last: bool) -> list[Hypothesis]:
        """Note what candidates, each with its score after SHIFT, say of a position; return them with its token."""
        scores = torch.tensor([score for _, score in candidates])
        weights = scores.softmax(0)
        rows = torch.stack([hypothesis.token_log_probs() for hypothesis, _ in candidates])
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
    """Sums over all trees within the cap."""

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
    """What ``teacher.beam`` says it does, in its words."""
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
        kept = sorted(candidates, key=lambda pair: -pair[1])[: config.word_beam]
        hypotheses = found.add(kept, token, is_last=t == len(tokens))
        hypotheses.sort(key=lambda hypothesis: -hypothesis.score)
    return found
