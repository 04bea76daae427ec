"""What another release or other code has written is not misread: the error says what it takes."""

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import pytest

import happened as h
from happened.core.store import Commit, Terms, Unseen
from happened.log.row import Header, Written, seal
from tests.semantics.model import Deposit, bank

Parcel = Annotated[str, h.Tag("parcel")]


class OrderSent(h.Event):
    parcel: Parcel


class SendOrder(h.Command):
    parcel: Parcel


def send(command: SendOrder) -> Iterator[OrderSent]:
    """Send it."""
    yield OrderSent(command.parcel)


def put(log: h.Log, *records: Written, notes: dict[str, str | None] | None = None) -> None:
    """Record what this release would not."""

    def decide(unseen: Unseen) -> Commit:
        head = unseen.head
        row = seal(head.digest, head.position + 1, head.at, Header(), None, records, bytes(16 * len(records)))
        return Commit([row] if records else [], [Terms((), None, ())] if records else [], notes or {})

    log.engine.append(decide, log.head)


def test_a_newer_format_is_not_opened(url: str) -> None:
    """The error names both formats."""
    with bank.open(url, run=False) as running:
        note = running.log.engine.notes("log")["log"]
        put(running.log, notes={"log": note.replace('"format":1', '"format":2')})

    attempts: list[Callable[[], object]] = [lambda: bank.open(url, run=False), lambda: h.open_log(url)]
    for attempt in attempts:
        with pytest.raises(h.Incompatible, match=r"format 2.*up to 1.*newer release"):
            attempt()


def test_a_kind_that_came_later_is_not_opened(url: str) -> None:
    """Whoever records a number that older releases do not know notes which release reads it, and the older ones say so."""
    with bank.open(url, run=False) as running:
        put(running.log, notes={"kind/15": "2.1"})

    attempts: list[Callable[[], object]] = [lambda: bank.open(url, run=False), lambda: h.open_log(url)]
    for attempt in attempts:
        with pytest.raises(h.Incompatible, match=r"number 15.*release 2\.1"):
            attempt()


LOOKS: dict[str, Callable[[h.Running], object]] = {
    "read": lambda running: list(running.log.read()),
    "verify": lambda running: running.log.verify(),
    "dispatch": lambda running: running.dispatch(Deposit("a", 1)),
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_kind_that_comes_while_a_log_is_open_is_said(url: str, look: str) -> None:
    """A newer process writes beside this one: what can't be understood stops it, and is no puzzle."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        with h.open_log(url) as newer:
            put(newer, Written(15, b"{}"))

        with pytest.raises(h.Incompatible, match=r"number 15.*newer"):
            LOOKS[look](running)


def test_a_name_that_no_class_claims_is_listed_as_it_is_ignored(url: str) -> None:
    """The error prints the call that is needed, if that is what is meant; then the log opens, and is read as plain data."""
    with h.App("parcels", deciders=[send]).open(url, run=False) as running:
        running.dispatch(SendOrder("p"))

    with pytest.raises(h.Incompatible, match="event `OrderSent` version 1") as found:
        h.App("parcels").open(url, run=False)
    assert 'ignores=["OrderSent", "SendOrder"]' in str(found.value)
    with h.App("parcels", ignores=["OrderSent", "SendOrder"]).open(url, run=False) as running:
        assert [record.body for record in running.log.read(h.query(parcel="p"))] == [{"parcel": "p"}]


def test_a_version_that_no_class_claims_is_listed(url: str) -> None:
    """A class of another version is another class."""

    @h.named("OrderSent", version=2)
    class Sent(h.Event):
        parcel: Parcel

    with h.App("parcels", records=[Sent]).open(url, run=False) as running:
        running.record(Sent("p"))

    with pytest.raises(
        h.Incompatible, match=r"`OrderSent` version 2.*has version 1 here, so open the log with the release that has recorded version 2"
    ):
        h.App("parcels", records=[OrderSent]).open(url, run=False)


@pytest.mark.parametrize("ignores", ["SR", [OrderSent], ["OrderSent", OrderSent], [None]])
def test_what_is_ignored_is_a_list_of_names(ignores: Any) -> None:
    """Neither one text, whose letters would be taken for names, nor a class."""
    with pytest.raises(h.Invalid, match=r"ignores=\["):
        h.App("parcels", ignores=ignores)
