"""Turn trees and texts into arrays of token ids and actions, block by block, in this process or in several.

A ``Block`` has some trees of one file with their texts. It becomes a ``BuiltBlock``, which has flat arrays. These
arrays depend only on the block, so the dataset is byte-identical for any number of processes. For the same reason each
block has its own numbers for its labels. ``SplitBuilder`` replaces these numbers when all labels of train are known.

A process takes a third of a second to start, so a corpus of a few blocks is built without worker processes.
"""

import gc
import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from itertools import chain, compress, islice
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.duplicates import SentenceHashes, hash_sentences
from pipeline.corpus.dataset.oracle import check_num_labels, tree_to_actions
from pipeline.corpus.dataset.token_trees import NOT_REVERSIBLE, FittedSentence, fit_to_tokens
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.trees.readers import Counts, RawPair, read_sentence
from pipeline.corpus.trees.trees import ROOT
from pipeline.runtime.workers import WorkerError, start_pool, usable_cores

BLOCK_SENTENCES: Final = 500
_FEW_BLOCKS: Final = 4
_BLOCKS_AHEAD: Final = 3
"""Maximum number of blocks per process that are being built or wait to be yielded."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Block:
    """Some trees of one file, not yet parsed, with their texts."""

    path: Path
    """The tree file, for messages."""
    pairs: list[RawPair]
    document_ids: NDArray[np.int32]
    """``[len(pairs)]``: the document of each pair, numbered from 1; 0 if the documents are not known."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BuiltBlock:
    """The M kept sentences of a block."""

    tokens: NDArray[Any]
    """Token ids, in the dtype in which the dataset stores them."""
    actions: NDArray[np.int16]
    """Oracle actions as integers: SHIFT is 0, REDUCE is 1, and NT(``labels[i]``), which opens a phrase, is 2 + i."""
    labels: tuple[str, ...]
    """TOP, the label of every root, and then the other labels in order of first appearance."""
    columns: dict[str, NDArray[np.int32]]
    """Arrays ``[M]`` by name: ``document_ids``, ``num_tokens``, ``num_actions``, ``num_words``, ``num_bytes``,
    ``num_crossing`` and ``num_lost``. The last two count the tokens that cross the edge of a phrase, and the phrases
    that get no token (``TokenTree``)."""
    text: bytes
    """The sentences in UTF-8, with a line end after each."""
    hashes: SentenceHashes
    counts: Counts
    """The number of trees that were read, kept and dropped."""

    def __len__(self) -> int:
        return len(self.columns["num_tokens"])

    def select(self, is_kept: NDArray[np.bool_]) -> "BuiltBlock":
        """Return the block with only the sentences where ``is_kept``, ``[M]``, is true. ``counts`` is not changed."""
        if is_kept.all():
            return self
        lines = [line + b"\n" for line in self.text.split(b"\n")[:-1]]
        return replace(
            self,
            tokens=self.tokens[np.repeat(is_kept, self.columns["num_tokens"])],
            actions=self.actions[np.repeat(is_kept, self.columns["num_actions"])],
            columns={name: column[is_kept] for name, column in self.columns.items()},
            text=b"".join(compress(lines, is_kept.tolist())),
            hashes=SentenceHashes(self.hashes.texts[is_kept], self.hashes.shingles.take(np.flatnonzero(is_kept))),
        )


