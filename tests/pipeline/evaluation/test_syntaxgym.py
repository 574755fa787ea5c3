"""Tests of SyntaxGym: regions add up to the sentence, ties are never right, and errors name file and place."""

import copy
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.evaluation.intervals_and_p_values import wilson_interval
from pipeline.evaluation.scorer import Sentences
from pipeline.evaluation.syntaxgym import SyntaxGymFigures, evaluate_suites, regions_of_tokens
from pipeline.evaluation.syntaxgym_suites import Condition, read_suite, read_suites, suites_sha256
from storage.errors import InputError, RunError
from storage.json_files import convert

TOKENIZER = Tokenizer.train(
    ["The author next to the senators is good.", "The authors are good, as is the senator."] * 3, 320
)


class StubScorer:
    """Scores each token by a function of its id, and ``<eos>`` with -100."""

    def __init__(self, value: Callable[[np.ndarray], np.ndarray]) -> None:
        self.value = value

    def log_probs(self, sentences: Sentences) -> list[np.ndarray]:
        return [np.append(self.value(np.array(sentence)), -100).astype(np.float32) for sentence in sentences]


BY_ID = StubScorer(lambda ids: -(ids % 7) - 0.125)
UNIFORM = StubScorer(lambda ids: np.full(len(ids), -math.log(320)))


def condition(name: str, *contents: str) -> dict[str, Any]:
    regions = [{"region_number": i, "content": content} for i, content in enumerate(contents, start=1)]
    return {"condition_name": name, "regions": regions}


SUITE: dict[str, Any] = {
    "meta": {"name": "number_made_up", "metric": "sum", "author": ""},
    "region_meta": {},
    "predictions": [{"type": "formula", "formula": "(3;%match%) < (3;%mismatch%)"}],
    "items": [
        {
            "item_number": n,
            "conditions": [
                condition("match", "The", f" {noun}", verb, ", as", "", "is the senator ."),
                condition("mismatch", "The", noun, other, ", as", "", "is the senator ."),
            ],
        }
        for n, noun, verb, other in ((1, "author", "is", "are"), (2, "authors", "are", "is"))
    ],
}


def write(path: Path, suite: Any = SUITE) -> Path:
    path.write_text(suite if isinstance(suite, str) else json.dumps(suite))
    return path


def changed(*keys: Any, to: Any) -> dict[str, Any]:
    suite: Any = copy.deepcopy(SUITE)
    inside = suite
    for key in keys[:-1]:
        inside = inside[key]
    inside[keys[-1]] = to
    return suite


def test_regions_join_as_running_text_or_as_tokens() -> None:
    regions = Condition(((1, "As he shot"), (2, ""), (3, ","), (4, "a 1,000 . man left .")))
    text, owners = regions.sentence("text")
    assert text == "As he shot, a 1,000. man left."
    parts = ["".join(c for c, o in zip(text, owners, strict=True) if o == i) for i in range(4)]
    assert parts == ["As he shot", "", ",", " a 1,000. man left."]
    text, owners = regions.sentence("tokens")
    assert text == "As he shot , a 1,000 . man left ."
    assert owners.tolist() == [0] * 10 + [2] * 2 + [3] * 21


def test_a_token_over_two_regions_goes_to_the_first_and_is_counted() -> None:
    text, owners = "ab, c", np.array([0, 0, 1, 2, 2])
    regions, over_two = regions_of_tokens(text, owners, [(0, 1), (1, 3), (3, 4), (3, 5)])
    assert regions.tolist() == [0, 0, 2, 2]
    assert over_two.tolist() == [False, True, False, False]


@pytest.mark.parametrize("joining", ["text", "tokens"])
def test_regions_add_up_to_the_sentence_without_eos(tmp_path: Path, joining: Any) -> None:
    suite = read_suite(write(tmp_path / "s.json"))
    figures, outcomes = evaluate_suites(BY_ID, TOKENIZER, [suite], joining=joining)
    assert figures.by_suite["number_made_up"].num_tokens_over_two_regions == 0
    for item, outcome in zip(suite.items, outcomes, strict=True):
        for name, one in item.conditions.items():
            ids = np.array(TOKENIZER.encode(one.sentence(joining)[0]))
            # both are float64 sums of the same float32 values
            assert math.fsum(outcome.surprisals[name].values()) == pytest.approx(  # type: ignore[arg-type]
                ((ids % 7) + 0.125).sum() / math.log(2), rel=1e-14
            )
            assert outcome.surprisals[name][5] == 0
            (verb,) = TOKENIZER.encode(one.regions[2][1])[:1]
            if len(TOKENIZER.encode(one.regions[2][1])) == 1:
                assert outcome.surprisals[name][3] == pytest.approx((verb % 7 + 0.125) / math.log(2))


