"""Dump the exact distributions of the grammar that a sample corpus was drawn from, as if the grammar were a teacher.

``teacher.teacher_commands`` and ``student.student_commands`` have entry points with the same names and signatures:
``dump_source`` and ``verify_recomputing``. The folder of the sample corpus takes the place of a run directory.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pipeline.corpus.dataset.dataset_store import Dataset
from pipeline.corpus.sample.grammar import english_grammar
from pipeline.corpus.sample.sample_corpus import read_entropy
from pipeline.dumping.dump_config import Condition
from pipeline.dumping.dump_source import ModelAndSearch, verify_run
from pipeline.dumping.grammar_model import GrammarModel
from storage.errors import ConfigError
from storage.locations import Place


def dump_source(corpus: Path, *, beam: Mapping[str, Any]) -> "GrammarSource":
    """Return the grammar of a sample corpus as the source of a dump.

    Args:
        corpus: The folder that ``sample-corpus`` wrote.
        beam: Sizes of a beam search. No size may be given, because the sum over trees is exact.

    Raises:
        ConfigError: If ``beam`` is not empty.
        InputError: If ``corpus`` is not a sample corpus, or another version of the grammar wrote it.
    """
    if flags := ", ".join("--" + name.replace("_", "-") for name in beam):
        raise ConfigError(f"{corpus} is a sample corpus, but {flags} are for an RNNG teacher; leave them out")
    return GrammarSource(corpus)


def verify_recomputing(
    dump: Place, data: Place, corpora: Sequence[Path], *, num_shards: int, seed: int, device: str
) -> dict[str, Any]:
    """Check every byte of a dump of the grammar, then recompute some shards; see ``verify_run``."""
    sources = [GrammarSource(corpus) for corpus in corpora]
    return verify_run(dump, data, sources, num_shards=num_shards, seed=seed, device=device)


class GrammarSource:
    """A sample corpus as a ``DumpSource``. Its distributions are p(w | x_<t) of the grammar, summed over all trees."""

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
        """See ``check_sentences``."""
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
            tokenizer gives for its words. The message names the split and the sentence.
    """
    tokens = dataset.split(split).tokens
    grammar_model(dataset).check(tokens, lambda m: f"{dataset.location}: sentence {m} of split {split}")
