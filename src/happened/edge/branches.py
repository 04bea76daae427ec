"""`happened branch`: what would have been, kept in files beside the log.

`shop.branch-NAME.json` says what is to be otherwise; `shop.branch-NAME.db` is what came of it, a log over `shop.db` that all other commands can look at.
Those of a log in PostgreSQL are called after its schema, and lie in the current folder, or in that of the settings where those name the log.
"""

import argparse
import glob
import re
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import AbstractContextManager, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any  # Any: bodies and answers are JSON

import msgspec

from happened.app import App
from happened.core.errors import Diverged, Invalid, NotThere, Unanswered
from happened.core.messages import Command, Event, name_of
from happened.edge.settings import SQLITE, log_folder, log_url, the_app
from happened.edge.words import print_json
from happened.log.log import Log
from happened.log.row import taken_apart
from happened.opening import is_postgres, schema_in
from happened.running import Branch, Running, compared
from happened.sourcing.edits import Answer, Change, Clock, Drop, Edit, Insert
from happened.wiring import strict

NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")
FOUND = 1


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One edit as it is kept."""

    what: str
    position: int
    name: str = ""
    said: Any = None


class Ran(msgspec.Struct, frozen=True):
    """What the branch was when it was run."""

    after: int
    until: int
    failed: list[str]


class Planned(msgspec.Struct, frozen=True):
    """A branch as it is kept: of which log, what is otherwise, and what came of it."""

    name: str
    log: str
    epoch: int
    position: int
    """How far the log was when the branch was made, and its digest there: that must still be so."""
    digest: str
    at: int | None = None
    edits: list[Spec] = []
    code: str = ""
    ran: Ran | None = None


def branch(asked: argparse.Namespace) -> int:
    """Do what is asked of branches."""
    if asked.action != "list" and (asked.name is None or not NAME.fullmatch(asked.name)):
        raise Invalid(f"`{asked.name or ''}` is no name of a branch: letters, digits, `_` and `-`", name=asked.name)
    return ACTIONS[asked.action](asked)


def _new(asked: argparse.Namespace) -> int:
    path = _path(asked)
    if path.exists():
        raise Invalid(f"there is a branch `{asked.name}` already: drop it, or give another name", name=asked.name)
    with _origin(asked) as origin:
        log, head = origin.log, origin.log.head
        row = log.row_at(head) if head else None
        at = log.position_at(asked.at) if isinstance(asked.at, datetime) else asked.at
        digest = row.digest.hex() if row is not None else ""
        plan = Planned(asked.name, log.identity.id, log.identity.epoch, head, digest, at, _specs(asked), asked.code or "")
        _checked(plan, origin, _code(asked, plan))
    _keep(path, plan)
    return _told(asked, plan, f"branch `{asked.name}` of {head:,} records; `happened branch run {asked.name}` runs it")


def _edit(asked: argparse.Namespace) -> int:
    plan = _planned(asked)
    edits = [*([] if asked.clear else plan.edits), *_specs(asked)]
    at = plan.at if asked.at is None else asked.at
    with _origin(asked) as origin:
        at = origin.log.position_at(at) if isinstance(at, datetime) else at
        plan = msgspec.structs.replace(plan, edits=edits, at=at, code=asked.code or plan.code, ran=None)
        _checked(plan, origin, _code(asked, plan))
    _discard(asked)
    _keep(_path(asked), plan)
    return _told(asked, plan, f"branch `{asked.name}` has {len(edits):,} edits; it is to be run anew")


def _run(asked: argparse.Namespace) -> int:
    plan = _planned(asked)
    if asked.code:
        plan = msgspec.structs.replace(plan, code=asked.code)
    with _origin(asked) as origin:
        code = _code(asked, plan)
        edits = _checked(plan, origin, code)
        _discard(asked)
        with _begun(origin, edits, plan.at, code) as made:
            made.save(_url(asked))
            failed = [f"position {one.position}, {one.id}: {one.error}" for one in made.failed]
            plan = msgspec.structs.replace(plan, ran=Ran(made.begins, made.until, failed))
            head = made.log.head
    _keep(_path(asked), plan)
    return _told(
        asked, plan, f"branch `{asked.name}` shares {plan.ran.after if plan.ran else 0:,} records and has {head:,}: --log {_url(asked)}"
    )


def _begun(origin: Running, edits: Iterable[Edit], at: int | None, code: App) -> Branch:
    """Make a branch. `Unanswered` where it asks something new: only a program can answer that."""
    try:
        return origin.branch(*edits, at=at, code=code)
    except Unanswered as error:
        raise Unanswered(
            f"{error} to `running.branch(...)`, in a program; what it keeps by `save` is opened by its URL", **error.facts
        ) from error


def _diff(asked: argparse.Namespace) -> int:
    plan = _planned(asked)
    if plan.ran is None:
        raise NotThere(f"the branch `{asked.name}` was not run: happened branch run {asked.name}", name=asked.name)
    with _origin(asked) as origin, _opened(_code(asked, plan), _url(asked)) as made:
        found = compared(origin, made, plan.ran.after, plan.ran.until, plan.ran.failed)
    if asked.json:
        print(msgspec.json.encode(found, enc_hook=str).decode())
    else:
        print("\n".join(found.lines(asked.limit)))
    return FOUND if found else 0


def _list(asked: argparse.Namespace) -> int:
    base = _base(asked)
    plans = [_read(path) for path in _branches_of(base)]
    if not plans:
        log_url(asked.log)  # where there is no log that is said
    if asked.json:
        print_json(plans)
        return 0
    for plan in plans:
        begins = "" if plan.at is None else f", from {plan.at:,}"
        code = f", code {plan.code}" if plan.code else ""
        print(f"{plan.name}: {len(plan.edits):,} edits{begins}{code}, {'not run' if plan.ran is None else f'run up to {plan.ran.until:,}'}")
    return 0


def _drop(asked: argparse.Namespace) -> int:
    plan = _planned(asked)
    above = _branches_of(_path(asked).with_suffix(""))
    if above:
        raise Invalid(f"the branch `{asked.name}` has a branch of its own, {above[0].name}: drop that first", name=asked.name)
    _discard(asked)
    _path(asked).unlink()
    return _told(asked, plan, f"branch `{asked.name}` is dropped")


ACTIONS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "new": _new,
    "edit": _edit,
    "run": _run,
    "diff": _diff,
    "list": _list,
    "drop": _drop,
}
COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {"branch": branch}


def _base(asked: argparse.Namespace) -> Path:
    """Return what the paths of a log's branches begin with: the path of the log without its ending, or its schema. The log need not be there any more."""
    url = log_url(asked.log, there=False)
    base = log_folder(asked.log) / schema_in(url) if is_postgres(url) else Path(url.removeprefix(SQLITE).removesuffix(".db"))
    return base if asked.folder is None else Path(asked.folder) / base.name


