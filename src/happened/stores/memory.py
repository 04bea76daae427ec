"""A log in memory: for tests and for trying things out. It keeps the promises of a store but durability, and its index is never wrong nor stale."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence

from happened.core.errors import Closed, Diverged, Forked, Overloaded
from happened.core.store import START, Bare, Commit, Head, Row, Terms, Unseen, Wanted
from happened.core.waiting import within
from happened.stores.samples import Samples


class MemoryStore:
    """Keeps one log in this process. Gone when the process ends."""

    sync_seconds = 0.0

    def __init__(self) -> None:
        self._rows: list[Row] = []
        self._at: dict[int, int] = {}
        """Position of a row's first record -> its place in `_rows`."""
        self._notes: dict[str, str] = {}
        self._tags: dict[str, list[int]] = {}
        self._names: dict[int, list[int]] = {}
        self._ids: dict[str, list[int]] = {}
        self._counts: list[Sequence[tuple[str, int]]] = []
        """Of each row what is counted."""
        self._reading: dict[int, str] | None = None
        self._terms_of: Callable[[Row], Terms] | None = None
        self._lock = threading.RLock()
        """Of a kind that only its holder can release."""
        self._showing = threading.Lock()
        """Held for a moment, so that rows, notes and index of one commit are seen together."""
        self._grown = threading.Condition()
        self._samples = Samples()
        self._closed = False
        self._pid = os.getpid()

    def append(self, decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
        """Take the lock, hand over what is unseen, keep what comes back."""
        try:
            if not self._lock.acquire(timeout=wait_seconds_max):
                raise Overloaded(
                    f"the log's lock was not free within {wait_seconds_max:g} s; nothing was recorded", wait_seconds=wait_seconds_max
                )
            if self._pid != os.getpid():
                raise Forked("this log was opened before a fork, and lives in the parent's memory")
            if self._closed:
                raise Closed("the log is closed")
            commit = decide(Unseen(self._rows[self._place(seen) :], self._head(), self._noted))
            replaced = self._replaced(commit.instead) if commit.instead else self._rows
            anew = self._indexed_anew(self._terms_of, replaced) if commit.instead and self._terms_of is not None else None
            with self._showing:
                self._rows = replaced
                if anew is not None:
                    self._tags, self._names, self._ids, self._counts = anew
                for row, terms in zip(commit.rows, commit.terms, strict=True):
                    _file((self._tags, self._names, self._ids), row, terms)
                    self._counts.append(terms.counts)
                    self._at[row.position] = len(self._rows)
                    self._rows.append(row)
                for key, body in commit.notes.items():
                    if body is None:
                        self._notes.pop(key, None)
                    else:
                        self._notes[key] = body
            head = self._head()
            if commit.instead:
                self._samples.forget()
        finally:  # an interrupt may come as soon as it is acquired
            try:  # noqa: SIM105 - no function is called on this way
                self._lock.release()
            except RuntimeError:  # it was not acquired
                pass
        if commit.rows:
            with self._grown:
                self._grown.notify_all()
        return head

    def read(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        backwards: bool = False,
        rows_max: int = 1000,
    ) -> Iterator[Sequence[Row]]:
        """Yield pages of rows."""
        with self._showing:
            head = self._head().position
            last = head if until is None else min(until, head)
            places = range(self._place(after), self._place(last)) if wanted is None else self._found(after, last, wanted)
        ordered = places[::-1] if backwards else places
        for start in range(0, len(ordered), rows_max):
            yield [self._rows[place] for place in ordered[start : start + rows_max]]

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
        for rows in self.read(after, until, wanted=wanted, rows_max=rows_max):
            if inputs:
                yield [(row.last + 1, row.records, row.input) for row in rows]
                continue
            bare = [(row.position + (row.input is not None), row.last + 1, row.records) for row in rows]
            yield [(*of, row.position, row.at, row.head) for of, row in zip(bare, rows, strict=True)] if heads else bare

    def notes(self, start: str, before: str | None = None) -> Mapping[str, str]:
        """Return the notes whose key starts with a text."""
        with self._showing:
            found = self._noted(start)
            return found if before is None else {key: body for key, body in found.items() if key < before}

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait until something lies after this position."""
        with self._grown:
            self._grown.wait_for(lambda: self._closed or self._last_position() > after, within(wait_seconds_max))
        return self._last_position()

    def _last_position(self) -> int:
        with self._showing:
            return self._head().position

    def scrub(self, progress: Callable[[int, int], None]) -> bool:
        """Do nothing: what was replaced is kept nowhere."""
        progress(1, 1)
        return True

    def close(self) -> None:
        """Refuse what comes from now on."""
        with self._lock:
            self._closed = True
        with self._grown:
            self._grown.notify_all()

    def index(
        self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Callable[[int, int], None], *, guest: bool = False
    ) -> bool:
        """Find the terms of all rows anew: a log in memory is as short-lived as its index, and nobody is a guest beside others."""
        self._terms_of = terms_of
        if dict(reading) == self._reading:
            return True
        with self._lock:
            anew = self._indexed_anew(terms_of, self._rows, progress)
            with self._showing:
                self._tags, self._names, self._ids, self._counts = anew
                self._reading = dict(reading)
        return True

    def found_by(self, reading: Mapping[int, str], _terms_of: Callable[[Row], Terms], /) -> bool:
        """Say whether rows are found by this reading, where a log lies over this one."""
        return self._reading is not None and all(self._reading.get(name, how) == how for name, how in reading.items())

    @staticmethod
    def _indexed_anew(
        terms_of: Callable[[Row], Terms], rows: Sequence[Row], progress: Callable[[int, int], None] = lambda _done, _all: None
    ) -> tuple[dict[str, list[int]], dict[int, list[int]], dict[str, list[int]], list[Sequence[tuple[str, int]]]]:
        """Return the index of these rows, and what each of them counts. Nothing is shown of it meanwhile: how rows are read is told by others' code."""
        found: tuple[dict[str, list[int]], dict[int, list[int]], dict[str, list[int]]] = ({}, {}, {})
        counts: list[Sequence[tuple[str, int]]] = []
        for done, row in enumerate(rows):
            terms = terms_of(row)
            _file(found, row, terms)
            counts.append(terms.counts)
            progress(done + 1, len(rows))
        return *found, counts

    def find_id(self, id: str) -> Sequence[int]:
        """Return the position of the row that uses this id, if there is one."""
        return self._ids.get(id, ())

    def find_ids(self, ids: Sequence[str]) -> frozenset[str]:
        """Return those of these ids that some row uses."""
        return frozenset(self._ids.keys() & ids)

    def counted(self, after: int, until: int | None, counts_of: Callable[[Row], Sequence[tuple[str, int]]]) -> Mapping[str, int]:
        """Add up what the rows count, one by one: they are all in memory."""
        sums: dict[str, int] = {}
        with self._showing:
            head = self._head().position
            asked = self._counts[self._place(after) : self._place(head if until is None else min(until, head))]
        for counts in asked:
            for text, number in counts:
                sums[text] = sums.get(text, 0) + number
        return sums

    def sample(self, handler: str, outcome: str, ran_us: int, what: str) -> None:
        """Count an execution that committed nothing."""
        self._samples.add(handler, outcome, ran_us, what)

    def samples(self) -> Sequence[tuple[str, str, int, int, str]]:
        """Return what was counted."""
        return self._samples.all()

    def _replaced(self, instead: Sequence[Row]) -> list[Row]:
        """Return all rows, with these in the place of those at their positions."""
        rows = list(self._rows)
        for row in instead:
            place = self._at.get(row.position)
            if place is None or rows[place].digest != row.digest:
                raise Diverged(f"there is no such row at position {row.position} any more", position=row.position)
            rows[place] = row
        return rows

    def _head(self) -> Head:
        if not self._rows:
            return START
        last = self._rows[-1]
        return Head(last.last, last.at, last.digest)

    def _place(self, seen: int) -> int:
        """Return the place of the first row that does not end at or before this position."""
        low, high = 0, len(self._rows)
        while low < high:
            middle = (low + high) // 2
            if self._rows[middle].last <= seen:
                low = middle + 1
            else:
                high = middle
        return low

    def _found(self, after: int, last: int, wanted: Sequence[Wanted]) -> Sequence[int]:
        positions: set[int] = set()
        for item in wanted:
            ways = [set(self._tags.get(term, ())) for term in item.terms]
            if item.names:
                ways.append({position for name in item.names for position in self._names.get(name, ())})
            positions |= set[int].intersection(*ways) if ways else set(self._at)
        places = sorted(self._at[position] for position in positions)
        return [place for place in places if self._rows[place].last > after and self._rows[place].last <= last]

    def _noted(self, start: str) -> Mapping[str, str]:
        return {key: body for key, body in list(self._notes.items()) if key.startswith(start)}


def _file(index: tuple[dict[str, list[int]], dict[int, list[int]], dict[str, list[int]]], row: Row, terms: Terms) -> None:
    tags, names, ids = index
    for term in terms.tags:
        tags.setdefault(term, []).append(row.position)
    for name in terms.names:
        names.setdefault(name, []).append(row.position)
    if terms.id is not None:
        ids.setdefault(terms.id, []).append(row.position)
