"""The shop comes to the same numbers as a plain script, on the sample and on the real file, whatever happens in between."""

import gzip
import io
import json
import signal
import subprocess
import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any  # Any: a summary is JSON

import pytest

import happened as h
from examples.shop.demo import fill
from examples.shop.model import (
    PAYMENT_AFTER_MAX,
    Bought,
    CancelLine,
    CancelUnpaid,
    LineCancelled,
    LineSold,
    Order,
    OrderCancelled,
    OrderPlaced,
    PaymentArrived,
    PlaceOrder,
    ReorderStock,
    Stock,
    StockReceived,
    StockReordered,
    cancel_line,
    expect_payment,
    freight,
    restock,
    shop,
)
from examples.shop.read import Line, write_lines
from examples.shop.sample import sample
from happened.testing import Clock, spec

Run = Callable[..., subprocess.CompletedProcess[str]]
Real = Callable[[str], Path]

ROOT = Path(__file__).parents[2]

STORY = ("stock", "orders", "flow", "trace", "why")


# --- the same numbers as a plain script -------------------------------------------------------------------------------------


def test_the_sample_gives_the_numbers_of_a_plain_script(run: Run) -> None:
    """Every sum and count of the summary is what a script without a log computes."""
    expected = plain(sample())

    told = summary(run("examples.shop", "--json"))

    assert told == expected


def test_the_sample_has_what_makes_the_real_file_a_test() -> None:
    """Cancellations of both outcomes, lines without a customer, equal lines and prices of three places: all of it is in the sample."""
    lines = list(sample())

    expected = plain(lines)

    assert len(lines) == 4000
    assert expected["cancellations_accepted"] > 50
    assert expected["cancellations_refused"] > 50
    assert any(line.customer is None for line in lines)
    assert len({line._replace(number=0) for line in lines}) < len(lines)
    assert any(line.price.as_tuple().exponent == -3 for line in lines)
    assert lines == list(sample())


@pytest.mark.parametrize("name", ["lines.csv", "lines.csv.gz"])
def test_a_file_gives_the_same_as_its_lines(run: Run, tmp_path: Path, name: str) -> None:
    """A file may be compressed or not, and texts with commas, quotes and blanks come through."""
    lines = [line._replace(description=f' "{line.description}" ') for line in islice(sample(), 500)]
    write(tmp_path / name, lines)

    told = summary(run("examples.shop", "--data", tmp_path / name, "--json"))

    assert told == plain(lines)


def test_equal_lines_count_as_often_as_they_stand_there(run: Run, tmp_path: Path) -> None:
    """Lines are known by their number, never by what they say."""
    line = next(sample())
    write(tmp_path / "lines.csv", [line._replace(number=number) for number in (1, 2, 3)])

    told = summary(run("examples.shop", "--data", tmp_path / "lines.csv", "--json"))

    assert told["lines"] == 3
    assert Decimal(told["revenue"]) == 3 * line.units * line.price


def test_the_order_of_the_file_decides_on_cancellations(run: Run, tmp_path: Path) -> None:
    """What is bought later can't be cancelled before, also within one commit."""
    bought = next(line for line in sample() if line.customer)
    cancelled = bought._replace(invoice="C1", units=-bought.units)
    story = [cancelled, bought, cancelled, cancelled, bought, cancelled]
    write(tmp_path / "lines.csv", [line._replace(number=number) for number, line in enumerate(story, start=1)])

    told = summary(run("examples.shop", "--data", tmp_path / "lines.csv", "--json"))

    assert (told["cancellations_accepted"], told["cancellations_refused"]) == (2, 2)


def test_people_are_told_the_same_in_sentences(run: Run) -> None:
    """Without --json the summary is text for people."""
    expected = plain(sample())

    told = run("examples.shop")

    assert told.returncode == 0, told.stderr
    assert f"4,000 lines of invoices brought in {expected['revenue']}" in told.stdout
    assert (
        f"{expected['cancellations_accepted']:,} cancellations were accepted, {expected['cancellations_refused']:,} refused" in told.stdout
    )


