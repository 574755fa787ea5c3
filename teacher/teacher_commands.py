"""Carry out the commands that use a trained teacher: score sentences, evaluate, parse and dump.

Two functions, ``open_scorer`` and ``score_split``, exist here and in ``student.student_commands``, with the same
signatures. The command line calls one of the two modules, according to the kind of the run.

A teacher gives a text several probabilities, which must never be mistaken for each other:

given the tree    -log p(w_t | x_<t, y_<t, SHIFT), as in a dump. If the tree comes from a parser that saw the whole
                  sentence, it can reveal later words.
joint             -log p(x, y), words and actions. This is an upper bound on -log p(x).
marginal, prefix  Probabilities of the text without its trees, by beam search. ``teacher.beam`` defines both.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.corpus.dataset.dataset_store import Dataset, Split, load_dataset
from pipeline.corpus.dataset.oracle import SHIFT
from pipeline.corpus.dataset.token_trees import TokenSentence, read_gold_trees, tree_over_words
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import OnError, find_file
from pipeline.corpus.trees.bracket_scores import score_parses
from pipeline.corpus.trees.evalb import CUT_OFF, GoldAndPredicted, score_by_evalb
from pipeline.corpus.trees.trees import TokenPhrase, format_tree
from pipeline.dumping.dump_config import Condition
from pipeline.dumping.dump_source import ModelAndSearch, run_fingerprint
from pipeline.dumping.next_token import log_probs_of
from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT, MARGINAL, PREFIX
from pipeline.evaluation.results import PARSES, record
from pipeline.evaluation.scorer import BlockScorer, NextTokenScorer, Sentences, scoring_jobs
from pipeline.evaluation.sentence_models import ScoredSplit, SentenceModel, spaced_sentences
from pipeline.evaluation.shared_blocks import Job, Rows, SharedBlocks, shared_blocks
from pipeline.evaluation.truth import Truth
from pipeline.runtime import options
from pipeline.runtime.distributed import joined
from pipeline.runtime.progress import Progress
from pipeline.runtime.run_directory import RunInfo, Which, open_run
from pipeline.training.batching import consecutive_batches
from pipeline.training.model_files import ModelFiles, check_tokenizer
from storage.dump.manifest import Manifest
from storage.errors import FingerprintMismatchError, StoreError
from storage.files import beside, written_whole
from storage.fingerprints import canonical_json, sha256_bytes, sha256_file
from storage.locations import Location, Place, as_folder
from storage.ragged import Ragged
from teacher.beam import BATCH_SENTENCES, BeamTeacher
from teacher.rnng import Rnng
from teacher.teacher_config import BeamConfig, TeacherConfig, refuse_without_search
from teacher.train_teacher import described_model, load_teacher

BATCH_TOKENS = 8192
"""Number of positions computed at a time if the trees are given."""
MIXTURE_TOKENS = 1024
"""Number of positions computed at a time if a beam search gives the next-token distributions. With a vocabulary of
12,000 these distributions take 49 MB."""
BLOCK_POSITIONS = 2048
"""Limit on the number of positions of one block. A search saves its results block by block (``shared_blocks``). If one
process searches, an interruption loses at most one block. With the default beam, a block takes a minute or two."""
SEARCH_THREADS = 1
"""CPU threads of a process that searches. Another number can change the last digits of a result, and is hardly
faster."""


@contextmanager
def open_scorer(model: Path, *, device: str, checkpoint: Which, beam: Mapping[str, Any]) -> Iterator[SentenceModel]:
    """Open a teacher's run to score sentences by beam search.

    ``beam`` has those fields of ``BeamConfig`` that the user gave. The others have their defaults.

    Raises:
        RunError: If ``model`` is not a teacher's run, or has no such checkpoint.
    """
    sizes = options.build(BeamConfig, beam)
    with joined(device, threads=SEARCH_THREADS) as (world, where):
        teacher, run = load_teacher(model, where, checkpoint)
        files, settings = ModelFiles.of_run(run, checkpoint), _settings(sizes, where)
        scorer = BeamScorer(BeamTeacher(teacher, sizes), eos_id=teacher.eos_id, batch_tokens=MIXTURE_TOKENS)
        jobs = scoring_jobs(scorer, max_sentences=BATCH_SENTENCES, max_positions=BLOCK_POSITIONS)
        with shared_blocks(jobs, world, files=files, settings=settings, device=where) as blocks:
            yield SentenceModel(
                scorer=BlockScorer(blocks),
                tokenizer=Tokenizer.load(run.tokenizer_path),
                max_tokens=None,
                files=files,
                settings=settings | {"distribution": MARGINAL},
                num_processes=world.size,
                reads_one="a teacher generates single sentences, so it reads each sentence alone",
            )


@contextmanager
def score_split(
    model: Path,
    data: Place,
    *,
    split: str,
    device: str,
    checkpoint: Which,
    marginal: bool,
    beam: Mapping[str, Any],
    max_sentences: int | None = None,
    truth: Path | None = None,
) -> Iterator[ScoredSplit]:
    """Yield the log-probabilities of a split: given its trees, jointly with its trees and, if asked, without trees.

    The results of the search are in a file, which is removed when the caller's ``with`` block ends without an error. If
    the block fails, the next call need not search again.

    Args:
        model: The run directory.
        data: The dataset.
        split: Name of the split.
        device: ``auto``, ``cpu`` or ``cuda``.
        checkpoint: The checkpoint.
        marginal: Whether to add the distributions of the text without its trees, by beam search.
        beam: Those fields of ``BeamConfig`` that the user gave. The others have their defaults.
        max_sentences: Score at most this many sentences, evenly spaced.
        truth: A folder that the command ``sample-corpus`` wrote. If it is given, the divergences from the true
            probabilities are added. Cannot be combined with ``max_sentences``.

    Raises:
        ConfigError: If ``beam`` has sizes and ``marginal`` is False.
        FingerprintMismatchError: If the teacher was trained with another tokenizer or other labels.
    """
    if not marginal:
        refuse_without_search(beam, "--marginal")
    sizes = options.build(BeamConfig, beam)
    with ExitStack() as stack:
        world, where = stack.enter_context(joined(device, threads=SEARCH_THREADS if marginal else 0))
        if not marginal:
            world.refuse_several("evaluate perplexity without --marginal")
        teacher, run = load_teacher(model, where, checkpoint)
        dataset = load_dataset(data)
        _check_reads(run, dataset)
        files = ModelFiles.of_run(run, checkpoint)
        if not marginal:
            files.check_writable()
        whole = dataset.split(split)
        sentences = whole.take(spaced_sentences(whole, max_sentences))
        true = None if truth is None else Truth(truth, dataset, split)
        teacher.cache_inputs()
        blocks = None
        if marginal:
            jobs, of_search = _search_jobs(teacher, sizes, true), _settings(sizes, where)
            blocks = stack.enter_context(shared_blocks(jobs, world, files=files, settings=of_search, device=where))
        token_log_probs, action_shares, divergences = _log_probs_with_trees(teacher, sentences, true)
        log_probs = {
            GIVEN_TREE: token_log_probs,
            JOINT: Ragged(token_log_probs.values + action_shares, token_log_probs.offsets),
        }
        settings: dict[str, Any] = {"batch_tokens": BATCH_TOKENS, "device": where.type, "dtype": "float32"}
        settings |= {"tree_source": dataset.tree_source, "context": "sentence by sentence"}
        if blocks is not None:
            more, of_marginal, figures = _log_probs_without_trees(blocks, sentences.tokens)
            log_probs, divergences = log_probs | more, divergences | of_marginal
            settings |= asdict(sizes) | figures
        yield ScoredSplit(
            files=files,
            split=sentences,
            log_probs=log_probs,
            settings=settings,
            truth=true,
            divergences=divergences,
        )


def evaluate_parses(
    model: Path,
    stem: Path,
    *,
    trees_out: Path | None,
    on_error: OnError,
    device: str,
    beam: BeamConfig,
    checkpoint: Which = "best",
) -> dict[str, Any]:
    """Parse the text of a treebank, and compare the parses with its trees. Write the result; return the scores."""
    with ExitStack() as stack:
        world, where = stack.enter_context(joined(device, threads=SEARCH_THREADS))
        teacher, run = load_teacher(model, where, checkpoint)
        files, settings = ModelFiles.of_run(run, checkpoint), _settings(beam, where)
        jobs = _search_jobs(teacher, beam)
        blocks = stack.enter_context(shared_blocks(jobs, world, files=files, settings=settings, device=where))
        tokenizer = Tokenizer.load(run.tokenizer_path)
        labels = described_model(run).labels
        with Progress("read", total=None, unit="sentences") as progress:
            gold, counts = read_gold_trees(stem, tokenizer, labels, on_error=on_error, progress=progress.update)
        tokens = Ragged.from_lists([sentence.ids for sentence in gold], np.int64)
        predicted = [_phrases(row["phrases"]) for row in blocks.rows("search", {"tokens": tokens})]
        labelled = teacher.config.strategy == "top-down"
        figure = score_parses((sentence.phrases for sentence in gold), predicted, labelled=labelled)
        written: dict[str, Any] = {}
        if trees_out is not None:
            num_lost = write_parses(trees_out, gold, predicted, labels if labelled else ["TOP", "X"])
            written = {"trees_out": str(trees_out), "phrases_that_cannot_be_written": num_lost}
        evalb = _evalb_figures(gold, predicted, labels) if labelled else None
        figures = figure.to_json() | {"evalb": evalb, "treebank": counts.to_json()}
        fingerprints = {"trees": sha256_file(find_file(stem, ".mrg"))}
        result, _ = record(files, PARSES, stem.name, figures, settings=settings, fingerprints=fingerprints)
        return {"model": str(files.path), "trees": str(stem), **figures, "written": str(result)} | written


class TeacherSource:
    """A teacher's run as a ``DumpSource``."""

    kind = "a teacher's run"
    conditions: tuple[Condition, ...] = ("tree", "beam")

    def __init__(self, path: Path, beam: BeamConfig) -> None:
        self.run, self.path = open_run(path, "teacher"), path
        self._beam = beam

    def fingerprint(self) -> str:
        """Return the sha256 of what the distributions depend on: weights, sizes and labels."""
        return run_fingerprint(self.run, TeacherConfig)

    def check_reads(self, dataset: Dataset, split: str) -> None:  # noqa: ARG002  a teacher reads sentences of any length
        """Check that a dataset has the tokenizer and the labels of the teacher."""
        _check_reads(self.run, dataset)

    def load(self, dataset: Dataset, condition: Condition, device: torch.device) -> ModelAndSearch:  # noqa: ARG002
        """Return the teacher (condition ``tree``) or its beam search (condition ``beam``) as the model to dump."""
        model, _ = load_teacher(self.run.path, device)
        if condition == "tree":
            model.cache_inputs()
            return model, {}
        return BeamTeacher(model, self._beam), asdict(self._beam)


