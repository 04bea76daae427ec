"""Replaying: what `check`, `lint` and `debug` do. Does this code, on this history, come to the same, and where does it not."""

import argparse
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any  # Any: values of any type

import msgspec

from happened.app import App
from happened.checking.decisions import Checked, decide_again
from happened.checking.differences import NOTHING, Difference, Divergence
from happened.checking.lint import Linted, lint
from happened.checking.ranges import readings_of
from happened.checking.reading import RISKY, Readings, Verdict
from happened.checking.views import CheckedView, fold_views_again, load_states_again
from happened.checking.visit import seldom_collected, snapshots_of, visit
from happened.core.errors import Invalid, NotThere
from happened.edge.progress import bar
from happened.edge.settings import declared_differences, log_url, named_app, the_app, views_url
from happened.edge.words import print_line
from happened.log.log import Log
from happened.opening import beside, look_at_rows
from happened.sourcing.snapshot import Snapshot

VALUE_CHARACTERS_MAX = 200
ERASED_SHOWN_MAX = 10
"""How many positions of what is erased are told of one divergence."""


def check(asked: argparse.Namespace) -> int:
    """Say whether today's code can read the log, or with --decide and --fold whether it comes to the same; the exit code is 1 where it does not."""
    named, app = named_app(asked.named or asked.app)
    told: dict[str, Any] = {}
    lines: list[str] = []
    if asked.decide or asked.fold:
        fine = True
        with _log(app, asked) as log:
            if asked.decide:
                checked = _decided(app, log, asked)
                fine = not checked.diverged
                told["decide"] = {**msgspec.to_builtins(checked, enc_hook=str), "hidden": checked.hidden}
                lines += decided_as_text(checked, asked.show)
            if asked.fold:
                views, states = _folded(app, log, asked)
                fine = fine and not any(one.wrong for one in (*views, *states))
                told["fold"] = {"views": msgspec.to_builtins(views, enc_hook=str), "states": msgspec.to_builtins(states, enc_hook=str)}
                lines += folded_as_text(views, states, asked.show)
    else:
        url = log_url(asked.log)
        with bar("reading") as progress:
            readings = readings_of(url, app, progress, named=named)
        fine = readings.readable
        snapshots = snapshots_of(url, app) if fine else []
        linted = lint(app)
        told = {**msgspec.to_builtins(readings), "snapshots": msgspec.to_builtins(snapshots), "lint": msgspec.to_builtins(linted)}
        lines += [*readings_as_text(readings, asked.show), *snapshots_as_text(snapshots), *linted_as_text(linted)]
    _print(told, lines, as_json=asked.json)
    return 0 if fine else 1


def lint_code(asked: argparse.Namespace) -> int:
    """Say what in the code may not come out the same each time; the exit code is 1 where anything is found."""
    linted = lint(the_app(asked.named or asked.app))
    _print(linted, linted_as_text(linted), as_json=asked.json)
    return 1 if linted.findings else 0


def debug(asked: argparse.Namespace) -> int:
    """Run the decider or the `evolve` of a position once more, under `pdb`."""
    from happened.edge.debugging import decider_again, evolve_again  # lazy: a debugger takes longer to import than most commands to run

    if asked.json:
        raise Invalid("`debug` is a session at a prompt, and prints no JSON: leave --json out; `happened show --json` has the record")
    app = the_app(asked.named or asked.app)
    with _log(app, asked) as log:
        reader = log.reader
        row = log.row_at(asked.at)
        if row is None:
            raise NotThere(f"the log has no position {asked.at}", position=asked.at)
        if asked.evolve is not None:
            lines = evolve_again(app, log, reader, row, asked.at, asked.evolve)
        else:
            lines = decider_again(app, log, reader, row)
    for line in lines:
        print(line)
    return 0


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {"check": check, "lint": lint_code, "debug": debug}


# --- check


