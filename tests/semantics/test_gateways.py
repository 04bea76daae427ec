"""Questions to the outside: asked outside the lock, recorded, heard again."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any  # Any: a gateway of either colour

import msgspec
import pytest

import happened as h
from happened.core.world import microseconds
from happened.log.row import decode_header
from happened.sourcing import gateway
from happened.testing import World
from tests.semantics.model import Account, Balance, Deposit, Deposited, deposit
from tests.semantics.test_pending import Jumping
from tests.semantics.test_waiting import in_thread
from tests.transfer.model import until


class Buy(h.Command):
    account: Account


class Bought(h.Event):
    account: Account
    price: int
    balance: int


class Loud(h.Event):
    account: Account
    text: str


class Draw(h.Command):
    account: Account


class Drawn(h.Event):
    account: Account
    id: str
    number: float


def price(account: str, balance: int) -> int:
    """Stand for the outside."""
    raise NotImplementedError


async def later(account: str, balance: int) -> int:
    """Answer on a loop."""
    await asyncio.sleep(0)
    return balance + 1


class Fragile:
    """What makes a decider fail until it is mended."""

    def __init__(self) -> None:
        self.broken = False


def shop(fragile: Fragile | None = None) -> h.App:
    """Return an app whose decider asks."""

    def buy(command: Buy, balance: Balance, world: h.World) -> Iterator[Bought]:
        asked = world.ask(price, command.account, balance.amount)
        if fragile is not None and fragile.broken:
            raise ValueError("the code failed after it had asked")
        if asked < 0:
            raise h.Refused("too cheap")
        yield Bought(command.account, asked, balance.amount)

    def draw(command: Draw, world: h.World) -> Iterator[Drawn]:
        yield Drawn(command.account, f"{world.new_id()} {world.now.isoformat()}", world.random())

    return h.App("shop", deciders=[buy, draw, deposit], gateways=[price])


def test_a_gateway_is_asked_outside_the_lock_and_a_moved_state_is_asked_anew(url: str) -> None:
    """While the outside thinks others commit, also to the state that was asked by: then it is asked once more, and both answers are recorded."""
    questions: list[int] = []

    def answer(account: str, balance: int) -> int:
        questions.append(balance)
        if len(questions) == 1:
            running.dispatch(Deposit(account, 5))
        return balance * 2

    with shop().open(url, run=False, gateways={price: answer}) as running:
        receipt = running.dispatch(Buy("a"), id="x")

        assert questions == [0, 5]
        assert receipt.events == (Bought("a", 10, 5),)
        assert len([record for record in running.log.read() if record.kind == "answer"]) == 2


class Ask(h.Command):
    account: Account


class Told(h.Event):
    account: Account
    text: str


def words(account: str) -> str:
    """Stand for an outside that answers with a text."""
    raise NotImplementedError


def leaving(_account: str) -> str:
    raise SystemExit(3)


def cancelled(_account: str) -> str:
    raise asyncio.CancelledError


def half(_account: str) -> str:
    return "half a character: \ud800"


def half_an_error(_account: str) -> str:
    raise ConnectionError("half an error: \ud800")


def page(_account: str) -> str:
    return "a page" * 500_000


def page_as_error(_account: str) -> str:
    raise ConnectionError("no page" * 500_000)


def page_of_no_text(_account: str) -> str:
    return [page(_account)]  # type: ignore[return-value]  # so it comes from outside


@pytest.mark.parametrize("colour", ["sync", "async"])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (leaving, "SystemExit: 3"),
        (cancelled, "CancelledError"),
        (half, "surrogates not allowed"),
        (half_an_error, "half an error"),
        (page, "keep large things outside, and answer where they are"),
        (page_as_error, "no page"),
        (page_of_no_text, "Expected `str`, got `array`"),
    ],
)
def test_whatever_the_outside_raises_or_answers_is_recorded_as_its_answer(
    url: str, answer: Callable[[str], str], said: str, colour: str
) -> None:
    """It wants to end the program, has cancelled what it waited for itself, or answers with what is no data: the decider hears that, at once and in replay."""

    async def awaited(account: str) -> str:
        return answer(account)

    def ask(command: Ask, world: h.World) -> Iterator[Told]:
        try:
            yield Told(command.account, world.ask(words, command.account))
        except h.GatewayFailed as error:
            yield Told(command.account, str(error))

    app = h.App("asking", deciders=[ask], gateways=[words])
    with app.open(url, gateways={words: awaited if colour == "async" else answer}) as running:
        receipts = [running.dispatch(Ask("a"), wait_seconds_max=5), running.outcome(running.enqueue(Ask("b")), wait_seconds_max=5)]
        receipts.append(asyncio.run(running.adispatch(Ask("c"), wait_seconds_max=5)))

        assert all(said in receipt.events[0].text for receipt in receipts)
        assert len([record for record in running.log.read() if record.kind == "answer"]) == 3


class Reading(msgspec.Struct):
    """What an instrument may say."""

    celsius: float | None = None


def data(account: str) -> dict[str, Any]:
    """Answer with data of any shape."""
    return {"readings": [{"celsius": 20.5}, {"celsius": None}, {"celsius": float("inf" if account == "a" else 3)}]}


def reading(account: str) -> Reading:
    """Answer with what is no number, or with one."""
    return Reading(float("nan") if account == "a" else None)


@pytest.mark.parametrize(("measure", "said"), [(data, "inf"), (reading, "nan")])
def test_an_answer_that_holds_what_is_no_number_is_not_heard_as_nothing(url: str, measure: Callable[[str], Any], said: str) -> None:
    """JSON has no word for it: it would be recorded, and heard, as `None`. A `None` that was answered is heard."""

    def ask(command: Ask, world: h.World) -> Iterator[Told]:
        yield Told(command.account, repr(world.ask(measure, command.account)))

    app = h.App("asking", deciders=[ask], gateways=[measure])
    with app.open(url) as running:
        with pytest.raises(h.GatewayFailed, match=f"JSON has no number for {said}"):
            running.dispatch(Ask("a"))
        assert "None" in running.dispatch(Ask("b")).events[0].text


class Circle(msgspec.Struct):
    """Data that may hold itself."""

    inner: "Circle | None" = None


def test_what_a_gateway_can_not_be_asked_is_said_and_nothing_is_recorded(url: str) -> None:
    """Arguments are recorded with the answer: half a character, what holds itself, what is no number and what is no data are `Invalid`, and the outside is not asked."""
    circle = Circle()
    circle.inner = circle
    arguments: list[Any] = ["half a character: \ud800", circle, [None, float("nan")], object()]

    def ask(command: Ask, world: h.World) -> Iterator[Told]:
        yield Told(command.account, world.ask(words, arguments[int(command.account)]))

    with h.App("asking", deciders=[ask], gateways=[words]).open(url) as running:
        for number in range(len(arguments)):
            with pytest.raises(h.Invalid, match=r"arguments of gateway `\S*words` can't be recorded"):
                running.dispatch(Ask(str(number)), wait_seconds_max=5)

        assert [record for record in running.log.read() if record.kind != "system"] == []


def test_a_retry_of_an_id_hears_the_answer_that_was_kept(url: str) -> None:
    """The decider fails after it has asked: nothing is recorded, the answer is kept across a reopen, and the retry does not ask again."""
    fragile, asked = Fragile(), list[int]()

    def answer(account: str, balance: int) -> int:
        asked.append(balance)
        return 40 + len(asked)

    fragile.broken = True
    with shop(fragile).open(url, run=False, gateways={price: answer}) as running:
        with pytest.raises(ValueError, match="failed after"):
            running.dispatch(Buy("a"), id="x")

        assert running.log.find("x") == []
    fragile.broken = False
    with shop(fragile).open(url, run=False, gateways={price: answer}) as running:
        receipt = running.dispatch(Buy("a"), id="x")

        assert receipt.events == (Bought("a", 41, 0),)
        assert running.dispatch(Buy("a"), id="x").repeated
        assert len(asked) == 1


def test_an_answer_is_recorded_also_when_the_command_is_refused(url: str) -> None:
    """A refusal after a question: the answer stands in the log, and the same id hears the refusal without asking."""
    asked: list[str] = []

    def answer(account: str, balance: int) -> int:
        asked.append(account)
        return -1

    with shop().open(url, run=False, gateways={price: answer}) as running:
        for _ in range(2):
            with pytest.raises(h.Refused):
                running.dispatch(Buy("a"), id="x")

        assert asked == ["a"]
        assert [record.kind for record in running.log.read() if record.kind != "system"] == ["input", "answer", "output"]


def test_a_gateway_that_fails_fails_the_command_and_the_id_stays_free(url: str) -> None:
    """`GatewayFailed` live, and nothing is recorded: a failure is not kept for the retry."""

    def answer(account: str, balance: int) -> int:
        raise ConnectionError("no way out")

    with shop().open(url, run=False, gateways={price: answer}) as running:
        with pytest.raises(h.GatewayFailed) as failed:
            running.dispatch(Buy("a"), id="x")

        assert failed.value.recorded is False
        assert running.log.find("x") == []


@pytest.mark.parametrize("how", ["dispatch", "adispatch", "enqueue"])
def test_an_async_gateway_answers_whoever_asks(url: str, how: str) -> None:
    """On the caller's loop with `adispatch`, on one of its own otherwise."""
    with shop().open(url, gateways={price: later}) as running:
        ways: dict[str, Callable[[], h.Receipt]] = {
            "dispatch": lambda: running.dispatch(Buy("a")),
            "adispatch": lambda: asyncio.run(running.adispatch(Buy("a"))),
            "enqueue": lambda: running.outcome(running.enqueue(Buy("a"))),
        }

        assert ways[how]().events == (Bought("a", 1, 0),)


