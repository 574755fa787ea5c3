"""One process writes at a time. Others are refused while it is alive. It notices when another has replaced it."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime

import pytest

from storage.errors import StoreBusyError, StoreError
from storage.locations import open_folder
from storage.remote import lease
from storage.remote.cache import FileCache
from storage.remote.lease import Lease
from storage.remote.objects import ObjectStore
from storage.remote.remote_folder import RemoteFolder
from tests.storage.conftest import wait_for

EXPIRED = {"owner": "x", "host": "node7", "since": "2020-01-01T00:00:00+00:00", "expires": "2020-01-01T00:02:00+00:00"}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "HEARTBEAT_S", 0.1)
    monkeypatch.setattr(lease, "TIME_TO_LIVE_S", 2.0)
    monkeypatch.setattr(lease, "SETTLE_S", 0.05)


@pytest.fixture
def parent(url: str) -> ObjectStore:
    return ObjectStore(url.rpartition("/")[0])


@pytest.fixture
def held(url: str) -> Iterator[Lease]:
    taken = Lease(url, take_over=False)
    yield taken
    taken.close()


def expires(parent: ObjectStore) -> datetime:
    return datetime.fromisoformat(json.loads(parent.read("store.lease.json"))["expires"])


def test_a_second_writer_is_refused_and_the_message_names_the_holder(url: str, held: Lease) -> None:  # noqa: ARG001
    with pytest.raises(StoreBusyError) as caught:
        Lease(url, take_over=False)
    year = datetime.now(tz=UTC).year
    for part in (url, f"host {socket.gethostname()}", f"since {year}", f"expires {year}", "--take-over"):
        assert part in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_released_lease_can_be_taken(url: str, parent: ObjectStore) -> None:
    for _ in range(2):
        taken = Lease(url, take_over=False)
        assert set(parent.entries()) == {"store.lease.json"}
        taken.close()
        taken.close()
        assert not parent.entries()


def test_the_heartbeat_extends_the_lease(url: str, held: Lease, parent: ObjectStore) -> None:
    first = expires(parent)
    wait_for(lambda: datetime.now(tz=UTC) > first)
    with pytest.raises(StoreBusyError):
        Lease(url, take_over=False)
    held.check()


def test_taking_over_an_expired_lease_is_logged(
    url: str, parent: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    parent.write("store.lease.json", json.dumps(EXPIRED).encode())
    caplog.set_level(logging.INFO, "storage")
    Lease(url, take_over=False).close()
    assert [record.levelname for record in caplog.records] == ["INFO"]
    assert "host node7" in caplog.text


def test_a_holder_that_lost_its_lease_stops_at_its_next_write(
    url: str, cache: FileCache, parent: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.5)  # longer than a renewal in progress takes on a busy machine
    old = RemoteFolder(url, cache=cache)
    with closing(old.lock()) as first:
        old.write("zarr.json", b"{}")
        with closing(RemoteFolder(url, cache=cache, take_over=True).lock()) as second:
            for action in (
                lambda: old.write("zarr.json", b"other"),
                lambda: old.remove(["zarr.json"]),
                lambda: first.log(b"other\n"),
                first.check,
            ):
                with pytest.raises(StoreBusyError, match=r"held the lease .* another process now holds it \(host "):
                    action()
            time.sleep(0.3)  # the heartbeat of the first holder must not restore its lease
            first.close()
            second.check()
            second.log(b"mine\n")
    assert parent.read("store.history.jsonl") == b"mine\n"
    assert old.read("zarr.json") == b"{}"
    assert "store.lease.json" not in parent.entries()


def test_a_lease_removed_by_hand_is_noticed(held: Lease, parent: ObjectStore) -> None:
    parent.remove(["store.lease.json"])
    with pytest.raises(StoreBusyError, match="but it is now gone"):
        held.log(b"{}\n")


def test_without_conditional_creation_one_of_two_processes_gets_the_lease(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = ObjectStore.create

    def late(self: ObjectStore, name: str, data: bytes) -> bool:
        create(self, name, data)
        self.write(name, data.replace(b'"owner":"', b'"owner":"ff'))  # the other process wrote a moment later
        return True

    monkeypatch.setattr(ObjectStore, "create", late)
    with pytest.raises(StoreBusyError):
        Lease(url, take_over=False)


@pytest.mark.parametrize("expired", [False, True])
def test_one_of_many_processes_gets_the_lease(
    url: str, parent: ObjectStore, monkeypatch: pytest.MonkeyPatch, expired: bool
) -> None:
    monkeypatch.setattr(lease, "SETTLE_S", 0.5)
    write, delays = ObjectStore.write, iter((0.0, 0.1, 0.2, 0.3))
    all_have_read = threading.Barrier(4)

    def slow_write(self: ObjectStore, name: str, data: bytes) -> None:
        delay = next(delays, None)
        if delay is not None:
            all_have_read.wait(10)
            time.sleep(delay)
        write(self, name, data)

    if expired:
        parent.write("store.lease.json", json.dumps(EXPIRED).encode())
        monkeypatch.setattr(ObjectStore, "write", slow_write)
    together = threading.Barrier(4)
    taken: list[Lease] = []
    refused: list[StoreBusyError] = []

    def take() -> None:
        together.wait()
        try:
            taken.append(Lease(url, take_over=False))
        except StoreBusyError as error:
            refused.append(error)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(taken), len(refused)) == (1, 3)
    taken[0].check()
    taken[0].close()


def test_create_returns_whether_it_wrote_the_object(parent: ObjectStore) -> None:
    assert parent.create("x", b"mine")
    assert not parent.create("x", b"other")
    assert parent.read("x") == b"mine"


def test_other_processes_may_write_shards_without_the_lease(url: str, cache: FileCache, held: Lease) -> None:
    RemoteFolder(url, cache=cache).write("ids/c/0/0", b"a shard")
    held.check()


def test_the_history_continues_after_its_last_line(url: str, parent: ObjectStore) -> None:
    parent.write("store.history.jsonl", b'{"half')
    for number in range(2):
        with closing(Lease(url, take_over=False)) as taken:
            taken.log(b"%d\n" % number)
            taken.log(b"more\n")
    assert parent.read("store.history.jsonl") == b'{"half\n0\nmore\n1\nmore\n'
    assert open_folder(url).history() == b'{"half\n0\nmore\n1\nmore\n'
    assert open_folder(url + "-other").history() == b""


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\xff", b'{"owner":1}', b"[" * 10_000,
                b'{"owner":"a","host":"\\u001b[31m","since":"b","expires":"2020-01-01T00:00:00+00:00"}',
                b'{"owner":"a","host":"h","since":"b","expires":"2020-01-01"}']
)  # fmt: skip
def test_an_object_that_is_no_lease_is_not_overwritten(parent: ObjectStore, url: str, content: bytes) -> None:
    parent.write("store.lease.json", content)
    with pytest.raises(StoreError, match=r"store.lease.json: not a lease of this program") as caught:
        Lease(url, take_over=True)
    assert str(caught.value).isprintable()
    assert parent.read("store.lease.json") == content


def test_a_renewal_in_progress_does_not_restore_a_released_lease(
    url: str, parent: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, renewing = ObjectStore.write, threading.Event()

    def slow_write(self: ObjectStore, name: str, data: bytes) -> None:
        renewing.set()
        time.sleep(0.3)
        write(self, name, data)

    taken = Lease(url, take_over=False)
    monkeypatch.setattr(ObjectStore, "write", slow_write)
    assert renewing.wait(20)
    taken.close()
    time.sleep(0.5)
    assert not parent.entries()


def test_a_failed_renewal_is_tried_again(
    url: str, parent: ObjectStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with closing(Lease(url, take_over=False)):
        write = ObjectStore.write

        def fail(*_: object) -> None:
            raise StoreError("the network is down")

        monkeypatch.setattr(ObjectStore, "write", fail)
        wait_for(lambda: "the network is down" in caplog.text)
        monkeypatch.setattr(ObjectStore, "write", write)
        before = expires(parent)
        wait_for(lambda: expires(parent) > before)
        assert expires(parent) > before


def hold_in_a_child(url: str, parent: ObjectStore) -> int:
    child = os.fork()
    if child == 0:
        try:
            Lease(url, take_over=False)
            time.sleep(60)
        finally:
            os._exit(1)  # the child must not continue as a second pytest
    wait_for(lambda: bool(parent.entries()))
    return child


def test_a_killed_writer_is_replaced_after_expiry_or_by_take_over(s3_url: str) -> None:
    parent = ObjectStore(s3_url.rpartition("/")[0])
    for take_over in (False, True):
        child = hold_in_a_child(s3_url, parent)
        try:
            with pytest.raises(StoreBusyError):
                Lease(s3_url, take_over=False)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
        if not take_over:
            wait_for(lambda: expires(parent) < datetime.now(tz=UTC))
        Lease(s3_url, take_over=take_over).close()
        assert not parent.entries()


def test_a_forked_child_does_not_release_the_lease(s3_url: str, cache: FileCache) -> None:
    folder = RemoteFolder(s3_url, cache=cache)
    with closing(folder.lock()) as held:
        child = os.fork()
        if child == 0:
            try:
                folder.write("ids/c/0/0", b"from the child")
                held.close()
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        held.check()
    assert folder.sizes() == {"ids/c/0/0": 14}