def beam_of_dump(dump: Location) -> BeamConfig:
    """Return the sizes of the search that made a dump; the defaults if no search made it."""
    schema = Manifest.read(as_folder(dump)).schema
    if schema.condition != "beam":
        return BeamConfig()
    sizes = {field.name: schema.computation.get(field.name) for field in fields(BeamConfig)}
    if not all(type(size) is int for size in sizes.values()):
        raise StoreError(
            f"{dump}: its manifest records {', '.join(f'{name} {size!r}' for name, size in sizes.items())}, expected "
            "whole numbers; dump-teacher did not write this dump, so it cannot be recomputed. Run verify without "
            "--recompute"
        )
    return BeamConfig(**sizes)  # type: ignore[arg-type]


def _check_reads(run: RunInfo, dataset: Dataset) -> None:
    """Check that a dataset has the tokenizer and the labels of the teacher.

    Raises:
        FingerprintMismatchError: If it does not.
    """
    check_tokenizer(ModelFiles.of_run(run), dataset)
    expected = tuple(described_model(run).labels)
    if dataset.labels != expected:
        found_sha256, expected_sha256 = (sha256_bytes(canonical_json(list(x)))[:12] for x in (dataset.labels, expected))
        different = sorted(set(dataset.labels) ^ set(expected))
        raise FingerprintMismatchError(
            f"{dataset.location}: the sha256 of its labels is {found_sha256}, but {run.path} was trained with "
            f"{expected_sha256}. The labels differ in {', '.join(different) or 'their order'}; give the dataset that "
            "the teacher was trained on, or build one from the same training trees"
        )


