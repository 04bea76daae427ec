"""A state that can't be read: nothing is decided without it, whatever a decider or reaction makes of the error that it catches."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest

import happened as h

Sku = Annotated[str, h.Tag("sku")]


class Counted(h.Event):
    sku: Sku
    units: int


class Sell(h.Command):
    sku: str
    of: str = "stock"


class Sold(h.Event):
    sku: Sku


class Stock(h.State):
    sku: Sku
    units: int = 0

    def evolve(self, event: Counted) -> "Stock":
        if event.units < 0:
            raise ValueError("negative")
        return self.but(units=event.units)


def sell_whatever(command: Sell, world: h.World) -> Iterator[Sold]:
    """Sell also where it can't be known what is there: the mistake that is planted."""
    try:
        world.state(Stock, command.of)
    except Exception:  # noqa: BLE001 - as above
        if command.sku == "refused":
            raise h.Refused("nobody knows what is there") from None
    yield Sold(command.sku)


def sell_if_there(command: Sell, world: h.World) -> list[Sold]:
    """Do the same, as no generator."""
    return list(sell_whatever(command, world))


def sell_too(event: Counted, world: h.World) -> Iterator[Sell]:
    """Sell whatever was counted, also where that can't be known."""
    try:
        world.state(Stock, event.sku)
    except h.Error:
        yield Sell("lamp", "unknown")


@pytest.mark.parametrize("decider", [sell_whatever, sell_if_there])
@pytest.mark.parametrize("sku", ["lamp", "refused"])
def test_a_decider_that_catches_it_decides_nothing(tmp_path: Path, decider: Any, sku: str) -> None:
    """The caller hears why it could not be read, and nothing is recorded: neither an event nor a refusal."""
    app = h.App("shop", records=[Counted], deciders=[decider])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        running.record(Counted("stock", -1))
        before = running.log.head

        with pytest.raises(h.Stuck, match="negative"):
            running.dispatch(Sell(sku), id="1")

        assert [record.id for record in running.log.read(after=before) if record.kind != "system"] == []
        assert running.dispatch(Sell(sku, "other"), id="1").events == (Sold(sku),)


def test_trouble_of_the_store_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It passes, so the same command may be asked for again; and it is no failure of the decider."""
    app = h.App("shop", records=[Counted], deciders=[sell_whatever])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        running.record(Counted("stock", 1))

        def away(*_: object) -> Any:
            raise h.StoreFailed("the disk is away")

        with monkeypatch.context() as broken:
            broken.setattr("happened.sourcing.memory_image.ImageOverlay.get", away)
            with pytest.raises(h.StoreFailed, match="away"):
                running.dispatch(Sell("lamp"), id="1")

        assert [(one["handler"], one["outcome"]) for one in running.statistics()["executions"]] == [("sell_whatever", "trouble")]
        assert [node.id for node in running.flow().nodes if node.failed] == []
        assert running.dispatch(Sell("lamp"), id="1").events == (Sold("lamp"),)


def test_a_reaction_that_catches_it_is_held(tmp_path: Path) -> None:
    """It sends nothing, and its event is listed with why."""
    app = h.App("shop", records=[Counted], deciders=[sell_whatever], reactions=[sell_too])
    with app.open(f"sqlite:///{tmp_path}/log.db") as running:
        receipt = running.record(Counted("stock", -1))

        settled = running.settled(receipt, wait_seconds_max=30)

        assert [(held.handler, "negative" in held.error) for held in settled.stuck] == [("sell_too", True)]
        assert not [record for record in running.log.read() if record.name == "Sell"]
