"""One of the two systems in a process of its own: `python -m tests.transfer.child crm LOG FROM SEED COUNT`, or `... billing LOG CRM`.

crm records what happens from a number on, and prints each number that is on disk; billing follows until it is killed.
"""

import random
import sys
import time

from tests.transfer.model import acts, billing, crm


def tell(log: str, start: int, seed: int, count: int) -> None:
    """Record what happens, each under its own id, and stay."""
    with crm.open(log) as running:
        print("open", flush=True)
        for number, act in enumerate(acts(random.Random(seed), count, 40)):
            if number >= start:
                running.record(act, id=f"act-{number}")
                print(number, flush=True)
        print("end", flush=True)
        time.sleep(600)


def follow(own: str, log: str) -> None:
    """Copy and listen."""
    with billing.open(own, channels={"crm": log}):
        print("open", flush=True)
        time.sleep(600)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["crm", log, start, seed, count]:
            tell(log, int(start), int(seed), int(count))
        case ["billing", own, log]:
            follow(own, log)
        case _:
            sys.exit("crm LOG FROM SEED COUNT | billing LOG CRM")
