"""The tables of a log in PostgreSQL, and what connects to them. All of one log lie in one schema, so a database may hold several.

`log` has one row for each command, but for the oldest, which may be packed in `segment`; `note` is small; `tag`, `used`, `block`, `counted`, `shelf` and `sample` are the shelf: what is in them can be made anew.
`head` has a single row, which says where the log stands. Whoever writes locks it first: that is what makes positions dense and in the order of commits.
Each step of `MIGRATIONS` has a number, and is taken once.
"""

import os
import re
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple  # Any: rows of the columns that were asked for
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import conninfo
from psycopg.types.array import ListBinaryDumper

from happened.core.errors import Invalid, StoreFailed
from happened.core.tags import is_unicode
from happened.stores.postgres_wire import REFUSED_FOR_EVER, may_pass

Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA = "happened"
"""Where a log is whose URL names no schema."""
CONNECT_SECONDS_MAX = 10
SILENT = {"keepalives_idle": "10", "keepalives_interval": "5", "keepalives_count": "4", "tcp_user_timeout": "30000"}
"""After half a minute without an answer of the other machine a line is lost. The system itself may wait for a quarter of an hour, or for two hours."""
PORT_MAX = 65_535
ENDING_SECONDS_MAX = 1.0
"""How long a session that was closed may be seen still."""
TABLES = ("log", "segment", "note", "head", "tag", "used", "block", "counted", "shelf", "sample")
"""The tables of a log."""
INDEX = ("tag", "used", "block", "counted", "shelf")
"""Those that hold what is found and counted by, and how that was read: all of it can be made anew from the rows."""
POSTGRES_MIN = 140000
"""The oldest release that is supported: 14."""

_WRITE_VALUES = """
    positions bigint[], counts int[], ats bigint[], heads text[], inputs text[], all_records text[], all_salts bytea[], digests bytea[],
    filed_up_to bigint, tagged_up_to bigint, making text,
    tag_hash bigint[], tag_position bigint[], used_hash bigint[], used_position bigint[], block_name int[], block_block bigint[],
    counted_block bigint[], counted_what text[], counted_number text[], note_keys text[], note_bodies text[], notes_gone text[],
    listeners bigint"""
_WRITTEN = """
    if n > 0 then
        if n = 1 then
            insert into @log(position, count, at, head, input, records, salts, digest)
                values(positions[1], counts[1], ats[1], heads[1], inputs[1], all_records[1], all_salts[1], digests[1]);
        else
            insert into @log(position, count, at, head, input, records, salts, digest)
                select * from unnest(positions, counts, ats, heads, inputs, all_records, all_salts, digests);
        end if;
        update @head set position = positions[n] + counts[n] - 1, at = ats[n], digest = digests[n], row = positions[n],
            filed = filed_up_to, tagged = tagged_up_to, reading = making;
        if cardinality(tag_hash) = 1 then
            insert into @tag(hash, position) values(tag_hash[1], tag_position[1]);
        elsif cardinality(tag_hash) > 1 then
            insert into @tag(hash, position) select * from unnest(tag_hash, tag_position);
        end if;
        if cardinality(used_hash) = 1 then
            insert into @used(hash, position) values(used_hash[1], used_position[1]);
        elsif cardinality(used_hash) > 1 then
            insert into @used(hash, position) select * from unnest(used_hash, used_position);
        end if;
        if cardinality(block_name) > 0 then
            insert into @block(name, block) select * from unnest(block_name, block_block) on conflict do nothing;
        end if;
        if cardinality(counted_block) = 1 then
            insert into @counted as before(block, what, number) values(counted_block[1], counted_what[1], counted_number[1]::numeric)
                on conflict (block, what) do update set number = before.number + excluded.number;
        elsif cardinality(counted_block) > 1 then
            insert into @counted as before(block, what, number)
                select * from unnest(counted_block, counted_what, counted_number::numeric[])
                on conflict (block, what) do update set number = before.number + excluded.number;
        end if;
    end if;
    if cardinality(note_keys) > 0 then
        perform @note_down(note_keys, note_bodies);
    end if;
    if cardinality(notes_gone) > 0 then
        delete from @note where key = any(notes_gone);
    end if;
    return not pg_try_advisory_xact_lock(listeners);"""
