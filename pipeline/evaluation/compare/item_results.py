"""What results say of each item of a benchmark, read so that runs are compared on the same items and in no other way.

    minimal pairs    1 where log p(good) > log p(bad), strictly, else 0      groups: paradigms
    SyntaxGym        1 where every prediction of an item is true, else 0     groups: suites
    perplexity       -log p of a sentence and its <eos>, nats                no groups

An item is what a row of ``RUN/results/NAME.jsonl`` is about. Log-probabilities are sums of float32 values, so that two
that are equal are a tie: never right. Rows are validated line by line, and against the figures beside them. Results of
other checkpoints than the best are not read, nor those of weights that the best checkpoint had once.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.evaluation.perplexity import FLOOR, MARGINAL, PREFIX, PerplexityFigure
from pipeline.evaluation.result_rows import read_sentence_rows
from pipeline.evaluation.results import MINIMAL_PAIRS, PERPLEXITY, SYNTAXGYM, Result, best_weights_sha256, read_results
from pipeline.runtime.json_files import number, read_json_lines
from storage.errors import InputError
from storage.files import beside

Normaliser = Literal["token", "word", "byte"]

_OUTCOMES: Final = {"right": 1, "wrong": 0, "tie": 0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """What runs are compared on: two results are of the same one if every field is the same."""

    kind: str
    """``minimal_pairs``, ``syntaxgym`` or ``perplexity``."""
    subject: str
    """What results call the items: the name of a folder or split."""
    fingerprint: str
    """sha256 of the pairs or suites; of a split's text, or, with ``tokenizer``, of the split."""
    conventions: str
    """What else a result must share to be comparable: the distribution, the sizes of a beam search, the prefix, whether
    ``<eos>`` counts."""
    unit: str
    """Of the overall figure: ``accuracy``, ``nats a token``, ``nats a word`` or ``bits a byte``."""
    tokenizer: str = ""
    """sha256, where the unit is a token; else empty."""

    @property
    def is_outcome(self) -> bool:
        """Whether an item is right or wrong, and more is better; of a perplexity less is."""
        return self.kind != PERPLEXITY

    @property
    def title(self) -> str:
        """Return what people call it, unambiguously."""
        kind = {MINIMAL_PAIRS: "minimal pairs", SYNTAXGYM: "SyntaxGym", PERPLEXITY: "perplexity"}[self.kind]
        return f"{kind} on {self.subject} ({self.fingerprint[:8]}), {self.conventions}"


@dataclass(frozen=True, kw_only=True, slots=True)
class ItemScores:
    """What a run scored on each of N items."""

    benchmark: Benchmark
    path: Path
    """Of the rows."""
    command: str
    """That made the result."""
    groups: tuple[str, ...]
    """The G paradigms or suites; empty for a perplexity."""
    group_of_item: NDArray[np.int64]
    """``[N]`` in ``[0, G)``; zeros for a perplexity."""
    numbers: NDArray[np.int64]
    """``[N]`` which item of its group."""
    values: NDArray[np.int64] | NDArray[np.float64]
    """``[N]`` int64, 1 for right; or float64, nats of a sentence."""
    parts: Mapping[str, Mapping[str, str]]
    """What groups are put together by, ``term`` or ``field``: then by group."""
    scale: float
    """What the sum of ``values`` is divided by for the overall figure of a perplexity: tokens, words or bytes of the
    split with one a sentence for its end, and ln 2 for bits; 1 for outcomes."""

    @property
    def units(self) -> NDArray[np.float64]:
        """``[U]`` float64, whose mean is the overall figure.

        Each group's accuracy, so that every paradigm or suite counts the same; of a perplexity each sentence's nats,
        over what a sentence has of the unit on average.
        """
        if not self.benchmark.is_outcome:
            return np.asarray(self.values * (len(self.values) / self.scale), np.float64)
        rights = np.bincount(self.group_of_item, self.values, len(self.groups))
        return np.asarray(rights / np.bincount(self.group_of_item), np.float64)

    def check_same_items(self, other: "ItemScores") -> None:
        """Refuse rows of other items.

        Raises:
            InputError: If there is another item, another order or another size.
        """
        same = (
            self.groups == other.groups
            and np.array_equal(self.group_of_item, other.group_of_item)
            and np.array_equal(self.numbers, other.numbers)
            and self.parts == other.parts
            and self.scale == other.scale
        )
        if not same:
            raise InputError(
                f"{self.path}: not the items of {other.path}, expected the same of {self.benchmark.title}; evaluate "
                f"both again: {self.command}"
            )


