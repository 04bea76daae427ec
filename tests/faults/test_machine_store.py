"""The seam of the store against a list of rows: whatever two handles append, ask, pack, erase and read in another way, each answers as the list does.

`HAPPENED_STEPS` says how many steps are taken by all machines together.
"""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

import happened as h
from happened.core.store import Commit, Engine, Packs, Row, Terms, Unseen, Wanted
from happened.stores import runs, segments
from happened.stores.memory import MemoryStore
from happened.stores.postgres import PostgresStore
from happened.stores.sqlite import SqliteStore
from happened.testing.rows import (
    Fact,
    Scribe,
    added_up,
    check_whole,
    counts_of,
    flat,
    head_of,
    matches,
    other_terms_of,
    read_by,
    terms_of,
    without,
)
from tests.faults.machine import Counting, portions, run
from tests.servers import fresh

TAGS = ("a=1", "a=2", "b=1", "b=é", "c=\U0001f989")
NOTES = ("", "x/", "x/1", "x/2", "y/é", "z")
READINGS: dict[str, Callable[[Row], Terms]] = {"today": terms_of, "other": other_terms_of}

tags = some.lists(some.sampled_from(TAGS), unique=True, max_size=3).map(tuple)
names = some.sampled_from((16, 17, 18))
handles = some.integers(0, 1)
ids = some.none() | some.sampled_from([f"id-{n}" for n in range(20)])
facts = some.builds(Fact, tags, names, some.integers(1, 4), ids, some.text(max_size=5))
batches = some.lists(facts, max_size=4)
noted = some.dictionaries(
    some.sampled_from(NOTES), some.none() | some.text(some.characters(codec="utf-8", exclude_characters="\0"), max_size=5), max_size=3
)
wishes = some.lists(some.builds(Wanted, tags, some.lists(names, max_size=2).map(tuple)), min_size=1, max_size=3)
parts = some.floats(0, 1)


def nobody(_done: int, _all: int) -> None:
    """Hear how far something is."""


