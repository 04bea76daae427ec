"""Replicas: copies with a known position and age, equal to their origin, whatever happens on the way."""

import contextlib
import random
import re
import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest

import happened as h
from happened.core.store import Commit
from happened.log.log import EVERYTHING_SEEN
from happened.log.row import encode
from happened.log.worker import Course
from happened.shelf.rows import ViewsFile
from happened.testing.world import Clock
from happened.transfer.channel import Channel, Generation, LogChannel, Origin, Page, Published
from happened.transfer.channel import Standing as ShareStanding
from happened.transfer.replica import Copy, Replicating, Standing
from happened.transfer.share import PUT, Change
from tests.servers import fresh
from tests.transfer.model import (
    Behind,
    Bill,
    Billed,
    Card,
    CustomerNo,
    Debtor,
    Left,
    Moved,
    Paid,
    Rough,
    acts,
    bill,
    billing,
    copied,
    crm,
    expected,
    heard,
    published,
    until,
)

Pair = tuple[h.Running, h.Running]


@pytest.fixture(params=["in this process", "by URL", "in PostgreSQL"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Give both systems, one following the other through each kind of channel."""
    there = request.param == "in PostgreSQL"
    log = fresh() if there else f"sqlite:///{tmp_path}/crm.db"
    with crm.open(log) as upstream:
        channel: h.Running | str = upstream if request.param == "in this process" else log
        with billing.open(fresh() if there else f"sqlite:///{tmp_path}/billing.db", channels={"crm": channel}) as running:
            yield upstream, running


def equal(running: h.Running) -> bool:
    """Say whether the copy is proven to be of all that the origin has."""
    found = replica(running)
    return bool(found["state"] == "fresh" and found["lag"] == 0)


def replica(running: h.Running) -> dict[str, Any]:
    """Return what is counted of the copy."""
    found: dict[str, Any]
    [found] = running.statistics()["replicas"]
    return found


def test_a_copy_says_what_its_origin_says_as_of_a_receipt(pair: Pair) -> None:
    """Who has the origin's receipt reads what it speaks of."""
    upstream, running = pair

    receipt = upstream.record(Moved("c-1", "Rue 1", "France"))
    found = running.replica(Debtor, since=receipt, customer="c-1")

    assert found.state == Debtor("c-1", "France")
    assert found.position >= receipt.position


def test_a_copy_of_pages_that_are_of_a_moment_ago_is_as_of_no_more_than_it_has(tmp_path: Path) -> None:
    """The origin's note of how far its share is comes by another way than the pages do: it may speak of what is not in them yet."""
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        channel = Behind(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False))
        with billing.open("memory:", channels={"crm": channel}) as running:
            for number in range(30):
                receipt = upstream.record(Moved(f"c-{number}", "a", "France"))
                found = running.replica(Debtor, f"c-{number}", since=receipt)

                assert found.state == Debtor(f"c-{number}", "France")
                assert found.position >= receipt.position
            until(lambda: equal(running))


def test_rows_come_in_the_order_of_their_keys(pair: Pair) -> None:
    """However they came, and whichever was changed last: with a limit they are the first ones."""
    upstream, running = pair
    upstream.record_all(Moved(customer, "", "France") for customer in ("c-3", "c-1", "c-2", "C-4"))
    changed = upstream.record(Moved("c-1", "", "Spain"))

    rows = running.replica_rows(Debtor, since=changed)

    assert [row.customer for row in rows] == ["C-4", "c-1", "c-2", "c-3"]
    assert list(running.replica_rows(Debtor, limit=2)) == rows[:2]


@pytest.mark.parametrize("limit", [-1, 2**63, 10**30, True, None, 2.0])
def test_a_limit_is_a_number_that_a_database_takes(pair: Pair, limit: Any) -> None:
    """As of a view."""
    with pytest.raises(h.Invalid, match="`limit` is a number of rows"):
        pair[1].replica_rows(Debtor, limit=limit)


def test_a_change_whose_predecessor_is_missing_makes_its_key_suspect() -> None:
    """Something was lost on the way, or is still to come: until the next proof nobody knows."""
    copy = Copy(Debtor, "crm/Card", Standing(1, 1, "log", 1, 0, 0, 0, "", 0, 0, 0, -1, 0, "[]", 1, ready=False, diverged=None))
    with closing(ViewsFile("memory:", None)) as file, file.transaction() as connection:
        copy.create(connection)
        for version, previous, suspect in ((3, 0, set[bytes]()), (7, 3, set[bytes]()), (12, 9, {b'["c-1"]'}), (20, 12, {b'["c-1"]'})):
            copy.take(connection, Change(msgspec.Raw(b'["c-1"]'), version, previous, PUT, 1, msgspec.Raw(encode(Debtor("c-1")))))
            assert copy.suspect == suspect


@pytest.mark.parametrize("asked", ["one", "many"])
def test_a_copy_answers_as_of_one_moment(pair: Pair, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is taken in between the look at its position and the look at its rows is not in the answer."""
    upstream, running = pair
    running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(5))))
    answered: Callable[..., Any] = Replicating[Any]._answered_from
    later: list[h.Receipt] = []

    def meanwhile(replicating: Replicating[Any], standing: Standing) -> Any:
        if not later:
            later.append(upstream.record(Paid("c-1", Decimal(7))))
            until(lambda: replica(running)["position"] >= later[0].position)
        return answered(replicating, standing)

    monkeypatch.setattr(Replicating, "_answered_from", meanwhile)

    if asked == "one":
        found = running.replica(Debtor, "c-1")
        assert found.state == Debtor("c-1", "", Decimal(5))
        assert found.position < later[0].position
    else:
        assert list(running.replica_rows(Debtor, limit=10)) == [Debtor("c-1", "", Decimal(5))]
    assert later
    assert running.replica(Debtor, "c-1").state == Debtor("c-1", "", Decimal(12))


@pytest.mark.parametrize("asked", ["one", "rows"])
def test_a_copy_that_takes_the_place_of_a_newer_one_is_waited_for(pair: Pair, asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is made anew from the beginning, and has come less far than a receipt says when it is to answer."""
    upstream, running = pair
    receipt = upstream.record(Paid("c-1", Decimal(5)))
    assert running.replica(Debtor, "c-1", since=receipt).position >= receipt.position
    standing: Callable[..., Standing | None] = Replicating[Any].standing
    looks: list[int] = []

    def replaced(self: Replicating[Any], reader: Any, *, ready: bool) -> Standing | None:
        found = standing(self, reader, ready=ready)
        if ready and found is not None and threading.current_thread() is threading.main_thread():
            looks.append(found.as_of)
            if len(looks) == 2:
                return msgspec.structs.replace(found, as_of=receipt.position - 1)
        return found

    monkeypatch.setattr(Replicating, "standing", replaced)
    found = running.replica(Debtor, "c-1", since=receipt) if asked == "one" else running.replica_rows(Debtor, since=receipt)

    assert found.position >= receipt.position
    assert len(looks) == 4  # waited for and asked, twice


def test_what_was_there_before_is_copied_too(tmp_path: Path) -> None:
    """A share begins with all that there is, though it was recorded before anything was shared."""
    log = f"sqlite:///{tmp_path}/crm.db"
    before = h.App("crm", records=[Moved, Paid, Left])
    with before.open(log) as upstream:
        upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "b", "Spain"), Left("c-2"), Paid("c-1", Decimal(3))])

    with crm.open(log) as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
        assert copied(running) == {"c-1": Debtor("c-1", "France", Decimal(3))}


def test_what_is_gone_there_is_gone_here(pair: Pair) -> None:
    """A state that ends is deleted in the copy, and one that begins anew is there again."""
    upstream, running = pair
    upstream.record(Moved("c-1", "a", "France"))
    receipt = upstream.record(Left("c-1"))

    gone = running.replica(Debtor, "c-1", since=receipt)
    again = running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "b", "Spain")))

    assert gone.state is None
    assert again.state == Debtor("c-1", "Spain")