def test_people_are_told_what_to_do_next(run: Run, tmp_path: Path) -> None:
    """Commands that can be typed as they stand: with the log that was kept, or how to keep one."""
    log = f"sqlite:///{tmp_path}/shop.db"

    thrown_away, kept = run("examples.shop").stdout, run("examples.shop", "--log", log).stdout

    assert "happened demo --log sqlite:///shop.db" in thrown_away
    for line in kept[kept.index("The log is kept") :].splitlines()[2:]:
        command, *arguments = line.split()
        assert command == "happened"
        done = run("happened", *arguments)
        assert done.returncode == 0, done.stderr


def test_a_story_is_played_and_shown_by_the_commands_for_it(run: Run) -> None:
    """Who says what, what came of one order, and why it is cancelled: for people as the commands print it, and as JSON."""
    told, shown = printed(run("examples.shop", "--json")), run("examples.shop").stdout

    assert told["orders"] == {"o-1": "cancelled", "o-2": "paid"}
    assert told["stock"] == 20 - 12 - 3 + 12 + 100
    assert sorted(line["name"] for line in told["trace"]["lines"]) == [
        "CancelUnpaid",
        "OrderAccepted",
        "OrderCancelled",
        "OrderPlaced",
        "PlaceOrder",
        "ReorderStock",
        "StockReordered",
        "answer",
        "schedule",
    ]
    assert [cause["name"] for cause in told["why"]] == ["OrderCancelled", "CancelUnpaid", "schedule", "OrderPlaced", "PlaceOrder"]
    assert [finding for finding in told["flow"]["findings"] if finding["kind"] in ("unseen", "undeclared", "idle")] == []
    assert {arrow["target"] for arrow in told["flow"]["arrows"] if arrow["source"] == "reaction:restock"} == {"command:ReorderStock"}
    for line in ("conversation order-o-1", "reaction restock", "because of the input CancelUnpaid"):
        assert line in shown


# --- done again, killed, resumed --------------------------------------------------------------------------------------------


def test_an_import_done_twice_changes_nothing(run: Run, tmp_path: Path) -> None:
    """Ids tell what is there already."""
    log = f"sqlite:///{tmp_path}/shop.db"
    first = summary(run("examples.shop", "--log", log, "--json"))

    second = summary(run("examples.shop", "--log", log, "--json"))

    assert second == first


def test_an_import_that_was_killed_is_resumed_without_a_trace(run: Run, tmp_path: Path) -> None:
    """A kill -9 in mid-import, three times at other places, changes no number once the import has come to its end."""
    log = f"sqlite:///{tmp_path}/shop.db"
    write(tmp_path / "lines.csv", sample(12000))
    for line in (5000, 9000, 11000):
        killed(log, tmp_path / "lines.csv", at_line=line)
    with shop.open(log) as running:
        there = sum(isinstance(record.body, LineSold) for record in running.log.read())

    told = summary(run("examples.shop", "--data", tmp_path / "lines.csv", "--log", log, "--json"))

    assert 0 < there < 12000
    assert told == plain(sample(12000))


# --- bad input --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b"", "other columns than expected: none"),
        (b"a,b\n1,2\n", "other columns than expected: a, b"),
        (b"line,invoice,stock,description,qty,ts,price,customer,country\n", "no lines but its header"),
        (b"line,invoice,stock,description,qty,ts,price,customer,country\n1,2,3\n", "row 2"),
        (b"line,invoice,stock,description,qty,ts,price,customer,country\n1,2,3,d,many,2010-12-01 08:26:00,2.55,4,UK\n", "row 2"),
        (b"line,invoice,stock,description,qty,ts,price,customer,country\n1,2,3,d,6,yesterday,2.55,4,UK\n", "row 2"),
        (b"line,invoice,stock,description,qty,ts,price,customer,country\n1,2,3,d,6,2010-12-01 08:26:00,dear,4,UK\n", "row 2"),
        (b"\xff\xfe", "can't be read"),
        (gzip.compress(b"line,invoice" * 100, mtime=0)[:-20], "can't be read"),  # the same in each process that runs tests
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong_in_it(run: Run, tmp_path: Path, content: bytes, complaint: str) -> None:
    """The error says which file, and where; the exit code is 2, and there is no traceback."""
    (tmp_path / "bad.csv").write_bytes(content)

    told = run("examples.shop", "--data", tmp_path / "bad.csv", "--json")

    assert (told.returncode, told.stdout) == (2, "")
    assert complaint in told.stderr
    assert "bad.csv" in told.stderr
    assert "Traceback" not in told.stderr


