"""Find values that no dump can have: ids outside the vocabulary, NaN, probabilities above 1, and others.

Most rules are checked three times: before rows (one per position) are written, when a reader first reads from a chunk
of rows, and by ``verify``. Three rules are too slow for readers: log-probabilities do not rise along a row, a row has
no id twice, and the probabilities of a row and of its tail (all other tokens) sum to 1. ``verify`` checks all three.
Writers check the first and, for a compact dump, the third.

A row with tokens that were drawn at random (draws) can have unused columns at its end, for example if a token was drawn
twice. Their ids and log-probabilities are fill values, and their counts (how often an id was drawn) are 0.

Legend: n positions, k columns, nT declared temperatures (those of the schema).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from storage.dump.schema import GAPS, DumpSchema
from storage.errors import CorruptStoreError

MASS_TOLERANCE = 0.01
"""The probabilities of a row and the mass of its tail must sum to 1, but the sum may be wrong by up to this much.
Rounding to float16 changes a log-probability above -16 by at most 2⁻⁸."""
_LOG_TOLERANCE = 0.01
"""How far rounding may lift a float32 logarithm above its bound."""
_HALF_POSITIVE_TINY = 0x1400
"""Bits of the float16 2⁻¹⁰. Rounding may lift a log-probability above 0 by at most this."""
_HALF_NEGATIVE_ZERO = 0x8000
_HALF_NEGATIVE_INFINITY = 0xFC00
_HALF_POSITIVE_INFINITY = 0x7C00


class ImpossibleValue(NamedTuple):
    """A broken rule: an array, its first row that breaks the rule, and what is wrong."""

    array: str
    row: int
    problem: str
    """What is wrong, with the name of the array."""


def impossible_values(arrays: Mapping[str, NDArray[Any]], schema: DumpSchema) -> Iterator[ImpossibleValue]:
    """Yield each rule that rows break, with the first such row.

    ``arrays`` holds arrays ``[n, ...]`` by name, n at least 1. If the dump has no draws, some of its arrays may be
    missing.
    """
    is_unused = None
    if (counts := arrays.get("counts")) is not None:
        yield from _impossible_draws(arrays, counts, schema)
        is_unused = _is_unused(counts, schema.num_top)
    for name, values in arrays.items():
        if name in ("tokens", "ids"):
            yield from _impossible_ids(name, values, schema.vocab_size, is_unused if name == "ids" else None)
        elif name == "logp":
            yield from _impossible_log_probs(values, is_unused)
        elif name == GAPS:
            if values[:, 0].any():
                yield ImpossibleValue(name, _first(values[:, 0] != 0), "gaps do not begin with 0")
        elif name != "counts":
            yield from _impossible_logarithms(name, values, schema)


def impossible_value(
    found: ImpossibleValue, where: str, schema: DumpSchema, shard: int, chunk: int
) -> CorruptStoreError:
    """Return the error for a value that no dump can have, in a chunk whose checksum is correct."""
    position = shard * schema.shard_positions + chunk * schema.chunk_positions + found.row
    return CorruptStoreError(
        f"{where}, chunk {chunk}: position {position}: {found.problem}. The program that wrote the dump was wrong. "
        "Delete the dump and make it again"
    )


def unordered_rows(logp: NDArray[np.float16], counts: NDArray[np.uint8] | None, num_top: int) -> ImpossibleValue | None:
    """Return the first row of ``logp`` where a value is above the one before it. Unused columns do not count."""
    bits = _bits(logp, None if counts is None else _is_unused(counts, num_top))
    magnitudes = np.maximum(bits, _HALF_NEGATIVE_ZERO)  # below 0 the order of the bits is reversed
    rises = magnitudes[:, 1:] < magnitudes[:, :-1]
    if not rises.any():
        return None
    return ImpossibleValue("logp", _first(rises), "logp rises along a row (the most probable token comes first)")


def repeated_ids(ids: NDArray[Any], schema: DumpSchema) -> ImpossibleValue | None:
    """Return the first row of ``ids`` ``[n, k]`` that has an id of the vocabulary twice."""
    ordered = np.sort(ids, axis=1)
    repeats = (ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] < schema.vocab_size)
    return ImpossibleValue("ids", _first(repeats), "ids repeats an id in a row") if repeats.any() else None


def wrong_mass(
    logp: NDArray[np.float16],
    tail: NDArray[np.float32],
    logz: NDArray[np.float32],
    temperatures: Sequence[float],
) -> ImpossibleValue | None:
    """Return the first row whose probabilities and tail do not sum to 1 at a declared temperature.

    Args:
        logp: ``[n, m]``, log-probabilities of the m top tokens.
        tail: ``[n, nT]``, log of the probability of all other tokens together.
        logz: ``[n, nT]``, log Σ p^(1/T) over the vocabulary.
        temperatures: The declared temperatures.
    """
    log_probs = logp.astype(np.float32)
    for index, temperature in enumerate(temperatures):
        total = np.exp(log_probs / np.float32(temperature) - logz[:, index : index + 1]).sum(axis=1)
        total += np.exp(tail[:, index])
        # logp is divided by T, and so is its rounding error. So the tolerance is larger if T is below 1.
        is_wrong = ~(np.abs(total - 1) <= MASS_TOLERANCE * max(1, 1 / temperature))
        if is_wrong.any():
            row = _first(is_wrong)
            problem = f"logp and tail add up to {total[row]:.3f} at temperature {temperature:g}, expected 1"
            return ImpossibleValue("logp", row, problem)
    return None


def _impossible_ids(
    name: str, values: NDArray[Any], vocab_size: int, is_unused: NDArray[np.bool_] | None
) -> Iterator[ImpossibleValue]:
    if is_unused is not None:
        values = np.where(is_unused, 0, values)
    if (highest := int(np.maximum.reduce(values, axis=None))) >= vocab_size:
        row = _first(values >= vocab_size)
        yield ImpossibleValue(name, row, f"{name} holds the id {highest}, vocab_size is {vocab_size}")


def _impossible_log_probs(
    values: NDArray[np.float16], is_unused: NDArray[np.bool_] | None
) -> Iterator[ImpossibleValue]:
    # numpy emulates float16 comparisons, which is slow, so bit patterns are compared. Read as uint16, a negative NaN
    # is above -inf. Read as int16, values below 0 are negative, and a positive NaN is above every number.
    bits = _bits(values, is_unused)
    highest = np.maximum.reduce(bits, axis=None)
    if highest > _HALF_NEGATIVE_INFINITY or np.maximum.reduce(bits.view(np.int16), axis=None) > _HALF_POSITIVE_TINY:
        is_wrong = (bits > _HALF_NEGATIVE_INFINITY) | ((bits > _HALF_POSITIVE_TINY) & (bits < _HALF_NEGATIVE_ZERO))
        yield ImpossibleValue("logp", _first(is_wrong), "logp holds a NaN or a value above 0")


def _impossible_logarithms(name: str, values: NDArray[np.float32], schema: DumpSchema) -> Iterator[ImpossibleValue]:
    # A maximum or minimum is NaN if one of the values is NaN, and every comparison with NaN is false. So the
    # comparisons below say what is right, and ``not`` finds what is wrong.
    columns = values.reshape(len(values), -1)
    highest, lowest = np.maximum.reduce(columns, axis=0), np.minimum.reduce(columns, axis=0)
    if name == "logz":
        for index, temperature in enumerate(schema.temperatures):
            # Σ p^(1/T) is between 1 (one token has probability 1) and V^(1 - 1/T) (all tokens are equally probable).
            bound, slack = (1 - 1 / temperature) * math.log(schema.vocab_size), _LOG_TOLERANCE * max(1, 1 / temperature)
            low, high = min(0.0, bound) - slack, max(0.0, bound) + slack
            if not (low <= lowest[index] and highest[index] <= high):
                column = columns[:, index]
                row = _first(~((low <= column) & (column <= high)))
                text = f"logz is {column[row]:g} at temperature {temperature:g}, expected {low:.3g} to {high:.3g}"
                yield ImpossibleValue(name, row, text)
    elif name == "tail":
        # In a compact dump, tail must be below 0, because rows are rebuilt from the logarithm of 1 - exp(tail).
        is_compact = schema.profile == "compact"
        if not (highest <= _LOG_TOLERANCE).all() or (is_compact and highest.max() >= 0):
            row = _first(~(columns < 0) if is_compact else ~(columns <= _LOG_TOLERANCE))
            yield ImpossibleValue(name, row, "tail holds a NaN, +inf, a value above 0 or, in a compact dump, 0")
    elif not (highest <= _LOG_TOLERANCE).all() or not (lowest > -np.inf).all():
        row = _first(~((columns <= _LOG_TOLERANCE) & (columns > -np.inf)))
        yield ImpossibleValue(name, row, f"{name} is not finite, or is above 0")


def _impossible_draws(
    arrays: Mapping[str, NDArray[Any]], counts: NDArray[np.uint8], schema: DumpSchema
) -> Iterator[ImpossibleValue]:
    is_unused = _is_unused(counts, schema.num_top)
    is_nan = (arrays["logp"].view(np.uint16) & np.uint16(~_HALF_NEGATIVE_ZERO & 0xFFFF)) > _HALF_POSITIVE_INFINITY
    is_fill = arrays["ids"] == np.iinfo(arrays["ids"].dtype).max
    num_draws = np.where(np.isneginf(arrays["tail"][:, 0]), 0, schema.num_draws)
    rules = (
        (
            "counts",
            counts[:, : schema.num_top] != 0,
            f"counts of the {schema.num_top} top tokens are not 0, expected 0",
        ),
        (
            "counts",
            counts.sum(axis=1, dtype=np.int64) != num_draws,
            f"counts have a wrong sum, expected {schema.num_draws}, or 0 if no mass is left to draw from",
        ),
        ("counts", is_unused[:, :-1] & ~is_unused[:, 1:], "counts have an unused column before a used one"),
        (
            "counts",
            (is_unused != is_nan) | (is_unused != is_fill),
            "NaN in logp or the fill value in ids does not mark exactly the unused columns, expected both in them",
        ),
    )
    yield from (ImpossibleValue(name, _first(broken), text) for name, broken, text in rules if broken.any())
    if schema.selection == "sampled" and arrays["tail"].any():
        text = "tail is not 0 (the log of mass 1), though there are no top tokens"
        yield ImpossibleValue("tail", _first(arrays["tail"] != 0), text)


def _bits(logp: NDArray[np.float16], is_unused: NDArray[np.bool_] | None) -> NDArray[np.uint16]:
    """Return the bits of log-probabilities, with -inf in unused columns."""
    bits: NDArray[np.uint16] = logp.view(np.uint16)
    return bits if is_unused is None else np.where(is_unused, np.uint16(_HALF_NEGATIVE_INFINITY), bits)


def _is_unused(counts: NDArray[np.uint8], num_top: int) -> NDArray[np.bool_]:
    is_unused: NDArray[np.bool_] = counts == 0
    is_unused[:, :num_top] = False
    return is_unused


def _first(broken: NDArray[np.bool_]) -> int:
    """Return the first row with a true value in ``[n]`` or ``[n, ...]``."""
    return int(np.argmax(broken.reshape(len(broken), -1).any(axis=1)))
