"""What a trained teacher says of text without trees, by beam search: surprisals, the marginal perplexity, parses.

``teacher.beam`` defines the quantities. A log-probability here is that of the mixtures, a language model of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline.corpus.dataset.alignment import tree_over_words
from pipeline.corpus.dataset.token_trees import TokenSentence, read_gold_trees
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import OnError, find_file
from pipeline.corpus.trees.bracket_scores import score_parses
from pipeline.corpus.trees.trees import TokenPhrase, format_tree
from pipeline.evaluation.perplexity import MARGINAL, PREFIX
from pipeline.evaluation.results import PARSES, record
from pipeline.evaluation.sentence_models import SentenceModel
from pipeline.runtime.distributed import joined
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import Which
from pipeline.training.model_files import ModelFiles
from storage.files import beside, written_whole
from storage.fingerprints import sha256_file
from storage.ragged import Ragged
from teacher.beam import BeamResult, BeamSearch
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig
from teacher.train_teacher import load_teacher

BLOCK_SENTENCES = 256
"""Sentences between two signs of progress: seconds, and four batches of the search."""


class BeamScorer:
    """A ``pipeline.evaluation.scorer.Scorer`` of the mixtures."""

    def __init__(self, model: Rnng, beam: BeamConfig) -> None:
        self._search = BeamSearch(model, beam)

    def log_probs(self, sentences: Sequence[np.ndarray]) -> list[np.ndarray]:
        """See ``Scorer.log_probs``."""
        found = self._search.search(Ragged.from_lists(list(sentences), np.int64))
        return [row.astype(np.float32) for row in found.token_log_probs]


def search_all(model: Rnng, beam: BeamConfig, tokens: Ragged, *, what: str) -> list[BeamResult]:
    """Return what is found of all sentences, block by block, and show how far it is."""
    search = BeamSearch(model, beam)
    found = []
    with Progress(what, total=len(tokens.values), unit="tokens") as progress:
        for first in range(0, len(tokens), BLOCK_SENTENCES):
            block = tokens.take(np.arange(first, min(first + BLOCK_SENTENCES, len(tokens))))
            found.append(search.search(block))
            progress.update(len(block.values))
    return found


def marginal_log_probs(model: Rnng, beam: BeamConfig, tokens: Ragged) -> tuple[dict[str, Ragged], dict[str, Any]]:
    """Return log-probabilities of sentences without their trees, and what the search adds to the settings.

    By distribution, each of M rows of n + 1 for M sentences of n tokens. Of a sentence without a complete hypothesis,
    the one parse that was found is all of the sum.
    """
    found = search_all(model, beam, tokens, what="search")
    prefixes = _joined([result.prefix_log_probs for result in found])
    is_complete = np.isfinite(prefixes.values[prefixes.offsets[1:] - 1])
    parses = np.concatenate([result.parse_log_probs for result in found])
    prefixes.values[prefixes.offsets[1:][~is_complete] - 1] = parses[~is_complete]
    steps = [np.diff(row, prepend=0.0) for row in prefixes]
    num_effective = np.concatenate([result.num_effective.values for result in found])
    log_probs = {
        MARGINAL: _joined([result.token_log_probs for result in found]),
        PREFIX: Ragged.from_lists(steps, np.float64),
    }
    return log_probs, asdict(beam) | {
        "mean_num_effective": float(num_effective.mean()),
        "num_incomplete_sentences": int((~is_complete).sum()),
    }


@contextmanager
def opened_scorer(model: Path, *, beam: BeamConfig, device: str, which: Which = "best") -> Iterator[SentenceModel]:
    """Open a teacher's run to score sentences with, by beam search."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate")
        teacher, run = load_teacher(model, where, which)
        ModelFiles.of_run(run, which).check_writable()
        yield SentenceModel(
            scorer=BeamScorer(teacher, beam),
            tokenizer=Tokenizer.load(run.tokenizer_path),
            max_tokens=None,
            files=ModelFiles.of_run(run, which),
            settings=_settings(beam, where) | {"distribution": MARGINAL},
            block_sentences=BLOCK_SENTENCES,
        )


def evaluate_parses(
    model: Path,
    stem: Path,
    *,
    trees_out: Path | None,
    on_error: OnError,
    device: str,
    beam: BeamConfig,
    which: Which = "best",
) -> dict[str, Any]:
    """Parse the text of a treebank, compare with its trees, write the figures beside the run, return them."""
    with joined(device, threads=0) as (world, where):
        world.refuse_several("evaluate parses")
        teacher, run = load_teacher(model, where, which)
        ModelFiles.of_run(run, which).check_writable()
        tokenizer = Tokenizer.load(run.tokenizer_path)
        labels: list[str] = run.model["labels"]
        with Progress("read", total=None, unit="sentences") as progress:
            gold, counts = read_gold_trees(stem, tokenizer, labels, on_error=on_error, progress=progress.update)
        tokens = Ragged.from_lists([sentence.ids for sentence in gold], np.int64)
        found = search_all(teacher, beam, tokens, what="parse")
        predicted: list[list[TokenPhrase]] = [phrases for result in found for phrases in result.phrases]
        labelled = teacher.config.strategy == "top-down"
        figure = score_parses((sentence.phrases for sentence in gold), predicted, labelled=labelled)
        written: dict[str, Any] = {}
        if trees_out is not None:
            num_lost = write_parses(trees_out, gold, predicted, labels if labelled else ["TOP", "X"])
            written = {"trees_out": str(trees_out), "phrases_that_cannot_be_written": num_lost}
        figures = figure.to_json() | {"treebank": counts.to_json()}
        fingerprints = {"trees": sha256_file(find_file(stem, ".mrg"))}
        files, settings = ModelFiles.of_run(run, which), _settings(beam, where)
        result, _ = record(files, PARSES, stem.name, figures, settings=settings, fingerprints=fingerprints)
        return {"model": str(files.path), "trees": str(stem), **figures, "written": str(result)} | written


def _settings(beam: BeamConfig, where: torch.device) -> dict[str, Any]:
    return {"device": where.type, "dtype": "float32", **asdict(beam)}


def _joined(parts: Sequence[Ragged]) -> Ragged:
    return Ragged.from_lengths(
        np.concatenate([part.values for part in parts]), np.concatenate([part.lengths for part in parts])
    )


def write_parses(
    stem: Path,
    sentences: Sequence[TokenSentence],
    predicted: Sequence[Sequence[TokenPhrase] | None],
    labels: Sequence[str],
) -> int:
    """Write ``STEM.mrg``, a predicted tree a line, and ``STEM.txt``, its text in the same line.

    The pair is one that ``import-trees`` and ``build-dataset`` read. A sentence without a parse is written flat, all
    words under TOP, so that lines stay those of the sentences. Words are as ``tree_over_words`` says.

    Args:
        stem: Where; both files are replaced whole.
        sentences: Text and tokens.
        predicted: Phrases of each, TOP first.
        labels: By number; the first is TOP.

    Returns:
        How many phrases could not be written: X over a single X, those that end inside a character, or are over a
        space alone.

    Raises:
        StoreError: If the files cannot be written.
    """
    num_lost = 0
    with written_whole([beside(stem, suffix) for suffix in (".mrg", ".txt")]) as (mrg, txt):
        for sentence, phrases in zip(sentences, predicted, strict=True):
            named = [(labels[label], start, stop) for label, start, stop in phrases or sentence.phrases[:1]]
            tree = tree_over_words(named, sentence.text, sentence.spans)
            num_lost += len(named) - len(tree.phrases)
            mrg.write(format_tree(tree) + "\n")
            txt.write(sentence.text + "\n")
    return num_lost
