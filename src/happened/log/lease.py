"""Leases: who runs what. Each handler has one owner at a time, with an epoch that goes up at every change of hands.

A lease is a note of the log, changed under its lock. It says who may work, and only that: what makes work safe is the epoch, which stands in the same
compare-and-set as the checkpoint, so that a paused and revived owner can't write. A lease that ran out, or whose process is gone, is free.

A handler that can be divided has a lease for each of its parts (`slices.py`). Who could work on it says in a note that it is there, so each knows which
slices are to be whose: all of them shared among those who are there, in the order in which they came.
"""

import contextlib
import threading
import time
from collections.abc import Collection, Generator, Mapping, Sequence

import msgspec

from happened.core.errors import Error
from happened.core.store import LOG_WORK, Commit, Engine, Store, Unseen
from happened.core.world import Source
from happened.log.row import encode
from happened.log.slices import NOTE as PROGRESS_NOTE
from happened.log.slices import WHOLE, Part, Piece, Progress, handler_of, parts_of, shared_among
from happened.log.writer import CLOSE_SECONDS_MAX

NOTE = "lease/"
PRESENT = "present/"
LEASE_SECONDS = 10
LOOK_SECONDS = 0.5
"""How soon who shares a handler sees that somebody came or went."""

_ALL_SEEN = 1 << 62


class Held(msgspec.Struct, frozen=True):
    """One lease as it is noted."""

    owner: str
    epoch: int
    until: int
    """Microseconds since 1970."""
    slices: tuple[int, int] = WHOLE


class Present(msgspec.Struct, frozen=True):
    """A worker that is there, as it is noted under the name of its owner."""

    since: int
    until: int
    """Both in microseconds since 1970."""
    by: dict[str, str]
    """For each handler that it can work on and that may be divided: the tag whose values fall into slices. Empty: it takes it as a whole."""


class _Found:
    """What a process has found when it competed."""

    def __init__(self) -> None:
        self.notes: dict[str, str | None] = {}
        self.won: dict[str, int] = {}
        """The epochs of all that it holds."""
        self.shares: dict[str, Sequence[Piece]] = {}
        self.seen: object = None
        """Who is there and who holds what."""


def all_leases(store: Store, source: Source) -> list[tuple[str, Held, bool]]:
    """Return every lease there ever was, by name, with whether it is held now: who let go, ran out of time or is gone holds none."""
    noted = store.notes(NOTE)
    found = [(name.removeprefix(NOTE), msgspec.json.decode(body, type=Held)) for name, body in sorted(noted.items())]
    return [(name, held, _holds(held, source)) for name, held in found]


