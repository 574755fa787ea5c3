"""Collect the blocks of one split into the arrays that the dataset stores.

A block (``blocks.BuiltBlock``) holds some sentences of one file. To save memory, a split is collected as
flat arrays of integers, without text. Labels get their numbers in ``finish``, when all labels of train are known.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.blocks import BuiltBlock
from pipeline.corpus.dataset.build_config import Duplicates, UnseenLabels
from pipeline.corpus.dataset.duplicates import EXACT, NEAR, HeldOut, is_among
from pipeline.corpus.dataset.oracle import FIRST_NT, actions_to_tree, tree_to_actions
from pipeline.corpus.dataset.token_trees import UNSEEN
from pipeline.corpus.trees.readers import Counts
from pipeline.corpus.trees.trees import ROOT
from storage.errors import InputError
from storage.fingerprints import Json
from storage.ragged import Ragged

_STORED_COLUMNS: Final = ("document_ids", "num_words", "num_bytes")
_NO_LABEL: Final = -1
"""``finish`` renumbers the actions NT(X). This number stands for each X that is not a label of the dataset. No stored
sentence has such an X. A block can still list it, because X was replaced or the sentences with X were left out."""


class SplitBuilder:
    """Collect the sentences and counts of one split."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.label_counts: Counter[str] = Counter()
        """The number of phrases of each label except TOP in the added sentences."""
        self.duplicates: dict[str, Json] = {}
        self.text_hashes: list[NDArray[np.uint64]] = []
        """The hashes of the texts, one array per block."""
        self._refused: Counter[str] = Counter()
        self._num_sentences = self._num_crossing = self._num_lost = 0
        self._text = hashlib.sha256()
        self._labels: list[tuple[str, ...]] = []
        self._arrays: dict[str, list[NDArray[Any]]] = {
            name: [] for name in ("tokens", "num_tokens", "actions", "num_actions", *_STORED_COLUMNS)
        }

    def count(self, block: BuiltBlock) -> None:
        """Add the counts of a block, but not its sentences."""
        self.counts.num_trees += block.counts.num_trees
        self.counts.num_kept += block.counts.num_kept
        self.counts.dropped.update(block.counts.dropped)
        self.counts.repaired.update(block.counts.repaired)

    def add(self, block: BuiltBlock) -> None:
        """Add the sentences of a block."""
        numbers = np.bincount(block.actions[block.actions >= FIRST_NT] - FIRST_NT, minlength=len(block.labels))
        for label, number in zip(block.labels, numbers.tolist(), strict=True):
            if number and label != ROOT:
                self.label_counts[label] += number
        self._num_sentences += len(block)
        self._num_crossing += int(block.columns["num_crossing"].sum(dtype=np.int64))
        self._num_lost += int(block.columns["num_lost"].sum(dtype=np.int64))
        self._text.update(block.text)
        self._labels.append(block.labels)
        self.text_hashes.append(block.hashes.texts)
        for name, arrays in self._arrays.items():
            arrays.append(getattr(block, name) if name in ("tokens", "actions") else block.columns[name])

    def without_duplicates(self, block: BuiltBlock, held_out: HeldOut, drop: Duplicates) -> BuiltBlock:
        """Count the duplicates in a block of train, and return the block without those that ``drop`` selects.

        A duplicate is a sentence that is also in dev or test, exactly or nearly. The value "exact" of ``drop`` selects
        the exact duplicates, and "near" selects both the exact and the near ones. All are counted in any case.
        """
        exact, near = held_out.find(block.hashes)
        is_kept = np.ones(len(block), bool)
        for name, reason, found, is_dropped in (
            ("num_exact_duplicates", EXACT, exact, drop != "none"),
            ("num_near_duplicates", NEAR, near, drop == "near"),
        ):
            number = int(found.sum())
            self.duplicates[name] = int(self.duplicates.get(name, 0)) + number  # type: ignore[arg-type]
            if is_dropped and number:
                is_kept &= ~found
                self._drop(reason, number)
        return block.select(is_kept)

    def with_labels_of(self, train: "SplitBuilder", block: BuiltBlock, policy: UnseenLabels) -> BuiltBlock:
        """Return a block whose sentences have only labels of train.

        ``policy`` says what happens to a sentence with another label. "drop": the sentence is left out. "map": the most
        frequent label of train replaces the label; if train has no label but TOP, the sentence is left out. "refuse":
        the sentence is left out, and ``check_labels`` will raise.
        """
        unseen = [i for i, label in enumerate(block.labels) if label != ROOT and label not in train.label_counts]
        if not unseen:
            return block
        num_actions = block.columns["num_actions"]
        is_unseen = np.isin(block.actions, FIRST_NT + np.array(unseen))
        rows = np.repeat(np.arange(len(block)), num_actions)[is_unseen]
        cases = np.unique(np.stack([rows, block.actions[is_unseen] - FIRST_NT]), axis=1)
        num_sentences = Counter(block.labels[i] for i in cases[1].tolist())
        fallback = _most_frequent(train.label_counts)
        if policy == "map" and fallback is not None:
            for label, number in num_sentences.items():
                self.counts.repaired[f"{UNSEEN}, read as {fallback}: {label}"] += number
            return _with_labels_mapped(block, unseen, fallback, np.unique(cases[0]))
        if policy == "refuse":
            self._refused += num_sentences
        is_kept = np.ones(len(block), bool)
        is_kept[cases[0]] = False
        self._drop(UNSEEN, int((~is_kept).sum()))
        return block.select(is_kept)

    def check_labels(self, trees: str, train: "SplitBuilder") -> None:
        """Check that ``with_labels_of`` found no label to refuse (``--unseen-labels refuse``).

        Raises:
            InputError: If a label was refused. The message names all refused labels.
        """
        if self._refused:
            found = ", ".join(f"{label} ({number} sentences)" for label, number in sorted(self._refused.items()))
            raise InputError(
                f"{trees}: labels unseen in training: {found}; expected only labels of the training trees. Use "
                "--unseen-labels drop to leave these sentences out, or --unseen-labels map to read these labels as "
                f"{_most_frequent(train.label_counts)}"
            )

    def count_in_train(self, train: "SplitBuilder") -> None:
        """Count the sentences of this split whose text is also a sentence of train."""
        hashes_of_train = np.sort(np.concatenate(train.text_hashes))
        self.duplicates["num_in_train"] = int(is_among(np.concatenate(self.text_hashes), hashes_of_train).sum())

    def finish(self, labels: Sequence[str]) -> dict[str, NDArray[Any]]:
        """Return the arrays as the dataset stores them. After this call no sentence can be added.

        Args:
            labels: The labels of the dataset by number, TOP first.
        """
        numbers = {label: FIRST_NT + number for number, label in enumerate(labels)}
        for block_actions, own_labels in zip(self._arrays["actions"], self._labels, strict=True):
            new = np.array([0, 1, *(numbers.get(label, _NO_LABEL) for label in own_labels)], np.int16)
            block_actions[:] = new[block_actions]
        arrays = {name: np.concatenate(self._arrays.pop(name)) for name in list(self._arrays)}
        tokens = Ragged.from_lengths(arrays["tokens"], arrays["num_tokens"])
        actions = Ragged.from_lengths(arrays["actions"], arrays["num_actions"])
        return {
            "tokens": tokens.values,
            "offsets": tokens.offsets,
            "actions": actions.values,
            "action_offsets": actions.offsets,
            **{name: arrays[name] for name in _STORED_COLUMNS},
        }

    def to_json(self) -> dict[str, Json]:
        """Return the counts of trees, phrases and duplicates, and the sha256 of the text that was kept."""
        return {
            **self.counts.to_json(),
            "num_crossing_tokens": self._num_crossing,
            "num_phrases": self._num_sentences + self.label_counts.total(),  # each sentence has one TOP
            "num_lost_phrases": self._num_lost,
            **self.duplicates,
            "text_sha256": self._text.hexdigest(),
        }

    def _drop(self, reason: str, number: int) -> None:
        self.counts.dropped[reason] += number
        self.counts.num_kept -= number


