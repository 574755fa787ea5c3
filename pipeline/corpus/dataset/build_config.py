"""Define the options of ``build-dataset``. The string under a field is its ``--help`` text.

This module imports neither torch, numpy, zarr nor tokenizers, so that ``--help`` stays quick.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args, get_type_hints

from pipeline.corpus.text.text_files import OnError
from pipeline.runtime.options import flag, refuse, too_small

Trees: TypeAlias = Literal["given", "right", "shuffled"]
UnseenLabels: TypeAlias = Literal["drop", "map", "refuse"]
Duplicates: TypeAlias = Literal["none", "exact", "near"]
MAX_FOLDS: Final = 255
"""The largest number of folds: a dataset stores the number of a fold in 8 bits, and 0 is not a fold."""


@dataclass(frozen=True, kw_only=True, slots=True)
class BuildConfig:
    """The options of ``build-dataset``."""

    train: tuple[Path, ...]
    """STEM of the training files, for example trees/train. STEM.mrg has the trees, and STEM.txt their text.
    STEM.docs (the document of each tree) and STEM.documents.tsv (the source and licence of each document) are
    optional. Each file may be plain or .gz. The files of several STEMs are read one after the other."""
    dev: tuple[Path, ...] = ()
    """STEM of the dev files."""
    test: tuple[Path, ...] = ()
    """STEM of the test files."""
    dev_share: float = 0.0
    """Move this share of the training sentences to dev, in whole documents drawn at random. Give this or --dev."""
    test_share: float = 0.0
    """Move this share of the training sentences to test, in whole documents drawn at random. Give this or --test."""
    tokenizer: Path
    """The tokenizer.json to use."""
    out: Path | str
    """The folder or URL where the dataset is written. Nothing may exist there yet."""
    folds: int = 0
    """Divide the training sentences into this number of folds, in whole documents and with about equal numbers of
    tokens. train-teacher --leave-out then leaves one fold out. 0: no folds."""
    trees: Trees = "given"
    """Choose the trees to store. given: the trees of the files. right: as a control, right-branching trees with one
    label. shuffled: as a control, give each sentence the tree of another sentence with as many tokens."""
    seed: int = 1
    """Seed of the random choices: the documents for --dev-share and --test-share, the shuffled trees, the folds."""
    on_error: OnError = "stop"
    """Choose what happens at a malformed tree or line. stop: end with an error. skip: leave out the
    sentence and count it."""
    unseen_labels: UnseenLabels = "drop"
    """Choose what happens to a sentence of dev or test with a label that train does not have. drop: leave the sentence
    out and count it. map: replace the label by the most frequent label of train and count the sentence. refuse: end
    with an error that names all labels that train does not have."""
    drop_duplicates: Duplicates = "none"
    """Choose what happens to training sentences that are also in dev or test. none: keep all. exact: leave out exact
    duplicates. near: also leave out near duplicates, which have at least half of their 8-word sequences in dev or
    test. The duplicates are counted in any case."""
    min_words: int = 0
    """Leave out sentences with fewer words than this. Words are white-space-separated strings."""
    max_words: int = 0
    """Leave out sentences with more words than this. 0: no limit."""
    max_tokens: int = 0
    """Leave out sentences with more tokens than this. 0: no limit."""
    workers: int = 0
    """Number of worker processes. 0: one per core. The dataset is the same for any number."""

    def __post_init__(self) -> None:
        problems = too_small(self, 0, "seed", "min_words", "max_words", "max_tokens", "workers")
        refuse("build-dataset", [*problems, *self._value_problems(), *self._split_problems()])

    def _value_problems(self) -> Iterator[str]:
        hints = get_type_hints(type(self))
        for name in ("trees", "on_error", "unseen_labels", "drop_duplicates"):
            allowed = get_args(hints[name])
            if getattr(self, name) not in allowed:
                yield f"{flag(name)} is {getattr(self, name)!r}, expected one of {', '.join(allowed)}"
        if self.folds != 0 and not 2 <= self.folds <= MAX_FOLDS:
            yield f"--folds is {self.folds}, expected 2 to {MAX_FOLDS}, or 0 for no folds"
        if self.max_words and self.min_words > self.max_words:
            yield f"--min-words is {self.min_words}, expected at most --max-words, {self.max_words}"

    def _split_problems(self) -> Iterator[str]:
        if not self.train:
            yield "--train is missing; give the STEM of the training files"
        if not self.dev and not self.dev_share:
            yield "neither --dev nor --dev-share is given; give one of them"
        for name in ("dev", "test"):
            if self.stems.get(name) and self.shares.get(name):
                yield f"both --{name} and --{name}-share are given; give only one of them"
        if min(self.dev_share, self.test_share) < 0 or not self.dev_share + self.test_share < 1:
            yield (
                f"--dev-share is {self.dev_share:g} and --test-share is {self.test_share:g}, expected each at least 0 "
                "and their sum below 1"
            )

    @property
    def stems(self) -> dict[str, tuple[Path, ...]]:
        """The STEMs of each split that has files of its own."""
        given = {"train": self.train, "dev": self.dev, "test": self.test}
        return {name: stems for name, stems in given.items() if stems}

    @property
    def shares(self) -> dict[str, float]:
        """The share of the training sentences that goes to dev or test, for each split without files of its own."""
        return {name: share for name, share in (("test", self.test_share), ("dev", self.dev_share)) if share}
