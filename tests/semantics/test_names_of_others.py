"""What another process has recorded is read by one that was open before it had a name for it."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

import happened as h
from tests.semantics.model import Balance, Deposit, Deposited, bank
from tests.transfer.model import until


def test_a_name_that_another_process_gave_is_known_wherever_reading_begins(any_url: str) -> None:
    """Also behind the place where the name was given."""
    with bank.open(any_url, run=False) as before, bank.open(any_url, run=False) as other:
        other.record(Deposited("a", 1))
        first = other.log.head
        other.dispatch(Deposit("a", 2))

        read = list(before.log.read(after=first))

    assert [record.body for record in read] == [Deposit("a", 2), Deposited("a", 2)]
    assert [record.handler for record in read] == [None, "deposit"]


def test_what_came_of_a_command_is_heard_by_who_was_open_before(any_url: str) -> None:
    """Whoever has decided it may have given names that are new to whoever asks."""
    with bank.open(any_url, run=False) as before:
        with bank.open(any_url) as other:
            kept = other.enqueue(Deposit("a", 3))
            receipt = other.outcome(kept)

        found: h.Receipt = before.outcome(kept)

    assert found.events == (Deposited("a", 3),)
    assert found.position == receipt.position


def test_a_condition_by_name_sees_what_another_process_has_named(any_url: str) -> None:
    """Though the process that sets it was open before and has read nothing since."""
    with bank.open(any_url, run=False) as early, bank.open(any_url, run=False) as other:
        other.dispatch(Deposit("a", 1))
        with pytest.raises(h.Conflict):
            early.log.append([h.Loose("Noted", {})], unless=h.Boundary(h.query(names=["Deposited"]), 0))


def test_the_past_of_what_others_recorded_first_is_whole(any_url: str) -> None:
    """As of a position that this process has not come to by itself."""
    with bank.open(any_url, run=False) as early, bank.open(any_url, run=False) as other:
        receipt = other.dispatch(Deposit("a", 1))

        assert early.states(Balance) == {("a",): Balance("a", 1, 1)}
        assert early.at(receipt).state(Balance, "a") == Balance("a", 1, 1)
        assert early.state(Balance, "a", since=receipt) == Balance("a", 1, 1)
        with early.branch(at=0) as branch:
            assert not branch.diff()


def test_what_another_process_has_named_is_found_by_its_name(any_url: str) -> None:
    """From the moment on at which it is recorded, in either direction, with and without a tag."""
    with bank.open(any_url, run=False) as before, bank.open(any_url, run=False) as other:
        other.record(Deposited("a", 1))
        for query in (h.query(names=["Deposited"]), h.query(names=["Deposited"], account="a")):
            for backwards in (False, True):
                assert [record.body for record in before.log.read(query, backwards=backwards)] == [Deposited("a", 1)]


class Heard(h.Command):
    amount: int


def hear(event: Deposited) -> Iterator[Heard]:
    yield Heard(event.amount)


def heard(_command: Heard) -> Iterator[Deposited]:
    return iter(())


@pytest.mark.parametrize("whole", [False, True])
def test_what_another_process_has_named_is_not_settled_before_it_is_heard(any_url: str, whole: bool) -> None:
    """Nobody hears it yet, since no process runs reactions: of what it has caused as of the whole log that is said."""
    app = h.App("bank", records=[Deposited], deciders=[heard], reactions=[hear])
    with app.open(any_url, run=False) as before, app.open(any_url, run=False) as other:
        receipt = other.record(Deposited("a", 1))
        with pytest.raises(h.Late, match="has not heard position"):
            before.settled(None if whole else receipt, wait_seconds_max=0)
        with app.open(any_url):
            assert before.settled(None if whole else receipt).done


def test_a_command_that_another_process_has_named_is_decided_by_who_was_open_before(any_url: str) -> None:
    """It is the first that the log ever had, and whoever decides it has read nothing since it was opened."""
    with bank.open(any_url) as before, bank.open(any_url, run=False) as other:
        kept = other.enqueue(Deposit("a", 3))

        assert other.outcome(kept).events == (Deposited("a", 3),)
        assert other.stuck() == before.stuck() == []
        assert other.settled(kept).done


def hear_later(event: Deposited) -> Iterator[h.Later[Heard]]:
    yield h.Later(Heard(event.amount), after=timedelta(0))


def test_what_another_process_has_named_rings_where_the_timers_were_run_before(any_url: str) -> None:
    """Who sends it has read nothing of what was recorded since."""
    without = h.App("bank", records=[Deposited], deciders=[heard])
    app = h.App("bank", records=[Deposited], deciders=[heard], reactions=[hear_later])
    with without.open(any_url) as before, app.open(any_url) as other:
        receipt = other.record(Deposited("a", 1))
        until(lambda: any(record.name == "Heard" for record in other.log.read()) or bool(other.stuck()))

        assert other.stuck() == before.stuck() == []
        assert other.settled(receipt).done