class Stores(RuleBasedStateMachine):
    """Two handles of one log, and the rows that are to be there."""

    def __init__(self, place: Callable[[Path], Callable[[], Engine]], counting: Counting) -> None:
        super().__init__()
        self.counting = counting
        self.folder = Path(tempfile.mkdtemp(prefix="happened-machine-"))
        self.open = place(self.folder)
        self.rows: list[Row] = []
        self.notes: dict[str, str] = {}
        self.reading = "today"
        self.writers: list[Scribe] = []

    @initialize()
    def begin(self) -> None:
        """Open both handles."""
        self.writers = [Scribe(self.opened()) for _ in range(2)]

    def teardown(self) -> None:
        """Hold all there is against the list, opened anew."""
        try:
            if self.writers:
                self.reopen(0)
                self.reopen(1)
                check_whole(self.rows)
                for handle in (0, 1):
                    self.read(handle, 0, 1, None, backwards=False, rows_max=1000)
                    self.look_up(handle, None)
                    self.find(handle)
                    self.count(handle, 0, 1)
        finally:
            for writer in self.writers:
                writer.store.close()
            shutil.rmtree(self.folder)

    def opened(self) -> Engine:
        """Open a handle that reads as is read now."""
        store = self.open()
        store.index(read_by(self.reading), self.terms_of, nobody)
        return store

    @property
    def terms_of(self) -> Callable[[Row], Terms]:
        """Return how rows are read now."""
        return READINGS[self.reading]

    @property
    def head(self) -> int:
        """The last position that is to be there."""
        return self.rows[-1].last if self.rows else 0

    def between(self, after: int, until: int) -> list[Row]:
        """Return the rows that are to be there between two positions."""
        return [row for row in self.rows if row.last > after and row.last <= until]

    def ends(self, after: float, until: float) -> tuple[int, int]:
        """Return two positions, which may lie inside rows."""
        return int(after * self.head), int(until * self.head)

    def asked(self, wanted: Sequence[Wanted]) -> Sequence[Wanted]:
        """Return what is asked for as tags are read now."""
        return wanted if self.reading == "today" else [one._replace(terms=tuple(tag.upper() for tag in one.terms)) for one in wanted]

    # --- what is done

    def _append(self, handle: int, given: Sequence[Fact], notes: dict[str, str | None], expects: Callable[[], None] = lambda: None) -> None:
        """Append behind what was not seen, if what is expected holds."""
        writer = self.writers[handle]
        seen = writer.seen
        made: list[Row] = []

        def decide(unseen: Unseen) -> Commit:
            assert list(unseen.rows) == self.between(seen, self.head)
            assert (unseen.head.position, unseen.head.digest) == (self.head, self.rows[-1].digest if self.rows else bytes(32))
            assert unseen.notes("x/") == {key: text for key, text in self.notes.items() if key.startswith("x/")}
            expects()
            head = unseen.head
            for fact in given:
                made.append(writer.row_after(head, fact))
                head = head_of(made[-1])
            return Commit(made, [self.terms_of(row) for row in made], notes)

        head = writer.store.append(decide, seen)
        self.rows += made
        for key, text in notes.items():
            if text is None:
                self.notes.pop(key, None)
            else:
                self.notes[key] = text
        writer.seen = head.position
        assert head.position == self.head

    @rule(handle=handles, given=batches, notes=noted)
    def append(self, handle: int, given: Sequence[Fact], notes: dict[str, str | None]) -> None:
        """Append rows and notes, or some of them, or nothing."""
        self.counting.steps += 1
        self._append(handle, given, notes)

    @rule(handle=handles, given=batches, wanted=wishes, after=parts)
    def append_unless(self, handle: int, given: Sequence[Fact], wanted: Sequence[Wanted], after: float) -> None:
        """Append unless something is there after a position, as is looked up under the lock: never by mistake, and never in vain."""
        self.counting.steps += 1
        store, position, asked = self.writers[handle].store, int(after * self.head), self.asked(wanted)
        there = [row for row in self.between(position, self.head) if matches(row, asked, self.terms_of)]

        def expects() -> None:
            found = flat(store.read(position, wanted=asked))
            if exact := [row for row in found if matches(row, asked, self.terms_of)]:
                raise h.Conflict("it is there", found=exact[0].position)

        if there:
            with pytest.raises(h.Conflict) as conflict:
                self._append(handle, given, {}, expects)
            assert conflict.value.facts["found"] == there[0].position
        else:
            self._append(handle, given, {}, expects)

    @rule(handle=handles, given=batches, notes=noted)
    def fail(self, handle: int, given: Sequence[Fact], notes: dict[str, str | None]) -> None:
        """Have what decides raise: nothing is stored, and the next one goes on."""
        self.counting.steps += 1
        writer = self.writers[handle]

        def decide(unseen: Unseen) -> Commit:
            for fact in given:
                writer.row_after(unseen.head, fact)
            raise RuntimeError(str(notes))

        with pytest.raises(RuntimeError):
            writer.store.append(decide, writer.seen)

    @precondition(lambda self: any(self.erasable))
    @rule(handle=handles, which=parts)
    def erase(self, handle: int, which: float) -> None:
        """Put a row without its body in the place of one: both handles hear of it, as a log tells them, by what is recorded with it."""
        self.counting.steps += 1
        found = self.erasable
        place = found[int(which * (len(found) - 1))]
        writer, bare = self.writers[handle], without(self.rows[place])
        writer.store.append(lambda _unseen: Commit(instead=[bare]), writer.seen)
        self.rows[place] = bare
        self.reopen(1 - handle)

    @property
    def erasable(self) -> list[int]:
        """The places of rows that have one record, and a body."""
        return [place for place, row in enumerate(self.rows) if row.count == 1 and row.input is None and '"h"' not in row.records]

    @rule(handle=handles)
    def reopen(self, handle: int) -> None:
        """Close a handle, and open it again."""
        self.counting.steps += 1
        if isinstance(self.writers[handle].store, MemoryStore):
            return  # it is gone when it is closed
        self.writers[handle].store.close()
        self.writers[handle].store = self.opened()

    @rule()
    def read_otherwise(self) -> None:
        """Have both handles read tags in another way: the index is made anew."""
        self.counting.steps += 1
        self.reading = "other" if self.reading == "today" else "today"
        for writer in self.writers:
            if isinstance(writer.store, MemoryStore):
                writer.store.index(read_by(self.reading), self.terms_of, nobody)
            else:
                writer.store.close()
        for writer in self.writers:
            if not isinstance(writer.store, MemoryStore):
                writer.store = self.opened()

    @precondition(lambda self: self.writers and isinstance(self.writers[0].store, Packs))
    @rule(handle=handles, until=parts, undo=some.booleans(), rewrite=some.booleans())
    def pack(self, handle: int, until: float, undo: bool, rewrite: bool) -> None:
        """Pack rows away, or put them back."""
        self.counting.steps += 1
        store = self.writers[handle].store
        assert isinstance(store, Packs)
        if undo:
            store.unpack(int(until * self.head), nobody)
        else:
            store.compact(int(until * self.head), nobody, rewrite=rewrite)

    # --- what is asked

    @rule(
        handle=handles,
        after=parts,
        until=some.floats(0, 1.2),
        wanted=some.none() | wishes,
        backwards=some.booleans(),
        rows_max=some.sampled_from([1, 2, 7, 1000]),
    )
    def read(self, handle: int, after: float, until: float, wanted: Sequence[Wanted] | None, backwards: bool, rows_max: int) -> None:
        """Read between two positions, what is wanted, forwards or backwards, whole rows or what a fold needs of them."""
        self.counting.steps += 1
        store, ends = self.writers[handle].store, self.ends(after, until)
        asked = None if wanted is None else self.asked(wanted)
        pages = list(store.read(*ends, wanted=asked, backwards=backwards, rows_max=rows_max))
        found = flat(pages)
        assert all(0 < len(page) <= rows_max for page in pages)
        expected = [row for row in self.between(*ends) if asked is None or matches(row, asked, self.terms_of)]
        exact = [row for row in found if asked is None or matches(row, asked, self.terms_of)]
        assert exact == (expected[::-1] if backwards else expected)
        assert {row.position for row in found} <= {row.position for row in self.between(*ends)}
        if not backwards:
            bare = flat_of(store.read_bare(*ends, wanted=asked, rows_max=rows_max, heads=True))
            assert bare == [
                (row.position + (row.input is not None), row.last + 1, row.records, row.position, row.at, row.head) for row in found
            ]
            inputs = flat_of(store.read_bare(*ends, wanted=asked, rows_max=rows_max, inputs=True))
            assert inputs == [(row.last + 1, row.records, row.input) for row in found]

    @rule(handle=handles, start=some.sampled_from(NOTES), before=some.none() | some.sampled_from(NOTES))
    def look_up_between(self, handle: int, start: str, before: str | None) -> None:
        """Look up the notes that start with a text, and sort before another."""
        self.counting.steps += 1
        self.look_up(handle, before, start)

    def look_up(self, handle: int, before: str | None, start: str = "") -> None:
        """Look up notes."""
        found = self.writers[handle].store.notes(start, before)
        assert found == {key: text for key, text in self.notes.items() if key.startswith(start) and (before is None or key < before)}

    @rule(handle=handles)
    def find(self, handle: int) -> None:
        """Find all ids that are used."""
        self.counting.steps += 1
        store = self.writers[handle].store
        used: dict[str, set[int]] = {}
        for row in self.rows:
            used.setdefault(terms_of(row).id or "", set()).add(row.position)
        used.pop("", None)
        for own, positions in used.items():
            assert positions <= set(store.find_id(own))
        assert store.find_ids([*used, "never"]) >= used.keys()

    @rule(handle=handles, after=parts, until=parts)
    def count(self, handle: int, after: float, until: float) -> None:
        """Add up what rows count."""
        self.counting.steps += 1
        ends = self.ends(after, until)
        assert {text: number for text, number in self.writers[handle].store.counted(*ends, counts_of).items() if number} == added_up(
            self.between(*ends)
        )

    @rule(handle=handles, after=parts)
    def wait(self, handle: int, after: float) -> None:
        """Ask where the log stands: what is there is not waited for."""
        self.counting.steps += 1
        assert self.writers[handle].store.wait(int(after * self.head) - 1, 0) == self.head


