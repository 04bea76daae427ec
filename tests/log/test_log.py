"""The log by itself: opened beside a writer, on files that are no log, and read from any position."""

import asyncio
import itertools
import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import pytest

import happened as h
from happened.log import log as log_module
from tests.semantics.model import Balance, Deposit, Deposited, Transfer, bank


def facts(*names: str) -> list[h.Loose]:
    """Make facts of these names."""
    return [h.Loose(name, {}, tags=(("name", name),)) for name in names]


@contextmanager
def held(url: str) -> Generator[None]:
    """Hold the log's lock, as a process does that is stopped in the middle of a commit."""
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
        connection.execute("begin immediate")
        yield
        connection.execute("rollback")


# --- beside a writer


def test_who_only_reads_does_not_wait_for_a_writer(url: str) -> None:
    """Another process holds the lock, and goes on holding it: the log opens all the same, is read, verified, followed and closed."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        head = running.log.head

    with held(url):
        with h.open_log(url) as log:
            assert [record.position for record in log.read()] == list(range(1, head + 1))
            assert log.verify().position == head
            assert log.wait(head - 1, 1) == head
        with bank.open(url, run=False) as running:
            assert running.state(Balance, "a") == running.states(Balance)["a",] == Balance("a", 1, 1)
            with pytest.raises(h.Overloaded):
                running.dispatch(Deposit("a", 1), wait_seconds_max=0.05)

    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        running.log.verify()


def test_what_comes_between_opening_and_the_first_command_is_known(url: str) -> None:
    """The head is looked up without the lock: what another process records after that is taken in with the first command."""
    with bank.open(url, run=False) as ours:
        with bank.open(url, run=False) as theirs:
            theirs.dispatch(Deposit("a", 1), id="theirs")

        assert ours.dispatch(Deposit("a", 1), id="theirs").repeated
        ours.dispatch(Transfer("a", "b", 1))

        assert ours.states(Balance) == {("a",): Balance("a", 0, 2), ("b",): Balance("b", 1, 1)}
        ours.log.verify()


# --- whose log it is


def test_a_log_belongs_to_the_first_app_that_opens_it(url: str) -> None:
    """A log that was made by hand has no app's name; from the first app on it has one, and other apps are refused."""
    with h.open_log(url, create=True) as log:
        log.append(facts("A"))
        assert log.identity.app == ""
        identity = log.identity.id

    with bank.open(url, run=False) as running:
        assert (running.log.identity.id, running.log.identity.app) == (identity, "bank")

    with pytest.raises(h.Diverged, match="app `bank`, not of `shop`"):
        h.App("shop").open(url, run=False)
    with h.open_log(url) as log:
        assert log.identity.app == "bank"
        log.verify()


@pytest.mark.parametrize("there", ["nothing", "an empty file"])
def test_a_log_that_is_not_there_is_not_made_by_looking(url: str, there: str) -> None:
    """A mistyped path is said, instead of an empty log that verifies."""
    path = Path(url.removeprefix("sqlite:///"))
    if there == "an empty file":
        path.touch()

    with pytest.raises(h.Invalid, match=r"no log at .*create=True"):
        h.open_log(url)

    assert not path.exists() or path.stat().st_size == 0
    with h.open_log(url, create=True) as log:
        log.append(facts("A"))


@pytest.mark.parametrize("table", ["create table customer(id integer)", "create table log(line text)"])
def test_the_file_of_another_program_is_left_alone(url: str, table: str) -> None:
    """One file holds one log and nothing else: what is there already is neither written into nor changed."""
    path = Path(url.removeprefix("sqlite:///"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(table)
    before = path.read_bytes()

    attempts: list[Callable[[], object]] = [lambda: bank.open(url), lambda: h.open_log(url), lambda: h.open_log(url, create=True)]
    for attempt in attempts:
        with pytest.raises(h.Invalid, match=r"something else, with the tables (customer|log)"):
            attempt()

    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ("sqlite:///:memory:", "write memory:"),
        (Path("shop.db"), "sqlite:///path"),
        (None, "sqlite:///path"),
        (b"memory:", "sqlite:///path"),
    ],
)
def test_an_address_of_a_wrong_kind_says_how_it_looks(wrong: Any, match: str) -> None:
    """A path is no address, and a file in memory is no file."""
    for attempt in (bank.open, h.open_log):
        with pytest.raises(h.Invalid, match=match):
            attempt(wrong)


# --- positions


