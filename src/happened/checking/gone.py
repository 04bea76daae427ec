"""Gone: what is erased of a log, as a walk comes by it, and who had read it, or may have.

Of an erased event its name stays, and not its tags: whose state it had changed is only known where a decision tells the position of the last change that it
had read. Every other state of a class that is folded from such events may have been changed by it.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple  # Any: what a header says of reads is JSON

from happened.core.errors import Stuck
from happened.core.state import Fold, Key
from happened.core.store import Row
from happened.log.records import Reader
from happened.log.row import ERASED, FIRST_NUMBER, taken_apart_text
from happened.sourcing.memory_image import Entry

Entries = Callable[[Fold, Key], Entry]

LISTED_MAX = 100
"""How many positions are told of what may have been read."""

ERASED_TEXT = ",null"
"""Stands in the text of each row of which something is erased, and may stand in others."""


class Reads(NamedTuple):
    """Positions of erased events that a decision or a run had read, and, of those of which it is not known, the latest that it may have read."""

    known: tuple[int, ...] = ()
    possible: tuple[int, ...] = ()


class Gone:
    """What is erased up to where a walk has come."""

    def __init__(self, reader: Reader, entry: Entries) -> None:
        self._reader = reader
        self._entry = entry
        self._events: dict[int, frozenset[type]] = {}
        """By its position, of which classes an erased event may have been."""
        self._of_fold: dict[Fold, list[int]] = {}
        self._known: dict[tuple[Fold, Key], set[int]] = {}
        self._read: dict[tuple[Fold, Key], None] = {}

    def look(self, row: Row) -> None:
        """Take in what is erased of the next row."""
        if ERASED_TEXT not in row.records:
            return
        start = row.position + (row.input is not None)
        for position, record in enumerate(taken_apart_text(row.records, start), start):
            if record.number >= FIRST_NUMBER and bytes(record.body) == ERASED:
                classes = self._classes_of(record.number)
                self._events[position] = classes
                for fold, positions in self._of_fold.items():
                    if any(map(fold.follows, classes)):
                        positions.append(position)

    def begin(self) -> None:
        """Note from here on what is read."""
        self._read.clear()

    def entry(self, fold: Fold, key: Key) -> Entry:
        """Return a state, and note that it was read."""
        if self._events:
            self._read[fold, key] = None
        return self._entry(fold, key)

    def learn(self, versions: Iterable[Any]) -> None:
        """Hear where what was read since `begin` was last changed then, as a header says: whoever reads it later had read that, too."""
        if not self._events:
            return
        for version in _positions(versions):
            classes = self._events.get(version, ())
            for fold, key in self._read:
                if any(map(fold.follows, classes)) and self._version(fold, key) < version:
                    self._known.setdefault((fold, key), set()).add(version)

    def read(self) -> Reads:
        """Return what was read since `begin` that is erased."""
        if not self._events:
            return Reads()
        known = {position for one in self._read for position in self._known.get(one, ())}
        possible = {position for fold in {fold for fold, _ in self._read} for position in self._followed(fold)[-LISTED_MAX:]}
        return Reads(tuple(sorted(known)), tuple(sorted(possible - known)))

    def _version(self, fold: Fold, key: Key) -> int:
        try:
            return self._entry(fold, key).version
        except Stuck:  # it stands still since something that came before was erased, say
            return 0

    def _followed(self, fold: Fold) -> list[int]:
        if fold not in self._of_fold:
            self._of_fold[fold] = [position for position, classes in self._events.items() if any(map(fold.follows, classes))]
        return self._of_fold[fold]

    def _classes_of(self, number: int) -> frozenset[type]:
        way = self._reader.way(number)
        cls = self._reader.class_of(number)
        return way.classes if way is not None else frozenset([cls] if cls is not None else [])


def _positions(versions: Iterable[Any]) -> Iterable[int]:
    """Yield the positions in what a header says of reads: of each parameter one, or one for each key; or name, key and position."""
    for version in versions:
        if type(version) is int:
            yield version
        elif version and type(version[0]) is str:
            yield version[-1]
        else:
            yield from version
