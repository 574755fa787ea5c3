"""Between benepar's spans and our trees."""

from collections.abc import Iterable, Sequence
from typing import Final

import torch_struct
from benepar.integrations.spacy_plugin import SentenceWrapper

from pipeline.corpus.text.text_files import unescape_brackets
from pipeline.corpus.trees.trees import ROOT, ROOT_NAMES, Phrase

# Lacking, it makes torch warn at every chart.
torch_struct.TreeCRF.arg_constraints = {}

_SPELLINGS: Final[dict[str, str]] = SentenceWrapper.TEXT_NORMALIZATION_MAPPING


def read_words(words: Iterable[str]) -> list[str]:
    """Return words of a treebank as the parser is given them when it reads text: brackets and quotes as characters.

    In text benepar spells typographic quotes and dashes that are a word in ASCII; a treebank has its own spellings of
    the same, in which alone a parser must not be trained.
    """
    plain = (
        unescape_brackets(word).replace("\\/", "/").replace("\\*", "*").replace("``", '"').replace("''", '"')
        for word in words
    )
    return [_SPELLINGS.get(word, word) for word in plain]


def to_phrases(spans: Iterable[tuple[int, int, Sequence[str]]], num_words: int) -> tuple[Phrase, ...]:
    """Return a normalised tree's phrases: TOP, and a phrase for each label.

    Args:
        spans: First word, one past the last, and the labels of a unary chain from the top, of each constituent, in
            the order in which they open. A word alone, or the sentence, may have none.
        num_words: Of the sentence.
    """
    found: list[Phrase] = [(ROOT, 0, num_words)]
    for start, stop, labels in spans:
        for label in labels:
            phrase = (label, int(start), int(stop))
            if label not in ROOT_NAMES and phrase != found[-1]:
                found.append(phrase)
    return tuple(found)
