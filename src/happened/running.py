"""Running: an app on an open log, where the store, deciders, states, views, channels and gateways meet."""

import asyncio
import contextlib
import functools
import hashlib
import itertools
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self, TypeVar  # Any: commands, events and keys of any class

import msgspec

from happened.core.annotations import label
from happened.core.errors import Error, Invalid, Late, NotThere, OutcomeUnknown, Overloaded, Refused, StoreFailed, Stuck, Unanswered
from happened.core.messages import Command, Event, Message, Position, called, instead_of
from happened.core.state import Fold, Key, Replica, State, fold_alone_of, fold_of
from happened.core.store import Engine, Row
from happened.core.waiting import within
from happened.core.world import MICROSECOND, Source
from happened.cqrs.ask import Rows, View, check_limit
from happened.cqrs.follower import Followers
from happened.cqrs.past import Joining
from happened.giving import Failed, Giving, Works
from happened.log.deciding import inside_decider
from happened.log.erasure import Erasure
from happened.log.fingerprint import fingerprint_of
from happened.log.held import Act, Held, all_held, errors_of
from happened.log.lease import Leases
from happened.log.log import (
    IDENTITY_NOTE,
    PLAIN,
    Facts,
    Identity,
    Log,
    Progress,
    Recording,
    check_envelope,
    identity_in,
    latest_erasure,
    occurred_us,
)
from happened.log.names import Names, Wish
from happened.log.receipt import Receipt, recorded
from happened.log.row import TOPOLOGY, Header, Written, decode_header, encode, taken_apart
from happened.log.several import Alone, Several
from happened.log.typed import Typed
from happened.log.worker import Worker, begin_at
from happened.log.writer import Batch
from happened.notification.flow import Flow, observed_flow
from happened.notification.publication import Publishing
from happened.notification.reacting import Reacting
from happened.notification.reactor import Reactor
from happened.notification.settling import Settled, settled
from happened.notification.story import Story, story_of
from happened.notification.timer import LEASE as TIMERS
from happened.notification.timer import Timers
from happened.notification.why import Cause, causes_of
from happened.opening import beside, channel_to, copy_log, erased_in, is_kept, open_engine, open_rows, open_snapshots
from happened.past import Past, position_of
from happened.planning import Origin, Plan, begins, planned, save
from happened.shelf.connection import Place, as_shown
from happened.shelf.snapshots import SnapshotsFile
from happened.sourcing.asked import Asked
from happened.sourcing.difference import Difference, Side, difference
from happened.sourcing.edits import Edit
from happened.sourcing.gateway import ROUNDS_MAX, Outside, Silent
from happened.sourcing.handling import (
    PENDING_NOTE,
    Copies,
    Decision,
    Handling,
    Heard,
    Known,
    Pending,
    Refusal,
    key_from,
    outcome_of,
    refusal_in,
)
from happened.sourcing.memory_image import STATES_MAX, MemoryImage
from happened.sourcing.origin_snapshots import OriginSnapshots
from happened.sourcing.pending import LEASE as PENDING
from happened.sourcing.pending import PendingWorker, standing
from happened.sourcing.sending import Sending
from happened.sourcing.snapshot import Snapshots, Taker
from happened.sourcing.time_travel import Travel
from happened.sourcing.together import Together
from happened.stores.over import Over
from happened.transfer.channel import Channel
from happened.transfer.replica import DDL as REPLICA_DDL
from happened.transfer.replica import Replicating
from happened.transfer.retold import said
from happened.transfer.share import Share
from happened.transfer.subscription import Subscription
from happened.transfer.systems import (
    check_channels,
)
from happened.wiring import ALL, Wiring, listed

if TYPE_CHECKING:
    import sqlalchemy

    from happened.cqrs.projecting import Projecting

S = TypeVar("S", bound=State)
ON_A_BRANCH = "Give a function in its place: `open(..., gateways={...})`"
WITHOUT_OUTSIDE = "This log was opened with `outside=False`"

LOOK_AHEAD = 500
"""Commands of `dispatch_all` that are decided in one commit."""

COPIES_SECONDS_MAX = 10
"""How long commands in bulk, and those that were enqueued, wait for a copy of another system's state that can't say anything yet."""

TAKE_IN_SECONDS_MAX = 1.0
"""How long an answer that is newer than the states in memory waits until they hold it, too."""

TOPOLOGY_NOTE = "topology"