def test_an_item_is_right_if_all_its_predictions_are_true_and_averages_are_over_both(
    tmp_path: Path,
) -> None:
    formulas = ["(3;%match%) < (3;%mismatch%)", "1 < 2", "(*;%match%) = (*;%match%)"]
    suite = changed("predictions", to=[{"type": "formula", "formula": f} for f in formulas])
    write(tmp_path / "a.json", suite)
    write(
        tmp_path / "b.json",
        suite | {"meta": {"name": "zz-other", "metric": ["sum", "mean"]}, "items": suite["items"][:1]},
    )
    suites = read_suites([tmp_path])
    figures, outcomes = evaluate_suites(BY_ID, TOKENIZER, suites)
    one, other = figures.by_suite["number_made_up"], figures.by_suite["zz-other"]
    is_right = outcomes[0].predictions[0] > outcomes[1].predictions[0]
    # the two items are each other's mirror: exactly one of them is right
    assert (one.num_items, one.num_right, one.num_ties) == (2, 1, 0)
    assert [counts.num_right for counts in one.by_prediction] == [1, 2, 2]
    assert (other.num_items, other.num_right) == (1, int(is_right))
    found = figures.to_json()
    assert found["overall"]["mean_of_suites"] == pytest.approx((0.5 + is_right) / 2)
    interval = wilson_interval(1 + is_right, 3)
    assert interval is not None
    assert found["overall"]["interval"] == interval
    assert set(found["by_circuit"]) == {"Agreement", "not known"}
    assert convert(json.loads(json.dumps(found)), SyntaxGymFigures, where="file", remedy="") == figures
    assert suites_sha256(suites) != suites_sha256(suites[:1])


def test_other_metrics_are_over_the_tokens_of_a_region_and_undefined_without_tokens(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path / "s.json", changed("meta", "metric", to="max")))
    _, (first, _) = evaluate_suites(BY_ID, TOKENIZER, [suite])
    ids = np.array(TOKENIZER.encode("The author")[1:])
    assert first.surprisals["match"][2] == pytest.approx((max(ids % 7) + 0.125) / math.log(2))
    assert first.surprisals["match"][5] is None
    bad = changed("predictions", to=[{"type": "formula", "formula": "(5;%match%) < 1"}]) | {
        "meta": {"name": "x", "metric": "mean"}
    }
    with pytest.raises(InputError, match=r"s\.json: item 1, condition 'match': region 5 has no token"):
        evaluate_suites(BY_ID, TOKENIZER, [read_suite(write(tmp_path / "s.json", bad))])


def test_formulas_of_the_early_format_are_read_if_there_are_no_predictions(tmp_path: Path) -> None:
    early = changed("predictions", to=[])
    early["meta"]["string_predictions"] = ["(3;%match%) < (3;%mismatch%)", "1 < 2"]
    suites = [read_suites([write(tmp_path / "s.json", suite)])[0] for suite in (SUITE, early)]
    assert suites[0].formulas == suites[1].formulas[:1]
    assert [len(suite.formulas) for suite in suites] == [1, 2]


@pytest.mark.timeout(20)
def test_a_suite_with_many_regions_is_read_in_a_moment(tmp_path: Path) -> None:
    long = condition("match", *["a"] * 100_000)
    (suite,) = read_suites([write(tmp_path / "s.json", changed("items", 0, "conditions", 0, to=long))])
    assert len(suite.items[0].conditions["match"].regions) == 100_000


