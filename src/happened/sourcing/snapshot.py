"""Snapshots: all states of a class as of a position, kept so that a fold need not begin at zero.

That of a view that joins other states holds its rows and all states of those classes, as of one position: what its fold needs to go on.

A snapshot says what it is of (log, epoch, position, the digest of the row there) and which code made it (a fingerprint of the state and of its events).
One of another history or of other code is not used, and `listed` says why. A fingerprint is no proof: when a snapshot is taken, and when it is first used
by a process, the states of some keys are folded again from the log and compared. A load for a decision must not wait for that: the first one folds what it
asks for from the snapshot before to this one, and compares; an app that runs then does the rest beside it.

They are taken by cost: as soon as folding what came since the last one has taken longer than writing one takes. Whoever takes them folds from the log by
itself, without the writer's lock. Of many, those are dropped whose neighbours are nearest, so that they lie evenly and no fold from one to the next grows long.
"""

import hashlib
import itertools
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol  # Any: states of any class

import msgspec

from happened.core.errors import Broken, Closed, Error, Invalid
from happened.core.messages import Event, name_of
from happened.core.state import Fold, Key, State, fold_of
from happened.core.store import Wanted
from happened.core.tags import tag_text
from happened.log.fingerprint import fingerprint_of
from happened.log.held import told
from happened.log.log import Log, Progress, latest_erasure
from happened.log.worker import TROUBLE, glance
from happened.log.writer import CLOSE_SECONDS_MAX
from happened.shelf.snapshots import Kept, SnapshotsFile
from happened.sourcing.memory_image import NEVER, Entry, MemoryImage

FORMAT = "1"
"""Stands in every fingerprint: goes up when states are kept otherwise."""

CHUNK_STATES = 256
"""States in a chunk: what is read to find one of them. Fewer where they are large."""

CHUNK_BYTES = 64 * 1024
"""About as much as a chunk holds, before it is compressed. One state may be larger by itself."""

WEIGHED_MAX = 256
"""States of all that are weighed, to know how large they are."""

KEPT_MAX = 32
"""Snapshots of a class; then those go whose neighbours are nearest."""

BYTES_MAX = 256 << 20
"""Bytes of all snapshots of a class. The latest stays, however large."""

PROVEN_KEYS = 3
"""Keys that are folded again from the log when a snapshot is taken; when it is first used it is one."""

LEAST_SECONDS = 0.05
"""A fold that is shorter than this is worth no snapshot."""

GUESSED_SECONDS = 1e-6
"""What it may take to fold a record, where there are too few to measure."""

TRIED_RECORDS = 1_000
"""Records that are folded at a time to measure that."""

PLAIN_KEYS = (str, int)

CHUNK_EVENTS = 50
"""To read one chunk takes as long as to load about so many events by the index."""

FEW_KEYS = 2
"""So few keys are always looked for in a snapshot: what it may cost is little, what it may save is much."""

REST = 20
"""So many times as long as a snapshot was worked on, nothing is taken: threads share one lock of Python, and the writer is to have most of it."""

SLICE_SECONDS, PAUSE_SECONDS, BUSY_PAUSE_SECONDS = 0.0002, 0.00005, 0.001
"""After so long it waits so long, and longer beside commands. A thread that asks for Python's lock is else given it after 5 ms, and a commit asks for it half
a dozen times, one that writes a part of the index dozens of times, and is to meet few of the slices."""

PAUSE_STATES = 32
"""It is looked whether to wait each time so many states were put in their places."""

PARTS = 4_096
"""Dicts that all states are spread over while a snapshot is taken: one of a million would be grown, looked at for garbage and freed in one piece."""

LOOK_SECONDS = 1.0
"""How often to look whether a snapshot is worth it."""

AGAIN_SECONDS = 10.0
"""How long to leave alone what could not be read or written: what keeps the database or the file away may be over then."""


class Snapshot(msgspec.Struct, frozen=True):
    """A snapshot that is there: all states of a class as of a position. `wrong` says why it is not used, and is empty where it is."""

    state: str
    position: int
    states: int
    bytes: int
    seconds: float
    wrong: str = ""


