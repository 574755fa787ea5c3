"""Minimal pairs in BLiMP's format: does a model prefer the grammatical sentence of each pair?

A pair is right when log p(good) > log p(bad), strictly, each the sum over the sentence's tokens and its ``<eos>``.
Ties are counted and reported, never right: a model that gives every token the same probability would otherwise score
100 % on paradigms whose sentences have the same length. Pairs of two identical sentences (there are some in BLiMP)
can't be right; they are left out and counted.

Warstadt et al. (2020), BLiMP: The Benchmark of Linguistic Minimal Pairs, TACL 8.
"""

import gzip
import json
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.corpus.text import normalise_text
from pipeline.corpus.tokenizer import Tokenizer
from pipeline.evaluation.results import number
from pipeline.evaluation.scorer import Scorer
from pipeline.evaluation.statistics import wilson_interval
from storage.errors import InputError, RunError
from storage.fingerprints import canonical_json, sha256_bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimalPair:
    """Two sentences, normalised, of which the first is grammatical."""

    good: str
    bad: str
    paradigm: str
    """``UID``; where a line has none, the name of its file."""
    term: str
    """``linguistics_term``; where a line has none, ``unspecified``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCounts:
    """How a model did on some pairs, identical ones left out."""

    num_pairs: int
    num_right: int
    num_ties: int
    mean_difference: float
    """Mean of log p(good) - log p(bad), nats a pair; 0 where there is no pair."""

    @property
    def accuracy(self) -> float | None:
        """``num_right / num_pairs``: a tie is not right; None where there is no pair."""
        return self.num_right / self.num_pairs if self.num_pairs else None

    def to_json(self) -> dict[str, Any]:
        """Return the counts, the accuracy they give, and its Wilson interval."""
        interval = wilson_interval(self.num_right, self.num_pairs)
        return {name: getattr(self, name) for name in self.__slots__} | {
            "accuracy": self.accuracy,
            "interval": None if interval is None else [interval.low, interval.high],
        }

    @classmethod
    def from_json(cls, value: Any, *, where: str) -> "PairCounts":  # noqa: ANN401 - parsed JSON
        """Return the counts whose ``to_json`` this is.

        Raises:
            InputError: If a number is missing.
        """
        if not isinstance(value, dict):
            raise InputError(f"{where}: {value!r} is not an object of counts; run evaluate minimal-pairs again")
        counts = {name: int(number(value, name, where=where)) for name in ("num_pairs", "num_right", "num_ties")}
        return cls(mean_difference=number(value, "mean_difference", where=where), **counts)


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimalPairFigures:
    """The outcome of a set of minimal pairs."""

    overall: PairCounts
    """All pairs alike; its accuracy is the micro average."""
    by_paradigm: Mapping[str, PairCounts]
    by_term: Mapping[str, PairCounts]
    by_field: Mapping[str, PairCounts]
    terms: Mapping[str, str]
    """The linguistic term of each paradigm."""
    num_identical: int
    """Pairs left out, their sentences being the same after normalisation."""

    @property
    def macro_accuracy(self) -> float | None:
        """Mean of the paradigms' accuracies, as BLiMP reports it; None where no paradigm has a pair."""
        accuracies = [c.accuracy for c in self.by_paradigm.values() if c.accuracy is not None]
        return sum(accuracies) / len(accuracies) if accuracies else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON objects, paradigms and terms in alphabetical order."""
        return {
            "accuracy_macro": self.macro_accuracy,
            "accuracy_micro": self.overall.accuracy,
            "num_identical": self.num_identical,
            "overall": self.overall.to_json(),
            "by_field": {name: counts.to_json() for name, counts in sorted(self.by_field.items())},
            "by_term": {name: counts.to_json() for name, counts in sorted(self.by_term.items())},
            "by_paradigm": {
                name: {"linguistics_term": self.terms[name]} | counts.to_json()
                for name, counts in sorted(self.by_paradigm.items())
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> "MinimalPairFigures":
        """Return the figures whose ``to_json`` this is; averages are taken again, not believed.

        Raises:
            InputError: If something is missing or has the wrong type.
        """
        paradigms, terms = value.get("by_paradigm"), value.get("by_term")
        if not isinstance(paradigms, dict) or not isinstance(terms, dict):
            raise InputError(f"{where}: no objects 'by_paradigm' and 'by_term'; run evaluate minimal-pairs again")
        by_paradigm = {name: PairCounts.from_json(counts, where=where) for name, counts in paradigms.items()}
        return cls(
            overall=PairCounts.from_json(value.get("overall"), where=where),
            by_paradigm=by_paradigm,
            by_term={name: PairCounts.from_json(counts, where=where) for name, counts in terms.items()},
            by_field={
                name: PairCounts.from_json(counts, where=where) for name, counts in value.get("by_field", {}).items()
            },
            terms={name: str(paradigms[name].get("linguistics_term")) for name in by_paradigm},
            num_identical=int(number(value, "num_identical", where=where)),
        )


def read_minimal_pairs(path: Path) -> list[MinimalPair]:
    """Return the pairs of a file, or of all ``*.jsonl`` and ``*.jsonl.gz`` of a folder in order of their names.

    Each line is a JSON object with ``sentence_good`` and ``sentence_bad``, and ``UID`` and ``linguistics_term`` where
    it has them; other fields and blank lines are ignored. Text is normalised as a corpus is.

    Raises:
        InputError: If there is no such file, no pair, a file twice (plain and gzipped), or a line is malformed; it is
            named by file and line.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.name.endswith((".jsonl", ".jsonl.gz")))
        if not files:
            raise InputError(f"{path}: no .jsonl or .jsonl.gz file in this folder; name one with minimal pairs")
    else:
        files = [path]
    if twice := {_stem(file) for file in files if file.suffix == ".gz"} & {
        _stem(f) for f in files if f.suffix != ".gz"
    }:
        raise InputError(f"{path}: both plain and gzipped: {', '.join(sorted(twice))}; keep one of each")
    pairs = [pair for file in files for pair in _pairs_of_file(file)]
    if not pairs:
        raise InputError(f"{path}: no minimal pair in {len(files)} file(s), expected a JSON object a line")
    return pairs


