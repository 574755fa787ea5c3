"""Compare the time when a model learns a word with the age when children learn it, as BabyLM's task AoA does.

AoA stands for age of acquisition. The data are two files. The file ``cdi_childes.json`` has words. Each word has
contexts, which are texts that the word may follow. The file ``cdi_human.csv`` has, for each word and each age from 16
to 30 months, the share of the children of this age who know the word.

For each word, this module fits a logistic curve f to points (x, y) of the model, and another curve to points of the
children:

    f(x) = a / (1 + exp(-b (x - c))) + d

- Model: there is a point for each checkpoint. If the model was trained on N words before this checkpoint, x is
  log10(1 + N), and y is the mean of log p(word | context) over the word's contexts. The model's age of acquisition is
  the x where the curve is halfway between chance and the word's highest y. Chance is the y of a model whose
  distributions are all uniform. It is -n ln V for a word of n tokens and a vocabulary of V tokens.
- Children: there is a point for each age. x is the age in months, and y is the share of children who know the word.
  The children's age of acquisition is the x where the curve is 0.5.

A word is left out if one of its two curves cannot be fitted. It is also left out if one of its two ages of acquisition
does not exist, or is before the first point or after the last point. The score is Pearson's correlation, over the
remaining words, of the model's age of acquisition with the children's.

These are the rules of BabyLM's pipeline of 2026, which also sets the score to 0 if the correlation has a p-value above
0.1. By the rules of 2025, there is a point for each checkpoint and context, and chance is -log2(300,000). This is in
bits, but the points are in nats, so the value halfway between chance and the word's highest y has no meaning.

Chang and Bergen (2022), TACL 10; Frank et al. (2017), Wordbank.
"""

import csv
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.evaluation.babylm_tasks import Choice, Rules
from pipeline.evaluation.reading_times import MISSING
from pipeline.runtime.train_config import words_name
from storage.errors import InputError
from storage.json_files import read_json

FOLDERS: Final = ("aoa", "cdi_childes")
"""The folder with the two files is ``aoa`` in BabyLM's data of 2026, and ``cdi_childes`` in those of 2025."""
LEAST: Final = 3
"""A curve needs at least this many points, and a correlation needs at least this many words."""
AGES: Final = tuple(range(16, 31))
"""The ages of the children, in months."""
_REMEDY: Final = "fetch the evaluation data again"
CHANCE_OF_2025: Final = math.log2(300_000)


Surprisals = Mapping[int, Sequence[NDArray[np.float64]]]
"""A key is the number of words that the model was trained on before a checkpoint. The keys ascend. The value has an
array ``[contexts]`` for each word of the task, with the word's surprisal in nats after each of its contexts."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AcquisitionTask:
    """The data of the task."""

    files: tuple[Path, ...]
    contexts: Mapping[str, Sequence[str]]
    """The contexts of each word."""
    choices: tuple[Choice, ...]
    """For each word the texts to score. A text is a context followed by the word. Only the word is scored."""
    children: Mapping[str, NDArray[np.float64]] | None
    """The result of ``read_children``. It is None if ``cdi_human.csv`` is missing. The task then has no score."""

    @property
    def name(self) -> str:
        """The name of the folder that holds the words."""
        return self.files[0].parent.name

    def figures(self, surprisals: Surprisals, tokenizer: Tokenizer, rules: Rules) -> dict[str, Any]:
        """Return the figures of ``acquisition_scores``, or ``{"score": None}`` if there are no data of children."""
        if self.children is None:
            return {"score": None}
        by_word = dict(zip(self.contexts, zip(*surprisals.values(), strict=True), strict=True))
        compared = [word for word in by_word if word in self.children]
        num_pieces = num_tokens(tokenizer.encode_batch, compared)
        num_words = np.array([*surprisals], np.float64)
        pairs = []
        for word in compared:
            chance = num_pieces[word] * math.log(tokenizer.vocab_size)
            of_children = age_of_children(self.children[word])
            of_model = age_of_model(np.stack(by_word[word]), num_words, rules=rules, chance=chance)
            pairs.append((of_model, of_children))
        return acquisition_scores(pairs, rules)

    def predictions(self, surprisals: Surprisals, *, name: str, score: float | None) -> dict[str, Any]:
        """Return the contents of the files that BabyLM collects, by their path below ``zero_shot/causal``."""
        about = {"model_name": name, "use_bos_only": False}
        about |= dict.fromkeys(("total_steps", "completed_steps"), len(surprisals))
        results = [
            {
                "step": checkpoint_name(num),
                "word_count": num,
                "target_word": word,
                "context_id": i,
                "context": context,
                "surprisal": float(values[i]),
            }
            for num, of_words in surprisals.items()
            for (word, contexts), values in zip(self.contexts.items(), of_words, strict=True)
            for i, context in enumerate(contexts)
        ]
        files: dict[str, Any] = {"AoA_word/surprisal.json": {"metadata": about, "results": results}}
        return files if score is None else files | {"AoA_word/aoa_score.json": {"aoa": score}}

    def rows(self, surprisals: Surprisals) -> Iterator[dict[str, Any]]:
        """Yield the item rows of the result: the mean surprisal of each word at each checkpoint."""
        for num, of_words in surprisals.items():
            for word, values in zip(self.contexts, of_words, strict=True):
                yield {
                    "task": self.name, "checkpoint": checkpoint_name(num), "word": word, "surprisal": values.mean()
                }  # fmt: skip


def checkpoint_name(num_words: int) -> str:
    """Return BabyLM's name of the checkpoint after a number of words of training, such as ``chck_1M``."""
    return words_name(num_words).replace("words_", "chck_")


