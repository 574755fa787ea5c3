"""``build-dataset``: trees and text to token ids and oracle actions, every sentence checked or counted by reason.

A split is built in one pass of ``token_trees``, each tree written down as its actions. Labels are numbered as they come
in train and renumbered alphabetically at the end; train comes first, so what dev and test have beyond it is known when
it is met. The controls on structure replace the actions of the finished split, so that they hold exactly the sentences
of the given trees.
"""

import hashlib
from array import array
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset import Trees, check_absent, token_dtype, write_dataset
from pipeline.corpus.documents import find_documents, read_documents
from pipeline.corpus.oracle import FIRST_NT, TokenPhrase, right_branching, tree_to_actions
from pipeline.corpus.readers import Counts, find_file
from pipeline.corpus.text import OnError
from pipeline.corpus.token_trees import LabelNumbers, Numbering, TokenSentence, UnseenLabels, read_token_trees
from pipeline.corpus.tokenizer import Tokenizer
from pipeline.corpus.trees import ROOT, Phrase
from storage.errors import ConfigError
from storage.fingerprints import Json, sha256_bytes, sha256_file
from storage.ragged import Ragged

RIGHT_LABEL: Final = "X"
"""The one label, besides TOP, of right-branching trees."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildConfig:
    """What ``build-dataset`` reads and writes.

    A STEM is read as STEM.mrg, STEM.txt and, where there is one, STEM.docs, each of them or its .gz.
    """

    train: Path
    """STEM of the training trees and text; the labels are theirs."""
    dev: Path
    """STEM of the development trees and text."""
    tokenizer: Path
    """A tokenizer.json."""
    out: Path | str
    """The dataset to write; nothing may be there."""
    test: Path | None = None
    """STEM of the test trees and text."""
    trees: Trees = "given"
    """"given"; or a control: "right", right-branching with one label, or "shuffled", another sentence's tree."""
    seed: int = 1
    """Seed of the shuffle."""
    on_error: OnError = "stop"
    """What a malformed tree or line does: "stop", or "skip" and count."""
    unseen_labels: UnseenLabels = "drop"
    """What a label of dev or test that train lacks does: "drop" its sentence and count it; "map": read it as the most
    frequent label of train and count it; "refuse"."""

    def __post_init__(self) -> None:
        problems = [
            f"{name} is {value!r}, expected one of {', '.join(get_args(allowed))}"
            for name, value, allowed in (
                ("trees", self.trees, Trees),
                ("on_error", self.on_error, OnError),
                ("unseen_labels", self.unseen_labels, UnseenLabels),
            )
            if value not in get_args(allowed)
        ]
        if self.seed < 0:
            problems.append(f"seed is {self.seed}, expected at least 0")
        if problems:
            raise ConfigError("build-dataset: " + "; ".join(problems))


def build_dataset(config: BuildConfig, progress: Callable[[int], None] | None = None) -> dict[str, Json]:
    """Build a dataset; return what the command prints: sizes and counts by reason of each split.

    Args:
        config: What to do.
        progress: Called with the number of sentences done since the last call.

    Raises:
        InputError: If a file is missing or malformed, trees and text do not pair, nothing is left of a split, or dev
            or test have labels that train lacks and these are refused.
        StoreError: If there is something at ``out``, or it cannot be written.
    """
    check_absent(config.out)
    tokenizer = Tokenizer.load(config.tokenizer)
    stems = {"train": config.train, "dev": config.dev} | ({"test": config.test} if config.test else {})
    files = {
        name: (find_file(stem, ".mrg"), find_file(stem, ".txt"), find_documents(stem)) for name, stem in stems.items()
    }
    numbers = LabelNumbers()

    def growing(phrases: Sequence[Phrase], _: Counts) -> list[TokenPhrase]:
        return numbers.add(phrases)

    built = {}
    for name, (trees, texts, documents) in files.items():
        numbering = growing if name == "train" else partial(numbers.seen, what=config.unseen_labels)
        built[name] = _SplitBuilder(tokenizer)
        built[name].read(trees, texts, documents, numbering, config.on_error, progress)
        numbers.check_refused(trees)
    labels, order = _inventory(numbers.numbers)
    splits, counts = {}, {}
    for number, (name, builder) in enumerate(built.items()):
        splits[name] = builder.arrays(order)
        if config.trees == "shuffled":
            num_kept_own = _shuffle(splits[name], np.random.default_rng([config.seed, number]))
            builder.counts.repaired["own tree kept: no other sentence of that length"] += num_kept_own
        elif config.trees == "right":
            _make_right_branching(splits[name])
        counts[name] = builder.to_json()
    if config.trees == "right":
        labels = (ROOT, RIGHT_LABEL)
    sha256 = write_dataset(
        config.out,
        splits,
        counts=counts,
        tokenizer=tokenizer,
        labels=labels,
        trees=config.trees,
        tree_source=_tree_source(config, [trees for trees, _, _ in files.values()]),
    )
    summary: dict[str, Json] = {
        name: {"num_sentences": len(arrays["num_words"]), "num_tokens": len(arrays["tokens"]), **counts[name]}
        for name, arrays in splits.items()
    }
    return {"dataset": str(config.out), "sha256": sha256, "num_labels": len(labels), **summary}


@dataclass(kw_only=True, slots=True)
class _Tallies:
    """Figures on how trees fit tokens, over a split."""

    num_crossing_tokens: int = 0
    num_phrases: int = 0
    num_lost_phrases: int = 0