def test_an_adispatch_that_asks_does_not_block_the_loop(url: str) -> None:
    """A sync gateway hangs in a thread: other tasks of the loop run, and are committed."""
    go = threading.Event()

    def answer(account: str, balance: int) -> int:
        assert go.wait(5)
        return 1

    async def main() -> None:
        async with shop().open(url, run=False, gateways={price: answer}) as running:
            asking = asyncio.create_task(running.adispatch(Buy("a")))
            for _ in range(5):
                await running.adispatch(Deposit("b", 1))
            assert not asking.done()
            go.set()
            assert (await asking).events == (Bought("a", 1, 0),)

    asyncio.run(main())


def test_chance_and_ids_are_the_same_for_the_same_id(url: str) -> None:
    """What a `World` hands out follows from the id: pending or direct, in one log or another."""
    with shop().open(url) as running, shop().open("memory:") as other:
        first = running.dispatch(Draw("a"), id="x").events[0]
        second = other.outcome(other.enqueue(Draw("a"), id="x")).events[0]

        assert first.number == second.number
        assert first.id.split()[0] == second.id.split()[0]


@pytest.mark.parametrize("how", ["dispatch", "enqueue"])
def test_now_is_when_a_command_was_taken_whenever_and_however_often_it_is_decided(url: str, how: str) -> None:
    """An hour passes before it is decided, and another one with each answer: in every run it is the same, and that is recorded."""
    clock = Jumping()
    runs: list[datetime] = []

    def hour(_account: str, nth: int) -> int:
        clock.ahead_us += 3_600_000_000
        return nth

    def look(command: Draw, world: h.World) -> Iterator[Drawn]:
        runs.append(world.now)
        for nth in range(3):
            world.ask(price, command.account, nth)
        yield Drawn(command.account, world.now.isoformat(), 0)

    app = h.App("clock", deciders=[look], gateways=[price])
    with app.open(url, run=False, source=clock, gateways={price: hour}) as running:
        began = datetime.now(UTC)
        kept = running.enqueue(Draw("a"), id="x") if how == "enqueue" else running.dispatch(Draw("a"), id="x")
    if how == "enqueue":
        hour("a", 0)
        with app.open(url, source=clock, gateways={price: hour}) as running:
            running.outcome(kept)
    with h.open_log(url) as log:
        [drawn] = log.read(h.query(names=["Drawn"]))
        noted = {decode_header(row.head).now for row in log.find("x")}

    assert len(runs) > 1
    assert {*runs, datetime.fromisoformat(drawn.body["id"])} == {runs[0]}
    assert noted == {microseconds(runs[0])}
    assert began <= runs[0] < drawn.time - timedelta(hours=3)


