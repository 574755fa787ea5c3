"""Find next-token mixtures and parses by word-synchronous beam search over trees (Stern, Fried, Klein 2017).

Before position t a sentence has several hypotheses. Each has the tokens x_<t, its own actions y so far, and the score
log p(x_<t, y). The search extends them action by action. At each step every valid action of every hypothesis gives a
successor, and the ``beam`` best successors of the sentence survive. A survivor whose action is SHIFT becomes a
candidate c of the position. The other survivors are extended at the next step. The best ``beam`` candidates are kept.
Let y_c be the actions of candidate c before this SHIFT, and u_c the model's state before this SHIFT. Then

    score of c        = log p(x_<t, y_c) + log p(SHIFT | u_c)
    w_c               = softmax of the candidates' scores
    p(w | x_<t)       = sum over c of w_c p(w | u_c, SHIFT)                 the **mixture**, over the whole vocabulary
    prefix at t       = log sum over c of p(x_<=t, y_c, SHIFT)

After the mixture is recorded, the search adds log p(x_t | u_c, SHIFT) to the scores and keeps the best ``word_beam``
candidates for the next position. So the mixture depends on x_<t alone. A candidate is called complete if ``<eos>`` can
end the sentence there: only TOP is open, or, with ``--strategy binary``, no two elements are left to join. At the end
of a sentence the mixture sums over all candidates, as elsewhere. But only complete candidates count in the prefix
probability there, and only they can become the parse.

After ``max_actions`` NTs and REDUCEs at one position, only SHIFT is valid. An action never raises a score, so a
hypothesis that is no better than the ``beam``-th best candidate can be dropped. If scores are equal, the earlier
hypothesis wins, and within one hypothesis the earlier action in the order SHIFT, REDUCE, NTs.

Prefix probabilities sum over some trees only. So they are lower bounds on the RNNG's own prefix probabilities. The
mixtures are a language model of their own: the log-probability of a sentence is the sum of the log-probabilities of its
gold tokens under the mixtures.

Shape letters: M sentences, P positions, B beam, D embedding size, V vocabulary, R any number of positions, n
hypotheses, A actions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.corpus.dataset.oracle import FIRST_NT, REDUCE, SHIFT, actions_to_tree
from pipeline.corpus.trees.trees import TokenPhrase
from pipeline.dumping.next_token import append_eos
from pipeline.runtime.distributed import on_device
from pipeline.training.batching import consecutive_batches, longest_first
from pipeline.training.chunked_vocabulary import softmax_and_log_sum
from storage.ragged import Ragged, concatenated_ranges
from teacher.hypotheses import History, Hypotheses, best_successors, log_sums, ranks, run_starts
from teacher.rnng import Rnng
from teacher.stack_pool import BOTTOM, StackPool
from teacher.teacher_config import BeamConfig

BATCH_SENTENCES = 128
"""Number of sentences that are searched together."""
BATCH_TOKENS = 8192
"""Limit on the number of positions of the sentences that are searched together."""
MAX_NODES = 4096
"""Each push onto a stack makes a node (``teacher.stack_pool``). If a batch has more nodes than this, the nodes that no
hypothesis needs are removed. If many nodes remain, the next removal comes when their number has doubled. With two
layers of size 256, a node takes 17 KB at most."""
_TILE_ROWS, _TILE_COLUMNS = 512, 1000
"""If only the log-sum-exp of the logits is needed, the logits are computed in tiles with this many rows and columns. A
tile has 2 MB, which fit into the cache of a CPU's core. On other devices a tile has all columns."""
_MIXTURE_ROWS = 256
"""Number of candidates whose probabilities are computed at once if mixtures are needed."""
_SAFE_LOG_SUM = 60.0
"""A sum of exponentials is first computed without subtracting the largest logit. If its logarithm is at most this far
from 0, float32 is precise enough. Otherwise the sum is computed again with the subtraction."""
_SHIFT_COLUMN = 0


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamResult:
    """The result of a search of M sentences, in the order they were given. Natural logarithms, float64.

    A sentence of n tokens has n + 1 positions. The gold token of the last position is ``<eos>``.
    """

    token_log_probs: Ragged
    """One value per position: the log-probability of the gold token under the mixture."""
    prefix_log_probs: Ragged
    """One value per position: the logarithm of the prefix probability. At the end of a sentence only complete
    candidates count, and the value is -inf if there are none."""
    num_effective: Ragged
    """One value per position, in [1, B]: the effective number of candidates, which is exp of the entropy of their
    weights."""
    phrases: list[list[TokenPhrase]]
    """The phrases of each sentence's best parse, in opening order. Unlabelled constituents have label 1. If no
    candidate is complete at the end of a sentence, the parse is the best hypothesis after the last token, completed by
    as many REDUCEs as it needs, even more than ``max_actions``."""
    parse_log_probs: np.ndarray
    """``[M]``: the joint log-probability of the sentence and its parse."""
    states: Tensor | None
    """``[P, V + 1]``, or None if not requested. The first V columns are the log-probabilities of the mixtures, and the
    last column is ``num_effective``."""


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
        """Search with ``model``, which must be in evaluation mode. If its weights change, make a new ``BeamSearch``.

        ``batch_sentences``, ``batch_tokens`` and ``max_nodes`` trade memory for speed.
        """
        self.model = model
        self.vocabulary = _vocabulary(model)
        self.config = config
        self._batch_sentences = batch_sentences
        self._batch_tokens = batch_tokens
        self._max_nodes = max_nodes

    @torch.no_grad()
    def search(self, tokens: Ragged, *, with_states: bool = False) -> BeamResult:
        """Search sentences, given without ``<eos>``.

        Sentences of one batch that begin alike, such as minimal pairs, share one search up to their first difference.
        """
        gold = append_eos(tokens, self.model.eos_id)
        found = _Found(self.model, gold, with_states=with_states)
        order = longest_first(gold.lengths, gold)
        for first, stop in consecutive_batches(gold.lengths[order], self._batch_tokens, self._batch_sentences):
            # This sort puts sentences that begin alike next to each other.
            sentences = np.array(sorted(order[first:stop], key=lambda i: gold[i].tobytes()), np.int64)
            _Batch(self, gold, sentences, found, self._max_nodes).search()
        return found.result()


