"""``build-dataset``: trees and text to token ids and oracle actions, every sentence checked or counted by reason.

Held-out splits are read first, so that each block of train can be compared with them as it comes. The labels are those
of the sentences of train that are kept, in alphabetical order; what dev and test have beyond them is settled at the
end. The controls on structure replace the actions of the finished splits, so that they hold exactly the sentences of
the given trees.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.blocks import BLOCK_SENTENCES, Block, BlockBuilder, BlockPool, SentenceFilter
from pipeline.corpus.dataset.controls import RIGHT_LABEL, make_right_branching, shuffle
from pipeline.corpus.dataset.dataset import Trees, check_absent, token_dtype, write_dataset
from pipeline.corpus.dataset.duplicates import Duplicates, HeldOut
from pipeline.corpus.dataset.oracle import FIRST_NT
from pipeline.corpus.dataset.split_builder import SplitBuilder, renumber
from pipeline.corpus.dataset.split_plan import Part, SplitPlan, plan_splits
from pipeline.corpus.dataset.split_statistics import split_statistics
from pipeline.corpus.dataset.token_trees import LabelNumbers, UnseenLabels, no_sentence_left
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.documents import documents_array, wrong_length
from pipeline.corpus.text.text_files import OnError
from pipeline.corpus.trees.readers import RawPair, read_pairs
from pipeline.corpus.trees.trees import ROOT
from pipeline.runtime.workers import usable_cores
from storage.errors import ConfigError
from storage.fingerprints import Json, sha256_bytes, sha256_file

Stems = Path | tuple[Path, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildConfig:
    """What ``build-dataset`` reads and writes.

    A STEM is read as STEM.mrg, STEM.txt and, where there are any, STEM.docs and STEM.documents.tsv, each of them or its
    .gz. Several are read one after the other.
    """

    train: Stems
    """STEMs of the training trees and text; the labels are theirs."""
    dev: Stems = ()
    """STEMs of the development trees and text; or ``dev_share``."""
    tokenizer: Path
    """A tokenizer.json."""
    out: Path | str
    """The dataset to write; nothing may be there."""
    test: Stems = ()
    """STEMs of the test trees and text."""
    dev_share: float = 0.0
    """Of the training trees, in whole documents: the share to keep back as dev."""
    test_share: float = 0.0
    """As ``dev_share``, for test."""
    trees: Trees = "given"
    """"given"; or a control: "right", right-branching with one label, or "shuffled", another sentence's tree."""
    seed: int = 1
    """Seed of the shuffle, and of the documents that are kept back."""
    on_error: OnError = "stop"
    """What a malformed tree or line does: "stop", or "skip" and count."""
    unseen_labels: UnseenLabels = "drop"
    """What a label of dev or test that train lacks does: "drop" its sentence and count it; "map": read it as the most
    frequent label of train and count it; "refuse"."""
    drop_duplicates: Duplicates = "none"
    """Which duplicates of dev and test are left out of train: "none", "exact" ones, or exact and "near" ones. They are
    counted in any case."""
    min_words: int = 0
    """Shortest sentence, of any split, in white-space-separated strings."""
    max_words: int = 0
    """Longest sentence; 0 is no limit."""
    max_tokens: int = 0
    """Longest sentence in tokens; 0 is no limit."""
    workers: int = 0
    """Processes; 0: one a core. The dataset does not depend on it."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value!r}, expected one of {', '.join(get_args(allowed))}"
            for name, value, allowed in (
                ("trees", self.trees, Trees),
                ("on_error", self.on_error, OnError),
                ("unseen_labels", self.unseen_labels, UnseenLabels),
                ("drop_duplicates", self.drop_duplicates, Duplicates),
            )
            if value not in get_args(allowed)
        ]
        if self.seed < 0:
            problems.append(f"seed is {self.seed}, expected at least 0")
        problems += [
            f"{name} is {value}, expected at least 0"
            for name in ("min_words", "max_words", "max_tokens", "workers")
            if (value := getattr(self, name)) < 0
        ]
        if self.max_words and self.min_words > self.max_words:
            problems.append(f"min_words is {self.min_words}, more than max_words, {self.max_words}")
        problems += self._problems_of_splits()
        if problems:
            raise ConfigError("build-dataset: " + "; ".join(problems))

    def _problems_of_splits(self) -> Iterator[str]:
        if not self.stems.get("train"):
            yield "no train; name the STEM of training trees"
        for name, is_needed in (("dev", True), ("test", False)):
            share = self.shares.get(name, 0.0)
            if share and name in self.stems:
                yield f"both {name} and {name}_share, expected one of them"
            if is_needed and not share and name not in self.stems:
                yield f"neither {name} nor {name}_share, expected one of them"
        if min(self.dev_share, self.test_share) < 0 or not self.dev_share + self.test_share < 1:
            yield (
                f"dev_share is {self.dev_share:g} and test_share {self.test_share:g}, expected at least 0 each, and "
                "less than 1 together"
            )

    @property
    def stems(self) -> dict[str, tuple[Path, ...]]:
        """STEMs by split, of splits that have any."""
        given = {"train": self.train, "dev": self.dev, "test": self.test}
        found = {name: (stems,) if isinstance(stems, Path) else tuple(stems) for name, stems in given.items()}
        return {name: stems for name, stems in found.items() if stems}

    @property
    def shares(self) -> dict[str, float]:
        """Shares of train by split, of splits that are made so."""
        return {name: share for name, share in (("test", self.test_share), ("dev", self.dev_share)) if share}


def build_dataset(config: BuildConfig, progress: Callable[[int], None] | None = None) -> dict[str, Json]:
    """Build a dataset; return what the command prints: sizes and counts by reason of each split.

    Args:
        config: What to do.
        progress: Called with the number of sentences done since the last call.

    Raises:
        InputError: If a file is missing or malformed, trees and text do not pair, nothing is left of a split, dev or
            test have labels that train lacks and these are refused, or documents are needed and not known.
        StoreError: If there is something at ``out``, or it cannot be written.
        WorkerError: If a worker process was killed.
    """
    check_absent(config.out)
    tokenizer = Tokenizer.load(config.tokenizer)
    plans = plan_splits(config.stems, config.shares, seed=config.seed)
    built = _read(config, tokenizer, plans, progress)
    arrays, labels = _settle(config, tokenizer, plans, built)
    for number, (name, split) in enumerate(arrays.items()):
        if config.trees == "shuffled":
            num_kept_own = shuffle(split, np.random.default_rng([config.seed, number]))
            built[name].counts.repaired["own tree kept: no other sentence of that length"] += num_kept_own
        elif config.trees == "right":
            make_right_branching(split)
    if config.trees == "right":
        labels = (ROOT, RIGHT_LABEL)
    counts = {name: builder.to_json() for name, builder in built.items()}
    statistics = {name: split_statistics(split, labels, plans[name].documents) for name, split in arrays.items()}
    for name, split in arrays.items():
        split["documents"] = documents_array(plans[name].documents)
    sha256 = write_dataset(
        config.out,
        arrays,
        counts=counts,
        statistics=statistics,
        tokenizer=tokenizer,
        labels=labels,
        trees=config.trees,
        tree_source=_tree_source(config, plans),
    )
    summary: dict[str, Json] = {
        name: {
            "num_sentences": len(split["num_words"]),
            "num_tokens": len(split["tokens"]),
            "num_documents": len(plans[name].documents) or "not known",
            **counts[name],
        }
        for name, split in arrays.items()
    }
    return {"dataset": str(config.out), "sha256": sha256, "num_labels": len(labels), **summary}


def _read(
    config: BuildConfig,
    tokenizer: Tokenizer,
    plans: Mapping[str, SplitPlan],
    progress: Callable[[int], None] | None,
) -> dict[str, SplitBuilder]:
    """Return the splits, all labels numbered as they came; dev and test are read before train."""
    keep = SentenceFilter(min_words=config.min_words, max_words=config.max_words, max_tokens=config.max_tokens)
    builder = BlockBuilder(tokenizer=tokenizer, on_error=config.on_error, keep=keep)
    labels = {ROOT: 0}
    built = {name: SplitBuilder(token_dtype(tokenizer.vocab_size), labels) for name in plans}
    with BlockPool(builder, config.workers or usable_cores()) as pool:
        for name in sorted(plans, key="train".__eq__):
            split, is_train = built[name], name == "train"
            held_out = HeldOut([built[other].hashes for other in plans if other != name]) if is_train else None
            for part in plans[name].parts:
                for block in pool.build(_blocks(part, config.on_error)):
                    is_kept = np.ones(len(block.texts), bool)
                    if held_out is not None:
                        is_kept = split.drop_duplicates(block, held_out, config.drop_duplicates)
                    split.add(block, part.document_ids, keep_shingles=not is_train, is_kept=is_kept)
                    if progress is not None:
                        progress(block.counts.num_trees)
            if not split.num_kept:
                raise no_sentence_left(plans[name].trees, split.counts)
    return built


def _blocks(part: Part, on_error: OnError) -> Iterator[Block]:
    pairs = _pairs(part, on_error)
    while batch := list(islice(pairs, BLOCK_SENTENCES)):
        yield Block(path=part.files.trees, pairs=batch)


def _pairs(part: Part, on_error: OnError) -> Iterator[RawPair]:
    """Yield the trees of a part's documents, each with its text."""
    files, ids = part.files, part.document_ids
    num_trees = 0
    for pair in read_pairs(files.trees, files.texts, on_error=on_error):
        num_trees += 1
        if ids is None or (pair.number < len(ids) and ids[pair.number]):
            yield pair
    if ids is not None and files.documents is not None and num_trees != len(ids):
        raise wrong_length(files.documents, len(ids), num_trees)


