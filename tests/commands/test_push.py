"""Test that an export arrives on a hub: its branches, files and card. The hub is a local server."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from huggingface_hub import constants

import cli
from storage.errors import ConfigError
from student.export import export
from student.push import check_repository, planned, push
from student.student_config import ExportConfig, StudentTrainConfig
from student.train_student import train_student
from tests.commands.hub_double import Hub, running_hub
from tests.processes import refused, run_cli

SIZES = {"embed_dim": 8, "num_blocks": 1, "num_heads": 1}
TRAINING = StudentTrainConfig(
    max_steps=6, batch_tokens=500, threads=1, device="cpu", warmup_steps=0, word_checkpoints=("1k",), seed=5
)


@pytest.fixture(scope="module")
def run(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("student") / "run"
    train_student(small_world / "dataset", None, run, SIZES, TRAINING)
    return run


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    with running_hub() as hub:
        for name, value in {
            "HF_ENDPOINT": hub.url, "HF_TOKEN": hub.token, "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0",
        }.items():  # fmt: skip
            monkeypatch.setenv(name, value)
        yield hub


def test_best_is_main_and_each_word_checkpoint_is_a_branch(run: Path, hub: Hub, tmp_path: Path) -> None:
    command = ["export", run, tmp_path / "out", "--push", "me/small", "--licence", "mit", "--hub-datasets", "a/b,a/c"]
    planned = json.loads(run_cli(*command, "--dry-run", "--json").stdout)
    assert not hub.branches
    assert not (tmp_path / "out").exists()
    assert planned["branches"].keys() == {"main", "chck_1k"}
    done = json.loads(run_cli(*command, "--private", "--json").stdout)
    assert hub.private == {"me/small": True}
    branches = hub.branches["me/small"]
    assert done["pushed"]["commits"].keys() == branches.keys() == {"main", "chck_1k"}
    for branch, files in branches.items():
        here = {file.name: file.read_bytes() for file in (tmp_path / "out" / branch).iterdir()}
        assert files == here | {".gitattributes": b""}
        assert planned["branches"][branch].keys() == here.keys()
    assert branches["main"]["model.safetensors"] != branches["chck_1k"]["model.safetensors"]
    assert hub.order == ["chck_1k", "main"]
    card = branches["main"]["README.md"].decode()
    assert 'license: "mit"\nlanguage:\n- "en"\ndatasets:\n- "a/b"\n- "a/c"\n' in card
    assert "| all together, each text once |" in card
    assert "that the student had seen (every pass over a word counts): " in card
    assert 'AutoTokenizer.from_pretrained("me/small")' in card
    assert set(hub.cards) == {files["README.md"].decode() for files in branches.values()}


def test_a_second_push_sends_what_changed_and_removes_what_is_gone(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # huggingface_hub read these variables when it was imported.
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    folders = {"main": tmp_path / "main", "chck_1M": tmp_path / "chck_1M"}
    for name, folder in folders.items():
        folder.mkdir()
        (folder / "config.json").write_text(name)
        (folder / "model.safetensors").write_bytes(name.encode() * 9)
    first = push(folders, "me/small", private=False)
    assert planned(folders)["main"] == {"config.json": "4 bytes", "model.safetensors": "36 bytes"}
    (folders["main"] / "config.json").rename(folders["main"] / "other.json")
    second = push(folders, "me/small", private=False)
    assert hub.branches["me/small"]["main"].keys() == {".gitattributes", "other.json", "model.safetensors"}
    assert first["commits"]["main"] != second["commits"]["main"]
    assert first["commits"].keys() == second["commits"].keys() == {"main", "chck_1M"}


def test_without_huggingface_hub_the_extra_is_named(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.delitem(sys.modules, "student.push", raising=False)
    done = CliRunner().invoke(cli.main, ["export", str(run), str(tmp_path / "out"), "--push", "me/small"])
    assert done.exit_code == 1
    assert "pip install 'rnng-distill[hub]'" in done.output
    assert not (tmp_path / "out").exists()


def test_a_refused_token_is_one_line_that_says_what_to_do(run: Path, hub: Hub, tmp_path: Path) -> None:
    hub.token = "another"  # noqa: S105
    message = refused("export", run, tmp_path / "out", "--push", "me/small")
    assert "hf auth login" in message
    assert (tmp_path / "out/main/config.json").is_file()


@pytest.mark.parametrize("name", ["small", "me/a b", "me/a/b", "", "me/--"])
def test_a_name_that_is_no_repository_is_refused_before_anything_is_written(name: str) -> None:
    if not name:
        with pytest.raises(ConfigError, match="--dry-run without --push"):
            ExportConfig(dry_run=True)
        return
    with pytest.raises(ConfigError, match="Give OWNER/NAME"):
        check_repository(name)


def test_a_name_with_a_dot_is_named(run: Path, tmp_path: Path) -> None:
    assert "cuts alpha0.5-seed1 to alpha0" in export(run, tmp_path / "alpha0.5-seed1")["name"]
    assert "name" not in export(run, tmp_path / "alpha05-seed1")
