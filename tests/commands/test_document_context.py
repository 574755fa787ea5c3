"""Test a student that is trained and evaluated with the earlier sentences of the document."""

import json
import math
import shutil
from pathlib import Path

import pytest

from tests.processes import metrics, refused, run_cli

SIZES = ["--embed-dim", 16, "--num-blocks", 1, "--num-heads", 2, "--threads", 1, "--max-steps", 12, "--lr", 0.01]


@pytest.fixture(scope="module")
def data(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("documents")
    options: list[object] = []
    for split in ("train", "dev"):
        for suffix in (".mrg", ".txt"):
            shutil.copy(small_world / "corpus" / f"{split}{suffix}", folder)
        num = len((folder / f"{split}.txt").read_text().splitlines())
        (folder / f"{split}.docs").write_text("".join(f"{line // 7}\n" for line in range(num)))
        options += [f"--{split}", folder / split]
    run_cli("build-dataset", *options, "--tokenizer", small_world / "tokenizer.json", "--out", folder / "dataset")
    return folder / "dataset"


def test_the_perplexity_matches_the_dev_loss_and_its_name_says_what_is_given(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run_cli("train-student", "--data", data, "--out", run, "--context", "document", *SIZES, "--max-length", 100)
    loss = min(row["loss"] for row in metrics(run, "dev"))
    run_cli("evaluate", "perplexity", run, "--data", data)
    (result,) = (run / "results").glob("perplexity*.json")
    (figure,) = json.loads(result.read_text())["figures"]
    assert figure["distribution"] == "given the document before it"
    assert figure["per_token"]["value"] == pytest.approx(math.exp(loss), rel=1e-5)


def test_a_dataset_without_documents_is_refused(small_world: Path, tmp_path: Path) -> None:
    options = ["--data", small_world / "dataset", "--out", tmp_path / "run", "--context", "document", *SIZES]
    message = refused("train-student", *options)
    assert "split train: the dataset has no documents, expected documents" in message
    assert not (tmp_path / "run").exists()