class Since(NamedTuple):
    """From where a fold goes on: the states as of a position, and where they are rows of a view those of each state that it joins."""

    position: int
    entries: Mapping[Key, Entry]
    joined: Sequence[Mapping[Key, Entry]] = ()

    def rows(self) -> tuple[int, list[dict[Key, tuple[State, int]]]]:
        """Return the position, and each state that is there with the position of its last change: of the class, then of each that it joins."""
        return self.position, [
            {key: (entry.state, entry.version) for key, entry in entries.items() if entry.state is not None}
            for entries in (self.entries, *self.joined)
        ]


ZERO = Since(0, {})

UNKNOWN = Kept(0, "", "", "", 0, 0, b"", 0, 0, 0, 0.0)
"""Stands for what nobody has looked up yet."""


def meaning_after(meaning: str, erasure: int) -> str:
    """Return the fingerprint of snapshots taken after an erasure, by its position: what was folded before that may hold what was in the bodies."""
    return f"{meaning}-{erasure}" if erasure else meaning


class Views(Protocol):
    """Folds views that join other states, in the way that views are folded."""

    def rows(
        self,
        fold: Fold,
        start: tuple[int, Sequence[Mapping[Key, tuple[State, int]]]],
        until: int,
        found: Sequence[Callable[[Key, State, int], None]],
        pause: Callable[[], None],
        clock: Callable[[], float],
    ) -> float:
        """Give each row as of a position, with the position of its last change: those of the view to the first of `found`, then of each state it joins.

        Returns how many seconds of it were the fold itself, by this clock.
        """
        ...

    def row(
        self, fold: Fold, key: Key, until: int, wanted: Callable[[Fold, Sequence[Key]], Sequence[Wanted]]
    ) -> tuple[State | None] | None:
        """Fold one row from zero, by the index; `None` where that is too much."""
        ...


class Of(msgspec.Struct, frozen=True, gc=False):
    """A key in a dict that is never looked through for garbage: with tuples in it, it would be, and that takes 0.1 s for a million."""

    key: Key


Part = dict[Of, Entry]


class Parted:
    """States by key in many small dicts, so that no step with them is long."""

    def __init__(self) -> None:
        self.parts: list[Part] = [{} for _ in range(PARTS)]

    def get(self, key: Key, /) -> Entry | None:
        """Return the entry of a key, if there is one."""
        return self.parts[hash(key) % PARTS].get(Of(key))

    def __setitem__(self, key: Key, entry: Entry, /) -> None:
        """Put an entry in its place."""
        self.parts[hash(key) % PARTS][Of(key)] = entry

    def put(self, key: Key, state: State, version: int) -> None:
        """Put a state in its place."""
        self[key] = Entry(state, version)

    def __len__(self) -> int:
        """Return how many there are."""
        return sum(map(len, self.parts))


class Pauses:
    """Lets others on now and then, as it is called."""

    def __init__(self, reached: Callable[[], int]) -> None:
        self._reached = reached
        """How far what this process has recorded goes."""
        self._before = reached()
        self._made = self._since = time.perf_counter()
        self._waited = 0.0

    def __call__(self) -> None:
        """Wait a moment if it is long since the last one: a longer one where something was recorded meanwhile."""
        began = time.perf_counter()
        if began - self._since > SLICE_SECONDS:
            reached = self._reached()
            time.sleep(PAUSE_SECONDS if reached == self._before else BUSY_PAUSE_SECONDS)
            self._before = reached
            self._since = time.perf_counter()
            self._waited += self._since - began

    def worked(self) -> float:
        """Return the seconds since it was made, less those that it has waited."""
        return time.perf_counter() - self._made - self._waited


