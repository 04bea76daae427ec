"""Views in trouble: of one key, of one view, of their file. It is seen at once, and stops nothing else."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from datetime import UTC, timedelta
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any  # Any: values of wrong types, on purpose

import pytest

import happened as h
from happened.cqrs import follower
from happened.log import lease
from happened.testing import Clock

Name = Annotated[str, h.Tag("name")]

LONE = "\udc80"
"""Half of a pair: a `str` of Python, but no Unicode text."""


class Said(h.Event):
    name: Name
    what: str


class Met(h.Event):
    name: Name
    other: Annotated[str, h.Tag("other")]


class Total(h.State):
    """A view of which every event's text says what becomes of a row."""

    name: Name
    count: int = 0
    number: int = 0
    share: Annotated[Decimal, h.Places(2)] = Decimal(0)
    text: str = ""

    def evolve(self, event: Said) -> "Total":
        after = self.but(count=self.count + 1)
        return RESULTS[event.what](after) if event.what in RESULTS else after


RESULTS: dict[str, Callable[[Total], Any]] = {
    "places": lambda total: total.but(share=Decimal("0.001")),
    "huge": lambda total: total.but(number=2**63),
    "mistyped": lambda total: total.but(text=5),
    "surrogate": lambda total: total.but(text=LONE),
    "number": lambda _: 5,
    "other state": lambda total: Heard(total.name),
    "moved": lambda total: total.but(name="elsewhere"),
    "raises": lambda total: total.but(number=1 // (total.count - total.count)),
}


class Heard(h.State):
    """A view beside it, which takes everything."""

    name: Name
    count: int = 0

    def evolve(self, event: Said) -> "Heard":
        return self.but(count=self.count + 1)


talk = h.App("talk", records=[Said, Met], views=[Total, Heard])


def view_of(running: h.Running, name: str) -> dict[str, Any]:
    """Return what is told of a view."""
    return next(one for one in running.statistics()["views"] if one["view"] == name)


@pytest.mark.parametrize("pages", [1, 5])
@pytest.mark.parametrize("what", RESULTS)
def test_a_row_that_its_table_cannot_hold_stops_its_key_only(any_url: str, what: str, pages: int) -> None:
    """Whatever `evolve` returns that is no row: its key stands still as of the event before, others and other views go on, and so after a reopen."""
    said = [Said("a", ""), Said("b", ""), Said("a", what), Said("a", ""), Said("b", "")]
    for opened in range(1, 3):
        with talk.open(any_url) as running:
            last = 0
            for at in range(0, 5, 5 // pages):
                receipt = running.record_all(said[at : at + 5 // pages])
                assert receipt is not None
                last = receipt.position
                running.view(Heard).get("b" if at else "a", since=last)

            bad = next(record.position for record in running.log.read() if isinstance(record.body, Said) and record.body.what)
            assert running.view(Total).get("b", since=last).count == 2 * opened
            with pytest.raises(h.Stuck, match=f"stands still at position {bad}"):
                running.view(Total).get("a", since=last)
            assert {row.name: row.count for row in running.view(Total).rows()} == {"a": 1, "b": 2 * opened}
            assert running.view(Heard).get("a", since=last).count == 3 * opened
            told = view_of(running, "Total")
            assert [(one["key"], one["position"]) for one in told["stuck"]] == [('["a"]', bad)]
            assert (told["broken"], told["failure"]) == (None, None)


class Passing(h.State):
    name: Name
    number: int = 0
    share: Annotated[Decimal, h.Places(2)] = Decimal(0)
    text: str = ""

    def evolve(self, event: Said) -> "Passing":
        match event.what:
            case "places":
                return self.but(share=Decimal("0.001"))
            case "huge":
                return self.but(number=2**63)
            case "NUL":
                return self.but(text="\0")
            case _:
                return Passing(self.name, self.number % 100 + 1)


passing = h.App("talk", records=[Said, Met], views=[Passing, Heard])


@pytest.mark.parametrize("together", [True, False], ids=["together", "one by one"])
@pytest.mark.parametrize("what", ["places", "huge", "NUL"])
def test_a_row_that_its_table_cannot_hold_for_a_moment_stops_its_key_however_many_events_come_at_once(
    any_url: str, what: str, *, together: bool
) -> None:
    """The next event would mend it: that it comes in the same page makes no difference, and neither does a rebuild."""
    held = what == "NUL" and any_url.startswith("sqlite")
    said = [Said("a", ""), Said("b", ""), Said("a", what), Said("a", ""), Said("a", ""), Said("b", "")]
    with passing.open(any_url) as running:
        for some in [said] if together else [[one] for one in said]:
            last = running.record_all(some)
            running.view(Heard).get(some[0].name, since=last)
        for _ in range(2):
            rows = running.view(Passing).rows()
            assert rows.position == running.log.head
            assert {row.name: row.number for row in rows} == {"a": 3 if held else 1, "b": 2}
            assert [one["key"] for one in view_of(running, "Passing")["stuck"]] == ([] if held else ['["a"]'])
            running.rebuild(Passing)


KEYS: dict[str, Callable[[], Any]] = {
    "number": lambda: 5,
    "surrogate": lambda: LONE,
    "too many": lambda: ("a", "b"),
    "unhashable": lambda: ["a"],
    "nothing that JSON knows": object,
}


@pytest.mark.parametrize("before", [0, 3])
@pytest.mark.parametrize("what", KEYS)
def test_a_key_that_no_row_can_have_stops_its_view_only(any_url: str, what: str, before: int) -> None:
    """`key_of` returns what is no key: its view stops at that position and says so, also to who only reads; the view beside it goes on."""
    wrong: Callable[[], Any] = KEYS[what]

    class Keyed(h.State):
        key: str
        count: int = 0

        @staticmethod
        def key_of(event: Said) -> str:
            return event.what or wrong()

        def evolve(self, event: Said) -> "Keyed":
            return self.but(count=self.count + 1)

    app = h.App("talk", records=[Said, Met], views=[Keyed, Heard])
    with app.open(any_url) as running, app.open(any_url, run=False) as reader:
        for _ in range(before):
            running.view(Keyed).get("x", since=running.record(Said("a", "x")))
        bad = running.record(Said("a", ""))
        last = running.record(Said("a", "x"))

        assert running.view(Heard).get("a", since=last).count == before + 2
        for handle in (running, reader):
            with pytest.raises(h.Stuck, match=f"stopped at position {bad.position}"):
                handle.view(Keyed).get("x", since=last)
            assert f"at position {bad.position}" in view_of(handle, "Keyed")["broken"]
            assert view_of(handle, "Heard")["broken"] is None
        if before:  # what was answered from before still is; what has never been whole is not
            assert [row.count for row in running.view(Keyed).rows()] == [before]


N = h.Tag("number")
BEYOND: dict[str, tuple[Any, Any, Any, Any]] = {
    "number": (Annotated[int, N], 7, 2**63, 2**64),
    "below": (Annotated[int, N], -7, -(2**63) - 1, -(2**64)),
    "decimal": (Annotated[Decimal, h.Places(2), N], Decimal("1.50"), Decimal("1.505"), Decimal("0.001")),
    "large decimal": (Annotated[Decimal, N], Decimal(1), Decimal("1E+13"), Decimal("1E+14")),
    "time": (Annotated[time_of_day, N], time_of_day(12), time_of_day(12, tzinfo=UTC), time_of_day(11, tzinfo=UTC)),
}
"""Types of keys, with a value that a column of theirs holds, and two that it doesn't."""


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("what", BEYOND)
def test_a_key_that_its_column_can_not_hold_stands_still_alone(any_url: str, what: str, *, together: bool) -> None:
    """It is of the right type, and beyond what is exact: it says so, also where it is joined, and where its row would be gone; all others go on."""
    Number, good, bad, unheard_of = BEYOND[what]  # noqa: N806 - a type

    class Counted(h.Event):
        number: Number  # type: ignore[valid-type]  # pyright: ignore[reportInvalidTypeForm] - the test is of types
        name: Name
        last: bool = False

    class Sum(h.State):
        number: Number  # type: ignore[valid-type]  # pyright: ignore[reportInvalidTypeForm] - the test is of types
        count: int = 0

        def evolve(self, event: Counted) -> "Sum | None":
            return None if event.last else self.but(count=self.count + 1)

    class Seen(h.State):
        name: Name
        count: int = 0

        def evolve(self, event: Counted, sum: Sum) -> "Seen":
            return self.but(count=sum.count)

    app = h.App("numbers", records=[Counted], views=[Sum, Seen])

    def recorded(running: h.Running, *facts: h.Event) -> int:
        last = 0
        for some in [facts] if together else [[fact] for fact in facts]:
            receipt = running.record_all(some)
            assert receipt is not None
            last = receipt.position
            running.view(Sum).find(good, since=last)
            running.view(Seen).find("a", since=last)
        return last

    with app.open(any_url) as running:
        first = recorded(running, Counted(good, "a"), Counted(bad, "b"), Counted(bad, "b", last=True), Counted(good, "a"))
        at = first - 2
    for opened in range(1, 4):
        with app.open(any_url) as running, app.open(any_url, run=False) as reader:
            last = recorded(running, Counted(good, "a"), Counted(bad, "c"), Counted(bad, "b", last=True))
            if opened == 2:
                running.rebuild(Sum)
                running.rebuild(Seen)
            for handle in (running, reader):
                assert handle.view(Sum).get(good, since=last).count == 2 + opened
                assert handle.view(Seen).get("a", since=last).count == 2 + opened
                with pytest.raises(h.Stuck, match=f"stands still at position {at}: .*can't hold"):
                    handle.view(Sum).get(bad, since=last)
                with pytest.raises(h.Stuck, match=r"Sum.*stands still at position"):
                    handle.view(Seen).find("c", since=last)
                told = view_of(handle, "Sum")
                assert (told["broken"], told["failure"], [one["position"] for one in told["stuck"]]) == (None, None, [at])
                rows = handle.view(Sum).rows()
                assert ([(row.count, rows.stuck) for row in rows]) == [(2 + opened, 1)]
                with pytest.raises(h.Invalid, match="can't hold"):
                    handle.view(Sum).find(unheard_of)


def test_a_view_that_reads_what_today_s_class_can_not_stops_alone(any_url: str) -> None:
    """A recorded body no longer fits its class: the view that reads it stops and says so, the one that doesn't goes on."""

    @h.named("Weighed")
    class Text(h.Event):
        name: Name
        grams: str

    @h.named("Weighed")
    class Number(h.Event):
        name: Name
        grams: int

    class Weight(h.State):
        name: Name
        grams: int = 0

        def evolve(self, event: Number) -> "Weight":
            return self.but(grams=event.grams)

    with h.App("talk", records=[Said, Text]).open(any_url) as running:
        running.record_all([Said("a", ""), Text("a", "no number"), Said("a", "")])
    with h.App("talk", records=[Said, Number], views=[Weight, Heard]).open(any_url) as running:
        last = running.record(Said("a", ""))

        assert running.view(Heard).get("a", since=last).count == 3
        with pytest.raises(h.Stuck, match="can't be read by today's class"):
            running.view(Weight).find("a", since=last)


def test_trouble_of_the_file_is_said_and_passes(url: str) -> None:
    """Somebody drops a view's table behind our back: that is told as failure, in `Late` too, while the view beside it goes on; a rebuild mends it."""
    with talk.open(url) as running:
        running.view(Total).get("a", since=running.record(Said("a", "")))
        with closing(sqlite3.connect(Path(url.removeprefix("sqlite:///")).with_suffix(".views.db"))) as stranger:
            stranger.execute(f'drop table "{running.view(Total).table}"')
        last = running.record(Said("a", ""))

        assert running.view(Heard).get("a", since=last).count == 2
        with pytest.raises(h.Late, match="no such table"):
            running.view(Total).get("a", since=last, wait_seconds_max=0.5)
        assert "no such table" in view_of(running, "Total")["failure"]
        running.rebuild(Total)
        assert running.view(Total).get("a", since=last).count == 2
        assert view_of(running, "Total")["failure"] is None


# --- rebuilding


def test_a_rebuild_that_can_not_be_ends_with_an_error_and_leaves_the_old_table(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`key_of` fails on what it took before: the rebuild raises why, readers go on with the old table, and of the new one nothing stays."""
    monkeypatch.setattr(follower, "SWEEP_SECONDS", 0.05)
    failing = threading.Event()

    class Tally(h.State):
        name: str
        count: int = 0

        @staticmethod
        def key_of(event: Said) -> str:
            if failing.is_set():
                raise ValueError("not now")
            return event.name

        def evolve(self, event: Said) -> "Tally":
            return self.but(count=self.count + 1)

    with h.App("talk", records=[Said], views=[Tally]).open(url) as running:
        running.view(Tally).get("a", since=running.record(Said("a", "")))
        failing.set()

        with pytest.raises(h.Invalid, match=r"can't be built: it stopped at position .*not now"):
            running.rebuild(Tally)

        failing.clear()
        assert running.view(Tally).get("a", since=running.record(Said("a", ""))).count == 2
        until(lambda: len(running.view(Tally).sql("select generation from _view")) == 1)
        running.rebuild(Tally)
        assert running.view(Tally).get("a", since=running.log.head).count == 2


def test_a_rebuild_whose_progress_is_interrupted_leaves_the_old_table(any_url: str) -> None:
    """What `progress` raises ends the rebuild; the next one works."""

    def interrupt(_done: int, _all: int) -> None:
        raise KeyboardInterrupt

    with talk.open(any_url) as running:
        running.view(Total).get("a", since=running.record(Said("a", "")))

        with pytest.raises(KeyboardInterrupt):
            running.rebuild(Total, progress=interrupt)

        running.rebuild(Total)
        assert running.view(Total).get("a", since=running.record(Said("a", ""))).count == 2


def test_a_rebuild_at_once_of_a_view_that_was_never_whole_ends(url: str) -> None:
    """The follower reads its first checkpoint while the rebuild makes its table: it does not take that one for the one it is to go on with."""
    with talk.open(url, run=False) as running:
        last = running.record_all([Said(f"a{number}", "") for number in range(10)])
    for _ in range(20):
        Path(url.removeprefix("sqlite:///")).with_suffix(".views.db").unlink()
        deadline = time.monotonic() + 5

        def in_time(_done: int, _all: int, deadline: float = deadline) -> None:
            assert time.monotonic() < deadline

        with talk.open(url) as running:
            running.rebuild(Total, progress=in_time)

            assert len(running.view(Total).rows(since=last)) == 10


def test_a_rebuild_where_another_process_follows_says_who(any_url: str) -> None:
    """The view is another's: the rebuild says whose, and does not wait for ever."""
    with talk.open(any_url) as owner, talk.open(any_url) as other:
        owner.view(Total).rows(since=owner.record(Said("a", "")))

        with pytest.raises(h.Invalid, match=r"is followed by .*: rebuild it there"):
            other.rebuild(Total)


def test_rebuilds_at_once_take_turns(any_url: str) -> None:
    """Threads rebuild the same view: each rebuild ends, and the rows are right."""
    wrong: list[BaseException] = []
    with talk.open(any_url) as running:
        last = running.record_all([Said(f"a{number % 10}", "") for number in range(100)])

        def work() -> None:
            try:
                for _ in range(3):
                    running.rebuild(Total)
            except BaseException as error:  # noqa: BLE001 - it is shown below
                wrong.append(error)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert {row.count for row in running.view(Total).rows(since=last)} == {10}


def test_an_owner_that_comes_back_goes_on_with_the_table_of_another_s_rebuild(any_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes take turns as owner, each rebuilds in between: neither goes on with a table that is gone."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2)
    for amount in range(1, 4):
        with talk.open(any_url) as owner, talk.open(any_url) as standby:
            owner.rebuild(Total)
            assert owner.view(Total).get("a", since=owner.record(Said("a", ""))).count == 2 * amount - 1
            owner.close()
            last = standby.record(Said("a", ""))

            assert standby.view(Total).get("a", since=last).count == 2 * amount


# --- states that are joined


class Person(h.State):
    name: Name
    moods: int = 0

    def evolve(self, event: Said) -> "Person":
        if event.what == "raises":
            raise ValueError("too much")
        return self.but(moods=2**63 if event.what == "huge" else self.moods + 1)


class Meeting(h.State):
    name: Name
    moods: int = 0

    def evolve(self, event: Met, person: Person) -> "Meeting":
        return self.but(moods=self.moods + person.moods)


class MoodOf(h.State):
    moods: int
    met: int = 0

    @staticmethod
    def key_of(event: Met, person: Person) -> int:
        return person.moods

    def evolve(self, event: Met) -> "MoodOf":
        return self.but(met=self.met + 1)


@pytest.mark.parametrize("what", ["raises", "huge"])
def test_a_joined_state_that_stops_stops_the_keys_that_ask_for_it(any_url: str, what: str) -> None:
    """The joined state of one name stands still: rows that ask for it later do too, with its position, and others go on; also after a reopen."""
    app = h.App("talk", records=[Said, Met], views=[Meeting])
    with app.open(any_url) as running:
        running.record_all([Said("a", ""), Met("a", "x"), Said("b", "")])
        bad = running.record(Said("a", what))
        running.view(Meeting).rows(since=bad)
    for opened in range(1, 3):
        with app.open(any_url) as running:
            running.record(Met("a", "x"))
            last = running.record(Met("b", "x"))

            assert running.view(Meeting).get("b", since=last) == Meeting("b", opened)
            with pytest.raises(h.Stuck, match=rf"Person\[\"a\"\], which stands still at position {bad.position}"):
                running.view(Meeting).get("a", since=last)
            rows = running.view(Meeting).rows()
            assert (set(rows), rows.stuck) == ({Meeting("a", 1), Meeting("b", opened)}, 1)
            assert [one["key"] for one in view_of(running, "Meeting")["stuck"]] == ['Person["a"]', '["a"]']


def test_a_joined_state_that_stops_stops_the_view_where_keys_depend_on_it(any_url: str) -> None:
    """`key_of` asks for the state that stands still: no key is known, so the view stops there and says why, but not before."""
    app = h.App("talk", records=[Said, Met], views=[MoodOf])
    with app.open(any_url) as running:
        running.record_all([Said("a", "raises"), Said("b", "")])
        before = running.record(Met("b", "x"))
        assert running.view(MoodOf).get(1, since=before).met == 1
        last = running.record(Met("a", "x"))

        with pytest.raises(h.Stuck, match=rf"stopped at position {last.position}: `key_of` asks for Person\[\"a\"\]"):
            running.view(MoodOf).get(1, since=last)


class Line(h.Value):
    name: Name
    units: int


class Ordered(h.Event):
    order: Annotated[str, h.Tag("order")]
    lines: tuple[Line, ...]


class Order(h.State):
    order: Annotated[str, h.Tag("order")]
    moods: str = ""

    def evolve(self, event: Ordered, people: Mapping[str, Person]) -> "Order":
        return self.but(moods=", ".join(f"{name} {person.moods}" for name, person in people.items()))


class Loudest(h.State):
    name: str
    orders: int = 0

    @staticmethod
    def key_of(event: Ordered, people: Mapping[str, Person]) -> Iterator[str]:
        yield max(people.values(), key=lambda person: person.moods).name

    def evolve(self, event: Ordered) -> "Loudest":
        return self.but(orders=self.orders + 1)


def test_a_view_may_ask_for_a_mapping_of_states(any_url: str) -> None:
    """An event with several values of a tag: `evolve` and `key_of` are given a state for each, as of the event's position."""
    with h.App("talk", records=[Said, Ordered], views=[Order, Loudest]).open(any_url) as running:
        running.record_all([Said("a", ""), Said("b", ""), Said("b", "")])
        running.record(Ordered("1", (Line("a", 1), Line("b", 1), Line("c", 1))))
        running.record(Said("a", ""))
        last = running.record(Ordered("2", (Line("a", 1),)))

        assert running.view(Order).get("1", since=last).moods == "a 1, b 2, c 0"
        assert running.view(Order).get("2", since=last).moods == "a 2"
        assert set(running.view(Loudest).rows(since=last)) == {Loudest("b", 1), Loudest("a", 1)}


def test_a_joined_state_that_can_not_be_filled_is_said_at_open(any_url: str) -> None:
    """Two values of a tag for one state: that is said when the app is opened, with what to write instead."""

    class Single(h.State):
        order: Annotated[str, h.Tag("order")]
        moods: int = 0

        def evolve(self, event: Ordered, person: Person) -> "Single":
            return self.but(moods=person.moods)

    with pytest.raises(h.Invalid, match="Mapping"):
        h.App("talk", records=[Said, Ordered], views=[Single]).open(any_url)


# --- several processes and versions


def test_who_only_reads_knows_who_follows(any_url: str) -> None:
    """Beside a running owner: statistics and `Late` of a process that only reads name it, and nobody once it has closed."""
    with talk.open(any_url, run=False) as reader:
        with talk.open(any_url) as owner:
            owner.view(Total).rows(since=owner.record(Said("a", "")))
            [name] = {one["owner"] for one in owner.statistics()["views"]}

            assert {one["owner"] for one in reader.statistics()["views"]} == {name}
            with pytest.raises(h.Late, match=f"it is followed by {name}"):
                reader.view(Total).rows(since=reader.log.head + 1, wait_seconds_max=0.05)

        assert {one["owner"] for one in reader.statistics()["views"]} == {None}
        with pytest.raises(h.Late, match="nobody follows it"):
            reader.view(Total).rows(since=reader.log.head + 1, wait_seconds_max=0.05)


def version(factor: int) -> tuple[h.App, type[Any]]:  # Any: either class
    """Return the app with a view of the same name and other code."""
    if factor == 1:

        @h.named("Heard")
        class One(h.State):
            name: Name
            count: int = 0

            def evolve(self, event: Said) -> "One":
                return self.but(count=self.count + 1)

        return h.App("talk", records=[Said, Met], views=[One]), One

    @h.named("Heard")
    class Two(h.State):
        name: Name
        count: int = 0
        twice: int = 0

        def evolve(self, event: Said) -> "Two":
            return self.but(count=self.count + 2, twice=self.twice + 4)

    return h.App("talk", records=[Said, Met], views=[Two]), Two


def test_two_versions_of_a_view_answer_at_once_and_the_older_goes_with_its_last_owner(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A rolling release: old and new code each follow and answer, also in SQL under the one name; when no old one runs any more its table is dropped."""
    monkeypatch.setattr(follower, "SWEEP_SECONDS", 0.05)
    (old, one), (new, two) = version(1), version(2)
    with old.open(url) as first:
        first.view(one).rows(since=first.record(Said("a", "")))
        with new.open(url) as second:
            for count in range(2, 5):
                last = first.record(Said("a", ""))
                assert second.view(two).get("a", since=last) == two("a", 2 * count, 4 * count)
                assert first.view(one).get("a", since=last) == one("a", count)
                time.sleep(0.2)
            assert second.view(two).sql("select count, twice from Heard") == [(8, 16)]
            assert first.view(one).sql("select count from Heard") == [(4,)]

            first.close()

            until(lambda: len(second.view(two).sql("select name from _view")) == 1)
            until(lambda: len(second.log.engine.notes("lease/view/")) == 1)
            assert second.view(two).get("a", since=second.record(Said("a", ""))) == two("a", 10, 20)


def test_views_of_one_log_in_two_files_are_both_followed(tmp_path: Path, any_url: str) -> None:
    """A process with views elsewhere, or in memory, follows its own, whoever follows the others."""
    places = [None, f"sqlite:///{tmp_path}/elsewhere.db", "memory:", "memory:"]
    handles = [talk.open(any_url, views=place) for place in places]
    last = handles[0].record(Said("a", ""))

    counts = [handle.view(Total).get("a", since=last).count for handle in handles]

    for handle in handles:
        handle.close()
    assert counts == [1, 1, 1, 1]


def test_an_owner_with_an_older_lease_takes_over_all_the_same(url: str) -> None:
    """The log came back from a backup, and its leases with it: who holds the lease now may write, whatever epoch the table has seen."""
    with talk.open(url) as running:
        running.view(Total).get("a", since=running.record(Said("a", "")))
    with closing(sqlite3.connect(Path(url.removeprefix("sqlite:///")).with_suffix(".views.db"))) as file:
        file.execute("update _view set owner = 1000")
        file.commit()
    with talk.open(url) as running:
        assert running.view(Total).get("a", since=running.record(Said("a", ""))).count == 2


# --- age


def test_a_view_left_behind_is_as_old_as_the_first_record_that_it_has_not_seen(any_url: str) -> None:
    """Until that one was recorded it stood at the head: however long nobody followed, and in whichever process it is asked."""
    clock = Clock()
    with talk.open(any_url, source=clock) as running:
        running.view(Total).rows(since=running.record(Said("a", "")))
    clock.move(timedelta(days=1))
    with talk.open(any_url, run=False, source=clock) as reader:
        assert reader.view(Total).rows().age == timedelta(0)
        reader.record(Said("a", ""))
        clock.move(timedelta(hours=1))
        reader.record(Said("a", ""))
        clock.move(timedelta(hours=1))

        assert reader.view(Total).rows().age == timedelta(hours=2)
        with talk.open(any_url, run=False, source=clock) as other:
            assert view_of(other, "Total")["age_seconds"] == 2 * 3600


# --- idle


def test_a_stopped_view_costs_nothing(any_url: str) -> None:
    """The only view has stopped: the follower sleeps, it does not spin."""

    class Never(h.State):
        name: str
        count: int = 0

        @staticmethod
        def key_of(event: Said) -> str:
            raise ValueError(event.what)

        def evolve(self, event: Said) -> "Never":
            return self.but(count=1)

    with h.App("talk", records=[Said], views=[Never]).open(any_url) as running:
        last = running.record(Said("a", ""))
        with pytest.raises(h.Stuck):
            running.view(Never).rows(since=last)

        before = time.process_time()
        time.sleep(0.5)

        assert time.process_time() - before < 0.25


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds, ten seconds at most."""
    deadline = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


# --- who may write


def owner_of(running: h.Running) -> int:
    """Return whose epoch stands at the view `Total` in its file."""
    file = running._followers._file
    assert file is not None
    with file.reader() as connection:
        [(owner,)] = connection.execute("select owner from _view where name = 'Total'").fetchall()
    return int(owner)


def test_who_has_lost_his_lease_does_not_claim_a_view_again(url: str) -> None:
    """He has not heard yet that it is another's, and begins anew after trouble: that one's epoch stays, and it goes on."""
    with talk.open(url) as running, talk.open(url, run=False) as former:
        running.view(Total).get("a", since=running.record(Said("a", "")))
        owned = owner_of(running)
        build = former._followers._views[Total].build

        assert former._followers._taken_over(build, owned - 1) is None

        assert owner_of(running) == owned
        assert running.view(Total).get("a", since=running.record(Said("a", ""))).count == 2


def test_a_view_that_another_owner_has_claimed_is_not_switched_to(url: str) -> None:
    """It may be begun anew there: who folded it before does not answer from it, and does not say that others may."""
    with talk.open(url, run=False) as running:
        running.record(Said("a", ""))
        followers = running._followers
        build, file = followers._views[Total].build, followers._file
        assert file is not None
        build.epoch, build.position = owner_of(running) + 1, running.log.head

        with pytest.raises(h.StoreFailed, match="followed by another process now"):
            followers._switch_if_whole(build, build.position)

        assert not build.ready
        with file.reader() as connection:
            assert connection.execute("select ready from _view where name = 'Total'").fetchall() == [(0,)]