class BeamScorer(NextTokenScorer):
    """Computes the log-probability of each token given the tokens before it, by beam search."""

    model: BeamTeacher

    def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
        """See ``Scorer.log_probs``."""
        found = self.model.search.search(Ragged.from_lists(sentences, np.int64))
        return [row.astype(np.float32) for row in found.token_log_probs]


@torch.no_grad()
def _log_probs_with_trees(
    model: Rnng, split: Split, truth: Truth | None
) -> tuple[Ragged, np.ndarray, dict[str, Ragged]]:
    """Return log-probabilities given the trees, and divergences from the truth.

    Returns:
        Three results. The first is the log-probability of each token, float32. The second is float32 ``[P]``: for each
        token, the sum of the log-probabilities of the actions after the previous token. The third maps the name of the
        distribution to the divergences, and is empty without a truth.
    """
    divergences = np.zeros(split.num_positions)
    token_log_probs, shares = (np.zeros(split.num_positions, np.float32) for _ in range(2))
    offsets = split.position_offsets
    for first, stop in consecutive_batches(np.diff(offsets), BATCH_TOKENS):
        rows = np.arange(first, stop)
        schedule = model.prepare(split.tokens.take(rows), split.actions.take(rows))
        states, action_log_probs = model.states_and_action_log_probs(schedule)
        token_log_probs[offsets[first] : offsets[stop]] = log_probs_of(model, states, schedule.gold)
        if truth is not None:
            divergences[offsets[first] : offsets[stop]] = truth.divergences(model, states, split.tokens.take(rows))
        is_shift = schedule.actions.values == SHIFT
        # The actions up to the SHIFT of a token count for its position. The REDUCE of TOP counts for the last position.
        position = np.cumsum(is_shift) - is_shift
        position[schedule.actions.offsets[1:] - 1] -= 1
        np.add.at(shares, offsets[first] + position, action_log_probs.values)
    measured = {} if truth is None else {GIVEN_TREE: Ragged(divergences, offsets)}
    return Ragged(token_log_probs, offsets), shares, measured