def flat_of(pages: object) -> list[object]:
    """Return what is on all pages."""
    return [one for page in pages for one in page]  # type: ignore[attr-defined]  # they are pages


def in_memory(_folder: Path) -> Callable[[], Engine]:
    """Return how a log in memory is opened: all handles are one."""
    store = MemoryStore()
    return lambda: store


def in_a_file(folder: Path) -> Callable[[], Engine]:
    """Return how a file is opened."""
    return lambda: SqliteStore(str(folder / "log.db"))


def in_postgres(_folder: Path) -> Callable[[], Engine]:
    """Return how a schema is opened."""
    url = fresh()
    return lambda: PostgresStore(url)


@pytest.mark.parametrize(
    ("place", "share", "portion"),
    [
        pytest.param(place, share, portion, id=f"{place.__name__}-{portion}")
        for place, share in [(in_memory, 0.33), (in_a_file, 0.2), (in_postgres, 0.02)]
        for portion in portions(share)
    ],
)
def test_a_store_answers_as_a_list_does(
    place: Callable[[Path], Callable[[], Engine]], share: float, portion: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any order of appends, conditions, failures, erasure, packing, reopening, other readings and questions, by two handles."""
    monkeypatch.setattr(runs, "FLUSH_RECORDS", 32)
    monkeypatch.setattr(segments, "ROWS_MAX", 8)

    def made(counting: Counting) -> type[RuleBasedStateMachine]:
        class Machine(Stores):
            def __init__(self) -> None:
                super().__init__(place, counting)

        Machine.__name__ = Machine.__qualname__ = f"Stores {place.__name__}"
        return Machine

    run(made, share, portion)