class BeamTeacher:
    """A teacher that gets no trees, and predicts with the mixtures of a beam search.

    Satisfies ``pipeline.dumping.next_token.MixtureModel``.
    """

    def __init__(self, model: Rnng, config: BeamConfig) -> None:
        self.search = BeamSearch(model, config)
        self.vocab_size = model.vocab_size

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> Ragged:  # noqa: ARG002  required by the protocol
        """Return the tokens."""
        return tokens

    def states(self, inputs: Ragged) -> Tensor:
        """Return ``[P, V + 1]``: see ``BeamResult.states``."""
        states = self.search.search(inputs, with_states=True).states
        assert states is not None
        return states

    def logits(self, states: Tensor) -> Tensor:
        """Return a view ``[R, V]``: the log-probabilities of the mixtures."""
        return states[:, :-1]

    def num_effective(self, states: Tensor) -> Tensor:
        """Return ``[R]``: the effective number of candidates; see ``BeamResult.num_effective``."""
        return states[:, -1]


@torch.no_grad()
def _vocabulary(model: Rnng) -> Tensor:
    """Return ``[V, D + 1]``: the token embeddings, and the biases as the last column.

    If a 1 is appended to a state, the product of the state and this matrix gives the logits with their biases. A
    separate addition of the biases would take a third of the product's time.
    """
    return torch.cat([model.token_embedding, model.token_bias[:, None]], dim=1)


class _Found:
    """Collect results in the order in which the sentences were given."""

    def __init__(self, model: Rnng, gold: Ragged, *, with_states: bool) -> None:
        num_positions, num_sentences = len(gold.values), len(gold)
        self._offsets = gold.offsets
        self._model = model
        self.token_log_probs = np.empty(num_positions)
        self.prefix_log_probs = np.empty(num_positions)
        self.num_effective = np.empty(num_positions)
        self.actions: list[list[int]] = [[] for _ in range(num_sentences)]
        self.parse_log_probs = np.empty(num_sentences)
        self.states = model.token_bias.new_empty((num_positions, model.vocab_size + 1)) if with_states else None

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

    With ``--strategy binary``, a REDUCE joins two elements into a phrase with label 1. The last REDUCE closes TOP.
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


