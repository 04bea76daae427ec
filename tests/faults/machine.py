"""What all state machines of hypothesis here have in common: how many steps they take, counted and printed, from which seed.

`HAPPENED_STEPS` says how many steps all of them take together, `HAPPENED_SEED` from which seed.
With `HAPPENED_SHRINK=1` a failure is made smaller, which takes minutes; without it all its steps are shown.
"""

import os
import random
from collections.abc import Callable

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

STEPS = int(os.environ.get("HAPPENED_STEPS", "300"))
SEED = int(os.environ.get("HAPPENED_SEED", str(random.SystemRandom().randrange(1_000_000))))
PORTION = 500
"""About how many steps one test takes."""
SHRINK = "HAPPENED_SHRINK" in os.environ
STEPS_MAX = 50
"""Steps of one run, which begins with an empty log."""


class Counting:
    """Counts the steps that were taken."""

    def __init__(self) -> None:
        self.steps = 0


def portions(share: float) -> list[int]:
    """Return the numbers of the tests that take a share of all steps: each has so many that it ends in time."""
    return [*range(max(1, round(STEPS * share / PORTION)))]


def run(machine: Callable[[Counting], type[RuleBasedStateMachine]], share: float, portion: int) -> None:
    """Run machines until they have taken a portion of their share of all steps. A portion has a seed of its own."""
    wanted = STEPS * share / len(portions(share))
    counting, runs = Counting(), 0
    made = machine(counting)
    how = settings(
        max_examples=max(1, int(wanted) // STEPS_MAX),
        stateful_step_count=STEPS_MAX,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink] if SHRINK else [Phase.generate],
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.filter_too_much,
            HealthCheck.data_too_large,
            HealthCheck.large_base_example,
        ],
    )
    print(f"HAPPENED_SEED={SEED} HAPPENED_STEPS={STEPS}")
    while counting.steps < wanted:
        run_state_machine_as_test(seed(SEED + 1_000 * portion + runs)(made), settings=how)
        runs += 1
    print(f"{counting.steps} steps of {made.__name__}")
