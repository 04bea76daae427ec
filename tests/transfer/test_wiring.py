"""What can be known to be wrong between systems is said by `App(...)` and `open`, with what to mend."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sql

import happened as h
from tests.transfer.model import (
    AddressChanged,
    Bill,
    Billed,
    Card,
    CustomerNo,
    Debtor,
    DebtorMoved,
    Left,
    Moved,
    address_changed,
    bill,
    billing,
    crm,
)


class Hears(h.State):
    customer: CustomerNo
    count: int = 0

    def evolve(self, event: AddressChanged) -> "Hears":
        return self


@h.named("Card")
class Other(h.State):
    customer: CustomerNo


def two(event: Moved) -> Moved | Left:
    return event


def no_event(command: Bill) -> AddressChanged:
    return AddressChanged("", "")


def wants_world(event: Moved, world: h.World) -> AddressChanged:
    return AddressChanged(event.customer, str(world.now))


def many(command: Bill, debtors: Mapping[str, Debtor]) -> Iterator[Billed]:
    yield from ()


def unlisted(command: Bill, debtor: h.Replica[Debtor]) -> Iterator[Billed]:
    yield from ()


def react(event: AddressChanged) -> Iterator[Bill]:
    yield from ()


def write(event: AddressChanged, connection: sql.Connection) -> None:
    """Write nothing."""


wrong_channel: Any = 7


def app(**tables: Any) -> Callable[[], h.App]:
    return lambda: h.App("some", **tables)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (
            app(records=[Moved, AddressChanged], publications=[address_changed]),
            "is published by `address_changed`, and it is recorded here",
        ),
        (app(records=[Moved], publications=[address_changed], views=[Hears]), "`Hears` listens to it"),
        (
            app(records=[Moved], deciders=[bill], replicas={"crm": [Debtor]}, publications=[address_changed], reactions=[react]),
            "`react` listens to it",
        ),
        (
            app(records=[Moved], publications=[address_changed], projections=[h.Projection(write, into="sqlite:///x.db")]),
            "`write` listens to it",
        ),
        (
            app(records=[Moved], publications=[address_changed, address_changed]),
            "`address_changed` is the name of the publication `address_changed`, and of the publication `address_changed`: list it once",
        ),
        (app(publications=[two]), "with one event"),
        (app(publications=[no_event]), "its first parameter, `Bill`, is a command"),
        (app(publications=[wants_world]), "a publication may ask for states and `Recorded`"),
        (app(publications=[AddressChanged]), "which is no function"),
        (app(shares=[Debtor]), "has no `evolve`"),
        (app(shares=[Moved]), "`shares` lists `Moved`, which is no State"),
        (app(subscriptions={"crm": [Card]}), "lists `Card` under `crm`, which is no event"),
        (app(subscriptions={"crm": DebtorMoved}), "a list is taken here"),
        (app(subscriptions=[DebtorMoved]), "is a table by the other system's name"),
        (app(subscriptions={"crm/x": [DebtorMoved]}), "names systems by text"),
        (app(subscriptions={"crm": [DebtorMoved], "erp": [DebtorMoved]}), "comes from `erp` and from somewhere else, too"),
        (app(records=[DebtorMoved], subscriptions={"crm": [DebtorMoved]}), "give each its own class"),
        (app(replicas={"crm": [Card]}), "is a replica and has an `evolve`"),
        (app(replicas={"crm": [Debtor, Other]}), "is listed twice"),
        (app(deciders=[many], replicas={"crm": [Debtor]}), "not for a Mapping of them"),
        (app(deciders=[unlisted]), "which the app keeps none of"),
    ],
)
def test_wrong_tables_are_said_when_the_app_is_made(make: Callable[[], h.App], text: str) -> None:
    """Nothing is found out only when something arrives."""
    with pytest.raises(h.Invalid, match=text):
        make()


@pytest.mark.parametrize(
    ("channels", "text"),
    [
        ({}, "it is not said where that is"),
        ({"crm": None, "erp": None}, "no subscription or replica of `erp`"),
        ({"crm": "memory:"}, "names no log that another process has"),
        ({"crm": 7}, "is no channel"),
    ],
)
def test_a_channel_that_is_missing_or_none_is_said_at_open(channels: Mapping[str, Any], text: str) -> None:
    """Not at the first use."""
    with pytest.raises(h.Invalid, match=text):
        billing.open("memory:", channels=channels)


def test_who_only_reads_and_dispatches_need_not_say_where_a_system_is(tmp_path: Path) -> None:
    """It is left to the processes that run the app; what is no system of the app is said all the same."""
    url = f"sqlite:///{tmp_path}/billing.db"
    with billing.open(url, run=False) as running:
        assert running.statistics()["subscriptions"] is not None
    with pytest.raises(h.Invalid, match="no subscription or replica of `erp`"):
        billing.open(url, run=False, channels={"erp": None})


def test_an_app_that_is_not_opened_for_its_channels_leaves_no_file_open(tmp_path: Path) -> None:
    """Neither the log's nor the views': they could not be deleted, or moved, until the process ends."""
    url = f"sqlite:///{tmp_path}/billing.db"
    with pytest.raises(h.Invalid, match="is no channel") as error:
        billing.open(url, channels={"crm": wrong_channel})

    assert error.traceback, "it holds all that was made on the way"
    links = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.exists()]
    assert [link for link in links if link.startswith(str(tmp_path))] == []


def test_one_published_name_is_no_clash_with_our_own() -> None:
    """What comes from elsewhere has that system's name before its own."""

    @h.named("AddressChanged")
    class Own(h.Event):
        customer: CustomerNo

    both = h.App("billing", records=[Own], subscriptions={"crm": [DebtorMoved]})

    with both.open("memory:", channels={"crm": None}) as running:
        running.record(Own("c-1"))
        [name] = [record.name for record in running.log.read() if record.kind == "input"]
    assert name == "AddressChanged"
    assert both.topology()["subscriptions"] == {"crm": ["crm/AddressChanged"]}


def test_a_replica_that_is_not_listed_is_said() -> None:
    """Asking for it says which there are."""
    with crm.open("memory:") as running, pytest.raises(h.Invalid, match="is not among the app's replicas: none"):
        running.replica(Debtor, "c-1")
