"""What shares would have published is recorded in a branch, where they did so, and is compared by what it follows from; nobody hears it."""

import itertools
import random
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

import happened as h
from happened.core.messages import is_data, name_of
from happened.log.row import decode_header
from happened.log.slices import progress_of
from happened.planning import Origin, planned_of
from happened.running import Branch
from happened.sourcing.edits import Edit
from happened.sourcing.gateway import Silent
from happened.testing import Clock
from happened.transfer import share as share_module
from happened.transfer.channel import share_worker
from happened.transfer.digest import Digest, hashing
from happened.transfer.share import CHANGES_MAX, Beginning, Share
from tests.branches.conftest import Make, told
from tests.branches.desk import (
    Account,
    Balance,
    Charged,
    Draw,
    Drawn,
    Opened,
    Paid,
    Total,
    Warned,
    charge,
    draw,
    sharing,
    tariff,
    warn,
)
from tests.branches.test_untouched import essence
from tests.transfer.model import Card, Left, Moved, crm, until
from tests.transfer.model import Paid as PaidBy

encode = msgspec.json.Encoder(decimal_format="string", order="deterministic").encode


def is_change(record: h.Record) -> bool:
    """Say whether a record is a change that a share has published."""
    return record.kind == "output" and is_data(record.body) and "op" in record.body


def published(running: h.Running) -> list[h.Record]:
    """Return the changes that shares have published in a log."""
    return list(filter(is_change, running.log.read()))


def said(records: Iterable[h.Record]) -> list[tuple[Any, ...]]:
    """Return of which keys these changes are, and what they say: `None` for a state that is gone."""
    return [(*record.body["key"], record.body.get("fields")) for record in records if is_change(record)]


def ran(running: h.Running) -> list[Any]:
    """Return of the rows of shares what they say of how they came to be recorded."""
    rows = [running.log.row_at(position) for position in sorted({record.row for record in published(running)})]
    return [decode_header(row.head).sent for row in rows if row is not None]


def generations(running: h.Running) -> list[int]:
    """Return in which generation each change was published."""
    return [record.body["generation"] for record in published(running)]


def is_all_published(running: h.Running) -> bool:
    """Say whether the shares have come to the end."""
    return all(one["generation"] and one["lag"] == 0 for one in running.statistics()["shares"])


def wait_for_shares(running: h.Running) -> None:
    """Wait until the shares have come to the end."""
    until(lambda: is_all_published(running))


def placed(running: h.Running) -> list[tuple[Any, ...]]:
    """Return what is in a log, with positions."""
    return [(record.position, *essence(record)) for record in told(running)]


def without_positions(running: h.Running) -> list[tuple[Any, ...]]:
    """Return what is in a log, without positions: of what each change follows is told by the id of that."""
    ids = {record.position: record.id for record in reversed(told(running))}
    return [
        (record.name, record.time, record.causation, *record.body["key"], record.body.get("fields"), ids[record.body["version"]])
        if is_change(record)
        else essence(record)
        for record in told(running)
        if record.kind != "output" or is_change(record)
    ]


def first_difference(ones: list[tuple[Any, ...]], others: list[tuple[Any, ...]]) -> tuple[Any, Any] | None:
    """Return where two long lists part."""
    return next(((one, other) for one, other in itertools.zip_longest(ones, others) if one != other), None)


def check(running: h.Running, state: type[h.State]) -> None:
    """Check what a share has published as who copies it does: versions follow each other, and digests are of what there is then."""
    fields = [field.encode_name for field in msgspec.structs.fields(state) if not field.required]
    hashes = hashing(fields)
    there: dict[bytes, tuple[int, Any]] = {}
    known: dict[bytes, int] = {}
    generation = 0
    published = is_all_published(running)  # asked first: what was not published then may be by the time the log was read
    for record in running.log.read():
        if record.kind != "output" or record.name != name_of(state)[0] or record.body is None:
            continue
        body = record.body
        if body["generation"] != generation:
            generation, there, known = body["generation"], {}, {}
        if not is_change(record):
            digest = Digest(fields)
            for key, (version, found) in there.items():
                digest.change(None, hashes(key, version, encode(found)))
            assert (body["count"], body["digests"]) == (len(there), digest.told()), f"{state.__name__} at {record.position}"
            continue
        key = encode(body["key"])
        assert body["previous"] == known.get(key, 0), record
        assert body["previous"] < body["version"] < record.position, record
        known[key] = body["version"]
        there.pop(key, None)
        if body["op"] == "put":
            there[key] = body["version"], body["fields"]
    if published:
        expected = {encode(key): msgspec.json.decode(encode(found)) for key, found in running.states(state).items()}
        assert {key: found for key, (_, found) in there.items()} == expected


# --- nothing is otherwise


@pytest.mark.parametrize("seed", range(6))
def test_an_untouched_branch_shares_what_its_origin_did(make_sharing: Make, seed: int) -> None:
    """Wherever it begins, record by record: keys, versions, fields, digests, causes, and what several changes came to at once."""
    made = make_sharing(seed, 40)
    made.clock.move(timedelta(minutes=2))
    made.settle()
    if seed % 3:
        wait_for_shares(made.running)
    check(made.running, Balance)
    chance = random.Random(seed)
    head = made.running.log.head

    for at in (0, *sorted(chance.sample(range(1, head), 8)), head):
        with made.running.branch(at=at) as branch:
            difference = branch.diff()
            assert not difference, f"from {at}:\n{difference}"
            assert difference.not_compared == ()
            expected = [record for record in made.records() if record.position <= branch.until]
            assert [(record.position, *essence(record)) for record in told(branch)] == [
                (record.position, *essence(record)) for record in expected
            ]
            check(branch, Balance)


