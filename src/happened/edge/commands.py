"""What each command does: open what it needs, ask, print as lines or as JSON, return the exit code.

None of them decides anything. Those that need an app open it without its deciders: a view may be brought up to date by the command line, but a pending
command is left to the process that has the gateways for it.
"""

import argparse
import importlib
import itertools
import math
import operator
import queue
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path
from types import FrameType
from typing import Any, Self, TypeVar  # Any: keys, rows and bodies are of any type

import msgspec

from happened.app import App
from happened.core.boundary import Item, Query
from happened.core.errors import Diverged, Invalid, Late, NotThere
from happened.core.state import State, fold_of
from happened.core.store import Packs
from happened.core.tags import SEPARATOR
from happened.core.world import moment
from happened.cqrs.ask import Rows, how_many
from happened.edge import branches, cold, databases, replaying, sight, travelling
from happened.edge.audit import COMMANDS as AUDIT
from happened.edge.audit import user
from happened.edge.progress import bar
from happened.edge.settings import SQLITE, app_is_set, log_is_there, log_url, the_app, views_url, without_deciders
from happened.edge.words import key_in, named, print_json, print_line, print_row, print_rows, print_table, text_of
from happened.log.compacting import InBackground
from happened.log.held import Act, Held, all_held
from happened.log.lease import all_leases
from happened.log.log import Identity, Log
from happened.log.records import SYSTEMIC, Record
from happened.log.row import BUILT_IN, Header, decode_header
from happened.log.slices import handler_of, progress_of
from happened.log.worker import all_failing
from happened.notification.drawing import drawn
from happened.notification.flow import observed_flow
from happened.notification.story import story_of
from happened.notification.why import causes_of
from happened.opening import drop_index, open_log
from happened.running import Running
from happened.shelf.connection import as_shown
from happened.sourcing.handling import PENDING_NOTE
from happened.stores.sqlite import bytes_of
from happened.transfer.subscription import all_unread, subscription_worker

T = TypeVar("T")

FOLLOW_SECONDS = 1.0
"""How long `tail -f` waits before it waits again: so it hears an interrupt."""

WAKES_SECONDS = 1.0
"""How often who waits for a signal looks whether one came: where another thread was given it, as of a process that was paused, it wakes nobody."""
ASK_SECONDS = 0.2
"""How often a bar moves while a view catches up."""

BODY_CHARACTERS_MAX = 100

ACT_SECONDS_MAX = 10.0
"""How long a person waits for the log's lock."""

WORKING = ("reactions", "publications", "views", "projections", "shares", "subscriptions", "replicas")
"""What works in a process, as its statistics list it."""

POSITION_DIGITS_MAX = 18
"""Longer numbers are no positions: SQLite counts with 64 bits."""


# --- of the log alone


def tail(asked: argparse.Namespace) -> int:
    """Show the last records, and follow."""
    path = Path(log_url(asked.log).removeprefix(SQLITE))
    followed = _file_at(path)
    with Interrupts() as interrupts, _log(asked) as log:
        last = log.head
        latest = (record for record in log.read(_of_events(asked, log), until=last, backwards=True) if _is_asked(asked, record))
        _print_records(reversed(list(itertools.islice(latest, asked.count))), as_json=asked.json)
        while asked.follow and interrupts.last():
            sys.stdout.flush()
            head = log.wait(last, FOLLOW_SECONDS)
            if _file_at(path) != followed:
                raise Diverged(f"{path} is not the file that was followed: it was moved, deleted, or replaced", path=str(path))
            if head > last:
                coming = (record for record in log.read(after=last, until=head) if _is_asked(asked, record))
                _print_records(coming, as_json=asked.json)
                last = head
    return 0


