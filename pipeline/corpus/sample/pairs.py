"""Sample minimal pairs from a grammar, in the JSON-lines form of BLiMP (Warstadt et al. 2020).

The two sentences of a pair differ in one word. The grammar generates the good sentence, but not the bad one. A template
is a line of grammar symbols with variables such as ``$hsg`` (see ``pipeline.corpus.sample.grammar``). First, values of
the variables are drawn. Then each symbol is expanded by sampling from the grammar. The symbol marked ``*`` yields the
critical word. In the bad sentence, another word replaces it.

A pair is kept only if the exact probabilities are p(good) > 0 and p(bad) = 0. For example, *the teacher helped himself*
and *the teacher helped herself* are both possible, so this pair is dropped. A pair is also dropped if it was sampled
before, or if the caller excludes one of its sentences.

Paradigms that test agreement in number have as many singular as plural templates, so a model gains nothing if it always
prefers the singular or always the plural. The exception is ``agreement_with_coordinated_subject``, which is always
plural.
"""

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

import numpy as np

from pipeline.corpus.sample.grammar import DOMAINS
from pipeline.corpus.sample.inside import Inside
from pipeline.corpus.sample.lexicon import other_number
from pipeline.corpus.sample.pcfg import Grammar, assignments, substitute, text_of_words, variables_of

NUM_PAIRS = 200
"""Pairs per paradigm."""

_ROUND = 400
"""Number of candidate pairs that are sampled and scored together."""
_MAX_ROUNDS = 50

