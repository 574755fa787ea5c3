"""Test that folds keep documents and duplicates together, are balanced, and are stored with the dataset."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

import cli
from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import describe_dataset, load_dataset
from pipeline.corpus.dataset.folds import assign_folds, without_fold
from pipeline.corpus.dataset.tokenizer import Tokenizer
from storage.errors import ConfigError, CorruptStoreError, InputError
from storage.group import read_group, write_group
from tests.pipeline.corpus.corpora import flat_pair, write_stem

TEXTS = [
    f"{subject} {verb}." for subject in ("a dog", "the old cat", "she") for verb in ("barks", "sleeps", "ran away")
]


@settings(max_examples=60)
@given(st.integers(1, 60), st.integers(1, 40), st.integers(2, 6), st.integers(0, 3))
def test_folds_divide_no_document_and_no_duplicates_and_differ_by_at_most_the_largest_group(
    number, num_texts, num_folds, seed
):
    generator = np.random.default_rng([number, num_texts, num_folds])
    documents = generator.integers(0, 10, number).astype(np.int32)  # 0: not known
    texts = generator.integers(0, num_texts, number)
    found = documents, generator.integers(1, 50, num_texts)[texts], texts.astype(np.uint64)
    num_tokens = found[1]
    keys = [(int(document), 0 if document else int(text)) for document, text in zip(documents, texts, strict=True)]
    sizes: dict[tuple[int, int], int] = {}
    for key, size in zip(keys, num_tokens.tolist(), strict=True):
        sizes[key] = sizes.get(key, 0) + size
    options = {"num_folds": num_folds, "seed": seed, "where": "train.mrg"}
    if len(sizes) < num_folds:
        with pytest.raises(InputError, match=rf"train.mrg: .* expected at least {num_folds} together for --folds"):
            assign_folds(*found, **options)
        return
    folds = assign_folds(*found, **options)
    assert len({*zip(keys, folds.tolist(), strict=True)}) == len(sizes)
    totals = np.bincount(folds, weights=num_tokens, minlength=num_folds + 1)
    assert folds.dtype == np.uint8
    assert len(totals) == num_folds + 1
    assert totals[0] == 0 < totals[1:].min()
    assert totals[1:].max() - totals[1:].min() <= max(sizes.values())
    assert np.array_equal(folds, assign_folds(*found, **options))


def test_another_seed_gives_other_folds_of_equal_sizes():
    nothing, lengths = np.zeros(1000, np.int32), np.full(1000, 7, np.int64)
    one, other = (
        assign_folds(nothing, lengths, np.arange(1000, dtype=np.uint64), num_folds=4, seed=seed, where="")
        for seed in (1, 2)
    )
    assert np.bincount(one).tolist() == np.bincount(other).tolist() == [0, 250, 250, 250, 250]
    assert 0.1 < (one == other).mean() < 0.4


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("folds")
    for name, texts in (("train", TEXTS * 2), ("dev", TEXTS[:3])):
        write_stem(folder / name, map(flat_pair, texts))
    shutil.copy(folder / "train.mrg", folder / "documents.mrg")
    shutil.copy(folder / "train.txt", folder / "documents.txt")
    (folder / "documents.docs").write_text("".join(f"d{i // 4}\n" for i in range(len(TEXTS) * 2)))
    Tokenizer.train(TEXTS * 3, 275).save(folder / "tokenizer.json")
    return folder


def build(folder: Path, out: Path, train: str = "train", **changes: int) -> Path:
    stems = {"train": (folder / train,), "dev": (folder / "dev",), "tokenizer": folder / "tokenizer.json"}
    build_dataset(BuildConfig(**stems, out=out, **{"folds": 3, **changes}))
    return out


@pytest.fixture(scope="module")
def dataset(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(folder, tmp_path_factory.mktemp("folds") / "data")


def test_a_dataset_stores_the_fold_of_each_training_sentence(dataset):
    stored = load_dataset(dataset)
    train, dev = stored.split("train"), stored.split("dev")
    assert np.array_equal(zarr.open_group(dataset / "dataset.zarr/train", mode="r")["folds"][:], train.folds)
    assert train.num_folds == 3
    assert train.folds[: len(TEXTS)].tolist() == train.folds[len(TEXTS) :].tolist()  # each text is there twice
    assert (dev.num_folds, len(dev.folds)) == (0, 0)


def test_whole_documents_are_in_one_fold(folder, tmp_path):
    folds = load_dataset(build(folder, tmp_path / "data", train="documents")).split("train").folds
    assert [len(set(folds[i : i + 4])) for i in range(0, len(folds), 4)] == [1] * 5
    with pytest.raises(InputError, match=r"documents\.mrg: 5 documents and 0 different sentences .* at least 6"):
        build(folder, tmp_path / "other", train="documents", folds=6)
    assert not (tmp_path / "other").exists()


@pytest.fixture(scope="module")
def without(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(folder, tmp_path_factory.mktemp("folds") / "without", folds=0)


def test_folds_are_part_of_the_fingerprint_and_a_dataset_without_folds_is_still_read(
    folder, dataset, without, tmp_path
):
    paths = (dataset, without, build(folder, tmp_path / "seed", seed=2))
    three, none, other = (load_dataset(path).split("train") for path in paths)
    assert not np.array_equal(three.folds, other.folds)
    assert len({split.sha256 for split in (three, none, other)}) == 3
    assert none.num_folds == 0
    assert "folds" not in read_group(without / "dataset.zarr/train")[0]
    assert "folds" not in describe_dataset(without)["splits"]["train"]


def test_inspect_shows_the_sizes_of_the_folds(dataset):
    train = load_dataset(dataset).split("train")
    described = describe_dataset(dataset)["splits"]["train"]["folds"]
    for fold in (1, 2, 3):
        lengths = train.tokens.lengths[train.folds == fold]
        assert described[str(fold)] == {"num_sentences": len(lengths), "num_tokens": lengths.sum()}
    shown = CliRunner().invoke(cli.main, ["inspect", str(dataset)]).stdout
    assert f"{described['2']['num_sentences']} sentences, {described['2']['num_tokens']} tokens" in shown


def rewrite(path: Path, arrays: dict[str, Any], attributes: dict[str, Any]) -> str:
    """Replace a group, and keep the groups in it."""
    rest = {name: value for name, value in attributes.items() if name != "content_sha256"}
    sha256 = write_group(path.with_name("new"), arrays, rest)
    for part in path.iterdir():
        if part.is_dir() and part.name not in arrays:
            part.rename(path.with_name("new") / part.name)
    shutil.rmtree(path)
    path.with_name("new").rename(path)
    return sha256


@pytest.mark.parametrize("change", ["gap", "zero", "short"])
def test_folds_that_do_not_fit_the_sentences_are_refused(dataset, tmp_path, change):
    shutil.copytree(dataset, tmp_path / "data")
    store = tmp_path / "data/dataset.zarr"
    arrays, attributes = read_group(store / "train")
    folds = arrays["folds"]
    arrays["folds"] = {"gap": 2 * folds, "zero": folds - 1, "short": folds[1:]}[change]
    sha256 = rewrite(store / "train", arrays, attributes)
    _, attributes = read_group(store)
    rewrite(store, {}, {**attributes, "splits": {**attributes["splits"], "train": sha256}})  # type: ignore[dict-item]
    with pytest.raises(CorruptStoreError, match="train: arrays do not fit together"):
        load_dataset(tmp_path / "data")


@pytest.mark.parametrize("folds", [-1, 1, 256])
def test_an_impossible_number_of_folds_is_refused(folder, tmp_path, folds):
    with pytest.raises(ConfigError, match=rf"--folds is {folds}, expected 2 to 255, or 0 for no folds"):
        build(folder, tmp_path / "data", folds=folds)


def test_train_without_a_fold_has_all_other_sentences_in_order(dataset, without):
    stored = load_dataset(dataset)
    train = stored.split("train")
    for fold in (0, 1, 2, 3):
        rest, numbers = without_fold(stored, fold)
        assert numbers.tolist() == [i for i in range(train.num_sentences) if train.folds[i] != fold]
        for name in ("tokens", "actions"):
            assert [x.tolist() for x in getattr(rest, name)] == [getattr(train, name)[i].tolist() for i in numbers]
        for name in ("document_ids", "num_words", "num_bytes", "folds"):
            assert np.array_equal(getattr(rest, name), getattr(train, name)[numbers])
    for fold in (-1, 4):
        with pytest.raises(ConfigError, match=rf"--leave-out is {fold}, expected 1 to 3, the folds of the dataset"):
            without_fold(stored, fold)
    with pytest.raises(ConfigError, match="the dataset has no folds, but --leave-out is 1"):
        without_fold(load_dataset(without), 1)