def test_together_is_all_or_none_and_would_is_nothing(url: str) -> None:
    """The last of several is refused, fails, or asks: nothing of any is recorded, ids stay free; `would` leaves no trace."""
    from tests.semantics.model import Take, Transfer, bank

    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 10))
        head, states = running.log.head, running.states(Balance)

        with pytest.raises(h.Refused):
            running.dispatch_together([h.Message(Take("1", "me"), id="t"), Deposit("b", 5), Transfer("b", "a", 6)])
        assert running.would(Transfer("a", "b", 4))
        with pytest.raises(h.Refused):
            running.would(Transfer("a", "b", 40))

        assert (running.log.head, running.states(Balance)) == (head, states)
        assert running.state(Balance, "b") is None
        assert running.log.find("t") == []
        receipts = running.dispatch_together([h.Message(Take("1", "me"), id="t"), Deposit("b", 5), Transfer("b", "a", 5)])
        assert [receipt.repeated for receipt in receipts] == [False] * 3
        assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 15, 2)


def test_what_would_be_decided_does_not_disturb_who_is_deciding(url: str) -> None:
    """`would` in threads beside commands that bring new names: numbers of names stay what the log says."""
    with shop().open(url, run=False, gateways={price: later}) as running:
        stop = threading.Event()

        def again() -> None:
            while not stop.is_set():
                running.would(Deposit("a", 1))

        threads = [threading.Thread(target=again) for _ in range(2)]
        for thread in threads:
            thread.start()
        for number in range(30):
            running.log.append(h.Loose(f"New{number}", {"n": number}))
            running.dispatch(Deposit("a", 1))
        stop.set()
        for thread in threads:
            thread.join()

        names = [record.name for record in running.log.read() if record.name.startswith("New")]
        assert names == [f"New{number}" for number in range(30)]
        assert len([record for record in running.log.read() if isinstance(record.body, Deposited)]) == 30


