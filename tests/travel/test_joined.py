"""Snapshots of views that join other states: their rows, and those of the states that they ask for, as of one position; plus the rest they are the fold of all."""

import random
import sqlite3
import tempfile
import zlib
from collections.abc import Mapping
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Self  # Any: rows as SQLite has them

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import happened as h
from happened.core.state import fold_of
from happened.cqrs import past as folding
from happened.cqrs import view as viewing
from happened.cqrs.past import Joining, view_as_of
from happened.shelf.snapshots import SnapshotsFile
from happened.sourcing import snapshot as taking
from happened.sourcing.snapshot import Snapshots, Taker

CustomerNo = Annotated[str, h.Tag("customer")]
CountryNo = Annotated[str, h.Tag("country")]
OrderNo = Annotated[str, h.Tag("order")]


class Moved(h.Event):
    customer: CustomerNo
    country: CountryNo


class RateSet(h.Event):
    country: CountryNo
    rate: Decimal


class Placed(h.Event):
    order: OrderNo
    customer: CustomerNo
    total: Decimal


class Shared(h.Event):
    """Is of several customers."""

    order: OrderNo
    customers: tuple[CustomerNo, ...]


class Closed(h.Event):
    order: OrderNo


class Customer(h.State):
    """Goes, and may come again."""

    customer: CustomerNo
    country: CountryNo = ""
    moves: int = 0

    def evolve(self, event: Moved) -> "Customer | None":
        return self.but(country=event.country, moves=self.moves + 1) if event.country else None


class Rate(h.State):
    country: CountryNo
    rate: Decimal = Decimal("1.00")

    def evolve(self, event: RateSet) -> "Rate":
        return self.but(rate=event.rate)


class Count(h.State):
    """One for the log."""

    orders: int = 0

    def evolve(self, _event: Placed) -> "Count":
        return self.but(orders=self.orders + 1)


class Taxed(h.State):
    """Asks for a state, and for one whose key follows from that. Its text tells decimals apart that are equal."""

    order: OrderNo
    tax: Decimal = Decimal(0)
    said: str = ""

    def evolve(self, event: Placed, customer: Customer | None, rate: Rate | None) -> "Taxed | None":
        known = rate.rate if rate is not None else Decimal(1)
        if self.said.count(" ") > 3:
            return None
        return self.but(tax=self.tax + event.total * known, said=f"{self.said} {customer and customer.moves}*{known}={self.tax}")


class Placing(h.State):
    """Knows who a closed order is of, since its event does not say it."""

    order: OrderNo
    customer: CustomerNo = ""

    def evolve(self, event: Placed) -> "Placing":
        return self.but(customer=event.customer)


class Party(h.State):
    """Asks for several at once."""

    order: OrderNo
    countries: tuple[str, ...] = ()

    def evolve(self, event: Shared, customers: Mapping[str, Customer]) -> "Party":
        return self.but(countries=(*self.countries, *sorted(f"{key}:{one.country}:{one.moves}" for key, one in customers.items())))


class Home(h.State):
    """Has a computed key, from a state that it asks for."""

    country: str
    total: Decimal = Decimal(0)
    orders: frozenset[str] = frozenset()

    @staticmethod
    def key_of(event: Placed, customer: Customer) -> str:
        return customer.country

    def evolve(self, event: Placed, record: h.Recorded, count: Count) -> "Home":
        return self.but(total=self.total + event.total, orders=self.orders | {f"{event.order}/{count.orders}/{bool(record.id)}"})


class All(h.State):
    """One row, by three states."""

    lines: tuple[str, ...] = ()

    def evolve(self, event: Closed, placing: Placing, customer: Customer | None) -> "All":
        return self.but(lines=(*self.lines[-5:], f"{event.order} {placing.customer} {customer and customer.moves}"))


JOINED: tuple[type[h.State], ...] = (Taxed, Party, Home, All)
PROVABLE: tuple[type[h.State], ...] = (Taxed, Party)

trade = h.App("trade", records=[Moved, RateSet, Placed, Shared, Closed], views=[Customer, *JOINED])


def history(running: h.Running, seed: int, length: int) -> None:
    """Record a random history, also several in a row."""
    chance = random.Random(seed)
    for _ in range(length):
        running.log.append([_event(chance) for _ in range(chance.choice([1, 1, 3]))])


