"""Tests of the scores by item: what rows become, and which results are left out or damaged."""

import json
import math
import shutil

import numpy as np
import pytest

from pipeline.evaluation.compare.item_scores import item_scores
from pipeline.evaluation.perplexity import GIVEN_TREE, MARGINAL
from pipeline.evaluation.results import load_results
from storage.errors import InputError
from tests.evaluated_runs import PAIRS, SENTENCES, SUITES, add_pairs, add_sentences, add_suites, write_run


def read(run, normaliser="token"):
    left_out: list[str] = []
    found = item_scores(load_results(run), normaliser=normaliser, left_out=left_out)
    assert not left_out
    return found


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run", seed=1)


def test_a_tie_is_never_right_and_every_group_has_the_same_weight(run):
    add_pairs(run, {"b": [1, -1, 0, 1], "a": [1]})
    add_suites(run, {"s": [1, -1], "t": [0]})
    pairs, suites = read(run)
    assert pairs.groups == ("a", "b")
    assert pairs.values.tolist() == [1, 0, 0, 1, 1]
    assert pairs.units.tolist() == [1, 0.5]
    assert pairs.categories == {"term": {"a": "term a", "b": "term b"}, "field": {"a": "syntax", "b": "syntax"}}
    assert suites.units.tolist() == [0.5, 0]


def test_the_mean_over_sentences_is_the_perplexity_for_each_normaliser(run):
    figure = add_sentences(run, [[-1.5, -0.25], [-2.0, -3.0, -0.5], [-0.125]])
    for normaliser, expected in (
        ("token", figure.nats_per_position),
        ("word", math.log(figure.per_word)),
        ("byte", figure.bits_per_byte),
    ):
        (scores,) = read(run, normaliser)
        assert scores.units.mean() == pytest.approx(expected, rel=1e-12)
    assert np.array_equal(scores.values, [1.75, 5.5, 0.125])


def test_results_under_two_conventions_are_two_benchmarks_and_other_checkpoints_are_skipped(run):
    add_pairs(run, {"a": [1, 0]})
    add_pairs(run, {"a": [1, 0]}, eos=True)
    assert {one.benchmark.conventions for one in read(run)} == {
        "no space before the sentence, <eos> counted",
        "no space before the sentence, <eos> left out",
    }
    path = run / "results" / f"{PAIRS}-eos.json"
    path.write_text(path.read_text().replace('"best"', '"last"'))
    assert [one.benchmark.conventions for one in read(run)] == ["no space before the sentence, <eos> left out"]


def test_two_beam_sizes_are_two_benchmarks_but_figures_given_the_tree_are_one(run):
    rows = [[-1.5, -0.25], [-2.0, -0.5]]
    add_sentences(run, rows, distribution=GIVEN_TREE)
    for beam in (2, 30):
        search = {"beam": beam, "word_beam": 1}
        add_sentences(run, rows, distribution=MARGINAL, name=f"dev-{beam}", settings=search)
        add_sentences(run, rows, distribution=GIVEN_TREE, name=f"dev-{beam}-tree", settings=search)
    assert [one.benchmark.conventions for one in read(run)] == [
        GIVEN_TREE,
        "marginal by beam search, beam 2, word beam 1",
        "marginal by beam search, beam 30, word beam 1",
    ]
    add_sentences(run, [[-9.0, -1.0], [-1.0, -1.0]], distribution=GIVEN_TREE)
    with pytest.raises(InputError, match=r"two different results of .*, given the tree, expected one"):
        read(run)


@pytest.mark.parametrize(("change", "is_rounding"), [(1e-6, True), (-1e-5, True), (1e-3, False)])
def test_two_results_of_one_benchmark_may_differ_by_rounding_only(run, change, is_rounding):
    add_sentences(run, [[-1.5, -0.25], [-20.0, -0.5]], name="dev")
    add_sentences(run, [[-1.5 + change, -0.25], [-20.0, -0.5]], name="dev-again")
    if is_rounding:
        (scores,) = read(run)
        assert scores.path.name == "perplexity-dev-again.jsonl"  # the first by name
    else:
        with pytest.raises(InputError, match="two different results of perplexity on dev"):
            read(run)