def test_what_came_again_after_it_was_gone_goes_on_after_a_restart(tmp_path: Path) -> None:
    """It is read again as it is, and not as deleted: its next change follows on what is there, and nothing is built anew."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with crm.open("memory:") as upstream:
        with billing.open(own, channels={"crm": upstream}) as running:
            for event in (Moved("c-1", "a", "France"), Left("c-1"), Moved("c-1", "b", "Spain")):
                running.replica(Debtor, "c-1", since=upstream.record(event))

        with billing.open(own, channels={"crm": upstream}) as running:
            found = running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "c", "Italy")))

            assert found.state == Debtor("c-1", "Italy")
            assert {name: replica(running)[name] for name in ("suspect", "healed", "rebuilt")} == {"suspect": 0, "healed": 0, "rebuilt": 0}


def test_an_idle_copy_has_no_age(pair: Pair) -> None:
    """Where the origin has nothing newer, the copy is as new as it, however long ago that was."""
    upstream, running = pair
    receipt = upstream.record(Moved("c-1", "a", "France"))
    upstream.settled(receipt, wait_seconds_max=60)  # what is told of it stands in the log, too
    running.replica(Debtor, "c-1", since=receipt)

    until(lambda: equal(running) and running.replica(Debtor, "c-1").position == upstream.log.head)

    assert running.replica(Debtor, "c-1").age == timedelta(0)


def test_each_change_names_the_version_before_it(pair: Pair) -> None:
    """Versions of a key chain from its first to its last, also over a deletion: none can be left out unnoticed."""
    upstream, running = pair
    chance = random.Random(7)
    for act in acts(chance, 60, 5):
        upstream.record(act)
    until(lambda: equal(running))

    last: dict[str, int] = {}
    for change in published(upstream, "Card"):
        if "op" in change:
            key = str(change["key"])
            assert change["previous"] == last.get(key, 0)
            last[key] = int(str(change["version"]))
    assert len(last) == 5


def test_a_copy_is_proven_equal_at_a_position(pair: Pair) -> None:
    """The origin's digest of the fields that the copy has is its own, at the same position."""
    upstream, running = pair
    for act in acts(random.Random(3), 200, 20):
        upstream.record(act)

    until(lambda: equal(running))

    found = replica(running)
    beacon = published(upstream, "Card")[-1]
    assert found["equal_as_of"] == beacon["position"]
    assert found["count"] == beacon["count"] == len(copied(running))
    assert copied(running) == expected(upstream)


def test_an_origin_that_is_closed_does_not_keep_the_copy_from_answering(tmp_path: Path) -> None:
    """Reads go on while upstream is down, and say how old they are; it is caught up with when it is back."""
    clock = Clock()
    log = f"sqlite:///{tmp_path}/crm.db"
    channel = Rough(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), random.Random(1), honest=True)
    with crm.open(log) as upstream, billing.open("memory:", channels={"crm": channel}, source=clock) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))
        until(lambda: equal(running))
        channel.down = True
        upstream.record(Moved("c-1", "b", "Spain"))

        until(lambda: replica(running)["state"] == "disconnected")
        clock.move(timedelta(minutes=5))
        first = running.replica(Debtor, "c-1")
        clock.move(timedelta(minutes=5))
        second = running.replica(Debtor, "c-1")
        with pytest.raises(h.Late, match="the line is cut"):
            running.replica(Debtor, "c-1", since=upstream.log.head, wait_seconds_max=0.1)
        channel.down = False
        back = running.replica(Debtor, "c-1", since=upstream.log.head)

    assert first.state == second.state == Debtor("c-1", "France")
    assert timedelta(minutes=5) <= first.age < second.age
    assert back.state == Debtor("c-1", "Spain")


class Lost(Rough):
    """A channel that hands out what lies up to a position, and nothing more."""

    def __init__(self, channel: Channel, until: int) -> None:
        super().__init__(channel, random.Random(1), honest=True)
        self._whole = channel
        self._until = until

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return what is left of it."""
        self._check()
        page = self._whole.read(after, wait_seconds_max)
        until = max(after, self._until)
        return Page([one for one in page.items if one.position <= until], min(page.position, until), page.head)


def test_a_copy_that_never_had_all_of_a_lost_origin_is_as_old_as_what_it_lacks(tmp_path: Path) -> None:
    """There was always more to come, and now nothing comes: the copy is behind since the first that it has not."""
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        upstream.record(Moved("c-1", "", "Spain"))
        until(lambda: is_proven(upstream))
        known = upstream.log.head
        upstream.record(Moved("c-1", "", "France"))
        until(lambda: all(one["lag"] == 0 for one in upstream.statistics()["shares"]))
        channel = Lost(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), known)
        clock = Clock(datetime.now(UTC) + timedelta(minutes=5))

        with billing.open(f"sqlite:///{tmp_path}/b.db", channels={"crm": channel}, source=clock) as running:
            running.replica_rows(Debtor, wait_seconds_max=60)
            channel.down = True  # not before the copy is made: the subscription reads the same channel
            until(lambda: replica(running)["state"] == "disconnected")
            rows = running.replica_rows(Debtor)
            lacked = next(iter(upstream.log.read(after=rows.position)))

    assert [row.country for row in rows] == ["Spain"]
    assert rows.age == clock.now - lacked.time


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_an_origin_that_is_not_there_yet_is_waited_for(tmp_path: Path, database: str) -> None:
    """Systems are started in any order; a copy that never was whole says so instead of answering."""
    log = fresh() if database == "postgres" else f"sqlite:///{tmp_path}/crm.db"
    with billing.open("memory:", channels={"crm": log}) as running:
        with pytest.raises(h.Late, match="has no copy yet"):
            running.replica(Debtor, "c-1", wait_seconds_max=0.05)

        with crm.open(log) as upstream:
            receipt = upstream.record(Moved("c-1", "a", "France"))
            assert running.replica(Debtor, "c-1", since=receipt, wait_seconds_max=60).state == Debtor("c-1", "France")


@pytest.mark.parametrize("made", ["touched", "without tables", "locked"])
def test_an_origin_that_is_just_being_made_is_waited_for(tmp_path: Path, made: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process makes the file and then its tables: who opens an app in between goes on, and hears it when it is there."""
    monkeypatch.setattr("happened.stores.sqlite.OPEN_SECONDS_MAX", 0.3)
    path = tmp_path / "crm.db"
    path.touch()
    other = sqlite3.connect(path)
    if made != "touched":
        other.execute("pragma journal_mode=wal")
    if made == "locked":
        other.execute("pragma locking_mode=exclusive")
        other.execute("begin immediate")
        other.execute("pragma user_version=0")
    else:
        other.close()

    with billing.open("memory:", channels={"crm": f"sqlite:///{path}"}) as running:
        with pytest.raises(h.Late, match="has no copy yet"):
            running.replica(Debtor, "c-1", wait_seconds_max=0.05)
        other.close()
        with crm.open(f"sqlite:///{path}") as upstream:
            receipt = upstream.record(Moved("c-1", "a", "France"))
            assert running.replica(Debtor, "c-1", since=receipt, wait_seconds_max=60).state == Debtor("c-1", "France")


def test_a_receipt_of_another_log_is_no_position_here(pair: Pair) -> None:
    """A receipt of our own log says nothing of the other system's."""
    upstream, running = pair
    running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))

    own = running.dispatch(Bill("c-1", Decimal(1)))

    with pytest.raises(h.Diverged, match="of another log"):
        running.replica(Debtor, "c-1", since=own)


