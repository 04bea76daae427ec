"""Opening: what a URL may say, whose tables these are, and who may make them."""

import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal

import psycopg
import pytest
from psycopg import conninfo
from psycopg.pq import PGconn, Ping

import happened as h
from happened.core.store import Commit
from happened.edge.main import main
from happened.shelf.postgres_rows import RowsSchema
from happened.stores.postgres import PostgresStore
from happened.stores.postgres_tables import MIGRATIONS, check_there, migrate, migrated, where_in
from happened.testing.rows import Fact, Scribe, check_whole, flat, read_by, terms_of, without
from tests.programs.p01_bank import Account, Deposited, Transfer, bank
from tests.servers import Server, fresh, replace_log, server


class Noted(h.Event):
    text: str


notes = h.App("notes", records=[Noted])


def test_several_logs_lie_in_one_database() -> None:
    """Each in a schema of its own; a log of another app is refused."""
    one, other = fresh(), fresh()
    with notes.open(one) as first, notes.open(other) as second:
        first.record(Noted("one"))
        assert [record for record in second.log.read() if record.kind == "input"] == []
    with pytest.raises(h.Diverged, match="a log of the app `notes`"):
        h.App("others", records=[Noted]).open(one)
    with h.open_log(one) as log:
        assert [record.body for record in log.read() if record.kind == "input"] == [{"text": "one"}]


@pytest.mark.parametrize(
    ("url", "error", "text"),
    [
        ("postgresql://postgres@/postgres?host=/nowhere", h.StoreFailed, "can't be opened as a log"),
        ("postgresql://postgres:secret@127.0.0.1:1/postgres", h.StoreFailed, "can't be opened as a log"),
        ("postgresql://postgres:secret@nowhere.invalid/postgres", h.StoreFailed, "can't be opened as a log"),
        ("postgresql://postgres:secret@127.0.0.1/postgres?sslmode=nonsense", h.Invalid, "can't be opened as a log"),
        ("postgresql://postgres:secret@127.0.0.1/postgres?connect_timeout=soon", h.Invalid, "names no database"),
        ("postgresql://postgres:secret@127.0.0.1/postgres?port=70000", h.Invalid, "a port is a number"),
        ("postgresql://postgres@/postgres?schema=a-b", h.Invalid, "no name for a schema"),
        ("postgresql://postgres@/postgres?nonsense=1", h.Invalid, "names no database"),
    ],
)
def test_a_url_that_leads_nowhere_says_so_and_shows_no_password(url: str, error: type[h.Error], text: str) -> None:
    """It is trouble that may be over at the next try, but where the URL can't be right."""
    with pytest.raises(error, match=text) as raised:
        notes.open(url)
    assert "secret" not in str(raised.value)


def views_at(url: str) -> RowsSchema:
    return RowsSchema(where_in(url))


ROLES = """
create role full login connection limit 0;
create role known login password 'right';
create role barred nologin;
create role unwelcome login;
create database emptied connection limit 0;
create database closed allow_connections false;
create database kept;
revoke connect on database kept from public;
"""


def test_a_server_that_is_away_or_full_may_be_back_and_one_that_refuses_stays_so() -> None:
    """By the SQLSTATE, not by the text, which is in the server's language: opening, looking and migrating, the log and views."""
    own = Server("max_connections=5", "superuser_reserved_connections=1")
    others: list[psycopg.Connection] = []
    # An older library does not tell why it was refused: see `may_pass`.
    full = h.StoreFailed if psycopg.pq.version() >= 180000 else h.Invalid

    def check(error: type[h.Error], url: str, text: str) -> None:
        asks: list[Callable[[str], object]] = [PostgresStore, check_there, migrated, views_at]
        for ask in asks:
            with pytest.raises(error, match=text) as raised:
                ask(url)
            assert type(raised.value) is error, (ask, url)
            assert "wrong" not in str(raised.value)

    def of(role: str, database: str = "postgres") -> str:
        return f"postgresql://{role}@/{database}?host={own.folder}"

    try:
        with psycopg.connect(own.url, autocommit=True) as connection:
            for statement in ROLES.strip().splitlines():
                connection.execute(statement.encode())
            rules = own.folder / "data" / "pg_hba.conf"
            rules.write_text("local all known scram-sha-256\nlocal all unwelcome reject\n" + rules.read_text())
            connection.execute("select pg_reload_conf()")
        check(h.StoreFailed, of("full"), "too many connections for role")
        check(h.StoreFailed, of("known:right", "emptied"), "too many connections for database")
        check(h.StoreFailed, of("known:right", "closed"), "not currently accepting connections")
        check(h.Invalid, of("known:wrong"), "password authentication failed")
        check(h.Invalid, of("known"), "no password supplied")
        check(h.Invalid, of("nobody"), 'role "nobody" does not exist')
        check(h.Invalid, of("barred"), "not permitted to log in")
        check(h.Invalid, of("unwelcome"), "pg_hba.conf rejects")
        check(h.Invalid, of("known:right", "nothing"), 'database "nothing" does not exist')
        check(h.Invalid, of("known:right", "kept"), "permission denied for database")
        check(h.Invalid, own.url + "&options=-c%20nonsense%3D1", "unrecognized configuration parameter")

        others += [psycopg.connect(own.url) for _ in range(5)]
        check(full, of("known:right"), "connection slots|too many clients")
        check(full, own.url, "too many clients")
        own.process.send_signal(signal.SIGTERM)  # it ends when all have gone
        while PGconn.ping(own.url.encode()) != Ping.REJECT:
            time.sleep(0.01)
        check(h.StoreFailed, own.url, "shutting down")
        for other in others:
            other.close()
        own.process.wait(30)
        check(h.StoreFailed, own.url, "No such file")
    finally:
        for other in others:
            other.close()
        own.remove()


