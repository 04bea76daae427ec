"""Subscriptions and publications: what one system says is heard by another, once, as an ordinary event."""

import json
import random
import sqlite3
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import pytest

import happened as h
from happened.edge.main import main
from happened.log.row import decode_header
from happened.log.worker import Advance
from happened.log.writer import Batch
from happened.stores.sqlite import SqliteStore
from happened.testing.spec import spec
from happened.transfer.channel import LogChannel
from happened.transfer.subscription import subscription_worker
from tests.transfer.model import (
    AddressChanged,
    Counted,
    Debtor,
    DebtorMoved,
    Left,
    Moved,
    Moves,
    Paid,
    Rough,
    address_changed,
    billing,
    crm,
    heard,
    told,
    until,
)

Pair = tuple[h.Running, h.Running]
CustomerNo = Annotated[str, h.Tag("customer")]


@pytest.fixture(params=["in this process", "by URL"])
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Pair]:
    """Give both systems, one listening to the other through each kind of channel."""
    log = f"sqlite:///{tmp_path}/crm.db"
    with crm.open(log) as upstream:
        channel: h.Running | str = upstream if request.param == "in this process" else log
        with billing.open(f"sqlite:///{tmp_path}/billing.db", channels={"crm": channel}) as running:
            yield upstream, running


def of(running: h.Running, what: str) -> dict[str, Any]:
    """Return what is counted of a publication or a subscription."""
    found: dict[str, Any]
    [found] = running.statistics()[what]
    return found


def test_a_notification_says_what_caused_it(pair: Pair) -> None:
    """It is an output of the origin, caused by the event and of its conversation; at the other end an input, caused by it."""
    upstream, running = pair

    upstream.record(Moved("c-1", "a", "France"), id="move-1", correlation="story")
    until(lambda: len(heard(running)) == 1)

    [said] = [record for record in upstream.log.read() if record.name == "AddressChanged"]
    [taken] = [record for record in running.log.read() if record.name == "crm/AddressChanged"]
    assert (said.kind, said.causation, said.correlation, said.handler) == ("output", "move-1", "story", "address_changed")
    assert (taken.kind, taken.correlation) == ("input", "story")
    rows = upstream.log.row_at(said.position), running.log.row_at(taken.position)
    assert [decode_header(row.head).depth for row in rows if row is not None] == [1, 1]  # a circle through both is seen by it
    assert taken.id == f"{upstream.log.identity.id}:{said.id}"
    assert str(taken.causation).startswith(f"{upstream.log.identity.id}:1:{said.position}:")
    assert taken.body == DebtorMoved("c-1", "France")
    assert taken.tags == (("customer", "c-1"),)
    assert taken.occurred == said.occurred


def test_a_publication_may_have_nothing_to_say(pair: Pair) -> None:
    """`None` publishes nothing."""
    upstream, running = pair

    upstream.record(Moved("c-1", "a", "nowhere"))
    upstream.record(Moved("c-2", "a", "Spain"))
    until(lambda: len(heard(running)) == 1)

    assert heard(running) == [("c-2", "Spain")]


def test_what_is_heard_is_an_ordinary_event(pair: Pair) -> None:
    """Views and states evolve from it."""
    upstream, running = pair

    upstream.record_all([Moved("c-1", "a", "France"), Moved("c-1", "b", "Spain")])
    until(lambda: len(heard(running)) == 2)

    assert running.view(Moves).get("c-1", since=running.log.head) == Moves("c-1", ("France", "Spain"))
    assert running.state(Moves, "c-1", since=running.log.head) == Moves("c-1", ("France", "Spain"))
    assert running.log.verify().kinds["input"] == 2


