"""A split while it grows, block by block: flat arrays of small numbers, no text and no Python objects a sentence."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.blocks import BuiltBlock
from pipeline.corpus.dataset.duplicates import EXACT, NEAR, Duplicates, HeldOut, SentenceHashes, is_among
from pipeline.corpus.dataset.oracle import FIRST_NT, actions_to_tree, tree_to_actions
from pipeline.corpus.dataset.token_trees import UNSEEN, LabelNumbers, UnseenLabels
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.trees.readers import Counts
from storage.fingerprints import Json
from storage.ragged import Ragged

_NUMBERS_AT_ONCE = 1 << 20
_OF_SENTENCES = ("document_ids", "num_words", "num_bytes", "num_crossing", "num_lost")
"""Columns of one number a sentence; the last two are summed up at the end."""


class SplitBuilder:
    """Collects one split.

    Args:
        token_dtype: What token ids are stored in.
        labels: Numbers of all labels met so far, TOP's 0, shared by the splits; grows.
    """

    def __init__(self, token_dtype: np.dtype[Any], labels: dict[str, int]) -> None:
        self.counts = Counts()
        self.duplicates: dict[str, Json] = {}
        self._tallies: dict[str, Json] = {}
        self.num_kept = 0
        self._token_dtype, self._labels = token_dtype, labels
        self._text = hashlib.sha256()
        self._text_hashes: list[NDArray[np.uint64]] = []
        self._shingles: list[NDArray[np.uint64]] = []
        self._columns: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("tokens", "num_tokens", "actions", "num_actions", *_OF_SENTENCES)
        }

    def add(
        self,
        block: BuiltBlock,
        document_ids: NDArray[np.int32] | None,
        *,
        keep_shingles: bool,
        is_kept: NDArray[np.bool_],
    ) -> None:
        """Add the sentences of a block that are kept.

        Args:
            block: What was built of it.
            document_ids: Of the trees of its file; None where documents are not known.
            keep_shingles: Whether other splits are compared with this one.
            is_kept: ``[M]``.
        """
        _add_counts(self.counts, block.counts)
        numbers = [self._labels.setdefault(label, len(self._labels)) for label in block.labels]
        renumbered = np.array([0, 1, *(FIRST_NT + number for number in numbers)], np.int16)
        texts = [text for text, kept in zip(block.texts, is_kept.tolist(), strict=True) if kept]
        encoded = [text.encode() for text in texts]
        for text in encoded:
            self._text.update(text + b"\n")
        tokens, actions = block.tokens, renumbered[block.actions]
        if len(texts) < len(is_kept):
            tokens = tokens[np.repeat(is_kept, block.num_tokens)]
            actions = actions[np.repeat(is_kept, block.num_actions)]
        ids = np.zeros(len(block.numbers), np.int32) if document_ids is None else document_ids[block.numbers]
        columns = {
            "tokens": tokens.astype(self._token_dtype),
            "num_tokens": block.num_tokens[is_kept].astype(np.int32),
            "actions": actions,
            "num_actions": block.num_actions[is_kept].astype(np.int32),
            "document_ids": ids[is_kept],
            "num_words": np.array([text.count(" ") + 1 for text in texts], np.int32),
            "num_bytes": np.array([len(text) for text in encoded], np.int32),
            "num_crossing": block.num_crossing[is_kept],
            "num_lost": block.num_lost[is_kept],
        }
        for name, values in columns.items():
            self._columns[name].append(values)
        self.num_kept += len(texts)
        self._text_hashes.append(block.hashes.texts[is_kept])
        if keep_shingles:
            self._shingles.append(block.hashes.shingles.values)

    def drop_duplicates(self, block: BuiltBlock, held_out: HeldOut, drop: Duplicates) -> NDArray[np.bool_]:
        """Count a block's duplicates of held-out sentences; return which of its sentences are kept."""
        exact, near = held_out.find(block.hashes)
        is_kept = np.ones(len(exact), bool)
        for name, reason, found, dropped in (
            ("num_exact_duplicates", EXACT, exact, drop != "none"),
            ("num_near_duplicates", NEAR, near, drop == "near"),
        ):
            number = int(found.sum())
            self.duplicates[name] = int(self.duplicates.get(name, 0)) + number  # type: ignore[arg-type]
            if dropped and number:
                is_kept &= ~found
                self.counts.dropped[reason] += number
                self.counts.num_kept -= number
        return is_kept

    @property
    def hashes(self) -> SentenceHashes:
        """Of the sentences kept; which shingle is of which sentence is not known any more."""
        shingles = np.concatenate([np.zeros(0, np.uint64), *self._shingles])
        return SentenceHashes(self.text_hashes, Ragged.from_lengths(shingles, [len(shingles)]))

    @property
    def text_hashes(self) -> NDArray[np.uint64]:
        """``[M]``."""
        return np.concatenate([np.zeros(0, np.uint64), *self._text_hashes])

    def count_in_train(self, train: "SplitBuilder", is_kept: NDArray[np.bool_]) -> None:
        """Count the sentences kept of those added that are in train, word for word."""
        is_there = is_among(self.text_hashes, np.sort(train.text_hashes))
        self.duplicates["num_in_train"] = int((is_there & is_kept).sum())

    @property
    def labels(self) -> list[str]:
        """All labels met so far, by number."""
        return list(self._labels)

    def finish(self) -> dict[str, NDArray[Any]]:
        """Return the arrays as they are stored, but for the numbers of labels; nothing can be added any more."""
        columns = {}
        for name in list(self._columns):
            columns[name] = np.concatenate(self._columns.pop(name))
        return {
            "tokens": columns["tokens"],
            "offsets": _offsets(columns["num_tokens"]),
            "actions": columns["actions"],
            "action_offsets": _offsets(columns["num_actions"]),
            **{name: columns[name] for name in _OF_SENTENCES},
        }

    def tally(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Sum up how the trees fit the tokens; what only that needs leaves the arrays."""
        actions = arrays["actions"]
        pieces = range(0, len(actions), _NUMBERS_AT_ONCE)
        self._tallies = {
            "num_crossing_tokens": int(arrays.pop("num_crossing").sum(dtype=np.int64)),
            "num_phrases": sum(int((actions[i : i + _NUMBERS_AT_ONCE] >= FIRST_NT).sum()) for i in pieces),
            "num_lost_phrases": int(arrays.pop("num_lost").sum(dtype=np.int64)),
        }

    def to_json(self) -> dict[str, Json]:
        """Return the counts by reason, the figures of the alignment, and the digest of the text that was kept."""
        return {**self.counts.to_json(), **self._tallies, **self.duplicates, "text_sha256": self._text.hexdigest()}

    def settle_unseen(
        self,
        arrays: dict[str, NDArray[Any]],
        numbers: LabelNumbers,
        order: NDArray[np.int16],
        what: UnseenLabels,
        tokenizer: Tokenizer,
    ) -> NDArray[np.bool_]:
        """Give labels their final numbers, and do to sentences with labels unseen in training what ``what`` says.

        Returns which sentences are kept.

        Args:
            arrays: Of ``finish``; changed.
            numbers: The final ones.
            order: ``[number met]``: the final number, -1 for a label unseen in training.
            what: To be done.
            tokenizer: Gives back the text of what is kept.
        """
        names = self.labels
        actions = Ragged(arrays["actions"], arrays["action_offsets"])
        is_unseen = np.concatenate([[False] * FIRST_NT, order < 0])
        places = np.concatenate(
            [np.zeros(0, np.int64)]
            + [
                i + np.flatnonzero(is_unseen[actions.values[i : i + _NUMBERS_AT_ONCE]])
                for i in range(0, len(actions.values), _NUMBERS_AT_ONCE)
            ]
        )
        rows = np.unique(np.searchsorted(actions.offsets, places, side="right") - 1)
        made: dict[int, NDArray[np.int16] | None] = {}
        for row in rows.tolist():
            phrases, num_tokens = actions_to_tree(actions[row].tolist())
            mapped = numbers.seen([(names[i], start, stop) for i, start, stop in phrases], self.counts, what)
            made[row] = None if mapped is None else np.array(tree_to_actions(mapped, num_tokens), np.int16)
        renumber(arrays, order)
        if made:
            _replace(arrays, made)
        if num_dropped := sum(tree is None for tree in made.values()):
            self.counts.dropped[UNSEEN] += num_dropped
            self.counts.num_kept -= num_dropped
            self._text = _digest_of_text(arrays, tokenizer)
        is_kept = np.ones(len(actions), bool)
        is_kept[[row for row, tree in made.items() if tree is None]] = False
        return is_kept


def renumber(arrays: Mapping[str, NDArray[Any]], order: NDArray[np.int16]) -> None:
    """Give labels the numbers ``order`` says, in place."""
    actions, new = arrays["actions"], np.concatenate([np.arange(FIRST_NT, dtype=np.int16), FIRST_NT + order])
    for i in range(0, len(actions), _NUMBERS_AT_ONCE):  # numpy makes indices of 8 bytes of them
        actions[i : i + _NUMBERS_AT_ONCE] = new[actions[i : i + _NUMBERS_AT_ONCE]]


def _replace(arrays: dict[str, NDArray[Any]], made: Mapping[int, NDArray[np.int16] | None]) -> None:
    """Put other actions in the place of some rows, and take out the rows that have None."""
    actions, offsets = arrays["actions"], arrays["action_offsets"]
    pieces, after = [], 0
    lengths = np.diff(offsets)
    for row in sorted(made):
        tree = made[row]
        pieces += [actions[offsets[after] : offsets[row]], *([] if tree is None else [tree])]
        lengths[row] = 0 if tree is None else len(tree)
        after = row + 1
    arrays["actions"] = np.concatenate([*pieces, actions[offsets[after] :]])
    is_kept = np.ones(len(lengths), bool)
    is_kept[[row for row, tree in made.items() if tree is None]] = False
    arrays["action_offsets"] = _offsets(lengths[is_kept])
    num_tokens = np.diff(arrays["offsets"])
    arrays["tokens"] = arrays["tokens"][np.repeat(is_kept, num_tokens)]
    arrays["offsets"] = _offsets(num_tokens[is_kept])
    for name in _OF_SENTENCES:
        arrays[name] = arrays[name][is_kept]


def _digest_of_text(arrays: Mapping[str, NDArray[Any]], tokenizer: Tokenizer) -> "hashlib._Hash":
    """Return the digest of the text of the tokens: the text itself, as was checked sentence by sentence."""
    digest = hashlib.sha256()
    tokens = Ragged(arrays["tokens"], arrays["offsets"])
    for first in range(0, len(tokens), 1_000):
        rows: Sequence[list[int]] = [tokens[row].tolist() for row in range(first, min(first + 1_000, len(tokens)))]
        for text in tokenizer.decode_batch(rows):
            digest.update(text.encode() + b"\n")
    return digest


def _add_counts(to: Counts, more: Counts) -> None:
    to.num_trees += more.num_trees
    to.num_kept += more.num_kept
    to.dropped.update(more.dropped)
    to.repaired.update(more.repaired)


def _offsets(lengths: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])
