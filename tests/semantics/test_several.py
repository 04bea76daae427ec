"""Many facts in one commit, each in a row and under an id of its own: trouble of one is none of another's."""

from collections.abc import Iterator
from typing import Annotated

import msgspec
import pytest

import happened as h
from happened.log.row import SALT_BYTES

Sku = Annotated[str, h.Tag("sku")]


class Arrived(h.Event):
    sku: Sku
    units: int
    memo: str = ""


class Take(h.Command):
    sku: Sku


class Taken(h.Event):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Arrived | Taken) -> "Stock":
        match event:
            case Arrived():
                if event.units < 0:
                    raise ValueError("less than nothing")
                return self.but(units=self.units + event.units)
            case Taken():
                return self.but(units=self.units - 1)


def take(command: Take, stock: Stock) -> Iterator[Taken]:
    if stock.units < 1:
        raise h.Refused("none left")
    yield Taken(command.sku)


shop = h.App("shop", records=[Arrived], deciders=[take])


def test_known_ids_count_once_and_a_reused_one_stops_no_other(url: str) -> None:
    """Of facts with ids that are known, twice in one commit or used for something else, only the last is an error; all that are new are recorded."""
    with shop.open(url, run=False) as running:
        first = running.record(Arrived("nut", 1), id="one")
        facts = [
            h.Message(Arrived("nut", 1), id="one"),
            h.Message(Arrived("nut", 2), id="two"),
            h.Message(Arrived("nut", 2), id="two"),
            h.Message(Arrived("nut", 9), id="one"),
            h.Message(Arrived("nut", 4), id="three", actor="ann", correlation="tour"),
        ]
        receipts = running.dispatch_all(facts)
        found = [next(receipts) for _ in range(3)]
        with pytest.raises(h.IdReused, match=r"the id `one` was used for something else, at position \d+; another fact needs another id"):
            next(receipts)

        assert [isinstance(one, h.Receipt) and one.repeated for one in found] == [True, False, True]
        assert found[0] == msgspec.structs.replace(first, repeated=True)
        assert running.state(Stock, "nut") == Stock("nut", 7)
        last = list(running.log.read())[-1]
        assert (last.id, last.actor, last.correlation) == ("three", "ann", "tour")
        assert [row.position for row in running.log.conversation("tour")] == [last.position]
        running.log.verify()


def test_what_no_row_can_hold_stops_no_other(url: str) -> None:
    """A fact of more than a mebibyte is refused, and those before and after it are recorded."""
    with shop.open(url, run=False) as running:
        with pytest.raises(h.Invalid, match="keep large things outside"):
            running.record_all([Arrived("nut", 1), Arrived("nut", 2, "x" * 2_000_000), Arrived("nut", 4)])

        assert running.states(Stock) == {("nut",): Stock("nut", 5)}
        assert running.state(Stock, "nut") == Stock("nut", 5)


def test_commands_see_the_facts_before_them_and_none_after(url: str) -> None:
    """Facts and commands in one commit are taken in their order, of states in memory as of those that are not."""
    asked: list[h.Command | h.Event] = [Take("nut"), Arrived("nut", 1), Take("nut"), Take("nut"), Arrived("nut", 1)]
    with shop.open(url, run=False) as running:
        running.record(Arrived("bolt", 3))
        running.record(Arrived("nut", 1))
    for units in (1, 1):
        with shop.open(url, run=False) as running:
            outcomes = [isinstance(outcome, h.Refused) for outcome in running.dispatch_all(asked)]

            assert outcomes == [False, False, False, True, False]
            assert running.state(Stock, "nut") == running.states(Stock)["nut",] == Stock("nut", units)
            assert running.state(Stock, "bolt") == Stock("bolt", 3)


def test_a_fact_that_evolve_cannot_take_stops_its_key_alone(url: str) -> None:
    """It has happened all the same; the states of other facts in the commit go on, in memory as on disk."""
    with shop.open(url, run=False) as running:
        running.record_all([Arrived("nut", 1), Arrived("nut", -1), Arrived("nut", 5), Arrived("bolt", 2)])
        assert running.state(Stock, "bolt") == Stock("bolt", 2)
        with pytest.raises(h.Stuck, match="less than nothing"):
            running.state(Stock, "nut")
    with shop.open(url, run=False) as running:
        with pytest.raises(h.Stuck, match="less than nothing"):
            running.state(Stock, "nut")
        running.record_all([Arrived("bolt", 2)])
        assert running.state(Stock, "bolt") == Stock("bolt", 4)


def test_the_rows_are_those_that_facts_have_alone(url: str) -> None:
    """Apart from id, time, salt and digest, a fact's row is the same by either way, and so is what is counted."""
    with shop.open(url, run=False) as running:
        running.record(Arrived("nut", 1), actor="ann", correlation="tour")
        before = running.statistics()["commands"]
        running.record_all([h.Message(Arrived("nut", 1), actor="ann", correlation="tour")])
        running.record_all([Arrived("nut", 1), Arrived("nut", 1)])

        assert running.statistics()["commands"] == before + 3
        one, same = running.log.conversation("tour")
        assert (one.records, one.input, one.count) == (same.records, same.input, same.count)
        heads = [msgspec.json.decode(row.head, type=dict[str, str]) for row in (one, same)]
        assert [{key: value for key, value in head.items() if key != "i"} for head in heads] == [{"a": "ann", "g": "tour"}] * 2
        assert len({head["i"] for head in heads}) == 2


def test_no_two_records_have_one_salt(url: str) -> None:
    """It goes with what is erased: where another record had it, whoever guesses the body could prove it."""
    with shop.open(url, run=False) as running:
        running.record_all([Arrived("nut", number) for number in range(300)])
        list(running.dispatch_all([Arrived("bolt", 1), Take("bolt"), Take("bolt")]))
        running.record(Arrived("nut", 1))
        salts = [row.salts for page in running.log.engine.read() for row in page]

    apart = [salt[start : start + SALT_BYTES] for salt in salts for start in range(0, len(salt), SALT_BYTES)]
    assert len(apart) > 300
    assert len(set(apart)) == len(apart)
