"""Tests of perplexities: each figure follows its equation, and its sums survive a round trip."""

import json
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.corpus.dataset.dataset_store import Split
from pipeline.evaluation.perplexity import (
    BY_LENGTH,
    BY_SOURCE,
    GIVEN_TREE,
    UNCONDITIONAL,
    PerplexityFigure,
    breakdowns,
    perplexity_figure,
)
from storage.errors import InputError, RunError
from storage.json_files import convert
from storage.ragged import Ragged


def make_split(lengths: list[int]) -> Split:
    lists = [list(range(3, 3 + n)) for n in lengths]
    num = len(lengths)
    return Split(
        name="dev",
        tokens=Ragged.from_lists(lists, np.uint16),
        actions=Ragged.from_lists(lists, np.uint16),
        document_ids=np.zeros(num, np.int32),
        num_words=np.array([max(1, n - 1) for n in lengths], np.int32),
        num_bytes=np.array([4 * n for n in lengths], np.int32),
        text_sha256="1" * 64,
        sha256="0" * 64,
    )


def figure(**changes: object) -> PerplexityFigure:
    values = {
        "distribution": UNCONDITIONAL,
        "num_sentences": 2,
        "num_tokens": 8,
        "num_words": 6,
        "num_bytes": 30,
        "nats": 20.0,
        "nats_eos": 1.5,
    }
    return PerplexityFigure(**(values | changes))  # type: ignore[arg-type]


def test_each_normaliser_follows_its_equation() -> None:
    assert figure().nats_per_position == 2.0
    assert figure().per_token == math.exp(20.0 / 10)
    assert figure().per_token_without_eos == math.exp(18.5 / 8)
    assert figure().per_word == math.exp(20.0 / 8)
    assert figure().bits_per_byte == pytest.approx(20.0 / 32 / math.log(2), rel=1e-15)


@given(vocab_size=st.integers(2, 60_000), lengths=st.lists(st.integers(1, 30), min_size=1, max_size=20))
def test_a_uniform_model_has_the_vocabulary_size_as_perplexity(vocab_size: int, lengths: list[int]) -> None:
    split = make_split(lengths)
    log_probs = Ragged.from_lists([[-math.log(vocab_size)] * (n + 1) for n in lengths], np.float32)
    found = perplexity_figure(log_probs, split, UNCONDITIONAL)
    # float32 keeps log V to 6e-8 of itself, so its exponential to about 7e-7
    assert found.per_token == pytest.approx(vocab_size, rel=2e-6)
    assert found.per_token_without_eos == pytest.approx(vocab_size, rel=2e-6)
    assert found.num_positions == sum(lengths) + len(lengths)


def test_the_eos_part_is_the_last_position_of_each_sentence() -> None:
    split = make_split([2, 1])
    log_probs = Ragged.from_lists([[-1.0, -2.0, -4.0], [-8.0, -16.0]], np.float32)
    found = perplexity_figure(log_probs, split, GIVEN_TREE)
    assert (found.nats, found.nats_eos) == (31.0, 20.0)
    assert (found.num_sentences, found.num_tokens, found.num_words, found.num_bytes) == (2, 3, 2, 12)


def test_sums_are_taken_in_float64() -> None:
    split = make_split([3])
    log_probs = Ragged.from_lists([[-(2.0**25), -1.0, -1.0, -1.0]], np.float32)
    assert perplexity_figure(log_probs, split, UNCONDITIONAL).nats == 2**25 + 3


def test_rows_of_another_split_and_damaged_models_are_refused() -> None:
    split = make_split([2, 1])
    with pytest.raises(ValueError, match="do not fit"):
        perplexity_figure(Ragged.from_lists([[-1.0], [-1.0]], np.float32), split, UNCONDITIONAL)
    damaged = Ragged.from_lists([[-1.0, -2.0, -4.0], [float("nan"), -16.0]], np.float32)
    with pytest.raises(RunError, match="sentence 2"):
        perplexity_figure(damaged, split, UNCONDITIONAL)


