"""Test that a process without a sign of life is reported, and no other."""

import os
import threading
import time

import pytest
from torch.distributed import HashStore, Store

from pipeline.runtime.heartbeat import VARIABLE, Heartbeat
from storage.errors import ConfigError


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when a heartbeat would end the process. A process counts as lost after a second."""
    found = threading.Event()
    monkeypatch.setattr(os, "_exit", lambda status: found.set() if status == 1 else None)
    monkeypatch.setenv(VARIABLE, "1")
    return found


class Silent(HashStore):
    """A store that stops to answer."""

    silent = False

    def clone(self) -> Store:
        return self

    def multi_get(self, keys: list[str]) -> list[bytes]:
        while self.silent:
            time.sleep(0.01)
        return super().multi_get(keys)


def test_a_rank_without_a_sign_of_life_is_reported_with_its_host(ended, capsys):
    store = Silent()
    store.set("heartbeat/1", "7 node9")
    with Heartbeat(store, rank=0, size=2):
        assert ended.wait(10)
    assert "Error: rank 1 on node9 has given no sign of life for 1 s" in capsys.readouterr().err


def test_a_store_that_does_not_answer_is_reported(ended, capsys):
    store = Silent()
    with Heartbeat(store, rank=0, size=1):
        time.sleep(0.2)
        assert not ended.is_set()
        store.silent = True
        assert ended.wait(10)
        store.silent = False
    assert "the machine that holds the store of this run has given no sign of life" in capsys.readouterr().err


def test_a_silent_store_is_reported_and_not_a_rank_that_was_last_heard_before(ended, capsys):
    store = Silent()
    store.set("heartbeat/1", "7 node9")
    with Heartbeat(store, rank=0, size=2):
        time.sleep(0.6)
        store.silent = True
        assert ended.wait(10)
        store.silent = False
    assert capsys.readouterr().err.startswith("Error: the machine that holds the store of this run has given no sign")


def test_a_store_that_closes_its_connection_is_reported(ended, capsys, monkeypatch):
    def closed(_):
        raise RuntimeError("Connection reset by peer")

    store = Silent()
    monkeypatch.setattr(store, "multi_get", closed)
    with Heartbeat(store, rank=0, size=1):
        assert ended.wait(10)
    assert "the machine that holds the store of this run has given no sign of life" in capsys.readouterr().err


def test_processes_that_live_or_have_left_are_not_reported(ended):
    store = Silent()
    first, second = (Heartbeat(store, rank=rank, size=2) for rank in range(2))
    with first:
        with second:
            time.sleep(1.5)
        time.sleep(1.5)  # the second has left
    assert not ended.is_set()


@pytest.mark.parametrize("text", ["soon", "0", "-3", "nan", "inf"])
def test_a_time_that_is_no_number_above_zero_is_refused(monkeypatch, text):
    monkeypatch.setenv(VARIABLE, text)
    with pytest.raises(ConfigError, match=f"{VARIABLE} is {text}, expected a number of seconds above 0"):
        Heartbeat(HashStore(), rank=0, size=1)