def _event(chance: random.Random) -> h.Event:
    order, customer = f"o-{chance.randrange(6)}", f"c-{chance.randrange(4)}"
    country = chance.choice(["CH", "DE", "FR"])
    match chance.randrange(7):
        case 0 | 1:
            return Moved(customer, chance.choice([country, country, ""]))
        case 2:
            return RateSet(country, Decimal(chance.randrange(100, 200)) / 100)
        case 3 | 4:
            return Placed(order, customer, Decimal(chance.choice(["1.50", "2", "7.25"])))
        case 5:
            return Shared(order, tuple(f"c-{n}" for n in range(chance.randrange(4))))
        case _:
            return Closed(order)


def table(view: h.View[Any]) -> list[tuple[Any, ...]]:
    """Return all of a table, also the position of the last change of each row."""
    return view.sql(f'select * from "{view.table}" order by 1')


def from_zero(running: h.Running, state: type[h.State], position: int) -> list[tuple[Any, ...]]:
    """Fold a view from the first record on."""
    return table(view_as_of(running.log, state, position))


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 40), memory=st.sampled_from([2, 300_000]), data=st.data())
def test_any_snapshot_of_a_joined_view_plus_the_rest_is_the_fold_of_all(seed: int, length: int, memory: int, data: st.DataObject) -> None:
    """At any position, whichever snapshots there are, each of them taken from the one before or from zero; also where not all rows are in memory."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patched:
        url = f"sqlite:///{folder}/trade.db"
        with trade.open(url, run=False, views="memory:") as running:
            history(running, seed, length)
            ends = [row.last for rows in running.log.engine.read() for row in rows]
            asked = data.draw(st.lists(st.integers(0, running.log.head), min_size=1, max_size=4))
            views = JOINED if memory > 2 else JOINED[1:]  # rows that are read back have decimals without zeros, and the first one tells
            expected = {(state, at): from_zero(running, state, running.at(at).position) for state in views for at in asked}
            taken = {state: data.draw(st.lists(st.sampled_from(ends), min_size=1, max_size=3)) for state in views}
            patched.setattr(viewing, "STATES_MAX", memory)
            for state, positions in taken.items():
                for position in positions:
                    assert running.snapshots.take(fold_of(state), position).position == position
        with trade.open(url, run=False, views="memory:") as running:
            for (state, at), rows in expected.items():
                past = running.at(at)
                begins, _ = running.travel.start(fold_of(state), past.position)
                assert begins == max([one for one in taken[state] if one <= past.position], default=0)
                assert table(past.view(state)) == rows, (state, at)
            listed = running.snapshots.listed(trade.snapped())
            assert {(one.state, one.wrong) for one in listed} == {(state.__name__, "") for state in views}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(1, 40), data=st.data())
def test_one_row_folded_by_the_index_is_the_row_of_the_view(seed: int, length: int, data: st.DataObject) -> None:
    """It is what a snapshot is proven by: with all that it asks for, also where that follows from what else it asks for."""
    with trade.open("memory:", run=False) as running:
        history(running, seed, length)
        ends = [row.last for rows in running.log.engine.read() for row in rows]
        position = data.draw(st.sampled_from(ends))
        for state in PROVABLE:
            view = view_as_of(running.log, state, position)
            for order in (f"o-{n}" for n in range(6)):
                found = Joining(running.log).row(fold_of(state), (order,), position, running._image.wanted)
                assert found is not None
                kept = view.find(order)
                assert (found[0] is None) == (kept is None)
                assert found[0] == kept, (state, order)


def test_a_view_of_the_past_begins_with_its_snapshot(tmp_path: Path) -> None:
    """What can't be proven, since no index finds it, is believed: so what is in the file is what is shown, with what came later."""
    with trade.open(f"sqlite:///{tmp_path}/trade.db", run=False) as running:
        running.record_all([Moved("c", "CH"), Placed("o", "c", Decimal(5))])
        running.snapshots.take(fold_of(Home), running.log.head)
        running.record(Placed("p", "c", Decimal(2)))
        assert running.at(running.log.head).view(Home).get("CH").total == 7
        _rewrite(tmp_path / "trade.snapshots.db", 0, total="1000")
        assert running.at(running.log.head).view(Home).get("CH").total == 1002
        _rewrite(tmp_path / "trade.snapshots.db", 2, orders=70)  # what it joins is kept, too
        assert running.at(running.log.head).view(Home).get("CH").orders == {"o/1/True", "p/71/True"}
        assert running.snapshots.drop(["Home"]) == 1
        assert running.at(running.log.head).view(Home).get("CH").total == 7


