"""Counts: whatever is added, written, lost and read anew, the sums are those of the rows."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path
from typing import Any  # Any: what SQLite binds

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from happened.core.errors import StoreFailed
from happened.core.store import Row, Terms
from happened.stores import counts, runs
from happened.stores.counts import BLOCK_BITS, Counts, packed, unpacked
from happened.stores.sqlite import SqliteStore
from happened.testing.rows import Fact, Scribe, added_up, counts_of, flat, read_by, terms_of
from tests.databases import in_memory

SEEDS = range(8)

WRITER = """
import random
import sys

from happened.stores.sqlite import SqliteStore
from happened.testing.rows import Fact, Scribe, read_by, terms_of

path, seed = sys.argv[1:]
chance = random.Random(int(seed))
store = SqliteStore(path)
store.index(read_by("today"), terms_of, lambda _done, _all: None)
scribe = Scribe(store)
while True:
    scribe.append(*(Fact(name=16 + chance.randrange(3), records=1 + chance.randrange(200)) for _ in range(chance.randrange(1, 12))))
    print(scribe.seen, flush=True)
"""
"""A program that appends until it is killed."""


def opened(path: Path) -> SqliteStore:
    """Open the store, indexed."""
    store = SqliteStore(str(path))
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    return store


def written_blocks(path: Path) -> list[tuple[int, int]]:
    """Return levels and blocks as they stand in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("select level, block from counted order by level, block").fetchall()


def rows_of(counted: Sequence[tuple[int, int, dict[str, int]]]) -> tuple[list[Row], list[Terms]]:
    """Return rows from a position to another, and what is counted of them."""
    rows = [Row(position, last - position + 1, 0, "{}", None, "[]", b"", b"") for position, last, _ in counted]
    return rows, [Terms((), None, (), tuple(sums.items())) for *_, sums in counted]


class Counted:
    """Counts beside the rows that they are of."""

    def __init__(self) -> None:
        self.connection = in_memory()
        for statement in counts.DDL:
            self.connection.execute(statement)
        self.counts = Counts()
        self.rows: list[tuple[int, int, dict[str, int]]] = []

    def add(self, count: int, text: str) -> None:
        """Add a row to both."""
        position = self.rows[-1][1] + 1 if self.rows else 1
        self.rows.append((position, position + count - 1, {text: count << 90 | 1}))
        self.counts.add(*rows_of(self.rows[-1:]))

    def write(self, *, commit: bool = True) -> None:
        """Write in a transaction, which may be taken back."""
        self.connection.execute("begin")
        blocks = self.counts.write(self.connection)
        self.connection.execute("commit" if commit else "rollback")
        if commit:
            self.counts.written(blocks)

    def reopen(self) -> None:
        """Begin as another process does, which finds in the rows what was not written."""
        self.counts = Counts()
        self.counts.load(self.connection)
        self.counts.add(*rows_of(self.rows))

    def check(self, after: int, until: int) -> None:
        """Fail unless the sums of a stretch are those of its rows."""

        def rows(first: int, last: int) -> Iterator[dict[str, int]]:
            return (sums for position, _, sums in self.rows if first <= position <= last)

        found = self.counts.here().between(self.connection, after, until, rows)

        assert found == counts.summed(rows(after, until))


STEP = some.one_of(
    some.tuples(some.just("add"), some.integers(1, 9_000), some.sampled_from("abc")),
    some.tuples(some.sampled_from(["write", "roll back", "reopen", "check"]), some.floats(0, 1), some.floats(0, 1)),
)


@settings(max_examples=200, deadline=None)
@given(some.lists(STEP, max_size=40))
def test_sums_are_those_of_the_rows(steps: list[tuple[str, Any, Any]]) -> None:
    """Rows of any length, written in parts, taken back and loaded anew in any order: every stretch adds up to its rows."""
    counted = Counted()
    for what, one, other in steps:
        match what:
            case "add":
                counted.add(one, other)
            case "write":
                counted.write()
            case "roll back":
                counted.write(commit=False)
            case "reopen":
                counted.reopen()
            case _:
                head = counted.rows[-1][1] if counted.rows else 0
                counted.check(int(one * head), int(other * head))
    for block in range(0, counted.rows[-1][1] + 2 if counted.rows else 0, 1 << BLOCK_BITS):
        counted.check(0, block)
        counted.check(block, 1 << 40)