def test_nothing_is_said_or_heard_twice_after_a_restart(tmp_path: Path) -> None:
    """Both sides go on from where they were."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    for number in range(4):
        with crm.open(log) as upstream, billing.open(own, channels={"crm": log}) as running:
            upstream.record(Moved("c-1", str(number), f"country {number}"))
            until(lambda: len(heard(running)) == number + 1)  # noqa: B023 - waited for in this round

            assert heard(running) == told(upstream) == [("c-1", f"country {one}") for one in range(number + 1)]


def test_what_could_not_be_recorded_is_heard_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """How far the channel was read is noted in the commit that records what came: where that fails, nothing is passed over."""
    draft = Advance.draft
    failed: list[str] = []

    def failing(advance: Advance, batch: Batch) -> None:
        mark = batch.mark()
        draft(advance, batch)
        if advance.name == subscription_worker("crm") and len(batch.rows) > mark[0] and len(failed) < 2:
            batch.back_to(mark)
            failed.append(advance.name)
            raise h.StoreFailed("the disk is full for a moment")

    monkeypatch.setattr(Advance, "draft", failing)
    with crm.open("memory:") as upstream, billing.open("memory:", channels={"crm": upstream}) as running:
        upstream.record(Moved("c-1", "a", "France"))
        until(lambda: len(failed) == 2)
        upstream.record(Moved("c-1", "b", "Germany"))
        until(lambda: len(heard(running)) == 2)

        assert heard(running) == told(upstream) == [("c-1", "France"), ("c-1", "Germany")]


def test_a_page_of_a_moment_ago_is_no_older_log(tmp_path: Path) -> None:
    """Another process has read further, and this one takes over: what it knew of the origin is of before that, and nothing has diverged."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    with crm.open(log) as upstream, h.open_log(log) as aside:
        engine = aside.engine
        assert isinstance(engine, SqliteStore)
        engine._looking._seconds = engine._looking._pause = 3600
        known = engine.wait(0, 1)
        with billing.open(own, channels={"crm": log}) as running:
            upstream.record(Moved("c-1", "a", "France"))
            until(lambda: len(heard(running)) == 1)
            assert running.replica(Debtor, "c-1", since=upstream.log.head).position > known
        channel = Counted(LogChannel(lambda: engine, lambda _store: True, own=False))
        with billing.open(own, channels={"crm": channel}) as running:
            until(lambda: len(channel.heads) >= 8)

            assert set(channel.heads) == {known}
            assert [one for one in running.statistics()["executions"] if one["outcome"] == "failed"] == []
            engine._looking._seconds = engine._looking._pause = 0.005
            upstream.record(Moved("c-1", "b", "Spain"))
            until(lambda: heard(running) == [("c-1", "France"), ("c-1", "Spain")])
            assert running.replica(Debtor, "c-1", since=upstream.log.head).state == Debtor("c-1", "Spain")


def test_a_new_publication_begins_at_the_head_of_that_moment(tmp_path: Path) -> None:
    """What lies before is not said, unless `since` says from where on."""
    log = f"sqlite:///{tmp_path}/crm.db"

    def from_start(event: Moved) -> AddressChanged:
        return AddressChanged(event.customer, event.country)

    before = h.App("crm", records=[Moved, Paid, Left])
    after = h.App("crm", records=[Moved, Paid, Left], publications=[address_changed, h.Publication(from_start, since=0)])
    with before.open(log) as upstream:
        upstream.record(Moved("c-1", "a", "old"))
    with after.open(log) as upstream:
        upstream.record(Moved("c-1", "b", "new"))
        until(lambda: all(one["lag"] == 0 for one in upstream.statistics()["publications"]))

        said = [(record.handler, record.body["country"]) for record in upstream.log.read() if record.name == "AddressChanged"]
    assert sorted(said) == [("address_changed", "new"), ("from_start", "new"), ("from_start", "old")]


def test_a_publication_that_fails_stops_and_is_seen_and_goes_on_when_it_is_mended(tmp_path: Path) -> None:
    """Nothing is skipped: what stands before it was said, what comes after it waits; the app goes on."""
    fussy = Fussy()
    app = h.App("crm", records=[Moved], publications=[fussy.publish])
    with app.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        upstream.record_all([Moved("c-1", "a", "France"), Moved("c-1", "a", "Narnia"), Moved("c-2", "a", "Spain")])
        settled = upstream.settled(wait_seconds_max=60)
        said = countries_of(upstream)
        fussy.broken = False
        until(lambda: upstream.stuck() == [])

        assert [(one.handler, one.error) for one in settled.stuck] == [("publish", "ValueError: no such country")]
        assert "no such country" in settled.stuck[0].trace
        assert said == ["France"]
        assert countries_of(upstream) == ["France", "Narnia", "Spain"]
        assert upstream.log.verify().kinds["output"] == 3


