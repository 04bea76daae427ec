"""What other stores over PostgreSQL have got wrong, by the recipes that were published: a server that stalls or fails a commit, and transactions of others."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import psycopg
import pytest

import happened as h
from happened.stores.postgres_tables import where_in
from tests.faults.model import Balance, Deposited, app, others_go_on
from tests.servers import fresh, server

GATE = 4711
"""The lock that a stalled commit waits for."""


@pytest.fixture
def url() -> str:
    """Return the URL of a log that is there, with all names recorded."""
    url = fresh()
    with app.open(url, run=False) as running:
        running.record(Deposited("a", 1))
    return url


def install(url: str, body: str, when: str) -> None:
    """Have the server do this for each row of the log, when it is inserted or when it is committed."""
    where = where_in(url)
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(
            where.sql(f"create function @published() returns trigger language plpgsql as $$ begin {body} return new; end $$")
        )
        trigger = {
            "insert": "create trigger published before insert on @log for each row execute function @published()",
            "commit": "create constraint trigger published after insert on @log deferrable initially deferred for each row execute function @published()",
        }[when]
        connection.execute(where.sql(trigger))


def remove(url: str) -> None:
    """Have it do that no longer."""
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(where_in(url).sql("drop trigger published on @log"))


@contextmanager
def closed_gate() -> Generator[psycopg.Connection]:
    """Let commits wait until the block ends, or until the lock is let go."""
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(%s)", (GATE,))
        yield connection


def stalled(connection: psycopg.Connection) -> list[int]:
    """Return the sessions that wait for the gate, once there is one."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        found = connection.execute(
            "select pid from pg_locks where locktype = 'advisory' and objid = %s and not granted", (GATE,)
        ).fetchall()
        if found:
            return [pid for (pid,) in found]
        time.sleep(0.01)
    raise AssertionError("nobody waits")


@pytest.mark.parametrize("when", ["insert", "commit"])
@pytest.mark.parametrize("end", ["goes on", "is ended"])
def test_what_a_stalled_commit_will_be_is_neither_seen_nor_passed_over(url: str, when: str, end: str) -> None:
    """Its position is taken, and its rows are written: nobody reads it or gets past it, and what others record stands behind it, or in its place if it came to nothing."""
    install(url, f"if new.records like '%stalled%' then perform pg_advisory_xact_lock({GATE}); end if;", when)
    answers = dict[str, h.Receipt | h.Error]()

    def record(running: h.Running, account: str) -> None:
        try:
            answers[account] = running.record(Deposited(account, 1), id=account, wait_seconds_max=20)
        except h.Error as error:
            answers[account] = error

    with app.open(url, run=False) as slow, app.open(url, run=False) as other, app.open(url) as reading:
        head = reading.log.head
        with closed_gate() as gate:
            threads = [threading.Thread(target=record, args=(slow, "stalled")), threading.Thread(target=record, args=(other, "b"))]
            threads[0].start()
            [pid] = stalled(gate)
            threads[1].start()
            threads[1].join(0.3)

            assert threads[1].is_alive()
            assert reading.log.wait(head, 0.3) == head
            assert [record.position for record in reading.log.read(after=head)] == []
            assert reading.view(Balance).find("stalled") is None
            if end == "is ended":
                gate.execute("select pg_terminate_backend(%s)", (pid,))
                threads[1].join(10)
                assert isinstance(answers["b"], h.Receipt)
        for thread in threads:
            thread.join(20)

        recorded = {record.id: record.position for record in reading.log.read(after=head)}
        assert list(recorded.values()) == list(range(head + 1, reading.log.head + 1))
        assert answers["b"] == other.log.receipt_of(other.log.find("b")[0], repeated=False)
        if end == "goes on":
            assert list(recorded) == ["stalled", "b"]
        for account, answer in answers.items():
            assert isinstance(answer, h.Receipt) == (account in recorded)
        assert slow.record(Deposited("stalled", 1), id="stalled").repeated == ("stalled" in recorded)
        assert reading.view(Balance).get("stalled", since=reading.log.head).changes == 1
        reading.log.verify()


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_an_old_transaction_of_somebody_else_holds_up_nobody(url: str, isolation: str) -> None:
    """It has a number, a snapshot and has written something, anywhere in the cluster: positions are not made of such numbers, so nothing waits for its end."""
    with psycopg.connect(server().url) as old, app.open(url) as running, app.open(url, run=False) as other:
        old.execute(f"set transaction isolation level {isolation}".encode())
        old.execute(where_in(url).sql("select count(*) from @log"))
        old.execute("create table if not exists somebodys_own(what text)")
        old.execute("insert into somebodys_own values ('something')")
        assert old.execute("select pg_current_xact_id_if_assigned() is not null").fetchone() == (True,)

        others_go_on(running, other)
        old.rollback()


@pytest.mark.parametrize("when", ["insert", "commit"])
@pytest.mark.parametrize("code", ["53100", "53200", "40001", "40P01", "57014", "55P03", "23514", "58030", "XX000"])
def test_what_the_server_refuses_to_commit_is_not_recorded(url: str, when: str, code: str) -> None:
    """A full disk, no memory, a conflict or deadlock it sees, a cancelled statement, a lock it does not get, somebody's check: the caller hears so, and no position is lost."""
    with app.open(url, run=False) as running, app.open(url, run=False) as other:
        running.record(Deposited("a", 1))
        head = running.log.head
        install(url, f"raise exception 'planted' using errcode = '{code}';", when)

        for n in range(2):
            with pytest.raises((h.StoreFailed, h.Broken, h.Overloaded)) as raised:
                running.record(Deposited("a", 1), id=f"r-{n}", wait_seconds_max=2)
            assert not isinstance(raised.value, h.OutcomeUnknown)
            assert other.log.head == head

        remove(url)
        receipts = [running.record(Deposited("a", 1), id="r-0"), other.record(Deposited("a", 1), id="r-1")]
        assert [(receipt.position, receipt.repeated) for receipt in receipts] == [(head + 1, False), (head + 2, False)]
        assert running.state(Balance, "a", since=receipts[-1]) == other.state(Balance, "a")
        running.log.verify()
