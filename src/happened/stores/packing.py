"""Packing: the work that makes the cold part of a log, in steps, each a short transaction, on a connection of its own. Killed at any moment, it goes on."""

import sqlite3
import time
import zlib
from collections.abc import Callable, Sequence

from happened.core.errors import Broken
from happened.stores import runs
from happened.stores.cold import Cold, one_step

STEPS_A_CHECKPOINT = 64
"""A step writes some 15 pages, so a checkpoint takes about 1,000 of the WAL into the file."""
PAGES_A_STEP = 128
"""Free pages that are given back at once: for each, one that is in use may have to be moved."""
PAUSE_SECONDS = 0.002
"""What is left to others between two steps that have no work beside the lock."""
INCREMENTAL = 2

Statement = tuple[str, tuple[str, ...]]


class Packing:
    """Packs rows, or puts them back, in one file. `until_free` tries what it is given until no other connection holds the file's lock.

    `checkpoint` takes the WAL into the file.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        cold: Cold,
        until_free: Callable[[Callable[[], object]], object],
        checkpoint: Callable[[], object],
    ) -> None:
        self._connection = connection
        self._cold = cold
        self._until_free = until_free
        self._checkpoint = checkpoint
        self._steps = 0
        connection.execute("pragma wal_autocheckpoint=0")
        connection.execute("pragma synchronous=normal")  # nothing new is written: where the power fails, rows lie where they lay
        connection.execute("pragma secure_delete=fast")

    def pack(self, until: int, first_time: Sequence[Statement], progress: Callable[[int, int], None]) -> None:
        """Pack all rows that end at or before a position but the newest, and give back what they took."""
        while reached := self._cold.pack(self._connection, until, self._begin, first_time):
            progress(reached, until)
            self._step(STEPS_A_CHECKPOINT)
        self._pack_runs()
        self.give_back()

    def _pack_runs(self) -> None:
        """Pack the index of what is cold, part by part."""
        cold = self._cold.until(self._connection)
        for part in range(runs.PARTS):
            which = "part = ? and last <= ? and length(entries) % ? in (?, ?)"
            found = self._connection.execute(
                f"select kind, last, level, entries from run where {which}", (part, cold, runs.ENTRY_BYTES, *runs.PLAIN)
            ).fetchall()
            packed = [(self._packed(part, *run), part, *run) for run in found]
            if packed:
                self._begin()
                with one_step(self._connection):  # what was merged or made anew meanwhile is left
                    self._connection.executemany(
                        "update run set entries = ? where part = ? and kind = ? and last = ? and level = ? and entries = ?", packed
                    )
                self._step(STEPS_A_CHECKPOINT)

    def _packed(self, part: int, kind: int, last: int, level: int, entries: bytes) -> bytes:
        try:
            return runs.packed(runs.opened(entries, runs.place_of(part, kind, runs.Run(last, level))))
        except (ValueError, TypeError, zlib.error) as error:
            raise Broken(f"the index is damaged, and is not packed: {error}. {runs.MAKE_ANEW}") from error

    def unpack(self, after: int, last_time: Sequence[Statement], progress: Callable[[int, int], None]) -> None:
        """Put rows back into their table, from the last segment to the one that holds the position after this one."""
        whole = reached = self._cold.until(self._connection)
        while reached > after:
            self._begin()
            with one_step(self._connection):
                reached = self._cold.unpack(self._connection, after)
                for statement in last_time if not reached else ():
                    self._connection.execute(*statement)
            progress(whole - max(reached, after), whole - after)
            self._step(STEPS_A_CHECKPOINT // 8)
            time.sleep(PAUSE_SECONDS)
        self.give_back()

    def give_back(self) -> None:
        """Give free pages back to the file system, where the file was made to do that: see `vacuum`."""
        [(mode,)] = self._connection.execute("pragma auto_vacuum")
        while mode == INCREMENTAL and self._free():
            self._until_free(
                lambda: self._connection.executescript(f"pragma incremental_vacuum({PAGES_A_STEP})")
            )  # `execute` frees one page
            self._step(STEPS_A_CHECKPOINT // 8)
            time.sleep(PAUSE_SECONDS)
        self._checkpoint()

    def vacuum(self) -> None:
        """Write the file anew, once, so that from then on it gives back free pages. Others who write wait for that long."""
        self._connection.execute("pragma auto_vacuum=incremental")
        self._until_free(lambda: self._connection.execute("vacuum"))
        self._checkpoint()

    def _begin(self) -> None:
        self._until_free(lambda: self._connection.execute("begin immediate"))

    def _free(self) -> int:
        [(free,)] = self._connection.execute("pragma freelist_count")
        pages: int = free
        return pages

    def _step(self, steps: int) -> None:
        self._steps += 1
        if not self._steps % steps:
            self._checkpoint()
