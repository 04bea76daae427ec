"""The shop: what can happen, what one can ask for, what is remembered, what is decided; and the table that wires it.

There are two ways into the log. A *fact* comes from outside and can't be refused, since it has happened: a delivery arrived, an invoice was printed.
A *command* asks for something and is decided on: an order, a cancellation. What was decided is an event as well, and all that anybody wants to
know, the sum by country as well as whether an order may be accepted, is a fold of these events by key.

An identity type such as `Sku` carries its tag, so no event needs a stream name. What a decision depends on follows from its parameters:
`cancel_line` takes a `Bought`, whose key is a customer and an item, so it depends on the events of this customer with this item and on no others.
Only `LineSold` and `LineCancelled` carry both, so two cancellations of one customer don't wait for each other if they are about two items.

What is to follow from an event is said by a *reaction*: a function from the event to commands, sent now (`restock`) or later (`expect_payment`). It
decides nothing. The command's own decider looks at what is so by then, and does nothing where there is nothing left to do.

Other systems, such as `examples/billing`, hear two things of the shop: that an order was accepted (a *publication*), and what there is to know of a customer
(a *share*, of which they keep copies). They rely on these two, and on nothing else here.
"""

from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from typing import Annotated

import happened as h

Sku = Annotated[str, h.Tag("sku")]
CustomerNo = Annotated[str, h.Tag("customer")]
OrderNo = Annotated[str, h.Tag("order")]

STOCK_MIN = 10
"""An order that leaves less of an item than this has more of it ordered."""

PAYMENT_AFTER_MAX = timedelta(days=3)
"""An order that is not paid by then is cancelled."""


class LineSold(h.Event):
    """A line of an invoice. A sale at the counter names no customer; `units` are negative where somebody corrected the stock by an invoice."""

    line: int
    invoice: str
    sku: Sku
    description: str
    units: int
    price: Decimal
    customer: CustomerNo | None
    country: str

    @property
    def amount(self) -> Decimal:
        """What the line brought in."""
        return self.units * self.price


class LineCredited(h.Event):
    """A line of a credit note, whose number begins with C: `units` are negative, and so is the amount."""

    line: int
    invoice: str
    sku: Sku
    description: str
    units: int
    price: Decimal
    customer: CustomerNo | None
    country: str

    @property
    def amount(self) -> Decimal:
        """What the line brought in: less than nothing."""
        return self.units * self.price


class CancelLine(h.Command):
    """Take back `units` of an item that a customer has bought."""

    customer: CustomerNo
    sku: Sku
    units: int


class LineCancelled(h.Event):
    """The customer had bought so many and not cancelled them before: the cancellation holds."""

    customer: CustomerNo
    sku: Sku
    units: int


class StockReceived(h.Event):
    """A delivery has arrived."""

    sku: Sku
    units: int


class ReorderStock(h.Command):
    """Have `units` of an item delivered, where too little is left and none is on its way."""

    sku: Sku
    units: int


class StockReordered(h.Event):
    """A delivery is on its way."""

    sku: Sku
    units: int


class CustomerMoved(h.Event):
    """A customer has a name and an address, for the first time or anew."""

    customer: CustomerNo
    name: str
    street: str
    country: str


class PlaceOrder(h.Command):
    """Order `units` of an item. At the counter nobody says who he is."""

    order: OrderNo
    sku: Sku
    units: int
    customer: CustomerNo | None = None


class OrderPlaced(h.Event):
    """The order was accepted, at this price with freight."""

    order: OrderNo
    sku: Sku
    units: int
    total: Decimal
    customer: CustomerNo | None = None


class OrderAccepted(h.Event):
    """Published: an order of a customer was accepted. What was ordered is nobody's business, and who the customer is stands in the `CustomerCard`."""

    order: OrderNo
    customer: CustomerNo
    total: Decimal


class PaymentArrived(h.Event):
    """The bank says that an order was paid."""

    order: OrderNo