class Interrupts:
    """Keeps an interrupt in mind: where it comes at a moment at which Python can't raise it (in what cleans up an object), it would be lost."""

    def __init__(self) -> None:
        self._came = False
        self._before: Any = None

    def __enter__(self) -> Self:
        """Listen, in the main thread; elsewhere interrupts don't come."""
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._come)
        return self

    def __exit__(self, *_: object) -> None:
        """Let it be as before."""
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def last(self) -> bool:
        """Return `True`; or raise the interrupt that has come."""
        if self._came:
            raise KeyboardInterrupt
        return True

    def _come(self, _number: int, _frame: FrameType | None) -> None:
        self._came = True
        raise KeyboardInterrupt


def _file_at(path: Path) -> tuple[int, int] | None:
    """Return which file lies at a path, whatever is in it."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _is_asked(asked: argparse.Namespace, record: Record) -> bool:
    """Say whether `tail` shows a record: what the log says about itself only where it was asked for."""
    if record.kind == SYSTEMIC and not asked.all and SYSTEMIC not in (asked.kind or ()):
        return False
    return (
        (not asked.kind or record.kind in asked.kind)
        and (not asked.name or record.name in asked.name)
        and (not asked.tag or all(tag in record.tags for tag in asked.tag))
    )


def _of_events(asked: argparse.Namespace, log: Log) -> Query | None:
    """Return what `tail` asks the index for, which knows events: `None` where something else may be asked for, and all is looked at."""
    names: frozenset[str] = frozenset(asked.name or ())
    log.names.learn(log.engine.notes)
    kinds = {name.what for name in list(log.names.by_number.values()) if not names or name.name in names}
    if not (names or asked.tag) or not kinds <= {"event"} or not names.isdisjoint(BUILT_IN.values()):
        return None
    return Query((Item(names, frozenset(asked.tag or ())),))


def show(asked: argparse.Namespace) -> int:
    """Show a record, or all of a message."""
    with _log(asked) as log:
        records = _of_id(log, asked.id) if asked.id is not None else _found(log, asked.what)
        told = [{**msgspec.to_builtins(record), **_execution(log, record)} for record in records]
    if not records:
        what = asked.what if asked.id is None else asked.id
        raise NotThere(f"the log has no {'' if asked.id is not None else 'position and no '}id `{what}`", what=what)
    if asked.json:
        print_json(told)
        return 0
    for number, fields in enumerate(told):
        if number:
            print()
        width = max(map(len, fields))
        for field, value in fields.items():
            print_line(f"{field:<{width}}  {text_of(value)}")
    return 0


def _execution(log: Log, record: Record) -> dict[str, Any]:
    """Return how the row of a record came to be, where a handler made it or sent it: who, how long that waited and ran, how far from the outside."""
    row = log.row_at(record.position)
    header = decode_header(row.head) if row is not None else Header()
    told: dict[str, Any] = {}
    if header.sent is not None:
        names, sent = log.names.by_number, header.sent
        sender, cause = names.get(sent.handler), names.get(sent.cause)
        heard = cause.name if cause is not None else None
        told["sent"] = {
            "by": sender.name if sender is not None else None,
            "heard": heard,
            "waited_us": sent.waited,
            "ran_us": sent.ran,
            "attempt": sent.attempt,
            "seen": sent.seen,
        }
        if not sent.handler:  # a caller has said the cause: nothing has waited or run
            told["sent"] = {"by": None, "heard": heard}
        told["depth"] = header.depth
    if header.handler is not None:
        told["outcome"] = header.outcome
        told["execution"] = {"waited_us": header.waited, "ran_us": header.ran, "attempt": header.attempt, "reads": list(header.reads)}
    return told


def stats(asked: argparse.Namespace) -> int:
    """Tell who the log is, how long, how large, how many commands wait for their decision, and what it knows."""
    with _log(asked) as log:
        head = log.head
        parts = log.engine.parts() if isinstance(log.engine, Packs) else None
        ends = [*log.read(limit=1), *log.read(backwards=True, limit=1)]
        told: dict[str, Any] = {
            "log": msgspec.to_builtins(log.identity),
            "head": head,
            "bytes": parts.bytes if parts is not None else bytes_of(log_url(asked.log).removeprefix(SQLITE)),
            "parts": parts,
            "first": ends[0].time if ends else None,
            "last": ends[-1].time if ends else None,
            "pending": len(log.engine.notes(PENDING_NOTE)),
            "names": [{"what": name.what, "name": name.name, "version": name.version} for name in list(log.names.by_number.values())],
            "executions": [
                {"handler": handler, "outcome": outcome, "count": count, "ran_us": ran, "latest": latest}
                for handler, outcome, count, ran, latest in log.engine.samples()
            ],
        }
        if asked.count:
            told |= _counted(log, head)
    if asked.json:
        print_json(told)
        return 0
    for key in ("head", "bytes", "first", "last", "pending"):
        print(f"{key:<10}{text_of(told[key])}")
    if told["parts"] is not None:
        print("\n".join(cold.lines(told["parts"])))
    for key, value in _identity(log.identity):
        print(f"{key:<10}{value}")
    for title in ("names", "executions", "counts", "deciders"):
        if told.get(title):
            print(f"\n{title}:")
            print_table([{**row, "latest": _error_in(row["latest"])} if "latest" in row else row for row in told[title]])
    return 0


def _identity(identity: Identity) -> Iterator[tuple[str, Any]]:
    """Yield who a log is, as people read it."""
    yield from (("log", identity.id), ("epoch", identity.epoch), ("format", identity.format), ("app", identity.app))
    for epoch, last in identity.ended:
        yield "ended", f"epoch {epoch} at position {last:,}"
    if (origin := identity.origin) is not None:
        yield "origin", f"the log {origin.log}, up to position {origin.position:,} in its epoch {origin.epoch}"


def _error_in(latest: str) -> str:
    """Return of what was said of a run where it was and, without the traceback, what it raised; --json has all."""
    where, *lines = latest.rstrip("\n").split("\n")
    frames = [place for place, line in enumerate(lines, 1) if line.startswith("  ")]
    return (
        "\n".join([where.partition(": ")[0] + ": " + lines[frames[-1]], *lines[frames[-1] + 1 :]])
        if frames and frames[-1] < len(lines)
        else latest
    )


# --- of an app on its log


def state(asked: argparse.Namespace) -> int:
    """Show a state, or all of a name."""
    app = the_app(asked.app)
    cls = named(asked.name, [*(fold.state for fold in app.folds), *app.views], "state")
    key = key_in(cls, asked.key)
    with _running(app, asked, views=()) as running:
        if not asked.key and fold_of(cls).key:
            rows = list(running.states(cls).values())
            print_rows(rows, {"position": running.log.head}, as_json=asked.json)
            return 0
        found = running.state(cls, *key)
    if found is None:
        raise NotThere(f"there is no `{asked.name}` of {', '.join(asked.key)} (never happened, or gone)", state=asked.name, key=asked.key)
    print_row(found, as_json=asked.json)
    return 0


def views(asked: argparse.Namespace) -> int:
    """List the views."""
    app = the_app(asked.app)
    with _running(app, asked, views=app.views) as running:
        told = running.statistics()["views"]
    if asked.json:
        print_json(told)
        return 0
    print_table(
        [
            {
                "view": one["view"],
                "position": one["position"],
                "lag": one["lag"],
                "ready": "yes" if one["ready"] else "no",
                "followed by": one["owner"] or "nobody",
                "stuck": one["broken"] or one["failure"] or len(one["stuck"]) or "",
            }
            for one in told
        ]
    )
    return 0


def replicas(asked: argparse.Namespace) -> int:
    """List the copies of other systems' states."""
    app = the_app(asked.app)
    with _running(app, asked, views=(), channels=dict(asked.channel)) as running:
        told = running.statistics()["replicas"]
    if asked.json:
        print_json(told)
        return 0
    print_table(
        [
            {
                "replica": one["replica"],
                "origin": one["origin"],
                "state": one["state"],
                "rows": one["count"],
                "position": one["position"],
                "lag": one["lag"],
                "age": "-" if one["age_seconds"] is None else f"{one['age_seconds']:.1f} s",
                "equal as of": one["equal_as_of"] if one["equal_as_of"] is not None else "-",
                "why": one["diverged"] or one["failure"] or "",
            }
            for one in told
        ]
    )
    return 0


