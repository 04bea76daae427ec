"""Exactly once whatever happens: processes killed and paused, connections lost, a database that is not there, several owners."""

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError

import happened as h
from happened.cqrs import projecting as cqrs_projecting
from happened.stores.machine import Machine
from tests.projections.rig import LINE, Returned, Sold, app, child, database, lines, sales, same_as_log, tables, ways
from tests.servers import Server, fresh, replace_log, server

KILLS = int(os.environ.get("HAPPENED_KILLS", "3"))
ONE = Decimal("1.10")


def until(is_so: Callable[[], bool], seconds: float = 30) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def test_whoever_is_killed_at_any_moment_each_event_is_written_once(log: str, into: str) -> None:
    """A process that projects is killed again and again while events come; the tables hold each once."""
    seed = int(os.environ.get("HAPPENED_SEED", str(random.randrange(1 << 30))))
    print("seed", seed, "kills", KILLS)
    chance = random.Random(seed)
    count = 0
    with app(into).open(log, run=False) as running:
        for _ in range(KILLS):
            process = child(log, into)
            written = len(lines(into))
            for _ in range(chance.randrange(2, 6)):
                many = [Sold(f"o-{count + number}", f"s{chance.randrange(3)}", ONE) for number in range(chance.randrange(1, 40))]
                count += len(many)
                running.record_all(many)
            if chance.random() < 0.7:
                until(lambda: len(lines(into)) > written)  # noqa: B023 - called in this round
            process.kill()
            process.communicate()
    with app(into).open(log) as running:
        running.projected(sales, wait_seconds_max=30)
        same_as_log(running, into)
        assert len(lines(into)) == count


class Ahead(Machine):
    """A clock that is ahead, so that a lease seems to have run out."""

    def now_us(self) -> int:
        return super().now_us() + 60_000_000


def test_an_owner_that_is_paused_past_its_lease_and_goes_on_can_not_write(log: str, into: str) -> None:
    """It was stopped in the midst of an event, with nothing of it in the database yet; another one has taken over; revived, it writes nothing of that."""
    into = into.replace("tables.db", "tables.db?timeout=0.2") if into.startswith("sqlite") else into
    process = child(log, into, stops="o-2")
    with app(into).open(log, run=False) as running:
        running.record(Sold("o-1", "a", ONE))
        last = running.record(Sold("o-2", "a", ONE))
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "in it\n"
        process.send_signal(signal.SIGSTOP)
        if into.startswith("postgresql"):
            ended = _end_connections(into)  # as its server does after a minute: so it need not be waited for
            assert ended
        else:
            os.kill(process.pid, signal.SIGKILL)  # SQLite's lock is its process's: who is paused in a transaction holds up all who write
        with app(into).open(log, source=Ahead()) as second:
            second.projected(sales, since=last, wait_seconds_max=20)
            if into.startswith("postgresql"):
                process.send_signal(signal.SIGCONT)
                process.stdin.write("\n")
                process.stdin.flush()
            second.projected(sales, since=second.record(Sold("o-3", "a", ONE)), wait_seconds_max=20)
            same_as_log(second, into)
    process.communicate()


def _end_connections(into: str) -> int:
    """End all connections to a database; return how many."""
    name = into.split("/")[3].partition("?")[0]
    with psycopg.connect(server().url, autocommit=True) as connection:
        found = connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where datname = %s", (name,)).fetchall()
    return len(found)


@pytest.mark.parametrize("moment", ["before", "within"])
def test_an_owner_whose_checkpoint_was_claimed_writes_nothing(log: str, into: str, moment: str) -> None:
    """The fence alone: another epoch stands in the checkpoint, and the lease still says that it is this process's."""
    with app(into).open(log) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        projecting = running._projecting[sales]
        at = projecting._at
        engine = projecting._engine
        table = sql.table("happened_checkpoint", sql.column("owner"), sql.column("position"))
        if moment == "before":
            with engine.begin() as connection:
                connection.execute(table.update().values(owner=77))
        projecting._at = at._replace(owner=at.owner) if moment == "before" else at._replace(position=0, digest="0" * 64)
        receipt = running.record(Sold("o-2", "a", ONE))
        running.projected(sales, since=receipt)

        same_as_log(running, into)
        assert len(lines(into)) == 2
        assert running.statistics()["executions"] is not None


def test_the_epoch_of_another_owner_refuses_a_commit(log: str, into: str) -> None:
    """Position and digest are still those that a paused owner knows; only the epoch is not his. With the right one the same commit is taken.

    So it is where the epoch is his, and he does not know how far he has come, as of a commit whose answer was lost.
    """
    with app(into).open(log) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
    with app(into).open(log, run=False) as running:
        projecting = running._projecting[sales]
        with projecting._reading() as connection:
            found = projecting._found(connection)
        row = running.log.row_at(running.record(Sold("o-2", "a", ONE)).position)
        assert found is not None
        assert row is not None
        for known in (found._replace(owner=found.owner - 1), found._replace(position=0), found._replace(digest="0" * 64)):
            projecting._at = known

            with pytest.raises(h.StoreFailed, match="is another process's by now"):
                projecting._commit([], row)

        projecting._at = found
        projecting._commit([], row)
        assert projecting._at.position == row.last


def test_who_has_lost_his_lease_does_not_claim_the_checkpoint_again(log: str, into: str) -> None:
    """He has not heard yet that it is another's, and begins anew after trouble: that one's epoch stays, and it goes on."""
    with app(into).open(log) as running, app(into).open(log, run=False) as former:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        owned = running._projecting[sales]._at

        with pytest.raises(h.StoreFailed, match="is another process's by now"):
            former._projecting[sales]._begin(owned.owner - 1)

        with former._projecting[sales]._reading() as connection:
            assert former._projecting[sales]._found(connection) == owned
        running.projected(sales, since=running.record(Sold("o-2", "a", ONE)))
        assert running._projecting[sales]._at.owner == owned.owner
        same_as_log(running, into)


