"""How long somebody waits."""

from happened.core.errors import Invalid

WAIT_SECONDS_MAX = 1e6
"""A longer wait is for ever, and what the machine can wait for has an end."""


def within(wait_seconds_max: float) -> float:
    """Return how long is waited: a wait that is over already, or is no number (NaN), is none. `Invalid` for what is no number of seconds at all."""
    try:
        if not 0.0 <= wait_seconds_max <= WAIT_SECONDS_MAX:
            return min(max(0.0, wait_seconds_max), WAIT_SECONDS_MAX)  # of NaN and another one `max` keeps what stands first
    except TypeError:
        raise Invalid(f"`wait_seconds_max` is a number of seconds, not {wait_seconds_max!r}") from None
    return wait_seconds_max