def read_item_scores(run: Path, *, normaliser: Normaliser, left_out: list[str]) -> list[ItemScores]:
    """Return what a run's results of its best checkpoint say of each item, in the order of the results' names.

    Args:
        run: A run directory.
        normaliser: What perplexities are by. By the token they are of the run's tokenizer and compare with no other's.
        left_out: Gets a sentence for each result of other weights, without rows or without items, with the command
            that would mend it.

    Raises:
        InputError: If a row is damaged, rows do not fit the figures beside them, or two results are of one benchmark
            and not the same.
    """
    found: dict[Benchmark, ItemScores] = {}
    results = {
        name: result
        for name, result in read_results(run).items()
        if result.kind in {MINIMAL_PAIRS, SYNTAXGYM, PERPLEXITY} and result.settings.get("checkpoint") == "best"
    }
    weights = best_weights_sha256(run)
    for name, result in results.items():
        file = _ResultFiles(run / "results" / name, result)
        if weights is not None and (of := file.fingerprint("weights")) != weights:
            left_out.append(
                f"{file.path}: of weights {of[:12]}, but the best checkpoint is {weights[:12]} now; {file.remedy}"
            )
            continue
        if not file.rows_path.exists():
            left_out.append(f"{file.rows_path}: not there, expected a row an item; {file.remedy}")
            continue
        if result.kind == MINIMAL_PAIRS:
            scores = [_pair_outcomes(file)]
        elif result.kind == SYNTAXGYM:
            scores = [_suite_outcomes(file)]
        else:
            scores = _sentence_nats(file, normaliser)
        for one in scores:
            if not len(one.values):
                left_out.append(f"{one.path}: no item, as where both sentences of every pair are one; {file.remedy}")
                continue
            # The same twice is no doubt: figures given the tree stand with a beam search's and without.
            if not np.array_equal((other := found.setdefault(one.benchmark, one)).values, one.values):
                raise InputError(
                    f"{one.path} and {other.path}: both of {one.benchmark.title}, expected one; remove one"
                )
    return list(found.values())


