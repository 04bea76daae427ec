"""Seeing: the flow map as text or as Mermaid, conversations and reasons as lines for people."""

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any  # Any: a JSON answer holds anything

import msgspec

from happened.log.receipt import is_receipt
from happened.notification.drawing import Bundle, Drawing
from happened.notification.flow import UNDECLARED, Arrow, Flow, Node
from happened.notification.story import Line, Story
from happened.notification.why import Cause

FINDINGS_MAX = 40
"""How many findings of one kind the text lists; the rest is counted."""

UNITS = ((1, "µs"), (1_000, "ms"), (1_000_000, "s"), (3_600_000_000, "h"))

MARKS = {"unseen": "never seen", "earlier": "declared earlier", "undeclared": "NOT DECLARED"}
SHAPES = {
    "command": ("[", "]"),
    "event": ("([", "])"),
    "notification": ("([", "])"),
    "view": ("[(", ")]"),
    "replica": ("[(", ")]"),
    "share": ("[(", ")]"),
    "gateway": (">", "]"),
    "outside": ("((", "))"),
    "timer": ("((", "))"),
    "module": ("[[", "]]"),
}
"""How Mermaid draws each kind of node; handlers are hexagons."""


def as_text(flow: Flow, drawing: Drawing) -> Iterable[str]:
    """Yield the lines of a map: what leads to what, in the order of modules, and what does not fit."""
    stretch = ""
    if flow.after is not None and flow.until is not None:
        seen = f"positions {flow.after + 1:,} to {flow.until:,}" if flow.after < flow.until else "nothing"
        stretch = f"; {seen} of the log"
    yield f"{flow.app or 'a log'}: {len(flow.nodes):,} messages and handlers, {len(flow.arrows):,} arrows{stretch}"
    yield from _hidden(drawing)
    yield ""
    place = {node.id: at for at, node in enumerate(drawing.nodes)}
    nodes = {node.id: node for node in drawing.nodes}
    rows = [_cells(arrow, nodes, drawing) for arrow in sorted(drawing.arrows, key=lambda arrow: (place[arrow.source], place[arrow.target]))]
    yield from table(rows, [column for column in COLUMNS if any(row[column] for row in rows)])
    reading = [node for node in drawing.nodes if node.reads or node.failed]
    if reading:
        yield ""
    for node in reading:
        reads = f"reads {', '.join(node.reads) or 'nothing'}" if node.id not in drawing.folded else ""
        failed = f"failed {node.failed:,} times" if node.failed else ""
        yield f"{_shown(node, drawing)} {'; '.join(filter(None, (reads, failed)))}"
    kinds = dict.fromkeys(finding.kind for finding in drawing.findings)
    for kind in kinds:
        found = [finding.text for finding in drawing.findings if finding.kind == kind]
        yield ""
        yield f"{kind} ({len(found):,}):"
        yield from (f"  {text}" for text in found[:FINDINGS_MAX])
        if len(found) > FINDINGS_MAX:
            yield f"  and {len(found) - FINDINGS_MAX:,} more: --json has all"
    if drawing.hidden_findings:
        yield ""
        yield f"elsewhere: {', '.join(f'{count:,} {kind}' for kind, count in drawing.hidden_findings.items())}; without --focus they are listed"


COLUMNS = ("from", "to", "count", "refused", "errors", "waited p50", "waited p99", "ran p50", "ran p99", "mark")
NUMBERS = (*COLUMNS[2:-1], "shown", "decided", "taken p50", "taken p99", "recorded p50", "recorded p99")


def _hidden(drawing: Drawing) -> Iterable[str]:
    if drawing.folded:
        modules = f"{len(drawing.folded):,} module{'s' if len(drawing.folded) > 1 else ''}"
        count = sum(drawing.folded.values())
        yield f"{count:,} of them {'is' if count == 1 else 'are'} drawn as {modules}; open one by --focus MODULE"
    if drawing.hidden_nodes or drawing.hidden_arrows:
        yield f"hidden: {drawing.hidden_nodes:,} messages and handlers, {drawing.hidden_arrows:,} arrows; --focus NAME --hops N shows what is near one"


def _cells(arrow: Arrow, nodes: Mapping[str, Node], drawing: Drawing) -> dict[str, str]:
    waited, ran = arrow.waited, arrow.ran
    return {
        "from": _shown(nodes[arrow.source], drawing),
        "to": _shown(nodes[arrow.target], drawing),
        "count": f"{arrow.count:,}" if arrow.count else "",
        "refused": f"{arrow.refused:,}" if arrow.refused else "",
        "errors": f"{arrow.failed:,}" if arrow.failed else "",
        "waited p50": duration(waited.p50) if waited is not None else "",
        "waited p99": duration(waited.p99) if waited is not None else "",
        "ran p50": duration(ran.p50) if ran is not None else "",
        "ran p99": duration(ran.p99) if ran is not None else "",
        "mark": _mark(arrow),
    }


