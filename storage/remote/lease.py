"""Use a lease to admit one writer at a time to a store (a dump, or another folder of files) at a URL.

The lease of the store s3://BUCKET/dump is the object s3://BUCKET/dump.lease.json. It names its holder and the time at
which it expires. The holder renews it in a thread. Any process may take the lease once it has expired (`TIME_TO_LIVE_S`
after the last renewal), or before that with ``take_over``. A process that takes the lease waits and reads it back. So
if two processes take it at the same time, the process that wrote last keeps it. This also works on object stores that
do not support the request "create this object only if it does not exist".

The history of this store is the object s3://BUCKET/dump.history.jsonl. Each of its lines records an event, such as the
start of a writer. Before the holder writes a file or adds a line to the history, it reads the lease again. If another
process has taken the lease, the old holder stops.

The lease cannot stop a writer that sleeps for minutes between the check of the lease and the write. If it writes a file
late, this does no harm: files are whole objects, and their bytes do not depend on who computes them. For the same
reason, the other ranks of dump-teacher may write files without a lease: only rank 0 takes the lease. If the holder adds
a line to the history late, lines that the new holder added can be lost.

If the clocks of two hosts differ by more than `TIME_TO_LIVE_S` minus `HEARTBEAT_S`, a living holder can lose its lease.
The holder then stops.
"""

import json
import logging
import os
import secrets
import socket
import threading
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta

from storage.errors import StoreBusyError, StoreError
from storage.fingerprints import canonical_json
from storage.remote.objects import ObjectStore, plain_text

HEARTBEAT_S = 20.0
"""Seconds between two renewals."""
TIME_TO_LIVE_S = 120.0
"""Seconds from a renewal until the lease expires. If four renewals in a row fail, the fifth attempt still comes in
time. After a crash of the holder, the next writer waits this long."""
SETTLE_S = 2.0
"""Seconds between taking a lease and reading it back. Another process may be writing its own lease at the same time.
The wait is longer than a slow write takes."""
INSIST = 3
"""Number of attempts to take a lease from a living holder that renews it at the same moment."""

_HISTORY = ".history.jsonl"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    """Content of the lease's object."""

    owner: str
    """A random value that only one process knows. A process that reads back its own value holds the lease."""
    host: str
    since: str
    """When this holder took the lease: ISO 8601, UTC."""
    expires: str
    """When the lease expires unless it is renewed: ISO 8601, UTC."""

    @classmethod
    def parse(cls, data: bytes) -> "_Holder":
        """Return the content of a lease.

        Raises:
            ValueError: If ``data`` is not a lease.
        """
        value = json.loads(data)
        if not isinstance(value, dict) or value.keys() != {"owner", "host", "since", "expires"}:
            raise ValueError("its keys are not those of a lease")
        # The values appear in messages. Anybody with write access to the folder can have written them.
        if not all(isinstance(text, str) and text.isprintable() and len(text) < 256 for text in value.values()):
            raise ValueError("a value is not a short printable text")
        if datetime.fromisoformat(value["expires"]).tzinfo is None:
            raise ValueError("its time has no zone")
        return cls(**value)

    @property
    def has_expired(self) -> bool:
        return datetime.fromisoformat(self.expires) < datetime.now(tz=UTC)

    def __str__(self) -> str:
        return f"host {self.host}, since {self.since}"


