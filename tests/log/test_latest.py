"""What a process has recorded of late is at hand for who follows the log in it, and is what a reader of the log would find."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import happened as h
from happened.core.store import Row
from happened.log import latest
from tests.semantics.model import Balance, Deposit, Deposited, bank
from tests.servers import fresh

LONG = 1_000


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def running(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[h.Running]:
    """Return an app on each store; somebody has asked what is at hand."""
    url = {"memory": "memory:", "sqlite": f"sqlite:///{tmp_path}/log.db"}.get(request.param) or fresh()
    with bank.open(url, run=False) as running:
        running.log.writer.latest.behind(0, LONG)
        yield running


def there(running: h.Running) -> list[Row]:
    """Return all rows, as they are read."""
    return [row for page in running.log.engine.read() for row in page]


def ended(running: h.Running, facts: list[Deposited]) -> int:
    """Record facts in one commit, and return the position of the last."""
    receipt = running.record_all(facts)
    assert receipt is not None
    return receipt.position


def test_nothing_is_kept_until_somebody_has_asked() -> None:
    """A process that has no views has no use for it."""
    with bank.open("memory:", run=False) as running:
        running.record(Deposited("a", 1))
        assert running.log.writer.latest.behind(0, LONG) is None
        assert running.log.writer.latest.behind(running.log.head, LONG) is None


def test_it_is_what_a_reader_finds_from_any_position_on(running: h.Running) -> None:
    """With the digest of the row before; `None` where no row ends there, and at the end."""
    start = running.log.head
    for number in range(4):
        running.dispatch(Deposit("a", number))
        running.record_all([Deposited("b", number), Deposited("c", number), Deposited("d", number)])
    rows = there(running)
    ends = {0: bytes(32)} | {row.last: row.digest for row in rows}
    for position in range(running.log.head + 2):
        found = running.log.writer.latest.behind(position, LONG)
        if position < start or position not in ends or position == running.log.head:
            assert found is None
        else:
            assert found == (ends[position], [row for row in rows if row.position > position])


def test_a_page_has_as_many_rows_as_are_asked_for(running: h.Running) -> None:
    """The next one begins where it ends."""
    start = running.log.head
    running.record_all([Deposited("a", 1)] * 7)
    rows, read = [row for row in there(running) if row.position > start], list[Row]()
    while (found := running.log.writer.latest.behind(read[-1].last if read else start, 3)) is not None:
        assert len(found[1]) <= 3
        read += found[1]
    assert read == rows


def test_what_others_record_ends_it(tmp_path: Path) -> None:
    """What lies behind that is at hand again, and never what lies on both sides of it."""
    url = f"sqlite:///{tmp_path}/log.db"
    with bank.open(url, run=False) as running, bank.open(url, run=False) as other:
        kept = running.log.writer.latest
        kept.behind(0, LONG)
        first = running.record(Deposited("a", 1))
        theirs = other.record(Deposited("a", 2))
        found = kept.behind(first.position - 1, LONG)
        assert found is not None
        assert [row.last for row in found[1]] == [first.position]
        assert kept.behind(first.position, LONG) is None
        last = running.record(Deposited("a", 3))
        assert kept.behind(first.position - 1, LONG) is None
        assert kept.behind(first.position, LONG) is None
        found = kept.behind(theirs.position, LONG)
        assert found is not None
        assert [row.last for row in found[1]] == [last.position]


@pytest.mark.parametrize("by", ["this", "another"])
def test_nothing_is_kept_over_an_erasure(tmp_path: Path, by: str) -> None:
    """Neither what was erased, nor what says so: that is read, and with it what it asks for."""
    url = f"sqlite:///{tmp_path}/log.db"
    with bank.open(url, run=False) as running, bank.open(url, run=False) as other:
        kept = running.log.writer.latest
        kept.behind(0, LONG)
        before = running.log.head
        first = running.record(Deposited("a", 1))
        assert kept.behind(before, LONG) is not None
        (running if by == "this" else other).erase(first.id, actor="ann", reason="asked")
        said = running.log.head
        last = running.record(Deposited("b", 1))
        assert kept.behind(before, LONG) is None
        assert kept.behind(first.position, LONG) is None
        found = kept.behind(said, LONG)
        assert found is not None
        assert [row.last for row in found[1]] == [last.position]


def test_what_came_to_nothing_is_not_there(running: h.Running) -> None:
    """An id that is known records nothing."""
    first = running.dispatch(Deposit("a", 1), id="one")
    assert running.dispatch(Deposit("a", 1), id="one").repeated
    assert running.log.writer.latest.behind(first.position, LONG) is None


def test_it_is_bounded(running: h.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the bytes of bodies; what was committed last is there, however long."""
    monkeypatch.setattr(latest, "BYTES_MAX", 1_000)
    ends = [ended(running, [Deposited("a" * 90, 1)] * 3) for _ in range(20)]
    found = [running.log.writer.latest.behind(end, LONG) is not None for end in ends]
    assert not any(found[:10])
    assert found[-3:] == [True, True, False]
    running.record_all([Deposited("b" * 500, 1)] * 20)
    assert running.log.writer.latest.behind(ends[-1], LONG) is not None
    assert running.log.writer.latest.behind(ends[-2], LONG) is None


def test_what_is_let_go_of_takes_no_place(running: h.Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """After an erasure as much is kept of what comes as before."""
    monkeypatch.setattr(latest, "BYTES_MAX", 1_000)
    ended(running, [Deposited("a" * 500, 1)] * 20)
    running.log.writer.latest.forget()
    first, *_, last = [ended(running, [Deposited("b", 1)]) for _ in range(3)]
    found = running.log.writer.latest.behind(first, LONG)
    assert found is not None
    assert found[1][-1].last == last


def test_a_view_follows_its_own_process_and_others_in_turn(tmp_path: Path) -> None:
    """Each event once, whoever has recorded it."""
    url = f"sqlite:///{tmp_path}/log.db"
    with bank.open(url) as running, bank.open(url, run=False) as other:
        for number in range(1, 60):
            who = other if number % 7 < 2 else running
            last = who.record(Deposited("a", number))
            if number % 5 == 0:
                shown = running.view(Balance).get("a", since=last)
                assert (shown.amount, shown.changes) == (number * (number + 1) // 2, number)
