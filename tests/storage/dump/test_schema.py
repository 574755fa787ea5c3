"""A schema is read back from JSON, and impossible values are refused."""

import json
from typing import Any

import numpy as np
import pytest

from storage.dump.schema import DumpSchema, check_offsets, cross_fitted, teacher_names
from storage.errors import ConfigError
from storage.fingerprints import canonical_json
from tests.storage.dumps import make_schema

LENGTHS = [3, 4]


def test_a_schema_survives_json() -> None:
    schema = make_schema(LENGTHS, temperatures=(1, 2.5))
    assert DumpSchema.from_json(json.loads(canonical_json(schema.to_json()))) == schema


def test_a_cross_fitted_dump_has_the_fingerprint_of_a_teacher_for_each_fold() -> None:
    data = dict.fromkeys(("dataset", "split", "tokenizer"), "d" * 64)
    teachers = dict.fromkeys(teacher_names(3), "t" * 64)
    schema = make_schema(LENGTHS, fingerprints=data | teachers)
    assert DumpSchema.from_json(json.loads(canonical_json(schema.to_json()))) == schema
    assert [*teachers] == ["teacher of fold 1", "teacher of fold 2", "teacher of fold 3"]
    assert cross_fitted(schema.fingerprints) == ", cross-fitted over 3 folds"
    assert cross_fitted(make_schema(LENGTHS).fingerprints) == ""
    for wrong in ([], ["teacher", *teachers], ["teacher of fold 1"], ["teacher of fold 1", "teacher of fold 3"]):
        with pytest.raises(ConfigError, match="fingerprints are not those of"):
            make_schema(LENGTHS, fingerprints=data | dict.fromkeys(wrong, "t" * 64))


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        make_schema(
            LENGTHS, k=51, temperatures=(2.0,), selection="nucleus", split="", fingerprints={}, computation={"a": None}
        )
    for name in ("k is 51", "temperatures", "selection", "split", "fingerprints", "computation"):
        assert name in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"k": 0},
        {"k": True},
        {"num_positions": 1},
        {"num_sentences": "2"},
        {"vocab_size": 1 << 32},
        {"shard_positions": 100, "chunk_positions": 16},
        {"temperatures": ()},
        {"temperatures": (1.0, 1.0)},
        {"temperatures": (1.0, float("nan"))},
        {"temperatures": (1.0, -1.0)},
        {"computation": {"rate": float("inf")}},
        {"num_top": 5},
        {"num_top": -1},
        {"num_top": True},
        {"draw_seed": 1},
        {"draw_seed": -1, "selection": "sampled"},
        {"num_top": 1, "selection": "sampled"},
        {"num_top": 0, "selection": "stratified"},
        {"num_top": 6, "selection": "stratified"},
        {"k": 256, "vocab_size": 300, "selection": "sampled"},
        {"k": 257, "vocab_size": 300, "selection": "stratified", "num_top": 1},
        {"condition": "word"},
        {"condition": None},
    ],
)
def test_impossible_values_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        make_schema(LENGTHS, **changes)


@pytest.mark.parametrize("condition", ["tree", "beam", "none"])
def test_each_condition_survives_json(condition: str) -> None:
    schema = make_schema(LENGTHS, condition=condition)
    assert DumpSchema.from_json(json.loads(canonical_json(schema.to_json()))).condition == condition


def test_topk_has_k_top_tokens_and_255_draws_are_allowed() -> None:
    top, drawn = make_schema(LENGTHS), make_schema(LENGTHS, k=255, vocab_size=300, selection="sampled", draw_seed=7)
    assert (top.num_top, top.num_draws) == (6, 0)
    assert (drawn.num_top, drawn.num_draws) == (0, 255)
    assert [spec.name for spec in drawn.position_arrays] == [*(spec.name for spec in top.position_arrays), "counts"]
    for schema in (top, drawn):
        assert DumpSchema.from_json(json.loads(canonical_json(schema.to_json()))) == schema


def test_a_chunk_is_at_most_a_shard() -> None:
    assert make_schema(LENGTHS, shard_positions=512, chunk_positions=1_024).chunk_positions == 512


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_535, "uint16"), (65_536, "uint32")])
def test_ids_leave_room_for_the_fill_value(vocab_size: int, dtype: str) -> None:
    schema = make_schema(LENGTHS, vocab_size=vocab_size)
    assert schema.token_dtype.name == dtype
    assert schema.position_arrays[0].fill >= vocab_size


@pytest.mark.parametrize("change", [{"format_version": 2}, {"surprise": 1}, {"k": None}, {"temperatures": "1"}])
def test_json_of_another_format_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        DumpSchema.from_json({**make_schema(LENGTHS).to_json(), **change})


@pytest.mark.parametrize("offsets", [[0, 3], [0, 3, 8], [1, 3, 7], [0, 7, 7], [0, 9, 7]])
def test_offsets_must_cut_the_positions_into_the_sentences(offsets: list[int]) -> None:
    with pytest.raises(ConfigError, match="offsets"):
        check_offsets(np.array(offsets, np.int64), make_schema(LENGTHS))


def test_differences_name_nested_keys() -> None:
    schema = make_schema(LENGTHS)
    other = make_schema(LENGTHS, k=5, fingerprints={**schema.fingerprints, "teacher": "x"})
    assert schema.differences(other) == {"fingerprints.teacher": ("t" * 64, "x"), "k": (6, 5), "num_top": (6, 5)}
