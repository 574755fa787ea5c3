"""The work of ``build-dataset`` on one block of sentences, and its spreading over processes.

A block goes in as text and comes out as flat arrays. Labels are numbered within the block, so that a block's outcome
depends on nothing but the block: the same bytes come out whichever process made it, and whatever their number.

A process takes a third of a second to start, so there are none for a corpus of a few blocks. Each keeps to one core.
Blocks are handed out as their turn comes, so at most a few are in memory.
"""

import gc
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.duplicates import SentenceHashes, hash_sentences
from pipeline.corpus.dataset.oracle import tree_to_actions
from pipeline.corpus.dataset.token_trees import NOT_GIVEN_BACK, FittedSentence, fit_to_tokens
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import OnError
from pipeline.corpus.trees.readers import Counts, RawPair, Sentence, read_sentence
from pipeline.corpus.trees.trees import ROOT
from pipeline.runtime.workers import WorkerError, start_pool
from storage.errors import InputError

BLOCK_SENTENCES: Final = 500
_FEW_BLOCKS: Final = 4
_BLOCKS_AHEAD: Final = 3
"""Blocks a process, handed out or done and not yet taken."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SentenceFilter:
    """Which sentences are too short or too long; 0 is no limit."""

    min_words: int = 0
    max_words: int = 0
    max_tokens: int = 0

    def reason(self, num_words: int, num_tokens: int) -> str | None:
        """Return why a sentence is left out, or None."""
        if num_words < self.min_words:
            return f"fewer than {self.min_words} words"
        if self.max_words and num_words > self.max_words:
            return f"more than {self.max_words} words"
        if self.max_tokens and num_tokens > self.max_tokens:
            return f"more than {self.max_tokens} tokens"
        return None


@dataclass(frozen=True, kw_only=True, slots=True)
class Block:
    """Some sentences of one file, as they were read."""

    path: Path
    """The file of trees, for messages."""
    pairs: list[RawPair]


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class BuiltBlock:
    """The M sentences kept of a block."""

    numbers: NDArray[np.int64]
    """``[M]``: of their trees, as ``RawPair.number``."""
    tokens: NDArray[np.uint32]
    num_tokens: NDArray[np.int64]
    """``[M]``."""
    actions: NDArray[np.int16]
    """NT(``labels[i]``) is 2 + i."""
    num_actions: NDArray[np.int64]
    """``[M]``."""
    labels: Sequence[str]
    """TOP, then in the order in which they came."""
    texts: list[str]
    hashes: SentenceHashes
    num_crossing: NDArray[np.int32]
    """``[M]``: tokens that hold parts of a phrase and of what is outside it (``alignment.TokenTree``)."""
    num_lost: NDArray[np.int32]
    """``[M]``: phrases left without a token."""
    counts: Counts


@dataclass(frozen=True, kw_only=True, slots=True)
class BlockBuilder:
    """Builds blocks, one after the other."""

    tokenizer: Tokenizer
    on_error: OnError
    keep: SentenceFilter = field(default_factory=SentenceFilter)

    def build(self, block: Block) -> BuiltBlock:
        """Return the sentences of a block over their tokens.

        Raises:
            InputError: At the first malformed line, where errors stop.
        """
        counts = Counts()
        sentences: list[Sentence] = []
        for pair in block.pairs:
            sentence = read_sentence(block.path, pair, on_error=self.on_error, counts=counts)
            if sentence is not None:
                sentences.append(sentence)
        kept: list[FittedSentence] = []
        for sentence, fitted in zip(sentences, fit_to_tokens(sentences, self.tokenizer), strict=True):
            if fitted is None:
                reason: str | None = NOT_GIVEN_BACK
            else:
                reason = self.keep.reason(sentence.text.count(" ") + 1, len(fitted.ids))
                if reason is None:
                    kept.append(fitted)
            if reason is not None:
                counts.num_kept -= 1
                counts.dropped[reason] += 1
        numbers = {ROOT: 0}
        actions: list[int] = []
        num_actions = []
        for each in kept:
            phrases = []
            for label, start, stop in each.tree.phrases:
                if (number := numbers.get(label)) is None:
                    number = numbers[label] = len(numbers)
                phrases.append((number, start, stop))
            found = tree_to_actions(phrases, len(each.ids))
            actions += found
            num_actions.append(len(found))
        texts = [each.sentence.text for each in kept]
        return BuiltBlock(
            numbers=np.array([each.sentence.number for each in kept], np.int64),
            tokens=np.fromiter(chain.from_iterable(each.ids for each in kept), np.uint32),
            num_tokens=np.array([len(each.ids) for each in kept], np.int64),
            actions=np.array(actions, np.int16),
            num_actions=np.array(num_actions, np.int64),
            labels=tuple(numbers),
            texts=texts,
            hashes=hash_sentences(texts),
            num_crossing=np.array([each.tree.num_crossing for each in kept], np.int32),
            num_lost=np.array([each.tree.num_lost for each in kept], np.int32),
            counts=counts,
        )


class BlockPool:
    """Builds blocks in order, in this process or in several; to be used as a context."""

    def __init__(self, builder: BlockBuilder, num_workers: int) -> None:
        self._builder, self._num_workers = builder, num_workers
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=True)

    def build(self, blocks: Iterable[Block]) -> Iterator[BuiltBlock]:
        """Yield the outcome of each block, in order.

        Raises:
            InputError: As ``BlockBuilder.build``, and what ``blocks`` raises.
            WorkerError: If a process ended before its time.
        """
        blocks = iter(blocks)
        first = list(islice(blocks, _FEW_BLOCKS))
        if self._executor is None and (self._num_workers == 1 or len(first) < _FEW_BLOCKS):
            yield from map(self._builder.build, chain(first, blocks))
            return
        executor = self._executor = self._executor or self._start()
        waiting: deque[Future[BuiltBlock | str]] = deque()
        try:
            for block in chain(first, blocks):
                waiting.append(executor.submit(_build, block))
                if len(waiting) >= _BLOCKS_AHEAD * self._num_workers:
                    yield _result(waiting.popleft())
            while waiting:
                yield _result(waiting.popleft())
        except BrokenProcessPool as error:
            raise WorkerError(
                "build-dataset: a worker process was killed (out of memory?); nothing was written. Run it again, with "
                "fewer --workers if memory is short"
            ) from error

    def _start(self) -> ProcessPoolExecutor:
        builder = self._builder
        return start_pool(self._num_workers, _start_worker, builder.tokenizer.data, builder.on_error, builder.keep)


_worker: list[BlockBuilder] = []
"""In a worker process: what it builds with."""


def _start_worker(_: int, tokenizer: bytes, on_error: OnError, keep: SentenceFilter) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    gc.disable()  # a block leaves no cycles behind, and looking for them is 6 % of the time
    _worker[:] = [BlockBuilder(tokenizer=Tokenizer(tokenizer), on_error=on_error, keep=keep)]


def _build(block: Block) -> BuiltBlock | str:
    """Build in a worker; what is wrong with the input comes back as its message, to be raised in its turn."""
    try:
        return _worker[0].build(block)
    except InputError as error:
        return str(error)


def _result(future: "Future[BuiltBlock | str]") -> BuiltBlock:
    built = future.result()
    if isinstance(built, str):
        raise InputError(built)
    return built