@dataclass(frozen=True, slots=True)
class _Step:
    """Position t of a batch. A group is all sentences with equal x_<t. A branch is all sentences with equal x_<=t.

    A sentence that ends at t shares its branch only with identical sentences.
    """

    rows: np.ndarray
    """int64 ``[m]``: the sentences of the batch that have a position t."""
    branch_of_row: np.ndarray
    """int64 ``[m]``."""
    group: np.ndarray
    """int64 ``[b]``: the group of each branch."""
    token: np.ndarray
    """int64 ``[b]``: the gold token of each branch."""
    is_last: np.ndarray
    """bool ``[b]``: whether the sentences of a branch end here."""


def _steps(gold: Ragged) -> Iterator[_Step]:
    """Yield a step for each position of a batch.

    The sentences must be sorted, because sentences that begin alike share a group only if they are neighbours.
    """
    keys = np.full((len(gold), int(gold.lengths.max())), -2)
    keys[np.arange(keys.shape[1]) < gold.lengths[:, None]] = gold.values
    keys[np.arange(len(gold)), gold.lengths - 1] = -1  # an <eos> at the end must not equal an <eos> in a text
    differs = np.ones((len(gold), keys.shape[1] + 1), bool)
    differs[1:, :-1] = keys[1:] != keys[:-1]
    first_difference = differs.argmax(axis=1)  # the first position where a sentence differs from the one before it
    for t in range(keys.shape[1]):
        rows = np.flatnonzero(gold.lengths > t)
        group = np.cumsum(first_difference < t)[rows]
        _, first, branch = np.unique(np.cumsum(first_difference <= t)[rows], return_index=True, return_inverse=True)
        at = gold.offsets[rows[first]] + t
        yield _Step(
            rows=rows,
            branch_of_row=branch,
            group=np.unique(group, return_inverse=True)[1][first],
            token=gold.values[at],
            is_last=gold.lengths[rows[first]] == t + 1,
        )


def _log_sum_of(rows: Tensor, tiles: tuple[Tensor, ...]) -> Tensor:
    """Return ``[n]``: for each row, the log-sum-exp of its logits over the whole vocabulary.

    Args:
        rows: ``[n, D + 1]``: states, with a 1 after each.
        tiles: The rows of ``_vocabulary``, divided into several tensors.
    """
    if len(tiles) > 1:
        # On a CPU, logsumexp would read and write each tile twice more, to subtract the largest logit.
        sums = torch.stack([(rows @ tile.T).exp_().sum(1) for tile in tiles]).sum(0).log()
        if (sums.abs() <= _SAFE_LOG_SUM).all():
            return sums
    return torch.stack([(rows @ tile.T).logsumexp(1) for tile in tiles]).logsumexp(0)


