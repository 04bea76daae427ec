"""A reaction: what fills its parameters, what it may send, and what is recorded of it."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from typing import Annotated, Any

import msgspec
import pytest

import happened as h
from happened.log.held import Held, errors_of
from happened.log.records import Record
from happened.log.row import decode_header
from happened.testing import Clock
from tests.notification.model import until, whole

OrderNo = Annotated[str, h.Tag("order")]
CustomerNo = Annotated[str, h.Tag("customer")]
Sku = Annotated[str, h.Tag("sku")]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NO_KEY = h.CallId("")


class Ordered(h.Event):
    order: OrderNo
    customer: CustomerNo
    skus: tuple[Sku, ...] = ()


class Paid(h.Event):
    order: OrderNo


class Told(h.Event):
    text: str


class Tell(h.Command):
    text: Annotated[str, msgspec.Meta(max_length=2_000_000)]


class TellMore(h.Command):
    text: str


class Unsent(h.Command):
    text: str


class Order(h.State):
    order: OrderNo
    customer: CustomerNo = ""
    paid: bool = False

    def evolve(self, event: Ordered | Paid) -> "Order":
        match event:
            case Ordered():
                return self.but(customer=event.customer)
            case Paid():
                return self.but(paid=True)


class Customer(h.State):
    customer: CustomerNo
    orders: int = 0

    def evolve(self, event: Ordered) -> "Customer":
        return self.but(orders=self.orders + 1)


class Stock(h.State):
    sku: Sku
    sold: int = 0

    def evolve(self, event: Ordered) -> "Stock":
        return self.but(sold=self.sold + 1)


def tell(command: Tell) -> Iterator[Told]:
    """Tell."""
    yield Told(command.text)


def tell_more(command: TellMore) -> Iterator[Told]:
    """Tell."""
    yield Told(command.text)


def unsent(command: Unsent) -> Iterator[Told]:
    """Tell."""
    yield Told(command.text)


async def mail(text: str, key: h.CallId = NO_KEY) -> str:
    """Stand for the outside."""
    raise NotImplementedError


def price(sku: str) -> int:
    """Stand for the outside."""
    raise NotImplementedError


def shop(*reactions: Any, **more: Any) -> h.App:
    """Return an app with these reactions."""
    return h.App("shop", records=[Ordered, Paid], deciders=[tell, tell_more, unsent], reactions=reactions, gateways=[mail, price], **more)


def told(running: h.Running) -> list[str]:
    """Return what was told, in the order of the log."""
    return [record.body.text for record in running.log.read() if isinstance(record.body, Told)]


# --- what fills it


def all_kinds(
    event: Ordered | Paid, order: Order, customer: Customer | None, record: h.Recorded, world: h.World
) -> Iterator[Tell | TellMore | h.Later[Tell]]:
    """Ask for everything."""
    drawn = (world.new_id(), world.random())
    assert isinstance(drawn[1], float)
    yield Tell(
        f"{type(event).__name__} {order.order} {order.paid} {customer} {record.id} {record.actor} {record.occurred:%Y} {world.now:%Y}"
    )
    yield TellMore(str(drawn))


def test_parameters_are_filled_by_type_for_each_event_of_a_union() -> None:
    """The key of a customer is the event's own, or that of the order before it; what never happened is None; a default is left alone."""
    clock = Clock(NOON)
    with shop(all_kinds).open(source=clock) as running:
        running.settled(running.record(Paid("o-0"), id="paid-0", actor="ann", occurred=datetime(2020, 1, 1, tzinfo=UTC)))
        running.settled(running.record(Ordered("o-1", "c-1"), id="ordered"))
        running.settled(running.record(Paid("o-1"), id="paid-1"))

        found = told(running)

        assert found[0] == "Paid o-0 True None paid-0 ann 2020 2026"
        assert found[2] == "Ordered o-1 False Customer(customer='c-1', orders=1) ordered  2026 2026"
        assert found[4] == "Paid o-1 True Customer(customer='c-1', orders=1) paid-1  2026 2026"
        assert len(set(found)) == 6
        whole(running)


def many(event: Ordered, stock: Mapping[str, Stock]) -> Iterator[Tell]:
    """Ask for several states of a class."""
    yield Tell(str({sku: one.sold for sku, one in stock.items()}))


