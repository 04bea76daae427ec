"""A restored log is taken over: what others know of the history that was lost is refused, what they know from before it stands."""

import shutil
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any  # Any: rows of any table

import pytest

import happened as h
from happened.core.store import Commit, Head, Unseen
from happened.log.adoption import adopted
from happened.opening import is_postgres
from happened.stores.postgres_tables import where_in
from tests.semantics.model import Balance, Deposit, bank
from tests.servers import fresh
from tests.transfer.model import AddressChanged, Debtor, DebtorMoved, Moved, Paid, crm, until

WAIT = 20


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Return the URL of a log that is not there yet."""
    return f"sqlite:///{tmp_path}/log.db" if request.param == "sqlite" else fresh()


Copy = str | Mapping[str, Sequence[tuple[Any, ...]]]
"""The path of a copy, or the rows of each table."""
OF_THE_LOG = ("log", "note", "head", "tag", "used", "block", "counted", "shelf", "sample")


def backed_up(url: str) -> Copy:
    """Copy a log that may be open; return the copy. Views are not part of it."""
    if is_postgres(url):
        where = where_in(url)
        with where.connect() as there, there.transaction():
            there.execute("set transaction isolation level repeatable read read only")
            return {table: there.execute(where.sql(f"select * from @{table}")).fetchall() for table in OF_THE_LOG}
    path = url.removeprefix("sqlite:///")
    copy = f"{path}.copy"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("vacuum into ?", (copy,))
    return copy


def restored(url: str, copy: Copy) -> None:
    """Put a copy in the place of a log that nobody has open."""
    if not isinstance(copy, str):
        where = where_in(url)
        with where.connect() as connection, connection.transaction():
            for table, rows in copy.items():
                connection.execute(where.sql(f"delete from @{table}"))
                for row in rows:
                    connection.execute(where.sql(f"insert into @{table} values({', '.join(['%s'] * len(row))})"), row)
        return
    path = url.removeprefix("sqlite:///")
    for file in (path, f"{path}-wal", f"{path}-shm"):
        Path(file).unlink(missing_ok=True)
    shutil.copy(copy, path)


def adopt(url: str) -> h.Receipt:
    """Adopt it."""
    return h.adopt(url, actor="ann", reason="the disk was lost")


def test_an_adoption_is_recorded_and_the_log_goes_on(url: str) -> None:
    """Who, why, and from where; the epoch is the next one, and the chain holds."""
    with bank.open(url, run=False) as running:
        last = running.dispatch(Deposit("a", 1), id="one")
    receipt = adopt(url)

    with bank.open(url, run=False) as running:
        [record] = [one for one in running.log.read() if one.name == "epoch"]
        after = running.dispatch(Deposit("a", 2), id="two")
        running.log.verify()
        assert running.dispatch(Deposit("a", 1), id="one").repeated
    assert (receipt.epoch, receipt.position, after.epoch) == (2, last.position + 1, 2)
    assert (record.kind, record.actor, record.body["reason"], record.body["position"]) == (
        "system",
        "ann",
        "the disk was lost",
        last.position,
    )
    assert record.body["digest"].startswith(last.digest)
    if not is_postgres(url):
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
            assert connection.execute("select kind, name from record where position = ?", (receipt.position,)).fetchall() == [
                ("system", "epoch")
            ]


def test_receipts_of_what_was_lost_are_diverged_and_those_before_stand(url: str) -> None:
    """Also before the log has grown that far again, where a digest can't tell yet."""
    with bank.open(url, run=False) as running:
        kept = running.dispatch(Deposit("a", 1))
        copy = backed_up(url)
        lost = [running.dispatch(Deposit("a", 1)) for _ in range(5)]
    restored(url, copy)
    adopt(url)

    with bank.open(url) as running:
        assert running.view(Balance).get("a", since=kept, wait_seconds_max=WAIT).amount == 1
        for receipt in lost:
            with pytest.raises(h.Diverged, match="adopted"):
                running.view(Balance).get("a", since=str(receipt))
            with pytest.raises(h.Diverged):
                running.log.verify(noted=receipt)
        running.log.verify(noted=kept)


