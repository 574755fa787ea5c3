"""Rows are read one at a time, and each is checked before it is given."""

import json

import numpy as np
import pytest

from pipeline.evaluation.perplexity import GIVEN_TREE, JOINT, UNCONDITIONAL
from pipeline.evaluation.result_rows import read_sentence_rows
from storage.errors import InputError

ROWS = [{GIVEN_TREE: [-1.5, -0.25], JOINT: [-2, -0.5]}, {GIVEN_TREE: [-3.0], JOINT: [-4.0]}]


def written(path, rows):
    path.write_text("".join(json.dumps({"sentence": i, "log_probs": row}) + "\n" for i, row in enumerate(rows)))
    return path


def test_a_row_is_arrays_by_distribution_and_given_before_the_next_is_read(tmp_path):
    path = written(tmp_path / "rows.jsonl", ROWS)
    found = list(read_sentence_rows(path, remedy="evaluate again"))
    assert [{name: values.tolist() for name, values in row.items()} for row in found] == ROWS
    assert {values.dtype for row in found for values in row.values()} == {np.dtype(np.float64)}
    path.write_text(path.read_text().splitlines()[0] + "\n{")
    rows = read_sentence_rows(path, remedy="evaluate again")
    assert next(rows)[JOINT].tolist() == [-2, -0.5]
    with pytest.raises(InputError, match=r"rows\.jsonl:2: not JSON .*; evaluate again"):
        next(rows)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"sentence": 0, "log_probs": ROWS[1]}, "expected an object with sentence 1"),
        ({"sentence": True, "log_probs": ROWS[1]}, "expected an object with sentence 1"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1], JOINT: [10**400]}}, "not lists of finite numbers"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1], JOINT: [float("inf")]}}, "not lists of finite numbers"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1], JOINT: [-1, -1]}}, "distributions of different lengths"),
        ({"sentence": 1, "log_probs": {GIVEN_TREE: [-1]}}, "distributions .*, expected "),
        ({"sentence": 1, "log_probs": {UNCONDITIONAL: [-1], GIVEN_TREE: [-1], JOINT: [-1]}}, "distributions .*, exp"),
    ],
)
def test_a_damaged_row_is_named_by_line(row, message, tmp_path):
    path = written(tmp_path / "rows.jsonl", ROWS[:1])
    path.write_text(path.read_text() + json.dumps(row) + "\n")
    with pytest.raises(InputError, match=rf"rows\.jsonl:2: .*{message}"):
        list(read_sentence_rows(path, remedy="evaluate again"))