def test_another_origin_is_seen_and_the_rest_of_the_app_goes_on(tmp_path: Path) -> None:
    """A channel that leads to another log than last time is `Diverged`: nothing of it is mixed in, and all else works."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with crm.open(f"sqlite:///{tmp_path}/one.db") as one, billing.open(own, channels={"crm": one}) as running:
        running.replica(Debtor, "c-1", since=one.record(Moved("c-1", "a", "France")))
        until(lambda: heard(running) == [("c-1", "France")])  # else it may be led to another log

    with crm.open(f"sqlite:///{tmp_path}/other.db") as other, billing.open(own, channels={"crm": other}) as running:
        other.record(Moved("c-1", "z", "Spain"))
        until(lambda: (replica(running)["failure"] or "").startswith("Diverged"))
        until(lambda: (running.statistics()["subscriptions"][0]["failure"] or "").startswith("Diverged"))

        assert replica(running)["state"] == "diverged"
        assert running.replica(Debtor, "c-1").state == Debtor("c-1", "France")
        assert running.dispatch(Bill("c-1", Decimal(1))).events == (Billed("c-1", "France", Decimal(1)),)
        with billing.open(
            own, run=False, channels={"crm": other}
        ) as reading:  # nobody follows here: what keeps those who do is seen all the same
            until(lambda: replica(reading)["state"] == "diverged")
            assert replica(reading)["failure"].startswith("Diverged")
            until(lambda: (reading.statistics()["subscriptions"][0]["failure"] or "").startswith("Diverged"))


def test_an_older_copy_of_the_origin_is_seen(tmp_path: Path) -> None:
    """A backup that was put in the origin's place has another history from some position on."""
    log = tmp_path / "crm.db"
    own = f"sqlite:///{tmp_path}/billing.db"
    with crm.open(f"sqlite:///{log}") as upstream:
        upstream.record(Moved("c-1", "a", "France"))
    saved = log.read_bytes()
    with crm.open(f"sqlite:///{log}") as upstream, billing.open(own, channels={"crm": upstream}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "b", "Spain")))
        until(lambda: equal(running))
    for name in ("crm.db", "crm.db-wal", "crm.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    log.write_bytes(saved)

    with crm.open(f"sqlite:///{log}") as upstream, billing.open(own, channels={"crm": upstream}) as running:
        for number in range(20):
            upstream.record(Moved("c-1", str(number), "Italy"))
        until(lambda: replica(running)["state"] == "diverged")

        assert running.replica(Debtor, "c-1").state == Debtor("c-1", "Spain")


class Switched:
    """A channel that leads to another log from a moment on: a copy has read a page then, and does not know of it. It may hold what is still to come, too."""

    def __init__(self, before: Channel, after: Channel) -> None:
        self.leads_to = before
        self._after = after
        self.armed = False
        self.ahead: list[Published] = []

    def origin(self) -> Origin:
        """Return whose records these are."""
        return self.leads_to.origin()

    def head(self) -> int:
        """Return the last position."""
        return self.leads_to.head()

    def recorded_at(self, position: int) -> tuple[int, str] | None:
        """Return what the row at a position says."""
        return self.leads_to.recorded_at(position)

    def standing(self, share: str) -> ShareStanding | None:
        """Return what is noted of a share."""
        return self.leads_to.standing(share)

    def close(self) -> None:
        """Leave both open."""

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return the next page, and have all that is asked afterwards be of the other log."""
        page = self.leads_to.read(after, wait_seconds_max)
        if not self.armed or not page.items:
            return page
        self.armed, self.leads_to = False, self._after
        return page._replace(items=[*page.items, *self.ahead])


copying = h.App("billing", replicas={"crm": [Debtor]})


def channel_of(upstream: h.Running) -> LogChannel:
    """Return the channel of a log in this process."""
    return LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False)


def is_proven(upstream: h.Running) -> bool:
    """Say whether what proves the first change is published, too: it may come a moment after that."""
    found = [one.what for one in channel_of(upstream).read(0, 0).items]
    return "share" in found and found[-1] == "beacon"


def phantom(channel: Channel, position: int) -> Published:
    """Return a change at a position that only another log has."""
    change = next(one for one in channel.read(0, 0).items if one.what == "share")
    body: dict[str, Any] = {**msgspec.json.decode(change.body), "key": ["c-9"], "version": position, "previous": 0}
    body["fields"] = {**body["fields"], "customer": "c-9"}
    return msgspec.structs.replace(change, position=position, body=msgspec.Raw(msgspec.json.encode(body)))


@pytest.mark.parametrize("lost", [False, True], ids=["it has nothing of it", "it has some of it"])
def test_a_page_of_what_was_lost_is_not_taken_in_once_the_log_was_adopted(tmp_path: Path, *, lost: bool) -> None:
    """It was read just before; so was what it holds of what would have come."""
    urls = [f"sqlite:///{tmp_path}/{name}.db" for name in ("crm", "backup")]
    with crm.open(urls[0]) as upstream:
        upstream.record(Moved("c-1", "a", "France"))
        until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)
    shutil.copy(tmp_path / "crm.db", tmp_path / "backup.db")
    h.adopt(urls[1], actor="ann", reason="the disk was lost")
    with crm.open(urls[0]) as before, crm.open(urls[1]) as after:
        channel = Switched(channel_of(before), channel_of(after))
        with copying.open(f"sqlite:///{tmp_path}/billing.db", channels={"crm": channel}) as running:
            until(lambda: equal(running))
            if lost:
                running.replica(Debtor, "c-2", since=before.record(Moved("c-2", "a", "Spain")))
                until(lambda: equal(running))
            receipts = [after.record(Moved("c-4", f"{number}", "Italy")) for number in range(9)]
            until(lambda: after.statistics()["shares"][0]["lag"] == 0)
            channel.ahead = [phantom(channel, receipts[-1].position)]
            channel.armed = True
            before.record(Moved("c-3", "a", "Spain"))
            until(lambda: not channel.armed)

            assert running.replica(Debtor, "c-4", since=receipts[-1]).state == Debtor("c-4", "Italy")
            until(lambda: equal(running))
            assert copied(running) == expected(after)
            assert {name: replica(running)[name] for name in ("healed", "rebuilt")} == {"healed": 0, "rebuilt": int(lost)}


def test_what_was_still_to_come_from_another_log_does_not_come_from_the_own_one(tmp_path: Path) -> None:
    """A channel that has led to another one for a while: `Diverged`, and once it leads back the copy goes on as if it had not."""
    with crm.open("memory:") as upstream, crm.open("memory:") as other:
        own = channel_of(upstream)
        channel = Switched(own, channel_of(other))
        with copying.open(f"sqlite:///{tmp_path}/billing.db", channels={"crm": channel}) as running:
            running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))
            until(lambda: equal(running))
            head = upstream.log.head
            channel.ahead = [phantom(channel, position) for position in range(head + 10, head + 50)]
            channel.armed = True
            upstream.record(Moved("c-2", "a", "Spain"))
            until(lambda: replica(running)["state"] == "diverged")
            receipts = [upstream.record(Moved("c-4", f"{number}", "Italy")) for number in range(30)]
            channel.leads_to = own

            assert running.replica(Debtor, "c-4", since=receipts[-1]).state == Debtor("c-4", "Italy")
            until(lambda: equal(running))
            assert copied(running) == expected(upstream)
            assert {name: replica(running)[name] for name in ("healed", "rebuilt")} == {"healed": 0, "rebuilt": 0}


@pytest.mark.parametrize("other", [False, True])
def test_a_copy_of_what_is_no_more_grows_old(tmp_path: Path, *, other: bool) -> None:
    """Where an older backup or another log is in the place of the origin nothing is heard of that: neither what is there nor that nothing came says how old the copy is."""
    clock, log, own = Clock(), tmp_path / "crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(f"sqlite:///{log}", source=clock) as upstream:
        upstream.record(Moved("c-1", "a", "France"))
    saved = log.read_bytes()
    with crm.open(f"sqlite:///{log}", source=clock) as upstream, billing.open(own, channels={"crm": upstream}, source=clock) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "b", "Spain")))
        until(lambda: replica(running)["age_seconds"] == 0)
    for name in ("crm.db", "crm.db-wal", "crm.db-shm"):
        (tmp_path / name).unlink(missing_ok=True)
    if not other:
        log.write_bytes(saved)

    with (
        crm.open(f"sqlite:///{log}", run=other, source=clock) as upstream,
        billing.open(own, channels={"crm": upstream}, source=clock) as running,
        billing.open(own, channels={"crm": upstream}, source=clock, run=False) as reading,
    ):
        until(lambda: replica(reading)["state"] == "diverged")
        for minutes in (5, 10):
            clock.move(timedelta(minutes=5))
            upstream.record_all([Moved("c-1", str(number), "Italy") for number in range(50 if other else 0)])
            for each in (running, reading):
                found = each.replica(Debtor, "c-1")
                assert found.state == Debtor("c-1", "Spain")
                assert timedelta(minutes=minutes) <= found.age < timedelta(minutes=minutes + 1)


def test_a_late_put_does_not_bring_back_what_was_deleted(tmp_path: Path) -> None:
    """What is gone keeps its version, so an old change that comes again is passed over."""
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        channel = Rough(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), random.Random(5), honest=False)
        with billing.open(f"sqlite:///{tmp_path}/b.db", channels={"crm": channel}) as running:
            receipt = upstream.record(Moved("c-0", "", "Spain"))
            for number in range(300):
                upstream.record(Moved(f"c-{number % 7}", str(number), "France"))
                receipt = upstream.record(Left(f"c-{number % 7}"))
                if number % 20 == 0:
                    running.replica(Debtor, "c-0", since=receipt, wait_seconds_max=60)
            until(lambda: replica(running)["equal_as_of"] >= receipt.position)

            assert copied(running) == {}
            assert replica(running)["passed_over"] > 0


class Cut:
    """A channel whose pages end, for as long as it is cut, right before the first beacon of what is new."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.cut_after: int | None = None
        self.waits_at = 0
        """Where its reader stands, and is handed out nothing more."""

        self.origin, self.head, self.recorded_at = channel.origin, channel.head, channel.recorded_at
        self.standing, self.close = channel.standing, channel.close

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return what is new up to the beacon."""
        page = self._channel.read(after, wait_seconds_max)
        beacons = [
            one.position for one in page.items if one.what == "beacon" and self.cut_after is not None and one.position > self.cut_after
        ]
        if not beacons:
            return page
        until = min(beacons) - 1
        self.waits_at = until if after == until else self.waits_at
        return Page([one for one in page.items if one.position <= until], until, page.head)


@pytest.mark.parametrize("whole_before", [True, False], ids=["whole before", "not whole before"])
def test_a_copy_is_of_the_position_that_it_says_wherever_a_page_ends(tmp_path: Path, *, whole_before: bool) -> None:
    """A page may end between a change and the beacon that proves it: until that comes, rows and position are those of the last one."""
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        channel = Cut(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False))
        first = upstream.record(Moved("c-1", "", "Spain"))
        until(lambda: all(one["lag"] == 0 for one in upstream.statistics()["shares"]))
        known = upstream.log.head
        if not whole_before:
            channel.cut_after = known
            upstream.record(Moved("c-1", "", "France"))
            until(lambda: all(one["lag"] == 0 for one in upstream.statistics()["shares"]))
        with billing.open(f"sqlite:///{tmp_path}/b.db", channels={"crm": channel}) as running:
            if whole_before:
                running.replica(Debtor, "c-1", since=first, wait_seconds_max=60)
                channel.cut_after = known
                upstream.record(Moved("c-1", "", "France"))
            until(lambda: channel.waits_at > known)

            if whole_before:
                rows = running.replica_rows(Debtor)
                then = upstream.at(rows.position).state(Card, "c-1")
                assert then is not None
                assert [row.country for row in rows] == [then.country] == ["Spain"]
            else:
                with pytest.raises(h.Late):
                    running.replica_rows(Debtor, wait_seconds_max=0)
            channel.cut_after = None
            until(lambda: equal(running))
            assert copied(running) == expected(upstream)


def test_a_copy_that_is_made_anew_answers_nothing_older_than_the_one_before(tmp_path: Path) -> None:
    """It is proven as of the first position that is proved, and the one before was further: who has read that goes on reading it until the new one is there."""
    own = f"sqlite:///{tmp_path}/b.db"
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        upstream.record(Moved("c-1", "", "Spain"))
        until(lambda: is_proven(upstream))
        proven = upstream.log.head
        with billing.open(own, channels={"crm": upstream}) as running:
            running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "", "France")), wait_seconds_max=60)
            until(lambda: equal(running))
            before = running.replica_rows(Debtor).position
        with closing(sqlite3.connect(tmp_path / "b.views.db")) as file, file:
            file.execute("update _replica set sums = '[]', count = 7")  # it can't be told any more that it is equal
        file.close()

        def proven_now() -> bool:
            with closing(sqlite3.connect(tmp_path / "b.views.db")) as file:
                return bool(file.execute("select equal_as_of >= 0 from _replica order by made desc limit 1").fetchone()[0])

        channel = Lost(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), proven)
        with billing.open(own, channels={"crm": channel}) as running:
            until(lambda: replica(running)["rebuilt"] == 1 and proven_now())
            found = running.replica_rows(Debtor)
            assert (found.position, [row.country for row in found]) == (before, ["France"])
            with pytest.raises(h.Late):
                running.replica_rows(Debtor, since=before + 1, wait_seconds_max=0)

        with billing.open(own, channels={"crm": upstream}) as running:
            found = running.replica_rows(Debtor, since=upstream.record(Moved("c-1", "", "Italy")), wait_seconds_max=60)
            assert found.position > before
            assert [row.country for row in found] == ["Italy"]


@pytest.mark.parametrize(
    "what", ["update \"{}\" set country = 'Atlantis' where customer = 'c-7'", "delete from \"{}\" where customer = 'c-7'"]
)
def test_a_row_that_somebody_changed_or_deleted_is_found_and_the_copy_made_anew(tmp_path: Path, what: str) -> None:
    """At its start a copy is held against what is noted of each row: it is not proven by what it was."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        with billing.open(own, channels={"crm": upstream}) as running:
            upstream.record_all([Moved(f"c-{number}", "a", "France") for number in range(20)])
            running.replica(Debtor, "c-1", since=upstream.log.head)
        with closing(sqlite3.connect(tmp_path / "billing.views.db")) as file, file:
            [(table,)] = file.execute("select name from sqlite_master where type = 'table' and name like '_crm/Card%'").fetchall()
            file.execute(what.format(table))
        file.close()

        with billing.open(own, channels={"crm": upstream}) as running:
            until(lambda: replica(running)["rebuilt"] == 1 and equal(running))

            assert copied(running) == expected(upstream)


class Weighed(h.Event):
    customer: CustomerNo
    score: float | None
    good: bool


class Score(h.State):
    """What a database gives back as other bytes than it was given: `True` and -0.0."""

    customer: CustomerNo
    score: float | None = None
    good: bool = False

    def evolve(self, event: Weighed) -> "Score":
        return self.but(score=event.score, good=event.good)


class Placed(h.Event):
    shop: Annotated[str, h.Tag("shop")]
    place: Annotated[str, h.Tag("place")]


class Stand(h.State):
    shop: Annotated[str, h.Tag("shop")]
    place: Annotated[str, h.Tag("place")]
    count: int = 0

    def evolve(self, _event: Placed) -> "Stand":
        return self.but(count=self.count + 1)


@h.named("Stand")
class Swapped(h.State):
    """Has the same key in another order."""

    place: Annotated[str, h.Tag("place")]
    shop: Annotated[str, h.Tag("shop")]
    count: int = 0


def test_a_key_in_another_order_is_said() -> None:
    """Else each state would be asked for by the wrong one of its fields."""
    stands, copying = h.App("stands", records=[Placed], shares=[Stand]), h.App("copying", replicas={"stands": [Swapped]})
    with stands.open("memory:") as upstream, copying.open("memory:", channels={"stands": upstream}) as running:
        receipt = upstream.record(Placed("one", "two"))

        with pytest.raises(h.Late, match="the same fields, in the same order"):
            running.replica(Swapped, "two", "one", since=receipt, wait_seconds_max=2)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_copy_that_is_behind_is_as_old_as_what_it_has_not(tmp_path: Path, *, reachable: bool) -> None:
    """From when the first of that was recorded; where the origin can't be asked, from when there was nothing else last."""
    clock, log = Clock(), f"sqlite:///{tmp_path}/crm.db"
    channel = Rough(
        LogChannel(lambda: upstream.log.engine, lambda store: store is upstream.log.engine, own=False), random.Random(1), honest=True
    )
    with contextlib.ExitStack() as first:
        upstream = first.enter_context(crm.open(log, source=clock))
        receipt = upstream.record(Moved("c-1", "a", "France"))
        upstream.settled(receipt, wait_seconds_max=60)
        with billing.open("memory:", channels={"crm": channel}, source=clock) as running:
            running.replica(Debtor, "c-1", since=receipt)
            until(lambda: equal(running))
            first.close()
            [replicating] = running._replicating.values()
            with crm.open(log, run=False, source=clock) as upstream:  # nobody shares anything
                until(lambda: equal(running))
                clock.move(timedelta(minutes=3))
                until(lambda: replicating._noted_at == clock.now_us())
                upstream.record(Moved("c-1", "b", "Spain"))
                until(lambda: replica(running)["lag"] == 1)
                clock.move(timedelta(minutes=5))
                until(lambda: replicating._noted_at == clock.now_us())
                channel.down = not reachable
                found = running.replica(Debtor, "c-1")

                assert found.state == Debtor("c-1", "France")
                assert found.age == timedelta(minutes=5)
                channel.down = False


@h.named("Score")
class Scored(h.State):
    customer: CustomerNo
    score: float | None = None
    good: bool = False


@pytest.mark.parametrize("database", ["sqlite", "postgres"])
def test_a_row_that_nobody_changed_is_not_taken_for_changed_whatever_is_in_it(tmp_path: Path, database: str) -> None:
    """What is noted of a row is of what the database gives back."""
    own = fresh() if database == "postgres" else f"sqlite:///{tmp_path}/scores.db"
    scores, copying = h.App("scores", records=[Weighed], shares=[Score]), h.App("copying", replicas={"scores": [Scored]})
    with scores.open("memory:") as upstream:
        for number, score in enumerate((-0.0, None, 1.5)):
            receipt = upstream.record(Weighed(f"c-{number}", score, good=number != 1))
            with copying.open(own, channels={"scores": upstream}) as running:
                assert running.replica(Scored, f"c-{number}", since=receipt).state == Scored(f"c-{number}", score, good=number != 1)
                assert {name: replica(running)[name] for name in ("healed", "rebuilt")} == {"healed": 0, "rebuilt": 0}
                assert "diverged" not in [outcome for _, outcome, *_ in running.log.engine.samples()]


@h.named("Card")
class Wider(h.State):
    """More fields than crm has."""

    customer: CustomerNo
    country: str = ""
    hobby: str = ""


def test_a_field_that_is_not_published_is_said(tmp_path: Path) -> None:
    """A copy never fills a field with what nobody said."""
    wider = h.App("billing", replicas={"crm": [Wider]})
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream, wider.open("memory:", channels={"crm": upstream}) as running:
        upstream.record(Moved("c-1", "a", "France"))

        until(lambda: "hobby" in (replica(running)["failure"] or ""))


_draw = random.Random(1)
LONG = "".join(_draw.choices("abcdefghijklmnopqrstuvwxyz", k=3_000))
"""More than an index of PostgreSQL takes."""
ESCAPED = "".join(_draw.choices([chr(number) for number in range(1, 32)], k=2_500))
"""Such an index takes it, but not as JSON."""

UNSTORABLE: dict[str, list[Moved | Left]] = {
    "a NUL in a field": [Moved("c-2", "a", "Fra\0nce")],
    "a NUL in a key": [Moved("c\0-2", "a", "France")],
    "a long key": [Moved(LONG, "a", "France")],
    "a long key that is gone": [Moved(ESCAPED, "a", "France"), Left(ESCAPED)],
}


@pytest.mark.parametrize("what", UNSTORABLE)
@pytest.mark.parametrize("in_memory", [True, False])
def test_what_postgresql_can_not_hold_is_said_at_once_by_the_key_and_the_copy_stays_as_it_is(
    tmp_path: Path, what: str, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    """A copy is proven whole or not at all: it goes on answering as of before, and a file takes all of it."""
    if not in_memory:
        monkeypatch.setattr("happened.transfer.replica.ROWS_IN_MEMORY_MAX", 0)
    facts = UNSTORABLE[what]
    bad = facts[0].customer
    shown = msgspec.json.encode([bad]).decode()
    with (
        crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream,
        billing.open(fresh(), channels={"crm": upstream}) as running,
        billing.open(f"sqlite:///{tmp_path}/billing.db", channels={"crm": upstream}) as file,
    ):
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))
        until(lambda: equal(running))
        before = replica(running)
        last = upstream.record_all(facts)
        if "gone" in what:
            assert file.replica(Debtor, bad, since=last).state is None
        else:
            assert file.replica(Debtor, bad, since=last).state is not None
            upstream.record_all([Moved(f"n{number}", "a", "France") for number in range(50)])

        until(lambda: replica(running)["failure"] is not None)
        failure = replica(running)["failure"]
        assert failure.startswith(f"Invalid: `Debtor` can't hold what was published of {shown[:100]}")
        with pytest.raises(h.Late, match="can't hold what was published of"):
            running.replica(Debtor, "c-1", since=last, wait_seconds_max=0.1)
        assert running.replica(Debtor, "c-1").state == Debtor("c-1", "France")
        after = replica(running)
        assert [after[one] for one in ("position", "equal_as_of", "count")] == [before[one] for one in ("position", "equal_as_of", "count")]
        assert after["lag"] > 0


