"""Projections: a user's own function from an event to rows of the user's own tables, read once.

SQLAlchemy is imported where a projection is listed, and nowhere else: who has none does not need it.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any  # Any: events of any class

from happened.core.annotations import label, parameters_of, union_of
from happened.core.errors import Invalid
from happened.core.messages import Event, Recorded, name_of
from happened.core.tags import is_a

if TYPE_CHECKING:
    from sqlalchemy import Engine

KIND = "projection"
DIALECTS = ("postgresql", "sqlite")


class Projection:
    """A table entry: a function that writes what an event means into tables of the user's own, and the database that they are in.

    The function takes an event (or one of several), the `sqlalchemy.Connection` of the transaction in which the checkpoint is written, and `Recorded` if
    it asks for it. It is called for each event once, in the order of the log. `into` is a URL, `postgresql://` or `sqlite:///`, or an `Engine`. `since` is
    the position to begin after; 0 is the start of the log.
    """

    kind = KIND

    def __init__(self, function: Callable[..., None], *, into: "str | Engine", since: int = 0) -> None:
        checked: object = function  # a checker has not seen every caller
        if not callable(checked) or isinstance(checked, type):
            raise Invalid(f"`projections` lists `{function!r}`, which is no function", entry=repr(function))
        if inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise Invalid(f"`{label(function)}` is no projection: it writes with its connection, and awaits and yields nothing")
        if type(since) is not int or since < 0:
            raise Invalid(f"`since` is a position, 0 or more, not {since!r}", function=label(function))
        self.function = function
        self.into = _place(function, into)
        self.since = since
        self.name, self.version = name_of(function)
        parameters = parameters_of(function)
        heard = union_of(function, parameters[0].annotation) if parameters else []
        for event in heard or [None]:
            if not is_a(event, Event):
                raise Invalid(f"`{label(function)}` is no projection: its first parameter must be an event", function=label(function))
        self.events: tuple[type[Event], ...] = tuple(heard)
        self.asks = _asked(function, [(one.name, one.annotation) for one in parameters[1:] if not one.default])
        """For each parameter after the event, whether it is the envelope; else it is the connection."""

    def __repr__(self) -> str:
        """Tell which function it is."""
        return f"<Projection {self.name}>"

    @property
    def lease(self) -> str:
        """What its lease is called."""
        return f"{KIND}/{self.name}"


def _asked(function: Callable[..., None], parameters: list[tuple[str, Any]]) -> tuple[bool, ...]:
    from sqlalchemy import Connection  # lazy: an extra, which is there, since `into` was looked at

    for name, annotation in parameters:
        if annotation not in (Connection, Recorded):
            raise Invalid(
                f"parameter `{name}` of `{label(function)}` can't be filled: a projection may ask for a `sqlalchemy.Connection` and for `Recorded`",
                parameter=name,
            )
    if Connection not in [annotation for _, annotation in parameters]:
        raise Invalid(
            f"`{label(function)}` asks for no `sqlalchemy.Connection`: it writes with that, in the transaction of the checkpoint",
            function=label(function),
        )
    return tuple(annotation is Recorded for _, annotation in parameters)


def _place(function: Callable[..., None], into: object) -> "str | Engine":
    """Check the database of a projection. Nothing is connected."""
    try:
        import sqlalchemy  # lazy: an extra, for those who list a projection
        from sqlalchemy.exc import ArgumentError  # lazy: see above
    except ModuleNotFoundError as error:
        raise Invalid("a projection needs SQLAlchemy: pip install 'happened[sql]'") from error
    place: str | Engine
    if isinstance(into, sqlalchemy.Engine):
        url, place = into.url, into
    else:
        try:
            url = sqlalchemy.make_url(into if isinstance(into, str | sqlalchemy.URL) else "")  # SQLAlchemy 2.0.0 gives anything else back
        except ArgumentError as error:
            raise Invalid(f"`into` of `{label(function)}` is a URL or a `sqlalchemy.Engine`: postgresql://..., sqlite:///path") from error
        if url.drivername == "postgresql":
            url = url.set(drivername="postgresql+psycopg")  # the driver that `happened[postgres]` brings
        place = url.render_as_string(hide_password=False)
    if url.get_backend_name() not in DIALECTS:
        raise Invalid(f"`{label(function)}` is to write into {url.get_backend_name()}: projections are in PostgreSQL or SQLite")
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise Invalid(f"`{label(function)}` is to write into a database in memory, which each connection has for itself: sqlite:///path")
    return place
