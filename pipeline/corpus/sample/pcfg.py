"""Read a probabilistic context-free grammar from rules with features, and sample derivations from it.

No derivation is cut off or rejected, so a string is sampled with exactly the probability that the inside algorithm
(``pipeline.corpus.sample.inside``) computes.

Entry (A, B) of the *matrix of expected children* is the mean number of children B of a symbol A. If the spectral radius
of this matrix is below 1, sampling ends with probability 1, and the expected length of a sentence is finite (Booth and
Thompson 1973). The class ``Grammar`` checks that it is below 1, and drops symbols that the start symbol cannot reach.

The text of a terminal string begins with a capital letter. It has a space before each terminal, except the first and
those in ``ATTACHED``. Different terminal strings have different texts, so p(text) = p(terminal string). To make sure of
this, ``Grammar`` checks that no two words differ only in the case of their first letter. It also checks that no word
outside ``ATTACHED`` contains white space or one of the characters , . ? ! ' ( ).

This module does not estimate grammars and does not parse.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, product
from math import log, prod

import numpy as np
from numpy.typing import NDArray

from storage.fingerprints import canonical_json, sha256_bytes

ATTACHED = frozenset({",", ".", "?", "!", "'s"})
"""Terminals that are written without a space before them."""

_VARIABLE = re.compile(r"\$([a-z]+)(\d*)")
_PLAIN_WORD = re.compile(r"[^\s,.?!'()]+")
_TERMINAL = re.compile(r"'s|[,.?!]|[^\s,.?!']+")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rule:
    """The rule ``lhs -> rhs`` and its probability given ``lhs``. The ``rhs`` of a lexical rule is one word."""

    lhs: str
    rhs: tuple[str, ...]
    prob: float
    is_lexical: bool


def assignments(
    variables: Iterable[str], domains: Mapping[str, Mapping[str, float]]
) -> Iterator[tuple[dict[str, str], float]]:
    """Yield every assignment of values to variables, with the product of the weights of the assigned values."""
    names = sorted(variables)
    for chosen in product(*(domains[name.rstrip("0123456789")].items() for name in names)):
        yield (
            {name: value for name, (value, _) in zip(names, chosen, strict=True)},
            prod(weight for _, weight in chosen),
        )


def substitute(symbol: str, values: Mapping[str, str]) -> str:
    """Return the symbol with its variables, such as ``$n``, replaced by their values. A ``$`` at the end stays."""
    return _VARIABLE.sub(lambda match: values[match[1] + match[2]], symbol)


def variables_of(text: str) -> set[str]:
    """Return the names of the variables in a symbol or a line of symbols."""
    return {match[1] + match[2] for match in _VARIABLE.finditer(text)}


def parse_rules(
    rules: str, domains: Mapping[str, Mapping[str, float]], lexicon: Mapping[str, Mapping[str, float]]
) -> list[Rule]:
    """Return the rules of a grammar. Their probabilities are normalised for each left-hand side.

    Args:
        rules: One ``weight LHS -> RHS`` per line. ``pipeline.corpus.sample.grammar`` explains the variables.
        domains: For each feature name, the weight of each value.
        lexicon: For each preterminal, the weight of each word.
    """
    weights: dict[str, dict[tuple[str, ...], float]] = {}
    for line in filter(None, map(str.strip, rules.splitlines())):
        weight, lhs, _, *rhs = line.split()
        left = variables_of(lhs)
        free = variables_of(" ".join(rhs)) - left
        total = sum(share for _, share in assignments(free, domains))
        for outer, _ in assignments(left, domains):
            rights = weights.setdefault(substitute(lhs, outer), {})
            for inner, share in assignments(free, domains):
                right = tuple(substitute(symbol, outer | inner) for symbol in rhs)
                rights[right] = rights.get(right, 0.0) + float(weight) * share / total
    both = weights.keys() & lexicon.keys()
    if both:
        raise ValueError(
            f"grammar: {', '.join(sorted(both))} expand to words and to phrases, expected only words or only phrases; "
            "use two symbols"
        )
    weights |= {lhs: {(word,): weight for word, weight in words.items()} for lhs, words in lexicon.items()}
    return [
        Rule(lhs=lhs, rhs=rhs, prob=weight / sum(rights.values()), is_lexical=lhs in lexicon)
        for lhs, rights in weights.items()
        for rhs, weight in rights.items()
    ]


def label_of(symbol: str) -> str:
    """Return the treebank label of a symbol. It is ``""`` for symbols that begin with ``_``, which get no tree node."""
    if symbol.startswith("_"):
        return ""
    if symbol.startswith("V["):
        return re.split(r"[,\]]", symbol[2:], maxsplit=1)[0]
    return re.split(r"[\[/]", symbol, maxsplit=1)[0]


class Grammar:
    """A PCFG, with only the rules that the start symbol can reach.

    Attributes:
        start: The start symbol.
        rules: All rules. The rules of one left-hand side follow one another. A derivation is a list of indices into
            ``rules``, in the order of leftmost expansion.
        symbols: The left-hand sides, in order of first appearance.
        terminals: The words, sorted.
        spectral_radius: The spectral radius of the matrix of expected children, below 1.
        expected_length: Mean number of terminals of a sentence, including punctuation.
    """

    def __init__(self, rules: Iterable[Rule], start: str) -> None:
        rules_of: dict[str, list[Rule]] = {}
        for rule in rules:
            rules_of.setdefault(rule.lhs, []).append(rule)
        reached, agenda = {start}, [start]
        while agenda:
            symbol = agenda.pop()
            if symbol not in rules_of:
                raise ValueError(f"grammar: no rule expands {symbol}, which another rule uses; add one")
            for rule in rules_of[symbol]:
                new = set() if rule.is_lexical else set(rule.rhs) - reached
                reached |= new
                agenda += sorted(new)
        self.start = start
        self.symbols: tuple[str, ...] = tuple(symbol for symbol in rules_of if symbol in reached)
        self.rules: tuple[Rule, ...] = tuple(rule for symbol in self.symbols for rule in rules_of[symbol])
        self.terminals: tuple[str, ...] = tuple(sorted({rule.rhs[0] for rule in self.rules if rule.is_lexical}))
        self._first: dict[str, int] = {}
        self._cumulative: dict[str, list[float]] = {}
        first = 0
        for symbol in self.symbols:
            cumulative = list(accumulate(rule.prob for rule in rules_of[symbol]))
            if abs(cumulative[-1] - 1) > 1e-9:
                raise ValueError(f"grammar: the probabilities of {symbol} sum to {cumulative[-1]}, expected 1")
            self._first[symbol] = first
            self._cumulative[symbol] = cumulative[:-1]
            first += len(cumulative)
        self._log_prob_of_rule = [log(rule.prob) for rule in self.rules]
        self._by_capitalised = {_capitalised(word): word for word in self.terminals}
        if len(self._by_capitalised) < len(self.terminals):
            raise ValueError("grammar: two words differ only in the case of their first letter; rename one")
        for word in self.terminals:
            if word not in ATTACHED and not _PLAIN_WORD.fullmatch(word):
                raise ValueError(
                    f"grammar: the word {word!r} has white space or one of the characters , . ? ! ' ( ); rename it"
                )
        self.spectral_radius, self.expected_length = self._moments()

    def _moments(self) -> tuple[float, float]:
        index = {symbol: row for row, symbol in enumerate(self.symbols)}
        children = np.zeros((len(index), len(index)))
        words: NDArray[np.float64] = np.zeros(len(index))
        for rule in self.rules:
            for item in rule.rhs:
                if rule.is_lexical:
                    words[index[rule.lhs]] += rule.prob
                else:
                    children[index[rule.lhs], index[item]] += rule.prob
        radius = float(np.abs(np.linalg.eigvals(children)).max())
        if radius >= 1:
            raise ValueError(f"grammar: spectral radius {radius:.3f}, expected below 1, so that every sentence ends")
        lengths = np.linalg.solve(np.eye(len(index)) - children, words)
        return radius, float(lengths[index[self.start]])

    def sample(self, uniform: Callable[[], float], symbol: str | None = None) -> list[int]:
        """Return a derivation drawn from the grammar.

        Args:
            uniform: Draws from [0, 1).
            symbol: The symbol to expand. By default it is the start symbol.
        """
        derivation: list[int] = []
        stack = [self.start if symbol is None else symbol]
        while stack:
            lhs = stack.pop()
            index = self._first[lhs] + bisect_right(self._cumulative[lhs], uniform())
            derivation.append(index)
            rule = self.rules[index]
            if not rule.is_lexical:
                stack.extend(reversed(rule.rhs))
        return derivation

    def log_prob(self, derivation: Sequence[int]) -> float:
        """Return the log-probability in nats of a derivation."""
        return sum(self._log_prob_of_rule[index] for index in derivation)

    def words(self, derivation: Sequence[int]) -> list[str]:
        """Return the terminal string of a derivation."""
        return [self.rules[index].rhs[0] for index in derivation if self.rules[index].is_lexical]

    def tree(self, derivation: Sequence[int]) -> str:
        """Return the bracketed tree of a derivation, on one line. Its leaves are spelt as in the text."""
        indices = iter(derivation)
        pieces: list[str] = []
        stack = [self.start]
        at_start = True
        while stack:
            item = stack.pop()
            if item == ")":
                pieces.append(item)
                continue
            rule = self.rules[next(indices)]
            label = label_of(rule.lhs)
            if rule.is_lexical:
                pieces.append(f" ({label} {_capitalised(rule.rhs[0]) if at_start else rule.rhs[0]})")
                at_start = False
                continue
            if label:
                pieces.append(f" ({label}")
                stack.append(")")
            stack.extend(reversed(rule.rhs))
        return "".join(pieces).lstrip()

    def words_of_text(self, text: str) -> list[str]:
        """Return the terminal string that has this text. Unknown words stay as they are.

        To check that a text consists of words of the grammar, check that all returned words are terminals and that
        ``text_of_words`` turns them into the same text again.
        """
        words = _TERMINAL.findall(text)
        if words:
            words[0] = self._by_capitalised.get(words[0], words[0])
        return words

    def rules_sha256(self) -> str:
        """Return the sha256 of the start symbol and of all rules with their exact probabilities."""
        rules = [[rule.lhs, list(rule.rhs), rule.prob.hex(), rule.is_lexical] for rule in self.rules]
        return sha256_bytes(canonical_json({"start": self.start, "rules": rules}))


def _capitalised(word: str) -> str:
    return word[0].upper() + word[1:]


def text_of_words(words: Sequence[str]) -> str:
    """Return the text of a terminal string: the first letter is a capital, and punctuation is attached."""
    spaced = "".join(word if word in ATTACHED else " " + word for word in words).lstrip()
    return _capitalised(spaced) if spaced else spaced
