"""Compare word surprisals with reading times, as BabyLM's task "reading" does.

The data are a table with one row per word. A row has the ``word`` and the text before it (``item``), the preceding word
(``prev_word``) and the text before the preceding word (``prev_item``), the reading times (the measures), and three
controls: frequency, length and position. The controls leave some variance of a measure unexplained. The score of the
measure is the share of this variance that the surprisal explains:

    (R2 of controls and surprisal - R2 of the controls) / (1 - R2 of the controls)

where each R2 comes from an ordinary least-squares fit. The fit also has a term for the product of every two controls.
The score of eye tracking is the mean of the scores of four measures. Self-paced reading has two more controls: the
length and the surprisal of the preceding word.

The surprisal of a word is the sum of its tokens' surprisals. Here, the word and the text before it are encoded as one
text. BabyLM's pipeline instead encodes the word alone, and scores the tokens of the word (the pieces) one by one. For
each piece, the model reads the text before the word, followed by the decoded earlier pieces. The first piece is scored
as it is. Every later piece is decoded, the resulting string is encoded by itself, and its first token is scored in
place of the piece. A text that is encoded in such parts may lose spaces or have other tokens than if it is encoded as a
whole. The function ``word_surprisals`` returns the surprisals of both methods.

de Varda, Marelli and Amenta (2023), Behavior Research Methods.
"""

import csv
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.text_files import read_lines
from pipeline.evaluation.scorer import Scorer
from storage.errors import InputError, RunError

