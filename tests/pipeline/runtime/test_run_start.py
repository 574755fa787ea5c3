"""A run is created once, only the same command continues it, and one process trains it at a time."""

import dataclasses
import fcntl
import threading
from pathlib import Path

import pytest
import torch

from pipeline.runtime import run_history
from pipeline.runtime.distributed import World
from pipeline.runtime.run_directory import RunDescription, describe_run, open_run
from pipeline.runtime.run_history import HISTORY, add_end, hold, is_held, read_history
from pipeline.runtime.run_start import Resume, training_run
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


def start(path: Path, run: RunDescription, *, resume: Resume = "auto"):
    return training_run(path, run, resume=resume, device=torch.device("cpu"), world=World())


def test_each_start_is_recorded(tmp_path, description):
    for _ in range(2):
        with start(tmp_path / "run", description):
            pass
    events = read_history(tmp_path / "run")
    assert [event["event"] for event in events] == ["start", "start"]
    assert {"time", "host", "device", "threads", "world_size", "versions", "command"} <= events[1].keys()
    assert open_run(tmp_path / "run").configuration == description.configuration


def test_a_folder_with_other_content_or_an_impossible_path_is_refused(tmp_path, description):
    with start(tmp_path / "run", description, resume="never"):
        pass
    with pytest.raises(RunError, match="already exists and is not empty, and --resume is never"):
        start(tmp_path / "run", description, resume="never").__enter__()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "notes.txt").touch()
    with pytest.raises(RunError, match=r"other files and no run\.json"):
        start(tmp_path / "other", description).__enter__()
    assert [file.name for file in (tmp_path / "other").iterdir()] == ["notes.txt"]
    with pytest.raises(RunError, match="is not a folder"):
        start(description.tokenizer, description).__enter__()
    with pytest.raises(StoreError):
        start(description.tokenizer / "below a file", description).__enter__()


def test_differing_options_and_data_are_named_with_both_values_and_free_options_may_differ(tmp_path, description):
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


@pytest.mark.parametrize("killed_after", ["nothing", "start", "half a description", "description"])
def test_a_directory_whose_creation_was_interrupted_is_completed(tmp_path, description, killed_after):
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
        (run / HISTORY).write_text('{"time": "20')
        with pytest.raises(RunError, match="is not empty, and --resume is never"):
            start(run, description, resume="never").__enter__()
    with start(run, description):
        assert open_run(run).kind == "teacher"
    assert not list(run.glob(".*"))
    assert read_history(run)[-1]["threads"]


def test_a_run_that_another_process_is_training_is_refused(tmp_path, description, monkeypatch):
    monkeypatch.setattr(run_history, "LOCK_PATIENCE_S", 0.1)
    with (
        start(tmp_path / "run", description),
        pytest.raises(StoreBusyError, match="another process is training this run"),
        start(tmp_path / "run", description),
    ):
        pass
    with start(tmp_path / "run", description):
        pass


def test_a_start_waits_for_a_process_that_is_just_ending(tmp_path, description):
    dying = start(tmp_path / "run", description)
    dying.__enter__()
    timer = threading.Timer(0.2, dying.__exit__, (None, None, None))
    timer.start()
    with start(tmp_path / "run", description):
        assert len(read_history(tmp_path / "run")) == 2
    timer.join()


def test_a_run_that_was_created_while_a_start_waited_is_not_overwritten(tmp_path, description):
    run = tmp_path / "run"
    run.mkdir()
    lock = hold(run)

    def make_another() -> None:
        describe_run(run, dataclasses.replace(description, configuration={**description.configuration, "lr": 9}))
        lock.close()

    timer = threading.Timer(0.2, make_another)
    timer.start()
    with pytest.raises(RunError, match=r"--lr is 0\.1, expected 9"):
        start(run, description).__enter__()
    timer.join()


def test_checking_whether_a_run_is_being_trained_does_not_block_a_start(tmp_path, description):
    run = tmp_path / "run"
    with start(run, description):
        assert is_held(run)
    assert not is_held(run)
    with (run / HISTORY).open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        timer = threading.Timer(0.2, fcntl.flock, (looking, fcntl.LOCK_UN))
        timer.start()
        assert not is_held(run)  # a shared lock is not a training
        with start(run, description):
            assert is_held(run)
        timer.join()


@pytest.mark.parametrize("name", ["metrics.jsonl", HISTORY, "checkpoints", "run.json", "tensorboard/more/events"])
def test_training_writes_through_no_link_in_the_run(tmp_path, description, name):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    with start(run, description):
        pass
    link = run / name
    if link.exists():
        link.rename(elsewhere)
    elif link.parent == run:
        elsewhere.mkdir()
    else:
        link.parent.mkdir(parents=True)
        elsewhere.write_text("a file of somebody else")
    link.symlink_to(elsewhere)
    before = elsewhere.stat()
    with pytest.raises(RunError, match=rf"{name}: is a link, .*Replace the link by a copy"), start(run, description):
        pass
    assert (elsewhere.stat().st_size, elsewhere.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_links_that_weights_and_biases_makes_in_its_folder_do_not_stop_a_resumption(tmp_path, description):
    run = tmp_path / "run"
    with start(run, description):
        (run / "wandb" / "run-1").mkdir(parents=True)
        (run / "wandb" / "latest-run").symlink_to("run-1")
    with start(run, description):
        pass


def test_a_history_has_only_complete_events(tmp_path, description):
    with start(tmp_path / "run", description):
        pass
    add_end(tmp_path / "run", "stopped", reason="SIGTERM", step=7)
    with (tmp_path / "run" / HISTORY).open("a") as file:
        file.write('{"event": "end", "time": "20\n')
    assert [event.get("step") for event in read_history(tmp_path / "run")] == [None, 7]
    for line in ('{"event": "pause"}', '{"event": "start", "time": 3}', "[]", '"text" }'):
        with (tmp_path / "run" / HISTORY).open("a") as file:
            file.write(line + "\n")
        with pytest.raises(RunError, match=r"history\.jsonl:4: .*; expected a start or an end"):
            read_history(tmp_path / "run")
        (tmp_path / "run" / HISTORY).write_text(
            "".join((tmp_path / "run" / HISTORY).read_text().splitlines(keepends=True)[:3])
        )
