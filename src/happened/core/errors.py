"""Every error of `happened` on one page: when it comes, when it does not, and what to do.

All of them are `Error` and carry `facts`: what the text says, as data, so that code need not match on words.
HTTP status numbers are no concern of this page; they stand in a table at the edge.
"""

from typing import Any  # facts are free JSON-like data


class Error(Exception):
    """Something went wrong that a caller can do something about. Catch a subclass where you know what to do, this one at the edge.

    `recorded` says what became of the command: `False` (not recorded), `True` (recorded) or `None` (unknown).
    """

    recorded: bool | None = False

    def __init__(self, text: str, /, **facts: Any) -> None:  # Any: facts are the caller's data
        super().__init__(text)
        self.facts = facts


class Refused(Error):
    """A rule said no. The refusal is recorded as output of the command; show the text and the facts to whoever asked.

    Raise it in a decider. It is not raised for trouble of the world or for bad input. The same id hears the same refusal again. The facts are given to
    the caller as they are recorded, as plain JSON data: a `Decimal` or a date as text, a tuple as a list.
    """

    recorded = True


class Invalid(Error):
    """The input or the wiring is wrong: a missing, surplus or mistyped field, no decider, a table entry that can't work. Mend it and try again.

    Nothing was recorded. Wiring is checked when `App(...)` is made, input when it is given.
    """


class Conflict(Error):
    """A record that the condition of an `append(unless=...)` excludes is there. Read again and decide again.

    Not raised when unrelated events were recorded meanwhile, and never by `dispatch`, which decides again by itself.
    """


class IdReused(Error):
    """The id is known, but with another body. Give every intention its own id, and the same one only to a repetition."""


class NotThere(Error):
    """No row or state has this key at this position. Use `find` where absence is an answer."""


class Late(Error):
    """A view or copy has not reached the position that was asked for, or what was waited for is not done, in the time allowed. Ask again, or wait longer; the facts say position and lag."""


class Stuck(Error):
    """A handler can't get past a record, and so can't answer for it. Mend the cause, then retry; the facts name handler, position and error."""


class GatewayFailed(Error):
    """A question to the outside failed after all its attempts. Catch it in the decider to decide without the answer, or dispatch the same id again.

    Uncaught, nothing is recorded and the id stays free. In a replay it is raised where it was raised then.
    """


class Unanswered(Error):
    """A replay, a branch, or an app that reaches nothing outside, asks something that was not recorded. Give an answer for the gateway, or find out why the code asks something new."""


class OutcomeUnknown(Error):
    """It could not be learned whether the command was recorded. Dispatch the same id again: that is always safe.

    The fact `id` has the id, also where the caller gave none.
    """

    recorded = None


class StoreFailed(Error):
    """The store could not keep it: the disk is full, a device failed, the database can't be reached. Nothing was recorded; mend the cause and dispatch the same id again."""


class Overloaded(Error):
    """The queue is full, or another process holds the log's lock for too long, and the command was not taken. Try again later, more slowly, or with more processes."""


class Closed(Error):
    """The log is closed, or closing, and the command was not taken. Open it again."""


class Diverged(Error):
    """A position belongs to another history than this log: a restored backup, another log, other code. The facts name both; choose one by hand."""


class Forked(Error):
    """The handle was opened before a fork. Open the log in the child process, and leave the parent's handle alone."""


class Incompatible(Error):
    """The log was written by a newer release, or holds names that this code does not claim. Use the release or the code that reads it."""


class Broken(Error):
    """A log, or a file of views, does not hold what was written to it. Restore a copy; the facts name the first bad position.

    Where only the index of a log is damaged, `happened rebuild --index` makes it anew of the rows, and nothing is lost.
    """
