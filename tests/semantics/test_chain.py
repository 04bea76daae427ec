"""The chain: whatever is changed in a row, taken out or swapped, `verify` says where."""

import sqlite3
from contextlib import closing

import pytest

import happened as h
from happened.log.row import Written
from tests.log.test_incompatible import put
from tests.notification.made import Step, record
from tests.semantics.model import Deposit, Deposited, Transfer, bank

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
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
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
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
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


def renamed(url: str, change: str) -> None:
    """Change the notes of a log that was filled, by SQL."""
    filled(url)
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
        connection.execute(change)


@pytest.mark.parametrize(
    "change",
    [
        'update note set body = replace(body, \'"name":"Deposited"\', \'"name":"Withdrawn"\') where body like \'%"name":"Deposited"%\'',
        'update note set body = replace(body, \'"account"\', \'"holder"\') where body like \'%"name":"Deposited"%\'',
        "update note set body = '{}' where body like '%\"name\":\"Deposited\"%'",
        'delete from note where body like \'%"name":"Deposited"%\'',
        "insert into note(key, body) select 'name/99', replace(body, '\"number\":16', '\"number\":99') from note where key = 'name/16'",
    ],
    ids=["another name", "another tag", "no name", "taken out", "one too many"],
)
def test_a_changed_note_of_a_name_is_found(url: str, change: str) -> None:
    """Events would be read under a wrong name, or not at all, and no link of the chain would tell."""
    renamed(url, change)

    broken(url)


def test_a_name_that_is_recorded_while_the_log_is_verified_is_no_fault(url: str) -> None:
    """Another process goes on: its names are noted in the same commit."""
    filled(url)
    with bank.open(url, run=False) as running, h.open_log(url) as other:

        def meanwhile(_done: int, _all: int) -> None:
            other.append(h.Loose("Later", {}), id="later")

        running.log.verify(meanwhile)

        running.log.verify()


def test_what_a_handler_heard_stands_before_what_it_sent(url: str) -> None:
    """A record of this log that it names must be there, and before; what a caller gives as a cause is a text, whatever it looks like."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1), id="first")
        running.enqueue(Deposit("a", 1), id="kept")
        for cause in ("first", "first#1", "first#2", "later#1", "another-log#7", "free text", "#", "kept", "kept#0"):
            running.record_all([h.Message(Deposited("a", 1), causation=cause)])
        running.record_all([h.Message(Deposited("a", 1), id="later")])
        record(running.log, [Step("sent", "command:Do", sender="reaction:on", cause="event:Deposited", causation="first#1")])
        running.log.verify()

        record(running.log, [Step("sent too", "command:Do", sender="reaction:on", cause="event:Deposited", causation="first#2")])

        with pytest.raises(h.Broken, match="`first#2`"):
            running.log.verify()


def test_a_cause_may_be_a_message_whose_id_is_called_as_a_part_of_another(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such ids are not taken any more; logs may hold them."""
    monkeypatch.setattr("happened.log.log._check_names_no_part", str)
    with bank.open(url, run=False) as running:
        running.record(Deposited("a", 1), id="order#7")
        running.dispatch(Deposit("a", 1), id="order")
        running.record_all([h.Message(Deposited("a", 1), causation="order#7")])

        running.log.verify()


def test_a_name_that_can_not_be_read_is_said(url: str) -> None:
    """Whatever wrote it, the error is `Broken` and says where."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        put(running.log, Written(0, b'{"number":"x"}'))

    broken(url)