def test_what_is_not_shared_yet_is_not_shared_in_a_branch(make_sharing: Make) -> None:
    """A branch of a log whose shares are behind is as far behind; they catch up where it goes on."""
    made = make_sharing(8, 20)
    for _ in range(15):
        made.step()
        with made.running.branch(at=0) as branch:
            assert not branch.diff(), str(branch.diff())
    with made.running.branch(at=made.running.log.head) as branch:
        branch.record(Paid("a0", Decimal(1)))
        branch.settled(wait_seconds_max=30)
        wait_for_shares(branch)
        check(branch, Balance)


def test_a_log_whose_shares_never_ran_has_branches_that_share_nothing(tmp_path: Path) -> None:
    """Nobody has published anything there."""
    with sharing.open(f"sqlite:///{tmp_path}/desk.db", run=False, views="memory:") as running:
        paid = running.record(Paid("a", Decimal(100))).position
        with running.branch(h.Insert(paid, Paid("b", Decimal(1)))) as branch:
            assert [record.name for record in branch.diff().added] == ["Paid"]
            assert published(branch) == []


# --- edits


@pytest.fixture
def running() -> Any:
    """Give a desk at which three accounts were paid in, one after the other."""
    with sharing.open("memory:", source=Clock(), views="memory:") as running:
        for account in "abc":
            running.record(Paid(account, Decimal(100)), id=f"{account} paid")
            wait_for_shares(running)
        running.dispatch(Draw("a", Decimal(30)), id="a draws")
        running.settled()
        running.record(Paid("c", Decimal(5)), id="c again")
        wait_for_shares(running)
        yield running


def balance(account: str, amount: int, warned: int = 0) -> tuple[Any, ...]:
    """Return what is said of a balance."""
    return account, {"account": account, "amount": str(amount), "warned": warned}


def at(running: h.Running, id: str) -> int:
    """Return where a record is."""
    return running.log.find(id)[0].position


def balances(records: Iterable[h.Record]) -> list[tuple[Any, ...]]:
    """Return what the share of balances says in these records."""
    return said(record for record in records if record.name == "Balance")


def test_the_difference_names_what_is_shared_otherwise_and_nothing_else(running: h.Running) -> None:
    """Positions are otherwise after every edit, and so are all versions; what is said is not."""
    assert balances(published(running)) == [balance("a", 100), balance("b", 100), balance("c", 100), balance("a", 70), balance("c", 105)]
    before = running.log.head

    with running.branch(h.Insert(at(running, "a paid"), Paid("d", Decimal(1)))) as branch:
        difference = branch.diff()
        assert [record.name for record in difference.added] == ["Paid", "Balance"]
        assert balances(difference.added) == [balance("d", 1)]
        assert (difference.missing, difference.changed) == ((), ())
        assert published(branch)[-1].body["version"] > published(running)[-1].body["version"]
        check(branch, Balance)

    with running.branch(h.Drop(at(running, "b paid"))) as branch:
        difference = branch.diff()
        assert [record.name for record in difference.missing] == ["Paid", "Balance"]
        assert balances(difference.missing) == [balance("b", 100)]
        assert (difference.added, difference.changed) == ((), ())

    with running.branch(h.Change(at(running, "a paid"), Paid("a", Decimal(200)))) as branch:
        difference = branch.diff()
        assert [(one.before.name, one.fields) for one in difference.changed] == [
            ("Paid", {"amount": ("100", "200")}),
            ("Balance", {"amount": ("100", "200")}),
            ("Balance", {"amount": ("70", "170")}),
        ]
        assert (difference.missing, difference.added) == ((), ())
        assert str(difference.first).startswith("changed: ")

    with running.branch(h.Change(at(running, "b paid"), Paid("e", Decimal(7)))) as branch:
        difference = branch.diff()
        assert balances(difference.missing) == [balance("b", 100)]
        assert balances(difference.added) == [balance("e", 7)]
        assert [one.before.name for one in difference.changed] == ["Paid"]

    assert running.log.head == before


def test_what_is_added_between_two_changes_of_a_state_is_shared_too(running: h.Running) -> None:
    """Though the turn of the share comes only behind the second one; and what was left out in the origin stays so."""
    with running.branch(h.Insert(at(running, "c again") - 1, Paid("c", Decimal(50)))) as branch:
        difference = branch.diff()
        assert balances(difference.added) == [balance("c", 150)]
        assert [one.fields for one in difference.changed] == [{"amount": ("105", "155")}]
        assert balances(published(branch))[-2:] == [balance("c", 150), balance("c", 155)]
        check(branch, Balance)

    running.log.append([Paid("b", Decimal(1)), Paid("b", Decimal(2)), Paid("b", Decimal(3))])
    wait_for_shares(running)
    assert balances(published(running))[-1] == balance("b", 106)
    with running.branch(h.Change(at(running, "b paid"), Paid("b", Decimal(0)))) as branch:
        assert [one.fields for one in branch.diff().changed if one.before.name == "Balance"] == [
            {"amount": ("100", "0")},
            {"amount": ("106", "6")},
        ]
        assert not branch.diff().added


def test_what_comes_last_is_shared_as_well(running: h.Running) -> None:
    """There is no turn behind it in the origin."""
    with running.branch(h.Insert(running.log.head, Paid("d", Decimal(9)))) as branch:
        assert balances(branch.diff().added) == [balance("d", 9)]
        check(branch, Balance)
        assert is_all_published(branch)
    with running.branch(h.Insert(running.log.head, Opened("d"))) as branch:
        assert [record.name for record in branch.diff().added] == ["Opened"]
        progress = progress_of(branch.log.engine, share_worker("Balance"))
        assert progress is not None
        assert progress.position == branch.log.head, "it is not behind what it does not read"


