"""Processes and devices: the only reader of torchrun's variables, and the only place that says "cuda".

Everything else takes a ``World``; without torchrun it is the one of size 1 and nothing is initialised.
"""

import contextlib
import datetime as dt
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed
from torch import Tensor

from storage.errors import ConfigError

Result = TypeVar("Result")

COLLECTIVE_TIMEOUT = dt.timedelta(hours=12)
"""The last barrier of a dump waits for the slowest rank; torchrun ends the others when one dies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """Who this process is among those of the run."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

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
        on_gpu = torch.distributed.get_backend() == "nccl"
        succeeded = torch.zeros(1, device="cuda" if on_gpu else "cpu")
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

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            torch.distributed.barrier()

    def broadcast(self, tensor: Tensor) -> None:
        """Overwrite ``tensor`` with the main rank's; every rank must call it."""
        if self.size > 1:
            torch.distributed.broadcast(tensor, src=0)

    def sum(self, tensor: Tensor) -> Tensor:
        """Return ``tensor`` summed over all ranks, in place; every rank must call it."""
        if self.size > 1:
            torch.distributed.all_reduce(tensor)
        return tensor


@contextlib.contextmanager
def joined(device: str, *, threads: int) -> Iterator[tuple[World, torch.device]]:
    """Join the processes torchrun started, if any, and leave them at the end.

    Args:
        device: ``auto``, ``cpu`` or ``cuda``.
        threads: CPU threads of this process; 0 shares the machine's cores out.

    Raises:
        ConfigError: If a GPU is asked for and there is none.
    """
    world = World(
        rank=int(os.environ.get("RANK", "0")),
        size=int(os.environ.get("WORLD_SIZE", "1")),
        local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        local_size=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
    )
    if not world.is_main:
        logging.getLogger().setLevel(logging.WARNING)
    num_gpus = torch.cuda.device_count()
    on_gpu = device == "cuda" or (device == "auto" and num_gpus > 0)
    if on_gpu and num_gpus < world.local_size:
        raise ConfigError(
            f"--device is {device}: {world.local_size} processes on this machine, but torch sees {num_gpus} GPUs; "
            "start a process a GPU, or use --device cpu"
        )
    chosen = torch.device("cuda", world.local_rank) if on_gpu else torch.device("cpu")
    if on_gpu:
        torch.cuda.set_device(chosen)
    torch.set_num_threads(threads or max(1, len(os.sched_getaffinity(0)) // world.local_size))
    if world.size == 1:
        yield world, chosen
        return
    torch.distributed.init_process_group("nccl" if on_gpu else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        yield world, chosen
    finally:
        torch.distributed.destroy_process_group()


def device_model(device: torch.device) -> str:
    """Return the name of what computes, for records of what can change bits: ``cpu x86_64`` or the GPU's name."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu {os.uname().machine} {torch.backends.cpu.get_cpu_capability()}"