def replica(asked: argparse.Namespace) -> int:
    """Show rows of a copy of another system's states, as they are: nothing is waited for."""
    app = the_app(asked.app)
    system, _, name = asked.name.rpartition("/")
    cls = named(name, [one for one, of in app.systems.items() if system in ("", of)], "replica")
    key = key_in(cls, asked.key)
    with _running(app, asked, views=(), channels=dict(asked.channel)) as running:
        if asked.key or not fold_of(cls).key:
            found = running.replica(cls, *key, wait_seconds_max=0)
            if found.state is None:
                raise NotThere(f"the copy `{asked.name}` has nothing under this key", replica=asked.name, key=asked.key)
            print_row(found.state, as_json=asked.json)
            return 0
        rows = running.replica_rows(cls, limit=asked.limit, wait_seconds_max=0)
        [told] = [
            one for one in running.statistics()["replicas"] if (one["origin"], one["replica"]) == (app.systems[cls], fold_of(cls).name)
        ]
        _print_answer(rows, told["count"], as_json=asked.json)
    return 0


def view(asked: argparse.Namespace) -> int:
    """Show rows of a view."""
    app = the_app(asked.app)
    cls = named(asked.name, app.views, "view")
    key = key_in(cls, asked.key)
    if asked.key and (asked.where or asked.order):
        raise Invalid("a key names one row: --where and --order go without it")
    with _running(app, asked, views=[cls], run=True) as running:
        of = running.view(cls).where(asked.where) if asked.where else running.view(cls)
        if asked.key or not fold_of(cls).key:
            row = _caught_up(running, cls, asked, lambda head, wait: of.get(*key, since=head, wait_seconds_max=wait))
            print_row(row, as_json=asked.json)
            return 0
        ordered = of.order_by(*(asked.order or fold_of(cls).key))
        rows = _caught_up(running, cls, asked, lambda head, wait: ordered.rows(limit=asked.limit, since=head, wait_seconds_max=wait))
        _print_answer(rows, how_many(ordered), as_json=asked.json)
    return 0