def test_a_mapping_has_the_states_of_all_that_the_event_names() -> None:
    """Also those that were never heard of before; none of an event that names none."""
    with shop(many).open() as running:
        for skus in (("a", "b"), ("b", "c"), ()):
            running.settled(running.record(Ordered("o", "c", skus)))

        assert told(running) == ["{'a': 1, 'b': 1}", "{'b': 2, 'c': 1}", "{}"]


def looking(event: Paid, world: h.World, times: int = 2) -> Iterable[Tell] | None:
    """Ask the world for a state, and return a list or nothing."""
    order = world.state(Order, event.order)
    return [Tell(order.customer)] * times if order.customer else None


def test_it_may_return_a_list_or_nothing_and_ask_the_world_for_any_state() -> None:
    """What returns `None` sends nothing, and leaves no row; a parameter with a default is left alone."""
    with shop(looking).open() as running:
        running.settled(running.record(Paid("o-1")))
        before = running.log.head
        assert told(running) == []
        running.settled(running.record(Ordered("o-1", "c-1")))
        running.settled(running.record(Paid("o-1")))

        assert told(running) == ["c-1", "c-1"]
        assert before < running.log.head
        assert [(one["handler"], one["outcome"], one["count"]) for one in running.statistics()["executions"]] == [
            ("reaction/looking", "nothing on Paid", 1)
        ]


def asking(event: Ordered, world: h.World) -> Iterator[Tell]:
    """Ask outside, and send what comes back."""
    sent = world.ask(mail, f"to {event.customer}")
    prices = world.ask_all(price, [(sku,) for sku in event.skus])
    yield Tell(f"{sent} {prices}")


def test_what_it_asks_is_recorded_and_a_retry_offers_the_same_keys() -> None:
    """An async gateway and a sync one; the second try leaves no trace of the first, and the outside can tell that it is the same."""
    keys: list[str] = []

    async def mailed(text: str, key: h.CallId) -> str:
        await asyncio.sleep(0)
        keys.append(key)
        return f"sent {text}"

    prices = {"a": 1}
    with shop(asking).open(gateways={mail: mailed, price: prices.__getitem__}) as running:
        receipt = running.record(Ordered("o-1", "c-1", ("a", "b")), id="ordered", actor="ann", correlation="talk")
        until(running.stuck)
        assert [record.name for record in running.log.read(after=receipt.position)] == []
        prices["b"] = 2
        until(lambda: running.settled(receipt).done)

        assert told(running) == ["sent to c-1 [1, 2]"]
        assert len(keys) >= 2
        assert len(set(keys)) == 1
        answers = [record for record in running.log.read() if record.kind == "answer"]
        assert [record.body.get("answer") for record in answers] == ["sent to c-1", 1, 2]
        run = f"{running.log.identity.id}:{receipt.position}:asking"
        assert {record.causation for record in answers} == {"ordered"}
        assert [record.id for record in answers] == [run, f"{run}#1", f"{run}#2"]
        assert {record.handler for record in answers} == {"asking"}
        assert {
            (record.correlation, record.actor) for record in running.log.read(after=receipt.position - 1) if record.kind != "system"
        } == {("talk", "ann")}
        whole(running)


# --- what is recorded of it


def first(event: Ordered) -> Iterator[Tell | h.Later[TellMore]]:
    """Send one at once and one later."""
    yield Tell(event.order)
    yield h.Later(TellMore(event.order), at=NOON + timedelta(days=1))


def second(event: Told) -> Iterator[h.Later[Unsent]]:
    """Go on to what the first has caused, once."""
    if not event.text.startswith("again"):
        yield h.Later(Unsent(f"again {event.text}"), after=timedelta(hours=1))


def record_with(running: h.Running, id: str) -> Record:
    """Return the record of an id."""
    [found] = [record for record in running.log.read() if record.id == id]
    return found


