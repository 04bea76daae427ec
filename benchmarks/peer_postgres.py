"""The ledger on `eventsourcing` with PostgreSQL, at its best safe settings.

Its mode with functions in the database (`POSTGRES_ENABLE_DB_FUNCTIONS`) is faster, and lets a follower miss events: it is left off.
The cache is as on SQLite, and so are threads behind a lock.
"""

from collections.abc import Iterable
from decimal import Decimal
from itertools import islice
from typing import cast
from uuid import UUID

from eventsourcing.persistence import InfrastructureFactory, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.utils import Environment
from psycopg.sql import SQL

from benchmarks.ledger import Entry
from benchmarks.peer_eventsourcing import CACHE_MAX, Bank, Encoder
from tests.servers import Server

_FILL_PAGE = 1_000


def settings(server: Server, *, cache: bool) -> dict[str, str]:
    """Return the peer's settings for a server."""
    found = {
        "PERSISTENCE_MODULE": "eventsourcing.postgres",
        "POSTGRES_DBNAME": "postgres",
        "POSTGRES_HOST": str(server.folder),
        "POSTGRES_PORT": "5432",
        "POSTGRES_USER": "postgres",
        "POSTGRES_PASSWORD": "none",
        "POSTGRES_POOL_SIZE": "10",
        "POSTGRES_MAX_OVERFLOW": "10",
    }
    if cache:
        found |= {"AGGREGATE_CACHE_MAXSIZE": str(CACHE_MAX), "AGGREGATE_CACHE_FASTFORWARD": "n", "DEEPCOPY_FROM_AGGREGATE_CACHE": "n"}
    return found


def open_bank(server: Server, *, cache: bool) -> Bank:
    """Open the bank in the server's database."""
    return Bank(env=settings(server, cache=cache))


def fill(bank: Bank, entries: Iterable[Entry]) -> None:
    """Write entries by the peer's own store, many in a commit."""
    encoder = Encoder(bank)
    rows = map(encoder.stored, entries)
    while page := list(islice(rows, _FILL_PAGE)):
        bank.recorder.insert_events(page)


class BalanceView(PostgresTrackingRecorder):
    """A table of balances in exact cents, and how far it has come, in one transaction."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]  # what its factory gives it
        self.sql_create_statements.append(
            SQL("create table if not exists balance(account uuid primary key, cents bigint, events bigint)").format()
        )

    def add(self, account: UUID, amount: Decimal, tracking: Tracking) -> None:
        """Book one event and its position."""
        with self.datastore.get_connection() as connection, connection.transaction(), connection.cursor() as cursor:
            self._insert_tracking(cursor, tracking)
            cursor.execute(
                "insert into balance values (%s, %s, 1) on conflict(account) do update"
                " set cents = balance.cents + excluded.cents, events = balance.events + 1",
                (account, int(amount * 100)),
            )

    def total(self) -> Decimal:
        """Return what all accounts have together."""
        with self.datastore.get_connection() as connection, connection.cursor() as cursor:
            cursor.execute("select sum(cents) as cents from balance")
            [found] = cursor.fetchall()
            return Decimal(found["cents"]) / 100


def open_view(server: Server) -> BalanceView:
    """Open a view in the server's database."""
    factory = InfrastructureFactory.construct(Environment("balances", settings(server, cache=False)))
    return cast("BalanceView", factory.tracking_recorder(BalanceView))  # it makes what it is given
