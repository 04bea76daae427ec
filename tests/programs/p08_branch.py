"""Alternative state of the shop of orders: other stock, another answer of the outside, and a function for new questions."""

from decimal import Decimal

import happened as h
from tests.programs.p02_order import Stock, StockReceived, price, shop


def dearer(sku: str, units: int) -> Decimal:
    return Decimal(10) * units


def changed(running: h.Running, seen: h.Position, answered: h.Position) -> tuple[h.Difference, int]:
    """Say what would have been with other stock and another price, and how many units there would be."""
    with running.branch(
        h.Change(seen, StockReceived("widget", 5)),
        h.Answer(answered, Decimal("9.99")),
        answers={price: dearer},
    ) as branch:
        return branch.diff(), branch.view(Stock).get(sku="widget", since=branch.log.head).units


__all__ = ["changed", "shop"]