def pairs_name(folder: Path) -> str:
    """Return what results call the pairs of a folder or file."""
    return folder.resolve().name.removesuffix(".gz").removesuffix(".jsonl")


def pairs_sha256(pairs: Sequence[MinimalPair]) -> str:
    """Return a fingerprint of the pairs and their order: results of two runs compare only where it is the same."""
    return sha256_bytes(canonical_json([[pair.paradigm, pair.term, pair.good, pair.bad] for pair in pairs]))


def evaluate_minimal_pairs(scorer: Scorer, tokenizer: Tokenizer, pairs: Sequence[MinimalPair]) -> MinimalPairFigures:
    """Score pairs, each distinct sentence once.

    Log-probabilities are float32, as the scorer gives them, and added up in float64.

    Raises:
        RunError: If the model gives a log-probability that is not finite.
    """
    kept = [pair for pair in pairs if pair.good != pair.bad]
    index: dict[str, int] = {}
    for pair in kept:
        index.setdefault(pair.good, len(index))
        index.setdefault(pair.bad, len(index))
    sentences = list(index)
    log_probs = scorer.log_probs([np.asarray(ids, np.int64) for ids in tokenizer.encode_batch(sentences)])
    scores = np.array([row.sum(dtype=np.float64) for row in log_probs])
    if len(bad := np.flatnonzero(~np.isfinite(scores))):
        raise RunError(
            f"minimal pairs: log p({sentences[bad[0]]!r}) is {scores[bad[0]]}, expected a finite number; training "
            "diverged or the checkpoint is damaged: use another checkpoint"
        )
    good = np.array([index[pair.good] for pair in kept], np.int64)
    worse = np.array([index[pair.bad] for pair in kept], np.int64)
    differences = scores[good] - scores[worse]

    terms: dict[str, str] = {}
    for pair in pairs:
        terms.setdefault(pair.paradigm, pair.term)
    return MinimalPairFigures(
        overall=_counts(differences),
        by_paradigm=_counts_by(pairs, kept, differences, lambda pair: pair.paradigm),
        by_term=_counts_by(pairs, kept, differences, lambda pair: pair.term),
        by_field={},
        terms=terms,
        num_identical=len(pairs) - len(kept),
    )


def _counts_by(
    pairs: Sequence[MinimalPair],
    kept: Sequence[MinimalPair],
    differences: np.ndarray,
    key: Callable[[MinimalPair], str],
) -> dict[str, PairCounts]:
    names = sorted({key(pair) for pair in pairs})
    index = {name: i for i, name in enumerate(names)}
    which = np.array([index[key(pair)] for pair in kept], np.int64)
    return {name: _counts(differences[which == i]) for i, name in enumerate(names)}


def _counts(differences: np.ndarray) -> PairCounts:
    return PairCounts(
        num_pairs=len(differences),
        num_right=int((differences > 0).sum()),
        num_ties=int((differences == 0).sum()),
        mean_difference=float(differences.mean()) if len(differences) else 0.0,
    )


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".jsonl")


def _pairs_of_file(file: Path) -> Iterator[MinimalPair]:
    for number_of_line, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            yield _pair(json.loads(line.decode("utf-8")), _stem(file))
        except UnicodeError as error:
            raise InputError(f"{file}:{number_of_line}: not UTF-8 ({error}); convert the file") from error
        except (ValueError, RecursionError) as error:
            raise InputError(
                f"{file}:{number_of_line}: not a minimal pair ({error}), expected a JSON object with the strings "
                "sentence_good and sentence_bad; mend or remove the line"
            ) from error


def _lines(file: Path) -> Iterator[bytes]:
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as stream:
            yield from stream
    except OSError as error:
        raise InputError(
            f"{file}: cannot be read ({error.strerror or error}); check its name and whether it is whole"
        ) from error
    except (EOFError, zlib.error) as error:
        raise InputError(f"{file}: damaged gzip file ({error}); fetch it again") from error


def _pair(value: Any, stem: str) -> MinimalPair:  # noqa: ANN401 - parsed JSON
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")  # noqa: TRY004 - reported with file and line by the caller
    texts = {name: _text(value, name, None) for name in ("sentence_good", "sentence_bad")}
    return MinimalPair(
        good=texts["sentence_good"],
        bad=texts["sentence_bad"],
        paradigm=_text(value, "UID", stem),
        term=_text(value, "linguistics_term", "unspecified"),
    )


def _text(value: dict[str, Any], name: str, default: str | None) -> str:
    found = value.get(name, default)
    if not isinstance(found, str):
        raise ValueError(f"{name} is {found!r}")  # noqa: TRY004 - reported with file and line by the caller
    found.encode()  # a lone surrogate is legal in JSON, but it is not text
    if not (text := normalise_text(found)):
        raise ValueError(f"{name} is empty")
    return text
