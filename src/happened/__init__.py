"""`happened`: event-driven systems in Python, as typed data and pure functions over one log.

A name is imported when it is first used: `happened --help` must not wait for what it does not need.
"""

import importlib
from typing import TYPE_CHECKING

__version__: str
"""The version of the installed distribution."""

if TYPE_CHECKING:
    from happened.app import App
    from happened.core.boundary import Boundary, Item, Query, query
    from happened.core.errors import (
        Broken,
        Closed,
        Conflict,
        Diverged,
        Error,
        Forked,
        GatewayFailed,
        IdReused,
        Incompatible,
        Invalid,
        Late,
        NotThere,
        OutcomeUnknown,
        Overloaded,
        Refused,
        StoreFailed,
        Stuck,
        Unanswered,
    )
    from happened.core.messages import (
        CallId,
        Command,
        Data,
        Event,
        Index,
        Later,
        Message,
        Part,
        Places,
        Position,
        Recorded,
        Tag,
        Value,
        named,
    )
    from happened.core.state import Replica, State
    from happened.core.upcasts import Retired, Upcast, UpcastEntry
    from happened.core.world import World
    from happened.cqrs.ask import Rows, View
    from happened.cqrs.projection import Projection
    from happened.log.erasure import Erasure
    from happened.log.held import Held
    from happened.log.log import Log, Loose
    from happened.log.receipt import Receipt
    from happened.log.records import Record
    from happened.notification.flow import Flow
    from happened.notification.publication import Publication
    from happened.notification.reaction import Reaction
    from happened.notification.settling import Settled
    from happened.opening import adopt, copy_log, erase, export_log, import_log, open_log
    from happened.past import Past
    from happened.running import Branch, Running
    from happened.sourcing.difference import Difference
    from happened.sourcing.edits import Answer, Change, Clock, Drop, Insert
    from happened.sourcing.gateway import Gateway
    from happened.wiring import Decider

__all__ = [
    "Answer",
    "App",
    "Boundary",
    "Branch",
    "Broken",
    "CallId",
    "Change",
    "Clock",
    "Closed",
    "Command",
    "Conflict",
    "Data",
    "Decider",
    "Difference",
    "Diverged",
    "Drop",
    "Erasure",
    "Error",
    "Event",
    "Flow",
    "Forked",
    "Gateway",
    "GatewayFailed",
    "Held",
    "IdReused",
    "Incompatible",
    "Index",
    "Insert",
    "Invalid",
    "Item",
    "Late",
    "Later",
    "Log",
    "Loose",
    "Message",
    "NotThere",
    "OutcomeUnknown",
    "Overloaded",
    "Part",
    "Past",
    "Places",
    "Position",
    "Projection",
    "Publication",
    "Query",
    "Reaction",
    "Receipt",
    "Record",
    "Recorded",
    "Refused",
    "Replica",
    "Retired",
    "Rows",
    "Running",
    "Settled",
    "State",
    "StoreFailed",
    "Stuck",
    "Tag",
    "Unanswered",
    "Upcast",
    "UpcastEntry",
    "Value",
    "View",
    "World",
    "adopt",
    "copy_log",
    "erase",
    "export_log",
    "import_log",
    "named",
    "open_log",
    "query",
]

_HOMES = {
    "happened.app": ("App",),
    "happened.running": ("Branch", "Running"),
    "happened.wiring": ("Decider",),
    "happened.core.boundary": ("Boundary", "Item", "Query", "query"),
    "happened.core.errors": (
        "Broken",
        "Closed",
        "Conflict",
        "Diverged",
        "Error",
        "Forked",
        "GatewayFailed",
        "IdReused",
        "Incompatible",
        "Invalid",
        "Late",
        "NotThere",
        "OutcomeUnknown",
        "Overloaded",
        "Refused",
        "StoreFailed",
        "Stuck",
        "Unanswered",
    ),
    "happened.core.messages": (
        "CallId",
        "Command",
        "Data",
        "Event",
        "Index",
        "Later",
        "Message",
        "Part",
        "Places",
        "Position",
        "Recorded",
        "Tag",
        "Value",
        "named",
    ),
    "happened.core.state": ("Replica", "State"),
    "happened.core.upcasts": ("Retired", "Upcast", "UpcastEntry"),
    "happened.core.world": ("World",),
    "happened.cqrs.ask": ("Rows", "View"),
    "happened.cqrs.projection": ("Projection",),
    "happened.log.erasure": ("Erasure",),
    "happened.log.held": ("Held",),
    "happened.log.log": ("Log", "Loose"),
    "happened.log.receipt": ("Receipt",),
    "happened.log.records": ("Record",),
    "happened.notification.flow": ("Flow",),
    "happened.notification.publication": ("Publication",),
    "happened.notification.reaction": ("Reaction",),
    "happened.notification.settling": ("Settled",),
    "happened.past": ("Past",),
    "happened.sourcing.difference": ("Difference",),
    "happened.sourcing.edits": ("Answer", "Change", "Clock", "Drop", "Insert"),
    "happened.opening": ("adopt", "copy_log", "erase", "export_log", "import_log", "open_log"),
    "happened.sourcing.gateway": ("Gateway",),
}
"""Where each name is defined."""

_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a public name, or look up the version of the installed distribution."""
        if name == "__version__":
            return importlib.import_module("importlib.metadata").version("happened")
        if name not in _HOME_OF:
            raise AttributeError(f"module `happened` has no `{name}`", name=name)
        found = getattr(importlib.import_module(_HOME_OF[name]), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        """List the public names, imported or not."""
        return sorted({*globals(), *__all__, "__version__"})
