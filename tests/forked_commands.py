"""Start commands without the seconds that Python takes to import torch.

A fresh process needs 2.5 s of CPU for torch, and as much again for its first optimiser. So one process imports them
once, and each command is a fork of it that runs ``cli.py`` as Python does. Only libraries are imported before, so that
the fork runs all lines of this program, and ends like any program.

Run as a program, this file is the process that imports and forks. It reads orders from a socket.
"""

import atexit
import contextlib
import functools
import gc
import itertools
import json
import os
import runpy
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_NUMBER = struct.Struct("i")


class ForkedCommand:
    """A command that runs, or has ended, with what tests use of ``subprocess.Popen``."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.args, self.returncode = list(arguments), None
        pipes = [os.pipe() for _ in range(3)]
        self.stdout, self.stderr = (os.fdopen(end) for end, _ in pipes[:2])
        self._status = pipes[2][0]
        order = {"arguments": self.args, "environment": dict(environment), "folder": str(Path.cwd())}
        data, forker = json.dumps(order).encode(), next(_turns())
        socket.send_fds(forker, [_NUMBER.pack(len(data))], [end for _, end in pipes])
        forker.sendall(data)
        for _, end in pipes:
            os.close(end)
        self.pid = self._read_number()

    def _read_number(self) -> int:
        return int(_NUMBER.unpack(os.read(self._status, _NUMBER.size))[0])

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0)
            self.returncode = self._read_number()
            os.close(self._status)
        return self.returncode

    def poll(self) -> int | None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Return what the command printed, after its end."""
        found = {}
        threads = [
            threading.Thread(target=lambda n, stream: found.update({n: stream.read()}), args=(n, stream), daemon=True)
            for n, stream in enumerate((self.stdout, self.stderr))
        ]
        for thread in threads:
            thread.start()
        self.wait(timeout)
        for thread in threads:
            thread.join()
        self.stdout.close()
        self.stderr.close()
        return found[0], found[1]

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@functools.cache
def _turns() -> Iterator[socket.socket]:
    """Yield the sockets of two forking processes in turn.

    Forks of one process share the order of their sets of strings. Runs that are compared must not.
    """
    return itertools.cycle([_start_forker(), _start_forker()])


def _start_forker() -> socket.socket:
    ours, theirs = socket.socketpair()
    command = [sys.executable, __file__, str(theirs.fileno())]
    # Pipes, so that the streams of Python are of the sort that commands get.
    streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    forker = subprocess.Popen(command, pass_fds=[theirs.fileno()], **streams)
    theirs.close()

    def end() -> None:
        ours.shutdown(socket.SHUT_RDWR)  # not only closed, because a process that a test forked may hold a copy
        ours.close()
        forker.wait()
        forker.stdout.close()
        forker.stderr.close()

    atexit.register(end)
    return ours


def main() -> None:
    """Import the libraries; then fork a command for each order, until the socket is closed."""
    import tokenizers  # noqa: F401
    import torch.utils.tensorboard
    import zarr  # noqa: F401

    torch.optim.AdamW([torch.zeros(1)])  # imports as much as torch itself
    gc.freeze()  # or each fork copies all objects when it looks for garbage
    orders = socket.socket(fileno=int(sys.argv[1]))
    while True:
        size, ends, *_ = socket.recv_fds(orders, _NUMBER.size, 3)
        with contextlib.suppress(ChildProcessError):  # forget children that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not size:
            break
        data = orders.recv(_NUMBER.unpack(size)[0], socket.MSG_WAITALL)
        if not os.fork():
            orders.close()
            run(json.loads(data), *ends)
        for end in ends:
            os.close(end)


def run(order: Mapping[str, object], out: int, err: int, status: int) -> None:
    """Run a command in a fork of this process. This process tells the number of the fork, and how it ends."""
    if command := os.fork():
        os.close(out)
        os.close(err)
        os.write(status, _NUMBER.pack(command))
        os.write(status, _NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1])))
        os._exit(0)
    os.dup2(out, 1)
    os.dup2(err, 2)
    for end in (out, err, status):
        os.close(end)
    os.environ.clear()
    os.environ.update(order["environment"])
    os.chdir(order["folder"])
    program = str(ROOT / "cli.py")
    sys.argv, sys.path[0] = [program, *order["arguments"]], str(ROOT)
    ended = 1
    try:
        runpy.run_path(program, run_name="__main__")
        ended = 0
    except SystemExit as end:
        ended = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  Python prints it in the same way
        traceback.print_exc()
    # Python does the same before it frees all objects, which would take a third of a second.
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)


if __name__ == "__main__":
    main()