def _settle(
    config: BuildConfig, tokenizer: Tokenizer, plans: Mapping[str, SplitPlan], built: Mapping[str, SplitBuilder]
) -> tuple[dict[str, dict[str, NDArray[Any]]], tuple[str, ...]]:
    """Return the arrays of each split, labels numbered for good, and the labels."""
    arrays = {name: builder.finish() for name, builder in built.items()}
    met = built["train"].labels
    frequencies = _frequencies(arrays["train"]["actions"], met)
    labels = (ROOT, *sorted(frequencies))
    numbers = LabelNumbers(labels, frequencies)
    order = np.array([numbers.numbers.get(label, -1) for label in met], np.int16)
    renumber(arrays["train"], order)
    for name, builder in built.items():
        if name == "train":
            continue
        is_kept = builder.settle_unseen(arrays[name], numbers, order, config.unseen_labels, tokenizer)
        numbers.check_refused(plans[name].trees)
        if not len(arrays[name]["num_words"]):
            raise no_sentence_left(plans[name].trees, builder.counts)
        builder.count_in_train(built["train"], is_kept)
    for name, builder in built.items():
        builder.tally(arrays[name])
    return arrays, labels


def _frequencies(actions: NDArray[np.int16], labels: Sequence[str]) -> dict[str, int]:
    """Return how many phrases there are of each label that has any, TOP left out."""
    counts = np.zeros(len(labels), np.int64)
    for i in range(0, len(actions), 1 << 20):
        some = actions[i : i + (1 << 20)]
        counts += np.bincount(some[some >= FIRST_NT] - FIRST_NT, minlength=len(labels))
    return {label: count for label, count in zip(labels, counts.tolist(), strict=True) if count and label != ROOT}


def _tree_source(config: BuildConfig, plans: Mapping[str, SplitPlan]) -> str:
    if config.trees == "right":
        return "right-branching"
    files = [part.files for plan in plans.values() for part in plan.parts]
    digest = sha256_bytes(" ".join(sha256_file(of_stem.trees) for of_stem in files).encode())
    seed = f" with seed {config.seed}" if config.trees == "shuffled" else ""
    parsers = sorted({of_stem.parsed_by for of_stem in files} - {""})
    parsed = f", parsed by {'; '.join(parsers)}" if parsers else ""
    return f"{config.trees}{seed}, files of trees sha256 {digest[:12]}{parsed}"