def test_a_receipt_of_a_later_epoch_says_that_the_log_is_an_older_copy(url: str) -> None:
    """It is of this log, which somebody has adopted elsewhere: another one is not looked for."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
    copy = backed_up(url)
    later = adopt(url)
    restored(url, copy)

    with bank.open(url, run=False) as running, pytest.raises(h.Diverged, match=r"of epoch 2, and this log is in epoch 1: it is a copy"):
        running.catch_up(later)


def test_a_second_adoption_of_the_same_copy_may_say_a_higher_epoch(url: str) -> None:
    """What was recorded in the second epoch is then told from what is recorded in the third."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
    copy = backed_up(url)
    adopt(url)
    with bank.open(url, run=False) as running:
        lost = running.dispatch(Deposit("a", 1))
    restored(url, copy)

    receipt = h.adopt(url, actor="ann", reason="again", epoch=3)

    assert receipt.epoch == 3
    with bank.open(url, run=False) as running:
        running.log.verify()
        with pytest.raises(h.Diverged):
            running.catch_up(lost)
    with pytest.raises(h.Invalid, match="higher"):
        h.adopt(url, actor="ann", reason="again", epoch=3)


@pytest.mark.parametrize("before", [True, False], ids=["views from before the copy", "newer views"])
def test_views_go_on_or_are_folded_anew(url: str, before: bool) -> None:
    """Views that have seen what was lost are emptied and folded again; others go on from where they are. Without the adoption it is `Diverged`."""
    with bank.open(url) as running:
        kept = running.dispatch(Deposit("a", 1))
        running.view(Balance).get("a", since=kept, wait_seconds_max=WAIT)
    copy = backed_up(url)
    with bank.open(url, run=not before) as running:
        lost = running.dispatch(Deposit("a", 10))
        running.dispatch(Deposit("b", 10))
        if not before:
            running.view(Balance).get("b", since=running.log.head, wait_seconds_max=WAIT)
    restored(url, copy)
    if not before:
        with pytest.raises(h.Diverged), bank.open(url):
            pass
    receipt = adopt(url)

    for _ in range(2):  # the second time nothing is begun anew
        with bank.open(url) as running:
            view = running.view(Balance)
            assert view.get("a", since=receipt, wait_seconds_max=WAIT).amount == 1
            assert view.find("b") is None
    with bank.open(url) as running:
        after = running.dispatch(Deposit("a", 5))
        assert after.position > receipt.position
        assert lost.position <= after.position
        assert running.view(Balance).get("a", since=after, wait_seconds_max=WAIT).amount == 6
    with bank.open(url) as running:
        assert running.view(Balance).get("a", since=after, wait_seconds_max=WAIT).changes == 2


def test_a_log_that_is_open_is_not_adopted(url: str) -> None:
    """In this process, and in another one that only reads; afterwards it is."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        with pytest.raises(h.Invalid, match="is open"):
            adopt(url)
        assert [record.name for record in running.log.read() if record.name == "epoch"] == []
    assert adopt(url).epoch == 2


def test_who_has_it_open_all_the_same_records_nothing_more(url: str) -> None:
    """It was opened between the look and the adoption: its next commit hears of it, under the lock."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
        with h.open_log(url) as log:
            adopted(log, actor="ann", reason="a race")
        head = running.log.head

        with pytest.raises(h.Diverged, match="open it again"):
            running.dispatch(Deposit("a", 1))

        assert running.log.head == head


