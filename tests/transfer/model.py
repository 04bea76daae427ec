"""Two systems for tests: crm tells of its customers, billing keeps a copy of them and hears when they move."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from typing import Annotated

import msgspec

import happened as h
from happened.transfer.channel import Channel, Origin, Page, Published, Standing

CustomerNo = Annotated[str, h.Tag("customer")]


class Moved(h.Event):
    customer: CustomerNo
    street: str
    country: str


class Paid(h.Event):
    customer: CustomerNo
    amount: Decimal


class Left(h.Event):
    customer: CustomerNo


class Card(h.State):
    customer: CustomerNo
    street: str = ""
    country: str = ""
    paid: Decimal = Decimal(0)

    def evolve(self, event: Moved | Paid | Left) -> "Card | None":
        match event:
            case Moved():
                return self.but(street=event.street, country=event.country)
            case Paid():
                return self.but(paid=self.paid + event.amount)
            case Left():
                return None


@h.named("AddressChanged")
class AddressChanged(h.Event):
    customer: CustomerNo
    country: str


def address_changed(event: Moved) -> AddressChanged | None:
    """Abroad is nobody's business."""
    return AddressChanged(event.customer, event.country) if event.country != "nowhere" else None


crm = h.App("crm", records=[Moved, Paid, Left], publications=[address_changed], shares=[Card])


@h.named("Card")
class Debtor(h.State):
    """Some of a card's fields."""

    customer: CustomerNo
    country: str = ""
    paid: Decimal = Decimal(0)


@h.named("AddressChanged")
class DebtorMoved(h.Event):
    customer: CustomerNo
    country: str


class Moves(h.State):
    customer: CustomerNo
    countries: tuple[str, ...] = ()

    def evolve(self, event: DebtorMoved) -> "Moves":
        return self.but(countries=(*self.countries, event.country))


class Bill(h.Command):
    customer: CustomerNo
    net: Decimal


class Billed(h.Event):
    customer: CustomerNo
    country: str
    gross: Decimal


def bill(command: Bill, debtor: Debtor | None) -> Iterator[Billed]:
    if debtor is None:
        raise h.Refused("unknown")
    yield Billed(command.customer, debtor.country, command.net)


billing = h.App("billing", deciders=[bill], views=[Moves], subscriptions={"crm": [DebtorMoved]}, replicas={"crm": [Debtor]})


def acts(chance: random.Random, count: int, customers: int) -> list[Moved | Paid | Left]:
    """Return what happens to some customers: they come, move, pay, and leave."""
    done: list[Moved | Paid | Left] = []
    for number in range(count):
        customer = f"c-{chance.randrange(customers)}"
        what = chance.random()
        if what < 0.6:
            done.append(Moved(customer, f"street {number}", chance.choice(["France", "Germany", "nowhere"])))
        elif what < 0.85:
            done.append(Paid(customer, Decimal(chance.randrange(1000)) / 100))
        else:
            done.append(Left(customer))
    return done


