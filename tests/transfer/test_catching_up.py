"""A copy that has much to catch up with: of each key only the last change is looked at, and it is proven all the same."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

import happened as h
from happened.transfer import replica as copying
from happened.transfer.channel import LogChannel
from tests.transfer.model import Card, CustomerNo, Debtor, Left, Moved, Paid, Rough, acts, copied, expected, until
from tests.transfer.test_replicas import Haunted, equal, replica

KEYS = 5


@h.named("Card")
class Small(h.State):
    """A copy that can't hold everything."""

    customer: CustomerNo
    country: Annotated[str, msgspec.Meta(max_length=5)] = ""


class Noted(h.Event):
    """What is not of the share."""

    text: str


crm = h.App("crm", records=[Moved, Paid, Left, Noted], shares=[Card])
billing = h.App("billing", replicas={"crm": [Debtor]})
billing_of_small_countries = h.App("billing", replicas={"crm": [Small]})


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return how many keys waited, of each time that what was taken in was looked at."""
    settle: Callable[[copying.Copy[Any]], None] = copying.Copy[Any].settle
    counts: list[int] = []

    def counted(copy: copying.Copy[Any]) -> None:
        if copy.waits:
            counts.append(copy.waits)
        settle(copy)

    monkeypatch.setattr(copying.Copy, "settle", counted)
    return counts


def small_pages(monkeypatch: pytest.MonkeyPatch, *, seconds: float = 600.0) -> None:
    """Let a page have few records, and those of one row at once, and what was taken in wait for so long."""
    monkeypatch.setattr("happened.transfer.channel.PAGE_ROWS", 1)
    monkeypatch.setattr("happened.transfer.channel.RECORDS_MAX", 1)
    monkeypatch.setattr(copying, "TOGETHER_SECONDS", seconds)


def filled(url: str, moves: int) -> None:
    """Let some customers move so often, one after the other, and all of it be shared in many rows."""
    with crm.open(url) as upstream:
        for number in range(moves):
            upstream.record(Moved(f"c-{number % KEYS}", f"street {number}", f"country {number}"))
            until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)


def test_of_a_key_that_changes_often_only_the_last_change_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: list[int]
) -> None:
    """All pages are looked at together."""
    small_pages(monkeypatch)
    url = f"sqlite:///{tmp_path}/crm.db"
    filled(url, 40)
    with crm.open(url, run=False) as upstream, billing.open("memory:", channels={"crm": url}) as running:
        until(lambda: equal(running))
        assert copied(running) == expected(upstream)
        assert replica(running)["healed"] == replica(running)["rebuilt"] == 0
    assert sum(looked_at) <= KEYS + 2
    assert max(looked_at) <= KEYS + 1


def test_no_more_keys_wait_than_may(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, looked_at: list[int]) -> None:
    """However long there is more to come."""
    small_pages(monkeypatch)
    monkeypatch.setattr(copying, "WAITING_MAX", 2)
    url = f"sqlite:///{tmp_path}/crm.db"
    filled(url, 40)
    with crm.open(url, run=False) as upstream, billing.open("memory:", channels={"crm": url}) as running:
        until(lambda: equal(running))
        assert copied(running) == expected(upstream)
    assert max(looked_at) <= 4
    assert len(looked_at) >= 10


def test_a_state_that_is_over_need_not_be_one_that_the_copy_can_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came after it is in its place."""
    small_pages(monkeypatch)
    url = f"sqlite:///{tmp_path}/crm.db"
    with crm.open(url) as upstream:
        for country in ("first", "far too large", "last"):
            upstream.record(Moved("c-1", "a", country))
            until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)

    with billing_of_small_countries.open("memory:", channels={"crm": url}) as running:
        until(lambda: equal(running))
        assert running.replica(Small, "c-1").state == Small("c-1", "last")


def test_a_beacon_that_comes_again_is_no_proof_of_what_came_since(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does it take the place of the last one, which was passed while more was known to come."""
    small_pages(monkeypatch)
    url = f"sqlite:///{tmp_path}/crm.db"
    filled(url, 1)
    with crm.open(url) as upstream:
        channel = Haunted(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), [])
        channel.keeping = True
        with billing.open("memory:", channels={"crm": channel}) as running:
            until(lambda: equal(running))
    assert channel.kept[-1].what == "beacon"
    filled(url, 12)
    with crm.open(url) as upstream:
        upstream.record(Noted("by the way"))
        channel = Haunted(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), channel.kept)
        with billing.open("memory:", channels={"crm": channel}) as running:
            until(lambda: equal(running))
            assert copied(running) == expected(upstream)
            assert replica(running)["healed"] == replica(running)["rebuilt"] == 0


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("seconds", [0.0, 0.01, 600.0])
def test_it_is_proven_wherever_pages_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, seconds: float) -> None:
    """Also where the last beacon was passed while more was known to come, and what came was nothing of this share; doubled, shuffled and late.

    A channel that is not honest may hand out a change after it has said that all had come: that is seen at the next beacon.
    """
    small_pages(monkeypatch, seconds=seconds)
    chance = random.Random(seed)
    monkeypatch.setattr("happened.transfer.channel.RECORDS_MAX", chance.randrange(1, 7))
    url, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(url) as upstream:
        for _ in range(2):
            for act in acts(chance, 20, 4):
                upstream.record(act)
                if chance.random() < 0.3:
                    until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)
            upstream.record(Noted("by the way"))  # the log ends with what is not of the share
            channel = LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False)
            with billing.open(own, channels={"crm": Rough(channel, chance, honest=seed % 2 == 0) if seed % 3 else channel}) as running:
                until(lambda: equal(running) and (seed % 2 == 0 or copied(running) == expected(upstream)))
                assert copied(running) == expected(upstream)
                upstream.record(Moved("c-9", "a", "France"))
                until(lambda: equal(running) and "c-9" in copied(running))
                assert running.replica(Debtor, "c-9").state == Debtor("c-9", "France")
