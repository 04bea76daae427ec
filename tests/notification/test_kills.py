"""Exactly once: whoever is killed, paused or replaced, each event is reacted to once, in order, by one code."""

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections import Counter
from pathlib import Path

import pytest

import happened as h
from happened.log.row import decode_header
from happened.stores.machine import Machine
from tests.notification.killed import Came, Count, Counted, Reminded, Tally, Wrote, answered, child, mail, system
from tests.notification.model import until, whole

KILLS = int(os.environ.get("HAPPENED_KILLS", "40"))
KEYS = "abcde"


def finished(running: h.Running, events: dict[str, Came]) -> bool:
    """Say whether all is there that these events cause, and nothing is left to be done."""
    wanted = {
        Counted: len(events),
        Wrote: sum(event.number % 3 == 0 for event in events.values()),
        Reminded: sum(event.number % 5 == 0 for event in events.values()),
    }
    found = Counter(record.name for record in running.log.read())
    statistics = running.statistics()
    return (
        all(found[kind.__name__] >= count for kind, count in wanted.items())
        and statistics["pending"] == 0
        and all(one["lag"] == 0 for one in statistics["reactions"])
    )


def same_as_quiet(running: h.Running, events: dict[str, Came]) -> None:
    """See that all that `events` cause is there once, in order of each key, and the states are those of a quiet run."""
    records = [record for record in running.log.read() if record.kind != "system"]
    came = [record for record in records if isinstance(record.body, Came)]
    assert len(came) == len(events)
    for kind, each in ((Counted, 1), (Wrote, 3), (Reminded, 5)):
        found = Counter((record.body.key, record.body.number) for record in records if isinstance(record.body, kind))
        assert found == Counter((event.key, event.number) for event in events.values() if event.number % each == 0), kind
    for key in KEYS:
        order = [record.body.number for record in came if record.body.key == key]
        assert [record.body.number for record in records if isinstance(record.body, Counted) and record.body.key == key] == order
        assert [record.body.place for record in records if isinstance(record.body, Counted) and record.body.key == key] == list(
            range(len(order))
        )
        assert [record.body.number for record in records if isinstance(record.body, Wrote) and record.body.key == key] == [
            number for number in order if number % 3 == 0
        ]
    with system("quiet").open(gateways={mail: answered}) as quiet:
        for record in came:
            quiet.record(record.body)
        until(lambda: finished(quiet, events))
        running.catch_up()
        assert quiet.states(Tally) == running.states(Tally)
    whole(running)


def test_whoever_is_killed_at_any_moment_each_event_is_reacted_to_once(url: str) -> None:
    """Two processes work, and one or both are killed again and again while events come, many of them twice; `make torture` does so 200 times."""
    seed = int(os.environ.get("HAPPENED_SEED", "7"))
    print("seed", seed, "kills", KILLS)
    chance = random.Random(seed)
    events: dict[str, Came] = {}
    working: list[int] = []
    started = child(url, "many")
    assert started.stdin is not None
    assert started.stdout is not None
    with system("test").open(url, run=False) as running:
        for _ in range(KILLS):
            while len(working) < 2:
                started.stdin.write("one more\n")
                started.stdin.flush()
                working.append(int(started.stdout.readline()))
            for _ in range(chance.randrange(1, 8)):
                if events and chance.random() < 0.2:
                    id = chance.choice(sorted(events))  # noqa: A001 - as `record` calls it
                    assert running.record(events[id], id=id).repeated
                else:
                    number = len(events)
                    events[f"e-{number}"] = Came(chance.choice(KEYS), number)
                    running.record(events[f"e-{number}"], id=f"e-{number}")
            time.sleep(chance.random() * 0.06)
            for victim in chance.sample(working, chance.choice([1, 1, 1, 2])):
                os.kill(victim, signal.SIGKILL)
                working.remove(victim)
        for victim in working:
            os.kill(victim, signal.SIGKILL)
        started.communicate()
    with system("last").open(url, gateways={mail: answered}) as running:
        until(lambda: finished(running, events), 60)
        assert running.stuck() == []
        same_as_quiet(running, events)


