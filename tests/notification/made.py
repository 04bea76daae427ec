"""Logs and wirings that are made by hand: rows as handlers of any kind write them, and a system of hundreds of message types."""

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: a topology is plain data

from happened.log.log import Log
from happened.log.names import Wish
from happened.log.row import ANSWER, REFUSAL, SCHEDULE, TOPOLOGY, Header, Sent, Written, encode
from happened.log.writer import Batch, Draft, Job


class Step(NamedTuple):
    """One row. Names are ids of the flow map, such as `command:Order`; records may also be `refusal`, `answer:GATEWAY` or `later:COMMAND`."""

    id: str
    asked: str | None = None
    handler: str | None = None
    records: tuple[str, ...] = ()
    sender: str | None = None
    cause: str | None = None
    correlation: str | None = None
    causation: str | None = None
    outcome: str = "accepted"
    decides: str | None = None
    waited: int = 40
    ran: int = 9
    sent_waited: int = 700
    sent_ran: int = 5
    depth: int = 0
    reads: tuple[Any, ...] = ()
    actor: str = ""


class Made(Job):
    """Records rows as they are said, and before them a topology where one is given."""

    def __init__(self, steps: Sequence[Step], topology: Mapping[str, Any] | None = None) -> None:
        super().__init__(steps[0].id if steps else "topology")
        self.steps = steps
        self.topology = topology

    def draft(self, batch: Batch) -> Draft | None:
        """Put all rows into the batch."""
        if self.topology is not None:
            batch.declare([], Written(TOPOLOGY, encode(self.topology)))
        for step in self.steps:
            sent = None
            if step.sender is not None:
                cause = number(batch, step.cause) if step.cause is not None else 0
                sent = Sent(number(batch, step.sender), cause, step.sent_waited, step.sent_ran)
            header = Header(
                id=step.id if step.decides is None else None,
                actor=step.actor,
                correlation=step.correlation,
                causation=step.causation,
                outcome=step.outcome,
                decides=step.decides,
                handler=number(batch, step.handler) if step.handler is not None else None,
                waited=step.waited if step.handler is not None else 0,
                ran=step.ran if step.handler is not None else 0,
                reads=step.reads,
                sent=sent,
                depth=step.depth,
            )
            asked = Written(number(batch, step.asked), b"{}") if step.asked is not None else None
            records = [written(batch, record) for record in step.records]
            names = list(dict.fromkeys(record.number for record in records if record.number > SCHEDULE))
            batch.add(Draft(header, asked, records, (), (), names, {}))
        return None


def number(batch: Batch, node: str) -> int:
    """Return the number of a name."""
    what, _, name = node.partition(":")
    return batch.number(Wish(what, name, 1, "made", [[], []] if what in ("event", "command") else None))


def written(batch: Batch, record: str) -> Written:
    """Return a record of a name."""
    if record == "refusal":
        return Written(REFUSAL, encode({"text": "no", "facts": {}}))
    what, _, name = record.partition(":")
    if what == "answer":
        return Written(ANSWER, encode({"gateway": name, "arguments": [], "us": 900}))
    if what == "later":
        return Written(SCHEDULE, encode({"id": "", "due": 1, "number": number(batch, f"command:{name}"), "body": {}}))
    return Written(number(batch, record), b"{}")


def record(log: Log, steps: Sequence[Step], topology: Mapping[str, Any] | None = None) -> None:
    """Have rows recorded, in one commit."""
    log.writer.submit(Made(steps, topology), 60)


# --- a system of many types

MODULES = 12
COMMANDS = 120
EVENTS = 180
REACTIONS = 60
VIEWS = 48


class Many(NamedTuple):
    """A large system, as plain data: its topology, and in which module each node of its map is."""

    topology: dict[str, Any]
    modules: dict[str, str]


def many() -> Many:
    """Make a system of 300 message types, 180 handlers and 48 views in 12 modules, always the same."""
    chance = random.Random(300)
    events = [f"Happened{n:03}" for n in range(EVENTS)]
    commands = [f"Do{n:03}" for n in range(COMMANDS)]
    deciders = [
        {"name": f"decide_{n:03}", "command": command, "reads": [], "yields": [events[n], *events[COMMANDS + n : COMMANDS + n + 1]]}
        for n, command in enumerate(commands)
    ]
    reactions = [
        {"name": f"react_{n:02}", "events": [events[2 * n]], "sends": [commands[min(2 * n + chance.choice((1, 1, 1, 13)), COMMANDS - 1)]]}
        for n in range(REACTIONS)
    ]
    states = [{"name": f"Shown{n:02}", "key": [], "from": sorted({events[n], *chance.sample(events, 3)})} for n in range(VIEWS)]
    topology: dict[str, Any] = {
        "app": "many",
        "records": [],
        "deciders": deciders,
        "reactions": reactions,
        "states": states,
        "views": [state["name"] for state in states],
        "gateways": [],
    }
    kinds = {"event": events, "command": commands, "decider": deciders, "reaction": reactions, "view": topology["views"]}
    modules = {
        f"{kind}:{one['name'] if isinstance(one, dict) else one}": f"many.module{n % MODULES:02}"
        for kind, listed in kinds.items()
        for n, one in enumerate(listed)
    }
    return Many(topology, modules)


def traffic(many: Many, count: int, seed: int = 1) -> Iterator[Step]:
    """Yield rows that such a system records: commands from outside, and what its reactions send on."""
    chance = random.Random(seed)
    deciders = many.topology["deciders"]
    by_event = {reaction["events"][0]: reaction for reaction in many.topology["reactions"]}
    by_command = {decider["command"]: decider for decider in deciders}
    made = 0
    while made < count:
        root = f"r{seed}-{made}"
        ahead: list[tuple[str, str, str | None, str | None, str | None, int]] = [
            (root, chance.choice(deciders)["command"], None, None, None, 0)
        ]
        while ahead and made < count:
            own, command, sender, cause, causation, depth = ahead.pop()
            decider = by_command[command]
            refused = chance.random() < 0.02
            records = ("refusal",) if refused else tuple(f"event:{name}" for name in decider["yields"][: chance.choice((1, 2))])
            made += 1
            yield Step(
                own,
                f"command:{command}",
                f"decider:{decider['name']}",
                records,
                f"reaction:{sender}" if sender is not None else None,
                f"event:{cause}" if cause is not None else None,
                root if depth else None,
                causation,
                "refused" if refused else "accepted",
                waited=int(chance.lognormvariate(5, 1)),
                ran=int(chance.lognormvariate(3, 1)),
                depth=depth,
            )
            for ordinal, name in enumerate(records, 1):
                reaction = by_event.get(name.partition(":")[2])
                if reaction is not None and depth < 5:
                    ahead.append(
                        (f"{own}/{ordinal}", reaction["sends"][0], reaction["name"], reaction["events"][0], f"{own}#{ordinal}", depth + 1)
                    )