def read_acquisition_task(folder: Path) -> AcquisitionTask | None:
    """Return the data of the task in BabyLM's folder ``full_eval``; None if there is no ``cdi_childes.json``.

    Raises:
        InputError: If a file is malformed.
    """

    def first(name: str) -> list[Path]:
        return [path for place in FOLDERS if (path := folder / place / name).is_file()][:1]

    words, children = first("cdi_childes.json"), first("cdi_human.csv")
    if not words:
        return None
    contexts, choices = _read_words(words[0])
    return AcquisitionTask(
        files=(*words, *children),
        contexts=contexts,
        choices=choices,
        children=read_children(children[0]) if children else None,
    )


@dataclass(frozen=True, slots=True)
class _Context:
    """An entry of ``cdi_childes.json``."""

    context: str


def _read_words(path: Path) -> tuple[dict[str, list[str]], tuple[Choice, ...]]:
    """Return the task's ``contexts`` and ``choices``, without words of one character, as in BabyLM's pipeline."""
    content = read_json(path, dict[str, list[_Context]], remedy=_REMEDY)
    contexts = {word: [each.context for each in given] for word, given in content.items() if len(word) > 1 and given}
    if not contexts:
        raise InputError(f"{path}: no word with contexts; {_REMEDY}")
    choices = []
    for word, given in contexts.items():
        texts = tuple(f"{context.strip()} {word.strip()}" for context in given)
        starts = tuple(len(text) - len(word.strip()) for text in texts)
        choices.append(Choice(subset=word, texts=texts, starts=starts, answers=(), where=f"{path}: {word!r}"))
    return contexts, tuple(choices)