@pytest.fixture
def log() -> Generator[h.Log]:
    """Return a log of three commands: A, B and C together, A alone, B and C together; the names are recorded before their first use."""
    with h.open_log("memory:") as opened:
        opened.append(facts("A", "B", "C"), id="abc")
        opened.append(facts("A"), id="a")
        opened.append(facts("B", "C"), id="bc")
        yield opened


def test_what_is_read_ends_with_a_whole_command_in_both_directions(log: h.Log) -> None:
    """A position inside a command is rounded down to the end of the one before it, where it says how far to read; after one that is read it goes on."""
    rows = [(record.row, record.position) for record in log.read()]
    ends = [0, *(max(position for row, position in rows if row == first) for first in dict.fromkeys(row for row, _ in rows))]

    for after in range(log.head + 2):
        for until in range(log.head + 2):
            expected = list(range(after + 1, max(one for one in ends if one <= until) + 1))
            assert [record.position for record in log.read(after=after, until=until)] == expected
            assert [record.position for record in log.read(after=after, until=until, backwards=True)] == expected[::-1]
            named = [record.position for record in log.read(h.query(names=["B", "C"]), after=after, until=until)]
            assert named == [position for position in expected if next(log.read(after=position - 1, limit=1)).name in {"B", "C"}]


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
def test_pages_of_any_size_come_to_all_records(log: h.Log, limit: int) -> None:
    """A page that is shorter than a command ends inside it, and the next one goes on there."""
    found: list[int] = []
    while page := [record.position for record in log.read(after=found[-1] if found else 0, limit=limit)]:
        found += page

    assert found == list(range(1, log.head + 1))


def test_a_limit_counts_records(log: h.Log) -> None:
    """It may stop inside a command."""
    assert [record.position for record in log.read(backwards=True, limit=3)] == [log.head, log.head - 1, log.head - 2]
    assert [record.position for record in log.read(limit=2)] == [1, 2]


@pytest.mark.parametrize("position", [1 << 62, 1 << 63, 1 << 64, 10**30])
def test_a_position_beyond_all_there_can_be_is_after_the_head(url: str, position: int) -> None:
    """It finds nothing, and is no other error."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        log = running.log

        assert list(log.read(after=position)) == []
        assert list(log.read(h.query(account="a"), after=position)) == []
        assert len(list(log.read(until=position))) == len(list(log.read(after=0, until=position, backwards=True))) == log.head
        assert log.row_at(position) is None
        with pytest.raises(h.Late):
            running.state(Balance, "a", since=position, wait_seconds_max=0.01)


@pytest.mark.parametrize("position", [-1, 1.0, "x", True])
def test_what_is_no_position_is_said(log: h.Log, position: Any) -> None:
    """A position is a whole number from 0 on."""
    attempts: list[Callable[[], object]] = [
        lambda: list(log.read(after=position)),
        lambda: list(log.read(until=position)),
        lambda: log.row_at(position),
        lambda: log.since(position),
        lambda: log.append(facts("A"), unless=h.Boundary(h.query(name="A"), position)),
    ]
    before = log.head
    for attempt in attempts:
        with pytest.raises(h.Invalid, match=r"is no (position|receipt)"):
            attempt()
    assert log.head == before


QUERIES = (
    h.query(["Z"], ["B"]),
    h.query(["B"], ["Z"]),
    h.query(h.Item(tags=frozenset({("name", "Z")})), h.Item(tags=frozenset({("name", "B")}))),
    h.query(["Z"], h.Item(frozenset({"B"}), frozenset({("name", "B")}))),
)
"""Each asks for `B` in one of two items."""


@pytest.mark.parametrize("query", QUERIES)
def test_a_condition_is_of_what_any_item_of_its_query_asks_for(url: str, query: h.Query) -> None:
    """Whichever item it is, and also where the event stands in the same commit."""
    with h.open_log(url, create=True) as log:
        log.append(facts("A"))
        seen = log.head
        log.append(facts("B"))
        with pytest.raises(h.Conflict):
            log.append(facts("F"), unless=h.Boundary(query, seen))
        log.append(facts("F"), unless=h.Boundary(query, log.head))

        together = [log._job(facts(name), unless, None, "", None) for name, unless in (("B", None), ("F", h.Boundary(query, log.head)))]
        log.writer.submit_all(together, 5)

        assert [type(job.error) for job in together] == [type(None), h.Conflict]
        assert [record.name for record in log.read(h.query(names=["A", "B", "F"]))] == ["A", "B", "F", "B"]


def test_a_condition_sees_a_command_that_is_in_memory_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """The latest events are kept in memory; where that begins inside a command, the events before it in the same command still count."""
    monkeypatch.setattr(log_module, "RECENT_MAX", 2)
    with h.open_log("memory:") as log:
        log.append(facts("Z"), unless=h.Boundary(h.query(name="nobody"), log.head))
        seen = log.head
        log.append(facts("A", "B", "C", "D", "E"), unless=h.Boundary(h.query(name="nobody"), seen))

        for name in "ABCDE":
            with pytest.raises(h.Conflict, match=f"`{name}`"):
                log.append(facts("F"), unless=h.Boundary(h.query(name=name), seen))
        log.append(facts("F"), unless=h.Boundary(h.query(name="Z"), seen))


class Deal(h.Event):
    units: int


class Bought(h.Event):
    units: int


class Paid(h.Event):
    units: int


def parts_of(deal: h.Data) -> Iterable[tuple[str, h.Data]]:
    """Read a deal as what it was."""
    return [("Bought", deal), ("Paid", deal)]


def test_a_condition_sees_all_of_an_event_that_was_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where what is in memory would begin between its parts."""
    monkeypatch.setattr(log_module, "RECENT_MAX", 1)
    url = f"sqlite:///{tmp_path}/log.db"
    today = h.App("shop", records=[Bought, Paid], upcasts=[h.Upcast("Deal", 1, parts_of)])
    with h.App("shop", records=[Deal]).open(url) as then, today.open(url) as now:
        for units in range(3):
            then.record(Deal(units))
        deals = [record.position for record in now.log.read(h.query(names=["Paid"]))]
        now.log.append(Paid(7), unless=h.Boundary(h.query(names=["Nobody"]), deals[-1]))

        for name, after in itertools.product(["Bought", "Paid"], [deals[0], deals[1], deals[2] - 1]):
            with pytest.raises(h.Conflict, match=f"`{name}`"):
                now.log.append(Paid(8), unless=h.Boundary(h.query(names=[name]), after))
        now.log.append(Bought(8), unless=h.Boundary(h.query(names=["Bought"]), deals[-1]))