def _mark(arrow: Arrow) -> str:
    mark = MARKS.get(arrow.status, "")
    if mark and isinstance(arrow, Bundle) and arrow.marked < arrow.arrows:
        return f"{arrow.marked:,} of {arrow.arrows:,} {mark}"
    return mark


def _shown(node: Node, drawing: Drawing) -> str:
    folded = drawing.folded.get(node.id)
    if folded is not None:
        return f"module {node.name} ({folded:,})"
    return node.name if node.kind == node.name else f"{node.kind} {node.name}"


def table(rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> Iterable[str]:
    """Yield rows in columns, numbers to the right."""
    widths = {column: max(len(column), *(len(row[column]) for row in rows)) for column in columns} if rows else {}
    for row in [{column: column for column in columns}, *rows] if rows else []:
        cells = [row[column].rjust(widths[column]) if column in NUMBERS else row[column].ljust(widths[column]) for column in columns]
        yield "  ".join(cells).rstrip()


def as_mermaid(_flow: Flow, drawing: Drawing) -> Iterable[str]:
    """Yield the lines of a Mermaid flowchart: events lead on by dashed lines, what was seen and is not declared by thick ones."""
    yield "flowchart LR"
    names = {node.id: f"n{at}" for at, node in enumerate(drawing.nodes)}
    for at, module in enumerate(dict.fromkeys(node.module for node in drawing.nodes)):
        inside = [node for node in drawing.nodes if node.module == module]
        grouped = module and not all(node.kind == "module" for node in inside)
        if grouped:
            yield f'  subgraph m{at}["{_quoted(module)}"]'
        for node in inside:
            left, right = SHAPES.get(node.kind, ("{{", "}}"))
            yield f'  {"  " if grouped else ""}{names[node.id]}{left}"{_label(node, drawing)}"{right}'
        if grouped:
            yield "  end"
    for arrow in drawing.arrows:
        line = "==>" if arrow.status == UNDECLARED else "-.->" if arrow.source.startswith(("event:", "timer:")) else "-->"
        said = _said(arrow)
        label = f'|"{said}"|' if said else ""
        yield f"  {names[arrow.source]} {line}{label} {names[arrow.target]}"
    if drawing.hidden_nodes or drawing.hidden_arrows:
        yield f'  hidden["hidden: {drawing.hidden_nodes:,} messages and handlers, {drawing.hidden_arrows:,} arrows"]'


def _label(node: Node, drawing: Drawing) -> str:
    """Return what Mermaid writes at a node: its name, and the states that it reads, of which no arrow tells."""
    name = f"{node.name} ({drawing.folded[node.id]:,})" if node.id in drawing.folded else node.name
    return "<br/>".join(map(_quoted, [name, f"reads {', '.join(node.reads)}"] if node.reads else [name]))


def _said(arrow: Arrow) -> str:
    parts = [f"{arrow.count:,}"] if arrow.count else []
    if arrow.ran is not None:
        parts.append(f"p99 {duration(arrow.ran.p99)}")
    if mark := _mark(arrow):
        parts.append(mark)
    return ", ".join(parts)


def _quoted(text: str) -> str:
    for sign, written in (("#", "#35;"), ("&", "&amp;"), ('"', "#quot;"), ("<", "&lt;"), ("`", "#96;"), ("\n", " ")):
        text = text.replace(sign, written)
    return text


def as_json(flow: Flow, drawing: Drawing, *, whole: bool) -> dict[str, Any]:
    """Return a map as plain data: all of it, or what is drawn, with what is hidden counted."""
    told: dict[str, Any] = msgspec.to_builtins(flow)
    if not whole:
        told |= msgspec.to_builtins(drawing)
    return told


def duration(us: int) -> str:
    """Return a time in the unit that people would choose."""
    size, unit = next((one for one in UNITS if us < one[0] * 1_000), UNITS[-1])
    return f"{us / size:.0f} {unit}" if us >= 10 * size or us % size == 0 else f"{us / size:.1f} {unit}"


# --- stories


def story_as_text(story: Story) -> Iterable[str]:
    """Yield the lines of a story: how far in, how often, what, when after the first, who, and what is to be said of it."""
    yield f"conversation {story.correlation}: {story.records:,} records in {len(story.lines):,} lines"
    waiting = [
        f"{count:,} {what}"
        for count, what in (
            (story.pending, "not decided yet"),
            (story.timers, "to be sent later"),
            (story.stuck, "held or parked: see `happened stuck`"),
        )
        if count
    ]
    if waiting:
        yield ", ".join(waiting)
    yield ""
    began = story.lines[0].time if story.lines else None
    for line in story.lines:
        after = _after(line.time - began) if began is not None else ""
        yield f"{line.position:>9,}  {after:>8}  {INDENT * min(line.depth, INDENTS_MAX)}{_told(line)}"


def _after(time: timedelta) -> str:
    us = time // timedelta(microseconds=1)
    return f"{'-' if us < 0 else '+'}{duration(abs(us))}"


INDENT, INDENTS_MAX = "  ", 40
"""A tree that is deeper stays there."""


def _told(line: Line) -> str:
    parts = [f"x{line.count:,} {line.name}" if line.count > 1 else f"{line.name}  {line.id}"]
    if line.depth > INDENTS_MAX:
        parts.append(f"depth {line.depth}")
    if line.outcome not in ("", "accepted"):
        parts.append("NOT DECIDED YET" if line.outcome == "pending" else line.outcome)
    if line.sender:
        parts.append(f"sent by {line.sender}")
    if line.handler and line.kind == "input":
        parts.append(f"decided by {line.handler}")
    if line.waited_us is not None and line.ran_us is not None:
        parts.append(f"waited {_range(line.waited_us)}, ran {_range(line.ran_us)}")
    if line.depth == 0 or (line.kind == "input" and not line.sender):  # what somebody gave: all else has no will of its own
        parts += _by(line.actor, line.actors)
    if line.occurred != line.time:
        parts.append(f"happened {line.occurred:%Y-%m-%d %H:%M:%S.%f}")
    if line.says:
        parts.append(line.says)
    return "  ".join(parts)


def _by(actor: str, actors: int) -> Sequence[str]:
    if actors > 1:
        return [f"by {actor or 'somebody without a name'} and {actors - 1:,} more"]
    return [f"by {actor}"] if actor else []


def latency_as_text(shown: Sequence[Mapping[str, Any]], deciders: Sequence[Arrow]) -> Iterable[str]:
    """Yield the lines that say how long things take."""

    def said(us: int | None) -> str:
        return duration(us) if us is not None else "-"

    rows = [
        {
            "view": one["view"],
            "shown": f"{one['count']:,}",
            "taken p50": said(one["since_taken"]["p50_us"]),
            "taken p99": said(one["since_taken"]["p99_us"]),
            "recorded p50": said(one["since_recorded"]["p50_us"]),
            "recorded p99": said(one["since_recorded"]["p99_us"]),
        }
        for one in shown
    ]
    yield from table(rows, list(rows[0]) if rows else [])
    decided = [
        {
            "decider": arrow.target.partition(":")[2],
            "decided": f"{arrow.count:,}",
            "waited p50": said(arrow.waited.p50 if arrow.waited is not None else None),
            "waited p99": said(arrow.waited.p99 if arrow.waited is not None else None),
            "ran p50": said(arrow.ran.p50 if arrow.ran is not None else None),
            "ran p99": said(arrow.ran.p99 if arrow.ran is not None else None),
        }
        for arrow in deciders
    ]
    if decided:
        yield ""
        yield from table(decided, list(decided[0]))


def _range(of: tuple[int, int]) -> str:
    least, most = map(duration, of)
    return least if least == most else f"{least} to {most}"


def causes_as_text(row: str, causes: Sequence[Cause]) -> Iterable[str]:
    """Yield the lines of a reason, each step further back."""
    yield row
    for place, cause in enumerate(causes):
        yield ""
        yield f"{'was last changed by' if place == 0 else 'because of'} the {cause.kind} {cause.name} at position {cause.position:,}, id {cause.id}"
        yield f"  recorded {cause.time:%Y-%m-%d %H:%M:%S.%f}{f', by {cause.actor}' if cause.actor else ''}"
        timed = (
            f", waited {duration(cause.waited_us)}, ran {duration(cause.ran_us)}"
            if cause.waited_us is not None and cause.ran_us is not None
            else ""
        )
        if cause.handler:
            yield f"  decided by {cause.handler}{timed}"
        elif cause.sender:
            yield f"  sent by {cause.sender}{timed}"
        for read in cause.reads:
            of = f" of {read.system}" if read.system else ""
            when = f"as of position {read.position:,}{of}" if read.position else "before anything had changed it"
            yield f"  which had read {f'{read.system}/' if read.system else ''}{read.state} {when}"
        body = msgspec.to_builtins(cause.body)
        yield f"  {json.dumps(body, ensure_ascii=False, default=str) if body is not None else 'its body was erased, or not kept'}"
    yield ""
    last = causes[-1]
    if not last.cause:
        yield "which came from outside"
    elif any(cause.id == last.cause for cause in causes):
        yield f"caused by `{last.cause}`, which stands above: what callers gave as causes leads back to itself"
    else:
        there = ": a receipt of another one, where `happened trace` takes it" if is_receipt(last.cause) else ""
        yield f"caused by `{last.cause}`, which is not in this log{there}"