def test_a_url_without_a_host_is_what_libpq_takes() -> None:
    """The environment and services say where that is, or the socket's folder does."""
    for url in ("postgresql:///shop?host=/run/postgresql", "postgres:///shop", "postgresql://?service=shop", "postgresql://me@/shop"):
        where = where_in(url)
        assert where.said == url
        assert where_in(where.said) == where
    found = conninfo.conninfo_to_dict(where_in("postgresql:///shop?host=/run/postgresql&schema=bank").to)
    assert (found["dbname"], found["host"], found.get("user")) == ("shop", "/run/postgresql", None)


def test_a_password_is_not_shown() -> None:
    where = where_in("postgresql://me:secret@host/db?schema=shop&password=other")
    assert where.said == "postgresql://me@host/db?schema=shop"
    assert "secret" in where.to
    assert "schema" not in where.to


def test_a_schema_of_something_else_is_left_alone() -> None:
    url = fresh()
    schema = where_in(url).schema
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create schema "{schema}"'.encode())
        connection.execute(f'create table "{schema}".customer(id int)'.encode())
    with pytest.raises(h.Invalid, match="no log but something else's, with the tables customer"):
        notes.open(url)


def test_a_schema_of_a_newer_release_is_left_alone() -> None:
    url = fresh()
    notes.open(url).close()
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'insert into "{where_in(url).schema}".migration(number) values(99)'.encode())
    with pytest.raises(h.Invalid, match="made by a newer release \\(step 99"):
        notes.open(url)


def test_a_log_of_an_earlier_release_goes_on_by_the_steps_that_it_lacks() -> None:
    """Its rows are what they were; a role that may not take the steps is told so."""
    url = fresh()
    where = where_in(url)
    store = PostgresStore(url)
    rows = Scribe(store).append(Fact(("a=1",)), Fact())
    store.close()
    with psycopg.connect(server().url, autocommit=True) as connection:  # as the first release made it
        for function in re.findall("create function (@[a-z_]+)", " ".join(MIGRATIONS[1])):
            connection.execute(where.sql(f"drop function if exists {function}"))
        connection.execute(where.sql("drop table @segment"))
        connection.execute(where.sql("delete from @migration where number > 1"))
        connection.execute(f'create role "{where.schema}" login'.encode())
        connection.execute(f'grant usage on schema "{where.schema}" to "{where.schema}"'.encode())
        connection.execute(f'grant all on all tables in schema "{where.schema}" to "{where.schema}"'.encode())

    with pytest.raises(h.Invalid, match=r"may not make the tables of the log .* `happened migrate`"):
        PostgresStore(url.replace("postgres@", f"{where.schema}@"))
    store = PostgresStore(url)
    scribe = Scribe(store, seen=2)
    [third] = scribe.append(Fact())
    assert flat(store.read()) == [*rows, third]
    check_whole([*rows, third])
    store.close()


def test_a_role_without_rights_is_told_and_one_with_a_schema_makes_its_tables() -> None:
    """No superuser is needed: a schema that a role owns is enough."""
    allowed, refused = where_in(fresh()).schema, fresh()
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create role "{allowed}" login'.encode())
        connection.execute(f'create schema "{allowed}" authorization "{allowed}"'.encode())
    by_role = server().url.replace("postgres@", f"{allowed}@")
    with notes.open(f"{by_role}&schema={allowed}") as running:
        running.record(Noted("mine"))
    with pytest.raises(h.Invalid, match="may not make the tables of the log"):
        notes.open(f"{by_role}&schema={where_in(refused).schema}")


