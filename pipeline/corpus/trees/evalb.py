r"""Score predicted trees against a treebank as EVALB does with ``COLLINS.prm``, to compare with published scores.

EVALB is the program of Sekine and Collins (1997, https://nlp.cs.nyu.edu/evalb/). It works as follows.

1. A word is deleted if it is a trace or punctuation, that is, if its tag is in ``DELETED``.
2. A bracket is the label of a phrase, without function tags, and the span of the words that are left in the phrase. TOP
   is not a bracket, nor is a phrase in which no word is left. Each phrase of a unary chain is a bracket of its own.
   ADVP and PRT count as one label.
3. A sentence is skipped if it has no parse, or if no word is left in it.
4. M sentences are left. G_m and P_m are the multisets of the gold and the predicted brackets of sentence m.

    precision          Σ|G_m ∩ P_m| / Σ|P_m|
    recall             Σ|G_m ∩ P_m| / Σ|G_m|
    F1                 2 · precision · recall / (precision + recall)
    complete match     (number of sentences with G_m = P_m) / M
    average crossing   Σ (number of predicted brackets that cross a gold bracket) / M
    no crossing        (number of sentences without a predicted bracket that crosses a gold bracket) / M

All metrics are computed twice: over all sentences, and over those of at most 40 words, punctuation included.

There are two differences from EVALB. EVALB deletes words by the tags of both trees, this module only by the tags of the
treebank. EVALB needs trees with the same words. Here the parser may have split the text into other words, and then a
predicted bracket may begin or end inside a word of the treebank. If this word is not deleted, the bracket matches no
gold bracket, but counts in |P_m|.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from typing import Any, Final

from pipeline.corpus.trees.matching import Span
from pipeline.corpus.trees.trees import ROOT, TRACE_TAG, Phrase, strip_label

DELETED: Final = frozenset({ROOT, TRACE_TAG, ",", ":", "``", "''", "."})
"""Labels of the brackets, and tags of the words, that are deleted."""
EQUAL: Final = {"PRT": "ADVP"}
"""Labels that EVALB counts as another label, and this other label."""
CUT_OFF: Final = 40
"""Largest number of words of a sentence for which the metrics are computed a second time."""
DEFINITIONS: Final = {
    "precision": "num_matched / num_predicted",
    "recall": "num_matched / num_gold",
    "f1": "2 precision recall / (precision + recall)",
    "complete_match": "num_complete / num_valid",
    "average_crossing": "num_crossing / num_valid",
    "no_crossing": "num_without_crossing / num_valid",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class GoldAndPredicted:
    """A sentence with its two trees. All spans are in the same unit, for example characters."""

    tags: Sequence[str]
    """Part of speech of each word in the treebank."""
    spans: Sequence[Span]
    """Start and stop of each word, in order."""
    gold: Sequence[Phrase]
    """Label, start and stop of each phrase of the treebank."""
    predicted: Sequence[Phrase] | None
    """Label, start and stop of each phrase of the parse. None if there is no parse."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EvalbFigure:
    """The counts of EVALB, with its metrics as properties.

    Skipped sentences count only in ``num_sentences``. The counts ``num_gold``, ``num_predicted`` and ``num_matched``
    are Σ|G_m|, Σ|P_m| and Σ|G_m ∩ P_m|. The number of sentences with G_m = P_m is ``num_complete``. The number of
    predicted brackets that cross a gold bracket is ``num_crossing``, and the number of sentences without such a bracket
    is ``num_without_crossing``.
    """

    num_sentences: int = 0
    """All sentences, including those that are skipped."""
    num_valid: int = 0
    """M: sentences that are not skipped."""
    num_gold: int = 0
    num_predicted: int = 0
    num_matched: int = 0
    num_complete: int = 0
    num_crossing: int = 0
    num_without_crossing: int = 0

    def __add__(self, other: "EvalbFigure") -> "EvalbFigure":
        return EvalbFigure(**{name: value + getattr(other, name) for name, value in asdict(self).items()})

    @property
    def precision(self) -> float | None:
        """``num_matched / num_predicted``; None if there is no predicted bracket."""
        return _share(self.num_matched, self.num_predicted)

    @property
    def recall(self) -> float | None:
        """``num_matched / num_gold``; None if there is no gold bracket."""
        return _share(self.num_matched, self.num_gold)

    @property
    def f1(self) -> float | None:
        """The harmonic mean of precision and recall; None if there is no bracket."""
        return _share(2 * self.num_matched, self.num_gold + self.num_predicted)

    @property
    def complete_match(self) -> float | None:
        """``num_complete / num_valid``; None if all sentences are skipped."""
        return _share(self.num_complete, self.num_valid)

    @property
    def average_crossing(self) -> float | None:
        """``num_crossing / num_valid``; None if all sentences are skipped."""
        return _share(self.num_crossing, self.num_valid)

    @property
    def no_crossing(self) -> float | None:
        """``num_without_crossing / num_valid``; None if all sentences are skipped."""
        return _share(self.num_without_crossing, self.num_valid)

    def to_json(self) -> dict[str, Any]:
        """Return the counts, and each metric with its definition. An undefined value is null."""
        return asdict(self) | {name: {"value": getattr(self, name), "is": text} for name, text in DEFINITIONS.items()}


def score_by_evalb(sentences: Iterable[GoldAndPredicted]) -> tuple[EvalbFigure, EvalbFigure]:
    """Return the counts over all sentences, and those over the sentences of at most 40 words."""
    of_all = up_to_cut_off = EvalbFigure()
    for sentence in sentences:
        figure = _of_sentence(sentence)
        of_all += figure
        if sum(tag != TRACE_TAG for tag in sentence.tags) <= CUT_OFF:
            up_to_cut_off += figure
    return of_all, up_to_cut_off


def _of_sentence(sentence: GoldAndPredicted) -> EvalbFigure:
    end = max((stop for _, stop in sentence.spans), default=0)
    is_kept = [False] * end
    for tag, (start, stop) in zip(sentence.tags, sentence.spans, strict=True):
        is_kept[start:stop] = [tag not in DELETED] * (stop - start)
    if sentence.predicted is None or not any(is_kept):
        return EvalbFigure(num_sentences=1)
    positions = list(accumulate(is_kept, initial=0))
    gold, predicted = (_brackets(phrases, positions) for phrases in (sentence.gold, sentence.predicted))
    spans = {(start, stop) for _, start, stop in gold}
    num_crossing = sum(
        times * any(a < start < b < stop or start < a < stop < b for a, b in spans)
        for (_, start, stop), times in predicted.items()
    )
    return EvalbFigure(
        num_sentences=1,
        num_valid=1,
        num_gold=gold.total(),
        num_predicted=predicted.total(),
        num_matched=(gold & predicted).total(),
        num_complete=gold == predicted,
        num_crossing=num_crossing,
        num_without_crossing=not num_crossing,
    )


def _brackets(phrases: Sequence[Phrase], positions: Sequence[int]) -> Counter[Phrase]:
    """Return the brackets of a tree, with spans that count only the characters (or other units) of kept words.

    A phrase that begins at character i gets a bracket that begins at ``positions[i]``. This is the number of characters
    before character i that belong to kept words.
    """
    found: Counter[Phrase] = Counter()
    for full_label, start, stop in phrases:
        label, first, last = strip_label(full_label), positions[start], positions[stop]
        if label not in DELETED and first < last:
            found[EQUAL.get(label, label), first, last] += 1
    return found


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
