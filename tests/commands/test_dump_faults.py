"""Test faults while a dump is written: only unfinished shards are computed again, and the error appears at once.

`make soak` runs these tests for longer.
"""

import json
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.processes import ROOT, finish, refused, run_cli, start_cli, store_digest, wait_until

OPTIONS = ["--k", 16, "--temperatures", "1,2", "--shard-positions", 384, "--batch-tokens", 512, "--device", "cpu"]
pytestmark = [pytest.mark.processes, pytest.mark.faults]


def dump_arguments(world: Path, out: Path) -> list[object]:
    return ["dump-teacher", "--data", world / "dataset", "--teacher", world / "teacher", "--out", out, *OPTIONS]


@pytest.fixture(scope="module")
def expected(small_world: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("dump") / "dump"
    run_cli(*dump_arguments(small_world, out))
    assert len(list((out / "ids" / "c").iterdir())) >= 16
    return store_digest(out)


def wait_for_shards(out: Path, number: int, processes: list[subprocess.Popen[str]]) -> None:
    wait_until(lambda: len(list(out.glob("finished/*.json"))) >= number, processes)


def test_a_dump_killed_at_any_instant_in_any_number_of_processes_ends_byte_identical(
    small_world: Path, tmp_path: Path, expected: str, soak_factor: int
) -> None:
    num_kills = 12 if soak_factor == 1 else 30 * soak_factor
    arguments = [small_world, tmp_path, expected, num_kills, 5]
    done = subprocess.run(
        [sys.executable, "-m", "tests.kill_dumps", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr + (tmp_path / "log").read_text()[-3000:]
    counts = json.loads(done.stdout)
    assert counts["killed"] >= num_kills
    assert counts["sizes_changed"] >= num_kills // 4


def test_a_rank_that_fails_ends_the_others_with_its_error(small_world: Path, tmp_path: Path, expected: str) -> None:
    out = tmp_path / "dump"
    processes = start_cli(*dump_arguments(small_world, out), processes=2)
    wait_for_shards(out, 2, processes)
    resource.prlimit(processes[1].pid, resource.RLIMIT_FSIZE, (1000, 1000))
    start = time.monotonic()
    messages = [process.communicate(timeout=60)[1] for process in processes]
    assert time.monotonic() - start < 20
    assert [process.returncode for process in processes] == [1, 1]
    assert "File too large. Make room" in messages[1].splitlines()[-1]
    last = messages[0].splitlines()[-1]
    assert last.startswith("Error: another process of this run failed: rank 1 on ")
    assert "File too large. Make room" in last
    run_cli(*dump_arguments(small_world, out))
    assert store_digest(out) == expected


def test_no_rank_waits_for_a_rank_that_failed_before_it_joined(small_world: Path, tmp_path: Path) -> None:
    *arguments, _ = dump_arguments(small_world, tmp_path / "dump")
    start = time.monotonic()
    processes = start_cli(*arguments, processes=2, last=("cpu", "cuda"))
    messages = [process.communicate(timeout=120)[1] for process in processes]
    assert time.monotonic() - start < 60
    assert [process.returncode for process in processes] == [1, 1]
    assert "torch sees 0 GPUs" in messages[1].splitlines()[-1]
    assert "torch sees 0 GPUs" in messages[0].splitlines()[-1]


def test_a_slow_rank_does_not_hold_up_the_others(small_world: Path, tmp_path: Path, expected: str) -> None:
    out = tmp_path / "dump"
    processes = start_cli(*dump_arguments(small_world, out), processes=2)
    wait_for_shards(out, 1, processes)
    os.kill(processes[1].pid, signal.SIGSTOP)
    # The stopped rank may have claimed two shards in advance, and be computing a third.
    wait_for_shards(out, 16 - 3, processes)
    os.kill(processes[1].pid, signal.SIGCONT)
    finish(processes)
    assert store_digest(out) == expected


@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_rank_under_torchrun_ends_the_run_within_seconds(
    small_world: Path, tmp_path: Path, expected: str, rank: int
) -> None:
    out = tmp_path / "dump"
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = [str(argument) for argument in dump_arguments(small_world, out)]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen([*launcher, str(ROOT / "cli.py"), *arguments], stdout=log, stderr=log, text=True)
    wait_for_shards(out, 1, [run])
    os.kill(_child_of_rank(run.pid, rank), signal.SIGKILL)
    start = time.monotonic()
    assert run.wait(timeout=60) != 0
    assert time.monotonic() - start < 30
    assert json.loads((out / "manifest.json").read_text())["state"] == "writing"
    run_cli(*dump_arguments(small_world, out))
    assert store_digest(out) == expected


def _child_of_rank(launcher: int, rank: int) -> int:
    for child in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split():
        if f"\0RANK={rank}\0" in Path(f"/proc/{child}/environ").read_text():
            return int(child)
    raise AssertionError("the launcher has no such child")


def test_a_full_disk_gives_one_line_and_the_dump_resumes_when_there_is_room(
    small_world: Path, tmp_path: Path, expected: str
) -> None:
    out = tmp_path / "dump"
    processes = start_cli(*dump_arguments(small_world, out))
    wait_for_shards(out, 3, processes)
    resource.prlimit(processes[0].pid, resource.RLIMIT_FSIZE, (1000, 1000))
    message = processes[0].communicate(timeout=60)[1].splitlines()[-1]
    assert processes[0].returncode == 1
    assert message.startswith(f"Error: {out}/")
    assert "cannot be written: File too large. Make room" in message
    finished = len(list(out.glob("finished/*.json")))
    assert finished >= 3
    assert not list(out.rglob("*.partial"))
    assert f"{finished} of " in run_cli("verify", out, fails=True).stderr
    run_cli(*dump_arguments(small_world, out))
    assert store_digest(out) == expected


def test_a_second_writer_and_every_reader_are_refused_while_a_dump_is_written(
    small_world: Path, tmp_path: Path, expected: str
) -> None:
    out = tmp_path / "dump"
    processes = start_cli(*dump_arguments(small_world, out))
    wait_for_shards(out, 1, processes)
    os.kill(processes[0].pid, signal.SIGSTOP)
    try:
        assert "another process is writing it" in refused(*dump_arguments(small_world, out))
        student = ["train-student", "--data", small_world / "dataset", "--dump", out, "--out", tmp_path / "student"]
        for arguments in (student, ["verify", out]):
            assert "state is writing, expected complete" in refused(*arguments)
        assert json.loads(run_cli("inspect", out, "--json").stdout)["state"] == "writing"
    finally:
        os.kill(processes[0].pid, signal.SIGCONT)
    finish(processes)
    assert store_digest(out) == expected
