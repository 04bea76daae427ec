"""Views, snapshots and replicas in PostgreSQL: what is otherwise there than in a file."""

import contextlib
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any  # Any: what a private method takes

import psycopg
import pytest

import happened as h
from happened.core.state import fold_of
from happened.cqrs.ask import Standing, standing_of
from happened.cqrs.view import ViewBuild
from happened.edge.main import main
from happened.log import lease
from happened.opening import look_at_rows, open_rows, open_snapshots
from happened.shelf import postgres_rows
from happened.shelf.connection import Connection
from happened.shelf.postgres_rows import POSTGRES, forget_rows, numbered
from happened.stores.postgres_tables import where_in
from tests.servers import Server, as_role_with, fresh, replace_log, server

Name = Annotated[str, h.Tag("name")]


class Paid(h.Event):
    name: Name
    amount: Decimal
    note: str = ""


class Pay(h.Command):
    name: Name
    amount: Decimal


class Account(h.State):
    name: Name
    balance: Decimal = Decimal(0)
    notes: tuple[str, ...] = ()
    last: str = ""

    def evolve(self, event: Paid) -> "Account | None":
        if event.note == "closed":
            return None
        return self.but(balance=self.balance + event.amount, last=event.note)


class Total(h.State):
    count: int = 0
    sum: Decimal = Decimal(0)

    def evolve(self, event: Paid) -> "Total":
        return self.but(count=self.count + 1, sum=self.sum + event.amount)


def pay(command: Pay, account: Account) -> Iterator[Paid]:
    yield Paid(command.name, command.amount, note=str(account.balance))


bank = h.App("bank", records=[Paid], deciders=[pay], views=[Account, Total])
CONTEXT = multiprocessing.get_context("spawn")


@contextlib.contextmanager
def asked(url: str) -> Generator[psycopg.Connection]:
    """Look into the schema of a log as `psql` does."""
    where = where_in(url)
    with where.connect() as connection:
        connection.execute(f'set search_path = "{where.schema}"'.encode())
        yield connection


# --- while others make tables anew


@pytest.mark.parametrize("how", ["emptied", "made anew"])
@pytest.mark.parametrize("what", ["rows", "sql"])
def test_a_view_whose_table_is_begun_anew_is_not_answered_from_as_empty(what: str, how: str) -> None:
    """As after an erasure, between the moment in which it is seen where the view stands and the look at its rows."""
    url = fresh()
    with bank.open(url) as running:
        last = running.record(Paid("a", Decimal(1)))
        view = running.view(Account).of
        running.view(Account).rows(since=last)
        file, build = view.file, view.build

        def begin_anew() -> None:
            if how == "emptied":
                forget_rows(where_in(url), running.log.identity.id, 1 << 40)
            else:
                with file.transaction() as connection:
                    build.create(connection)
                    connection.execute("update _view set position = 0, ready = 0 where name = 'Account'")

        def meanwhile() -> threading.Thread:
            others = threading.Thread(target=begin_anew)
            others.start()
            others.join(0.5)
            return others

        if what == "rows":
            with_others: list[threading.Thread] = []

            def ask(reader: Connection, build: ViewBuild[Account], standing: Standing) -> tuple[bool, int]:
                with_others.append(meanwhile())
                return standing.ready, len(reader.execute(build.own.table.select()).fetchall())

            assert view.answer(ask) == (True, 1)
            with_others.pop().join()
        else:
            with file.guarded(build.tables) as asking:
                standing = standing_of(asking.connection, build)
                others = meanwhile()
                assert standing is not None
                assert standing.ready
                assert asking.query('select name from "Account"', (), {"Account": build.own.table}) == [("a",)]
            others.join()


# --- where rows are


def test_rows_lie_beside_the_log_and_psql_reads_them() -> None:
    """The view is named as the state, and decimals are their exact texts."""
    url = fresh()
    with bank.open(url) as running:
        running.record(Paid("a", Decimal("1.50")))
        running.record(Paid("b", Decimal("-0.000001"), note="x"))
        last = running.record(Paid("c", Decimal("9000000000000.1")))
        running.view(Account).rows(since=last)
        running.view(Total).get(since=last)

    with asked(url) as connection:
        rows = connection.execute('select name, balance, last from "Account" order by name').fetchall()
        total = connection.execute('select count, sum from "Total"').fetchall()

    assert rows == [("a", "1.5", ""), ("b", "-0.000001", "x"), ("c", "9000000000000.1", "")]
    assert total == [(3, "9000000000001.599999")]