class _ResultFiles:
    """A result, and the rows beside it."""

    def __init__(self, stem: Path, result: Result) -> None:
        self.path = beside(stem, ".json")
        self.rows_path = beside(stem, ".jsonl")
        self.result = result
        self.remedy = f"evaluate again: {result.command}"

    def setting(self, name: str, expected: type) -> Any:  # noqa: ANN401 - of the type expected
        """Return a setting."""
        found = self.result.settings.get(name)
        if not isinstance(found, expected):
            raise InputError(f"{self.path}: settings.{name} is {found!r}, expected {expected.__name__}; {self.remedy}")
        return found

    def fingerprint(self, name: str) -> str:
        """Return a sha256."""
        found = self.result.fingerprints.get(name)
        if not isinstance(found, str):
            raise InputError(f"{self.path}: no sha256 of the {name}, which says what compares with it; {self.remedy}")
        return found

    @property
    def search(self) -> list[str]:
        """Return the sizes of the beam search, if one made the figures."""
        if not {"beam", "word_beam"} & self.result.settings.keys():
            return []
        return [f"beam {self.setting('beam', int)}", f"word beam {self.setting('word_beam', int)}"]

    def groups(self, name: str, field: str) -> dict[str, Mapping[str, Any]]:
        """Return an object of objects in the figures, of which each has ``field``, text."""
        found = self.result.figures.get(name) if isinstance(self.result.figures, dict) else None
        if not isinstance(found, dict) or not all(
            isinstance(group, dict) and isinstance(group.get(field), str) for group in found.values()
        ):
            raise InputError(f"{self.path}: figures.{name} is no object of objects with {field}; {self.remedy}")
        return found

    def rows(self) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Yield each row and where it is."""
        for where, row in read_json_lines(self.rows_path, remedy=self.remedy):
            if not isinstance(row, dict):
                raise InputError(f"{where}: found {type(row).__name__}, expected an object; {self.remedy}")
            yield where, row

    def value(self, where: str, row: Mapping[str, Any], name: str, expected: type) -> Any:  # noqa: ANN401
        """Return a field of a row."""
        found = row.get(name)
        if isinstance(found, bool) or not isinstance(found, expected):
            raise InputError(f"{where}: {name} is {found!r}, expected {expected.__name__}; {self.remedy}")
        return found

    def check(self, what: str, found: float, expected: float, *, tolerance: float = 0) -> None:
        """Refuse rows that do not add up to the figures beside them, as where an evaluation was cut off."""
        if not math.isclose(found, expected, rel_tol=tolerance):
            raise InputError(
                f"{self.rows_path}: {what} {found:,.10g}, but {self.path.name} says {expected:,.10g}; {self.remedy}"
            )


def _pair_outcomes(file: _ResultFiles) -> ItemScores:
    def read(where: str, row: Mapping[str, Any]) -> tuple[str, int, int]:
        is_right = number(row, "good", where=where) > number(row, "bad", where=where)
        return file.value(where, row, "paradigm", str), file.value(where, row, "pair", int), int(is_right)

    figures = file.groups("by_paradigm", "linguistics_term")
    file.groups("by_paradigm", "field")
    eos = "<eos> counted" if file.setting("eos", bool) else "<eos> not counted"
    return _outcomes(
        file,
        figures,
        read,
        count="num_pairs",
        fingerprint=file.fingerprint("pairs"),
        conventions=[f"prefix {file.setting('prefix', str)}", eos],
        parts={
            "term": {name: str(figure["linguistics_term"]) for name, figure in figures.items()},
            "field": {name: str(figure["field"]) for name, figure in figures.items()},
        },
    )


def _suite_outcomes(file: _ResultFiles) -> ItemScores:
    def read(where: str, row: Mapping[str, Any]) -> tuple[str, int, int]:
        outcome = file.value(where, row, "outcome", str)
        if outcome not in _OUTCOMES:
            raise InputError(f"{where}: outcome is {outcome!r}, expected {', '.join(_OUTCOMES)}; {file.remedy}")
        return file.value(where, row, "suite", str), file.value(where, row, "item", int), _OUTCOMES[outcome]

    return _outcomes(
        file,
        file.groups("by_suite", "circuit"),
        read,
        count="num_items",
        fingerprint=file.fingerprint("suites"),
        conventions=[f"regions joined as {file.setting('joining', str)}"],
        parts={},
    )


def _outcomes(
    file: _ResultFiles,
    figures: Mapping[str, Mapping[str, Any]],
    read: Callable[[str, Mapping[str, Any]], tuple[str, int, int]],
    *,
    count: str,
    fingerprint: str,
    conventions: list[str],
    parts: Mapping[str, Mapping[str, str]],
) -> ItemScores:
    """Return what rows say; ``read`` gives the group of one, its number, and 1 for right."""
    items = [read(where, row) for where, row in file.rows()]
    groups = tuple(sorted({group for group, _, _ in items}))
    index = {group: i for i, group in enumerate(groups)}
    group_of_item = np.array([index[group] for group, _, _ in items], np.int64)
    values = np.array([right for _, _, right in items], np.int64)
    for group, figure in figures.items():
        inside = values[group_of_item == index.get(group, -1)]
        where = f"{file.path}: {group}"
        file.check(f"items of {group}:", len(inside), number(figure, count, where=where))
        file.check(f"right of {group}:", int(inside.sum()), number(figure, "num_right", where=where))
    if strange := sorted(set(groups) - figures.keys()):
        raise InputError(f"{file.rows_path}: {strange[0]} is not in {file.path.name}; {file.remedy}")
    distribution = [str(name)] if (name := file.result.settings.get("distribution")) is not None else []
    return ItemScores(
        benchmark=Benchmark(
            kind=file.result.kind,
            subject=file.result.subject,
            fingerprint=fingerprint,
            conventions=", ".join([*distribution, *file.search, *conventions]),
            unit="accuracy",
        ),
        path=file.rows_path,
        command=file.result.command,
        groups=groups,
        group_of_item=group_of_item,
        numbers=np.array([item for _, item, _ in items], np.int64),
        values=values,
        parts={by: {group: part[group] for group in groups} for by, part in parts.items()},
        scale=1.0,
    )


def _sentence_nats(file: _ResultFiles, normaliser: Normaliser) -> list[ItemScores]:
    """Return a score for each distribution but the floor, which is no model's."""
    if not isinstance(file.result.figures, list) or not all(isinstance(one, dict) for one in file.result.figures):
        raise InputError(f"{file.path}: figures is no list of objects; {file.remedy}")
    figures = [PerplexityFigure.from_json(one, where=str(file.path)) for one in file.result.figures]
    figures = [figure for figure in figures if figure.distribution != FLOOR]
    nats: dict[str, list[float]] = {figure.distribution: [] for figure in figures}
    for log_probs in read_sentence_rows(file.rows_path, remedy=file.remedy):
        if log_probs.keys() != nats.keys():
            raise InputError(
                f"{file.rows_path}: distributions {sorted(log_probs)}, but {file.path.name} has {sorted(nats)}; "
                f"{file.remedy}"
            )
        for distribution, of_tokens in log_probs.items():
            nats[distribution].append(-float(of_tokens.sum()))
    scores = []
    for figure in figures:
        values = np.array(nats[figure.distribution], np.float64)
        file.check("sentences:", len(values), figure.num_sentences)
        # A row has at least six decimals of each log-probability; float32 has seven digits.
        file.check(f"nats, {figure.distribution}:", float(values.sum()), figure.nats, tolerance=1e-5)
        of_tokenizer, by_search = normaliser == "token", figure.distribution in {MARGINAL, PREFIX}
        unit, scale = {
            "token": ("nats a token", figure.num_positions),
            "word": ("nats a word", figure.num_words + figure.num_sentences),
            "byte": ("bits a byte", (figure.num_bytes + figure.num_sentences) * math.log(2)),
        }[normaliser]
        scores.append(
            ItemScores(
                benchmark=Benchmark(
                    kind=PERPLEXITY,
                    subject=file.result.subject,
                    fingerprint=file.fingerprint("split" if of_tokenizer else "text"),
                    conventions=", ".join([figure.distribution, *(file.search if by_search else [])]),
                    unit=unit,
                    tokenizer=file.fingerprint("tokenizer") if of_tokenizer else "",
                ),
                path=file.rows_path,
                command=file.result.command,
                groups=(),
                group_of_item=np.zeros(len(values), np.int64),
                numbers=np.arange(len(values)),
                values=values,
                parts={},
                scale=scale,
            )
        )
    return scores
