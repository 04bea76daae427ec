"""A process of its own that dispatches: `python -m tests.semantics.child URL WHAT COUNT NAME`. Prints what was answered, line by line."""

import os
import random
import resource
import signal
import sys
import threading
import time
from pathlib import Path

import happened as h
from happened.stores import sqlite
from tests.semantics.model import Deposit, Take, Transfer, bank


def main(url: str, what: str, count: int, name: str) -> None:
    """Do it, when a line comes in."""
    with bank.open(url, run=what == "run") as running:
        print("open", flush=True)
        sys.stdin.readline()
        if what == "full":
            dispatch_while_disk_fills(running, url.removeprefix("sqlite:///"), count, name)
        for number in range(count):
            match what:
                case "seats":
                    try:
                        running.dispatch(Take(str(number), name))
                        print(f"won {number}", flush=True)
                    except h.Refused:
                        print(f"lost {number}", flush=True)
                case "same":
                    receipt = running.dispatch(Deposit("a", 1), id=f"same-{number}")
                    print(f"{'again' if receipt.repeated else 'first'} {number} {receipt}", flush=True)
                case "enqueue":
                    print(f"kept {running.enqueue(Deposit('a', 1), id=f'{name}-{number}')}", flush=True)
                case _:
                    running.dispatch(Deposit("a", 10), id=f"{name}-{number}")
                    receipt = running.dispatch(Transfer("a", "b", 1), id=f"{name}-{number}-t")
                    print(f"done {name}-{number} {receipt}", flush=True)
        print("end", flush=True)


def dispatch_while_disk_fills(running: h.Running, path: str, count: int, name: str) -> None:
    """Dispatch from four threads while files may not grow for moments, so that a write in COMMIT really fails; end by a kill."""
    chance = random.Random(name)
    sqlite.SETTLE_SECONDS = 0.2

    def dispatch(thread: int) -> None:
        for number in range(count):
            id = f"{name}-{thread}-{number}"  # noqa: A001 - that is what it is
            try:
                running.dispatch(Deposit("a", 1), id=id)
                told: bool | None = True
            except h.Closed:
                return
            except h.Error as error:
                told = error.recorded
            sys.stdout.write(f"{told} {id}\n")
            sys.stdout.flush()

    threads = [threading.Thread(target=dispatch, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for seconds in (0.02, 0.02, 0.02, 0.02, 0.5):  # the last is longer than it is tried to learn the outcome
        time.sleep(chance.random() * 0.05)
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (Path(path + "-wal").stat().st_size + chance.randrange(12_000), hard))
        time.sleep(seconds)
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