@pytest.mark.parametrize(("of", "change"), [(0, {"tax": "6"}), (1, {"moves": 5})])
def test_one_that_does_not_hold_what_the_log_says_is_not_used(of: int, change: dict[str, object], tmp_path: Path) -> None:
    """Be it a row of the view, or of a state that it joins."""
    url = f"sqlite:///{tmp_path}/trade.db"
    with trade.open(url, run=False) as running:
        running.record_all([Moved("c", "CH"), RateSet("CH", Decimal("1.5")), Placed("o", "c", Decimal(2))])
        running.snapshots.take(fold_of(Taxed), running.log.head)
    _rewrite(tmp_path / "trade.snapshots.db", of, **change)
    wrong = set[str]()
    for _ in range(60):  # it is looked at one chunk at random, and always at the first one
        with trade.open(url, run=False) as running:
            [one] = running.snapshots.listed(trade.snapped())
            if not one.wrong:
                continue
            wrong.add(one.wrong.partition(":")[0])
            assert running.at(running.log.head).view(Taxed).get("o") == Taxed("o", Decimal(3), " 1*1.5=0")
            assert running.snapshots.drop(wrong=trade.snapped()) == 1
            break
    assert wrong == {"it does not hold what the log says"}


def test_taking_one_proves_it(tmp_path: Path) -> None:
    """A snapshot that goes on from one that is wrong, and was not caught, is."""
    url = f"sqlite:///{tmp_path}/trade.db"
    with trade.open(url, run=False) as running:
        running.record_all([Moved("c", "CH"), Placed("o", "c", Decimal(2))])
        running.snapshots.take(fold_of(Taxed), running.log.head)
        _rewrite(tmp_path / "trade.snapshots.db", 0, tax="6")
        running.record(Moved("d", "CH"))
        with pytest.raises(h.Broken, match=r"`Taxed` of \('o',\) at position"):
            running.snapshots.take(fold_of(Taxed), running.log.head)


def test_a_row_that_asks_for_too_much_is_believed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with trade.open(f"sqlite:///{tmp_path}/trade.db", run=False) as running:
        running.record_all([Moved(f"c-{n}", "CH") for n in range(9)])
        running.record(Shared("o", tuple(f"c-{n}" for n in range(9))))
        of = Joining(running.log)
        assert of.row(fold_of(Party), ("o",), running.log.head, running._image.wanted) is not None
        monkeypatch.setattr(folding, "ASKED_MAX", 8)
        assert of.row(fold_of(Party), ("o",), running.log.head, running._image.wanted) is None
        assert running.snapshots.take(fold_of(Party), running.log.head).states == 10


def test_one_of_other_code_of_a_joined_state_is_not_used(tmp_path: Path) -> None:
    class Customer(h.State):  # the same name, and another meaning
        customer: CustomerNo
        country: CountryNo = ""
        moves: int = 0

        def evolve(self, event: Moved) -> Self:
            return self.but(country=event.country, moves=self.moves + 10)

    class Reached(h.State):
        order: OrderNo
        moves: int = 0

        def evolve(self, event: Placed, customer: Customer) -> "Reached":
            return self.but(moves=customer.moves)

    now = Reached
    then = _reached()
    url = f"sqlite:///{tmp_path}/trade.db"
    with h.App("trade", records=trade.records, views=[then]).open(url, run=False) as running:
        running.record_all([Moved("c", "CH"), Placed("o", "c", Decimal(2))])
        running.snapshots.take(fold_of(then), running.log.head)
        assert [one.wrong for one in running.snapshots.listed([fold_of(then)])] == [""]
    with h.App("trade", records=trade.records, views=[now]).open(url, run=False) as running:
        assert [one.wrong for one in running.snapshots.listed([fold_of(now)])] == ["it was made by other code"]
        assert running.at(running.log.head).view(now).get("o") == now("o", 10)


def _reached() -> type[h.State]:
    class Reached(h.State):
        order: OrderNo
        moves: int = 0

        def evolve(self, event: Placed, customer: Customer) -> "Reached":
            return self.but(moves=customer.moves)

    return Reached


class Failing(h.State):
    """Can't take what a customer without a country orders."""

    order: OrderNo
    country: str = ""

    def evolve(self, event: Placed, customer: Customer) -> "Failing":
        if not customer.country:
            raise ValueError("where to?")
        return self.but(country=customer.country)


failing = h.App("failing", records=trade.records, views=[Failing])


