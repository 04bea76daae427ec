"""Faults of a disk, put into a real SQLite connection at a chosen statement."""

import functools
import sqlite3
from collections.abc import Callable
from typing import Any  # Any: what SQLite binds and fetches

import pytest

from happened.stores.sqlite import SqliteStore

Hook = Callable[["Faulty", str, Callable[[], sqlite3.Cursor]], sqlite3.Cursor]


class Faults:
    """What the connections of one test do: by default, what they are told."""

    def __init__(self) -> None:
        self.hook: Hook | None = None


class Faulty(sqlite3.Connection):
    """A connection whose every statement goes through the test's hook."""

    faults: Faults

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        hook = self.faults.hook
        return hook(self, sql, lambda: super(Faulty, self).execute(sql, parameters)) if hook else super().execute(sql, parameters)

    def executemany(self, sql: str, parameters: Any, /) -> sqlite3.Cursor:
        hook = self.faults.hook
        return hook(self, sql, lambda: super(Faulty, self).executemany(sql, parameters)) if hook else super().executemany(sql, parameters)


def install(monkeypatch: pytest.MonkeyPatch) -> Faults:
    """Have every SQLite log that is opened from now on use such connections."""
    faults = Faults()
    made = type("Made", (Faulty,), {"faults": faults})

    def connect(path: str) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, cached_statements=64, factory=made)

    monkeypatch.setattr("happened.opening.SqliteStore", functools.partial(SqliteStore, connect=connect))
    return faults


def full() -> sqlite3.OperationalError:
    """Return the error of a full disk."""
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorcode = sqlite3.SQLITE_FULL
    return error


def broken() -> sqlite3.OperationalError:
    """Return the error of a device that fails."""
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR
    return error
