"""Connect the processes of a run, and choose their devices.

Only this module reads torchrun's environment variables and chooses GPUs. All other code takes a ``World``: the place of
this process among the processes of the run. Without torchrun, the world has size 1.
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
from pipeline.runtime.heartbeat import Heartbeat
from pipeline.runtime.workers import usable_cores
from storage.errors import ConfigError, RunError

Result = TypeVar("Result")

COLLECTIVE_TIMEOUT = dt.timedelta(hours=12)
"""How long a rank may wait for a slower rank. A dead process is noticed at once, because its connections close. A lost
machine is noticed by `pipeline.runtime.heartbeat`."""
JOIN_TIMEOUT = dt.timedelta(minutes=10)
"""How long the first process waits for the last process to join."""
MAX_THREADS = 1024
"""Largest value of ``--threads``. With several thousand threads, the process would end without a message."""
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT", "MASTER_ADDR")
"""Environment variables that torchrun sets in each process."""
_SRUN_TASKS = "SLURM_STEP_NUM_TASKS"
"""Environment variable: the number of processes that srun started. sbatch does not set it."""
_FAILED = "failed"
_FEW_PRIMITIVES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "32")
"""How many compiled operations oneDNN keeps. With bfloat16 on a CPU it compiles each matrix product for its shape, and
almost every batch has new shapes. With its own default of 1,024, a process that trained a student took 8 GB after 2,000
steps; with this number, 2.5 GB after 700."""
_CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
_CUBLAS_REPEATING = (":4096:8", ":16:8")
"""Values of ``CUBLAS_WORKSPACE_CONFIG`` under which cuBLAS is deterministic."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """The rank of this process, the number of processes in the run, and the means by which they communicate."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Store = field(default_factory=HashStore, repr=False, compare=False)
    """A key-value store for small values. The processes share the store of torchrun."""

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0. Only rank 0 prints, writes run files, and logs messages below WARNING."""
        return self.rank == 0

    def on_main(self, action: Callable[[], Result]) -> Result | None:
        """Run ``action`` on the main rank while the other ranks wait. Every rank must call this.

        If the action fails, the main rank raises the error. The other ranks end at once, without a message.

        Returns:
            The result of the action on the main rank, None on the other ranks.
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
        """Refuse to do ``what`` in more than one process. Every rank must call this.

        Raises:
            ConfigError: On the main rank. The other ranks end without a message.
        """

        def refuse() -> None:
            raise ConfigError(f"{what}: started in {self.size} processes, expected 1. Start it without torchrun")

        if self.size > 1:
            self.on_main(refuse)

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.sum(torch.zeros(1))

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite ``tensor`` with the tensor of the main rank. Every rank must call this."""
        if self.size > 1:
            with self._reporting_dead_processes():
                torch.distributed.broadcast(tensor, src=0)

    def share(self, data: bytes) -> bytes:
        """Return the main rank's ``data`` on every rank. Every rank must call this."""
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
        """Return ``[size, ...]``: the ``tensor`` of each rank. Every rank must call this."""
        every = tensor.new_zeros(self.size, *tensor.shape)
        every[self.rank] = tensor
        return self.sum(every)

    def claim(self, what: str) -> int:
        """Return 0 at the first call, 1 at the second call, and so on.

        The calls of all processes are counted together, so no two calls return the same number. Each ``what``, such as
        ``shard``, has a count of its own.

        Raises:
            RunError: If another process has failed.
        """
        return self.tally(f"claim/{what}", 1) - 1

    def tally(self, what: str, number: int) -> int:
        """Add ``number`` to a count that all processes share, and return the total.

        Raises:
            RunError: If another process has failed.
        """
        self.check()
        with self._reporting_dead_processes():
            return int(self.store.add(f"tally/{what}", number))

    def post(self, key: str, data: bytes) -> None:
        """Keep ``data`` under a key until a process takes it.

        Raises:
            RunError: If another process has failed.
        """
        self.check()
        with self._reporting_dead_processes():
            self.store.set(f"post/{key}", data)  # type: ignore[arg-type]  # torch also takes bytes

    def take(self, key: str) -> bytes | None:
        """Return what a process posted under a key, and forget it; None if nothing was posted yet.

        Raises:
            RunError: If another process has failed.
        """
        self.check()
        with self._reporting_dead_processes():
            if not self.store.check([f"post/{key}"]):
                return None
            data = self.store.get(f"post/{key}")
            self.store.delete_key(f"post/{key}")
            return data

    def check(self) -> None:
        """Raise an error if another process has failed. The check takes 0.1 ms.

        Raises:
            RunError: With the error of that process.
        """
        if self.size > 1:
            with self._reporting_dead_processes():
                if self.store.check([_FAILED]):
                    raise RunError(self._failure_message())

    def failed(self, error: BaseException) -> None:
        """Tell the other processes why this process ends."""
        first_line = next(iter(str(error).splitlines()), type(error).__name__)
        with contextlib.suppress(RuntimeError):  # the user must see the first error
            self.store.compare_set(_FAILED, "", f"rank {self.rank} on {socket.gethostname()}: {first_line}")

    def sum(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` summed over all ranks, in place. Every rank must call this."""
        if self.size > 1:
            with self._reporting_dead_processes():
                torch.distributed.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether ``flag`` is set on any rank. Every rank must call this. The exchange uses no GPU."""
        return bool(self.sum(torch.tensor([float(flag)])) > 0)

    @contextlib.contextmanager
    def reducing_gradients(self) -> Iterator[None]:
        """Raise a one-line error if another rank dies during a backward pass in the ``with`` block.

        In the backward pass, ``DistributedDataParallel`` communicates with the other ranks.

        Raises:
            RunError: If one of these ranks died or failed. Other errors are not changed.
        """
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, torch.distributed.DistError) or "gloo" in str(error):
                with self._reporting_dead_processes():
                    raise
            raise

    @contextlib.contextmanager
    def _reporting_dead_processes(self) -> Iterator[None]:
        """Turn a broken connection, which is the only sign that another process died, into a one-line error."""
        try:
            yield
        except RuntimeError as error:
            try:
                message = self._failure_message() if self.store.check([_FAILED]) else None
            except RuntimeError:
                message = None  # the process that died held the store
            lost = f"another process of this run ended ({str(error).splitlines()[0]}). See its own output"
            raise RunError(message or lost) from error

    def _failure_message(self) -> str:
        return f"another process of this run failed: {self.store.get(_FAILED).decode()}"


@contextlib.contextmanager
def joined(device: str, *, threads: int, deterministic: bool = False) -> Iterator[tuple[World, torch.device]]:
    """Connect to the processes that torchrun started, if any, and disconnect at the end of the ``with`` block.

    Inside the block, the CPU computes as `subnormals_as_zero` describes.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads of this process; 0 divides the machine's cores among its processes.
        deterministic: Whether torch must use deterministic algorithms inside the ``with`` block.

    Raises:
        ConfigError: If GPUs are to be used and this machine has fewer GPUs than processes, or if ``deterministic`` is
            true and torch cannot be deterministic here; see `_deterministic`.
    """
    os.environ.setdefault(*_FEW_PRIMITIVES)
    algorithms = _deterministic() if deterministic else contextlib.nullcontext()
    with subnormals_as_zero(), algorithms, _connected(device, threads) as here:
        yield here


@contextlib.contextmanager
def subnormals_as_zero() -> Iterator[None]:
    """Make the CPU treat subnormal numbers, such as a float32 below 1.2e-38, as 0 inside the ``with`` block.

    CPUs compute many times more slowly with subnormal numbers than with others, and gradients that pass through closed
    gates become so small (docs/decisions/0016). The mode holds for this thread and for threads that it starts, also for
    numpy and Python's own floats. A CPU without this mode computes as before.
    """
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


@contextlib.contextmanager
def _deterministic() -> Iterator[None]:
    """Make torch use deterministic algorithms. An operation without a deterministic algorithm raises an error.

    Raises:
        ConfigError: If ``CUBLAS_WORKSPACE_CONFIG`` has a value under which cuBLAS is not deterministic, or this process
            used a GPU before the variable was set.
    """
    found = os.environ.get(_CUBLAS)
    if found not in {None, *_CUBLAS_REPEATING}:
        expected = " or ".join(_CUBLAS_REPEATING)
        raise ConfigError(f"--deterministic: {_CUBLAS} is {found}, expected {expected}, or not set. Unset it")
    if found is None and torch.cuda.is_initialized():
        raise ConfigError(
            f"--deterministic: this process already uses a GPU without {_CUBLAS}. Set {_CUBLAS} to "
            f"{_CUBLAS_REPEATING[0]} first, or train in a new process"
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
    """Connect to the other processes, and choose the device of this process; see `joined`."""
    world = _started_world()
    if not world.is_main:
        set_log_level(logging.WARNING)
    if world.size == 1:
        yield world, _chosen_device(device, world, threads)
        return
    shared, _, _ = next(rendezvous("env://", timeout=JOIN_TIMEOUT))
    with world._reporting_dead_processes():  # noqa: SLF001  the class is in this module
        store = PrefixStore(_agreed_round(world, shared), shared)
    world = dataclasses.replace(world, store=PrefixStore("run", store))
    try:
        chosen = _chosen_device(device, world, threads)
        heartbeat = Heartbeat(store, rank=world.rank, size=world.size)
        _wait_for_all(world)
        # CPU tensors always go through gloo. They are small, and gloo notices a dead process.
        torch.distributed.init_process_group(
            "gloo" if chosen.type == "cpu" else "cpu:gloo,cuda:nccl",
            store=PrefixStore("group", store),
            rank=world.rank,
            world_size=world.size,
            timeout=COLLECTIVE_TIMEOUT,
        )
        try:
            with heartbeat:
                yield world, chosen
        except BaseException as error:
            if isinstance(error, Exception):
                world.failed(error)  # before the connections close, so that the other processes find this error
            release_locals(error)
            raise
        finally:
            gc.collect()  # deletes a DistributedDataParallel, which is part of a reference cycle
            torch.distributed.destroy_process_group()
    except Exception as error:
        world.failed(error)
        raise


def _started_world() -> World:
    """Return this process's place among the processes of the run, without a connection to them.

    Raises:
        ConfigError: If the variables that torchrun sets are incomplete or contradict each other, or if srun started
            several processes that do not know of each other.
    """
    found = {name: os.environ[name] for name in _TORCHRUN if name in os.environ}
    if found.get("RANK", "0") == "0" and found.get("WORLD_SIZE", "1") == "1":
        tasks = os.environ.get(_SRUN_TASKS, "1")
        if tasks != "1" and "WORLD_SIZE" not in found:
            raise ConfigError(
                f"srun started {tasks} processes ({_SRUN_TASKS}), and each would do the whole work. Start one "
                "torchrun per node, as examples/multi_node.sbatch does. For separate runs, set WORLD_SIZE=1"
            )
        return World()
    if missing := [name for name in _TORCHRUN if name not in found]:
        given = ", ".join(f"{name} is {value}" for name, value in found.items())
        raise ConfigError(
            f"{given}, but these are not set: {', '.join(missing)}. Start several processes with torchrun, which sets "
            f"all of them. For one process, unset {', '.join(found)}"
        )
    numbers = {name: found[name] for name in _TORCHRUN if name != "MASTER_ADDR"}
    if wrong := [f"{name} is {value!r}" for name, value in numbers.items() if not value.isdecimal()]:
        raise ConfigError(f"{', '.join(wrong)}, expected a number. Start the command with torchrun")
    rank, size, local_rank, local_size, _ = map(int, numbers.values())
    if rank >= size or local_rank >= local_size or local_size > size:
        raise ConfigError(
            f"RANK is {rank} of WORLD_SIZE {size}, LOCAL_RANK is {local_rank} of LOCAL_WORLD_SIZE {local_size}, "
            "expected each rank to be less than its size. Start the command with torchrun"
        )
    return World(rank=rank, size=size, local_rank=local_rank, local_size=local_size)


def release_locals(error: BaseException) -> None:
    """Release the local variables of all functions that an error passed through.

    One of these variables may be a ``DistributedDataParallel``. If this object outlives its process group, deleting the
    object stops the group's threads while the interpreter lock is held. If one of these threads is waiting for the
    lock, the process hangs.
    """
    seen: list[BaseException] = []
    coming: list[BaseException | None] = [error]
    while coming:
        current = coming.pop()
        if current is not None and current not in seen:
            seen.append(current)
            coming += [current.__cause__, current.__context__]
            traceback.clear_frames(current.__traceback__)


def _chosen_device(device: str, world: World, threads: int) -> torch.device:
    """Set the number of threads, and return the device of this process.

    Raises:
        ConfigError: If ``threads`` is below 0 or above `MAX_THREADS`.
    """
    if not 0 <= threads <= MAX_THREADS:
        raise ConfigError(
            f"--threads is {threads}, expected 0 to {MAX_THREADS}. With 0, the processes of a machine share its cores"
        )
    torch.set_num_threads(threads or max(1, usable_cores() // world.local_size))
    chosen = worker_devices(device, world.local_size)[world.local_rank]
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def _agreed_round(world: World, shared: Store) -> str:
    """Return a key prefix that all processes of the run share, and that no earlier start of the run has used.

    When torchrun restarts all processes, its store still has the keys of the earlier start. The prefix cannot be the
    count of restarts that torchrun keeps, because this count differs between machines. So each process stores a random
    string under its rank, and rank 0 publishes the list of these strings. The string of rank 0 is the prefix.

    Some of the strings that rank 0 reads may still be from the earlier start. So whenever a string changes, rank 0
    publishes the whole list again, until every process has found its own string in it.

    Raises:
        RunError: If a process did not join within `JOIN_TIMEOUT`.
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
    """Wait until every process is ready.

    Raises:
        RunError: If a process failed, or did not join within `JOIN_TIMEOUT`.
    """
    deadline = time.monotonic() + JOIN_TIMEOUT.total_seconds()
    number = world.tally("joined", 1)
    while number < world.size:
        _wait_until(deadline, world, number)
        number = world.tally("joined", 0)


def _wait_until(deadline: float, world: World, number: int) -> None:
    """Wait a moment for the processes that have not joined yet. ``number`` processes have joined."""
    if time.monotonic() > deadline:
        raise RunError(f"{number} of {world.size} processes joined within {JOIN_TIMEOUT}. See the output of the others")
    time.sleep(0.05)


def worker_devices(device: str, num_workers: int) -> list[torch.device]:
    """Return the device of each of ``num_workers`` processes of this machine: one GPU each, or the CPUs.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        num_workers: At least 1.

    Raises:
        ConfigError: If there are too few GPUs.
    """
    num_gpus = torch.cuda.device_count()
    if device == "cpu" or (device == "auto" and not num_gpus):
        return [torch.device("cpu")] * num_workers
    if num_gpus < num_workers:
        raise ConfigError(
            f"--device is {device}: {num_workers} processes on this machine, but torch sees {num_gpus} GPUs. Start one "
            "process per GPU, or use --device cpu"
        )
    return [torch.device("cuda", number) for number in range(num_workers)]


def on_device(array: np.ndarray, device: torch.device) -> Tensor:
    """Return an array as a tensor on ``device``, without waiting for the device to finish earlier work.

    A copy from memory that is not page-locked would wait.
    """
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def check_fits(num_weights: int, device: torch.device) -> None:
    """Check that a model fits into memory for training, before it is made.

    Training holds four float32 numbers per weight: the weight, its gradient and the two moments of AdamW.

    Raises:
        ConfigError: If the model does not fit.
    """
    needed, free = 16 * num_weights, available_bytes(device)
    if needed > free:
        raise ConfigError(
            f"a model of these sizes has {num_weights:,} weights, and its training needs {needed / 1e9:,.1f} GB, but "
            f"{free / 1e9:,.1f} GB are free. Give smaller sizes"
        )


def available_bytes(device: torch.device) -> int:
    """Return the free memory of ``device`` in bytes. If it is unknown, return all memory of the machine."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        sizes = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
        return int(sizes["MemAvailable"].split()[0]) * 1024  # includes what the page cache can give back
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def peak_gpu_bytes(device: torch.device) -> int | None:
    """Return the largest number of bytes that this process has used on a GPU so far; None if the device is no GPU."""
    return torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None


def wait_for(device: torch.device) -> None:
    """Wait until a GPU has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def device_model(device: torch.device) -> str:
    """Return the kind of a device: ``cpu x86_64 …`` or a GPU's name. Different kinds may round differently."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {os.uname().machine} {torch.backends.cpu.get_cpu_capability()}"