def read_children(path: Path) -> dict[str, NDArray[np.float64]]:
    """Return for each word the share of children who know it at each of the ages ``AGES``.

    The shares of a word are an array ``[15]``. A missing share is NaN.

    Raises:
        InputError: If a column is missing, or a share is not a number.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows, names = list(reader), reader.fieldnames or []
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}); {_REMEDY}") from error
    if "word" not in names or not {str(age) for age in AGES} & {*names}:
        raise InputError(f"{path}:1: found {', '.join(names)}, expected word and the months 16 to 30; {_REMEDY}")
    found: dict[str, NDArray[np.float64]] = {}
    for number, row in enumerate(rows, start=1):
        values = [(row.get(str(age)) or "").strip() for age in AGES]
        try:
            shares = np.array([math.nan if value in MISSING else float(value) for value in values])
        except ValueError as error:
            raise InputError(f"{path}: row {number}: {error}, expected the shares of children; {_REMEDY}") from error
        found.setdefault(row["word"] or "", shares)  # the pipeline takes the first row of a word
    return found


def age_of_children(shares: NDArray[np.float64]) -> float | None:
    """Return the age in months at which half of the children know a word; None if the word is left out."""
    known = np.isfinite(shares)
    if known.sum() < LEAST:
        return None
    ages = np.array(AGES, np.float64)[known]
    found = _crossing(
        ages,
        shares[known],
        threshold=0.5,
        start=(1.0, 0.1, ages.mean(), 0.0),
        bounds=((0.0, 0.0, ages[0], -0.5), (2.0, 1.0, ages[-1], 0.5)),
        max_evaluations=1_000,
    )
    return found if found is not None and ages[0] <= found <= ages[-1] else None


def age_of_model(
    surprisals: NDArray[np.float64], num_words: NDArray[np.float64], *, rules: Rules, chance: float
) -> float | None:
    """Return the model's age of acquisition (see the module) of a word; None if the word is left out.

    ``surprisals`` is ``[checkpoints, contexts]`` in nats. ``num_words`` ``[checkpoints]`` has the numbers of words of
    training, ascending. ``chance`` is the surprisal of the word under a uniform distribution, in nats. The rules of
    2025 do not use this argument.
    """
    x, y = np.log10(num_words + 1), -surprisals.mean(axis=1)
    if rules == "2025":
        x, y, chance = np.repeat(x, surprisals.shape[1]), -surprisals.reshape(-1), CHANCE_OF_2025
    if len(x) < LEAST:
        return None
    low, high = y.min(), y.max()
    span = high - low
    lower, upper = (0.0, 0.0, x[0] - 1, low - 2 * span - 1), (10 * span + 1, 100.0, x[-1] + 1, high + 1)
    found = _crossing(
        x,
        y,
        threshold=-(chance - 0.5 * (chance + high)),
        start=(span, 1.0, x.mean(), low),
        bounds=(lower, upper) if rules == "2026" else None,
        max_evaluations=20_000 if rules == "2026" else 1_000,
        flat=1e-6 if rules == "2026" else 0.0,
    )
    if found is None or found > x[-1] + 1:  # 10**found could be too large for a float
        return None
    # This line compares numbers of words, as the pipeline does, because their logarithms may round differently.
    return found if num_words[0] <= 10**found - 1 <= num_words[-1] else None


def _crossing(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    *,
    threshold: float,
    start: Sequence[float],
    bounds: tuple[Sequence[float], Sequence[float]] | None,
    max_evaluations: int,
    flat: float = 0.0,
) -> float | None:
    """Fit a curve and return the x where the curve reaches the threshold; None if there is no such curve or x.

    ``start`` has the first guesses for a, b, c and d. ``bounds`` has their lower bounds and their upper bounds. The fit
    fails after ``max_evaluations`` evaluations of the curve. If a or b of the fitted curve is at most ``flat``, the
    result is None.
    """
    from scipy.optimize import OptimizeWarning, curve_fit  # noqa: PLC0415  an extra installs it

    within = {} if bounds is None else {"bounds": bounds}
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore", OptimizeWarning)  # about the covariance, which nobody reads
            found, _ = curve_fit(_logistic, x, y, p0=start, maxfev=max_evaluations, **within)
    except (RuntimeError, ValueError, TypeError):  # no convergence, impossible bounds, or fewer points than parameters
        return None
    a, b, c, d = map(float, found)
    if min(a, b) <= flat or not d < threshold < a + d:
        return None
    ratio = a / (threshold - d) - 1
    return c - math.log(ratio) / b if ratio > 0 else None


def _logistic(x: NDArray[np.float64], a: float, b: float, c: float, d: float) -> NDArray[np.float64]:
    curve: NDArray[np.float64] = a / (1 + np.exp(-b * (x - c))) + d
    return curve


def acquisition_scores(pairs: Iterable[tuple[float | None, float | None]], rules: Rules) -> dict[str, Any]:
    """Return the correlation of the model's ages of acquisition with the children's. Pairs with a None do not count.

    ``score`` is 0.0 if there are fewer than 3 words, or if all ages of the model or all ages of the children are equal.
    By the rules of 2026, it is also 0.0 if the p-value of the correlation is above 0.1.
    """
    from scipy.stats import pearsonr  # noqa: PLC0415  an extra installs it

    known = np.array([pair for pair in pairs if None not in pair], np.float64).reshape(-1, 2)
    figures: dict[str, Any] = {"score": 0.0, "correlation": None, "p_value": None, "num_words": len(known)}
    if len(known) < LEAST or not known.std(axis=0).all():
        return figures
    correlation, p_value = map(float, pearsonr(*known.T))
    score = 0.0 if rules == "2026" and p_value > 0.1 else correlation
    return figures | {"score": score, "correlation": correlation, "p_value": p_value}


def num_tokens(encode: Callable[[Sequence[str]], list[list[int]]], words: Sequence[str]) -> dict[str, int]:
    """Return, for each word, the number of tokens of "The WORD" minus the number of tokens of "The", but at least 1."""
    first, *others = map(len, encode(["The", *(f"The {word}" for word in words)]))
    return {word: max(1, each - first) for word, each in zip(words, others, strict=True)}
