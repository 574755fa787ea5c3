"""Processes divide work by claims, add to shared counts, and learn of each other's failures."""

import datetime as dt
import os
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.distributed import HashStore

from pipeline.runtime import distributed
from pipeline.runtime.distributed import World, _agreed_round, joined, release_locals
from storage.errors import ConfigError, RunError


def worlds(size: int) -> list[World]:
    store = HashStore()
    return [World(rank=rank, size=size, store=store) for rank in range(size)]


def test_every_number_is_claimed_once_by_any_process():
    group = worlds(4)
    with ThreadPoolExecutor(4) as pool:
        claimed = list(pool.map(lambda number: group[number % 4].claim("shard"), range(200)))
    assert sorted(claimed) == list(range(200))
    assert group[0].claim("something else") == 0
    assert [World().claim("shard") for _ in range(2)] == [0, 0]


def test_what_a_process_posts_can_be_taken_once():
    world = World()
    assert world.take("batch/0") is None
    world.post("batch/0", b"\x00\xff")
    world.post("batch/1", b"")
    assert [world.take("batch/0"), world.take("batch/1"), world.take("batch/0")] == [b"\x00\xff", b"", None]


def test_a_tally_adds_up_over_all_processes():
    group = worlds(3)
    assert [world.tally("positions", 5) for world in group] == [5, 10, 15]
    assert group[0].tally("positions", 0) == 15


def test_the_other_processes_report_the_first_failure():
    group = worlds(3)
    for world in group:
        world.check()
    group[1].failed(ValueError("no room\nmore"))
    group[2].failed(ValueError("a later one"))
    for act in (group[0].check, lambda: group[0].claim("shard"), lambda: group[2].tally("positions", 1)):
        with pytest.raises(RunError, match=r"another process of this run failed: rank 1 on .*: no room$"):
            act()


def test_a_single_process_never_waits_and_never_sees_a_failure():
    world = World()
    world.failed(ValueError("no room"))
    world.check()
    world.barrier()
    assert world.on_main(lambda: 7) == 7


def test_a_restarted_group_agrees_on_a_new_name_although_the_store_has_old_keys(monkeypatch):
    monkeypatch.setattr(distributed, "JOIN_TIMEOUT", dt.timedelta(seconds=20))
    group = worlds(4)
    names = []
    # If there is a rank, the processes from this rank on leave a word, and all processes die before they agree.
    for first_dead in (None, 2, None, 1, None):
        if first_dead is not None:
            for world in group[first_dead:]:
                world.store.set(f"present/{world.rank}", f"a dead process's {world.rank}")
            continue
        with ThreadPoolExecutor(4) as pool:
            found = set(pool.map(lambda world: _agreed_round(world, world.store), reversed(group)))
        assert len(found) == 1
        names += found
    assert len(set(names)) == 3


def test_algorithms_are_deterministic_only_during_training(monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    with joined("cpu", threads=1, deterministic=True):
        assert torch.are_deterministic_algorithms_enabled()
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert not torch.are_deterministic_algorithms_enabled()
    assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with joined("cpu", threads=1):
        assert not torch.are_deterministic_algorithms_enabled()
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(ConfigError, match="CUBLAS_WORKSPACE_CONFIG is :0:0, expected :4096:8 or :16:8"):
        joined("cpu", threads=1, deterministic=True).__enter__()


@pytest.mark.parametrize("given", [None, "7"])
def test_onednn_keeps_few_compiled_operations_unless_the_user_says_otherwise(monkeypatch, given):
    name = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
    monkeypatch.setenv(name, given or "")
    if given is None:
        monkeypatch.delenv(name)
    with joined("cpu", threads=1):
        assert os.environ[name] == (given or "32")


def test_subnormal_numbers_are_zero_while_a_command_computes_also_in_new_threads():
    subnormal = torch.full((8,), 1e-39)
    assert (subnormal * 0.5).count_nonzero() == 8
    with joined("cpu", threads=1), ThreadPoolExecutor(1) as pool:
        assert (subnormal * 0.5).count_nonzero() == 0
        assert pool.submit(torch.mul, subnormal, 0.5).result().count_nonzero() == 0
    assert (subnormal * 0.5).count_nonzero() == 8


def test_local_variables_of_an_error_are_released_before_the_processes_disconnect():
    class Held:
        pass

    gone = []

    def fail(cause: bool) -> None:
        held = Held()
        gone.append(weakref.ref(held))
        if cause:
            raise ValueError("first")
        try:
            fail(cause=True)
        except ValueError as error:
            raise SystemExit(143) from error

    with pytest.raises(SystemExit) as caught:
        fail(cause=False)
    assert [held() is None for held in gone] == [False, False]
    release_locals(caught.value)
    assert [held() is None for held in gone] == [True, True]


TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"} | {
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE is 4, but these are not set: RANK, LOCAL_RANK"),
        ({"RANK": "1"}, "RANK is 1, but these are not set: WORLD_SIZE, LOCAL_RANK"),
        ({**TORCHRUN, "MASTER_PORT": "here"}, "MASTER_PORT is 'here', expected a number"),
        ({**TORCHRUN, "WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', expected a number"),
        ({**TORCHRUN, "RANK": "2"}, "RANK is 2 of WORLD_SIZE 2"),
        ({"SLURM_STEP_NUM_TASKS": "8", "SLURM_PROCID": "3"}, "srun started 8 processes"),
        ({"SLURM_STEP_NUM_TASKS": "8", "MASTER_ADDR": "node1", "MASTER_PORT": "29500"}, "srun started 8 processes"),
    ],
)
def test_processes_that_cannot_find_each_other_are_refused_in_one_line(monkeypatch, variables, message):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=message) as raised, joined("cpu", threads=1):
        pass
    assert "torchrun" in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "variables", [{}, {"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "8"}, {"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}]
)
def test_one_process_alone_needs_no_variables(monkeypatch, variables):
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with joined("cpu", threads=1) as (world, _):
        assert (world.rank, world.size) == (0, 1)