def _most_frequent(label_counts: Counter[str]) -> str | None:
    """Return the most frequent label, at a tie the first in alphabetical order."""
    return min(label_counts, key=lambda label: (-label_counts[label], label), default=None)


def _with_labels_mapped(block: BuiltBlock, unseen: Sequence[int], fallback: str, rows: NDArray[np.int64]) -> BuiltBlock:
    """Return the block with the label ``fallback`` in place of each label whose index is in ``unseen``.

    ``rows`` are the indices of the sentences that have such labels.

    As everywhere in a dataset, a phrase X whose only child is a phrase X is merged with this child.
    """
    labels = (*block.labels, fallback)
    new = np.arange(FIRST_NT + len(labels), dtype=np.int16)
    new[FIRST_NT + np.array(unseen)] = FIRST_NT + labels.index(fallback)
    num_actions = block.columns["num_actions"].copy()
    sentences = np.split(new[block.actions], np.cumsum(num_actions)[:-1])
    for row in rows.tolist():
        sentences[row] = np.array(_without_repeats(sentences[row].tolist()), np.int16)
        num_actions[row] = len(sentences[row])
    return replace(
        block,
        actions=np.concatenate(sentences),
        labels=labels,
        columns={**block.columns, "num_actions": num_actions},
    )


def _without_repeats(actions: Iterable[int]) -> list[int]:
    phrases, num_tokens = actions_to_tree(actions)
    return tree_to_actions(
        [phrase for i, phrase in enumerate(phrases) if i == 0 or phrase != phrases[i - 1]], num_tokens
    )
