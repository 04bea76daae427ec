"""Travelling: what `at`, `diff`, `step`, `blame`, `bisect` and `snapshots` do. They only read the log; `snapshots` alone writes, into its own file."""

import argparse
import os
import sys
import termios
import tty
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple  # Any: values of any type

import msgspec

from happened.app import App
from happened.core.errors import Invalid, NotThere
from happened.core.state import State, fold_of
from happened.cqrs.ask import how_many
from happened.edge.progress import bar
from happened.edge.settings import log_url, the_app, without_deciders
from happened.edge.words import key_in, named, print_json, print_line, print_row, print_rows, print_table, text_of
from happened.inquiry import Changed, Difference, Found, Step, bisect, blame, differences, fields_between, not_stepped, steps
from happened.past import Past, position_of
from happened.running import Running

VALUE_CHARACTERS_MAX = 60


class Opened(NamedTuple):
    """An app whose log is looked at."""

    app: App
    running: Running

    @property
    def states(self) -> list[type[State]]:
        """All states and views of the app."""
        return list(dict.fromkeys([*(fold.state for fold in self.app.snapped()), *self.app.views]))

    def at(self, when: int | datetime) -> Past:
        """Return the app as it was."""
        handlers = [one.name for one in (*self.app.reactions, *self.app.publications)]
        return Past(self.running.log, self.running.travel, self.app.views, handlers, position_of(self.running.log, when))

    def until(self, when: int | datetime | None) -> int:
        """Return the end of the last whole command at a position or time; of the log, where none is given."""
        return position_of(self.running.log, when) if when is not None else self.running.log.head


def at(asked: argparse.Namespace) -> int:
    """Show a state, or a view, as it was."""
    with _opened(asked) as opened:
        past = opened.at(asked.when)
        of_view = asked.what == "view"
        cls = named(asked.name, opened.app.views if of_view else [one for one in opened.states if not fold_of(one).joins], asked.what)
        key = key_in(cls, asked.key)
        about: dict[str, Any] = {"position": past.position, "time": past.time}
        if asked.key or not fold_of(cls).key:
            found = past.view(cls).find(*key) if of_view else past.state(cls, *key)
            if found is None:
                shown = f"`{asked.name}` {' '.join(asked.key)}".rstrip()
                raise NotThere(f"there was no {shown} at position {past.position}", position=past.position, key=asked.key)
            print_row(found, as_json=asked.json)
            return 0
        view = past.view(cls) if of_view else None
        if view is not None:
            view = view.where(asked.where) if asked.where else view
            view = view.order_by(*asked.order) if asked.order else view
            rows: Sequence[State] = view.rows(limit=asked.limit)
            about["hidden"] = how_many(view) - len(rows)
        elif asked.where or asked.order:
            raise Invalid("--where and --order are for views: write `at WHEN view NAME`")
        else:
            every = list(past.states(cls).values())
            rows, about["hidden"] = every[: asked.limit], max(0, len(every) - asked.limit)
    print_rows(rows, about, as_json=asked.json)
    return 0


def diff(asked: argparse.Namespace) -> int:
    """Show which states differ between two positions; the exit code is 1 where any does."""
    with _opened(asked) as opened:
        states = [named(name, opened.states, "state or view") for name in asked.names] or opened.states
        before, after = opened.at(asked.before), opened.at(asked.after)
        with bar("folding"):
            found = differences(before, after, states)
    shown = found[: asked.limit]
    hidden = len(found) - len(shown)
    if asked.json:
        told = [{"state": one.state, "key": one.key, "fields": {name: list(pair) for name, pair in one.fields.items()}} for one in shown]
        print_json({"before": before.position, "after": after.position, "differ": len(found), "hidden": hidden, "differences": told})
    else:
        print(f"{len(found)} differ between position {before.position} and {after.position}")
        for one in shown:
            for line in _difference_as_text(one):
                print_line(line)
        if hidden:
            print(f"and {hidden} more: --limit shows more of them")
    return 1 if found else 0