def _log_probs_without_trees(
    blocks: SharedBlocks, tokens: Ragged
) -> tuple[dict[str, Ragged], dict[str, Ragged], dict[str, Any]]:
    """Return log-probabilities of sentences without their trees, divergences from the truth, and search statistics.

    The first two results are dictionaries, whose keys are the names of the distributions. A sentence of n tokens has
    n + 1 values. If the search finds no complete hypothesis of a sentence, it closes the best incomplete one. Then the
    prefix probability at ``<eos>`` is the joint probability of the sentence and this one parse.
    """
    found = list(blocks.rows("search", {"tokens": tokens}))

    def ragged(name: str) -> Ragged:
        return Ragged.from_lists([row[name] for row in found], np.float64)

    prefixes, parses = ragged("prefix_log_probs"), ragged("parse_log_probs").values
    is_complete = np.isfinite(prefixes.values[prefixes.offsets[1:] - 1])
    prefixes.values[prefixes.offsets[1:][~is_complete] - 1] = parses[~is_complete]
    steps = [np.diff(row, prepend=0.0) for row in prefixes]
    log_probs = {MARGINAL: ragged("token_log_probs"), PREFIX: Ragged.from_lists(steps, np.float64)}
    divergences = {MARGINAL: ragged("divergences")} if found and "divergences" in found[0] else {}
    figures = {
        "mean_num_effective": float(ragged("num_effective").values.mean()),
        "num_incomplete_sentences": int((~is_complete).sum()),
    }
    return log_probs, divergences, figures