def test_a_boundary_inside_a_command_counts_from_its_position(log: h.Log) -> None:
    """What stands before it in the same command is not after it."""
    [first, second] = [record.position for record in log.read(h.query(names=["C"]))]

    log.append(facts("F"), unless=h.Boundary(h.query(name="C"), second))
    log.append(facts("F"), unless=h.Boundary(h.query(names=["B"], name="B"), first + 3))
    with pytest.raises(h.Conflict):
        log.append(facts("F"), unless=h.Boundary(h.query(name="C"), second - 1))


def test_a_known_id_is_answered_though_its_condition_no_longer_holds(log: h.Log) -> None:
    """It was judged when it was recorded, and what it recorded is in its own way now."""
    condition = h.Boundary(h.query(names=["New"]))
    first = log.append(h.Loose("New", {}), id="once", unless=condition)

    again = log.append(h.Loose("New", {}), id="once", unless=condition)

    assert (again.position, again.repeated) == (first.position, True)
    with pytest.raises(h.Conflict):
        log.append(h.Loose("New", {}), id="twice", unless=condition)


class Sell(h.Command):
    sku: Annotated[str, h.Tag("sku")]
    units: int


class Sold(h.Event):
    sku: Annotated[str, h.Tag("sku")]
    units: int


def stock_of(sku: str) -> int:
    return 5


def sell(command: Sell, world: h.World) -> Iterator[Sold]:
    if command.units > world.ask(stock_of, command.sku):
        raise h.Refused("too few")
    yield Sold(command.sku, command.units)


@pytest.mark.parametrize("anew", [False, True], ids=["in the process that wrote", "opened anew"])
def test_a_boundary_is_of_events_alone(url: str, anew: bool) -> None:
    """A command, an answer, a refusal and what the log says of itself are in none, though they have its tag or name."""
    shop = h.App("shop", deciders=[sell], gateways=[stock_of])
    conditions = [
        h.Boundary(),
        h.Boundary(h.query(sku="nut")),
        h.Boundary(h.query(names=["Sell", "answer", "refusal", "schema", "topology"])),
    ]
    with shop.open(url, run=False) as running:
        with pytest.raises(h.Refused):
            running.dispatch(Sell("nut", 6), id="sale-1")
        with h.open_log(url) if anew else nullcontext(running.log) as log:
            assert [list(log.read(condition.query)) for condition in conditions] == [[], [], []]
            for condition in conditions:
                log.append(h.Loose("Seen", {}), unless=condition)

            with pytest.raises(h.Conflict, match="`Seen`"):
                log.append(h.Loose("Seen", {}), unless=h.Boundary())