def test_none_is_taken_where_a_key_stands_still(tmp_path: Path) -> None:
    """The view can be asked all the same, from the one before."""
    with failing.open(f"sqlite:///{tmp_path}/failing.db", run=False) as running:
        running.record_all([Moved("c", "CH"), Placed("o", "c", Decimal(2))])
        running.snapshots.take(fold_of(Failing), running.log.head)
        first = running.log.head
        running.record_all([Placed("p", "d", Decimal(2)), Placed("q", "c", Decimal(2))])
        with pytest.raises(h.Invalid, match=r"which stands still at position .*where to.*No snapshot is taken"):
            running.snapshots.take(fold_of(Failing), running.log.head)
        past = running.at(running.log.head).view(Failing)
        assert [row.order for row in past.order_by("order").rows()] == ["o", "q"]
        with pytest.raises(h.Stuck, match="where to"):
            past.get("p")
        assert [one.position for one in running.snapshots.listed(failing.snapped())] == [first]


def test_they_are_taken_by_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "REST", 0)
    monkeypatch.setattr(taking, "TRIED_RECORDS", 20)
    with trade.open(f"sqlite:///{tmp_path}/trade.db", run=False) as running:
        history(running, 17, 120)
        taker = Taker(running.log, running.snapshots, trade.snapped())
        monkeypatch.setattr(taking, "LEAST_SECONDS", 1e9)
        taker.look()
        assert (running.snapshots.listed(trade.snapped()), taker.failures) == ([], {})
        taker = Taker(running.log, running.snapshots, trade.snapped())
        monkeypatch.setattr(taking, "LEAST_SECONDS", 1e-5)
        taker.look()
        listed = running.snapshots.listed(trade.snapped())
        assert {one.state for one in listed} == {"Customer", *(state.__name__ for state in JOINED)}
        assert ({one.wrong for one in listed}, taker.failures) == ({""}, {})
        head = running.log.head
        assert {state: table(running.at(head).view(state)) for state in JOINED} == {
            state: from_zero(running, state, head) for state in JOINED
        }


def test_others_get_on_while_one_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two pauses a few rows are folded, or written, or one chunk."""
    steps = [0]
    written: Any = vars(viewing.Folded)["write"]

    def counted(self: viewing.Folded[Any], connection: sqlite3.Connection) -> Any:  # Any: as it is
        steps[-1] += len(self.changed)
        return written(self, connection)

    def paused(_self: taking.Pauses) -> None:
        steps.append(0)

    monkeypatch.setattr(viewing.Folded, "write", counted)
    monkeypatch.setattr(taking.Pauses, "__call__", paused)
    with trade.open("memory:", run=False) as running:
        running.record_all(Moved(f"c-{n}", "CH") for n in range(1_500))
        running.record_all(Placed(f"o-{n}", f"c-{n}", Decimal(1)) for n in range(1_500))
        of = running.snapshots
        for _ in range(2):
            steps[:] = [0]
            assert of.take(fold_of(Taxed), running.log.head).states >= 3_000
            assert sum(steps) >= 3_000
            assert 0 < max(steps) <= 2 * folding.SLICE_ROWS + folding.GENTLE_ROWS
            running.record(Placed("o-1", "c-1", Decimal(1)))


def test_one_that_is_dropped_meanwhile_is_not_needed(tmp_path: Path) -> None:
    with trade.open(f"sqlite:///{tmp_path}/trade.db", run=False) as running:
        history(running, 18, 30)
        head = running.log.head
        with closing(
            Snapshots(running.log, running._image, Joining(running.log), SnapshotsFile(str(tmp_path / "trade.snapshots.db")))
        ) as other:
            other.take(fold_of(Home), head)
            assert running.travel.start(fold_of(Home), head)[0] == head
            other.drop()
        assert running.travel.start(fold_of(Home), head)[0] == 0
        assert table(running.at(head).view(Home)) == from_zero(running, Home, head)


def _rewrite(path: Path, of: int, **changes: object) -> None:
    """Change fields of the only state of one of the tables of the only snapshot."""
    with closing(sqlite3.connect(path)) as connection, connection:
        [(n, body)] = [row for row in connection.execute("select n, body from _chunk") if row[1][0] == of]
        states, versions = msgspec.msgpack.decode(zlib.decompress(body[1:]))
        states[0].update(changes)
        connection.execute(
            "update _chunk set body = ? where n = ?", (bytes([of]) + zlib.compress(msgspec.msgpack.encode((states, versions))), n)
        )
