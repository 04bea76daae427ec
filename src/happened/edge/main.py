"""The command line: what can be asked for, and how an answer or an error leaves the process.

What the commands do stands in `commands.py`, which is imported only when one is run: `happened --help` is read more often than any of them.
"""

import argparse
import json
import math
import os
import re
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import NoReturn

from happened.core.errors import Diverged, Error, Incompatible, Invalid

FINE, FOUND, BAD, INTERRUPTED = 0, 1, 2, 130

BAD_INPUT = (Invalid, Incompatible, Diverged)
"""What the caller gave does not hold together: arguments, app and log. All other errors were found on the way."""

KINDS = ("input", "internal", "answer", "output", "system")

ACTS = (
    ("retry", "try again, now, what a handler could not get past; that is recorded"),
    ("skip", "go on without what a handler could not get past, for good; that is recorded"),
    ("park", "go on without what a handler could not get past, and keep it to be retried later; that is recorded"),
)

COUNT_MAX = 10**15
"""More than any log holds, and less than SQLite takes."""

DAYS_MAX = 36_500
"""A hundred years: further back no clock has written."""

UNITS = {"": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
"""What a size may be said in, in bytes."""

EPILOG = """\
exit codes:
  0    done
  1    found something wrong, not there, refused, or not in time
  2    bad arguments, app, log or file; nothing was done
  130  interrupted

An error is one line on stderr; with --json it is an object with `error`, `text` and `facts` on stdout.
Without --app and --log they are read from the nearest pyproject.toml:

  [tool.happened]
  app = "shop.main:app"
  log = "sqlite:///shop.db"     # relative to that file
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the arguments say; return the exit code: 0 done, 1 found something wrong, 2 bad arguments or input, 130 interrupted."""
    given = sys.argv[1:] if arguments is None else list(arguments)
    as_json = "--json" in given
    _let_any_text_leave(as_json=as_json)
    try:
        _check_text(given)
        asked = the_parser().parse_args(given, argparse.Namespace(json=False, log=None, app=None, views=None))
        from happened.edge import commands  # lazy: help and bad arguments need none of it

        code = commands.COMMANDS[asked.command](asked)
        sys.stdout.flush()
    except Error as error:
        return told(error, as_json=as_json)
    except BrokenPipeError:  # whoever read has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FINE
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _let_any_text_leave(*, as_json: bool) -> None:
    """Print in any encoding of the output: JSON is UTF-8, and of other text what the encoding does not have is escaped, as on stderr."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)  # what stands in its place may have none
    if reconfigure is not None:
        reconfigure(**{"encoding": "utf-8"} if as_json else {"errors": "backslashreplace"})


def _check_text(arguments: Sequence[str]) -> None:
    for argument in arguments:
        try:
            argument.encode()
        except UnicodeEncodeError as error:
            from happened.shelf.connection import as_shown  # lazy: as above

            shown = ascii(as_shown(argument))
            raise Invalid(f"the argument {shown} is not text in UTF-8", argument=shown) from error


def told(error: Error, *, as_json: bool) -> int:
    """Say what went wrong; return the exit code."""
    usage = error.facts.pop("usage", "")
    if as_json:
        print(json.dumps({"error": type(error).__name__, "text": str(error), "facts": error.facts}, default=str))
    else:
        from happened.edge.words import one_line  # lazy: as above

        print(f"{usage}error: {one_line(str(error))}", file=sys.stderr)
    return BAD if isinstance(error, BAD_INPUT) else FOUND


def the_parser() -> argparse.ArgumentParser:
    """Say what can be asked for."""
    for_all = Parser(add_help=False)
    for_all.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    of_a_log = Parser(add_help=False)
    of_a_log.add_argument("--log", metavar="URL", default=argparse.SUPPRESS, help="the log, such as sqlite:///shop.db")
    of_an_app = Parser(add_help=False)
    of_an_app.add_argument("--app", metavar="MODULE:APP", default=argparse.SUPPRESS, help="the app, such as shop.main:app")
    parser = Parser(
        prog="happened",
        usage="%(prog)s [options] COMMAND ...",
        description="Run an app, and look into its log, its states and its views.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        parents=[for_all, of_a_log, of_an_app],
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    of_views = Parser(add_help=False)
    of_views.add_argument("--views", metavar="URL", help="where the views lie, if not beside the log")

    def add(name: str, about: str, *, app: bool = False, views: bool = False, more: Parser | None = None) -> argparse.ArgumentParser:
        parents = [for_all, of_a_log, *([of_an_app] if app else []), *([of_views] if views else []), *([more] if more is not None else [])]
        return commands.add_parser(
            name,
            prog=f"happened {name}",
            help=about,
            description=f"{about[0].upper()}{about[1:]}.",
            parents=parents,
            allow_abbrev=False,
        )

    demo = add("demo", "run a whole system, a shop, and show what happened in it")
    demo.add_argument("--data", type=Path, metavar="FILE", help="Online Retail as CSV, also compressed by gzip; by default a small sample")
    tail = add("tail", "show the last records, one on each line")
    tail.add_argument("-n", type=counted, default=20, metavar="COUNT", dest="count", help="how many (20)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with what is recorded from now on, until interrupted")
    tail.add_argument("--all", action="store_true", help="also what the log records about itself")
    tail.add_argument("--kind", choices=KINDS, action="append", metavar="KIND", help=f"only records of this kind: {', '.join(KINDS)}")
    tail.add_argument("--name", action="append", metavar="NAME", help="only records of this name")
    tail.add_argument("--tag", type=tagged, action="append", metavar="TAG=VALUE", help="only records with this tag, such as sku=widget")
    show = add("show", "show a record whole, or all records of a message")
    of_show = show.add_mutually_exclusive_group(required=True)
    of_show.add_argument("what", metavar="POSITION|ID", nargs="?", help="a position, or the id of a message or record")
    of_show.add_argument("--id", metavar="ID", help="an id, also one that looks like a position")
    state = add("state", "show a state as the log says now", app=True)
    state.add_argument("name", metavar="NAME", help="the state's name")
    state.add_argument("key", metavar="KEY", nargs="*", help="the values of its key; without them all states of this name")
    add("views", "list the views: how far each is, who runs it, what stands still", app=True, views=True)
    view = add("view", "show rows of a view, as of all that is in the log", app=True, views=True)
    view.add_argument("name", metavar="NAME", help="the view's name")
    view.add_argument("key", metavar="KEY", nargs="*", help="the values of its key; without them many rows")
    view.add_argument("--where", metavar="SQL", default="", help="a condition in the names of the fields, such as 'units > 5'")
    view.add_argument(
        "--order", metavar="FIELD", action="append", default=[], help="order by this field; --order=-FIELD from the largest down"
    )
    view.add_argument("--limit", type=counted, default=1000, metavar="COUNT", help="rows at most (1000)")
    view.add_argument("--wait", type=seconds, default=60, metavar="SECONDS", help="how long the view may take to catch up (60)")
    rebuild = add("rebuild", "build a view anew beside the old one, and switch to it; or the index of a damaged log", app=True, views=True)
    what = rebuild.add_mutually_exclusive_group(required=True)
    what.add_argument("name", metavar="NAME", nargs="?", help="the view's name")
    what.add_argument("--index", action="store_true", help="the index of a log, from its rows: stop all that use the log before")
    of_channels = Parser(add_help=False)
    of_channels.add_argument(
        "--channel",
        type=channel,
        action="append",
        default=[],
        metavar="SYSTEM=URL",
        help="where another system's log is: crm=sqlite:///crm.db",
    )
    run = add(
        "run", "run an app until it is told to stop: reactions, timers, views, pending commands", app=True, views=True, more=of_channels
    )
    run.add_argument("named", metavar="MODULE:APP", nargs="?", help="the app, as --app names it")
    run.add_argument("--no-outside", action="store_true", help="reach nothing outside: ask no gateway, read no channel")
    run.add_argument("--every", type=seconds, default=0, metavar="SECONDS", help="say how it stands every so often (0: never)")
    run.add_argument("--cold-after", type=days, metavar="DAYS", help="pack away by itself what was recorded so many days ago")
    run.add_argument(
        "--cold-above",
        type=size,
        metavar="SIZE",
        help="pack away by itself what is oldest once the rows take more than so much, such as 2GB",
    )
    add("workers", "list who runs what: the owner of each handler, view and copy, and for how long")
    stuck = add("stuck", "list what handlers could not get past, and with --app what stands still in views", app=True, views=True)
    stuck.add_argument("--trace", action="store_true", help="also where each error came from")
    for act, about in ACTS:
        acting = add(act, about)
        acting.add_argument("handler", metavar="HANDLER", help="the handler, as `happened stuck` names it")
        acting.add_argument("position", type=counted, metavar="POSITION", help="of the record that it could not get past")
        acting.add_argument("--actor", metavar="NAME", help="who decides it; by default the name of the user")
        acting.add_argument("--reason", default="", metavar="TEXT", help="why; it is recorded, too")
    flow = add("flow", "draw who says what and who listens: as it is declared and, with a log, as it was seen", app=True)
    flow.add_argument("what", metavar="MODULE:APP", nargs="?", help="the app; by default --app, or the wiring that the log has recorded")
    flow.add_argument("-o", "--output", choices=("text", "mermaid", "json"), default="text", help="how to show it (text)")
    flow.add_argument("--declared", action="store_true", help="look at no log, also where the settings name one")
    flow.add_argument("--after", type=moment, metavar="WHEN", help="only what was recorded after this position or time")
    flow.add_argument("--until", type=moment, metavar="WHEN", help="only what was recorded up to this position or time")
    flow.add_argument("--focus", metavar="NAME", help="what is near a message, a handler, or in a module")
    flow.add_argument("--hops", type=counted, default=2, metavar="N", help="how near, in arrows (2)")
    trace = add("trace", "tell one conversation as a tree of what caused what")
    of_trace = trace.add_mutually_exclusive_group(required=True)
    of_trace.add_argument(
        "what",
        metavar="ID|POSITION|CORRELATION",
        nargs="?",
        help="a message of it, a position in it, a receipt of it, or what it is called",
    )
    of_trace.add_argument("--id", metavar="ID", help="an id, also one that looks like a position")
    trace.add_argument("--all", action="store_true", help="each record on a line of its own: fold nothing")
    why = add("why", "say why a row of a view is as it is: the event, the command, and on to what came from outside", app=True, views=True)
    why.add_argument("name", metavar="VIEW", help="the view's name")
    why.add_argument("key", metavar="KEY", nargs="*", help="the values of the row's key")
    why.add_argument("--wait", type=seconds, default=60, metavar="SECONDS", help="how long the view may take to catch up (60)")
    add(
        "replicas",
        "list the copies of other systems' states: position, age, and what is proven of them",
        app=True,
        views=True,
        more=of_channels,
    )
    replica = add("replica", "show rows of the copy of another system's states", app=True, views=True, more=of_channels)
    replica.add_argument("name", metavar="NAME", help="the state's name, or crm/NAME where several systems have one")
    replica.add_argument("key", metavar="KEY", nargs="*", help="the values of its key; without them many rows")
    replica.add_argument("--limit", type=counted, default=1000, metavar="COUNT", help="rows at most (1000)")
    latency = add(
        "latency", "say how long it takes from a command to the view that shows it, and what deciders wait and run", app=True, views=True
    )
    latency.add_argument("name", metavar="VIEW", nargs="?", help="only of this view")
    _add_travelling(add)
    _add_cold(add)
    _add_replaying(add)
    add_audit(add)
    add("migrate", "make the tables of a log in PostgreSQL, or bring them up to date; who opens a log does so, too, where the role may")
    stats = add("stats", "tell who the log is, how long, how large, how many commands wait for their decision, and what it knows")
    stats.add_argument(
        "--count", action="store_true", help="also count records by kind and name, and how long deciders ran: reads the whole log"
    )
    add_branch(add)
    return parser


def _add_replaying(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Say what can be asked of a replay."""
    check = add(
        "check", "say whether this code can read the log, or with --decide and --fold whether it comes to the same", app=True, views=True
    )
    check.add_argument("named", metavar="MODULE:APP", nargs="?", help="the app, as --app names it")
    check.add_argument("--decide", action="store_true", help="decide every recorded input again, and compare what comes of it")
    check.add_argument("--fold", action="store_true", help="fold the log again, and compare views and states with it")
    check.add_argument(
        "--may-differ",
        action="append",
        default=[],
        metavar="NAME.FIELD",
        help="a field that may come out otherwise, such as OrderPlaced.total; refused: what refusals say",
    )
    check.add_argument(
        "--show", type=counted, default=20, metavar="COUNT", help="how many differences, positions or fields to show of one thing (20)"
    )
    lint = add("lint", "find what may not come out the same each time: clock, chance, files, network, global state", app=True)
    lint.add_argument("named", metavar="MODULE:APP", nargs="?", help="the app, as --app names it")
    debug = add("debug", "run the decider of a position once more, under pdb, with the same states, world and answers", app=True)
    debug.add_argument("named", metavar="MODULE:APP", nargs="?", help="the app, as --app names it")
    debug.add_argument(
        "--at", type=counted, required=True, metavar="POSITION", help="a position of what was decided; with --evolve of an event"
    )
    debug.add_argument("--evolve", nargs="+", metavar=("STATE", "KEY"), help="run the `evolve` of this state instead")


def _add_travelling(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Say what can be asked of the past."""
    at = add("at", "show a state or a view as it was at a position or time", app=True)
    at.add_argument("when", type=moment, metavar="POSITION|TIME", help="a position, or a time with a zone")
    at.add_argument("what", choices=("state", "view"), help="what to show")
    at.add_argument("name", metavar="NAME", help="the state's or view's name")
    at.add_argument("key", metavar="KEY", nargs="*", help="the values of its key; without them all there were")
    at.add_argument("--where", metavar="SQL", default="", help="of a view: a condition in the names of the fields")
    at.add_argument(
        "--order", metavar="FIELD", action="append", default=[], help="of a view: order by this field; --order=-FIELD downwards"
    )
    at.add_argument("--limit", type=counted, default=1000, metavar="COUNT", help="rows at most (1000)")
    diff = add("diff", "say which states and views differ between two positions or times", app=True)
    diff.add_argument("before", type=moment, metavar="A", help="a position, or a time with a zone")
    diff.add_argument("after", type=moment, metavar="B", help="another one")
    diff.add_argument("names", metavar="NAME", nargs="*", help="only these states and views")
    diff.add_argument("--limit", type=counted, default=100, metavar="COUNT", help="differences at most (100)")
    step = add("step", "go through the events of one entity, with what each changed", app=True)
    step.add_argument("tag", type=tagged, metavar="TAG=VALUE", help="the entity, such as sku=widget")
    step.add_argument("--all", action="store_true", help="print all at once, also on a terminal")
    step.add_argument("--until", type=moment, metavar="WHEN", help="up to this position or time")
    blame = add("blame", "say which event, command and actor last set a row or a field, and all before", app=True)
    blame.add_argument("name", metavar="VIEW", help="the view's or state's name")
    blame.add_argument("key", metavar="KEY", nargs="*", help="the values of its key; after them a field")
    blame.add_argument("--field", metavar="FIELD", help="only what set this field")
    blame.add_argument("--until", type=moment, metavar="WHEN", help="as of this position or time")
    blame.add_argument("--limit", type=counted, default=100, metavar="COUNT", help="events at most (100)")
    bisect = add("bisect", "find the first position at which something no longer holds", app=True)
    bisect.add_argument("expression", metavar="EXPRESSION", help="what should hold, in the names of the fields, such as 'units >= 0'")
    bisect.add_argument("name", metavar="STATE", help="the state's name")
    bisect.add_argument("key", metavar="KEY", nargs="*", help="the values of its key; without them it should hold for all")
    bisect.add_argument("--linear", action="store_true", help="look after every command: finds the first also where it held again later")
    bisect.add_argument("--until", type=moment, metavar="WHEN", help="up to this position or time")
    snapshots = add("snapshots", "list the snapshots and whether they are used; take or drop them", app=True)
    snapshots.add_argument("names", metavar="STATE", nargs="*", help="with --take and --drop: only of these")
    doing = snapshots.add_mutually_exclusive_group()
    doing.add_argument("--take", action="store_true", help="take snapshots of all states")
    doing.add_argument("--drop", action="store_true", help="drop them: nothing is lost but time")
    snapshots.add_argument("--at", type=moment, metavar="WHEN", help="with --take: as of this position or time (the end)")
    snapshots.add_argument("--depths", type=counted, default=1, metavar="COUNT", help="with --take: so many, evenly up to there (1)")


def add_branch(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what can be asked of branches."""
    branch = add("branch", "say what would have been: with edits, or by other code, on a branch of the log", app=True)
    branch.add_argument(
        "action", choices=("new", "edit", "run", "diff", "list", "drop"), metavar="ACTION", help="new, edit, run, diff, list or drop"
    )
    branch.add_argument("name", metavar="NAME", nargs="?", help="the branch's name")
    branch.add_argument("--at", type=moment, metavar="WHEN", help="begin after this position or time; by default before the first edit")
    for option, meta, about in (
        ("--change", ("POSITION", "JSON"), "another body for a command, a fact, or an event that was decided"),
        ("--insert", ("AFTER", "NAME", "JSON"), "a command or a fact that comes after a position"),
        ("--answer", ("POSITION", "JSON"), "another answer of the outside"),
        ("--clock", ("POSITION", "TIME"), "another `now` for a command"),
    ):
        branch.add_argument(option, nargs=len(meta), metavar=meta, action="append", default=[], help=about)
    branch.add_argument(
        "--drop", metavar="POSITION", action="append", default=[], help="leave out a command, a fact, or an event that was decided"
    )
    branch.add_argument(
        "--folder",
        metavar="FOLDER",
        help="where branches are kept, if not beside the log's file; for a log in PostgreSQL: if not in the current folder",
    )
    branch.add_argument("--clear", action="store_true", help="with edit: forget the edits that there are")
    branch.add_argument("--code", metavar="MODULE:APP", help="run with this code")
    branch.add_argument("--limit", type=counted, default=20, metavar="COUNT", help="lines of each kind that diff shows (20)")


def _add_cold(add: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Say what can be asked for about cold parts."""
    compact = add(
        "compact",
        "pack old records away in the log's own file or schema, so that they take about a sixth; they are read and verified as before",
    )
    compact.add_argument(
        "--keep", type=counted, metavar="COUNT", help="records at the end that stay as they are (10000; with --older or --above 0)"
    )
    compact.add_argument("--older", type=days, metavar="DAYS", help="only what was recorded so many days ago or more")
    compact.add_argument("--above", type=size, metavar="SIZE", help="only so much that the rows that stay take at most this, such as 500MB")
    compact.add_argument(
        "--rewrite",
        action="store_true",
        help="write anew a file, or the table in PostgreSQL, that can't give back space else; others wait for that",
    )
    unpack = add("unpack", "put packed records back into the table of rows, where plain SQL sees them")
    unpack.add_argument("--after", type=counted, default=0, metavar="POSITION", help="only those after this position, and some before it")


def add_audit(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Say what can be asked for of a log as a whole: to prove it, take it over, erase in it, copy it."""
    verify = add("verify", "read the whole log and prove that nothing was changed or lost")
    verify.add_argument("--until", metavar="RECEIPT|DIGEST", help="only up to what was noted, and prove that it is still what led to it")
    adopt = add("adopt", "take over a log that was restored from a copy: begin a new epoch, while nobody has it open")
    adopt.add_argument(
        "--epoch", type=counted, metavar="N", help="a higher one than the next, if that was used by an adoption that is lost"
    )
    erase = add("erase", "take the bodies of records out of the log for good, and all that was made of them")
    of_erase = erase.add_mutually_exclusive_group(required=True)
    of_erase.add_argument("what", metavar="ID|TAG=VALUE", nargs="?", help="a message's id, or a tag: all records that have it")
    of_erase.add_argument("--id", metavar="ID", help="an id, also one with a `=` in it")
    of_erase.add_argument(
        "--resume", action="store_true", help="erase nothing more, and finish what was stopped before files or tables were clean"
    )
    erase.add_argument("--keep", metavar="TAG", action="append", default=[], help="a tag that goes on leading to what is left")
    erase.add_argument("--views", metavar="URL", help="where the views lie, if not beside the log")
    erase.add_argument("--dry-run", action="store_true", help="only say what would be erased")
    erase.add_argument("--yes", action="store_true", help="don't ask")
    copy = add("copy", "copy a log that may be in use: into a log of its own, in a file or in PostgreSQL")
    copy.add_argument("--to", metavar="FILE|URL", required=True, help="the new file, or the URL of the new log")
    copy.add_argument("--until", type=counted, metavar="POSITION", help="only what stands up to there")
    export = add("export", "write a log, or a part of it, as lines of JSON; compressed where the name ends in .gz")
    export.add_argument("file", metavar="FILE", help="the new file; - writes to standard output")
    export.add_argument("--after", type=counted, default=0, metavar="POSITION", help="only what stands after there")
    export.add_argument("--until", type=counted, metavar="POSITION", help="only what stands up to there")
    export.add_argument("--tag", type=tagged, metavar="TAG=VALUE", help="only rows with this tag, such as sku=widget")
    export.add_argument("--jsonl", action="store_true", help="a line for each record, for other tools: that is not to be imported again")
    taken = add("import", "make a new log, named by --log, of what was exported, and prove that it is the same")
    taken.add_argument("file", metavar="FILE", help="what was exported")
    for acting in (adopt, erase):
        acting.add_argument("--actor", metavar="NAME", help="who decides it; by default the name of the user")
        acting.add_argument("--reason", default="", metavar="TEXT", help="why; it is recorded, too")


class Parser(argparse.ArgumentParser):
    """Says bad usage as all other errors are said."""

    def error(self, message: str) -> NoReturn:
        """Raise it."""
        raise Invalid(message, usage=self.format_usage())


class Version(argparse.Action):
    """Print the version: looked up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and leave."""
        from importlib.metadata import version  # lazy: it takes longer than all else that help needs

        print(f"happened {version('happened')}")
        parser.exit()


def counted(text: str) -> int:
    """Read a number that is not negative."""
    if not text.isdecimal() or int(text[: len(str(COUNT_MAX)) + 1]) > COUNT_MAX:
        raise argparse.ArgumentTypeError(f"`{text}` is no whole number: a count lies between 0 and {COUNT_MAX}")
    return int(text)


def moment(text: str) -> int | datetime:
    """Read a position, or a time with a zone."""
    if text.isdecimal():
        return counted(text)
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise argparse.ArgumentTypeError(f"`{text}` is no position and no time with a zone, such as 2026-11-25T10:42:00Z")
    return found


def seconds(text: str) -> float:
    """Read a time to wait."""
    wait = _number(text)
    if not 0 <= wait < math.inf:
        raise argparse.ArgumentTypeError(f"`{text}` is no time to wait: give seconds")
    return wait


def days(text: str) -> float:
    """Read a number of days."""
    count = _number(text)
    if not 0 <= count <= DAYS_MAX:
        raise argparse.ArgumentTypeError(f"`{text}` is no number of days between 0 and {DAYS_MAX:,}")
    return count


def _number(text: str) -> float:
    """Read a number; what is none is no number, and lies nowhere."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def size(text: str) -> int:
    """Read a number of bytes, with a unit or without."""
    found = re.fullmatch(r"(\d{1,15})([kMGT]?B?)", text)
    if found is None or found[2] not in UNITS:
        raise argparse.ArgumentTypeError(f"`{text}` is no size: write a whole number of bytes, or one of kB, MB, GB or TB, such as 500MB")
    return int(found[1]) * UNITS[found[2]]


def channel(text: str) -> tuple[str, str]:
    """Read a system's name and the URL of its log."""
    system, equals, url = text.partition("=")
    from happened.opening import is_postgres  # lazy: as above
    from happened.shelf.connection import as_shown  # lazy: as above

    if not system or not equals or not (url.startswith("sqlite:///") or is_postgres(url)):
        raise argparse.ArgumentTypeError(f"`{as_shown(text)}` is no channel: write it as crm=sqlite:///crm.db")
    return system, url


def tagged(text: str) -> tuple[str, str]:
    """Read a tag and its value."""
    tag, equals, value = text.partition("=")
    if not tag or not equals:
        raise argparse.ArgumentTypeError(f"`{text}` is no tag: write it as sku=widget")
    return tag, value