def seven(_account: str, _amount: Decimal) -> Decimal:
    """Say what the outside says of any fee."""
    return Decimal(7)


@pytest.mark.parametrize("seed", range(8))
def test_any_edit_is_shared_with_its_consequences(make_sharing: Make, seed: int) -> None:
    """What is published can be copied; it differs only for accounts of which an event differs, and follows from each event that was added."""
    made = make_sharing(seed, 40)
    made.clock.move(timedelta(minutes=2))
    made.settle()
    wait_for_shares(made.running)
    chance = random.Random(seed)
    some = [record for record in made.records() if record.name in ("Paid", "Draw") and record.kind == "input"]
    for record in chance.sample(some, 5):
        account, amount = f"a{chance.randrange(4)}", Decimal(chance.randrange(60))
        edits: list[Edit] = [
            h.Drop(record.position),
            h.Insert(record.position, Paid(account, amount)),
            h.Change(record.position, type(record.body)(account, amount)),
        ]
        to = chance.choice(edits)
        with made.running.branch(to, answers={tariff: seven}) as branch:
            print(seed, to)
            check(branch, Balance)
            check(branch, Total)
            difference = branch.diff()
            both = [one for pair in difference.changed for one in (pair.before, pair.after)]
            everything = [*difference.missing, *difference.added, *both]
            touched = {one.body.account for one in everything if isinstance(one.body, Paid | Drawn | Warned | Charged)}
            assert {key for key, _ in balances(everything)} <= touched, str(difference)
            known = {
                record.body["version"]: record.body["key"] for record in difference.added if is_change(record) and record.name == "Balance"
            }
            for one in difference.added:
                if isinstance(one.body, Paid | Drawn | Warned | Charged):
                    assert known.get(one.position) == [one.body.account], str(difference)


def test_a_state_that_is_gone_or_is_not() -> None:
    """A deletion is a change like any other."""
    with crm.open("memory:", source=Clock(), views="memory:") as running:
        for event, own in ((Moved("c", "x", "France"), "moved"), (Left("c"), "left"), (PaidBy("c", Decimal(3)), "paid")):
            running.record(event, id=own)
            wait_for_shares(running)
        assert [record.body["op"] for record in published(running)] == ["put", "delete", "put"]

        for begins in range(running.log.head + 1):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), f"from {begins}: {branch.diff()}"
                assert [record.body["op"] for record in published(branch)] == ["put", "delete", "put"]
                check(branch, Card)
        with running.branch(h.Drop(at(running, "left"))) as branch:
            difference = branch.diff()
            assert [record.body["op"] for record in difference.missing if is_change(record)] == ["delete"]
            [changed] = difference.changed
            assert changed.fields == {"street": ("", "x"), "country": ("", "France")}
            check(branch, Card)
        with running.branch(h.Change(at(running, "left"), PaidBy("c", Decimal(2)))) as branch:
            difference = branch.diff()
            assert (difference.added, difference.missing) == ((), ())
            fact, then, last = difference.changed
            assert (fact.before.name, fact.after.name) == ("Left", "Paid")
            assert then.fields == {"": (None, {"customer": "c", "street": "x", "country": "France", "paid": "2"})}
            assert last.fields["paid"] == ("3", "5")
            check(branch, Card)
        with running.branch(h.Insert(at(running, "moved"), Left("c")), h.Drop(at(running, "left"))) as branch:
            difference = branch.diff()
            assert [record.body["op"] for record in difference.added if is_change(record)] == ["delete"]
            assert [record.body["op"] for record in difference.missing if is_change(record)] == ["delete"]
            assert difference.changed == ()


class PerMonth(h.State):
    """What was paid in a month, under a key that is computed."""

    month: str
    amount: Decimal = Decimal(0)
    count: int = 0

    @staticmethod
    def key_of(event: Paid, record: h.Recorded) -> str:
        return f"{record.occurred:%Y-%m}"

    def evolve(self, event: Paid) -> "PerMonth":
        return self.but(amount=self.amount + event.amount, count=self.count + 1)


def test_a_key_that_is_computed() -> None:
    """It may come from the envelope: of which month what is inserted is its time says."""
    app = h.App("desk", records=[Paid], shares=[PerMonth])
    clock = Clock()
    with app.open("memory:", source=clock, views="memory:") as running:
        for number in range(4):
            running.record(Paid("a", Decimal(number)), id=f"{number}", occurred=clock.now - timedelta(days=40 * (number % 2)))
            wait_for_shares(running)
        keys = [record.body["key"] for record in published(running)]
        assert keys == [["2026-01"], ["2025-11"], ["2026-01"], ["2025-11"]]

        with running.branch(at=at(running, "1") - 1) as branch:
            assert not branch.diff()
            assert [record.body["key"] for record in published(branch)] == keys
        late = h.Message(Paid("a", Decimal(9)), id="late", occurred=clock.now - timedelta(days=40))
        with running.branch(h.Insert(at(running, "2"), late)) as branch:
            assert said(branch.diff().added) == [("2025-11", {"month": "2025-11", "amount": "10", "count": 2})]
            assert [one.fields for one in branch.diff().changed] == [{"amount": ("4", "13"), "count": (2, 3)}]
            check(branch, PerMonth)


# --- generations

plain = h.App("desk", records=[Opened, Paid], deciders=[draw, warn, charge], gateways=[tariff])
bare = h.App("desk", records=[Opened, Paid], deciders=[draw, warn, charge], gateways=[tariff], shares=[Balance])


