"""Test that gold trees equal the trees of a dataset, and that labels unknown to the model are kept and counted."""

from pathlib import Path

import pytest

from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.dataset.oracle import actions_to_tree
from pipeline.corpus.dataset.token_trees import read_gold_trees
from pipeline.corpus.dataset.tokenizer import Tokenizer
from storage.errors import InputError
from tests.pipeline.corpus.corpora import write_stem

PAIRS = [
    ("(TOP (S (NP (DT the) (NN dog)) (VP (VBZ barks)) (. .)))", "the dog barks."),
    ("(TOP (FRAG (NP (NN cat)) (INTJ (UH no)) (INTJ (UH no))))", "cat no no"),
    ("(TOP (NP (NN cat)))", "cats"),
]


@pytest.fixture
def stem(tmp_path: Path) -> Path:
    return write_stem(tmp_path / "dev", PAIRS)


def tokenizer() -> Tokenizer:
    return Tokenizer.train([text for _, text in PAIRS] * 2, 270)


def test_gold_trees_equal_the_trees_of_the_dataset(stem: Path, tmp_path: Path) -> None:
    tokenizer().save(tmp_path / "tokenizer.json")
    build_dataset(BuildConfig(train=(stem,), dev=(stem,), tokenizer=tmp_path / "tokenizer.json", out=tmp_path / "data"))
    dataset = load_dataset(tmp_path / "data")
    seen: list[int] = []
    sentences, counts = read_gold_trees(stem, dataset.tokenizer, dataset.labels, progress=seen.append)
    split = dataset.split("dev")
    assert [sentence.ids for sentence in sentences] == [row.tolist() for row in split.tokens]
    assert [sentence.phrases for sentence in sentences] == [actions_to_tree(row.tolist())[0] for row in split.actions]
    assert counts.to_json()["dropped"] == {"words are not those of the text": 1}
    assert counts.num_kept == len(sentences) == sum(seen) == 2


def test_labels_that_the_model_does_not_have_get_numbers_beyond_its_own(stem: Path) -> None:
    labels = ("TOP", "NP", "S", "VP")
    sentences, counts = read_gold_trees(stem, tokenizer(), labels)
    assert [label for label, _, _ in sentences[1].phrases] == [0, 4, 1, 5, 5]
    assert all(label < 4 for label, _, _ in sentences[0].phrases)
    assert counts.repaired == {"label unseen in training, kept: FRAG": 1, "label unseen in training, kept: INTJ": 1}


def test_every_sentence_with_a_label_that_the_model_does_not_have_is_counted(tmp_path: Path) -> None:
    stem = write_stem(tmp_path / "two", [("(TOP (X (NN cat)))", "cat")] * 2)
    sentences, counts = read_gold_trees(stem, tokenizer(), ("TOP", "NP"))
    assert [[label for label, _, _ in sentence.phrases] for sentence in sentences] == [[0, 2]] * 2
    assert counts.repaired == {"label unseen in training, kept: X": 2}


def test_the_error_names_a_missing_text_file(stem: Path) -> None:
    stem.with_suffix(".txt").unlink()
    with pytest.raises(InputError, match=r"neither dev\.txt nor dev\.txt\.gz"):
        read_gold_trees(stem, tokenizer(), ("TOP",))
