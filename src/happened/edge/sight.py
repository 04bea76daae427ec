"""Seeing the flow: the map as text or as Mermaid, and how long things take, in words for people."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any  # Any: a JSON answer holds anything

import msgspec

from happened.notification.drawing import Drawing
from happened.notification.flow import SEEN, UNDECLARED, Arrow, Flow, Node, Times

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
    stretch = f"; positions {flow.after + 1:,} to {flow.until:,} of the log" if flow.after is not None and flow.until is not None else ""
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
        failed = f"; failed {node.failed:,} times" if node.failed else ""
        yield f"{node.kind} {node.name} reads {', '.join(node.reads) or 'nothing'}{failed}"
    kinds = dict.fromkeys(finding.kind for finding in flow.findings)
    for kind in kinds:
        found = [finding.text for finding in flow.findings if finding.kind == kind]
        yield ""
        yield f"{kind} ({len(found):,}):"
        yield from (f"  {text}" for text in found[:FINDINGS_MAX])
        if len(found) > FINDINGS_MAX:
            yield f"  and {len(found) - FINDINGS_MAX:,} more: --json has all"


COLUMNS = ("from", "to", "count", "refused", "errors", "waited p50", "waited p99", "ran p50", "ran p99", "mark")
NUMBERS = COLUMNS[2:-1]


def _hidden(drawing: Drawing) -> Iterable[str]:
    if drawing.folded:
        yield f"{sum(drawing.folded.values()):,} of them are drawn as {len(drawing.folded):,} modules; open one by --focus MODULE"
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
        "mark": MARKS.get(arrow.status, ""),
    }


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
            yield f'  {"  " if grouped else ""}{names[node.id]}{left}"{_quoted(_label(node, drawing))}"{right}'
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
    return f"{node.name} ({drawing.folded[node.id]:,})" if node.id in drawing.folded else node.name


def _said(arrow: Arrow) -> str:
    parts = [f"{arrow.count:,}"] if arrow.count else []
    if arrow.ran is not None:
        parts.append(f"p99 {duration(arrow.ran.p99)}")
    if arrow.status in MARKS and arrow.status != SEEN:
        parts.append(MARKS[arrow.status])
    return ", ".join(parts)


def _quoted(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "#quot;").replace("<", "&lt;").replace("\n", " ")


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


def times(of: Times | None) -> str:
    """Return the two times as a text."""
    return f"{duration(of.p50)}, {duration(of.p99)}" if of is not None else ""