@pytest.mark.parametrize(
    ("suite", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "expected object, found array"),
        ([1], "expected object, found array"),
        (changed("meta", "metric", to="total"), "meta: metric is 'total', expected one of sum, mean"),
        (changed("predictions", to=[]), "predictions is empty, expected at least one formula"),
        ("version https://git-lfs.github.com/spec/v1\noid x\n", "a pointer of Git LFS.* git lfs pull"),
        ("item,region_number,content\n1,1,The\n1,2,owl\n", "a table .* has no predictions; .* --region"),
        (changed("predictions", 0, "type", to="R"), r"predictions\[0\].type: invalid enum value 'R'"),
        (changed("predictions", 0, "formula", to="(3;%match%) <"), r"predictions\[0\]: formula .*, column 14: found 'the end'"),  # noqa: E501 - a row of a table
        (changed("predictions", 0, "formula", to="1 < (9;%match%)"), r"column 5: item 1, condition 'match' has no region 9"),  # noqa: E501 - a row of a table
        (changed("predictions", 0, "formula", to="1 < (3;%mach%)"), "item 1 has no condition 'mach', expected one of match"),  # noqa: E501 - a row of a table
        (changed("items", 1, "conditions", 1, "regions", to=[]), r"conditions\[1\].regions: expected array of length"),
        (changed("items", 1, "conditions", 1, "regions", 2, "content", to=None),
         r"items\[1\].conditions\[1\].regions\[2\].content: expected str, found null"),
        (changed("items", 1, "conditions", 1, "regions", 2, "region_number", to=1), "region_number 1 is there twice"),
        (changed("items", 1, "conditions", 1, "condition_name", to="match"), "condition 'match' is there twice"),
        (changed("items", 1, "item_number", to=1), "item_number 1 is there twice"),
        (changed("items", 1, "conditions", 1, to=condition("mismatch", "", " ")), "all regions are empty"),
    ],
)  # fmt: skip
def test_a_malformed_suite_is_named_by_file_and_place(tmp_path: Path, suite: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"s\.json: .*{message}") as error:
        read_suites([write(tmp_path / "s.json", suite)])
    assert "\n" not in str(error.value)


def test_empty_folders_missing_files_and_repeated_names_are_refused(tmp_path: Path) -> None:
    (tmp_path / "._hidden.json").touch()
    with pytest.raises(InputError, match=r"no \.json file"):
        read_suites([tmp_path])
    with pytest.raises(InputError, match=r"none\.json: cannot be read"):
        read_suites([tmp_path / "none.json"])
    with pytest.raises(InputError, match="has the name 'number_made_up', which the suite in"):
        read_suites([write(tmp_path / "a.json"), write(tmp_path / "b.json")])


def test_errors_about_long_sentences_and_infinite_probabilities_name_the_sentence(tmp_path: Path) -> None:
    suites = read_suites([write(tmp_path / "s.json")])
    with pytest.raises(InputError, match=r"s\.json: item 1, condition 'match': \d+ tokens, expected at most 3"):
        evaluate_suites(BY_ID, TOKENIZER, suites, max_tokens=3)
    with pytest.raises(RunError, match="not finite"):
        evaluate_suites(StubScorer(lambda ids: ids * math.nan), TOKENIZER, suites)


def test_a_uniform_model_is_right_only_where_numbers_of_tokens_differ(shared_data: Path) -> None:
    suites = read_suites([shared_data / "syntaxgym"])
    figures, outcomes = evaluate_suites(UNIFORM, TOKENIZER, suites)
    assert len(suites) == len({suite.name for suite in suites}) == 7
    assert "not known" not in {suite.circuit for suite in suites}
    for name, one in figures.by_suite.items():
        assert one.num_tokens_over_two_regions == 0, name
    # the region compared is the same word in all conditions: always a tie
    assert figures.by_suite["npi_src_any"].num_ties == figures.by_suite["npi_src_any"].num_items
    assert figures.by_suite["npi_src_any"].num_right == 0
    for suite, item in ((s, i) for s in suites for i in s.items):
        for name, one in item.conditions.items():
            outcome = next(o for o in outcomes if (o.suite, o.item) == (suite.name, item.number))
            total = len(TOKENIZER.encode(one.sentence("text")[0])) * math.log2(320)
            assert sum(outcome.surprisals[name].values()) == pytest.approx(total)  # type: ignore[arg-type]
