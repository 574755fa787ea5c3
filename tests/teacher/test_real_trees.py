"""The level-parallel RNNG equals the one-action-at-a-time RNNG on real trees."""

from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.corpus.dataset.build import build_dataset
from pipeline.corpus.dataset.build_config import BuildConfig
from pipeline.corpus.dataset.dataset_store import load_dataset
from pipeline.corpus.dataset.tokenizer import train_tokenizer
from pipeline.corpus.text.corpus_config import ImportConfig
from pipeline.corpus.trees.import_trees import import_trees
from tests.teacher.test_rnng import assert_equal_to_reference, make_model


@pytest.fixture
def double_precision():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("double_precision")
def test_level_parallel_equals_one_action_at_a_time_on_200_gum_trees(shared_data: Path, tmp_path: Path) -> None:
    gum = shared_data / "gum"
    import_trees([gum / "dev.mrg"], tmp_path / "dev", ImportConfig(text=[gum / "dev.txt"]))
    train_tokenizer([tmp_path / "dev.txt"], tmp_path / "tokenizer.json", vocab_size=2000)
    stem = tmp_path / "dev"
    build_dataset(
        BuildConfig(train=(stem,), dev=(stem,), tokenizer=tmp_path / "tokenizer.json", out=tmp_path / "dataset")
    )
    dataset = load_dataset(tmp_path / "dataset")
    split = dataset.split("dev")
    rows = np.random.default_rng(0).choice(split.num_sentences, 200, replace=False)
    model = make_model((6, 7, 2), vocab_size=dataset.tokenizer.vocab_size, num_labels=len(dataset.labels))
    assert dataset.tokenizer.eos_id == model.eos_id
    assert_equal_to_reference(model, split.tokens.take(rows), split.actions.take(rows), gradients=True)