"""What both functions of a commit do. One call of another function, or of `unnest` for a single row, takes as long as to insert that.

Tags and ids of new positions can't be there yet: to look for them again as they are inserted takes half as long once more.
"""

MIGRATIONS = (
    (
        """create table @log(
            position bigint primary key,
            count    integer not null,
            at       bigint not null,
            head     text not null,
            input    text,
            records  text not null,
            salts    bytea not null,
            digest   bytea not null)""",
        'create table @note(key text collate "C" primary key, body text not null)',
        """create table @head(
            one      boolean primary key default true check (one),
            position bigint not null,
            at       bigint not null,
            digest   bytea not null,
            row      bigint not null,
            filed    bigint not null,
            tagged   bigint not null,
            reading  text not null) with (fillfactor = 20)""",
        "insert into @head(position, at, digest, row, filed, tagged, reading) values(0, 0, decode(repeat('00', 32), 'hex'), 0, 0, 0, '')",
        "create table @tag(hash bigint, position bigint, primary key(hash, position))",
        "create table @used(hash bigint, position bigint, primary key(hash, position))",
        "create table @block(name integer, block bigint, primary key(name, block))",
        'create table @counted(block bigint, what text collate "C", number numeric not null, primary key(block, what))',
        "create table @shelf(key text primary key, body text not null)",
        """create table @sample(
            handler text, outcome text, count bigint not null, ran bigint not null, what text not null, primary key(handler, outcome))""",
        """create function @file(
            tag_hash bigint[], tag_position bigint[], used_hash bigint[], used_position bigint[], block_name int[], block_block bigint[],
            counted_block bigint[], counted_what text[], counted_number text[])
        returns void language plpgsql as $$
        begin
            if cardinality(tag_hash) > 0 then
                insert into @tag(hash, position) select * from unnest(tag_hash, tag_position) on conflict do nothing;
            end if;
            if cardinality(used_hash) > 0 then
                insert into @used(hash, position) select * from unnest(used_hash, used_position) on conflict do nothing;
            end if;
            if cardinality(block_name) > 0 then
                insert into @block(name, block) select * from unnest(block_name, block_block) on conflict do nothing;
            end if;
            if cardinality(counted_block) > 0 then
                insert into @counted as before(block, what, number)
                    select * from unnest(counted_block, counted_what, counted_number::numeric[])
                    on conflict (block, what) do update set number = before.number + excluded.number;
            end if;
        end $$""",
        """create function @add(
            positions bigint[], counts int[], ats bigint[], heads text[], inputs text[], all_records text[], all_salts bytea[], digests bytea[],
            filed_up_to bigint, tagged_up_to bigint, making text)
        returns void language plpgsql as $$
        declare n int := cardinality(positions);
        begin
            insert into @log(position, count, at, head, input, records, salts, digest)
                select * from unnest(positions, counts, ats, heads, inputs, all_records, all_salts, digests);
            update @head set position = positions[n] + counts[n] - 1, at = ats[n], digest = digests[n], row = positions[n],
                filed = filed_up_to, tagged = tagged_up_to, reading = making;
        end $$""",
        """create function @note_down(keys text[], bodies text[]) returns void language plpgsql as $$
        begin
            insert into @note as before(key, body) select * from unnest(keys, bodies) on conflict (key) do update set body = excluded.body;
        end $$""",
    ),
    (
        # First what `head` says, then the rows after a position, under the same names.
        """create function @look(seen bigint, wait_ms int)
        returns table(place bigint, moment bigint, link bytea, number bigint, up_to bigint, tags_up_to bigint, one text, two text, three text, salt bytea)
        language plpgsql as $$
        declare last bigint;
        begin
            perform set_config('lock_timeout', wait_ms::text, true);
            return query select position, at, digest, row, filed, tagged, reading, pg_current_xact_id()::text, null::text, null::bytea
                from @head for update;
            select position into last from @head;
            if last > seen then
                return query select position, at, digest, count::bigint, null::bigint, null::bigint, head, input, records, salts
                    from @log where position > seen and position <= last order by position;
            end if;
        end $$""",
        # Says whether somebody listens: he holds a lock by this number.
        """create function @write(
            positions bigint[], counts int[], ats bigint[], heads text[], inputs text[], all_records text[], all_salts bytea[], digests bytea[],
            filed_up_to bigint, tagged_up_to bigint, making text,
            tag_hash bigint[], tag_position bigint[], used_hash bigint[], used_position bigint[], block_name int[], block_block bigint[],
            counted_block bigint[], counted_what text[], counted_number text[], note_keys text[], note_bodies text[], notes_gone text[],
            listeners bigint)
        returns boolean language plpgsql as $$
        begin
            if cardinality(positions) > 0 then
                perform @add(
                    positions, counts, ats, heads, inputs, all_records, all_salts, digests, filed_up_to, tagged_up_to, making);
                perform @file(
                    tag_hash, tag_position, used_hash, used_position, block_name, block_block, counted_block, counted_what, counted_number);
            end if;
            if cardinality(note_keys) > 0 then
                perform @note_down(note_keys, note_bodies);
            end if;
            if cardinality(notes_gone) > 0 then
                delete from @note where key = any(notes_gone);
            end if;
            return not pg_try_advisory_xact_lock(listeners);
        end $$""",
        # Writes nothing, and says nothing, where the log does not stand where it did; raises where the lock is taken.
        """create function @write_ahead(
            at_position bigint, at_digest bytea, at_making text,
            positions bigint[], counts int[], ats bigint[], heads text[], inputs text[], all_records text[], all_salts bytea[], digests bytea[],
            filed_up_to bigint, tagged_up_to bigint, making text,
            tag_hash bigint[], tag_position bigint[], used_hash bigint[], used_position bigint[], block_name int[], block_block bigint[],
            counted_block bigint[], counted_what text[], counted_number text[], note_keys text[], note_bodies text[], notes_gone text[],
            listeners bigint)
        returns boolean language plpgsql as $$
        begin
            perform 1 from @head where position = at_position and digest = at_digest and reading = at_making for update nowait;
            if not found then
                return null;
            end if;
            return @write(
                positions, counts, ats, heads, inputs, all_records, all_salts, digests, filed_up_to, tagged_up_to, making, tag_hash, tag_position,
                used_hash, used_position, block_name, block_block, counted_block, counted_what, counted_number, note_keys, note_bodies, notes_gone,
                listeners);
        end $$""",
    ),
    (
        # The oldest rows, packed: what is deflated already need not be compressed once more.
        """create table @segment(
            first   bigint primary key,
            last    bigint not null,
            rows    integer not null,
            checked bigint not null,
            body    bytea not null)""",
        "alter table @segment alter column body set storage external",
    ),
    (
        f"""create or replace function @write({_WRITE_VALUES})
        returns boolean language plpgsql as $$
        declare n int := cardinality(positions);
        begin{_WRITTEN}
        end $$""",
        f"""create or replace function @write_ahead(at_position bigint, at_digest bytea, at_making text,{_WRITE_VALUES})
        returns boolean language plpgsql as $$
        declare n int := cardinality(positions);
        begin
            perform 1 from @head where position = at_position and digest = at_digest and reading = at_making for update nowait;
            if not found then
                return null;
            end if;{_WRITTEN}
        end $$""",
        "drop function if exists @add",
    ),
)
"""Statements by the number of their step, from 1. `@` stands for the schema.

What a commit does is in functions, since a server plans those once for a connection, and needs no statement prepared by a name.
"""

