"""Errors over HTTP: each has its number."""

import happened as h
from happened.core import errors
from happened.edge.http import STATUS


def test_every_error_has_a_status() -> None:
    """Whoever catches `Error` finds a number for whatever it is."""
    every = {one for one in vars(errors).values() if isinstance(one, type) and issubclass(one, h.Error) and one is not h.Error}

    assert set(STATUS) == every


def test_a_status_says_whose_matter_it_is() -> None:
    """What the caller can mend is 4xx; what was not recorded for lack of room or time, and may be sent again, is 503 or 504."""
    again = {h.OutcomeUnknown, h.Overloaded, h.StoreFailed, h.Closed, h.Late}

    assert {STATUS[one] for one in (h.Invalid, h.NotThere, h.Refused, h.IdReused, h.Diverged, h.Conflict)} <= set(range(400, 500))
    assert {one for one, status in STATUS.items() if status in (503, 504)} == again