def _branches_of(base: Path) -> list[Path]:
    """Return the files of the branches of a log, and not of those of its branches."""
    start = f"{base.name}.branch-"
    return [path for path in sorted(base.parent.glob(f"{glob.escape(start)}*.json")) if NAME.fullmatch(path.stem.removeprefix(start))]


def _path(asked: argparse.Namespace) -> Path:
    base = _base(asked)
    return base.with_name(f"{base.name}.branch-{asked.name}.json")


def _url(asked: argparse.Namespace) -> str:
    return f"{SQLITE}{_path(asked).with_suffix('.db')}"


def _planned(asked: argparse.Namespace) -> Planned:
    path = _path(asked)
    if not path.is_file():
        log_url(asked.log)  # where there is no log that is said
        raise NotThere(f"there is no branch `{asked.name}`: `happened branch list` lists them", name=asked.name)
    return _read(path)


def _read(path: Path) -> Planned:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Planned)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{path} is no branch: {error}", path=str(path)) from error


def _keep(path: Path, plan: Planned) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(plan)))
    fresh.replace(path)


def _discard(asked: argparse.Namespace) -> None:
    """Delete what came of a branch."""
    path = _path(asked).with_suffix("")
    for file in (".db", ".views.db", ".snapshots.db"):
        for ending in ("", "-wal", "-shm"):
            path.with_name(path.name + file + ending).unlink(missing_ok=True)