def test_views_may_lie_in_another_schema_and_another_kind_of_log_may_use_them(tmp_path: Path) -> None:
    """The log is a file; its views are in PostgreSQL, and in no schema that holds something else."""
    url, views = f"sqlite:///{tmp_path}/log.db", fresh()
    with bank.open(url, views=views) as running:
        last = running.record(Paid("a", Decimal(1)))
        assert running.view(Account).get("a", since=last).balance == 1
    assert not (tmp_path / "log.views.db").exists()
    with bank.open(url, views=views, run=False) as reader:
        assert reader.view(Account).get("a").balance == 1

    with asked(views) as connection:
        connection.execute("create table customer(name text)")
    with pytest.raises(h.Invalid, match="holds something else than views"):
        bank.open(url, views=views)


@pytest.mark.parametrize("views", ["memory:", "file"])
def test_views_are_not_folded_on_where_the_log_falls_back_to_an_older_copy(tmp_path: Path, views: str) -> None:
    """As behind a pooler that hides it: no connection is lost, and when anybody looks the log has gone on another way, further than it was."""
    url, copy = fresh(), fresh()
    at = views if views == "memory:" else f"sqlite:///{tmp_path}/views.db"
    with bank.open(url, views=at) as follows, bank.open(url, run=False) as writes:
        follows.view(Account).get("a", since=writes.record(Paid("a", Decimal(1))))
        bank.open(copy, run=False, views="memory:").close()
        replace_log(copy, url)
        last = writes.record(Paid("a", Decimal(10)))
        assert follows.view(Account).get("a", since=last).balance == 11
        with bank.open(copy, run=False, views="memory:") as otherwise:
            otherwise.record_all([Paid("a", Decimal(100))] * 3)
            further = otherwise.log.head

        replace_log(url, copy)

        with pytest.raises(h.Stuck, match="from another history"):
            follows.view(Account).get("a", since=further)
        assert follows.view(Account).get("a").balance == 11


def test_who_does_not_follow_any_more_since_the_log_is_another_one_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It can't renew its lease there: that is said, and not what kept it from its work before."""
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1)
    url, copy = fresh(), fresh()
    with bank.open(url, views=f"sqlite:///{tmp_path}/views.db") as follows:
        bank.open(copy, run=False, views="memory:").close()
        replace_log(copy, url)
        follows.view(Account).get("a", since=follows.record(Paid("a", Decimal(1))))

        replace_log(url, copy)

        view = follows.view(Account).of
        while view.following.holder(view.build) is not None:
            time.sleep(0.01)
        view.build.failure, view.build.epoch = "the server is away", None  # as trouble leaves it
        while "older copy" not in str(view.build.failure):
            time.sleep(0.01)
        with pytest.raises(h.Late, match="older copy"):
            follows.view(Account).get("a", since=1_000, wait_seconds_max=0)


def test_views_of_another_release_are_refused() -> None:
    """Their tables look otherwise: the error says what to drop."""
    url = fresh()
    with bank.open(url):
        pass
    with asked(url) as connection:
        connection.execute("alter table _view add column more text")

    with pytest.raises(h.Invalid, match="another release"):
        bank.open(url)


def test_a_role_that_may_not_make_tables_hears_so_and_may_keep_views_elsewhere(tmp_path: Path) -> None:
    """The log alone needs no such right, once its tables are made."""
    url = fresh()
    schema = where_in(url).schema
    role = f"r_{schema}"
    with bank.open(url, views="memory:"):
        pass
    with psycopg.connect(server().url, autocommit=True) as admin:
        admin.execute(f"create role {role} login".encode())
        admin.execute(f'grant usage on schema "{schema}" to {role}'.encode())
        admin.execute(f'grant all on all tables in schema "{schema}" to {role}'.encode())
        admin.execute(f'grant execute on all functions in schema "{schema}" to {role}'.encode())
    theirs = url.replace("postgres@", f"{role}@")

    with pytest.raises(h.Invalid, match="may not make the tables of views"):
        bank.open(theirs)
    with bank.open(theirs, views=f"sqlite:///{tmp_path}/views.db") as running:
        last = running.dispatch(Pay("a", Decimal(2)))
        assert running.view(Account).get("a", since=last).balance == 2


