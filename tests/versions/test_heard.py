"""What another system published in an older version is heard as today's classes say."""

from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any  # Any: bodies of any class

import pytest

import happened as h
from tests.transfer.model import until

CustomerNo = Annotated[str, h.Tag("customer")]


class Seen(h.Event):
    """What happens in the other system, whatever it says of it."""

    customer: CustomerNo
    street: str


class Line(h.Value):
    street: str


h.named("Address")(Line)


@h.named("Address", version=2)
class Address(h.Value):
    street: str
    house: str


@h.named("Moved")
class Moved1(h.Event):
    customer: CustomerNo
    to: Line
    fee: float


@h.named("Moved", version=2)
class Moved2(h.Event):
    customer: CustomerNo
    to: Line
    fee: Decimal


@h.named("Moved", version=2)
class Moved(h.Event):
    """As the listening system reads it, with today's address."""

    customer: CustomerNo
    to: Address
    fee: Decimal


def say_1(event: Seen) -> Moved1:
    return Moved1(event.customer, Line(event.street), 1.5)


def say_2(event: Seen) -> Moved2:
    return Moved2(event.customer, Line(event.street), Decimal("2.50"))


def say_3(event: Seen) -> Moved:
    street, _, house = event.street.rpartition(" ")
    return Moved(event.customer, Address(street, house), Decimal("3.50"))


def exact(old: h.Data) -> h.Data:
    return old | {"fee": str(old["fee"])}


def with_house(old: h.Data) -> h.Data:
    street, _, house = old["street"].rpartition(" ")
    return {"street": street, "house": house}


class Homes(h.State):
    customer: CustomerNo
    houses: tuple[str, ...] = ()

    def evolve(self, event: Moved) -> "Homes":
        return self.but(houses=(*self.houses, f"{event.to.house} {event.fee}"))


class Greet(h.Command):
    customer: CustomerNo
    house: str


class Greeted(h.Event):
    customer: CustomerNo
    house: str


def greet(command: Greet) -> Iterator[Greeted]:
    yield Greeted(command.customer, command.house)


def welcome(event: Moved) -> Iterator[Greet]:
    yield Greet(event.customer, event.to.house)


def listening(*upcasts: Any, events: Iterable[type[h.Event]] = (Moved,)) -> h.App:
    own = Moved in events
    return h.App(
        "billing",
        deciders=[greet],
        reactions=[welcome] if own else [],
        views=[Homes] if own else [],
        subscriptions={"crm": list(events)},
        upcasts=upcasts,
    )


TODAY = (h.Upcast("crm/Moved", 1, exact), h.Upcast("Address", 1, with_house))


@pytest.fixture
def crm(tmp_path: Path) -> str:
    """Have one system say three things, each in another release."""
    url = f"sqlite:///{tmp_path}/crm.db"
    for number, say in enumerate((say_1, say_2, say_3), 1):
        told: Callable[..., h.Event] = h.named("moved")(say)
        with h.App("crm", records=[Seen], publications=[told]).open(url) as running:
            assert running.settled(running.record(Seen("c", f"High Street {number}"), id=f"seen-{number}")).done
    return url


def of(running: h.Running) -> dict[str, Any]:
    found: dict[str, Any]
    [found] = running.statistics()["subscriptions"]
    return found


def heard(running: h.Running) -> list[Any]:
    return [record.body for record in running.log.read() if record.name.startswith("crm/")]


EXPECTED = [
    Moved("c", Address("High Street", "1"), Decimal("1.5")),
    Moved("c", Address("High Street", "2"), Decimal("2.50")),
    Moved("c", Address("High Street", "3"), Decimal("3.50")),
]


def test_what_was_published_in_older_versions_is_lifted_before_anybody_hears_it(crm: str) -> None:
    """The event and the value nested in it, each as the origin's schema says; states, views and reactions see the same."""
    with listening(*TODAY).open(channels={"crm": crm}) as running:
        until(lambda: len(heard(running)) == 3)
        assert running.settled().done
        assert heard(running) == EXPECTED
        assert running.view(Homes).get("c", since=running.log.head) == Homes("c", ("1 1.5", "2 2.50", "3 3.50"))
        assert running.state(Homes, "c") == Homes("c", ("1 1.5", "2 2.50", "3 3.50"))
        assert [record.body.house for record in running.log.read() if record.name == "Greeted"] == ["1", "2", "3"]
        assert len(list(running.log.read(h.query(customer="c", names=["crm/Moved"])))) == 3
        assert not of(running)["unread"]
        running.log.verify()


