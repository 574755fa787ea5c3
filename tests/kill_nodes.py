"""Lose one of two nodes at random instants and start both again. test_two_nodes runs this program, because it forks.

    python -m tests.kill_nodes HOW PROCESSES NUM_LOSSES SEED FOLDER WATCHED COMMAND...

A node is an agent of torchrun (torch.distributed.elastic) and PROCESSES workers, which run a command of cli.py. Both
nodes are on this machine and find each other over the loopback interface. Agents and workers are forked, so that only
this program has to import torch. HOW says how a node is lost: ``killed`` (SIGKILL for agent and workers) or ``silent``
(SIGSTOP, so that all connections stay open, as if the network had lost the machine). The other node must then end by
itself and say why. WATCHED shows the progress: a folder that gets files, a file that gets lines, or the URL of a
listing in an object store. At the end both nodes finish the command. The program prints one line of JSON.
"""

import json
import os
import random
import signal
import socket
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

import cli

REASONS = {
    # The second is torchrun's own message, if the lost node held the store of torchrun.
    "killed": ("Error: another process of this run ended", "The connection to the C10d store has failed"),
    "silent": (" has given no sign of life for ",),
}
PATIENCE_S = 90.0
"""The other node must end within this time."""


def main() -> None:
    """Lose a node NUM_LOSSES times, then let both nodes finish."""
    how, processes, num_losses, seed, folder, watched, *command = sys.argv[1:]
    torch.optim.AdamW([torch.zeros(1)])  # imports for seconds; do it here once, not in each child
    generator, log = random.Random(int(seed)), Path(folder) / "log"
    waits = []
    for _ in range(int(num_losses)):
        log.unlink(missing_ok=True)
        enough = _progress(watched) + generator.randint(2, 5)
        nodes = _start(int(processes), log, command)
        while _progress(watched) < enough:
            time.sleep(0.01)
            assert all(map(_is_running, nodes)), f"a node ended too early:\n{log.read_text()[-5000:]}"
        lost = generator.choice(nodes)
        left = nodes[1 - nodes.index(lost)]
        os.killpg(lost, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
        start = time.monotonic()
        if how == "silent":
            # Workers must end by themselves. An agent may wait for the other agent's store until the connection breaks.
            _wait_until(lambda: any(reason in log.read_text() for reason in REASONS[how]), "goes on", log)
            waits.append(time.monotonic() - start)
            os.killpg(lost, signal.SIGKILL)
        _wait_until(lambda: not _is_running(left), "hangs", log)  # noqa: B023
        waits.append(time.monotonic() - start)
        messages = log.read_text()
        assert any(reason in messages for reason in REASONS[how]), f"no reason is given:\n{messages[-5000:]}"
        os.waitpid(lost, 0)
    nodes = _start(int(processes), log, command)
    for node in nodes:
        assert os.waitstatus_to_exitcode(os.waitpid(node, 0)[1]) == 0, f"a node failed:\n{log.read_text()[-5000:]}"
    print(json.dumps({"losses": int(num_losses), "longest_wait_s": max(waits, default=0.0)}))


def _wait_until(condition: Callable[[], bool], otherwise: str, log: Path) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        time.sleep(0.02)
        assert time.monotonic() < deadline, f"the other node {otherwise}:\n{log.read_text()[-5000:]}"


def _progress(watched: str) -> int:
    if watched.startswith("http"):
        try:
            with urllib.request.urlopen(watched, timeout=20) as listing:  # noqa: S310  the test's own server
                count: int = listing.read().count(b"<Key>")
        except urllib.error.HTTPError:
            return 0
        return count
    path = Path(watched)
    if path.is_dir():
        return len(list(path.iterdir()))
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _is_running(node: int) -> bool:
    """Return whether an agent runs. If it has ended, it must have failed."""
    pid, status = os.waitpid(node, os.WNOHANG)
    assert not pid or os.waitstatus_to_exitcode(status) != 0, "a node succeeded without the other"
    return not pid


def _start(processes: int, log: Path, command: list[str]) -> list[int]:
    """Start both nodes; return the ids of their agents, which are also those of their process groups."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return [_fork_node(processes, port, log, command) for _ in range(2)]


def _fork_node(processes: int, port: int, log: Path, command: list[str]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setpgid(0, 0)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        config = LaunchConfig(
            min_nodes=2, max_nodes=2, nproc_per_node=processes, run_id="two-nodes", rdzv_backend="c10d",
            rdzv_endpoint=f"127.0.0.1:{port}", local_addr="127.0.0.1", max_restarts=0, start_method="fork",
            rdzv_configs={"read_timeout": 3},  # by default an agent waits 60 s for a store that does not answer
        )  # fmt: skip
        elastic_launch(config, cli.main.main)(command)
        status = 0
    finally:
        if status:
            traceback.print_exc()
        os._exit(status)


if __name__ == "__main__":
    main()
