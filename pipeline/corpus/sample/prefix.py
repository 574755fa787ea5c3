r"""Compute the exact distribution over the next word after a prefix, for many sentences at once.

The prefix probability of the words x_1 ... x_n is the probability that a sentence begins with these words (Jelinek and
Lafferty 1991). It is computed from left to right (Stolcke 1995):

    e_n[C]  = sum over i < n and rules A -> B C of  c_i[A] p(A -> B C) beta(B, i, n)                    e_0[start] = 1
    c_n     = e_n (I - L)^-1          L[A, B] = sum of the probabilities of the rules of A whose first symbol is B
    p(x_1 ... x_n v)   = sum over A of  c_n[A] p(A -> v)
    p(x_1 ... x_n end) = beta(start, 0, n)

Here e_n[C] is the probability of all leftmost derivations that have generated x_1 ... x_n and next expand a symbol C
that a rule A -> B C has introduced. In the same way, c_n[A] is the probability of all leftmost derivations that have
generated x_1 ... x_n and next expand A, whichever rule has introduced A. For example, a derivation that expands C by
the rule C -> D E expands D next. So e_n[C] p(C -> D E) is a part of c_n[D]. The series (I - L)^-1 = I + L + L^2 + ...
sums over all chains of first symbols, so left recursion is allowed. The inside probability beta is from the chart of
``inside``.

The sentences of a batch advance together, with one matrix product per position. Each c_n is divided by the total
probability of all next words and of the end, and the log of this total is kept, so long sentences do not underflow.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.corpus.sample.inside import BinaryRules, Chart, Floats, Inside, Ints, ranges
from pipeline.corpus.sample.pcfg import Grammar


@dataclass(frozen=True, kw_only=True, slots=True)
class Branch:
    """A prefix: the first ``num_words`` words of a sentence, and then ``word`` in place of the sentence's next word."""

    sentence: int
    """Index of the sentence."""
    num_words: int
    """Number of words of the sentence before ``word``."""
    word: str