class _Batch:
    """Search the sentences of one batch, position by position. All sentences are at the same position."""

    def __init__(self, search: BeamSearch, gold: Ragged, sentences: np.ndarray, found: _Found, max_nodes: int) -> None:
        self._model = search.model
        self._config = search.config
        self._gold = gold.take(sentences)
        self._sentences = sentences
        self._begins = gold.offsets[sentences]
        self._found = found
        self._max_nodes = self._compact_above = max_nodes
        self._vocabulary = search.vocabulary
        self._pool = StackPool(search.model, np.unique(self._gold.values))
        self._history = History()
        self._ended: list[np.ndarray] = []
        """The sentences of each branch that ended."""

    def search(self) -> None:
        zero = np.zeros(1, np.int64)
        hypotheses = Hypotheses(zero, np.zeros(1), np.full(1, BOTTOM), np.full(1, BOTTOM))
        self._unclosed = hypotheses.take(np.arange(0))
        for t, step in enumerate(_steps(self._gold)):
            extended = self._read(self._candidates(hypotheses), step, t)
            if step.is_last.any():
                self._finish(hypotheses, extended, step)
            if not step.is_last.all():
                hypotheses = self._shift(extended, step)
        self._record_parses(self._close(self._unclosed))

    def _candidates(self, hypotheses: Hypotheses) -> Hypotheses:
        """Return the best hypotheses that reach a SHIFT.

        Their scores include the SHIFT. Their nodes (stacks) and events (last actions) are those before the SHIFT.
        """
        beam, max_actions = self._config.beam, self._config.max_actions
        candidates = hypotheses.take(np.arange(0))
        to_beat = np.full(int(hypotheses.group[-1]) + 1, -np.inf)
        for num_actions in range(max_actions + 1):
            totals = hypotheses.score[:, None] + self._pool.action_log_probs(hypotheses.node)
            if num_actions == max_actions:
                totals[:, _SHIFT_COLUMN + 1 :] = -np.inf
            successors, columns = best_successors(hypotheses, totals, to_beat, beam)
            is_shift = columns == _SHIFT_COLUMN
            if is_shift.any():
                shifted = successors.take(np.flatnonzero(is_shift))
                candidates = candidates.and_then(shifted).best(beam)
                last = ranks(candidates.group) == beam - 1
                to_beat[candidates.group[last]] = candidates.score[last]
            executed = np.flatnonzero(~is_shift & (successors.score > to_beat[successors.group]))
            if not len(executed):
                break
            hypotheses = self._act(successors.take(executed), columns[executed])
        return candidates

    def _act(self, hypotheses: Hypotheses, columns: np.ndarray) -> Hypotheses:
        actions = np.where(columns < FIRST_NT, columns, columns + 1)  # there is no column for NT(TOP)
        return Hypotheses(
            hypotheses.group,
            hypotheses.score,
            self._pool.act(hypotheses.node, columns),
            self._history.add(hypotheses.event, actions),
        )

    def _read(self, candidates: Hypotheses, step: _Step, t: int) -> Hypotheses:
        """Record the results at position ``t``. Return the candidates of each branch, with the gold token in the score.

        Where a sentence ends, a candidate that is not complete has the score -inf.
        """
        starts = run_starts(candidates.group)
        counts = np.diff(starts, append=len(candidates))
        log_weights = candidates.score - log_sums(candidates.score, candidates.group)[candidates.group]
        states = self._pool.token_states(candidates.node)
        at = self._begins[step.rows] + t
        group = step.group[step.branch_of_row]
        if self._found.states is None:
            normalisers = self._normalisers(states)
        else:
            normalisers, mixtures = self._mixtures(states, np.exp(log_weights), candidates.group)
            places_of_rows, groups = on_device(at, states.device), on_device(group, states.device)
            self._found.states[places_of_rows, :-1] = mixtures.index_select(0, groups)

        # A branch has the candidates of its group.
        places = concatenated_ranges(starts[step.group], counts[step.group])
        branch = np.repeat(np.arange(len(step.group)), counts[step.group])
        log_probs = self._log_probs(states, normalisers, places, step.token[branch])
        extended = replace(candidates.take(places), group=branch)
        extended.score[:] += log_probs
        extended.score[step.is_last[branch] & ~self._pool.is_complete(extended.node)] = -np.inf

        entropies = -np.add.reduceat(np.exp(log_weights) * log_weights, starts)
        self._found.token_log_probs[at] = log_sums(log_weights[places] + log_probs, branch)[step.branch_of_row]
        self._found.prefix_log_probs[at] = log_sums(extended.score, branch)[step.branch_of_row]
        self._found.num_effective[at] = np.exp(entropies)[group]
        return extended

    def _normalisers(self, states: Tensor) -> Tensor:
        """Return ``[n]``: log sum over the vocabulary of exp of the logits."""
        rows = F.pad(states, (0, 1), value=1.0)
        tiles = self._vocabulary.split(_TILE_COLUMNS if states.device.type == "cpu" else len(self._vocabulary))
        return torch.cat([_log_sum_of(some, tiles) for some in rows.split(_TILE_ROWS)])

    def _mixtures(self, states: Tensor, weights: np.ndarray, group: np.ndarray) -> tuple[Tensor, Tensor]:
        """Return the normalisers ``[n]``, and for each group the log-probabilities of its mixture, ``[*, V]``.

        Args:
            states: ``[n, D]``.
            weights: float64 ``[n]``: the weight of each candidate in its group.
            group: int64 ``[n]``: the group of each candidate, in rising order. No group is empty.
        """
        rows = F.pad(states, (0, 1), value=1.0)
        mixtures = states.new_zeros((int(group[-1]) + 1, len(self._vocabulary)))
        normalisers = []
        for start in range(0, len(rows), _MIXTURE_ROWS):
            some = slice(start, start + _MIXTURE_ROWS)
            probs, largest, excess = softmax_and_log_sum(rows[some] @ self._vocabulary.T)
            normalisers.append(largest + excess)
            first, number = group[start], np.arange(len(probs))
            matrix = np.zeros((group[some][-1] + 1 - first, len(probs)))
            matrix[group[some] - first, number] = weights[some]
            mixtures[first : first + len(matrix)] += on_device(matrix, states.device).to(states.dtype) @ probs
        # Very small probabilities may have been rounded to 0, and log(0) would be -inf.
        return torch.cat(normalisers), mixtures.clamp_min_(torch.finfo(mixtures.dtype).tiny).log_()

    def _log_probs(self, states: Tensor, normalisers: Tensor, places: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """Return float64 ``[n]``: for each i, the log-probability of ``tokens[i]`` in ``states[places[i]]``."""
        at, ids = on_device(places, states.device), on_device(tokens, states.device)
        logits = (states.index_select(0, at) * self._model.token_embedding.index_select(0, ids)).sum(1)
        logits += self._model.token_bias.index_select(0, ids)
        log_probs = (logits - normalisers.index_select(0, at)).clamp_(max=0.0)  # rounding could give more than 0
        found: np.ndarray = log_probs.double().cpu().numpy()
        return found

    def _shift(self, extended: Hypotheses, step: _Step) -> Hypotheses:
        """Push the gold tokens onto the best candidates of unfinished branches; return the new hypotheses."""
        going_on = np.flatnonzero(~step.is_last[extended.group])
        going_on = going_on[np.lexsort((-extended.score[going_on], extended.group[going_on]))]
        best = extended.take(going_on[ranks(extended.group[going_on]) < self._config.word_beam])
        nodes = self._pool.shift(best.node, step.token[best.group])
        if len(self._pool) > self._compact_above:
            kept = self._pool.compact(np.append(nodes, self._unclosed.node))
            nodes, self._unclosed = kept[: len(nodes)], replace(self._unclosed, node=kept[len(nodes) :])
            self._compact_above = max(self._max_nodes, 2 * len(self._pool))
        events = self._history.add(best.event, np.full(len(best), SHIFT))
        return Hypotheses((np.cumsum(~step.is_last) - 1)[best.group], best.score, nodes, events)

    def _finish(self, entered: Hypotheses, extended: Hypotheses, step: _Step) -> None:
        """Record the best parses of the sentences that end at this position.

        The hypotheses before this position are ``entered``. The candidates of this position are ``extended``. If a
        sentence has no complete candidate, its best hypothesis in ``entered`` is kept for ``_close``.
        """
        ending = np.flatnonzero(step.is_last)
        number = np.full(len(step.is_last), -1)  # the number of each branch among all branches that ended
        number[ending] = len(self._ended) + np.arange(len(ending))
        self._ended += [self._sentences[step.rows[step.branch_of_row == branch]] for branch in ending]
        complete = extended.take(np.flatnonzero(step.is_last[extended.group] & (extended.score > -np.inf)))
        self._record_parses(replace(complete, group=number[complete.group]))
        without = np.setdiff1d(ending, complete.group)
        number_of_group = np.full(int(entered.group[-1]) + 1, -1)
        number_of_group[step.group[without]] = number[without]
        unclosed = entered.take(np.flatnonzero(number_of_group[entered.group] >= 0)).best(1)
        self._unclosed = self._unclosed.and_then(replace(unclosed, group=number_of_group[unclosed.group]))

    def _record_parses(self, complete: Hypotheses) -> None:
        best = complete.best(1)
        for number, score, event in zip(best.group, best.score, best.event, strict=True):
            actions = [FIRST_NT, *self._history.actions(event), SHIFT, REDUCE]
            for sentence in self._ended[number]:
                self._found.parse_log_probs[sentence] = score
                self._found.actions[sentence] = actions

    def _close(self, hypotheses: Hypotheses) -> Hypotheses:
        """Make hypotheses complete with REDUCEs, then add ``<eos>``; return the resulting hypotheses."""
        hypotheses = hypotheses.take(np.arange(len(hypotheses)))  # a copy
        while len(still_open := np.flatnonzero(~self._pool.is_complete(hypotheses.node))):
            hypotheses.score[still_open] += self._pool.action_log_probs(hypotheses.node[still_open])[:, REDUCE]
            reduced = self._act(hypotheses.take(still_open), np.full(len(still_open), REDUCE))
            hypotheses.node[still_open], hypotheses.event[still_open] = reduced.node, reduced.event
        if len(hypotheses):
            states = self._pool.token_states(hypotheses.node)
            eos = np.full(len(hypotheses), self._model.eos_id)
            hypotheses.score[:] += self._pool.action_log_probs(hypotheses.node)[:, _SHIFT_COLUMN]
            hypotheses.score[:] += self._log_probs(states, self._normalisers(states), np.arange(len(eos)), eos)
        return hypotheses
