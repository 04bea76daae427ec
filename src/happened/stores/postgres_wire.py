"""Statements as the wire of PostgreSQL takes them: values in binary, and what belongs together in one round trip.

A commit costs the client a tenth of what it does by way of cursors, each of which looks up how to write every single value.
"""

import os
import re
import select
import struct
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from itertools import repeat
from typing import Any, NamedTuple  # Any: rows of the columns that were asked for

from psycopg import Connection, errors, generators
from psycopg.adapt import Transformer
from psycopg.pq import ExecStatus, PGconn, Ping, PollingStatus
from psycopg.pq.abc import PGresult

_HEAD = struct.Struct("!iiiii")
_INT8 = struct.Struct("!iq")
_INT4 = struct.Struct("!ii")
_LENGTH = struct.Struct("!i")
_NULL = _LENGTH.pack(-1)
_BINARY = 1
_FINE = (ExecStatus.COMMAND_OK, ExecStatus.TUPLES_OK, ExecStatus.PIPELINE_SYNC)


class Value(NamedTuple):
    """A value of a statement: the number of its type, and its bytes."""

    type: int
    body: bytes


INT4, INT8, BLOB, TEXT, INT4S, INT8S, BLOBS, TEXTS = 23, 20, 17, 25, 1007, 1016, 1001, 1009
"""The numbers of types: they are the same on every server."""
_EMPTY = {
    array: Value(array, _HEAD.pack(0, 0, of, 0, 0)[:12]) for array, of in ((INT4S, INT4), (INT8S, INT8), (BLOBS, BLOB), (TEXTS, TEXT))
}


def int8(number: int) -> Value:
    """Return a `bigint`."""
    return Value(INT8, number.to_bytes(8, "big", signed=True))


def int4(number: int) -> Value:
    """Return an `int`."""
    return Value(INT4, number.to_bytes(4, "big", signed=True))


def blob(body: bytes) -> Value:
    """Return a `bytea`."""
    return Value(BLOB, body)


def text(body: str) -> Value:
    """Return a `text`."""
    return Value(TEXT, body.encode())


def int8s(numbers: Sequence[int]) -> Value:
    """Return a `bigint[]`."""
    return _array(INT8S, INT8, len(numbers), map(_INT8.pack, repeat(8), numbers))


def int4s(numbers: Sequence[int]) -> Value:
    """Return an `int[]`."""
    return _array(INT4S, INT4, len(numbers), map(_INT4.pack, repeat(4), numbers))


def texts(bodies: Sequence[str | None]) -> Value:
    """Return a `text[]`."""
    return _array(TEXTS, TEXT, len(bodies), _sized([body if body is None else body.encode() for body in bodies]))


def blobs(bodies: Sequence[bytes]) -> Value:
    """Return a `bytea[]`."""
    return _array(BLOBS, BLOB, len(bodies), _sized(bodies))


def _sized(bodies: Sequence[bytes | None]) -> list[bytes]:
    return [part for body in bodies for part in ((_NULL,) if body is None else (_LENGTH.pack(len(body)), body))]


def _array(type: int, of: int, count: int, parts: Iterable[bytes]) -> Value:
    if not count:
        return _EMPTY[type]
    return Value(type, b"".join([_HEAD.pack(1, 1, of, count, 1), *parts]))


class Prepared:
    """Statements that a session keeps parsed: to parse them anew takes a fifth of a commit.

    They are prepared together, on each new connection, under names that follow from the texts of all: so behind a pooler that hands out sessions, where one
    of them is there all are, also where another release has prepared some that are the same. Where a session turns out not to have them they are sent as
    texts from then on.
    """

    def __init__(self, *statements: tuple[bytes, Sequence[int]]) -> None:
        together = sha256(b"\0".join(text for text, _ in statements)).hexdigest()[:32]
        self._statements = [(f"happened_{together}_{number}".encode(), text, types) for number, (text, types) in enumerate(statements)]
        self._names = {text: name for name, text, _ in self._statements}
        self._on: Connection[tuple[Any, ...]] | None = None
        self._given_up = False

    def names(self, connection: Connection[tuple[Any, ...]]) -> Mapping[bytes, bytes]:
        """Return the names of the statements that may be sent by one, and have them prepared there. No transaction may be open on a new connection."""
        if self._given_up:
            return {}
        if self._on is not connection:
            self._on = connection
            wire = connection.pgconn
            wire.enter_pipeline_mode()
            for name, text, types in self._statements:
                wire.send_prepare(name, text, types)
            if any(result.status not in _FINE for result in _answers(connection)):
                self.give_up()  # another client of a pooler has had them prepared, or none may
                return {}
        return self._names

    def give_up(self) -> None:
        """Send them as texts from now on."""
        self._given_up = True