def test_an_adoption_that_fails_leaves_the_epoch_as_it_was(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full as it is recorded: what comes then is of the epoch of before, in the receipts, too."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
    with h.open_log(url) as log:
        append = log.engine.append

        def failing(decide: Callable[[Unseen], Commit], seen: int, **named: Any) -> Head:  # Any: how long it waits
            def fails(unseen: Unseen) -> Commit:
                decide(unseen)
                raise h.StoreFailed("the disk is full")

            return append(fails, seen, **named)

        monkeypatch.setattr(log.engine, "append", failing)
        monkeypatch.setattr(log.writer, "_ahead", None)
        with pytest.raises(h.StoreFailed):
            adopted(log, actor="ann", reason="a restore")
        monkeypatch.undo()

        assert log.identity.epoch == log.append(h.Loose("Seen", {})).epoch == 1
        assert log.verify().position == log.head


def test_what_can_not_be_adopted_is_invalid(url: str) -> None:
    """Memory, a file that is not there, a reason that is no text."""
    for bad in ("memory:", url):
        with pytest.raises(h.Invalid):
            adopt(bad)
    with bank.open(url, run=False):
        pass
    with pytest.raises(h.Invalid, match="reason"):
        h.adopt(url, actor="ann", reason="x" * 10_001)


billing = h.App("billing", subscriptions={"crm": [DebtorMoved]}, replicas={"crm": [Debtor]})


def heard_of(running: h.Running, name: str) -> list[str]:
    """Return of which customers it was said that they moved, in order."""
    records = (record for record in running.log.read() if record.name == name)
    return [
        record.body.customer if isinstance(record.body, DebtorMoved | AddressChanged) else record.body["customer"] for record in records
    ]


@pytest.fixture
def urls(tmp_path: Path) -> tuple[str, str]:
    """Return the URLs of two systems."""
    return f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"


def test_a_replica_goes_on_or_is_built_anew_and_a_subscription_that_heard_what_was_lost_stands_still(urls: tuple[str, str]) -> None:
    """A copy can be made again, facts that were recorded can't: somebody must decide about those."""
    theirs, ours = urls
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        kept = one.record(Moved("c1", "Main Street", "France"))
        other.replica(Debtor, "c1", since=kept, wait_seconds_max=WAIT)
        until(lambda: len([1 for record in other.log.read() if record.name == "crm/AddressChanged"]) == 1)
    copy = backed_up(theirs)
    before = backed_up(ours)
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        lost = one.record(Moved("c2", "Side Street", "Spain"))
        other.replica(Debtor, "c2", since=lost, wait_seconds_max=WAIT)
        until(lambda: len([1 for record in other.log.read() if record.name == "crm/AddressChanged"]) == 2)
    restored(theirs, copy)
    adopt(theirs)

    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        new = one.record(Paid("c1", Decimal(5)))
        found = other.replica(Debtor, "c1", since=new, wait_seconds_max=WAIT)
        assert found.state == Debtor("c1", "France", Decimal(5))
        assert other.replica(Debtor, "c2").state is None
        with pytest.raises(h.Diverged, match="adopted"):
            other.replica(Debtor, "c1", since=lost)
        until(lambda: "adopted" in str(other.statistics()["subscriptions"][0]["failure"]))

    restored(ours, before)
    Path(ours.removeprefix("sqlite:///").replace(".db", ".views.db")).unlink()
    adopt(ours)
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        one.record(Moved("c3", "High Street", "Italy"))
        until(lambda: len([1 for record in other.log.read() if record.name == "crm/AddressChanged"]) == 2)
        assert [record.body.country for record in other.log.read() if isinstance(record.body, DebtorMoved)] == ["France", "Italy"]


class Looked(h.Event):
    """Nobody shares anything of it."""

    page: str


def test_a_replica_that_holds_nothing_of_what_was_lost_is_no_newer_than_what_is_left(urls: tuple[str, str]) -> None:
    """It had come further, by what no share is of: what the log says there since it was adopted is waited for."""
    theirs, ours = urls
    watched = h.App("crm", records=[*crm.records, Looked], publications=crm.publications, shares=crm.shares)
    copying = h.App("billing", replicas={"crm": [Debtor]})
    with watched.open(theirs) as one, copying.open(ours, channels={"crm": theirs}) as other:
        kept = one.record(Moved("c1", "Main Street", "France"))
        other.replica(Debtor, "c1", since=kept, wait_seconds_max=WAIT)
        until(lambda: other.statistics()["replicas"][0]["lag"] == 0)
    copy = backed_up(theirs)
    with watched.open(theirs) as one, copying.open(ours, channels={"crm": theirs}) as other:
        lost = one.record_all([Looked("prices")] * 100)
        assert lost is not None
        other.replica(Debtor, "c1", since=lost, wait_seconds_max=WAIT)
    restored(theirs, copy)
    adopt(theirs)

    with watched.open(theirs) as one, copying.open(ours, channels={"crm": theirs}) as other:
        new = one.record(Paid("c1", Decimal(5)))
        assert new.position < lost.position
        assert other.replica(Debtor, "c1", since=new, wait_seconds_max=WAIT).state == Debtor("c1", "France", Decimal(5))
        assert {name: other.statistics()["replicas"][0][name] for name in ("healed", "rebuilt")} == {"healed": 0, "rebuilt": 0}


def test_who_has_heard_what_was_lost_goes_on_under_another_name(urls: tuple[str, str]) -> None:
    """All that the log says since it was adopted is heard, also where it stands at a place at which something else was lost."""
    theirs, ours = urls
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        one.settled(one.record(Moved("c1", "Main Street", "Norway")))
        until(lambda: len(heard_of(other, "crm/AddressChanged")) == 1)
    copy = backed_up(theirs)
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        lost = {one.record(Moved(f"l{number}", "Side Street", "Spain")).position for number in range(20)}
        until(lambda: len(heard_of(other, "crm/AddressChanged")) == 21)
    restored(theirs, copy)
    adopt(theirs)

    again = h.App("billing", subscriptions={"crm-again": [DebtorMoved]}, ignores=["crm/AddressChanged"])
    with crm.open(theirs) as one, again.open(ours, channels={"crm-again": theirs}) as other:
        new = {one.record(Moved(f"n{number}", "High Street", "Italy")).position for number in range(20)}
        assert lost & new
        until(lambda: len(heard_of(one, "AddressChanged")) == 21)
        until(lambda: other.statistics()["subscriptions"][0]["position"] == one.log.head)

        assert heard_of(other, "crm-again/AddressChanged") == [f"n{number}" for number in range(20)]
        assert heard_of(other, "crm/AddressChanged") == ["c1", *(f"l{number}" for number in range(20))]


def test_who_listens_to_a_log_that_was_restored_and_not_adopted_stands_still(urls: tuple[str, str]) -> None:
    """It has gone on beyond the place where something else was heard."""
    theirs, ours = urls
    with crm.open(theirs) as one:
        one.settled(one.record(Moved("c1", "Main Street", "France")))
    copy = backed_up(theirs)
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        one.record(Moved("c2", "Side Street", "Spain"))
        until(lambda: heard_of(other, "crm/AddressChanged") == ["c1", "c2"])
    restored(theirs, copy)

    with crm.open(theirs) as one:
        for number in range(10):
            one.settled(one.record(Moved(f"n{number}", "High Street", "Italy")))
        with billing.open(ours, channels={"crm": theirs}) as other:
            until(lambda: "another history" in str(other.statistics()["subscriptions"][0]["failure"]))

            assert heard_of(other, "crm/AddressChanged") == ["c1", "c2"]


def test_who_has_heard_nothing_yet_hears_all_that_a_restored_log_says(urls: tuple[str, str]) -> None:
    """What was passed over, since nothing of it was for us, is of the history that is no more: the places hold something else now."""
    theirs, ours = urls
    with crm.open(theirs) as one:
        one.settled(one.record(Paid("c0", Decimal(1))))
    copy = backed_up(theirs)
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        for _ in range(20):
            one.record(Paid("c0", Decimal(1)))
        until(lambda: other.statistics()["subscriptions"][0]["position"] == one.log.head)
    restored(theirs, copy)
    adopt(theirs)

    with crm.open(theirs) as one:
        for number in range(40):
            one.settled(one.record(Moved(f"n{number}", "High Street", "Italy")))
        with billing.open(ours, channels={"crm": theirs}) as other:
            until(lambda: other.statistics()["subscriptions"][0]["position"] == one.log.head)

            assert heard_of(other, "crm/AddressChanged") == [f"n{number}" for number in range(40)]


def test_who_has_heard_nothing_yet_may_be_led_to_another_log(urls: tuple[str, str], tmp_path: Path) -> None:
    """How far the first one was read says nothing of the other one: that is heard from its beginning."""
    theirs, ours = urls
    with crm.open(theirs) as one, billing.open(ours, channels={"crm": theirs}) as other:
        for _ in range(20):
            one.record(Paid("c0", Decimal(1)))
        until(lambda: other.statistics()["subscriptions"][0]["position"] == one.log.head)

    with crm.open(f"sqlite:///{tmp_path}/another.db") as one:
        for number in range(20):
            one.settled(one.record(Moved(f"n{number}", "High Street", "Italy")))
        with h.App("billing", subscriptions={"crm": [DebtorMoved]}).open(ours, channels={"crm": one}) as other:
            until(lambda: other.statistics()["subscriptions"][0]["position"] == one.log.head)

            assert heard_of(other, "crm/AddressChanged") == [f"n{number}" for number in range(20)]


def test_a_note_of_another_epoch_than_the_log_has_recorded_is_found(url: str) -> None:
    """Who changes the note would make receipts of what was lost valid again."""
    with bank.open(url, run=False) as running:
        running.dispatch(Deposit("a", 1))
    adopt(url)
    change = "update @note set body = replace(body, '\"epoch\":2', '\"epoch\":3') where key = 'log'"
    if is_postgres(url):
        with where_in(url).connect() as there:
            there.execute(where_in(url).sql(change))
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection, connection:
            connection.execute(change.replace("@", ""))

    with bank.open(url, run=False) as running, pytest.raises(h.Broken, match="epoch 3"):
        running.log.verify()