class Leases:
    """The leases that one open log competes for. Renewed by a thread while it is open."""

    def __init__(self, store: Engine, source: Source, names: Sequence[str]) -> None:
        self._store = store
        self._source = source
        self._names = list(names)
        self._by: dict[str, str] = {}
        self._epochs: dict[str, int] = {}
        self._parts: tuple[Mapping[str, int], dict[str, list[str]]] = {}, {}
        """Of which handlers those are parts, and as of which epochs that was found."""
        self._shares: dict[str, Sequence[Piece]] = {}
        self._seen: object = None
        """Who was there and who held what, when this process competed last."""
        self._lock = threading.Lock()
        """Held by who changes what this process holds."""
        self._stop = threading.Event()
        self.changed = threading.Event()
        """Set when a lease was won, lost or added."""
        self._thread = threading.Thread(target=self._renew_again, name="happened-leases", daemon=True)
        self.owner = source.owner()
        self.trouble: str | None = None
        """What keeps this process from competing, if anything does."""

    def start(self) -> None:
        """Compete for all of them now, and go on doing so."""
        if self._names or self._by:
            self._compete()
            self._thread.start()

    def add(self, names: Sequence[str]) -> None:
        """Compete for these, too. Called before `start`."""
        self._names += names

    def share(self, by: Mapping[str, str]) -> None:
        """Compete for the parts of these handlers, too; `by` says by the values of which tag each is divided, if it is. Called before `start`."""
        self._by.update(by)

    def epoch(self, name: str) -> int | None:
        """Return the epoch under which this process holds a lease, or `None` if it does not."""
        return self._epochs.get(name)

    def parts(self, handler: str) -> list[str]:
        """Return the names of the parts of a handler that this process holds."""
        epochs = self._epochs  # another one whenever anything changes
        if self._parts[0] is not epochs:
            found: dict[str, list[str]] = {}
            for name in epochs:
                found.setdefault(handler_of(name), []).append(name)
            self._parts = epochs, found
        return self._parts[1].get(handler, [])

    def shares(self, handler: str) -> Sequence[Piece]:
        """Return which slices of a handler are to be whose, as of the last look; none where it is not to be divided."""
        return self._shares.get(handler, ())

    def lease_now(self, owner: str, epoch: int, slices: tuple[int, int], *, there: bool = True) -> str:
        """Return the text of a lease that runs from now on; of an owner that is not there any more it is free."""
        return encode(Held(owner, epoch, self._until() if there else 0, slices)).decode()

    @contextlib.contextmanager
    def redrawn(self, before: Collection[str], after: Mapping[str, int]) -> Generator[None]:
        """Hold in future the leases that `after` has come to name, with their epochs, instead of those before, if what is done within succeeds."""
        with self._lock:
            yield
            self._epochs = {name: epoch for name, epoch in self._epochs.items() if name not in before} | dict(after)
            self._seen = None

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
        """Give all of them back. Bounded: where the store does not answer they run out by themselves."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS_MAX)
            if self._thread.is_alive():
                return
        if self._epochs or self._by:
            self._epochs = {}
            with contextlib.suppress(Error):  # the lock is busy: the leases run out by themselves, or are free once this process is gone
                self._store.append(self._given_back, _ALL_SEEN, wait_seconds_max=1)

    def _renew_again(self) -> None:
        due = time.monotonic() + LEASE_SECONDS / 3
        while not self._stop.wait(LOOK_SECONDS if self._by else LEASE_SECONDS / 3):
            try:
                if not self._by or time.monotonic() >= due or self._looks() != self._seen:
                    self._compete()
                    due = time.monotonic() + LEASE_SECONDS / 3
                self.trouble = None
            except Error as error:  # the lock is busy, or the log is closing: what is held runs out by itself
                self.trouble = f"{type(error).__name__}: {error}"
            except Exception as error:  # noqa: BLE001 - it is counted; whatever it is, when it is over what has run out is to be taken again
                with contextlib.suppress(Error):
                    self._store.sample(f"{LOG_WORK}leases", "failed", 0, f"{type(error).__name__}: {error}")

    def _looks(self) -> object:
        """Return who is there and who holds what, without who renews it."""
        return self._view(self._store.notes(PRESENT), self._store.notes(NOTE))

    def _view(self, present: Mapping[str, str], noted: Mapping[str, str]) -> object:
        leases = {key.removeprefix(NOTE): msgspec.json.decode(body, type=Held) for key, body in noted.items()}
        return (
            {owner: one.by for owner, one in self._there(present).items()},
            {name: (held.owner, held.epoch, self._is_held(held)) for name, held in leases.items() if handler_of(name) in self._by},
        )

    def _there(self, noted: Mapping[str, str]) -> dict[str, Present]:
        """Return who is there, in the order in which they came."""
        found = {key.removeprefix(PRESENT): msgspec.json.decode(body, type=Present) for key, body in noted.items()}
        credible = self._source.now_us() + 2 * LEASE_SECONDS * 1_000_000  # whose clock is further ahead would be there long after its end
        there = {owner: one for owner, one in found.items() if one.until <= credible and self._is_there(owner, one)}
        return dict(sorted(there.items(), key=lambda one: (one[1].since, one[0])))

    def _is_there(self, owner: str, one: Present) -> bool:
        return one.until >= self._source.now_us() and not self._source.gone(owner)

    def _compete(self) -> None:
        with self._lock:
            before, found = self._epochs, _Found()

            def decide(unseen: Unseen) -> Commit:
                nonlocal found
                found = self._find(unseen)
                return Commit(notes=found.notes)

            self._store.append(decide, _ALL_SEEN)
            self._epochs, self._shares, self._seen = found.won, found.shares, found.seen
        if found.won != before:
            self.changed.set()

    def _find(self, unseen: Unseen) -> "_Found":
        """Look what is free or this process's, and what of it this process takes or renews."""
        found = _Found()
        noted = unseen.notes(NOTE)
        taken: dict[str, tuple[int, int]] = {name: WHOLE for name in self._names if self._is_free(_held(noted, name))}
        present: Mapping[str, str] = unseen.notes(PRESENT) if self._by else {}
        if self._by:
            there = self._there(present)
            since = there[self.owner].since if self.owner in there else self._source.now_us()
            there[self.owner] = Present(since, self._until(), self._by)
            for key, body in present.items():
                if not self._is_there(key.removeprefix(PRESENT), msgspec.json.decode(body, type=Present)):
                    found.notes[key] = None
            found.notes[PRESENT + self.owner] = encode(there[self.owner]).decode()
            noted_parts = parts_of(unseen.notes(PROGRESS_NOTE))
            for handler, by in self._by.items():
                parts = noted_parts.get(handler) or [Part(handler, Progress(0, 0))]
                sharing = [owner for owner, one in there.items() if one.by.get(handler) == by] if by else []
                shares = found.shares[handler] = list(shared_among(sharing))
                for part in parts:
                    held = _held(noted, part.name)
                    if self._takes(held, there, part, shares):
                        taken[part.name] = part.slices
                    elif held is not None and held.owner == self.owner:  # others are there who divide as it is divided
                        found.notes[NOTE + part.name] = _freed(held)
        for name, slices in taken.items():
            held = _held(noted, name)
            found.won[name] = 1 if held is None else held.epoch + (held.owner != self.owner)
            found.notes[NOTE + name] = self.lease_now(self.owner, found.won[name], slices)
        if self._by:
            found.seen = self._view({**present, **_texts(found.notes, PRESENT)}, {**noted, **_texts(found.notes, NOTE)})
        return found

    def _takes(self, held: Held | None, there: Mapping[str, Present], part: Part, shares: Sequence[Piece]) -> bool:
        """Say whether this process takes a part of a handler, or keeps it; `held` is its lease."""
        handler, [first, _] = handler_of(part.name), part.slices
        if not self._is_free(held):
            return False
        if part.by not in ("", self._by[handler]):  # by another tag than here: who divides by that goes first, else one brings all together
            able = [(owner, one.by[handler]) for owner, one in there.items() if handler in one.by]
            return able[0][0] == self.owner and all(by != part.by for _, by in able)
        mine = held is not None and held.owner == self.owner
        return mine or not shares or any(one.owner == self.owner and one.first <= first <= one.last for one in shares)

    def _is_free(self, held: Held | None) -> bool:
        """Say whether this process may take what is held so, or has it."""
        return held is None or held.owner == self.owner or not self._is_held(held)

    def _until(self) -> int:
        return self._source.now_us() + LEASE_SECONDS * 1_000_000

    def _is_held(self, held: Held | None) -> bool:
        return held is not None and _holds(held, self._source)

    def _given_back(self, unseen: Unseen) -> Commit:
        """Say of all that is noted as this process's that it is free: also of what others have given to it and it has not seen yet."""
        notes: dict[str, str | None] = {}
        for key, body in unseen.notes(NOTE).items():
            name, held = key.removeprefix(NOTE), msgspec.json.decode(body, type=Held)
            if held.owner == self.owner and (name in self._names or handler_of(name) in self._by):
                notes[key] = _freed(held)
        if self._by:
            notes[PRESENT + self.owner] = None
        return Commit(notes=notes)


def _freed(held: Held) -> str:
    """Return the text of a lease that its owner has given back."""
    return encode(msgspec.structs.replace(held, until=0)).decode()


def _texts(notes: Mapping[str, str | None], prefix: str) -> dict[str, str]:
    """Return those notes that are written, and not deleted, under a prefix."""
    return {key: body for key, body in notes.items() if body is not None and key.startswith(prefix)}


def _holds(held: Held, source: Source) -> bool:
    return held.until >= source.now_us() and not source.gone(held.owner)


def _held(noted: Mapping[str, str], name: str) -> Held | None:
    body = noted.get(NOTE + name)
    return msgspec.json.decode(body, type=Held) if body is not None else None