@h.named("Balance")
class Same(h.State):
    """Other code that comes to the same."""

    account: Account
    amount: Decimal = Decimal(0)
    warned: int = 0

    def evolve(self, event: Paid | Drawn | Warned | Charged) -> "Same":
        if isinstance(event, Paid):
            return self.but(amount=event.amount + self.amount)
        if isinstance(event, Drawn):
            return self.but(amount=self.amount - event.amount)
        return self.but(warned=self.warned + 1) if isinstance(event, Warned) else self.but(amount=self.amount - event.fee)


@h.named("Balance")
class Doubled(h.State):
    """Other code that comes to something else, for one account."""

    account: Account
    amount: Decimal = Decimal(0)
    warned: int = 0

    def evolve(self, event: Paid | Drawn) -> "Doubled":
        much = event.amount * 2 if self.account == "b" else event.amount
        return self.but(amount=self.amount + (much if isinstance(event, Paid) else -much))


def desk_that_shares(*states: type[h.State]) -> h.App:
    return h.App("desk", records=[Opened, Paid], deciders=[draw, warn, charge], gateways=[tariff], shares=states)


MANY = 2_500
"""More than two rows of changes."""


def test_a_branch_may_begin_in_the_midst_of_what_a_share_begins_with(tmp_path: Path) -> None:
    """What was published of it is not published again, and the rest is; wherever it begins, also with an edit before, in the midst, and behind."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with plain.open(url, views="memory:") as running:
        running.record_all([Paid(f"a{number}", Decimal(number)) for number in range(MANY)])
    with bare.open(url, views="memory:") as running:
        wait_for_shares(running)
        last = running.record(Paid("a7", Decimal(1))).position
        wait_for_shares(running)
        rows = sorted({record.row for record in published(running)})
        assert len(rows) == 4
        edges = [MANY, *(place - 1 for place in rows), last - 1, last, running.log.head]
        expected = without_positions(running)

        for begins in (0, *edges):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), f"from {begins}:\n{branch.diff()}"
                parts = first_difference(without_positions(branch), expected)
                assert parts is None
                check(branch, Balance)
        for after, so_far in ((20, MANY), (rows[1] - 1, MANY), (last, MANY)):
            with running.branch(h.Insert(after, Paid("new", Decimal(1)))) as branch:
                assert said(branch.diff().added) == [("new", {"account": "new", "amount": "1", "warned": 0})]
                assert len({tuple(record.body["key"]) for record in published(branch)}) == so_far + 1
                check(branch, Balance)
                assert set(generations(branch)) == {1}
        with running.branch(h.Drop(20)) as branch:
            assert [record.name for record in branch.diff().missing] == ["Paid", "Balance"]
            check(branch, Balance)


def test_a_branch_may_begin_in_the_midst_of_what_is_published_at_once() -> None:
    """Of many changes in several rows those that are there are not published again."""
    with bare.open("memory:", source=Clock(), views="memory:") as running:
        running.record(Paid("z", Decimal(1)))
        wait_for_shares(running)
        running.log.append([Paid(f"a{number}", Decimal(number)) for number in range(MANY)])
        wait_for_shares(running)
        rows = sorted({record.row for record in published(running)})
        assert len(rows) == 4
        expected = placed(running)
        for begins in (*(place - 1 for place in rows), running.log.head):
            with running.branch(at=begins) as branch:
                assert branch.begins == begins
                assert not branch.diff(), f"from {begins}:\n{branch.diff()}"
                parts = first_difference(placed(branch), expected)
                assert parts is None
                check(branch, Balance)


def test_a_generation_that_was_not_ended_is_begun_anew_in_a_branch_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the branch begins in the midst of the one that came to nothing."""
    url = f"sqlite:///{tmp_path}/desk.db"
    tell_part = Share.tell_part
    calls = itertools.count()

    def failing(share: Share, beginning: Beginning) -> None:
        if next(calls) == 1:
            raise h.StoreFailed("the disk is full for a moment")
        tell_part(share, beginning)

    with plain.open(url, views="memory:") as running:
        running.record_all([Paid(f"a{number}", Decimal(number)) for number in range(MANY)])
    with monkeypatch.context() as patched:
        patched.setattr(Share, "tell_part", failing)
        with bare.open(url, views="memory:") as running:
            wait_for_shares(running)
            running.record(Paid("a7", Decimal(1)))
            wait_for_shares(running)
    with bare.open(url, views="memory:", run=False) as running:
        expected = Counter(generations(running))
        assert expected == {1: CHANGES_MAX, 2: MANY + 1}
        rows = sorted({record.row for record in published(running)})
        for begins in (0, *(place - 1 for place in rows), running.log.head):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), f"from {begins}:\n{branch.diff()}"
                assert Counter(generations(branch)) == expected
                check(branch, Balance)


