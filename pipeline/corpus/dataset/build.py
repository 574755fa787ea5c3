"""Run ``build-dataset``: turn trees and text into token ids and oracle actions.

``split_sources`` chooses the files and documents of each split, ``blocks`` turns their sentences into arrays,
``split_builder`` collects the arrays, and ``dataset_store`` writes the result. Every sentence is stored, or dropped and
counted by reason.

Dev and test are read before train, so that duplicates of their sentences can be found while train is read. The arrays
of dev and test wait in memory until train has been read and its labels are known. The labels of the dataset are TOP and
the labels in the kept training sentences, in alphabetical order.

A control dataset (``--trees shuffled`` or ``right``) has exactly the same sentences as a dataset with the given trees.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import islice
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.blocks import BLOCK_SENTENCES, Block, BlockBuilder, BlockPool, BuiltBlock
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import check_absent, write_dataset
from pipeline.corpus.dataset.duplicates import HeldOut
from pipeline.corpus.dataset.folds import assign_folds
from pipeline.corpus.dataset.oracle import check_num_labels, right_branching, tree_to_actions
from pipeline.corpus.dataset.split_builder import SplitBuilder
from pipeline.corpus.dataset.split_sources import SplitSources, StemSource, choose_sources
from pipeline.corpus.dataset.split_statistics import split_statistics
from pipeline.corpus.dataset.token_trees import no_sentence_left
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.documents import documents_array, words_of_stem, wrong_length
from pipeline.corpus.text.text_files import OnError
from pipeline.corpus.text.word_budget import PARSER, RECORD_SUFFIX, TOKENIZER, TrainingText, read_record
from pipeline.corpus.trees.readers import RawPair, read_pairs
from pipeline.corpus.trees.trees import ROOT
from storage.fingerprints import Json, sha256_bytes, sha256_file
from storage.ragged import Ragged

RIGHT_LABEL: Final = "X"
"""The only label of right-branching trees other than TOP."""
_ROWS_AT_ONCE: Final = 20_000


def build_dataset(config: BuildConfig, progress: Callable[[int], None] | None = None) -> dict[str, Json]:
    """Build a dataset; return what the command prints: the sizes of each split, and what was dropped, by reason.

    Args:
        config: The options of the command.
        progress: Called with the number of trees processed since the last call.

    Raises:
        InputError: If a file is missing or malformed; if trees and text do not match; if a split is left without a
            sentence; if dev or test has labels unseen in training and ``unseen_labels`` is "refuse"; if
            ``--dev-share`` or ``--test-share`` is given, but the documents are not known; or if there are too few
            documents for the folds (``assign_folds``).
        StoreError: If something exists at ``out``, or the dataset cannot be written.
        WorkerError: If a worker process was killed.
    """
    check_absent(config.out)
    tokenizer = Tokenizer.load(config.tokenizer)
    sources = choose_sources(config.stems, config.shares, seed=config.seed)
    builders = _read(config, tokenizer, sources, progress)
    labels = (ROOT, *sorted(builders["train"].label_counts))
    check_num_labels(sources["train"].trees, len(labels))
    arrays = {name: builder.finish(labels) for name, builder in builders.items()}
    if config.folds:
        train = arrays["train"]
        train["folds"] = assign_folds(
            train["document_ids"],
            np.diff(train["offsets"]),
            np.concatenate(builders["train"].text_hashes),
            num_folds=config.folds,
            seed=config.seed,
            where=sources["train"].trees,
        )
    for number, (name, split) in enumerate(arrays.items()):
        if config.trees == "shuffled":
            num_unchanged = shuffle_trees(split, np.random.default_rng([config.seed, number]))
            builders[name].counts.repaired["own tree kept: no other sentence of that length"] += num_unchanged
        elif config.trees == "right":
            make_right_branching(split)
    if config.trees == "right":
        labels = (ROOT, RIGHT_LABEL)
    counts = {name: builder.to_json() for name, builder in builders.items()}
    statistics = {name: split_statistics(split, labels, sources[name].documents) for name, split in arrays.items()}
    text_sha256 = str(counts["train"]["text_sha256"])
    trained_on = _trained_on(config, tokenizer, sources["train"], arrays["train"], text_sha256, statistics["train"])
    for name, split in arrays.items():
        split["documents"] = documents_array(sources[name].documents)
    sha256 = write_dataset(
        config.out,
        arrays,
        counts=counts,
        statistics=statistics,
        tokenizer=tokenizer,
        labels=labels,
        trees=config.trees,
        tree_source=_tree_source(config, sources),
        trained_on=trained_on,
    )
    summary: dict[str, Json] = {
        name: {
            "num_sentences": len(split["num_words"]),
            "num_tokens": len(split["tokens"]),
            "num_documents": len(sources[name].documents) or "not known",
            **counts[name],
        }
        for name, split in arrays.items()
    }
    return {"dataset": str(config.out), "sha256": sha256, "num_labels": len(labels), **summary}


def _read(
    config: BuildConfig,
    tokenizer: Tokenizer,
    sources: Mapping[str, SplitSources],
    progress: Callable[[int], None] | None,
) -> dict[str, SplitBuilder]:
    """Return a ``SplitBuilder`` with the kept sentences of each split."""
    builders = {name: SplitBuilder() for name in sources}
    train = builders["train"]
    waiting: dict[str, list[BuiltBlock]] = {}
    with BlockPool(BlockBuilder(tokenizer, config)) as pool:
        for name in sources:
            if name != "train":
                waiting[name] = list(_read_split(pool, sources[name], builders[name], progress))
        held_out = HeldOut([block.hashes for blocks in waiting.values() for block in blocks])
        for block in _read_split(pool, sources["train"], train, progress):
            train.add(train.without_duplicates(block, held_out, config.drop_duplicates))
    for name, blocks in waiting.items():
        builder = builders[name]
        for block in blocks:
            builder.add(builder.with_labels_of(train, block, config.unseen_labels))
        builder.check_labels(sources[name].trees, train)
        if not builder.counts.num_kept:
            raise no_sentence_left(sources[name].trees, builder.counts)
        builder.count_in_train(train)
    return builders


def _read_split(
    pool: BlockPool, sources: SplitSources, builder: SplitBuilder, progress: Callable[[int], None] | None
) -> Iterator[BuiltBlock]:
    """Yield the blocks of a split, and add their counts to ``builder``."""
    for stem in sources.stems:
        for block in pool.build(_blocks(stem, pool.on_error)):
            builder.count(block)
            yield block
            if progress is not None:
                progress(block.counts.num_trees)
    if not builder.counts.num_kept:
        raise no_sentence_left(sources.trees, builder.counts)


def _blocks(stem: StemSource, on_error: OnError) -> Iterator[Block]:
    pairs, ids = _pairs(stem, on_error), stem.document_ids
    while batch := list(islice(pairs, BLOCK_SENTENCES)):
        document_ids = np.zeros(len(batch), np.int32) if ids is None else ids[[pair.number for pair in batch]]
        yield Block(path=stem.files.trees, pairs=batch, document_ids=document_ids)


def _pairs(stem: StemSource, on_error: OnError) -> Iterator[RawPair]:
    """Yield the trees of the documents that belong to the split, each tree with its text."""
    files, ids = stem.files, stem.document_ids
    num_trees = 0
    for pair in read_pairs(files.trees, files.texts, on_error=on_error):
        num_trees += 1
        if ids is None or (pair.number < len(ids) and ids[pair.number]):
            yield pair
    if ids is not None and files.documents is not None and num_trees != len(ids):
        raise wrong_length(files.documents, len(ids), num_trees)


def shuffle_trees(arrays: dict[str, NDArray[Any]], generator: np.random.Generator) -> int:
    """Give each sentence the tree of another sentence with the same number of tokens.

    Returns:
        The number of sentences that keep their own tree.
    """
    source = permutation_within_lengths(np.diff(arrays["offsets"]), generator)
    actions = Ragged(arrays["actions"], arrays["action_offsets"])
    # The actions are moved in pieces to save memory, because moving them takes an index of 8 bytes per action.
    pieces = [actions.take(source[i : i + _ROWS_AT_ONCE]).values for i in range(0, len(source), _ROWS_AT_ONCE)]
    shuffled = Ragged.from_lengths(np.concatenate(pieces), actions.lengths[source])
    arrays["actions"], arrays["action_offsets"] = shuffled.values, shuffled.offsets
    return int((source == np.arange(len(source))).sum())


def permutation_within_lengths(lengths: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return for each sentence the number of the sentence whose tree it takes.

    All sentences of the same length are put in a random circle, and each takes the tree of the sentence before it. A
    sentence keeps its own tree only if no other sentence has its length.

    Args:
        lengths: int64 ``[M]``, tokens per sentence.
        generator: Source of randomness.

    Returns:
        int64 ``[M]``, a permutation.
    """
    order = generator.permutation(len(lengths))
    order = order[np.argsort(lengths[order], kind="stable")]
    source = np.empty_like(order)
    for group in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
        source[group] = np.roll(group, 1)
    return source


