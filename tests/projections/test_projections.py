"""Users' own functions write into users' own tables, each event once, in its transaction with the checkpoint."""

import os
import random
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sql

import happened as h
from tests.projections.rig import (
    LINE,
    TABLES,
    TOTAL,
    Greeted,
    Returned,
    Sold,
    app,
    database,
    engine_of,
    lines,
    sales,
    same_as_log,
    tables,
    totals,
    ways,
)
from tests.servers import fresh

ONE = Decimal("1.10")


def boom(order: str, error: Exception) -> "Callable[[Sold | Returned, sql.Connection], None]":
    """Return what raises on one order."""

    def before(event: Sold | Returned, _connection: sql.Connection) -> None:
        if event.order == order:
            raise error

    return before


def test_each_event_is_written_once_and_waited_for_by_its_receipt(log: str, into: str) -> None:
    """What a receipt speaks of is in the tables when `projected` comes back; a second open goes on from there."""
    with app(into).open(log) as running:
        running.record(Sold("o-1", "a", ONE))
        running.record(Greeted("ann"))
        receipt = running.record(Returned("o-1", "a", Decimal("0.10")))

        assert running.projected(sales, since=receipt) >= receipt.position
        assert totals(into) == {"a": Decimal("1.00")}
    with app(into).open(log) as running:
        receipt = running.record(Sold("o-2", "b", ONE))
        running.projected(sales, since=receipt)

        same_as_log(running, into)
        assert ways.runs == 3
        [told] = running.statistics()["projections"]
        assert told == {"projection": "sales", "position": receipt.position, "lag": 0, "mine": True, "failure": None}


def test_a_state_is_as_new_as_what_is_said_to_be_written(log: str, into: str) -> None:
    """Another process has recorded and written it."""

    class Greetings(h.State):
        count: int = 0

        def evolve(self, event: Greeted) -> "Greetings":
            return self.but(count=self.count + 1)

    with app(into).open(log, run=False) as running, app(into).open(log) as other:
        assert running.state(Greetings) is None
        other.record(Greeted("ann"))
        other.record(Sold("o-1", "a", ONE))

        running.projected(sales)

        assert running.state(Greetings) == Greetings(1)


def test_a_long_log_is_read_in_pages_and_by_the_index(log: str, into: str) -> None:
    """What is there before the projection is written, too; most of it is of no concern to it."""
    with app(into).open(log, run=False) as running:
        running.record_all([Sold(f"o-{number}", f"s{number % 7}", ONE) for number in range(1100)])
        running.record_all([Greeted(str(number)) for number in range(20_000)])
        running.record_all([Sold(f"p-{number}", f"s{number % 7}", ONE) for number in range(50)])
        running.record_all([Greeted(str(number)) for number in range(20_000)])
    with app(into).open(log) as running:
        assert running.projected(sales, wait_seconds_max=60) == running.log.head
        same_as_log(running, into)


def test_the_log_may_be_in_postgresql(into: str) -> None:
    """Whichever the log is on."""
    with app(into).open(fresh()) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        same_as_log(running, into)


def test_since_is_where_it_begins(log: str, into: str) -> None:
    """What lies up to there is not written."""
    with app(into).open(log, run=False) as running:
        running.record(Sold("o-1", "a", ONE))
        since = running.record(Sold("o-2", "a", ONE)).position
        running.record(Sold("o-3", "b", ONE))
    with app(into, since=since).open(log) as running:
        running.projected(sales)
        assert totals(into) == {"b": ONE}


def test_an_event_that_can_not_be_written_stops_it_there_and_nothing_is_passed_over(log: str, into: str) -> None:
    """What lies before is written, what lies after waits; it is seen, and goes on when it is mended."""
    ways.before = boom("o-3", ValueError("no such shop"))
    with app(into).open(log) as running:
        receipts = [running.record(Sold(f"o-{number}", "a", ONE)) for number in range(1, 6)]
        running.projected(sales, since=receipts[1])
        with pytest.raises(h.Stuck, match="no such shop") as stuck:
            running.projected(sales, since=receipts[4])

        assert f"position {receipts[2].position}" in str(stuck.value)
        assert [shop for _, shop, _ in lines(into)] == ["a", "a"]
        assert running.statistics()["projections"][0]["failure"] is not None
        ways.before = lambda _event, _connection: None
        while True:  # until it has tried again
            try:
                running.projected(sales, since=receipts[4])
                break
            except h.Stuck:
                continue
        same_as_log(running, into)


@pytest.mark.parametrize("shop", ["n\0ul", "".join(random.Random(1).choices("abcdefghijklmnopqrstuvwxyz", k=3_000))])
def test_what_postgresql_can_not_hold_stops_it_there_and_is_no_passing_trouble(log: str, tmp_path: Path, shop: str) -> None:
    """A text with a NUL, or one that is too long for an index: what lies before is written, and who waits hears which event it is."""
    into = tables(database("postgresql", tmp_path))
    with app(into).open(log) as running:
        [first, bad, last] = [running.record(Sold(f"o-{number}", to, ONE)) for number, to in enumerate(["a", shop, "a"])]
        running.projected(sales, since=first)
        with pytest.raises(h.Stuck, match=f"can't get past position {bad.position}, `Sold`: .*(0x00|NUL|index row size)"):
            running.projected(sales, since=last)
        assert totals(into) == {"a": ONE}


