"""A dataset or tokenizer that a stranger made is refused by one line, though its digests fit."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpus.dataset.dataset_store import describe_dataset, load_dataset, write_dataset
from pipeline.corpus.dataset.tokenizer import Tokenizer, json_bytes
from pipeline.report.inspection import for_people, inspect_path
from storage.errors import CorruptStoreError, InputError, RnngDistillError

TOKENIZER = Tokenizer.train(["a tale of two cats and a dog"], 300)
ARRAYS: dict[str, Any] = {
    "tokens": np.array([5, 6], np.uint16),
    "offsets": np.array([0, 2], np.int64),
    "actions": np.array([2, 0, 0, 1, 0], np.int16),
    "action_offsets": np.array([0, 5], np.int64),
    "document_ids": np.zeros(1, np.int32),
    "num_words": np.ones(1, np.int32),
    "num_bytes": np.ones(1, np.int32),
}


def write(path: Path, *, arrays: Any = ARRAYS, counts: Any = None, statistics: Any = None, **changes: Any) -> Path:
    options: dict[str, Any] = {
        "tokenizer": TOKENIZER, "labels": ("TOP",), "trees": "given", "tree_source": "by hand", **changes,
    }  # fmt: skip
    found = {"train": statistics} if statistics is not None else None
    counts = {"train": {"text_sha256": "0"} if counts is None else counts}
    write_dataset(path, {"train": arrays}, counts=counts, statistics=found, **options)
    return path


def test_the_dataset_of_these_tests_is_right(tmp_path: Path) -> None:
    assert load_dataset(write(tmp_path / "dataset")).split("train").num_sentences == 1


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("tokens", np.array([5.0, 6.0])),
        ("tokens", np.array([[5, 6]], np.uint16)),
        ("tokens", np.array([5, 9999], np.uint16)),
        ("offsets", np.array([0, 6 << 60, -(6 << 60), 2], np.int64)),
        ("offsets", np.array([0, 3], np.int64)),
        ("actions", np.array([2, 0, 0, 1, 0], np.int64)),
        ("actions", np.array([2, 0, -1, 1, 0], np.int16)),
        ("document_ids", np.array([-1], np.int32)),
        ("document_ids", np.array([0.5])),
        ("num_words", np.array([-5], np.int32)),
        ("num_words", np.zeros(2, np.int32)),
        ("documents", np.zeros(3, np.int32)),
        ("surprise", np.zeros(3, np.int32)),
    ],
)
def test_values_that_no_dataset_can_have_are_refused(tmp_path: Path, name: str, values: Any) -> None:
    path = write(tmp_path / "dataset", arrays={**ARRAYS, name: values})
    with pytest.raises(CorruptStoreError, match=r"train: .*[Bb]uild the dataset again") as caught:
        load_dataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [None, 1, "x", [], {"a": {}}, {"text_sha256": 1}, {"dropped": {"x": "y"}}])
@pytest.mark.parametrize("place", ["counts", "statistics"])
def test_types_in_the_attributes_of_a_split_are_not_believed(tmp_path: Path, place: str, bad: Any) -> None:
    if place == "statistics":
        bad = {"sources": bad} if isinstance(bad, dict) else bad
    if bad is None:
        return
    path = write(tmp_path / "dataset", **{place: bad})
    with pytest.raises(CorruptStoreError, match="train") as caught:
        describe_dataset(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "change", [{"trees": "x"}, {"trees": []}, {"tree_source": 1}, {"labels": ("NP",)}, {"labels": (1,)}, {"labels": ()}]
)
def test_types_in_the_attributes_of_a_dataset_are_not_believed(tmp_path: Path, change: dict[str, Any]) -> None:
    path = write(tmp_path / "dataset", **change)
    with pytest.raises(CorruptStoreError, match=r"dataset\.zarr: .*Build the dataset again"):
        load_dataset(path)


def altered(change: Any) -> bytes:
    content = json.loads(TOKENIZER.data)
    change(content)
    return json_bytes(content)


def with_gap(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    vocab[max(vocab, key=vocab.get)] += 7


def with_duplicate(content: dict[str, Any]) -> None:
    vocab = content["model"]["vocab"]
    vocab[max(vocab, key=vocab.get)] -= 1


def with_empty_prepend(content: dict[str, Any]) -> None:
    content["normalizer"]["normalizers"][0]["prepend"] = ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_gap, "expected ids without gaps"),
        (with_duplicate, "expected ids without gaps"),
        (with_empty_prepend, "prepends an empty text"),
    ],
)
def test_a_tokenizer_that_no_dataset_can_use_is_refused_at_the_start(tmp_path: Path, change: Any, message: str) -> None:
    (tmp_path / "tokenizer.json").write_bytes(altered(change))
    with pytest.raises(InputError, match=message) as caught:
        Tokenizer.load(tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b"null", b"\xff", b"[" * 100_000, b'{"model": 1e400}'])
def test_a_file_that_is_no_tokenizer_is_one_line(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(InputError, match=r"tokenizer\.json") as caught:
        Tokenizer.load(tmp_path / "tokenizer.json")
    assert "\n" not in str(caught.value)


def test_what_may_not_be_read_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "dataset")

    def refuse(path: Path, *_: Any, **__: Any) -> Any:
        raise PermissionError(13, "Permission denied", str(path))

    def load_tokenizer(path: Path) -> Tokenizer:
        return Tokenizer.load(path / "tokenizer.json")

    opening, looking = ((Path, "open"), (os, "open")), ((Path, "stat"),)
    for refused, uses in (
        (opening, (load_dataset, inspect_path, load_tokenizer)),
        (looking, (load_dataset, inspect_path)),
    ):
        with monkeypatch.context() as patch:
            for owner, name in refused:
                patch.setattr(owner, name, refuse)
            for use in uses:
                with pytest.raises(RnngDistillError, match="Permission denied"):
                    use(path)
    for_people(inspect_path(path))