def test_nothing_is_written_on_where_the_log_falls_back_to_an_older_copy(into: str) -> None:
    """As behind a pooler that hides it: no connection is lost, and when anybody looks the log has gone on another way, further than it was."""
    url, copy = fresh(), fresh()
    with app(into).open(url) as running, app(into).open(url, run=False) as writes:
        running.projected(sales, since=writes.record(Sold("o-1", "a", ONE)))
        app(into).open(copy, run=False).close()
        replace_log(copy, url)
        running.projected(sales, since=writes.record(Sold("o-2", "a", ONE)))
        before = lines(into)
        with app(into).open(copy, run=False) as otherwise:
            otherwise.record_all([Sold(f"x-{number}", "a", ONE) for number in range(3)])
            further = otherwise.log.head

        replace_log(url, copy)

        until(lambda: "another history" in str(running._projection(sales).worker.failure))
        with pytest.raises(h.Diverged, match="another history") as diverged:
            running.projected(sales, since=further)
        assert "another app's" not in str(diverged.value)
        assert lines(into) == before


def test_a_connection_that_is_lost_is_made_anew(log: str, tmp_path: Path) -> None:
    """It is ended in the midst of a page: nothing of that is left, and all of it is written with the next."""
    into = tables(database("postgresql", tmp_path))
    lost: list[int] = []

    def before(event: Sold | Returned, connection: sql.Connection) -> None:
        if event.order == "o-5" and not lost:
            lost.append(_end_connections(into))
            connection.execute(sql.select(LINE))

    ways.before = before
    with app(into).open(log) as running:
        last = running.record_all([Sold(f"o-{number}", "a", ONE) for number in range(10)])
        running.projected(sales, since=last, wait_seconds_max=30)
        same_as_log(running, into)
    assert lost


def test_who_stalls_in_the_midst_of_an_event_loses_his_transaction(log: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So he holds up nobody who comes after him. Nothing of it is there, it is trouble that passes, and the event is written when it is tried again."""
    monkeypatch.setattr(cqrs_projecting, "STALLED", "100ms")
    into = tables(database("postgresql", tmp_path))
    troubles: list[DBAPIError] = []

    def before(event: Sold | Returned, connection: sql.Connection) -> None:
        if event.order == "o-2" and not troubles:
            time.sleep(0.5)
            try:
                connection.execute(sql.select(LINE))
            except DBAPIError as error:
                troubles.append(error)
                raise

    with app(into).open(log) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        ways.before = before
        running.projected(sales, since=running.record(Sold("o-2", "a", ONE)), wait_seconds_max=30)

        same_as_log(running, into)
    assert [error.connection_invalidated for error in troubles] == [True]


def test_a_server_that_is_stopped_is_waited_for(log: str) -> None:
    """It is not there at start, comes, goes, and comes again: the log goes on meanwhile, and who waits hears why."""
    own = Server()
    try:
        into = tables(f"postgresql://postgres@/postgres?host={own.folder}")
        own.stop()
        with app(into).open(log) as running:
            first = running.record(Sold("o-1", "a", ONE))
            with pytest.raises(h.Late, match="OperationalError"):
                running.projected(sales, since=first, wait_seconds_max=0.5)
            assert running.statistics()["projections"][0]["position"] == 0
            own.start()
            running.projected(sales, since=first, wait_seconds_max=30)
            own.stop()
            second = running.record(Sold("o-2", "a", ONE))
            with pytest.raises(h.Late):
                running.projected(sales, since=second, wait_seconds_max=0.5)
            own.start()
            running.projected(sales, since=second, wait_seconds_max=30)
            same_as_log(running, into)
    finally:
        own.remove()


def test_a_file_that_another_one_writes_to_is_waited_for(log: str, tmp_path: Path) -> None:
    """A busy SQLite file is no reason to stop at an event."""
    into = tables(database("sqlite", tmp_path)) + "?timeout=0.1"
    with app(into).open(log) as running:
        running.projected(sales, since=running.record(Sold("o-1", "a", ONE)))
        with contextlib.closing(sqlite3.connect(tmp_path / "tables.db", isolation_level=None)) as other:
            other.execute("begin immediate")
            receipt = running.record(Sold("o-2", "a", ONE))
            with pytest.raises(h.Late, match="locked"):
                running.projected(sales, since=receipt, wait_seconds_max=1)
            other.execute("rollback")
        running.projected(sales, since=receipt)
        same_as_log(running, into)


def test_of_two_processes_one_writes_and_the_other_takes_over(log: str, into: str) -> None:
    """Both are open; the first is closed, and the second goes on from where it came to."""
    with app(into).open(log) as second:
        with contextlib.suppress(h.Late):
            second.projected(sales, since=1, wait_seconds_max=0)
        process = child(log, into)
        receipt = second.record(Sold("o-1", "a", ONE))
        second.projected(sales, since=receipt)
        assert second.statistics()["projections"][0]["mine"]
    with app(into).open(log, run=False) as beside:  # the child has it by now, or soon
        receipt = beside.record(Sold("o-2", "a", ONE))
        beside.projected(sales, since=receipt, wait_seconds_max=30)
        assert not beside.statistics()["projections"][0]["mine"]
        same_as_log(beside, into)
    process.communicate()
