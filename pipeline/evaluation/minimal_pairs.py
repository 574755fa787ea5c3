"""Minimal pairs in BLiMP's format: does a model prefer the grammatical sentence of each pair?

A pair is right when log p(good) > log p(bad), strictly, each the sum over the sentence's tokens. Ties are counted and
reported, never right: a model that gives every token the same probability would otherwise score 100 % on paradigms
whose sentences have the same length. Pairs of two identical sentences (there are some in BLiMP) can't be right; they
are left out and counted.

Two conventions change accuracies, and every result names its own (docs/decisions/0011):

    eos       whether <eos> is one of the tokens: with it the sum is the probability of the sentence, without it that of
              a text that begins so. lm-evaluation-harness and BabyLM's pipeline leave it out
    prefix    what stands before a sentence when it is given to the tokenizer: nothing, or a space, as in the harness's
              stock task

Warstadt et al. (2020), BLiMP: The Benchmark of Linguistic Minimal Pairs, TACL 8.
"""

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import normalise_text
from pipeline.evaluation.intervals import wilson_interval
from pipeline.evaluation.scorer import BLOCK_SENTENCES, Scorer, score_all
from pipeline.runtime.json_files import number, string
from storage.errors import InputError, RunError
from storage.fingerprints import canonical_json, sha256_bytes

Prefix = Literal["none", "space"]
_PREFIXES: Final[Mapping[Prefix, str]] = {"none": "", "space": " "}
NOT_SPECIFIED: Final = "unspecified"
_FIELDS: Final = {"syntax/semantics": "syntax_semantics"}
"""Two spellings of one of BLiMP's fields."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MinimalPair:
    """Two sentences, normalised, of which the first is grammatical."""

    good: str
    bad: str
    paradigm: str
    """``UID``; where a line has none, the name of its file."""
    term: str = NOT_SPECIFIED
    """``linguistics_term``: BLiMP's phenomenon."""
    field: str = NOT_SPECIFIED
    """``field``: morphology, syntax, semantics or syntax_semantics."""
    number: int = 0
    """Which pair of its paradigm, from 0."""
    where: str = ""
    """File and line."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PairCounts:
    """How a model did on some pairs, identical ones left out."""

    num_pairs: int
    num_right: int
    num_ties: int
    mean_difference: float
    """Mean of log p(good) - log p(bad), nats a pair; 0 where there is no pair."""
    standard_deviation: float
    """Of log p(good) - log p(bad) over the pairs, over n - 1; 0 where there are fewer than two."""

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
        num_pairs, num_right, num_ties = counts.values()
        if min(num_right, num_ties) < 0 or num_right + num_ties > num_pairs:
            raise InputError(
                f"{where}: {num_right} right and {num_ties} ties of {num_pairs} pairs, expected no more; run evaluate "
                "minimal-pairs again"
            )
        mean, deviation = (number(value, name, where=where) for name in ("mean_difference", "standard_deviation"))
        return cls(**counts, mean_difference=mean, standard_deviation=deviation)


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
    fields: Mapping[str, str]
    """The field of each paradigm."""
    num_identical: int
    """Pairs left out, their sentences being the same after normalisation."""

    @property
    def macro_accuracy(self) -> float | None:
        """Mean of the paradigms' accuracies, as BLiMP reports it; None where no paradigm has a pair."""
        accuracies = [c.accuracy for c in self.by_paradigm.values() if c.accuracy is not None]
        return sum(accuracies) / len(accuracies) if accuracies else None

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON objects, paradigms, terms and fields in alphabetical order."""
        return {
            "accuracy_macro": self.macro_accuracy,
            "accuracy_micro": self.overall.accuracy,
            "num_identical": self.num_identical,
            "overall": self.overall.to_json(),
            "by_field": {name: counts.to_json() for name, counts in sorted(self.by_field.items())},
            "by_term": {name: counts.to_json() for name, counts in sorted(self.by_term.items())},
            "by_paradigm": {
                name: {"linguistics_term": self.terms[name], "field": self.fields[name]} | counts.to_json()
                for name, counts in sorted(self.by_paradigm.items())
            },
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any], *, where: str) -> "MinimalPairFigures":
        """Return the figures whose ``to_json`` this is; averages are taken again, not believed.

        Raises:
            InputError: If something is missing or has the wrong type.
        """
        parts: dict[str, dict[str, PairCounts]] = {}
        for by in ("by_paradigm", "by_term", "by_field"):
            if not isinstance(found := value.get(by), dict):
                raise InputError(f"{where}: no object {by!r}; run evaluate minimal-pairs again")
            parts[by] = {name: PairCounts.from_json(counts, where=where) for name, counts in found.items()}
        paradigms = value["by_paradigm"]
        return cls(
            overall=PairCounts.from_json(value.get("overall"), where=where),
            terms={name: string(paradigm, "linguistics_term", where=where) for name, paradigm in paradigms.items()},
            fields={name: string(paradigm, "field", where=where) for name, paradigm in paradigms.items()},
            **parts,
            num_identical=int(number(value, "num_identical", where=where)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoredPair:
    """What a model gave the two sentences of a pair."""

    paradigm: str
    pair: int
    """Which of its paradigm, from 0."""
    good: float
    """Nats."""
    bad: float

    def to_json(self) -> dict[str, Any]:
        """Return everything as a JSON object."""
        return {name: getattr(self, name) for name in self.__slots__}


def read_minimal_pairs(path: Path) -> list[MinimalPair]:
    """Return the pairs of a file, or of all ``*.jsonl`` and ``*.jsonl.gz`` of a folder in order of their names.

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
    seen: Counter[str] = Counter()
    pairs = []
    for file in files:
        for pair in _pairs_of_file(file):
            pairs.append(replace(pair, number=seen[pair.paradigm]))
            seen[pair.paradigm] += 1
    if not pairs:
        raise InputError(f"{path}: no minimal pair in {len(files)} file(s), expected a JSON object a line")
    return pairs


