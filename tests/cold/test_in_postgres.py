"""The cold part of a log in PostgreSQL: what is of that database alone."""

import threading
from contextlib import closing

from happened.core.store import Wanted
from happened.stores.postgres import PostgresStore
from happened.testing.rows import flat, read_by, terms_of
from tests.cold.rows import filled, nothing
from tests.servers import fresh


def test_threads_that_read_at_once_do_not_take_each_others_end_of_the_cold_part() -> None:
    """One of them has asked before rows were packed, and hears last: to the other, what is packed is not in the table."""

    class Told(PostgresStore):
        """Hears of another thread's answer just after its own."""

        _packed = property(lambda _: 0, lambda _, __: None)  # type: ignore[assignment]

    with closing(Told(fresh())) as store:
        store.index(read_by("today"), terms_of, nothing)
        rows = filled(store, 300)
        store.compact(rows[200].last, nothing)

        assert flat(store.read()) == rows
        assert [row.position for row in flat(store.read(wanted=[Wanted(("n=7",))]))] == [row.position for row in rows[7::50]]