def test_what_it_has_written_of_an_event_that_fails_is_taken_back(log: str, into: str) -> None:
    """It wrote a line, and then raised: no line is there."""

    def before(event: Sold | Returned, connection: sql.Connection) -> None:
        connection.execute(LINE.insert().values(id="half", shop=event.shop, amount=ONE))
        raise ValueError("half")

    ways.before = before
    with app(into).open(log) as running:
        with pytest.raises(h.Stuck, match="half"):
            running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        assert lines(into) == []


@pytest.mark.parametrize("ends", ["commit", "rollback"])
def test_the_transaction_is_not_the_functions_to_end(log: str, into: str, ends: str) -> None:
    """A commit in the function would part the rows from the checkpoint."""

    def before(_event: Sold | Returned, connection: sql.Connection) -> None:
        connection.execute(LINE.insert().values(id="early", shop="a", amount=ONE))
        getattr(connection, ends)()

    ways.before = before
    with app(into).open(log) as running:
        receipt = running.record(Sold("o-1", "a", ONE))
        with pytest.raises(h.Stuck, match=f"does not {ends}" if ends == "commit" else "does not roll back"):
            running.projected(sales, since=receipt)
        assert lines(into) == []


def test_savepoints_are_the_functions_own(log: str, into: str) -> None:
    """What a savepoint takes back is gone, and the rest is written."""

    def before(event: Sold | Returned, connection: sql.Connection) -> None:
        savepoint = connection.begin_nested()
        connection.execute(LINE.insert().values(id="no", shop=event.shop, amount=ONE))
        savepoint.rollback()

    ways.before = before
    with app(into).open(log) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        same_as_log(running, into)


def test_an_engine_of_the_users_own_is_used_and_left_open(log: str, into: str) -> None:
    """It is theirs to close; one that commits each statement is refused."""
    engine = engine_of(into)
    with app(engine).open(log) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        same_as_log(running, into)
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(sql.delete(LINE))
        connection.execute(sql.delete(TOTAL))
    with app(engine.execution_options(isolation_level="AUTOCOMMIT")).open(log) as running:
        with pytest.raises(h.Late, match="AUTOCOMMIT"):
            running.projected(sales, since=running.record(Sold("o-2", "a", ONE)), wait_seconds_max=2)
        assert lines(into) == []


def test_another_history_is_not_gone_on_from_until_it_is_written_anew(log: str, into: str, tmp_path: os.PathLike[str]) -> None:
    """The tables were written from another log: nothing is added to them; `reproject` empties them and begins."""
    with app(into).open(log) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
    with app(into).open(f"sqlite:///{tmp_path}/other.db") as other:
        receipt = other.record(Sold("x-1", "z", ONE))
        with pytest.raises(h.Diverged, match=r"another history.*Is it another app's, which writes here, too"):
            other.projected(sales, since=receipt)
        assert totals(into) == {"a": ONE}

        other.reproject(sales, lambda connection: [connection.execute(sql.delete(table)) for table in TABLES.sorted_tables])
        other.projected(sales, since=receipt)
        same_as_log(other, into)


def test_it_is_written_anew_while_it_runs_in_another_process_too(log: str, into: str) -> None:
    """The rows go and the checkpoint goes back in one transaction; where emptying fails, neither."""
    with app(into).open(log) as running, app(into).open(log, run=False) as beside:
        running.record_all([Sold(f"o-{number}", "a", ONE) for number in range(10)])
        running.projected(sales)

        def fails(connection: sql.Connection) -> None:
            connection.execute(sql.delete(LINE))
            raise ValueError("no")

        with pytest.raises(ValueError, match="no"):
            beside.reproject(sales, fails)
        assert len(lines(into)) == 10
        beside.reproject(sales, lambda connection: [connection.execute(sql.delete(table)) for table in TABLES.sorted_tables])
        beside.projected(sales)
        same_as_log(running, into)
        assert ways.runs == 20


def test_tables_that_are_made_later_are_written_then(log: str, empty: str) -> None:
    """Without its tables it stands still, and says why; once they are there it goes on by itself."""
    with app(empty).open(log) as running:
        receipt = running.record(Sold("o-1", "a", ONE))
        with pytest.raises(h.Stuck, match="line"):
            running.projected(sales, since=receipt)
        tables(empty)
        while True:
            try:
                running.projected(sales, since=receipt)
                break
            except h.Stuck:
                continue
        same_as_log(running, empty)


def test_where_nothing_is_to_reach_outside_nothing_is_written(log: str, into: str) -> None:
    """Of a branch, of an app with `outside=False` or `run=False` nothing comes into the tables."""
    with app(into).open(log, outside=False) as running:
        running.record(Sold("o-1", "a", ONE))
        with running.branch() as branch:
            branch.record(Sold("o-2", "a", ONE))
            branch.settled()
        with pytest.raises(h.Late):
            running.projected(sales, wait_seconds_max=0.3)
    assert lines(into) == []


def test_the_map_shows_it_as_a_listener() -> None:
    """Events lead to it, and are not unheard."""
    flow = app("sqlite:///x.db").flow()
    arrows = [(one.source, one.target) for one in flow.arrows]
    assert ("event:Sold", "projection:sales") in arrows
    assert not [one for one in flow.findings if one.kind == "unconsumed" and one.subject == "event:Sold"]