def test_ids_causes_conversation_actor_and_depth_of_what_is_sent_and_of_what_that_causes(url: str) -> None:
    """Each record says by whom and why, each id says where it came from, across two reactions and two timers."""
    clock = Clock(NOON)
    with shop(first, second).open(url, source=clock) as running:
        receipt = running.record(Ordered("o-1", "c-1"), id="ordered", actor="ann")
        assert running.settled(receipt).timers == (NOON + timedelta(hours=1), NOON + timedelta(days=1))
        clock.move(timedelta(days=1))
        until(lambda: len(told(running)) == 3)
        clock.move(timedelta(days=1))
        until(lambda: len(told(running)) == 4)
        assert running.settled(receipt).timers == ()

        log = running.log.identity.id
        sent = record_with(running, f"{log}:{receipt.position}:first:0")
        assert (sent.body, sent.kind, sent.causation, sent.correlation, sent.actor) == (Tell("o-1"), "input", "ordered", "ordered", "ann")
        event = record_with(running, f"{sent.id}#1")
        assert (event.body, event.causation, event.correlation, event.handler) == (Told("o-1"), sent.id, "ordered", "tell")
        schedule = record_with(running, f"{log}:{receipt.position}:first")
        assert (schedule.kind, schedule.causation, schedule.correlation) == ("output", "ordered", "ordered")
        late = record_with(running, f"{log}:{receipt.position}:first:1")
        assert (late.body, late.causation, late.correlation, late.actor) == (TellMore("o-1"), schedule.id, "ordered", "ann")
        again = record_with(running, f"{log}:{event.position}:second:0")
        assert (again.body, again.causation) == (Unsent("again o-1"), f"{log}:{event.position}:second")

        names = running.log.names.by_number
        found: dict[str, tuple[int, str | None, str | None]] = {}
        for id in (sent.id, schedule.id, late.id, again.id):  # noqa: A001 - as records call it
            [row] = running.log.find(id)
            header = decode_header(row.head)
            assert header.sent is not None
            cause = names.get(header.sent.cause)
            found[id] = header.depth, names[header.sent.handler].name, cause.name if cause is not None else None
        assert found == {
            sent.id: (1, "first", "Ordered"),
            schedule.id: (1, "first", "Ordered"),
            late.id: (0, "first", None),  # what comes an hour later is no step of a circle
            again.id: (0, "second", None),
        }
        assert running.log.find(sent.id)[0].head.count('"s":') == 1
        whole(running)


def test_the_position_as_of_which_its_states_were_read_is_recorded(url: str) -> None:
    """It is not before the event, and the states say what lies up to it."""
    with shop(all_kinds).open(url) as running:
        receipt = running.record(Ordered("o-1", "c-1"))
        running.settled(receipt)

        [row] = running.log.find(f"{running.log.identity.id}:{receipt.position}:all_kinds:0")
        sent = decode_header(row.head).sent
        assert sent is not None
        assert receipt.position <= sent.seen < row.position


# --- circles


def on_told(event: Told) -> Iterator[TellMore]:
    """Go round for ever."""
    yield TellMore(event.text)


def tell_asking(command: TellMore, world: h.World) -> Iterator[Told]:
    """Ask before it tells, so that it is kept as pending first."""
    yield Told(str(world.ask(price, command.text)))


@pytest.mark.parametrize("pending", [False, True])
def test_a_circle_ends_after_a_hundred_handlers_and_is_named(pending: bool) -> None:
    """The reaction is stuck there, and the text has the circle; also where each command was kept as pending before it was decided."""
    app = h.App(
        "circle",
        deciders=[tell, tell_asking if pending else tell_more],
        reactions=[on_told],
        gateways=[price],
    )
    with app.open(gateways={price: int}) as running:
        receipt = running.dispatch(Tell("7"))
        until(running.stuck)

        [held] = running.stuck()

        assert len(told(running)) == 101
        assert "stands behind 100 handlers" in held.error
        assert "Told → on_told → Told → on_told" in held.error
        assert not running.settled(receipt).done
        running.decide_about("skip", "on_told", held.position)
        until(lambda: running.settled(receipt).done)
        whole(running)


# --- what it may send


