"""The options of a dump have the names and values that its schema records."""

from dataclasses import fields
from typing import Any

import pytest

from pipeline.dumping.dump_config import DumpConfig
from pipeline.runtime.options import options_of
from storage.dump.schema import DumpSchema


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"selection": "topk", "num_top": 9, "draw_seed": 0}),
        ({"selection": "sampled", "draw_seed": 3}, {"selection": "sampled", "num_top": 0, "draw_seed": 3}),
        ({"selection": "stratified"}, {"selection": "stratified", "num_top": 4, "draw_seed": 1}),
        ({"selection": "stratified", "num_top": 7}, {"selection": "stratified", "num_top": 7, "draw_seed": 1}),
        ({"temperatures": (2.0, 1.0, 4.0)}, {"temperatures": (1.0, 2.0, 4.0)}),
        ({"profile": "compact", "split": "dev"}, {"profile": "compact", "split": "dev", "k": 9}),
    ],
)
def test_the_schema_records_the_options_with_defaults_resolved(
    options: dict[str, Any], expected: dict[str, Any]
) -> None:
    recorded = DumpConfig(k=9, **options).schema_fields()
    assert {name: recorded[name] for name in expected} == expected
    schema = DumpSchema(
        **recorded,
        num_positions=0,
        num_sentences=0,
        vocab_size=20,
        tree_source="a treebank",
        fingerprints=dict.fromkeys(("dataset", "split", "tokenizer", "teacher"), "0"),
        computation={},
    )
    assert {name: getattr(schema, name) for name in recorded} == recorded


def test_every_option_is_in_the_schema_or_in_its_computation() -> None:
    in_schema = set(DumpConfig().schema_fields())
    assert in_schema <= {field.name for field in fields(DumpSchema)}
    assert {field.name for field in fields(DumpConfig)} - in_schema == {"batch_tokens", "device", "threads"}


def test_select_is_another_spelling_of_selection() -> None:
    assert {option.name: option.aliases for option in options_of(DumpConfig) if option.aliases} == {
        "selection": ("select",)
    }
