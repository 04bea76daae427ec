"""The program of the reference that looks into the past does what it says, with gateways that are only asked while things happen."""

from decimal import Decimal
from pathlib import Path

import happened as h
from tests.programs import p02_order, p08_past
from tests.programs.p02_order import Bought, PlaceOrder, Stock, StockReceived, Wish


def test_then_and_now(tmp_path: Path) -> None:
    log = f"sqlite:///{tmp_path}/shop.db"

    async def real(sku: str, units: int) -> Decimal:
        return Decimal(len(sku) * units)

    with p02_order.shop.open(log, gateways={p02_order.price: real}) as running:
        received = running.record(StockReceived("widget", 10), id="delivery")
        running.dispatch(PlaceOrder("o-1", "c-1", (Wish("widget", 3),)), id="order")
        ordered = running.log.head
    with p02_order.shop.open(log) as running:  # its gateway raises if it is asked
        assert p08_past.main(log, h.Position(received.position)) == (Stock("widget", 10), Stock("widget", 7))
        assert running.at(ordered).view(Bought).get("c-1", "widget") == Bought("c-1", "widget", 3)
        assert running.at(received).view(Bought).find("c-1", "widget") is None
