"""The shop's command line: `python -m examples.shop --help`."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import happened as h

from .demo import demo
from .model import CustomerMoved, Order, PaymentArrived, PlaceOrder, Stock, StockReceived, shop
from .read import BadFile


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code: 0 done, 1 refused by a rule or found to differ, 2 asked for what can't be done."""
    parser = the_parser()
    asked = parser.parse_args(arguments)
    if asked.action and not asked.log:
        parser.error(f"`{asked.action}` needs a log that stays, such as --log sqlite:///shop.db")
    try:
        match asked.action:
            case "receive":
                return receive(asked.log, asked.sku, asked.units, asked.id)
            case "order":
                return order(asked.log, asked.order, asked.sku, asked.units, asked.customer)
            case "customer":
                return customer(asked.log, asked.customer, asked.name, asked.street, asked.country)
            case "pay":
                return pay(asked.log, asked.order)
            case _:
                return demo(asked.data, asked.log, json=asked.json, progress=show if sys.stderr.isatty() else None)
    except h.Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 1
    except (BadFile, h.Error) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def the_parser() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.shop",
        description="A year of a shop. Without a command: put all lines into the log, then ask its views, in a fresh process, what happened.",
        epilog="Exit codes: 0 done; 1 refused by a rule, or rebuilt views differ; 2 bad arguments, file or log.",
    )
    parser.add_argument(
        "--data", type=Path, metavar="FILE", help="Online Retail as CSV, also compressed by gzip; without it a small sample is made"
    )
    parser.add_argument(
        "--log", metavar="URL", help="where the log is kept, such as sqlite:///shop.db; without it, it is thrown away at the end"
    )
    parser.add_argument("--json", action="store_true", help="print the summary as JSON")
    actions = parser.add_subparsers(dest="action", metavar="COMMAND")
    receive = actions.add_parser("receive", help="record that a delivery has arrived")
    receive.add_argument("sku", help="the item")
    receive.add_argument("units", type=count, help="how many arrived")
    receive.add_argument("--id", help="the delivery's own number: given twice, it counts once")
    order = actions.add_parser("order", help="place an order, which is refused if the stock does not suffice")
    order.add_argument("order", help="the order's own number: given twice, it counts once")
    order.add_argument("sku", help="the item")
    order.add_argument("units", type=count, help="how many are wanted")
    order.add_argument("--customer", metavar="NUMBER", help="who orders; without, it is somebody at the counter")
    customer = actions.add_parser("customer", help="record who a customer is, and where; said again it holds from then on")
    for field, about in (("customer", "the customer's number"), ("name", "the name"), ("street", "the street"), ("country", "the country")):
        customer.add_argument(field, help=about)
    pay = actions.add_parser("pay", help="record that an order was paid; one that is not paid in time is cancelled")
    pay.add_argument("order", help="the order's own number: paid twice, it counts once")
    return parser


def receive(log: str, sku: str, units: int, id: str | None) -> int:
    """Record that a delivery has arrived."""
    with shop.open(log) as running:
        receipt = running.record(StockReceived(sku, units), id=id and f"delivery-{id}")
        print(f"{running.view(Stock).get(sku=sku, since=receipt).units} of {sku} in stock")
    return 0


def order(log: str, number: str, sku: str, units: int, customer: str | None) -> int:
    """Place an order."""
    with shop.open(log) as running:
        receipt = running.dispatch(PlaceOrder(number, sku, units, customer), id=f"order-{number}")
        left = running.view(Stock).get(sku=sku, since=receipt).units
        print(f"{number} was accepted{' before' if receipt.repeated else ''}, {left} of {sku} left")
    return 0


def customer(log: str, number: str, name: str, street: str, country: str) -> int:
    """Record who a customer is."""
    with shop.open(log) as running:
        running.record(CustomerMoved(number, name, street, country))
        print(f"{number} is {name}, {street}, {country}")
    return 0


def pay(log: str, number: str) -> int:
    """Record that an order was paid."""
    with shop.open(log) as running:
        receipt = running.record(PaymentArrived(number), id=f"payment-{number}")
        found = running.view(Order).get(order=number, since=receipt)
        print(f"{number} is {found.standing}")
    return 0


def count(text: str) -> int:
    """Read a number of units, at least one."""
    units = int(text)
    if units < 1:
        raise argparse.ArgumentTypeError(f"{units} is less than one")
    return units


def show(done: int, total: int | None) -> None:
    """Show how far the import is, on one line."""
    print(f"\r{done:,}{f' of {total:,}' if total else ''} lines", end="\n" if done == total else "", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
