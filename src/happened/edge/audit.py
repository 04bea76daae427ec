"""What the commands do that look at a log as a whole: prove it, take it over, erase in it, copy it."""

import argparse
import getpass
import os
import sys
from collections.abc import Callable, Mapping

from happened.core.errors import Invalid
from happened.edge.progress import bar
from happened.edge.settings import log_url, views_url
from happened.edge.words import print_json
from happened.log.erasure import Erasure, is_unfinished
from happened.log.log import Identity
from happened.opening import adopt as adopt_log
from happened.opening import beside, copy_log, erased_in, export_log, import_log, open_log
from happened.shelf.connection import as_shown

SHOWN_MAX = 20
"""Published records that are listed one by one."""


def verify(asked: argparse.Namespace) -> int:
    """Prove that nothing was changed or lost."""
    with bar("opening") as progress:
        log = open_log(log_url(asked.log), progress=progress)
    with log, bar("verifying") as verifying:
        verified = log.verify(verifying, noted=asked.until)
        unfinished = is_unfinished(log)
    if asked.json:
        print_json(verified)
        return 0
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in verified.kinds.items())
    print(f"verified: {verified.position:,} records in {verified.rows:,} rows ({kinds or 'none'})")
    if asked.until is not None:
        print("they are what led to the digest that was noted")
    if verified.erased:
        print(f"erased: {verified.erased:,}, of which nobody has said who and why: {verified.unexplained:,}")
    if unfinished:
        print("bytes of what was erased may still lie in the files: run `happened erase --resume`")
    print(f"digest: {verified.digest}")
    return 0


def adopt(asked: argparse.Namespace) -> int:
    """Take over a restored log."""
    if not asked.reason:
        raise Invalid("why? give --reason TEXT: it is recorded")
    receipt = adopt_log(log_url(asked.log), actor=asked.actor or user(), reason=asked.reason, epoch=asked.epoch)
    if asked.json:
        print_json({"receipt": str(receipt), "epoch": receipt.epoch, "position": receipt.position})
    else:
        print(
            f"adopted: epoch {receipt.epoch} begins at position {receipt.position:,}; what was recorded after {receipt.position - 1:,} before is lost"
        )
    return 0


def erase(asked: argparse.Namespace) -> int:
    """Show what would be erased, ask, erase it, and say what others still have."""
    url = log_url(asked.log)
    views = views_url(asked.views) or beside(url)
    what = None if asked.resume else asked.id if asked.id is not None else _named(asked.what)
    actor = asked.actor or user()
    if what is not None and not asked.reason and not asked.dry_run:
        raise Invalid("why? give --reason TEXT: it is recorded")
    if not asked.resume and not asked.dry_run and not asked.yes and (asked.json or not sys.stdin.isatty()):
        raise Invalid("nobody is there to be asked: look with --dry-run, then say --yes")
    with bar("opening") as progress:
        log = open_log(url, progress=progress)
    with log:
        if what is not None and not asked.yes:
            with bar("looking") as progress:
                found = erased_in(log, what, views, actor=actor, reason=asked.reason, keep=asked.keep, dry_run=True, progress=progress)
            if asked.dry_run or not found.records:
                return _told(found, asked, "would be erased")
            _told(found, asked, "would be erased")
            if input("erase them for good? [y/N] ").strip().lower() not in ("y", "yes"):
                print("nothing was erased")
                return 1
        with bar("erasing") as progress:
            found = erased_in(log, what, views, actor=actor, reason=asked.reason, keep=asked.keep, dry_run=asked.dry_run, progress=progress)
    code = _told(found, asked, "would be erased" if asked.dry_run else "erased")
    if not asked.dry_run and not found.scrubbed:
        print("their bytes are still there, since others read them: run `happened erase --resume` later", file=sys.stderr)
        return 1
    return code


def _named(what: str) -> str | tuple[str, str]:
    tag, equals, value = what.partition("=")
    return (tag, value) if equals and tag and value else what


def _told(found: Erasure, asked: argparse.Namespace, done: str) -> int:
    if asked.json:
        print_json(found)
        return 0
    print(f"{done}: {found.records:,} records, {found.notes:,} notes")
    for name, count in sorted(found.names.items()):
        print(f"  {name}: {count:,}")
    if found.by_hand:
        print(f"{found.by_hand:,} of them have tags that were given by hand: those are part of the chain, and stay")
    if found.published:
        print("others were told, and may have it still:")
        for told in found.published[:SHOWN_MAX]:
            print(f"  {told.what} {told.name} at position {told.position:,}")
        if len(found.published) > SHOWN_MAX:
            print(f"  and {len(found.published) - SHOWN_MAX:,} more; --json lists all")
    return 0


def copy(asked: argparse.Namespace) -> int:
    """Copy a log that may be in use."""
    url = log_url(asked.log)
    with bar("copying") as progress:
        identity = copy_log(url, asked.to, until=asked.until, progress=progress)
    return _came(identity, asked, f"copied to {as_shown(asked.to)}")


def export(asked: argparse.Namespace) -> int:
    """Write a log as lines of JSON. What is told of it does not go where the lines do."""
    url = log_url(asked.log)
    to = sys.stdout.buffer if asked.file == "-" else asked.file
    with bar("exporting") as progress:
        found = export_log(url, to, after=asked.after, until=asked.until, tag=asked.tag, plain=asked.jsonl, progress=progress)
    told = sys.stderr if asked.file == "-" else sys.stdout
    if asked.json:
        print_json(found, told)
    else:
        what = "records" if asked.jsonl else "rows"
        print(f"exported to {asked.file}: {found.lines:,} {what}, after position {found.after:,} up to {found.until:,}", file=told)
    return 0


def take_in(asked: argparse.Namespace) -> int:
    """Make a log of what was exported."""
    url = log_url(asked.log, there=False)
    with bar("importing") as progress:
        identity = import_log(asked.file, url, progress=progress)
    return _came(identity, asked, f"imported to {as_shown(url)}")


def _came(identity: Identity, asked: argparse.Namespace, done: str) -> int:
    if asked.json:
        print_json(identity)
    elif identity.origin is not None:
        print(f"{done}: the log {identity.id}, which is {identity.origin.log} up to position {identity.origin.position:,}")
        print(f"digest: {identity.origin.digest}")
    return 0


def user() -> str:
    """Return who is at the keyboard, as far as the machine knows."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


COMMANDS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "verify": verify,
    "adopt": adopt,
    "erase": erase,
    "copy": copy,
    "export": export,
    "import": take_in,
}
