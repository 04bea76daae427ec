"""A process of its own that works: `python -m tests.notification.child URL CODE`. It says when it is in the outside, and goes on when a line comes in.

Of the code `many` it works not itself: for each line that comes in it forks one that does, which costs less than a start.
"""

import os
import signal
import sys
import threading

import happened as h
from tests.notification.killed import answered, mail, system


def main(url: str, code: str) -> None:
    """Work until it is killed, or its input ends."""
    stopped, goes_on = threading.Event(), threading.Event()

    def stop_at(text: str, key: h.CallId) -> str:
        if code.startswith("stops") and not stopped.is_set():
            stopped.set()
            print(f"asked {text}", flush=True)
            sys.stdin.readline()
            goes_on.set()
        return f"{code} {text}"

    with system(code).open(url, gateways={mail: stop_at}):
        print("open", flush=True)
        if code.startswith("stops"):
            goes_on.wait()  # of two that read, either may get the line
        sys.stdin.read()


def fork_each(url: str) -> None:
    """Fork a process that works for each line, and have it say its number."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # who is killed is gone at once
    print("open", flush=True)
    for _ in sys.stdin:
        if os.fork() == 0:
            with system("many").open(url, gateways={mail: answered}):
                print(os.getpid(), flush=True)
                threading.Event().wait()


if __name__ == "__main__":
    if sys.argv[2] == "many":
        fork_each(sys.argv[1])
    else:
        main(sys.argv[1], sys.argv[2])
