"""Testing tools, shipped with the library: a clock and a world one sets, given-when-then for an app, a checker of histories, and every store's contract.

`spec(app).given(...).when(...).then(...)` needs nothing but `happened`, and so does `happened.testing.history`; `happened.testing.store_contract` needs pytest, and is imported by its full name.
"""

from happened.testing.spec import spec
from happened.testing.world import Clock, World

__all__ = ["Clock", "World", "spec"]
