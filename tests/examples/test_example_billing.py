"""Billing bills what the shop accepts, from another process, by a copy of the customers; it imports nothing of the shop, and goes on without it."""

import ast
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import happened as h
from examples.billing.model import COPY_AGE_MAX, TRIES_LATER, Bill, Billed, Debtor, OpenBill, OrderAccepted, bill, bill_order, billing
from examples.shop.model import CustomerMoved, PlaceOrder, StockReceived, shop
from happened.testing import Clock

Run = Callable[..., subprocess.CompletedProcess[str]]

ROOT = Path(__file__).parents[2]

BILL = Bill("o-1", "c-1", Decimal(30))


def test_billing_imports_nothing_of_the_shop() -> None:
    """What it knows of the shop, it knows by names."""
    for file in (ROOT / "examples" / "billing").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom | ast.Import):
                assert "shop" not in ast.unparse(node)


# --- beside the shop --------------------------------------------------------------------------------------------------------


def test_beside_a_running_shop_its_orders_are_billed(run: Run, tmp_path: Path) -> None:
    """Two processes that stay, and a counter of short ones. What can't be billed is refused, seen, and billed when the customer is known."""
    counter = ("examples.shop", "--log", f"sqlite:///{tmp_path}/shop.db")
    desk = ("examples.billing", "--shop", f"sqlite:///{tmp_path}/shop.db", "--log", f"sqlite:///{tmp_path}/billing.db")
    with staying("happened", "run", "examples.shop.model:shop", *counter[1:]), staying(*desk, "follow") as follows:
        run(*counter, "customer", "c-1", "Ada", "Rue 1", "France")
        known = run(*desk, "debtor", "c-1")
        run(*counter, "receive", "widget", 100)
        for order in (("o-1", "widget", 15, "--customer", "c-1"), ("o-2", "widget", 5, "--customer", "c-2"), ("o-3", "widget", 1)):
            assert run(*counter, "order", *order).returncode == 0
        said = sorted([next(follows), next(follows)])

        listed = run(*desk, "bills")
        unknown = [run(*desk, "debtor", "c-2"), run(*desk, "bill", "o-2"), run(*desk, "bill", "o-3")]
        run(*counter, "customer", "c-2", "Bob", "Weg 2", "Germany")
        billed = run(*desk, "bill", "o-2")
        again = run(*desk, "bill", "o-2")

    assert known.stdout.startswith("Ada, France: as of position "), known
    assert known.stdout.endswith(", up to date\n")
    assert said == ["o-1: 42.00 to be paid by Ada", "o-2: not billed, the customer is unknown"]
    assert listed.stdout == "o-1            42.00  Ada\no-2            15.00  NOT BILLED, customer c-2\n"
    assert [told.returncode for told in unknown] == [1, 1, 1]
    assert unknown[1].stderr == "refused: the customer is unknown\n"
    assert billed.stdout == again.stdout == "o-2: 17.85 to be paid by Bob\n"


def test_it_runs_by_the_command_line_of_happened_too(run: Run, tmp_path: Path) -> None:
    """`happened run` takes the channel; what is there without the shop, stays."""
    log, own = f"sqlite:///{tmp_path}/shop.db", f"sqlite:///{tmp_path}/billing.db"
    with shop.open(log) as upstream:
        order(upstream, "o-1", "c-1")
        upstream.settled()
        with (
            staying("happened", "run", "examples.billing.model:billing", "--log", own, "--channel", f"shop={log}"),
            billing.open(own, channels={"shop": None}, run=False) as looking,
        ):
            until(looking, lambda: any(isinstance(record.body, Billed) for record in looking.log.read()))

    for file in tmp_path.glob("shop*"):
        file.unlink()
    told = run("examples.billing", "--shop", log, "--log", own, "bills")

    assert told.stdout == "o-1            42.00  Ada\n"
    assert "can't be reached" in told.stderr


def test_an_order_whose_customer_comes_later_is_billed_later(tmp_path: Path) -> None:
    """It is tried again, and what is tried once too often does nothing."""
    clock = Clock(name="billing")
    with (
        shop.open(f"sqlite:///{tmp_path}/shop.db") as upstream,
        billing.open(f"sqlite:///{tmp_path}/billing.db", channels={"shop": upstream}, source=clock) as running,
    ):
        upstream.record(StockReceived("widget", 100))
        upstream.dispatch(PlaceOrder("o-1", "widget", 15, "c-1"))
        until(running, lambda: running.state(OpenBill, "o-1") is not None)
        first = running.settled()
        refused = [record.name for record in running.log.read()].count("refusal")
        moved = upstream.record(CustomerMoved("c-1", "Ada", "Rue 1", "France"))
        running.replica(Debtor, "c-1", since=moved)
        for due in first.timers:
            clock.set(due)
            running.settled()

        assert refused == 1
        assert len(first.timers) == len(TRIES_LATER)
        assert running.state(OpenBill, "o-1") == OpenBill("o-1", "c-1", "Ada", Decimal(35), Decimal(42), billed=True)
        assert [record.name for record in running.log.read()].count("Billed") == 1