REFLEXIVE_NUMBER = {"himself": "themselves", "herself": "themselves", "itself": "themselves"}
REFLEXIVE_GENDER = {"himself": "herself", "herself": "himself"}
DETERMINER = {"this": "these", "these": "this", "that": "those", "those": "that"}
ARTICLE = {"a": "an", "an": "a"}
POLARITY = {"no": "the"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Paradigm:
    """A construction: its templates, and the words that replace the critical word in the bad sentence."""

    uid: str
    field: str = "morphology"
    linguistics_term: str
    swap: Mapping[str, str]
    """The replacement of each critical word."""
    templates: tuple[str, ...]
    one_prefix: bool = True
    """True for BLiMP's one-prefix method, which compares the probabilities of the critical word and of its replacement,
    after the same words. False for the two-prefix method, which compares the probabilities of a later word that both
    sentences have."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Pair:
    """The terminal strings of an acceptable sentence and of the unacceptable sentence that differs in one word."""

    good: tuple[str, ...]
    bad: tuple[str, ...]


def _agreement(uid: str, *templates: str) -> Paradigm:
    return Paradigm(uid=uid, linguistics_term="subject_verb_agreement", swap=other_number(), templates=templates)


def _reflexive(uid: str, swap: Mapping[str, str], *templates: str) -> Paradigm:
    return Paradigm(uid=uid, linguistics_term="anaphor_agreement", swap=swap, templates=templates)


PARADIGMS: tuple[Paradigm, ...] = (
    _agreement(
        "agreement_simple",
        "NP/b[$livsg] *V[VBZ,iv] ADVP/manner ./end",
        "NP/b[$livpl] *V[VBP,iv] ADVP/manner ./end",
        "NP/b[$livsg] *V[VBZ,tl] NP/b[$nliv] ./end",
        "NP/b[$livpl] *V[VBP,tl] NP/b[$nliv] ./end",
    ),
    _agreement(
        "agreement_across_prepositional_phrase",
        "NP/b[$livsg] IN/any NP/b[$livpl] *V[VBZ,iv] ./end",
        "NP/b[$livpl] IN/any NP/b[$livsg] *V[VBP,iv] ./end",
        "NP/b[cup] IN/any NP/b[$livpl] *V[VBZ,be] ADJP/thg ./end",
        "NP/b[cups] IN/any NP/b[$livsg] *V[VBP,be] ADJP/thg ./end",
    ),
    _agreement(
        "agreement_across_subject_relative",
        "NP/b[$hsg] WP/who V[VBZ,tl] NP/b[$livpl] *V[VBZ,iv] ./end",
        "NP/b[they] WP/who V[VBP,tl] NP/b[$livsg] *V[VBP,iv] ./end",
    ),
    _agreement(
        "agreement_across_object_relative",
        "NP/b[$livsg] WDT/that NP/b[$livpl] V[VBP,tl] *V[VBZ,iv] ./end",
        "NP/b[$livpl] WDT/that NP/b[$livsg] V[VBZ,tl] *V[VBP,iv] ./end",
    ),
    _agreement(
        "agreement_inside_object_relative",
        "NP/b[$livsg] WDT/that NP/b[$livpl] *V[VBP,tl] V[VBZ,iv] ./end",
        "NP/b[$livpl] WDT/that NP/b[$livsg] *V[VBZ,tl] V[VBP,iv] ./end",
    ),
    _agreement(
        "agreement_in_complement_clause",
        "NP/b[they] V[VBP,sv] IN/that NP/b[$livsg] *V[VBZ,iv] ./end",
        "NP/b[$hsg] V[VBZ,sv] IN/that NP/b[$livpl] *V[VBP,iv] ./end",
    ),
    _agreement(
        "agreement_in_coordinated_verb_phrase",
        "NP/b[$livsg] V[VBZ,tl] NP/b[$livpl] CC/and *V[VBZ,iv] ./end",
        "NP/b[$livpl] V[VBP,tl] NP/b[$livsg] CC/and *V[VBP,iv] ./end",
    ),
    _agreement("agreement_with_coordinated_subject", "NP/b[$hsg1] CC/and NP/b[$hsg2] *V[VBP,iv] ./end"),
    _reflexive(
        "reflexive_number",
        REFLEXIVE_NUMBER | {"themselves": "himself"},
        "NP/b[$hsg] V[VBD,tl] *PRP/r[$hsg] ./end",
        "NP/b[they] V[VBD,tl] *PRP/r[they] ./end",
    ),
    _reflexive(
        "reflexive_number_across_object_relative",
        REFLEXIVE_NUMBER | {"themselves": "herself"},
        "NP/b[$hsg] WDT/that NP/b[$livpl] V[VBD,tl] V[VBD,tl] *PRP/r[$hsg] ./end",
        "NP/b[they] WDT/that NP/b[$hsg] V[VBD,tl] V[VBD,tl] *PRP/r[they] ./end",
    ),
    _reflexive(
        "reflexive_gender",
        REFLEXIVE_GENDER,
        "NP/b[$hsg] V[VBD,tl] *PRP/r[$hsg] ./end",
        "NNP[$hsg] MD V[VB,tl] *PRP/r[$hsg] ./end",
    ),
    _reflexive(
        "reflexive_gender_across_prepositional_phrase",
        REFLEXIVE_GENDER,
        "NP/b[he] IN/any NP/b[she] V[VBD,tl] *PRP/r[he] ./end",
        "NP/b[she] IN/any NP/b[he] V[VBD,tl] *PRP/r[she] ./end",
    ),
    Paradigm(
        uid="determiner_noun_agreement",
        linguistics_term="determiner_noun_agreement",
        swap=DETERMINER,
        templates=(
            "*DT/sg _NB[$livsg] V[VBD,iv] ./end",
            "*DT/pl _NB[$livpl] V[VBD,iv] ./end",
            "NP/b[$nliv] V[VBD,tl] *DT/sg _NB[$livsg] ./end",
            "NP/b[$nliv] V[VBD,tt] *DT/pl _NB[cups] ./end",
        ),
        one_prefix=False,
    ),
    Paradigm(
        uid="indefinite_article",
        linguistics_term="determiner_noun_agreement",
        swap=ARTICLE,
        templates=(
            "NP/b[$nliv] V[VBD,tl] *DT/a[$snd] _NBS[$livsg,$snd] ./end",
            "NP/b[$nliv] V[VBD,tt] *DT/a[$snd] _NBS[cup,$snd] ./end",
        ),
        one_prefix=False,
    ),
    Paradigm(
        uid="negative_polarity_ever",
        field="syntax_semantics",
        linguistics_term="npi_licensing",
        swap=POLARITY,
        templates=(
            "*DT/no _NB[$livsg] V[VBZ,have] RB/ever V[VBN,iv] ./end",
            "*DT/no _NB[$livpl] V[VBP,have] RB/ever V[VBN,tl] NP/b[$nliv] ./end",
            "*DT/no _NB[$livsg] IN/any NP/b[$livpl] V[VBZ,have] RB/ever V[VBN,iv] ./end",
        ),
        one_prefix=False,
    ),
)


def _candidate(grammar: Grammar, symbols: list[str], swap: Mapping[str, str], uniform: Callable[[], float]) -> Pair:
    good: list[str] = []
    bad: list[str] = []
    for symbol in symbols:
        words = grammar.words(grammar.sample(uniform, symbol.removeprefix("*")))
        good += words
        bad += [swap.get(word, word) for word in words] if symbol.startswith("*") else words
    return Pair(good=tuple(good), bad=tuple(bad))


def sample_pairs(
    grammar: Grammar,
    inside: Inside,
    paradigm: Paradigm,
    *,
    seed: int,
    num_pairs: int = NUM_PAIRS,
    avoid: AbstractSet[str] = frozenset(),
) -> list[Pair]:
    """Return distinct pairs of a paradigm. The templates are used in turn.

    Args:
        grammar: The grammar with the symbols of the templates.
        inside: The inside algorithm for this grammar.
        paradigm: The paradigm to sample.
        seed: The same seed gives the same pairs.
        num_pairs: Number of pairs.
        avoid: Texts that must not occur as a sentence of a pair, such as the training texts of a model.

    Raises:
        ValueError: If the templates yield fewer than ``num_pairs`` distinct pairs.
    """
    uniform = np.random.default_rng(seed).random
    instances = [list(assignments(variables_of(template), DOMAINS)) for template in paradigm.templates]
    cumulative = [np.cumsum([weight for _, weight in options]) for options in instances]
    kept: dict[tuple[str, ...], Pair] = {}
    for _ in range(_MAX_ROUNDS):
        candidates: list[Pair] = []
        for index in range(_ROUND):
            which = index % len(instances)
            draw = int(np.searchsorted(cumulative[which], uniform() * cumulative[which][-1], side="right"))
            symbols = substitute(paradigm.templates[which], instances[which][draw][0]).split()
            candidates.append(_candidate(grammar, symbols, paradigm.swap, uniform))
        good = inside.log_probs([pair.good for pair in candidates])
        bad = inside.log_probs([pair.bad for pair in candidates])
        for pair, is_good, is_bad in zip(candidates, np.isfinite(good), np.isneginf(bad), strict=True):
            texts = {text_of_words(pair.good), text_of_words(pair.bad)}
            if is_good and is_bad and not texts & avoid:
                kept.setdefault(pair.good, pair)
            if len(kept) == num_pairs:
                return list(kept.values())
    raise ValueError(f"minimal pairs: {paradigm.uid} has {len(kept)} pairs, expected {num_pairs}; widen its templates")


def blimp_row(paradigm: Paradigm, pair: Pair, index: int) -> dict[str, str | bool]:
    """Return a pair as a line of a BLiMP file. ``lexically_identical`` is false because one word differs."""
    return {
        "sentence_good": text_of_words(pair.good),
        "sentence_bad": text_of_words(pair.bad),
        "field": paradigm.field,
        "linguistics_term": paradigm.linguistics_term,
        "UID": paradigm.uid,
        "simple_LM_method": True,
        "one_prefix_method": paradigm.one_prefix,
        "two_prefix_method": not paradigm.one_prefix,
        "lexically_identical": False,
        "pairID": str(index),
    }
