"""Start the command line as a user does: in one process, or in several processes that form a group."""

import hashlib
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def store_digest(store: Path) -> str:
    """Return one sha256 over the names and bytes of all files of a store."""
    whole = hashlib.sha256()
    for file in sorted(file for file in store.rglob("*") if file.is_file()):
        whole.update(str(file.relative_to(store)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


def run_cli(*arguments: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one command to its end. Assert that it succeeds (``fails``: fails), and show its output if not."""
    process = start_cli(*arguments)[0]
    out, err = process.communicate(timeout=240)
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert bool(done.returncode) == fails, f"{arguments}: status {done.returncode}\n{out}\n{err}"
    return done


def start_cli(*arguments: object, processes: int = 1, last: Sequence[object] = ()) -> list[subprocess.Popen[str]]:
    """Start a command in ``processes`` processes, as torchrun does. The caller can kill each of them.

    ``last`` gives each process its own last argument.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started = []
    for rank in range(processes):
        environment = {key: value for key, value in os.environ.items() if key not in {"RANK", "WORLD_SIZE"}}
        environment["OMP_NUM_THREADS"] = "1"
        if processes > 1:
            environment |= {
                "RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        command = [sys.executable, str(ROOT / "cli.py"), *map(str, arguments), *map(str, last[rank : rank + 1])]
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    return started


def finish(processes: list[subprocess.Popen[str]]) -> None:
    """Wait for all processes and assert that they succeed."""
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