def _told(asked: argparse.Namespace, plan: Planned, text: str) -> int:
    print(msgspec.json.encode(plan).decode() if asked.json else text)
    return 0


def _origin(asked: argparse.Namespace) -> AbstractContextManager[Running]:
    return _opened(the_app(asked.app), log_url(asked.log))


@contextmanager
def _opened(app: App, url: str) -> Generator[Running]:
    """Open an app to look: nothing runs, and no other system is heard."""
    with app.open(url, run=False, views="memory:", channels=dict.fromkeys([*app.subscriptions, *app.replicas])) as running:
        yield running


def _code(asked: argparse.Namespace, plan: Planned) -> App:
    return the_app(plan.code or asked.app)


def _checked(plan: Planned, origin: Running, code: App) -> list[Edit]:
    """Return the edits of a branch. `Diverged` where the log is not what it was when the branch was made, `Invalid` for edits that don't fit."""
    log = origin.log
    row = log.row_at(plan.position) if plan.position else None
    if (log.identity.id, log.identity.epoch) != (plan.log, plan.epoch) or (row is not None and row.digest.hex() != plan.digest):
        raise Diverged(f"the log is not the one that `{plan.name}` is a branch of: make it anew", log=log.identity.id, branch=plan.log)
    edits = [_made(spec, log, code) for spec in plan.edits]
    origin.check_edits(edits, plan.at, code)
    return edits


def _made(spec: Spec, log: Log, code: App) -> Edit:
    match spec.what:
        case "drop":
            return Drop(spec.position)
        case "answer":
            return Answer(spec.position, spec.said)
        case "clock":
            return Clock(spec.position, msgspec.convert(spec.said, datetime))
        case "insert":
            return Insert(spec.position, _body([spec.name], spec.said, code))
        case _:
            row = log.row_at(spec.position)
            number = [raw.number for _, raw in taken_apart(row)][spec.position - row.position] if row is not None else 0
            name = log.names.by_number.get(number)
            return Change(spec.position, _body([name.name] if name is not None else [], spec.said, code))


def _body(names: Iterable[str], said: Any, code: App) -> Command | Event:
    """Make a command or an event of its name and of plain data."""
    classes: dict[str, Any] = {name_of(cls)[0]: cls for cls in (*code.events, *code.handlers)}
    for name in names:
        if name in classes:
            made: Command | Event = strict(classes[name], said)
            return made
        raise Invalid(f"the app has no event and no command `{name}`; it has {', '.join(sorted(classes))}", name=name)
    raise Invalid("there is nothing to change at this position")


def _specs(asked: argparse.Namespace) -> list[Spec]:
    """Read the edits that were given, in the order of their kinds."""
    found = [Spec("change", _position(position), said=_json(text)) for position, text in asked.change]
    found += [Spec("drop", _position(position)) for position in asked.drop]
    found += [Spec("insert", _position(after), name, _json(text)) for after, name, text in asked.insert]
    found += [Spec("answer", _position(position), said=_json(text)) for position, text in asked.answer]
    found += [Spec("clock", _position(position), said=_time(text)) for position, text in asked.clock]
    return found


def _time(text: str) -> str:
    try:
        time = msgspec.convert(text, datetime)
    except msgspec.ValidationError:
        time = None
    if time is None or time.tzinfo is None:
        raise Invalid(f"`{text}` is no time with a zone, such as 2026-11-25T10:42:00Z", text=text)
    return text


def _position(text: str) -> int:
    if not text.isdecimal() or len(text) > 15:  # noqa: PLR2004 - longer ones are no positions
        raise Invalid(f"`{text}` is no position", position=text)
    return int(text)


def _json(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.MsgspecError as error:
        raise Invalid(f"`{text}` is no JSON: {error}", text=text) from error
