"""Whatever is doubled, shuffled, cut or killed on the way: copies and recorded notifications come out as if all had been delivered once."""

import itertools
import os
import queue
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any  # Any: bodies of any name

import pytest

import happened as h
from happened.transfer.channel import LogChannel
from tests.transfer.model import Rough, acts, billing, copied, crm, expected, heard, told, until

KILLS = int(os.environ.get("HAPPENED_KILLS", "8"))
"""Processes that are killed in one test: more of them in a longer run."""


def caught_up(running: h.Running, upstream: h.Running) -> bool:
    """Say whether all that was published has been taken in, and proven."""
    found = running.statistics()
    [replica], [subscription] = found["replicas"], found["subscriptions"]
    published = all(one["lag"] == 0 for one in (*upstream.statistics()["shares"], *upstream.statistics()["publications"]))
    return published and replica["state"] == "fresh" and replica["lag"] == 0 and subscription["lag"] == 0


def proven(running: h.Running, upstream: h.Running) -> bool:
    """Say whether the copy was found equal as of the last beacon."""
    [replica] = running.statistics()["replicas"]
    return bool(replica["equal_as_of"] == beacons_of(upstream)[-1]["position"])


def beacons_of(upstream: h.Running) -> list[dict[str, Any]]:
    return [record.body for record in upstream.log.read() if record.kind == "output" and "digests" in record.body]


def check(running: h.Running, upstream: h.Running, *, ordered: bool) -> None:
    """Hold all that was taken in against the origin's log."""
    [replica] = running.statistics()["replicas"]
    last = beacons_of(upstream)[-1]
    assert replica["equal_as_of"] == last["position"]
    assert replica["count"] == last["count"]
    assert copied(running) == expected(upstream)
    if ordered:
        assert heard(running) == told(upstream)
    else:
        assert sorted(heard(running)) == sorted(told(upstream))
    running.log.verify()
    upstream.log.verify()


@pytest.mark.parametrize("honest", [True, False], ids=["says up to where it is whole", "says what is not so"])
@pytest.mark.parametrize("seed", range(3))
def test_shuffled_doubled_late_and_restarted_it_comes_out_as_if_delivered_once(tmp_path: Path, seed: int, *, honest: bool) -> None:
    """The line is cut at random, and what comes through it comes in any order, more than once.

    Both sides are closed and opened again on the way; not where the channel says what is not so, since what it owes then is lost for ever.
    """
    print("seed", seed)
    chance = random.Random(seed)
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    rounds = 8 if honest else 1
    parts = iter(enumerate(acts(chance, 240, 15)))
    for rest in reversed(range(rounds)):
        with crm.open(log) as upstream:
            channel = Rough(_to(upstream), random.Random(f"{seed} {rest}"), honest=honest)
            with billing.open(own, channels={"crm": channel}) as running:
                for number, act in itertools.islice(parts, 240 // rounds):
                    channel.down = chance.random() < 0.1
                    upstream.record(act, id=f"act-{number}")
                channel.down = False
                if rest == 0:
                    until(lambda: caught_up(running, upstream) and len(heard(running)) == len(told(upstream)))
                    if not honest:
                        until(lambda: proven(running, upstream) and copied(running) == expected(upstream))
                    check(running, upstream, ordered=honest)


def _to(upstream: h.Running) -> LogChannel:
    engine = upstream.log.engine
    return LogChannel(lambda: engine, lambda _store: True, own=False)


class Child:
    """A process of one of the two systems, and what it has printed."""

    def __init__(self, *arguments: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-m", "tests.transfer.child", *arguments], stdout=subprocess.PIPE, text=True)
        self.lines: queue.Queue[str] = queue.Queue()
        self.last = ""
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._thread.join()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def said(self, *, wait_seconds: float) -> str | None:
        """Return the next line, or `None` if there is none in time."""
        try:
            self.last = self.lines.get(timeout=wait_seconds)
        except queue.Empty:
            return None
        return self.last

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.strip())


@pytest.mark.parametrize("seed", [11])
def test_killed_at_any_moment_both_sides_go_on_from_where_they_were(tmp_path: Path, seed: int) -> None:
    """Either process is killed again and again while the other goes on: nothing is published, recorded or copied twice, and nothing is missing."""
    print("seed", seed)
    chance = random.Random(seed)
    log, own = f"sqlite:///{tmp_path}/crm.db", f"sqlite:///{tmp_path}/billing.db"
    count = KILLS * 40
    number = 0
    upstream_child = Child("crm", log, "0", str(seed), str(count))
    running_child = Child("billing", own, log)
    try:
        for _ in range(KILLS):
            for _ in range(chance.randrange(30)):
                line = upstream_child.said(wait_seconds=10 * chance.random() if upstream_child.last == "open" else 0.05)
                if line is not None and line.isdecimal():
                    number = int(line) + 1
            if chance.random() < 0.5:
                upstream_child.kill()
                upstream_child = Child("crm", log, str(max(0, number - 5)), str(seed), str(count))
            else:
                running_child.kill()
                running_child = Child("billing", own, log)
        while upstream_child.said(wait_seconds=60) not in ("end", None):
            pass
        assert upstream_child.last == "end"
    finally:
        upstream_child.kill()
        running_child.kill()

    with crm.open(log) as upstream, billing.open(own, channels={"crm": log}) as running:
        until(lambda: caught_up(running, upstream) and len(heard(running)) == len(told(upstream)))
        check(running, upstream, ordered=True)
        facts = [record.id for record in upstream.log.read() if record.kind == "input"]
        assert len(facts) == len(set(facts)) == count