class BlockBuilder:
    """Build one block at a time, with the tokenizer and the options of the command."""

    def __init__(self, tokenizer: Tokenizer, config: BuildConfig) -> None:
        self.tokenizer, self.config = tokenizer, config

    def build(self, block: Block) -> BuiltBlock:
        """Return the kept sentences of a block, with their token ids and actions.

        Raises:
            InputError: At the first malformed line, if ``on_error`` is "stop".
        """
        counts = Counts()
        sentences, document_ids = [], []
        for pair, document_id in zip(block.pairs, block.document_ids.tolist(), strict=True):
            sentence = read_sentence(block.path, pair, on_error=self.config.on_error, counts=counts)
            if sentence is not None:
                sentences.append(sentence)
                document_ids.append(document_id)
        kept: list[FittedSentence] = []
        kept_documents: list[int] = []
        for fitted, document_id in zip(fit_to_tokens(sentences, self.tokenizer), document_ids, strict=True):
            if (reason := self._reason_to_drop(fitted)) is not None:
                counts.num_kept -= 1
                counts.dropped[reason] += 1
            elif fitted is not None:
                kept.append(fitted)
                kept_documents.append(document_id)
        labels = {ROOT: 0}
        actions: list[int] = []
        num_actions = []
        for each in kept:
            phrases = [(labels.setdefault(label, len(labels)), start, stop) for label, start, stop in each.tree.phrases]
            found = tree_to_actions(phrases, len(each.ids))
            actions += found
            num_actions.append(len(found))
        check_num_labels(str(block.path), len(labels))
        texts = [each.sentence.text for each in kept]
        encoded = [text.encode() for text in texts]
        columns = {
            "document_ids": kept_documents,
            "num_tokens": [len(each.ids) for each in kept],
            "num_actions": num_actions,
            "num_words": [text.count(" ") + 1 for text in texts],
            "num_bytes": [len(text) for text in encoded],
            "num_crossing": [each.tree.num_crossing for each in kept],
            "num_lost": [each.tree.num_lost for each in kept],
        }
        dtype = token_dtype(self.tokenizer.vocab_size)
        return BuiltBlock(
            tokens=np.fromiter(chain.from_iterable(each.ids for each in kept), dtype),
            actions=np.array(actions, np.int16),
            labels=tuple(labels),
            columns={name: np.array(column, np.int32) for name, column in columns.items()},
            text=b"".join(text + b"\n" for text in encoded),
            hashes=hash_sentences(texts),
            counts=counts,
        )

    def _reason_to_drop(self, fitted: FittedSentence | None) -> str | None:
        if fitted is None:
            return NOT_REVERSIBLE
        config, num_words = self.config, fitted.sentence.text.count(" ") + 1
        if num_words < config.min_words:
            return f"fewer than {config.min_words} words"
        if config.max_words and num_words > config.max_words:
            return f"more than {config.max_words} words"
        if config.max_tokens and len(fitted.ids) > config.max_tokens:
            return f"more than {config.max_tokens} tokens"
        return None


class BlockPool:
    """Build blocks in order, in this process or in worker processes. Use it as a context manager."""

    def __init__(self, builder: BlockBuilder) -> None:
        self._builder = builder
        self.on_error = builder.config.on_error
        self._num_workers = builder.config.workers or usable_cores()
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def build(self, blocks: Iterable[Block]) -> Iterator[BuiltBlock]:
        """Yield the built blocks, in the order of ``blocks``.

        Raises:
            InputError: As ``BlockBuilder.build``, or if the iterable ``blocks`` raises it.
            WorkerError: If a worker process was killed.
        """
        blocks = iter(blocks)
        first = list(islice(blocks, _FEW_BLOCKS))
        if self._executor is None and (self._num_workers == 1 or len(first) < _FEW_BLOCKS):
            yield from map(self._builder.build, chain(first, blocks))
            return
        if self._executor is None:
            builder = self._builder
            self._executor = start_pool(self._num_workers, _start_worker, builder.tokenizer.data, builder.config)
        waiting: deque[Future[BuiltBlock]] = deque()
        try:
            for block in chain(first, blocks):
                waiting.append(self._executor.submit(_build, block))
                if len(waiting) >= _BLOCKS_AHEAD * self._num_workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool as error:
            raise WorkerError(
                "build-dataset: a worker process was killed (out of memory?); nothing was written. Run the command "
                "again, with fewer --workers if memory is short"
            ) from error


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """Return the dtype in which token ids are stored."""
    return np.dtype(np.uint16 if vocab_size <= 65_535 else np.uint32)


_worker: list[BlockBuilder] = []
"""The builder of a worker process; empty in the main process."""


def _start_worker(_: int, tokenizer: bytes, config: BuildConfig) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.disable()  # a block leaves no reference cycles, and searching for them takes 6 % of the time
    _worker[:] = [BlockBuilder(Tokenizer(tokenizer), config)]


def _build(block: Block) -> BuiltBlock:
    return _worker[0].build(block)
