"""What another process has recorded is read by one that was open before it had a name for it."""

import pytest

import happened as h
from tests.semantics.model import Balance, Deposit, Deposited, bank


def test_a_name_that_another_process_gave_is_known_wherever_reading_begins(any_url: str) -> None:
    """Also behind the place where the name was given."""
    with bank.open(any_url, run=False) as before, bank.open(any_url, run=False) as other:
        other.record(Deposited("a", 1))
        first = other.log.head
        other.dispatch(Deposit("a", 2))

        assert [record.body for record in before.log.read(after=first)] == [Deposit("a", 2), Deposited("a", 2)]


def test_what_came_of_a_command_is_heard_by_who_was_open_before(any_url: str) -> None:
    """Whoever has decided it may have given names that are new to whoever asks."""
    with bank.open(any_url, run=False) as before:
        with bank.open(any_url) as other:
            kept = other.enqueue(Deposit("a", 3))
            receipt = other.outcome(kept)

        found: h.Receipt = before.outcome(kept)

    assert found.events == (Deposited("a", 3),)
    assert found.position == receipt.position


def test_what_is_asked_for_by_name_is_found_though_another_process_gave_the_name(any_url: str) -> None:
    """Who has the log open since before then finds it at once: to read, and as a condition."""
    with bank.open(any_url, run=False) as early, bank.open(any_url, run=False) as other:
        position = other.dispatch(Deposit("a", 1)).position
        asked = h.query(names=["Deposited"])
        with h.open_log(any_url) as late:
            [expected] = [record.position for record in late.read(asked)]

        assert [record.position for record in early.log.read(asked)] == [expected]
        with pytest.raises(h.Conflict):
            early.log.append([h.Loose("Noted", {})], unless=h.Boundary(asked, 0))
        assert expected >= position


def test_the_past_of_what_others_recorded_first_is_whole(any_url: str) -> None:
    """As of a position that this process has not come to by itself."""
    with bank.open(any_url, run=False) as early, bank.open(any_url, run=False) as other:
        receipt = other.dispatch(Deposit("a", 1))

        assert early.at(receipt).state(Balance, "a") == Balance("a", 1, 1)
        assert early.state(Balance, "a", since=receipt) == Balance("a", 1, 1)
        with early.branch(at=0) as branch:
            assert not branch.diff()