def _decided(app: App, log: Log, asked: argparse.Namespace) -> Checked:
    may_differ = [*declared_differences(), *asked.may_differ]
    with bar("deciding again") as progress:
        return decide_again(app, log, may_differ=may_differ, shown_max=asked.show, progress=progress)


def _folded(app: App, log: Log, asked: argparse.Namespace) -> tuple[list[CheckedView], list[CheckedView]]:
    with bar("folding again") as progress, look_at_rows(views_url(asked.views) or beside(log_url(asked.log))) as there, seldom_collected():
        views = fold_views_again(app, log, there, shown_max=asked.show, progress=progress)
    with bar("loading again") as progress, seldom_collected():
        states = load_states_again(app, log, shown_max=asked.show, progress=progress)
    return views, states


def decided_as_text(checked: Checked, shown_max: int) -> Iterator[str]:
    """Tell what came of deciding again."""
    all_in_all = checked.inputs + checked.runs
    yield (
        f"decided again up to position {checked.position:,}: {checked.inputs:,} inputs and {checked.runs:,} runs of reactions; "
        f"{checked.same:,} of {all_in_all:,} come to the same"
    )
    if checked.declared:
        yield f"{checked.declared:,} differ only where they may"
    for why, count in checked.unchecked.items():
        yield f"not decided again: {count:,}, {why}"
    if checked.unproven:
        yield f"{checked.unproven:,} come to something else, and had read what is erased since, or may have: why can't be told, and fails nothing"
        yield from _first(checked.unproven_divergences, checked.unproven, shown_max)
    if not checked.diverged:
        return
    by_handler = ", ".join(f"{count:,} of {handler}" for handler, count in sorted(checked.by_handler.items()))
    yield f"{checked.diverged:,} come to something else: {by_handler}"
    yield from _first(checked.divergences, checked.diverged, shown_max)


def _first(divergences: Sequence[Divergence], count: int, shown_max: int) -> Iterator[str]:
    shown = divergences[:shown_max]
    for number, divergence in enumerate(shown):
        yield ""
        if not number:
            yield "the first:"
        yield from diverged_as_text(divergence)
    if count > len(shown):
        yield ""
        yield f"and {count - len(shown):,} more, not shown (--show COUNT)"


def diverged_as_text(divergence: Divergence) -> Iterator[str]:
    """Tell one divergence."""
    yield f"position {divergence.position:,}: {divergence.handler} on {divergence.heard} {divergence.id}"
    then, now = divergence.fingerprint_then, divergence.fingerprint_now
    if then != now:
        yield f"  code  then {then or '?'}, now {now}"
    else:
        yield f"  code  {now}, then as now: what it reads or hears is another, or it does not come out the same each time (`happened lint`)"
    for said, positions in (("which it had read", divergence.had_read), ("which it may have read", divergence.may_have_read)):
        if positions:
            yield f"  erased  position{'s' * (len(positions) > 1)} {_capped(positions, ERASED_SHOWN_MAX, '')}, {said}"
    yield from _differences(divergence.differences)


def folded_as_text(views: Sequence[CheckedView], states: Sequence[CheckedView], shown_max: int) -> Iterator[str]:
    """Tell what came of folding again."""
    if not views and not states:
        yield "nothing to fold: the app has no views, and reads no states"
    for what, listed in (("view", views), ("state", states)):
        for one in listed:
            behind = f", {one.behind:,} records behind the log" if one.behind else ""
            if one.why:
                yield f"{what} {one.name}: not compared: {one.why}"
            elif one.wrong:
                yield f"{what} {one.name}: {one.wrong:,} of {one.rows:,} rows differ as of position {one.position:,}{behind}"
            else:
                yield f"{what} {one.name}: {one.rows:,} rows equal as of position {one.position:,}{behind}"
            if one.fingerprint_then != one.fingerprint_now and one.fingerprint_then:
                yield f"  code  then {one.fingerprint_then}, now {one.fingerprint_now}"
            if one.columns:
                yield f"  only one of both has the columns {', '.join(one.columns)}: not compared"
            if one.unheld:
                yield f"  {one.unheld:,} keys stand still, which this database can't hold: not compared"
            yield from _differences(one.differences)
            if one.wrong > shown_max:
                yield f"  and {one.wrong - shown_max:,} more rows, not shown (--show COUNT)"


