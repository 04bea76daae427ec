"""Asking a view: what is wrong with a question is said, plain SQL can only read, and both wait for what they need."""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any  # Any: wrong values on purpose

import pytest

import happened as h
from tests.servers import fresh

Sku = Annotated[str, h.Tag("sku")]


class Received(h.Event):
    sku: Sku
    units: int
    worth: Decimal = Decimal(0)
    since: str = ""


class Stock(h.State):
    sku: Sku
    units: int = 0
    worth: Annotated[Decimal, h.Places(2)] = Decimal(0)

    def evolve(self, event: Received) -> "Stock":
        if event.units < 0:
            raise ValueError("negative")
        return self.but(units=self.units + event.units, worth=self.worth + event.worth)


class Arrivals(h.State):
    since: str
    wait_seconds_max: int
    units: int = 0

    @staticmethod
    def key_of(event: Received) -> tuple[str, int]:
        return event.since, 1

    def evolve(self, event: Received) -> "Arrivals":
        return self.but(units=self.units + event.units)


store = h.App("store", records=[Received], views=[Stock, Arrivals])


@pytest.fixture(params=["file", "memory", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[h.Running]:
    """Yield the app with three rows, its views in a file, in memory, and in PostgreSQL."""
    url = fresh() if request.param == "postgres" else f"sqlite:///{tmp_path}/log.db"
    with store.open(url, views="memory:" if request.param == "memory" else None) as running:
        running.record(Received("a", 1, Decimal("1.5"), "x"))
        running.record(Received("b", 2, Decimal("2.25"), "y"))
        last = running.record(Received("c", 3))
        running.view(Stock).rows(since=last)
        running.view(Arrivals).rows(since=last)
        yield running


# --- SQL

WRITES = (
    "pragma query_only=off",
    "pragma journal_mode=delete",
    "begin immediate",
    "savepoint a",
    "commit",
    "attach ':memory:' as other",
    "detach main",
    "insert into _stuck values('', '', 0, '', 0, '')",
    "update _view set position = 0",
    "delete from _view",
    "drop view Stock",
    "create temp table t(a)",
    "create table t(a)",
    "replace into _view select * from _view",
    "vacuum",
    "reindex",
    "analyze",
    "select load_extension('x')",
    "with a as (select 1) delete from _view",
)


@pytest.mark.parametrize("query", WRITES)
def test_sql_can_do_nothing_but_read(running: h.Running, query: str) -> None:
    """Whatever is no query is refused, and leaves nothing behind: the view goes on."""
    view = running.view(Stock)

    with pytest.raises(h.Invalid, match="can't be answered"):
        view.sql(query)

    assert view.get("a", since=running.record(Received("a", 1))).units == 2
    assert view.sql("select units from Stock where sku = 'a'") == [(2,)]


def test_sql_answers_all_kinds_of_queries(running: h.Running, request: pytest.FixtureRequest) -> None:
    """Joins, windows, JSON, recursion, sorting, aggregates: reading is not narrowed."""
    view = running.view(Stock)

    assert view.sql("select sku, worth from Stock order by units desc limit ?", (2,)) == [("c", "0"), ("b", "2.25")]
    assert view.sql(f'select sum(worth) from "{view.table}"') == [(375,)]
    assert view.sql("select s.sku, a.units from Stock s join Arrivals a on a.since = 'y' where s.sku = 'b'") == [("b", 2)]
    ours, theirs = ("json_each('[1, 2]')", "group_concat(sku)"), ("json_array_elements('[1, 2]')", "string_agg(sku, ',')")
    each, listed = theirs if "postgres" in request.node.callspec.id else ours
    assert view.sql(f"select value from {each}") == [(1,), (2,)]
    assert view.sql("with recursive n(x) as (select 1 union all select x + 1 from n where x < 3) select max(x) from n") == [(3,)]
    assert view.sql("select sku, sum(units) over (order by sku) from Stock")[-1] == ("c", 6)
    assert view.sql(f"select count(*), {listed} from Stock") == [(3, "a,b,c")]


@pytest.mark.parametrize(
    ("query", "params"),
    [
        ("select ?", (2**70,)),
        ("select ?", ("\ud800",)),
        ("select ?", (object(),)),
        ("select ?", 5),
        ("select ?", ()),
        ("select \0", ()),
        ("select '\ud800'", ()),
        ("select 1; select 2", ()),
        ("select nothing from Stock", ()),
        ("nonsense", ()),
        (5, ()),
    ],
    ids=map(str, range(11)),
)
def test_a_query_or_value_that_sqlite_does_not_take_is_invalid(running: h.Running, query: Any, params: Any) -> None:
    """The error says what is wrong; no error of Python or SQLite comes through."""
    with pytest.raises(h.Invalid, match="can't be answered"):
        running.view(Stock).sql(query, params)


def test_sql_waits_for_the_view_as_rows_does(tmp_path: Path) -> None:
    """Asked right after a fresh open there is no table yet: it waits. With `since=` it is as new as that, else `Late`."""
    url = f"sqlite:///{tmp_path}/log.db"
    with store.open(url, run=False) as running:
        running.record_all([Received(f"a{number}", 1) for number in range(5_000)])
    with store.open(url, run=False) as reader, pytest.raises(h.Late, match="nobody follows it"):
        reader.view(Stock).sql("select count(*) from Stock", wait_seconds_max=0.05)
    with store.open(url) as running:
        assert running.view(Stock).sql("select count(*) from Stock") == [(5_000,)]
        for number in range(20):
            last = running.record(Received(f"b{number}", 1))
            assert running.view(Stock).sql("select count(*) from Stock", since=last) == [(5_001 + number,)]
        with pytest.raises(h.Late):
            running.view(Stock).sql("select 1", since=running.log.head + 1, wait_seconds_max=0.05)


def test_sql_with_since_says_what_stands_still(running: h.Running) -> None:
    """As `rows(since=...)`: an answer that is as new as was asked for can't be given from rows that stand still."""
    last = running.record(Received("a", -1))
    running.view(Stock).rows(limit=0)

    with pytest.raises(h.Stuck, match="negative"):
        running.view(Stock).sql("select 1", since=last)

    assert running.view(Stock).sql("select count(*) from Stock") == [(3,)]


def test_sql_leaves_nothing_open(running: h.Running) -> None:
    """A hundred queries and refusals later the file can be written, and no transaction is open."""
    for _ in range(100):
        running.view(Stock).sql("select * from Stock")
        with pytest.raises(h.Invalid):
            running.view(Stock).sql("begin")

    running.rebuild(Stock)

    assert running.view(Stock).get("a", since=running.record(Received("a", 1))).units == 2


def test_sql_is_not_disturbed_by_a_rebuild(running: h.Running) -> None:
    """Readers loop while the view is rebuilt: always all rows, by the view's name."""
    stop = threading.Event()
    answers: set[str] = set()

    def look() -> None:
        while not stop.is_set():
            try:
                answers.add(str(running.view(Stock).sql("select count(*) from Stock")))
            except Exception as error:  # noqa: BLE001 - whatever it is, a reader must not see it
                answers.add(repr(error))

    threads = [threading.Thread(target=look) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        running.rebuild(Stock)
    stop.set()
    for thread in threads:
        thread.join()

    assert answers == {"[(3,)]"}


# --- keys and limits


@pytest.mark.parametrize("limit", [2**70, 2**63, -1, 1.5, "5", None, True])
def test_a_limit_that_is_no_number_of_rows_is_invalid(running: h.Running, limit: Any) -> None:
    """The error says what a limit is."""
    with pytest.raises(h.Invalid, match="`limit` is a number of rows"):
        running.view(Stock).rows(limit=limit)


ASKS: dict[str, Callable[[h.View[Stock]], object]] = {
    "get": lambda view: view.get("\ud800"),
    "find": lambda view: view.find("\ud800"),
    "equal": lambda view: view.where(sku="\ud800"),
    "argument": lambda view: view.where("sku = ?", "\ud800"),
    "condition": lambda view: view.where("sku = '\ud800'"),
}


@pytest.mark.parametrize("how", ASKS)
def test_text_that_is_no_unicode_is_invalid(running: h.Running, how: str) -> None:
    """Half a surrogate pair can't be in any row."""
    with pytest.raises(h.Invalid, match="no valid text"):
        ASKS[how](running.view(Stock))


@pytest.mark.parametrize("key", [5, None, b"a", ["a"], object()], ids=map(str, range(5)))
def test_a_key_of_another_type_is_invalid_at_once_and_says_the_type_wanted(running: h.Running, key: Any) -> None:
    """It is not waited for first: the view need not even be there."""
    with pytest.raises(h.Invalid, match="`sku` of `Stock` is str, not"):
        running.view(Stock).get(key, since=running.log.head + 100)


def test_a_key_field_called_as_a_parameter_is_given_by_position(running: h.Running) -> None:
    """`since` and `wait_seconds_max` say how to ask; given by name they never are the key, and the error says so."""
    view = running.view(Arrivals)

    assert view.get("x", 1).units == 1
    with pytest.raises(h.Invalid, match="'since' and 'wait_seconds_max' can't be given by name"):
        view.get(since="x", wait_seconds_max=1)


# --- the file


def test_a_folder_that_is_missing_is_invalid(tmp_path: Path) -> None:
    """The error names the path."""
    with pytest.raises(h.Invalid, match=r"missing/views\.db can't be opened as a file of views"):
        store.open(f"sqlite:///{tmp_path}/log.db", views=f"sqlite:///{tmp_path}/missing/views.db")


def test_a_place_that_can_not_be_written_is_invalid(tmp_path: Path) -> None:
    """Here a folder stands in the file's place."""
    (tmp_path / "views.db").mkdir()

    with pytest.raises(h.Invalid, match="can't be opened as a file of views"):
        store.open(f"sqlite:///{tmp_path}/log.db", views=f"sqlite:///{tmp_path}/views.db")


@pytest.mark.parametrize("url", ["sqlite:///", "sqlite:///:memory:", "mysql://views", "views.db"])
def test_a_url_that_names_no_file_is_invalid(tmp_path: Path, url: str) -> None:
    """The error says what to write."""
    with pytest.raises(h.Invalid, match="write memory: or sqlite:///path"):
        store.open(f"sqlite:///{tmp_path}/log.db", views=url)


@pytest.mark.parametrize("damage", ["all", "header", "tables"])
def test_a_damaged_file_is_broken_and_is_rebuilt_once_deleted(tmp_path: Path, damage: str) -> None:
    """The error says that it may be deleted, and then everything is there again."""
    url, file = f"sqlite:///{tmp_path}/log.db", tmp_path / "log.views.db"
    with store.open(url) as running:
        last = running.record_all([Received(f"a{number}", 1) for number in range(1_000)])
        running.view(Stock).rows(since=last)
    content = bytearray(file.read_bytes())
    first, end = {"all": (0, len(content)), "header": (0, 100), "tables": (100, len(content))}[damage]
    content[first:end] = bytes([7]) * (end - first)
    file.write_bytes(content)

    with pytest.raises(h.Broken, match="delete it: it is rebuilt"):
        store.open(url)

    file.unlink()
    with store.open(url) as running:
        assert len(running.view(Stock).rows(since=last)) == 1_000


def test_a_file_of_something_else_is_invalid_and_left_alone(tmp_path: Path) -> None:
    """A database of somebody else, and the log of another app: no table is made in them."""
    other = tmp_path / "other.db"
    with closing(sqlite3.connect(other)) as stranger:
        stranger.execute("create table customer(a)")
    with store.open(f"sqlite:///{tmp_path}/second.db", views="memory:") as running:
        running.record(Received("a", 1))

    for path, table in ((other, "customer"), (tmp_path / "second.db", "log")):
        with pytest.raises(h.Invalid, match=f"holds something else than views .*{table}"):
            store.open(f"sqlite:///{tmp_path}/log.db", views=f"sqlite:///{path}")
        with closing(sqlite3.connect(path)) as stranger:
            assert stranger.execute("select name from sqlite_master where name = '_view'").fetchall() == []


def test_a_views_file_of_another_release_is_invalid(tmp_path: Path) -> None:
    """The error says that it may be deleted."""
    with closing(sqlite3.connect(tmp_path / "log.views.db")) as older:
        older.execute("create table _view(name, position)")

    with pytest.raises(h.Invalid, match=r"another release of `happened`\. Delete it"):
        store.open(f"sqlite:///{tmp_path}/log.db")


def test_views_may_lie_in_the_log_s_own_file(tmp_path: Path) -> None:
    """One file for all: views follow, answer, are rebuilt, and the log verifies; the second open finds them."""
    url = f"sqlite:///{tmp_path}/log.db"
    for opened in range(1, 3):
        with store.open(url, views=url) as running:
            last = [running.record(Received("a", 1, Decimal(number))) for number in range(50)][-1]
            assert running.view(Stock).get("a", since=last).units == 50 * opened
            running.rebuild(Stock)
            assert running.view(Stock).sql("select units from Stock", since=last) == [(50 * opened,)]
            running.log.verify()
    assert not (tmp_path / "log.views.db").exists()


def test_a_file_that_is_damaged_while_it_is_open_is_told(tmp_path: Path) -> None:
    """Somebody overwrites the open file: who asks hears that it is broken, or what keeps the follower, and no error of SQLite."""
    url, file = f"sqlite:///{tmp_path}/log.db", tmp_path / "log.views.db"
    with store.open(url) as running:
        running.view(Stock).rows(since=running.record_all([Received(f"a{number}", 1) for number in range(1_000)]))
        with closing(sqlite3.connect(file)) as stranger:
            stranger.execute("pragma wal_checkpoint(truncate)")
        file.write_bytes(bytes([7]) * file.stat().st_size)
        last = running.record(Received("a1", 1))

        with pytest.raises((h.Broken, h.StoreFailed, h.Late, h.Stuck)):
            running.view(Stock).get("a1", since=last, wait_seconds_max=0.5)
