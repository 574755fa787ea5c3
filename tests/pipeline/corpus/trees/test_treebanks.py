"""Test all of GUM, CRAFT and MASC: every tree becomes a sentence or is counted, and no text is changed."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import Dataset, load_dataset
from pipeline.corpus.dataset.oracle import actions_to_tree, tree_to_actions
from pipeline.corpus.dataset.tokenizer import train_tokenizer
from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.text.text_files import find_file, read_texts
from pipeline.corpus.trees.import_trees import import_trees
from pipeline.corpus.trees.raw_trees import read_raw_trees
from pipeline.corpus.trees.readers import parse_raw_tree

NUM_TREES = {"train": 8_624 + 13_253 + 3_148, "dev": 1_246 + 2_780 + 464}


@pytest.fixture(scope="module")
def imported(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("treebanks")
    counts = {}
    for split in NUM_TREES:
        stems = [shared_data / treebank / split for treebank in ("gum", "craft", "masc")]
        sources, texts = [find_file(s, ".mrg") for s in stems], [find_file(s, ".txt") for s in stems]
        counts[split] = import_trees(sources, folder / split, ImportConfig(text=texts))
    return folder, counts


@pytest.fixture(scope="module")
def dataset(imported: tuple[Path, dict[str, Any]]) -> Dataset:
    folder, _ = imported
    train_tokenizer([folder / "train.txt"], folder / "tokenizer.json", vocab_size=10_000)
    build_dataset(
        BuildConfig(
            train=(folder / "train",),
            dev=(folder / "dev",),
            tokenizer=folder / "tokenizer.json",
            out=folder / "dataset",
        )
    )
    return load_dataset(folder / "dataset")


def test_every_tree_becomes_a_sentence_or_is_counted(imported: tuple[Path, dict[str, Any]], dataset: Dataset) -> None:
    _, counts = imported
    for split, num_trees in NUM_TREES.items():
        assert counts[split]["num_trees"] == num_trees
        assert counts[split]["num_kept"] == num_trees - sum(counts[split]["dropped"].values())
        assert dataset.split(split).num_sentences == counts[split]["num_kept"]
        assert dataset.counts[split]["dropped"] == {}
    # "Even non - sports fans", where the text has "nonsports"
    assert counts["train"]["dropped"] == {"words are not those of the text": 1}
    assert counts["dev"]["dropped"] == {}


def test_tokens_are_those_of_the_text_and_decode_to_it(imported: tuple[Path, dict[str, Any]], dataset: Dataset) -> None:
    folder, _ = imported
    for name, split in dataset.splits.items():
        texts = [text for text in read_texts(folder / f"{name}.txt") if text is not None]
        encoded = dataset.tokenizer.encode_batch(texts)
        assert dataset.tokenizer.decode_batch(encoded) == texts
        assert np.array_equal(split.tokens.lengths, [len(ids) for ids in encoded])
        assert np.array_equal(split.tokens.values, np.concatenate(encoded))


def test_actions_and_trees_are_an_inverse_pair(dataset: Dataset) -> None:
    for actions, tokens in zip(dataset.split("dev").actions, dataset.split("dev").tokens, strict=True):
        phrases, n = actions_to_tree(actions.tolist())
        assert n == len(tokens)
        assert tree_to_actions(phrases, n) == actions.tolist()


def test_hardly_any_token_crosses_a_constituent(dataset: Dataset) -> None:
    for name, split in dataset.splits.items():
        assert dataset.counts[name]["num_crossing_tokens"] < 2e-4 * len(split.tokens.values)
        assert dataset.counts[name]["num_lost_phrases"] < 2e-5 * dataset.counts[name]["num_phrases"] + 2


def test_imported_trees_are_normalised(imported: tuple[Path, dict[str, Any]], dataset: Dataset) -> None:
    folder, _ = imported
    labels = {label for raw in read_raw_trees(folder / "dev.mrg") for label, _, _ in parse_raw_tree(raw).phrases}
    assert labels <= set(dataset.labels)
    assert not [label for label in dataset.labels if not label.isalpha() or not label.isupper()]


def test_sentences_in_both_train_and_dev_are_counted(imported: tuple[Path, dict[str, Any]], dataset: Dataset) -> None:
    folder, _ = imported
    train, dev = (list(read_texts(folder / f"{split}.txt")) for split in ("train", "dev"))
    num_duplicates = sum(map(set(dev).__contains__, train))
    assert dataset.counts["train"]["num_exact_duplicates"] == num_duplicates > 1_000
    assert 0 < dataset.counts["train"]["num_near_duplicates"] < 10
    assert dataset.counts["dev"]["num_in_train"] == sum(map(set(train).__contains__, dev))
