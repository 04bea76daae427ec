"""The contract of stores, as tests: whoever writes a store runs it with ten lines.

    from happened.testing.store_contract import Place, StoreContract

    class TestMyStore(StoreContract):
        shared = True

        @pytest.fixture
        def place(self, tmp_path: Path) -> Place:
            return Place.named("my_package.my_store:MyStore", str(tmp_path / "log"))

A store that is `shared` between processes runs every test twice: alone, and with a second process that commits a row before every step of the first; one
that `packs` a third time, with a second process that also packs rows away there, or puts them back. So
no test counts positions from 1; each looks at what it wrote itself, and at the end of each the whole log must be dense, in time, and bound by its chain.
It needs pytest, and reaches the seam of `happened.core.store` only.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import ClassVar, NamedTuple

import msgspec
import pytest

from happened.core.errors import Closed, Diverged, Overloaded
from happened.core.store import Bare, Commit, Engine, Head, Row, Terms, Unseen, Wanted
from happened.testing.intruder import Intruder, opened
from happened.testing.rows import (
    Fact,
    Scribe,
    added_up,
    check_whole,
    counts_of,
    flat,
    matches,
    other_terms_of,
    ours,
    read_by,
    terms_of,
    without,
)

ALONE, BESIDE, PACKED = "alone", "beside another process", "beside a process that packs"
WAIT_SECONDS_MAX = 20.0
"""For what comes at once, on a busy machine."""
WAIT_SECONDS_MIN = 0.03
"""What can be told from no waiting."""


class Place(NamedTuple):
    """Where a test keeps its data: `open` opens a store on it, each time on the same data."""

    open: Callable[[], Engine]
    elsewhere: tuple[str, str] | None = None
    """How another process opens it: the name of a function, and what it is called with."""

    @classmethod
    def named(cls, opener: str, where: str) -> "Place":
        """Return a place that any process opens by calling `module:name` with a text."""
        return cls(lambda: opened(opener, where), (opener, where))


class Accompanied:
    """A store that lets another process commit before each of its steps, and between two pages."""

    def __init__(self, store: Engine, step: Callable[[], object]) -> None:
        self.alone = store
        self._step = step
        self.sync_seconds = 0.0

    def append(self, decide: Callable[[Unseen], Commit], seen: int, *, wait_seconds_max: float = 10.0) -> Head:
        """Append, after the step."""
        self._step()
        return self.alone.append(decide, seen, wait_seconds_max=wait_seconds_max)

    def read(
        self,
        after: int = 0,
        until: int | None = None,
        *,
        wanted: Sequence[Wanted] | None = None,
        backwards: bool = False,
        rows_max: int = 1000,
    ) -> Iterator[Sequence[Row]]:
        """Read, with a step before each page."""
        self._step()
        for page in self.alone.read(after, until, wanted=wanted, backwards=backwards, rows_max=rows_max):
            yield page
            self._step()

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
        """Read, with a step before each page."""
        self._step()
        for page in self.alone.read_bare(after, until, wanted=wanted, rows_max=rows_max, heads=heads, inputs=inputs):
            yield page
            self._step()

    def notes(self, start: str, before: str | None = None) -> Mapping[str, str]:
        """Look up, after the step."""
        self._step()
        return self.alone.notes(start, before)

    def wait(self, after: int, wait_seconds_max: float) -> int:
        """Wait, after the step."""
        self._step()
        return self.alone.wait(after, wait_seconds_max)

    def scrub(self, progress: Callable[[int, int], None]) -> bool:
        """Scrub, after the step."""
        self._step()
        return self.alone.scrub(progress)

    def close(self) -> None:
        """Close, after the step."""
        self._step()
        self.alone.close()

    def index(
        self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], progress: Callable[[int, int], None], *, guest: bool = False
    ) -> bool:
        """Index, after the step."""
        self._step()
        return self.alone.index(reading, terms_of, progress, guest=guest)

    def found_by(self, reading: Mapping[int, str], terms_of: Callable[[Row], Terms], /) -> bool:
        """Say so, after the step."""
        self._step()
        return self.alone.found_by(reading, terms_of)

    def find_id(self, id: str) -> Sequence[int]:
        """Find, after the step."""
        self._step()
        return self.alone.find_id(id)

    def find_ids(self, ids: Sequence[str]) -> frozenset[str]:
        """Find, after the step."""
        self._step()
        return self.alone.find_ids(ids)

    def counted(self, after: int, until: int | None, counts_of: Callable[[Row], Sequence[tuple[str, int]]]) -> Mapping[str, int]:
        """Add up, after the step."""
        self._step()
        return self.alone.counted(after, until, counts_of)

    def sample(self, handler: str, outcome: str, ran_us: int, what: str) -> None:
        """Count, after the step."""
        self._step()
        self.alone.sample(handler, outcome, ran_us, what)

    def samples(self) -> Sequence[tuple[str, str, int, int, str]]:
        """Return what was counted, after the step."""
        self._step()
        return self.alone.samples()


Open = Callable[[], Engine]


class StoreContract:
    """What every store does. Subclass it as `Test...`, and give it a `place`."""

    shared: ClassVar[bool] = False
    """Whether several handles, also of several processes, may be open on the same data, and closing one loses nothing."""

    packs: ClassVar[bool] = False
    """Whether it is a `Packs`, and `shared`: then every test runs also beside a process that packs rows away, and puts them back."""

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Run every test also beside another process, where the store can."""
        if "company" in metafunc.fixturenames:
            companies = [ALONE, *[BESIDE] * self.shared, *[PACKED] * self.packs]
            metafunc.parametrize("company", companies, indirect=True)

    @pytest.fixture
    def place(self) -> Place:
        """Say where the data is: this is for the author of the store."""
        raise NotImplementedError("give your test class a fixture `place` that returns a `Place`")

    @pytest.fixture(scope="class")
    @classmethod
    def second_process(cls) -> Iterator[Intruder]:
        """Start the other process, once for all tests of a store."""
        with Intruder() as intruder:
            yield intruder

    @pytest.fixture
    def company(self, request: pytest.FixtureRequest, place: Place) -> Iterator[Intruder | None]:
        """Let the other process open the data, in tests that run beside it."""
        if request.param == ALONE:
            yield None
            return
        assert place.elsewhere is not None, "a store that is shared has a `Place.named(...)`"
        intruder: Intruder = request.getfixturevalue("second_process")
        intruder.open(*place.elsewhere, packing=request.param == PACKED)
        yield intruder
        intruder.close()

    @pytest.fixture
    def open_store(self, place: Place, company: Intruder | None) -> Iterator[Open]:
        """Open a store on the test's data, indexed; at the end look whether the log is whole, and close it."""
        handles: list[Engine] = []

        def open_one() -> Engine:
            store = place.open()
            handles.append(store)
            store.index(read_by("today"), terms_of, no_progress)
            return store if company is None else Accompanied(store, company.step)

        yield open_one
        for handle in handles:
            handle.close()
        if self.shared:
            store = place.open()
            check_whole(flat(store.read()))
            store.close()

    @pytest.fixture
    def store(self, open_store: Open) -> Engine:
        """Open one store."""
        return open_store()

    # --- appending

    def test_an_empty_log_has_nothing_to_read(self, store: Engine) -> None:
        """Nothing is there in either direction, by the index, by an id, or among the notes."""
        for backwards in (False, True):
            assert ours(flat(store.read(backwards=backwards))) == []
            assert ours(flat(store.read(wanted=[Wanted(("a=1",))], backwards=backwards))) == []
        assert list(store.find_id("none")) == []
        assert Scribe(store).notes() == {}

    def test_positions_are_dense(self, store: Engine) -> None:
        """Rows of any number of records follow each other without a gap, also in one commit."""
        scribe = Scribe(store)

        counts = (1, 3, 1, 7)
        for count in counts:
            scribe.append(Fact(records=count), Fact(records=1), Fact(records=count))

        rows = flat(store.read())
        check_whole(rows)
        assert sum(row.count for row in ours(rows)) == 2 * sum(counts) + len(counts)

    def test_append_returns_where_the_log_stands(self, store: Engine) -> None:
        """The head is the last row's: its last position, its time and its digest; also where nothing was appended."""
        scribe = Scribe(store)
        seen: list[Head] = []

        def look(unseen: Unseen) -> Commit:
            seen.append(unseen.head)
            return Commit()

        [row] = scribe.append(Fact(records=3))
        head = store.append(look, scribe.seen)

        assert scribe.seen == row.last
        assert head == seen[0]
        assert head in [Head(row.last, row.at, row.digest) for row in flat(store.read())]

    def test_append_hands_over_exactly_what_is_unseen(self, open_store: Open) -> None:
        """Who says what it has seen is given all rows behind that, once, in order; who has seen nothing is given the whole log."""
        one, other = Scribe(open_store()), Scribe(open_store())

        for _ in range(3):
            one.append(Fact(records=2), Fact())
            other.append(Fact(records=3))
        late = Scribe(open_store())
        late.append()

        rows = flat(late.store.read(until=late.seen))
        assert late.taken_in == rows
        for scribe, own in ((one, 6), (other, 3)):
            handed = [row.position for row in scribe.taken_in]
            assert handed == sorted(set(handed))
            known = [row.position for row in rows if row.last <= scribe.seen]
            assert len(known) - len(handed) == own
            assert set(handed) < set(known)

    def test_who_has_seen_everything_is_given_nothing(self, store: Engine) -> None:
        """A position behind the head is allowed: it asks for no rows."""
        Scribe(store).append(Fact(), Fact())
        ahead = Scribe(store, seen=1 << 62)

        ahead.append()

        assert ahead.taken_in == []

    def test_the_head_under_the_lock_is_the_last_row_handed_over(self, store: Engine) -> None:
        """`decide` may seal its row behind that head: nothing comes between."""
        scribe = Scribe(store)
        scribe.append(Fact(records=2))
        heads: list[tuple[Head, Row]] = []

        def look(unseen: Unseen) -> Commit:
            heads.append((unseen.head, unseen.rows[-1]))
            return Commit()

        store.append(look, 0)

        [(head, last)] = heads
        assert head == Head(last.last, last.at, last.digest)

    def test_what_decide_raises_stores_nothing(self, store: Engine) -> None:
        """The error is passed on as it is, whatever its class, and the store goes on."""
        scribe = Scribe(store)
        [before] = scribe.append(Fact(), notes={"kept": "1"})

        for kind in (ValueError, KeyboardInterrupt):
            error = kind("stop")

            def decide(_unseen: Unseen, error: BaseException = error) -> Commit:
                raise error

            with pytest.raises(kind) as raised:
                store.append(decide, scribe.seen)
            assert raised.value is error

        assert ours(flat(store.read())) == [before]
        assert scribe.notes() == {"kept": "1"}
        [after] = scribe.append(Fact())
        assert ours(flat(store.read())) == [before, after]

    def test_an_empty_commit_writes_nothing(self, store: Engine) -> None:
        """The head stays, and no row is there that was not."""
        scribe = Scribe(store)
        scribe.append(Fact())

        scribe.append()
        scribe.append()

        assert len(ours(flat(store.read()))) == 1

    def test_rows_come_back_byte_for_byte(self, store: Engine) -> None:
        """Whatever text and bytes are in a row, reading it returns the same."""
        scribe = Scribe(store)
        texts = ["", "é ü 漢 🦉 \U0010ffff", "'\"\\\n\t\x00\x1f", "x" * 100_000, "null", "%s ? :a $1"]

        rows = scribe.append(*(Fact(text=text, records=2, id=text[:20] or "none", tags=(f"t={text[:20]}",)) for text in texts))

        assert ours(flat(store.read())) == rows
        for row, text in zip(rows, texts, strict=True):
            assert row in flat(store.read(wanted=[Wanted((f"t={text[:20]}",))]))
            assert row.position in store.find_id(text[:20] or "none")

    # --- notes

    def test_rows_are_replaced_in_a_commit_and_what_was_derived_from_them_is_made_anew(self, store: Engine) -> None:
        """As where a body was erased: place, digest and count stay, the tags of what is gone lead nowhere, and what else is there is found."""
        scribe = Scribe(store)
        gone, kept = scribe.append(Fact(("gone=1",), 16, 1, "gone"), Fact(("kept=1",), 17, 2, "kept"))

        def decide(unseen: Unseen) -> Commit:
            row = scribe.row_after(unseen.head, Fact(("act=1",), 18))
            return Commit([row], [terms_of(row)], {"act": "done"}, [without(gone)])

        store.append(decide, scribe.seen)
        for _ in range(2):
            found = {row.position: row for row in flat(store.read())}
            assert found[gone.position] == without(gone)
            assert found[kept.position] == kept
            assert ours(flat(store.read(wanted=[Wanted(("gone=1",))]))) == []
            assert ours(flat(store.read(wanted=[Wanted(("kept=1",))]))) == [kept]
            assert gone.position in store.find_id("gone")
            assert store.notes("act") == {"act": "done"}
            assert store.scrub(lambda _done, _all: None)
        scribe.append(Fact(("later=1",), 16, 1, "later"))
        assert len(ours(flat(store.read(wanted=[Wanted(("later=1",))])))) == 1
        check_whole(flat(store.read()))

    def test_rows_may_be_replaced_by_a_commit_of_nothing_else(self, store: Engine) -> None:
        """The head stays, and so does what is found of others."""
        scribe = Scribe(store)
        gone, kept = scribe.append(Fact(("gone=1",), 16, 1, "gone"), Fact(("kept=1",), 17, 2, "kept"))

        head = store.append(lambda _: Commit(instead=[without(gone)]), scribe.seen)

        assert head.position >= kept.last
        assert ours(flat(store.read())) == [without(gone), kept]
        assert ours(flat(store.read(wanted=[Wanted(("gone=1",))]))) == []
        assert ours(flat(store.read(wanted=[Wanted(("kept=1",))]))) == [kept]
        scribe.append(Fact(("later=1",), 16, 1, "later"))
        assert len(ours(flat(store.read(wanted=[Wanted(("later=1",))])))) == 1

    def test_a_row_that_is_not_there_is_not_replaced_and_nothing_is_stored(self, store: Engine) -> None:
        """Its place is taken by another, or by none: the whole commit is refused."""
        scribe = Scribe(store)
        [first] = scribe.append(Fact(("a=1",)))

        def decide(unseen: Unseen) -> Commit:
            row = scribe.row_after(unseen.head, Fact(("act=1",)))
            return Commit([row], [terms_of(row)], {"act": "done"}, [without(first), msgspec.structs.replace(first, digest=bytes(32))])

        with pytest.raises(Diverged):
            store.append(decide, scribe.seen)

        assert ours(flat(store.read())) == [first]
        assert store.notes("act") == {}

    def test_notes_are_set_and_deleted_in_a_commit(self, store: Engine) -> None:
        """A note is what was set last; `None` deletes it, also one that is not there. No row is needed beside."""
        scribe = Scribe(store)

        scribe.append(Fact(), notes={"a": "1", "b": "1", "c": ""})
        scribe.append(notes={"a": "2", "b": None, "never": None})

        assert scribe.notes() == {"a": "2", "c": ""}

    def test_notes_are_found_by_the_start_of_their_key(self, store: Engine) -> None:
        """The start is compared as text: no character in it means anything else."""
        scribe = Scribe(store)
        keys = ["a", "a/", "a/1", "a/🦉", "a0", "A/1", "b%", "b_", "bx", "c", "c\0", "c\0\1", "c\1", "c\1\1\0", "c\1\2", "c\2"]
        long = "".join(map(chr, range(0x4E00, 0x4E00 + 1_000)))
        keys += [long, long + "x", "🦉" * 600 + "\0\3\4" * 100, "🦉" * 599 + "\0\3\4", "🦉" * 700]

        scribe.append(notes={key: key.upper() for key in keys})

        for start in ("", "a", "a/", "b%", "b_", "a/🦉", "c", "c\0", "c\1", "c\2", long[:1], long[:601], long, "🦉", "🦉" * 650, "nothing"):
            expected = {key: key.upper() for key in keys if key.startswith(start)}
            assert scribe.notes(start) == expected, start
            assert store.notes(start) == expected, start

    def test_notes_are_read_without_the_lock(self, store: Engine) -> None:
        """While `decide` runs, another thread reads the notes that are durable."""
        scribe = Scribe(store)
        scribe.append(notes={"a": "1"})
        found: list[Mapping[str, str]] = []

        def decide(_: Unseen) -> Commit:
            reader = threading.Thread(target=lambda: found.append(store_alone(store).notes("")))
            reader.start()
            reader.join(WAIT_SECONDS_MAX)
            return Commit(notes={"a": "2"})

        store.append(decide, scribe.seen)

        assert found == [{"a": "1"}]
        assert store.notes("") == {"a": "2"}

    def test_many_ids_are_found_in_one_go(self, store: Engine) -> None:
        """Of many ids those come back that rows use: in the tail, in runs, none that nobody used."""
        scribe = Scribe(store)
        used = [f"used-{number}" for number in range(1_200)]
        for start in range(0, len(used), 100):
            scribe.append(*[Fact(id=one) for one in used[start : start + 100]])
        free = [f"free-{number}" for number in range(300)]

        found = store.find_ids([*free, *used])

        assert found >= set(used)
        assert len(found & set(free)) < len(free) // 10, "two hashes may be the same, but seldom are"
        assert store.find_ids([]) == frozenset()

    # --- reading

    @pytest.mark.parametrize("rows_max", [1, 2, 3, 1000])
    @pytest.mark.parametrize("backwards", [False, True])
    def test_pages_have_whole_rows_in_order(self, store: Engine, backwards: bool, rows_max: int) -> None:
        """Whatever the size of a page, reading gives every row once, whole, in order, and no page is empty or too long."""
        scribe = Scribe(store)
        rows = [row for count in (1, 4, 2, 1, 3, 1) for row in scribe.append(Fact(records=count))]

        pages = list(store.read(0, scribe.seen, backwards=backwards, rows_max=rows_max))

        assert all(1 <= len(page) <= rows_max for page in pages)
        assert ours(flat(pages)) == (rows[::-1] if backwards else rows)
        check_whole(flat(pages)[:: -1 if backwards else 1])

    @pytest.mark.parametrize("rows_max", [1, 2, 1000])
    @pytest.mark.parametrize("wanted", [None, [Wanted(("all=1",))], [Wanted((), (16,))]])
    def test_bare_rows_say_what_whole_ones_do(self, store: Engine, wanted: Sequence[Wanted] | None, rows_max: int) -> None:
        """The same rows in the same pages, as far as a fold needs them: from where to where their records are, and with heads what they say of themselves."""
        scribe = Scribe(store)
        scribe.append(Fact(("all=1",)), Fact(("all=1",), records=3, id="asked"))
        scribe.append(Fact(records=2), Fact(("all=1",), records=2, id="asked, too"))

        pages = list(store.read(1, scribe.seen, wanted=wanted, rows_max=rows_max))

        bare = [[(row.position + (row.input is not None), row.last + 1, row.records) for row in page] for page in pages]
        headed = [[(row.position, row.at, row.head) for row in page] for page in pages]
        assert [list(page) for page in store.read_bare(1, scribe.seen, wanted=wanted, rows_max=rows_max)] == bare
        found = [list(page) for page in store.read_bare(1, scribe.seen, wanted=wanted, rows_max=rows_max, heads=True)]
        assert [[of[:3] for of in page] for page in found] == bare
        assert [[of[3:] for of in page] for page in found] == headed
        asked = [[(row.last + 1, row.records, row.input) for row in page] for page in pages]
        assert [list(page) for page in store.read_bare(1, scribe.seen, wanted=wanted, rows_max=rows_max, inputs=True)] == asked

    @pytest.mark.parametrize("rows_max", [1, 1000])
    @pytest.mark.parametrize("backwards", [False, True])
    @pytest.mark.parametrize("wanted", [None, [Wanted()], [Wanted(("all=1",))], [Wanted((), (16,))], [Wanted(("all=1",), (16, 17))]])
    def test_reading_stays_between_its_ends(self, store: Engine, wanted: Sequence[Wanted] | None, backwards: bool, rows_max: int) -> None:
        """A row lies after a position if its last record does, and up to another if its last record does: a row is in or out, never cut."""
        scribe = Scribe(store)
        rows = [row for count in (2, 1, 3, 4) for row in scribe.append(Fact(records=count, tags=("all=1",)))]
        first, last = rows[0].position - 1, rows[-1].last

        for after in range(first, last + 1):
            for until in (*range(after, last + 1, 3), None) if rows_max > 1 else (last - 1,):
                found = ours(flat(store.read(after, until, wanted=wanted, backwards=backwards, rows_max=rows_max)))

                expected = [row for row in rows if row.last > after and (until is None or row.last <= until)]
                assert found == (expected[::-1] if backwards else expected), (after, until)

    def test_reading_goes_on_while_others_append(self, store: Engine) -> None:
        """A reader between two pages holds up no writer, and goes on where it was."""
        scribe = Scribe(store)
        rows = scribe.append(*[Fact()] * 5)
        found: list[Row] = []

        for page in store.read(rows_max=2):
            found += ours(page)
            scribe.append(Fact(name=18))
            if len(found) >= len(rows):
                break

        assert found[: len(rows)] == rows

    def test_readers_do_not_wait_for_a_writer(self, store: Engine) -> None:
        """While `decide` runs, another thread reads, and sees nothing of what is not committed."""
        scribe = Scribe(store)
        rows = scribe.append(Fact(tags=("a=1",)))
        found: list[list[Row]] = []

        def decide(_: Unseen) -> Commit:
            for wanted in (None, [Wanted(("a=1",))]):
                reader = threading.Thread(target=lambda: found.append(flat(store_alone(store).read(wanted=wanted))))  # noqa: B023 - joined in the loop
                reader.start()
                reader.join(WAIT_SECONDS_MAX)
            return Commit()

        store.append(decide, scribe.seen)

        assert [ours(one) for one in found] == [rows, rows]

    # --- the index

    @pytest.mark.parametrize("backwards", [False, True])
    def test_the_index_finds_what_a_scan_finds(self, store: Engine, backwards: bool) -> None:
        """By terms, by names or by both: more rows than asked for may come, never fewer, none twice, and in order."""
        scribe = Scribe(store)
        for n in range(40):
            scribe.append(Fact((f"two={n % 2}", f"three={n % 3}", f"own={n}"), 16 + n % 3, 1 + n % 4), Fact(name=16 + n % 2))
        scanned = flat(store.read(0, scribe.seen, backwards=backwards))
        asked: list[list[Wanted]] = [
            [],
            [Wanted()],
            [Wanted(("two=1",))],
            [Wanted(("two=1", "three=0"))],
            [Wanted(("two=1", "three=0"), (16, 18))],
            [Wanted((), (17,))],
            [Wanted((), (99,))],
            [Wanted(("own=7",)), Wanted(("own=8",)), Wanted(("two=0", "own=8"))],
            [Wanted(("own=7",)), Wanted((), (18,))],
            [Wanted(("own=7", "own=8"))],
            [Wanted(("nothing=1",))],
        ]

        for wanted in asked:
            for rows_max in (7, 1000):
                found = flat(store.read(0, scribe.seen, wanted=wanted, backwards=backwards, rows_max=rows_max))

                positions = [row.position for row in found]
                assert positions == sorted(set(positions), reverse=backwards), wanted
                assert [row for row in found if matches(row, wanted)] == [row for row in scanned if matches(row, wanted)], wanted

    def test_the_index_sees_what_others_wrote(self, open_store: Open) -> None:
        """What another handle has committed is found at once."""
        one, other = Scribe(open_store()), Scribe(open_store())

        for n in range(5):
            [row] = one.append(Fact((f"n={n}",), id=f"id-{n}"))

            assert row in flat(other.store.read(wanted=[Wanted((f"n={n}",))]))
            assert row.position in other.store.find_id(f"id-{n}")

    def test_an_id_is_found_under_the_lock(self, open_store: Open) -> None:
        """`decide` sees the ids of all rows that it was handed, and of those before."""
        one, other = Scribe(open_store()), Scribe(open_store())
        [early] = one.append(Fact(id="early"))
        other.append()
        [late] = one.append(Fact(id="late"))
        found: list[Sequence[int]] = []

        def decide(_: Unseen) -> Commit:
            found.extend(list(store_alone(other.store).find_id(one)) for one in ("early", "late", "never"))
            return Commit()

        other.store.append(decide, other.seen)

        assert early.position in found[0]
        assert late.position in found[1]
        assert not {early.position, late.position} & set(found[2])

    def test_the_index_is_made_anew_when_the_reading_changes(self, store: Engine, open_store: Open) -> None:
        """Tags are read anew from all rows where their fingerprint is another, and progress is told."""
        scribe = Scribe(store)
        rows = scribe.append(*(Fact((f"a={n}",)) for n in range(20)))
        if self.shared:
            store.close()
            store = open_store()
        told: list[tuple[int, int]] = []

        store.index(read_by("otherwise"), other_terms_of, lambda done, whole: told.append((done, whole)))

        wanted = [Wanted(("A=7",))]
        assert [row for row in flat(store.read(wanted=wanted)) if matches(row, wanted, other_terms_of)] == [rows[7]]
        assert not [row for row in flat(store.read(wanted=[Wanted(("a=7",))])) if matches(row, [Wanted(("a=7",))], other_terms_of)]
        assert told[-1][0] == told[-1][1] >= len(rows)

    def test_a_guest_reads_otherwise_and_leaves_the_index_as_it_is(self, store: Engine, open_store: Open) -> None:
        """He finds all that he asks for in his own way, and what he writes is found by the others in theirs; nobody is told to begin anew."""
        if not self.shared:
            pytest.skip("nobody is a guest beside others")
        scribe = Scribe(store)
        rows = scribe.append(*(Fact((f"a={n % 5}",), id=f"id-{n}") for n in range(40)))
        store.close()
        store = open_store()
        guest = Scribe(open_store())

        looked_up = guest.store.index(read_by("otherwise"), other_terms_of, no_progress, guest=True)
        rows += guest.append(*(Fact((f"a={n % 5}",), id=f"guest-{n}") for n in range(700)))
        rows += Scribe(store).append(Fact(("a=3",)))

        assert not looked_up
        for wanted, terms in (([Wanted(("A=3",))], other_terms_of), ([Wanted(("a=3",))], terms_of)):
            of = guest.store if terms is other_terms_of else store
            assert [row for row in flat(of.read(wanted=wanted)) if matches(row, wanted, terms)] == [
                row for row in rows if matches(row, wanted, terms)
            ]
        guest.store.close()
        store.close()
        fresh = open_store()
        wanted = [Wanted(("a=3",))]
        assert [row for row in flat(fresh.read(wanted=wanted)) if matches(row, wanted)] == [row for row in rows if matches(row, wanted)]
        assert all(row.position in fresh.find_id(f"guest-{n}") for n, row in [*enumerate(rows[40:-1])][::25])

    def test_an_index_of_the_same_reading_is_found_again(self, open_store: Open) -> None:
        """After closing and opening, everything is found as before."""
        store = open_store()
        scribe = Scribe(store)
        rows = scribe.append(*(Fact((f"a={n % 7}",), 16 + n % 2, id=f"id-{n}") for n in range(50)))
        if self.shared:
            store.close()

        store = open_store()

        wanted = [Wanted(("a=3",), (17,))]
        assert [row for row in flat(store.read(wanted=wanted)) if matches(row, wanted)] == [row for row in rows if matches(row, wanted)]
        assert all(row.position in store.find_id(f"id-{n}") for n, row in enumerate(rows))

    # --- sums

    def test_what_rows_count_is_added_up_for_any_stretch(self, open_store: Open) -> None:
        """Whatever the ends, inside a row too, the sums are those of the rows between them: as they come, after a close, and made anew."""
        store = open_store()
        scribe = Scribe(store)
        for n in range(60):
            scribe.append(Fact(name=16 + n % 3, records=1 + n * 37 % 1400), Fact(name=16 + n % 2, records=3))
        last = scribe.seen
        ends = [0, 1, 4095, 4096, 4097, last // 3, last // 2, 8192 * 4 - 1, 8192 * 4, 8192 * 4 + 1, last - 1, last]
        stretches = [(after, until) for after in ends for until in ends if after <= until]
        expected = {one: added_up(flat(store_alone(store).read(*one))) for one in stretches}

        assert {one: dict(store.counted(*one, counts_of)) for one in stretches} == expected
        assert dict(store_alone(store).counted(0, None, counts_of)) == added_up(flat(store_alone(store).read()))
        if self.shared:
            store.close()
            store = open_store()
            assert {one: dict(store.counted(*one, counts_of)) for one in stretches} == expected
        store.index(read_by("otherwise"), other_terms_of, no_progress)
        assert {one: dict(store_alone(store).counted(*one, counts_of)) for one in stretches} == expected

    def test_sums_know_what_others_wrote(self, open_store: Open) -> None:
        """Rows of several handles, and of another process, count once each, whoever writes the sums."""
        scribes = [Scribe(open_store()), Scribe(open_store())]

        for n in range(30):
            scribes[n % 2].append(*[Fact(name=16 + n % 3, records=1 + n % 5)] * (1 + n % 7 * 100))
            if n % 5 == 0:
                for scribe in scribes:
                    store = store_alone(scribe.store)
                    rows = flat(store.read())
                    assert dict(store.counted(0, rows[-1].last, counts_of)) == added_up(rows)

        rows = flat(store_alone(scribes[0].store).read())
        for scribe in scribes:
            assert dict(store_alone(scribe.store).counted(0, rows[-1].last, counts_of)) == added_up(rows)

    def test_an_empty_stretch_has_no_sums(self, store: Engine) -> None:
        """Before the first row, behind the last, and where the ends are one."""
        [row] = Scribe(store).append(Fact(records=3))

        assert dict(store.counted(row.last, row.last, counts_of)) == {}
        assert dict(store.counted(row.position, row.last - 1, counts_of)) == {}
        assert dict(store.counted(1 << 40, None, counts_of)) == {}

    # --- waiting

    def test_a_commit_wakes_who_waits(self, open_store: Open) -> None:
        """Whoever waits for something behind the head is woken, and told where the log stands."""
        one, other = Scribe(open_store()), store_alone(open_store())
        one.append(Fact())
        head = one.seen
        reached: list[int] = []
        waiting = threading.Thread(target=lambda: reached.append(other.wait(head, WAIT_SECONDS_MAX)))
        waiting.start()

        started = time.monotonic()
        one.append(Fact(records=3))
        waiting.join()

        assert reached[0] > head
        assert time.monotonic() - started < WAIT_SECONDS_MAX / 2

    def test_what_is_there_is_not_waited_for(self, store: Engine) -> None:
        """A wait for a position before the head returns at once."""
        scribe = Scribe(store)
        scribe.append(Fact(records=3))

        assert store.wait(scribe.seen - 1, WAIT_SECONDS_MAX) >= scribe.seen

    def test_waiting_ends_with_its_time(self, store: Engine) -> None:
        """Where nothing comes, the head is returned when the time is over."""
        scribe = Scribe(store)
        scribe.append(Fact())
        started = time.monotonic()

        head = store.wait(1 << 62, 2 * WAIT_SECONDS_MIN)

        assert head >= scribe.seen
        assert WAIT_SECONDS_MIN <= time.monotonic() - started < WAIT_SECONDS_MAX / 2

    # --- closing

    def test_a_store_can_be_closed_twice(self, store: Engine) -> None:
        """The second time nothing happens."""
        Scribe(store).append(Fact())

        store.close()
        store.close()

    def test_a_closed_store_takes_nothing(self, store: Engine) -> None:
        """It says that it is closed, and `decide` is not called."""
        scribe = Scribe(store)
        scribe.append(Fact())
        store.close()

        with pytest.raises(Closed):
            scribe.append(Fact())

    def test_closing_wakes_who_waits(self, store: Engine) -> None:
        """Nobody waits for a log that is closed."""
        alone = store_alone(store)
        ended: list[float] = []

        def wait() -> None:
            with contextlib.suppress(Closed):  # also an answer
                alone.wait(1 << 62, WAIT_SECONDS_MAX)
            ended.append(time.monotonic())

        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.02)
        started = time.monotonic()
        store.close()
        waiting.join()

        assert ended[0] - started < WAIT_SECONDS_MAX / 2

    # --- company

    def test_handles_take_turns(self, open_store: Open) -> None:
        """Rows of two handles never share a position, and each is handed what the other wrote."""
        scribes = [Scribe(open_store()), Scribe(open_store())]
        written: list[list[Row]] = [[], []]

        for n in range(10):
            turn = n % 3 % 2
            written[turn] += scribes[turn].append(Fact(records=1 + n % 3))
        for scribe in scribes:
            scribe.append()

        positions = [position for rows in written for row in rows for position in range(row.position, row.last + 1)]
        assert len(positions) == len(set(positions))
        for one, other in ((0, 1), (1, 0)):
            assert ours(scribes[one].taken_in) == written[other]

    @pytest.mark.parametrize("handles", [1, 3])
    def test_threads_race_and_all_is_there(self, open_store: Open, handles: int) -> None:
        """Whatever the order: what every thread appended is in the log once, in that thread's order."""
        stores = [open_store() for _ in range(handles)]
        written: list[list[Row]] = [[], [], [], []]

        def work(worker: int) -> None:
            scribe = Scribe(store_alone(stores[worker % handles]), actor=f"worker {worker}")
            for n in range(10):
                written[worker] += scribe.append(Fact((f"w={worker}",), records=1 + n % 3), wait_seconds_max=WAIT_SECONDS_MAX)

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        rows = flat(stores[0].read())
        check_whole(rows)
        assert [len(one) for one in written] == [10] * 4
        assert sorted((row for one in written for row in one), key=lambda row: row.position) == ours(rows)
        for worker, mine in enumerate(written):
            assert [row for row in flat(stores[-1].read(wanted=[Wanted((f"w={worker}",))])) if row in ours(rows)] == mine

    def test_processes_race_and_all_is_there(self, open_store: Open, company: Intruder | None) -> None:
        """Two processes append at the same time: no row is lost, none overwritten."""
        store = open_store()
        scribe = Scribe(store_alone(store))
        there = len(flat(store_alone(store).read()))
        if company is not None:
            company.begin(30)

        rows = [row for _ in range(30) for row in scribe.append(Fact(records=2), wait_seconds_max=WAIT_SECONDS_MAX)]
        if company is not None:
            company.finish()

        found = flat(store_alone(store).read())
        check_whole(found)
        assert ours(found) == rows
        assert len(found) - len(rows) - there == (30 if company is not None else 0)

    def test_a_lock_that_is_held_too_long_is_an_overload(self, open_store: Open) -> None:
        """Who can't have the lock in time hears so, and nothing was stored."""
        one, other = Scribe(open_store()), Scribe(open_store())
        refused: list[BaseException] = []

        def late() -> None:
            try:
                Scribe(store_alone(other.store)).append(Fact(), wait_seconds_max=0.05)
            except Overloaded as error:
                refused.append(error)

        def decide(_: Unseen) -> Commit:
            waiting = threading.Thread(target=late)
            waiting.start()
            waiting.join()
            return Commit()

        one.store.append(decide, one.seen)

        assert len(refused) == 1
        assert ours(flat(one.store.read())) == []
        other.append(Fact())

    # --- samples

    def test_samples_are_counted(self, store: Engine) -> None:
        """Of each handler and outcome it is known how often, how long, and what was said of the latest."""
        for n in range(10):
            store.sample("order", "failed", 5, f"error {n}")
        store.sample("pay", "failed", 1, "other")

        counted = {(handler, outcome): (count, ran, what) for handler, outcome, count, ran, what in store.samples()}
        assert counted["order", "failed"][:2] == (10, 50)
        assert "error 9" in counted["order", "failed"][2]
        assert counted["pay", "failed"][:2] == (1, 1)


def no_progress(_done: int, _all: int) -> None:
    """Take no notice of how far long work is."""


def store_alone(store: Engine) -> Engine:
    """Return the store without its company: for steps under the lock, where the other process would wait for ever, and in other threads."""
    return store.alone if isinstance(store, Accompanied) else store
