"""A digest that was noted: whatever is done to the log up to it is found, also where all digests were made anew."""

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any  # Any: fields of a row

import msgspec
import pytest

import happened as h
from happened.core.store import START, Row
from happened.log.row import digest_of
from happened.testing.rows import head_of
from tests.semantics.model import Deposit, Take, bank

COLUMNS = ", ".join(Row.__struct_fields__)


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of a log of some rows."""
    path = f"{tmp_path}/log.db"
    with bank.open(f"sqlite:///{path}", run=False) as running:
        for number in range(5):
            running.dispatch(Deposit("a", 10 + number), id=f"deposit-{number}")
        running.dispatch(Take("1", "ann"), id="taken")
    return path


def receipt_of(path: str, id: str) -> h.Receipt:
    """Return the receipt of a command that was recorded."""
    with h.open_log(f"sqlite:///{path}") as log:
        return log.receipt_of(log.find(id)[0], repeated=False, events=())


def rows_of(path: str) -> list[Row]:
    """Return all rows, as they lie in the file."""
    with closing(sqlite3.connect(path)) as connection:
        return [Row(*found) for found in connection.execute(f"select {COLUMNS} from log order by position")]


def written(path: str, rows: Sequence[Row]) -> None:
    """Put these rows in the place of all there are, and let the index know of none: else it says that some are gone."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("delete from log")
        connection.execute("delete from recent")
        connection.execute("update covered set last = 0")
        connection.execute("delete from checked")
        for row in rows:
            connection.execute(f"insert into log({COLUMNS}) values({', '.join('?' * 8)})", msgspec.structs.astuple(row))


def forged(rows: Sequence[Row]) -> list[Row]:
    """Make all digests anew, and positions dense, as somebody does who knows the format."""
    made: list[Row] = []
    head = START
    for row in rows:
        moved = msgspec.structs.replace(row, position=head.position + 1, at=max(row.at, head.at))
        made.append(msgspec.structs.replace(moved, digest=digest_of(head.digest, moved)))
        head = head_of(made[-1])
    return made


def verified(path: str, noted: h.Receipt | str | None) -> int:
    """Verify up to what was noted; return the last position that was read."""
    with h.open_log(f"sqlite:///{path}") as log:
        return log.verify(noted=noted).position


def test_a_receipt_its_text_and_a_digest_are_proven_and_read_up_to(path: str) -> None:
    """What lies behind the noted place is not read."""
    receipt = receipt_of(path, "deposit-2")
    with h.open_log(f"sqlite:///{path}") as log:
        whole = log.verify()
    digest = next(row.digest.hex() for row in rows_of(path) if row.last == receipt.position)

    assert receipt.position < whole.position
    assert {verified(path, noted) for noted in (receipt, str(receipt), digest, digest[:32], digest.upper())} == {receipt.position}
    assert verified(path, whole.digest) == whole.position


CHANGES: list[Callable[[list[Row], int], list[Row]]] = [
    lambda rows, at: [*rows[:at], msgspec.structs.replace(rows[at], records=rows[at].records.replace("11", "99")), *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], msgspec.structs.replace(rows[at], input=(rows[at].input or "").replace("11", "99")), *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], msgspec.structs.replace(rows[at], head=rows[at].head.replace("deposit-1", "deposit-9")), *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], msgspec.structs.replace(rows[at], salts=bytes(len(rows[at].salts))), *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], msgspec.structs.replace(rows[at], at=rows[at].at - 1), *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], *rows[at + 1 :]],
    lambda rows, at: [*rows[:at], rows[at + 1], rows[at], *rows[at + 2 :]],
    lambda rows, at: [*rows[: at + 1], rows[at], *rows[at + 1 :]],
]
NAMES = ["records", "input", "head", "salts", "at", "taken out", "swapped", "put in twice"]


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_what_was_written_anew_with_all_its_digests_is_found_by_a_noted_one(
    path: str, change: Callable[[list[Row], int], list[Row]]
) -> None:
    """The chain holds in itself, and still the noted digest is gone: by receipt, and by the digest alone."""
    receipt = receipt_of(path, "deposit-3")
    rows = rows_of(path)
    place = next(at for at, row in enumerate(rows) if "deposit-1" in row.head)
    made = forged(change(rows, place))
    assert made != rows
    written(path, made)
    with h.open_log(f"sqlite:///{path}") as log:
        log.verify()

        with pytest.raises(h.Broken) as by_receipt:
            log.verify(noted=receipt)
        with pytest.raises(h.Broken, match="no row up to the end"):
            log.verify(noted=receipt.digest)

    assert by_receipt.value.facts["position"] == receipt.position


@pytest.mark.parametrize("change", CHANGES, ids=NAMES)
def test_what_was_changed_alone_is_found_where_it_stands(path: str, change: Callable[[list[Row], int], list[Row]]) -> None:
    """Without new digests the chain says at which row."""
    receipt = receipt_of(path, "deposit-3")
    rows = rows_of(path)
    place = next(at for at, row in enumerate(rows) if "deposit-1" in row.head)
    changed = change(rows, place)
    if [row.position for row in changed] != sorted({row.position for row in changed}):
        changed = [msgspec.structs.replace(row, position=1 + sum(one.count for one in changed[:at])) for at, row in enumerate(changed)]
    written(path, changed)

    with pytest.raises(h.Broken) as found, h.open_log(f"sqlite:///{path}") as log:
        log.verify(noted=receipt)

    assert rows[place].position <= found.value.facts["position"] <= rows[place + 1].last + 1


@pytest.mark.parametrize(("change", "text"), [({"at": 1}, "the recorded time falls"), ({"count": 3}, "says 3 records and has 2")])
def test_what_no_writer_records_is_found_though_its_digest_was_made_anew(path: str, change: dict[str, Any], text: str) -> None:
    """By itself, with nothing noted: time that falls, and another number of records than there are."""
    *before, last = rows_of(path)
    other = msgspec.structs.replace(last, **change)
    written(path, [*before, msgspec.structs.replace(other, digest=digest_of(before[-1].digest, other))])

    with h.open_log(f"sqlite:///{path}") as log, pytest.raises(h.Broken, match=text):
        log.verify()


def test_a_log_that_ends_before_what_was_noted_is_found(path: str) -> None:
    """Rows that were taken out at the end leave a whole chain."""
    receipt = receipt_of(path, "deposit-3")
    kept = [row for row in rows_of(path) if row.last < receipt.position]
    written(path, kept)

    with h.open_log(f"sqlite:///{path}") as log, pytest.raises(h.Broken, match="was taken out") as found:
        log.verify(noted=receipt)

    assert found.value.facts["position"] == kept[-1].last + 1


@pytest.mark.parametrize("noted", ["", "abc", "z" * 32, "a" * 65, "1:2", "x:1:5:"])
def test_what_is_no_digest_is_invalid(path: str, noted: str) -> None:
    """An empty or short text would prove nothing."""
    with h.open_log(f"sqlite:///{path}") as log:
        noted = noted.replace("x:", f"{log.identity.id}:")
        with pytest.raises(h.Invalid):
            log.verify(noted=noted)


def test_a_receipt_of_another_log_is_diverged(path: str) -> None:
    """It says nothing of this one."""
    receipt = msgspec.structs.replace(receipt_of(path, "deposit-3"), log="another")
    with h.open_log(f"sqlite:///{path}") as log, pytest.raises(h.Diverged):
        log.verify(noted=receipt)
