"""Kill dumps at random instants and finish them; run by test_dump_faults in a process of its own, since it forks.

    python -m tests.kill_dumps SMALL_WORLD FOLDER REFERENCE_DIGEST NUM_KILLS SEED

Everything is imported once; each attempt forks 1 to 3 processes that join each other as under torchrun, and kills them
all at a random instant. A dump that survives is compared with the reference and a new one is begun. Prints one line of
JSON.
"""

import json
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

from pipeline.dump_config import DumpConfig
from teacher.dump import dump_teacher
from tests.processes import store_digest

CONFIG = DumpConfig(k=16, temperatures=(1.0, 2.0), shard_positions=384, batch_tokens=512, device="cpu")


def main() -> None:
    """Kill so many dumps, and finish the last one."""
    world, folder, expected = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    num_kills, generator = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    out = folder / "dump"
    start = time.monotonic()
    attempt(world, out, 2, patience_s=None)
    whole_s = time.monotonic() - start
    killed = finished = resumed_under_another_size = 0
    last_size = 2
    while True:
        if store_digest(out) == expected:
            finished += 1
            shutil.rmtree(out)
        size = generator.choice([1, 2, 2, 3])
        last = killed >= num_kills
        died = attempt(world, out, size, patience_s=None if last else generator.uniform(0, whole_s))
        if last:
            break
        killed += died
        resumed_under_another_size += died and size != last_size
        last_size = size
    assert store_digest(out) == expected, "the last dump differs"
    print(json.dumps({"killed": killed, "finished": finished + 1, "sizes_changed": resumed_under_another_size}))


def attempt(world: Path, out: Path, size: int, *, patience_s: float | None) -> bool:
    """Dump with so many processes; return whether they were killed before the end."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    children = [fork_rank(world, out, rank, size, port) for rank in range(size)]
    deadline = None if patience_s is None else time.monotonic() + patience_s
    left = set(children)
    while left and (deadline is None or time.monotonic() < deadline):
        for child in list(left):
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                assert os.waitstatus_to_exitcode(status) == 0, f"a process failed; see {out.parent / 'log'}"
                left.remove(child)
        time.sleep(0.001)
    for child in left:
        os.kill(child, signal.SIGKILL)
    for child in left:
        os.waitpid(child, 0)
    return bool(left)


def fork_rank(world: Path, out: Path, rank: int, size: int, port: int) -> int:
    """Start one process of a dump."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        log = os.open(out.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if size > 1:
            os.environ |= {
                "RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": str(size),
                "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        dump_teacher(world / "dataset", world / "teacher", out, CONFIG)
        status = 0
    finally:
        os._exit(status)


if __name__ == "__main__":
    main()