def _print_answer(rows: Rows[Any], count: int, *, as_json: bool) -> None:
    """Print rows, of which position and how old, and how many there are beyond them."""
    hidden = max(0, count - len(rows))
    print_rows(rows, {"position": rows.position, "age_seconds": rows.age.total_seconds(), "hidden": hidden}, as_json=as_json)


def _caught_up(running: Running, cls: type[State], asked: argparse.Namespace, ask: Callable[[int, float], T]) -> T:
    """Ask a view as of all that is in the log now; a bar shows how it catches up."""
    head = running.log.head
    deadline = time.monotonic() + asked.wait
    with bar(f"{asked.name} catches up") as progress:
        while True:
            left = deadline - time.monotonic()
            try:
                return ask(head, min(ASK_SECONDS, max(0, left)))
            except Late:
                if left <= 0:
                    raise
                progress(running.view(cls).position, head)


def rebuild(asked: argparse.Namespace) -> int:
    """Build a view anew, and switch to it; or the index, from the rows."""
    app = the_app(asked.app)
    if asked.index:
        return _rebuild_index(app, asked)
    cls = named(asked.name, app.views, "view")
    with _running(app, asked, views=[cls], run=True) as running, bar(f"rebuilding {asked.name}") as progress:
        running.rebuild(cls, progress=progress)
        [told] = running.statistics()["views"]
    if asked.json:
        print_json(told)
    else:
        print(f"rebuilt {told['view']} up to position {told['position']:,}")
    return 0