def readings_as_text(readings: Readings, shown_max: int) -> Iterator[str]:
    """Tell whether the log can be read: a line for each name, and below it what is to be said of it."""
    width = max((len(f"{one.name} {one.version}") for one in readings.names), default=0)
    for one in readings.names:
        bad = f", {one.bad:,} can't be read" if one.bad else ""
        called = f"{one.name} {one.version}"
        yield f"{one.verdict:<10}  {called:<{width}}  {one.count:,}, first {one.first:,}, last {one.last:,}{bad}"
        yield from (f"            {line}" for line in _about(one, shown_max))
    impossible = [one for one in readings.names if one.bad]
    risky = sum(one.verdict == RISKY for one in readings.names)
    yield (
        f"{readings.position:,} positions, {len(readings.names)} names: "
        + (f"{sum(one.bad for one in impossible):,} records of {len(impossible)} can't be read" if impossible else "all can be read")
        + (f"; of {risky} something is lost or defaulted" if risky else "")
    )


def _about(one: Verdict, shown_max: int) -> Iterator[str]:
    for trouble in one.troubles:
        where = f" at `{trouble.path}`" if trouble.path else ""
        yield f"{trouble.reason}{where}: position{'s' * (len(trouble.positions) > 1)} {_capped(trouble.positions, shown_max)}"
    if one.dropped:
        yield f"recorded, and dropped: {_capped(one.dropped, shown_max)}"
    if one.defaulted:
        yield f"not recorded, and defaulted: {_capped(one.defaulted, shown_max)}"
    if one.altered:
        yield f"recorded, and not read in full: {_capped(one.altered, shown_max)}"
    if one.zoneless:
        yield f"recorded without a zone, and read as a time: {_capped(one.zoneless, shown_max)}"
    yield from one.notes


def _capped(found: Sequence[object], most: int, hint: str = " (--show COUNT)") -> str:
    more = f" and {len(found) - most:,} more{hint}" if len(found) > most else ""
    return f"{', '.join(map(str, found[:most]))}{more}"


def snapshots_as_text(snapshots: Sequence[Snapshot]) -> Iterator[str]:
    """Tell which snapshots are not used, and why."""
    for one in snapshots:
        if one.wrong:
            yield f"snapshot of {one.state} at position {one.position:,} is not used: {one.wrong}"
    if snapshots:
        yield f"{len(snapshots)} snapshots, {sum(not one.wrong for one in snapshots)} of them used"


def _differences(differences: Iterable[Difference]) -> Iterator[str]:
    for one in differences:
        yield f"  {one.path}"
        yield f"    then  {_shown(one.then)}"
        yield f"    now   {_shown(one.now)}"


def linted_as_text(linted: Linted) -> Iterator[str]:
    """Tell what was found in the code."""
    for one in linted.findings:
        yield f"{_short(one.file)}:{one.line}: {one.what} ({one.rule}) in {one.where}, by {one.by}: {one.instead}"
    for name in linted.unresolved:
        yield f"unresolved: {name}"
    count = len(linted.findings)
    yield f"{linted.functions:,} functions looked at: {f'{count:,} found' if count else 'nothing found'}"


def _short(path: str) -> str:
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _shown(value: Any) -> str:
    if value == NOTHING:
        return NOTHING
    text = msgspec.json.encode(value, enc_hook=str).decode()
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[: VALUE_CHARACTERS_MAX - 1]}…"


def _print(told: Any, lines: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        print(msgspec.json.encode(told, enc_hook=str).decode())
    else:
        for line in lines:
            print_line(line)


@contextmanager
def _log(app: App, asked: argparse.Namespace) -> Generator[Log, None, None]:
    with bar("opening") as progress:
        log = visit(log_url(asked.log), app, progress)
    with closing(log):
        yield log
