"""What an open app asks of its log when there is nothing to do: little, however many handlers it has."""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any  # Any: whatever a statement is given

import psycopg
import pytest

import happened as h
from tests.servers import fresh

Name = Annotated[str, h.Tag("name")]


class Said(h.Event):
    name: Name


class Answer(h.Command):
    name: Name


class Answered(h.Event):
    name: Name


class Heard(h.State):
    name: Name
    count: int = 0

    def evolve(self, event: Answered) -> "Heard":
        return self.but(count=self.count + 1)


class Told(h.Event):
    name: Name


def answer(command: Answer, heard: Heard) -> Iterator[Answered]:
    yield Answered(command.name)


def on_said(event: Said) -> Iterator[Answer]:
    yield Answer(event.name)


def tell(event: Answered) -> Told:
    return Told(event.name)


talk = h.App("talk", records=[Said], deciders=[answer], reactions=[on_said], publications=[tell], views=[Heard], shares=[Heard])


def test_an_app_that_has_nothing_to_do_asks_the_server_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some looks for all that wait, the leases, the sweep of old tables: some twenty statements a second, where it once were hundreds."""
    asked: Counter[str] = Counter()
    execute = psycopg.Cursor.execute

    def counted(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        asked[str(query)[:80]] += 1
        return execute(self, query, *args, **options)

    with talk.open(fresh()) as running:
        running.record(Said("a"))
        running.settled()
        time.sleep(1.5)  # what has happened is taken up by all
        monkeypatch.setattr(psycopg.Cursor, "execute", counted)
        time.sleep(2)
        monkeypatch.undo()

    assert 0 < asked.total() < 120, asked