def test_what_a_column_can_not_hold_is_said_by_the_key_too(tmp_path: Path) -> None:
    """A number with more places than the copy has: whose it is stands before why."""
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
        upstream.record_all([Moved("c-2", "a", "France"), Paid("c-2", Decimal("0.0000001"))])

        until(lambda: replica(running)["failure"] is not None)
        assert re.match(r'Invalid: `Debtor` can\'t hold what was published of \["c-2"\]: .*more than 6 places', replica(running)["failure"])


def test_a_copy_in_postgresql_goes_on_where_the_origin_takes_back_what_it_could_not_hold(tmp_path: Path) -> None:
    """It is tried again with all that came since, and proven then."""
    log = f"sqlite:///{tmp_path}/crm.db"
    with crm.open(log, run=False) as upstream:  # the share begins with these: no copy is whole before
        upstream.record_all([Moved("c-1", "a", "Fra\0nce"), Moved("c\0-2", "a", "France")])
    with crm.open(log) as upstream, billing.open(fresh(), channels={"crm": upstream}) as running:
        until(lambda: "can't hold" in (replica(running)["failure"] or ""))
        with pytest.raises(h.Late, match="can't hold what was published"):
            running.replica(Debtor, "c-1", wait_seconds_max=0.1)

        last = upstream.record_all([Moved("c-1", "a", "France"), Left("c\0-2")])

        assert running.replica(Debtor, "c-1", since=last).state == Debtor("c-1", "France")
        until(lambda: equal(running) and replica(running)["failure"] is None)


