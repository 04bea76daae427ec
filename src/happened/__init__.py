"""`happened`: event-driven systems in Python, as typed data and pure functions over one log."""

from happened.app import App, Decider, Running, open_log
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
from happened.core.messages import CallId, Command, Data, Event, Index, Message, Part, Places, Position, Recorded, Tag, Value, named
from happened.core.state import State
from happened.core.world import World
from happened.cqrs.ask import Rows, View
from happened.log.log import Log, Loose
from happened.log.receipt import Receipt
from happened.log.records import Record
from happened.sourcing.gateway import Gateway

__all__ = [
    "App",
    "Boundary",
    "Broken",
    "CallId",
    "Closed",
    "Command",
    "Conflict",
    "Data",
    "Decider",
    "Diverged",
    "Error",
    "Event",
    "Forked",
    "Gateway",
    "GatewayFailed",
    "IdReused",
    "Incompatible",
    "Index",
    "Invalid",
    "Item",
    "Late",
    "Log",
    "Loose",
    "Message",
    "NotThere",
    "OutcomeUnknown",
    "Overloaded",
    "Part",
    "Places",
    "Position",
    "Query",
    "Receipt",
    "Record",
    "Recorded",
    "Refused",
    "Rows",
    "Running",
    "State",
    "StoreFailed",
    "Stuck",
    "Tag",
    "Unanswered",
    "Value",
    "View",
    "World",
    "named",
    "open_log",
    "query",
]
