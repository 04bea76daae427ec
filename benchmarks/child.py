"""What a benchmark lets a process of its own do: `python -m benchmarks.child WHAT PATH ...`.

It prints `ready` when it has started, does its part, and prints what came of it as JSON.
"""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from time import monotonic, perf_counter, sleep
from uuid import uuid4

from benchmarks import cards, ours
from benchmarks import peer_eventsourcing as peer
from benchmarks.ledger import POOL, Entry, deposits
from benchmarks.measure import Timer
from benchmarks.ours import Deposit, Open, Withdraw

POLL_SECONDS = 0.001


class Child:
    """A process that has said that it is ready."""

    def __init__(self, what: str, *arguments: object) -> None:
        command = [sys.executable, "-m", "benchmarks.child", what, *map(str, arguments)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None, "standard output is a pipe"
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError(f"{' '.join(command)} did not start")

    def ask(self, line: str = "") -> list[float]:
        """Hand it a line, wait for its end, and return what it found."""
        text, _ = self._process.communicate(line + "\n")
        if self._process.returncode:
            raise RuntimeError(f"the child process ended with {self._process.returncode}")
        found: list[float] = json.loads(text)
        return found


def follow(path: Path, view_path: Path) -> list[float]:
    """Keep the peer's view up to the position that is handed in; return when each position was shown."""
    bank = peer.open_bank(path, cache=False)
    view = peer.open_view(view_path)
    last: list[int] = []
    threading.Thread(target=lambda: last.append(int(sys.stdin.readline())), daemon=True).start()
    shown: list[float] = []
    _ready()
    while not last or len(shown) < last[0]:
        shown.extend(monotonic() for _ in peer.follow(bank, view, len(shown)))
        sleep(POLL_SECONDS)
    bank.close()
    return shown


def own(path: Path) -> list[float]:
    """Keep our view until a line comes in."""
    with ours.open_bank(path, ours.VIEWED):
        _ready()
        sys.stdin.readline()
    return []


def copy(origin: Path, path: Path) -> list[float]:
    """Keep a copy of the origin's cards until a line comes in."""
    with cards.COPYING.open(f"sqlite:///{path}", channels={"origin": f"sqlite:///{origin}"}):
        _ready()
        sys.stdin.readline()
    return []


def stream(path: Path, records_max: int) -> list[float]:
    """Read our records; return how many, in how many seconds, and the most memory it took in MB."""
    _ready()
    with ours.open_bank(path, run=False) as running:
        start = perf_counter()
        records = sum(1 for _ in islice(running.log.read(), records_max))
        return [records, perf_counter() - start, _peak_mb()]


def stream_peer(path: Path, records_max: int) -> list[float]:
    """Read the peer's events; return the same."""
    _ready()
    bank = peer.open_bank(path, cache=False)
    start = perf_counter()
    records = sum(1 for _ in islice(peer.read(bank), records_max))
    return [records, perf_counter() - start, _peak_mb()]


def leave(path: Path, events: int) -> list[float]:
    """Record deposits one by one, and end without closing the log."""
    _ready()
    running = ours.open_bank(path, run=False)
    for number in range(events):
        running.dispatch(_deposit(number))
    print("[]", flush=True)
    os._exit(0)


def first(path: Path) -> list[float]:
    """Open the log, have one command answered, and end without closing it; return how long that took, and on the CPU."""
    command = _deposit(7)
    _ready()
    with Timer() as timer:
        ours.open_bank(path, run=False).dispatch(command)
    print(json.dumps([timer.wall_seconds, timer.cpu_seconds]), flush=True)
    os._exit(0)


def _deposit(number: int) -> Open | Deposit | Withdraw:
    return ours.command(Entry(number % 200, 1, deposits()[number % POOL]._replace(txn=uuid4())))


PARTS: Mapping[str, Callable[[list[str]], list[float]]] = {
    "follow": lambda given: follow(Path(given[0]), Path(given[1])),
    "copy": lambda given: copy(Path(given[0]), Path(given[1])),
    "own": lambda given: own(Path(given[0])),
    "stream": lambda given: stream(Path(given[0]), int(given[1])),
    "leave": lambda given: leave(Path(given[0]), int(given[1])),
    "first": lambda given: first(Path(given[0])),
    "stream-peer": lambda given: stream_peer(Path(given[0]), int(given[1])),
}


def _ready() -> None:
    print("ready", flush=True)


def _peak_mb() -> float:
    """Return the high-water mark of this program; what `getrusage` tells may be the parent's."""
    status = Path("/proc/self/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(json.dumps(PARTS[sys.argv[1]](sys.argv[2:])))
