"""Names that views can't have where they lie: it is said at once, and nothing of what has the name is touched."""

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any  # Any: states of several classes

import pytest

import happened as h
from tests.servers import fresh

Name = Annotated[str, h.Tag("name")]


class Met(h.Event):
    name: Name


def counting(name: str, version: int = 1) -> type[Any]:
    """Return a view of this name."""

    @h.named(name, version=version)
    class Count(h.State):
        name: Name
        count: int = 0

        def evolve(self, event: Met) -> "Count":
            return self.but(count=self.count + 1)

    return Count


def greeting(name: str, of: type[Any]) -> type[Any]:
    """Return a view of this name that asks for another state."""

    @h.named(name)
    class Greeted(h.State):
        name: Name
        count: int = 0

        def evolve(self, event: Met, other: of) -> "Greeted":  # type: ignore[valid-type]  # it is read when the test runs
            return self.but(count=other.count)  # type: ignore[attr-defined]  # it has a count

    return Greeted


@pytest.mark.parametrize("views", [("Count", "count"), ("Count", "COUNT")])
def test_views_whose_names_differ_in_case_alone_are_refused(views: tuple[str, str]) -> None:
    """In SQL they are one."""
    with pytest.raises(h.Invalid, match="are one name in SQL"):
        h.App("talk", records=[Met], views=[counting(name) for name in views]).open("memory:")


def test_two_versions_of_a_view_in_one_app_are_refused() -> None:
    """They would stand under one name."""
    with pytest.raises(h.Invalid, match="are one name in SQL"):
        h.App("talk", records=[Met], views=[counting("Count"), counting("Count", 2)]).open("memory:")


@pytest.mark.parametrize("joined", ["Count", "count"])
def test_a_view_that_asks_for_a_state_of_its_own_name_is_refused(joined: str) -> None:
    """Both would be kept in one table."""
    with pytest.raises(h.Invalid, match="since they are one name in SQL"):
        h.App("talk", records=[Met], views=[greeting("Count", counting(joined))]).open("memory:")


@pytest.mark.parametrize("name", ["_view", "_View", "_stuck", "_shown", "_begun"])
def test_a_view_called_as_a_table_beside_views_is_refused(name: str) -> None:
    """Wherever they lie."""
    with pytest.raises(h.Invalid, match="can't be a view"):
        h.App("talk", records=[Met], views=[counting(name)]).open("memory:")


@pytest.mark.parametrize("name", ["Log", "Note", "Segment", "Record", "record"])
def test_a_view_called_as_something_of_the_log_lies_beside_it_and_not_in_its_file(tmp_path: Path, name: str) -> None:
    """The log's own view for people stays, and the log opens again."""
    url = f"sqlite:///{tmp_path}/log.db"
    view = counting(name)
    app = h.App("talk", records=[Met], views=[view])
    with pytest.raises(h.Invalid, match=r"can't lie where its log does.*open\(views=\.\.\.\)"):
        app.open(url, views=url)
    for count in (1, 2):
        with app.open(url) as running:
            assert running.view(view).get("a", since=running.record(Met("a"))).count == count
            assert running.view(view).sql(f'select count from "{name}"') == [(count,)]
    with closing(sqlite3.connect(tmp_path / "log.db")) as stranger:
        assert stranger.execute("select count(*) from record where name = 'Met'").fetchone() == (2,)


def test_in_postgresql_only_the_very_name_of_a_table_of_the_log_is_taken() -> None:
    """There names differ in case."""
    log, note = counting("log"), counting("Note")
    with pytest.raises(h.Invalid, match="can't lie where its log does"):
        h.App("talk", records=[Met], views=[log]).open(fresh())
    with h.App("talk", records=[Met], views=[log]).open(fresh(), views=fresh()) as running:
        assert running.view(log).get("a", since=running.record(Met("a"))).count == 1
    with h.App("talk", records=[Met], views=[note]).open(fresh()) as running:
        assert running.view(note).get("a", since=running.record(Met("a"))).count == 1
        assert running.view(note).sql('select count from "Note"') == [(1,)]
