r"""Compare predicted trees with the trees of a treebank, by their brackets over tokens.

A bracket is the label of a phrase, its first token, and one past its last token. TOP is not a bracket. Each phrase of a
unary chain is a bracket of its own. M is the number of sentences. G_m and P_m are the multisets of the gold and the
predicted brackets of sentence m. G°_m and P°_m are the same multisets without labels.

    precision        Σ|G_m ∩ P_m| / Σ|P_m|
    recall           Σ|G_m ∩ P_m| / Σ|G_m|
    F1               2 Σ|G_m ∩ P_m| / (Σ|G_m| + Σ|P_m|)                    harmonic mean of precision and recall
    unlabelled F1    2 Σ|G°_m ∩ P°_m| / (Σ|G_m| + Σ|P_m|)
    exact match      (number of sentences with G_m = P_m) / M              G°_m = P°_m for trees without labels

The sentence F1 is the usual metric of unsupervised parsing (Kim et al. 2019, URNNG). Let g_m and p_m be the *sets* of
the gold and the predicted spans that have at least two tokens and do not cover the whole sentence.

    sentence F1      mean of  2 |g_m ∩ p_m| / (|g_m| + |p_m|)  over all sentences that have at least two tokens

If both g_m and p_m are empty, the F1 of the sentence is 1. If only one of them is empty, the F1 is 0.

A sentence without a parse has no predicted bracket. Its F1 is 0, and it is not an exact match.

Published scores on the Penn Treebank are usually those of the program EVALB. The module ``evalb`` computes them. EVALB
removes punctuation, lets ADVP match PRT, and leaves out sentences that it cannot read. Here nothing is removed, a label
matches only itself, and all sentences count.

Compare two scores only if the gold trees of both come from the same treebank, were made in the same way (by people or
by a parser), and are of the same kind (labelled, or binary without labels). Otherwise the number of brackets per
sentence differs.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from pipeline.corpus.trees.trees import TokenPhrase
from storage.errors import InputError

DEFINITIONS: Final = {
    "precision": "num_matched / num_predicted. Brackets have labels, and only TOP is left out",
    "recall": "num_matched / num_gold",
    "f1": "2 num_matched / (num_gold + num_predicted)",
    "unlabelled_f1": "2 num_matched_spans / (num_gold + num_predicted). Labels are ignored",
    "exact_match": "num_exact / num_sentences. A sentence is exact if its predicted brackets equal its gold brackets",
    "sentence_f1": "total_sentence_f1 / num_longer, the mean F1 of the sentences with at least two tokens. The F1 "
    "compares the sets of spans of both trees, without single tokens and without the whole sentence. If neither tree "
    "has such a span, the F1 is 1 (Kim et al. 2019)",
}
"""Definition of each derived metric, written next to its value in the JSON."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ParseFigure:
    """How well predicted trees agree with a treebank, as sums and as metrics derived from them."""

    num_sentences: int
    """M, the number of sentences."""
    num_unparsed: int
    """Number of sentences without a predicted tree."""
    num_gold: int
    """Σ|G_m|, the number of brackets of the treebank."""
    num_predicted: int
    """Σ|P_m|, the number of brackets of the predictions."""
    num_matched: int | None
    """Σ|G_m ∩ P_m|, the number of brackets in both. None for trees without labels."""
    num_matched_spans: int
    """Σ|G°_m ∩ P°_m|, the number of brackets in both if labels are ignored."""
    num_exact: int
    """Number of sentences whose predicted brackets equal the gold brackets. For trees without labels, only spans are
    compared."""
    num_longer: int
    """Number of sentences of two tokens or more. The mean of the sentence F1 is over these sentences."""
    num_without_spans: int
    """Number of sentences of two tokens or more whose gold tree has no span besides single tokens and the whole
    sentence."""
    total_sentence_f1: float
    """Sum of the sentence F1 over the sentences of two tokens or more."""

    @property
    def precision(self) -> float | None:
        """``num_matched / num_predicted``; None if there are no labels or no predicted bracket."""
        return _share(self.num_matched, self.num_predicted)

    @property
    def recall(self) -> float | None:
        """``num_matched / num_gold``; None if there are no labels or the treebank has no bracket."""
        return _share(self.num_matched, self.num_gold)

    @property
    def f1(self) -> float | None:
        """The F1 of labelled brackets; None if there are no labels or no bracket."""
        return None if self.num_matched is None else _share(2 * self.num_matched, self.num_gold + self.num_predicted)

    @property
    def unlabelled_f1(self) -> float | None:
        """The F1 of brackets without their labels; None if there is no bracket."""
        return _share(2 * self.num_matched_spans, self.num_gold + self.num_predicted)

    @property
    def exact_match(self) -> float:
        """Share of the sentences whose predicted tree has the same brackets as the gold tree."""
        return self.num_exact / self.num_sentences

    @property
    def sentence_f1(self) -> float | None:
        """The mean of the sentence F1; None if all sentences have one token."""
        return _share(self.total_sentence_f1, self.num_longer)

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and each derived metric with its definition. An undefined value is null."""
        return asdict(self) | {name: {"value": getattr(self, name), "is": text} for name, text in DEFINITIONS.items()}


def score_parses(
    gold: Iterable[Sequence[TokenPhrase]], predicted: Iterable[Sequence[TokenPhrase] | None], *, labelled: bool = True
) -> ParseFigure:
    """Compare trees over the same tokens, sentence by sentence.

    Args:
        gold: Phrases of each sentence, as triples of the label's number, the first token, and one past the last token.
            The first phrase is TOP over all n tokens: ``(0, 0, n)``.
        predicted: Phrases of each sentence in the same order, or None for a sentence without a parse. A tree without
            labels has TOP and then a triple for each span. The first number of these triples is ignored. One of the
            spans may cover the whole sentence.
        labelled: Whether predicted trees have labels.

    Raises:
        ValueError: If the numbers of gold and predicted trees differ, or a tree does not begin with TOP over
            all tokens.
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
    if not sums["num_sentences"]:
        raise InputError("parses: num_sentences is 0, expected at least 1; give trees to score")
    return ParseFigure(
        num_sentences=sums["num_sentences"],
        num_unparsed=sums["num_unparsed"],
        num_gold=sums["num_gold"],
        num_predicted=sums["num_predicted"],
        num_matched=sums["num_matched"] if labelled else None,
        num_matched_spans=sums["num_matched_spans"],
        num_exact=sums["num_exact"],
        num_longer=sums["num_longer"],
        num_without_spans=sums["num_without_spans"],
        total_sentence_f1=total_f1,
    )


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
