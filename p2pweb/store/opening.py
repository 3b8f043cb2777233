"""Opens the store in a directory, for one process alone, or one in memory.

A directory that is removed while a peer runs takes with it whatever is written from then on,
without an error from the system; so its place is looked at before each commit.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import math
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

from p2pweb.errors import UsageError
from p2pweb.folders import make_folder
from p2pweb.store.books import Books, connect
from p2pweb.store.segments import SegmentFolder, SegmentShelf
from p2pweb.store.store import Store

log = logging.getLogger("p2pweb.store")

DATABASE = "records.sqlite"
# There when a page of the database could not be read: all of them are looked at then.
SUSPECT = "suspect"


# What the disk that a directory lies on has left.
FreeBytes = Callable[[Path], float]


def free_on_disk(folder: Path) -> float:
    """In bytes, for this process."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return math.inf  # `_Folder.check` says what is the matter.
    return disk.f_bavail * disk.f_frsize


class _Folder:
    """A directory of this process's own, by its lock."""

    def __init__(self, folder: Path, lock: int, limit_bytes: int | None, free: FreeBytes) -> None:
        self.limit_bytes = limit_bytes
        self._folder = folder
        self._free = free
        self._lock = lock
        self._database = folder / DATABASE
        found = self._database.stat()
        self._identity = (found.st_dev, found.st_ino)

    def free_bytes(self) -> float:
        return self._free(self._folder)

    def check(self) -> None:
        try:
            found = self._database.stat()
        except OSError as error:
            raise OSError(
                error.errno, f"{self._database} is gone ({error.strerror}): start the peer again"
            ) from None
        if (found.st_dev, found.st_ino) != self._identity:
            raise OSError(errno.ENOENT, f"{self._database} was replaced: start the peer again")

    def suspect(self) -> None:
        with contextlib.suppress(OSError):
            (self._folder / SUSPECT).touch()

    def close(self) -> None:
        os.close(self._lock)


class _Memory:
    """No place at all."""

    def __init__(self, limit_bytes: int | None) -> None:
        self.limit_bytes = limit_bytes

    def free_bytes(self) -> float:
        return math.inf

    def check(self) -> None:
        """Memory is there as long as its process."""

    def suspect(self) -> None:
        """Nobody opens it again."""

    def close(self) -> None:
        """Nobody else has it."""


def open_store(
    folder: Path, limit_bytes: int | None = None, free: FreeBytes = free_on_disk
) -> Store:
    """The store in a directory, made if need be, for this process alone.

    With a limit, the directory holds no more bytes than that, log and all. A damaged database is
    put aside, and the store is empty. UsageError where another process has the directory, or it
    cannot be written.
    """
    try:
        make_folder(folder, 0o700)
        lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise UsageError(f"cannot use the data directory {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        other = os.read(lock, 20).decode("ascii", "replace").strip()
        os.close(lock)
        process = f" (process {other})" if other else ""
        raise UsageError(
            f"the data directory {folder} is in use by another peer{process}: "
            "stop that one, or give this one a directory of its own with --data"
        ) from None
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        try:
            return _open(folder, lock, limit_bytes, free)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            _put_aside(folder, error)
            return _open(folder, lock, limit_bytes, free)
    except sqlite3.Error as error:
        os.close(lock)
        raise UsageError(f"cannot use the database in {folder}: {error}") from None
    except OSError as error:
        os.close(lock)
        raise UsageError(f"cannot use the data directory {folder}: {error.strerror}") from None
    except UsageError:
        os.close(lock)
        raise


def _open(folder: Path, lock: int, limit_bytes: int | None, free: FreeBytes) -> Store:
    """sqlite3.DatabaseError where the database is damaged."""
    suspect = folder / SUSPECT
    connections: list[sqlite3.Connection] = []
    try:
        short_log = limit_bytes is not None
        connections.extend(connect(str(folder / DATABASE), short_log=short_log) for _ in range(2))
        if suspect.exists():
            (verdict,) = connections[0].execute("PRAGMA quick_check(1)").fetchone()
            if verdict != "ok":
                raise sqlite3.DatabaseError(verdict.partition("\n")[0])
            suspect.unlink()
        writer, reader = map(Books, connections)
        place = _Folder(folder, lock, limit_bytes, free)
        return Store(writer, reader, SegmentFolder(folder / "blobs"), place)
    except BaseException:
        for connection in connections:
            connection.close()
        raise


def _put_aside(folder: Path, error: sqlite3.DatabaseError) -> None:
    """Keep a damaged database for whoever wants to look at it, the latest one alone."""
    aside = folder / f"{DATABASE}.damaged"
    (folder / DATABASE).replace(aside)
    for suffix in ("-wal", "-shm"):
        (folder / f"{DATABASE}{suffix}").unlink(missing_ok=True)
    (folder / SUSPECT).unlink(missing_ok=True)
    log.error(
        "the database of this peer is damaged (%s) and was put aside as %s: what it had is fetched "
        "from other peers",
        error,
        aside,
    )


def memory_store(limit_bytes: int | None = None) -> Store:
    """A store that is gone with its process."""
    books = Books(connect(":memory:"))
    return Store(books, books, SegmentShelf(), _Memory(limit_bytes))
