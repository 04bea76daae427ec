"""Erase a body by hand, as docs/reference/format.md describes."""

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from typing import Any  # Any: a record taken apart


def erase(path: str, position: int, tags: Sequence[tuple[str, str]] = ()) -> None:
    """Erase the body of the record at a position, and keep these tags."""
    connection = sqlite3.connect(path, isolation_level=None)
    row, asked, records, salts = connection.execute(
        "select position, input, records, salts from log where position <= ? order by position desc limit 1", (position,)
    ).fetchone()
    place = position - row
    listed: list[Any] = ([json.loads(asked)] if asked else []) + json.loads(records)
    number, body, *extra = listed[place]
    salt = salts[16 * place : 16 * place + 16]
    beside: dict[str, Any] = dict(extra[0]) if extra else {}
    beside["h"] = hashlib.sha256(salt + compact(body)).hexdigest()
    if tags:
        beside["e"] = [list(tag) for tag in tags]
    listed[place] = [number, None, beside]
    connection.execute(
        "update log set input = ?, records = ?, salts = ? where position = ?",
        (
            compact(listed.pop(0)).decode() if asked else None,
            compact(listed).decode(),
            salts[: 16 * place] + bytes(16) + salts[16 * place + 16 :],
            row,
        ),
    )
    connection.close()


def compact(value: object) -> bytes:
    """Return it as the log writes it."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
