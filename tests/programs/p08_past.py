"""A state as it was at a position, beside what it is now."""

import happened as h
from tests.programs.p02_order import Stock, shop


def main(log: str, seen: h.Position) -> tuple[Stock | None, Stock | None]:
    with shop.open(log) as running:
        past = running.at(seen)
        now = running.state(Stock, sku="widget")
        then = past.state(Stock, sku="widget")
        return then, now
