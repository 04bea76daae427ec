"""What another process has recorded is read by one that was open before it had a name for it."""

import happened as h
from tests.semantics.model import Deposit, Deposited, bank


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
