"""The cold part of a log in PostgreSQL: what is of that database alone."""

import threading
from contextlib import closing
from typing import Any, NamedTuple  # Any: as the driver takes them

import psycopg
import pytest

import happened as h
from happened.core.store import Commit, Row, Wanted
from happened.stores import postgres_cold, segments
from happened.stores.postgres import PostgresStore
from happened.stores.postgres_tables import where_in
from happened.testing.rows import Fact, Scribe, check_whole, flat, read_by, terms_of, without
from tests.cold.rows import filled, nothing
from tests.postgres_log.proxy import CLIENT, SERVER, Proxy
from tests.servers import as_role_with, fresh, replace_log, server


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

        _packed = property(lambda _: 0, lambda _, __: None)

    with closing(Told(log.url)) as store:
        store.index(read_by("today"), terms_of, nothing)
        store.compact(log.rows[200].last, nothing)

        assert flat(store.read()) == log.rows
        assert flat(store.read(wanted=[Wanted(("n=7",))])) == log.rows[7::50]


@pytest.mark.parametrize("setting", ["default_transaction_isolation = 'serializable'", "default_transaction_read_only = on"])
def test_what_a_role_has_set_for_its_transactions_does_not_matter(log: Given, setting: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three pack and unpack at once, beside who writes: each step sees what it has waited for."""
    monkeypatch.setattr(segments, "ROWS_MAX", 32)
    theirs = as_role_with(log.url, setting)
    troubles: list[Exception] = []

    def work(after: int) -> None:
        try:
            with closing(opened(theirs)) as store:
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


def test_who_waits_for_the_lock_gives_up(log: Given, monkeypatch: pytest.MonkeyPatch) -> None:
    """`Overloaded`, and nothing has moved. Nothing is set for the session: by a pooler it may be another's."""
    monkeypatch.setattr(postgres_cold, "LOCK_SECONDS_MAX", 0.1)
    execute = psycopg.Connection.execute

    def checked(self: psycopg.Connection[Any], query: Any, *values: Any, **how: Any) -> psycopg.Cursor[Any]:
        assert self.info.transaction_status != psycopg.pq.TransactionStatus.IDLE or query[:3] not in ("set", b"set")
        return execute(self, query, *values, **how)

    with closing(opened(log.url)) as store, psycopg.connect(server().url) as other:
        store.compact(log.rows[100].last, nothing)
        other.execute(where_in(log.url).sql("select 1 from @head for update"))
        monkeypatch.setattr(psycopg.Connection, "execute", checked)
        with pytest.raises(h.Overloaded):
            store.compact(log.rows[200].last, nothing)
        with pytest.raises(h.Overloaded):
            store.unpack(0, nothing)
        assert store.cold_until() == log.rows[100].last
        assert flat(store.read()) == log.rows


def test_who_vacuums_the_table_already_is_not_waited_for(log: Given) -> None:
    """It may be a long work; what is free is used again when that is done."""
    with closing(opened(log.url)) as store, psycopg.connect(server().url) as other:
        other.execute(where_in(log.url).sql("lock table @log in share update exclusive mode"))
        store.compact(log.rows[100].last, nothing)
        assert store.cold_until() == log.rows[100].last


def test_a_role_that_does_not_own_the_tables_packs_and_can_not_rewrite(log: Given) -> None:
    """The server only skips what is to be written anew: that is said, and all is packed."""
    where = where_in(log.url)
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create role "{where.schema}" login'.encode())
        connection.execute(where.sql(f'grant usage on schema "{where.schema}" to "{where.schema}"'))
        connection.execute(f'grant select, insert, update, delete on all tables in schema "{where.schema}" to "{where.schema}"'.encode())
    with closing(opened(log.url.replace("postgres@", f"{where.schema}@"))) as store:
        store.compact(log.rows[100].last, nothing)
        assert store.cold_until() == log.rows[100].last
        with pytest.raises(h.StoreFailed, match="takes the role that owns them"):
            store.compact(log.rows[200].last, nothing, rewrite=True)
        assert store.cold_until() == log.rows[200].last
        assert flat(store.read()) == log.rows


@pytest.mark.parametrize("side", [CLIENT, SERVER])
def test_cut_off_at_any_message_nothing_is_lost(log: Given, side: str) -> None:
    """Who packs hears of it, and the next call goes on; who reads and counts does not. It is the connections that were open that are cut."""
    counted: Any = None
    with closing(opened(log.url)) as store, Proxy(server()) as proxy, closing(opened(proxy.url(log.url))) as beside:
        store.compact(log.rows[100].last, nothing)
        for what in ("pack", "unpack", "count"):
            number = 13 if side == SERVER else 2  # before that it does not come to a connection
            while True:
                broken, failed = len(proxy.broken), ""
                proxy.cut = (side, number)
                try:
                    if what == "pack":
                        beside.compact(log.rows[290].last, nothing)
                    elif what == "unpack":
                        beside.unpack(100, nothing)
                    else:
                        counted = beside.counted(5, 50, lambda row: terms_of(row).counts)
                except h.StoreFailed as error:
                    failed = str(error)
                proxy.cut = None
                assert not failed or what != "count"
                assert flat(store.read()) == log.rows
                if len(proxy.broken) == broken:
                    break
                number += 1
            assert number > 10
        assert counted == store.counted(5, 50, lambda row: terms_of(row).counts)


@pytest.mark.parametrize(
    "damage",
    [
        "update @segment set body = set_byte(body, 99, get_byte(body, 99) # 1) where first = %s",
        "update @segment set body = '' where first = %s",
        "update @segment set checked = checked + 1 where first = %s",
        "update @segment set first = first + 1 where first = %s",
        "update @segment set first = first - 1 where first = %s",
        "update @segment set first = -first where first = %s",
        "update @segment mine set body = other.body, checked = other.checked from @segment other where mine.first = %s and other.first = 1",
        "delete from @segment where first = %s",
    ],
)
def test_a_damaged_segment_is_broken_whatever_is_asked_of_it(log: Given, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a row of it is said not to be there, and nothing is written over it. What lies beside it is read."""
    monkeypatch.setattr(segments, "ROWS_MAX", 64)
    with closing(opened(log.url)) as store, psycopg.connect(server().url, autocommit=True) as connection:
        store.compact(log.rows[-2].last, nothing)
        connection.execute(where_in(log.url).sql(damage), (log.rows[128].position,))
    row = log.rows[140]
    with closing(opened(log.url)) as store:
        for asked in (
            lambda: flat(store.read()),
            lambda: flat(store.read(backwards=True)),
            lambda: flat(store.read(wanted=[Wanted(("n=40",))])),
            lambda: store.append(lambda _: Commit(instead=[without(row)]), 1 << 62),
            lambda: Scribe(store).append(Fact()),
            lambda: store.counted(0, row.last, lambda row: terms_of(row).counts),
        ):
            with pytest.raises(h.Broken):
                asked()
        assert flat(store.read(0, log.rows[100].last)) == log.rows[:101]
        assert flat(store.read(log.rows[200].last)) == log.rows[201:]


@pytest.mark.parametrize("is_packed", [False, True])
def test_an_older_copy_in_the_place_of_a_log_is_seen_by_a_row_that_is_packed_there(log: Given, is_packed: bool) -> None:
    """It went on otherwise, and packed that: whoever knew the log does not write there."""
    copy = fresh()
    PostgresStore(copy).close()
    replace_log(copy, log.url)
    with closing(opened(log.url)) as store, closing(opened(copy)) as gone_on:
        scribe = Scribe(store, seen=log.rows[-1].last)
        scribe.append(Fact(("a=1",)))
        Scribe(gone_on, actor="other", seen=log.rows[-1].last).append(*[Fact()] * 20)
        gone_on.compact(1 << 40, nothing)
        if is_packed:
            store.compact(1 << 40, nothing)
        replace_log(log.url, copy)

        with pytest.raises(h.Diverged, match="an older copy"):
            scribe.append(Fact())
        assert flat(store.read()) == flat(gone_on.read())