def pairs_name(folder: Path) -> str:
    """Return what results call the pairs of a folder or file."""
    return folder.resolve().name.removesuffix(".gz").removesuffix(".jsonl")


def pairs_sha256(pairs: Sequence[MinimalPair]) -> str:
    """Return a fingerprint of the pairs and their order: results of two runs compare only where it is the same."""
    return sha256_bytes(canonical_json([[pair.paradigm, pair.term, pair.good, pair.bad] for pair in pairs]))


def evaluate_minimal_pairs(
    scorer: Scorer,
    tokenizer: Tokenizer,
    pairs: Sequence[MinimalPair],
    *,
    prefix: Prefix = "none",
    eos: bool = False,
    max_tokens: int | None = None,
    block_sentences: int = BLOCK_SENTENCES,
) -> tuple[MinimalPairFigures, list[ScoredPair]]:
    """Score pairs, each distinct sentence once; return the figures, and each pair's two log-probabilities.

    Log-probabilities are float32, as the scorer gives them, and added up in float64.

    Args:
        scorer: Gives log-probabilities.
        tokenizer: The model's.
        pairs: Identical ones are left out and counted.
        prefix: What stands before each sentence.
        eos: Whether ``<eos>`` counts.
        max_tokens: The longest sentence that the model can score, ``<eos>`` not counted; None where there is none.
        block_sentences: Sentences scored between two signs of progress.

    Raises:
        InputError: If a sentence is too long; file and line are named.
        RunError: If the model gives a log-probability that is not finite.
    """
    kept = [pair for pair in pairs if pair.good != pair.bad]
    index: dict[str, int] = {}
    where: list[str] = []
    for pair in kept:
        for sentence in (pair.good, pair.bad):
            if sentence not in index:
                index[sentence] = len(index)
                where.append(pair.where)
    sentences = list(index)
    ids = tokenizer.encode_batch([_PREFIXES[prefix] + sentence for sentence in sentences])
    for place, found in zip(where, ids, strict=True):
        if max_tokens is not None and len(found) > max_tokens:
            raise InputError(
                f"{place}: a sentence of {len(found)} tokens, expected at most {max_tokens}, which the model can "
                "score; remove the line"
            )
    log_probs = score_all(scorer, ids, block_sentences=block_sentences)
    scores = np.array([row[: len(row) if eos else -1].sum(dtype=np.float64) for row in log_probs])
    if len(bad := np.flatnonzero(~np.isfinite(scores))):
        raise RunError(
            f"minimal pairs: log p({sentences[bad[0]]!r}) is {scores[bad[0]]}, expected a finite number; training "
            "diverged or the checkpoint is damaged: use another checkpoint"
        )
    good = scores[[index[pair.good] for pair in kept]] if kept else np.zeros(0)
    worse = scores[[index[pair.bad] for pair in kept]] if kept else np.zeros(0)
    differences = good - worse

    first_of: dict[str, MinimalPair] = {}
    for pair in pairs:
        first_of.setdefault(pair.paradigm, pair)
    figures = MinimalPairFigures(
        overall=_counts(differences),
        by_paradigm=_counts_by(pairs, kept, differences, lambda pair: pair.paradigm),
        by_term=_counts_by(pairs, kept, differences, lambda pair: pair.term),
        by_field=_counts_by(pairs, kept, differences, lambda pair: pair.field),
        terms={name: pair.term for name, pair in first_of.items()},
        fields={name: pair.field for name, pair in first_of.items()},
        num_identical=len(pairs) - len(kept),
    )
    return figures, [
        ScoredPair(paradigm=pair.paradigm, pair=pair.number, good=float(good[i]), bad=float(worse[i]))
        for i, pair in enumerate(kept)
    ]