def step(asked: argparse.Namespace) -> int:
    """Go through the events of one entity: all of them, or by keys on a terminal."""
    tag, value = asked.tag
    with _opened(asked) as opened:
        folds = [fold_of(state) for state in opened.states]
        found = list(steps(opened.running.log, folds, tag, value, opened.until(asked.until)))
    if not found:
        raise NotThere(f"no event has the tag {tag}={value}", tag=tag, value=value)
    if asked.json:
        print_json(found)
    elif asked.all or not (sys.stdin.isatty() and sys.stdout.isatty()):
        for number, one in enumerate(found, 1):
            _print_step(one, f"{number} of {len(found)}")
        if left := not_stepped(folds, tag):
            print(
                f"left out, since their keys are computed or they join others: {', '.join(fold.name for fold in left)}; see `happened blame`"
            )
    else:
        _walk(found)
    return 0


def blame_of(asked: argparse.Namespace) -> int:
    """Show which event, command and actor set a row or a field, and all before."""
    with _opened(asked) as opened:
        cls = named(asked.name, opened.states, "view or state")
        words = list(asked.key)
        fields = [field.name for field in msgspec.structs.fields(cls) if field.required]
        field = asked.field or (words.pop() if len(words) == len(fields) + 1 else None)
        if len(words) != len(fields):
            raise Invalid(f"the key of `{fold_of(cls).name}` is: {' '.join(fields).upper() or 'nothing, there is only one'}", key=words)
        key = key_in(cls, words)
        found = blame(opened.running.log, opened.running.travel, cls, key, field, opened.until(asked.until))
    shown = found[: asked.limit]
    if asked.json:
        print_json({"hidden": len(found) - len(shown), "steps": shown})
        return 0
    for one in shown:
        _print_step(one, "last set" if one is found[0] else "before", field)
    if len(shown) < len(found):
        print(f"and {len(found) - len(shown)} more: --limit shows more of them")
    return 0


def bisect_for(asked: argparse.Namespace) -> int:
    """Find the first position at which something no longer holds; the exit code is 1 where there is one."""
    with _opened(asked) as opened, bar("looking"):
        cls = named(asked.name, opened.states, "state")
        if fold_of(cls).joins:
            raise Invalid(
                f"`{asked.name}` asks for other states in its fold: `bisect` looks at states that are folded by themselves", name=asked.name
            )
        key = key_in(cls, asked.key) if asked.key or not fold_of(cls).key else None
        running = opened.running
        found = bisect(running.log, running.travel, cls, key, asked.expression, opened.until(asked.until), linear=asked.linear)
        records = list(running.log.read(after=found.holds_at, until=found.position)) if found.position is not None else []
        there = key is None or found.position is not None or running.travel.state(fold_of(cls), key, found.holds_at) is not None
    if asked.json:
        print_json(
            {**found._asdict(), "there": there, "records": [{"position": one.position, "id": one.id, "name": one.name} for one in records]}
        )
    else:
        for line in _found_as_text(found, asked, [f"{one.position}  {one.kind}  {one.name}  {one.id}" for one in records]):
            print_line(line)
        if not there:
            shown = f"{asked.name} {' '.join(map(text_of, found.key))}".rstrip()
            print_line(f"There is no {shown} at that position: what is not there counts as what holds.")
    return 1 if found.position is not None else 0


def snapshots(asked: argparse.Namespace) -> int:
    """List the snapshots, take some, or drop them. The exit code is 1 where one is not used."""
    with _opened(asked) as opened:
        folds = opened.app.snapped()
        of = opened.running.snapshots
        if asked.take or asked.drop:
            chosen = [fold_of(named(name, [fold.state for fold in folds], "state")) for name in asked.names] or folds
            if asked.drop:
                of.drop([fold.name for fold in chosen] if asked.names else None)
            else:
                head, log = opened.until(asked.at), opened.running.log
                for fold in chosen:
                    with bar(f"folding {fold.name}") as progress:
                        for part in range(1, asked.depths + 1):
                            position = position_of(log, head * part // asked.depths)
                            if position:
                                of.take(fold, position, progress)
        listed = of.listed(folds)
    if asked.json:
        print_json(listed)
    else:
        print_table(
            [
                {
                    "state": one.state,
                    "position": one.position,
                    "states": one.states,
                    "bytes": one.bytes,
                    "seconds": f"{one.seconds:.3f}",
                    "used": f"no: {one.wrong}" if one.wrong else "yes",
                }
                for one in listed
            ]
        )
    return 1 if any(one.wrong for one in listed) else 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "at": at,
    "diff": diff,
    "step": step,
    "blame": blame_of,
    "bisect": bisect_for,
    "snapshots": snapshots,
}