@h.named("Card")
class Card2(h.State):
    """What crm shares after its code has changed."""

    customer: CustomerNo
    street: str = ""
    country: str = ""
    paid: Decimal = Decimal(0)

    def evolve(self, event: Moved | Paid | Left) -> "Card2 | None":
        match event:
            case Moved():
                return self.but(country=event.country.upper())
            case Paid():
                return self
            case Left():
                return None


def test_a_share_whose_code_has_changed_is_copied_anew_beside_the_old(tmp_path: Path) -> None:
    """A new generation begins with all that there is, and is answered from once it is whole and proven."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(log) as upstream, billing.open(own, channels={"crm": log}) as running:
        upstream.record_all([Moved(f"c-{number}", "a", "France") for number in range(30)])
        running.replica(Debtor, "c-1", since=upstream.record(Left("c-2")))
        assert replica(running)["generation"] == 1
    changed = h.App("crm", records=[Moved, Paid, Left], shares=[Card2], ignores=["AddressChanged"])

    with billing.open(own, channels={"crm": log}) as running:
        assert running.replica(Debtor, "c-1").state == Debtor("c-1", "France")
        with changed.open(log) as upstream:
            receipt = upstream.record(Moved("c-3", "a", "Spain"))
            until(lambda: replica(running)["generation"] == 2)

            assert running.replica(Debtor, "c-3", since=receipt).state == Debtor("c-3", "SPAIN")
            assert {one.country for one in copied(running).values()} == {"FRANCE", "SPAIN"}
            assert len(copied(running)) == 29
    with closing(sqlite3.connect(tmp_path / "billing.views.db")) as file, file:
        tables = [name for (name,) in file.execute("select name from sqlite_master where type = 'table' and name like '_crm/Card%'")]
    file.close()
    assert len(tables) == 1


@h.named("Card")
class Narrow(h.State):
    """What crm shared for a while: less than is copied."""

    customer: CustomerNo

    def evolve(self, event: Moved | Left) -> "Narrow | None":
        """Forget who has left."""
        return self if isinstance(event, Moved) else None


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("seen", [True, False])
def test_a_generation_that_the_copy_can_not_hold_is_passed_over_once_there_is_another(tmp_path: Path, *, seen: bool, rows: bool) -> None:
    """A release that shared less, and was taken back: the copy was stopped by it, or was away meanwhile. With no row it is the beacon that lacks the field."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    narrow = h.App("crm", records=[Moved, Paid, Left], shares=[Narrow], ignores=["AddressChanged"])
    with crm.open(log) as upstream, billing.open(own, channels={"crm": log}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))
        if not rows:
            running.replica(Debtor, "c-1", since=upstream.record(Left("c-1")))
    with narrow.open(log) as upstream:
        until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)
        if seen:
            with billing.open(own, channels={"crm": log}) as running:
                until(lambda: "country" in (replica(running)["failure"] or ""))

    with crm.open(log) as upstream, billing.open(own, channels={"crm": log}) as running:
        receipt = upstream.record(Moved("c-2", "a", "Spain"))

        assert running.replica(Debtor, "c-2", since=receipt).state == Debtor("c-2", "Spain")
        assert (replica(running)["generation"], replica(running)["failure"]) == (3, None)
        assert len(copied(running)) == 1 + rows


@pytest.mark.parametrize("killed", ["before it is written", "in the midst of it"])
def test_a_copy_of_a_new_generation_begins_with_all_of_it_wherever_it_was_killed(
    tmp_path: Path, killed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was made, and what began with it was not written; or only a part of it came. The old one answers until then, as of its own end."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(log) as upstream, billing.open(own, channels={"crm": upstream}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))
    with crm.open(log) as upstream:
        last = upstream.record(Moved("c-1", "a", "Spain"))
        until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)
        ended = upstream.log.head
    changed = h.App("crm", records=[Moved, Paid, Left], shares=[Card2], ignores=["AddressChanged"])

    with changed.open(log) as upstream:
        until(lambda: upstream.statistics()["shares"][0]["generation"] == 2)
        channel = Cut(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False))
        channel.cut_after = ended
        with monkeypatch.context() as patched:
            write = Replicating[Any]._write

            def fails(replicating: Replicating[Any], copy: Any) -> None:
                if copy.standing.generation == 2:
                    raise h.StoreFailed("the disk is full for a moment")
                write(replicating, copy)

            if killed == "before it is written":
                patched.setattr(Replicating, "_write", fails)
            with billing.open(own, channels={"crm": channel}) as running:
                if killed == "before it is written":
                    until(lambda: "the disk is full" in (replica(running)["failure"] or ""))
                else:
                    until(lambda: channel.waits_at > ended)
                assert running.replica(Debtor, "c-1", since=last).state == Debtor("c-1", "Spain")
        with billing.open(own, channels={"crm": upstream}) as running:
            until(lambda: replica(running)["generation"] == 2 and equal(running))
            assert copied(running) == {"c-1": Debtor("c-1", "SPAIN")}
            assert {name: replica(running)[name] for name in ("healed", "rebuilt")} == {"healed": 0, "rebuilt": 0}


