"""The cold part of a log, whatever it lies in: read and found as before, moved while others read and write, killed at any moment, erased in.

`HAPPENED_KILLS` says how often it is killed.
"""

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, Protocol  # Any: what a method is called with that is looked into

import msgspec
import pytest

import happened as h
from happened.core.store import Commit, Engine, Packs, Row, Wanted
from happened.log.compacting import compact, unpack
from happened.log.log import EVERYTHING_SEEN, KIND_COLD
from happened.stores import segments
from happened.stores.cold import Cold
from happened.stores.postgres_cold import PostgresCold
from happened.stores.unfolded import Unfolded
from happened.testing import Clock
from happened.testing.intruder import Intruder, opened
from happened.testing.rows import Fact, Scribe, check_whole, flat, matches, read_by, terms_of, without
from tests.cold.rows import filled, nothing
from tests.semantics.model import Balance, Deposited, bank
from tests.servers import fresh

KILLS = int(os.environ.get("HAPPENED_KILLS", "4"))

WORK = """
import sys
from happened.stores import segments
from happened.testing.intruder import opened

segments.ROWS_MAX = 64
store = opened(sys.argv[1], sys.argv[2])
print("ready", flush=True)
while True:
    store.compact(int(sys.argv[3]), lambda done, _all: print(done, flush=True))
    store.unpack(int(sys.argv[3]) // 2, lambda done, _all: print(done, flush=True))
"""
"""A program that packs and unpacks until it is killed."""


class Store(Engine, Packs, Protocol):
    """A store that packs."""


class Named(NamedTuple):
    """Where a log is: what opens it, and its place."""

    opener: str
    place: str

    def opened(self) -> Store:
        """Open it as a log does."""
        store = opened(self.opener, self.place)
        assert isinstance(store, Packs)
        store.index(read_by("today"), terms_of, nothing)
        return store

    @property
    def url(self) -> str:
        """Its URL."""
        return self.place if "://" in self.place else f"sqlite:///{self.place}"


@pytest.fixture(params=["sqlite", "postgres"])
def log(request: pytest.FixtureRequest, tmp_path: Path) -> Named:
    """Say where the log is."""
    if request.param == "sqlite":
        return Named("happened.stores.sqlite:SqliteStore", str(tmp_path / "log.db"))
    return Named("happened.stores.postgres:PostgresStore", fresh())


def test_a_log_with_a_cold_part_is_marked_until_all_is_put_back(log: Named) -> None:
    """So a release that can't read it says which one can: in a file, and in PostgreSQL."""
    with h.open_log(log.url, create=True) as opened_log:
        for number in range(30):
            opened_log.append(h.Loose("Seen", {"number": number}))
        assert opened_log.engine.notes(KIND_COLD) == {}
        for keep in (20, 10):
            compact(opened_log, keep=keep)
            assert list(opened_log.engine.notes(KIND_COLD)) == [KIND_COLD]
        unpack(opened_log)
        assert opened_log.engine.notes(KIND_COLD) == {}


def test_packed_rows_are_read_and_found_as_before(log: Named) -> None:
    """In both directions, from any position, in pages of any size, by the index, by ids, and in what is counted; by who had them open and by who opens anew."""
    store = log.opened()
    rows = filled(store, 2_000)
    counted = store.counted(777, 2_222, lambda row: terms_of(row).counts)

    store.compact(rows[-300].last, nothing)

    with closing(log.opened()) as other:
        for one in (store, other):
            assert one.parts().cold == rows[-300].last
            assert flat(one.read()) == rows
            assert flat(one.read(backwards=True, rows_max=77)) == rows[::-1]
            for row in (rows[0], rows[1], rows[700], rows[-301], rows[-300], rows[-299], rows[-1]):
                assert next(iter(one.read(row.position - 1, rows_max=1)))[0] == row
                assert flat(one.read(row.last, row.last + 20)) == [
                    other for other in rows if other.position > row.last and other.last <= row.last + 20
                ]
                assert row.position in one.find_id(terms_of(row).id or "")
            for wanted in ([Wanted(("n=7",))], [Wanted(("n=7",)), Wanted(("n=8",), (17,))], [Wanted((), (18,))]):
                for backwards in (False, True):
                    found = [row for row in flat(one.read(wanted=wanted, backwards=backwards, rows_max=30)) if matches(row, wanted)]
                    assert found == [row for row in (rows[::-1] if backwards else rows) if matches(row, wanted)]
            assert one.counted(777, 2_222, lambda row: terms_of(row).counts) == counted
    store.close()


