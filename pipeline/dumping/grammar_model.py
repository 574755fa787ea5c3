"""Give the exact next-token distributions of the built-in grammar, as a ``NextTokenModel`` that needs no training.

``pipeline.corpus.sample.prefix`` gives distributions over words. The tokenizer splits a word into pieces. After the
words x_1 ... x_n and the first pieces u of the next word, the probability of the next piece v is

    p(v) = [ sum over words w whose pieces begin with u v of p(w | x_1 ... x_n)
             + p(u | x_1 ... x_n)  sum over words w whose first piece is v of p(w | x_1 ... x_n u) ] / Z

where p(u | ...) is 0 unless the pieces u are a complete word. Both sums are needed, because a complete word may also
begin a longer word, as *walk* begins *walks*. Z is the sum of the numerator over all v. ``<eos>`` counts as a word. All
sums over trees and words are exact, so the product of p over a sentence's tokens is the probability that the inside
algorithm gives the sentence.

The equation requires that the pieces of a text are the pieces of its words, one word after the other. A tokenizer that
cuts a text before every word fulfils this. The module checks it for the grammar's words and for every sentence.

Shape letters: P positions, Q positions that are not the first of their sentence, D entries of ``GrammarModel.ids``, R
any number of rows, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.inside import ranges
from pipeline.corpus.sample.pcfg import text_of_words
from pipeline.corpus.sample.prefix import Branch, NextWords
from storage.errors import InputError
from storage.ragged import Ragged

Ints: TypeAlias = NDArray[np.int64]
Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Prefixes:
    """What comes before each position of a batch: words of the sentence, and pieces of the latest word.

    A *row* is the index of a distribution over words, in the array that ``NextWords.probs`` returns. A *node* is the
    index of a sequence of pieces that begins a word, in the trie of ``GrammarModel``.
    """

    sentences: list[list[str]]
    branches: list[Branch]
    """Prefixes whose last word differs from the text. For example, let the pieces of *walks* be *walk* and *s*. A new
    word may begin after the piece *walk*, so the prefix that ends in the word *walk* is needed, too."""
    num_positions: int
    starts: Ints
    """The position of each sentence's first piece."""
    start_rows: Ints
    """The row with the distribution of each sentence's first word."""
    positions: Ints
    """``[Q]``: all positions that are not in ``starts``."""
    nodes: Ints
    """``[Q]``: the node of the latest word's pieces before the position."""
    rows: Ints
    """``[Q]``: the row with the distribution of the latest word, given the words before it."""
    complete: Ints
    """``[Q]``: the word that consists of the pieces of ``nodes``; -1 if there is none."""
    next_rows: Ints
    """``[Q]``: the row with the distribution of the word that follows ``complete``; 0 if ``complete`` is -1."""