@given(
    nats=st.floats(0, 1e12),
    eos=st.none() | st.floats(0, 1e6),
    counts=st.tuples(st.integers(1, 10**9), st.integers(0, 10**9), st.integers(0, 10**9), st.integers(0, 10**9)),
)
def test_json_keeps_every_sum_and_names_every_normaliser(
    nats: float, eos: float | None, counts: tuple[int, int, int, int]
) -> None:
    names = ("num_sentences", "num_tokens", "num_words", "num_bytes")
    written = figure(nats=nats, nats_eos=eos, **dict(zip(names, counts, strict=True)))
    text = json.dumps(written.to_json(), allow_nan=False)
    assert convert(json.loads(text), PerplexityFigure, where="file", remedy="") == written
    assert json.loads(text)["per_word"]["is"].startswith("exp(nats / (num_words + num_sentences))")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"distribution": "conditional"}, "distribution is 'conditional'"),
        ({"num_sentences": 0}, "num_sentences is 0"),
        ({"num_words": -1}, "num_words is -1"),
        ({"nats": float("inf")}, "nats is inf"),
    ],
)
def test_impossible_figures_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        figure(**changes)


def test_missing_sums_in_a_file_are_named() -> None:
    value = figure().to_json()
    del value["num_bytes"]
    with pytest.raises(InputError, match=r"dev\.json: object missing required field num_bytes"):
        convert(value, PerplexityFigure, where="dev.json", remedy="")


def test_divergences_from_the_truth_are_means_per_position_with_and_without_eos() -> None:
    split = make_split([3, 1])
    log_probs = Ragged.from_lists([[-1.0] * 4, [-2.0] * 2], np.float32)
    divergences = Ragged.from_lists([[0.5, 0.25, 0.25, 0.125], [1.0, 0.0]], np.float64)
    found = perplexity_figure(log_probs, split, UNCONDITIONAL, divergences)
    assert (found.kl_nats, found.kl_nats_eos) == (2.125, 0.125)
    assert found.kl_per_position == 2.125 / 6
    assert found.kl_per_position_without_eos == 2.0 / 4
    value = found.to_json()
    assert value["kl_per_position"]["value"] == 2.125 / 6
    assert convert(value, PerplexityFigure, where="dev.json", remedy="") == found
    assert "kl_per_position" not in figure().to_json()
    divergences.values[4] = np.inf
    with pytest.raises(RunError, match="sentence 2: the model gives a divergence from the truth that is not finite"):
        perplexity_figure(log_probs, split, UNCONDITIONAL, divergences)


TABLE = np.frombuffer(b"document\tsource\tlicence\nd1\ta\t\nd2\tb\t\nd3\ta\t\n", np.uint8)


@given(lengths=st.lists(st.integers(1, 90), min_size=3, max_size=30), seed=st.integers(0, 99))
def test_the_sums_of_a_breakdown_are_those_of_the_split(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    documents = np.sort(random.integers(1, 4, len(lengths))).astype(np.int32)
    split = replace(make_split(lengths), document_ids=documents, document_table=TABLE)
    log_probs = Ragged.from_lists([-random.random(n + 1) for n in lengths], np.float32)
    whole = perplexity_figure(log_probs, split, UNCONDITIONAL)
    found = breakdowns(log_probs, split, UNCONDITIONAL)
    assert set(found) == {BY_LENGTH, BY_SOURCE}
    for figures in found.values():
        total: Counter[str] = Counter()
        for figure in figures.values():
            total.update({name: getattr(figure, name) for name in ("num_sentences", "num_tokens", "num_bytes")})
        assert total == {name: getattr(whole, name) for name in ("num_sentences", "num_tokens", "num_bytes")}
        assert np.isclose(sum(figure.nats for figure in figures.values()), whole.nats)
        assert np.isclose(sum(figure.nats_eos or 0 for figure in figures.values()), whole.nats_eos)


def test_each_figure_of_a_breakdown_is_that_of_its_sentences() -> None:
    split = replace(make_split([5, 6, 81]), document_ids=np.array([1, 2, 3], np.int32), document_table=TABLE)
    log_probs = Ragged.from_lists([np.full(n + 1, -float(n)) for n in (5, 6, 81)], np.float32)
    found = breakdowns(log_probs, split, UNCONDITIONAL)
    assert {name: figure.nats for name, figure in found[BY_LENGTH].items()} == {
        "1 to 5": 30.0,
        "6 to 10": 42.0,
        "81 and more": 82 * 81.0,
    }
    assert {name: figure.num_tokens for name, figure in found[BY_SOURCE].items()} == {"a": 86, "b": 6}
    (of_b,) = [figure for name, figure in found[BY_SOURCE].items() if name == "b"]
    assert of_b == perplexity_figure(Ragged.from_lists([log_probs[1]], np.float32), make_split([6]), UNCONDITIONAL)


def test_without_known_sources_there_is_no_breakdown_by_source() -> None:
    split = make_split([3])
    assert set(breakdowns(Ragged.from_lists([[-1.0] * 4], np.float32), split, UNCONDITIONAL)) == {BY_LENGTH}
