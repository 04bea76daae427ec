"""Where a URL names several servers, or a place where now one answers and now another: a standby lacks what was recorded last, and takes nothing."""

from collections.abc import Iterator

import psycopg
import pytest

import happened as h
from happened.stores.postgres import PostgresStore
from tests.semantics.model import Balance, Deposit, bank
from tests.servers import Server


@pytest.fixture(scope="module")
def primary() -> Iterator[Server]:
    server = Server("fsync=off")
    yield server
    server.remove()


@pytest.fixture(scope="module")
def standby(primary: Server) -> Iterator[Server]:
    """Return a server that has the first command, and will never have more."""
    with bank.open(f"{primary.url}&schema=bank", run=False) as running:
        running.dispatch(Deposit("a", 1), id="first")
    server = Server("fsync=off", standby_of=primary)
    yield server
    server.remove()


def test_what_a_standby_lacks_is_not_decided_on(primary: Server, standby: Server) -> None:
    """For a moment only the standby answers: nothing is read there, and once the primary is back an id still counts once."""
    both = f"postgresql://postgres@/postgres?host={primary.folder},{standby.folder}&schema=bank"
    with bank.open(both, run=False) as running:
        receipt = running.dispatch(Deposit("a", 1), id="second")
        primary.stop()
        with pytest.raises(h.StoreFailed, match="standby"):
            list(running.log.read())
        with pytest.raises(h.StoreFailed, match="standby"):
            running.enqueue(Deposit("a", 1), id="third", wait_seconds_max=0.5)
        with pytest.raises(h.StoreFailed, match="standby"):  # nor after who writes has found it
            list(running.log.read())
        primary.start()

        assert running.dispatch(Deposit("a", 1), id="third").position > receipt.position
        again = running.dispatch(Deposit("a", 1), id="second")
        assert (again.position, again.repeated) == (receipt.position, True)
        assert running.state(Balance, "a") == Balance("a", 3, 3)
        assert [record.id for record in running.log.read() if record.kind == "input"] == ["first", "second", "third"]
        running.log.verify()


def test_nothing_is_read_any_more_where_the_primary_was_before() -> None:
    """A standby took over, with all that there was. The former primary takes nobody any more, and has not ended the sessions that it had."""
    former = Server("fsync=off")
    with bank.open(f"{former.url}&schema=bank", run=False) as running:
        running.dispatch(Deposit("a", 1), id="first")
    successor = Server("fsync=off", standby_of=former)
    both = f"postgresql://postgres@/postgres?host={former.folder},{successor.folder}&schema=bank"
    try:
        with bank.open(both, run=False) as running, psycopg.connect(former.url, autocommit=True) as there:
            assert len(list(running.log.read(h.query(account="a")))) == 1
            with psycopg.connect(successor.url, autocommit=True) as here:
                here.execute("select pg_promote()")
            (former.folder / ".s.PGSQL.5432").rename(former.folder / "taken away")
            store = running._engine
            assert isinstance(store, PostgresStore)
            there.execute("select pg_terminate_backend(%s, 10000)", (store._writer.info.backend_pid,))

            receipt = running.dispatch(Deposit("a", 1), id="second")

            assert [record.position for record in running.log.read(h.query(account="a"))][-1:] == [receipt.position]
            assert running.state(Balance, "a") == Balance("a", 2, 2)
    finally:
        former.remove()
        successor.remove()


def test_a_log_that_was_opened_on_a_standby_is_read_there(standby: Server) -> None:
    with h.open_log(f"{standby.url}&schema=bank") as log:
        assert [record.id for record in log.read() if record.kind == "input"] == ["first"]
        log.verify()
        with pytest.raises(h.StoreFailed):
            log.append(h.Loose("Noted", {}))