def make_right_branching(arrays: dict[str, NDArray[Any]]) -> None:
    """Replace the trees of a split by right-branching trees with the labels TOP and ``RIGHT_LABEL``."""
    lengths = np.diff(arrays["offsets"])
    by_length = {n: np.array(tree_to_actions(right_branching(n), n), np.int16) for n in np.unique(lengths).tolist()}
    actions = Ragged.from_lists([by_length[n] for n in lengths.tolist()], np.int16)
    arrays["actions"], arrays["action_offsets"] = actions.values, actions.offsets


def _trained_on(
    config: BuildConfig,
    tokenizer: Tokenizer,
    train: SplitSources,
    arrays: Mapping[str, NDArray[Any]],
    text_sha256: str,
    statistics: Mapping[str, Any],
) -> list[TrainingText]:
    """Return the records of all text that the dataset depends on.

    The first record is of the text of the split train. Then come records of the texts that the tokenizer was trained
    on. If a parser or teacher made the trees, records of the texts that it was trained on follow. With
    ``--trees right``, the parser's texts are left out, because right-branching trees do not depend on a parser.
    """
    files: dict[str, int | None] = {}
    others = list(read_record(config.tokenizer, RECORD_SUFFIX, of=TOKENIZER, sha256=tokenizer.sha256))
    for stem in train.stems:
        of_stem, more = words_of_stem(stem.files.stem, stem.files.texts)
        files |= of_stem
        others += [text for text in more if config.trees != "right" or text.of != PARSER]
    text = TrainingText(
        of="text",
        name=", ".join(stem.files.texts.name for stem in train.stems),
        num_words=int(arrays["num_words"].sum(dtype=np.int64)),
        part=text_sha256,
        files=files,
        sources={name: source["licences"] for name, source in statistics["sources"].items()},
    )
    return [text, *others]


def _tree_source(config: BuildConfig, sources: Mapping[str, SplitSources]) -> str:
    """Return a phrase that says where the trees come from, for example "given, files of trees sha256 3f9a1c00b7e2"."""
    if config.trees == "right":
        return "right-branching"
    files = [stem.files for split in sources.values() for stem in split.stems]
    digest = sha256_bytes(" ".join(sha256_file(each.trees) for each in files).encode())
    seed = f" with seed {config.seed}" if config.trees == "shuffled" else ""
    parsers = sorted({each.parsed_by for each in files} - {""})
    parsed = f", parsed by {'; '.join(parsers)}" if parsers else ""
    teachers = sorted({each.sampled_from for each in files} - {""})
    sampled = f", sampled from {'; '.join(teachers)}" if teachers else ""
    return f"{config.trees}{seed}, files of trees sha256 {digest[:12]}{parsed}{sampled}"
