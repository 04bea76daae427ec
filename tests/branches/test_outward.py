"""What would have been said to other systems is recorded in a branch, and compared; nobody hears it."""

import random
import time
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import pytest

import happened as h
from happened.testing import Clock
from tests.branches.conftest import Make, told
from tests.branches.desk import (
    Account,
    Balance,
    Draw,
    Drawn,
    Opened,
    Overdrawn,
    Paid,
    Slip,
    charge,
    draw,
    overdrawn,
    remind,
    slip,
    tariff,
    telling,
    warn,
    watch,
)
from tests.branches.test_untouched import essence

PUBLISHED = {"Overdrawn", "Slip"}


def said(running: h.Running) -> list[h.Record]:
    """Return what a log holds that is said to other systems."""
    return [record for record in running.log.read() if record.name in PUBLISHED and record.kind == "output"]


def over(account: str, balance: int) -> dict[str, str]:
    """Return what is said of one who is overdrawn, as a log holds it."""
    return {"account": account, "balance": str(balance)}


def slipped(account: str, what: str) -> dict[str, str]:
    """Return what a slip says."""
    return {"account": account, "said": what}


@pytest.mark.parametrize("seed", range(10))
def test_an_untouched_branch_says_what_its_origin_said(make_telling: Make, seed: int) -> None:
    """Wherever it begins: ids, times, causes, bodies; also where it begins in the midst of what one event has caused."""
    made = make_telling(seed, 40)
    if seed % 3:
        made.settle()
    made.clock.move(timedelta(minutes=2))
    made.settle()
    chance = random.Random(seed)
    head = made.running.log.head
    assert {record.name for record in said(made.running)} == PUBLISHED

    for at in (0, *sorted(chance.sample(range(1, head), 6)), head):
        with made.running.branch(at=at) as branch:
            assert not branch.diff(), f"from {at}:\n{branch.diff()}"
            assert list(map(essence, told(branch))) == list(map(essence, made.records()))
            assert branch.log.verify().position == branch.log.head


@pytest.mark.parametrize("seed", [1, 2, 5])
def test_what_was_said_of_what_is_erased_stands(make_telling: Make, seed: int) -> None:
    """A branch from before it can't hear the event any more; and so it is in a branch of that branch."""
    made = make_telling(seed, 40)
    made.settle()
    running = made.running
    slipped_of = next(record for record in said(running) if record.name == "Slip")
    running.erase(("account", slipped_of.body["account"]), actor="ann", reason="they asked")
    assert [record.body for record in said(running) if record.id == slipped_of.id] == [None]

    for at in (0, slipped_of.position - 2, running.log.head):
        with running.branch(at=at) as branch:
            assert not branch.diff(), f"from {at}:\n{branch.diff()}"
            assert list(map(essence, said(branch))) == list(map(essence, said(running)))
            with branch.branch(at=0) as further:
                assert not further.diff(), f"from {at}, then 0:\n{further.diff()}"


def test_what_is_not_said_yet_is_not_said_in_a_branch(make_telling: Make) -> None:
    """A branch of a log whose publications are behind is as far behind."""
    made = make_telling(8, 30)
    for _ in range(20):
        made.step()
        with made.running.branch(at=0) as branch:
            assert not branch.diff(), str(branch.diff())


@pytest.fixture
def running() -> Iterator[h.Running]:
    with telling.open("memory:", source=Clock(), views="memory:") as running:
        running.record(Paid("a", Decimal(100)), id="paid")
        running.settled()
        running.dispatch(Draw("a", Decimal(130)), id="first")
        running.settled()
        running.dispatch(Draw("a", Decimal(5)), id="second")
        running.settled()
        yield running