_UNREADABLE = "the URL of a log can't be read: write /, ?, #, [ and @ in a password as %2F, %3F, %23, %5B and %40"
_SECRET = ("password", "sslpassword", "oauth_client_secret")
_SCHEMA_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")


class Where(NamedTuple):
    """Where a log is: how to connect, and in which schema. `said` is the URL as it may be shown to people: without a password."""

    to: str
    schema: str
    said: str

    def sql(self, text: str) -> bytes:
        """Return a statement with its tables in the log's schema."""
        return text.replace("@", f'"{self.schema}".').encode()

    def connect(self) -> Connection:
        """Connect. No statement is prepared, and nothing is set for a session: a pooler may hand the next transaction to another one.

        `transaction` says with each `begin` what it is: to see what was waited for, and to write, whatever the role or the database has set.
        """
        connection = psycopg.connect(self.to, autocommit=True, prepare_threshold=None, client_encoding="UTF8")
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        connection.read_only = False
        connection.add_notice_handler(_ignore)
        # As text, each quotation mark in JSON would be escaped: a third of a commit's time.
        connection.adapters.register_dumper(list, ListBinaryDumper)
        return connection

    def connect_like(self, *, primary: bool) -> Connection:
        """Connect. `OperationalError` where a log that was opened on a primary is answered by a standby: it may lack what was recorded, and takes nothing."""
        connection = self.connect()
        try:
            if primary and is_standby(connection):
                raise psycopg.OperationalError("only a standby answers, which may lack what was recorded")
        except BaseException:
            connection.close()
            raise
        return connection

    def trouble(self, error: psycopg.Error, what: str) -> Invalid | StoreFailed:
        """Return what it means that opening failed. `StoreFailed` where it may help to try again: nobody answers, or a server that starts, ends or is full.

        `Invalid` where it can't: a parameter, the role, its password or rights, the database, the tables.
        """
        if error.sqlstate is not None:
            passing = not error.sqlstate.startswith(REFUSED_FOR_EVER)
        elif isinstance(error, psycopg.errors.ConnectionTimeout):
            passing = True
        else:
            passing = isinstance(error, psycopg.OperationalError) and may_pass(self.to, CONNECT_SECONDS_MAX)
        text = f"{self.said} {what}: {one_line(error)}"
        return StoreFailed(text, url=self.said, error=one_line(error)) if passing else Invalid(text, url=self.said)


