"""Start the command line as a user does: in one process, or in several processes that form a group."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

import cli
from storage.fingerprints import sha256_file
from tests.forked_commands import ForkedCommand

ROOT = Path(__file__).resolve().parents[1]
Command = subprocess.Popen[str] | ForkedCommand


def store_digest(store: Path) -> str:
    """Return one sha256 over the names and bytes of all files of a store."""
    whole = hashlib.sha256()
    for file in sorted(file for file in store.rglob("*") if file.is_file()):
        whole.update(str(file.relative_to(store)).encode() + b"\0" + file.read_bytes())
    return whole.hexdigest()


def edit_run(run: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change ``run.json``, and leave out all digests, as an older version of this program did."""
    import safetensors.torch  # conftest sets the threads of torch before it is loaded

    from pipeline.runtime.run_directory import weights_metadata

    described = json.loads((run / "run.json").read_text())
    change(described)
    described.pop("sha256", None)
    (run / "run.json").write_text(json.dumps(described))
    for path in run.glob("checkpoints/*/model.safetensors"):
        metadata = weights_metadata(path)
        kept = {name: value for name, value in metadata.items() if name not in {"run", "weights_sha256"}}
        safetensors.torch.save_file(safetensors.torch.load(path.read_bytes()), path, kept)


def describe(run: Path, *, seed: int = 1) -> None:
    """Write the description of a run that no command made."""
    from pipeline.runtime.run_directory import RunDescription, describe_run

    run.mkdir(exist_ok=True)
    tokenizer = run / "tokenizer.json"
    tokenizer.write_text("{}")
    fingerprints = {"tokenizer": sha256_file(tokenizer)}
    options = {"seed": seed}
    description = RunDescription(
        kind="student", configuration=options, model={}, fingerprints=fingerprints, tokenizer=tokenizer
    )
    describe_run(run, description)


def run_cli(*arguments: object, fails: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one command to its end. Assert that it succeeds (``fails``: fails), and show its output if not."""
    process = start_cli(*arguments)[0]
    out, err = process.communicate(timeout=240)
    done = subprocess.CompletedProcess(process.args, process.returncode, out, err)
    assert bool(done.returncode) == fails, f"{arguments}: status {done.returncode}\n{out}\n{err}"
    return done


def refused(*arguments: object) -> str:
    """Run a command that must fail and print one line on standard error. Return that line."""
    lines = run_cli(*arguments, fails=True).stderr.strip().splitlines()
    assert len(lines) == 1, lines
    return lines[0]


def last_of_each(arguments: Sequence[object]) -> list[str]:
    """Return the arguments of a command, with only the last occurrence of each option that takes one value.

    The command line refuses a repeated option. With this function, a test can change an option of a list of arguments
    by appending the option again.
    """
    rest = [str(argument) for argument in arguments]
    start: list[str] = []
    found: click.Command = cli.main
    while isinstance(found, click.Group) and rest and rest[0] in found.commands:
        found = found.commands[rest[0]]
        start.append(rest.pop(0))
    single = {
        spelling: param
        for param in found.params
        if isinstance(param, click.Option) and not param.multiple
        for spelling in (*param.opts, *param.secondary_opts)
    }
    kept: dict[object, list[str]] = {}
    while rest:
        option = single.get(rest[0])
        key = len(rest) if option is None else option  # the number of arguments left is unique
        width = 1 if option is None or option.is_flag else 2
        kept.pop(key, None)
        kept[key] = rest[:width]
        rest = rest[width:]
    return start + [token for tokens in kept.values() for token in tokens]


def start_cli(*arguments: object, processes: int = 1, last: Sequence[object] = ()) -> list[Command]:
    """Start a command in ``processes`` processes, as torchrun does. The caller can kill each of them.

    ``last`` gives each process its own last argument. With ``make soak``, each process imports torch itself.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    started: list[Command] = []
    for rank in range(processes):
        environment = {key: value for key, value in os.environ.items() if key not in {"RANK", "WORLD_SIZE"}}
        environment["OMP_NUM_THREADS"] = "1"
        if processes > 1:
            environment |= {
                "RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank),
                "LOCAL_WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port),
            }  # fmt: skip
        typed = last_of_each([*arguments, *last[rank : rank + 1]])
        # The compiler of torch starts processes and threads of its own, which a fork would wait for.
        if sys.platform == "linux" and "RNNG_DISTILL_SOAK" not in os.environ and "--compile" not in typed:
            started.append(ForkedCommand(typed, environment))
        else:
            command, pipe = [sys.executable, str(ROOT / "cli.py"), *typed], subprocess.PIPE
            started.append(subprocess.Popen(command, env=environment, stdout=pipe, stderr=pipe, text=True))
    return started


def finish(processes: list[Command]) -> None:
    """Wait for all processes and assert that they succeed."""
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err


def kill_when(condition: Callable[[], object], processes: list[Command]) -> None:
    """Kill all processes as soon as a condition holds. None may end before."""
    wait_until(condition, processes)
    for process in processes:
        process.kill()
        process.communicate()


def wait_until(condition: Callable[[], object], processes: list[Command]) -> None:
    """Wait until a condition holds, for two minutes at most. No process may end before."""
    deadline = time.monotonic() + 120
    while not condition():
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        time.sleep(0.002)


def metrics(run: Path, split: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of ``metrics.jsonl`` of a split, or of all splits, without a line that is still being written."""
    file = run / "metrics.jsonl"
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [row for row in rows if split in (None, row["split"])]