def test_a_share_begun_and_not_ended_is_begun_anew(tmp_path: Path) -> None:
    """What is not whole is no generation to follow: it is not known what has gone since it began."""
    log = f"sqlite:///{tmp_path}/crm.db"
    with crm.open(log) as upstream:
        upstream.record(Moved("c-1", "a", "France"))
        until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)
    with closing(sqlite3.connect(tmp_path / "crm.db")) as file, file:
        file.execute("""update note set body = replace(body, '"whole":true', '"whole":false') where key = 'share/Card'""")
    file.close()

    with crm.open(log) as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
        assert running.replica(Debtor, "c-1", since=upstream.log.head).state == Debtor("c-1", "France")
        assert replica(running)["generation"] == 2


@pytest.mark.parametrize("change", ["owner = owner + 1", "position = position - 1"])
def test_a_copy_that_another_owner_has_claimed_or_set_back_is_not_written(pair: Pair, change: str) -> None:
    """Rows, digest and position are one compare-and-set on position and owner: who does not find what it knows writes nothing, and reads the copy anew."""
    upstream, running = pair
    running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(5))))
    until(lambda: equal(running))
    [replicating] = running._replicating.values()
    with replicating.file.transaction() as connection:
        connection.execute(f"update _replica set {change}")

    receipt = upstream.record(Paid("c-1", Decimal(7)))

    until(lambda: any("is followed by another process now" in what for *_, what in running.log.engine.samples()))
    assert running.replica(Debtor, "c-1", since=receipt).state == Debtor("c-1", "", Decimal(12))
    assert copied(running) == expected(upstream)


def test_who_has_lost_his_lease_does_not_claim_a_copy_again(tmp_path: Path) -> None:
    """He has not heard yet that it is another's, and begins anew after trouble: the copy stays that one's."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with crm.open("memory:") as upstream, billing.open(own, channels={"crm": upstream}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(5))))
        with billing.open(own, channels={"crm": upstream}, run=False) as former:
            [replicating] = former._replicating.values()

            with pytest.raises(h.StoreFailed, match="is another process's by now"):
                replicating._begun(0)

            with replicating.file.reader() as reader:
                assert reader.execute("select owner from _replica").fetchall() == [(1,)]
        assert running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(7)))).state == Debtor("c-1", "", Decimal(12))


class Losing:
    """A channel that loses a change the first time that a copy is to hear it, or each time, and says nothing of it."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.armed = False
        self.each_time = False
        self.lost = 0
        self.origin, self.head, self.recorded_at = channel.origin, channel.head, channel.recorded_at
        self.standing, self.close = channel.standing, channel.close

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return the next page, without the first change that it had when it was armed."""
        page = self._channel.read(after, wait_seconds_max)
        changes = [one.position for one in page.items if one.what == "share"]
        if not self.lost and self.armed and changes and threading.current_thread().name.startswith("happened-replica/"):
            self.lost = changes[0]
        elif not self.each_time:
            return page
        return page._replace(items=[one for one in page.items if one.position != self.lost])


def test_a_change_that_was_lost_on_the_way_is_missed_by_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many rows are there as the origin has: what is in them tells that one is not as it should be, and all since the last proof is read again."""
    monkeypatch.setattr("happened.transfer.share.CHANGES_MAX", 1)  # what is read again begins in another row than that of the beacon
    channel = Losing(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False))
    with crm.open("memory:") as upstream, billing.open("memory:", channels={"crm": channel}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(5))))
        until(lambda: equal(running))

        channel.armed = True
        receipt = upstream.record_all([Paid("c-1", Decimal(7)), Paid("c-2", Decimal(1))])
        assert receipt is not None

        assert running.replica(Debtor, "c-1", since=receipt).state == Debtor("c-1", "", Decimal(12))
        assert channel.lost > receipt.position
        assert copied(running) == expected(upstream)
        assert replica(running)["healed"] == 1


def test_a_copy_that_reading_again_does_not_make_equal_is_built_anew_and_the_old_one_answers() -> None:
    """It answers as of before, and it is told that it has diverged, until another one is proven."""
    channel = Losing(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False))
    with crm.open("memory:") as upstream, billing.open("memory:", channels={"crm": channel}) as running:
        before = upstream.record(Paid("c-1", Decimal(5)))
        running.replica(Debtor, "c-1", since=before)
        until(lambda: equal(running))

        channel.each_time = channel.armed = True
        receipt = upstream.record(Paid("c-1", Decimal(7)))
        until(lambda: replica(running)["rebuilt"] > 0)

        found = running.replica(Debtor, "c-1")
        assert (found.state, found.position < receipt.position) == (Debtor("c-1", "", Decimal(5)), True)
        assert replica(running)["state"] == "diverged"
        assert "differs from the origin" in replica(running)["diverged"]
        channel.each_time = False
        assert running.replica(Debtor, "c-1", since=receipt).state == Debtor("c-1", "", Decimal(12))
        assert copied(running) == expected(upstream)
        assert replica(running)["diverged"] is None


class Haunted:
    """A channel that hands out again, with every page, what was published while it was `keeping`."""

    def __init__(self, channel: Channel, kept: list[Published]) -> None:
        self._channel = channel
        self.kept = kept
        self.keeping = False
        self.pages = 0
        self.origin, self.head, self.recorded_at = channel.origin, channel.head, channel.recorded_at
        self.standing, self.close = channel.standing, channel.close

    def read(self, after: int, wait_seconds_max: float) -> Page:
        """Return the next page, and what was kept."""
        page = self._channel.read(after, wait_seconds_max)
        if threading.current_thread().name.startswith("happened-replica/"):
            self.pages += 1
            if self.keeping:
                self.kept += page.items
        return page if self.keeping else page._replace(items=[*self.kept, *page.items])

    def wait(self) -> None:
        """Wait until it was all handed out once more, and taken in."""
        before = self.pages
        until(lambda: self.pages > before + 2)


@pytest.mark.parametrize("in_memory", [True, False])
def test_what_is_handed_out_again_does_not_bring_back_what_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, in_memory: bool
) -> None:
    """Its version is known, from memory or from the table, also after a restart."""
    if not in_memory:
        monkeypatch.setattr("happened.transfer.replica.ROWS_IN_MEMORY_MAX", 0)
    own, kept = f"sqlite:///{tmp_path}/billing.db", list[Published]()
    with crm.open("memory:") as upstream:
        for restarted in (False, True):
            channel = Haunted(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), kept)
            channel.keeping = not restarted
            with billing.open(own, channels={"crm": channel}) as running:
                if not restarted:
                    running.replica(Debtor, "c-2", since=upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "a", "France")]))
                    channel.keeping = False
                    running.replica(Debtor, "c-2", since=upstream.record(Left("c-2")))
                until(lambda: equal(running))
                channel.wait()
                [replicating] = running._replicating.values()
                with replicating.file.reader() as reader:
                    [(taken, proven)] = reader.execute("select taken, proven from _replica").fetchall()
                assert taken >= proven  # what is held against an adopted origin is the newest that it has
                assert copied(running) == {"c-1": Debtor("c-1", "France")}
                assert {name: replica(running)[name] for name in ("healed", "rebuilt")} == {"healed": 0, "rebuilt": 0}


