"""How far reactions were by a position, as the log says; and the past while others write."""

import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

import happened as h
from happened.core.state import fold_of
from happened.past import Checkpoint
from happened.shelf.snapshots import Kept, SnapshotsFile
from happened.sourcing import snapshot as taking
from tests.travel.made import Cancel, Line, Order, Ordered, Received, Stock, cancel, history, shop


def refuse_far(event: Ordered) -> Iterator[Cancel]:
    if event.country != "CH":
        yield Cancel(event.order)


reacting = h.App("shop", records=[Received, Ordered], deciders=[cancel], reactions=[refuse_far])


def test_how_far_a_reaction_was_is_the_last_event_on_which_it_had_acted(tmp_path: Path) -> None:
    with reacting.open(f"sqlite:///{tmp_path}/shop.db") as running:
        first = running.record(Ordered("o-1", "DE", (Line("a", 1),)))
        running.settled(first)
        between = running.log.head
        second = running.record(Ordered("o-2", "FR", (Line("a", 1),)))
        running.settled(second)
        assert running.at(first).checkpoints() == ()
        [early] = running.at(between).checkpoints()
        assert (early.handler, early.position) == ("refuse_far", first.position)
        assert first.position < early.acted_at <= between
        [late] = running.at(running.log.head).checkpoints()
        assert late == Checkpoint("refuse_far", second.position, late.acted_at)
        assert second.position < late.acted_at <= running.log.head


def test_the_past_stands_still_while_others_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots are taken by their own thread meanwhile, as often as it can, and change no answer."""
    monkeypatch.setattr(taking, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(taking, "LEAST_SECONDS", 1e-5)
    url = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(url, run=False) as running:
        history(running, 21, 30)
        middle = running.log.head
        expected = {state: running.states(state) for state in (Stock, Order)}
    with shop.open(url) as running:
        writing = threading.Thread(target=history, args=(running, 22, 60))
        writing.start()
        looks = 0
        while writing.is_alive() or not running.snapshots.listed(shop.snapped()):
            past = running.at(middle)
            assert {state: past.states(state) for state in expected} == expected
            assert past.state(Stock, "sku-1") == expected[Stock].get(("sku-1",))
            looks += 1
        writing.join()
        assert looks
        head = running.log.head
        running.catch_up()
        listed = running.snapshots.listed(shop.snapped())
        assert {one.wrong for one in listed} == {""}
        assert running.at(head).states(Order) == running.states(Order)
        assert running.log.verify().position >= head


def test_a_snapshot_that_was_not_finished_is_not_seen(tmp_path: Path) -> None:
    file = SnapshotsFile(str(tmp_path / "shop.snapshots.db"))
    about = Kept(0, "Stock", "code", "log", 1, 5, bytes(32), 1, 0, 0, 0.0)

    def chunks() -> Iterator[bytes]:
        yield b"one"
        assert file.listed() == []
        assert len(file.unfinished()) == 1
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        file.put(about, chunks())
    assert (file.listed(), file.unfinished()) == ([], [])
    made = file.put(about, [b"one", b"two"])
    [kept] = file.listed()
    assert (kept.id, kept.chunks, kept.bytes, list(file.chunks(kept))) == (made, 2, 6, [b"one", b"two"])
    file.close()
    with pytest.raises(h.Closed):
        file.listed()


def test_what_a_taker_can_not_take_is_said_and_the_rest_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(taking, "LEAST_SECONDS", 1e-5)

    class Failing(h.State):
        sku: str

        def evolve(self, event: Received) -> "Failing":
            raise ValueError("no")

    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        for n in range(50):
            running.record(Received("a", n, Decimal(1)))
        taker = taking.Taker(running.log, running.snapshots, [fold_of(Failing), fold_of(Stock)])
        taker.look()
        assert list(taker.failures) == ["Failing"]
        assert "stands still" in taker.failures["Failing"]
        assert {one.state for one in running.snapshots.listed(shop.snapped())} == {"Stock"}


def test_what_a_taker_could_not_write_it_tries_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file can't be opened for a time: that is told while it lasts, and is no reason to take none until the app is opened anew."""
    monkeypatch.setattr(taking, "LEAST_SECONDS", 1e-5)
    with shop.open(f"sqlite:///{tmp_path}/shop.db", run=False) as running:
        for n in range(50):
            running.record(Received("a", n, Decimal(1)))
        taker = taking.Taker(running.log, running.snapshots, [fold_of(Stock)])
        in_the_way = tmp_path / "shop.snapshots.db"
        in_the_way.mkdir()
        taker.look()
        assert "StoreFailed" in taker.failures["Stock"]
        in_the_way.rmdir()
        taker.look()
        assert list(taker.failures) == ["Stock"], "it is left alone for a while"

        now = time.monotonic
        monkeypatch.setattr(time, "monotonic", lambda: now() + taking.AGAIN_SECONDS)
        taker.look()

        assert taker.failures == {}
        assert {one.state for one in running.snapshots.listed(shop.snapped())} == {"Stock"}