def is_standby(connection: Connection) -> bool:
    """Say whether a server only follows another one. Servers say so by themselves; a pooler may not, and passes on the question."""
    said = connection.info.parameter_status("in_hot_standby")
    if said is not None:
        return said == "on"
    [(follows,)] = connection.execute("select pg_is_in_recovery()").fetchall()
    return bool(follows)


def _ignore(_notice: object) -> None:
    """Nobody looks at notices, such as that something exists already."""


def where_in(url: str) -> Where:
    """Read a URL: `postgresql://user@host:port/database?schema=shop`; all else is as `libpq` takes it. `Invalid` where it can't be read."""
    try:
        parts = urlsplit(url)
    except ValueError:  # its text may quote a password
        raise Invalid(_UNREADABLE) from None
    if not is_unicode(url):
        raise Invalid("the URL of a log can't be read: it is not text in UTF-8")
    pairs = [tuple(one.partition("=")[::2]) for one in parts.query.split("&") if one]  # as they stand: `libpq` reads a + as itself
    schemas = [unquote(value) for key, value in pairs if key == "schema"]
    schema = schemas[-1] if schemas else SCHEMA
    if not _SCHEMA_NAME.fullmatch(schema):
        raise Invalid(f"`{schema}` is no name for a schema: letters, digits and _, at most 63", schema=schema)
    kept = [(key, value) for key, value in pairs if key != "schema"]
    given = {key for key, _ in kept}
    defaults = {"connect_timeout": str(CONNECT_SECONDS_MAX), "fallback_application_name": _session_name(schema), **SILENT}
    kept += [(key, value) for key, value in defaults.items() if key not in given]
    connect = f"postgresql://{parts.netloc}{parts.path}?{_query(kept)}"
    user, at, place = parts.netloc.rpartition("@")
    shown = _query([one for one in pairs if one[0] not in _SECRET])
    said = f"{parts.scheme}://{user.partition(':')[0]}{at}{place}{parts.path}{'?' if shown else ''}{shown}"
    if parts.fragment or (not at and "@" in parts.path + parts.query.partition("=")[0]):
        raise Invalid(_UNREADABLE)
    try:
        ports = str(conninfo.conninfo_to_dict(connect).get("port") or "").split(",")
        if not all(port == "" or (port.isdecimal() and 0 < int(port) <= PORT_MAX) for port in ports):
            raise Invalid(f"`{said}` names no database: a port is a number up to {PORT_MAX:,}", url=said)
        conninfo.timeout_from_conninfo(conninfo.conninfo_to_dict(connect))
    except psycopg.ProgrammingError as error:
        why = "" if "%" in user or any(key in _SECRET for key in given) else f" ({one_line(error)})"  # it may quote a password
        raise Invalid(f"`{said}` names no database: write postgresql://user@host:port/database?schema=shop{why}", url=said) from error
    return Where(connect, schema, said)


