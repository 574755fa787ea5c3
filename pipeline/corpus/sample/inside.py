"""Compute exact probabilities of strings with the inside algorithm, for many sentences at once.

    beta(A, i, j) = sum over rules A -> B C and over k of  p(A -> B C) beta(B, i, k) beta(C, k, j)      (Baker 1979)

Here beta(A, i, j) is the probability that A expands to words i to j - 1. A string x of n words has the probability p(x)
= beta(start, 0, n), a sum over all its derivations. A rule with more than two symbols on the right becomes several
binary rules. For example, A -> B C D becomes A -> B X and X -> C D. The new symbol X stands for C D, and the rule
X -> C D has probability 1. Chains of unary rules are folded into the binary and lexical rules by
U* = I + U + U^2 + ..., where U is the matrix of unary rules. A grammar with a cycle of unary rules is refused, so this
sum is finite.

For each width of a span, the chart has a list of items (position, symbol, value), sorted by position. A symbol that
cannot expand to a span has no item for it. To find wider constituents, each item of a list is joined with all items of
another list that begin where it ends. This is done for all sentences of a batch at once. So the time depends on the
number of joined items and not on the size of the grammar. The price is code full of index arithmetic.

The probabilities of a word under all symbols are divided by the largest of them, and the log of this divisor is added
at the end, so long sentences do not underflow. Trees are not recovered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.sample.pcfg import Grammar
from storage.ragged import concatenated_ranges

BATCH_POSITIONS = 8192
"""Largest number of positions in a batch, which bounds memory. A sentence of n words has n + 1 positions. A longer
sentence is a batch by itself."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True)
class BinaryRules:
    """The rules of a grammar after binarisation. Symbols are numbers."""

    num_symbols: int
    start: int
    binary: dict[tuple[int, int], dict[int, float]]
    """For each pair (B, C) and each A: the probability of A -> B C."""
    unary: list[tuple[int, int, float]]
    """Triples of A, B and the probability of A -> B."""
    lexical: dict[str, dict[int, float]]
    """For each word and each A: the probability of A -> word."""

    @classmethod
    def of(cls, grammar: Grammar) -> "BinaryRules":
        """Return the rules of a grammar after binarisation."""
        names = {symbol: index for index, symbol in enumerate(grammar.symbols)}
        binary: dict[tuple[int, int], dict[int, float]] = {}
        unary: list[tuple[int, int, float]] = []
        lexical: dict[str, dict[int, float]] = {}

        def tail(symbols: tuple[str, ...]) -> int:
            if len(symbols) == 1:
                return names[symbols[0]]
            name = " ".join(symbols)
            if name not in names:
                names[name] = len(names)
                binary.setdefault((names[symbols[0]], tail(symbols[1:])), {})[names[name]] = 1.0
            return names[name]

        for rule in grammar.rules:
            lhs = names[rule.lhs]
            if rule.is_lexical:
                lexical.setdefault(rule.rhs[0], {})[lhs] = rule.prob
            elif len(rule.rhs) == 1:
                unary.append((lhs, names[rule.rhs[0]], rule.prob))
            else:
                parents = binary.setdefault((names[rule.rhs[0]], tail(rule.rhs[1:])), {})
                parents[lhs] = parents.get(lhs, 0.0) + rule.prob
        return cls(num_symbols=len(names), start=names[grammar.start], binary=binary, unary=unary, lexical=lexical)


@dataclass(frozen=True, kw_only=True, slots=True)
class Items:
    """Constituents of one width, in all sentences of a batch. An item is a symbol at a position."""

    positions: Ints
    """Position of the first word of each constituent, ascending."""
    symbols: Ints
    values: Floats
    """Inside probabilities."""
    first: Ints
    """``[num_positions + 1]``: index of the first item at or after each position."""

    def select(self, mask: NDArray[np.bool_]) -> "Items":
        """Return the items where ``mask`` is true."""
        return _items(self.positions[mask], self.symbols[mask], self.values[mask], len(self.first) - 1)


def _items(positions: Ints, symbols: Ints, values: Floats, num_positions: int) -> Items:
    first = np.searchsorted(positions, np.arange(num_positions + 1))
    return Items(positions=positions, symbols=symbols, values=values, first=first)


