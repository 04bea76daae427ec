"""Leases: who runs what. Each handler has one owner at a time, with an epoch that goes up at every change of hands.

A lease is a note of the log, changed under its lock. It says who may work, and only that: what makes work safe is the epoch, which stands in the same
compare-and-set as the checkpoint, so that a paused and revived owner can't write. A lease that ran out, or whose process is gone, is free.
"""

import contextlib
import threading
from collections.abc import Collection, Mapping, Sequence

import msgspec

from happened.core.errors import Error
from happened.core.store import Commit, Store, Unseen
from happened.core.world import Source
from happened.log.row import encode

NOTE = "lease/"
LEASE_SECONDS = 10
SLICES = 64
"""A handler has so many slices of its key space; all are held by one owner until several workers share them."""

_ALL_SEEN = 1 << 62


class Held(msgspec.Struct, frozen=True):
    """One lease as it is noted."""

    owner: str
    epoch: int
    until: int
    """Microseconds since 1970."""
    slices: tuple[int, int] = (0, SLICES - 1)


def all_leases(store: Store, source: Source) -> list[tuple[str, Held, bool]]:
    """Return every lease there ever was, by name, with whether it is held now: who let go, ran out of time or is gone holds none."""
    noted = store.notes(NOTE)
    found = [(name.removeprefix(NOTE), msgspec.json.decode(body, type=Held)) for name, body in sorted(noted.items())]
    return [(name, held, _holds(held, source)) for name, held in found]


class Leases:
    """The leases that one open log competes for. Renewed by a thread while it is open."""

    def __init__(self, store: Store, source: Source, names: Sequence[str]) -> None:
        self._store = store
        self._source = source
        self._names = list(names)
        self._epochs: dict[str, int] = {}
        self._stop = threading.Event()
        self.changed = threading.Event()
        """Set when a lease was won, lost or added."""
        self._thread = threading.Thread(target=self._renew_again, name="happened-leases", daemon=True)
        self.owner = source.owner()

    def start(self) -> None:
        """Compete for all of them now, and go on doing so."""
        if self._names:
            self._compete()
            self._thread.start()

    def add(self, names: Sequence[str]) -> None:
        """Compete for these, too. Called before `start`."""
        self._names += names

    def epoch(self, name: str) -> int | None:
        """Return the epoch under which this process holds a lease, or `None` if it does not."""
        return self._epochs.get(name)

    def holder(self, name: str) -> str | None:
        """Return who holds a lease, of whichever process: who is noted, unless it ran out or that process is gone."""
        held = _held(self._store.notes(NOTE + name), name)
        return held.owner if held is not None and self._is_held(held) else None

    def forget(self, names: Collection[str]) -> None:
        """Delete the notes of these leases, those that somebody holds excepted."""

        def decide(unseen: Unseen) -> Commit:
            noted = unseen.notes(NOTE)
            return Commit(notes={NOTE + name: None for name in names if NOTE + name in noted and not self._is_held(_held(noted, name))})

        self._store.append(decide, _ALL_SEEN)

    def close(self) -> None:
        """Give all of them back."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._epochs:
            held, self._epochs = self._epochs, {}
            with contextlib.suppress(Error):  # the lock is busy: the leases run out by themselves, or are free once this process is gone
                self._store.append(lambda unseen: self._given_back(unseen, held), _ALL_SEEN, wait_seconds_max=1)

    def _renew_again(self) -> None:
        while not self._stop.wait(LEASE_SECONDS / 3):
            try:
                self._compete()
            except Error:  # the lock is busy, or the log is closing: what is held runs out by itself
                continue

    def _compete(self) -> None:
        before = dict(self._epochs)
        won: dict[str, int] = {}

        def decide(unseen: Unseen) -> Commit:
            now = self._source.now_us()
            notes: dict[str, str | None] = {}
            noted = unseen.notes(NOTE)
            for name in self._names:
                held = _held(noted, name)
                mine = held is not None and held.owner == self.owner
                if mine or not self._is_held(held):
                    epoch = (held.epoch if held is not None else 0) + (0 if mine else 1)
                    won[name] = epoch
                    notes[NOTE + name] = encode(Held(self.owner, epoch, now + LEASE_SECONDS * 1_000_000)).decode()
            return Commit(notes=notes)

        self._store.append(decide, _ALL_SEEN)
        self._epochs = won
        if won != before:
            self.changed.set()

    def _is_held(self, held: Held | None) -> bool:
        return held is not None and _holds(held, self._source)

    def _given_back(self, unseen: Unseen, mine: Mapping[str, int]) -> Commit:
        noted = unseen.notes(NOTE)
        notes: dict[str, str | None] = {}
        for name in mine:
            held = _held(noted, name)
            if held is not None and held.owner == self.owner:
                notes[NOTE + name] = encode(Held(self.owner, held.epoch, 0)).decode()
        return Commit(notes=notes)


def _holds(held: Held, source: Source) -> bool:
    return held.until >= source.now_us() and not source.gone(held.owner)


def _held(noted: Mapping[str, str], name: str) -> Held | None:
    body = noted.get(NOTE + name)
    return msgspec.json.decode(body, type=Held) if body is not None else None
