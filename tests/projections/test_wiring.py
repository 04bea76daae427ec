"""What can be known to be wrong with a projection is said when it is listed, with what to write."""

import builtins
import sys
from collections.abc import Callable, Iterator
from typing import Any, cast  # Any: what a checker would not let pass

import pytest
import sqlalchemy as sql

import happened as h
from tests.projections.rig import Sold, app, sales

PLACE = "sqlite:///x.db"


def no_connection(event: Sold) -> None:
    """Write nowhere."""


def strange(event: Sold, connection: sql.Connection, world: h.World) -> None:
    """Ask for what a projection can't have."""


def no_event(connection: sql.Connection) -> None:
    """Hear nothing."""


async def awaits(event: Sold, connection: sql.Connection) -> None:
    """Be awaited by nobody."""


def yields(event: Sold, connection: sql.Connection) -> Iterator[None]:
    """Be iterated by nobody."""
    yield


@pytest.mark.parametrize(
    ("function", "into", "said"),
    [
        (no_connection, PLACE, "asks for no `sqlalchemy.Connection`"),
        (strange, PLACE, "parameter `world`"),
        (no_event, PLACE, "first parameter must be an event"),
        (awaits, PLACE, "awaits and yields nothing"),
        (yields, PLACE, "awaits and yields nothing"),
        (Sold, PLACE, "no function"),
        (sales, "nonsense", "a URL or a `sqlalchemy.Engine`"),
        (sales, 7, "a URL or a `sqlalchemy.Engine`"),
        (sales, "mysql://x/y", "PostgreSQL or SQLite"),
        (sales, "sqlite://", "in memory"),
    ],
)
def test_what_can_not_work_is_said_at_once(function: Callable[..., Any], into: Any, said: str) -> None:
    """Each with what is wrong."""
    with pytest.raises(h.Invalid, match=said):
        h.Projection(function, into=into)


def test_a_bare_function_is_told_what_to_write() -> None:
    """It says nothing of a database."""
    with pytest.raises(h.Invalid, match=r"write Projection\(sales, into="):
        h.App("x", records=[Sold], projections=cast("Any", [sales]))  # Any: a checker would not let it pass


def test_two_of_one_name_are_refused() -> None:
    """Their checkpoint would be one."""
    with pytest.raises(h.Invalid, match="list it once"):
        h.App("x", records=[Sold], projections=[h.Projection(sales, into=PLACE), h.Projection(sales, into="sqlite:///y.db")])


def test_a_position_to_begin_after_is_one() -> None:
    """Else it is said."""
    with pytest.raises(h.Invalid, match="`since` is a position"):
        h.Projection(sales, into=PLACE, since=-1)


def test_what_is_not_listed_is_not_waited_for() -> None:
    """It says which are."""
    with app(PLACE).open(run=False) as running, pytest.raises(h.Invalid, match="projections: sales"):
        running.projected(no_event)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLAlchemy is needed by who lists a projection only."""
    imported = builtins.__import__

    def missing(name: str, *others: Any) -> Any:  # Any: whatever is imported
        if name.startswith("sqlalchemy"):
            raise ModuleNotFoundError(name=name)
        return imported(name, *others)

    monkeypatch.delitem(sys.modules, "sqlalchemy")
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(h.Invalid, match=r"happened\[sql\]"):
        h.Projection(sales, into=PLACE)