def _rebuild_index(app: App, asked: argparse.Namespace) -> int:
    drop_index(log_url(asked.log))
    with bar("rebuilding the index") as progress, app.open(log_url(asked.log), run=False, outside=False, progress=progress) as running:
        head = running.log.head
    if asked.json:
        print_json({"index": head})
    else:
        print(f"rebuilt the index up to position {head:,}")
    return 0


# --- what runs, and what stands still


def run(asked: argparse.Namespace) -> int:
    """Run an app until a signal says to stop; then end what is going on, in bounded time, and lose nothing."""
    app = the_app(asked.named or asked.app)
    missing = sorted({*app.subscriptions, *app.replicas} - set(dict(asked.channel)))
    if missing and not asked.no_outside:
        raise Invalid(f"the app listens to `{missing[0]}`: say where that is, --channel {missing[0]}=URL", systems=missing)
    # No event: who waits for that may hold its lock when a signal comes, and would wait for himself.
    told: queue.SimpleQueue[int] = queue.SimpleQueue()

    def told_to_stop(number: int, _frame: FrameType | None) -> None:
        told.put(number)

    before = {number: signal.signal(number, told_to_stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        url = log_url(asked.log, there=False)
        with bar("opening") as progress:
            running = app.open(
                url, channels=dict(asked.channel), views=views_url(asked.views), outside=not asked.no_outside, progress=progress
            )
        older = timedelta(days=asked.cold_after) if asked.cold_after is not None else None
        packs = older is not None or asked.cold_above is not None
        with running, InBackground(running.log, older=older, above=asked.cold_above) if packs else nullcontext():
            if not asked.json:
                what = f"{len(app.reactions)} reactions, {len(app.views)} views, {len(app.handlers)} deciders"
                print(f"{app.name} runs on {as_shown(url)}: {what}; Ctrl-C or SIGTERM ends it", flush=True)
            tell_at = time.monotonic() + (asked.every or math.inf)
            while not _is_told(told, max(0.0, min(WAKES_SECONDS, tell_at - time.monotonic()))):
                if time.monotonic() >= tell_at:
                    _print_standing(running, as_json=asked.json)
                    tell_at = time.monotonic() + asked.every
            _print_standing(running, as_json=asked.json)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def _is_told(told: "queue.SimpleQueue[int]", wait_seconds_max: float) -> bool:
    """Wait for a signal; say whether one came."""
    try:
        told.get(timeout=wait_seconds_max)
    except queue.Empty:
        return False
    return True


def _print_standing(running: Running, *, as_json: bool) -> None:
    """Say how far everything has come."""
    told = running.statistics()
    if as_json:
        print_json(told)
    else:
        lag = max([one["lag"] for one in (*told["reactions"], *told["views"])], default=0)
        print(f"position {told['head']:,}, lag {lag:,}, {told['pending']:,} pending, {len(running.stuck()):,} stuck")
        kept = Counter(text for kind in WORKING for one in told[kind] for text in (one.get("failure"), one.get("broken")) if text)
        for text, count in kept.items():
            print(f"  {count:,} can't go on: {text}")
    sys.stdout.flush()


def workers(asked: argparse.Namespace) -> int:
    """List who holds what. The exit code is 1 where something is held by nobody."""
    with _log(asked) as log:
        now = log.source.now_us()
        told: list[dict[str, Any]] = []
        for name, held, is_held in all_leases(log.engine, log.source):
            progress = (
                None if name.startswith(subscription_worker("")) else progress_of(log.engine, name)
            )  # it counts in its origin's positions
            told.append(
                {
                    "handler": handler_of(name),
                    "slices": list(held.slices),
                    "owner": held.owner if is_held else None,
                    "epoch": held.epoch,
                    "seconds_left": max(0.0, (held.until - now) / 1e6) if is_held else 0.0,
                    "lag": log.head - progress.position if progress is not None else None,
                }
            )
    if asked.json:
        print_json(told)
    else:
        print_table(
            [
                {
                    **one,
                    "slices": "-".join(map(str, one["slices"])),
                    "owner": one["owner"] or "nobody",
                    "seconds_left": f"{one['seconds_left']:.1f}",
                    "lag": "" if one["lag"] is None else one["lag"],
                }
                for one in told
            ]
        )
    return 0 if all(one["owner"] is not None for one in told) else 1


def stuck(asked: argparse.Namespace) -> int:
    """List what stands still; the exit code is 1 where anything does."""
    if asked.app is not None or asked.log is None:
        app = the_app(asked.app)
        with _running(app, asked, views=app.views) as running:
            held = running.stuck()
            failing, unread = all_failing(running.log.engine), all_unread(running.log.engine)
            views = [{"view": one["view"], **key} for one in running.statistics()["views"] for key in _standing_in(one)]
    else:
        views = []
        with _log(asked) as log:
            held, failing, unread = all_held(log.engine), all_failing(log.engine), all_unread(log.engine)
    if asked.json:
        print_json({"stuck": held, "views": views, "workers": failing, "unread": unread})
    elif held or views or failing or unread:
        if held:
            print_table([_held_shown(one) for one in held])
        for one in held if asked.trace else ():
            print(f"\n{one.handler} {one.position}:\n{one.trace}")
        if views:
            print()
            print_table(views)
        if failing:
            print()
            print_table([{"worker": one.worker, "since": f"{moment(one.since):%Y-%m-%d %H:%M:%S}", "error": one.error} for one in failing])
        if unread:
            print()
            print_table(unread)
    else:
        print("nothing is stuck")
    return 1 if any(not one.parked for one in held) or views or failing or unread else 0


def _held_shown(held: Held) -> dict[str, Any]:
    return {
        "handler": held.handler,
        "position": held.position,
        "event": held.event,
        "key": " ".join(term.replace(SEPARATOR, "=") for term in held.key if SEPARATOR in term) or "-",
        "attempts": held.attempts,
        "since": f"{moment(held.failed):%Y-%m-%d %H:%M:%S}" if held.failed else "-",
        "": "parked" if held.parked else held.act or "waits" * (not held.error),
        "error": held.error,
    }


def _standing_in(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return what stands still in a view: the whole of it, or keys."""
    whole = view["broken"] or view["failure"]
    found = [{"key": "all", "position": view["position"], "error": whole}] if whole else []
    return [*found, *({"key": one["key"], "position": one["position"], "error": one["error"]} for one in view["stuck"])]


def decide_about(asked: argparse.Namespace) -> int:
    """Record what is to become of something that is stuck."""
    with _log(asked) as log:
        job = Act(log, asked.command, asked.handler, asked.position, actor=asked.actor or user(), id=None, reason=asked.reason)
        log.writer.submit(job, ACT_SECONDS_MAX)
        if job.row is None:
            raise NotThere(f"`{asked.handler}` holds nothing at position {asked.position}", position=asked.position)
        receipt = log.receipt_of(job.row, repeated=False, events=())
    if asked.json:
        print_json({"act": asked.command, "handler": asked.handler, "position": asked.position, "receipt": str(receipt)})
    else:
        print(f"recorded at position {receipt.position:,}: {asked.command} {asked.handler} {asked.position}; whoever runs it does so now")
    return 0


# --- the flow


def flow(asked: argparse.Namespace) -> int:
    """Draw the flow map; found something wrong where what was seen is not declared."""
    app = the_app(asked.what or asked.app) if asked.what or asked.app or app_is_set() else None
    if asked.declared or (asked.log is None and app is not None and not log_is_there()):
        if app is None:
            raise Invalid("which app? give it, or a log that has recorded its wiring")
        if asked.after is not None or asked.until is not None:
            raise Invalid("--after and --until say which part of a log: give --log URL, without --declared")
        found = app.flow()
    else:
        with _log(asked) as log:
            if app is not None and log.identity.app not in ("", app.name):
                raise Diverged(f"this is a log of the app `{log.identity.app}`, not of `{app.name}`", log=log.identity.app, app=app.name)
            wiring = (app.topology(), app.modules()) if app is not None else (None, None)
            found = observed_flow(log, *wiring, after=asked.after, until=asked.until)
    drawing = drawn(found, focus=asked.focus, hops=asked.hops)
    if asked.json or asked.output == "json":
        print_json(sight.as_json(found, drawing, whole=asked.focus is None))
    else:
        for line in (sight.as_mermaid if asked.output == "mermaid" else sight.as_text)(found, drawing):
            print_line(line)
    return 1 if found.undeclared else 0


def trace(asked: argparse.Namespace) -> int:
    """Tell a conversation."""
    with _log(asked) as log:
        story = story_of(log, asked.id if asked.id is not None else asked.what, fold=not asked.all)
    if asked.json:
        print_json(story)
    else:
        for line in sight.story_as_text(story):
            print_line(line)
    return 0


def why(asked: argparse.Namespace) -> int:
    """Say why a row is as it is."""
    app = the_app(asked.app)
    cls = named(asked.name, app.views, "view")
    key = key_in(cls, asked.key)
    if len(key) != len(fold_of(cls).key):
        raise Invalid(f"which row of `{asked.name}`? its key is: {' '.join(name.upper() for name in fold_of(cls).key)}", view=asked.name)
    with _running(app, asked, views=[cls], run=True) as running:
        position = _caught_up(
            running, cls, asked, lambda head, wait: running.view(cls).position_of(*key, since=head, wait_seconds_max=wait)
        )
        if position is None:
            raise NotThere(f"the view `{asked.name}` has no row for {' '.join(asked.key) or 'the log'}", view=asked.name, key=asked.key)
        causes = causes_of(running.log, position, app.reads(), fold_of(cls))
    if asked.json:
        print_json({"view": fold_of(cls).name, "key": key, "position": position, "causes": causes})
    else:
        for line in sight.causes_as_text(f"{fold_of(cls).name} {' '.join(asked.key)}".strip(), causes):
            print_line(line)
    return 0


def latency(asked: argparse.Namespace) -> int:
    """Say how long it takes until a view shows what came, and how long deciders wait and run."""
    app = the_app(asked.app)
    views = app.views if asked.name is None else [named(asked.name, app.views, "view")]
    with _running(app, asked, views=views) as running:
        shown = [{"view": one["view"], **one["shown"]} for one in running.statistics()["views"]]
        seen = observed_flow(running.log, app.topology()) if asked.name is None else None
    arrows = seen.arrows if seen is not None else ()
    deciders = [one for one in arrows if one.source.startswith("command:") and one.target.startswith("decider:") and one.count]
    if asked.json:
        print_json({"views": shown, "deciders": deciders})
        return 0
    for line in sight.latency_as_text(shown, deciders):
        print_line(line)
    return 0


# --- a whole system


def demo(asked: argparse.Namespace) -> int:
    """Run the shop: of the wheel, where it lies inside the package, else of the checkout."""
    root = Path(__file__).parents[3]
    if (root / "examples" / "shop" / "demo.py").is_file():
        sys.path.insert(0, str(root))
        package = "examples"
    else:
        package = "happened.examples"
    run: Callable[..., int] = importlib.import_module(f"{package}.shop.demo").demo
    bad_file: type[Exception] = importlib.import_module(f"{package}.shop.read").BadFile
    try:
        with bar("the shop's lines") as progress:
            return run(asked.data, asked.log, json=asked.json, progress=progress if sys.stderr.isatty() else None)
    except bad_file as error:
        raise Invalid(str(error), data=str(asked.data)) from error


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    **replaying.COMMANDS,
    **travelling.COMMANDS,
    "demo": demo,
    "tail": tail,
    "show": show,
    "state": state,
    "views": views,
    "view": view,
    "rebuild": rebuild,
    "run": run,
    **branches.COMMANDS,
    "stuck": stuck,
    "workers": workers,
    "retry": decide_about,
    "skip": decide_about,
    "park": decide_about,
    "flow": flow,
    "trace": trace,
    "latency": latency,
    "why": why,
    "replicas": replicas,
    "replica": replica,
    "stats": stats,
    **cold.COMMANDS,
    **databases.COMMANDS,
    **AUDIT,
}


# --- opening


@contextmanager
def _log(asked: argparse.Namespace) -> Generator[Log, None, None]:
    with bar("opening") as progress:
        log = open_log(log_url(asked.log), progress=progress)
    try:
        yield log
    finally:
        log.close()


@contextmanager
def _running(
    app: App, asked: argparse.Namespace, *, views: Iterable[type[State]], run: bool = False, channels: Mapping[str, str] | None = None
) -> Generator[Running, None, None]:
    """Open an app without its deciders, and with these of its views only. Other systems are left to the processes that follow them, or looked at."""
    only = without_deciders(app, views=views, replicas=channels is not None)
    there: dict[str, str | None] = {**dict.fromkeys([*only.subscriptions, *only.replicas]), **(channels or {})}
    with bar("opening") as progress:
        running = only.open(log_url(asked.log), run=run, channels=there, views=views_url(asked.views), progress=progress)
    with running:
        yield running


def _found(log: Log, what: str) -> list[Record]:
    """Return the record at a position, or of an id; or all records of the message with this id."""
    if what.isdecimal() and len(what) <= POSITION_DIGITS_MAX:
        row = log.row_at(int(what))
        records = list(log.reader.records(row)) if row is not None else []
        found = [record for record in records if record.position == int(what)]
        if found:
            return found
    return _of_id(log, what)


def _of_id(log: Log, id: str) -> list[Record]:
    """Return all records of the message with this id, or the one record with it."""
    of_message = [record for row in log.find(id) for record in log.reader.records(row)]
    if of_message:
        return of_message
    message, sign, _ = id.rpartition("#")
    rows = log.find(message) if sign and message else ()
    return [record for row in rows for record in log.reader.records(row) if record.id == id]


def _counted(log: Log, head: int) -> dict[str, Any]:
    """Return records by kind and name, and how long each decider ran, as the log says. Reads the whole log."""
    counts: dict[tuple[str, str], int] = {}
    ran: dict[int, list[int]] = {}
    with bar("counting") as progress:
        for rows in log.engine.read(until=head):
            log.reader.learn(rows)
            for row in rows:
                header = decode_header(row.head)
                if header.handler:
                    ran.setdefault(header.handler, []).append(header.ran)
                for record in log.reader.records(row):
                    counts[record.kind, record.name] = counts.get((record.kind, record.name), 0) + 1
            progress(rows[-1].last, head)
    deciders: list[dict[str, Any]] = [
        {"decider": log.names.by_number[number].name, "decided": len(each), "ran_us": sum(each), "longest_us": max(each)}
        for number, each in ran.items()
    ]
    return {
        "counts": [{"kind": kind, "name": name, "count": count} for (kind, name), count in sorted(counts.items())],
        "deciders": sorted(deciders, key=operator.itemgetter("longest_us"), reverse=True),
    }


# --- printing


def _print_records(records: Iterable[Record], *, as_json: bool) -> None:
    for record in records:
        if as_json:
            print_json(record)
            continue
        body = text_of(msgspec.to_builtins(record.body))
        if len(body) > BODY_CHARACTERS_MAX:
            body = body[: BODY_CHARACTERS_MAX - 1] + "…"
        print_line(f"{record.position:>7}  {record.time:%Y-%m-%d %H:%M:%S.%f}  {record.kind:<8}  {record.name:<20}  {record.id}  {body}")
