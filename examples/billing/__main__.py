"""Billing's command line: `python -m examples.billing --help`.

It runs beside the shop, in a process of its own, and needs of it nothing but its log, which it only reads:

    happened run examples.shop.model:shop --log sqlite:///shop.db
    python -m examples.billing --shop sqlite:///shop.db --log sqlite:///billing.db follow
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

import happened as h

from .model import Bill, Billed, Debtor, OpenBill, billing

WAIT_SECONDS = 0.2
"""How long to wait for the next record before looking whether the shop can be reached."""

REACH_ROUNDS_MAX = 25
"""After so many rounds without a sign of the shop, billing says what it knows."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code: 0 done, 1 refused by a rule or not there, 2 asked for what can't be done."""
    asked = the_parser().parse_args(arguments)
    try:
        with billing.open(asked.log, channels={"shop": asked.shop}) as running:
            match asked.action:
                case "follow":
                    return follow(running)
                case "bills":
                    return bills(running)
                case "debtor":
                    return debtor(running, asked.customer)
                case _:
                    return bill(running, asked.order)
    except h.Refused as refused:
        print(f"refused: {refused}", file=sys.stderr)
        return 1
    except h.Error as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def the_parser() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m examples.billing",
        description="Bill what the shop has accepted, by a copy of its customers.",
        epilog="Exit codes: 0 done; 1 refused by a rule, or not there; 2 bad arguments or log.",
    )
    parser.add_argument("--shop", metavar="URL", required=True, help="the shop's log, such as sqlite:///shop.db: it is only read")
    parser.add_argument("--log", metavar="URL", required=True, help="billing's own log, such as sqlite:///billing.db")
    actions = parser.add_subparsers(dest="action", metavar="COMMAND", required=True)
    actions.add_parser("follow", help="bill what the shop accepts, and say so, until Ctrl-C or SIGTERM")
    actions.add_parser("bills", help="list what is to be paid, and what could not be billed")
    one = actions.add_parser("debtor", help="show what is known of a customer, and how old that is")
    one.add_argument("customer", help="the customer's number")
    again = actions.add_parser("bill", help="bill an order that could not be billed when it was accepted")
    again.add_argument("order", help="the order's number")
    return parser


def follow(running: h.Running) -> int:
    """Say of each order what has become of it, until somebody says to stop."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    seen = running.log.head
    asked: dict[str, str] = {}
    print(f"follows the shop, from position {seen} of its own log", flush=True)
    with suppress(KeyboardInterrupt):
        while True:
            head = running.log.wait(seen, WAIT_SECONDS)
            for record in running.log.read(after=seen, until=head):
                match record.body:
                    case Bill(order=order):
                        asked[record.id] = order
                    case Billed() as billed:
                        print(f"{billed.order}: {billed.gross:.2f} to be paid by {billed.name}", flush=True)
                    case {"text": text} if record.causation in asked:
                        print(f"{asked[record.causation]}: not billed, {text}", flush=True)
                    case _:
                        pass
            seen = head
    return 0


def bills(running: h.Running) -> int:
    """List all bills, those that are not written at the end."""
    reach(running)
    rows = running.view(OpenBill).order_by("-billed", "order").rows(since=running.log.head)
    for row in rows:
        amount, who = (row.gross, row.name) if row.billed else (row.net, f"NOT BILLED, customer {row.customer}")
        print(f"{row.order:<10}{amount:>10.2f}  {who}")
    return 0


def debtor(running: h.Running, customer: str) -> int:
    """Show what the copy says."""
    reach(running)
    copy = running.replica(Debtor, customer)
    if copy.state is None:
        print(f"{customer} is not known, as of position {copy.position} of the shop", file=sys.stderr)
        return 1
    age = f"{copy.age.total_seconds():.0f} s old" if copy.age else "up to date"
    print(f"{copy.state.name}, {copy.state.country}: as of position {copy.position} of the shop, {age}")
    return 0


def bill(running: h.Running, order: str) -> int:
    """Bill an order now: its customer may have become known."""
    reach(running)
    there = running.state(OpenBill, order)
    if there is None:
        print(f"the shop has accepted no order {order} of a customer", file=sys.stderr)
        return 1
    running.dispatch(Bill(order, there.customer, there.net))
    written = running.view(OpenBill).get(order, since=running.log.head)
    print(f"{order}: {written.gross:.2f} to be paid by {written.name}")
    return 0


def reach(running: h.Running) -> None:
    """Wait until the copy is as new as the shop, and for all that follows from what has come; go on without where the shop can't be reached."""
    for _ in range(REACH_ROUNDS_MAX):
        head = running.log.head
        if all(one["lag"] == 0 for one in running.statistics()["replicas"]):
            break
        running.log.wait(head, WAIT_SECONDS)
    else:
        print("the shop can't be reached: this is what was known before", file=sys.stderr)
    running.settled()


if __name__ == "__main__":
    sys.exit(main())