def test_a_role_that_may_not_read_all_tables_hears_which() -> None:
    """It is not told that the schema is something else's, since it sees only some of the tables."""
    url = fresh()
    where = where_in(url)
    PostgresStore(url).close()
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create role "{where.schema}" login; grant usage on schema "{where.schema}" to "{where.schema}"'.encode())
        connection.execute(where.sql(f'grant select on @log, @head to "{where.schema}"'))

    with pytest.raises(h.Invalid, match="permission denied for table migration"):
        h.open_log(url.replace("postgres@", f"{where.schema}@"))


def test_a_name_that_no_schema_can_have_is_said_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """It is of no use to try again: the server keeps such names for itself."""
    url = f"{server().url}&schema=pg_shop"
    with pytest.raises(h.Invalid, match='unacceptable schema name "pg_shop"') as raised:
        notes.open(url)
    code = main(["migrate", "--log", url])

    assert "\n" not in str(raised.value)
    assert (code, len(capsys.readouterr().err.splitlines())) == (2, 1)


def test_who_comes_while_another_one_makes_the_tables_waits_and_finds_them() -> None:
    """Both have seen that there are none; the second one waits until the first has committed, and has nothing to do then."""
    url = fresh()
    where = where_in(url)
    made: list[object] = []

    def make() -> None:
        try:
            made.append(migrated(url))
        except h.Error as error:
            made.append(error)

    second = threading.Thread(target=make)
    with where.connect() as connection, psycopg.connect(server().url, autocommit=True) as looks:
        with connection.transaction():
            assert migrate(where, connection) == list(range(1, len(MIGRATIONS) + 1))
            second.start()
            while looks.execute("select 1 from pg_locks where not granted").fetchone() is None and second.is_alive():
                time.sleep(0.01)
        second.join()
    assert made == [[]]
    PostgresStore(url).close()


def test_an_older_copy_in_its_place_is_another_history() -> None:
    """As where a standby was promoted that lacks the last commits: the writer stops before it decides anything."""
    url = fresh()
    store = PostgresStore(url)
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    scribe = Scribe(store)
    rows = scribe.append(Fact(), Fact(), Fact())
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(store.where.sql("delete from @log where position > 1"))
        connection.execute(store.where.sql("update @head set position = 1, row = 1, filed = 1, tagged = 1, digest = %s"), (rows[0].digest,))
    with pytest.raises(h.Diverged, match="an older copy, or another database"):
        scribe.append(Fact())
    store.close()


def test_a_row_behind_the_last_one_that_follows_on_another_is_another_history() -> None:
    """A database in its place is as long, and longer by one: what lies behind is at the right position, and its link says that it does not follow."""
    url, other = fresh(), fresh()
    with closing(PostgresStore(url)) as store, closing(PostgresStore(other)) as stranger:
        for one in (store, stranger):
            one.index(read_by("today"), terms_of, lambda _done, _all: None)
        scribe = Scribe(store)
        scribe.append(Fact(), Fact())
        Scribe(stranger, actor="stranger").append(Fact(), Fact(), Fact())
        replace_log(url, other)

        with pytest.raises(h.Diverged, match="an older copy, or another database"):
            scribe.append(Fact())
        assert len(flat(stranger.read())) == 3


def test_a_log_that_has_lost_the_row_that_says_where_it_stands_is_said_to_be_damaged() -> None:
    """As after a restore that left out a table."""
    url = fresh()
    notes.open(url).close()
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(where_in(url).sql("delete from @head"))

    for opened in (notes.open, h.open_log):
        with pytest.raises(h.Broken, match="its table `head` is empty"):
            opened(url)


def test_who_holds_the_lock_too_long_is_an_overload() -> None:
    url = fresh()
    store = PostgresStore(url)
    with psycopg.connect(server().url) as connection:
        connection.execute(store.where.sql("select 1 from @head for update"))
        with pytest.raises(h.Overloaded, match="nothing was recorded"):
            Scribe(store).append(Fact(), wait_seconds_max=0.1)
    Scribe(store).append(Fact())
    store.close()


def test_an_app_runs_on_it_as_on_a_file() -> None:
    """Facts, decisions, refusals, views, time travel, branches and the proof of the whole; also after it was opened again."""
    url = fresh()
    with bank.open(url) as running:
        running.record_all([Deposited("a", Decimal(100)), Deposited("b", Decimal(1))])
        receipts = [running.dispatch(Transfer("a", "b", Decimal(10)), id=f"t-{n}") for n in range(5)]
        assert running.dispatch(Transfer("a", "b", Decimal(10)), id="t-0").repeated
        with pytest.raises(h.Refused, match="overdrawn"):
            running.dispatch(Transfer("a", "b", Decimal(1000)))
        assert running.state(Account, "a") == Account("a", Decimal(50))
        assert running.view(Account).get("b", since=running.log.head) == Account("b", Decimal(51))
        assert running.at(receipts[2].position).state(Account, "a") == Account("a", Decimal(70))
        with running.branch(at=receipts[1].position) as branch:
            assert not branch.diff()
            assert branch.state(Account, "a") == Account("a", Decimal(50))
    with bank.open(url, views="memory:") as running:
        assert running.state(Account, "a") == Account("a", Decimal(50))
        assert running.view(Account).get("b", since=running.log.head) == Account("b", Decimal(51))
        assert len(list(running.log.read(h.query(account="b")))) == 6
        assert running.log.verify().position == running.log.head


