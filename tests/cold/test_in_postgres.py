"""The cold part of a log in PostgreSQL: what is of that database alone."""

import threading
from contextlib import closing
from typing import NamedTuple

import psycopg
import pytest

from happened.core.store import Row, Wanted
from happened.stores import segments
from happened.stores.postgres import PostgresStore
from happened.stores.postgres_tables import where_in
from happened.testing.rows import Fact, Scribe, check_whole, flat, read_by, terms_of
from tests.cold.rows import filled, nothing
from tests.servers import fresh, server


class Given(NamedTuple):
    """A log of 300 rows."""

    url: str
    rows: list[Row]


@pytest.fixture
def log() -> Given:
    """Make one."""
    url = fresh()
    with closing(opened(url)) as store:
        return Given(url, filled(store, 300))


def opened(url: str) -> PostgresStore:
    """Open it as a log does."""
    store = PostgresStore(url)
    store.index(read_by("today"), terms_of, nothing)
    return store


def test_threads_that_read_at_once_do_not_take_each_others_end_of_the_cold_part(log: Given) -> None:
    """One of them has asked before rows were packed, and hears last: to the other, what is packed is not in the table."""

    class Told(PostgresStore):
        """Hears of another thread's answer just after its own."""

        _packed = property(lambda _: 0, lambda _, __: None)  # type: ignore[assignment]

    with closing(Told(log.url)) as store:
        store.index(read_by("today"), terms_of, nothing)
        store.compact(log.rows[200].last, nothing)

        assert flat(store.read()) == log.rows
        assert flat(store.read(wanted=[Wanted(("n=7",))])) == log.rows[7::50]


@pytest.mark.parametrize("setting", ["default_transaction_isolation = 'serializable'", "default_transaction_read_only = on"])
def test_what_a_role_has_set_for_its_transactions_does_not_matter(log: Given, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pack and unpack at once, beside who writes: each step sees what it has waited for."""
    monkeypatch.setattr(segments, "ROWS_MAX", 32)
    role = where_in(log.url).schema
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create role "{role}" login superuser'.encode())
        connection.execute(f'alter role "{role}" set {setting}'.encode())
    troubles: list[Exception] = []

    def work(after: int) -> None:
        try:
            with closing(opened(log.url.replace("postgres@", f"{role}@"))) as store:
                for _ in range(3):
                    store.compact(log.rows[-1].last, nothing)
                    store.unpack(after, nothing)
        except Exception as error:  # noqa: BLE001 - the test fails by it
            troubles.append(error)

    threads = [threading.Thread(target=work, args=(after,)) for after in (0, 100, 200)]
    for thread in threads:
        thread.start()
    with closing(opened(log.url)) as store:
        scribe = Scribe(store)
        for _ in range(20):
            scribe.append(Fact())
        for thread in threads:
            thread.join()
        assert not troubles
        rows = flat(store.read())
        check_whole(rows)
        assert len(rows) == len(log.rows) + 20