def test_a_missing_file_is_an_error(run: Run, tmp_path: Path) -> None:
    """A file that isn't there is named."""
    told = run("examples.shop", "--data", tmp_path / "nowhere.csv")

    assert told.returncode == 2
    assert "nowhere.csv" in told.stderr
    assert "Traceback" not in told.stderr


# --- the counter ------------------------------------------------------------------------------------------------------------


def test_orders_are_accepted_as_long_as_the_stock_lasts(run: Run, tmp_path: Path) -> None:
    """A delivery and orders from the command line, each a process of its own; one given twice counts once."""
    counter = ("examples.shop", "--log", f"sqlite:///{tmp_path}/shop.db")

    received = [run(*counter, "receive", "widget", 100, "--id", 7) for _ in range(2)]
    accepted = [run(*counter, "order", "o-1", "widget", 15) for _ in range(2)]
    refused = run(*counter, "order", "o-2", "widget", 86)

    assert [told.stdout for told in received] == ["100 of widget in stock\n"] * 2
    assert [told.stdout for told in accepted] == ["o-1 was accepted, 85 of widget left\n", "o-1 was accepted before, 85 of widget left\n"]
    assert (refused.returncode, refused.stderr) == (1, "refused: only 85 of widget left\n")


def test_a_payment_is_recorded_from_the_command_line(run: Run, tmp_path: Path) -> None:
    """It counts once; one of an order that nobody has placed pays for nothing."""
    counter = ("examples.shop", "--log", f"sqlite:///{tmp_path}/shop.db")
    run(*counter, "receive", "widget", 100)
    run(*counter, "order", "o-1", "widget", 15)

    paid = [run(*counter, "pay", number).stdout for number in ("o-1", "o-1", "o-2")]

    assert paid == ["o-1 is paid\n", "o-1 is paid\n", "o-2 is unknown\n"]


@pytest.mark.parametrize("url", ["memory:", "postgresql://nobody:secret@nowhere/shop"])
def test_a_log_that_is_no_file_is_an_error(run: Run, url: str) -> None:
    """Nobody else could be asked what one in memory says, and the views of one in PostgreSQL lie in no file that is deleted here."""
    told = run("examples.shop", "--log", url)

    assert told.returncode == 2
    assert "must be on disk" in told.stderr
    assert "secret" not in told.stderr


def test_progress_is_told_as_lines_of_all_lines(tmp_path: Path) -> None:
    """Who shows a bar learns how many lines were taken, of how many, and when it is done."""
    write(tmp_path / "lines.csv", sample(2500))
    seen: list[tuple[int, int | None]] = []

    fill(f"sqlite:///{tmp_path}/shop.db", tmp_path / "lines.csv", lambda done, total: seen.append((done, total)))

    assert seen == [(1000, 2500), (2000, 2500), (2500, 2500)]


def test_an_order_needs_a_log_that_stays(run: Run) -> None:
    """An order into a log that is thrown away makes no sense, and is a wrong use of the command."""
    told = run("examples.shop", "order", "o-1", "widget", 15)

    assert told.returncode == 2
    assert "--log" in told.stderr


# --- the rules, by themselves -----------------------------------------------------------------------------------------------


def test_a_cancellation_of_what_was_bought_is_accepted() -> None:
    """All that was bought and not yet cancelled may be cancelled."""
    bought = Bought("c-1", "widget", units=3)

    decided = list(cancel_line(CancelLine("c-1", "widget", 3), bought))

    assert decided == [LineCancelled("c-1", "widget", 3)]


def test_a_cancellation_of_more_than_was_bought_is_refused() -> None:
    """The refusal says how many were bought, as data."""
    bought = Bought("c-1", "widget", units=3)

    with pytest.raises(h.Refused) as refused:
        list(cancel_line(CancelLine("c-1", "widget", 4), bought))

    assert refused.value.facts == {"bought": 3}


