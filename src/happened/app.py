"""App: what a system is, and how it is started on a log."""

from collections.abc import Callable, Mapping
from typing import Any  # Any: commands, events and keys of any class

from happened.core.world import Source
from happened.log.log import Progress
from happened.running import Running
from happened.sourcing.memory_image import STATES_MAX
from happened.stores.machine import Machine
from happened.transfer.channel import Channel
from happened.wiring import Wiring


class App(Wiring):
    """A system as tables: what it records, what decides, what it shows, whom it asks.

    `name` is recorded in the log, which then is this app's. `records` lists the events that are recorded as facts, by `record`. `deciders` lists the
    functions that take commands. `gateways` lists the functions that may be asked through the `World`, each bare or as a `Gateway`. `reactions` lists the
    functions from events to the commands that follow, each bare or as a `Reaction`. `views` lists the states that are kept as tables. `projections` lists a `Projection` for each function that writes events into tables of your own. `publications` lists
    the functions from an event to a public one (or `None`), each bare or as a `Publication`; `shares` lists the states whose changes other systems may
    follow. `subscriptions` and `replicas` name other systems: whose notifications are recorded here as facts, and of whose shared states a copy is kept, as
    states without `evolve`. `upcasts` says how data of older versions is read: `Upcast`, `Retired`, or functions from an old class to a new one.
    `ignores` lists names in the log that no class claims any more: they are passed over, where else the log is not opened.
    `store="decisions"` keeps of a command its header, and what was decided, but not what it said, nor what the outside answered.

    `Invalid`, with what to mend, for whatever can be known to be wrong.
    """

    def open(
        self,
        log: str = "memory:",
        *,
        run: bool = True,
        channels: Mapping[str, str | Running | Channel | None] | None = None,
        gateways: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
        views: str | None = None,
        source: Source | None = None,
        states_max: int = STATES_MAX,
        outside: bool = True,
        progress: Progress = lambda _done, _all: None,
    ) -> Running:
        """Open a log by its URL, `memory:`, `sqlite:///path` or `postgresql://user@host/database?schema=name`, and start the app on it.

        `run=False` only reads and dispatches: views, reactions and whatever else goes on by itself are left to other processes. `channels` says where each system is that the app
        listens to: the running app itself, the URL of its log, which is only read, or `None` to leave it to other processes, which with `run=False` need not be said. `gateways` puts real functions in the place of
        the app's stubs. `views` is the URL of where the views lie, of the same kinds; by default beside the log. `source` is where the
        time and new ids come from: the machine, or in tests a `Clock`. `states_max` is how many states are kept in memory before those that were unchanged
        the longest make room. With `outside=False` nothing outside is reached: no gateway is asked (a question that has no recorded answer is
        `Unanswered`), no channel is read, no projection writes; what is published is recorded, for nobody. So a copy is run to see what it does. `progress` hears of long work (an index that must be rebuilt): how much is done, and of how much.
        """
        return Running(
            self,
            log,
            run=run,
            channels=channels or {},
            gateways=gateways or {},
            views=views,
            source=source or Machine(),
            states_max=states_max,
            outside=outside,
            progress=progress,
        )