def test_eight_blocks_are_one_of_the_next_level(tmp_path: Path) -> None:
    """Whole blocks are written as the log grows, each once, and summed eight to one; a long stretch is read from few."""
    path = tmp_path / "log.db"
    with closing(opened(path)) as store:
        scribe = Scribe(store)
        for _ in range(80):
            scribe.append(*[Fact(records=100)] * 41)
        whole = scribe.seen >> BLOCK_BITS

        found = dict(store.counted(0, None, counts_of))

        assert found == added_up(flat(store.read()))
    growing = [(0, whole)]
    assert written_blocks(path) == [(0, n) for n in range(whole)] + growing + [(1, n) for n in range(whole // 8)] + [(2, 0)]
    assert whole // 64 == 1


def test_numbers_of_any_length_come_back() -> None:
    """What is packed is unpacked to the same."""
    sums = {"": 1, "é:1": (1 << 4000) - 1, "x" * 1000: 255, "y": 256}

    assert unpacked(packed(sums)) == sums


@pytest.mark.parametrize("seed", SEEDS)
def test_a_process_that_is_killed_loses_and_doubles_no_count(tmp_path: Path, seed: int) -> None:
    """Killed at any moment, twice in turn, while this process writes too: what is counted is what is in the log."""
    path = tmp_path / "log.db"
    print(f"seed {seed}")
    with closing(opened(path)) as beside:
        scribe = Scribe(beside)
        for turn in range(2):
            with subprocess.Popen(
                [sys.executable, "-c", WRITER, str(path), str(seed + 100 * turn)], stdout=subprocess.PIPE, text=True
            ) as child:
                assert child.stdout is not None
                for _ in range(8 + seed * 3):
                    assert child.stdout.readline()
                    scribe.append(Fact(name=18, records=1 + seed), wait_seconds_max=20)
                child.kill()

            with closing(opened(path)) as store:
                rows = flat(store.read())
                assert dict(store.counted(0, None, counts_of)) == added_up(rows)
                middle = rows[len(rows) // 2].position
                assert dict(store.counted(middle, None, counts_of)) == added_up(
                    rows[len(rows) // 2 + (rows[len(rows) // 2].last <= middle) :]
                )
        assert dict(beside.counted(0, None, counts_of)) == added_up(flat(beside.read()))
    assert (0, 0) in written_blocks(path)


class Breaking(sqlite3.Connection):
    """A connection whose commits fail while it is told to let them."""

    broken = False

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:
        if sql == "commit" and Breaking.broken:
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            super().execute("rollback")
            raise error
        return super().execute(sql, parameters)


def test_a_commit_that_fails_counts_nothing(tmp_path: Path) -> None:
    """What was written with it is written again, and what was to be recorded is not counted."""

    def connect(path: str) -> sqlite3.Connection:
        return sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False, factory=Breaking)

    with closing(SqliteStore(str(tmp_path / "log.db"), connect=connect)) as store:
        store.index(read_by("today"), terms_of, lambda _done, _all: None)
        scribe = Scribe(store)
        for n in range(30):
            Breaking.broken = n % 3 == 2
            with pytest.raises(StoreFailed) if Breaking.broken else nullcontext():
                scribe.append(Fact(name=16 + n % 3, records=700), Fact(records=n + 1))
            Breaking.broken = False
            assert dict(store.counted(0, None, counts_of)) == added_up(flat(store.read()))
        rows: list[Row] = flat(store.read())
    assert len(rows) == 40
    with closing(opened(tmp_path / "log.db")) as again:
        assert dict(again.counted(0, None, counts_of)) == added_up(rows)


def test_sums_that_were_dropped_are_made_anew(tmp_path: Path) -> None:
    """They are the shelf: without them nothing is lost but time."""
    path = tmp_path / "log.db"
    with closing(opened(path)) as store:
        Scribe(store).append(*[Fact(records=300)] * 50)
        rows = flat(store.read())
    with closing(sqlite3.connect(path)) as connection:
        for table in runs.TABLES:
            connection.execute(f"drop table {table}")
        connection.commit()

    with closing(opened(path)) as store:
        assert dict(store.counted(0, None, counts_of)) == added_up(rows)
        assert dict(store.counted(5_000, 9_000, counts_of)) == added_up(flat(store.read(5_000, 9_000)))
