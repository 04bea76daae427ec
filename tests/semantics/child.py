"""A process of its own that dispatches: `python -m tests.semantics.child URL WHAT COUNT NAME`. Prints what was answered, line by line."""

import sys

import happened as h
from tests.semantics.model import Deposit, Take, Transfer, bank


def main(url: str, what: str, count: int, name: str) -> None:
    """Do it, when a line comes in."""
    with bank.open(url, run=what == "run") as running:
        print("open", flush=True)
        sys.stdin.readline()
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


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4])