def test_the_command_line_makes_the_tables_and_looks_at_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    """`migrate` says what it did; what only looks makes nothing."""
    url = fresh()
    assert main(["tail", "--log", url]) == 2
    assert "there is no log at" in capsys.readouterr().err
    assert main(["migrate", "--log", url]) == 0
    assert capsys.readouterr().out == "steps taken: 1, 2, 3, 4\n"
    assert main(["migrate", "--log", url]) == 0
    assert capsys.readouterr().out.startswith("nothing to do")
    assert main(["migrate", "--json", "--log", url]) == 0
    assert capsys.readouterr().out == '{"taken":[]}\n'
    with bank.open(url) as running:
        running.record(Deposited("a", Decimal(1)))
        assert main(["tail", "--log", url]) == 0
        assert "Deposited" in capsys.readouterr().out
        for command in (
            ["verify"],
            ["stats"],
            ["show", "3"],
            ["state", "Account", "a"],
            ["view", "Account"],
            ["check"],
            ["at", "6", "state", "Account", "a"],
        ):
            assert (
                main(
                    [*command, "--log", url, *["--app", "tests.programs.p01_bank:bank"] * (command[0] in ("state", "view", "check", "at"))]
                )
                == 0
            ), command
    assert main(["migrate", "--log", "sqlite:///nowhere.db"]) == 2


@pytest.mark.parametrize(
    "rest", ["100%secret@host/db", "pa/secret@host/db", "p?secret@host/db", "p#secret@host/db", "[secret@host/db", "\u2100secret@host/db"]
)
def test_a_password_that_makes_a_url_unreadable_is_not_shown(rest: str) -> None:
    with pytest.raises(h.Invalid) as raised:
        where_in(f"postgresql://me:{rest}")
    assert "secret" not in str(raised.value)


def test_a_url_is_handed_on_as_it_stands() -> None:
    """A + is a +, a space stays one, and what the URL says of the connection goes before what is usual."""
    where = where_in(
        "postgresql://me@host/db?options=-c%20geqo%3Doff&password=a+b&sslpassword=c&schema=shop&connect_timeout=3&application_name=x"
    )
    found = conninfo.conninfo_to_dict(where.to)
    assert (found["options"], found["password"], found["connect_timeout"], found["application_name"]) == ("-c geqo=off", "a+b", "3", "x")
    assert where.said == "postgresql://me@host/db?options=-c%20geqo%3Doff&schema=shop&connect_timeout=3&application_name=x"


def test_a_database_of_another_encoding_is_refused() -> None:
    """It could not keep all texts: that is said at once, not with the first one."""
    name = where_in(fresh()).schema
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f"create database {name} encoding 'LATIN1' locale 'C' template template0".encode())
    with pytest.raises(h.Invalid, match="keeps texts as LATIN1"):
        notes.open(server().url.replace("/postgres?", f"/{name}?"))


def test_what_was_erased_is_not_said_to_be_gone_while_somebody_may_still_look_at_it() -> None:
    """A transaction of before keeps the old bytes in the table: scrubbing says so, and does it when that has ended."""
    store = PostgresStore(fresh())
    store.index(read_by("today"), terms_of, lambda _done, _all: None)
    [row] = Scribe(store).append(Fact(("a=1",)))
    with psycopg.connect(server().url) as connection:
        connection.execute("set transaction isolation level repeatable read")
        connection.execute("select 1")
        store.append(lambda _: Commit(notes={"erased": "1"}, instead=[without(row)]), 1 << 62)
        assert not store.scrub(lambda _done, _all: None)
    assert store.scrub(lambda _done, _all: None)
    store.close()


def test_who_does_not_own_the_tables_is_told_that_he_can_not_scrub() -> None:
    """The server only skips them."""
    url = fresh()
    PostgresStore(url).close()
    schema = where_in(url).schema
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create role "{schema}" login'.encode())
        connection.execute(f'grant all on schema "{schema}" to "{schema}"'.encode())
        connection.execute(f'grant select, insert, update, delete on all tables in schema "{schema}" to "{schema}"'.encode())
    store = PostgresStore(url.replace("postgres@", f"{schema}@"))
    try:
        with pytest.raises(h.StoreFailed, match="takes the role that owns them"):
            store.scrub(lambda _done, _all: None)
    finally:
        store.close()
