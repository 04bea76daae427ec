"""The memory image: the states that decisions are made on, folded once and kept in memory.

It holds what is durable, and only the writer changes it: by merging the overlay of a batch after its sync, or by taking in what other processes recorded.
A state that is not in it is loaded from the log, by the index, without stopping the writer: events that come meanwhile are kept aside for the loader.

Of a log that was empty when it was opened the image is complete, until something has to make room: then a key that is not in it never happened, and no
load is needed to know.
"""

import itertools
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol  # Any: events and keys of any class

import msgspec

from happened.core.errors import Stuck
from happened.core.messages import Recorded, events_of
from happened.core.state import Fold, Key, State, declared
from happened.core.store import Row, Store, Wanted
from happened.core.tags import tag_text, term
from happened.log.deciding import deciding
from happened.log.records import Reader, envelope_of, envelopes_of, positions_of
from happened.log.row import Extra, Header, decode_header
from happened.log.writer import Happened

ROWS = 1_000
"""Rows that are read and folded at once."""
PAUSE_ROWS = 100
"""As many where others are to get on meanwhile: less than a millisecond."""

STATES_MAX = 1_000_000
"""States kept before the longest unchanged make room; about 0.4 kB each."""


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A state as of a version: the position of the event that last changed it. `None`: it never happened, or is gone."""

    state: State | None
    version: int
    stuck: str = ""
    """Why `evolve` could not take an event; the state stands still since, and nothing is decided on it."""


NEVER = Entry(None, 0)

NOTHING: Mapping[Key, State] = MappingProxyType({})
"""What is folded before the first event."""


class Found(Protocol):
    """Where what is folded lies: a dict, or what is not one but can do as much."""

    def get(self, key: Key, /) -> Entry | None:
        """Return the entry of a key, if there is one."""
        ...

    def __setitem__(self, key: Key, entry: Entry, /) -> None:
        """Put an entry in its place."""
        ...


class Coming(NamedTuple):
    """An event that reached a key while that was not in memory."""

    version: int
    message: Any
    extra: tuple[Any, ...]


class Kept:
    """The entries of one fold."""

    __slots__ = ("complete", "entries", "fold", "kinds", "loading", "simple", "stopped")

    def __init__(self, fold: Fold, *, complete: bool) -> None:
        self.fold = fold
        self.complete = complete
        self.simple = not fold.wants_record and fold.key_of is None
        """No envelope is needed to fold."""
        self.kinds = frozenset(kinds[0] for kinds in fold.key_kinds if len(kinds) == 1)
        """The classes that the value of a key of one may have."""
        self.entries: dict[Key, Entry] = {}
        self.loading: dict[Key, list[list[Coming]]] = {}
        self.stopped = ""
        """Why no state of this fold can be told: it could not be said which key an event is of."""

    def known(self, key: Key) -> Entry | None:
        """Return the entry of a key that a caller gave, where there is nothing to say but its state: it is in memory, sound, and asked for by the right types."""
        if len(key) == 1:
            if type(key[0]) not in self.kinds or self.stopped:
                return None
        elif tuple(map(_kind_of, key)) not in self.fold.key_kinds or self.stopped:
            return None
        entry = self.entries.get(key)
        return entry if entry is not None and not entry.stuck else None


class Ways(NamedTuple):
    """How events of a class reach states."""

    short: list[tuple[Callable[[Any], Any], Kept, Fold]]
    """What nearly every event comes to, kept short since every one takes it: it reaches one state by a field of its own, and no envelope is asked
    for. By which field; whose states; their fold."""
    long: list[Fold]
    """The others."""


class MemoryImage:
    """The durable states of one process and log."""

    def __init__(self, store: Store, reader: Reader, folds: Iterable[Fold], position: int, *, states_max: int = STATES_MAX) -> None:
        self._store = store
        self._reader = reader
        self._lock = threading.RLock()
        self._states_max = states_max
        self.position = position
        self.kept: dict[Fold, Kept] = {}
        self._by_event: dict[type, Ways] = {}
        self.by_state: dict[type[State], Kept] = {}
        self._making_room = False
        self.snapped: Callable[[Fold, Sequence[Key], int], tuple[int, Mapping[Key, Entry]]] = lambda _fold, _keys, _until: (0, {})
        """Returns states of keys from a snapshot, and as of which position up to another they are."""
        self.forgets: Callable[[], None] = lambda: None
        """Told when all states are let go: they may hold what was erased, and so may what loads begin with."""
        self._forgotten = 0
        """How often all was let go."""
        self.hits = self.misses = self.evictions = 0
        self.guard = threading.RLock()
        """Held by the writer from the first look at the log until the batch is merged; a class is first met under it."""
        for fold in folds:
            self.follow(fold)

    def follow(self, fold: Fold) -> Kept:
        """Keep the states of this fold from now on."""
        with self.guard, self._lock:
            if fold not in self.kept:
                kept = Kept(fold, complete=self.position == 0)
                self.kept[fold] = self.by_state[fold.state] = kept
                self._by_event = {}
            return self.kept[fold]

    def reached(self) -> int:
        """Return up to where rows have been taken in, of none only a part."""
        with self._lock:
            return self.position

    def get(self, fold: Fold, key: Key) -> Entry:
        """Return a durable state; loads it where it is not in memory (about 1 ms for a hundred events)."""
        kept = self.kept.get(fold) or self._met(fold)
        if kept is None:
            found = {key: NEVER}
            self._fold_rows(fold, self.wanted(fold, [key]), self.position, found)
            entry = found[key]
        else:
            if kept.stopped:
                raise _stopped(fold, kept.stopped)
            known = kept.entries.get(key)
            complete = kept.complete  # read after the entry: who makes room says so before taking entries away
            if known is not None:
                self.hits += 1
            entry = known if known is not None else NEVER if complete else self.load(kept, [key])[key]
        if entry.stuck:
            raise standing_still(fold, key, entry)
        return entry

    def _met(self, fold: Fold) -> Kept | None:
        """Begin to keep a class, or not while a batch is being decided: a reader must not wait for the writer, and reads the log instead."""
        if not self.guard.acquire(blocking=False):
            return None
        try:
            return self.follow(fold)
        finally:
            self.guard.release()

    def load(self, kept: Kept, keys: Sequence[Key]) -> dict[Key, Entry]:
        """Fold these keys from the log, in one query, and keep them."""
        while True:
            found = self._load(kept, keys)
            if found is not None:
                self._make_room()
                return found

    def _load(self, kept: Kept, keys: Sequence[Key]) -> dict[Key, Entry] | None:
        """Load once; `None` if all was let go meanwhile, and what was kept aside can't be relied on."""
        fold = kept.fold
        aside: dict[Key, list[Coming]] = {}
        with self._lock:
            self.misses += len(keys)
            until, forgotten = self.position, self._forgotten
            for key in keys:
                aside[key] = []
                kept.loading.setdefault(key, []).append(aside[key])
        found = dict.fromkeys(keys, NEVER)
        complete = False
        try:
            self._fold_keys(fold, keys, until, found)
            complete = True
        finally:
            with self._lock:
                complete = complete and forgotten == self._forgotten
                with deciding():
                    for key in keys:
                        waiting = kept.loading[key]
                        waiting[:] = [one for one in waiting if one is not aside[key]]
                        if not waiting:
                            del kept.loading[key]
                        if complete:
                            found[key] = kept.entries.setdefault(key, _caught_up(fold, key, found[key], aside[key]))
        return found if complete else None

    def have_all(self, fold: Fold) -> None:
        """Have all states of this fold in memory, and keep them from now on: one scan of the log. For whoever goes through the whole log alone."""
        kept = self.follow(fold)
        if not kept.complete:
            self._fold_rows(fold, None, self.position, kept.entries)
            kept.complete = True

    def _fold_keys(self, fold: Fold, keys: Sequence[Key], until: int, found: dict[Key, Entry]) -> None:
        """Fold keys on from a snapshot, where that knows them; else from zero, since one that is gone is in no snapshot, and has a version all the same."""
        after, known = self.snapped(fold, keys, until)
        for begin, some in ((after, dict(known)), (0, {key: NEVER for key in keys if key not in known})):
            if some:
                self._fold_rows(fold, self.wanted(fold, list(some)), until, some, begin)
                found.update(some)

    def begin(self) -> "ImageOverlay":
        """Start a batch."""
        return ImageOverlay(self)

    def catch_up(self, rows: Sequence[Row]) -> None:
        """Take in rows that others have recorded."""
        rows = [row for row in rows if row.last > self.position]
        if not rows:
            return
        overlay = self.begin()
        happened: list[Happened] = []
        for row, records in zip(rows, self._reader.pages_for(tuple(self.kept))(rows), strict=True):
            first = row.input is not None
            events = [(ordinal, event, found.extra) for ordinal, found in enumerate(records, first) for event in events_of(found.body)]
            if events:
                happened.append((row, decode_header(row.head), events))
        with deciding():
            overlay.apply_facts(happened)
        overlay.merge(rows[-1].last)

    def forget(self) -> None:
        """Let go of all states; they are loaded again when they are asked for."""
        self.forgets()
        with self._lock:
            self._forgotten += 1
            for kept in self.kept.values():
                kept.complete = False
                kept.entries.clear()

    def states(self, fold: Fold, *, start: Mapping[Key, State] = NOTHING, after: int = 0, until: int | None = None) -> dict[Key, State]:
        """Fold the whole log into the states of one class: every key that is there now, or was at a position. Reads the log once, keeps nothing.

        `start` and `after` say what is folded already, and up to where. `Stuck` if `evolve` can't take an event of any of them.
        """
        end = self.position if until is None else until
        if fold.wants_record or fold.key_of is not None or self._reader.pages_for([fold]).splits:
            return self._states_by_steps(fold, start, after, end)
        with deciding():
            return self._states_by_pages(fold, start, after, end)

    def as_of(self, fold: Fold, key: Key, until: int, *, after: int = 0, before: Entry = NEVER) -> Entry:
        """Return a state as of a position that is the last of a row, from the log, by the index. `Stuck` if it stood still by then.

        `before` and `after` say what is folded already, and up to where.
        """
        found = {key: before}
        self._fold_rows(fold, self.wanted(fold, [key]), until, found, after)
        if found[key].stuck:
            raise standing_still(fold, key, found[key])
        return found[key]

    def entries(self, fold: Fold, found: "Found", after: int, until: int, pause: Callable[[], None]) -> None:
        """Fold what lies between two positions into all states of a class, with the position of the last change of each; `pause` after each few rows."""
        with deciding():
            self._fold_page_by_page(fold, None, until, found, after, PAUSE_ROWS, pause)

    def _states_by_pages(self, fold: Fold, start: Mapping[Key, State], begin: int, until: int) -> dict[Key, State]:
        decode = self._reader.pages_for([fold]).flat
        found: dict[Key, State] = dict(start)
        get, step, initial, checked = found.get, fold.evolve, fold.state, fold.may_move
        if step is None:  # a state that nothing changes
            return found
        for rows in self._store.read_bare(begin, until):
            for key, message in _reached(fold, decode(rows)):
                before = get(key)
                try:
                    after = step(initial(*key) if before is None else before, message)
                    if after is None or checked:
                        fold.check_next(key, message, after)
                except Exception:  # noqa: BLE001 - folding once more, with positions, says which event it was
                    return self._states_by_steps(fold, start, begin, until)
                if after is not None:
                    found[key] = after
                else:
                    found.pop(key, None)
        return found

    def _states_by_steps(self, fold: Fold, start: Mapping[Key, State], after: int, until: int) -> dict[Key, State]:
        entries = {key: Entry(state, 0) for key, state in start.items()}
        self._fold_rows(fold, None, until, entries, after)
        for key, entry in entries.items():
            if entry.stuck:
                raise standing_still(fold, key, entry)
        return {key: entry.state for key, entry in entries.items() if entry.state is not None}

    def statistics(self) -> dict[str, Any]:
        """Return how many states are kept of each class, hits, misses (loads), evictions, and up to which position."""
        return {
            "position": self.position,
            "states": {kept.fold.name: len(kept.entries) for kept in self.kept.values()},
            "hits": self.hits,
            "misses": self.misses,
            "evictions": self.evictions,
        }

    def ways(self, event: type) -> Ways:
        """Return how events of this class reach the states that are kept."""
        cache = self._by_event
        found = cache.get(event)
        if found is None:
            found, plain = Ways([], []), declared(event)
            for kept in list(self.kept.values()):
                value_of = kept.fold.by_field.get(plain) if kept.simple else None
                if value_of is not None:
                    found.short.append((value_of, kept, kept.fold))
                elif plain in kept.fold.readings or kept.fold.everything:
                    found.long.append(kept.fold)
            with self._lock:
                if self._by_event is cache:
                    cache[event] = found
        return found

    def wanted(self, fold: Fold, keys: Sequence[Key]) -> list[Wanted]:
        """Return what to ask the index for, to meet every event of these keys; others come with them."""
        numbers = [] if fold.everything else self._numbers(fold)
        if not any(fold.tags) or fold.key_of is not None:
            return [Wanted((), numbers)]
        return [
            Wanted([term(tag, tag_text(value)) for tag, value in zip(fold.tags, key, strict=True) if tag is not None], numbers)
            for key in keys
        ]

    def _numbers(self, fold: Fold) -> list[int]:
        names = list(self._reader.names.by_number)  # a copy: another thread may be adding one
        return [number for number in names if not self._reader.leads_to(number).isdisjoint(fold.readings)] or [-1]

    def _fold_rows(self, fold: Fold, wanted: Sequence[Wanted] | None, until: int, found: dict[Key, Entry], after: int = 0) -> None:
        with deciding():  # `evolve` may no more dispatch than a decider may
            simple = not fold.wants_record and fold.key_of is None
            if wanted is not None and simple and fold.fields_of is not None and not self._reader.pages_for([fold]).splits:
                self._fold_straight(fold, wanted, until, found, after)
            else:
                self._fold_page_by_page(fold, wanted, until, found, after, ROWS, lambda: None)

    def _fold_page_by_page(
        self,
        fold: Fold,
        wanted: Sequence[Wanted] | None,
        until: int,
        found: "Found",
        after: int,
        rows_max: int,
        pause: Callable[[], None],
    ) -> None:
        pages = self._reader.pages_for([fold])
        decode = pages.flat
        only = wanted is not None
        simple = not fold.wants_record and fold.key_of is None
        touched, get = fold.touched, found.get
        for rows in self._store.read_bare(after, until, wanted=wanted, rows_max=rows_max, heads=not simple):
            records = decode(rows)
            envelopes: Iterable[Recorded | None] = itertools.repeat(None) if simple else envelopes_of(rows, records)
            for at, record, envelope in zip(positions_of(rows), records, envelopes):  # noqa: B905 - one of them may have no end
                if record.body is None:
                    continue
                extra = (envelope,) if fold.wants_record else ()
                try:
                    reached = touched(record.body, envelope)
                except Exception as error:
                    raise _stopped(fold, _failed_at(at, error)) from error
                for key, message in reached:
                    before = get(key)
                    if before is None:
                        if only:
                            continue
                        before = NEVER
                    found[key] = stepped(fold, key, before, message, extra, at)
            pause()

    def _fold_straight(self, fold: Fold, wanted: Sequence[Wanted], until: int, found: dict[Key, Entry], begin: int) -> None:
        """Fold the keys that are in `found`, in the way that most classes allow: kept short, since a load waits for it."""
        decode = self._reader.pages_for([fold]).flat
        states = {key: entry.state for key, entry in found.items()}
        versions: dict[Key, int] = {}
        step: Callable[..., Any] = fold.evolve  # type: ignore[assignment]  # what is loaded has it
        initial, checked = fold.state, fold.may_move
        for rows in self._store.read_bare(begin, until, wanted=wanted):
            there = [(at, record.body) for at, record in zip(positions_of(rows), decode(rows), strict=True) if record.body is not None]
            for key, (at, event) in zip(fold.keys_of([event for _, event in there]), there, strict=True):
                if key not in states:  # of another, or it stands still
                    continue
                before = states[key]
                try:
                    after = step(initial(*key) if before is None else before, event)
                    if after is None or checked:
                        fold.check_next(key, event, after)
                except Exception as error:  # noqa: BLE001 - it stops this key, not the others, and is raised to whoever asks for it
                    found[key] = Entry(before, at, f"{type(error).__name__}: {error}")
                    del states[key]
                else:
                    states[key], versions[key] = after, at
        for key, version in versions.items():
            if key in states:
                found[key] = Entry(states[key], version)

    def _make_room(self) -> None:
        count = sum([len(kept.entries) for kept in self.kept.values()])
        if count <= self._states_max:
            return
        with self._lock:
            if self._making_room:
                return
            self._making_room = True
            try:
                self._let_go(count)
            finally:
                self._making_room = False

    def _let_go(self, count: int) -> None:
        for kept in sorted(self.kept.values(), key=lambda kept: len(kept.entries), reverse=True):
            surplus = min(len(kept.entries), count - self._states_max * 9 // 10)
            if surplus <= 0:
                return
            kept.complete = False
            for key in list(kept.entries)[:surplus]:
                del kept.entries[key]
            self.evictions += surplus
            count -= surplus


Undo = tuple[dict[Key, Entry], Key, Entry | None]
"""What was changed: whose states, which one, and what the batch had come to before."""
FactWays = tuple[list[tuple[Kept, Fold, Callable[[Any], Any], bool, dict[Key, Entry], dict[Key, Entry]]], list[Fold]]
"""How facts of a class reach states in a batch: by plain fields (whose states; which those fields are, and whether it is one; the states that the batch
changed, and those that are durable), and in other ways."""


class ImageOverlay:
    """What a batch has come to so far, over the durable image."""

    __slots__ = ("_applied", "_changed", "_coming", "_image", "_stopping")

    def __init__(self, image: MemoryImage) -> None:
        self._image = image
        self._changed: dict[Kept, dict[Key, Entry]] = {kept: {} for kept in image.kept.values()}
        self._coming: dict[Kept, dict[Key, list[Coming]]] = {}
        self._applied: list[tuple[Row, Header, Sequence[tuple[int, object, Any]]]] = []
        self._stopping: dict[Kept, str] = {}
        """Why no state of a fold can be told any more, once the batch is durable."""

    def get(self, fold: Fold, key: Key) -> Entry:
        """Return a state as of here in the batch. `Stuck` if it stands still."""
        kept = self._image.kept.get(fold)
        if kept is None or kept not in self._changed:
            kept = self._meet(fold)
        stopped = kept.stopped or self._stopping.get(kept)
        if stopped:
            raise _stopped(fold, stopped)
        entry = self._changed[kept].get(key)
        if entry is None:
            entry = kept.entries.get(key)
            if entry is None or self._coming:
                entry = self._found(kept, key)
            else:
                self._image.hits += 1
        if entry.stuck:
            raise standing_still(fold, key, entry)
        return entry

    def states(self, asked: Sequence[tuple[Kept, bool]], keys: Sequence[Key], reads: list[Any]) -> list[Any]:
        """Return a state of each class, as `get` does, and say in `reads` as of which versions. Where it never happened: the initial one, or `None`."""
        filled: list[Any] = []
        hits = 0
        for key, (kept, may_be_missing) in zip(keys, asked, strict=True):
            entry = self._changed[kept].get(key)
            if entry is None:
                entry = kept.entries.get(key)
                hits += 1
            if entry is None or entry.stuck or self._coming or kept.stopped or self._stopping:
                entry = self.get(kept.fold, key)
                hits -= 1
            reads.append(entry.version)
            state = entry.state
            filled.append(state if state is not None or may_be_missing else kept.fold.state(*key))
        self._image.hits += hits
        return filled

    def apply(self, row: Row, header: Header, events: Sequence[tuple[int, object, Any]], *, strict: bool) -> None:
        """Let these events have happened. `strict`: if `evolve` can't take one, that is raised and none has; else its key stands still."""
        if not strict:
            self.apply_facts(((row, header, events),))
            return
        undo: list[Undo] = []
        all_changed = self._changed
        try:
            for ordinal, event, extra in events:
                short, long = self._image.ways(type(event))
                version = row.position + ordinal
                for value_of, kept, fold in short:
                    value = value_of(event)
                    key = (value,)
                    changed = all_changed.get(kept)
                    own = changed.get(key) if changed is not None else None
                    entry = own or kept.entries.get(key)
                    if entry is None or changed is None or entry.stuck or self._coming or value is None:
                        self._apply_to(fold, row, header, ordinal, event, extra, undo)
                        continue
                    before: Any = entry.state if entry.state is not None else fold.initial(key)
                    after = before.evolve(event)
                    if after is None or fold.may_move:
                        fold.check_next(key, event, after)
                    undo.append((changed, key, own))
                    changed[key] = Entry(after, version)
                for fold in long:
                    self._apply_to(fold, row, header, ordinal, event, extra, undo)
        except BaseException:
            for changed, key, own in reversed(undo):
                if own is None:
                    changed.pop(key, None)  # not there yet where an interrupt came before it
                else:
                    changed[key] = own
            for coming in self._coming.values():
                for waiting in coming.values():
                    waiting[:] = [one for one in waiting if one.version < row.position]
            raise
        self._applied.append((row, header, events))

    def apply_facts(self, facts: Sequence[Happened]) -> None:
        """Let facts have happened. What `evolve` can't take stops its key: what has happened has happened.

        Kept short for classes that are reached by plain fields, since an import brings millions.
        """
        ways: dict[type, FactWays] = {}
        coming = self._coming
        for row, header, events in facts:
            for ordinal, event, extra in events:
                version = row.position + ordinal
                short, long = ways.get(type(event)) or self._fact_ways(type(event), ways)
                for kept, fold, fields_of, single, changed, entries in short:
                    value = fields_of(event)
                    key: Key = (value,) if single else value
                    if fold.skips_none and None in key:
                        continue
                    entry = changed.get(key)
                    if entry is None:
                        waiting = coming.get(kept)
                        if waiting is None or key not in waiting:
                            entry = entries.get(key)
                            if kept.complete and entry is None:  # asked after the entry, as in `MemoryImage.get`
                                entry = NEVER
                        if entry is None:
                            coming.setdefault(kept, {}).setdefault(key, []).append(Coming(version, event, ()))
                            continue
                    if entry.stuck:
                        continue
                    try:  # what `stepped` does, in fewer steps
                        before: Any = entry.state if entry.state is not None else fold.state(*key)
                        after = before.evolve(event)
                        if after is None or fold.may_move:
                            fold.check_next(key, event, after)
                        changed[key] = Entry(after, version)
                    except Exception as error:  # noqa: BLE001 - as there
                        changed[key] = Entry(entry.state, version, f"{type(error).__name__}: {error}")
                for fold in long:
                    self._apply_to(fold, row, header, ordinal, event, extra, None)
        self._applied += facts

    def _fact_ways(self, event: type, ways: "dict[type, FactWays]") -> "FactWays":
        """Find how facts of a class reach states, once for each batch."""
        short: list[Any] = []
        long: list[Fold] = []
        found = self._image.ways(event)
        for fold in [*(fold for _, _, fold in found.short), *found.long]:
            kept = self._image.kept[fold]
            if kept not in self._changed:
                self._meet(fold)
            if kept.simple and fold.fields_of is not None:
                short.append((kept, fold, fold.fields_of, len(fold.key) == 1, self._changed[kept], kept.entries))
            else:
                long.append(fold)
        ways[event] = short, long
        return short, long

    def _meet(self, fold: Fold) -> Kept:
        """Begin to keep a class that was not kept before, and let it see what the batch has come to."""
        kept = self._image.follow(fold)
        self._changed.setdefault(kept, {})
        for row, header, events in self._applied:
            for ordinal, event, extra in events:
                if fold.follows(type(event)):
                    self._apply_to(fold, row, header, ordinal, event, extra, None)
        return kept

    def _found(self, kept: Kept, key: Key) -> Entry:
        entry = self._changed[kept].get(key)
        if entry is not None:
            return entry
        entry = kept.entries.get(key)
        complete = kept.complete  # read after the entry, as in `MemoryImage.get`
        if entry is not None:
            self._image.hits += 1
        else:
            entry = NEVER if complete else self._image.load(kept, [key])[key]
        coming = self._coming.get(kept)
        if coming and key in coming:
            entry = _caught_up(kept.fold, key, entry, coming.pop(key))
            self._changed[kept][key] = entry
        return entry

    def _apply_to(
        self, fold: Fold, row: Row, header: Header, ordinal: int, event: object, recorded_extra: Any, undo: list[Undo] | None
    ) -> None:
        kept = self._image.kept[fold]
        if kept not in self._changed:
            self._meet(fold)
        envelope, extra = (None, ()) if kept.simple else _envelope(fold, row, header, ordinal, recorded_extra)
        changed = self._changed[kept]
        coming = self._coming.get(kept)
        try:
            reached = list(fold.reading(type(event))(event, envelope))
        except Exception as error:
            if undo is not None:
                raise
            # What has happened has happened.
            self._stopping.setdefault(kept, _failed_at(row.position + ordinal, error))
            return
        for key, message in reached:
            own = before = changed.get(key)
            if before is None:
                before = kept.entries.get(key) if not coming or key not in coming else None
                complete = kept.complete  # read after the entry, as in `MemoryImage.get`
                if before is None:
                    if not complete or (coming and key in coming):
                        coming = self._coming.setdefault(kept, {})
                        coming.setdefault(key, []).append(Coming(row.position + ordinal, message, extra))
                        continue
                    before = NEVER
            if undo is None:
                changed[key] = stepped(fold, key, before, message, extra, row.position + ordinal)
            elif before.stuck:
                changed[key] = before
            else:
                changed[key] = Entry(fold.step(before.state, key, message, extra), row.position + ordinal)
                undo.append((changed, key, own))

    def copy(self) -> "ImageOverlay":
        """Return an overlay that has come to the same, and goes its own way from here."""
        other = ImageOverlay(self._image)
        other._changed = {kept: dict(changed) for kept, changed in self._changed.items()}
        other._coming = {kept: {key: list(events) for key, events in coming.items()} for kept, coming in self._coming.items()}
        other._applied = list(self._applied)
        other._stopping = dict(self._stopping)
        return other

    def merge(self, position: int) -> None:
        """Make what the batch has come to durable, as the batch is."""
        image = self._image
        if len(self._changed) < len(image.kept):
            for fold, kept in list(image.kept.items()):
                if kept not in self._changed:  # met in the batch, by a command that was taken back
                    self._meet(fold)
        try:
            self._merge(image, position)
        except BaseException:
            image.forget()
            raise
        image._make_room()

    def _merge(self, image: MemoryImage, position: int) -> None:
        with image._lock:
            for kept, why in self._stopping.items():
                kept.stopped = kept.stopped or why
            for kept, changed in self._changed.items():
                kept.entries.update(changed)
                if kept.loading:
                    for key, entry in changed.items():
                        for aside in kept.loading.get(key, ()):
                            aside.append(Coming(entry.version, entry, ()))
            for kept, coming in self._coming.items():
                for key, events in coming.items():
                    if key in kept.entries:  # loaded while the batch was decided, as of before it
                        with deciding():
                            kept.entries[key] = _caught_up(kept.fold, key, kept.entries[key], events)
                    for aside in kept.loading.get(key, ()):
                        aside.extend(events)
            image.position = position  # last: an interrupt before it leaves a position whose rows are taken in again


def _kind_of(value: object) -> type:
    return type(value)


def _reached(fold: Fold, records: Iterable[Any]) -> Iterable[tuple[Key, Any]]:
    """Return the (key, message) pairs of the events among these records. For folds that need no envelope."""
    events = [record.body for record in records if record.body is not None]
    if fold.fields_of is None:
        return [pair for event in events for pair in fold.touched(event)]
    pairs = zip(fold.keys_of(events), events, strict=True)
    return [pair for pair in pairs if None not in pair[0]] if fold.skips_none else pairs


def stepped(fold: Fold, key: Key, before: Entry, message: Any, extra: tuple[Any, ...], version: int) -> Entry:
    """Return the next entry; where `evolve` can't take the message the state stands still, and says why."""
    if before.stuck:
        return before
    try:
        return Entry(fold.step(before.state, key, message, extra), version)
    except Exception as error:  # noqa: BLE001 - it stops this key, not the others, and is raised to whoever asks for it
        return Entry(before.state, version, f"{type(error).__name__}: {error}")


def _caught_up(fold: Fold, key: Key, entry: Entry, coming: Sequence[Coming]) -> Entry:
    for version, message, extra in coming:
        entry = message if isinstance(message, Entry) else stepped(fold, key, entry, message, extra, version)
    return entry


def standing_still(fold: Fold, key: Key, entry: Entry) -> Stuck:
    """Return the error of a state that stands still."""
    return Stuck(
        f"`{fold.name}` of {key!r} can't be folded past position {entry.version}: {entry.stuck}. Mend `evolve`, then open the log again",
        state=fold.name,
        key=[str(value) for value in key],
        position=entry.version,
        error=entry.stuck,
    )


def _failed_at(position: int, error: Exception) -> str:
    return f"at position {position}: {type(error).__name__}: {error}"


def _stopped(fold: Fold, why: str) -> Stuck:
    return Stuck(f"`{fold.name}` can't be told: its `key_of` failed {why}. Mend it, then open the log again", state=fold.name, error=why)


def _envelope(fold: Fold, row: Row, header: Header, ordinal: int, extra: Extra | None) -> tuple[Recorded, tuple[Any, ...]]:
    envelope = envelope_of(row, header, ordinal, extra)
    return envelope, (envelope,) if fold.wants_record else ()
