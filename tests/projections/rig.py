"""A projection into tables in which everything that is written twice, or not at all, is seen; and a process that runs it."""

import subprocess
import sys
import uuid
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Annotated

import psycopg
import sqlalchemy as sql

import happened as h
from tests.servers import server

ROOT = Path(__file__).parents[2]
OrderNo = Annotated[str, h.Tag("order")]
TABLES = sql.MetaData()
LINE = sql.Table("line", TABLES, sql.Column("id", sql.Text), sql.Column("shop", sql.Text), sql.Column("amount", sql.Numeric(12, 2)))
"""A row for each event: no key hinders two of one."""
TOTAL = sql.Table("total", TABLES, sql.Column("shop", sql.Text, primary_key=True), sql.Column("amount", sql.Numeric(12, 2)))


class Sold(h.Event):
    order: OrderNo
    shop: str
    amount: Decimal


class Returned(h.Event):
    order: OrderNo
    shop: str
    amount: Decimal


class Greeted(h.Event):
    who: str


class Ways:
    """What a test has the function do."""

    def __init__(self) -> None:
        self.before: Callable[[Sold | Returned, sql.Connection], object] = lambda _event, _connection: None
        self.runs = 0


ways = Ways()


def sales(event: Sold | Returned, connection: sql.Connection, record: h.Recorded) -> None:
    """Add a line, and to the shop's total."""
    ways.runs += 1
    ways.before(event, connection)
    amount = event.amount if isinstance(event, Sold) else -event.amount
    connection.execute(LINE.insert().values(id=record.id, shop=event.shop, amount=amount))
    if connection.execute(TOTAL.update().where(TOTAL.c.shop == event.shop).values(amount=TOTAL.c.amount + amount)).rowcount == 0:
        connection.execute(TOTAL.insert().values(shop=event.shop, amount=amount))


def app(into: str | sql.Engine, *, since: int = 0) -> h.App:
    """Return an app with the projection."""
    return h.App("sold", records=[Sold, Returned, Greeted], projections=[h.Projection(sales, into=into, since=since)])


def database(kind: str, folder: Path) -> str:
    """Return the URL of a new database without tables."""
    if kind == "sqlite":
        return f"sqlite:///{folder}/tables.db"
    name = f"p{uuid.uuid4().hex[:12]}"
    with psycopg.connect(server().url, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    return f"postgresql://postgres@/{name}?host={server().folder}"


def engine_of(url: str) -> sql.Engine:
    """Return an engine of a test's own."""
    return sql.create_engine(url.replace("postgresql:", "postgresql+psycopg:"), poolclass=sql.NullPool)


def tables(url: str) -> str:
    """Make the tables."""
    TABLES.create_all(engine_of(url))
    return url


def lines(url: str) -> list[tuple[str, str, Decimal]]:
    """Return the lines, in the order of their ids."""
    with engine_of(url).connect() as connection:
        return sorted((id, shop, Decimal(amount)) for id, shop, amount in connection.execute(sql.select(LINE)))  # noqa: A001 - as everywhere


def totals(url: str) -> dict[str, Decimal]:
    """Return each shop's total."""
    with engine_of(url).connect() as connection:
        return {shop: Decimal(amount) for shop, amount in connection.execute(sql.select(TOTAL))}


def same_as_log(running: h.Running, url: str) -> None:
    """See that the tables hold each event of the log once."""
    records = [record for record in running.log.read() if isinstance(record.body, Sold | Returned)]
    amounts = [one.body.amount if isinstance(one.body, Sold) else -one.body.amount for one in records]
    assert lines(url) == sorted((one.id, one.body.shop, amount) for one, amount in zip(records, amounts, strict=True))
    wanted: dict[str, Decimal] = {}
    for one, amount in zip(records, amounts, strict=True):
        wanted[one.body.shop] = wanted.get(one.body.shop, Decimal(0)) + amount
    assert totals(url) == wanted


def child(log: str, into: str, *, stops: str = "") -> "subprocess.Popen[str]":
    """Start a process that runs the projection, and wait until it has the log open."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.projections.child", log, into, stops],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process