def asked(
    connection: Connection[tuple[Any, ...]], prepared: Prepared, begin: bytes, statement: bytes, values: Sequence[Value]
) -> list[tuple[Any, ...]]:
    """Begin a transaction and ask a statement in it, in one round trip; return the rows that it finds."""
    found = _sent(connection, prepared, (begin, ()), (statement, values))[1]
    reader = Transformer.from_context(connection)
    reader.set_pgresult(found)
    return reader.load_rows(0, found.ntuples, tuple)


def committed(
    connection: Connection[tuple[Any, ...]], prepared: Prepared, statement: bytes, values: Sequence[Value], *, begin: bytes = b""
) -> bytes:
    """Run a statement with values, and commit, in one round trip; return the one value that was found, in binary, empty for null."""
    first = [(begin, ())] if begin else []
    return _sent(connection, prepared, *first, (statement, values), (b"commit", ()))[len(first)].get_value(0, 0) or b""


def _sent(connection: Connection[tuple[Any, ...]], prepared: Prepared, *statements: tuple[bytes, Sequence[Value]]) -> list[PGresult]:
    """Send statements in one message, and return what each has come to; raise the error of the first that failed."""
    names = prepared.names(connection)
    wire = connection.pgconn
    wire.enter_pipeline_mode()
    for statement, values in statements:
        bodies = [value.body for value in values]
        formats = [_BINARY] * len(values)
        if statement in names:
            wire.send_query_prepared(names[statement], bodies, formats, _BINARY)
        else:
            wire.send_query_params(statement, bodies, [value.type for value in values], formats, _BINARY)
    results = _answers(connection)
    try:
        for result in results:
            _check(result)
    except errors.InvalidSqlStatementName:
        prepared.give_up()
        raise
    return results


def _answers(connection: Connection[tuple[Any, ...]]) -> list[PGresult]:
    """Send what was gathered, and wait for all that is answered."""
    wire = connection.pgconn
    wire.pipeline_sync()
    results: list[PGresult] = connection.wait(generators.execute(wire))
    while results and results[-1].status != ExecStatus.PIPELINE_SYNC:
        results += connection.wait(generators.fetch_many(wire))
    wire.exit_pipeline_mode()
    return results


def _check(result: PGresult) -> None:
    if result.status not in _FINE:
        raise errors.error_from_result(result)


REFUSED_FOR_EVER = ("08P", "0A", "22", "28", "3D", "3F", "42")
"""How the SQLSTATE begins where a URL, a role or a schema is wrong: who tries again hears the same."""
_REFUSED = re.compile(rb"\tErrorResponse\t(?: [SV] \"[^\"]*\")* C \"([0-9A-Z]{5})\"")


def may_pass(to: str, seconds_max: float) -> bool:
    """Say whether it may help to try again where no connection could be made. It is tried once more, to hear the server's SQLSTATE.

    The driver tells it for statements only, and the text that it tells is in the server's language. Where the library is too old to say it either (before
    18, or on another system than Linux), all that a server that runs refuses is taken for good.
    """
    ping = PGconn.ping(to.encode())
    if ping != Ping.OK:
        return ping != Ping.NO_ATTEMPT
    if sys.platform != "linux":
        return False
    heard = os.memfd_create("happened")  # in memory: what is sent may hold a password
    wire = PGconn.connect_start(to.encode())
    try:
        wire.trace(heard)
        deadline = time.monotonic() + seconds_max
        while (status := wire.connect_poll()) not in (PollingStatus.OK, PollingStatus.FAILED) and time.monotonic() < deadline:
            reading = status == PollingStatus.READING
            select.select([wire.socket] if reading else [], [] if reading else [wire.socket], [], max(0.0, deadline - time.monotonic()))
        wire.untrace()
        states = _REFUSED.findall(os.pread(heard, os.fstat(heard).st_size, 0))
    finally:
        wire.finish()
        os.close(heard)
    if states:
        return not states[-1].decode().startswith(REFUSED_FOR_EVER)
    return status != PollingStatus.FAILED
