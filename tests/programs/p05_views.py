"""Views: a key that is no tag, a computed key, a join, a deletion, and the event's time in a row."""

from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import happened as h

CustomerNo = Annotated[str, h.Tag("customer")]
OrderNo = Annotated[str, h.Tag("order")]


class CustomerMoved(h.Event):
    customer: CustomerNo
    country: str


class OrderPlaced(h.Event):
    order: OrderNo
    customer: CustomerNo
    country: str
    total: Decimal


class OrderClosed(h.Event):
    order: OrderNo


class CountryRevenue(h.State):
    country: str  # no default: the key. No tag: taken from the event's field of that name
    revenue: Decimal = Decimal(0)

    def evolve(self, event: OrderPlaced) -> "CountryRevenue":
        return self.but(revenue=self.revenue + event.total)


class MonthRevenue(h.State):
    month: str
    revenue: Decimal = Decimal(0)

    @staticmethod
    def key_of(event: OrderPlaced, record: h.Recorded) -> str:
        return f"{record.occurred:%Y-%m}"

    def evolve(self, event: OrderPlaced) -> "MonthRevenue":
        return self.but(revenue=self.revenue + event.total)


class Customer(h.State):
    customer: CustomerNo
    country: str = "unknown"

    def evolve(self, event: CustomerMoved) -> "Customer":
        return self.but(country=event.country)


class HomeRevenue(h.State):
    home: str
    revenue: Decimal = Decimal(0)

    @staticmethod
    def key_of(event: OrderPlaced, customer: Customer) -> str:
        return customer.country

    def evolve(self, event: OrderPlaced) -> "HomeRevenue":
        return self.but(revenue=self.revenue + event.total)


class OpenOrder(h.State):
    order: OrderNo
    country: Annotated[str, h.Index()] = ""
    total: Decimal = Decimal(0)
    placed: datetime = datetime.min.replace(tzinfo=UTC)

    def evolve(self, event: OrderPlaced | OrderClosed, record: h.Recorded) -> "OpenOrder | None":
        match event:
            case OrderPlaced():
                return self.but(country=event.country, total=event.total, placed=record.occurred)
            case OrderClosed():
                return None


sales = h.App(
    "sales",
    records=[CustomerMoved, OrderPlaced, OrderClosed],
    views=[CountryRevenue, MonthRevenue, HomeRevenue, OpenOrder],
)


def main() -> Sequence[OpenOrder]:
    with sales.open() as running:
        receipt = running.record(OrderPlaced("o-1", "c-1", "France", Decimal("9.90")))
        france = running.view(CountryRevenue).get(country="France", since=receipt)
        dear = running.view(OpenOrder).where("total > ?", 5, country="France").order_by("-total").rows(limit=10, since=receipt)
        print(france.revenue, [row.order for row in dear], dear.position, dear.age)
    return dear


if __name__ == "__main__":
    main()