class CancelUnpaid(h.Command):
    """Cancel an order, where it is not paid."""

    order: OrderNo


class OrderCancelled(h.Event):
    """The order was not paid in time, and its units are for others again."""

    order: OrderNo
    sku: Sku
    units: int


class Bought(h.State):
    """What a customer has bought of an item and not yet cancelled."""

    customer: CustomerNo
    sku: Sku
    units: int = 0

    def evolve(self, event: LineSold | LineCancelled) -> "Bought":
        """Count up with a sale and down with a cancellation."""
        match event:
            case LineSold():
                return self.but(units=self.units + max(event.units, 0))
            case LineCancelled():
                return self.but(units=self.units - event.units)


class Stock(h.State):
    """What is left of an item."""

    sku: Sku
    units: int = 0

    def evolve(self, event: StockReceived | OrderPlaced | OrderCancelled) -> "Stock":
        """Count up with a delivery or a cancelled order, and down with an order."""
        match event:
            case StockReceived() | OrderCancelled():
                return self.but(units=self.units + event.units)
            case OrderPlaced():
                return self.but(units=self.units - event.units)


class Reorder(h.State):
    """What is on its way of an item. It ends with a delivery: then there is none, and a decider that asks gets `None`."""

    sku: Sku
    units: int = 0

    def evolve(self, event: StockReordered | StockReceived) -> "Reorder | None":
        """Begin with a reorder, end with a delivery."""
        match event:
            case StockReordered():
                return self.but(units=event.units)
            case StockReceived():
                return None


class Order(h.State):
    """An order, and what has become of it."""

    order: OrderNo
    sku: Annotated[str, h.Index()] = ""
    units: int = 0
    standing: str = "unknown"
    """`placed`, `paid` or `cancelled`; an order that somebody pays and nobody has placed stays `unknown`."""

    def evolve(self, event: OrderPlaced | PaymentArrived | OrderCancelled) -> "Order":
        """Go on as the event says. What is cancelled stays so: a payment that comes later changes nothing here."""
        match event:
            case OrderPlaced():
                return self.but(sku=event.sku, units=event.units, standing="placed")
            case PaymentArrived():
                return self.but(standing="paid") if self.standing == "placed" else self
            case OrderCancelled():
                return self.but(standing="cancelled")


def freight(units: int) -> Decimal:
    """Say what it costs to send so many: a question to the carrier, and so to the outside. The answer is recorded and never asked for again."""
    return Decimal(5) + units // 100


def cancel_line(command: CancelLine, bought: Bought) -> Iterator[LineCancelled]:
    """Accept a cancellation of what was bought and not yet cancelled."""
    if command.units > bought.units:
        raise h.Refused("more than was bought", bought=bought.units)
    yield LineCancelled(command.customer, command.sku, command.units)


def place_order(command: PlaceOrder, stock: Stock, world: h.World) -> Iterator[OrderPlaced]:
    """Accept an order as long as the stock lasts."""
    if command.units > stock.units:
        raise h.Refused(f"only {stock.units} of {command.sku} left", left=stock.units)
    total = 2 * command.units + world.ask(freight, command.units)
    yield OrderPlaced(command.order, command.sku, command.units, total, command.customer)


def restock(event: OrderPlaced, stock: Stock) -> Iterator[ReorderStock]:
    """Have more delivered where an order has left too little."""
    if stock.units < STOCK_MIN:
        yield ReorderStock(event.sku, 10 * STOCK_MIN)


def reorder_stock(command: ReorderStock, stock: Stock, reorder: Reorder | None) -> Iterator[StockReordered]:
    """Reorder once, however many orders ask for it: `restock` has seen the stock as it was, this is decided on the stock as it is."""
    if reorder is None and stock.units < STOCK_MIN:
        yield StockReordered(command.sku, command.units)


