"""Test train-student: losses do not depend on the world size, and inputs that do not belong together are refused."""

import json
import shutil
from pathlib import Path

import pytest

from tests.processes import finish, metrics, refused, run_cli, start_cli

SIZES = ["--embed-dim", 32, "--num-blocks", 2, "--num-heads", 2, "--batch-tokens", 600, "--threads", 1]


@pytest.fixture(scope="module")
def dump(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("dump") / "dump"
    options = ["--data", small_world / "dataset", "--teacher", small_world / "teacher", "--k", 16]
    run_cli("dump-teacher", *options, "--temperatures", "1,2", "--shard-positions", 2048, "--out", out)
    return out


def train_arguments(world: Path, dump: Path | None, out: Path) -> list[object]:
    given = ["--dump", dump] if dump is not None else []
    return ["train-student", "--data", world / "dataset", *given, "--out", out, *SIZES]


@pytest.mark.processes
def test_one_process_and_two_have_the_same_losses(small_world, dump, tmp_path):
    options = ["--max-steps", 50, "--dropout", 0, "--log-every", 1, "--eval-every", 25, "--temperature", 2]
    for processes in (1, 2):
        finish(start_cli(*train_arguments(small_world, dump, tmp_path / f"{processes}"), *options, processes=processes))
    one, two = metrics(tmp_path / "1", "train"), metrics(tmp_path / "2", "train")
    assert len(one) == len(two) == 50
    assert one[-1]["loss"] < one[0]["loss"]
    for a, b in zip(one, two, strict=True):
        assert a["positions"] == b["positions"]
        for part in ("loss", "cross_entropy", "kl"):
            assert b[part] == pytest.approx(a[part], abs=1e-5)
    for a, b in zip(metrics(tmp_path / "1", "dev"), metrics(tmp_path / "2", "dev"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5)


def test_a_run_records_its_options_and_inputs(small_world, dump, tmp_path):
    run = tmp_path / "run"
    run_cli(*train_arguments(small_world, dump, run), "--max-steps", 2, "--alpha", 0.4)
    described = json.loads((run / "run.json").read_text())
    assert described["kind"] == "student"
    assert described["configuration"]["alpha"] == 0.4
    assert described["configuration"]["num_epochs"] == 10
    assert described["dump"]["schema"]["k"] == 16
    assert described["fingerprints"]["dataset"]
    assert {"best", "last"} == {path.name for path in (run / "checkpoints").iterdir()}
    assert list((run / "tensorboard").iterdir())
    shown = json.loads(run_cli("inspect", run, "--json").stdout)
    assert shown["configuration"] == described["configuration"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--temperature", 3], ["temperature", "3", "1", "2", "dump-teacher"]),
        (["--alpha", 2], ["alpha is 2.0, expected 0 to 1"]),
        (
            ["--max-length", 3],
            ["sentences have more than 3 positions", "give --max-length ", "--long-sentences truncate"],
        ),
        (["--num-heads", 5], ["embed-dim is 32, expected a multiple of --num-heads (5)"]),
    ],
)
def test_an_impossible_option_gives_one_line_and_no_run(small_world, dump, tmp_path, options, expected):
    message = refused(*train_arguments(small_world, dump, tmp_path / "run"), *options)
    assert all(part in message for part in expected)
    assert not (tmp_path / "run").exists()


def test_a_dump_of_another_dataset_is_refused_with_both_fingerprints(small_world, dump, tmp_path):
    shutil.copytree(small_world / "corpus", tmp_path / "corpus")
    trees, text = (tmp_path / "corpus" / name for name in ("train.mrg", "train.txt"))
    for file in (trees, text):
        file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))
    options = ["--train", tmp_path / "corpus/train", "--dev", tmp_path / "corpus/dev"]
    run_cli("build-dataset", *options, "--tokenizer", small_world / "tokenizer.json", "--out", tmp_path / "dataset")
    message = refused("train-student", "--data", tmp_path / "dataset", "--dump", dump, "--out", tmp_path / "run")
    found = {
        json.loads(run_cli("inspect", folder / "dataset", "--json").stdout)["splits"]["train"]["sha256"][:12]
        for folder in (small_world, tmp_path)
    }
    assert len(found) == 2
    assert all(sha256 in message for sha256 in found)


def test_a_damaged_dump_is_refused_and_named(small_world, dump, tmp_path):
    damaged = tmp_path / "dump"
    shutil.copytree(dump, damaged)
    shard = damaged / "ids/c/1/0"
    data = bytearray(shard.read_bytes())
    data[1000] ^= 1
    shard.write_bytes(data)
    training = [*train_arguments(small_world, damaged, tmp_path / "run"), "--max-steps", 99]
    for arguments in (["verify", damaged], training):
        message = run_cli(*arguments, fails=True).stderr.strip().splitlines()[-1]
        assert "ids" in message
        assert "1" in message
        assert message.startswith("Error: ")


def test_a_diverging_run_reports_the_step_and_writes_no_nan(small_world, tmp_path):
    run = tmp_path / "run"
    options = ["--lr", 1e30, "--warmup-steps", 0, "--log-every", 4, "--max-steps", 9]
    message = run_cli(*train_arguments(small_world, None, run), *options, fails=True).stderr.strip().splitlines()[-1]
    assert message.startswith("Error: the loss is not a finite number at step 2 (epoch 0, batch 1). It was ")
    assert "--lr" in message
    for line in (run / "metrics.jsonl").read_text().splitlines():
        assert "NaN" not in line