class Snapshots:
    """The snapshots of one open log."""

    def __init__(self, log: Log, image: MemoryImage, views: Views, file: SnapshotsFile) -> None:
        self._log = log
        self._image = image
        self._views = views
        self.file = file
        self._meanings: dict[Fold, str] = {}
        self._known: dict[int, str] = {}
        """Of each snapshot that was looked at: why it is not used. Its part of the log can't change."""
        self._latest: dict[Fold, Kept | None] = {}
        """What loads begin with; of a class that is not in it nobody has looked it up yet."""
        self._let_go = 0
        """How often they were told to begin with nothing: what was looked up before that does not count."""
        self._finding = threading.Lock()
        self._taking = threading.Lock()
        self.took = 0.0, 0.0
        """Seconds of work that the last one took to load what there was before it, and to fold the rest."""
        self._decoders: dict[Fold, Any] = {}

    # --- using

    def since(self, fold: Fold, until: int, pause: Callable[[], None] = lambda: None) -> Since:
        """Return the latest states as of a position up to this one: from the nearest snapshot that may be used, else none at 0. `pause` after each chunk."""
        kept = self._nearest(fold, until)
        if kept is None:
            return ZERO
        found: list[dict[Key, Entry]] = [{} for _ in _tables_of(fold)]
        for body in self.file.chunks(kept):
            if body is None:  # dropped meanwhile, by whichever process
                return ZERO
            table, entries = self._part(fold, body)
            found[table].update(entries)
            pause()
        return Since(kept.position, found[0], found[1:])

    def position(self, fold: Fold, until: int) -> int:
        """Return as of when the nearest snapshot is that may be used; 0 where there is none."""
        kept = self._nearest(fold, until)
        return kept.position if kept is not None else 0

    def one(self, fold: Fold, key: Key, until: int) -> tuple[int, Entry | None]:
        """Return the state of one key in the nearest snapshot, and as of when; reads one chunk."""
        if any(type(value) not in PLAIN_KEYS for value in key):  # what is equal may have another text, and lie in another chunk
            since = self.since(fold, until)
            return since.position, since.entries.get(key)
        kept = self._nearest(fold, until)
        body = self.file.chunk(kept.id, _place_of(key, kept.chunks)) if kept is not None and kept.chunks else None
        if kept is None or body is None:
            return 0, None
        return kept.position, self._decoded(fold, body).get(key)

    def renew(self, fold: Fold) -> None:
        """Look up, and prove, which snapshot of a class loads are to begin with from now on. It is done beside commands, never in their way."""
        known = self._let_go
        self._begin_with(fold, self._nearest(fold, self._log.head), known)

    def let_go(self) -> None:
        """Have loads begin without snapshots, until they are looked up again: those of before may hold what was erased."""
        with self._finding:
            self._let_go += 1
            self._latest.clear()

    def latest(self, fold: Fold, keys: Sequence[Key], until: int) -> tuple[int, Mapping[Key, Entry]]:
        """Return the states of those of these keys that a load is to begin with, and as of when they are; none where it is quicker without.

        The first load of a class looks up the latest snapshot, and proves it by its own keys; then it is what `renew` has found. Trouble with the file is
        none of the load's.
        """
        if any(type(value) not in PLAIN_KEYS for key in keys for value in key):  # as in `one`
            return 0, {}
        try:
            kept = self._latest.get(fold, UNKNOWN)
            if kept is UNKNOWN:
                kept = self._first(fold, keys, until)
            if kept is None or kept.position > until:
                return 0, {}
            return kept.position, self._found(fold, keys, kept)
        except (Error, zlib.error, msgspec.MsgspecError, ValueError):
            return 0, {}

    def _first(self, fold: Fold, keys: Sequence[Key], until: int) -> Kept | None:
        """Find what loads of a class begin with: the nearest snapshot that holds what the one before it, and the log behind that, say of these keys.

        Where there is none before it, that is all of the log. One that says nothing of them is not used, and the next load looks again.
        """
        known = self._let_go
        there = [kept for kept in reversed(self.file.listed()) if kept.name == fold.name and kept.position <= until]
        meaning = self._meaning(fold) if there else ""
        may_be = (kept for kept in there if kept.fingerprint == meaning and not self._known.get(kept.id) and not self._origin(kept))
        for kept in may_be:
            if kept.id in self._known or not self._provable(fold):
                return self._begin_with(fold, kept, known)
            found = self._found(fold, keys[:FEW_KEYS], kept)
            if not found:
                return None
            before = next(may_be, None)
            start = self._found(fold, list(found), before) if before is not None else {}
            for key, entry in found.items():
                after = before.position if before is not None else 0
                folded = self._image.as_of(fold, key, kept.position, after=after, before=start.get(key, NEVER))
                if folded != entry:
                    self._known[kept.id] = f"it does not hold what the log says: `{fold.name}` of {key!r} is {folded.state!r}"
                    return None
            return self._begin_with(fold, kept, known)
        return self._begin_with(fold, None, known)

    def _found(self, fold: Fold, keys: Sequence[Key], kept: Kept) -> dict[Key, Entry]:
        """Return the states of keys that a snapshot has, where that is quicker than to load them without it: by what a key has in the mean."""
        places: dict[int, list[Key]] = {}
        for key in keys if kept.chunks else ():
            places.setdefault(_place_of(key, kept.chunks), []).append(key)
        if len(keys) > FEW_KEYS and len(keys) * kept.position < len(places) * kept.states * CHUNK_EVENTS:
            return {}
        found: dict[Key, Entry] = {}
        for place, some in places.items():
            body = self.file.chunk(kept.id, place)
            if body is None:  # dropped meanwhile, by whichever process
                return {}
            entries = self._decoded(fold, body)
            found.update((key, entries[key]) for key in some if key in entries)
        return found

    def _begin_with(self, fold: Fold, kept: Kept | None, known: int) -> Kept | None:
        """Have loads of a class begin with a snapshot, unless they were told to let go since that was looked up."""
        with self._finding:
            if known != self._let_go:
                return None
            self._latest[fold] = kept
            return kept

    def listed(self, folds: Iterable[Fold]) -> list[Snapshot]:
        """Return all snapshots that are there, each with why it is not used, if it is not: of no class of these, of other code, of another history."""
        by_name = {fold.name: fold for fold in folds}
        return [
            Snapshot(kept.name, kept.position, kept.states, kept.bytes, kept.seconds, self._wrong(by_name.get(kept.name), kept))
            for kept in self.file.listed()
        ]

    # --- taking

    def take(self, fold: Fold, until: int, progress: Progress = lambda _done, _all: None) -> Snapshot:
        """Take a snapshot of all states of a class as of a position that is the last of a row; where there is one, that is returned.

        Folds on from the nearest one; anew where something is erased meanwhile, which may be in what was folded. `Invalid` where the states can't be kept or a
        key stands still. Cost: the fold, and some microseconds a state; other threads get on meanwhile.
        """
        with self._taking:
            while True:
                meaning = self._meaning(fold)
                try:
                    made, taken = self._taken(fold, until, meaning, progress)
                except Broken:
                    if self._meaning(fold) == meaning:
                        raise
                    continue
                if self._meaning(fold) == meaning:
                    return taken
                self.file.drop([made])

    def rate(self, fold: Fold, seconds: float) -> float | None:
        """Return how many seconds a record takes to fold, tried from the beginning of the log for about so many; `None` where there are too few."""
        entries: dict[Key, Entry] = {}
        at, took, pause = 0, 0.0, self._pauses()
        while took < seconds and (row := self._log.row_at((2 * at if fold.joins else at) + TRIED_RECORDS)) is not None:
            if fold.joins:  # it begins anew each time, with more
                _, took = self._rows(fold, ZERO, row.last, pause)
            else:
                self._image.entries(fold, entries, at, row.last, pause)
                took = pause.worked()
            at = row.last
        return took / at if at else None

    def drop(self, names: Iterable[str] | None = None, *, wrong: Iterable[Fold] | None = None) -> int:
        """Delete snapshots: of these states, or all; with `wrong`, only those that are not used. Return how many. Nothing is lost but time."""
        wanted = None if names is None else set(names)
        by_name = {fold.name: fold for fold in wrong or ()}
        gone = [
            kept.id
            for kept in self.file.listed()
            if (wanted is None or kept.name in wanted) and (wrong is None or self._wrong(by_name.get(kept.name), kept))
        ]
        self.file.drop([*gone, *(self.file.unfinished() if names is None and wrong is None else ())])
        return len(set(gone) - {kept.id for kept in self.file.listed()})  # what a branch has of its origin stays there

    def close(self) -> None:
        """Give the file back."""
        self.file.close()

    def _pauses(self) -> Pauses:
        return Pauses(lambda: self._image.position)

    def _taken(self, fold: Fold, until: int, meaning: str, progress: Progress) -> tuple[int, Snapshot]:
        there = self._nearest(fold, until)
        if there is not None and there.position == until:
            return there.id, Snapshot(there.name, there.position, there.states, there.bytes, there.seconds)
        entries, pause = Parted(), self._pauses()
        if fold.joins:
            since = self.since(fold, until, pause) if there is not None else ZERO
            progress(since.position, until)
            tables, folding = self._rows(fold, since, until, pause)
        else:
            after = there.position if there is not None and self._loaded(fold, there, entries, pause) else 0
            entries = entries if after else Parted()
            progress(after, until)
            loaded = pause.worked()
            self._image.entries(fold, entries, after, until, pause)
            tables, folding = [entries], pause.worked() - loaded
        self.took = pause.worked() - folding, folding
        progress(until, until)
        return self._written(fold, meaning, tables, until, progress, pause)

    def _loaded(self, fold: Fold, kept: Kept, entries: Parted, pause: Pauses) -> bool:
        """Take in all states of a snapshot; say whether they were still there."""
        for body in self.file.chunks(kept):
            if body is None:
                return False
            for n, (key, entry) in enumerate(self._decoded(fold, body).items()):
                entries[key] = entry
                if not n % PAUSE_STATES:
                    pause()
        return True

    def _rows(self, fold: Fold, since: Since, until: int, pause: Pauses) -> tuple[list[Parted], float]:
        """Fold a view that joins other states on to a position: its rows, and all of the states that it asks for; and say how long the fold itself took."""
        found = [Parted() for _ in _tables_of(fold)]
        return found, self._views.rows(fold, since.rows(), until, [parted.put for parted in found], pause, pause.worked)

    def _written(
        self, fold: Fold, meaning: str, tables: Sequence[Parted], until: int, progress: Progress, pause: Pauses
    ) -> tuple[int, Snapshot]:
        row = self._log.row_at(until)
        if row is None or row.last != until:
            raise Invalid(f"a snapshot is as of the end of a command, and {until} is none", position=until)
        parts = [(one, self._chunks(one, entries, pause)) for one, entries in zip(_tables_of(fold), tables, strict=True)]
        count = sum(len(part) for _, chunks in parts for part in chunks)
        for one, chunks in parts:
            for place in _any_of(len(chunks), PROVEN_KEYS):
                self._prove(one, {of.key: entry for of, entry in chunks[place].items()}, until, 1)
        began = pause.worked()
        bodies = itertools.chain.from_iterable(
            self._encoded(one, chunks, bytes([table]) if fold.joins else b"", progress, pause) for table, (one, chunks) in enumerate(parts)
        )
        identity = self._log.identity
        about = Kept(0, fold.name, meaning, identity.id, identity.epoch, until, row.digest, count, 0, 0, 0.0)
        made = self.file.put(about, bodies)
        seconds = pause.worked() - began
        self.file.timed(made, seconds)
        self._known[made] = ""
        self._thin_out(fold)
        [kept] = [one for one in self.file.listed() if one.id == made] or [about]
        return made, Snapshot(fold.name, until, count, kept.bytes, seconds)

    def _thin_out(self, fold: Fold) -> None:
        """Drop those of other code, and of today's those that are too many: always the one whose neighbours are nearest, never the last."""
        of_name = [kept for kept in self.file.listed() if kept.name == fold.name]
        meaning = self._meaning(fold)
        self.file.drop(kept.id for kept in of_name if kept.fingerprint != meaning)
        own = [kept for kept in of_name if kept.fingerprint == meaning]
        while len(own) > 1 and (len(own) > KEPT_MAX or sum(kept.bytes for kept in own) > BYTES_MAX):
            positions = [0, *(kept.position for kept in own)]
            nearest = min(range(len(own) - 1), key=lambda at: positions[at + 2] - positions[at])
            self.file.drop([own.pop(nearest).id])

    # --- within

    def _nearest(self, fold: Fold, until: int) -> Kept | None:
        meaning = self._meaning(fold)
        for kept in reversed(self.file.listed()):
            if kept.name == fold.name and kept.position <= until and kept.fingerprint == meaning and not self._wrong(fold, kept):
                return kept
        return None

    def _wrong(self, fold: Fold | None, kept: Kept) -> str:
        """Return why a snapshot is not used."""
        if fold is None:
            return "the app has no state of this name"
        if kept.fingerprint != self._meaning(fold):
            return "it was made by other code"
        known = self._known.get(kept.id)
        if known is None:
            known = self._known[kept.id] = self._origin(kept) or self._proof(fold, kept)
        return known

    def _origin(self, kept: Kept) -> str:
        identity = self._log.identity
        row = self._log.row_at(kept.position)
        if kept.log != identity.id:
            return f"it is of the log {kept.log}"
        if kept.epoch > identity.epoch or row is None or row.last != kept.position or row.digest != kept.digest:
            return "it is of another history of this log"
        return ""

    def _proof(self, fold: Fold, kept: Kept) -> str:
        """Return what is wrong with one chunk of it, taken at random: it can't be read, or a state in it is not what the log says.

        Of a view that joins other states it is one of its own rows beside: where it has any they lie in the first chunk.
        """
        if not kept.states:
            return ""
        try:
            for place in {*_any_of(kept.chunks, 1), *range(1 if fold.joins else 0)}:
                table, entries = self._part(fold, self.file.chunk(kept.id, place) or b"")
                self._prove(_tables_of(fold)[table], entries, kept.position, 1)
        except (zlib.error, msgspec.MsgspecError, ValueError, IndexError, Broken) as error:
            return f"it does not hold what the log says: {told(error)}"
        return ""

    def _prove(self, fold: Fold, entries: Mapping[Key, Entry], position: int, count: int) -> None:
        """Fold some keys from zero, and raise `Broken` where that comes to something else. Only where the index finds them: else it is the whole log."""
        if not self._provable(fold):
            return
        keys = list(entries)
        for key in [keys[place] for place in _any_of(len(keys), count)]:
            folded = (
                self._views.row(fold, key, position, self._image.wanted) if fold.joins else (self._image.as_of(fold, key, position).state,)
            )
            if folded is not None and folded[0] != entries[key].state:
                raise Broken(
                    f"`{fold.name}` of {key!r} at position {position} is {folded[0]!r} folded from the log, and {entries[key].state!r} in the snapshot",
                    state=fold.name,
                    position=position,
                )

    def _provable(self, fold: Fold) -> bool:
        return all(one.key_of is None and any(one.tags) for one in _tables_of(fold))

    def _meaning(self, fold: Fold) -> str:
        return meaning_after(self._own_meaning(fold), latest_erasure(self._log.engine))

    def _own_meaning(self, fold: Fold) -> str:
        found = self._meanings.get(fold)
        if found is None:
            tables = _tables_of(fold)
            events: Iterable[type] = dict.fromkeys(event for one in tables for event in one.readings)
            if any(one.everything for one in tables):
                events = sorted([cls for cls in self._log.reader.classes.values() if issubclass(cls, Event)], key=name_of)
            states = [one.state for one in tables]
            found = self._meanings[fold] = fingerprint_of(*states, *events, *self._log.reader.lifts.digests(events), FORMAT).digest
        return found

    def _chunks(self, fold: Fold, entries: Parted, pause: Pauses) -> list[Part]:
        """Put the states that are there into the chunks that they fall into. `Invalid` where one stands still."""
        chunks: list[Part] = [{} for _ in range(self._chunks_for(fold, entries))]
        for part in entries.parts:
            while part:
                of, entry = part.popitem()
                if entry.stuck:
                    raise Invalid(
                        f"`{fold.name}` of {of.key!r} stands still at position {entry.version}: {entry.stuck}. No snapshot is taken of it",
                        state=fold.name,
                        position=entry.version,
                    )
                if entry.state is not None:
                    chunks[_place_of(of.key, len(chunks))][of] = entry
                if not len(part) % PAUSE_STATES:
                    pause()
            pause()
        return chunks

    def _encoded(self, fold: Fold, chunks: list[Part], before: bytes, progress: Progress, pause: Pauses) -> Iterator[bytes]:
        """Yield chunks as bytes, after some that say what they are of, and let go of them. `Invalid` where a state would be read back as something else."""
        for n, part in enumerate(chunks):
            progress(n, len(chunks))
            states = [entry.state for entry in part.values()]
            try:
                body = msgspec.msgpack.encode((states, [entry.version for entry in part.values()]))
                pause()
                again = self._decoder(fold)(body)
            except (msgspec.MsgspecError, TypeError, ValueError, OverflowError) as error:  # what is in them, or their size
                raise _not_kept(fold, error) from error
            if again[0] != states or _exact(again[0]) != _exact(states):
                raise _not_kept(fold, "they would be read back as something else")
            pause()
            yield before + zlib.compress(body, 1)
            part.clear()
            pause()

    def _chunks_for(self, fold: Fold, entries: Parted) -> int:
        """Return how many chunks to make of them, by their number and, from some of them, by their size."""
        parts = [part for part in entries.parts if part]
        some = parts[:: len(parts) // WEIGHED_MAX + 1]  # to go through all of a million takes 40 ms in one piece
        weighed = [next(itertools.islice(part.values(), place % len(part), None)).state for place, part in enumerate(some)]
        try:
            size = len(msgspec.msgpack.encode(weighed)) * len(entries) // max(len(weighed), 1)
        except (TypeError, ValueError, OverflowError) as error:
            raise _not_kept(fold, error) from error
        return max(-(-len(entries) // CHUNK_STATES), min(size // CHUNK_BYTES, len(entries)))

    def _part(self, fold: Fold, body: bytes) -> tuple[int, dict[Key, Entry]]:
        """Return what a chunk holds, and of which of the tables it is: 0 for a class's own states."""
        if not fold.joins:
            return 0, self._decoded(fold, body)
        table = int.from_bytes(body[:1])
        return table, self._decoded(_tables_of(fold)[table], body[1:])

    def _decoded(self, fold: Fold, body: bytes) -> dict[Key, Entry]:
        states, versions = self._decoder(fold)(zlib.decompress(body))
        fields = fold.key
        return {
            tuple([getattr(state, field) for field in fields]): Entry(state, version)
            for state, version in zip(states, versions, strict=True)
        }

    def _decoder(self, fold: Fold) -> Callable[[bytes], tuple[list[State], list[int]]]:
        found = self._decoders.get(fold)
        if found is None:
            kind: Any = tuple[list[fold.state], list[int]]  # type: ignore[name-defined]  # a class that is known when it runs
            try:
                found = self._decoders[fold] = msgspec.msgpack.Decoder(kind).decode
            except TypeError as error:
                raise _not_kept(fold, error) from error
        return found


class Taker:
    """Takes snapshots while an app is open, in a thread of its own."""

    def __init__(self, log: Log, snapshots: Snapshots, folds: Sequence[Fold]) -> None:
        self._log = log
        self._snapshots = snapshots
        self._folds = folds
        self._stop = threading.Event()
        self._reached: dict[Fold, int] = {}
        self._rates: dict[Fold, float] = {}
        self._writing: dict[Fold, float] = {}
        self.failures: dict[str, str] = {}
        """Why no snapshots are taken of a state."""
        self._again_at: dict[Fold, float] = {}
        """From when on that is tried again, by the monotonic clock."""
        self._thread = threading.Thread(target=self._work, name="happened-snapshots", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Stop after the page of a snapshot that is being folded. Bounded: what hangs in `evolve` is left behind."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS_MAX)

    def _work(self) -> None:
        looked = -1
        while not self._stop.wait(LOOK_SECONDS):
            try:
                head = glance(self._log)
                if head != looked or any(at <= time.monotonic() for at in self._again_at.values()):
                    self.look()
                    looked = head
            except Closed:
                return
            except TROUBLE:  # it may be over at the next look
                continue

    def look(self) -> None:
        """Take what is worth it. A state of which none can be taken is told in `failures`, and left alone: for a while where the world was at fault."""
        for fold in self._folds:
            if self._again_at.get(fold, 0.0) > time.monotonic():
                continue
            try:
                self._snapshots.renew(fold)
                self.consider(fold)
            except Closed:
                raise
            except Exception as error:  # noqa: BLE001 - states are folded without snapshots then, and it is seen
                self.failures[fold.name] = told(error)
                self._again_at[fold] = time.monotonic() + AGAIN_SECONDS if isinstance(error, TROUBLE) else float("inf")
            else:
                self.failures.pop(fold.name, None)
                self._again_at.pop(fold, None)

    def consider(self, fold: Fold) -> None:
        """Take as many snapshots as are worth it: one wherever folding what came since the last takes longer than to write it."""
        snapshots = self._snapshots
        head = self._log.head
        if fold not in self._reached:
            own = [one for one in snapshots.listed([fold]) if one.state == fold.name and not one.wrong]
            self._reached[fold] = own[-1].position if own else 0
            self._writing[fold] = own[-1].seconds if own else 0.0
        if fold not in self._rates:
            tried = snapshots.rate(fold, LEAST_SECONDS)
            if tried is not None:
                self._rates[fold] = min(max(tried, GUESSED_SECONDS), GUESSED_SECONDS * 100)
        while not self._stop.is_set():
            rate = self._rates.get(fold, GUESSED_SECONDS)
            worth = max(LEAST_SECONDS, self._writing[fold])
            reached = self._reached[fold]
            step = int(worth / rate) + 1
            if head - reached < step:
                return
            row = self._log.row_at(reached + step)
            assert row is not None, "positions are dense"
            taken = snapshots.take(fold, row.last, self._go_on)
            loading, folding = snapshots.took
            self._rates[fold] = min(max(folding / (row.last - reached), GUESSED_SECONDS / 20), GUESSED_SECONDS * 100)
            self._writing[fold] = loading + taken.seconds
            self._reached[fold] = row.last
            self._stop.wait(REST * (loading + folding + taken.seconds))

    def _go_on(self, _done: int, _all: int) -> None:
        if self._stop.is_set():
            raise Closed("the app is being closed")


def _any_of(among: int, count: int) -> list[int]:
    """Return some places among so many, others each time."""
    salt = str(time.monotonic_ns())
    return [int.from_bytes(hashlib.sha256(f"{salt} {n}".encode()).digest()[:8], "big") % among for n in range(count if among else 0)]


def _tables_of(fold: Fold) -> list[Fold]:
    """Return what a snapshot of a class holds states of: the class, then each that it joins, in the order in which a view has them."""
    return [fold, *(fold_of(state) for state in dict.fromkeys(join.state for join in fold.joins))]


def _not_kept(fold: Fold, why: object) -> Invalid:
    return Invalid(f"states of `{fold.name}` can't be kept: {why}", state=fold.name)


def _exact(states: list[Any]) -> bytes:
    """Return states as bytes that tell 1 from 1.0, which are equal. Empty where members of a set have no order."""
    try:
        return msgspec.msgpack.encode(states, order="deterministic")
    except TypeError:
        return b""


def _place_of(key: Key, chunks: int) -> int:
    """Return the chunk that a key lies in."""
    return zlib.crc32("\x1f".join([tag_text(value) for value in key]).encode()) % chunks if chunks else 0