class Running:
    """An app on an open log. Use it with `with` or `async with`; every method may be called from any thread."""

    def __init__(
        self,
        app: Wiring,
        url: str,
        *,
        run: bool,
        channels: "Mapping[str, str | Running | Channel | None]",
        gateways: Mapping[Callable[..., Any], Callable[..., Any]],
        views: str | None,
        source: Source,
        states_max: int,
        outside: bool,
        progress: Progress,
        apart: "Apart | None" = None,
        copies: Copies | None = None,
    ) -> None:
        channels = channels if outside else nothing_of(app, channels, gateways)
        systems = [*app.subscriptions, *app.replicas]
        channels = channels if run else dict.fromkeys(systems) | dict(channels)
        check_channels(systems, channels)
        self.app = app
        self.url = url
        self._source = source
        self._declared = False
        topology = app.topology()
        self._topology = encode(topology)
        self._topology_digest = hashlib.sha256(self._topology).hexdigest()
        self._engine = apart.engine if apart is not None else open_engine(url)
        self._views_url = views or beside(url)
        self._channels: dict[str, Channel] = {}
        self._copies_file: Place | None = None
        opened: list[Place] = []

        def views_place() -> Place:
            opened.append(open_rows(self._views_url, url))
            return opened[0]

        try:
            alone = isinstance(self._engine, Over)
            """It is a branch: nothing reaches outside, and of other processes none works on it."""
            if apart is not None:
                self._outside = apart.outside
            elif alone or not outside:
                self._outside = Silent(app.gateways, gateways, ON_A_BRANCH if alone else WITHOUT_OUTSIDE)
            else:
                self._outside = Outside(app.gateways, gateways)
            self.log = Log(
                self._engine,
                source,
                [*app.events, *app.handlers],
                app=app.name,
                called=app.called,
                ignores=app.ignores,
                lifts=app.lifts,
                progress=progress,
            )
            self._image = MemoryImage(self._engine, self.log.reader, app.folds, self.log.opened_at, states_max=states_max)
            self._writer = self.log.write_with(self._image)
            self.snapshots = Snapshots(
                self.log, self._image, Joining(self.log), apart.snapshots if apart is not None else open_snapshots(url)
            )
            self._image.snapped, self._image.forgets = self.snapshots.latest, self.snapshots.let_go
            self.travel = Travel(self._image, self.snapshots)
            self._taker = Taker(self.log, self.snapshots, app.snapped()) if run and is_kept(url) else None
            self._replicating: dict[type[State], Replicating[Any]] = {}
            self._asked = Asked(self._engine, source, app.gateways)
            self._handling = Handling(
                app.handlers,
                self.log.typed,
                self._image,
                self._outside,
                self._declare,
                copies or _Copies(self._replicating, silent=alone),
                self._asked,
                keeps_asked=app.store == ALL,
            )
            self._sending = Sending(self.log, self._handling, self._image)
            self._wishes = self._make_wishes(topology)
            self._followers = Followers(self.log, app.views, views_place, run=run)
            works = run and bool(app.handlers) and (apart is not None or not alone)
            self._publishes = run and (apart is not None or not alone)
            """What is published is recorded. What a branch publishes no other system hears: there is no channel to it."""
            self._leases = Leases(self._engine, source, [PENDING, TIMERS] if works else [])
            self._pending = PendingWorker(self.log, self._leases, self._handling, self._decide_pending) if works else None
            self._timers = Timers(self.log, self._leases, self._sending) if works else None
            reactions = app.reactions if works else []
            self._reactor = Reactor(self.log, self._leases, "reactions", [Reacting(one, self.log, self._sending) for one in reactions])
            of = self.log.identity.id if alone else ""
            self._leases.share(self._reactor.by)
            publishing = [Publishing(one, self.log, self._sending, of=of) for one in app.publications]
            self._publisher = Reactor(self.log, self._leases, "publications", publishing)
            self._leases.share(self._publisher.by if self._publishes else {})
            for system, channel in channels.items():
                self._channels[system] = channel_to(channel.log if isinstance(channel, Running) else channel)
            left = {system for system, channel in channels.items() if channel is None}
            self._projecting = _projecting_of(app, self.log, self._leases)
            self._make_exchange(left=left, run=run and not alone, projects=run and not alone and outside)
        except BaseException:
            with contextlib.ExitStack() as last_first:
                last_first.callback(self._engine.close)
                for one in (*opened, *self._channels.values(), self._copies_file):
                    if one is not None:
                        last_first.callback(one.close)
            raise
        try:
            self._begin()
        except BaseException:
            self.close()
            raise

    def _begin(self) -> None:
        self._followers.start()
        self._work()

    def _work(self) -> None:
        """Have reactions run, timers ring and pending commands decided, from now on."""
        self._leases.start()
        if self._pending is not None and self._timers is not None:
            if self._leases.epoch(PENDING) is not None:
                self._pending.forget_held()  # before anybody can ask
            self._pending.worker.start()
            self._timers.worker.start()
        self._reactor.start()
        if self._publishes:
            self._publisher.start()
        for worker in self._workers:
            worker.start()
        if self._taker is not None:
            self._taker.start()

    def __repr__(self) -> str:
        """Tell which app runs on which log."""
        return f"<Running {self.app.name} on {as_shown(self.url)}>"

    # --- commands

    def dispatch(
        self, command: Command, *, id: str | None = None, actor: str = "", correlation: str | None = None, wait_seconds_max: float = 10
    ) -> Receipt:
        """Have a command decided and recorded, and return its receipt: on disk.

        `Refused` if a rule says no; that is recorded too. A known id is not handled again: the first receipt comes back with `repeated`, or the first
        refusal is raised; `IdReused` if the body is another. `Invalid` for bad input. What the decider raises is raised here, and nothing is recorded.
        Cost: one sync of the disk, shared by all who wait.
        """
        decision = self._decision(command, id, actor, correlation)
        deadline = time.monotonic() + within(wait_seconds_max)
        self._handling.wait_for_copies(decision.handler, wait_seconds_max)
        self._handling.preload(decision)
        self._writer.submit(decision, deadline - time.monotonic())
        if decision.needs_outside:
            self._decide_outside(decision, deadline)
        return self._answer(decision, deadline)

    async def adispatch(
        self, command: Command, *, id: str | None = None, actor: str = "", correlation: str | None = None, wait_seconds_max: float = 10
    ) -> Receipt:
        """Do what `dispatch` does, awaited. Tasks that dispatch in the same turn of the loop share a commit."""
        decision = self._decision(command, id, actor, correlation)
        deadline = time.monotonic() + within(wait_seconds_max)
        if decision.handler.copied:
            await self._outside.in_thread(deadline, lambda: self._handling.wait_for_copies(decision.handler, _left(deadline)))
        self._handling.preload(decision)
        await self._writer.asubmit(decision, deadline - time.monotonic())
        if decision.needs_outside:
            await self._adecide_outside(decision, asyncio.get_running_loop(), deadline)
        result = decision.result
        if result is None and decision.row is not None:
            return self.log.receipt(decision.row, decision.id, decision.events)
        if isinstance(result, Known) and decode_header(result.row.head).outcome == "pending":
            try:
                return await self._outside.in_thread(deadline, self._answer, decision, deadline)
            except Overloaded:  # no thread was free; but it is kept, and what is known of it is said at once now
                return await asyncio.get_running_loop().run_in_executor(None, self._answer, decision, deadline)
        return self._answer(decision, deadline)

    def dispatch_all(self, messages: Iterable[Command | Event | Message]) -> Iterator[Receipt | Refused]:
        """Have commands decided, and facts recorded between them, in their order, group-committed; yield for each its receipt or its refusal.

        Iterate over it: it works as it is iterated. A refusal doesn't stop the rest. An error that is no refusal is raised where its message stands; up
        to 499 messages after it may have been recorded. Sending all again with the same ids is always safe.
        """
        batch: list[Decision | Alone] = []
        for given in listed("dispatch_all([{}])", messages):
            body = given.body if isinstance(given, Message) else given
            try:
                if isinstance(body, Event):
                    job: Decision | Alone = self._alone(given)
                else:
                    job = self._message(given if isinstance(given, Message) else Message(given))
            except Error:
                if batch:  # what stands before it is not its trouble
                    yield from self._all(batch)
                raise
            batch.append(job)
            asks = isinstance(job, Decision) and job.handler.wants_world and bool(self._outside.gateways)
            if asks or len(batch) >= LOOK_AHEAD:
                yield from self._all(batch)
                batch = []
        if batch:
            yield from self._all(batch)

    def dispatch_together(self, commands: Iterable[Command | Message], *, wait_seconds_max: float = 10) -> list[Receipt]:
        """Have commands decided in their order, all or none: if one is refused or fails, that is raised and nothing of any is recorded.

        Later ones see what earlier ones decided. Gateways can't be asked here.
        """
        decisions = [
            self._message(given if isinstance(given, Message) else Message(given)) for given in listed("dispatch_together([{}])", commands)
        ]
        if not decisions:
            return []
        together = Together(decisions)
        self._writer.submit(together, wait_seconds_max)
        return [self._answer(decision, time.monotonic() + within(wait_seconds_max)) for decision in decisions]

    def enqueue(
        self, command: Command, *, id: str | None = None, actor: str = "", correlation: str | None = None, wait_seconds_max: float = 10
    ) -> Receipt:
        """Keep a command now, to be decided soon by whoever runs this log. The receipt means: kept. `outcome` waits for what comes of it."""
        decision = self._decision(command, id, actor, correlation)
        pending = Pending(decision)
        self._writer.submit(pending, wait_seconds_max)
        if self._pending is not None:
            self._pending.worker.wake()
        if pending.row is not None:
            return self.log.receipt_of(pending.row, repeated=False, events=())
        return self.log.receipt_of(pending.result.row, repeated=True)

    def outcome(self, receipt: Receipt | str, *, wait_seconds_max: float = 10) -> Receipt:
        """Wait for what comes of an enqueued command, and return that receipt. `Refused` if it was refused, `Stuck` if its decider fails, `Late` else."""
        deadline = time.monotonic() + within(wait_seconds_max)
        position = self.log.since(receipt)
        row = self.log.row_at(position)
        if row is None:
            raise Invalid(f"there is nothing at position {position}", position=position)
        with recorded():
            return self._outcome(row, wait_seconds_max, deadline)

    def would(self, command: Command) -> tuple[Event, ...]:
        """Decide a command and return what it would yield; record nothing. `Refused` if it would be refused. Gateways can't be asked here."""
        decision = self._decision(command, None, "", None)
        self._writer.rehearse(decision)
        if decision.needs_outside:
            raise Invalid(
                f"`{decision.handler.name}` asks the outside before it decides, and `would` asks nobody", handler=decision.handler.name
            )
        refusal = decision.refusal()
        if refusal is not None:
            raise refusal.withdrawn()
        return decision.events

    def settled(self, receipt: Receipt | str | int | None = None, *, wait_seconds_max: float = 10) -> Settled:
        """Wait until all is done in this log that a command or fact has caused, or without one all there is: reactions have run, what they sent is decided.

        What stands still is no reason to wait: it is in the answer's `stuck`, and `done` is false then. Commands that come `Later` are in `timers`, and not
        waited for. `Late` where it is not settled in time. Cost: it reads the conversation, by the index; without a receipt, the end of the log.
        """
        deadline = time.monotonic() + within(wait_seconds_max)
        position = self.log.since(receipt) if receipt is not None else None
        found = settled(
            self.log, [*self.app.reactions, *self.app.publications], position, wait_seconds_max, functools.partial(standing, self.log)
        )
        with recorded():
            self._see(found.position, deadline)
        return found

    def stuck(self) -> list[Held]:
        """Return what handlers could not get past, by reaction or command, each with its stack trace; what is parked is in it, too."""
        return all_held(self._engine)

    def decide_about(
        self,
        act: str,
        handler: str,
        position: int,
        *,
        actor: str = "",
        reason: str = "",
        id: str | None = None,
        wait_seconds_max: float = 10,
    ) -> Receipt:
        """Say what is to become of something that is stuck, and record that as an input.

        `retry`: try it now. `skip`: go on without it for good. `park`: go on without it, and keep it to be retried later. `NotThere` for what is not stuck.
        """
        job = Act(self.log, act, handler, position, actor=actor, id=id, reason=reason)
        self._writer.submit(job, wait_seconds_max)
        return self.log.receipt_of(job.row or job.result, repeated=job.row is None, events=())

    # --- facts

    def record(
        self,
        event: Event,
        *,
        id: str | None = None,
        actor: str = "",
        occurred: Any = None,
        correlation: str | None = None,
        wait_seconds_max: float = 10,
    ) -> Receipt:
        """Record a fact observed outside, and return its receipt: on disk. Its class stands in the app's `records`.

        With a known id nothing is recorded and the first receipt comes back; `IdReused` if the body is another. `occurred` needs a zone.
        """
        job = self._fact(Message(event, id, actor, occurred, correlation))
        self._writer.submit(job, wait_seconds_max)
        return self._recorded(job)

    async def arecord(
        self,
        event: Event,
        *,
        id: str | None = None,
        actor: str = "",
        occurred: Any = None,
        correlation: str | None = None,
        wait_seconds_max: float = 10,
    ) -> Receipt:
        """Do what `record` does, awaited."""
        job = self._fact(Message(event, id, actor, occurred, correlation))
        await self._writer.asubmit(job, wait_seconds_max)
        return self._recorded(job)

    def record_all(self, events: Iterable[Event | Message]) -> Receipt | None:
        """Record facts in their order, group-committed, each with its own id; return the receipt of the last one, `None` for none.

        Works at once. Facts whose id is known are left out. The first error is raised; what came before it is recorded, and recording all again with the
        same ids is always safe.
        """
        last: Alone | None = None
        batch: list[Alone] = []
        for given in listed("record_all([{}])", events):
            try:
                batch.append(self._alone(given))
            except Error:
                if batch:  # what stands before it is not its trouble
                    self._record_batch(batch)
                raise
            if len(batch) >= 2 * LOOK_AHEAD:
                last = self._record_batch(batch)
                batch = []
        if batch:
            last = self._record_batch(batch)
        return self._receipt_of(last) if last is not None else None

    # --- states and views

    def state(
        self, state: type[S], /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any
    ) -> S | None:
        """Return a state from the memory image, `None` where it never happened or is gone.

        It is as of what this process has seen; `since=` a receipt makes sure it is at least as new. Cost: about a microsecond in memory, else a load.
        """
        self._writer.check_process()
        kept = self._image.by_state.get(state)
        if kept is not None and since is None:
            entry = kept.known(key if not named else tuple(named.values()) if not key and (*named,) == kept.fold.key else ())
            if entry is not None:
                self._image.hits += 1
                return entry.state  # type: ignore[return-value]  # entries of a fold are of its class
        fold = fold_alone_of(state)
        if since is not None:
            self.catch_up(since, wait_seconds_max=wait_seconds_max)
        whole = fold.checked(key) if len(key) == len(fold.key) and not named else key_from(fold, key, named)
        return self._image.get(fold, whole).state  # type: ignore[return-value]  # entries of a fold are of its class

    def states(self, state: type[S]) -> dict[tuple[Any, ...], S]:
        """Fold the whole log into all states of a class, by key, with what other processes have recorded. Reads the log once; memory holds the result.

        `state` is as new from then on, unless somebody holds the log's lock meanwhile: nobody who reads waits for that.
        """
        self._writer.check_process()
        head = self.log.head
        self._take_in(head)
        self.log.names.learn(self._engine.notes)  # after the head: all that stands up to it is known then
        return self._image.states(fold_alone_of(state), until=head)  # type: ignore[return-value]  # states of a fold are of its class

    def view(self, state: type[S]) -> View[S]:
        """Return a view to ask. `Invalid` if the state is not among the app's `views`."""
        return self._followers.view(state)

    def projected(
        self, function: Callable[..., None], *, since: Receipt | str | int | None = None, wait_seconds_max: float = 10
    ) -> Position:
        """Wait until a projection has written what a receipt speaks of, or without one all that is recorded now; return the position that it is at.

        `Stuck` where its function can't get past an event before that, `Late` if it is not there in time; each says what is in the way. `Diverged` where
        its tables were written from another history.
        """
        projecting = self._projection(function)
        position = projecting.wait(self.log.since(since) if since is not None else self.log.head, wait_seconds_max)
        self._take_in(position)
        return position

    def reproject(self, function: Callable[..., None], empty: "Callable[[sqlalchemy.Connection], object]") -> None:
        """Have a projection write everything anew: `empty` deletes its rows, in the transaction in which its checkpoint is set back.

        Whoever reads the tables sees them empty, and then filled again: `projected` waits for that. From any process, also with `run=False`.
        """
        self._projection(function).again(empty)

    def replica(
        self, state: type[S], /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any
    ) -> Replica[S]:
        """Return what the copy of another system's state says of a key, as of which of its positions, and how old that is.

        `since` a receipt of the other system makes sure that the copy holds what it speaks of. `Late` if it can't be as new in time, or was never whole
        yet; `Diverged` for a receipt of another log. What the other system does meanwhile does not matter: the copy is here.
        """
        replicating = self._copy(state)
        whole = key_from(replicating.fold, key, named)
        found = replicating.answer(lambda: replicating.get(whole), since, wait_seconds_max)
        return Replica(found.state, found.position, found.age)

    def replica_rows(
        self, state: type[S], *, limit: int = 1000, since: Receipt | str | int | None = None, wait_seconds_max: float = 10
    ) -> Rows[S]:
        """Return up to `limit` rows of the copy of another system's states, in the order of their keys, with their position and age."""
        replicating = self._copy(state)
        check_limit(limit)
        return Rows(*replicating.answer(lambda: replicating.rows(limit), since, wait_seconds_max), stuck=0)

    def rebuild(self, state: type[State], *, progress: Progress = lambda _done, _all: None) -> None:
        """Build a view anew beside the old one, and switch when it has caught up. Readers are served by the old one meanwhile."""
        self._followers.rebuild(state, progress)

    def catch_up(self, since: Receipt | str | int | None = None, *, wait_seconds_max: float = 10) -> Position:
        """Take what other processes recorded into the memory image, at least up to a receipt; return the position reached. `Late` if it is not there."""
        wanted = self.log.since(since)
        deadline = time.monotonic() + within(wait_seconds_max)
        if wanted > self._image.position or since is None:
            if self.log.wait(wanted - 1, wait_seconds_max) < wanted and self.log.head < wanted:  # who waits hears of a moment ago
                raise Late(f"position {wanted} was not recorded within {wait_seconds_max:g} s", position=wanted, head=self.log.head)
            try:
                self._writer.catch_up(wanted if since is not None else None, wait_seconds_max=_left(deadline))
            except Overloaded as busy:
                raise Late(
                    f"what is recorded could not be taken in within {wait_seconds_max:g} s, since somebody holds the lock of the log",
                    position=wanted,
                    head=self.log.head,
                ) from busy
        return Position(self._image.position)

    def statistics(self) -> dict[str, Any]:
        """Return who the log is and where it stands, what this process counts, and how far each handler, view and copy has come, with what stands still.

        And what no row of the log tells: executions that committed nothing.
        """
        return {
            "log": msgspec.to_builtins(self.log.identity),
            "head": self.log.head,
            "commits": self._writer.commits,
            "commands": self._writer.commands,
            "image": self._image.statistics(),
            "pending": len(self._engine.notes(PENDING_NOTE)),
            "stuck": errors_of(all_held(self._engine)),
            "lost_calls": [{"key": key, **msgspec.to_builtins(made)} for key, made in self._asked.lost().items()],
            "reactions": self._reactor.statistics(),
            "views": self._followers.statistics(),
            "publications": self._publisher.statistics(),
            "projections": [one.statistics() for one in self._projecting.values()],
            "snapshots_failed": dict(self._taker.failures) if self._taker is not None else {},
            "shares": [share.statistics() for share in self._shares],
            "subscriptions": [subscription.statistics() for subscription in self._subscriptions],
            "replicas": [replicating.statistics() for replicating in self._replicating.values()],
            "deciders": [
                {
                    "decider": handler.name,
                    "runs": handler.runs,
                    "ran_us": int(handler.ran_seconds * 1e6),
                    "longest_us": int(handler.longest_seconds * 1e6),
                }
                for handler in self.app.handlers.values()
            ],
            "executions": [
                {"handler": handler, "outcome": outcome, "count": count, "ran_us": ran, "latest": latest}
                for handler, outcome, count, ran, latest in self._engine.samples()
            ],
        }

    def flow(self, *, after: int | datetime | None = None, until: int | datetime | None = None) -> Flow:
        """Return the flow map with what the log has seen of it, between two positions or times: how often, how long, and what does not fit.

        Cost: some ten milliseconds, however long the log is.
        """
        return observed_flow(self.log, self.app.topology(), self.app.modules(), after=after, until=until)

    def trace(self, what: Receipt | str | int, *, fold: bool = True) -> Story:
        """Return the conversation that a position, a receipt, an id or a correlation belongs to, as a tree of what caused what.

        What is alike is folded into one line with its count; each record is a line of its own without `fold`. `NotThere` where there is none.
        """
        return story_of(self.log, what, fold=fold)

    def why(
        self, state: type[State], /, *key: Any, since: Receipt | str | int | None = None, wait_seconds_max: float = 10, **named: Any
    ) -> tuple[Cause, ...]:
        """Return why the row of a view is as it is: the event that last changed it, the command that decided that, and so on up to the outside.

        `NotThere` where there is no row. Cost: a look at the view, and one at the log for each step.
        """
        view = self.view(state)
        position = view.position_of(*key, since=since, wait_seconds_max=wait_seconds_max, **named)
        if position is None:
            shown = ", ".join([*map(repr, key), *(f"{field}={value!r}" for field, value in named.items())])
            raise NotThere(f"the view `{fold_of(state).name}` has no row for {shown or 'the log'}", view=fold_of(state).name, key=shown)
        return causes_of(self.log, position, self.app.reads(), fold_of(state))

    # --- the past

    def at(self, when: Receipt | str | int | datetime) -> Past:
        """Return this app as it was at a position, a receipt's, or the last position that was recorded at a time or before.

        A position inside a command is rounded down to the end of the one before it. `Invalid` for one that is not there yet. Cost: a look at the log.
        """
        self._writer.check_process()
        position = position_of(self.log, when)
        self.log.names.learn(self._engine.notes)  # others may have recorded new ones
        handlers = [one.name for one in (*self.app.reactions, *self.app.publications)]
        return Past(self.log, self.travel, self.app.views, handlers, position)

    # --- what would have been

    def branch(
        self,
        *edits: Edit,
        at: int | datetime | None = None,
        code: Wiring | None = None,
        answers: Mapping[Callable[..., Any], Callable[..., Any]] | None = None,
    ) -> "Branch":
        """Return what would have been: with edits, or by other code, from before the first edit on or from `at` on, up to now.

        All that came from outside is given again in its order, and decided again; recorded answers are heard first. A new question is `Unanswered`, unless
        `answers` has a function for its gateway. `Invalid` for edits that don't fit, and for a position that is not there yet. What is recorded from now on is not in it. Cost: what lies behind the
        beginning is read twice and decided once; what lies before it is not copied, and states begin with the origin's snapshots. Where a share has something to publish in it, its states are folded from
        the start of the log, as where a share begins.
        """
        app = code if code is not None else self.app
        if not isinstance(app, Wiring):  # pyright: ignore[reportUnnecessaryIsInstance]  # a checker has not seen every caller
            raise Invalid(f"`code` is the app to run the branch with, not {app!r}")
        outside = Silent(app.gateways, answers or {})
        return Branch(self, app, planned(self.log, app, edits, at), outside)

    def check_edits(self, edits: Iterable[Edit], at: int | datetime | None, code: Wiring) -> None:
        """Raise `Invalid` where these edits don't fit, as `branch` does; it makes none."""
        begins(Origin.of(self.log), code, edits, at)

    def _side(self, after: int, until: int) -> Side:
        """Return what there is to compare: rows between two positions, and the states that are folded from events alone, as of the second."""

        def state(fold: Fold, key: Key) -> State | None:
            return self._image.as_of(fold, key, until).state

        names = Names()
        for one in (names, self.log.names):
            one.learn(self._engine.notes)
        rows = (row for page in self._engine.read(after, until) for row in page)
        shared = (row for row, _, _ in said(self.log, names, None, 0, after))
        folds = dict.fromkeys([*self.app.folds, *map(fold_of, self.app.views)])
        return Side(rows, self.log.reader, names, {fold.name: fold for fold in folds if not fold.joins}, state, shared)

    # --- audit

    def erase(self, what: str | tuple[str, str], *, actor: str, reason: str, keep: Sequence[str] = (), dry_run: bool = False) -> Erasure:
        """Erase the bodies of all records of an id, or of all that have a tag, as `happened.erase` does; the states of this process forget them at once.

        Views are folded anew, and are not answered from until they are whole again: `Late`.
        """
        found = erased_in(self.log, what, self._views_url, actor=actor, reason=reason, keep=keep, dry_run=dry_run)
        if not dry_run:
            self._followers.forget(latest_erasure(self._engine))
            if self.snapshots.file.path is None:  # they are in memory, or in a schema that was emptied already
                self.snapshots.drop()
        return found

    def copy(self, to: str | Path, *, until: int | None = None) -> Identity:
        """Copy this log, while it goes on, to a new file or the URL of a new log, as `happened.copy_log` does."""
        return copy_log(self.log, to, until=until)

    # --- life

    def close(self) -> None:
        """Answer every caller, stop what runs, give the log back. Bounded: what was taken is finished, what was not hears `Closed`."""
        with contextlib.ExitStack() as last_first:
            last_first.callback(self._engine.close)
            last_first.callback(self._outside.close)
            last_first.callback(self.snapshots.close)
            if self._taker is not None:
                last_first.callback(self._taker.stop)
            last_first.callback(self._followers.close)
            last_first.callback(self._writer.close)
            for channel in self._channels.values():
                last_first.callback(channel.close)
            if self._copies_file is not None:
                last_first.callback(self._copies_file.close)
            for projecting in self._projecting.values():
                last_first.callback(projecting.close)
            last_first.callback(self._leases.close)
            stopping: list[Worker | Reactor] = [*self._workers, self._reactor, self._publisher]
            if self._pending is not None and self._timers is not None:
                stopping += [self._pending.worker, self._timers.worker]
            for one in stopping:
                last_first.callback(one.stop)
                one.end()  # all are told first: they end at the same time

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Close, in a thread, so that the loop can finish what was taken."""
        await asyncio.get_running_loop().run_in_executor(None, self.close)

    # --- within

    def _decision(self, command: object, id: str | None, actor: str, correlation: str | None, causation: str | None = None) -> Decision:
        if inside_decider():
            raise Invalid(
                "a command can't be dispatched from inside a decider, `evolve` or an upcast: yield an event, and let a reaction dispatch"
            )
        handling = self._handling
        handler, typed = handling.takes.get(type(command)) or handling.taker(command)
        plain = id is None and actor == "" and correlation is None and causation is None
        if not plain:
            check_envelope(id, actor, correlation, causation)
        body, command = typed.checked(command)
        own = id if id is not None else self._source.new_id()
        decision = Decision(handling, handler, typed, command, body, own, self._source.now_us(), given=id is not None)
        if not plain:
            decision.actor = actor
            decision.correlation = correlation if correlation != own else None
            decision.causation = causation
        return decision

    def _message(self, message: Message) -> Decision:
        decision = self._decision(message.body, message.id, message.actor, message.correlation, message.causation)
        self._handling.wait_for_copies(decision.handler, COPIES_SECONDS_MAX)
        decision.occurred = occurred_us(message)
        return decision

    def _fact(self, message: Message) -> Facts:
        typed, body, event, terms = self._checked_fact(message)
        return Facts(
            self.log,
            [Recording(typed, typed.wish, body, event, terms, PLAIN)],
            message.id,
            actor=message.actor,
            correlation=message.correlation,
            causation=message.causation,
            occurred=occurred_us(message),
            declare=self._declare,
        )

    def _alone(self, given: Any) -> Alone:
        """Return a fact that is recorded among others, in a row of its own."""
        message = given if isinstance(given, Message) else Message(given)
        typed, body, event, terms = self._checked_fact(message)
        id, source = message.id, self._source  # noqa: A001 - as everywhere
        header = Header(
            id if id is not None else source.new_id(), message.actor, message.correlation, message.causation, occurred_us(message)
        )
        return Alone(typed, body, event, terms, header, given=id is not None)

    def _checked_fact(self, message: Message) -> tuple[Typed, bytes, Any, Sequence[str]]:
        if inside_decider():
            raise Invalid("a fact can't be recorded from inside a decider, `evolve` or an upcast: yield the event")
        check_envelope(message.id, message.actor, message.correlation, message.causation)
        if type(message.body) not in self.app.records:
            instead = instead_of(message.body, one="record", many="record_all", make="event")
            kind = instead or ("a command is dispatched" if isinstance(message.body, Command) else "list it in the app's `records`")
            raise Invalid(f"{called(message.body)} can't be recorded as a fact: {kind}", type=type(message.body).__name__)
        typed = self.log.typed[type(message.body)]
        body, event = typed.checked(message.body)
        return typed, body, event, typed.terms(event)

    def _recorded(self, job: Facts) -> Receipt:
        if job.row is not None:
            return self.log.receipt_of(job.row, repeated=False, events=tuple(recording.event for recording in job.recordings))
        return self.log.receipt_of(job.result, repeated=True)

    def _receipt_of(self, fact: Alone) -> Receipt:
        if fact.row is not None:
            return self.log.receipt(fact.row, fact.header.id or "", (fact.event,))
        assert fact.known is not None, "it is recorded, now or before"
        return self.log.receipt_of(fact.known, repeated=True)

    def _record_batch(self, batch: Sequence[Alone]) -> Alone:
        self._submit_all(batch)
        for fact in batch:
            if fact.error is not None:
                raise fact.error
        return batch[-1]

    def _submit_all(self, batch: Sequence[Decision | Alone]) -> None:
        """Have all of these recorded, facts that follow each other in one job."""
        jobs: list[Decision | Several] = []
        for together, some in itertools.groupby(batch, lambda one: isinstance(one, Alone)):
            found: list[Any] = list(some)  # Any: all of them are of the one class, or of the other
            jobs += [Several(self.log, found, self._declare)] if together else found
        self._writer.submit_all(jobs, 60)
        for job in jobs:
            if isinstance(job, Several) and job.error is not None:
                for fact in job.facts:
                    fact.error = job.error

    def _all(self, batch: Sequence[Decision | Alone]) -> Iterator[Receipt | Refused]:
        self._handling.preload_all([job for job in batch if isinstance(job, Decision)])
        self._submit_all(batch)
        for job in batch:
            deadline = time.monotonic() + 60
            if isinstance(job, Decision) and job.needs_outside and job.error is None:
                self._decide_outside(job, deadline)
            if job.error is not None:
                raise job.error
            try:
                receipt = self._receipt_of(job) if isinstance(job, Alone) else self._answer(job, deadline)
            except Refused as refused:
                yield refused
            else:
                yield receipt

    def _answer(self, decision: Decision, deadline: float) -> Receipt:
        result = decision.result
        if result is None and decision.row is not None:
            return self.log.receipt(decision.row, decision.id, decision.events)
        if isinstance(result, Known):
            row = result.row
            with recorded():
                if decode_header(row.head).outcome == "pending":
                    kept = self.log.receipt_of(row, repeated=True, events=())
                    return msgspec.structs.replace(self.outcome(kept, wait_seconds_max=_left(deadline)), repeated=True)
                self._raise_refusal(row)
                return self.log.receipt_of(row, repeated=True)
        if isinstance(result, Refusal):
            raise result.error()
        raise OutcomeUnknown(f"whether the command `{decision.id}` was recorded is not known", id=decision.id)

    def _outcome(self, row: Row, wait_seconds_max: float, deadline: float) -> Receipt:
        """Wait for what comes of the command that a row has kept."""
        header = decode_header(row.head)
        own = header.id or header.decides or ""
        while True:
            seen = self.log.head
            found = outcome_of(self.log.find(own))
            if found is not None:
                self._see(found[0].last, deadline)
                self._raise_refusal(found[0])
                return self.log.receipt_of(found[0], repeated=False)
            stuck = [held for held in all_held(self._engine, self._asked_name(row)) if held.id == own]
            if stuck:
                said = stuck[0].error
                raise Stuck(f"the command `{own}` is kept, and can't be decided: {said}", id=own, position=row.position, error=said)
            if time.monotonic() >= deadline:
                raise Late(f"the command `{own}` is kept, and not decided within {wait_seconds_max:.3g} s", id=own, position=row.position)
            self.log.wait(seen, min(0.25, _left(deadline)))

    def _see(self, position: int, deadline: float) -> None:
        """Have the states of this process hold what is told of as done: it is on disk before whoever decided it has merged it. `Late` where they can't."""
        if position > self._image.position:
            try:
                self._writer.catch_up(position, wait_seconds_max=max(_left(deadline), TAKE_IN_SECONDS_MAX))
            except Overloaded as busy:
                raise Late(
                    f"it is done at position {position}, and could not be taken in in time, since somebody holds the lock of the log",
                    position=position,
                    head=self.log.head,
                ) from busy

    def _take_in(self, position: int) -> None:
        """Have the states of this process hold what is answered, where the log is free soon: who only reads does not wait for a writer that is stopped."""
        if position > self._image.position and not inside_decider():
            with contextlib.suppress(Overloaded, StoreFailed):
                self._writer.catch_up(position, wait_seconds_max=TAKE_IN_SECONDS_MAX)

    def _raise_refusal(self, row: Row) -> None:
        refusal = refusal_in(row)
        if refusal is not None:
            raise refusal.error()

    def _next_round(self, decision: Decision) -> None:
        decision.rounds += 1
        if decision.rounds > ROUNDS_MAX:
            raise Stuck(
                f"`{decision.handler.name}` asked something new in each of {ROUNDS_MAX} rounds, since the states it asks by kept changing; nothing was recorded",
                id=decision.id,
                rounds=ROUNDS_MAX,
            )
        decision.again()

    def _asked_name(self, row: Row) -> str:
        """Return the name of the command that a row holds."""
        number = next(record.number for _, record in taken_apart(row))
        name = self.log.names.by_number.get(number)
        return name.name if name is not None else str(number)

    def _decide_pending(self, decision: Decision) -> None:
        """Decide an input that was enqueued; what it raises says why it can't be."""
        deadline = time.monotonic() + 60
        self._handling.wait_for_copies(decision.handler, COPIES_SECONDS_MAX)
        self._writer.submit(decision, _left(deadline))
        if decision.needs_outside:
            self._decide_outside(decision, deadline)

    def _decide_outside(self, decision: Decision, deadline: float) -> None:
        """Let a decision ask the outside, and have it decided on the answers; once more where it asks something new then."""
        try:
            while decision.needs_outside:
                self._next_round(decision)
                self._handling.collect(decision, None, deadline)
                self._writer.submit(decision, _left(deadline))
        finally:
            self._asked.ended(decision.answers)

    async def _adecide_outside(self, decision: Decision, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """Do so, awaited: the decider asks in a thread."""
        try:
            while decision.needs_outside:
                self._next_round(decision)
                await self._outside.in_thread(deadline, self._handling.collect, decision, loop, deadline)
                await self._writer.asubmit(decision, deadline - time.monotonic())
        finally:
            self._asked.ended(decision.answers)

    def _make_wishes(self, topology: Mapping[str, Any]) -> list[Wish]:
        """Say under which names and fingerprints all is recorded. Those in the topology are used: each takes a millisecond or more of an open."""
        wishes = [typed.wish for typed in self.log.typed.values()]
        for handler, told in zip(self.app.handlers.values(), topology["deciders"], strict=True):
            handler.wish = Wish("decider", handler.name, handler.version, told["fingerprint"])
            wishes.append(handler.wish)
        for reaction, told in zip(self.app.reactions, topology["reactions"], strict=True):
            reaction.wish = reaction.wish._replace(fingerprint=told["fingerprint"])
            wishes.append(reaction.wish)
        for publication in self.app.publications:
            publication.wish = publication.wish._replace(fingerprint=fingerprint_of(publication.function).digest)
            wishes.append(publication.wish)
        return wishes

    # --- other systems

    def _copy(self, state: type[S]) -> Replicating[S]:
        self._writer.check_process()
        replicating = self._replicating.get(state)
        if replicating is None:
            listed = ", ".join(one.name for one in self._replicating.values()) or "none"
            raise Invalid(f"`{getattr(state, '__name__', state)}` is not among the app's replicas: {listed}", state=str(state))
        return replicating

    def _projection(self, function: Callable[..., None]) -> "Projecting":
        self._writer.check_process()
        found = self._projecting.get(function)
        if found is None:
            listed = ", ".join(one.name for one in self._projecting.values()) or "none"
            raise Invalid(f"`{label(function)}` is not among the app's projections: {listed}", function=label(function))
        return found

    def _make_exchange(self, *, left: Collection[str], run: bool, projects: bool) -> None:
        """Make what publishes to other systems and takes in what they publish; what is left to other processes is only looked at. So are projections."""
        app, log = self.app, self.log
        leases = self._leases
        self._copies_file = open_rows(self._views_url, self.url, ddl=REPLICA_DDL) if app.systems else None
        self._shares = [Share(log, leases, state, self._declare) for state in app.shares]
        self._subscriptions = [
            Subscription(log, leases, system, self._channels[system], events, self._declare, Wish("subscription", system, 1, ""))
            for system, events in app.subscriptions.items()
        ]
        if self._copies_file is not None:
            for state, system in app.systems.items():
                self._replicating[state] = Replicating(log, leases, system, state, self._channels[system], self._copies_file)
        self._workers: list[Worker] = []
        if self._publishes:
            self._workers += [one.worker for one in self._shares]
        if run:
            self._workers += [one.worker for one in self._subscriptions if one.system not in left]
            self._workers += [one.worker for one in self._replicating.values() if one.system not in left]
        if projects:
            self._workers += [one.worker for one in self._projecting.values()]
        leases.add([worker.name for worker in self._workers])

    def _declare(self, batch: Batch) -> None:
        """Record the names and the topology of this app before the first command, where they are not in the log yet."""
        if self._declared:
            return
        known = batch.notes_of(TOPOLOGY_NOTE).get(TOPOLOGY_NOTE) == self._topology_digest
        self._declared = known and all(self.log.names.number(wish) is not None for wish in self._wishes)
        if not known and TOPOLOGY_NOTE not in batch.notes:
            batch.notes[TOPOLOGY_NOTE] = self._topology_digest
            batch.declare(self._wishes, Written(TOPOLOGY, self._topology))
        else:
            batch.declare(self._wishes)
        for handler in self.app.handlers.values():
            self._handling.numbers[handler] = batch.number(handler.wish)
        for listener in (*self.app.reactions, *self.app.publications):
            begin_at(batch, listener.lease, self.log.opened_at if listener.since is None else listener.since)


class Branch(Running):
    """What would have been: an app on a log over the origin's. It is asked as a `Running` is, and reaches nothing outside.

    It stands still until it is given something: from then on its reactions run on, and its timers ring by its own clock, which shows the time of the
    origin's last record. Close it when done: what it has recorded is in memory, and gone then.
    """

    def __init__(self, of: Running, app: Wiring, plan: Plan, outside: Silent) -> None:
        self._of = of
        self._plan = plan
        self._waits = threading.Lock()
        self._stands = True
        """Nothing goes on by itself yet."""
        self._silent = outside
        identity = identity_in(plan.engine.notes(IDENTITY_NOTE))
        assert identity is not None, "a plan says who the branch is"
        snapshots = OriginSnapshots(of.log, of.snapshots.file, plan.after, identity)
        super().__init__(
            app,
            "memory:",
            run=True,
            channels=dict.fromkeys([*app.subscriptions, *app.replicas]),
            gateways={},
            views=None,
            source=plan.clock,
            states_max=STATES_MAX,
            outside=True,  # there is none: what it would be is `Silent`
            progress=lambda _done, _all: None,
            apart=Apart(plan.engine, self._silent, snapshots),
        )

    def __repr__(self) -> str:
        """Tell of what it is a branch."""
        return f"<Branch of {self._plan.origin.log.identity.id} after {self._plan.after}: {self.app.name}>"

    @property
    def begins(self) -> Position:
        """The last position that it shares with its origin."""
        return Position(self._plan.after)

    @property
    def until(self) -> Position:
        """The position that its origin had come to when it was made."""
        return Position(self._plan.origin.until)

    @property
    def failed(self) -> tuple[Failed, ...]:
        """What it was given and could not take, since a decider raised an error that is no refusal: nothing of it is recorded.

        And each edit of a command that no reaction has sent in it, so that the edit applies to nothing; and what a share can't take, and stands still at.
        """
        return tuple(self._giving.failed)

    def diff(self) -> Difference:
        """Return what differs from the origin, as that was when the branch was made. False where nothing does; `print` shows it.

        The origin must be open. Memory: all records behind the place where they part.
        """
        failed = [f"position {one.position}, {one.id}: {one.error}" for one in self.failed]
        return compared(self._of, self, self._plan.after, self._plan.origin.until, failed)

    def save(self, url: str) -> None:
        """Keep it in a file of its own, which holds only what it does not share: opened by its URL it lies over its origin again.

        An origin in PostgreSQL is noted without a password, and only read from there. `Invalid` where the origin is in memory, or the file is there.
        """
        save(self.log, self._plan, url)

    def settled(self, receipt: Receipt | str | int | None = None, *, wait_seconds_max: float = 10) -> Settled:
        """Let it go on, and wait until all is done in it."""
        self._go_on()
        return super().settled(receipt, wait_seconds_max=wait_seconds_max)

    def outcome(self, receipt: Receipt | str, *, wait_seconds_max: float = 10) -> Receipt:
        """Let it go on, and wait for what comes of an enqueued command."""
        self._go_on()
        return super().outcome(receipt, wait_seconds_max=wait_seconds_max)

    def _begin(self) -> None:
        works = Works(
            self.log,
            self._image,
            self._handling,
            self._silent,
            self._plan.clock,
            self.app.reactions,
            self.app.publications,
            self._pending,
            self._timers,
            self._decide_pending,
            self._inserted,
            self._shares,
            {share.name: share.reads for share in self._of._shares},
        )
        self._giving = Giving(works, self._plan)
        self._giving.give()
        self._followers.start()

    def _go_on(self) -> None:
        with self._waits:
            if self._stands and self._giving.done:
                self._stands = False
                self._work()

    def _decision(self, command: object, id: str | None, actor: str, correlation: str | None, causation: str | None = None) -> Decision:
        self._go_on()
        return super()._decision(command, id, actor, correlation, causation)

    def _checked_fact(self, message: Message) -> tuple[Typed, bytes, Any, Sequence[str]]:
        self._go_on()
        return super()._checked_fact(message)

    def _inserted(self, what: Any) -> Row | None:
        """Record what an edit inserts; return its row."""
        message = what if isinstance(what, Message) else Message(what)
        if isinstance(message.body, Event):
            job = self._fact(message)
            self._writer.submit(job, 60)
            return job.row
        decision = self._message(message)
        self._handling.preload(decision)
        self._decide_pending(decision)
        return decision.row


def compared(origin: Running, branch: Running, after: int, until: int, failed: Sequence[str]) -> Difference:
    """Compare a branch with its origin, from where they part up to where the origin had come."""
    joined = {fold_of(view).name for view in branch.app.views if fold_of(view).joins}
    there = origin._side(after, until)
    here = branch._side(after, branch.log.head)
    return difference(there, here, failed=failed, not_compared=sorted(joined))


class Apart(NamedTuple):
    """What an app has on a branch, in place of a log's URL, of the outside, and of what lies beside a log."""

    engine: Engine
    outside: Outside
    snapshots: SnapshotsFile


class _Copies:
    """The copies of other systems' states, as deciders read them."""

    def __init__(self, replicating: Mapping[type[State], Replicating[Any]], *, silent: bool) -> None:
        self._replicating = replicating
        self._silent = silent
        """Nothing is known of other systems but what was recorded."""

    def name(self, state: type[State]) -> str:
        """Return what a copy is called."""
        return self._replicating[state].name

    def wait(self, state: type[State], wait_seconds_max: float) -> None:
        """Wait until it can be answered from."""
        if not self._silent:
            self._replicating[state].wait(None, wait_seconds_max)

    def get(self, state: type[State], key: Key) -> Heard:
        """Return what it says of a key. `Unanswered` where nothing is known of other systems."""
        if self._silent:
            raise Unanswered(
                f"what `{self.name(state)}` says of {key!r} was not recorded, and no other system is heard here", replica=self.name(state)
            )
        found = self._replicating[state].get(key)
        return Heard(found.version, found.position, found.age // MICROSECOND, msgspec.Raw(encode(found.state)))


def _projecting_of(app: Wiring, log: Log, leases: Leases) -> "dict[Callable[..., None], Projecting]":
    if not app.projections:
        return {}
    from happened.cqrs.projecting import Projecting  # lazy: SQLAlchemy is an extra

    return {one.function: Projecting(one, log, leases) for one in app.projections}


def nothing_of(app: Wiring, channels: "Mapping[str, Any]", gateways: Mapping[Any, Any]) -> "dict[str, None]":  # Any: whatever a caller gave
    """Return channels that lead nowhere. `Invalid` where some were given that lead somewhere, or gateways."""
    if gateways or any(channel is not None for channel in channels.values()):
        raise Invalid("with `outside=False` nothing outside is reached: leave `channels` and `gateways` out")
    return dict.fromkeys([*app.subscriptions, *app.replicas])


def _left(deadline: float) -> float:
    return max(0.0, deadline - time.monotonic())
