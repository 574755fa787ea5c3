"""Dump the exact distributions of the grammar that a sample corpus was drawn from, as if the grammar were a teacher.

``--teacher`` names the folder of the sample corpus in place of a run directory.
"""

from functools import lru_cache
from pathlib import Path

import torch

from pipeline.corpus.dataset.dataset_store import Dataset
from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.sample_corpus import read_entropy
from pipeline.dumping.dump_config import Condition
from pipeline.dumping.dump_source import ModelAndSearch
from pipeline.dumping.grammar_model import GrammarModel


class GrammarSource:
    """A sample corpus as a ``DumpSource``. Its distributions are p(w | x_<t) of the grammar, summed over all trees.

    Raises:
        InputError: If ``path`` is not a sample corpus, or another version of the grammar wrote it.
    """

    kind = "a sample corpus"
    run = None
    conditions: tuple[Condition, ...] = ("exact",)

    def __init__(self, path: Path) -> None:
        self.path = path
        read_entropy(path)

    def fingerprint(self) -> str:
        """Return the sha256 of the rules. Nothing else in the corpus changes the distributions."""
        return english_grammar().rules_sha256()

    def check_reads(self, dataset: Dataset, split: str) -> None:
        """Check that the grammar can produce every sentence of a split; see ``check_sentences``."""
        check_sentences(dataset, split)

    def load(self, dataset: Dataset, condition: Condition, device: torch.device) -> ModelAndSearch:  # noqa: ARG002
        """Return the grammar with the dataset's tokenizer. It computes on the CPU, whatever the device is."""
        return grammar_model(dataset), {}


@lru_cache(maxsize=1)
def grammar_model(dataset: Dataset) -> GrammarModel:
    """Return the distributions of the built-in grammar over the tokens of a dataset."""
    return GrammarModel(dataset.tokenizer, where=f"{dataset.location}: tokenizer")


def check_sentences(dataset: Dataset, split: str) -> None:
    """Check that the grammar can produce every sentence of a split, and that the tokenizer fits.

    Raises:
        InputError: If the grammar cannot produce a sentence, or the stored tokens of a sentence are not those that the
            tokenizer gives for its words.
    """
    tokens = dataset.split(split).tokens
    grammar_model(dataset).check(tokens, lambda m: f"{dataset.location}: sentence {m} of split {split}")