def sends(given: Any) -> Any:
    """Return a reaction that sends something, whatever it says."""

    def sending(event: Ordered) -> Iterator[Tell | h.Later[TellMore]]:
        if event.order == "bad":
            yield given
        yield Tell(event.order)

    return sending


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (TellMore("x"), "`sends.<locals>.sending` sends a `TellMore` at once, which its annotation does not name: it names Tell"),
        (h.Later(Tell("x"), after=timedelta(1)), "sends a `Tell` later, which its annotation does not name: it names TellMore"),
        (Told("x"), "sends a `Told` at once, which its annotation does not name: it names Tell"),
        ("text", "sends a `str` at once"),
        (Tell(7), "`Tell` is not valid"),  # type: ignore[arg-type]  # what a checker would see
        (h.Later(TellMore("x"), after=timedelta.max), "sends a command for a time that is in no calendar"),
        (
            h.Later(TellMore("x"), at=datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))),
            "sends a command for a time that is in no calendar",
        ),
        (Tell("x" * 1_100_000), "a record may have 1,048,576 bytes, this one has 1,100,0"),
    ],
)
def test_what_can_not_be_sent_holds_its_event_and_no_other(given: Any, said: str) -> None:
    """Nothing of that run is recorded; events of other keys go on."""
    with shop(h.Reaction(sends(given), by="order")).open() as running:
        running.record(Ordered("bad", "c"))
        until(running.stuck)
        running.settled(running.record(Ordered("good", "c")))

        [held] = running.stuck()
        assert said in held.error
        assert told(running) == ["good"]
        assert running.statistics()["reactions"][0]["failure"] is None


def one_alone(event: Ordered) -> Iterator[Tell]:
    """Return a command that is in no list."""
    return Tell("x")  # type: ignore[return-value]  # pyright: ignore[reportReturnType]  # what a checker would see


def leaving(event: Ordered) -> Iterator[Tell]:
    """Leave the program."""
    if event.order:
        raise SystemExit(3)
    yield Tell("x")


def too_many(event: Ordered) -> Iterator[h.Later[TellMore]]:
    """Send more later than one row takes."""
    for number in range(10_001):
        yield h.Later(TellMore(str(number)), after=timedelta(1))


def dispatching(event: Ordered) -> Iterator[Tell]:
    """Try to do by itself what is to be sent."""
    handle[0].dispatch(Tell("by itself"))
    yield Tell("x")


handle: list[h.Running] = []


@pytest.mark.parametrize(
    ("reaction", "said"),
    [
        (one_alone, "`one_alone` returned a `Tell`: yield it, or return a list"),
        (leaving, "SystemExit: 3"),
        (too_many, "a command may have 10,000 records, this one has 10,001"),
        (dispatching, "can't be dispatched from inside"),
    ],
)
def test_what_goes_wrong_in_a_run_is_seen_and_ends_no_thread(reaction: Any, said: str) -> None:
    """It is held with its stack trace, and once it is skipped the reaction goes on."""
    with shop(reaction).open() as running:
        handle[:] = [running]
        receipt = running.record(Ordered("o", "c"))
        until(running.stuck)

        [held] = running.stuck()
        assert said in held.error
        assert held.id == receipt.id
        running.decide_about("skip", held.handler, held.position)
        until(lambda: running.settled(receipt).done)
        again = running.record(Ordered("o", "c"))
        until(lambda: [one.position for one in running.stuck()] == [again.position])
        assert told(running) == []


# --- one that is new, or comes back


def test_what_several_can_not_get_past_is_told_of_each() -> None:
    """Whoever looks at one record sees all that can't get past it; what has no id, as timers that can't be sent, is not mixed up."""

    def first_fails(event: Ordered) -> list[Tell]:
        raise ValueError("first")

    def second_fails(event: Ordered) -> list[Tell]:
        raise ValueError("second")

    with shop(first_fails, second_fails).open() as running:
        running.record(Ordered("a", "c"), id="order")
        until(lambda: len(running.stuck()) == 2)

        assert running.statistics()["stuck"] == {"order": "ValueError: first; ValueError: second"}

    timers = [Held("timers", position, (), "schedule", {}, f"error {position}") for position in (3, 4)]
    assert errors_of(timers) == {one.note: one.error for one in timers}


