"""Processes and devices: the only reader of torchrun's variables, and the only place that says "cuda".

Everything else takes a ``World``; without torchrun it is the one of size 1 and nothing is initialised.
"""

import contextlib
import dataclasses
import datetime as dt
import gc
import logging
import os
import secrets
import socket
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import torch.distributed
from torch import Tensor
from torch.distributed import HashStore, PrefixStore, Store, rendezvous  # type: ignore[attr-defined]

from pipeline.runtime.display import set_log_level
from pipeline.runtime.workers import usable_cores
from storage.errors import ConfigError, RunError

Result = TypeVar("Result")

COLLECTIVE_TIMEOUT = dt.timedelta(hours=12)
"""How long a rank may wait for a slower one. One that has died is noticed at once: its connections close."""
JOIN_TIMEOUT = dt.timedelta(minutes=10)
"""How long the first process waits for the last to come."""
_FAILED = "failed"
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_REPEATING = (":4096:8", ":16:8")
"""Settings of it under which cuBLAS gives the same bits again."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Who this process is among those of the run, and what it shares with them."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store = field(default_factory=HashStore, repr=False, compare=False)
    """Small values that all processes see: torchrun's own store, or this process's."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which alone prints, logs and writes run files."""
        return self.rank == 0

    def on_main(self, action: Callable[[], Result]) -> Result | None:
        """Run ``action`` on the main rank while the others wait; every rank must call it.

        If it fails, the main rank raises its error and the others end at once, quietly.

        Returns:
            What it returned on the main rank, None on the others.
        """
        if self.size == 1:
            return action()
        succeeded = torch.zeros(1)
        result = None
        try:
            if self.is_main:
                result = action()
                succeeded += 1
        finally:
            self.broadcast(succeeded)
        if not succeeded:
            raise SystemExit(1)
        return result

    def refuse_several(self, what: str) -> None:
        """Refuse to do ``what`` in more than one process; every rank must call it.

        Raises:
            ConfigError: On the main rank; the others end quietly.
        """

        def refuse() -> None:
            raise ConfigError(f"{what}: started in {self.size} processes, expected 1. Start it without torchrun")

        if self.size > 1:
            self.on_main(refuse)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum(torch.zeros(1))

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite ``tensor`` with the main rank's; every rank must call it."""
        if self.size > 1:
            with self._noticing_the_dead():
                torch.distributed.broadcast(tensor, src=0)

    def share(self, data: bytes) -> bytes:
        """Return the main rank's bytes on every rank; every rank must call it. What others bring is not looked at."""
        if self.size == 1:
            return data
        size_bytes = torch.tensor([len(data)])
        self.broadcast(size_bytes)
        if self.is_main:
            buffer = torch.frombuffer(bytearray(data) or bytearray(1), dtype=torch.uint8)[: len(data)]
        else:
            buffer = torch.empty(int(size_bytes), dtype=torch.uint8)
        self.broadcast(buffer)
        return buffer.numpy().tobytes()

    def gather(self, tensor: Tensor) -> Tensor:
        """Return ``[size, ...]``: the ``tensor`` of each rank; every rank must call it."""
        every = tensor.new_zeros(self.size, *tensor.shape)
        every[self.rank] = tensor
        return self.sum(every)

    def claim(self, what: str) -> int:
        """Return 0, 1, 2, …: each number goes to one process only, whichever asks first.

        Raises:
            RunError: If another process has failed.
        """
        self.check()
        with self._noticing_the_dead():
            return int(self.store.add(f"claim/{what}", 1)) - 1

    def tally(self, what: str, number: int) -> int:
        """Add to a count that all processes share; return the total so far.

        Raises:
            RunError: If another process has failed.
        """
        self.check()
        with self._noticing_the_dead():
            return int(self.store.add(f"tally/{what}", number))

    def check(self) -> None:
        """Stop if another process has failed, instead of working on for nothing; costs a tenth of a millisecond.

        Raises:
            RunError: With that process's own error.
        """
        if self.size > 1:
            with self._noticing_the_dead():
                if self.store.check([_FAILED]):
                    raise RunError(self._last_words())

    def failed(self, error: BaseException) -> None:
        """Tell the others why this process ends; if they cannot be told, they notice that it is gone."""
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        with contextlib.suppress(RuntimeError):  # the first error is the one to tell
            self.store.compare_set(_FAILED, "", f"rank {self.rank} on {socket.gethostname()}: {first_line}")

    def sum(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` summed over all ranks, in place; every rank must call it."""
        if self.size > 1:
            with self._noticing_the_dead():
                torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set on any rank; every rank must call it. Goes through CPUs alone."""
        return bool(self.sum(torch.tensor([float(flag)])) > 0)

    @contextlib.contextmanager
    def reducing_gradients(self) -> Iterator[None]:
        """Surround a backward pass in which ``DistributedDataParallel`` talks to the other ranks.

        Raises:
            RunError: If one of them died or failed. Other errors of the pass stay what they are.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
                with self._noticing_the_dead():
                    raise
            raise

    @contextlib.contextmanager
    def _noticing_the_dead(self) -> Iterator[None]:
        """Turn a broken connection, which is all that is left of a process that died, into an error of one line."""
        try:
            yield
        except RuntimeError as error:
            try:
                message = self._last_words() if self.store.check([_FAILED]) else None
            except RuntimeError:
                message = None  # the process that held the store is the one that died
            lost = f"another process of this run ended ({str(error).splitlines()[0]}); see its own output"
            raise RunError(message or lost) from error

    def _last_words(self) -> str:
        return f"another process of this run failed: {self.store.get(_FAILED).decode()}"


@contextlib.contextmanager
def joined(device: str, *, threads: int, deterministic: bool = False) -> Iterator[tuple[World, torch.device]]:
    """Join the processes torchrun started, if any, and leave them at the end.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads of this process; 0 shares the machine's cores out.
        deterministic: Whether torch may use only algorithms that give the same bits again, until the end.

    Raises:
        ConfigError: If a GPU is asked for and there is none, or it cannot be made deterministic any more.
    """
    with _deterministic() if deterministic else contextlib.nullcontext(), _connected(device, threads) as here:
        yield here


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Let torch use only algorithms that give the same bits again; it raises an error where there is none.

    Raises:
        ConfigError: If cuBLAS is set up otherwise, or a GPU is in use already without its being set up.
    """
    found = os.environ.get(_CUBLAS)
    if found not in {None, *_CUBLAS_REPEATING}:
        expected = " or ".join(_CUBLAS_REPEATING)
        raise ConfigError(f"--deterministic: {_CUBLAS} is {found}, expected {expected}, or not set; unset it")
    if found is None and torch.cuda.is_initialized():
        raise ConfigError(
            f"--deterministic: this process uses a GPU already, with {_CUBLAS} not set; set it to "
            f"{_CUBLAS_REPEATING[0]} before, or train in a new process"
        )
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    os.environ.setdefault(_CUBLAS, _CUBLAS_REPEATING[0])
    torch.use_deterministic_algorithms(mode=True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        if found is None:
            del os.environ[_CUBLAS]


@contextlib.contextmanager
def _connected(device: str, threads: int) -> Iterator[tuple[World, torch.device]]:
    """Find the other processes, and where this one computes; see `joined`."""
    world = World(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    if not world.is_main:
        set_log_level(logging.WARNING)
    if world.size == 1:
        yield world, _chosen_device(device, world, threads)
        return
    shared, _, _ = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
    with world._noticing_the_dead():  # noqa: SLF001  as World itself would, were there a store of its own yet
        store = PrefixStore(_agreed_round(world, shared), shared)
    world = dataclasses.replace(world, store=PrefixStore("run", store))
    try:
        chosen = _chosen_device(device, world, threads)
        _wait_for_all(world)
        # Tensors of the CPU go through gloo in any case: what the ranks agree on is small, and gloo notices the dead.
        torch.distributed.init_process_group(
            "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=PrefixStore("group", store),
            rank=world.rank,
            world_size=world.size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        try:
            yield world, chosen
        except BaseException as error:
            if isinstance(error, Exception):
                world.failed(error)  # before the connections close, by which the others notice
            release_locals(error)
            raise
        finally:
            gc.collect()  # a DistributedDataParallel is in a circle of references
            torch.distributed.destroy_process_group()
    except Exception as error:
        world.failed(error)
        raise


def release_locals(error: BaseException) -> None:
    """Let go of what the functions that an error has left still hold.

    If a ``DistributedDataParallel`` among that outlives its process group, it ends the group's threads while it holds
    the interpreter's lock, which one of them may be waiting for: the process would never end.
    """
    seen: list[BaseException] = []
    coming: list[BaseException | None] = [error]
    while coming:
        one = coming.pop()
        if one is not None and one not in seen:
            seen.append(one)
            coming += [one.__cause__, one.__context__]
            traceback.clear_frames(one.__traceback__)


def _chosen_device(device: str, world: World, threads: int) -> torch.device:
    """Return where this process computes, with as many threads."""
    torch.set_num_threads(threads or max(1, usable_cores() // world.local_size))
    num_gpus = torch.cuda.device_count()
    on_gpu = device == "cuda" or (device == "auto" and num_gpus > 0)
    if not on_gpu:
        return torch.device("cpu")
    if num_gpus < world.local_size:
        raise ConfigError(
            f"--device is {device}: {world.local_size} processes on this machine, but torch sees {num_gpus} GPUs; "
            "start a process a GPU, or use --device cpu"
        )
    chosen = torch.device("cuda", world.local_rank)
    torch.cuda.set_device(chosen)
    return chosen


def _agreed_round(world: World, shared: Store) -> str:
    """Return a name that just the processes of this start of the group share, to put before their keys.

    When torchrun restarts a group, its store still has the keys of those before. Their count of restarts would not do
    as a name: on several machines it differs, as it counts a machine's own failures. So each process leaves a random
    word under its rank, rank 0 publishes the words of all, its own first, until all have found theirs among them.

    Raises:
        RunError: If one did not come within `JOIN_TIMEOUT`.
    """
    deadline = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    ranks = [f"present/{rank}" for rank in range(world.size)]
    mine = secrets.token_hex(8)
    shared.set(ranks[world.rank], mine)
    published: list[str] = []
    number = 1
    while number < world.size:
        if world.is_main and shared.check(ranks):
            present = [word.decode() for word in shared.multi_get(ranks)]
            if present != published:
                shared.set("round", ",".join(present))
                published = present
            number = 1 + shared.add(f"{mine}/found", 0)
        elif not world.is_main and shared.check(["round"]):
            words = shared.get("round").decode().split(",")
            if mine in words:
                shared.add(f"{words[0]}/found", 1)
                return words[0]
        _wait_until(deadline, world, number)
    return mine


def _wait_for_all(world: World) -> None:
    """Wait until every process is ready, or one says that it will not be.

    Raises:
        RunError: If one failed, or did not come within `JOIN_TIMEOUT`.
    """
    deadline = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    number = world.tally("joined", 1)
    while number < world.size:
        _wait_until(deadline, world, number)
        number = world.tally("joined", 0)


def _wait_until(deadline: float, world: World, number: int) -> None:
    """Wait a moment for the processes that are not among the ``number`` yet."""
    if time.monotonic() > deadline:
        raise RunError(
            f"{number} of {world.size} processes came together within {JOIN_TIMEOUT}; see the output of the others"
        )
    time.sleep(0.05)


def worker_devices(device: str, num_workers: int) -> list[torch.device]:
    """Return where each of ``num_workers`` processes of this machine computes: on a GPU of its own, or on CPUs.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: At least 1.

    Raises:
        ConfigError: If there are GPUs, but not enough.
    """
    num_gpus = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not num_gpus):
        return [torch.device("cpu")] * num_workers
    if num_gpus < num_workers:
        raise ConfigError(
            f"--workers {num_workers}: --device is {device}, but torch sees {num_gpus} GPUs; start a process a GPU, or "
            "use --device cpu"
        )
    return [torch.device("cuda", number) for number in range(num_workers)]


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on ``device``, without waiting for what that still has to do.

    To a GPU it goes through page-locked memory: a copy from any other waits for all work before it.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def available_bytes(device: torch.device) -> int:
    """Return how much memory is to be had where ``device`` computes; all there is where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        sizes = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(sizes["MemAvailable"].split()[0]) * 1024  # what the page cache would give back is in it
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def device_model(device: torch.device) -> str:
    """Return the name of what computes, for records of what can change bits: ``cpu x86_64`` or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {os.uname().machine} {torch.backends.cpu.get_cpu_capability()}"
