"""Who may write a store in an object store: a lease, an object beside it that names its holder and when it ends.

The holder renews it in a thread; one that dies leaves it behind, and after `TIME_TO_LIVE_S` anyone takes it over, or at
once with ``take_over``. Whoever took it waits and reads it back, so of two that come at once, also where the store
knows no conditional creation, the later keeps it. Before every write and every line of the history the holder reads
it again, and stops if it is another's.

This keeps two writers from going on side by side; it is no proof against one that is stopped for minutes between that
reading and its write. Nor need it be: files are whole objects and their bytes a function of the work, so a late write
of a shard puts there what is there already. For the same reason other ranks write shards without it. Clocks of hosts
may differ by `TIME_TO_LIVE_S` less a heartbeat before a living holder loses its lease, and then it only stops.
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
"""Seconds between two renewals: two small requests."""
TIME_TO_LIVE_S = 120.0
"""Seconds a lease is good for after a renewal: five renewals may fail, and a restart after a crash waits no longer."""
SETTLE_S = 2.0
"""Seconds before a lease is read back: longer than a slow put of 200 bytes."""
INSIST = 3
"""Times a lease is taken from a living holder that renews it at the same moment, before giving up."""

_HISTORY = ".history.jsonl"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Holder:
    """What the lease's object says."""

    owner: str
    """Random; known to nobody else, so whoever reads it back as its own holds the lease."""
    host: str
    since: str
    """ISO 8601, UTC, as are all times here."""
    expires: str

    @classmethod
    def parse(cls, data: bytes) -> "_Holder":
        """Return what a lease says.

        Raises:
            ValueError: If it is not one.
        """
        value = json.loads(data)
        if not isinstance(value, dict) or value.keys() != {"owner", "host", "since", "expires"}:
            raise ValueError("other keys")
        # It ends up in messages, and whoever may write beside the store may have written it.
        if not all(isinstance(text, str) and text.isprintable() and len(text) < 256 for text in value.values()):
            raise ValueError("other values")
        if datetime.fromisoformat(value["expires"]).tzinfo is None:
            raise ValueError("a time without zone")
        return cls(**value)

    @property
    def has_expired(self) -> bool:
        return datetime.fromisoformat(self.expires) < datetime.now(tz=UTC)

    def __str__(self) -> str:
        return f"host {self.host}, since {self.since}"


class Lease:
    """The right of one process to write a store, and the store's history; a `WriterLock`.

    The history is read when the lease is taken and rewritten whole with each line: a dump's has some tens of them.
    """

    def __init__(self, store: str, *, take_over: bool) -> None:
        """Take the lease of a store.

        Args:
            store: URL of the store.
            take_over: Whether to take it from a holder that may still be alive.

        Raises:
            StoreBusyError: If another process holds it.
            StoreError: If it cannot be read or written.
        """
        parent, _, name = store.rpartition("/")
        self._store = store
        self._beside = ObjectStore(parent)
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
        """Refuse to go on unless this process still holds the lease.

        Raises:
            StoreBusyError: If another took it, or it is gone.
            StoreError: If it cannot be read.
        """
        found = self._read()
        if found is None or found.owner != self._owner:
            holder = f"now it is another's ({found})" if found else "now it is gone"
            raise StoreBusyError(
                f"{self._store}: this process held the lease {self._beside}/{self._name}, {holder}. See that one "
                "process writes the store, then run the same command again: what was complete stays valid"
            )

    def log(self, line: bytes) -> None:
        """Append one line, as `WriterLock` says.

        Raises:
            StoreBusyError: If the lease is lost.
            StoreError: If the history cannot be written.
        """
        self.check()
        self._beside.write(self._history_name, self._history + line)
        self._history += line

    def close(self) -> None:
        """Let another process write. In a process forked from the holder it does nothing."""
        if self._stop.is_set() or os.getpid() != self._process:
            return
        self._stop.set()
        self._thread.join()  # a renewal under way would bring the lease back
        self._release()

    def _take(self, *, take_over: bool) -> None:
        found = self._read()
        if found is None:
            self._beside.create(self._name, self._content())
        elif found.has_expired:
            _log.info("%s: taking over the lease of %s, which expired %s", self._store, found, found.expires)
            self._beside.write(self._name, self._content())
        elif take_over:
            _log.warning("%s: taking the lease from %s, good until %s", self._store, found, found.expires)
            self._beside.write(self._name, self._content())
        else:
            raise self._busy(found)
        try:
            self._confirm(insist_against=found.owner if found and take_over else None)
        except BaseException:
            self._release()
            raise

    def _confirm(self, *, insist_against: str | None) -> None:
        """Wait and read the lease back; a holder amid a renewal may have put its own there again."""
        for _ in range(INSIST):
            time.sleep(SETTLE_S)
            found = self._read()
            if found is not None and found.owner == self._owner:
                return
            if found is None or found.owner != insist_against:
                break
            self._beside.write(self._name, self._content())
        raise self._busy(found)

    def _renew(self) -> None:
        """Renew the lease until closed or lost; what fails is tried again, since the holder checks before it writes."""
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self.check()
                self._beside.write(self._name, self._content())
            except StoreBusyError as error:
                _log.warning("%s", error)
                return
            except StoreError as error:
                _log.warning("%s: the lease was not renewed, trying again: %s", self._store, error)

    def _release(self) -> None:
        try:
            self.check()
            self._beside.remove([self._name])
        except StoreBusyError:
            pass  # it is another's
        except StoreError as error:
            _log.warning("%s: the lease stays until it expires: %s", self._store, error)

    def _content(self) -> bytes:
        holder = _Holder(owner=self._owner, host=socket.gethostname(), since=self._since, expires=_iso(TIME_TO_LIVE_S))
        return canonical_json(asdict(holder))

    def _read(self) -> _Holder | None:
        try:
            return _Holder.parse(self._beside.read(self._name))
        except FileNotFoundError:
            return None
        except (ValueError, RecursionError) as error:
            raise StoreError(
                f"{self._beside}/{self._name}: not a lease of this program ({plain_text(error)}). See what it is, and "
                "remove it if no process writes the store"
            ) from None

    def _busy(self, found: _Holder | None) -> StoreBusyError:
        holder = f"{found}; its lease expires {found.expires} unless it is renewed" if found else "it came and went"
        return StoreBusyError(
            f"{self._store}: another process is writing it ({holder}). Wait for it or stop it, then run the same "
            "command again; if it crashed, with --take-over, or after that time"
        )


def read_history(store: str) -> bytes:
    """Return the history beside the store at a URL, its last line whole; nothing where there is none.

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
