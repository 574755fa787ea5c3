"""Parts of a split: each is the figure of its sentences alone, and together they are the whole."""

from collections import Counter
from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluation.perplexity import UNCONDITIONAL, perplexity_figure
from pipeline.evaluation.perplexity_parts import BY_LENGTH, BY_SOURCE, perplexity_parts
from storage.ragged import Ragged
from tests.pipeline.evaluation.test_perplexity import make_split

TABLE = np.frombuffer(b"document\tsource\tlicence\nd1\ta\t\nd2\tb\t\nd3\ta\t\n", np.uint8)


@given(lengths=st.lists(st.integers(1, 90), min_size=3, max_size=30), seed=st.integers(0, 99))
def test_sums_of_the_parts_are_those_of_the_whole(lengths: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    documents = np.sort(random.integers(1, 4, len(lengths))).astype(np.int32)
    split = replace(make_split(lengths), document_ids=documents, document_table=TABLE)
    log_probs = Ragged.from_lists([-random.random(n + 1) for n in lengths], np.float32)
    whole = perplexity_figure(log_probs, split, UNCONDITIONAL)
    parts = perplexity_parts(log_probs, split, UNCONDITIONAL)
    assert set(parts) == {BY_LENGTH, BY_SOURCE}
    for figures in parts.values():
        total: Counter[str] = Counter()
        for figure in figures.values():
            total.update({name: getattr(figure, name) for name in ("num_sentences", "num_tokens", "num_bytes")})
        assert total == {name: getattr(whole, name) for name in ("num_sentences", "num_tokens", "num_bytes")}
        assert np.isclose(sum(figure.nats for figure in figures.values()), whole.nats)
        assert np.isclose(sum(figure.nats_eos or 0 for figure in figures.values()), whole.nats_eos)


def test_a_part_is_the_figure_of_its_sentences() -> None:
    split = replace(make_split([5, 6, 81]), document_ids=np.array([1, 2, 3], np.int32), document_table=TABLE)
    log_probs = Ragged.from_lists([np.full(n + 1, -float(n)) for n in (5, 6, 81)], np.float32)
    parts = perplexity_parts(log_probs, split, UNCONDITIONAL)
    assert {name: figure.nats for name, figure in parts[BY_LENGTH].items()} == {
        "1 to 5": 30.0,
        "6 to 10": 42.0,
        "81 and more": 82 * 81.0,
    }
    assert {name: figure.num_tokens for name, figure in parts[BY_SOURCE].items()} == {"a": 86, "b": 6}
    (of_b,) = [figure for name, figure in parts[BY_SOURCE].items() if name == "b"]
    assert of_b == perplexity_figure(Ragged.from_lists([log_probs[1]], np.float32), make_split([6]), UNCONDITIONAL)


def test_sources_that_are_not_known_make_no_parts() -> None:
    split = make_split([3])
    assert set(perplexity_parts(Ragged.from_lists([[-1.0] * 4], np.float32), split, UNCONDITIONAL)) == {BY_LENGTH}