def until(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something to come true; fail if it does not."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.005)


def copied(running: h.Running) -> dict[str, Debtor]:
    """Return all rows of the copy, by key, as SQL sees them."""
    return {row.customer: row for row in running.replica_rows(Debtor, limit=1_000_000)}


def expected(upstream: h.Running) -> dict[str, Debtor]:
    """Return what the copy must hold, by a fold of the origin's whole log."""
    upstream.catch_up()
    return {key[0]: Debtor(card.customer, card.country, card.paid) for key, card in upstream.states(Card).items()}


def told(upstream: h.Running) -> list[tuple[str, str]]:
    """Return what was published, as billing must have recorded it."""
    return [
        (record.body.customer, record.body.country)
        for record in upstream.log.read()
        if record.name == "Moved" and record.body.country != "nowhere"
    ]


def heard(running: h.Running) -> list[tuple[str, str]]:
    """Return what billing has recorded of it."""
    return [(record.body.customer, record.body.country) for record in running.log.read() if record.name == "crm/AddressChanged"]


LATE_TIMES = 4
"""How often what comes late is handed out."""


class Rough:
    """A channel that hands out everything at least once, and takes liberties: doubles, shuffles within windows, and hands out some records late.

    With `honest`, a page says up to where it is whole. Without, it says what is not so: late records come after it said that they had come.
    """

    def __init__(self, channel: Channel, chance: random.Random, *, honest: bool, window: int = 12) -> None:
        self._channel = channel
        self._chance = chance
        self._honest = honest
        self._window = window
        self._late: dict[int, list[tuple[Published, int]]] = {}
        """By thread, since each that reads is owed its own: what, and how often it is still handed out. A reader may lose a page that it has begun with."""
        self._given: list[Published] = []
        self._delayed: set[int] = set()
        """What came late once does not again: whoever begins anew comes to an end."""
        self.down = False

    def origin(self) -> Origin:
        self._check()
        return self._channel.origin()

    def head(self) -> int:
        self._check()
        return self._channel.head()

    def recorded_at(self, position: int) -> tuple[int, str] | None:
        self._check()
        return self._channel.recorded_at(position)

    def standing(self, share: str) -> Standing | None:
        self._check()
        return self._channel.standing(share)

    def close(self) -> None:
        self._channel.close()

    def read(self, after: int, wait_seconds_max: float) -> Page:
        self._check()
        chance = self._chance
        late_before = self._late.pop(threading.get_ident(), [])
        owed = [one for one, _ in late_before]
        page = self._channel.read(after, 0 if owed else wait_seconds_max)
        items = list(page.items)
        position = page.position
        if self._honest and len(items) > 1:
            cut = chance.randrange(len(items))
            position = max(after, items[cut].position - 1) if chance.random() < 0.5 else position
        elif not self._honest:
            late = {one.position for one in items if one.position not in self._delayed and chance.random() < 0.1}
            self._delayed |= late
            again = [(one, left) for one, left in late_before if one.position > after]  # a look back is not where they are waited for
            again += [(one, left - 1) for one, left in late_before if one.position <= after and left > 1]
            self._late[threading.get_ident()] = [*again, *((one, LATE_TIMES) for one in items if one.position in late)]
            items = [*(one for one in items if one.position not in late), *owed]
        items += [one for one in self._given[-50:] if chance.random() < 0.2]
        self._given = (self._given + items)[-200:]
        for start in range(0, len(items), self._window):
            part = items[start : start + self._window]
            chance.shuffle(part)
            items[start : start + self._window] = part
        items += [one for one in items if chance.random() < 0.2]
        return Page(items, position, page.head)

    def _check(self) -> None:
        if self.down:
            raise h.StoreFailed("the line is cut")


class Behind:
    """A channel whose pages end where its origin ended when the page before was read."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._before: dict[int, int] = {}
        """By thread: a page that was asked for in vain is a moment, too."""
        self.origin, self.head, self.recorded_at = channel.origin, channel.head, channel.recorded_at
        self.standing, self.close = channel.standing, channel.close

    def read(self, after: int, wait_seconds_max: float) -> Page:
        me = threading.get_ident()
        before = max(after, self._before.get(me, 0))
        page = self._channel.read(after, wait_seconds_max)
        self._before[me] = page.position
        time.sleep(0.002)
        return Page([one for one in page.items if one.position <= before], min(before, page.position), min(before, page.head))


class Counted:
    """A channel that keeps what each of its pages says of where the origin ends."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.heads: list[int] = []
        self.origin, self.head, self.recorded_at = channel.origin, channel.head, channel.recorded_at
        self.standing, self.close = channel.standing, channel.close

    def read(self, after: int, wait_seconds_max: float) -> Page:
        page = self._channel.read(after, wait_seconds_max)
        self.heads.append(page.head)
        return page


def published(upstream: h.Running, what: str) -> Sequence[dict[str, object]]:
    """Return the bodies of what was published, of one name."""
    return [msgspec.to_builtins(record.body) for record in upstream.log.read() if record.kind == "output" and record.name == what]