# --- what a row can hold


def test_a_role_that_may_only_read_looks_at_views_that_are_there(capsys: pytest.CaptureFixture[str]) -> None:
    """It makes nothing, and is refused where something is to be recorded."""
    url = fresh()
    role = where_in(url).schema
    with bank.open(url) as running:
        last = running.record(Paid("a", Decimal(1)))
        assert running.view(Total).get(since=last).count == 1
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f'create role "{role}" login; grant usage on schema "{role}" to "{role}"'.encode())
        connection.execute(f'grant select on all tables in schema "{role}" to "{role}"'.encode())
    by_role = url.replace("postgres@", f"{role}@")

    with bank.open(by_role, run=False) as reading:
        assert reading.view(Total).get(since=last).count == 1
        assert reading.view(Total).sql("select count from Total") == [(1,)]
        with pytest.raises(h.StoreFailed, match="permission denied"):
            reading.record(Paid("a", Decimal(1)))
    assert main(["views", "--log", by_role, "--app", f"{__name__}:bank"]) == 0
    assert "Total" in capsys.readouterr().out


def test_what_postgresql_can_not_keep_stops_its_key_and_no_other() -> None:
    """A text with a NUL is a row in a file; here its key stands still, and says so."""
    url = fresh()
    with bank.open(url) as running:
        running.record(Paid("a", Decimal(1)))
        try:
            running.record(Paid("b", Decimal(1), note="x\0y"))
        except h.Invalid:
            pytest.skip("the log itself takes no such text")
        last = running.record(Paid("c", Decimal(3)))

        assert running.view(Account).find("c", since=last) is not None
        with pytest.raises(h.Stuck, match="0x00"):
            running.view(Account).get("b", since=last)
        assert running.view(Total).get(since=last).count == 3


# --- keys that PostgreSQL can't hold

_letters = random.Random(1)
LONG = "".join(_letters.choices("abcdefghijklmnopqrstuvwxyz", k=3_000))
"""More than an index takes, and nothing to be compressed."""
ESCAPED = "".join(_letters.choices([chr(number) for number in range(1, 32)], k=2_500))
"""An index takes it, but not as JSON."""

HOSTILE = {"NUL": "n\0ul", "long": LONG, "long and NUL": LONG + "\0"}
Other = Annotated[str, h.Tag("other")]


class Met(h.Event):
    name: Name
    other: Other
    note: str = ""


class Pair(h.State):
    name: Name
    other: Other
    count: int = 0

    def evolve(self, event: Met) -> "Pair | None":
        if event.note == "bad":
            raise ValueError(f"not with {event.name}")
        return None if event.note == "apart" else self.but(count=self.count + 1)


class Meeting(h.State):
    other: Other
    balance: Decimal = Decimal(0)

    def evolve(self, event: Met, account: Account) -> "Meeting":
        return self.but(balance=account.balance)


hosts = h.App("hosts", records=[Paid, Met], views=[Account, Total, Pair, Meeting])


def standing(running: h.Running, name: str) -> list[tuple[str, int]]:
    """Return which keys of a view stand still, and where."""
    [told] = [one for one in running.statistics()["views"] if one["view"] == name]
    assert (told["broken"], told["failure"]) == (None, None)
    return [(one["key"], one["position"]) for one in told["stuck"]]