def test_a_new_reaction_begins_at_the_head_of_that_moment(url: str) -> None:
    """Not with what was there; also where the first process with it runs nothing, and another one comes later. `since=0` hears all."""
    with shop().open(url) as running:
        running.record(Ordered("before", "c"))
    with shop(first).open(url, run=False, source=Clock(NOON)) as running:
        running.record(Ordered("between", "c"))
        running.record(Ordered("between-2", "c"))
    with shop(first, h.Reaction(many, since=0)).open(url, source=Clock(NOON)) as running:
        until(lambda: len(told(running)) == 5)
        assert sorted(told(running)) == ["between", "between-2", "{}", "{}", "{}"]
        receipt = running.record(Ordered("after", "c"))
        running.settled(receipt)
        assert min(told(running)) == "after"


def test_a_reaction_that_is_taken_out_and_comes_back_goes_on_where_it_was(url: str) -> None:
    """What happened in between it hears then; `since` is not looked at any more."""
    with shop(h.Reaction(many, since=0)).open(url) as running:
        running.settled(running.record(Ordered("o", "c", ("a",))))
    with shop().open(url) as running:
        running.record(Ordered("o", "c", ("b",)))
    with shop(h.Reaction(many, since=0)).open(url) as running:
        running.settled(running.record(Ordered("o", "c", ("c",))))
        assert told(running) == ["{'a': 1}", "{'b': 1}", "{'c': 1}"]
        whole(running)


# --- wiring


def no_event(command: Tell) -> Iterator[Tell]:
    """Hear a command."""
    yield command


def no_parameter() -> Iterator[Tell]:
    """Hear nothing."""
    yield Tell("")


def sends_nothing_known(event: Ordered) -> Iterator[Any]:
    """Say nothing of what it sends."""
    yield Tell("")


def sends_bare(event: Ordered) -> Iterator:  # type: ignore[type-arg]  # pyright: ignore[reportMissingTypeArgument, reportUnknownParameterType]  # what a checker would see
    """Say nothing of what it sends."""
    yield Tell("")


def sends_none(event: Ordered) -> None:
    """Send nothing, ever."""


def sends_event(event: Ordered) -> Iterator[Told]:
    """Send an event."""
    yield Told("")


def sends_orphan(event: Ordered) -> Iterator[h.Later["Orphan"]]:
    """Send what nobody takes."""
    yield h.Later(Orphan(), after=timedelta(1))


class Orphan(h.Command):
    pass


async def waits(event: Ordered) -> list[Tell]:
    """Wait."""
    return []


def wants_strange(event: Ordered, path: int) -> Iterator[Tell]:
    """Ask for a number."""
    yield Tell("")


def sends_unsaid(event: Paid):  # type: ignore[no-untyped-def]  # what a checker would see
    """Say nothing of what it sends."""
    yield Tell("")


def wants_untold(event: Paid, customer: Customer) -> Iterator[Tell]:
    """Ask for a state whose key nobody says."""
    yield Tell("")


def wants_one_of_many(event: Ordered, stock: Stock) -> Iterator[Tell]:
    """Ask for one of several."""
    yield Tell("")


class ByCountry(h.State):
    country: str
    count: int = 0

    @staticmethod
    def key_of(event: Ordered) -> str:
        return event.customer

    def evolve(self, event: Ordered) -> "ByCountry":
        return self.but(count=self.count + 1)


def wants_computed(event: Ordered, country: ByCountry) -> Iterator[Tell]:
    """Ask for a state of a computed key."""
    yield Tell("")


def unannotated(event):  # type: ignore[no-untyped-def]  # pyright: ignore[reportUnknownParameterType, reportMissingParameterType]  # what a checker would see
    """Say nothing."""


@h.named("first", version=2)
def other_first(event: Ordered) -> Iterator[Tell]:
    """Have the name of another."""
    yield Tell("")


@h.named("Tell")
def called_like_a_command(event: Ordered) -> Iterator[Tell]:
    """Have the name of a command."""
    yield Tell("")


