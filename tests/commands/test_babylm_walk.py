"""Test the whole way from a folder of BabyLM, with every source of both releases, to a trained teacher."""

import json
from pathlib import Path

import pytest

from storage.fingerprints import sha256_file
from tests.pipeline.corpus.babylm_lookalikes import write_babylm
from tests.processes import finish, run_cli, start_cli

PARSER = [
    "--embed-dim", 64, "--num-layers", 1, "--num-heads", 2, "--ff-dim", 128, "--num-epochs", 2, "--lr", 4e-3,
    "--warmup-steps", 5,
]  # fmt: skip


@pytest.mark.processes
def test_from_a_folder_of_raw_text_to_a_trained_teacher(tmp_path: Path) -> None:
    expected = {}
    for split, release in ("train", 2023), ("dev", 2024):
        pages = write_babylm(tmp_path / split, release=release, num_documents=2)
        expected[split] = [row for source in sorted(pages) for row in pages[source].rows]
        run_cli("clean-text", tmp_path / split, "--source", "babylm", "--out", tmp_path / f"text/{split}")
    assert len(set((tmp_path / "text/train.txt").read_text().splitlines())) > 50
    run_cli("sample-corpus", tmp_path / "corpus", "--num-sentences", 60)
    trees = tmp_path / "corpus/train.mrg"
    run_cli("train-parser", trees, "--dev", trees, "--out", tmp_path / "parser.pt", *PARSER)
    run_cli("train-tokenizer", tmp_path / "text/train.txt", "--out", tmp_path / "tokenizer.json", "--vocab-size", 600)
    options = ["--model", tmp_path / "parser.pt", "--shard-sentences", 50]
    finish(start_cli("parse", tmp_path / "text/train.txt", "--out", tmp_path / "trees/train", *options, processes=2))
    # parse and clean-text clean raw text in the same way.
    run_cli("parse", tmp_path / "dev", "--source", "babylm", "--out", tmp_path / "trees/dev", *options)
    for split, rows in expected.items():
        texts = (tmp_path / f"trees/{split}.txt").read_text().splitlines()
        assert texts == [row.text for row in rows]
        assert (tmp_path / f"trees/{split}.speakers").read_text().splitlines() == [row.speaker for row in rows]
    splits = ["--train", tmp_path / "trees/train", "--dev", tmp_path / "trees/dev"]
    data = tmp_path / "dataset"
    run_cli("build-dataset", *splits, "--tokenizer", tmp_path / "tokenizer.json", "--out", data)
    about = json.loads(run_cli("inspect", data, "--json").stdout)
    assert about["splits"]["train"]["num_sentences"] == len(expected["train"])
    assert f"parsed by benepar 0.2.0, model sha256 {sha256_file(tmp_path / 'parser.pt')[:12]}" in about["tree_source"]
    sizes = ["--embed-dim", 24, "--hidden-dim", 32, "--max-steps", 5, "--batch-tokens", 1024, "--threads", 1]
    run_cli("train-teacher", "--data", data, "--out", tmp_path / "teacher", *sizes)
    assert (tmp_path / "teacher/checkpoints/best").exists()
    # Tokenizer and teacher read the text that was parsed, and the parser read other trees.
    words = json.loads(run_cli("inspect", tmp_path / "teacher", "--json").stdout)["words"]
    assert [text["of"] for text in words["trained_on"]] == ["teacher", "tokenizer", "parser"]
    both = (tmp_path / "text/train.txt", tmp_path / "corpus/train.txt")
    assert words["num_words"] == sum(len(file.read_text().split()) for file in both)
    assert words["not_known"] == []
    assert "all together, each text once" in run_cli("inspect", tmp_path / "teacher").stdout
