"""Measure what every ``--plan`` needs: the speed of the disk and the memory of this process.

With ``--plan``, a command measures a small part of its work, and estimates hours, memory and bytes. It removes what it
writes. If it is killed, an object ``plan-….partial`` may stay in an object store. The estimate for several processes
assumes that each has its own cores or GPU and computes as fast as this process. But it assumes that they share the
disk: all together write only as fast as this process alone.
"""

import contextlib
import os
import resource
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from pipeline.runtime.distributed import peak_gpu_bytes
from storage.files import PARTIAL_SUFFIX, cannot_write
from storage.locations import Place, is_url, local_path, open_folder

MEASURE_S = 20.0
"""After this number of seconds, a plan measures no further part of the work."""
_BLOCK_BYTES = 8 << 20
"""Bytes written at a time: about the size of a dump's largest files."""
_MOST_BLOCKS = 8
_WRITE_S = 1.0
"""After this number of seconds, no further block is written."""


def spread(total: int, number: int) -> list[int]:
    """Divide 0 to ``total`` - 1 into ``number`` equal ranges; return the middle of each, without repetitions."""
    return sorted({(2 * part + 1) * total // (2 * number) for part in range(number)}) if total else []


def write_rate(out: Place) -> float:
    """Return how many bytes per second this process writes where ``out`` will be. Every block is forced to the disk.

    Raises:
        StoreError: If nothing can be written there.
    """
    block = secrets.token_bytes(_BLOCK_BYTES)  # a disk that compresses must not look faster than it is
    num_bytes, start = 0, time.perf_counter()
    with _writer(out) as write:
        for _ in range(_MOST_BLOCKS):
            write(block)
            num_bytes += len(block)
            if time.perf_counter() - start > _WRITE_S:
                break
    return num_bytes / (time.perf_counter() - start)


def peak_memory(device: torch.device) -> dict[str, int]:
    """Return the most bytes that this process has used so far: of main memory, and of a GPU if it has one."""
    found = {"memory_bytes": _peak_bytes()}
    if (of_gpu := peak_gpu_bytes(device)) is not None:
        found["gpu_memory_bytes"] = of_gpu
    return found


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # the kernel's other count, ru_maxrss, includes the process that started this one
        lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
        if "VmHWM" in lines:
            return int(lines["VmHWM"].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@contextlib.contextmanager
def _writer(out: Place) -> Iterator[Callable[[bytes], None]]:
    """Provide a function that writes a block durably. Whatever it wrote is removed at the end."""
    if is_url(out):
        folder, name = open_folder(out), f"plan-{secrets.token_hex(8)}{PARTIAL_SUFFIX}"
        try:
            yield lambda block: folder.write(name, block)
        finally:
            folder.remove([name])
        return
    path = local_path(out).absolute()
    nearest = next(folder for folder in (path, *path.parents) if folder.is_dir())
    try:
        with tempfile.TemporaryFile(dir=nearest, buffering=0) as file:

            def write(block: bytes) -> None:
                file.write(block)
                os.fsync(file.fileno())

            yield write
    except OSError as error:
        raise cannot_write(nearest, error) from error