def ranges(starts: Ints, counts: Ints) -> tuple[Ints, Ints]:
    """Concatenate ranges of indices. Return two arrays: the range that each index is in, and the index itself.

    Range o has the indices starts[o] to starts[o] + counts[o] - 1. For example, starts ``[5, 9]`` and counts ``[2, 1]``
    give ``[0, 0, 1]`` and ``[5, 6, 9]``.
    """
    return np.repeat(np.arange(len(counts)), counts), concatenated_ranges(starts, counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class Chart:
    """The inside probabilities of M sentences.

    The words of the batch have consecutive positions, with an empty position after each sentence. The probabilities of
    a word under all symbols were divided by the scale of the word, which is the largest of them.
    """

    starts: Ints
    """``[M]``: position of the first word of each sentence."""
    lengths: Ints
    """``[M]``: number of words."""
    log_scales: Floats
    """``[M]``: sum of the log scales of the words. Add it to the log of the stored value of the whole sentence."""
    lefts: list[Items]
    """For each width from 1: the constituents that can be the left part of a larger constituent."""
    prefixes: list[Items]
    """For each width w from 1: the constituents that have the start symbol and cover the first w words of a
    sentence."""


class Inside:
    """The inside algorithm for one grammar. Construct it once, then call ``log_probs``."""

    def __init__(self, grammar: Grammar) -> None:
        self.rules = rules = BinaryRules.of(grammar)
        self._start = rules.start
        self._num_symbols = rules.num_symbols
        above = self._above(rules.unary)
        self._set_binary({pair: _completed(parents, above) for pair, parents in rules.binary.items()})
        self._words = {word: index for index, word in enumerate(rules.lexical)}
        entries = [_completed(parents, above) for parents in rules.lexical.values()]
        self._word_counts = np.array([len(entry) for entry in entries], dtype=np.int64)
        self._word_first = np.cumsum(self._word_counts) - self._word_counts
        scales = [max(entry.values()) for entry in entries]
        self._word_log_scale = np.log(np.array(scales))
        self._word_symbols = np.array([symbol for entry in entries for symbol in sorted(entry)], dtype=np.int64)
        self._word_values = np.array(
            [entry[symbol] / scale for entry, scale in zip(entries, scales, strict=True) for symbol in sorted(entry)]
        )

    def _above(self, unary: list[tuple[int, int, float]]) -> list[dict[int, float]]:
        """Return for each symbol X the symbols from which a chain of unary rules leads to X.

        The value of each such symbol is the total probability of its chains. The empty chain leads from X to X and has
        probability 1.
        """
        parents: list[list[tuple[int, float]]] = [[] for _ in range(self._num_symbols)]
        for parent, child, prob in unary:
            parents[child].append((parent, prob))
        result: list[dict[int, float]] = []
        for symbol in range(self._num_symbols):
            total, frontier, num_steps = {symbol: 1.0}, {symbol: 1.0}, 0
            while frontier:
                if (num_steps := num_steps + 1) > self._num_symbols:
                    raise ValueError(
                        "grammar: a chain of unary rules is a circle, expected none; remove one of its rules"
                    )
                above: dict[int, float] = {}
                for child, value in frontier.items():
                    for parent, prob in parents[child]:
                        above[parent] = above.get(parent, 0.0) + prob * value
                for parent, value in above.items():
                    total[parent] = total.get(parent, 0.0) + value
                frontier = above
            result.append(total)
        return result

    def _set_binary(self, binary: dict[tuple[int, int], dict[int, float]]) -> None:
        self._pair = np.full((self._num_symbols, self._num_symbols), -1, dtype=np.int32)
        for index, (left, right) in enumerate(binary):
            self._pair[left, right] = index
        self._is_left: NDArray[np.bool_] = np.any(self._pair >= 0, axis=1)
        self._is_right: NDArray[np.bool_] = np.any(self._pair >= 0, axis=0)
        self._parent_counts = np.array([len(parents) for parents in binary.values()], dtype=np.int64)
        self._parent_first = np.cumsum(self._parent_counts) - self._parent_counts
        self._parents = np.array([parent for parents in binary.values() for parent in parents], dtype=np.int64)
        self._parent_probs = np.array([prob for parents in binary.values() for prob in parents.values()])

    def log_probs(self, sentences: Sequence[Sequence[str]]) -> Floats:
        """Return log p(x) of each terminal string.

        Args:
            sentences: Terminal strings: words and punctuation marks as the rules spell them.

        Returns:
            ``[len(sentences)]`` float64 in nats; -inf for a string without a derivation, such as the empty string or a
            string with an unknown word.
        """
        result = np.full(len(sentences), -np.inf)
        possible = [m for m, words in enumerate(sentences) if words and all(word in self._words for word in words)]
        batches: list[list[int]] = []
        num_positions = 0
        for m in sorted(possible, key=lambda m: len(sentences[m])):
            num_positions += len(sentences[m]) + 1
            if not batches or num_positions > BATCH_POSITIONS:
                batches.append([])
                num_positions = len(sentences[m]) + 1
            batches[-1].append(m)
        for batch in batches:
            chart = self.chart([sentences[m] for m in batch])
            totals: Floats = np.zeros(len(batch))
            for width, prefixes in enumerate(chart.prefixes, start=1):
                at = np.searchsorted(chart.starts, prefixes.positions)
                is_whole = chart.lengths[at] == width
                totals[at[is_whole]] = prefixes.values[is_whole]
            with np.errstate(divide="ignore"):
                result[batch] = np.log(totals) + chart.log_scales
        return result

    def chart(self, sentences: Sequence[Sequence[str]]) -> Chart:
        """Return the chart of a batch of terminal strings, all with at least one word and without unknown words."""
        lengths = np.array([len(words) for words in sentences])
        # An empty position after each sentence prevents joins across sentences.
        starts = np.cumsum(lengths + 1) - lengths - 1
        num_positions = int(lengths.sum()) + len(lengths)
        is_start = np.zeros(num_positions, dtype=np.bool_)
        is_start[starts] = True
        word_ids = np.array([self._words[word] for words in sentences for word in words])
        _, word_positions = ranges(starts, lengths)
        owner, entry = ranges(self._word_first[word_ids], self._word_counts[word_ids])
        completed = _items(word_positions[owner], self._word_symbols[entry], self._word_values[entry], num_positions)
        lefts: list[Items] = []
        rights: list[Items] = []
        prefixes: list[Items] = []
        for width in range(1, int(lengths.max()) + 1):
            if width > 1:
                completed = self._combine(lefts, rights, width, num_positions)
            lefts.append(completed.select(self._is_left[completed.symbols]))
            rights.append(completed.select(self._is_right[completed.symbols]))
            prefixes.append(completed.select((completed.symbols == self._start) & is_start[completed.positions]))
        return Chart(
            starts=starts,
            lengths=lengths,
            log_scales=np.add.reduceat(self._word_log_scale[word_ids], np.cumsum(lengths) - lengths),
            lefts=lefts,
            prefixes=prefixes,
        )

    def _combine(self, lefts: list[Items], rights: list[Items], width: int, num_positions: int) -> Items:
        """Return the constituents of one width, from all pairs of adjacent narrower constituents."""
        keys: list[Ints] = [np.zeros(0, dtype=np.int64)]
        values: list[Floats] = [np.zeros(0)]
        for left_width in range(1, width):
            left, right = lefts[left_width - 1], rights[width - left_width - 1]
            middle = np.minimum(left.positions + left_width, num_positions - 1)
            first = right.first[middle]
            owner, other = ranges(first, right.first[middle + 1] - first)
            pair = self._pair[left.symbols[owner], right.symbols[other]]
            fits = np.flatnonzero(pair >= 0)
            pair, owner, other = pair[fits], owner[fits], other[fits]
            product = left.values[owner] * right.values[other]
            joined, parent = ranges(self._parent_first[pair], self._parent_counts[pair])
            keys.append(left.positions[owner[joined]] * self._num_symbols + self._parents[parent])
            values.append(product[joined] * self._parent_probs[parent])
        unique, inverse = np.unique(np.concatenate(keys), return_inverse=True)
        sums = np.bincount(inverse, weights=np.concatenate(values), minlength=len(unique)).astype(np.float64)
        return _items(unique // self._num_symbols, unique % self._num_symbols, sums, num_positions)


def _completed(parents: dict[int, float], above: list[dict[int, float]]) -> dict[int, float]:
    result: dict[int, float] = {}
    for child, value in parents.items():
        for symbol, prob in above[child].items():
            result[symbol] = result.get(symbol, 0.0) + prob * value
    return result
