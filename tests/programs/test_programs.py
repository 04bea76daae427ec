"""The programs of the reference do what they say: right answers, refusals with facts, and nothing twice."""

import asyncio
import functools
import threading
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import TypeVar

import httpx
import pytest
from starlette.applications import Starlette

import happened as h
from happened.notification.timer import next_due
from happened.testing import Clock
from tests.notification.model import until
from tests.programs import p00_shop, p02_order, p03_school, p04_orders, p05_views, p06_transfer, p09_web, p10_invoices
from tests.programs.p01_bank import Account, Deposited, Transfer, Transferred, bank
from tests.programs.p02_order import Bought, CancelLine, Line, LineCancelled, Wish
from tests.programs.p03_school import Claim, Course, CourseOpened, Enrol, Enrolled, Left, Register, Student, Withdrew, school
from tests.programs.p05_views import CountryRevenue, CustomerMoved, HomeRevenue, MonthRevenue, OpenOrder, OrderClosed, sales
from tests.programs.p10_invoices import CustomerBlocked, Invoice, InvoicePaid, PayInvoice

T = TypeVar("T")

# --- the shop of one page ---------------------------------------------------------------------------------------------------


def test_the_shop_prints_the_same_however_often_it_is_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids, not content, tell what is there already."""
    log = f"sqlite:///{tmp_path}/shop.db"

    for _ in range(3):
        p00_shop.main(log)

    assert capsys.readouterr().out.split() == ["85", "85", "85"]


def test_the_shop_refuses_more_than_is_there() -> None:
    """What the decider says is what the caller hears, and nothing leaves the stock."""
    with p00_shop.shop.open() as running:
        running.record(p00_shop.StockReceived("widget", 100))

        with pytest.raises(h.Refused, match=r"^only 100 of widget left$"):
            running.dispatch(p00_shop.PlaceOrder("o-1", "widget", 101))

        assert running.state(p00_shop.Stock, "widget") == p00_shop.Stock("widget", 100)


def test_the_freight_is_part_of_the_total() -> None:
    """The answer of a gateway is decided with, and is in the event."""
    with p00_shop.shop.open() as running:
        running.record(p00_shop.StockReceived("widget", 100))

        receipt = running.dispatch(p00_shop.PlaceOrder("o-1", "widget", 15))

    assert receipt.events == (p00_shop.OrderPlaced("o-1", "widget", 15, Decimal(35)),)


# --- 1. the bank ------------------------------------------------------------------------------------------------------------


def test_a_transfer_moves_money_between_two_accounts() -> None:
    """One event with two fields of one tag touches two states."""
    with bank.open() as running:
        running.record(Deposited("ann", Decimal(100)))
        running.record(Deposited("bob", Decimal("0.50")))

        receipt = running.dispatch(Transfer("ann", "bob", Decimal("99.99")))

        assert receipt.events == (Transferred("ann", "bob", Decimal("99.99")),)
        view = running.view(Account)
        assert view.get(account="ann", since=receipt).balance == Decimal("0.01")
        assert view.get(account="bob", since=receipt).balance == Decimal("100.49")


def test_a_transfer_to_oneself_changes_nothing() -> None:
    """The event touches the one account once, and what goes comes."""
    with bank.open() as running:
        running.record(Deposited("ann", Decimal(100)))

        receipt = running.dispatch(Transfer("ann", "ann", Decimal(60)))

        assert running.state(Account, "ann") == Account("ann", Decimal(100))
        assert running.view(Account).get("ann", since=receipt).balance == 100
        assert running.states(Account) == {("ann",): Account("ann", Decimal(100))}


def test_a_target_that_does_not_exist_is_refused_with_its_name() -> None:
    """`Account | None` is None before the first event, so that a typo opens no account."""
    with bank.open() as running:
        running.record(Deposited("ann", Decimal(100)))

        with pytest.raises(h.Refused, match=r"^no such account$") as refused:
            running.dispatch(Transfer("ann", "bpb", Decimal(1)))

        assert refused.value.facts == {"account": "bpb"}
        assert running.state(Account, "bpb") is None


def test_an_overdrawn_account_is_refused_with_what_is_missing() -> None:
    """A source that never existed has the initial balance; money in facts is exact text, as in the log."""
    with bank.open() as running:
        running.record(Deposited("bob", Decimal(1)))

        with pytest.raises(h.Refused, match=r"^overdrawn$") as refused:
            running.dispatch(Transfer("nobody", "bob", Decimal("0.30")), id="t-1")
        with pytest.raises(h.Refused, match=r"^overdrawn$") as again:
            running.dispatch(Transfer("nobody", "bob", Decimal("0.30")), id="t-1")

        assert Decimal(refused.value.facts["missing"]) == Decimal("0.30")
        assert Decimal(again.value.facts["missing"]) == Decimal("0.30")


def test_a_repeated_transfer_returns_the_first_receipt() -> None:
    """Dispatching again with the same id is always safe."""
    with bank.open() as running:
        running.record(Deposited("ann", Decimal(100)), id="d-1")
        running.record(Deposited("bob", Decimal(0)), id="d-2")

        first = running.dispatch(Transfer("ann", "bob", Decimal(60)), id="t-1")
        second = running.dispatch(Transfer("ann", "bob", Decimal(60)), id="t-1")
        deposit = running.record(Deposited("ann", Decimal(100)), id="d-1")

        assert (first.repeated, second.repeated, deposit.repeated) == (False, True, True)
        assert str(second) == str(first)
        assert (second.position, second.digest, second.events) == (first.position, first.digest, first.events)
        assert running.state(Account, "ann") == Account("ann", Decimal(40))


def test_a_refusal_stands_when_the_reason_is_gone() -> None:
    """The same id hears the same refusal; a new intention has a new id."""
    with bank.open() as running:
        running.record(Deposited("bob", Decimal(0)))
        with pytest.raises(h.Refused):
            running.dispatch(Transfer("ann", "bob", Decimal(5)), id="t-1")
        running.record(Deposited("ann", Decimal(100)))

        with pytest.raises(h.Refused, match="overdrawn"):
            running.dispatch(Transfer("ann", "bob", Decimal(5)), id="t-1")

        assert running.dispatch(Transfer("ann", "bob", Decimal(5)), id="t-2").events


def test_money_is_neither_made_nor_lost_by_many_at_once() -> None:
    """Transfers from many threads are decided one after the other."""
    names = [f"a{number}" for number in range(4)]
    with bank.open() as running:
        running.record_all([Deposited(name, Decimal(10)) for name in names])

        def move(seed: int) -> None:
            for step in range(25):
                source, target = names[(seed + step) % 4], names[(seed * step + 1) % 4]
                try:
                    running.dispatch(Transfer(source, target, Decimal(seed + 1)))
                except h.Refused:
                    continue

        threads = [threading.Thread(target=move, args=(seed,)) for seed in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        balances = [account.balance for account in running.states(Account).values()]
        assert sum(balances) == 40
        assert min(balances) >= 0


# --- 2. orders with lines ---------------------------------------------------------------------------------------------------


async def two_each(sku: str, units: int) -> Decimal:
    await asyncio.sleep(0)
    return Decimal("2.50") * units


def order(*wishes: Wish) -> p02_order.PlaceOrder:
    return p02_order.PlaceOrder("o-1", "c-1", wishes)


def open_shop(real: Callable[[str, int], Awaitable[Decimal]] = two_each) -> h.Running:
    running = p02_order.shop.open(gateways={p02_order.price: real})
    running.record_all([p02_order.StockReceived("nut", 10), p02_order.StockReceived("bolt", 5)])
    return running


def test_prices_are_asked_of_the_gateway_that_open_was_given() -> None:
    """The stub stands in the code, the real function in `open`; answers come in the order of the questions."""
    with open_shop() as running:
        receipt = running.dispatch(order(Wish("nut", 3), Wish("bolt", 1), Wish("nut", 2)))

    lines = (Line("nut", 3, Decimal("7.50")), Line("bolt", 1, Decimal("2.50")), Line("nut", 2, Decimal("5.00")))
    assert receipt.events == (p02_order.OrderPlaced("o-1", "c-1", lines),)


def test_each_line_takes_from_the_stock_of_its_own_item() -> None:
    """A part is folded once for each line, also where one item has two lines."""
    with open_shop() as running:
        receipt = running.dispatch(order(Wish("nut", 3), Wish("bolt", 1), Wish("nut", 2)))

        assert running.state(p02_order.Stock, "nut") == p02_order.Stock("nut", 5)
        assert running.state(p02_order.Stock, "bolt") == p02_order.Stock("bolt", 4)
        assert running.view(Bought).get("c-1", "nut", since=receipt).units == 5
        assert running.view(Bought).get(customer="c-1", sku="bolt", since=receipt).units == 1
        assert running.view(Bought).find("c-2", "nut", since=receipt) is None


def test_what_is_short_is_named_before_anyone_is_asked() -> None:
    """A refusal names the items; units of one item wished for twice are added up."""
    asked: list[str] = []

    async def noted(sku: str, units: int) -> Decimal:
        asked.append(sku)
        return Decimal(1)

    with open_shop(noted) as running:
        with pytest.raises(h.Refused, match="not enough in stock") as refused:
            running.dispatch(order(Wish("nut", 6), Wish("bolt", 5), Wish("nut", 5), Wish("glue", 1)))

        assert refused.value.facts == {"skus": ["nut", "glue"]}
        assert asked == []


def test_questions_are_asked_at_once() -> None:
    """`ask_all` waits for the slowest answer, not for the sum: here each waits until the other is asked, too."""
    started: list[str] = []
    both = asyncio.Event()

    async def together(sku: str, units: int) -> Decimal:
        started.append(sku)
        if len(started) == 2:
            both.set()
        await both.wait()
        return Decimal(len(sku))

    with open_shop(together) as running:
        receipt = running.dispatch(order(Wish("nut", 1), Wish("bolt", 1)))

    [placed] = receipt.events
    assert isinstance(placed, p02_order.OrderPlaced)
    assert [line.price for line in placed.lines] == [3, 4]


def test_a_question_is_not_asked_again_for_a_repeated_command() -> None:
    """The answers are recorded with the command."""
    asked: list[str] = []

    async def noted(sku: str, units: int) -> Decimal:
        asked.append(sku)
        return Decimal(1)

    with open_shop(noted) as running:
        first = running.dispatch(order(Wish("nut", 1)), id="w-1")
        second = running.dispatch(order(Wish("nut", 1)), id="w-1")

    assert asked == ["nut"]
    assert (str(first), first.events) == (str(second), second.events)


def test_a_gateway_that_fails_at_first_is_tried_again() -> None:
    """The table says three attempts."""
    tries: list[str] = []

    async def shaky(sku: str, units: int) -> Decimal:
        tries.append(sku)
        if len(tries) < 3:
            raise ConnectionError("no route")
        return Decimal(1)

    with open_shop(shaky) as running:
        assert running.dispatch(order(Wish("nut", 1))).events

    assert tries == ["nut"] * 3


def test_a_gateway_that_keeps_failing_leaves_the_id_free() -> None:
    """Nothing is recorded, and the same id may try again."""
    down = [True]

    async def shaky(sku: str, units: int) -> Decimal:
        if down:
            raise ConnectionError("no route")
        return Decimal(1)

    with open_shop(shaky) as running:
        with pytest.raises(h.GatewayFailed, match="no route") as failed:
            running.dispatch(order(Wish("nut", 1)), id="w-1")
        stock = running.state(p02_order.Stock, "nut")
        down.clear()

        assert failed.value.facts["gateway"] == "price"
        assert failed.value.facts["attempts"] == 3
        assert stock == p02_order.Stock("nut", 10)


def test_the_same_questions_can_be_awaited() -> None:
    """`adispatch` asks an async gateway on the loop that called."""
    loops: list[asyncio.AbstractEventLoop] = []

    async def noted(sku: str, units: int) -> Decimal:
        loops.append(asyncio.get_running_loop())
        return Decimal(1)

    async def main() -> h.Receipt:
        async with p02_order.shop.open(gateways={p02_order.price: noted}) as running:
            await running.arecord(p02_order.StockReceived("nut", 1))
            receipt = await running.adispatch(order(Wish("nut", 1)))
            assert loops == [asyncio.get_running_loop()]
            return receipt

    assert asyncio.run(main()).events == (p02_order.OrderPlaced("o-1", "c-1", (Line("nut", 1, Decimal(1)),)),)


def test_more_than_was_bought_can_not_be_cancelled() -> None:
    """What was bought is known per customer and item, also when several lines and cancellations came before."""
    with open_shop() as running:
        running.dispatch(order(Wish("nut", 3), Wish("bolt", 1), Wish("nut", 2)))

        receipt = running.dispatch(CancelLine("c-1", "nut", 4))
        with pytest.raises(h.Refused, match="more than was bought") as refused:
            running.dispatch(CancelLine("c-1", "nut", 2))
        with pytest.raises(h.Refused) as stranger:
            running.dispatch(CancelLine("c-2", "nut", 1))

        assert receipt.events == (LineCancelled("c-1", "nut", 4),)
        assert (refused.value.facts, stranger.value.facts) == ({"bought": 1}, {"bought": 0})
        assert running.state(p02_order.Stock, "nut") == p02_order.Stock("nut", 9)


def test_an_order_without_lines_is_an_order() -> None:
    """A mapping of no keys is empty, and no question is asked."""
    with open_shop() as running:
        receipt = running.dispatch(order())

    assert receipt.events == (p02_order.OrderPlaced("o-1", "c-1", ()),)


# --- 3. the school ----------------------------------------------------------------------------------------------------------


def test_a_course_takes_as_many_as_it_has_places() -> None:
    """A place given back is free again."""
    with school.open() as running:
        running.record(CourseOpened("maths", 1))
        running.dispatch(Enrol("maths", "ann"))

        with pytest.raises(h.Refused, match=r"^full$") as refused:
            running.dispatch(Enrol("maths", "bob"))
        running.record(Withdrew("maths", "ann"))
        receipt = running.dispatch(Enrol("maths", "bob"))

        assert refused.value.facts == {"capacity": 1}
        assert receipt.events == (Enrolled("maths", "bob"),)
        assert running.state(Course, "maths") == Course("maths", capacity=1, taken=1)
        assert running.state(Student, "bob") == Student("bob", frozenset({"maths"}))


def test_the_limit_given_from_outside_holds() -> None:
    """A decider may be made by a function of its limits."""
    with school.open() as running:
        running.record_all([CourseOpened("maths", 9), CourseOpened("art", 9)])
        running.dispatch(Enrol("maths", "ann"))

        with pytest.raises(h.Refused, match=r"^too many open courses$") as refused:
            running.dispatch(Enrol("art", "ann"))

        assert refused.value.facts == {"open_max": 1}


def test_a_limit_may_be_filled_by_partial() -> None:
    """A parameter that `functools.partial` has filled is not filled by type."""

    def enrol(command: Enrol, course: Course | None, *, extra: int) -> list[Enrolled]:
        if course is None or course.taken >= course.capacity + extra:
            raise h.Refused("full")
        return [Enrolled(command.course, command.student)]

    app = h.App("school", records=[CourseOpened], deciders=[functools.partial(enrol, extra=1)])
    with app.open() as running:
        running.record(CourseOpened("maths", 1))
        running.dispatch(Enrol("maths", "ann"))
        running.dispatch(Enrol("maths", "bob"))

        with pytest.raises(h.Refused, match="full"):
            running.dispatch(Enrol("maths", "cem"))


def test_a_course_that_was_never_opened_is_no_course() -> None:
    """A parameter that may be None is None before the first event."""
    with school.open() as running, pytest.raises(h.Refused, match="no such course"):
        running.dispatch(Enrol("latin", "ann"))


def test_what_is_so_already_is_accepted_without_an_event() -> None:
    """A decider may yield nothing: the command is recorded, and its receipt has no events."""
    with school.open() as running:
        running.record(CourseOpened("maths", 9))
        first = running.dispatch(Enrol("maths", "ann"))

        second = running.dispatch(Enrol("maths", "ann"))

        assert second.events == ()
        assert second.position > first.position
        assert running.state(Course, "maths") == Course("maths", capacity=9, taken=1)


def test_an_address_belongs_to_one_student_until_that_one_leaves() -> None:
    """`evolve` returns None: gone, and a later event begins anew."""
    with school.open() as running:
        running.dispatch(Register("ann", "a@x.org"))
        with pytest.raises(h.Refused, match="e-mail taken"):
            running.dispatch(Register("bob", "a@x.org"))
        again = running.dispatch(Register("ann", "a@x.org"))
        running.record(Left("ann", "a@x.org"))
        free = running.state(Claim, "a@x.org")

        receipt = running.dispatch(Register("bob", "a@x.org"))

        assert again.events == ()
        assert free is None
        assert receipt.events
        assert running.states(Claim) == {("a@x.org",): Claim("a@x.org", "bob")}


def test_invoice_numbers_have_no_gap_though_many_ask_at_once() -> None:
    """A state without a key serialises all who use it."""

    async def issue_many() -> list[h.Receipt]:
        async with school.open() as running:
            return await asyncio.gather(*[running.adispatch(p03_school.IssueInvoice(f"o-{number}")) for number in range(60)])

    receipts = asyncio.run(issue_many())

    events = [event for receipt in receipts for event in receipt.events]
    assert sorted(event.number for event in events if isinstance(event, p03_school.InvoiceIssued)) == list(range(1, 61))


def test_invoice_numbers_have_no_gap_across_two_that_open_one_log(tmp_path: Path) -> None:
    """Whoever decides has seen all that was recorded before, by whom it may be."""
    log = f"sqlite:///{tmp_path}/school.db"
    with school.open(log) as one, school.open(log) as two:
        receipts = [(one, two)[number % 2].dispatch(p03_school.IssueInvoice(f"o-{number}")) for number in range(10)]

    assert [receipt.events for receipt in receipts] == [(p03_school.InvoiceIssued(number + 1, f"o-{number}"),) for number in range(10)]


# --- 4. a process manager ---------------------------------------------------------------------------------------------------


def test_an_order_that_nobody_pays_is_cancelled_after_three_days_and_a_paid_one_stays(tmp_path: Path) -> None:
    """The timer rings also where nothing ran meanwhile; the decider looks at the order, and does nothing where it was paid."""
    clock = Clock(datetime(2026, 1, 1, tzinfo=UTC))
    log = f"sqlite:///{tmp_path}/orders.db"
    with p04_orders.orders.open(log, source=clock) as running:
        receipt = running.record(p04_orders.OrderPlaced("o-1"))
        assert running.settled(receipt).timers == (datetime(2026, 1, 4, tzinfo=UTC),)
        running.settled(running.record(p04_orders.OrderPlaced("o-2")))
        clock.move(timedelta(days=2))
        running.record(p04_orders.PaymentArrived("o-2"))
    clock.move(timedelta(days=1))
    with p04_orders.orders.open(log, source=clock) as running:
        until(lambda: next_due(running.log.engine) is None)

        assert running.settled(receipt).done
        running.catch_up()
        assert running.state(p04_orders.Order, "o-1") == p04_orders.Order("o-1", cancelled=True)
        assert running.state(p04_orders.Order, "o-2") == p04_orders.Order("o-2", paid=True)
        assert [record.body for record in running.log.read() if isinstance(record.body, p04_orders.OrderCancelled)] == [
            p04_orders.OrderCancelled("o-1")
        ]


def test_the_reaction_alone() -> None:
    """It is a function, and is called."""
    found = list(p04_orders.expect_payment(p04_orders.OrderPlaced("o-1")))

    assert found == [h.Later(p04_orders.CancelUnpaid("o-1"), after=timedelta(days=3))]


# --- 5. views ---------------------------------------------------------------------------------------------------------------


def test_the_program_of_views_runs_as_it_stands(capsys: pytest.CaptureFixture[str]) -> None:
    """What it returns are rows with position and age."""
    dear = p05_views.main()

    assert [(row.order, row.country, row.total) for row in dear] == [("o-1", "France", Decimal("9.9"))]
    assert capsys.readouterr().out.startswith("9.9")


def sold(number: int, customer: str, country: str, total: str) -> p05_views.OrderPlaced:
    return p05_views.OrderPlaced(f"o-{number}", customer, country, Decimal(total))


MARCH = datetime(2026, 3, 31, 23, 59, 59, 999999, tzinfo=UTC)
APRIL = datetime(2026, 4, 1, tzinfo=UTC)


def open_sales() -> tuple[h.Running, h.Receipt]:
    running = sales.open()
    receipt = running.record_all(
        [
            h.Message(sold(1, "c-1", "France", "9.90"), occurred=MARCH),
            h.Message(CustomerMoved("c-1", "Spain"), occurred=MARCH),
            h.Message(sold(2, "c-1", "France", "0.10"), occurred=APRIL),
            h.Message(sold(3, "c-2", "Norway", "10.000001"), occurred=APRIL),
            h.Message(sold(4, "c-1", "Norway", "-3.5"), occurred=APRIL),
        ]
    )
    assert receipt is not None
    return running, receipt


def test_a_key_without_a_tag_comes_from_the_field_of_its_name() -> None:
    """Revenue by country adds up to the last digit."""
    running, receipt = open_sales()
    with running:
        rows = running.view(CountryRevenue).order_by("country").rows(since=receipt)

    assert [(row.country, row.revenue) for row in rows] == [("France", Decimal("10.00")), ("Norway", Decimal("6.500001"))]


def test_a_key_may_be_computed_from_when_it_happened() -> None:
    """The month is that of `occurred`, not that of recording."""
    running, receipt = open_sales()
    with running:
        view = running.view(MonthRevenue)

        assert view.get(month="2026-03", since=receipt).revenue == Decimal("9.90")
        assert view.get(month="2026-04", since=receipt).revenue == Decimal("6.600001")


def test_a_join_in_a_key_is_as_of_that_position() -> None:
    """What a customer bought before moving stays where the customer lived then."""
    running, receipt = open_sales()
    with running:
        rows = running.view(HomeRevenue).rows(since=receipt)

    assert {row.home: row.revenue for row in rows} == {"unknown": Decimal("19.900001"), "Spain": Decimal("-3.40")}


def test_a_rebuilt_view_is_the_same() -> None:
    """A join and a computed key come out the same in another pass over the log."""
    running, receipt = open_sales()
    with running:
        before = [set(running.view(state).rows(since=receipt)) for state in (HomeRevenue, MonthRevenue, OpenOrder)]

        for state in (HomeRevenue, MonthRevenue, OpenOrder):
            running.rebuild(state)

        assert [set(running.view(state).rows(since=receipt)) for state in (HomeRevenue, MonthRevenue, OpenOrder)] == before


def test_a_closed_order_has_no_row() -> None:
    """`evolve` returns None: the row is deleted, and an order of the same number begins anew."""
    running, receipt = open_sales()
    with running:
        view = running.view(OpenOrder)
        assert view.get("o-1", since=receipt).placed == MARCH

        closed = running.record(OrderClosed("o-1"))

        assert view.find("o-1", since=closed) is None
        with pytest.raises(h.NotThere, match="no row for order='o-1'") as missing:
            view.get(order="o-1", since=closed)
        assert missing.value.facts == {"view": "OpenOrder", "key": ["o-1"]}
        assert [row.order for row in view.order_by("order").rows(since=closed)] == ["o-2", "o-3", "o-4"]
        anew = running.record(sold(1, "c-9", "Malta", "1"))
        assert view.get("o-1", since=anew).country == "Malta"


def test_conditions_and_order_on_money_are_exact() -> None:
    """Decimals are compared and sorted as numbers, neither as text nor as floats."""
    running, receipt = open_sales()
    with running:
        view = running.view(OpenOrder)

        dear = view.where("total > ?", Decimal("9.9")).rows(since=receipt)
        exact = view.where(total=Decimal("10.000001")).rows(since=receipt)
        cheap = view.where("total < ?", 10).where("country = ?", "France").order_by("total").rows(since=receipt)
        ordered = view.order_by("-total").rows(since=receipt)
        first = view.order_by("-total").rows(limit=1, since=receipt)

    assert [row.order for row in dear] == ["o-3"]
    assert [row.order for row in exact] == ["o-3"]
    assert [row.order for row in cheap] == ["o-2", "o-1"]
    assert [row.total for row in ordered] == [Decimal("10.000001"), Decimal("9.90"), Decimal("0.10"), Decimal("-3.5")]
    assert list(first) == [ordered[0]]


def test_an_answer_says_its_position_and_age() -> None:
    """At the head the age is zero."""
    running, receipt = open_sales()
    with running:
        rows = running.view(OpenOrder).rows(since=receipt)

        assert rows.position >= receipt.position
        assert rows.age == timedelta(0)
        assert len(rows) == len(list(rows)) == 4


def test_a_receipt_crosses_processes_as_text(tmp_path: Path) -> None:
    """`since=` takes the text of a receipt that another process was given; one of another log is not taken."""
    log = f"sqlite:///{tmp_path}/sales.db"
    with sales.open(log) as running:
        receipt = str(running.record(sold(1, "c-1", "France", "1")))

    with sales.open(log) as running:
        row = running.view(OpenOrder).get("o-1", since=receipt)
        other, strange = open_sales()
        other.close()
        with pytest.raises((h.Invalid, h.Diverged)):
            running.view(OpenOrder).get("o-1", since=str(strange))

    assert row.total == 1


def test_a_position_that_is_not_there_yet_is_late_and_says_how_far_it_is() -> None:
    """The error names the view, its position and the lag."""
    running, receipt = open_sales()
    with running, pytest.raises(h.Late, match="OpenOrder") as late:
        running.view(OpenOrder).rows(since=receipt.position + 100, wait_seconds_max=0.05)

    assert late.value.facts["since"] == receipt.position + 100
    assert "lag" in late.value.facts


# --- 6. state transfer and notification -----------------------------------------------------------------------------------


def test_one_system_bills_by_what_another_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The copy has what the receipt speaks of, and a decider decides with it; run again, nothing counts twice."""
    for _ in range(2):
        p06_transfer.main(f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db")

    said = ["Debtor(customer='c-1', country='France')", "(Billed(customer='c-1', gross=Decimal('100')),)"]
    assert capsys.readouterr().out.splitlines() == said * 2


# --- 9. over HTTP -----------------------------------------------------------------------------------------------------------


def served(log: str, story: Callable[[httpx.AsyncClient], Awaitable[T]]) -> T:
    """Run a story against the web application, in one process and without a port."""

    async def run() -> T:
        app: Starlette = p09_web.web(log)
        transport = httpx.ASGITransport(app)
        async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://bank") as client:
            return await story(client)

    return asyncio.run(run())


def rich(path: Path) -> str:
    log = f"sqlite:///{path}/bank.db"
    with bank.open(log) as running:
        running.record_all([Deposited("ann", Decimal(100)), Deposited("bob", Decimal(5))])
    return log


BODY = {"source": "ann", "target": "bob", "amount": "60.00"}


def test_a_transfer_over_http_is_read_with_its_receipt(tmp_path: Path) -> None:
    """The receipt goes out as a header and comes back as `since`; the same id does not transfer twice."""

    async def story(client: httpx.AsyncClient) -> tuple[httpx.Response, ...]:
        first = await client.post("/transfers/t-1", json=BODY)
        second = await client.post("/transfers/t-1", json=BODY)
        since = {"since": first.headers["receipt"]}
        return (
            first,
            second,
            await client.get("/accounts/bob", params=since),
            await client.get("/accounts", params={**since, "least": "50"}),
        )

    first, second, bob, rich_ones = served(rich(tmp_path), story)

    assert (first.status_code, first.json()["repeated"]) == (200, False)
    assert second.json() == {"receipt": first.json()["receipt"], "repeated": True}
    assert Decimal(bob.json()["balance"]) == 65
    assert (rich_ones.json()["accounts"], rich_ones.json()["age_seconds"]) == (["bob"], 0)


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        (BODY | {"amount": "1000"}, 409, "Refused"),
        (BODY | {"amount": "much"}, 422, "Invalid"),
        (BODY | {"currency": "GBP"}, 422, "Invalid"),
        ({"source": "ann"}, 422, "Invalid"),
    ],
)
def test_an_error_over_http_has_its_number_and_its_facts(tmp_path: Path, body: dict[str, str], status: int, error: str) -> None:
    """The numbers stand at the edge, in a table."""

    async def story(client: httpx.AsyncClient) -> httpx.Response:
        return await client.post("/transfers/t-1", json=body)

    answer = served(rich(tmp_path), story)

    assert (answer.status_code, answer.json()["error"]) == (status, error)
    assert answer.json()["facts"]