def test_an_order_is_priced_with_its_freight() -> None:
    """The carrier is asked, and its answer is part of the price."""
    with shop.open() as running:
        running.record(StockReceived("widget", 100))

        receipt = running.dispatch(PlaceOrder("o-1", "widget", 15))

        assert receipt.events == (OrderPlaced("o-1", "widget", 15, total=Decimal(35)),)
        assert running.view(Stock).get(sku="widget", since=receipt).units == 85


# --- what follows -----------------------------------------------------------------------------------------------------------

PLACED = OrderPlaced("o-1", "widget", 15, total=Decimal(35))
SHOP = spec(shop, answers={freight: Decimal(5)}).given(StockReceived("widget", 20))


def test_an_order_that_leaves_too_little_has_more_ordered() -> None:
    """The reaction sends a command, and its decider reorders."""
    SHOP.when(PlaceOrder("o-1", "widget", 15)).then(PLACED, StockReordered("widget", 100))


def test_an_order_that_leaves_enough_has_nothing_ordered() -> None:
    """Ten are enough."""
    SHOP.when(PlaceOrder("o-1", "widget", 10)).then(OrderPlaced("o-1", "widget", 10, total=Decimal(25)))


def test_nothing_is_reordered_twice() -> None:
    """While a delivery is on its way, the command comes to nothing; once it has come, it is needed again."""
    low = SHOP.given(PLACED)
    second = OrderPlaced("o-2", "widget", 1, total=Decimal(7))
    third = OrderPlaced("o-3", "widget", 101, total=Decimal(207))

    low.when(PlaceOrder("o-2", "widget", 1)).then(second)
    low.when(ReorderStock("widget", 100)).then_nothing()
    low.given(StockReceived("widget", 100)).when(PlaceOrder("o-3", "widget", 101)).then(third, StockReordered("widget", 100))


def test_an_unpaid_order_is_cancelled_in_time_and_gives_its_units_back() -> None:
    """Not a moment before it is due."""
    placed = SHOP.given(PLACED)

    placed.when(PAYMENT_AFTER_MAX - timedelta(seconds=1)).then_nothing()
    cancelled = placed.when(PAYMENT_AFTER_MAX).then(OrderCancelled("o-1", "widget", 15))
    cancelled.then_state(Stock("widget", 20)).then_view(Order("o-1", "widget", 15, "cancelled"))


def test_a_paid_order_stays() -> None:
    """Its timer rings all the same, and the decider does nothing."""
    paid = SHOP.given(PLACED, timedelta(days=2), PaymentArrived("o-1"))

    paid.when(timedelta(days=1)).then_nothing().then_view(Order("o-1", "widget", 15, "paid"))


def test_an_order_is_cancelled_once_and_a_late_payment_does_not_revive_it() -> None:
    """Somebody may ask for it before the timer does."""
    cancelled = SHOP.given(PLACED, OrderCancelled("o-1", "widget", 15))

    cancelled.when(PAYMENT_AFTER_MAX).then_nothing().then_state(Stock("widget", 20))
    cancelled.when(PaymentArrived("o-1")).then_view(Order("o-1", "widget", 15, "cancelled"))


def test_the_reactions_by_themselves() -> None:
    """They are functions, and can be called."""
    assert list(restock(PLACED, Stock("widget", 9))) == [ReorderStock("widget", 100)]
    assert list(restock(PLACED, Stock("widget", 10))) == []
    assert list(expect_payment(PLACED)) == [h.Later(CancelUnpaid("o-1"), after=PAYMENT_AFTER_MAX)]


def test_a_timer_outlasts_the_process_that_set_it(tmp_path: Path) -> None:
    """It is in the log: an order placed by one process is cancelled by another, days later."""
    log = f"sqlite:///{tmp_path}/shop.db"
    with shop.open(log, source=Clock(name="first")) as running:
        running.record(StockReceived("widget", 100))
        timers = running.settled(running.dispatch(PlaceOrder("o-1", "widget", 15))).timers
    [due] = timers

    with shop.open(log, source=Clock(due, name="second")) as running:
        running.settled()

        assert running.state(Order, "o-1") == Order("o-1", "widget", 15, "cancelled")
        assert running.state(Stock, "widget") == Stock("widget", 100)


# --- the real file ----------------------------------------------------------------------------------------------------------


