"""Test train-teacher and its evaluation: losses do not depend on the world size, and figures agree with each other."""

import json
import math
import shutil

import pytest

from tests.processes import finish, metrics, refused, run_cli, start_cli

SIZES = ["--embed-dim", 16, "--hidden-dim", 24, "--batch-tokens", 700, "--threads", 1]


@pytest.mark.processes
def test_one_process_and_two_have_the_same_losses(small_world, tmp_path):
    options = ["--max-steps", 12, "--dropout", 0, "--log-every", 1, "--eval-every", 6, *SIZES]
    for processes in (1, 2):
        arguments = ["train-teacher", "--data", small_world / "dataset", "--out", tmp_path / f"{processes}", *options]
        finish(start_cli(*arguments, processes=processes))
    for split, expected in (("train", 12), ("dev", 2)):
        one, two = metrics(tmp_path / "1", split), metrics(tmp_path / "2", split)
        assert len(one) == len(two) == expected
        for a, b in zip(one, two, strict=True):
            assert a["positions"] == b["positions"]
            for part in ("loss", "token_loss", "action_loss"):
                # The largest measured difference was 2e-6, over 90 steps and three seeds.
                assert b[part] == pytest.approx(a[part], abs=1e-5)


def test_dev_losses_agree_with_the_joint_and_the_given_the_tree_perplexity(small_world):
    teacher, data = small_world / "teacher", small_world / "dataset"
    dev = min(metrics(teacher, "dev"), key=lambda row: row["loss"])
    found = json.loads(run_cli("evaluate", "perplexity", teacher, "--data", data, "--split", "dev", "--json").stdout)
    assert math.log(found["joint with the tree"]["per_token"]) == pytest.approx(dev["loss"], rel=1e-5)
    assert math.log(found["given the tree"]["per_token"]) == pytest.approx(dev["token_loss"], rel=1e-5)


def test_a_dump_has_the_same_perplexity_as_an_evaluation(small_world, tmp_path):
    teacher, data = small_world / "teacher", small_world / "dataset"
    options = ["--data", data, "--teacher", teacher, "--out", tmp_path / "dump", "--split", "test", "--k", 4]
    run_cli("dump-teacher", *options)
    statistics = json.loads(run_cli("inspect", tmp_path / "dump", "--json").stdout)["statistics"]
    found = json.loads(run_cli("evaluate", "perplexity", teacher, "--data", data, "--split", "test", "--json").stdout)
    given_tree = found["given the tree"]
    assert statistics["perplexity"] == pytest.approx(given_tree["per_token"], rel=1e-5)
    assert statistics["perplexity_without_eos"] == pytest.approx(given_tree["per_token_without_eos"], rel=1e-5)


def test_a_dataset_of_another_tokenizer_is_refused_with_both_fingerprints(small_world, tmp_path):
    corpus = small_world / "corpus"
    run_cli("train-tokenizer", corpus / "dev.txt", "--out", tmp_path / "tokenizer.json", "--vocab-size", 300)
    splits = ["--train", corpus / "train", "--dev", corpus / "dev"]
    run_cli("build-dataset", *splits, "--tokenizer", tmp_path / "tokenizer.json", "--out", tmp_path / "dataset")
    fingerprints = [
        json.loads(run_cli("inspect", folder / "tokenizer.json", "--json").stdout)["sha256"][:12]
        for folder in (small_world, tmp_path)
    ]
    teacher = small_world / "teacher"
    for arguments in (
        ["dump-teacher", "--data", tmp_path / "dataset", "--teacher", teacher, "--out", tmp_path / "dump"],
        ["evaluate", "perplexity", teacher, "--data", tmp_path / "dataset"],
    ):
        message = refused(*arguments)
        assert all(fingerprint in message for fingerprint in fingerprints)


def test_a_damaged_checkpoint_is_refused(small_world, tmp_path):
    shutil.copytree(small_world / "teacher", tmp_path / "teacher")
    weights = tmp_path / "teacher/checkpoints/best/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    message = refused("evaluate", "perplexity", tmp_path / "teacher", "--data", small_world / "dataset")
    assert "model.safetensors" in message
