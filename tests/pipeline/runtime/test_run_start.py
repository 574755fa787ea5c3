"""A run is begun once, is gone on with by the same command alone, and belongs to one process at a time."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch

from pipeline.runtime.distributed import World
from pipeline.runtime.run_directory import RunDescription, open_run
from pipeline.runtime.run_start import training_run
from storage.errors import RunError, StoreBusyError, StoreError
from storage.fingerprints import sha256_file


@pytest.fixture
def description(tmp_path: Path) -> RunDescription:
    tokenizer = tmp_path / "given.json"
    tokenizer.write_text("{}")
    return RunDescription(
        kind="teacher",
        configuration={"lr": 0.1, "seed": 1, "device": "cpu", "threads": 1, "checkpoint_every": 0},
        model={"labels": ["TOP"]},
        fingerprints={"tokenizer": sha256_file(tokenizer), "dataset": "d" * 64},
        tokenizer=tokenizer,
    )


def start(path: Path, run: RunDescription, *, resume: bool = True):
    return training_run(path, run, resume=resume, device=torch.device("cpu"), world=World())


def test_each_start_is_recorded(tmp_path, description):
    for _ in range(2):
        with start(tmp_path / "run", description):
            pass
    lines = [json.loads(line) for line in (tmp_path / "run" / "starts.jsonl").read_text().splitlines()]
    assert len(lines) == 2
    assert {"time", "host", "device", "threads", "world_size", "versions", "command"} <= lines[1].keys()
    assert open_run(tmp_path / "run").configuration == description.configuration


def test_a_place_that_is_taken_or_impossible_is_refused(tmp_path, description):
    with start(tmp_path / "run", description, resume=False):
        pass
    with pytest.raises(RunError, match="already exists and is not empty; add --resume"):
        start(tmp_path / "run", description, resume=False).__enter__()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(RunError, match=r"no run\.json here"):
        start(tmp_path / "other", description).__enter__()
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["notes.txt"]
    with pytest.raises(RunError, match="is no folder"):
        start(description.tokenizer, description).__enter__()
    with pytest.raises(StoreError):
        start(description.tokenizer / "below a file", description).__enter__()


def test_other_options_and_data_are_named_with_both_sides_and_free_ones_are_not(tmp_path, description):
    with start(tmp_path / "run", description):
        pass
    free = {"device": "cuda", "threads": 4, "checkpoint_every": 5}
    with start(tmp_path / "run", dataclasses.replace(description, configuration={**description.configuration, **free})):
        pass
    other = dataclasses.replace(
        description,
        configuration={**description.configuration, "lr": 0.2, "dtype": "bfloat16"},
        model={"labels": ["S"]},
        fingerprints={**description.fingerprints, "dataset": "e" * 64},
    )
    with pytest.raises(RunError) as refusal:
        start(tmp_path / "run", other).__enter__()
    for part in (
        "--lr is 0.2, expected 0.1;",
        "--dtype is bfloat16, expected not set",
        "labels of the model is ['S'], expected ['TOP'];",
        "sha256 of the dataset is eeeeeeeeeeee, expected dddddddddddd",
    ):
        assert part in str(refusal.value)
    assert "seed" not in str(refusal.value)
    assert "tokenizer" not in str(refusal.value)


@pytest.mark.parametrize("killed_after", ["nothing", "starts", "half a description", "description"])
def test_a_directory_whose_making_was_interrupted_is_made(tmp_path, description, killed_after):
    run = tmp_path / "run"
    if killed_after == "description":
        with start(run, description):
            pass
        (run / "tokenizer.json").unlink()
    else:
        run.mkdir()
    if killed_after == "half a description":
        (run / ".run.json.0123456789abcdef.partial").write_text('{"kind":')
    if killed_after != "nothing":
        (run / "starts.jsonl").write_text('{"time": "20')
    with start(run, description):
        assert open_run(run).kind == "teacher"
    assert not list(run.glob(".*"))
    assert json.loads((run / "starts.jsonl").read_text().splitlines()[-1])["threads"]


def test_a_run_that_another_process_trains_in_is_refused(tmp_path, description):
    with (
        start(tmp_path / "run", description),
        pytest.raises(StoreBusyError, match="another process trains in it"),
        start(tmp_path / "run", description),
    ):
        pass
    with start(tmp_path / "run", description):
        pass
