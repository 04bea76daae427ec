"""Bad and hostile input: texts, numbers, bodies, URLs and arguments as nobody should give them."""

import math
import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any  # Any: that is what is given

from hypothesis import HealthCheck, settings
from hypothesis import strategies as some

FUZZ = int(os.environ.get("HAPPENED_FUZZ", "40"))
"""How many examples each test tries."""
PASSWORD = "s3cret-pw"

fuzzed = settings(
    max_examples=FUZZ,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much, HealthCheck.large_base_example],
)

TEXTS = (
    "", " ", "\0", "a\0b", "\ud800", "x\udcff", "é", "e\u0301", "\u202e", "\x1f", "\x1f=", "=", "a=b", "a=b=c", ":", "#", "x#1", "x#", "#1", "%", "%00", "%s%n", "'", '"', "';drop table log;--",
    "`", "\\", "/", "../..", ".", "..", "-", "--", "-1", "+1", "0", "00", "1", "1.0", "1e999", "NaN", "inf", "-inf", "Infinity", "٣", "²", "\uff11", "true", "null", "None", "{}", "[]", "[[", '{"a":',
    "9" * 400, "9" * 5000, "x" * 10_000, "[" * 5000, '{"a":' * 3000, "1" + "0" * 30, str(2**63), str(2**64), str(-(2**63) - 1), "9223372036854775807", "id-1", "account", "a", "Balance", "Deposited",
    "2026-01-01", "2026-01-01T00:00:00", "2026-01-01T00:00:00Z", "9999-12-31T23:59:59+00:00", "0001-01-01T00:00:00+23:59", "\n", "\r\nX: y", "a\nb", "\ufeff", "\uffff", "\U0010ffff", "1 or 1=1", "amount >",
    "(select 1)", "amount; drop table x", "a" * 300, "sqlite:///", "memory:",
)  # fmt: skip
"""Texts that something has ever gone wrong with, somewhere."""
URLS = (
    "", ":", "memory", "memory:x", "memory:///", "MEMORY:", "sqlite", "sqlite:", "sqlite:/", "sqlite://", "sqlite:///", "sqlite:////", "sqlite:///:memory:", "sqlite:///.", "sqlite:///..", "sqlite:////dev/null",
    "sqlite:////etc/passwd", "sqlite:///no/such/folder/x.db", "sqlite:///\0", "sqlite:///a\0b.db", "sqlite:///\ud800", "sqlite:///" + "x" * 5000, "sqlite:///" + "x/" * 3000, "sqlite:///text.txt", "sqlite:///folder",
    "sqlite:///shop.db?mode=ro", "sqlite:///shop.db#x", "sqlite:///%00", "SQLITE:///shop.db", " sqlite:///shop.db", "sqlite:///shop.db\n", "file:///etc/passwd", "http://localhost/x", "shop.db", "/", "\\\\x\\y",
    "postgresql:", "postgresql:/", "postgres:", "postgresql+psycopg://127.0.0.1:1/x", "mysql://127.0.0.1/x",
    *(
        f"postgresql://u:{PASSWORD}@{rest}"
        for rest in (
            "127.0.0.1:1/x", "127.0.0.1:1", "127.0.0.1:1/", "127.0.0.1:99999999/x", "127.0.0.1:-1/x", "127.0.0.1:x/x", "[::1/x", "127.0.0.1:1/x?schema=", "127.0.0.1:1/x?schema=%zz", "127.0.0.1:1/x?schema=a&schema=b",
            "127.0.0.1:1/x?schema=a%00b", "127.0.0.1:1/x?schema=" + "a" * 200, "127.0.0.1:1/x?schema=a;drop", "127.0.0.1:1/x?schema=pg_catalog", "127.0.0.1:1/x?nonsense=1", "127.0.0.1:1/x?sslmode=what", "127.0.0.1:1/%00",
            "127.0.0.1:1/%zz", "127.0.0.1:1/x?connect_timeout=x", "127.0.0.1:1/x?options=-c%20x", "127.0.0.1:1/\ud800", "127.0.0.1:1/a b", "127.0.0.1:1,127.0.0.1:2/x?schema=a", "%zz@127.0.0.1:1/x",
        )
    ),
    f"postgresql://%00:{PASSWORD}@127.0.0.1:1/x", f"postgresql://u:{PASSWORD}%40@127.0.0.1:1/x", f"postgresql://u:{PASSWORD}%@127.0.0.1:1/x?schema=a",
)  # fmt: skip
"""URLs of no log. Those of PostgreSQL name a port at which nobody listens."""


class Stranger:
    """Something that no code knows."""

    def __repr__(self) -> str:
        """Say nothing."""
        return "<something>"


def deep(levels: int) -> list[Any]:
    """Return a list in a list in a list."""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


texts = some.sampled_from(TEXTS) | some.text(max_size=20) | some.text(some.characters(), max_size=8)
numbers = some.sampled_from(
    [0, -0.0, 1, -1, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**400, math.nan, math.inf, -math.inf, 1e308, 5e-324, True, Decimal("NaN"), Decimal("1e999999"), Decimal("0.10")]
)  # fmt: skip
strange = some.sampled_from(
    [None, b"", b"\xff\xfe", bytearray(b"x"), (), [], {}, set[int](), {"a": {1: 2}}, {1: 2}, object(), Stranger(), type, len, ..., 1j, deep(50), deep(300), datetime(2026, 1, 1), datetime(2026, 1, 1, tzinfo=UTC),  # noqa: DTZ001 - it is to have no zone
     datetime.max.replace(tzinfo=UTC), timedelta.max, range(3), NotImplemented]
)  # fmt: skip
urls = some.sampled_from(URLS) | texts
plain = texts | numbers | some.sampled_from([None, True, False, [], {}, ["a"], {"a": 1}, [[1]], {"": None}])
"""What JSON has."""
whole = some.sampled_from([0, 1, 2, -1, 2**31, 2**63 - 1, 2**63, 2**64, -(2**63) - 1, 10**30, 10**400]) | some.integers()
seconds = some.sampled_from([0, 0.0, -1, -math.inf, math.nan, 1e-300, 1e308])
"""How long to wait: no longer than a test has time."""
anything = plain | strange