class Lease:
    """The right of one process to write a store and its history; implements `WriterLock`.

    To add a line to the history, the whole history (some tens of lines) is written again, since objects cannot be
    appended to.
    """

    def __init__(self, store: str, *, take_over: bool) -> None:
        """Take the lease of a store.

        Args:
            store: URL of the store.
            take_over: Whether to take the lease from a holder that may still be alive.

        Raises:
            StoreBusyError: If another process holds the lease.
            StoreError: If the lease or the history cannot be read or written.
        """
        parent, _, name = store.rpartition("/")
        self._store = store
        self._parent = ObjectStore(parent)
        self._name = f"{name}.lease.json"
        self._history_name = f"{name}{_HISTORY}"
        self._owner = secrets.token_hex(16)
        self._since = _iso(0)
        self._process = os.getpid()
        self._take(take_over=take_over)
        try:
            self._history = read_history(store)
        except BaseException:
            self._release()
            raise
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lease of {store}", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Check that this process still holds the lease.

        Raises:
            StoreBusyError: If another process took the lease, or the lease is gone.
            StoreError: If the lease cannot be read.
        """
        found = self._read()
        if found is None or found.owner != self._owner:
            holder = f"another process now holds it ({found})" if found else "it is now gone"
            raise StoreBusyError(
                f"{self._store}: this process held the lease {self._parent}/{self._name}, but {holder}. Make sure that "
                "only one process writes the store, then run the same command again: completed work stays valid"
            )

    def log(self, line: bytes) -> None:
        """Append one line, as `WriterLock.log` describes.

        Raises:
            StoreBusyError: If the lease is lost.
            StoreError: If the history cannot be written.
        """
        self.check()
        self._parent.write(self._history_name, self._history + line)
        self._history += line

    def close(self) -> None:
        """Release the lease, so that another process can write. Does nothing in a process forked from the holder."""
        if self._stop.is_set() or os.getpid() != self._process:
            return
        self._stop.set()
        self._thread.join()  # a renewal in progress would create the lease again
        self._release()

    def _take(self, *, take_over: bool) -> None:
        found = self._read()
        if found is None:
            self._parent.create(self._name, self._content())
        elif found.has_expired:
            _log.info("%s: taking over the lease of %s, which expired %s", self._store, found, found.expires)
            self._parent.write(self._name, self._content())
        elif take_over:
            _log.warning("%s: taking the lease from %s, which is valid until %s", self._store, found, found.expires)
            self._parent.write(self._name, self._content())
        else:
            raise self._busy(found)
        try:
            self._confirm(insist_against=found.owner if found and take_over else None)
        except BaseException:
            self._release()
            raise

    def _confirm(self, *, insist_against: str | None) -> None:
        """Wait and read the lease back. If the old holder has renewed its lease meanwhile, take the lease again."""
        for _ in range(INSIST):
            time.sleep(SETTLE_S)
            found = self._read()
            if found is not None and found.owner == self._owner:
                return
            if found is None or found.owner != insist_against:
                break
            self._parent.write(self._name, self._content())
        raise self._busy(found)

    def _renew(self) -> None:
        """Renew the lease until it is released or lost. A failed renewal is tried again at the next heartbeat."""
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self.check()
                self._parent.write(self._name, self._content())
            except StoreBusyError as error:
                _log.warning("%s", error)
                return
            except StoreError as error:
                _log.warning("%s: the lease was not renewed, trying again: %s", self._store, error)

    def _release(self) -> None:
        try:
            self.check()
            self._parent.remove([self._name])
        except StoreBusyError:
            pass  # another process holds the lease
        except StoreError as error:
            _log.warning("%s: the lease remains until it expires: %s", self._store, error)

    def _content(self) -> bytes:
        holder = _Holder(owner=self._owner, host=socket.gethostname(), since=self._since, expires=_iso(TIME_TO_LIVE_S))
        return canonical_json(asdict(holder))

    def _read(self) -> _Holder | None:
        try:
            return _Holder.parse(self._parent.read(self._name))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self._parent}/{self._name}: not a lease of this program ({plain_text(error)}). Look at it, and "
                "remove it if no process writes the store"
            ) from None

    def _busy(self, found: _Holder | None) -> StoreBusyError:
        if found is None:
            return StoreBusyError(
                f"{self._store}: another process removed the lease that this process had just taken. Run the same "
                "command again"
            )
        return StoreBusyError(
            f"{self._store}: another process is writing it ({found}; its lease expires {found.expires} unless it is "
            "renewed). Wait for it or stop it, then run the same command again. If it crashed, add --take-over, or "
            "wait until the lease expires"
        )


def read_history(store: str) -> bytes:
    """Return the history next to the store at a URL, ending in a newline; empty if there is no history.

    Raises:
        StoreError: If it cannot be read.
    """
    parent, _, name = store.rpartition("/")
    try:
        history = ObjectStore(parent).read(f"{name}{_HISTORY}")
    except FileNotFoundError:
        return b""
    return history if history.endswith(b"\n") or not history else history + b"\n"


def _iso(seconds_ahead: float) -> str:
    return (datetime.now(tz=UTC) + timedelta(seconds=seconds_ahead)).isoformat(timespec="milliseconds")
