"""Stores from which a promise was taken, to see that its absence is found."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any  # Any: what a private method takes

from happened.core.store import Row
from happened.stores import postgres
from happened.stores.postgres import PostgresStore, Standing
from happened.stores.sqlite import SqliteStore

LOOK = """
select position, at, digest, row, filed, tagged, reading, pg_current_xact_id()::text, null, null from @head
union all (select position, at, digest, count, null, null, head, input, records, salts from @log where position > $1 and $2 > 0 order by position)
"""


def not_at_all() -> None:
    """Leave the stores as they are."""


def without_lock() -> None:
    """Have SQLite begin without the lock, and PostgreSQL read the head without locking it."""

    def begin(store: Any, _deadline: float) -> None:
        store._writer.execute("begin")

    SqliteStore._begin = begin  # type: ignore[method-assign, assignment]  # that is what is tried
    postgres.LOOK = LOOK


def without_catching_up() -> None:
    """Have what others have recorded not handed over: who decides knows where the log stands, and not what is in it."""
    unseen, begun = SqliteStore._unseen, PostgresStore._begun

    def nothing(store: SqliteStore, seen: int) -> Sequence[Row]:
        unseen(store, seen)
        return ()

    def nothing_begun(store: PostgresStore, seen: int, deadline: float) -> tuple[Standing, Sequence[Row]]:
        standing, _ = begun(store, seen, deadline)
        return standing, ()

    SqliteStore._unseen = nothing  # type: ignore[method-assign, assignment]  # that is what is tried
    PostgresStore._begun = nothing_begun  # type: ignore[method-assign, assignment]  # as above


HOW: Mapping[str, Callable[[], None]] = {"whole": not_at_all, "no-lock": without_lock, "no-catch-up": without_catching_up}
