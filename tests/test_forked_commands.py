"""Test that a forked command does as a command in a Python of its own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked_commands import ROOT, ForkedCommand

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="commands are forked only on Linux")


@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["inspect", "nowhere"],
        ["evaluate", "perplexity", "--no-such-option"],
        ["parse", "caf\u00e9.txt", "--flat", "--out", "out"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_fork_prints_the_same_and_has_the_same_status(arguments: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    fork = ForkedCommand(arguments, os.environ)
    found = fork.communicate(timeout=120)
    command = [sys.executable, str(ROOT / "cli.py"), *arguments]
    alone = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (*found, fork.returncode) == (alone.stdout, alone.stderr, alone.returncode)
    assert list(tmp_path.iterdir()) == []


def test_a_fork_that_is_stopped_or_killed_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("A dog barks.\n")
    command = ["clean-text", str(tmp_path / "text"), "--source", "plain", "--out", str(tmp_path / "out")]
    fork = ForkedCommand(command, os.environ)
    fork.send_signal(signal.SIGSTOP)
    assert fork.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        fork.wait(0.1)
    fork.kill()
    assert fork.communicate(timeout=60) == ("", "")
    assert fork.poll() == -signal.SIGKILL
    fork.kill()  # without effect