class NextWords:
    """The next-word distributions of one grammar. Construct it once, then call ``probs``.

    Attributes:
        inside: The inside algorithm of the grammar.
        words: The W words, in the order of the columns of ``probs``. One more column, the last, is for the end of the
            sentence.
    """

    def __init__(self, grammar: Grammar) -> None:
        self.inside = Inside(grammar)
        self.words: tuple[str, ...] = grammar.terminals
        rules, column = self.inside.rules, {word: index for index, word in enumerate(self.words)}
        self._start = rules.start
        first = np.zeros((rules.num_symbols, rules.num_symbols))
        for a, b, prob in rules.unary:
            first[a, b] += prob
        triples = [(a, b, c, prob) for (b, c), parents in rules.binary.items() for a, prob in parents.items()]
        for a, b, _, prob in triples:
            first[a, b] += prob
        lexical = np.zeros((rules.num_symbols, len(self.words)))
        for word, symbols in rules.lexical.items():
            for a, prob in symbols.items():
                lexical[a, column[word]] = prob
        # The arrays for e have a column for the start symbol and for each symbol C on the right of a rule A -> B C. The
        # arrays for c have a column for each left-hand side A of these rules.
        triples.sort(key=lambda triple: triple[1])
        left, right, second = (np.array([triple[i] for triple in triples], dtype=np.int64) for i in (0, 2, 1))
        self._lhs, self._rule_lhs = np.unique(left, return_inverse=True)
        self._rights, self._rule_right = np.unique(np.append(right, self._start), return_inverse=True)
        self._start_column = int(self._rule_right[-1])
        self._rule_probs = np.array([prob for *_, prob in triples])
        self._rule_first = np.searchsorted(second, np.arange(rules.num_symbols))
        self._rule_counts = np.searchsorted(second, np.arange(rules.num_symbols), side="right") - self._rule_first
        # Rounding leaves tiny numbers where the inverse is 0. A word that cannot come next must have probability 0.
        begins = _reachable(first > 0)
        closure = np.where(begins, np.linalg.inv(np.eye(rules.num_symbols) - first), 0.0)[self._rights]
        self._can_begin = begins @ (lexical > 0)
        self._can_end = _reachable(_last(rules)) @ (lexical > 0)
        # ``probs`` multiplies by this matrix with torch and not numpy, because every command sets the number of threads
        # that torch uses.
        self._advance = torch.from_numpy(np.concatenate([closure[:, self._lhs], closure @ lexical], axis=1))

    @property
    def neighbours(self) -> NDArray[np.bool_]:
        """``[W, W]``: whether word w can be followed by word v in a string of the grammar."""
        pairs = np.array(list(self.inside.rules.binary), dtype=np.int64)
        ends, begins = self._can_end[pairs[:, 0]], self._can_begin[pairs[:, 1]]
        found: NDArray[np.bool_] = ends.T.astype(np.float32) @ begins.astype(np.float32) > 0
        return found

    def probs(self, sentences: Sequence[Sequence[str]], branches: Sequence[Branch] = ()) -> Floats:
        """Return the distribution over the next word after every prefix of every sentence, and after the branches.

        Args:
            sentences: Strings of one or more words, all of them in ``words``.
            branches: Prefixes that begin like one of these sentences and then have a word of their own.

        Returns:
            ``[R, W + 1]`` float64, where R is the number of prefixes. A sentence of n words has n + 1 prefixes, from
            the empty one to the whole sentence, each with a row. The rows of all sentences come first, and then one row
            for each branch. A row sums to 1, or to 0 if no string of the grammar has the prefix.
        """
        prefixes = [[*sentences[branch.sentence][: branch.num_words], branch.word] for branch in branches]
        chart = self.inside.chart([*sentences, *prefixes])
        first_row = np.cumsum([0, *(len(words) + 1 for words in sentences)])
        num_rows = int(first_row[-1]) + len(branches)
        # The row of the empty prefix, for each string of the chart. A branch shares the rows of its sentence.
        base = np.concatenate([first_row[:-1], first_row[[branch.sentence for branch in branches]]]).astype(np.int64)
        last = np.concatenate([first_row[1:] - 1, np.arange(first_row[-1], num_rows)])
        is_branch = np.arange(len(base)) >= len(sentences)
        items = _by_end(chart, is_branch)
        num_lhs, num_words = len(self._lhs), len(self.words)
        closed = np.zeros((num_rows, num_lhs))
        found = np.zeros((num_rows, num_words + 1))
        log_sums = np.zeros(num_rows)
        expected = np.zeros((len(sentences), len(self._rights)))
        expected[:, self._start_column] = 1.0
        rows = first_row[:-1]
        for end in range(int(chart.lengths.max()) + 1):
            reached = np.flatnonzero((chart.lengths == end) | (~is_branch & (chart.lengths > end)))
            rows = np.where(chart.lengths[reached] == end, last[reached], base[reached] + end)
            if end:
                before = log_sums[base[reached] + end - 1]
                expected = self._expected(items.at(end), reached, base, closed, log_sums, before)
            advanced = (torch.from_numpy(expected) @ self._advance).numpy()
            found[rows, :num_words] = advanced[:, num_lhs:]
            if end:
                over, values = items.whole(end)
                at = np.searchsorted(reached, over)
                found[rows[at], num_words] = values * np.exp(-before[at])
            totals = found[rows].sum(axis=1)
            scale = np.where(totals > 0, totals, 1.0)
            found[rows] /= scale[:, None]
            closed[rows] = advanced[:, :num_lhs] / scale[:, None]
            if end:
                log_sums[rows] = before + np.log(scale)
        return found

    def _expected(
        self,
        items: tuple[Ints, Ints, Ints, Floats],
        reached: Ints,
        base: Ints,
        closed: Floats,
        log_sums: Floats,
        before: Floats,
    ) -> Floats:
        """Return e_n of each string in ``reached``, divided by exp(``before``), the product of the totals so far."""
        strings, begins, symbols, values = items
        local, sources = np.searchsorted(reached, strings), base[strings] + begins
        values = values * np.exp(log_sums[sources] - before[local])
        owner, rule = ranges(self._rule_first[symbols], self._rule_counts[symbols])
        weights = closed[sources[owner], self._rule_lhs[rule]] * self._rule_probs[rule] * values[owner]
        num_rights = len(self._rights)
        keys = local[owner] * num_rights + self._rule_right[rule]
        sums = np.bincount(keys, weights, minlength=len(reached) * num_rights).astype(np.float64)
        return sums.reshape(len(reached), num_rights)