@pytest.mark.parametrize("cold", [0, 7, 18])
def test_rows_are_read_from_any_position_up_to_any_other(log: Named, cold: int) -> None:
    """Also from within a row, in pages of any length, whichever part it begins in."""
    with closing(log.opened()) as store:
        scribe = Scribe(store)
        for count in (1, 3, 2, 1, 4, 1, 2, 5, 1, 1):
            scribe.append(Fact((), 16, count))
        rows = flat(store.read())
        if cold:
            store.compact(cold, nothing)
        for after in range(-1, rows[-1].last + 2):
            for until in (None, *range(rows[-1].last + 2)):
                expected = [row for row in rows if after < row.last and (until is None or row.last <= until)]
                for rows_max in (2, 3, 100):
                    pages = list(store.read(after, until, rows_max=rows_max))
                    assert flat(pages) == expected
                    assert all(0 < len(page) <= rows_max for page in pages)
                    bare = [found for page in store.read_bare(after, until, rows_max=rows_max) for found in page]
                    assert [found[1] for found in bare] == [row.last + 1 for row in expected]


def test_a_page_that_is_read_while_rows_move_has_each_once(log: Named) -> None:
    """Between any two pages rows are packed or put back, and a reader misses none and meets none twice."""
    with closing(log.opened()) as store, closing(log.opened()) as reader:
        rows = filled(store, 1_200)
        for backwards in (False, True):
            for wanted in (None, [Wanted((), (16, 17, 18))], [Wanted(("n=3",))]):
                seen: list[Row] = []
                for number, page in enumerate(reader.read(wanted=wanted, backwards=backwards, rows_max=60)):
                    seen += page
                    if number % 2:
                        store.unpack(max(store.parts().cold - 400, 0), nothing)
                    else:
                        store.compact(rows[(number * 97) % 1_000].last, nothing)
                expected = [row for row in rows if wanted is None or matches(row, wanted)]
                assert [row for row in seen if wanted is None or matches(row, wanted)] == (expected[::-1] if backwards else expected)


def test_a_process_that_slept_goes_on_where_its_last_row_was_packed(log: Named) -> None:
    """Whoever knows the head of long ago finds it in the cold part, and appends behind what others have."""
    with closing(log.opened()) as asleep, closing(log.opened()) as store:
        sleeper = Scribe(asleep)
        sleeper.append(Fact(("a=1",), id="first"))
        rows = filled(store, 600)
        store.compact(rows[-1].last, nothing)

        sleeper.append(Fact(("a=1",), id="second"))

        assert sleeper.taken_in == rows[1:]
        check_whole(flat(store.read()))


def test_killed_at_any_moment_nothing_is_lost(log: Named) -> None:
    """A process that packs and unpacks is killed again and again while another writes: the log is whole, and the next one goes on."""
    seed = int(os.environ.get("HAPPENED_SEED", "11"))
    print("seed", seed, "kills", KILLS)
    chance = random.Random(seed)
    with closing(log.opened()) as store:
        rows = filled(store, 1_000)
    moved = set[int]()
    kills = 0
    with Intruder() as writer:
        writer.open(*log)
        while kills < KILLS or (len(moved) == 1 and kills < 10 * KILLS):  # on a busy machine a few may all meet it where all is packed
            kills += 1
            with subprocess.Popen([sys.executable, "-c", WORK, *log, str(rows[-1].last)], stdout=subprocess.PIPE, text=True) as child:
                assert child.stdout is not None
                child.stdout.readline()
                writer.begin(20)
                for _ in range(chance.randrange(1, 30)):
                    child.stdout.readline()
                time.sleep(chance.random() * 0.02)  # a moment inside a step
                child.kill()
            writer.finish()
            with closing(log.opened()) as store:
                found = flat(store.read())
                moved.add(store.parts().cold)
                check_whole(found)
                assert found[: len(rows)] == rows
        writer.close()
    with closing(log.opened()) as store:
        store.compact(rows[-1].last, nothing)
        assert store.parts().cold == rows[-1].last
        assert len(flat(store.read())) == len(rows) + 20 * kills
    assert len(moved) > 1, "they were killed at different places"