def test_fewer_rows_are_enough_where_there_is_less_to_begin_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each has its turn where it had in the origin, and the last ones have nothing to say."""
    monkeypatch.setattr(share_module, "CHANGES_MAX", 2)
    url = f"sqlite:///{tmp_path}/desk.db"
    with plain.open(url, views="memory:") as running:
        positions = [running.record(Paid(account, Decimal(1))).position for account in "abcde"]
    with bare.open(url, views="memory:") as running:
        wait_for_shares(running)
        assert len({record.row for record in published(running)}) == 3
        with running.branch(*map(h.Drop, positions[2:])) as branch:
            assert balances(published(branch)) == [balance("a", 1), balance("b", 1)]
            assert len({record.row for record in published(branch)}) == 1
            assert all(row.count for rows in branch.log.engine.read() for row in rows)
            check(branch, Balance)
            branch.log.verify()


def test_a_share_that_the_origin_has_no_more_says_what_it_said_and_then_each_change(tmp_path: Path) -> None:
    """What it left out while it was there is left out."""
    url = f"sqlite:///{tmp_path}/desk.db"
    three = [Paid("a", Decimal(1))] * 3
    with bare.open(url, views="memory:") as running:
        wait_for_shares(running)
        running.log.append(three)
        wait_for_shares(running)
        assert balances(published(running)) == [balance("a", 3)]
    with plain.open(url, views="memory:") as running:
        running.log.append(three)
        with running.branch(at=0, code=bare) as branch:
            assert balances(branch.diff().added) == [balance("a", amount) for amount in (4, 5, 6)]
            assert balances(published(branch)) == [balance("a", amount) for amount in (3, 4, 5, 6)]
            check(branch, Balance)


def test_a_share_that_began_later_begins_there(tmp_path: Path) -> None:
    """With what there is in the branch then, by whatever code."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with plain.open(url, views="memory:") as running:
        running.record(Paid("a", Decimal(10)), id="first")
        running.record(Paid("b", Decimal(5)), id="second")
    with bare.open(url, views="memory:") as running:
        wait_for_shares(running)
        running.record(Paid("b", Decimal(1)), id="third")
        wait_for_shares(running)
        first = at(running, "first")

        for begins in (0, first, at(running, "second")):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), str(branch.diff())
                assert without_positions(branch) == without_positions(running)
        with running.branch(h.Insert(first, Paid("c", Decimal(3)))) as branch:
            assert balances(branch.diff().added) == [balance("c", 3)]
            assert branch.diff().changed == ()
            check(branch, Balance)
        with running.branch(h.Drop(first), code=desk_that_shares(Doubled)) as branch:
            difference = branch.diff()
            assert balances(difference.missing) == [balance("a", 10)]
            assert [one.fields for one in difference.changed] == [{"amount": ("5", "10")}, {"amount": ("6", "12")}]
            assert generations(branch) == [1, 1]
            check(branch, Doubled)

        expected = ran(running)
        with running.branch(at=0) as branch:
            assert ran(branch) == expected


def test_other_code_is_another_generation(running: h.Running) -> None:
    """It begins where the branch does, with all that there is; compared is what is said of which key, in consequence of which event."""
    begins = at(running, "c paid")

    for states in ((Same,), (Same, Total)):
        with running.branch(at=begins, code=desk_that_shares(*states)) as branch:
            difference = branch.diff()
            assert {record.name for record in difference.missing} == ({"Total"} if len(states) == 1 else set())
            assert (difference.added, difference.changed) == ((), ())
            assert balances(published(branch))[-5:] == [
                balance("a", 100),
                balance("b", 100),
                balance("c", 100),
                balance("a", 70),
                balance("c", 105),
            ]
            check(branch, Same)

    with running.branch(at=begins, code=desk_that_shares(Doubled, Total)) as branch:
        difference = branch.diff()
        assert (difference.added, difference.missing) == ((), ())
        assert [(one.before.body["generation"], one.after.body["generation"], one.fields) for one in difference.changed] == [
            (1, 2, {"amount": ("100", "200")})
        ]
        assert [one.body["generation"] for one in published(branch) if one.name == "Balance"][-5:] == [2] * 5
        check(branch, Doubled)


def test_where_the_origins_code_has_changed_its_own_and_the_old_one_go_through(tmp_path: Path) -> None:
    """A branch from before has the new generation from its beginning on, or by the old code never."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with desk_that_shares(Same).open(url, views="memory:") as running:
        wait_for_shares(running)
        running.record(Paid("a", Decimal(10)), id="first")
        running.record(Paid("b", Decimal(5)), id="second")
        wait_for_shares(running)
    with desk_that_shares(Balance).open(url, views="memory:") as running:
        wait_for_shares(running)
        running.record(Paid("b", Decimal(1)), id="third")
        wait_for_shares(running)
        assert set(generations(running)) == {1, 2}
        for begins in (0, at(running, "first"), at(running, "second"), at(running, "third"), running.log.head):
            for code in (Same, Balance):
                with running.branch(at=begins, code=desk_that_shares(code)) as branch:
                    assert not branch.diff(), f"{code} from {begins}: {branch.diff()}"
                    check(branch, code)
        with running.branch(at=at(running, "first"), code=desk_that_shares(Doubled)) as branch:
            assert [one.fields for one in branch.diff().changed] == [{"amount": ("5", "10")}, {"amount": ("6", "12")}]


def test_a_share_that_only_one_of_both_has(running: h.Running) -> None:
    """All that it says is missing, or is added: of each change, and of what there was before the branch."""
    with running.branch(at=0, code=plain) as branch:
        difference = branch.diff()
        assert balances(difference.missing) == balances(published(running))
        assert (difference.added, difference.changed) == ((), ())
    with plain.open("memory:", source=Clock(), views="memory:") as without:
        without.record(Paid("a", Decimal(1)), id="first")
        without.log.append([Paid("a", Decimal(1)), Paid("a", Decimal(1))])
        without.record(Paid("a", Decimal(1)))
        with without.branch(at=at(without, "first"), code=bare) as branch:
            assert balances(branch.diff().added) == [balance("a", amount) for amount in (1, 2, 3, 4)]
            assert branch.diff().missing == ()
            check(branch, Balance)


# --- on and on


def test_a_branch_that_goes_on_shares_what_follows(running: h.Running) -> None:
    """Its shares work as a log's do, in the generation that they were in; a branch of it is as it is."""
    with running.branch(h.Drop(at(running, "a draws"))) as branch:
        assert balances(branch.diff().missing) == [balance("a", 70)]
        branch.record(Paid("a", Decimal(7)), id="late")
        branch.settled(wait_seconds_max=20)
        wait_for_shares(branch)
        assert balances(branch.diff().added) == [balance("a", 107)]
        assert set(generations(branch)) == {1}
        check(branch, Balance)
        check(branch, Total)

        for begins in (0, at(running, "c paid"), at(branch, "late") - 1, branch.log.head):
            with branch.branch(at=begins) as second:
                assert not second.diff(), str(second.diff())
                assert list(map(essence, told(second))) == list(map(essence, told(branch)))
        with branch.branch(h.Change(at(branch, "late"), Paid("a", Decimal(8)))) as second:
            assert [one.fields for one in second.diff().changed] == [{"amount": ("7", "8")}, {"amount": ("107", "108")}]