def test_the_difference_names_what_is_said_otherwise(running: h.Running) -> None:
    """Missing, added and changed, each under what caused it."""
    assert [record.body for record in said(running)] == [
        slipped("a", "paid 2026-01-01 00:00"),
        over("a", -30),
        over("a", -35),
    ]
    paid = running.log.find("paid")[0].position
    before = running.log.head

    with running.branch(h.Change(paid, Paid("a", Decimal(110)))) as branch:
        difference = branch.diff()
        assert str(difference.first).startswith("changed: ")
        assert [one.fields for one in difference.changed if one.before.name == "Overdrawn"] == [
            {"balance": ("-30", "-20")},
            {"balance": ("-35", "-25")},
        ]
        assert not {record.name for record in (*difference.missing, *difference.added)} & PUBLISHED
        causes = {record.id: record for record in branch.log.read()}
        assert [causes[record.causation or ""].name for record in said(branch)] == ["Paid", "Drawn", "Drawn"]

    with running.branch(h.Change(paid, Paid("a", Decimal(131)))) as branch:
        assert [record.body for record in branch.diff().missing if record.name in PUBLISHED] == [over("a", -30)]
        assert [record.body for record in said(branch)][1:] == [over("a", -4)]

    with running.branch(h.Drop(paid)) as branch:
        missing = [record.name for record in branch.diff().missing]
        assert missing.count("Slip") == 1
        assert missing.count("Overdrawn") == 1, "the first draw is refused; of the second it is said that there is less than nothing"
        assert [record.body for record in said(branch)] == [over("a", -5)]

    with running.branch(h.Insert(paid, h.Message(Paid("b", Decimal(1)), id="more"))) as branch:
        assert [record.name for record in branch.diff().added] == ["Paid", "Slip"]

    assert running.log.head == before


@h.named("overdrawn")
def blunt(event: Drawn) -> Overdrawn:
    return Overdrawn(event.account, Decimal(-1))


def desk_with(*publications: h.Publication) -> h.App:
    return h.App(
        "desk",
        records=[Opened, Paid],
        deciders=[draw, warn, charge],
        gateways=[tariff],
        reactions=[watch, remind],
        views=[Balance],
        publications=publications,
    )


def test_other_code_of_publications_makes_no_other_difference(make_telling: Make) -> None:
    """What they say is otherwise; all else, and what other publications say, is record by record what it was."""
    made = make_telling(5, 40)
    made.settle()
    drawn = [record.id for record in made.records() if record.name == "Drawn"]
    slips = [record.id for record in said(made.running) if record.name == "Slip"]
    others = [essence(record) for record in made.records() if record.name not in PUBLISHED]

    with made.running.branch(at=0, code=desk_with(h.Publication(blunt), h.Publication(slip))) as branch:
        assert sorted(record.causation or "" for record in said(branch) if record.name == "Overdrawn") == sorted(drawn)
        assert [record.id for record in said(branch) if record.name == "Slip"] == slips
        assert [essence(record) for record in told(branch) if record.name not in PUBLISHED] == others
        difference = branch.diff()
        assert {one.before.name for one in difference.changed} == {"Overdrawn"}
        assert {record.name for record in difference.added} == {"Overdrawn"}
        assert difference.missing == ()
        assert difference.rows == ()

    with made.running.branch(at=0, code=desk_with(h.Publication(slip))) as branch:
        difference = branch.diff()
        assert {record.name for record in difference.missing} == {"Overdrawn"}
        assert not difference.added
        assert not difference.changed


def test_a_publication_that_is_new_says_of_what_was_before_where_it_asks_for_that(running: h.Running) -> None:
    """As in a log; without `since` it begins where the branch does."""
    head = running.log.head
    app = desk_with(h.Publication(overdrawn), h.Publication(slip), h.Publication(h.named("dull")(lambda_free), since=0))
    with running.branch(at=head, code=app) as branch:
        assert [record.body for record in branch.diff().added] == [slipped("a", "130"), slipped("a", "5")]
    app = desk_with(h.Publication(overdrawn), h.Publication(slip), h.Publication(h.named("dull")(lambda_free)))
    with running.branch(at=head, code=app) as branch:
        assert not branch.diff()


def lambda_free(event: Drawn) -> Slip:
    return Slip(event.account, str(event.amount))


def test_a_branch_that_goes_on_says_what_follows(running: h.Running) -> None:
    """Its publications work as a log's do, and it waits for them; ids are its own, whatever the origin has called by that position."""
    with running.branch(h.Drop(running.log.find("paid")[0].position)) as branch:
        before = {record.id for record in said(branch)}
        receipt = branch.record(Paid("a", Decimal(7)), id="late")
        assert branch.settled(receipt, wait_seconds_max=20).done
        [one] = [record for record in said(branch) if record.id not in before]
        assert (one.name, one.causation) == ("Slip", "late")
        assert one.id not in {record.id for record in running.log.read()}
        assert one in branch.diff().added

        with branch.branch(at=0) as second:
            assert not second.diff(), str(second.diff())
            assert list(map(essence, told(second))) == list(map(essence, told(branch)))
        with branch.branch(at=branch.log.head) as second:
            assert not second.diff()


def nervous(event: Drawn, balance: Balance) -> Overdrawn | None:
    if balance.amount < -40:
        raise ValueError("too much for me")
    return Overdrawn(event.account, balance.amount) if balance.amount < 0 else None


