"""The views' file: tables of rows, with the checkpoint, the owner's epoch and what is stuck in the same transactions.

By default it lies beside the log, with `synchronous=NORMAL`: what it loses is folded again. All of it can be deleted without loss.
"""

import contextlib
import os
import sqlite3
import threading
from collections import deque
from collections.abc import Generator

from happened.core.errors import Closed, Forked, Invalid

DDL = (
    """create table if not exists _view(
    name text not null, fingerprint text not null, generation integer not null,
    log text not null, epoch integer not null, position integer not null, digest blob not null,
    owner integer not null, ready integer not null, fresh integer not null, primary key(name, fingerprint, generation)) without rowid""",
    """create table if not exists _stuck(
    name text not null, fingerprint text not null, generation integer not null, key text not null, position integer not null, error text not null,
    primary key(name, fingerprint, generation, key)) without rowid""",
)


class ViewsFile:
    """One SQLite file of views: one connection writes, readers take one from a pool. In memory all share one."""

    def __init__(self, url: str) -> None:
        if url not in ("memory:", "memory://") and not url.startswith("sqlite:///"):
            raise Invalid(f"`{url}` names no place for views: write memory: or sqlite:///path", url=url)
        self.path = url.removeprefix("sqlite:///") if url.startswith("sqlite:///") else None
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._readers: deque[sqlite3.Connection] = deque()
        self._closed = False
        self.writer = self._connect()
        self._begin()
        for statement in DDL:
            self.writer.execute(statement)
        self.writer.execute("commit")

    @contextlib.contextmanager
    def transaction(self) -> Generator[sqlite3.Connection]:
        """Write in one transaction, or not at all."""
        with self._lock:
            self._check()
            self._begin()
            try:
                yield self.writer
                self.writer.execute("commit")
            except BaseException:
                if self.writer.in_transaction:
                    self.writer.execute("rollback")
                raise

    @contextlib.contextmanager
    def reader(self) -> Generator[sqlite3.Connection]:
        """Read on a connection that can't write."""
        self._check()
        if self.path is None:
            with self._lock:
                yield self.writer
            return
        try:
            reader = self._readers.pop()
        except IndexError:
            reader = self._connect()
            reader.execute("pragma query_only=on")
        try:
            yield reader
        finally:
            if self._closed:
                reader.close()
            else:
                self._readers.append(reader)

    @contextlib.contextmanager
    def snapshot(self) -> Generator[sqlite3.Connection]:
        """Read in one transaction: whatever is asked is as of one moment."""
        with self.reader() as reader:
            reader.execute("savepoint asked")
            try:
                yield reader
            finally:
                reader.execute("release asked")

    def close(self) -> None:
        """Give the file back."""
        with self._lock:
            self._closed = True
            if self._pid == os.getpid():
                while self._readers:
                    self._readers.pop().close()
                self.writer.close()

    def _begin(self) -> None:
        self.writer.execute("begin immediate")

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise Forked("these views were opened before a fork: open the app in the child process")
        if self._closed:
            raise Closed("the views are closed")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path or ":memory:", timeout=10, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        if self.path is not None:
            connection.execute("pragma journal_mode=wal")
            connection.execute("pragma synchronous=normal")
        return connection
