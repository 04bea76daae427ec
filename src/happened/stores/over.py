"""A log over another one: rows up to a position are the other's, which is only read; what comes after is kept beside, and so are all notes.

What lies in the other log after that position is not seen, by no way: not by reading, by the index, by an id or by a sum. Nothing of the other log is
copied: it goes on as it likes, and is whatever it was up to there. `Diverged` where it is not.

The index of the other log is used where it was made by the same reading. Where code reads tags otherwise, everything up to there is handed out instead,
which is more than was asked for, and never less.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence

import msgspec

from happened.core.errors import Diverged, Invalid
from happened.core.store import Bare, Commit, Engine, Head, Row, Terms, Unseen, Wanted
from happened.stores.cold import COUNTED
from happened.stores.sqlite import SqliteStore, connect_to_read, reading_on

PIN_NOTE = "pin"
"""The note of a log over another one that says which, and up to where."""


class Pin(msgspec.Struct, frozen=True):
    """Where a log stands on another one: who that is, up to which position, and the link of its chain there."""

    log: str
    epoch: int
    position: int
    at: int
    """When the record there was recorded, in microseconds since 1970."""
    digest: str
    names: int
    """The highest number of a name up to there: the index of what lies below knows no other."""
    path: str = ""
    """Where the other log is: a path, relative to this one's folder, or the URL of one in PostgreSQL, without a password; empty for one in memory."""

    @property
    def head(self) -> Head:
        """Where the other log stood."""
        return Head(self.position, self.at, bytes.fromhex(self.digest))

    def check(self, below: Engine) -> None:
        """Raise `Diverged` where the other log no longer has what it had here."""
        if not self.position:
            return
        for rows in below.read(self.position - 1, rows_max=1):
            if rows[0].last == self.position and rows[0].digest.hex() == self.digest:
                return
        raise Diverged(
            f"the log below no longer has what it had at position {self.position}: it was replaced, or cut. Make the branch anew",
            log=self.log,
            position=self.position,
        )


class Prefix(SqliteStore):
    """A file that is another log's, opened to read only, and looked at up to a position: what lies behind that is not even indexed."""

    def __init__(self, path: str, until: int) -> None:
        self._until = until
        self._found_by: dict[int, str] | None = None
        self._loaded = False
        super().__init__(path, connect=connect_to_read)

    def found_by(self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], /) -> bool:
        """Say how the index on disk was made. It is taken in, with what it does not hold yet, when somebody asks for it."""
        with self._index_lock, self._rows.reader() as reader:
            known = self._found_by
            if known is None or any(known.get(name, how) != how for name, how in reading.items()):
                self._loaded = False
                self._reading_stored = reading_on(reader)
                self._reading = dict(self._reading_stored)
            self._found_by = dict(reading)
            self._terms_of = terms_of
            return all(self._reading_stored.get(name, how) == how for name, how in reading.items())

    def _look_for_rebuild(self, connection: sqlite3.Connection) -> None:
        if not self._loaded:
            self._load_index(connection)
            self._loaded = True
        super()._look_for_rebuild(connection)

    def _to_index(self, connection: sqlite3.Connection) -> list[Row]:
        return [Row(*row) for row in self._cold.rows_between(connection, COUNTED, self._runs.indexed + 1, self._until, 1000)]