def test_the_real_file_gives_the_expected_numbers(run: Run, real: Real, tmp_path: Path) -> None:
    """541,909 lines, killed after 60,000 and resumed: revenue by country and month to the last digit, 7,518 cancellations accepted and 1,387 refused."""
    expected = json.loads(real("online_retail_expected.json").read_text())
    log = f"sqlite:///{tmp_path}/shop.db"
    killed(log, real("online_retail.csv.gz"), at_line=60_000)

    told = summary(run("examples.shop", "--data", real("online_retail.csv.gz"), "--log", log, "--json"))

    assert told["lines"] == expected["rows"] == 541909
    assert told["revenue"] == expected["revenue"] == "9747747.934"
    assert told["cancellations_accepted"] == expected["cancel_accepted"] == 7518
    assert told["cancellations_refused"] == expected["cancel_rejected"] == 1387
    assert told["by_country"] == expected["by_country"]
    assert told["by_month"] == expected["by_month"]
    assert told["top_customers"] == expected["top_customers"]
    assert told["top_items"] == expected["top_stock"]


# --- means ------------------------------------------------------------------------------------------------------------------


def summary(told: subprocess.CompletedProcess[str]) -> Any:  # Any: JSON
    """Return the summary that a run printed, without the story after it."""
    return {key: value for key, value in printed(told).items() if key not in STORY}


def printed(told: subprocess.CompletedProcess[str]) -> Any:  # Any: JSON
    """Return all that a run printed."""
    assert told.returncode == 0, told.stderr
    return json.loads(told.stdout)


def write(path: Path, lines: Iterable[Line]) -> None:
    """Write lines to a file, compressed if its name says so."""
    text = io.StringIO(newline="")
    write_lines(lines, text)
    content = text.getvalue().encode()
    path.write_bytes(gzip.compress(content, 1) if path.suffix == ".gz" else content)


def killed(log: str, data: Path, at_line: int) -> None:
    """Begin an import in a process of its own, which kills itself as it takes this line."""
    suicide = f"""
import os, pathlib, signal
from examples.shop.demo import fill

def progress(done: int, total: int | None) -> None:
    if done >= {at_line}:
        os.kill(os.getpid(), signal.SIGKILL)

fill({log!r}, pathlib.Path({str(data)!r}), progress)
"""
    done = subprocess.run([sys.executable, "-c", suicide], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def plain(lines: Iterable[Line]) -> dict[str, Any]:  # Any: JSON
    """Compute the summary without a log, without views, and without the shop's rules."""
    count = 0
    countries: defaultdict[str, Decimal] = defaultdict(Decimal)
    months: defaultdict[str, Decimal] = defaultdict(Decimal)
    customers: defaultdict[str, Decimal] = defaultdict(Decimal)
    items: Counter[str] = Counter()
    bought: Counter[tuple[str, str]] = Counter()
    accepted = refused = 0
    for line in lines:
        count += 1
        amount = line.units * line.price
        countries[line.country] += amount
        months[line.at.strftime("%Y-%m")] += amount
        items[line.sku] += line.units
        if line.customer is None:
            continue
        customers[line.customer] += amount
        theirs = (line.customer, line.sku)
        if not line.invoice.startswith("C"):
            bought[theirs] += line.units
        elif bought[theirs] >= -line.units:
            bought[theirs] += line.units
            accepted += 1
        else:
            refused += 1
    return {
        "lines": count,
        "revenue": two_places(sum(countries.values(), Decimal(0))),
        "cancellations_accepted": accepted,
        "cancellations_refused": refused,
        "by_country": {country: two_places(countries[country]) for country in sorted(countries)},
        "by_month": {month: two_places(months[month]) for month in sorted(months)},
        "top_customers": [[customer, two_places(amount)] for customer, amount in sorted(customers.items(), key=by_value)[:20]],
        "top_items": [[item, units] for item, units in sorted(items.items(), key=by_value)[:20]],
    }


def by_value(item: tuple[str, Decimal | int]) -> tuple[Decimal | int, str]:
    """Sort by value, the largest first, and by name where they are equal."""
    return -item[1], item[0]


def two_places(amount: Decimal) -> str:
    """Write two decimal places, or three where the third is not 0."""
    return f"{amount:.3f}".removesuffix("0")