Entry = Callable[[], Any]
WRONG: list[tuple[Entry, str | None]] = [
    (lambda: no_event, "`no_event` is no reaction: its first parameter, `Tell`, is a command: a decider takes it"),
    (lambda: no_parameter, "`no_parameter` is no reaction: its first parameter must be an event"),
    (lambda: sends_nothing_known, "`sends_nothing_known` sends `Any`, which is no command of its own: name the commands"),
    (lambda: sends_bare, "`sends_bare` does not say what it sends: annotate it `-> Iterator[CancelOrder]`"),  # pyright: ignore[reportUnknownLambdaType]  # as above
    (lambda: sends_unsaid, "`sends_unsaid` does not say what it returns: annotate it, for example `-> Iterator[CancelOrder]`"),
    (lambda: sends_none, "`sends_none` does not say what it sends"),
    (lambda: sends_event, "`sends_event` sends `Told`, which is an event: a decider decides that it happened"),
    (lambda: sends_orphan, "`sends_orphan` sends `Orphan`, which no decider of this app takes: add one to `deciders=[...]`"),
    (lambda: waits, "`waits` is `async`, and a reaction is a plain function: what waits for the outside is a gateway"),
    (
        lambda: wants_strange,
        "parameter `path` of `wants_strange` can't be filled: a reaction may ask for states, `Recorded` and the `World`",
    ),
    (lambda: wants_untold, "the key of `Customer` needs the tag `customer`, which neither `Paid` nor a state left of it has"),
    (lambda: wants_one_of_many, "`Ordered` may have several values of the tag `sku`"),
    (lambda: wants_computed, "its key is computed by `key_of`"),
    (lambda: unannotated, "has no annotation: it is filled by its type"),  # pyright: ignore[reportUnknownLambdaType]  # as above
    (lambda: Tell, "which is no function"),
    (lambda: "first", "`reactions` lists `'first'`, which is no function"),
    (lambda: tell, "`tell` is no reaction: its first parameter, `Tell`, is a command"),
    (lambda: h.Reaction(first, by="sku"), None),
    (lambda: h.Reaction(all_kinds, by="customer"), "is to go by the tag `customer`, which `Paid` does not have"),
    (lambda: h.Reaction(first, by=7), "`by` names tags, not 7"),  # type: ignore[arg-type]  # what a checker would see
    (lambda: h.Reaction(first, since=-1), "`since` is a position, 0 or more, not -1"),
    (lambda: h.Reaction(first, since=True), "`since` is a position, 0 or more, not True"),
    (lambda: first, "`first` is the name of the reaction `first`, and of the reaction `first`: list it once"),
    (lambda: other_first, "`first` is the name of the reaction `first`, and of the reaction `other_first`"),
    (lambda: called_like_a_command, "`Tell` is the name of the command `Tell`, and of the reaction `called_like_a_command`"),
]


@pytest.mark.parametrize(("entry", "said"), WRONG)
def test_wrong_wiring_is_said_when_the_app_is_made(entry: Any, said: str | None) -> None:
    """Each text says what is wrong and what to write."""
    if said is None:
        shop(entry())
        return
    with pytest.raises(h.Invalid) as error:
        shop(first, entry())
    assert said in str(error.value)


def test_a_single_reaction_is_no_list() -> None:
    """It is said what to write."""
    with pytest.raises(h.Invalid, match=r"a list is taken here: write `reactions=\[first\]`"):
        h.App("shop", reactions=first)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # what a checker would see


def either(event: Ordered) -> list[Tell] | tuple[TellMore, Unsent] | None:
    """Return one of several kinds of lists."""
    return [Tell("a")] if event.order == "a" else (TellMore("b"), Unsent("c"))


def test_any_list_may_be_returned() -> None:
    """All its members count as what is sent."""
    with shop(either).open() as running:
        running.settled(running.record(Ordered("a", "c")))
        running.settled(running.record(Ordered("b", "c")))

        assert told(running) == ["a", "b", "c"]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"after": timedelta(1), "at": NOON},
        {"after": timedelta(-1)},
        {"at": NOON.replace(tzinfo=None)},
        {"after": 3},
        {"after": NOON},
        {"at": NOON.date()},
        {"at": "2026-01-01T12:00:00Z"},
    ],
)
def test_later_says_when_in_one_way(given: dict[str, Any]) -> None:
    """No time, two, one before the event, one without a zone, and what is none are refused where it is made."""
    with pytest.raises(h.Invalid, match="Later"):
        h.Later(Tell("x"), **given)