def _last(rules: BinaryRules) -> NDArray[np.bool_]:
    """Return ``[S, S]`` for S symbols: whether some rule of A has B as its last symbol."""
    found = np.zeros((rules.num_symbols, rules.num_symbols), np.bool_)
    for a, b, _ in rules.unary:
        found[a, b] = True
    for (_, c), parents in rules.binary.items():
        found[list(parents), c] = True
    return found


def _reachable(steps: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return ``[S, S]`` for S symbols: whether zero or more of the given steps lead from A to B."""
    found = steps | np.eye(len(steps), dtype=np.bool_)
    while True:
        numbers = found.astype(np.float32)
        further = numbers @ numbers > 0
        if (further == found).all():
            return found
        found = further


@dataclass(frozen=True, kw_only=True, slots=True)
class _ByEnd:
    """The items of a chart, ordered by the position where they end. An item is a symbol over a span of a string."""

    bounds: Ints
    columns: tuple[Ints, Ints, Ints, Floats]
    """Four arrays with an entry for each item: index of the string, number of words before the span, symbol, and inside
    probability."""
    prefixes: list[tuple[Ints, Floats]]
    """Entry n - 1 has two arrays. The first has the indices of the strings whose first n words are a complete sentence
    of the grammar, in ascending order. The second has the inside probability of these n words under the start symbol,
    for each of these strings."""

    def at(self, end: int) -> tuple[Ints, Ints, Ints, Floats]:
        """Return the items whose last word is word number ``end`` of the string, counted from 1."""
        at = slice(self.bounds[end], self.bounds[end + 1])
        strings, begins, symbols, values = self.columns
        return strings[at], begins[at], symbols[at], values[at]

    def whole(self, end: int) -> tuple[Ints, Floats]:
        """Return the entry of ``prefixes`` for ``end`` words."""
        return self.prefixes[end - 1]


def _by_end(chart: Chart, is_branch: NDArray[np.bool_]) -> _ByEnd:
    """Order the items of a chart by their ends. For a branch, keep only the items that include its last word."""
    widths = np.repeat(np.arange(1, len(chart.lefts) + 1), [len(items.positions) for items in chart.lefts])
    positions, symbols = (
        np.concatenate([getattr(items, name) for items in chart.lefts]) for name in ("positions", "symbols")
    )
    values = np.concatenate([items.values for items in chart.lefts])
    strings = np.searchsorted(chart.starts, positions, side="right") - 1
    begins = positions - chart.starts[strings]
    ends = begins + widths
    is_kept = ~is_branch[strings] | (ends == chart.lengths[strings])
    order = np.flatnonzero(is_kept)
    order = order[np.argsort(ends[order], kind="stable")]
    bounds = np.searchsorted(ends[order], np.arange(int(chart.lengths.max()) + 2))
    prefixes = []
    for width, items in enumerate(chart.prefixes, start=1):
        at = np.searchsorted(chart.starts, items.positions)
        kept = ~is_branch[at] | (chart.lengths[at] == width)
        prefixes.append((at[kept], items.values[kept]))
    return _ByEnd(
        bounds=bounds, columns=(strings[order], begins[order], symbols[order], values[order]), prefixes=prefixes
    )