class Compare(h.Command):
    account: Account


def compare(command: Compare, world: h.World) -> Iterator[Bought]:
    """Ask two, and take the second answer."""
    world.ask(price, command.account, 1)
    yield Bought(command.account, world.ask(price, command.account, 2), 0)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_retry_asks_again_what_failed_and_hears_what_succeeded(url: str, reopened: bool) -> None:
    """The second of two questions fails once: the retry of the same id asks only that one, succeeds, and nothing kept is left over."""
    asked: list[int] = []

    def answer(account: str, number: int) -> int:
        asked.append(number)
        if asked == [1, 2]:
            raise ConnectionError("no way out")
        return number * 10

    app = h.App("compare", deciders=[compare], gateways=[price])
    with contextlib.ExitStack() as opened:
        running = opened.enter_context(app.open(url, run=False, gateways={price: answer}))
        with pytest.raises(h.GatewayFailed):
            running.dispatch(Compare("a"), id="x")
        if reopened:
            running.close()
            running = opened.enter_context(app.open(url, run=False, gateways={price: answer}))
        receipt = running.dispatch(Compare("a"), id="x")

    assert receipt.events == (Bought("a", 20, 0),)
    assert asked == [1, 2, 2]
    with app.open(url, run=False) as running:
        assert running.log.engine.notes("answers/") == {}