def test_what_was_heard_and_could_not_be_read_is_read_with_its_upcasts(crm: str, tmp_path: Path) -> None:
    """A release that has none says what is missing; the next one mends it, and is refused without them no more."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with listening(h.Upcast("Address", 1, with_house)).open(own, channels={"crm": crm}) as running:
        until(lambda: len(of(running)["unread"]) == 1 and len(heard(running)) == 3)
        [unread] = of(running)["unread"]
        assert (
            'the class reads version 2: where that is newer, say in `upcasts` how it is read, `Upcast("crm/Moved", 1, ...)`'
            in unread["error"]
        )
    with listening(*TODAY).open(own, channels={"crm": crm}) as running:
        until(lambda: not of(running)["unread"])
        assert running.settled().done
        assert [body for body in heard(running) if isinstance(body, Moved)] == [*EXPECTED[1:], EXPECTED[0]]
        assert running.state(Homes, "c") == Homes("c", ("2 2.50", "3 3.50", "1 1.5"))


def test_an_upcast_that_fails_keeps_what_came_until_it_is_mended(crm: str, tmp_path: Path) -> None:
    """The others are heard meanwhile."""
    own = f"sqlite:///{tmp_path}/billing.db"

    def broken(old: h.Data) -> h.Data:
        return old | {"fee": str(old["price"])}

    with listening(h.Upcast("crm/Moved", 1, broken), TODAY[1]).open(own, channels={"crm": crm}) as running:
        until(lambda: len(of(running)["unread"]) == 1 and len(heard(running)) == 3)
        assert "`crm/Moved` version 1 at position" in of(running)["unread"][0]["error"]
        assert "KeyError: 'price'" in of(running)["unread"][0]["error"]
    with listening(*TODAY).open(own, channels={"crm": crm}) as running:
        until(lambda: not of(running)["unread"])
        assert len([body for body in heard(running) if isinstance(body, Moved)]) == 3


@h.named("Moved")
class Heard1(h.Event):
    customer: CustomerNo
    to: Line
    fee: float


def test_what_an_older_release_heard_is_lifted_where_it_is_read(crm: str, tmp_path: Path) -> None:
    """It stands in this log as it was heard."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with listening(events=[Heard1]).open(own, channels={"crm": crm}) as running:
        until(lambda: len(heard(running)) == 3)
        assert heard(running)[0] == Heard1("c", Line("High Street 1"), 1.5)
    with listening(*TODAY).open(own, channels={"crm": None}) as running:
        assert heard(running)[0] == EXPECTED[0]
        assert running.state(Homes, "c") == Homes("c", ("1 1.5",))


@h.named("Relocated", version=2)
class Relocated(h.Event):
    customer: CustomerNo
    fee: float


@h.named("Charged")
class Charged(h.Event):
    customer: CustomerNo
    fee: float


def parted(old: h.Data) -> Iterable[tuple[str, h.Data]]:
    return [("crm/Relocated", {"customer": old["customer"], "fee": 0}), ("crm/Charged", {"customer": old["customer"], "fee": old["fee"]})]


def between(old: Heard1) -> Relocated:
    return Relocated(old.customer, old.fee)


def between_parted(old: Heard1) -> Iterator[Relocated | Charged]:
    yield Relocated(old.customer, 0)
    yield Charged(old.customer, old.fee)


RENAMED = [Relocated("c", 1.5)]
PARTED = [Relocated("c", 0), Charged("c", 1.5)]


@pytest.mark.parametrize(
    ("upcast", "expected"),
    [
        (h.Upcast("crm/Moved", 1, to="crm/Relocated"), RENAMED),
        (between, RENAMED),
        (h.Upcast("crm/Moved", 1, parted), PARTED),
        (between_parted, PARTED),
    ],
    ids=["renamed", "from class to class", "split", "split by classes"],
)
def test_what_was_renamed_or_split_is_heard_under_the_new_names(crm: str, upcast: Any, expected: list[Any]) -> None:
    """Each in one row, under one id, once."""
    app = listening(upcast, events=[Relocated, Charged])
    with app.open(channels={"crm": crm}) as running:
        until(lambda: of(running)["lag"] == 0)
        read = [record for record in running.log.read() if isinstance(record.body, h.Event)]
        assert [record.body for record in read] == expected
        assert len({record.row for record in read}) == 1
        assert [record.id.partition("#")[2] for record in read] == ["", "1"][: len(expected)]
        running.log.verify()


def test_an_own_event_of_the_same_name_has_upcasts_of_its_own(crm: str) -> None:
    """What is recorded here under that name is another thing."""

    @h.named("Moved", version=2)
    class Own(h.Event):
        pieces: int

    def own_2(old: Heard1) -> Own:
        return Own(int(old.fee))

    app = h.App("billing", records=[Own], subscriptions={"crm": [Moved]}, upcasts=[own_2, *TODAY])
    assert set(app.lifts.steps) == {("Moved", 1), ("crm/Moved", 1), ("Address", 1)}
