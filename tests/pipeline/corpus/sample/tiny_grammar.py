"""Define a tiny grammar with every difficulty of a large one, and enumerate its strings."""

from functools import cache

from pipeline.corpus.sample.pcfg import Grammar, parse_rules

# This grammar has attachment ambiguity, homographs, words and pairs that reach a symbol in several ways, unary chains
# with a common end, and rules of one to four symbols.
TINY = Grammar(
    parse_rules(
        """
        70 S -> NP VP
        20 S -> VP
        10 S -> NP C NP VP
        10 S -> VP PP
        60 NP -> N
        15 NP -> M
        25 NP -> NP PP
        40 M -> N
        60 M -> M2
        20 NP -> Q
        1 M2 -> N
        50 VP -> V
        30 VP -> V NP
        20 VP -> VP PP
        1 PP -> P NP
        """,
        {},
        {"N": {"n": 2, "x": 1}, "Q": {"n": 1}, "V": {"v": 1, "x": 1, "n": 1}, "P": {"p": 1}, "C": {"c": 1, "p": 1}},
    ),
    start="S",
)


def strings_by_enumeration(grammar: Grammar, max_length: int) -> dict[tuple[str, ...], float]:
    """Return string → probability for strings up to a length. Leftmost expansion enumerates all derivations."""
    result: dict[tuple[str, ...], float] = {}
    agenda: list[tuple[tuple[str, ...], tuple[str, ...], float]] = [((), (grammar.start,), 1.0)]
    rules_of = {symbol: [rule for rule in grammar.rules if rule.lhs == symbol] for symbol in grammar.symbols}
    while agenda:
        words, symbols, prob = agenda.pop()
        if not symbols:
            result[words] = result.get(words, 0.0) + prob
            continue
        for rule in rules_of[symbols[0]]:
            if rule.is_lexical:
                agenda.append((words + rule.rhs, symbols[1:], prob * rule.prob))
            elif len(words) + len(rule.rhs) + len(symbols) - 1 <= max_length:
                agenda.append((words, rule.rhs + symbols[1:], prob * rule.prob))
    return result


@cache
def tiny_strings() -> dict[tuple[str, ...], float]:
    return strings_by_enumeration(TINY, 6)