def recorded(running: h.Running, facts: Sequence[h.Event], *, together: bool) -> h.Receipt:
    """Record facts in one row, or have each be in the views before the next one comes."""
    last: h.Receipt | None = None
    for some in [facts] if together else [[fact] for fact in facts]:
        last = running.record_all(some)
        assert last is not None
        deadline = time.monotonic() + 10
        while any(running.view(view).position < last.position for view in hosts.views):
            assert time.monotonic() < deadline
            time.sleep(0.005)
    assert last is not None
    return last


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_key_that_postgresql_can_not_hold_stands_still_alone(what: str, *, together: bool, capsys: pytest.CaptureFixture[str]) -> None:
    """It has a NUL, or is longer than an index takes: it says so, and all others go on, also after a reopen, a rebuild, and in who only reads."""
    url, key = fresh(), HOSTILE[what]
    with hosts.open(url) as running:
        first = recorded(running, [Paid("a", Decimal(1))], together=together).position
        facts = [
            Paid(key, Decimal(1)),
            Paid("a", Decimal(1)),
            Paid(key, Decimal(2)),
            Paid(key, Decimal(2), note="closed"),
            Paid("b", Decimal(1)),
        ]
        recorded(running, facts[: 3 if together else 5], together=together)
    for opened in range(1, 3):
        with hosts.open(url) as running, hosts.open(url, run=False) as reader:
            last = running.record_all([Paid(key, Decimal(5)), Paid("b", Decimal(1))])
            if opened == 2:
                running.rebuild(Account)
            for handle in (running, reader):
                view = handle.view(Account)
                assert view.get("a", since=last).balance == 2
                assert view.get("b", since=last).balance == opened + (not together)
                with pytest.raises(h.Stuck, match=f"stands still at position {first + 1}: .*(0x00|index row size)"):
                    view.get(key)
                with pytest.raises(h.Stuck, match="1 rows of `Account` stand still"):
                    view.rows(since=last)
                assert ({row.name for row in view.rows()}, view.rows().stuck) == ({"a", "b"}, 1)
                assert [at for _, at in standing(handle, "Account")] == [first + 1]
            assert running.view(Total).get(since=last).count == (4 if together else 6) + 2 * opened

    capsys.readouterr()
    assert main(["stuck", "--app", f"{__name__}:hosts", "--log", url]) == 1
    assert key.split("\0")[0][:10] in capsys.readouterr().out


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_key_of_several_fields_that_postgresql_can_not_hold_stands_still_alone(what: str, *, together: bool) -> None:
    """One field has a NUL, or all together are too long."""
    key = HOSTILE[what]
    with hosts.open(fresh()) as running:
        facts = [Met("a", "b"), Met(key[:1_500], key[1_500:]) if len(key) > 2_000 else Met("a", key), Met("a", "b"), Met("a", "c")]
        last = recorded(running, facts, together=together)

        rows = running.view(Pair).rows()
        assert ({(row.name, row.other): row.count for row in rows}, rows.stuck) == ({("a", "b"): 2, ("a", "c"): 1}, 1)
        [(_, at)] = standing(running, "Pair")
        assert at == last.position - 2
        with pytest.raises(h.Stuck):
            running.view(Pair).get(facts[1].name, facts[1].other)


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_joined_state_whose_key_postgresql_can_not_hold_stops_those_that_ask_for_it(what: str, *, together: bool) -> None:
    """The joined state stands still, rows whose later events ask for it do too, and others go on."""
    key = HOSTILE[what]
    with hosts.open(fresh()) as running:
        bad = recorded(running, [Paid("a", Decimal(1)), Paid(key, Decimal(1))], together=together).position
        last = recorded(running, [Met(key, "x"), Met("a", "y"), Met("unheard\0of", "z")], together=together)

        assert running.view(Meeting).get("y", since=last).balance == 1
        assert running.view(Meeting).get("z").balance == 0
        with pytest.raises(h.Stuck, match=f"which stands still at position {bad}"):
            running.view(Meeting).get("x", since=last)
        assert [at for _, at in sorted(standing(running, "Meeting"))] == [bad, last.position - 2]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("key", [ESCAPED, "n\0ul"])
def test_a_key_is_listed_whatever_it_holds_and_whatever_its_error_says(key: str, *, together: bool) -> None:
    """`evolve` raises with the key in its words; as JSON, which keys are listed as, it is longer than an index takes."""
    with hosts.open(fresh()) as running:
        last = recorded(running, [Met("a", "b"), Met(key, "b", "bad"), Met("a", "b")], together=together)

        assert running.view(Pair).get("a", "b", since=last).count == 2
        with pytest.raises(h.Stuck, match="not with"):
            running.view(Pair).get(key, "b")
        assert [at for _, at in standing(running, "Pair")] == [last.position - 1]