class Over:
    """A log over another one. What is `own` holds what comes after the pin, and every note."""

    def __init__(self, below: Engine, own: Engine, pin: Pin, *, owns: bool) -> None:
        pin.check(below)
        self.pin = pin
        self.sync_seconds = own.sync_seconds
        self._below = below
        self._own = own
        self._end = pin.position
        self._owns = owns
        """What lies below is closed with this."""
        self._alike = False
        """The index of what lies below was made by today's reading."""
        self._reading: dict[int, str] = {}

    def append(self, decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
        """Append to what is kept beside."""

        def over(unseen: Unseen) -> Commit:
            rows = unseen.rows
            if seen < self._end:
                rows = [*(row for page in self._below.read(seen, self._end) for row in page), *rows]

            def notes(start: str) -> Mapping[str, str]:
                return _without_pin(unseen.notes(start))

            commit = decide(Unseen(rows, self._standing(unseen.head), notes))
            if any(row.position <= self._end for row in commit.instead):
                raise Invalid("what is to be erased lies in the log that this is a branch of: erase it there", position=self._end)
            return commit

        head = self._own.append(over, seen, wait_seconds_max=wait_seconds_max)
        self.sync_seconds = self._own.sync_seconds
        return self._standing(head)

    def _standing(self, head: Head) -> Head:
        return head if head.position else self.pin.head

    def read(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        backwards: bool = False,
        rows_max: int = 1000,
    ) -> Iterator[Sequence[Row]]:
        """Yield pages of rows of the one and then of the other."""
        for part, end, asked in self._parts(after, until, wanted, backwards=backwards):
            yield from part.read(after, end, wanted=asked, backwards=backwards, rows_max=rows_max)

    def read_bare(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        rows_max: int = 1000,
        heads: bool = False,
        inputs: bool = False,
    ) -> Iterator[Sequence[Bare]]:
        """Yield pages of what a fold needs of rows."""
        for part, end, asked in self._parts(after, until, wanted, backwards=False):
            yield from part.read_bare(after, end, wanted=asked, rows_max=rows_max, heads=heads, inputs=inputs)

    def _parts(
        self, after: int, until: int | None, wanted: Sequence[Wanted] | None, *, backwards: bool
    ) -> Sequence[tuple[Engine, int | None, Sequence[Wanted] | None]]:
        """Return which of the two are to be read, each up to where, and by what of the index."""
        parts: list[tuple[Engine, int | None, Sequence[Wanted] | None]] = []
        if after < self._end:
            end = self._end if until is None else min(until, self._end)
            parts.append((self._below, end, wanted if self._alike else None))
        if until is None or until > self._end:
            parts.append((self._own, until, wanted))
        return parts[::-1] if backwards else parts

    def notes(self, start: str, before: str | None = None) -> Mapping[str, str]:
        """Return notes: all are kept beside."""
        return _without_pin(self._own.notes(start, before))

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait until something lies after this position."""
        return max(self._own.wait(after, wait_seconds_max if after >= self._end else 0.0), self._end)

    def scrub(self, progress: Callable[[int, int], None]) -> bool:
        """Do so in what is kept beside."""
        return self._own.scrub(progress)

    def close(self) -> None:
        """Give everything back."""
        self._own.close()
        if self._owns:
            self._below.close()

    def index(
        self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Callable[[int, int], None], *, guest: bool = False
    ) -> bool:
        """Say how rows are read today."""
        found = self._own.index(reading, terms_of, progress, guest=guest)
        self._reading = dict(reading)
        self._alike = self._below.found_by({name: how for name, how in reading.items() if name <= self.pin.names}, terms_of)
        return found and self._alike

    @property
    def path(self) -> str | None:
        """Where what comes after the pin is kept; `None` for memory."""
        return self._own.path if isinstance(self._own, SqliteStore) else None

    def found_by(self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], /) -> bool:
        """Say whether rows are found by this reading, where a log lies over this one."""
        if isinstance(self._own, Prefix):  # it was opened to be looked at from above, and nobody else says how it is read
            self._alike = self._below.found_by({name: how for name, how in reading.items() if name <= self.pin.names}, terms_of)
            return self._own.found_by(reading, terms_of)
        return all(self._reading.get(name, how) == how for name, how in reading.items())

    def find_id(self, id: str) -> Sequence[int]:
        """Return the positions of the rows that may use this id."""
        return [*(position for position in self._below.find_id(id) if position <= self._end), *self._own.find_id(id)]

    def find_ids(self, ids: Sequence[str]) -> frozenset[str]:
        """Return those of these ids that some row may use."""
        return self._below.find_ids(ids) | self._own.find_ids(ids)

    def counted(self, after: int, until: int | None, counts_of: Callable[[Row], Sequence[tuple[str, int]]]) -> Mapping[str, int]:
        """Add up what rows count."""
        sums: dict[str, int] = {}
        for part, end, _ in self._parts(after, until, None, backwards=False):
            for text, number in part.counted(after, end, counts_of).items():
                sums[text] = sums.get(text, 0) + number
        return sums

    def sample(self, handler: str, outcome: str, ran_us: int, what: str) -> None:
        """Count an execution that committed nothing."""
        self._own.sample(handler, outcome, ran_us, what)

    def samples(self) -> Sequence[tuple[str, str, int, int, str]]:
        """Return what was counted of this log, not of the other."""
        return self._own.samples()


def _without_pin(notes: Mapping[str, str]) -> Mapping[str, str]:
    return {key: body for key, body in notes.items() if key != PIN_NOTE} if PIN_NOTE in notes else notes


def below(engine: Engine, until: int) -> tuple[Engine, bool]:
    """Return an open log as what another may lie over, and whether it was opened for that: a file is opened once more, to read only."""
    if isinstance(engine, SqliteStore):
        return Prefix(engine.path, until), True
    return engine, False