def test_segments_grow_until_they_are_full(log: Named) -> None:
    """Packing a few rows at a time leaves no crowd of small segments."""
    with closing(log.opened()) as store:
        rows = filled(store, 1_500)
        for row in rows[::100]:
            store.compact(row.last, nothing)
        store.compact(rows[-1].last, nothing)

        assert store.parts().segments == -(-1_499 // segments.ROWS_MAX)
        assert flat(store.read()) == rows


def test_how_far_it_is_rises_to_all_there_is_to_do(log: Named) -> None:
    """Also where more is put back than was asked for, since a segment is whole."""
    packing: list[tuple[int, int]] = []
    unpacking: list[tuple[int, int]] = []
    rest: list[tuple[int, int]] = []
    with closing(log.opened()) as store:
        rows = filled(store, 900)
        until, after = rows[-3].last, rows[300].last
        store.compact(until, lambda done, whole: packing.append((done, whole)))
        store.unpack(after, lambda done, whole: unpacking.append((done, whole)))
        left = store.cold_until()
        store.unpack(0, lambda done, whole: rest.append((done, whole)))

        assert 0 < left < after
        for told, whole in ((packing, until), (unpacking, until - after), (rest, left)):
            assert told == sorted(set(told))
            assert {of for _, of in told} == {whole}
            assert told[-1] == (whole, whole)
        assert len(packing) == len(unpacking) + len(rest) == -(-898 // segments.ROWS_MAX)


def test_a_row_that_reaches_behind_the_position_stays_and_one_that_does_is_put_back(log: Named) -> None:
    """What is packed ends at the position or before it; what is put back is all behind it."""
    with closing(log.opened()) as store:
        scribe = Scribe(store)
        for _ in range(9):
            scribe.append(Fact((), 16, 3))
        rows = flat(store.read())

        store.compact(rows[4].last - 1, nothing)
        assert store.cold_until() == rows[3].last
        store.compact(rows[4].last, nothing)
        assert store.cold_until() == rows[4].last
        store.unpack(rows[4].last, nothing)
        assert store.cold_until() == rows[4].last
        store.unpack(rows[4].last - 1, nothing)
        assert (store.cold_until(), flat(store.read())) == (0, rows)


@pytest.mark.parametrize("after", [0, 300])
def test_what_others_have_put_back_meanwhile_is_left_to_them(log: Named, after: int) -> None:
    """Two processes unpack at once, up to the same position or another: each goes on with what is there."""
    with closing(log.opened()) as store, closing(log.opened()) as other:
        rows = filled(store, 900)
        store.compact(rows[-1].last, nothing)

        store.unpack(after, lambda _done, _all: other.unpack(0, nothing))

        for one in (store, other):
            assert (one.cold_until(), flat(one.read())) == (0, rows)


def test_no_more_is_looked_at_for_a_step_than_it_may_pack(log: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of rows with much text few are packed together: all that might be by their number would be read anew for each of them."""
    sizes: list[int] = []
    fitting = segments.fitting

    def looked_at(rows: Sequence[Row]) -> int:
        sizes.append(sum(len(row.records) for row in rows))
        return fitting(rows)

    monkeypatch.setattr(segments, "fitting", looked_at)
    with closing(log.opened()) as store:
        Scribe(store).append(*[Fact(text="é" * 100_000) for _ in range(30)])
        rows = flat(store.read())
        store.compact(rows[-1].last, nothing)
        assert flat(store.read()) == rows
        assert store.parts().segments == 15
    assert max(sizes) < 6 * segments.TEXT_BYTES_MAX


def test_the_newest_row_stays(log: Named) -> None:
    """A log has a row to follow on, whatever is packed; an empty one has nothing to pack."""
    with closing(log.opened()) as store:
        store.compact(1 << 40, nothing)
        filled(store, 3)
        store.compact(1 << 40, nothing)
        assert (store.parts().cold_rows, store.parts().hot_rows) == (2, 1)


def test_a_body_in_a_cold_part_is_erased(log: Named) -> None:
    """In the commit that erases it; readers that have its segment unfolded see it, and the chain holds. A row that is not there is refused."""
    with closing(log.opened()) as store, closing(log.opened()) as other:
        rows = filled(store, 600)
        store.compact(rows[-100].last, nothing)
        assert flat(other.read()) == rows
        gone = [rows[2], rows[4], rows[400], rows[-50]]

        store.append(lambda _: Commit(instead=[without(row) for row in gone]), 1 << 62)

        expected = [without(row) if row in gone else row for row in rows]
        for one in (store, other):
            assert flat(one.read()) == expected
        check_whole(expected)
        with pytest.raises(h.Diverged, match="no such row"):
            store.append(lambda _: Commit(instead=[msgspec.structs.replace(rows[5], digest=bytes(32))]), 1 << 62)
        assert flat(store.read()) == expected
        assert store.scrub(nothing)
        assert flat(other.read()) == expected


@pytest.mark.parametrize(
    ("place", "cold"),
    [(50, 100), (150, 100), (50, 0)],
    ids=["in the segment that grows", "in a row that comes into it", "in the first segment"],
)
def test_what_is_erased_while_it_is_packed_stays_erased(log: Named, place: int, cold: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the work beside the lock and the lock another process erases a body of what is being packed: what was made of it is thrown away."""
    packed: Callable[..., Any] = Unfolded[Any].packed

    def erasing(cold: Unfolded[Any], *args: Any, **named: Any) -> Any:  # Any: whatever `packed` takes and returns
        found = packed(cold, *args, **named)
        if left:
            gone = [without(left.pop())]
            other.append(lambda _: Commit(instead=gone), EVERYTHING_SEEN)
        return found

    with closing(log.opened()) as store, closing(log.opened()) as other:
        rows = filled(store, 200)
        store.compact(rows[cold - 1].last if cold else 0, nothing)
        left = [rows[place]]
        monkeypatch.setattr(Unfolded, "packed", erasing)

        store.compact(rows[-1].last, nothing)

        expected = [*rows[:place], without(rows[place]), *rows[place + 1 :]]
        assert (store.cold_until(), left) == (rows[-2].last, [])
        for one in (store, other):
            assert flat(one.read()) == expected
        check_whole(expected)


def test_what_others_have_packed_otherwise_meanwhile_is_seen(log: Named, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cold part ends where it ended, and its segments are others: the last one does not grow by what was made of the one before."""
    packed: Callable[..., Any] = Unfolded[Any].packed
    rows_max = segments.ROWS_MAX
    done: list[bool] = []

    def others(cold: Unfolded[Any], *args: Any, **named: Any) -> Any:  # Any: see above
        found = packed(cold, *args, **named)
        if not done:
            done.append(True)
            other.unpack(0, nothing)
            monkeypatch.setattr(segments, "ROWS_MAX", 50)
            other.compact(rows[99].last, nothing)
            monkeypatch.setattr(segments, "ROWS_MAX", rows_max)
        return found

    with closing(log.opened()) as store, closing(log.opened()) as other:
        rows = filled(store, 200)
        store.compact(rows[99].last, nothing)
        monkeypatch.setattr(Unfolded, "packed", others)

        store.compact(rows[-1].last, nothing)

        assert done
        for one in (store, other):
            assert (one.cold_until(), flat(one.read())) == (rows[-2].last, rows)


@pytest.mark.parametrize("backwards", [False, True])
def test_rows_that_move_between_two_looks_of_one_reader_are_read_once(
    log: Named, monkeypatch: pytest.MonkeyPatch, *, backwards: bool
) -> None:
    """It has looked how far the cold part reaches, and another process packs more before it reads."""
    moved: list[int] = []

    def moving(until: Callable[[Any, Any], int]) -> Callable[[Any, Any], int]:
        def looked(cold: Any, connection: Any) -> int:
            found = until(cold, connection)
            if reading and not moved:
                moved.append(found)
                other.compact(rows[-1].last, nothing)
            return found

        return looked

    reading = False
    with closing(log.opened()) as store, closing(log.opened()) as other:
        rows = filled(store, 200)
        store.compact(rows[49].last, nothing)
        for one in (Cold, PostgresCold):
            monkeypatch.setattr(one, "until", moving(one.until))
        reading = True

        found = flat(store.read(backwards=backwards))

        assert moved == [rows[49].last]
        assert found == (rows[::-1] if backwards else rows)


@pytest.mark.parametrize("inside", ["put", "segment"], ids=["packing", "unpacking"])
def test_nobody_writes_while_rows_are_moved(log: Named, inside: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes the lock of the log before it looks at what it is to move, and has it until that is moved."""
    moved = getattr(Unfolded, inside)
    waited: list[h.Overloaded] = []

    def beside(cold: Unfolded[Any], *args: Any) -> Any:  # Any: see above
        if not waited:
            with pytest.raises(h.Overloaded) as found:
                other.append(lambda _: Commit(notes={"a": "1"}), EVERYTHING_SEEN, wait_seconds_max=0.05)
            waited.append(found.value)
        return moved(cold, *args)

    with closing(log.opened()) as store, closing(log.opened()) as other:
        rows = filled(store, 100)
        if inside == "segment":
            store.compact(rows[-1].last, nothing)
        monkeypatch.setattr(Unfolded, inside, beside)

        if inside == "put":
            store.compact(rows[-1].last, nothing)
        else:
            store.unpack(0, nothing)

        assert len(waited) == 1
        assert flat(store.read()) == rows


def test_what_was_not_seen_and_is_packed_is_taken_in(log: Named) -> None:
    """A process that was away while others wrote and packed hears of all that came, packed or not, in order and once."""
    with closing(log.opened()) as away, closing(log.opened()) as store:
        scribe = Scribe(away)
        [first] = scribe.append(Fact(("a=1",)))
        rows = filled(store, 900)
        for packed in (300, 600, 899):
            store.compact(rows[packed].last, nothing)
            late = Scribe(away, seen=first.last)
            late.append(Fact(("late=1",)))
            came = [row for row in rows if row.position > first.last]
            assert late.taken_in[: len(came)] == came
        check_whole(flat(store.read()))
        assert flat(away.read()) == flat(store.read())


def test_an_app_goes_on_over_a_cold_part(log: Named) -> None:
    """States, views, what is as of the past, and decisions; also after it was opened again, and after all was put back."""
    with bank.open(log.url) as running:
        receipts = [running.record(Deposited(f"a{n % 7}", 1), id=f"fact-{n}") for n in range(300)]
        compact(running.log, keep=10)
        assert running.record(Deposited("a0", 1), id="fact-0").repeated
        running.record(Deposited("a0", 1), id="later")
        past = running.at(receipts[100].position).state(Balance, "a0")
        assert past == Balance("a0", 15, 15)
    with bank.open(log.url) as running:
        assert running.state(Balance, "a0") == Balance("a0", 44, 44)
        assert running.view(Balance).get("a0", since=running.log.head) == Balance("a0", 44, 44)
        assert running.at(receipts[100].position).state(Balance, "a0") == past
        assert running.log.verify().position == running.log.head
        unpack(running.log)
        assert running.log.verify().position == running.log.head
        assert running.state(Balance, "a0") == Balance("a0", 44, 44)


def test_what_is_old_is_packed_by_age(log: Named) -> None:
    """`older` keeps what is younger, `keep` what is last; both together keep both."""
    clock = Clock()
    with bank.open(log.url, run=False, source=clock) as running:
        running.record_all([Deposited("a", 1)] * 50)
        clock.move(timedelta(days=10))
        running.record_all([Deposited("a", 1)] * 50)
        head = running.log.head
        assert compact(running.log, older=timedelta(days=11)).cold == 0
        assert compact(running.log, older=timedelta(days=5), keep=head - 20).cold == 20
        assert compact(running.log, older=timedelta(days=5)).cold == head - 50
        assert compact(running.log).cold == head - 50
        assert compact(running.log, keep=0).cold == head - 1


def test_what_a_log_takes_is_told(log: Named) -> None:
    """With its index; packed, and its place given back, it takes less."""
    with closing(log.opened()) as store:
        empty = store.parts().bytes
        rows = filled(store, 2_000)
        full = store.parts().bytes
        assert full > empty + sum(len(row.head) + len(row.records) for row in rows)
        store.compact(rows[-1].last, nothing, rewrite=True)
    with closing(log.opened()) as store:
        assert empty < store.parts().bytes < full
