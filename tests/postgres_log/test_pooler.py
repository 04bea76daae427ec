"""Through a pooler in transaction mode: all that a log and its views promise holds, with a few connections of the server for many clients."""

import threading
import uuid
from collections.abc import Iterator

import psycopg
import pytest

import happened as h
from happened.core.store import Row
from happened.stores.postgres import PostgresStore
from happened.stores.postgres_cold import put_rows
from happened.testing.rows import Fact, Scribe, flat
from tests.semantics.model import Balance, Deposit, bank
from tests.servers import Pooler, pooler, server

pytestmark = pytest.mark.skipif(Pooler.PROGRAM is None, reason="there is no pgbouncer on this machine, and no wheel brings one")


@pytest.fixture
def url() -> str:
    """Return the URL of a log behind a pooler: it has four connections of the server, one more than those who may write at once here."""
    return f"{pooler().url}&schema=t{uuid.uuid4().hex[:12]}"


def test_many_clients_share_few_connections(url: str) -> None:
    """Three handles with views, and threads that dispatch at once: each command is decided once, and every handle answers with all."""
    with bank.open(url) as one, bank.open(url) as two, bank.open(url, run=False) as three:
        handles = [one, two, three]

        def work(place: int) -> None:
            for number in range(20):
                handles[place % 3].dispatch(Deposit("ab"[number % 2], 1), id=f"{place}-{number}")

        threads = [threading.Thread(target=work, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        again = three.dispatch(Deposit("a", 1), id="0-0")
        assert again.repeated
        head = three.log.head
        assert sum(record.kind != "system" for record in three.log.read()) == 240  # each command, and what came of it
        for handle in handles:
            assert handle.state(Balance, "a", since=head) == Balance("a", 60, 60)
            assert [record.position for record in handle.log.read()][-1] == head
        three.log.verify()


def test_who_waits_finds_what_others_record_without_notices(url: str) -> None:
    """A notice does not come through: a follower looks by himself."""
    with bank.open(url, run=False) as one, h.open_log(url) as other:
        before = other.head
        one.dispatch(Deposit("a", 1))
        assert other.wait(before, 30) > before


def test_a_session_that_is_ended_while_rows_are_copied_is_said_to_be_lost(url: str) -> None:
    """The pooler says so once more after the server, and the driver takes only one answer."""
    store = PostgresStore(url)
    [row] = Scribe(store).append(Fact())

    with store.where.connect() as connection:
        connection.execute("begin")
        [pid] = connection.execute("select pg_backend_pid()").fetchall()

        def rows() -> Iterator[Row]:
            yield row
            with psycopg.connect(server().url, autocommit=True) as other:
                other.execute("select pg_terminate_backend(%s, 5000)", pid)

        with pytest.raises(psycopg.OperationalError):
            put_rows(connection.cursor(), store.where, rows())
    assert flat(store.read()) == [row]
    store.close()