def test_a_boundary_inside_a_command_that_was_decided_counts_from_its_position() -> None:
    """There the command itself stands before its events."""
    with bank.open("memory:", run=False) as running:
        log, head = running.log, running.log.head
        running.dispatch(Deposit("a", 1))
        [event] = log.read(h.query(names=["Deposited"]), after=head)

        for after in (event.position - 1, event.position - 2):
            with pytest.raises(h.Conflict) as conflict:
                log.append(Deposited("a", 2), unless=h.Boundary(h.query(account="a"), after))
            assert conflict.value.facts["found"] == event.position
        log.append(Deposited("a", 2), unless=h.Boundary(h.query(account="a"), event.position))


def test_a_condition_sees_each_event_of_its_batch_where_it_stands() -> None:
    """What is committed together with it stands before it: several facts in one row, and what was decided on a command."""

    async def together(running: h.Running) -> Sequence[object]:
        log, account = running.log, h.query(account="a")
        await running.adispatch(Deposit("a", 1))  # the names are recorded with it, and no part of the batch
        head = log.head
        return await asyncio.gather(
            log.aappend([Deposited("b", 1), Deposited("a", 1), Deposited("b", 1)]),
            log.aappend(Deposited("c", 1), unless=h.Boundary(account, head)),
            log.aappend(Deposited("c", 1), unless=h.Boundary(account, head + 2)),
            running.adispatch(Deposit("a", 1)),
            log.aappend(Deposited("c", 1), unless=h.Boundary(account, head + 5)),
            log.aappend(Deposited("c", 1), unless=h.Boundary(account, head + 6)),
            return_exceptions=True,
        )

    with bank.open("memory:", run=False) as running:
        found = asyncio.run(together(running))

        at = [record.position for record in running.log.read(h.query(account="a"))]
        heard = [answer.facts["found"] if isinstance(answer, h.Conflict) else None for answer in found]
        assert heard == [None, at[-2], None, None, at[-1], None]


def test_facts_of_the_app_are_kept_apart_from_its_name(url: str) -> None:
    """The app's name is noted once; what is recorded does not change by it."""
    with h.open_log(url, create=True) as log:
        log.append(facts("A"))
        before = log.verify().digest

    with bank.open(url, run=False) as running:
        assert running.log.verify().digest == before
        running.record(Deposited("a", 1))


@pytest.mark.parametrize("number", ["9" * 20, "9" * 5_000, "-1", "1.0", "", "x", "²"], ids=range(7))
@pytest.mark.parametrize("place", [1, 2], ids=["epoch", "position"])
def test_a_text_with_a_number_that_no_receipt_has_is_invalid(number: str, place: int) -> None:
    """It comes from elsewhere, and may be of any length: the error is no error of Python's, and shows the beginning."""
    parts = ["log", "1", "1", "0" * 32]
    parts[place] = number

    with pytest.raises(h.Invalid, match="is no receipt: it looks like") as raised:
        h.Receipt.parse(":".join(parts))
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize("digest", ["", "{}x", "x", "{:.8}"], ids=["none", "too long", "other letters", "cut"])
def test_a_text_without_a_whole_digest_is_no_receipt(tmp_path: Path, digest: str) -> None:
    """What is cut proves nothing, and is not taken for a receipt of this history."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        receipt = log.append(h.Loose("Fact", {}))
        cut = f"{receipt.log}:{receipt.epoch}:{receipt.position}:{digest.format(receipt.digest)}"

        with pytest.raises(h.Invalid, match="is no receipt: it looks like"):
            log.since(cut)


def test_a_receipt_of_a_position_that_no_log_can_have_is_of_the_future(tmp_path: Path) -> None:
    """It is waited for as any other that is still to come, and nothing is said of another epoch."""
    with h.open_log(f"sqlite:///{tmp_path}/log.db", create=True) as log:
        receipt = log.append(h.Loose("Fact", {}))

        assert log.since(f"{receipt.log}:{receipt.epoch}:{'9' * 19}:{receipt.digest}") == log.since(10**30) > log.head