def test_a_branch_that_was_kept_says_what_it_said(tmp_path: Path) -> None:
    """Opened by its URL it holds what was published, and publishes nothing; a branch of it goes through both files."""
    url, kept, twice = (f"sqlite:///{tmp_path}/desk{name}.db" for name in ("", ".branch-x", ".branch-x.branch-y"))
    with bare.open(url, views="memory:") as running:
        paid = running.record(Paid("a", Decimal(1))).position
        wait_for_shares(running)
        running.record(Paid("b", Decimal(2)))
        wait_for_shares(running)
        with running.branch(h.Change(paid, Paid("a", Decimal(3)))) as branch:
            expected = [essence(record) for record in told(branch)]
            branch.save(kept)
    with bare.open(kept, views="memory:") as again:
        assert [essence(record) for record in told(again)] == expected
        assert balances(published(again)) == [balance("a", 3), balance("b", 2)]
        again.record(Paid("c", Decimal(5)))
        assert len(published(again)) == 2
        with again.branch(at=0) as second:
            assert not second.diff(), str(second.diff())
        with again.branch(h.Insert(paid, Paid("d", Decimal(4)))) as second:
            assert balances(second.diff().added) == [balance("d", 4)]
            check(second, Balance)
            second.save(twice)
    with bare.open(twice, views="memory:") as third:
        assert balances(published(third)) == [balance("a", 3), balance("d", 4), balance("b", 2)]
        assert third.log.verify().position == third.log.head


# --- what is erased


def test_what_is_erased_is_not_compared_and_named(tmp_path: Path) -> None:
    """What the origin said is known no more; what else it said is compared, also where a share began anew for it."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with bare.open(url, views="memory:") as running:
        wait_for_shares(running)
        for number, account in enumerate("abab"):
            running.record(Paid(account, Decimal(number + 1)), id=f"{number}")
            wait_for_shares(running)
        with running.branch(at=0) as before:
            running.erase(("account", "a"), actor="me", reason="asked for")
            until(lambda: set(generations_of(running)) == {2})
            wait_for_shares(running)
            assert balances(before.diff().added) == []
            assert before.diff().not_compared == ("what the share `Balance` said that is erased",)
        for begins in (0, at(running, "1") - 1, at(running, "1"), at(running, "3")):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), f"from {begins}: {branch.diff()}"
                named = begins < at(running, "3")
                assert branch.diff().not_compared == ("what the share `Balance` said that is erased",) * named
                assert {record.body["key"][0] for record in published(branch) if record.position > begins} <= {"b"}
        with running.branch(h.Change(at(running, "1"), Paid("b", Decimal(7)))) as branch:
            assert [one.fields for one in branch.diff().changed] == [
                {"amount": ("2", "7")},
                {"amount": ("2", "7")},
                {"amount": ("6", "11")},
            ]
        with running.branch(at=running.log.head) as branch:
            assert branch.diff().not_compared == ()


def test_one_event_of_several_is_erased(tmp_path: Path) -> None:
    """What is said of its key from there on is another thing now, in the origin as in a branch."""
    with bare.open(f"sqlite:///{tmp_path}/desk.db", views="memory:") as running:
        wait_for_shares(running)
        for number in range(4):
            running.record(Paid("a", Decimal(number + 1)), id=f"{number}")
            wait_for_shares(running)
        running.erase("1", actor="me", reason="a mistake")
        until(lambda: max(generations(running)) == 2)
        wait_for_shares(running)
        assert balances(record for record in published(running) if record.body["generation"] == 2) == [balance("a", 8)]
        for begins in range(running.log.head + 1):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), f"from {begins}: {branch.diff()}"


def generations_of(running: h.Running) -> list[int]:
    """Return in which generations the shares of a log are."""
    return [one["generation"] for one in running.statistics()["shares"]]


# --- one event that is several today


@h.named("Paid", version=1)
class PaidTwice(h.Event):
    account: str
    amount: Decimal


@h.named("Paid", version=2)
class PaidOnce(h.Event):
    account: Account
    amount: Decimal


def halved(old: h.Data) -> list[tuple[str, h.Data]]:
    """One payment was in truth two."""
    return [("Paid", {"account": f"{old['account']}{half}", "amount": old["amount"]}) for half in range(2)]


class Sum(h.State):
    account: Account
    amount: Decimal = Decimal(0)

    def evolve(self, event: PaidOnce) -> "Sum":
        return self.but(amount=self.amount + event.amount)


def test_what_is_said_of_one_event_that_was_split_is_said_of_each_part(tmp_path: Path) -> None:
    """Each key is matched with what it follows from, though that is at one position."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with h.App("desk", records=[PaidTwice]).open(url, views="memory:") as running:
        running.record_all([PaidTwice("a", Decimal(1)), PaidTwice("b", Decimal(2))])
    app = h.App("desk", records=[PaidOnce], shares=[Sum], upcasts=[h.Upcast("Paid", 1, halved)])
    with app.open(url, views="memory:") as running:
        wait_for_shares(running)
        paid = running.record(PaidOnce("c", Decimal(3))).position
        wait_for_shares(running)
        assert [key for key, _ in said(published(running))] == ["a0", "a1", "b0", "b1", "c"]
        for begins in range(running.log.head + 1):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), f"from {begins}:\n{branch.diff()}"
                check(branch, Sum)
        first = next(record.position for record in running.log.read() if record.name == "Paid")
        with running.branch(h.Drop(first)) as branch:
            assert [key for key, _ in said(branch.diff().missing)] == ["a0", "a1"]
            check(branch, Sum)
        with running.branch(h.Insert(paid, PaidOnce("a1", Decimal(4)))) as branch:
            assert said(branch.diff().added) == [("a1", {"account": "a1", "amount": "5"})]