def test_code_swapped_between_a_run_and_its_commit_leaves_the_effects_of_one_code(url: str) -> None:
    """The first code is killed in the middle of its run, after it has decided what to send; the second runs it anew: only its effects are there."""
    with system("test").open(url, run=False) as running:
        process = child(url, "stops-1")
        running.record(Came("a", 3), id="e-3")
        assert process.stdout is not None
        assert process.stdout.readline() == "asked a 3\n"
        process.kill()
        process.communicate()
        assert [record.body.code for record in running.log.read() if isinstance(record.body, Counted)] == ["stops-1"]
        second = child(url, "second")
        until(lambda: running.settled("e-3" and running.log.find("e-3")[0].position).done)
        second.communicate("")

        answers = [record.body["answer"] for record in running.log.read() if record.kind == "answer"]
        assert answers == ["second a 3", "second write a 3"]
        assert [record.body.text for record in running.log.read() if isinstance(record.body, Wrote)] == ["second write a 3"]
        whole(running)


class Ahead(Machine):
    """A clock that is ahead, so that a lease seems to have run out."""

    def now_us(self) -> int:
        return super().now_us() + 60_000_000


def test_an_owner_that_is_stopped_past_its_lease_and_goes_on_can_not_write(url: str) -> None:
    """It was stopped in the middle of a run; another one has taken over and done it; revived, it records nothing of that, and later works again."""
    with system("test").open(url, run=False) as running:
        first = child(url, "stops-first")
        running.record(Came("a", 3), id="e-3")
        assert first.stdout is not None
        assert first.stdin is not None
        assert first.stdout.readline() == "asked a 3\n"
        first.send_signal(signal.SIGSTOP)
        with system("second").open(url, gateways={mail: answered}, source=Ahead()) as second:
            until(lambda: sum(isinstance(record.body, Wrote) for record in second.log.read()) == 1)
            first.send_signal(signal.SIGCONT)
            first.stdin.write("\n")
            first.stdin.flush()
            more = second.record(Came("a", 6), id="e-6")
            until(lambda: second.settled(more).done)
            owners = {name: second._leases.holder(f"reaction/{name}") for name in ("on_came", "on_counted")}
            assert set(owners.values()) == {second._leases.owner}
        until(lambda: f":{first.pid}:" in str(running._leases.holder("reaction/on_counted")), 30)
        last = running.record(Came("a", 9), id="e-9")
        until(lambda: running.settled(last).done, 30)
        first.communicate("")

        wrote = [(record.body.number, record.body.text) for record in running.log.read() if isinstance(record.body, Wrote)]
        assert [number for number, _ in wrote] == [3, 6, 9]
        assert wrote[0] == (3, "write a 3")  # not of the one that was stopped in it
        assert wrote[2] == (9, "stops-first write a 9")
        same_as_quiet(running, {f"e-{number}": Came("a", number) for number in (3, 6, 9)})


def test_without_the_shelf_nothing_is_sent_twice(url: str, tmp_path: Path) -> None:
    """The tables that can be rebuilt are dropped: progress is no part of them."""
    app = system("test")
    with app.open(url, gateways={mail: answered}) as running:
        events = {f"e-{number}": Came(KEYS[number % 5], number) for number in range(30)}
        for id, event in events.items():  # noqa: A001 - as `record` calls it
            running.record(event, id=id)
        until(lambda: finished(running, events))
        sent = [record.id for record in running.log.read() if record.kind != "system"]
    path = url.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in ("run", "covered", "recent", "block", "shelf", "sample", "counted"):
            connection.execute(f"drop table {table}")
    with app.open(url, gateways={mail: answered}) as running:
        events["e-31"] = Came("a", 31)
        running.record(events["e-31"], id="e-31")
        until(lambda: finished(running, events))

        assert [record.id for record in running.log.read() if record.kind != "system"][: len(sent)] == sent
        same_as_quiet(running, events)


@pytest.mark.parametrize("times", [3])
def test_what_was_sent_is_known_by_its_id(url: str, times: int) -> None:
    """An id of what a reaction sent is used: dispatched by hand it is a repetition, and another body is refused."""
    with system("test").open(url, gateways={mail: answered}) as running:
        receipt = running.record(Came("a", 1))
        running.settled(receipt)
        id = f"{running.log.identity.id}:{receipt.position}:on_came:0"  # noqa: A001 - as `dispatch` calls it

        for _ in range(times):
            assert running.dispatch(Count("a", 1), id=id).repeated
        with pytest.raises(h.IdReused):
            running.dispatch(Count("a", 2), id=id)
        assert decode_header(running.log.find(id)[0].head).sent is not None