@pytest.mark.parametrize("act", ["skip", "park"])
def test_what_can_not_be_published_is_skipped_or_parked_by_a_recorded_act(tmp_path: Path, act: str) -> None:
    """With `by`, only its own key waits; after the act that goes on, too, and what was parked can be said later."""
    fussy = Fussy()
    app = h.App("crm", records=[Moved], publications=[h.Publication(fussy.publish, by="customer")])
    with app.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        upstream.record_all([Moved("c-1", "a", "Narnia"), Moved("c-1", "b", "France"), Moved("c-2", "a", "Spain")])
        [held] = upstream.settled(wait_seconds_max=60).stuck
        said = countries_of(upstream)
        upstream.decide_about(act, "publish", held.position, actor="ann")
        until(lambda: countries_of(upstream) == ["Spain", "France"])
        fussy.broken = False
        if act == "park":
            upstream.decide_about("retry", "publish", held.position, actor="ann")
            until(lambda: upstream.stuck() == [])

        assert said == ["Spain"]
        assert countries_of(upstream) == ["Spain", "France", *["Narnia"] * (act == "park")]
        assert [record.actor for record in upstream.log.read() if record.name == act] == ["ann"]


def test_settled_waits_for_what_is_published(tmp_path: Path) -> None:
    with h.App("crm", records=[Moved], publications=[address_changed]).open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        for number in range(20):
            receipt = upstream.record(Moved("c-1", str(number), f"country {number}"))

            assert upstream.settled(receipt, wait_seconds_max=60).done
            assert countries_of(upstream)[-1] == f"country {number}"


class Fussy:
    """A publication that can't say everything until it is mended."""

    def __init__(self) -> None:
        self.broken = True

    def publish(self, event: Moved) -> AddressChanged:
        if self.broken and event.country == "Narnia":
            raise ValueError("no such country")
        return AddressChanged(event.customer, event.country)


def countries_of(upstream: h.Running) -> list[str]:
    return [
        record.body.country if isinstance(record.body, AddressChanged) else record.body["country"]
        for record in upstream.log.read()
        if record.name == "AddressChanged"
    ]


class Visits(h.State):
    customer: CustomerNo
    count: int = 0

    def evolve(self, event: Moved) -> "Visits":
        return self.but(count=self.count + 1)


class MovedAgain(h.Event):
    customer: CustomerNo
    times: int
    by: str


def moved_again(event: Moved, visits: Visits, record: h.Recorded) -> MovedAgain | None:
    return MovedAgain(event.customer, visits.count, record.actor) if visits.count > 1 else None


def test_a_publication_may_ask_for_states_and_the_envelope(tmp_path: Path) -> None:
    """Its states are as of a moment not before the event."""
    app = h.App("crm", records=[Moved], publications=[moved_again])
    with app.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        upstream.record(Moved("c-1", "a", "France"))
        until(lambda: of(upstream, "publications")["lag"] == 0)
        upstream.record(Moved("c-1", "b", "Spain"), actor="ann")
        until(lambda: of(upstream, "publications")["lag"] == 0)

        [said] = [record.body for record in upstream.log.read() if record.kind == "output"]
    assert said == {"customer": "c-1", "times": 2, "by": "ann"}


@h.named("AddressChanged")
class Numbered(h.Event):
    """Another idea of what crm says."""

    customer: int


@h.named("AddressChanged")
class Read(h.Event):
    customer: CustomerNo


