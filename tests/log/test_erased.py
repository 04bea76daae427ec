"""Bodies that were erased: the chain holds, the rest is read as before, and what was kept of them is found."""

import hashlib
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import happened as h
from tests.log.erase import compact, erase
from tests.semantics.model import Balance, Deposit, Deposited, Take, bank


@pytest.fixture
def path(tmp_path: Path) -> str:
    """Return the path of a log: a fact, an accepted and a refused command, facts without a class."""
    path = f"{tmp_path}/log.db"
    with bank.open(f"sqlite:///{path}", run=False) as running:
        running.record(Deposited("a", 10), id="fact")
        running.dispatch(Deposit("a", 5), id="command")
        running.dispatch(Take("1", "ann"), id="taken")
        with pytest.raises(h.Refused):
            running.dispatch(Take("1", "bob"), id="refused")
        running.log.append(h.Loose("Seen", {"by": "ann"}, tags=(("account", "a"), ("who", "ann"))), id="seen")
        running.log.verify()
    return path


def positions(log: h.Log, name: str) -> list[int]:
    """Return where records of a name stand."""
    return [record.position for record in log.read() if record.name == name]


@pytest.mark.parametrize("index", ["kept", "made anew"])
def test_what_was_erased_is_found_by_the_tags_that_were_kept(path: str, index: str) -> None:
    """The body is gone, the chain holds, and a query by a tag finds the record: with the index as it was, and from the rows alone."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        [fact], [asked] = positions(running.log, "Deposited")[:1], positions(running.log, "Deposit")
        [seen] = positions(running.log, "Seen")
        before = running.log.verify()
    erase(path, fact, [("account", "a")])
    erase(path, asked, [("account", "a")])
    erase(path, seen)
    if index == "made anew":
        with closing(sqlite3.connect(path)) as connection, connection:
            for table in ("run", "covered", "recent", "block", "checked", "counted", "shelf"):
                connection.execute(f"delete from {table}")

    with bank.open(f"sqlite:///{path}", run=False) as running:
        after = running.log.verify()
        found = list(running.log.read(h.query(account="a")))

        assert (after.digest, after.kinds) == (before.digest, before.kinds)
        assert [(record.position, record.body) for record in found] == [
            (fact, None),
            (asked + 1, Deposited("a", 5)),
            (seen, None),
        ]
        assert found[0].tags == (("account", "a"),)
        assert found[2].tags == (("account", "a"), ("who", "ann"))
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 5, 1)


def test_without_kept_tags_nothing_leads_to_what_was_erased(path: str) -> None:
    """Tags that are not kept are gone, too."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        fact = positions(running.log, "Deposited")[0]
    erase(path, fact)

    with bank.open(f"sqlite:///{path}", run=False) as running:
        running.log.verify()
        assert fact not in [record.position for record in running.log.read(h.query(names=["Deposited"], account="a"))]
        assert fact in [record.position for record in running.log.read(h.query(names=["Deposited"]))]


def test_a_command_that_was_erased_is_known_by_its_id(path: str) -> None:
    """Whatever comes under its id is taken for its repetition: nothing is left to compare."""
    with bank.open(f"sqlite:///{path}", run=False) as running:
        for name in ("Deposit", "Take", "Deposited", "refusal"):
            for position in positions(running.log, name):
                erase(path, position)
        running.log.verify()

    with bank.open(f"sqlite:///{path}", run=False) as running:
        assert running.dispatch(Deposit("b", 7), id="command").repeated
        assert running.record(Deposited("b", 7), id="fact").repeated
        with pytest.raises(h.Refused, match="erased"):
            running.dispatch(Take("2", "cid"), id="refused")
        with pytest.raises(h.IdReused):
            running.dispatch(Take("2", "cid"), id="command")


@pytest.mark.parametrize("extra", ['"h":"{digest}"', '"e":[["account","b"]]', '"h":"{digest}","e":[["account","b"]]'])
def test_a_body_that_is_there_is_not_passed_off_as_erased(path: str, extra: str) -> None:
    """Only a body that is gone is vouched for by the digest beside it."""
    with closing(sqlite3.connect(path)) as connection, connection:
        row, records, salts = connection.execute("select position, records, salts from log where records like '%\"amount\":10%'").fetchone()
        digest = hashlib.sha256(salts + compact({"account": "a", "amount": 10})).hexdigest()
        changed = records.replace('"amount":10}]', '"amount":99},{' + extra.replace("{digest}", digest) + "}]")
        assert changed != records
        connection.execute("update log set records = ? where position = ?", (changed, row))

    with pytest.raises(h.Broken), bank.open(f"sqlite:///{path}", run=False) as running:
        running.log.verify()