def test_a_long_key_that_was_listed_whole_is_still_known() -> None:
    """Earlier code listed keys as they are, where an index took them: those stand still as before."""
    url, key = fresh(), "k" * 5_000  # compressed, an index takes it
    with hosts.open(url) as running:
        bad = recorded(running, [Met(key, "b"), Met(key, "b", "bad")], together=True).position
    with asked(url) as connection:
        assert connection.execute("update _stuck set key = %s where name = 'Pair'", (f'["{key}","b"]',)).rowcount == 1
    with hosts.open(url) as running:
        last = running.record_all([Met(key, "b"), Met("a", "b")])

        assert running.view(Pair).get("a", "b", since=last).count == 1
        with pytest.raises(h.Stuck, match=f"position {bad}"):
            running.view(Pair).get(key, "b", since=last)
        assert [row.count for row in running.view(Pair).rows()] == [1, 1]
        assert [at for _, at in standing(running, "Pair")] == [bad]


def test_a_rebuild_of_many_rows_gets_past_a_few_hostile_keys() -> None:
    """They are found among all others of a page, which has up to 50,000 rows, without writing each by itself."""
    url = fresh()
    with hosts.open(url, run=False) as running:
        for page in range(10):
            running.record_all([Paid(f"n{page}-{number}", Decimal(1)) for number in range(1_000)])
            running.record_all([Paid(f"{page}{what}", Decimal(1)) for what in HOSTILE.values()])
    with hosts.open(url) as running:
        began = time.monotonic()
        rows = running.view(Account).rows(limit=100_000, wait_seconds_max=60)

        assert (len(rows), rows.stuck) == (10_000, 30)
        print(f"{time.monotonic() - began:.1f} s")


def test_a_name_that_is_too_long_for_postgresql_is_cut_and_stays_one() -> None:
    """Names have 63 bytes there: what is cut out stands in them as a digest, and tables are found by their ends."""
    long = "_" + "Very" * 20 + "Long_abcdef01"
    other = "_" + "Very" * 19 + "Very_Long_abcdef01"

    assert len(POSTGRES.name(long).encode()) <= 63
    assert POSTGRES.name(long) != POSTGRES.name(other)
    assert POSTGRES.name(long).endswith("_abcdef01")
    assert POSTGRES.name("_Account_abcdef01") == "_Account_abcdef01"
    assert len(POSTGRES.name("_" + "ü" * 60 + "_abcdef01").encode()) <= 63


def test_question_marks_in_texts_and_names_are_no_values() -> None:
    """The words are SQLite's, with `?` for values."""
    assert numbered("select '?', \"a?b\", 'it''s ?' where x = ? and y = ?") == b"select '?', \"a?b\", 'it''s ?' where x = $1 and y = $2"


# --- somebody's own query


def test_a_query_sees_views_by_their_plain_names_and_can_not_get_out_of_itself() -> None:
    """It is a part of a query of ours, in a transaction that only reads."""
    with bank.open(fresh()) as running:
        last = running.record(Paid("a", Decimal(1)))
        view = running.view(Account)

        assert view.sql("select balance from Account where name = ?", ("a",), since=last) == [("1",)]
        assert view.sql('select balance from "Account" -- all') == [("1",)]
        assert view.sql(f'select balance from "{view.table}"') == [(1_000_000,)]
        for text in (
            "select 1) as x; drop table _view; --",
            "select * from _view",
            "delete from _view returning 1",
            "select set_config('transaction_read_only', 'off', true); delete from _view",
            "select nextval('nothing')",
        ):
            with pytest.raises(h.Invalid, match="can't be answered"):
                view.sql(text)
        assert view.get("a", since=running.record(Paid("a", Decimal(1)))).balance == 2


# --- others