EYE_TRACKING: Final = ("RTfirstfix", "RTfirstpass", "RTgopast", "RTrightbound")
SELF_PACED: Final = "self_paced_reading_time"
CONTROLS: Final = ("Subtlex_log10", "length", "context_length")
MISSING: Final = frozenset(
    {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
     "NULL", "NaN", "None", "n/a", "nan", "null"}
)  # fmt: skip
"""The cells that pandas takes for a missing value. BabyLM's pipeline reads the table with pandas."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class ReadingData:
    """The columns of ``reading_data.csv`` that the scores need. The table has N rows."""

    contexts: tuple[str, ...]
    words: tuple[str, ...]
    previous: tuple[tuple[str, str] | None, ...]
    """For each row, the preceding word and its own context: (context, word). None if no word precedes."""
    columns: Mapping[str, NDArray[np.float64]]
    """For each measure and control, by name, its values ``[N]``. A missing value is NaN."""


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Surprisals:
    """The surprisals of each word and of the word before it: ``[N]`` float64, in nats. NaN if no word is before it."""

    words: NDArray[np.float64]
    previous: NDArray[np.float64]


def _texts(path: Path) -> Iterator[str]:
    for line in read_lines(path):
        if not line.is_utf8:
            raise InputError(f"{path}:{line.number}: not UTF-8, expected UTF-8 text; fetch the evaluation data again")
        yield line.text


def read_reading_data(path: Path) -> ReadingData:
    """Return the table ``reading_data.csv``.

    Raises:
        InputError: If a column is missing, or a value is not a number.
    """
    try:
        reader = csv.DictReader((f"{text}\n" for text in _texts(path)), strict=True)
        rows = list(reader)
        names = reader.fieldnames or []
    except csv.Error as error:
        raise InputError(f"{path}: cannot be read ({error}); fetch the evaluation data again") from error
    measures = (*EYE_TRACKING, SELF_PACED, *CONTROLS, "prev_length")
    if missing := [name for name in (*measures, "item", "word", "prev_item", "prev_word") if name not in names]:
        raise InputError(f"{path}:1: no column {', '.join(missing)}; fetch the evaluation data again")
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"{path}:1: two columns {twice[0]}, expected one; fetch the evaluation data again")
    if not rows:
        raise InputError(f"{path}: no row, expected one per word; fetch the evaluation data again")
    for i, row in enumerate(rows, 1):
        if None in row or None in row.values():  # surplus cells have the key None, missing ones the value None
            raise InputError(
                f"{path}: row {i} has more or fewer cells than the {len(names)} of the header; fetch the file again"
            )
        if not row["word"].strip() or (row["prev_item"] not in MISSING and not row["prev_word"].strip()):
            raise InputError(f"{path}: row {i} has no word, expected one; fetch the file again")

    def number(row: int, name: str) -> float:
        value = rows[row][name].strip()
        try:
            return math.nan if value in MISSING else float(value)
        except ValueError as error:
            raise InputError(
                f"{path}: row {row + 1}: {name} is {value!r}, expected a number; fetch the file again"
            ) from error

    return ReadingData(
        # One sentence of the data begins with the word "None". In the row of the next word, ``item`` is "None". This is
        # a text, although "None" is in MISSING. Other cells of ``item`` that are in MISSING are read as "None" too.
        contexts=tuple("None" if row["item"] in MISSING else row["item"] for row in rows),
        words=tuple(row["word"] for row in rows),
        previous=tuple(None if row["prev_item"] in MISSING else (row["prev_item"], row["prev_word"]) for row in rows),
        columns={name: np.array([number(i, name) for i in range(len(rows))]) for name in measures},
    )


def word_surprisals(
    scorer: Scorer, tokenizer: Tokenizer, data: ReadingData, *, max_tokens: int | None
) -> tuple[Surprisals, Surprisals]:
    """Return the surprisals by the method of this module, then those by the method of BabyLM's pipeline.

    Raises:
        InputError: If a text is too long for the model.
        RunError: If a log-probability is not finite.
    """
    pairs = list(dict.fromkeys([*zip(data.contexts, data.words, strict=True), *filter(None, data.previous)]))
    ours = _sums(scorer, tokenizer, pairs, max_tokens)
    theirs = _sums_of_pieces(scorer, tokenizer, pairs, max_tokens)

    def all_of(found: Mapping[tuple[str, str], float]) -> Surprisals:
        words = [found[pair] for pair in zip(data.contexts, data.words, strict=True)]
        previous = [math.nan if pair is None else found[pair] for pair in data.previous]
        return Surprisals(words=np.array(words), previous=np.array(previous))

    return all_of(ours), all_of(theirs)


def reading_scores(data: ReadingData, surprisals: Surprisals) -> dict[str, float | None]:
    """Return the scores ``eye_tracking`` and ``self_paced_reading``.

    A score is None if no row has all values that the score needs, if the measure is constant, or if the controls alone
    explain all its variance.
    """
    controls = {name: data.columns[name] for name in CONTROLS}
    eye = [_gain(data.columns[name], controls, surprisals.words) for name in EYE_TRACKING]
    known = [score for score in eye if score is not None]
    with_previous = controls | {"prev_length": data.columns["prev_length"], "prev_pred": surprisals.previous}
    return {
        "eye_tracking": sum(known) / len(known) if len(known) == len(eye) else None,
        "self_paced_reading": _gain(data.columns[SELF_PACED], with_previous, surprisals.words),
    }


def _gain(
    measure: NDArray[np.float64], controls: Mapping[str, NDArray[np.float64]], surprisal: NDArray[np.float64]
) -> float | None:
    """Return the score of a measure (see the module), over the rows without a missing value."""
    columns = list(controls.values())
    rows = np.isfinite(np.stack([measure, *columns, surprisal])).all(axis=0)
    if not rows.any():
        return None
    y = measure[rows]
    # Standardising the columns does not change the space that the terms span, but makes the fit well conditioned.
    scaled = [_standardised(column[rows]) for column in columns]
    base = [np.ones_like(y), *scaled, *(one * other for one, other in combinations(scaled, 2))]
    without, with_it = (
        _r_squared(y, np.stack(terms, axis=1)) for terms in (base, [*base, _standardised(surprisal[rows])])
    )
    return None if without is None or with_it is None or without >= 1 else (with_it - without) / (1 - without)


def _standardised(column: NDArray[np.float64]) -> NDArray[np.float64]:
    deviation = column.std()
    standardised: NDArray[np.float64] = (column - column.mean()) / (deviation if deviation > 0 else 1.0)
    return standardised


def _r_squared(y: NDArray[np.float64], terms: NDArray[np.float64]) -> float | None:
    total = float(((y - y.mean()) ** 2).sum())
    if not total:
        return None
    weights, *_ = np.linalg.lstsq(terms, y, rcond=None)
    return 1 - float(((y - terms @ weights) ** 2).sum()) / total


def _sums(
    scorer: Scorer, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], max_tokens: int | None
) -> dict[tuple[str, str], float]:
    """Return the surprisal of each word after its context: the sum over the tokens that overlap with the word."""
    contexts = [context.strip() for context, _ in pairs]
    texts = [f"{context} {word.strip()}".strip() for context, (_, word) in zip(contexts, pairs, strict=True)]
    encoded = tokenizer.encode_batch_with_spans(texts)
    rows = _scored(scorer, [ids for ids, _ in encoded], texts, max_tokens)
    found = {}
    for pair, context, (_, spans), row in zip(pairs, contexts, encoded, rows, strict=True):
        of_word = [i for i, (_, stop) in enumerate(spans) if stop > len(context)]
        found[pair] = -float(row[of_word].sum(dtype=np.float64))
    return found


def _sums_of_pieces(
    scorer: Scorer, tokenizer: Tokenizer, pairs: Sequence[tuple[str, str]], max_tokens: int | None
) -> dict[tuple[str, str], float]:
    """Return the surprisals as BabyLM's pipeline computes them: piece by piece, as the top of this file says."""
    sentences: list[list[int]] = []
    owners: list[tuple[str, str]] = []
    for context, word in pairs:
        text = context
        for number, piece in enumerate(tokenizer.encode(word)):
            decoded = tokenizer.decode_piece(piece)
            again = [piece] if number == 0 else tokenizer.encode(decoded)
            if again:  # a piece whose decoded text has no token cannot be scored
                sentences.append([*tokenizer.encode(text), again[0]])
                owners.append((context, word))
            text += decoded
    rows = _scored(scorer, sentences, [" ".join(owner) for owner in owners], max_tokens)
    found = dict.fromkeys(pairs, 0.0)
    for owner, row in zip(owners, rows, strict=True):
        found[owner] -= float(row[-2])  # the last value is that of <eos>
    return found


def _scored(
    scorer: Scorer, ids: Sequence[Sequence[int]], texts: Sequence[str], max_tokens: int | None
) -> list[NDArray[np.float32]]:
    for sentence, text in zip(ids, texts, strict=True):
        if max_tokens is not None and len(sentence) > max_tokens:
            raise InputError(
                f"reading: {text!r:.60} has {len(sentence)} tokens, expected at most {max_tokens}, the limit of the "
                "model; train with a larger --max-length"
            )
    rows = scorer.log_probs(ids)
    if not all(np.isfinite(row).all() for row in rows):
        raise RunError("reading: a log-probability is not finite; training diverged: use another checkpoint")
    return rows