class GrammarModel:
    """The next-token distributions of a grammar with a tokenizer. States are float64 log-probabilities on the CPU.

    ``where`` is the name of the tokenizer in error messages.

    Raises:
        InputError: If the pieces of a word depend on the words around it.
    """

    def __init__(self, tokenizer: Tokenizer, *, where: str) -> None:
        self._grammar = english_grammar()
        self._next_words = _next_words()
        self._tokenizer, self._where = tokenizer, where
        self.vocab_size = tokenizer.vocab_size
        words = self._next_words.words
        self._word_ids = {word: index for index, word in enumerate(words)}
        self._first, self._later = self._encoded(words)
        self._check_neighbours()
        used = sorted({piece for pieces in (*self._first, *self._later) for piece in pieces} | {tokenizer.eos_id})
        self.ids: Tensor = torch.tensor(used)
        """int64 ``[D]``: the pieces of all words, and ``<eos>``. All other tokens have probability 0."""
        self._column = {token: column for column, token in enumerate(used)}
        self._set_trie()
        self._first_pieces = _FirstPieces([self._column[pieces[0]] for pieces in self._first], len(used))
        eos = self._column[tokenizer.eos_id]
        self._later_pieces = _FirstPieces([*(self._column[pieces[0]] for pieces in self._later), eos], len(used))

    def check(self, tokens: Ragged, name: Callable[[int], str]) -> None:
        """Check that the grammar can produce each sentence, and that its tokens are the pieces of its words.

        Args:
            tokens: Token ids of M sentences.
            name: A function that returns the name of sentence m in error messages.

        Raises:
            InputError: If a sentence fails the check.
        """
        sentences, texts = self._words_of(tokens)
        log_probs = self._next_words.inside.log_probs(sentences)
        for m, (words, text) in enumerate(zip(sentences, texts, strict=True)):
            if not np.isfinite(log_probs[m]) or text_of_words(words) != text:
                raise InputError(
                    f"{name(m)}: the grammar of sample-corpus cannot produce {text!r}, expected only its sentences. "
                    "Give a dataset that was built from a sample corpus"
                )
            if self._pieces_of(words) != tokens[m].tolist():
                raise InputError(
                    f"{name(m)}: the tokens of {text!r} differ from the pieces of its words, encoded one by one, "
                    "expected the same pieces. Use a tokenizer that cuts a text before every word, as "
                    "train-tokenizer's does"
                )

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> Prefixes:  # noqa: ARG002  no tree is read
        """Return what comes before each position of some sentences. The sentences must have passed ``check``."""
        sentences, _ = self._words_of(tokens)
        lengths = np.array([len(words) for words in sentences], np.int64)
        word_ids = np.array([self._word_ids[word] for words in sentences for word in words], np.int64)
        first_word = np.cumsum(lengths) - lengths
        forms = word_ids + len(self._word_ids)
        forms[first_word] = word_ids[first_word]
        word, at = ranges(self._form_first[forms], self._form_counts[forms])
        nodes = self._form_nodes[at]
        sentence = np.repeat(np.arange(len(sentences)), lengths)
        rows = (np.arange(len(word_ids)) + sentence)[word]
        complete = self._complete[nodes]
        is_other = (complete >= 0) & (complete != word_ids[word])
        next_rows = np.where(complete >= 0, rows + 1, 0)
        next_rows[is_other] = int(lengths.sum()) + len(sentences) + np.arange(int(is_other.sum()))
        branches = [
            Branch(sentence=int(m), num_words=int(w - first_word[m]), word=self._next_words.words[c])
            for w, c in zip(word[is_other], complete[is_other], strict=True)
            for m in (sentence[w],)
        ]
        starts = tokens.offsets[:-1] + np.arange(len(sentences))
        num_positions = len(tokens.values) + len(sentences)
        return Prefixes(
            sentences=sentences,
            branches=branches,
            num_positions=num_positions,
            starts=starts,
            start_rows=first_word + np.arange(len(sentences)),
            positions=np.delete(np.arange(num_positions), starts),
            nodes=nodes,
            rows=rows,
            complete=complete,
            next_rows=next_rows,
        )

    def states(self, inputs: Prefixes) -> Tensor:
        """Return float64 ``[P, D]``: the log-probabilities of ``ids``, -inf where the probability is 0."""
        of_words = self._next_words.probs(inputs.sentences, inputs.branches)
        found = np.zeros((inputs.num_positions, len(self.ids)))
        found[inputs.starts] = self._first_pieces.sums(of_words[inputs.start_rows, :-1])
        of_complete = np.where(inputs.complete >= 0, of_words[inputs.rows, inputs.complete], 0.0)
        found[inputs.positions] = of_complete[:, None] * self._later_pieces.sums(of_words)[inputs.next_rows]
        owner, at = ranges(self._longer_first[inputs.nodes], self._longer_counts[inputs.nodes])
        longer = of_words[inputs.rows[owner], self._longer_words[at]]
        np.add.at(found, (inputs.positions[owner], self._longer_columns[at]), longer)
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(found / found.sum(axis=1, keepdims=True)))

    def logits(self, states: Tensor) -> Tensor:
        """Return float64 ``[R, V]`` log-probabilities, -inf where the probability is 0."""
        logits = states.new_full((len(states), self.vocab_size), -torch.inf)
        logits[:, self.ids.to(states.device)] = states
        return logits

    def _words_of(self, tokens: Ragged) -> tuple[list[list[str]], list[str]]:
        """Return the words and the text of each sentence."""
        texts = self._tokenizer.decode_batch([row.tolist() for row in tokens])
        return [self._grammar.words_of_text(text) for text in texts], texts

    def _pieces_of(self, words: Sequence[str]) -> list[int]:
        """Return the pieces of words, each word encoded on its own."""
        ids = [self._word_ids[word] for word in words]
        return [*self._first[ids[0]], *(piece for i in ids[1:] for piece in self._later[i])]

    def _encoded(self, words: Sequence[str]) -> tuple[list[list[int]], list[list[int]]]:
        """Return the pieces of each word at the beginning of a text, and after a word."""
        first = self._tokenizer.encode_batch([text_of_words([word]) for word in words])
        anchor = next(i for i, word in enumerate(words) if word.isalpha())
        pairs = [text_of_words([words[anchor], word]) for word in words]
        pieces = self._tokenizer.encode_batch(pairs)
        before = len(first[anchor])
        for text, found in zip(pairs, pieces, strict=True):
            if found[:before] != first[anchor] or len(found) == before:
                raise self._depends(text)
        return first, [found[before:] for found in pieces]

    def _check_neighbours(self) -> None:
        """Check that words have the same pieces after any word that they can follow in a string of the grammar.

        One pair of words stands for all pairs that meet in the same two characters. For example, *dogs run* can
        stand for all pairs whose first word ends in *s* and whose second word begins with *r*. Each chosen pair is
        encoded twice: at the beginning of a text, and inside a text.
        """
        words, anchor = self._next_words.words, next(filter(str.isalpha, self._next_words.words))
        first, second = np.nonzero(self._next_words.neighbours)
        ends = np.array([ord(word[-1]) for word in words])
        begins = np.array([ord(word[0]) for word in words])
        _, chosen = np.unique(ends[first] << 21 | begins[second], return_index=True)
        pairs = [[words[i], words[j]] for i, j in zip(first[chosen], second[chosen], strict=True)]
        texts = [*pairs, *([anchor, *pair] for pair in pairs)]
        for sequence, pieces in zip(texts, self._tokenizer.encode_batch([*map(text_of_words, texts)]), strict=True):
            if pieces != self._pieces_of(sequence):
                raise self._depends(text_of_words(sequence))

    def _depends(self, text: str) -> InputError:
        return InputError(
            f"{self._where}: the pieces of a word in {text!r} depend on the words around it, expected the same pieces "
            "everywhere. Use a tokenizer that cuts a text before every word, as train-tokenizer's does"
        )

    def _set_trie(self) -> None:
        """Make the trie of the pieces of all words.

        A word has other nodes at the beginning of a text than inside a text, because its pieces may differ there.
        """
        nodes: dict[tuple[bool, tuple[int, ...]], int] = {}
        of_forms: list[list[int]] = []
        complete: list[int] = []
        longer: list[list[tuple[int, int]]] = []
        for is_first, encoded in ((True, self._first), (False, self._later)):
            for word, pieces in enumerate(encoded):
                of_form = []
                for count in range(1, len(pieces) + 1):
                    node = nodes.setdefault((is_first, tuple(pieces[:count])), len(nodes))
                    if node == len(complete):
                        complete.append(-1)
                        longer.append([])
                    if count < len(pieces):
                        longer[node].append((word, self._column[pieces[count]]))
                    of_form.append(node)
                complete[of_form[-1]] = word
                of_forms.append(of_form)
        self._complete = np.array(complete, np.int64)
        forms, extensions = Ragged.from_lists(of_forms, np.int64), [pair for pairs in longer for pair in pairs]
        self._form_nodes, self._form_first, self._form_counts = forms.values, forms.offsets[:-1], forms.lengths
        self._longer_words, self._longer_columns = np.array(extensions, np.int64).reshape(-1, 2).T
        self._longer_counts = np.array([len(pairs) for pairs in longer], np.int64)
        self._longer_first = np.cumsum(self._longer_counts) - self._longer_counts


@cache
def _next_words() -> NextWords:
    return NextWords(english_grammar())


class _FirstPieces:
    """Add up the probabilities of the words that have the same first piece."""

    def __init__(self, columns: Sequence[int], num_columns: int) -> None:
        self._order = np.argsort(columns, kind="stable")
        self._columns, self._bounds = np.unique(np.array(columns)[self._order], return_index=True)
        self._num_columns = num_columns

    def sums(self, probs: Floats) -> Floats:
        """Return ``[R, D]``: the sums of ``probs``, ``[R, number of words]``."""
        found = np.zeros((len(probs), self._num_columns))
        found[:, self._columns] = np.add.reduceat(probs[:, self._order], self._bounds, axis=1)
        return found
