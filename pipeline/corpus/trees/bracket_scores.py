r"""Predicted trees against a treebank's: brackets over tokens.

A bracket is a phrase: label, first token, one past the last. TOP is none. Of a corpus of M sentences let G_m and P_m be
the multisets of the brackets of sentence m, gold and predicted (a chain of unary phrases over one span is several
brackets), and G°_m and P°_m the same without labels. Multisets intersect with the smaller count.

    precision        Σ|G_m ∩ P_m| / Σ|P_m|
    recall           Σ|G_m ∩ P_m| / Σ|G_m|
    F1               2 Σ|G_m ∩ P_m| / (Σ|G_m| + Σ|P_m|)                    the harmonic mean of both
    unlabelled F1    2 Σ|G°_m ∩ P°_m| / (Σ|G_m| + Σ|P_m|)
    exact match      sentences with G_m = P_m, over M                      G°_m = P°_m for trees without labels

The last figure is the one of unsupervised parsing, as Kim et al. (2019, URNNG) compute it. Let g_m and p_m be the
*sets* of spans of two tokens or more, the whole sentence left out:

    sentence F1      mean over sentences of two tokens or more of  2 |g_m ∩ p_m| / (|g_m| + |p_m|)

where a sentence with neither gold nor predicted spans counts 1, and one with gold or predicted spans alone 0.
Sentences of one token have no such span and are left out. How many sentences have no gold span is counted.

A sentence without a parse has no predicted bracket: it costs recall, is no exact match, and its sentence F1 is 0.

These are not the figures of EVALB with COLLINS.prm, the usual ones of the Penn Treebank. That takes out words tagged
as punctuation (comma, colon, quotes, full stop) before it counts spans, lets ADVP match PRT, counts over words, and
leaves out sentences it cannot read; here nothing is taken out, labels match themselves alone, and all sentences count.
Spans over tokens instead of words do not change a gold bracket, but a predicted one can end inside a word. Nor do
figures of two treebanks, of annotated trees and a parser's, or of labelled and binary trees compare: how many brackets
a sentence has, and so how easily one is hit, is the annotation's (a binary tree over n tokens has n - 1).
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from pipeline.corpus.trees.trees import TokenPhrase
from pipeline.runtime.json_files import number
from storage.errors import InputError

DEFINITIONS: Final = {
    "precision": "num_matched / num_predicted: brackets with labels, TOP left out, nothing else deleted",
    "recall": "num_matched / num_gold",
    "f1": "2 num_matched / (num_gold + num_predicted)",
    "unlabelled_f1": "2 num_matched_spans / (num_gold + num_predicted): the same brackets without labels",
    "exact_match": "num_exact / num_sentences: all brackets right and none too many",
    "sentence_f1": "total_sentence_f1 / num_longer: mean over sentences of 2 tokens or more of the F1 of sets of "
    "spans, widths 1 and n left out; 1 where neither tree has such a span (Kim et al. 2019)",
}
"""How each derived figure is defined, written beside it in the JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParseFigure:
    """How predicted trees agree with a treebank's: sums, from which every share is derived."""

    num_sentences: int
    """M."""
    num_unparsed: int
    """Sentences for which no tree was predicted."""
    num_gold: int
    """Σ|G_m|: brackets of the treebank."""
    num_predicted: int
    """Σ|P_m|."""
    num_matched: int | None
    """Σ|G_m ∩ P_m|; None for trees without labels."""
    num_matched_spans: int
    """The same without labels."""
    num_exact: int
    """Sentences with the same brackets; without labels, the same spans."""
    num_longer: int
    """Sentences of two tokens or more: the mean of the sentence F1 is over these."""
    num_without_spans: int
    """Of ``num_longer``, those whose gold tree has no span but trivial ones."""
    total_sentence_f1: float
    """Sum of the F1 of the sentences of two tokens or more."""

    def __post_init__(self) -> None:
        """Refuse what no comparison can give.

        Raises:
            InputError: If there is no sentence, or a part is negative or larger than its whole.
        """
        problems = [] if self.num_sentences > 0 else [f"num_sentences is {self.num_sentences}, expected at least 1"]
        for part, whole in _PARTS:
            found, most = getattr(self, part), getattr(self, whole)
            if found is not None and not 0 <= found <= most + (1e-6 if isinstance(found, float) else 0):
                problems.append(f"{part} is {found}, expected 0 to {whole}, which is {most}")
        if problems:
            raise InputError("parses: " + "; ".join(problems))

    @property
    def precision(self) -> float | None:
        """``num_matched / num_predicted``; None where nothing has a label, or nothing is predicted."""
        return _share(self.num_matched, self.num_predicted)

    @property
    def recall(self) -> float | None:
        """``num_matched / num_gold``; None where nothing has a label, or the treebank has no bracket."""
        return _share(self.num_matched, self.num_gold)

    @property
    def f1(self) -> float | None:
        """``2 num_matched / (num_gold + num_predicted)``; None where nothing has a label, or there is no bracket."""
        return _f1(self.num_matched, self.num_gold + self.num_predicted)

    @property
    def unlabelled_f1(self) -> float | None:
        """``2 num_matched_spans / (num_gold + num_predicted)``; None where there is no bracket."""
        return _f1(self.num_matched_spans, self.num_gold + self.num_predicted)

    @property
    def exact_match(self) -> float:
        """``num_exact / num_sentences``."""
        return self.num_exact / self.num_sentences

    @property
    def sentence_f1(self) -> float | None:
        """``total_sentence_f1 / num_longer``; None where all sentences are of one token."""
        return _share(self.total_sentence_f1, self.num_longer)

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and each derived figure beside its definition (null where not defined)."""
        sums = {field.name: getattr(self, field.name) for field in fields(self)}
        return sums | {name: {"value": getattr(self, name), "is": text} for name, text in DEFINITIONS.items()}

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> "ParseFigure":
        """Return the figure whose ``to_json`` this is; derived figures are derived again, not believed.

        Args:
            value: A parsed JSON object.
            where: The file, for the error.

        Raises:
            InputError: If a sum is missing, has the wrong type, or cannot be.
        """
        counts = {name: int(number(value, name, where=where)) for name in _COUNTS}
        is_labelled = value.get("num_matched", 0) is not None
        return cls(
            num_matched=int(number(value, "num_matched", where=where)) if is_labelled else None,
            total_sentence_f1=number(value, "total_sentence_f1", where=where),
            **counts,
        )


_COUNTS: Final = tuple(
    field.name for field in fields(ParseFigure) if field.name not in {"num_matched", "total_sentence_f1"}
)
_PARTS: Final = (
    ("num_unparsed", "num_sentences"),
    ("num_matched", "num_matched_spans"),
    ("num_matched_spans", "num_gold"),
    ("num_matched_spans", "num_predicted"),
    ("num_exact", "num_sentences"),
    ("num_longer", "num_sentences"),
    ("num_without_spans", "num_longer"),
    ("total_sentence_f1", "num_longer"),
)


def score_parses(
    gold: Iterable[Sequence[TokenPhrase]], predicted: Iterable[Sequence[TokenPhrase] | None], *, labelled: bool = True
) -> ParseFigure:
    """Compare trees over the same tokens, sentence by sentence.

    Args:
        gold: Phrases of each sentence, TOP first: ``(0, 0, n)``.
        predicted: Likewise, in the same order; None where there is no parse. Of a tree without labels, ``(0, 0, n)``
            and then its spans, the one over the whole sentence too if the tree has it; what their labels say is
            ignored.
        labelled: Whether predicted trees have labels.

    Raises:
        ValueError: If there are not as many of both, or a tree does not begin with TOP over all tokens.
        InputError: If there is no sentence.
    """
    sums: Counter[str] = Counter()
    total_f1 = 0.0
    for want, got in zip(gold, predicted, strict=True):
        num_tokens = want[0][2]
        if want[0] != (0, 0, num_tokens) or (got is not None and got[0] != want[0]):
            raise ValueError(f"trees begin with {want[0]} and {got and got[0]}, expected TOP over the same tokens")
        sums["num_sentences"] += 1
        sums["num_unparsed"] += got is None
        brackets, found = Counter(want[1:]), Counter(() if got is None else got[1:])
        spans, found_spans = _without_labels(brackets), _without_labels(found)
        sums["num_gold"] += brackets.total()
        sums["num_predicted"] += found.total()
        sums["num_matched"] += (brackets & found).total()
        sums["num_matched_spans"] += (spans & found_spans).total()
        is_same = brackets == found if labelled else spans == found_spans
        sums["num_exact"] += got is not None and is_same
        if num_tokens > 1:
            longer, found_longer = _not_trivial(spans, num_tokens), _not_trivial(found_spans, num_tokens)
            sums["num_longer"] += 1
            sums["num_without_spans"] += not longer
            if got is not None:
                num_spans = len(longer) + len(found_longer)
                total_f1 += 2 * len(longer & found_longer) / num_spans if num_spans else 1.0
    num_matched = sums["num_matched"] if labelled else None
    counts = {name: sums[name] for name in _COUNTS}
    return ParseFigure(**counts, num_matched=num_matched, total_sentence_f1=total_f1)


_Span = tuple[int, int]


def _without_labels(brackets: Counter[TokenPhrase]) -> Counter[_Span]:
    spans: Counter[_Span] = Counter()
    for (_, start, stop), times in brackets.items():
        spans[start, stop] += times
    return spans


def _not_trivial(spans: Counter[_Span], num_tokens: int) -> set[_Span]:
    return {(start, stop) for start, stop in spans if 1 < stop - start < num_tokens}


def _share(part: float | None, whole: int) -> float | None:
    return None if part is None or not whole else part / whole


def _f1(matched: int | None, both: int) -> float | None:
    return None if matched is None or not both else 2 * matched / both
