"""Find next-token mixtures and parses by beam search over trees, word by word, without looking ahead.

This is word-synchronous beam search (Stern, Fried, Klein 2017). Before position t a sentence has some hypotheses: its
tokens x_<t with actions y_<t, and the score log p(x_<t, y_<t). The search extends them action by action. At each step
every valid action of every hypothesis gives a successor, and the ``beam`` best successors of the sentence survive. A
survivor whose action is SHIFT becomes a candidate c of the position. Let u_c be the model's state before this SHIFT.
The candidate's score is log p(x_<t, y_<t) + log p(SHIFT | u_c). The actions of the other survivors are executed, and
these survivors are extended at the next step. The best ``beam`` candidates are kept. Then

    w_c               = softmax of the candidates' scores
    p(w | x_<t)       = sum over c of w_c p(w | u_c, SHIFT)                 the **mixture**, over the whole vocabulary
    prefix at t       = log sum over c of p(x_<=t, y_<t, SHIFT)

After the mixture is recorded, the search adds log p(x_t | u_c) to the scores and keeps the best ``word_beam``
candidates for the next position. So the mixture depends on x_<t alone. The search does not foresee the end of a
sentence either. Where x_t is ``<eos>``, the mixture is over all candidates, but candidates with open constituents do
not survive ``<eos>``. Only complete candidates, in which only TOP is open, are hypotheses of the whole sentence.

Scores only fall. So dropping a hypothesis that is no better than the ``beam``-th best candidate does not change the
result. The search at a position of a sentence ends when all hypotheses of the sentence are dropped, or after
``max_actions`` NTs and REDUCEs, after which only SHIFT is valid. In a tie the earlier hypothesis wins, then the earlier
action.

Prefix probabilities sum over some trees only. So they are lower bounds on the RNNG's own, and wider beams usually make
the bounds tighter. The mixtures are a language model of their own: the log-probability of a sentence is the sum over
its gold tokens.

Many sentences advance together, one action and one token at a time. ``stack_pool`` describes which results they share.

Shape letters: M sentences, P positions, B beam, D embedding size, V vocabulary, R rows, n hypotheses, A actions.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT, actions_to_tree
from pipeline.corpus.trees.trees import TokenPhrase
from pipeline.dumping.next_token import append_eos
from pipeline.runtime.distributed import on_device
from pipeline.training.batching import consecutive_batches
from storage.ragged import Ragged
from teacher.hypotheses import History, Hypotheses, best_successors, log_sums, ranks, run_starts
from teacher.rnng import Rnng
from teacher.stack_pool import BOTTOM, StackPool
from teacher.teacher_config import BeamConfig

BATCH_SENTENCES = 64
"""Number of sentences that are searched together."""
BATCH_TOKENS = 4096
"""Limit on the positions that are searched together. This limit keeps batches of long sentences small."""
MAX_NODES = 4096
"""A pool of stacks (``stack_pool``) is compacted when it has more nodes than this, and more than twice as many as
after the last compaction. With two layers of size 256, a node and its data take 17 KB at most."""
_LOGIT_ROWS = 256
_SHIFT_COLUMN = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamResult:
    """The result of a search of M sentences, in the order they were given. Natural logarithms, float64."""

    token_log_probs: Ragged
    """n + 1 values per sentence: the log-probability of each gold token and of ``<eos>`` under the mixture."""
    prefix_log_probs: Ragged
    """n + 1 values per sentence: log of the summed probability of all candidates (up to ``beam``) with the token. At
    ``<eos>`` only complete candidates count; the value is -inf if none is complete."""
    num_effective: Ragged
    """n + 1 values per sentence in [1, B]: the effective number of candidates, exp of the entropy of their weights."""
    phrases: list[list[TokenPhrase]]
    """The phrases of the best parse, in opening order. Unlabelled constituents have label 1. If no candidate is
    complete, REDUCEs close the best hypothesis after the last token, even beyond ``max_actions``."""
    parse_log_probs: np.ndarray
    """``[M]``: the joint log-probability of the sentence and its parse."""
    states: Tensor | None
    """``[P, B * (D + 1) + 1]`` if requested: the input of ``BeamTeacher.logits``."""


class BeamSearch:
    """Beam search with one model."""

    def __init__(
        self,
        model: Rnng,
        config: BeamConfig,
        *,
        batch_sentences: int = BATCH_SENTENCES,
        batch_tokens: int = BATCH_TOKENS,
        max_nodes: int = MAX_NODES,
    ) -> None:
        """Search with ``model``, which must be in evaluation mode. The other options trade memory for speed."""
        self.model = model
        self.config = config
        self._batch_sentences = batch_sentences
        self._batch_tokens = batch_tokens
        self._max_nodes = max_nodes

    @torch.no_grad()
    def search(self, tokens: Ragged, *, with_states: bool = False) -> BeamResult:
        """Search sentences, given without ``<eos>``.

        Sentences of similar length are searched together. The batches depend on the lengths alone.
        """
        gold = append_eos(tokens, self.model.eos_id)
        found = _Found(self.model, self.config, gold, with_states=with_states)
        by_length = np.argsort(-gold.lengths, kind="stable")
        for first, stop in consecutive_batches(gold.lengths[by_length], self._batch_tokens, self._batch_sentences):
            _Batch(self.model, self.config, gold, by_length[first:stop], found, self._max_nodes).search()
        return found.result()


class BeamTeacher:
    """A teacher without trees: a ``pipeline.dumping.next_token.MixtureModel`` whose distributions are the mixtures."""

    def __init__(self, model: Rnng, config: BeamConfig) -> None:
        self._search = BeamSearch(model, config)
        self._model = model
        self.vocab_size = model.vocab_size

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> Ragged:  # noqa: ARG002  the protocol's; no tree is read
        """Return the tokens."""
        return tokens

    def states(self, inputs: Ragged) -> Tensor:
        """Return ``[P, B * (D + 1) + 1]``.

        A row holds, for each candidate, its state and the number that is added to its logits. The last column is the
        effective number of candidates.
        """
        states = self._search.search(inputs, with_states=True).states
        assert states is not None
        return states

    @torch.no_grad()
    def logits(self, states: Tensor) -> Tensor:
        """Return ``[R, V]``: the log-probabilities of the mixtures."""
        beam = self._search.config.beam
        mixtures = states.new_empty((len(states), self.vocab_size))
        candidates = _candidates_of(states, beam)
        rows = max(1, _LOGIT_ROWS // beam)
        for at, part in zip(mixtures.split(rows), candidates.split(rows), strict=True):
            logits: Tensor = self._model.logits(part[..., :-1].reshape(-1, part.shape[2] - 1))
            logits += part[..., -1].reshape(-1, 1)
            torch.logsumexp(logits.view(len(part), beam, -1), 1, out=at)
        return mixtures

    def num_effective(self, states: Tensor) -> Tensor:
        """Return ``[R]``: the effective number of candidates; see ``BeamResult.num_effective``."""
        return states[:, -1]


def _candidates_of(states: Tensor, beam: int) -> Tensor:
    """Return a view ``[R, B, D + 1]`` of states: the part of each candidate."""
    return states[:, :-1].view(len(states), beam, (states.shape[1] - 1) // beam)


class _Found:
    """Collect results in the order in which the sentences were given. The search takes them longest first."""

    def __init__(self, model: Rnng, config: BeamConfig, gold: Ragged, *, with_states: bool) -> None:
        num_positions, num_sentences = len(gold.values), len(gold)
        self._offsets = gold.offsets
        self._model = model
        self.token_log_probs = np.empty(num_positions)
        self.prefix_log_probs = np.empty(num_positions)
        self.num_effective = np.empty(num_positions)
        self.actions: list[list[int]] = [[] for _ in range(num_sentences)]
        self.parse_log_probs = np.empty(num_sentences)
        self.states: Tensor | None = None
        if with_states:
            columns = config.beam * (model.config.embed_dim + 1) + 1
            # If a position has fewer than B candidates, the other columns have weight 0.
            self.states = model.token_bias.new_zeros((num_positions, columns))
            self.candidates = _candidates_of(self.states, config.beam)
            self.candidates[..., -1] = -torch.inf

    def result(self) -> BeamResult:
        if self.states is not None:
            self.states[:, -1] = torch.from_numpy(self.num_effective)
        return BeamResult(
            token_log_probs=Ragged(self.token_log_probs, self._offsets),
            prefix_log_probs=Ragged(self.prefix_log_probs, self._offsets),
            num_effective=Ragged(self.num_effective, self._offsets),
            phrases=[phrases_of(self._model, actions) for actions in self.actions],
            parse_log_probs=self.parse_log_probs,
            states=self.states,
        )


def phrases_of(model: Rnng, actions: list[int]) -> list[TokenPhrase]:
    """Return the phrases that a model's actions build, TOP first, in opening order.

    In the binary strategy each REDUCE but the last builds a phrase of label 1.
    """
    if model.config.strategy != "binary":
        return actions_to_tree(actions)[0]
    starts: list[int] = []
    phrases = []
    num_tokens = 0
    for action in actions[1:-2]:
        if action == SHIFT:
            starts.append(num_tokens)
            num_tokens += 1
        else:
            starts.pop()
            phrases.append((1, starts[-1], num_tokens))
    return [(0, 0, num_tokens), *sorted(phrases, key=lambda phrase: (phrase[1], -phrase[2]))]


class _Batch:
    """Search some sentences, which are sorted longest first. All are at the same position at any time."""

    def __init__(
        self, model: Rnng, config: BeamConfig, gold: Ragged, sentences: np.ndarray, found: _Found, max_nodes: int
    ) -> None:
        self._model = model
        self._config = config
        self._gold = gold
        self._sentences = sentences
        self._begins = gold.offsets[sentences]
        self._lengths = gold.lengths[sentences]
        self._found = found
        self._max_nodes = self._compact_above = max_nodes
        self._pool = StackPool(model, np.unique(gold.take(sentences).values))
        self._history = History()

    def search(self) -> None:
        num_sentences = len(self._sentences)
        at_bottom = np.full(num_sentences, BOTTOM)
        hypotheses = Hypotheses(np.arange(num_sentences), np.zeros(num_sentences), at_bottom, at_bottom)
        self._unclosed = hypotheses.take(np.arange(0))
        for t in range(int(self._lengths[0])):
            candidates = self._candidates(hypotheses)
            gold = self._gold.values[self._begins[candidates.sentence] + t]
            scores = self._read(candidates, gold, t)
            is_last = self._lengths[candidates.sentence] == t + 1
            scores[is_last & ~self._pool.is_complete(candidates.node)] = -np.inf
            self._found.prefix_log_probs[self._begins[: self._num_at(t)] + t] = log_sums(scores, candidates.sentence)
            if is_last.any():
                self._finish(hypotheses, candidates, scores, t)
            if self._num_at(t + 1):
                hypotheses = self._shift(candidates, scores, gold, t)
        self._record_parses(self._close(self._unclosed))

    def _candidates(self, hypotheses: Hypotheses) -> Hypotheses:
        """Return the best hypotheses that reach a SHIFT.

        Their scores include the SHIFT. Their nodes (stacks) and events (last actions) are those before the SHIFT.
        """
        beam, max_actions = self._config.beam, self._config.max_actions
        candidates = hypotheses.take(np.arange(0))
        to_beat = np.full(int(hypotheses.sentence[-1]) + 1, -np.inf)
        for num_actions in range(max_actions + 1):
            totals = hypotheses.score[:, None] + self._pool.action_log_probs(hypotheses.node)
            if num_actions == max_actions:
                totals[:, _SHIFT_COLUMN + 1 :] = -np.inf
            successors, columns = best_successors(hypotheses, totals, to_beat, beam)
            is_shift = columns == _SHIFT_COLUMN
            if is_shift.any():
                shifted = successors.take(np.flatnonzero(is_shift))
                candidates = candidates.and_then(shifted).best(beam)
                last = ranks(candidates.sentence) == beam - 1
                to_beat[candidates.sentence[last]] = candidates.score[last]
            executed = np.flatnonzero(~is_shift & (successors.score > to_beat[successors.sentence]))
            if not len(executed):
                break
            hypotheses = self._act(successors.take(executed), columns[executed])
        return candidates

    def _act(self, hypotheses: Hypotheses, columns: np.ndarray) -> Hypotheses:
        actions = np.where(columns < FIRST_NT, columns, columns + 1)  # NT(TOP) has no column
        return Hypotheses(
            hypotheses.sentence,
            hypotheses.score,
            self._pool.act(hypotheses.node, columns),
            self._history.add(hypotheses.event, actions),
        )

    def _read(self, candidates: Hypotheses, gold: np.ndarray, t: int) -> np.ndarray:
        """Record the mixtures at position ``t``; return the scores with the gold tokens' log-probabilities added."""
        sentence = candidates.sentence
        log_weights = candidates.score - log_sums(candidates.score, sentence)[sentence]
        states = self._pool.token_states(candidates.node)
        gold_log_probs, normalisers = self._vocabulary(states, gold)
        starts = run_starts(sentence)
        at = self._begins[sentence[starts]] + t
        self._found.token_log_probs[at] = log_sums(log_weights + gold_log_probs, sentence)
        entropies = -np.add.reduceat(np.exp(log_weights) * log_weights, starts)
        self._found.num_effective[at] = np.exp(entropies)
        if self._found.states is not None:
            device = states.device
            shift = on_device(log_weights, device) - normalisers.double()
            rows = torch.cat([states, shift.to(states.dtype)[:, None]], dim=1)
            position = on_device(self._begins[sentence] + t, device)
            self._found.candidates[position, on_device(ranks(sentence), device)] = rows
        scores: np.ndarray = candidates.score + gold_log_probs
        return scores

    def _vocabulary(self, states: Tensor, gold: np.ndarray) -> tuple[np.ndarray, Tensor]:
        """Return the log-probabilities of the gold tokens, float64 ``[n]``, and the log normalisers ``[n]``."""
        targets = on_device(gold, states.device)[:, None]
        gold_logits, normalisers = [], []
        for part, target in zip(states.split(_LOGIT_ROWS), targets.split(_LOGIT_ROWS), strict=True):
            logits = self._model.logits(part)
            gold_logits.append(logits.gather(1, target)[:, 0])
            normalisers.append(logits.logsumexp(1))
        normaliser = torch.cat(normalisers)
        log_probs: np.ndarray = (torch.cat(gold_logits) - normaliser).double().cpu().numpy()
        return log_probs, normaliser

    def _shift(self, candidates: Hypotheses, scores: np.ndarray, gold: np.ndarray, t: int) -> Hypotheses:
        """Push the gold tokens onto the best candidates of unfinished sentences; return the hypotheses after ``t``."""
        going_on = np.flatnonzero(candidates.sentence < self._num_at(t + 1))
        going_on = going_on[np.lexsort((-scores[going_on], candidates.sentence[going_on]))]
        going_on = going_on[ranks(candidates.sentence[going_on]) < self._config.word_beam]
        before = candidates.take(going_on)
        nodes = self._pool.shift(before.node, gold[going_on])
        if len(self._pool) > self._compact_above:
            kept = self._pool.compact(np.append(nodes, self._unclosed.node))
            nodes, self._unclosed = kept[: len(nodes)], replace(self._unclosed, node=kept[len(nodes) :])
            self._compact_above = max(self._max_nodes, 2 * len(self._pool))
        events = self._history.add(before.event, np.full(len(before), SHIFT))
        return Hypotheses(before.sentence, scores[going_on], nodes, events)

    def _finish(self, entered: Hypotheses, candidates: Hypotheses, scores: np.ndarray, t: int) -> None:
        """Record the best parses of the sentences that end at position ``t``.

        A sentence without a complete candidate is closed at the end of the search.

        Args:
            entered: The hypotheses before the position.
            candidates: The candidates at the position.
            scores: The candidates' scores with ``<eos>``; -inf for a candidate that is not complete.
            t: The position.
        """
        ending = np.arange(self._num_at(t + 1), self._num_at(t))
        complete = np.flatnonzero((scores > -np.inf) & (candidates.sentence >= ending[0]))
        self._record_parses(replace(candidates.take(complete), score=scores[complete]))
        without = np.setdiff1d(ending, candidates.sentence[complete])
        unclosed = entered.take(np.flatnonzero(np.isin(entered.sentence, without))).best(1)
        self._unclosed = self._unclosed.and_then(unclosed)

    def _record_parses(self, complete: Hypotheses) -> None:
        best = complete.best(1)
        for sentence, score, event in zip(self._sentences[best.sentence], best.score, best.event, strict=True):
            self._found.parse_log_probs[sentence] = score
            self._found.actions[sentence] = [FIRST_NT, *self._history.actions(event), SHIFT, REDUCE]

    def _close(self, hypotheses: Hypotheses) -> Hypotheses:
        """Close all constituents but TOP with REDUCEs, then add ``<eos>``; return the resulting hypotheses."""
        hypotheses = hypotheses.take(np.arange(len(hypotheses)))  # a copy, which is changed below
        while len(still_open := np.flatnonzero(~self._pool.is_complete(hypotheses.node))):
            hypotheses.score[still_open] += self._pool.action_log_probs(hypotheses.node[still_open])[:, REDUCE]
            reduced = self._act(hypotheses.take(still_open), np.full(len(still_open), REDUCE))
            hypotheses.node[still_open], hypotheses.event[still_open] = reduced.node, reduced.event
        if len(hypotheses):
            eos = np.full(len(hypotheses), self._model.eos_id)
            hypotheses.score[:] += self._pool.action_log_probs(hypotheses.node)[:, _SHIFT_COLUMN]
            hypotheses.score[:] += self._vocabulary(self._pool.token_states(hypotheses.node), eos)[0]
        return hypotheses

    def _num_at(self, t: int) -> int:
        """Return how many sentences have a position ``t``. These come first, because sentences are sorted by length."""
        return int((self._lengths > t).sum())