# --- what can't be shared


@h.named("Balance")
class Nervous(h.State):
    """It can't take much."""

    account: Account
    amount: Decimal = Decimal(0)

    def evolve(self, event: Paid) -> "Nervous":
        if event.amount > 50:
            raise ValueError("too much for me")
        return self.but(amount=self.amount + event.amount)


def test_a_share_that_can_not_take_an_event_stands_still_there() -> None:
    """What it has not published is missing, and the difference says why; all else goes on. So it is where the code is new."""
    with desk_that_shares(Nervous).open("memory:", source=Clock(), views="memory:") as running:
        for number in range(3):
            running.record(Paid("a", Decimal(number)), id=f"{number}")
            wait_for_shares(running)
        with running.branch(h.Change(at(running, "1"), Paid("a", Decimal(51)))) as branch:
            difference = branch.diff()
            [failed] = branch.failed
            assert failed.position == at(running, "1")
            assert "the share `Balance` can't take the event at position" in failed.error
            assert difference.failed
            assert [record.body["version"] for record in difference.missing if is_change(record)] == [at(running, "1"), at(running, "2")]
            assert [record.name for record in branch.log.read()].count("Paid") == 3
            check(branch, Nervous)
        running.record(Paid("a", Decimal(60)), id="much")
        until(lambda: running.statistics()["shares"][0]["failure"] is not None)
        running.record(Paid("b", Decimal(2)), id="later")
        for begins in (0, at(running, "1"), running.log.head):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), str(branch.diff())
        with running.branch(h.Drop(at(running, "much"))) as branch:
            assert [record.name for record in branch.diff().missing] == ["Paid"], "it is as far behind as it was"
        with running.branch(at=running.log.head, code=desk_that_shares(Doubled)) as branch:
            assert branch.failed == ()
            assert generations(branch)[-2:] == [2, 2]

    with bare.open("memory:", source=Clock(), views="memory:") as other:
        other.record(Paid("a", Decimal(60)), id="much")
        wait_for_shares(other)
        with other.branch(at=other.log.head, code=desk_that_shares(Nervous)) as branch:
            assert [one.position for one in branch.failed] == [at(other, "much")]


def test_no_other_system_copies_a_branch(running: h.Running) -> None:
    """Nor does who copies the origin see anything of it."""
    copying = h.App("copying", replicas={"desk": [Copied]})
    with copying.open("memory:", channels={"desk": running}, views="memory:") as beside:
        with running.branch(h.Drop(at(running, "b paid"))) as branch:
            branch.record(Paid("z", Decimal(1)))
            branch.settled(wait_seconds_max=20)
            wait_for_shares(branch)
            with pytest.raises(h.Invalid, match="is a branch: what would have been is told to no other system"):
                copying.open("memory:", channels={"desk": branch}, views="memory:")
        receipt = running.record(Paid("b", Decimal(1)))
        assert beside.replica(Copied, "b", since=receipt).state == Copied("b", Decimal(101))
        assert beside.replica(Copied, "z", since=receipt).state is None


@h.named("Balance")
class Copied(h.State):
    account: Account
    amount: Decimal = Decimal(0)


# --- where a share stood


class Owner(h.State):
    """Another state of the same app's events, that ends."""

    account: Account
    owner: str = ""

    def evolve(self, event: Opened | Drawn) -> "Owner | None":
        return self.but(owner=event.owner) if isinstance(event, Opened) else None


@h.named("Owner")
class Holder(h.State):
    """The same, by other code."""

    account: Account
    owner: str = ""

    def evolve(self, event: Opened | Drawn) -> "Holder | None":
        if isinstance(event, Opened):
            return self.but(owner=event.owner)
        return None