def test_an_account_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    """`aget` raises `NotThere` as `get` does."""

    async def story(client: httpx.AsyncClient) -> httpx.Response:
        return await client.get("/accounts/nobody")

    answer = served(rich(tmp_path), story)

    assert (answer.status_code, answer.json()["error"]) == (404, "NotThere")


def test_many_transfers_at_once_are_all_recorded(tmp_path: Path) -> None:
    """Requests that come together share commits, and each has its own answer."""

    async def story(client: httpx.AsyncClient) -> list[httpx.Response]:
        bodies = [BODY | {"amount": "1"} for _ in range(50)]
        return await asyncio.gather(*[client.post(f"/transfers/t-{number}", json=body) for number, body in enumerate(bodies)])

    log = rich(tmp_path)
    answers = served(log, story)

    assert {answer.status_code for answer in answers} == {200}
    assert len({answer.json()["receipt"] for answer in answers}) == 50
    with bank.open(log) as running:
        assert running.state(Account, "ann") == Account("ann", Decimal(50))


# --- 10. invoices -----------------------------------------------------------------------------------------------------------


def test_a_key_is_found_in_a_state_that_was_filled_before() -> None:
    """The command has the invoice, the invoice has the customer."""
    with p10_invoices.invoices.open() as running:
        running.dispatch(p10_invoices.IssueInvoice("i-1", "ann", Decimal(10)))
        running.dispatch(p10_invoices.IssueInvoice("i-2", "bob", Decimal(10)))
        running.record(CustomerBlocked("bob"))

        receipt = running.dispatch(PayInvoice("i-1"))
        with pytest.raises(h.Refused, match="customer is blocked"):
            running.dispatch(PayInvoice("i-2"))

        assert receipt.events == (InvoicePaid("i-1"),)
        assert running.state(Invoice, "i-1") == Invoice("i-1", "ann", Decimal(0))
        assert running.state(Invoice, "i-2") == Invoice("i-2", "bob", Decimal(10))


def test_an_invoice_that_is_not_there_leads_nowhere() -> None:
    """Without the state that leads on, what it leads to is None."""
    with p10_invoices.invoices.open() as running, pytest.raises(h.Refused, match="no such invoice"):
        running.dispatch(PayInvoice("i-9"))


def test_a_key_found_by_a_state_is_loaded_from_disk(tmp_path: Path) -> None:
    """In a process that has just been started nothing is in memory, and the decision is the same."""
    log = f"sqlite:///{tmp_path}/invoices.db"
    with p10_invoices.invoices.open(log) as running:
        running.dispatch(p10_invoices.IssueInvoice("i-1", "ann", Decimal(10)))
        running.record(CustomerBlocked("ann"))

    with p10_invoices.invoices.open(log) as running, pytest.raises(h.Refused, match="customer is blocked"):
        running.dispatch(PayInvoice("i-1"))
