"""HTTP: which status each error leaves with. A table for any web framework; nothing else of the library knows these numbers."""

from collections.abc import Mapping

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

STATUS: Mapping[type[Error], int] = {
    # The request can't be done as it is. Sending it again helps only where what it met has changed.
    NotThere: 404,
    Refused: 409,
    Conflict: 409,
    IdReused: 409,
    Diverged: 409,  # of a request: its `since` is a receipt of another log, or of a history that a restore has ended
    Invalid: 422,
    # Somebody who was asked on the way failed.
    GatewayFailed: 502,
    # Sending the same request again, with the same id, is safe and may succeed.
    OutcomeUnknown: 503,
    Overloaded: 503,
    StoreFailed: 503,
    Closed: 503,
    Late: 504,
    # Somebody has to mend the service; sending it again does not help until then.
    Stuck: 500,
    Unanswered: 500,
    Forked: 500,
    Incompatible: 500,
    Broken: 500,
}
"""The HTTP status of every error: `STATUS[type(error)]`."""