def test_nothing_is_kept_for_an_id_that_nobody_can_repeat(url: str) -> None:
    """Without an id of its own a command can't be tried again, so the answers that it got are of no use."""

    def answer(account: str, number: int) -> int:
        if number == 2:
            raise ConnectionError("no way out")
        return number

    with h.App("compare", deciders=[compare], gateways=[price]).open(url, run=False, gateways={price: answer}) as running:
        for _ in range(3):
            with pytest.raises(h.GatewayFailed):
                running.dispatch(Compare("a"))

        assert running.log.engine.notes("answers/") == {}


@pytest.mark.parametrize("how", ["dispatch", "adispatch"])
def test_a_gateway_that_is_slow_is_an_overload_in_the_callers_time(url: str, how: str) -> None:
    """The outside takes 3 s, the caller has 0.3: it hears `Overloaded` in time, nothing is recorded, and the same id works later."""
    go, asked = threading.Event(), list[str]()

    def answer(account: str, balance: int) -> int:
        asked.append(account)
        if len(asked) == 1:
            go.wait(3)
        return 7

    with shop().open(url, run=False, gateways={price: answer}) as running:
        began = time.monotonic()
        ways: dict[str, Callable[[], h.Receipt]] = {
            "dispatch": lambda: running.dispatch(Buy("a"), id="x", wait_seconds_max=0.3),
            "adispatch": lambda: asyncio.run(running.adispatch(Buy("a"), id="x", wait_seconds_max=0.3)),
        }
        with pytest.raises(h.Overloaded) as over:
            ways[how]()

        assert time.monotonic() - began < 1.5
        assert over.value.recorded is False
        assert running.log.find("x") == []
        assert running.dispatch(Buy("a"), id="x").events == (Bought("a", 7, 0),)
        go.set()


