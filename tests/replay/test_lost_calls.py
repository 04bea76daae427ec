"""A call to the outside whose decision was lost is known, where the gateway says that its calls are noted."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import pytest

import happened as h
from happened.log.records import ANSWERED
from happened.sourcing.asked import NOTE

ROOT = Path(__file__).parents[2]
Account = Annotated[str, h.Tag("account")]


class Charge(h.Command):
    account: Account


class Charged(h.Event):
    account: Account
    number: int


def card(account: str) -> int:
    """Stand for the outside."""
    return len(account)


def nothing(account: str) -> int:
    """Stand for the outside that says what the decider fails on."""
    return -1


def charge(command: Charge, world: h.World) -> Iterator[Charged]:
    """Ask it."""
    number = world.ask(card, command.account)
    if number < 0:
        raise ValueError("the code failed after it had asked")
    yield Charged(command.account, number)


def app(*, noted: bool = True) -> h.App:
    """Return an app whose gateway has its calls noted."""
    return h.App("till", deciders=[charge], gateways=[h.Gateway(card, noted=noted)])


CHILD = """
import os, sys
from tests.replay.test_lost_calls import Charge, app, card
def dies(account):
    os._exit(9)
with app().open(sys.argv[1], gateways={card: dies}) as running:
    running.enqueue(Charge("a"), id="c-1") if sys.argv[2] == "enqueue" else running.dispatch(Charge("a"), id="c-1")
    running.log.wait(1 << 60, 30)
"""


def killed(url: str, how: str) -> None:
    """Have a process die while it asks."""
    child = subprocess.run([sys.executable, "-c", CHILD, url, how], cwd=ROOT, check=False, timeout=60)
    assert child.returncode == 9


def asked(running: h.Running) -> list[str]:
    """Return the calls that are noted."""
    return [json.loads(body)["command"] for body in running.log.engine.notes(NOTE).values()]


def lost_in(running: h.Running) -> list[int]:
    """Return what the recorded answers say of calls that were lost."""
    return [record.body.get("lost", 0) for record in running.log.read() if record.kind == ANSWERED]


@pytest.mark.parametrize("how", ["dispatch", "enqueue"])
def test_a_call_whose_process_died_is_told_and_recorded_with_the_next_one(tmp_path: Path, how: str) -> None:
    """Twice killed, and then answered: the answer says that two calls were lost before it."""
    url = f"sqlite:///{tmp_path}/till.db"
    killed(url, how)
    killed(url, how)

    with app().open(url, run=False) as running:
        told = running.statistics()["lost_calls"]
        receipt = running.dispatch(Charge("a"), id="c-1") if how == "dispatch" else None
    if receipt is None:
        with app().open(url) as running:
            while not lost_in(running):
                running.log.wait(running.log.head, 1)
    with app().open(url, run=False) as running:
        assert [(one["command"], one["gateway"], one["lost"]) for one in told] == [("c-1", "card", 1)]
        assert lost_in(running) == [2]
        assert asked(running) == []
        assert running.statistics()["lost_calls"] == []


def test_a_lost_call_is_told_with_the_key_that_the_outside_was_given(tmp_path: Path) -> None:
    """By it a person finds at the outside what came of the call."""
    url = f"sqlite:///{tmp_path}/till.db"
    killed(url, "dispatch")
    keys: list[str] = []

    def listens(account: str, key: h.CallId) -> int:
        keys.append(key)
        return 1

    with app().open(url, run=False, gateways={card: listens}) as running:
        [told] = running.statistics()["lost_calls"]
        running.dispatch(Charge("a"), id="c-1")

    assert [told["key"]] == keys


def test_a_call_that_came_back_leaves_no_note(tmp_path: Path) -> None:
    """Whether it was recorded, refused, or the decider failed on it: what came of it is known."""
    url = f"sqlite:///{tmp_path}/till.db"
    with app().open(url) as running:
        running.dispatch(Charge("a"), id="c-1")
    with app().open(url, gateways={card: nothing}) as running, pytest.raises(ValueError, match="failed after"):
        running.dispatch(Charge("a"), id="c-2")

    with app().open(url, run=False) as running:
        assert (asked(running), lost_in(running), running.statistics()["lost_calls"]) == ([], [0], [])


def test_a_call_of_another_process_that_lives_is_not_lost(tmp_path: Path) -> None:
    """It may still be answered: its note says who asks."""
    url = f"sqlite:///{tmp_path}/till.db"
    seen: list[int] = []

    def looks(account: str) -> int:
        with app().open(url, run=False) as other:
            seen.append(len(asked(other)))
            seen.append(len(other.statistics()["lost_calls"]))
        return 1

    with app().open(url, gateways={card: looks}) as running:
        running.dispatch(Charge("a"), id="c-1")

    assert seen == [1, 0]


def test_without_it_nothing_is_noted(tmp_path: Path) -> None:
    """It costs a commit, so it is asked for."""
    url = f"sqlite:///{tmp_path}/till.db"
    seen: list[int] = []

    def looks(account: str) -> int:
        with app(noted=False).open(url, run=False) as other:
            seen.append(len(asked(other)))
        return 1

    with app(noted=False).open(url, gateways={card: looks}) as running:
        running.dispatch(Charge("a"), id="c-1")

    assert seen == [0]


def test_answer_error_duration_and_attempt_are_recorded_with_the_decision(tmp_path: Path) -> None:
    """Of each question, whether it came to anything or not."""
    url = f"sqlite:///{tmp_path}/till.db"
    calls: list[str] = []

    def second(account: str) -> int:
        calls.append(account)
        if len(calls) == 1 or account == "down":
            raise ConnectionError("nobody there")
        return 7

    def charge_anyway(command: Charge, world: h.World) -> Iterator[Charged]:
        try:
            yield Charged(command.account, world.ask(card, command.account))
        except h.GatewayFailed:
            yield Charged(command.account, 0)

    till = h.App("till", deciders=[charge_anyway], gateways=[h.Gateway(card, attempts_max=2)])
    with till.open(url, gateways={card: second}) as running:
        running.dispatch(Charge("a"), id="c-1")
        running.dispatch(Charge("down"), id="c-2")
        answers = [record.body for record in running.log.read() if record.kind == ANSWERED]

    assert [(one["gateway"], one["arguments"], one.get("answer"), one.get("error"), one["attempt"]) for one in answers] == [
        ("card", ["a"], 7, None, 2),
        ("card", ["down"], None, "ConnectionError: nobody there", 2),
    ]
    assert all(one["us"] > 0 for one in answers)