def _search_jobs(model: Rnng, beam: BeamConfig, truth: Truth | None = None) -> dict[str, Job]:
    """Return the job ``search``. It computes fields of ``BeamResult`` and, if ``truth`` is given, divergences from it.

    The field ``phrases`` has three numbers for each phrase of a sentence's parse: label, start and stop.
    """
    mixtures = BeamTeacher(model, beam)
    per_position = ("token_log_probs", "prefix_log_probs", "num_effective")

    def compute(inputs: Rows, _: NDArray[np.int64]) -> Rows:
        tokens = inputs["tokens"]
        result = mixtures.search.search(tokens, with_states=truth is not None)
        found = {name: getattr(result, name) for name in per_position}
        found["parse_log_probs"] = Ragged.from_lengths(result.parse_log_probs, np.ones(len(tokens), np.int64))
        found["phrases"] = Ragged.from_lists([np.ravel(phrases) for phrases in result.phrases], np.int64)
        if truth is not None and result.states is not None:
            divergences = truth.divergences(mixtures, result.states, tokens)
            found["divergences"] = Ragged(divergences, result.token_log_probs.offsets)
        return found

    job = Job(
        compute,
        per_position=(*per_position, *["divergences"] * (truth is not None)),
        others=("parse_log_probs", "phrases"),
        max_sentences=BATCH_SENTENCES,
        max_positions=BLOCK_POSITIONS,
    )
    return {"search": job}


def _phrases(numbers: NDArray[np.int64]) -> list[TokenPhrase]:
    """Return the phrases that ``_search_jobs`` gives as numbers."""
    return [(label, start, stop) for label, start, stop in numbers.reshape(-1, 3).tolist()]


def _settings(beam: BeamConfig, where: torch.device) -> dict[str, Any]:
    return {"device": where.type, "dtype": "float32", **asdict(beam)}


def _evalb_figures(
    sentences: Sequence[TokenSentence], predicted: Sequence[Sequence[TokenPhrase] | None], labels: Sequence[str]
) -> dict[str, Any]:
    """Return the scores by the rules of EVALB, over spans of characters."""
    of_all, up_to_cut_off = score_by_evalb(
        GoldAndPredicted(
            tags=sentence.sentence.tree.tags,
            spans=words,
            gold=[
                (label, words[start][0], words[stop - 1][1]) for label, start, stop in sentence.sentence.tree.phrases
            ],
            predicted=None
            if phrases is None
            else [(labels[label], tokens[start][0], tokens[stop - 1][1]) for label, start, stop in phrases],
        )
        for sentence, phrases in zip(sentences, predicted, strict=True)
        for words, tokens in [(sentence.sentence.spans, sentence.spans)]
    )
    return {"all": of_all.to_json(), f"at_most_{CUT_OFF}_words": up_to_cut_off.to_json()}


def write_parses(
    stem: Path,
    sentences: Sequence[TokenSentence],
    predicted: Sequence[Sequence[TokenPhrase] | None],
    labels: Sequence[str],
) -> int:
    """Write one predicted tree per line of ``STEM.mrg``, and its text on the same line of ``STEM.txt``.

    ``import-trees`` and ``build-dataset`` read this pair of files. Both are replaced atomically. A sentence without a
    parse is written with all words under TOP, so that line n is always sentence n. In each parse, and in ``labels``,
    TOP is first.

    Returns:
        The number of phrases that cannot be written. Such a phrase has a phrase of the same label as its only child,
        ends inside a character, or has only a space as its text.

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