def _session_name(schema: str) -> str:
    """Return what sessions of a log are called, as the server cuts it."""
    return f"happened:{schema}"[:63]


def _query(pairs: Sequence[tuple[str, ...]]) -> str:
    return "&".join("=".join(pair) for pair in pairs)


def one_line(error: psycopg.Error) -> str:
    """Return what an error says, in one line."""
    return " ".join(str(error).split())


def lock_head(where: Where, connection: Connection, seconds_max: float) -> None:
    """Take the lock of the log, for the open transaction; so is the time to wait for it, since the next one may be another's behind a pooler."""
    connection.execute(
        f"set local lock_timeout = {max(int(seconds_max * 1000), 1)}; ".encode() + where.sql("select 1 from @head for update")
    )


def number_of(where: Where, connection: Connection) -> int:
    """Return the number of the last step that was taken; 0 where there is nothing yet. `Invalid` for a schema of something else."""
    found = connection.execute(  # also those that this role may not read: it hears so
        "select relname from pg_class where relnamespace = (select oid from pg_namespace where nspname = %s) "
        "and relkind in ('r', 'p', 'v', 'm', 'f') order by relname",
        (where.schema,),
    ).fetchall()
    tables = [name for (name,) in found]
    if "migration" not in tables:
        if tables:
            raise Invalid(
                f"the schema `{where.schema}` is no log but something else's, with the tables {', '.join(tables)}: a log has a schema of its own",
                schema=where.schema,
            )
        return 0
    row = connection.execute(where.sql("select coalesce(max(number), 0) from @migration")).fetchone()
    return int(row[0]) if row is not None else 0


def check_there(url: str) -> None:
    """Raise `Invalid` unless a log is there; `StoreFailed` where that can't be seen now (see `Where.trouble`). Nothing is made."""
    where = where_in(url)
    with _connected(where) as connection:
        _check_made(where, number_of(where, connection))


def _check_made(where: Where, number: int) -> None:
    if not number:
        raise Invalid(f"there is no log at {where.said}", url=where.said)


def seen_there(where: Where, *, unreached: str) -> Connection:
    """Do what `check_there` does, for a log that is to be read as it is; return the connection, which is closed. `unreached` is said where nobody answers.

    `Invalid`, too, for a schema that a newer release has made. One that an older release has made is read as it is.
    """
    with _connected(where, unreached) as connection:
        _check_made(where, _checked(number_of(where, connection), where))
    return connection


