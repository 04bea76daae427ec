"""Databases of SQLite in memory: they are closed at the end of the test that opened them, since Python 3.13 warns of those that are left."""

import sqlite3

OPENED: list[sqlite3.Connection] = []


def in_memory() -> sqlite3.Connection:
    """Open an empty one."""
    OPENED.append(sqlite3.connect(":memory:", isolation_level=None))
    return OPENED[-1]