@pytest.mark.parametrize("seed", [1, 2])
def test_billing_killed_at_random_bills_every_order_once(tmp_path: Path, seed: int) -> None:
    """While the shop goes on, the process that bills is killed by kill -9 again and again: every order has one bill, and it is right."""
    print("seed", seed)
    chance = random.Random(seed)
    log, own = f"sqlite:///{tmp_path}/shop.db", f"sqlite:///{tmp_path}/billing.db"
    desk = ("examples.billing", "--shop", log, "--log", own, "follow")
    with shop.open(log) as upstream:
        upstream.record(StockReceived("widget", 100_000))
        for customer in range(5):
            upstream.record(CustomerMoved(f"c-{customer}", f"name {customer}", "Rue 1", "France"))
        for round_ in range(6):
            process = started(*desk)
            for number in range(10):
                upstream.dispatch(PlaceOrder(f"o-{round_}-{number}", "widget", 15, f"c-{chance.randrange(5)}"))
            assert process.stdout is not None
            for _ in range(chance.randrange(10)):
                if not process.stdout.readline():
                    break
            process.kill()
            process.wait()
            process.stdout.close()
        with billing.open(own, channels={"shop": log}) as running:
            until(running, lambda: [record.name for record in running.log.read()].count("Billed") == 60)
            running.settled()
            bills = [record.body for record in running.log.read() if isinstance(record.body, Billed)]
            running.log.verify()
            undeclared = running.flow().undeclared

    assert len({one.order for one in bills}) == len(bills) == 60
    assert {one.gross for one in bills} == {Decimal(42)}
    assert undeclared == ()


# --- the rules, by themselves -----------------------------------------------------------------------------------------------


def test_a_bill_has_the_taxes_of_the_debtors_country() -> None:
    """Rounded to cents; none for what is exported."""
    assert decided("France") == [Billed("o-1", "c-1", "Ada", Decimal(30), Decimal("6.00"))]
    assert decided("Germany") == [Billed("o-1", "c-1", "Ada", Decimal(30), Decimal("5.70"))]
    assert decided("Chile")[0].gross == Decimal(30)


def test_nobody_is_billed_by_an_old_copy() -> None:
    """The refusal says how old it was."""
    age = COPY_AGE_MAX + timedelta(seconds=1)

    with pytest.raises(h.Refused) as refused:
        decided("France", age=age)

    assert refused.value.facts == {"age": age}
    assert decided("France", age=COPY_AGE_MAX)


def test_nobody_unknown_is_billed_and_no_order_twice() -> None:
    """Unknown is refused; billed already is nothing."""
    with pytest.raises(h.Refused, match="unknown"):
        list(bill(BILL, OpenBill("o-1"), h.Replica[Debtor](None, 7, timedelta(0))))
    assert list(bill(BILL, OpenBill("o-1", billed=True), h.Replica[Debtor](None, 7, timedelta(0)))) == []


def test_an_order_is_billed_now_and_tried_again() -> None:
    """The reaction is a function."""
    sent = list(bill_order(OrderAccepted("o-1", "c-1", Decimal(30))))

    assert sent == [BILL, *(h.Later(BILL, after=after) for after in TRIES_LATER)]


def test_a_log_that_is_none_is_an_error(run: Run) -> None:
    """The exit code is 2, without a traceback."""
    told = run("examples.billing", "--shop", "mysql:///shop", "--log", "memory:", "bills")

    assert told.returncode == 2
    assert "names no log" in told.stderr
    assert "Traceback" not in told.stderr


# --- means ------------------------------------------------------------------------------------------------------------------


def decided(country: str, *, age: timedelta = timedelta(0)) -> list[Billed]:
    """Return what is decided on Ada, of some country, by a copy of some age."""
    return list(bill(BILL, OpenBill("o-1"), h.Replica(Debtor("c-1", "Ada", country), 7, age)))


def order(upstream: h.Running, number: str, customer: str) -> None:
    """Have a known customer order."""
    upstream.record(CustomerMoved(customer, "Ada", "Rue 1", "France"))
    upstream.record(StockReceived("widget", 100))
    upstream.dispatch(PlaceOrder(number, "widget", 15, customer))


def until(running: h.Running, so: Callable[[], bool]) -> None:
    """Wait for a log, position by position, until something is so; fail if it never is."""
    deadline = time.monotonic() + 60
    while True:
        head = running.log.head
        running.catch_up()
        if so():
            return
        assert time.monotonic() < deadline, "it did not come true"
        running.log.wait(head, 1)


def started(*arguments: str) -> subprocess.Popen[str]:
    """Start a module as a program that stays, and wait for its first line: it is open then."""
    process = subprocess.Popen([sys.executable, "-m", *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


@contextmanager
def staying(*arguments: str) -> Generator[Iterator[str], None, None]:
    """Let a program run meanwhile; give what it says line by line; at the end tell it to stop, and see that it does so well."""
    process = started(*arguments)
    assert process.stdout is not None
    try:
        yield (line.rstrip("\n") for line in process.stdout)
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=30)
        process.stdout.close()
    assert code == 0
