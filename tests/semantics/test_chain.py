"""The chain: whatever is changed in a row, taken out or swapped, `verify` says where."""

import sqlite3

import pytest

import happened as h
from tests.semantics.model import Deposit, Transfer, bank

CHANGES = (
    "delete from log where position = ?",
    "update log set at = at + 1 where position = ?",
    "update log set count = count + 1 where position = ?",
    "update log set input = null where position = ?",
)


def filled(url: str) -> list[int]:
    """Fill a log, and return where its rows begin."""
    with bank.open(url, run=False) as running:
        for number in range(3):
            running.dispatch(Deposit("a", 10 + number))
        running.dispatch(Transfer("a", "b", 1))
        running.log.verify()
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        return [position for (position,) in connection.execute("select position from log order by position")]


def flipped(value: str | bytes, at: int) -> str | bytes:
    """Return it with one bit changed."""
    if isinstance(value, bytes):
        return value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
    return value[:at] + chr(ord(value[at]) ^ 1) + value[at + 1 :]


def broken(url: str) -> None:
    """Find the log broken: when it is opened, or by `verify`."""
    with pytest.raises(h.Broken), bank.open(url, run=False) as running:
        running.log.verify()


@pytest.mark.parametrize("column", ["head", "input", "records", "salts", "digest"])
def test_a_flipped_bit_of_any_byte_of_a_row_is_found(url: str, column: str) -> None:
    """Each byte of each column, one after the other: `Broken`, and never another error."""
    position = filled(url)[-2]
    connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    [(value,)] = connection.execute(f"select {column} from log where position = ?", (position,)).fetchall()
    silent: list[tuple[int, str]] = []
    with bank.open(url, run=False) as running:
        for at in range(len(value)):
            changed = flipped(value, at)
            connection.execute(f"update log set {column} = ? where position = ?", (changed, position))
            try:
                running.log.verify()
            except h.Broken:
                continue
            except Exception as error:  # noqa: BLE001 - any other error is what this test looks for
                silent.append((at, repr(error)))
            else:
                silent.append((at, "nothing found"))
        connection.execute(f"update log set {column} = ? where position = ?", (value, position))
        running.log.verify()
    connection.close()

    assert silent == []


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_row_is_found(url: str, change: str) -> None:
    """A row is taken out, or says something else."""
    second = filled(url)[-3]
    with sqlite3.connect(url.removeprefix("sqlite:///")) as connection:
        connection.execute(change, (second,))

    broken(url)


def test_swapped_digests_and_swapped_rows_are_found(url: str) -> None:
    """Two rows change their digests, or their contents: the chain does not hold."""
    first, second = filled(url)[-3:-1]
    for columns in ("digest", "input, records, salts"):
        connection = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
        select = f"select {columns} from log where position = ?"
        [one], [two] = (connection.execute(select, (place,)).fetchall() for place in (first, second))
        update = f"update log set {', '.join(f'{column} = ?' for column in columns.split(', '))} where position = ?"
        connection.execute(update, (*two, first))
        connection.execute(update, (*one, second))

        broken(url)
        connection.execute(update, (*one, first))
        connection.execute(update, (*two, second))
        connection.close()