def test_where_no_thread_is_free_to_ask_in_it_is_an_overload_in_the_callers_time(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many wait for the outside as may: who comes after them is told in time, and they are answered all the same."""
    monkeypatch.setattr(gateway, "THREADS_MAX", 2)

    async def main() -> None:
        go, both, asked = asyncio.Event(), asyncio.Event(), list[str]()

        async def answer(account: str, balance: int) -> int:
            asked.append(account)
            if len(asked) == 2:
                both.set()
            await go.wait()
            return 7

        async with shop().open(url, run=False, gateways={price: answer}) as running:
            waiting = [asyncio.create_task(running.adispatch(Buy(account), wait_seconds_max=60)) for account in "ab"]
            await both.wait()
            with pytest.raises(h.Overloaded, match="2 decisions wait for the outside") as over:
                await running.adispatch(Buy("c"), id="x", wait_seconds_max=0.2)
            assert over.value.recorded is False
            assert not any(task.done() for task in waiting)
            queued = asyncio.create_task(running.adispatch(Buy("c"), id="x", wait_seconds_max=60))
            go.set()
            assert [(await task).events for task in (*waiting, queued)] == [(Bought(account, 7, 0),) for account in "abc"]

    asyncio.run(main())


def test_who_awaits_a_command_that_was_enqueued_hears_in_time_where_no_thread_is_free(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is recorded, and not decided yet: he hears `Late`, and not that nothing was recorded."""
    monkeypatch.setattr("happened.sourcing.gateway.THREADS_MAX", 1)

    async def main() -> None:
        go, began = asyncio.Event(), asyncio.Event()

        async def answer(account: str, balance: int) -> int:
            began.set()
            await go.wait()
            return 7

        async with shop().open(url, run=False, gateways={price: answer}) as running:
            running.enqueue(Buy("b"), id="x")
            waiting = asyncio.create_task(running.adispatch(Buy("a"), wait_seconds_max=60))
            await began.wait()
            with pytest.raises(h.Late):
                await asyncio.wait_for(running.adispatch(Buy("b"), id="x", wait_seconds_max=0.2), 10)
            assert not waiting.done()
            go.set()
            await waiting

    asyncio.run(main())


def test_a_command_whose_questions_never_settle_is_not_taken(url: str) -> None:
    """The state that it asks by moves on in every round: five rounds, then `Stuck` with the reason; nothing is recorded and others go on."""
    asked: list[int] = []

    def answer(account: str, balance: int) -> int:
        asked.append(balance)
        running.dispatch(Deposit(account, 1))
        return balance

    with shop().open(url, run=False, gateways={price: answer}) as running:
        with pytest.raises(h.Stuck, match="5 rounds") as stuck:
            running.dispatch(Buy("a"), id="x")

        assert stuck.value.recorded is False
        assert asked == [0, 1, 2, 3, 4]
        assert running.log.find("x") == []
        assert running.dispatch(Deposit("a", 1)).events


def test_the_key_offered_to_the_outside_is_the_same_at_every_try(url: str) -> None:
    """Attempts, retries of the same id and a reopen offer one key; another id, or asking once more, offers another."""
    keys: list[str] = []

    def pay(account: str, key: h.CallId = h.CallId("")) -> int:  # noqa: B008 - a text
        keys.append(key)
        if len(keys) < 4:
            raise ConnectionError("no way out")
        return 1

    def buy_keyed(command: Buy, world: h.World) -> Iterator[Bought]:
        yield Bought(command.account, world.ask(pay, command.account) + world.ask(pay, command.account), 0)

    app = h.App("keys", deciders=[buy_keyed], gateways=[h.Gateway(pay, attempts_max=2)])
    with app.open(url, run=False) as running, pytest.raises(h.GatewayFailed):
        running.dispatch(Buy("a"), id="x")
    with app.open(url, run=False) as running:
        running.dispatch(Buy("a"), id="x")
        running.dispatch(Buy("a"), id="y")

    assert len(set(keys[:4])) == 1
    assert len(set(keys)) == len(set(keys[3:])) == 4


def test_a_function_in_the_place_of_a_gateway_is_given_the_key_if_it_takes_one(url: str) -> None:
    """By the type, or by the name that the gateway has for it; who takes none is called without one."""

    def plain(account: str) -> str:
        return "not asked"

    def keyed(account: str, key: h.CallId = h.CallId("")) -> str:  # noqa: B008 - a text
        return "not asked"

    def ask_both(command: Buy, world: h.World) -> Iterator[Loud]:
        yield Loud(command.account, f"{world.ask(plain, command.account)} {world.ask(keyed, command.account)}")

    def by_type(account: str, token: h.CallId = h.CallId("")) -> str:  # noqa: B008 - a text
        return token.rsplit(":", 2)[0]

    def by_name(account: str, key: str) -> str:
        return key.rsplit(":", 2)[0]

    def without(account: str) -> str:
        return "no key"

    heard: list[str] = []
    app = h.App("keys", deciders=[ask_both], gateways=[plain, keyed])
    pairs: list[tuple[Callable[..., str], Callable[..., str]]] = [(by_type, by_type), (without, by_name), (without, without)]
    for number, (first, second) in enumerate(pairs):
        with app.open(url, run=False, gateways={plain: first, keyed: second}) as running:
            [said] = running.dispatch(Buy("a"), id=f"b-{number}").events
            heard.append(said.text)

    assert heard == ["b-0:plain b-0:keyed", "no key b-1:keyed", "no key no key"]


def test_a_branch_and_a_world_by_hand_call_a_function_without_a_key_as_it_is(url: str) -> None:
    """`answers` has functions that stand for the outside: they need not take the key that it is given."""

    def pay(account: str, key: h.CallId = h.CallId("")) -> int:  # noqa: B008 - a text
        raise NotImplementedError

    def five(account: str) -> int:
        return 5

    def buy_paid(command: Buy, world: h.World) -> Iterator[Bought]:
        yield Bought(command.account, world.ask(pay, command.account), 0)

    app = h.App("keys", deciders=[buy_paid], gateways=[pay])
    with app.open(url, run=False) as running, running.branch(answers={pay: five}) as branch:
        receipt = branch.dispatch(Buy("a"), id="x")

    assert receipt.events == (Bought("a", 5, 0),)
    assert list(buy_paid(Buy("a"), World(answers={pay: five}))) == [Bought("a", 5, 0)]


@pytest.mark.parametrize("kind", ["plain", "async"])
def test_an_attempt_that_takes_too_long_is_said_with_its_limit(url: str, kind: str) -> None:
    """What the gateway itself raises stays as it is, also where that is a `TimeoutError`."""

    def pay(account: str) -> int:
        if account == "own":
            raise TimeoutError("the bank is closed")
        time.sleep(1)
        return 1

    async def apay(account: str) -> int:
        if account == "own":
            raise TimeoutError("the bank is closed")
        await asyncio.sleep(1)
        return 1

    asked: Callable[..., Any] = pay if kind == "plain" else apay

    def buy_slowly(command: Buy, world: h.World) -> Iterator[Bought]:
        yield Bought(command.account, world.ask(asked, command.account), 0)

    app = h.App("slow", deciders=[buy_slowly], gateways=[h.Gateway(asked, wait_seconds_max=0.05)])
    with app.open(url, run=False) as running:
        with pytest.raises(h.GatewayFailed, match=r"failed: TimeoutError: no answer within 0\.05 s"):
            running.dispatch(Buy("a"))
        with pytest.raises(h.GatewayFailed, match="failed: TimeoutError: the bank is closed"):
            running.dispatch(Buy("own"))


def test_close_answers_the_tasks_that_ask_the_outside(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One asks, one waits for its thread, and one comes later: all hear `Closed`, and none that somebody has cancelled it."""
    monkeypatch.setattr("happened.sourcing.gateway.THREADS_MAX", 1)
    entered, go = threading.Event(), threading.Event()

    def slow(account: str, balance: int) -> int:
        entered.set()
        go.wait(10)
        return 1

    async def main() -> list[type]:
        running = shop().open(url, run=False, gateways={price: slow})
        asking = [asyncio.create_task(running.adispatch(Buy(account), id=account)) for account in "ab"]
        await asyncio.to_thread(entered.wait, 10)
        closing = asyncio.create_task(asyncio.to_thread(running.close))
        await asyncio.to_thread(until, lambda: running._outside._closed)
        go.set()
        with pytest.raises(h.Closed):  # as one whose first draft was before
            await running._outside.in_thread(time.monotonic() + 5, lambda: None)
        await closing
        return [type(task.exception()) for task in (await asyncio.wait(asking))[0]]

    assert asyncio.run(main()) == [h.Closed] * 2
    with shop().open(url, run=False) as running:
        assert [running.log.find(account) for account in "ab"] == [[], []]


def test_close_answers_who_waits_for_an_awaited_gateway(url: str) -> None:
    """It would not answer for a minute."""

    async def never(account: str, balance: int) -> int:
        entered.set()
        await asyncio.sleep(60)
        return 1

    entered = threading.Event()
    app = h.App("shop", deciders=[shop().handlers[Buy].function], gateways=[h.Gateway(price, wait_seconds_max=60)])
    running = app.open(url, run=False, gateways={price: never})
    thread, heard = in_thread(lambda: running.dispatch(Buy("a"), id="a", wait_seconds_max=60))
    assert entered.wait(10)
    running.close()
    thread.join(5)

    assert [type(answer) for answer in heard] == [h.Closed]