def test_what_can_not_be_said_stands_still_as_in_a_log() -> None:
    """It is listed with its error, what shares its key waits, and all else goes on."""
    with desk_with(h.Publication(nervous)).open("memory:", source=Clock(), views="memory:") as running:
        paid = running.record(Paid("a", Decimal(100)), id="paid").position
        running.record(Paid("b", Decimal(100)))
        drawn = [("a", 20), ("a", 20), ("b", 10)]
        for account, amount in (("a", 120), ("a", 80), ("b", 110)):
            running.dispatch(Draw(account, Decimal(amount)))
            running.settled()
            running.record(Paid(account, Decimal(80)))
            running.settled()
        assert [record.body for record in said(running)] == [over(account, -left) for account, left in drawn]
        assert running.stuck() == []

        with running.branch(h.Change(paid, Paid("a", Decimal(75)))) as branch:
            [held] = branch.stuck()
            assert (held.handler, held.error) == ("nervous", "ValueError: too much for me")
            assert [record.body for record in said(branch)] == [over("b", -10)]
            assert [record.body["account"] for record in branch.diff().missing if record.name == "Overdrawn"] == ["a", "a"]


# --- nobody hears it


hearing = h.App("hearing", subscriptions={"desk": [Slip, Overdrawn]})


def test_no_other_system_hears_a_branch(tmp_path: Path) -> None:
    """Neither as a running app, nor by its log, nor by the URL of its file; who hears the origin hears only that."""
    url, kept = f"sqlite:///{tmp_path}/desk.db", f"sqlite:///{tmp_path}/desk.branch-x.db"
    with (
        telling.open(url, source=Clock(), views="memory:") as running,
        hearing.open("memory:", channels={"desk": running}, views="memory:") as beside,
        hearing.open("memory:", channels={"desk": url}, views="memory:") as afar,
    ):
        running.record(Paid("a", Decimal(100)), id="paid")
        running.settled()
        with running.branch() as branch:
            branch.record(Paid("a", Decimal(1)), id="mine")
            branch.settled(wait_seconds_max=20)
            assert [record.causation for record in said(branch)] == ["paid", "mine"]
            for channel in (branch, branch.log):
                with pytest.raises(h.Invalid, match="is a branch: what would have been is told to no other system"):
                    hearing.open("memory:", channels={"desk": channel}, views="memory:")  # type: ignore[dict-item]  # a log is none for a checker
            branch.save(kept)
        with pytest.raises(h.Invalid, match="is a branch: what would have been is told to no other system"):
            hearing.open("memory:", channels={"desk": kept}, views="memory:")
        with telling.open(kept, views="memory:") as again:
            assert [record.causation for record in said(again)] == ["paid", "mine"]
            with pytest.raises(h.Invalid, match="is a branch"):
                hearing.open("memory:", channels={"desk": again}, views="memory:")

        running.record(Paid("a", Decimal(2)), id="after")
        running.settled()
        for other in (beside, afar):
            deadline = time.monotonic() + 30
            heard: list[str] = []
            while not heard or "after" not in heard[-1]:
                head = other.log.head
                heard = [str(record.body) for record in other.log.read() if record.name == "desk/Slip"]
                other.log.wait(head, 1)
                assert time.monotonic() < deadline, heard
            assert [text.count("paid") + 2 * text.count("after") for text in heard] == [1, 2], heard


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


def slip_of(event: PaidOnce) -> Slip:
    return Slip(event.account, str(event.amount))


def test_what_is_said_of_one_event_that_was_split_is_said_where_it_was_said_then(tmp_path: Path) -> None:
    """Also where the branch begins between the one thing and the other."""
    url = f"sqlite:///{tmp_path}/desk.db"
    with h.App("desk", records=[PaidTwice]).open(url, views="memory:") as running:
        running.record_all([PaidTwice("a", Decimal(1)), PaidTwice("b", Decimal(2))])
    app = h.App("desk", records=[PaidOnce], publications=[h.Publication(slip_of, since=0)], upcasts=[h.Upcast("Paid", 1, halved)])
    with app.open(url, views="memory:") as running:
        running.record(PaidOnce("c", Decimal(3)))
        assert running.settled(wait_seconds_max=20).done
        expected = [essence(record) for record in told(running)]
        assert [record.body["account"] for record in said(running)] == ["a0", "a1", "b0", "b1", "c"]

        for at in range(running.log.head + 1):
            with running.branch(at=at) as branch:
                assert not branch.diff(), f"from {at}:\n{branch.diff()}"
                assert [essence(record) for record in told(branch)] == expected