class _SplitBuilder:
    """Collects one split, sentence by sentence, in flat arrays."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.counts = Counts()
        self._tokenizer = tokenizer
        self._tallies = _Tallies()
        self._text = hashlib.sha256()
        self._tokens, self._lengths = array("I"), array("q")
        self._actions, self._action_lengths = array("h"), array("q")
        self._num_words, self._num_bytes = array("i"), array("i")
        self._numbers = array("q")
        self._documents: list[str] | None = None

    def read(
        self,
        trees: Path,
        texts: Path,
        documents: Path | None,
        numbering: Numbering,
        on_error: OnError,
        progress: Callable[[int], None] | None,
    ) -> None:
        for sentence in read_token_trees(
            trees, texts, self._tokenizer, numbering, on_error=on_error, counts=self.counts, progress=progress
        ):
            self._add(sentence)
        if documents is not None:
            self._documents = read_documents(documents, num_trees=self.counts.num_trees)

    def _add(self, sentence: TokenSentence) -> None:
        actions = tree_to_actions(sentence.phrases, len(sentence.ids))
        self._tokens.extend(sentence.ids)
        self._lengths.append(len(sentence.ids))
        self._actions.extend(actions)
        self._action_lengths.append(len(actions))
        self._numbers.append(sentence.number)
        self._num_words.append(sentence.text.count(" ") + 1)
        text = sentence.text.encode()
        self._num_bytes.append(len(text))
        self._text.update(text + b"\n")
        self._tallies.num_crossing_tokens += sentence.num_crossing
        self._tallies.num_phrases += len(sentence.phrases)
        self._tallies.num_lost_phrases += sentence.num_lost

    def arrays(self, order: NDArray[np.int16]) -> dict[str, NDArray[Any]]:
        """Return the arrays of the split as they are stored; ``order`` gives labels their final numbers."""
        actions = np.frombuffer(self._actions, np.int16).copy()
        is_nt = actions >= FIRST_NT
        actions[is_nt] = FIRST_NT + order[actions[is_nt] - FIRST_NT]
        return {
            "tokens": np.frombuffer(self._tokens, np.uint32).astype(token_dtype(self._tokenizer.vocab_size)),
            "offsets": _offsets(self._lengths),
            "actions": actions,
            "action_offsets": _offsets(self._action_lengths),
            "document_ids": self._document_ids(),
            "num_words": np.frombuffer(self._num_words, np.int32).copy(),
            "num_bytes": np.frombuffer(self._num_bytes, np.int32).copy(),
        }

    def _document_ids(self) -> NDArray[np.int32]:
        if self._documents is None:
            return np.zeros(len(self._lengths), np.int32)
        names = np.array(self._documents)
        ids = np.cumsum(np.concatenate([[True], names[1:] != names[:-1]]))  # before any sentence was dropped
        return ids[np.frombuffer(self._numbers, np.int64)].astype(np.int32)

    def to_json(self) -> dict[str, Json]:
        """Return the counts by reason, the figures of the alignment, and the digest of the text that was kept."""
        tallies = {name: getattr(self._tallies, name) for name in self._tallies.__slots__}
        return {**self.counts.to_json(), **tallies, "text_sha256": self._text.hexdigest()}


def shuffled_trees(lengths: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
    """Return whose tree each sentence gets: another sentence's of its length, each tree used once.

    Sentences of one length are put in a random circle, and each takes its neighbour's tree, so the trees of a split
    stay the same all together. Where there is no other sentence of that length, a sentence keeps its own.

    Args:
        lengths: int64 ``[M]``.
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


def _shuffle(arrays: dict[str, NDArray[Any]], generator: np.random.Generator) -> int:
    """Permute the actions of a split; return how many sentences kept their own."""
    source = shuffled_trees(np.diff(arrays["offsets"]), generator)
    actions = Ragged(arrays["actions"], arrays["action_offsets"]).take(source)
    arrays["actions"], arrays["action_offsets"] = actions.values, actions.offsets
    return int((source == np.arange(len(source))).sum())


def _make_right_branching(arrays: dict[str, NDArray[Any]]) -> None:
    lengths = np.diff(arrays["offsets"])
    made = {int(n): tree_to_actions(right_branching(int(n)), int(n)) for n in np.unique(lengths)}
    actions = Ragged.from_lists([made[int(n)] for n in lengths], np.int16)
    arrays["actions"], arrays["action_offsets"] = actions.values, actions.offsets


def _inventory(numbers: Mapping[str, int]) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    """Return the labels in their final order, TOP and then the alphabet, and the final number of each old one."""
    labels = (ROOT, *sorted(label for label in numbers if label != ROOT))
    order = np.empty(len(labels), np.int16)
    for number, label in enumerate(labels):
        order[numbers[label]] = number
    return labels, order


def _tree_source(config: BuildConfig, files: Iterable[Path]) -> str:
    if config.trees == "right":
        return "right-branching"
    digest = sha256_bytes(" ".join(sha256_file(path) for path in files).encode())
    seed = f" with seed {config.seed}" if config.trees == "shuffled" else ""
    return f"{config.trees}{seed}, files of trees sha256 {digest[:12]}"


def _offsets(lengths: "array[int]") -> NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(np.frombuffer(lengths, np.int64))])