def test_two_results_of_one_benchmark_must_have_the_same_outcomes(run):
    add_pairs(run, {"a": [0, 1]})
    for suffix in ("json", "jsonl"):
        shutil.copy(run / "results" / f"{PAIRS}.{suffix}", run / "results" / f"copy.{suffix}")
    assert len(read(run)) == 1
    add_pairs(run, {"a": [1, 0]})
    with pytest.raises(InputError, match="two different results of minimal pairs on made-up"):
        read(run)


def test_a_result_of_earlier_weights_is_left_out_and_noted(run):
    add_pairs(run, {"a": [1, 0]})
    weights = run / "checkpoints" / "best" / "model.safetensors"
    weights.write_text("other weights")
    left_out: list[str] = []
    assert item_scores(load_results(run), normaliser="token", left_out=left_out) == []
    (line,) = left_out
    assert line.startswith(f"{run}/results/{PAIRS}.json is of weights ")
    assert ", but the best weights are " in line
    assert "evaluate again: cli.py evaluate minimal_pairs run" in line
    weights.unlink()  # a copy of a run may have no weights; its results count
    assert len(item_scores(load_results(run), normaliser="token", left_out=[])) == 1


def test_a_benchmark_without_items_is_left_out_alone(run):
    add_pairs(run, {"a": [], "b": []})
    add_suites(run, {"s": [1, 0]})
    left_out: list[str] = []
    found = item_scores(load_results(run), normaliser="token", left_out=left_out)
    assert [one.benchmark.kind for one in found] == ["syntaxgym"]
    (line,) = left_out
    assert f"{PAIRS}.jsonl: no item" in line


def test_a_result_without_rows_is_noted_with_the_command_that_makes_them(run):
    add_pairs(run, {"a": [1, 0]})
    (run / "results" / f"{PAIRS}.jsonl").unlink()
    left_out: list[str] = []
    assert item_scores(load_results(run), normaliser="token", left_out=left_out) == []
    (line,) = left_out
    assert f"{PAIRS}.jsonl: missing" in line
    assert "evaluate again: cli.py evaluate minimal_pairs run" in line


@pytest.mark.parametrize(
    ("name", "line", "content", "expected"),
    [
        (PAIRS, 2, "{", r"jsonl:2: not JSON"),
        (PAIRS, 2, "[]", r"jsonl:2: expected object, found array"),
        (PAIRS, 1, {"paradigm": "a", "pair": 0, "good": "x", "bad": 0}, r"jsonl:1: good: expected float, found str"),
        (
            PAIRS,
            1,
            {"paradigm": "a", "pair": True, "good": 1, "bad": 0},
            r"jsonl:1: pair: expected int, found bool",
        ),
        (PAIRS, 1, {"paradigm": "a", "pair": 0, "good": -9, "bad": 0}, r"right items of a: 0, but .*json has 1"),
        (PAIRS, 1, {"paradigm": "z", "pair": 0, "good": 1, "bad": 0}, r"items of a: 1, but .*json has 2"),
        (SUITES, 1, {"suite": "s", "item": 1, "outcome": "good"}, r"jsonl:1: outcome: invalid enum value 'good'"),
        (SENTENCES, 2, {"sentence": 4, "log_probs": {}}, r"jsonl:2: log_probs: expected object of length >= 1"),
        (SENTENCES, 1, {"sentence": 0, "log_probs": {"unconditional": [-1.0]}}, r"nats, unconditional: .*json has"),
    ],
)
def test_damaged_rows_are_named_by_file_and_line(name, line, content, expected, run):
    add_pairs(run, {"a": [1, 0]})
    add_suites(run, {"s": [1, 0]})
    add_sentences(run, [[-2.0, -1.0], [-3.0]])
    path = run / "results" / f"{name}.jsonl"
    lines = path.read_text().splitlines()
    lines[line - 1] = content if isinstance(content, str) else json.dumps(content)
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=expected) as caught:
        read(run)
    assert "again" in str(caught.value)


def test_rows_that_end_too_soon_do_not_add_up_to_the_figures(run):
    add_sentences(run, [[-2.0, -1.0], [-3.0]])
    path = run / "results" / f"{SENTENCES}.jsonl"
    path.write_text(path.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"sentences: 1, but perplexity-dev.json has 2"):
        read(run)
