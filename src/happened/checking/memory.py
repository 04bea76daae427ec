"""Memory: the states of one walk through a log, folded row by row from what was recorded.

It is the memory image without what several threads, batches and a limit need: the same folds, by the same `evolve`, in dicts of its own.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple  # Any: events and keys of any class

from happened.core.errors import Stuck
from happened.core.messages import Several
from happened.core.state import Fold, Key
from happened.core.store import Row, Store
from happened.log.records import Reader, envelope_of
from happened.log.row import Header, decode_header
from happened.sourcing.memory_image import NEVER, Entry, MemoryImage, standing_still, stepped

Entries = dict[Key, Entry]


class Ways(NamedTuple):
    """How events of a class reach the states that are kept."""

    short: list[tuple[Callable[[Any], Any], bool, Fold, Entries]]
    """By plain fields: what reads them, whether it is one, whose states."""
    long: list[tuple[Fold, Entries]]


class Memory:
    """The states as of a row."""

    def __init__(self, store: Store, reader: Reader, folds: Iterable[Fold]) -> None:
        self._store = store
        self._reader = reader
        self.position = 0
        self._kept: dict[Fold, Entries] = {fold: {} for fold in folds}
        self._stopped: dict[Fold, Stuck] = {}
        self._ways: dict[type, Ways] = {}

    def get(self, fold: Fold, key: Key) -> Entry:
        """Return a state. `Stuck` where it stands still. A class that is met for the first time is folded from the beginning."""
        entries = self._kept.get(fold)
        if entries is None:
            entries = self._met(fold)
        entry = entries.get(key, NEVER)
        if self._stopped and fold in self._stopped:
            raise self._stopped[fold]
        if entry.stuck:
            raise standing_still(fold, key, entry)
        return entry

    def entries(self, fold: Fold) -> Entries:
        """Return all entries of a class that is kept."""
        return self._kept[fold]

    def apply(self, row: Row, header: Header | None, records: Iterable[Any]) -> None:
        """Let the events among the records of a row have happened. What `evolve` can't take stops its key. `None`: its header was not read yet."""
        start = row.position + (row.input is not None)
        for version, record in enumerate(records, start):
            event = record.body
            if event is None:
                continue
            short, long = self._ways.get(event.__class__) or self._found(event.__class__)
            for fields_of, single, fold, entries in short:
                value = fields_of(event)
                key: Key = (value,) if single else value
                if None not in key or not fold.skips_none:
                    entries[key] = stepped(fold, key, entries.get(key, NEVER), event, (), version)
            for fold, entries in long:
                self._apply(fold, entries, row, header or decode_header(row.head), version, event, record.extra)

    def _apply(self, fold: Fold, entries: Entries, row: Row, header: Header, version: int, event: Any, extra: Any) -> None:
        wants = fold.wants_record or fold.key_of is not None
        envelope = envelope_of(row, header, version - row.position, extra) if wants else None
        try:
            reached = list(fold.reading(event.__class__)(event, envelope))
        except Exception as error:  # noqa: BLE001 - what has happened has happened; whoever reads such a state hears why it can't be told
            self._stopped.setdefault(fold, Stuck(f"`{fold.name}` can't be told: its `key_of` failed at position {version}: {error}"))
            return
        for key, message in reached:
            entries[key] = stepped(fold, key, entries.get(key, NEVER), message, (envelope,) if fold.wants_record else (), version)

    def _met(self, fold: Fold) -> Entries:
        image = MemoryImage(self._store, self._reader, (), self.position)
        image.have_all(fold)
        self._kept[fold] = image.kept[fold].entries
        self._ways = {}
        return self._kept[fold]

    def _found(self, event: type) -> Ways:
        found = self._ways[event] = Ways([], [])
        for fold, entries in self._kept.items():
            if not fold.follows(event):
                continue
            if event is not Several and fold.fields_of is not None and not fold.wants_record and fold.key_of is None:
                found.short.append((fold.fields_of, len(fold.key) == 1, fold, entries))
            else:
                found.long.append((fold, entries))
        return found
