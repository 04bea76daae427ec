"""Users' tables are migrated by their own Alembic, also while the app runs."""

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest
import sqlalchemy as sql
from alembic import command
from alembic.config import Config

import happened as h
from tests.projections.rig import Returned, Sold, app, database, engine_of, sales, ways

ENV = """
from alembic import context
from sqlalchemy import Column, MetaData, NullPool, Numeric, Table, Text, create_engine

tables = MetaData()
Table("line", tables, Column("id", Text), Column("shop", Text), Column("amount", Numeric(12, 2)), {more})
Table("total", tables, Column("shop", Text, primary_key=True), Column("amount", Numeric(12, 2)))


def ours(name, kind, parents):
    return not (kind == "table" and name == "happened_checkpoint")


with create_engine(context.config.get_main_option("sqlalchemy.url"), poolclass=NullPool).connect() as connection:
    context.configure(connection=connection, target_metadata=tables, include_name=ours)
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
"""
SCRIPT = """
from alembic import op
import sqlalchemy as sa

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade():
    ${upgrades if upgrades else "pass"}


def downgrade():
    ${downgrades if downgrades else "pass"}
"""


class Migrations:
    """A user's folder of migrations."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder = folder
        (folder / "versions").mkdir(parents=True)
        (folder / "script.py.mako").write_text(SCRIPT)
        self._config = Config()
        self._config.set_main_option("script_location", str(folder))
        self._config.set_main_option("path_separator", "os")
        self._config.set_main_option("sqlalchemy.url", url.replace("postgresql:", "postgresql+psycopg:"))

    def to(self, *more: str) -> None:
        """Have tables with these columns more: made by `revision --autogenerate`, and done."""
        (self._folder / "env.py").write_text(ENV.replace("{more}", ", ".join(f'Column("{name}", Text)' for name in more)))
        command.revision(self._config, autogenerate=True)
        command.upgrade(self._config, "head")

    def back(self) -> None:
        """Undo the last."""
        command.downgrade(self._config, "-1")

    def check(self) -> None:
        """See that nothing is left to be migrated."""
        command.check(self._config)


def projected(running: h.Running, since: h.Receipt) -> None:
    """Wait, also while it stands still."""
    while True:
        try:
            running.projected(sales, since=since, wait_seconds_max=30)
        except h.Stuck:
            continue
        return


def with_note(event: Sold | Returned, connection: sql.Connection) -> None:
    """Write a column that a later migration brings."""
    connection.execute(
        sql.text("insert into line(id, shop, amount, note) values('noted', :shop, 0, :note)"), {"shop": event.shop, "note": "new"}
    )


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_column_is_added_by_a_migration_while_the_app_runs(tmp_path: Path, kind: str) -> None:
    """New code waits for its column, and goes on once it is migrated; the checkpoint's table is nothing to Alembic."""
    into = database(kind, tmp_path)
    migrations = Migrations(tmp_path / "migrations", into)
    migrations.to()
    before: Callable[[Sold | Returned, sql.Connection], object] = ways.before
    with app(into).open(f"sqlite:///{tmp_path}/log.db") as running:
        projected(running, running.record(Sold("o-1", "a", Decimal(1))))
        ways.before = with_note
        receipt = running.record(Sold("o-2", "a", Decimal(2)))
        with pytest.raises(h.Stuck, match="note"):
            running.projected(sales, since=receipt)
        migrations.to("note")
        projected(running, receipt)
        migrations.check()
        with engine_of(into).connect() as connection:
            notes = connection.execute(sql.text("select note from line order by amount")).scalars().all()
            assert notes == ["new", None, None]
        ways.before = before
        migrations.back()
        projected(running, running.record(Sold("o-3", "a", Decimal(4))))
        with engine_of(into).connect() as connection:
            assert connection.execute(sql.text("select amount from total")).scalar_one() == 7
            assert connection.execute(sql.text("select count(*) from happened_checkpoint")).scalar_one() == 1