@contextmanager
def _opened(asked: argparse.Namespace) -> Generator[Opened, None, None]:
    """Open an app to look at its log: without deciders, views or workers."""
    app = the_app(asked.app)
    only = without_deciders(app)
    with bar("opening") as progress:
        running = only.open(log_url(asked.log), run=False, channels=dict.fromkeys(only.subscriptions), progress=progress)
    with running:
        yield Opened(app, running)


# --- as text


def _difference_as_text(one: Difference) -> list[str]:
    shown = f"{one.state} {' '.join(map(text_of, one.key))}".rstrip()
    if one.before is None or one.after is None:
        state = one.after if one.before is None else one.before
        return [f"{'+' if one.before is None else '-'} {shown}: {_cut(msgspec.to_builtins(state))}"]
    return [f"~ {shown}", *(f"    {name}: {_cut(old)} -> {_cut(new)}" for name, (old, new) in one.fields.items())]


def _print_step(one: Step, title: str, field: str | None = None) -> None:
    by = f" by {one.actor}" if one.actor else ""
    why = f", decided on {one.command} {one.cause}" if one.command else f", after {one.cause}" if one.cause else ""
    print_line(f"{title}: position {one.position}, {one.time:%Y-%m-%d %H:%M:%S}, {one.name} {one.id}{by}{why}")
    print_line(f"    {_cut(msgspec.to_builtins(one.body), 100)}")
    for changed in one.changes:
        for line in _change_as_text(changed, field):
            print_line(f"    {line}")


def _change_as_text(changed: Changed, field: str | None) -> list[str]:
    shown = f"{changed.state} {' '.join(map(text_of, changed.key))}".rstrip()
    if changed.error:
        return [f"{shown} stands still: {changed.error}"]
    if changed.after is None:
        return [f"{shown} is gone"]
    pairs = fields_between(changed.before, changed.after)
    began = "" if changed.before is not None else " (new)"
    return [f"{shown}{began}  {name}: {_cut(old)} -> {_cut(new)}" for name, (old, new) in pairs.items() if field in (None, name)] or [
        f"{shown} stays as it is"
    ]


def _found_as_text(found: Found, asked: argparse.Namespace, records: Sequence[str]) -> list[str]:
    how = f"{'searched in order' if found.how == 'linear' else 'found by bisection'}, {found.looks:,} look{'s' if found.looks != 1 else ''}"
    if found.position is None:
        between = "" if found.how == "linear" else "; what was in between was not looked at: --linear looks after every command"
        return [f"`{asked.expression}` holds at position {found.holds_at} ({how}){between}"]
    shown = f"{asked.name} {' '.join(map(text_of, found.key))}".rstrip()
    sure = "" if found.how == "linear" else " It may have failed and held again before: --linear looks after every command."
    return [
        f"`{asked.expression}` holds no more from position {found.position} on ({how}). It held at {found.holds_at}.{sure}",
        f"{shown}: {_cut(msgspec.to_builtins(found.state), 200)}",
        *records,
    ]


def _cut(value: Any, most: int = VALUE_CHARACTERS_MAX) -> str:
    text = text_of(msgspec.to_builtins(value, enc_hook=str))
    return text if len(text) <= most else f"{text[: most - 1]}…"


# --- on a terminal


def _walk(found: Sequence[Step]) -> None:
    """Show one step, and go on by keys: n next, p previous, g first, G last, q quit."""
    place = 0
    with _keys() as key_pressed:
        while True:
            _print_step(found[place], f"{place + 1} of {len(found)}")
            print("n next, p previous, g first, G last, q quit", flush=True)
            match key_pressed():
                case "p":
                    place = max(place - 1, 0)
                case "g":
                    place = 0
                case "G":
                    place = len(found) - 1
                case "q" | "" | "\x04":
                    return
                case _:
                    place = min(place + 1, len(found) - 1)


@contextmanager
def _keys() -> Generator[Callable[[], str], None, None]:
    """Give a function that waits for one key, without a line's end; what was typed before is not lost."""
    door = sys.stdin.fileno()
    before = termios.tcgetattr(door)
    try:
        tty.setcbreak(door, termios.TCSADRAIN)
        yield lambda: os.read(door, 1).decode(errors="replace")
    finally:
        termios.tcsetattr(door, termios.TCSADRAIN, before)