def test_two_processes_open_new_views_at_once() -> None:
    """Whoever comes second finds what the first has made."""
    for _ in range(2):
        url = fresh()
        with bank.open(url, views="memory:"):
            pass
        failed: list[BaseException] = []

        def opened(url: str = url, failed: list[BaseException] = failed) -> None:
            try:
                with bank.open(url) as running:
                    running.view(Account).rows(since=running.record(Paid("a", Decimal(1))))
            except BaseException as error:  # noqa: BLE001 - it is looked at below
                failed.append(error)

        threads = [threading.Thread(target=opened) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert failed == []
        with bank.open(url) as running:
            assert running.view(Total).get(since=running.log.head).count == 4


def _follow(url: str) -> None:
    with bank.open(url):
        time.sleep(600)


@pytest.mark.parametrize("kills", [int(os.environ.get("HAPPENED_KILLS", "3"))])
def test_an_owner_is_killed_and_nothing_is_folded_twice(kills: int) -> None:
    """Rows and checkpoint are one transaction: whoever comes next goes on where it stood."""
    url = fresh()
    with bank.open(url, run=False) as running:
        for number in range(kills):
            follower = CONTEXT.Process(target=_follow, args=(url,))
            follower.start()
            for _ in range(20):
                running.record_all([Paid(f"n{index % 7}", Decimal(1)) for index in range(50)])
            time.sleep(0.3 * (number % 3))
            assert follower.pid is not None
            os.kill(follower.pid, signal.SIGKILL)
            follower.join()
        head = running.log.head
    with bank.open(url) as running:
        total = running.view(Total).get(since=head, wait_seconds_max=60)
        rows = running.view(Account).rows(since=head, wait_seconds_max=60)
        assert total == Total(kills * 1000, Decimal(kills * 1000))
        assert sum(row.balance for row in rows) == kills * 1000


def test_an_owner_that_was_stopped_and_goes_on_writes_nothing() -> None:
    """Its lease ran out meanwhile: the checkpoint has another owner's epoch, and its transaction finds no row to change."""
    url = fresh()
    follower = CONTEXT.Process(target=_follow, args=(url,))
    follower.start()
    with bank.open(url, run=False) as writer:
        writer.view(Total).get(since=writer.record(Paid("a", Decimal(1))), wait_seconds_max=60)
        assert follower.pid is not None
        os.kill(follower.pid, signal.SIGSTOP)
        try:
            with bank.open(url) as running:
                last = running.record(Paid("a", Decimal(1)))
                assert running.view(Total).get(since=last, wait_seconds_max=90).count == 2
                os.kill(follower.pid, signal.SIGCONT)
                for _ in range(30):
                    last = running.record(Paid("a", Decimal(1)))
                    time.sleep(0.02)
                assert running.view(Total).get(since=last, wait_seconds_max=60) == Total(32, Decimal(32))
                assert running.view(Account).get("a", since=last, wait_seconds_max=60).balance == 32
        finally:
            os.kill(follower.pid, signal.SIGKILL)
            follower.join()


@pytest.mark.parametrize("change", ["owner = owner + 1", "position = position - 1"])
def test_a_page_is_not_written_where_another_owner_came_between(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it was read another one has claimed the checkpoint, or set it: nothing of the page is written."""
    url, failed, balances = fresh(), list[str](), list[str]()
    with bank.open(url) as running:
        running.view(Account).rows(since=running.record(Paid("a", Decimal(1))))
        running.view(Total).get(since=running.log.head)
        followers = running._followers
        commit, fail = followers._commit, followers._failed

        def between(builds: Any, pages: Any, last: Any) -> Any:
            monkeypatch.setattr(followers, "_commit", commit)
            with asked(url) as connection:
                connection.execute(f"update _view set {change}".encode())
            return commit(builds, pages, last)

        def hear(build: Any, error: Exception) -> None:
            with asked(url) as connection:
                balances.extend(balance for (balance,) in connection.execute('select balance from "Account"'))
            failed.append(str(error))
            fail(build, error)

        monkeypatch.setattr(followers, "_commit", between)
        monkeypatch.setattr(followers, "_failed", hear)
        last = running.record(Paid("a", Decimal(1)))
        with contextlib.suppress(h.Stuck):  # of a checkpoint that is nowhere
            running.view(Account).rows(since=last)
        assert "is followed by another process now" in str(failed[:1])
        assert balances[0] == "1"


def test_a_server_that_is_killed_is_found_again_and_views_go_on() -> None:
    """All connections are lost at once; those who ask hear that the database can't be reached, and then their answer."""
    own = Server()
    try:
        url = f"{own.url}&schema=shop"
        with bank.open(url) as running:
            last = running.record(Paid("a", Decimal(1)))
            assert running.view(Total).get(since=last).count == 1
            own.crash()
            own.start()
            deadline = time.monotonic() + 60
            while True:
                try:
                    last = running.record(Paid("a", Decimal(1)), id="after")
                    found = running.view(Total).get(since=last, wait_seconds_max=60)
                except (h.StoreFailed, h.OutcomeUnknown):
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
                else:
                    break
            assert found == Total(2, Decimal(2))
    finally:
        own.remove()


def test_who_stalls_with_the_lock_of_writers_loses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server ends his session, so that others write; of what he has begun there is nothing."""
    monkeypatch.setattr(postgres_rows, "STALLED_SECONDS", 1)
    url = fresh()
    one, other = open_rows(url, url), open_rows(url, url)
    written = "insert into _begun(name, fingerprint, generation, erased) values(?, '', 0, 0)"

    def stall() -> None:
        with one.transaction() as stalled:
            stalled.execute(written, ("stalled",))
            with other.transaction() as writer:
                writer.execute(written, ("other",))

    with pytest.raises(h.StoreFailed, match="idle-in-transaction"):
        stall()

    with other.reader() as reader:
        assert reader.execute("select name from _begun").fetchall() == [("other",)]
    one.close()
    other.close()


def test_sessions_that_the_server_ends_while_nobody_uses_them_are_not_noticed() -> None:
    """Who reads or writes next has another one, however short a time ago those that are gone were used."""
    url = fresh()
    rows = open_rows(url, url)
    ask = 'select count(*) from "_view"'
    with rows.reader() as one, rows.snapshot() as two:  # so many are kept
        assert one.execute(ask).fetchall() == two.execute(ask).fetchall()
    with rows.transaction() as writer:
        writer.execute(ask)
    with psycopg.connect(server().url, autocommit=True) as connection:
        ended = connection.execute(
            "select pg_terminate_backend(pid, 10000) from pg_stat_activity where application_name = %s",
            (f"happened:{where_in(url).schema}",),
        ).fetchall()

    with rows.reader() as one, rows.snapshot() as two:
        assert one.execute(ask).fetchall() == two.execute(ask).fetchall()
    with rows.transaction() as writer:
        writer.execute(ask)

    assert ended == [(True,)] * 3
    rows.close()


# --- what else is derived


def test_a_check_folds_views_in_postgresql_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A row that somebody changed is found, as in a file."""
    url = fresh()
    with bank.open(url) as running:
        last = running.record(Paid("a", Decimal(1)))
        running.view(Account).rows(since=last)
        running.view(Total).get(since=last)
    assert main(["check", f"{__name__}:bank", "--fold", "--log", url]) == 0
    with asked(url) as connection, look_at_rows(url) as look:
        assert look is not None
        [table] = [
            name
            for (name,) in connection.execute(
                "select tablename from pg_tables where tablename like '%Account%' and schemaname = current_schema()"
            )
        ]
        connection.execute(f'update "{table}" set balance = 7000000'.encode())
    capsys.readouterr()

    assert main(["check", f"{__name__}:bank", "--fold", "--log", url]) == 1
    assert "7000000" in capsys.readouterr().out.replace(",", "")


def test_a_check_of_a_log_whose_views_were_never_built_says_so_and_checks_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    """As of a log in a file: what was copied or imported has no views yet, and its decisions can be decided again."""
    url = fresh()
    with bank.open(url, run=False) as running:
        running.record(Paid("a", Decimal(1)))
    copied = fresh()
    h.copy_log(url, copied)
    capsys.readouterr()

    assert main(["check", f"{__name__}:bank", "--decide", "--fold", "--log", copied]) == 0
    said = capsys.readouterr().out
    assert "decided again up to position" in said
    assert "view Account: not compared: there are none yet: they are built when the app runs" in said


@pytest.mark.parametrize("what", HOSTILE)
def test_a_check_does_not_call_what_postgresql_can_not_hold_a_difference(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Folded anew it is held, since that is done in memory: it is counted, and the same key by another reason is still a difference."""
    url, key = fresh(), HOSTILE[what]
    with hosts.open(url) as running:
        recorded(
            running, [Paid("a", Decimal(1)), Paid(key, Decimal(1)), Met("a", "y"), Met(key, "z"), Met("a", "bb", "bad")], together=False
        )
    assert main(["check", f"{__name__}:hosts", "--fold", "--log", url]) == 0
    said = capsys.readouterr().out
    assert "view Account: 1 rows equal" in said
    assert "1 keys stand still, which this database can't hold: not compared" in said
    with asked(url) as connection:
        connection.execute("update _stuck set error = 'ValueError: of old code' where name = 'Account'")

    assert main(["check", f"{__name__}:hosts", "--fold", "--log", url]) == 1


def test_snapshots_lie_beside_the_log_and_are_used() -> None:
    """They are taken by cost, kept in tables, proven, and dropped without loss."""
    url = fresh()
    with bank.open(url) as running:
        running.record_all([Paid(f"n{index % 9}", Decimal(1)) for index in range(500)])
        running.snapshots.take(fold_of(Account), running.log.head)
        [kept] = running.snapshots.listed([fold_of(Account)])
        assert not kept.wrong
        assert running.at(running.log.head).state(Account, name="n1") == Account("n1", Decimal(56))
    with contextlib.closing(open_snapshots(url)) as there:
        [about] = there.listed()
        assert (about.name, about.states) == ("Account", 9)
        there.drop([about.id])
        assert there.listed() == []
    with bank.open(url) as running:
        assert running.state(Account, name="n1") == Account("n1", Decimal(56))


def test_an_erasure_takes_the_rows_out_and_they_are_folded_anew() -> None:
    """Of what was erased no row is left, in the views neither."""
    url = fresh()
    with bank.open(url) as running:
        running.record(Paid("a", Decimal(1), note="secret"))
        last = running.record(Paid("b", Decimal(2)))
        running.view(Account).rows(since=last)

    h.erase(url, ("name", "a"), actor="clerk", reason="asked for")

    with bank.open(url) as running:
        rows = running.view(Account).rows(since=running.log.head, wait_seconds_max=60)
        assert [row.name for row in rows] == ["b"]
    with asked(url) as connection:
        [table] = [
            name
            for (name,) in connection.execute(
                "select tablename from pg_tables where tablename like '%Account%' and schemaname = current_schema()"
            )
        ]
        assert connection.execute(f'select name from "{table}"'.encode()).fetchall() == [("b",)]


def test_a_rebuild_stands_beside_the_old_table_and_takes_its_place() -> None:
    """Who asks meanwhile is answered from the old one, and never hears that a table is gone."""
    url = fresh()
    with bank.open(url) as running:
        running.record_all([Paid(f"n{index % 50}", Decimal(1)) for index in range(3000)])
        last = running.log.head
        running.view(Account).rows(since=last)
        stop, failed = threading.Event(), list[BaseException]()

        def ask() -> None:
            while not stop.is_set():
                try:
                    assert len(running.view(Account).rows()) == 50
                    assert running.view(Account).sql("select count(*) from Account") == [(50,)]
                except BaseException as error:  # noqa: BLE001 - it is looked at below
                    failed.append(error)
                    return

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        for _ in range(4):
            running.rebuild(Account)
        stop.set()
        for thread in threads:
            thread.join(30)
        assert failed == []
        with contextlib.closing(open_rows(url, url)) as rows, rows.reader() as reader:
            deadline = time.monotonic() + 30
            while len(rows.tables(reader, "")) and reader.execute("select count(*) from _view where name = 'Account'").fetchone() != (1,):
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_views_of_a_role_whose_transactions_only_read_by_default_are_written() -> None:
    """Each transaction says itself what it is."""
    url = fresh()
    bank.open(url).close()
    theirs = as_role_with(url, "default_transaction_read_only = on")
    with bank.open(theirs) as running:
        receipt = running.record(Paid("a", Decimal(1)))
        assert running.view(Account).get("a", since=receipt) is not None
        running.snapshots.take(fold_of(Account), running.log.head)
        running.rebuild(Account)
        assert running.view(Account).get("a", since=receipt) is not None