@pytest.mark.parametrize("rows_max", [0, 3])
def test_a_copy_of_more_rows_than_are_kept_in_memory_is_the_same(tmp_path: Path, rows_max: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not in memory is looked up: a row is neither counted twice nor taken for none, also after a restart."""
    monkeypatch.setattr("happened.transfer.replica.ROWS_IN_MEMORY_MAX", rows_max)
    own, done = f"sqlite:///{tmp_path}/billing.db", acts(random.Random(5), 60, 8)
    with crm.open("memory:") as upstream:
        for start in (0, 30):
            with billing.open(own, channels={"crm": upstream}) as running:
                for at in range(start, start + 30, 5):
                    upstream.record_all(done[at : at + 5])
                    until(lambda: replica(running)["position"] >= upstream.log.head)
                until(lambda: equal(running))
                assert copied(running) == expected(upstream)
                assert {name: replica(running)[name] for name in ("suspect", "healed", "rebuilt")} == {
                    "suspect": 0,
                    "healed": 0,
                    "rebuilt": 0,
                }


def test_a_copy_of_a_generation_of_which_something_was_erased_is_built_anew_as_the_next_one(tmp_path: Path) -> None:
    """The older one can't be proven any more: what was published in it is not all there."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(log) as upstream:
        with billing.open(own, channels={"crm": upstream}) as running:
            upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "a", "France")])
            running.replica(Debtor, "c-1", since=upstream.log.head)
        upstream.erase(("customer", "c-1"), actor="ann", reason="they asked")
    with closing(sqlite3.connect(tmp_path / "billing.views.db")) as file, file:
        file.execute("update _replica set count = count + 1")
    file.close()

    with crm.open(log) as upstream:
        until(lambda: upstream.statistics()["shares"][0]["generation"] == 2)
        with billing.open(own, channels={"crm": upstream}) as running:
            until(lambda: replica(running)["generation"] == 2 and equal(running), seconds=20)
            assert copied(running) == {"c-2": Debtor("c-2", "France")}
            assert replica(running)["rebuilt"] == 1


def test_what_an_older_generation_says_late_is_not_taken_into_a_newer_one(tmp_path: Path) -> None:
    """Neither a state that is gone since, nor how many there were; nor where all is read again for what was lost on the way."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(log) as upstream:
        first = Haunted(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), [])
        first.keeping = True
        with billing.open(own, channels={"crm": first}) as running:
            running.replica(Debtor, "c-2", since=upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "a", "France")]))
            first.keeping = False
            running.replica(Debtor, "c-2", since=upstream.record(Left("c-2")))
    changed = h.App("crm", records=[Moved, Paid, Left], shares=[Card2], ignores=["AddressChanged"])

    with changed.open(log) as upstream:
        losing = Losing(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False))
        second = Haunted(losing, first.kept)
        with billing.open(own, channels={"crm": second}) as running:
            until(lambda: replica(running)["generation"] == 2 and equal(running))
            second.wait()
            alone = copied(running)
            receipt = upstream.record(Moved("c-1", "a", "Spain"))
            assert running.replica(Debtor, "c-1", since=receipt).state == Debtor("c-1", "SPAIN")
            until(lambda: equal(running))

            assert alone == {"c-1": Debtor("c-1", "FRANCE")}
            assert copied(running) == {"c-1": Debtor("c-1", "SPAIN")}
            assert {name: replica(running)[name] for name in ("healed", "rebuilt")} == {"healed": 0, "rebuilt": 0}
            losing.armed = True
            running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "Italy")))
            assert copied(running) == {"c-1": Debtor("c-1", "ITALY")}
            assert {name: replica(running)[name] for name in ("healed", "rebuilt")} == {"healed": 1, "rebuilt": 0}

        with closing(sqlite3.connect(tmp_path / "billing.views.db")) as file, file:
            file.execute("update _replica set count = count + 1")
        file.close()
        third = Haunted(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), first.kept)
        with billing.open(own, channels={"crm": third}) as running:  # it is built anew, and hears the older one first
            until(lambda: replica(running)["rebuilt"] > 0 and equal(running))
            assert (replica(running)["rebuilt"], copied(running)) == (1, {"c-1": Debtor("c-1", "ITALY")})


def test_what_a_share_could_not_record_is_folded_once_when_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of a change fails: state and digest are what they were, and the next try publishes what the log says."""
    record = Course.record
    failed: list[bool] = []

    def failing(course: Course, *args: Any, **named: Any) -> None:
        if named.get("own") and armed and not failed:
            failed.append(True)
            raise h.StoreFailed("the disk is full for a moment")
        record(course, *args, **named)

    monkeypatch.setattr(Course, "record", failing)
    armed = False
    with crm.open("memory:") as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(5))))

        armed = True
        found = running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(7))))
        until(lambda: equal(running))

        assert failed
        assert found.state == Debtor("c-1", "", Decimal(12))
        assert copied(running) == expected(upstream)
        assert (replica(running)["healed"], replica(running)["rebuilt"]) == (0, 0)


def test_who_takes_a_share_over_goes_on_with_what_the_owner_before_did_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one has begun a generation right before it could write no more: what is not whole is begun anew, and the one before is at an end."""
    log, claim = f"sqlite:///{tmp_path}/crm.db", Course.claim
    with crm.open(log) as upstream:
        upstream.record(Paid("c-1", Decimal(5)))
        until(lambda: upstream.statistics()["shares"][0]["lag"] == 0)
        note = upstream.log.engine.notes("share/")["share/Card"]
        begun = msgspec.structs.replace(msgspec.json.decode(note, type=Generation), number=2, whole=False)

    def last_moment(course: Course, epoch: int, *, start: int) -> None:
        if course._name == "share/Card":
            course._log.engine.append(lambda _: Commit(notes={"share/Card": encode(begun).decode()}), EVERYTHING_SEEN)
        claim(course, epoch, start=start)

    monkeypatch.setattr(Course, "claim", last_moment)
    with crm.open(log) as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
        found = running.replica(Debtor, "c-1", since=upstream.record(Paid("c-1", Decimal(7))))

        assert found.state == Debtor("c-1", "", Decimal(12))
        assert replica(running)["generation"] == upstream.statistics()["shares"][0]["generation"] == 3


@pytest.mark.parametrize("restarted", [False, True])
def test_a_share_publishes_what_came_while_nobody_ran_it_once(tmp_path: Path, *, restarted: bool) -> None:
    """It goes on from what was published, also of what was gone before it began, which nobody has heard of."""
    log = f"sqlite:///{tmp_path}/crm.db"
    with h.App("crm", records=[Moved, Paid, Left]).open(log) as upstream:
        upstream.record_all([Paid("c-1", Decimal(3)), Moved("c-2", "a", "France"), Left("c-2")])
    with contextlib.ExitStack() as shared, crm.open(log, run=False) as other:
        upstream = shared.enter_context(crm.open(log))
        until(lambda: upstream.statistics()["shares"][0]["generation"] == 1)
        if restarted:
            shared.close()
        receipt = other.record_all([Paid("c-1", Decimal(7)), Moved("c-2", "b", "Spain")])
        assert receipt is not None
        with crm.open(log) as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
            running.replica(Debtor, "c-1", since=receipt)
            until(lambda: equal(running))

            assert copied(running) == {"c-1": Debtor("c-1", "", Decimal(10)), "c-2": Debtor("c-2", "Spain")}
            versions: dict[object, list[object]] = {}
            for change in published(upstream, "Card"):
                if "op" in change:
                    before = versions.setdefault(str(change["key"]), [0])
                    assert change["previous"] == before[-1]
                    before.append(change["version"])
            assert [len(one) for one in versions.values()] == [3, 2]
            assert replica(running)["suspect"] == 0


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_what_a_share_has_recorded_and_not_heard_of_is_published_once(tmp_path: Path, nth: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit of its beginning, or of a change, was made, and the answer was lost: it goes on from what is noted."""
    log = f"sqlite:///{tmp_path}/crm.db"
    record = Course.record
    recorded: list[str] = []

    def unheard(course: Course, *args: Any, **named: Any) -> None:
        if named.get("own") and not recorded:
            other.record(Paid("c-2", Decimal(1)))  # between its beginning and the end of that
        record(course, *args, **named)
        if named.get("own") and course._name == "share/Card":
            recorded.append(course._name)
            if len(recorded) == nth:
                raise h.StoreFailed("the line was cut")

    monkeypatch.setattr(Course, "record", unheard)
    with crm.open(log, run=False) as other, crm.open(log) as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
        for paid in range(1, 5):
            receipt = upstream.record(Paid("c-1", Decimal(paid)))
            found = running.replica(Debtor, "c-1", since=receipt, wait_seconds_max=20)
            assert found.state == Debtor("c-1", "", Decimal(paid * (paid + 1) // 2))

        changes = [change for change in published(upstream, "Card") if "op" in change and change["key"] == ["c-1"]]
        assert [change["previous"] for change in changes] == [0, *(change["version"] for change in changes[:-1])]
        assert {name: replica(running)[name] for name in ("suspect", "healed", "rebuilt")} == {"suspect": 0, "healed": 0, "rebuilt": 0}


def test_who_takes_a_share_over_knows_events_that_others_were_the_first_to_record(tmp_path: Path) -> None:
    """It has opened the log before there were any, and has recorded and read nothing since."""
    url = f"sqlite:///{tmp_path}/crm.db"
    with contextlib.ExitStack() as first:
        one = first.enter_context(crm.open(url))
        until(lambda: one.statistics()["shares"][0]["generation"] == 1)
        with crm.open(url) as other:
            receipt = one.record(Moved("c-1", "Main Street", "France"))
            until(lambda: one.statistics()["shares"][0]["position"] > receipt.position)
            first.close()
            until(lambda: other.statistics()["shares"][0]["generation"] == 1)
            assert other.statistics()["shares"][0]["count"] == 1
            other.record(Paid("c-1", Decimal(5)))
            until(lambda: len(published(other, "Card")) == 5)  # a beacon for each of three, and two changes
            changes = [change for change in published(other, "Card") if "op" in change]
            assert [change["version"] for change in changes] == [receipt.position, changes[1]["version"]]
            assert changes[1]["previous"] == receipt.position
            assert changes[1]["fields"] == {"customer": "c-1", "street": "Main Street", "country": "France", "paid": "5"}


def test_what_a_decider_heard_is_recorded_and_heard_again(pair: Pair) -> None:
    """A copy read by a decider is an answer: with key, version, value and age; it is outside the boundary."""
    upstream, running = pair
    receipt = upstream.record(Moved("c-1", "a", "France"))
    running.replica(Debtor, "c-1", since=receipt)

    done = running.dispatch(Bill("c-1", Decimal(3)), id="bill-1")

    [answer] = [record for record in running.log.read() if record.kind == "answer"]
    assert done.events == (Billed("c-1", "France", Decimal(3)),)
    assert answer.body["gateway"] == "crm/Card"
    assert answer.body["arguments"] == ["c-1"]
    assert answer.body["answer"]["version"] == receipt.position
    assert answer.body["answer"]["state"] == {"customer": "c-1", "country": "France", "paid": "0"}


def test_a_decider_that_is_refused_keeps_what_it_heard(pair: Pair) -> None:
    """Why it was refused can be seen afterwards."""
    upstream, running = pair
    running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))

    with pytest.raises(h.Refused, match="unknown"):
        running.dispatch(Bill("c-9", Decimal(3)))

    [answer] = [record for record in running.log.read() if record.kind == "answer"]
    assert answer.body["answer"]["state"] is None