def test_what_can_not_be_read_is_kept_and_listed_and_read_when_it_can_be(tmp_path: Path) -> None:
    """It is recorded as it came; views and deciders go on without it, until the class reads it."""
    own = f"sqlite:///{tmp_path}/billing.db"
    wrong = h.App("billing", subscriptions={"crm": [Numbered]})
    right = h.App("billing", subscriptions={"crm": [Read]})
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        with wrong.open(own, channels={"crm": upstream}) as running:
            upstream.record_all([Moved("c-1", "a", "France"), Moved("c-2", "a", "Spain")])
            until(lambda: len(of(running, "subscriptions")["unread"]) == 2)
            unread = of(running, "subscriptions")["unread"]
            kept = [record.body for record in running.log.read() if record.name == "crm/AddressChanged"]
        with right.open(own, channels={"crm": upstream}) as running:
            until(lambda: not of(running, "subscriptions")["unread"])
            read = [record.body for record in running.log.read() if isinstance(record.body, Read)]
            assert running.log.verify().kinds["input"] == 4

    assert "it is no `Numbered`" in unread[0]["error"]
    assert kept == [{"customer": "c-1", "country": "France"}, {"customer": "c-2", "country": "Spain"}]
    assert read == [Read("c-1"), Read("c-2")]


def test_what_is_read_at_last_is_of_when_it_happened_and_stays_in_its_conversation(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Until then it is stuck; afterwards the map has it as what the subscription has brought."""
    own = f"sqlite:///{tmp_path}/billing.db"
    wrong = h.App("billing", subscriptions={"crm": [Numbered]})
    right = h.App("billing", subscriptions={"crm": [Read]})
    happened = datetime(2020, 5, 1, tzinfo=UTC)
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        with wrong.open(own, channels={"crm": upstream}) as running:
            upstream.record(Moved("c-1", "a", "France"), id="move-1", correlation="talk-1", occurred=happened)
            until(lambda: len(of(running, "subscriptions")["unread"]) == 1)
        assert main(["stuck", "--log", own, "--json"]) == 1
        [unread] = json.loads(capsys.readouterr().out)["unread"]
        assert main(["stuck", "--log", own]) == 1
        assert "it is no `Numbered`" in capsys.readouterr().out
        with right.open(own, channels={"crm": upstream}) as running:
            until(lambda: not of(running, "subscriptions")["unread"])
            [read] = [record for record in running.log.read() if isinstance(record.body, Read)]
            story, flow = running.trace("talk-1"), running.flow()
        assert main(["stuck", "--log", own]) == 0

    assert unread["origin"] == "crm"
    assert (read.occurred, read.correlation) == (happened, "talk-1")
    assert [(line.depth, line.id, line.sender) for line in story.lines] == [(0, unread["id"], "crm"), (1, f"{unread['id']}/read", "crm")]
    assert {(arrow.source, arrow.target): (arrow.count, arrow.status) for arrow in flow.arrows} == {
        ("subscription:crm", "unread:crm/AddressChanged"): (1, "seen"),
        ("subscription:crm", "event:crm/AddressChanged"): (1, "seen"),
    }


@h.named("AddressChanged", version=2)
class Newer(h.Event):
    customer: CustomerNo


def test_another_version_than_ours_is_kept_unread(tmp_path: Path) -> None:
    """A version that no class reads is not guessed at."""
    newer = h.App("billing", subscriptions={"crm": [Newer]})
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream, newer.open("memory:", channels={"crm": upstream}) as running:
        upstream.record(Moved("c-1", "a", "France"))
        until(lambda: len(of(running, "subscriptions")["unread"]) == 1)

        assert (
            "version 1 of `AddressChanged` was published, and the class reads version 2"
            in of(running, "subscriptions")["unread"][0]["error"]
        )


@pytest.mark.parametrize("seed", range(4))
def test_shuffled_and_doubled_it_is_recorded_in_order_and_once(tmp_path: Path, seed: int) -> None:
    """A channel that says truly up to where it is whole makes nothing come twice, or in another order."""
    print("seed", seed)
    chance = random.Random(seed)
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        channel = Rough(LogChannel(lambda: upstream.log.engine, lambda _store: True, own=False), chance, honest=True)
        with billing.open(f"sqlite:///{tmp_path}/billing.db", channels={"crm": channel}) as running:
            for number in range(120):
                upstream.record(Moved(f"c-{number % 9}", "a", str(number)))
            until(lambda: len(heard(running)) == 120)
            until(lambda: of(running, "subscriptions")["lag"] == 0)

            assert heard(running) == told(upstream)
            assert running.log.verify().kinds["input"] == 120


def test_a_spec_says_what_came_from_elsewhere_as_any_event() -> None:
    """No channel is needed to tell what an app does with what it hears."""
    spec(billing).given(DebtorMoved("c-1", "France")).when(DebtorMoved("c-1", "Spain")).then_view(Moves("c-1", ("France", "Spain")))


def test_what_is_published_is_no_fact_here(tmp_path: Path) -> None:
    """A state of the same log is not changed by what is said to others, and the record says that it is an output, in SQL too."""
    with crm.open(f"sqlite:///{tmp_path}/crm.db") as upstream:
        upstream.record(Moved("c-1", "a", "France"))
        until(lambda: of(upstream, "publications")["lag"] == 0)

        file = sqlite3.connect(tmp_path / "crm.db")
        in_sql = file.execute("select kind from record where name = 'AddressChanged'").fetchall()
        file.close()

        assert in_sql == [("output",)]
        assert list(upstream.log.read(h.query(names=["AddressChanged"]))) == []
        assert [one.kind for one in upstream.log.read() if one.name == "AddressChanged"] == ["output"]


class Greet(h.Command):
    customer: CustomerNo


class Greeted(h.Event):
    customer: CustomerNo


def greet_moved(event: DebtorMoved) -> Iterator[Greet]:
    """Fail for nobody known."""
    if event.country == "Atlantis":
        raise ValueError("there is no such place")
    yield Greet(event.customer)


def greet(command: Greet) -> Iterator[Greeted]:
    yield Greeted(command.customer)


def test_what_reactions_make_of_what_is_heard_is_waited_for(tmp_path: Path) -> None:
    """`settled` knows events of other systems as reactions hear them: what has not been heard is not done, and what stands still is listed."""
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/greeting.db"
    with crm.open(log) as upstream:
        upstream.record_all([Moved(f"c-{number}", "a", "Atlantis" if number == 7 else "France") for number in range(300)])
        listening = h.App("greeting", subscriptions={"crm": [DebtorMoved]})
        with listening.open(own, channels={"crm": upstream}) as running:
            until(lambda: len(heard(running)) == 300)
    late = h.App(
        "greeting", deciders=[greet], reactions=[h.Reaction(greet_moved, by="customer", since=0)], subscriptions={"crm": [DebtorMoved]}
    )
    with late.open(own, channels={"crm": log}) as running:
        running.dispatch(Greet("c-0"))  # the first commit of this app says where its reaction begins

        found = running.settled()

        assert [held.event for held in found.stuck] == ["crm/AddressChanged"]
        assert len([record for record in running.log.read() if record.name == "Greeted"]) == 1 + 299


def greeted(event: Greeted) -> AddressChanged:
    return AddressChanged(event.customer, "decided")


def test_what_was_decided_is_published_as_what_was_recorded(tmp_path: Path) -> None:
    """The row of a decision holds its command, too; here one process publishes, and another decides."""
    log = f"sqlite:///{tmp_path}/crm.db"
    deciding = h.App("crm", deciders=[greet], publications=[greeted])
    with deciding.open(log) as upstream, deciding.open(log, run=False) as other:
        upstream.dispatch(Greet("c-1"))
        other.dispatch(Greet("c-2"))
        until(lambda: all(one["lag"] == 0 for one in upstream.statistics()["publications"]))

        assert [record.body["customer"] for record in upstream.log.read() if record.name == "AddressChanged"] == ["c-1", "c-2"]
        assert upstream.statistics()["publications"][0]["failure"] is None


def test_what_happens_before_anybody_publishes_is_published(tmp_path: Path) -> None:
    """A publication begins with the first commit of its app, also where the process that makes it runs nothing."""
    log = f"sqlite:///{tmp_path}/crm.db"
    with crm.open(log, run=False) as upstream:
        upstream.record(Moved("c-1", "a", "France"))
    with crm.open(log) as upstream:
        until(lambda: all(one["lag"] == 0 for one in upstream.statistics()["publications"]))

        assert [record.body["customer"] for record in upstream.log.read() if record.name == "AddressChanged"] == ["c-1"]