def test_what_was_gone_when_a_share_began_was_never_published(tmp_path: Path) -> None:
    """A state that comes again then has no version before, and has one where it went later; so it is in a branch, in the last generation or an older one."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with plain.open(url, views="memory:") as running:
        running.record(Opened("a", "ann"))
        running.dispatch(Draw("a", Decimal(1)))
    came_again: list[int] = []
    for state in (Owner, Holder):
        with desk_that_shares(state).open(url, views="memory:") as running:
            wait_for_shares(running)
            running.record(Opened("b", "bob"))
            wait_for_shares(running)
            for _ in range(2):
                again = running.record(Opened("a", "ann")).position
                came_again.append(again)
                wait_for_shares(running)
                running.dispatch(Draw("a", Decimal(1)))
                wait_for_shares(running)
            for begins in came_again[-2:]:
                with running.branch(at=begins - 1) as branch:
                    parts = first_difference(placed(branch), placed(running))
                    assert parts is None
                    check(branch, state)
    with desk_that_shares(Holder).open(url, views="memory:", run=False) as running:
        for begins in came_again[:2]:
            with running.branch(at=begins - 1, code=desk_that_shares(Owner)) as branch:
                check(branch, Owner)
                assert not branch.diff(), str(branch.diff())


def test_a_share_that_is_to_begin_anew_does_so_in_a_branch(tmp_path: Path) -> None:
    """Something was erased, and it has not come to it: a branch waits as long, and does it where it goes on."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with bare.open(url, views="memory:") as running:
        wait_for_shares(running)
        first = running.record(Paid("a", Decimal(1)), id="first").position
        wait_for_shares(running)
        running.record(Paid("b", Decimal(1)))
        wait_for_shares(running)
    with bare.open(url, views="memory:", run=False) as running:
        running.erase("first", actor="me", reason="asked for")
        with running.branch(h.Insert(running.log.head, Paid("c", Decimal(1)))) as branch:
            assert [record.name for record in branch.diff().added] == ["Paid"]
            assert set(generations(branch)) == {1}
        with running.branch() as branch:
            branch.record(Paid("b", Decimal(2)))
            wait_for_shares(branch)
            assert published(branch)[-1].body["generation"] == 2
            assert said(published(branch)[-1:]) == [balance("b", 3)]
        with running.branch(at=first) as branch:
            assert not branch.diff(), str(branch.diff())
            assert set(generations(branch)) == {1}
        erased = running.log.head
    with bare.open(url, views="memory:") as running:
        until(lambda: generations_of(running) == [2])
        running.record(Paid("b", Decimal(1)))
        wait_for_shares(running)
        for begins in (first, erased - 1, erased):
            with running.branch(at=begins) as branch:
                assert not branch.diff(), f"from {begins}: {branch.diff()}"
                assert set(generations(branch)) == {1}


def test_other_code_says_what_the_old_one_did_not_hear() -> None:
    """Also where nothing else is otherwise, and the share has no turn any more."""
    with desk_that_shares(Nervous).open("memory:", source=Clock(), views="memory:") as running:
        running.record(Paid("a", Decimal(9)))
        wait_for_shares(running)
        running.dispatch(Draw("a", Decimal(4)))
        wait_for_shares(running)
        for begins in (0, running.log.head - 2):
            with running.branch(at=begins, code=desk_that_shares(Doubled)) as branch:
                assert [fields["amount"] for _, fields in said(branch.diff().added)] == ["5"], str(branch.diff())


def test_the_older_code_says_what_the_newer_one_did_not_hear(tmp_path: Path) -> None:
    """What it said itself before does not make it the one that has said all."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with desk_that_shares(Doubled).open(url, views="memory:") as running:
        running.record(Paid("a", Decimal(9)))
        wait_for_shares(running)
    with desk_that_shares(Nervous).open(url, views="memory:") as running:
        wait_for_shares(running)
        running.dispatch(Draw("a", Decimal(4)))
        wait_for_shares(running)
        with running.branch(at=0, code=desk_that_shares(Doubled)) as branch:
            assert [fields["amount"] for _, fields in said(branch.diff().added)] == ["5"], str(branch.diff())


def test_what_is_published_while_a_branch_is_made_is_not_in_it() -> None:
    """The notes of the origin are looked at a moment later than its end: a share that has come to that only then had not published all."""
    with bare.open("memory:", source=Clock(), views="memory:") as running:
        paid = running.record(Paid("a", Decimal(1)), id="first").position
        wait_for_shares(running)
        last = running.record(Paid("b", Decimal(2))).position
        wait_for_shares(running)
        origin = Origin.of(running.log)._replace(until=last)
        assert origin.noted > last
        edit = h.Insert(paid, Paid("c", Decimal(3)))
        with Branch(running, bare, planned_of(origin, bare, [edit], None), Silent(bare.gateways, {})) as branch:
            assert [record.name for record in branch.diff().added] == ["Paid"]


class Count(h.State):
    """What hears everything."""

    count: int = 0

    def evolve(self, event: h.Event) -> "Count":
        return self.but(count=self.count + 1)


def test_a_share_of_all_events_goes_on_and_stays_behind_as_others_do(tmp_path: Path) -> None:
    """It is behind where any event is left to it."""
    app, url = desk_that_shares(Count), f"sqlite:///{tmp_path}/desk.db"
    with app.open(url, views="memory:") as running:
        paid = running.record(Paid("a", Decimal(1))).position
        wait_for_shares(running)
        with running.branch(h.Insert(paid, Opened("b"))) as branch:
            assert said(branch.diff().added) == [({"count": 2},)]
            check(branch, Count)
        with running.branch(at=0) as branch:
            assert not branch.diff()
    with app.open(url, views="memory:", run=False) as running:
        last = running.record(Paid("a", Decimal(1))).position
        with running.branch(h.Insert(last, Opened("b"))) as branch:
            assert [record.name for record in branch.diff().added] == ["Opened"]


def test_where_both_part_is_told_though_a_share_says_something_again(tmp_path: Path) -> None:
    """What is matched far behind is no place to tell by what comes before."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with desk_that_shares(Same).open(url, views="memory:") as running:
        wait_for_shares(running)
        for number in range(3):
            running.record(Paid(f"a{number}", Decimal(1)), id=f"{number}")
            wait_for_shares(running)
    with desk_that_shares(Balance).open(url, views="memory:") as running:
        until(lambda: generations_of(running) == [2])
        wait_for_shares(running)
        first = running.log.row_at(at(running, "1") - 1)
        assert first is not None
        edits = h.Insert(first.position, Paid("z", Decimal(1))), h.Change(at(running, "1"), Paid("a1", Decimal(5)))
        with running.branch(*edits, at=0) as branch:
            assert str(branch.diff().first).startswith("added: "), str(branch.diff())