def expect_payment(event: OrderPlaced) -> Iterator[h.Later[CancelUnpaid]]:
    """Ask for the order to be cancelled, later. That is recorded, so it is not forgotten; nobody has to take it back where the order is paid."""
    yield h.Later(CancelUnpaid(event.order), after=PAYMENT_AFTER_MAX)


def cancel_unpaid(command: CancelUnpaid, order: Order) -> Iterator[OrderCancelled]:
    """Cancel an order that is still only placed by now."""
    if order.standing == "placed":
        yield OrderCancelled(command.order, order.sku, order.units)


class CustomerCard(h.State):
    """Shared: what others need to know of a customer."""

    customer: CustomerNo
    name: str = ""
    street: str = ""
    country: str = ""

    def evolve(self, event: CustomerMoved) -> "CustomerCard":
        """Take what holds now."""
        return self.but(name=event.name, street=event.street, country=event.country)


def order_accepted(event: OrderPlaced) -> OrderAccepted | None:
    """Tell other systems of an order, if a customer has placed it. What is paid at the counter is billed there."""
    return OrderAccepted(event.order, event.customer, event.total) if event.customer is not None else None


class CountryRevenue(h.State):
    """What a country brought in. `country` has no default, so it is the key; it is no tag, so it comes from the event's field of that name."""

    country: str
    lines: int = 0
    revenue: Decimal = Decimal(0)

    def evolve(self, event: LineSold | LineCredited) -> "CountryRevenue":
        """Add the line."""
        return self.but(lines=self.lines + 1, revenue=self.revenue + event.amount)


class MonthRevenue(h.State):
    """What a month brought in. The key is computed, from when the line was invoiced and not from when it was recorded here."""

    month: str
    revenue: Decimal = Decimal(0)

    @staticmethod
    def key_of(event: LineSold | LineCredited, record: h.Recorded) -> str:
        """Return the month, such as 2011-08."""
        return f"{record.occurred.year}-{record.occurred.month:02}"

    def evolve(self, event: LineSold | LineCredited) -> "MonthRevenue":
        """Add the line."""
        return self.but(revenue=self.revenue + event.amount)


class CustomerRevenue(h.State):
    """What a customer brought in. A line without a customer carries no such tag, and so counts for nobody."""

    customer: CustomerNo
    revenue: Decimal = Decimal(0)

    def evolve(self, event: LineSold | LineCredited) -> "CustomerRevenue":
        """Add the line."""
        return self.but(revenue=self.revenue + event.amount)


class ItemRevenue(h.State):
    """What an item brought in, and how many of it went."""

    sku: Sku
    units: int = 0
    revenue: Decimal = Decimal(0)

    def evolve(self, event: LineSold | LineCredited) -> "ItemRevenue":
        """Add the line."""
        return self.but(units=self.units + event.units, revenue=self.revenue + event.amount)


class Cancellations(h.State):
    """How many cancellations customers asked for, and how many were accepted. No key: there is one row.

    No command is recorded before its fact, and none is left out, so what was asked for and not accepted was refused.
    """

    asked: int = 0
    accepted: int = 0

    @property
    def refused(self) -> int:
        """How many were refused."""
        return self.asked - self.accepted

    def evolve(self, event: LineCredited | LineCancelled) -> "Cancellations":
        """Count a credited line that names its customer as asked for."""
        match event:
            case LineCredited():
                return self if event.customer is None else self.but(asked=self.asked + 1)
            case LineCancelled():
                return self.but(accepted=self.accepted + 1)


shop = h.App(
    "shop",
    records=[LineSold, LineCredited, StockReceived, PaymentArrived, CustomerMoved],
    deciders=[cancel_line, place_order, reorder_stock, cancel_unpaid],
    gateways=[freight],
    reactions=[restock, expect_payment],
    publications=[order_accepted],
    shares=[CustomerCard],
    views=[Stock, Order, CountryRevenue, MonthRevenue, CustomerRevenue, ItemRevenue, Cancellations],
)