def test_a_decider_hears_as_of_when_a_state_is_gone(pair: Pair) -> None:
    """What is deleted has the version of what deleted it, and what never was has none."""
    upstream, running = pair
    upstream.record(Moved("c-1", "a", "France"))
    left = upstream.record(Left("c-1"))
    running.replica(Debtor, "c-1", since=left)

    for customer, version in (("c-1", left.position), ("c-9", 0)):
        with pytest.raises(h.Refused, match="unknown"):
            running.dispatch(Bill(customer, Decimal(3)))
        *_, answer = [record for record in running.log.read() if record.kind == "answer"]
        assert (answer.body["answer"]["state"], answer.body["answer"]["version"]) == (None, version)


def test_a_later_run_of_a_decision_hears_the_same(tmp_path: Path) -> None:
    """A decider that asks a gateway is run again under the lock: with what it heard of the copy the first time, though that has changed."""
    moved: list[h.Receipt] = []

    def rate(country: str) -> int:
        """Let the customer move while the outside is asked."""
        moved.append(upstream.record(Moved("c-1", "b", "Spain")))
        running.replica(Debtor, "c-1", since=moved[0])
        return len(country)

    def asking(command: Bill, debtor: Debtor, world: h.World) -> Iterator[Billed]:
        yield Billed(command.customer, debtor.country, command.net * world.ask(rate, debtor.country))

    app = h.App("billing", deciders=[asking], gateways=[rate], replicas={"crm": [Debtor]})
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream, app.open("memory:", channels={"crm": upstream}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))

        done = running.dispatch(Bill("c-1", Decimal(1)), id="once")

    assert done.events == (Billed("c-1", "France", Decimal(6)),)
    assert len(moved) == 1


def test_a_decider_waits_for_a_copy_that_was_never_whole(tmp_path: Path) -> None:
    """Nothing is decided, or refused for ever, on a copy that can't say anything yet."""
    log = f"sqlite:///{tmp_path}/crm.db"
    with billing.open("memory:", channels={"crm": log}) as running:
        with pytest.raises(h.Late):
            running.dispatch(Bill("c-1", Decimal(1)), id="bill-1", wait_seconds_max=0.05)
        with crm.open(log) as upstream:
            upstream.record(Moved("c-1", "a", "France"))
            running.replica(Debtor, "c-1", since=upstream.log.head, wait_seconds_max=60)

            assert running.dispatch(Bill("c-1", Decimal(1)), id="bill-1").events == (Billed("c-1", "France", Decimal(1)),)


def test_two_processes_share_a_copy_and_one_follows(tmp_path: Path) -> None:
    """Who does not follow reads what the other has written; when that goes, it takes over."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream, billing.open(own, channels={"crm": upstream}, run=False) as reading:
        with billing.open(own, channels={"crm": upstream}):
            receipt = upstream.record(Moved("c-1", "a", "France"))
            assert reading.replica(Debtor, "c-1", since=receipt, wait_seconds_max=60).state == Debtor("c-1", "France")
        later = upstream.record(Moved("c-1", "b", "Spain"))
        with pytest.raises(h.Late):
            reading.replica(Debtor, "c-1", since=later, wait_seconds_max=0.05)
        assert reading.replica(Debtor, "c-1").age > timedelta(0)


def test_a_copy_in_a_file_that_was_restored_goes_on(tmp_path: Path) -> None:
    """A file at another place of the disk has leases of its own, which count from 1 again: whoever had it before, under later ones, has it no more."""
    own, file = f"sqlite:///{tmp_path}/billing.db", tmp_path / "billing.views.db"
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        channels: dict[str, h.Running] = {"crm": upstream}
        for number in range(3):
            receipt = upstream.record(Moved("c-1", "", f"country {number}"))
            with billing.open(own, channels=channels) as running:
                running.replica(Debtor, "c-1", since=receipt, wait_seconds_max=60)
        kept = file.rename(tmp_path / "kept.db")
        shutil.copy(kept, file)

        receipt = upstream.record(Moved("c-1", "", "France"))
        with billing.open(own, channels=channels) as running:
            found = running.replica(Debtor, "c-1", since=receipt, wait_seconds_max=20)

    assert found.state == Debtor("c-1", "France")


@h.named("Card")
class Payer(h.State):
    """What other code has of a card."""

    customer: CustomerNo
    paid: Decimal = Decimal(0)


def test_processes_of_different_code_have_a_copy_each(tmp_path: Path) -> None:
    """Who comes with other code makes its own beside the one that is followed, which goes on answering; a copy that nobody follows any more goes."""
    own = f"sqlite:///{tmp_path}/copying.db"
    before, after = (h.App("copying", replicas={"crm": [state]}) for state in (Debtor, Payer))
    with crm.open("memory:") as upstream, before.open(own, channels={"crm": upstream}) as one:
        one.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))
        with after.open(own, channels={"crm": upstream}) as two:
            receipt = upstream.record(Paid("c-1", Decimal(5)))
            assert two.replica(Payer, "c-1", since=receipt).state == Payer("c-1", Decimal(5))
            assert one.replica(Debtor, "c-1", since=receipt).state == Debtor("c-1", "France", Decimal(5))
            assert [replica(running)["rebuilt"] for running in (one, two)] == [0, 0]
            assert one.replica(Debtor, "c-1").state == Debtor("c-1", "France", Decimal(5))
    with closing(sqlite3.connect(tmp_path / "copying.views.db")) as file, file:
        assert file.execute("select count(*) from _replica").fetchall() == [(2,)]
    file.close()


def test_a_system_left_to_other_processes_is_only_looked_at(tmp_path: Path) -> None:
    """With `None` for a channel, this process follows nothing, and reads what is there."""
    own = f"sqlite:///{tmp_path}/billing.db"
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream, billing.open(own, channels={"crm": upstream}) as running:
        running.replica(Debtor, "c-1", since=upstream.record(Moved("c-1", "a", "France")))

    with billing.open(own, channels={"crm": None}) as running:
        assert running.replica(Debtor, "c-1").state == Debtor("c-1", "France")
        assert replica(running)["state"] == "disconnected"


def test_the_topology_says_what_is_shared_and_copied() -> None:
    """The map of a system knows what it says to others, and what it hears of them."""
    assert crm.topology()["publications"] == [
        {"name": "address_changed", "version": 1, "event": ["Moved"], "publishes": "AddressChanged", "reads": []}
    ]
    assert crm.topology()["shares"] == [{"name": "Card", "key": ["customer"]}]
    assert billing.topology()["subscriptions"] == {"crm": ["crm/AddressChanged"]}
    assert billing.topology()["replicas"] == {"crm": ["Card"]}
    assert bill in {handler.function for handler in billing.handlers.values()}
    assert Card in crm.shares