def _stem(file: Path) -> str:
    return file.name.removesuffix(".gz").removesuffix(".jsonl")


def _pairs_of_file(file: Path) -> Iterator[MinimalPair]:
    for number_of_line, line in enumerate(_lines(file), start=1):
        if not line.strip():
            continue
        try:
            yield _pair(json.loads(line.decode("utf-8")), _stem(file), f"{file}:{number_of_line}")
        except UnicodeDecodeError as error:
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


def _pair(value: Any, stem: str, where: str) -> MinimalPair:  # noqa: ANN401 - parsed JSON
    if not isinstance(value, dict):
        raise ValueError(f"found {type(value).__name__}")  # noqa: TRY004 - reported with file and line by the caller
    texts = {name: _text(value, name, None) for name in ("sentence_good", "sentence_bad")}
    field = _text(value, "field", NOT_SPECIFIED)
    return MinimalPair(
        good=texts["sentence_good"],
        bad=texts["sentence_bad"],
        paradigm=_text(value, "UID", stem),
        term=_text(value, "linguistics_term", NOT_SPECIFIED),
        field=_FIELDS.get(field, field),
        where=where,
    )


def _text(value: dict[str, Any], name: str, default: str | None) -> str:
    found = value.get(name)
    if found is None:
        found = default  # null says no more than nothing
    if not isinstance(found, str):
        raise ValueError(f"{name} is {found!r}")  # noqa: TRY004 - reported with file and line by the caller
    found.encode()  # a lone surrogate is legal in JSON, but it is not text
    if not (normalised := normalise_text(found)):
        raise ValueError(f"{name} is empty")
    return normalised


def _counts_by(
    pairs: Sequence[MinimalPair],
    kept: Sequence[MinimalPair],
    differences: NDArray[np.float64],
    key: Callable[[MinimalPair], str],
) -> dict[str, PairCounts]:
    names = sorted({key(pair) for pair in pairs})
    index = {name: i for i, name in enumerate(names)}
    which = np.array([index[key(pair)] for pair in kept], np.int64)
    return {name: _counts(differences[which == i]) for i, name in enumerate(names)}


def _counts(differences: NDArray[np.float64]) -> PairCounts:
    return PairCounts(
        num_pairs=len(differences),
        num_right=int((differences > 0).sum()),
        num_ties=int((differences == 0).sum()),
        mean_difference=float(differences.mean()) if len(differences) else 0.0,
        standard_deviation=float(differences.std(ddof=1)) if len(differences) > 1 else 0.0,
    )
