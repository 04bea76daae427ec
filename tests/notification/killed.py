"""A system of two reactions, a timer and a decider that asks, which processes work on that are killed."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import happened as h

ROOT = Path(__file__).parents[2]
Key = Annotated[str, h.Tag("key")]
NO_KEY = h.CallId("")


class Came(h.Event):
    key: Key
    number: int


class Count(h.Command):
    key: Key
    number: int


class Counted(h.Event):
    key: Key
    number: int
    place: int
    code: str


class Write(h.Command):
    key: Key
    number: int


class Wrote(h.Event):
    key: Key
    number: int
    text: str


class Remind(h.Command):
    key: Key
    number: int


class Reminded(h.Event):
    key: Key
    number: int


class Tally(h.State):
    key: Key
    count: int = 0
    digest: int = 0
    """Of all numbers in their order."""
    wrote: int = 0
    reminded: int = 0

    def evolve(self, event: Counted | Wrote | Reminded) -> "Tally":
        match event:
            case Counted():
                return self.but(count=self.count + 1, digest=(self.digest * 31 + event.number) % 1_000_003)
            case Wrote():
                return self.but(wrote=self.wrote + 1)
            case Reminded():
                return self.but(reminded=self.reminded + 1)


def mail(text: str, key: h.CallId = NO_KEY) -> str:
    """Stand for the outside."""
    raise NotImplementedError


def answered(text: str, key: h.CallId) -> str:
    """Answer at once."""
    return text


def system(code: str) -> h.App:
    """Return the app as this code has it: the same names, and what it decides says which it was."""

    def on_came(event: Came) -> Iterator[Count | h.Later[Remind]]:
        yield Count(event.key, event.number)
        if event.number % 5 == 0:
            yield h.Later(Remind(event.key, event.number), after=timedelta(milliseconds=event.number % 7))

    def on_counted(event: Counted, world: h.World) -> Iterator[Write]:
        if event.number % 3 == 0:
            world.ask(mail, f"{event.key} {event.number}")
            yield Write(event.key, event.number)

    def count(command: Count, tally: Tally) -> Iterator[Counted]:
        yield Counted(command.key, command.number, tally.count, code)

    def write(command: Write, world: h.World) -> Iterator[Wrote]:
        yield Wrote(command.key, command.number, world.ask(mail, f"write {command.key} {command.number}"))

    def remind(command: Remind, tally: Tally) -> Iterator[Reminded]:
        yield Reminded(command.key, command.number)

    return h.App(
        "killed",
        records=[Came],
        deciders=[count, write, remind],
        reactions=[h.Reaction(on_came, by="key"), h.Reaction(on_counted, by="key")],
        gateways=[mail],
    )


def child(url: str, code: str) -> "subprocess.Popen[str]":
    """Start a process that works, and wait until it has the log open."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.notification.child", url, code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    return process