def is_open_elsewhere(url: str) -> bool:
    """Say whether any session of a log is to be seen. Not seen are those that a URL names otherwise, of other roles, and idle ones behind a pooler."""
    where = where_in(url)
    deadline = time.monotonic() + ENDING_SECONDS_MAX
    with _connected(where) as connection:
        while connection.execute(
            "select 1 from pg_stat_activity where datname = current_database() and application_name = %s and pid <> pg_backend_pid()",
            (_session_name(where.schema),),
        ).fetchall():
            if time.monotonic() > deadline:
                return True
            time.sleep(0.02)
    return False


def drop_index_of(url: str) -> None:
    """Drop the index of a log, and make those of its tables that are not there. Who has the log open takes it in anew. `Invalid` where there is no log."""
    check_there(url)
    where = where_in(url)
    with _connected(where) as connection, connection.transaction():
        lock_head(where, connection, CONNECT_SECONDS_MAX)
        for statement in MIGRATIONS[0]:
            for table in INDEX:
                if statement.startswith(f"create table @{table}("):
                    [(there,)] = connection.execute("select to_regclass(%s) is not null", (f'"{where.schema}".{table}',)).fetchall()
                    connection.execute(where.sql(f"delete from @{table}" if there else statement))
        connection.execute(where.sql("update @head set filed = 0, tagged = 0, reading = %s"), (os.urandom(8).hex(),))


def migrated(url: str) -> list[int]:
    """Take the steps that were not taken yet; return their numbers. `Invalid` and `StoreFailed` as `Where.trouble` has it."""
    where = where_in(url)
    with _connected(where) as connection:
        return migrate(where, connection)


@contextmanager
def _connected(where: Where, unreached: str = "can't be reached") -> Generator[Connection]:
    """Give a connection. What fails is raised as `Where.trouble` has it."""
    try:
        connection = where.connect()
    except psycopg.Error as error:
        raise where.trouble(error, unreached) from error
    try:
        with connection:
            yield connection
    except psycopg.Error as error:
        raise where.trouble(error, "can't be looked at") from error


def migrate(where: Where, connection: Connection) -> list[int]:
    """Take the steps that were not taken yet, in one transaction, one process at a time; return their numbers.

    `Invalid` where this role may not, and for a schema that a newer release has made; what else fails is raised as `Where.trouble` has it.
    """
    if connection.info.server_version < POSTGRES_MIN:
        raise Invalid(f"{where.said} is PostgreSQL {connection.info.server_version // 10000}: 14 is the oldest that is supported")
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise Invalid(
            f"the database of {where.said} keeps texts as {encoding}: a log needs one that was made with encoding UTF8", url=where.said
        )
    if _checked(number_of(where, connection), where) == len(MIGRATIONS):
        return []
    taken: list[int] = []
    try:
        with connection.transaction():
            connection.execute("select pg_advisory_xact_lock(hashtext(%s))", (f"happened {where.schema}",))
            there = connection.execute("select 1 from pg_namespace where nspname = %s", (where.schema,)).fetchone()
            if there is None:
                connection.execute(f'create schema "{where.schema}"'.encode())
            done = _checked(number_of(where, connection), where)
            if not done:
                connection.execute(where.sql("create table @migration(number integer primary key, at timestamptz not null default now())"))
            for number, statements in enumerate(MIGRATIONS[done:], done + 1):
                for statement in statements:
                    connection.execute(where.sql(statement))
                connection.execute(where.sql("insert into @migration(number) values(%s)"), (number,))
                taken.append(number)
    except psycopg.errors.InsufficientPrivilege as error:
        raise Invalid(
            f"this role may not make the tables of the log in the schema `{where.schema}`: {one_line(error)}. "
            "Let a role that may run `happened migrate`, or give it a schema of its own",
            schema=where.schema,
        ) from error
    except psycopg.Error as error:
        raise where.trouble(error, "could not be given the tables of a log") from error
    return taken


def _checked(number: int, where: Where) -> int:
    if number > len(MIGRATIONS):
        raise Invalid(
            f"the schema `{where.schema}` was made by a newer release (step {number}, this one knows {len(MIGRATIONS)}): use that one",
            schema=where.schema,
        )
    return number
