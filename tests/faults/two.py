"""Two systems under simulation: a bank that thanks, reminds, tells and shares; and an office that hears of it, answers, and keeps a copy. Handlers fail now and then."""

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Annotated

import happened as h

Account = Annotated[str, h.Tag("account")]
ACCOUNTS = "abc"
LARGE, REMINDED_EACH = 50, 3


class Ways:
    """Whether a handler fails now."""

    def __init__(self) -> None:
        self.fails: Callable[[], bool] = lambda: False

    def look(self) -> None:
        """Fail, if it is to."""
        if self.fails():
            raise RuntimeError("it does not work now")


ways = Ways()


class Deposited(h.Event):
    account: Account
    number: int
    amount: int


class Moved(h.Event):
    account: Account
    amount: int


class Thanked(h.Event):
    account: Account
    number: int
    place: int


class Reminded(h.Event):
    account: Account
    number: int


class Emptied(h.Event):
    account: Account


class Move(h.Command):
    source: Account
    target: Account
    amount: int


class Empty(h.Command):
    account: Account


class Thank(h.Command):
    account: Account
    number: int


class Remind(h.Command):
    account: Account
    number: int


class Balance(h.State):
    account: Account
    amount: int = 0
    changes: int = 0

    def evolve(self, event: Deposited | Moved | Emptied) -> "Balance | None":
        match event:
            case Deposited() | Moved():
                return self.but(amount=self.amount + event.amount, changes=self.changes + 1)
            case Emptied():
                return None


class Thanks(h.State):
    account: Account
    count: int = 0

    def evolve(self, event: Thanked) -> "Thanks":
        return self.but(count=self.count + 1)


@h.named("Large")
class Large(h.Event):
    account: Account
    number: int


def move(command: Move, source: Balance, target: Balance) -> Iterator[Moved]:
    """Move money: two events or none."""
    if command.amount > source.amount:
        raise h.Refused("too little", left=source.amount)
    yield Moved(command.source, -command.amount)
    yield Moved(command.target, command.amount)


def empty(command: Empty, balance: Balance | None) -> Iterator[Emptied]:
    """Close an account, if it is one and has nothing."""
    if balance is None or balance.amount:
        raise h.Refused("not now")
    yield Emptied(command.account)


def thank(command: Thank, thanks: Thanks) -> Iterator[Thanked]:
    """Thank for a deposit."""
    yield Thanked(command.account, command.number, thanks.count)


def remind(command: Remind) -> Iterator[Reminded]:
    """Remind of a deposit."""
    ways.look()
    yield Reminded(command.account, command.number)


def on_deposited(event: Deposited, balance: Balance) -> Iterator[Thank | h.Later[Remind]]:
    """Thank at once, and remind later of some."""
    ways.look()
    yield Thank(event.account, event.number)
    if event.number % REMINDED_EACH == 0:
        yield h.Later(Remind(event.account, event.number), after=timedelta(seconds=event.number % 7))


def large(event: Deposited) -> Large | None:
    """Tell others of what is large."""
    ways.look()
    return Large(event.account, event.number) if event.amount >= LARGE else None


bank = h.App(
    "bank",
    records=[Deposited],
    deciders=[move, empty, thank, remind],
    reactions=[h.Reaction(on_deposited, since=0)],
    publications=[h.Publication(large, since=0)],
    shares=[Balance],
    views=[Balance, Thanks],
)


@h.named("Balance")
class Copied(h.State):
    account: Account
    amount: int = 0


@h.named("Large")
class Heard(h.Event):
    account: Account
    number: int


class Answer(h.Command):
    account: Account
    number: int


class Answered(h.Event):
    account: Account
    number: int


class Answers(h.State):
    account: Account
    heard: tuple[int, ...] = ()
    answered: tuple[int, ...] = ()

    def evolve(self, event: Heard | Answered) -> "Answers":
        match event:
            case Heard():
                return self.but(heard=(*self.heard, event.number))
            case Answered():
                return self.but(answered=(*self.answered, event.number))


def answer(command: Answer) -> Iterator[Answered]:
    """Answer what was heard."""
    yield Answered(command.account, command.number)


def on_heard(event: Heard) -> Iterator[Answer]:
    """Have it answered."""
    ways.look()
    yield Answer(event.account, event.number)


office = h.App(
    "office",
    deciders=[answer],
    reactions=[h.Reaction(on_heard, by="account", since=0)],
    views=[Answers],
    subscriptions={"bank": [Heard]},
    replicas={"bank": [Copied]},
)
