"""A system that knows people: commands, answers of the outside, refusals and views that hold what must be erased."""

from collections.abc import Iterator
from typing import Annotated

import happened as h

Customer = Annotated[str, h.Tag("customer")]
SECRET = "Rosalind-Franklin"
"""What is looked for in files: it stands in commands, events, answers, refusals and views."""


class Met(h.Event):
    customer: Customer
    name: str


class Called(h.Event):
    customer: Customer
    nth: int
    what: str


class Call(h.Command):
    customer: Customer
    what: str


class Order(h.Command):
    customer: Customer
    what: str


class Ordered(h.Event):
    customer: Customer
    what: str


class Person(h.State):
    customer: Customer
    name: str = ""
    calls: int = 0
    last: str = ""

    def evolve(self, event: Met | Called) -> "Person":
        match event:
            case Met():
                return self.but(name=event.name)
            case Called():
                return self.but(calls=self.calls + 1, last=event.what)


class People(h.State):
    count: int = 0

    def evolve(self, event: Met) -> "People":
        return self.but(count=self.count + 1)


def mood(customer: str) -> str:
    """Say how somebody is: the outside knows."""
    return SECRET if customer == "c-1" else "well"


def call(command: Call, person: Person, world: h.World) -> Iterator[Called]:
    """Note a call, with how they are."""
    answer = world.ask(mood, command.customer)
    yield Called(command.customer, person.calls + 1, f"{command.what} {answer}")


def order(command: Order, person: Person) -> Iterator[Ordered]:
    """Refuse whom nobody knows, by name."""
    if command.what == SECRET:
        raise h.Refused(f"{person.name} orders {command.what}")
    yield Ordered(command.customer, command.what)


customers = h.App("customers", records=[Met], deciders=[call, order], gateways=[mood], views=[Person, People])


def filled(running: h.Running) -> None:
    """Fill a log: of c-1 a fact, three calls with answers, and a refused order; of c-2 a fact and a call."""
    running.record(Met("c-1", SECRET), id="met-1")
    running.record(Met("c-2", "Max"), id="met-2")
    for number in range(3):
        running.dispatch(Call("c-1", f"{SECRET} {number}"), id=f"call-{number}")
    running.dispatch(Call("c-2", "hello"), id="call-max")
    try:
        running.dispatch(Order("c-1", SECRET), id="order-1")
    except h.Refused:
        return
    raise AssertionError("it is refused")
