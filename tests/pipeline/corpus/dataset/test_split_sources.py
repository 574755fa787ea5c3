"""Test that splits consist of whole documents or of their own files, and that other requests are refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import cli
from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.corpus.dataset.split_sources import choose_sources
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.corpus.text.documents import Document, write_document_table
from storage.errors import ConfigError, InputError
from tests.pipeline.corpus.corpora import flat_pair, write_stem

SIZES = (3, 1, 4, 2, 2, 3, 1, 4)


def write(stem: Path, name: str, *, table: bool = True) -> Path:
    """Write documents with ``SIZES`` sentences. Sentence k of document d is ``name d k``."""
    names = [f"{name}{d}" for d, size in enumerate(SIZES) for _ in range(size)]
    texts = [f"{name} {d} {k}" for d, size in enumerate(SIZES) for k in range(size)]
    stem.with_suffix(".docs").write_text("".join(each + "\n" for each in names))
    write_stem(stem, map(flat_pair, texts))
    if table:
        with stem.with_suffix(".documents.tsv").open("w") as file:
            write_document_table(file, [Document(each, name.upper(), "CC BY") for each in dict.fromkeys(names)])
    return stem


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "a", "gum")
    write(tmp_path / "b", "masc", table=False)
    Tokenizer.train(["gum 1 2 masc"] * 3, 262).save(tmp_path / "t.json")
    return tmp_path


def build(folder: Path, out: str, **given: Any) -> Dataset:
    options = {"train": (folder / "a", folder / "b"), "tokenizer": folder / "t.json", "out": folder / out}
    build_dataset(BuildConfig(**(options | given)))
    return load_dataset(folder / out)


def texts_of(dataset: Dataset, split: str) -> list[str]:
    return dataset.tokenizer.decode_batch([row.tolist() for row in dataset.split(split).tokens])


def test_shares_are_whole_documents_and_no_sentence_is_lost(folder: Path) -> None:
    dataset = build(folder, "out", dev_share=0.2, test_share=0.1)
    everything = (folder / "a.txt").read_text().split("\n")[:-1] + (folder / "b.txt").read_text().split("\n")[:-1]
    found = {name: texts_of(dataset, name) for name in ("train", "dev", "test")}
    assert sorted(text for texts in found.values() for text in texts) == sorted(everything)
    assert {name: dataset.counts[name]["num_trees"] for name in found} == {n: len(t) for n, t in found.items()}
    documents = {name: {tuple(text.split()[:2]) for text in texts} for name, texts in found.items()}
    assert sum(map(len, documents.values())) == 2 * len(SIZES)
    assert 0 < len(found["test"]) <= round(0.1 * 40)
    assert len(found["test"]) < len(found["dev"]) <= round(0.2 * 40)
    for name, texts in found.items():
        split = dataset.split(name)
        named = [split.documents[i - 1].document for i in split.document_ids]
        assert named == ["".join(text.split()[:2]) for text in texts]
        assert len(split.documents) == len(documents[name])
    again, other = (build(folder, f"seed{seed}", dev_share=0.2, test_share=0.1, seed=seed) for seed in (1, 2))
    assert again.sha256 == dataset.sha256
    assert texts_of(other, "dev") != found["dev"]


def test_the_command_takes_several_stems_and_shares(folder: Path) -> None:
    train = ["--train", str(folder / "a"), "--train", str(folder / "b"), "--tokenizer", str(folder / "t.json")]
    shares = ["--dev-share", "0.2", "--min-words", "2", "--workers", "1"]
    result = CliRunner().invoke(cli.main, ["build-dataset", *train, *shares, "--out", str(folder / "out")])
    assert result.exit_code == 0, result.output
    assert load_dataset(folder / "out").sha256 == build(folder, "same", dev_share=0.2).sha256
    refused = CliRunner().invoke(cli.main, ["build-dataset", *train, "--out", str(folder / "none")])
    assert refused.stderr == "Error: build-dataset: neither --dev nor --dev-share is given; give one of them\n"


def test_documents_and_sources_of_several_stems_follow_one_another(folder: Path) -> None:
    (folder / "a.docs").rename(folder / "kept.docs")
    (folder / "a.documents.tsv").rename(folder / "kept.tsv")
    dataset = build(folder, "unknown", dev=(folder / "a",))
    train = dataset.split("train")
    assert train.document_ids.tolist() == [0] * 20 + [d + 1 for d, size in enumerate(SIZES) for _ in range(size)]
    assert not train.has_documents
    assert dataset.split("dev").documents == ()
    (folder / "kept.docs").rename(folder / "a.docs")
    (folder / "kept.tsv").rename(folder / "a.documents.tsv")
    split = build(folder, "known", dev=(folder / "b", folder / "a")).split("train")
    assert split.documents[0] == Document("gum0", "GUM", "CC BY")
    assert split.documents[len(SIZES)] == Document("masc0")
    ids, names = split.source_ids
    assert names == ("", "GUM")
    assert np.array_equal(ids, [1] * 20 + [0] * 20)


def test_impossible_shares_are_refused(folder: Path) -> None:
    stems = {"train": [folder / "a", folder / "b"]}
    with pytest.raises(
        InputError, match=r"no document fits into dev, a share of 0\.01: the smallest of 16 documents has 1 of 40"
    ):
        choose_sources(stems, {"dev": 0.01}, seed=1)
    with pytest.raises(InputError, match=r"all 8 documents went to dev, test"):
        choose_sources({"train": [folder / "a"]}, {"dev": 0.5, "test": 0.5}, seed=1)
    (folder / "b.docs").unlink()
    with pytest.raises(InputError, match=r"b\.mrg: there is no \.docs file next to it"):
        choose_sources(stems, {"dev": 0.2}, seed=1)


def test_a_document_name_in_two_stems_of_a_split_is_refused(folder: Path) -> None:
    write(folder / "c", "gum")
    with pytest.raises(InputError, match=r"c\.docs: document 'gum0' is in .*a\.docs too"):
        choose_sources({"train": [folder / "a", folder / "c"], "dev": [folder / "b"]}, {}, seed=1)
    choose_sources({"train": [folder / "a"], "dev": [folder / "c"]}, {}, seed=1)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("a.docs", "gum0\n" * 19, r"a\.docs: 19 lines, expected 20"),
        ("a.docs", "gum0\n" * 21, r"a\.docs: 21 lines, expected 20"),
        ("a.docs", "gum0\n\n" * 10, r"a\.docs:2: the line is empty"),
        ("a.docs", "new\n" * 20, r"a\.documents\.tsv: no row of document 'new', which is in .*a\.docs"),
        ("a.mrg", "", r"a\.mrg: empty"),
        ("a.txt", "", r"a\.txt: 0 lines \(0 with text\), but .*a\.mrg has 20 trees"),
    ],
)
def test_files_that_do_not_fit_together_are_refused(folder: Path, file: str, content: str, expected: str) -> None:
    (folder / file).write_text(content)
    with pytest.raises(InputError, match=expected):
        build(folder, "out", dev=(folder / "b",))
    assert not (folder / "out").exists()


def test_the_error_names_a_missing_file_and_a_table_without_documents(folder: Path) -> None:
    (folder / "a.docs").unlink()
    with pytest.raises(InputError, match=r"a\.documents\.tsv: this table of documents needs a\.docs"):
        build(folder, "out", dev=(folder / "b",))
    (folder / "b.txt").unlink()
    with pytest.raises(InputError, match=r"neither b\.txt nor b\.txt\.gz"):
        build(folder, "out", train=(folder / "b",), dev=(folder / "b",))


def test_contradictory_options_for_splits_are_refused(folder: Path) -> None:
    for changes, expected in (
        ({}, "neither --dev nor --dev-share"),
        ({"train": (), "dev": (folder / "b",)}, "--train is missing"),
        ({"dev": (folder / "b",), "dev_share": 0.1}, "both --dev and --dev-share"),
        ({"dev_share": 0.6, "test_share": 0.4}, "sum below 1"),
        ({"dev_share": -0.1}, "each at least 0"),
        ({"dev": (folder / "b",), "min_words": 3, "max_words": 2, "workers": -1}, "workers is -1.*min-words is 3, exp"),
    ):
        with pytest.raises(ConfigError, match=expected):
            build(folder, "out", **changes)
