"""Wiring: a system as tables of plain functions and classes; whatever can be known to be wrong is said when it is made."""

from collections.abc import Callable, Collection, Iterable, Mapping
from inspect import signature
from typing import Any, Never, TypeVar  # Any: commands, events and keys of any class

import msgspec

from happened.core.annotations import label
from happened.core.errors import Invalid
from happened.core.messages import Command, Event, is_name, name_of
from happened.core.plain import surplus_in
from happened.core.state import Fold, State, fold_of
from happened.core.tags import check_tag_types, is_a
from happened.core.upcasts import UpcastEntry, steps_of
from happened.cqrs.projection import KIND as PROJECTION
from happened.cqrs.projection import Projection
from happened.cqrs.view import check_view
from happened.log.fingerprint import fingerprint_of
from happened.log.lifting import Lifts
from happened.log.typed import decode_of
from happened.notification.flow import Flow, declared_flow
from happened.notification.publication import Publication
from happened.notification.reaction import Reaction, Sends
from happened.notification.timer import LEASE as TIMERS
from happened.notification.why import Read
from happened.sourcing.gateway import ANSWERED, Gateway, lifting
from happened.sourcing.handling import (
    Handler,
)
from happened.transfer.systems import (
    check_replicas,
    check_shares,
    check_subscriptions,
    listed_by_system,
)

S = TypeVar("S", bound=State)
D = TypeVar("D", Command, Event)
T = TypeVar("T")

Decider = Callable[..., Iterable[Event]]
"""A function from a command, states and the `World` to the events that it decides. It may raise `Refused`."""


ALL, DECISIONS = STORES = ("all", "decisions")
"""What is kept of a command: all of it, or what was decided."""


class Wiring:
    """The tables of an app, read and checked. `App` says what each holds."""

    def __init__(
        self,
        name: str,
        *,
        records: Iterable[type[Event]] = (),
        deciders: Iterable[Decider] = (),
        gateways: Iterable[Callable[..., Any] | Gateway] = (),
        reactions: Iterable[Sends | Reaction] = (),
        views: Iterable[type[State]] = (),
        projections: Iterable[Projection] = (),
        publications: Iterable[Callable[..., Event | None] | Publication] = (),
        shares: Iterable[type[State]] = (),
        subscriptions: Mapping[str, Iterable[type[Event]]] | None = None,
        replicas: Mapping[str, Iterable[type[State]]] | None = None,
        upcasts: Iterable[UpcastEntry] = (),
        ignores: Iterable[str] = (),
        store: str = ALL,
        **other: Never,
    ) -> None:
        if other:
            known = ", ".join(f"`{name}`" for name, kind in signature(Wiring).parameters.items() if kind.kind is kind.KEYWORD_ONLY)
            raise Invalid(f"`App({next(iter(other))}=...)`: an app has {known}", unknown=list(other))
        if not is_name(name):
            raise Invalid("an app needs a name, a text: it is recorded in its log")
        self.name = name
        if store not in STORES:
            raise Invalid(f"`store` is {' or '.join(map(repr, STORES))}, not {store!r}", store=str(store))
        self.store = store
        self.ignores: tuple[Any, ...] = tuple(listed("ignores=[{}]", ignores))
        if not all(isinstance(one, str) for one in self.ignores):
            raise Invalid(f'`ignores` lists names as the log has them, not {ignores!r}: write ignores=["OrderSent"]')
        self.records = tuple(listed("records=[{}]", records))
        self.replicas = listed_by_system("replicas", replicas or {})
        self.systems = check_replicas(self.replicas)
        """Which system each replica is of."""
        self.handlers: dict[type, Handler] = {}
        for function in listed("deciders=[{}]", deciders):
            handler = Handler(function, self.systems)
            if handler.command in self.handlers:
                raise Invalid(
                    f"two deciders take `{handler.command.__name__}`: `{label(self.handlers[handler.command].function)}` and `{label(function)}`",
                    command=handler.command.__name__,
                )
            self.handlers[handler.command] = handler
        self.gateways: list[Gateway] = [
            entry if isinstance(entry, Gateway) else Gateway(entry) for entry in listed("gateways=[{}]", gateways)
        ]
        self.reactions = [entry if isinstance(entry, Reaction) else Reaction(entry) for entry in listed("reactions=[{}]", reactions)]
        self.views = tuple(listed("views=[{}]", views))
        self.projections: tuple[Projection, ...] = tuple(listed("projections=[{}]", projections))
        for entry in self.projections:
            if not isinstance(entry, Projection):  # pyright: ignore[reportUnnecessaryIsInstance]  # a checker has not seen every caller
                raise Invalid(
                    f'`projections` lists `{entry!r}`: write Projection({label(entry)}, into="postgresql://...")', entry=repr(entry)
                )
        self.publications = [
            entry if isinstance(entry, Publication) else Publication(entry) for entry in listed("publications=[{}]", publications)
        ]
        self.shares = tuple(listed("shares=[{}]", shares))
        check_shares(self.shares)
        self.subscriptions = listed_by_system("subscriptions", subscriptions or {})
        yielded = [event for handler in self.handlers.values() for event in handler.yields]
        self.called = check_subscriptions(self.subscriptions, [*self.records, *yielded])
        """What events are called in this log that come from elsewhere."""
        self.folds = self._folds()
        self.upcasts = tuple(listed("upcasts=[{}]", upcasts))
        self.events = self._events()
        self._add_upcast()
        self._check_names()
        self._check_data()
        self.lifts = self._lifts()
        self.gateways = [lifting(gateway, self.lifts) for gateway in self.gateways]

    def __repr__(self) -> str:
        """Tell apps apart in messages and at the prompt."""
        return f"<App {self.name}: {len(self.handlers)} deciders, {len(self.views)} views>"

    def command(self, name: str, data: Mapping[str, Any]) -> Command:
        """Make a command of its name and of plain data, as it comes from outside. `Invalid` for an unknown name, a missing, surplus or mistyped field."""
        for command in self.handlers:
            if name_of(command)[0] == name:
                return strict(command, data)
        raise Invalid(
            f"no decider takes a command called `{name}`; there are: {', '.join(sorted(name_of(one)[0] for one in self.handlers))}",
            name=name,
        )

    def event(self, name: str, data: Mapping[str, Any]) -> Event:
        """Make an event of those in `records`, of its name and of plain data. `Invalid` for an unknown name, a missing, surplus or mistyped field."""
        for event in self.records:
            if name_of(event)[0] == name:
                return strict(event, data)
        raise Invalid(
            f"the app records no event called `{name}`; it records: {', '.join(sorted(name_of(one)[0] for one in self.records))}", name=name
        )

    def _add_upcast(self) -> None:
        """Take in the events that only an upcast names: they are read, though nothing here records or hears them."""
        steps, _ = steps_of(self.upcasts, self.called)
        names = {name_of(cls)[0] for cls in (*self.events, *self.handlers)}
        for step in steps.values():
            for cls in step.classes:
                if is_a(cls, Event) and name_of(cls)[0] not in names and name_of(cls) not in steps:
                    self.events[cls] = None

    def _lifts(self) -> Lifts:
        classes = {
            ("event" if is_a(cls, Event) else "command", self.name_in_log(cls), name_of(cls)[1]): cls
            for cls in (*self.events, *self.handlers)
        }
        classes |= {(ANSWERED, one.reading.told, 1): one.reading.answered for one in self.gateways if one.reading.values}
        return Lifts(self.upcasts, classes, self.called)

    def topology(self) -> dict[str, Any]:
        """Return the wiring as plain data: what is recorded in the log whenever it changes."""
        kept = [fold_of(state) for state in (*self.views, *self.shares)]
        return {
            "app": self.name,
            "store": self.store,
            "records": sorted(name_of(event)[0] for event in self.records),
            "deciders": [
                {
                    "name": handler.name,
                    "version": handler.version,
                    "command": name_of(handler.command)[0],
                    "reads": list(dict.fromkeys(fill.fold.name for fill in handler.fills)),
                    "yields": sorted(name_of(event)[0] for event in handler.yields),
                    "asks": handler.wants_world,
                    "fingerprint": fingerprint_of(handler.function).digest,
                }
                for handler in self.handlers.values()
            ],
            "reactions": [
                {
                    "name": reaction.name,
                    "version": reaction.version,
                    "events": sorted(map(self.name_in_log, reaction.events)),
                    "sends": sorted(name_of(command)[0] for command in reaction.sends),
                    "later": sorted(name_of(command)[0] for command in reaction.later),
                    "reads": [fold.name for fold in reaction.states],
                    "asks": reaction.wants_world,
                    "fingerprint": fingerprint_of(reaction.function).digest,
                }
                for reaction in self.reactions
            ],
            "states": [
                {
                    "name": fold.name,
                    "key": list(fold.key),
                    "from": sorted(map(self.name_in_log, fold.readings)),
                    **({"everything": True} if fold.everything else {}),
                    **({"joins": [fold_of(join.state).name for join in fold.joins]} if fold.joins else {}),
                }
                for fold in dict.fromkeys([*self.folds, *kept, *(fold_of(join.state) for fold in kept for join in fold.joins)])
            ],
            "views": [fold_of(view).name for view in self.views],
            **self._projections_told(),
            "publications": [
                {
                    "name": publication.name,
                    "version": publication.version,
                    "event": sorted(map(self.name_in_log, publication.events)),
                    "publishes": name_of(publication.publishes)[0],
                    "reads": [fold.name for fold in publication.states],
                }
                for publication in self.publications
            ],
            "shares": [{"name": fold.name, "key": list(fold.key)} for fold in map(fold_of, self.shares)],
            "subscriptions": {system: sorted(map(self.name_in_log, events)) for system, events in self.subscriptions.items()},
            "replicas": {system: [fold_of(state).name for state in states] for system, states in self.replicas.items()},
            "gateways": sorted(gateway.name for gateway in self.gateways),
            **({"upcasts": self.lifts.told()} if self.lifts else {}),
            **({"ignores": sorted(set(self.ignores))} if self.ignores else {}),
        }

    def _projections_told(self) -> dict[str, Any]:
        told = [{"name": one.name, "version": one.version, "events": sorted(map(self.name_in_log, one.events))} for one in self.projections]
        return {"projections": told} if told else {}  # the wiring of an app without any is what it was

    def flow(self) -> Flow:
        """Return the map of what may happen: messages, what handles them, and what does not fit. Known from the wiring, before anything runs."""
        return declared_flow(self.topology(), self.modules())

    def modules(self) -> dict[str, str]:
        """Return in which module each message and handler is, by its id in the flow map: a map of many is read by modules. A timer is where its command is."""
        kinds: dict[str, Iterable[Any]] = {
            "command": self.handlers,
            "timer": self.handlers,
            "decider": [handler.function for handler in self.handlers.values()],
            "gateway": [gateway.call for gateway in self.gateways],
            "reaction": [reaction.function for reaction in self.reactions],
            "publication": [publication.function for publication in self.publications],
            "notification": [publication.publishes for publication in self.publications],
            "share": self.shares,
            "replica": self.systems,
            "view": self.views,
            PROJECTION: [projection.function for projection in self.projections],
        }
        named = [(f"{kind}:{name_of(one)[0]}", one) for kind, listed in kinds.items() for one in listed]
        named += [(f"event:{self.name_in_log(event)}", event) for event in self.events]
        return {node: getattr(one, "__module__", "") for node, one in named}

    def name_in_log(self, event: type) -> str:
        """Return what an event is called in this app's log: after the system that it comes from, where that is another one."""
        return self.called.get(event) or name_of(event)[0]

    def reads(self) -> dict[str, list[Read]]:
        """Return what the parameters of each decider are filled with, in their order, by its name."""
        return {
            handler.name: [Read(fill.fold.name, system=self.systems.get(fill.fold.state, "")) for fill in handler.fills]
            for handler in self.handlers.values()
        }

    def snapped(self) -> list[Fold]:
        """Return the folds of which snapshots are taken: those of states that are decided on, of views and of shares."""
        every = dict.fromkeys([*self.folds, *(fold_of(state) for state in (*self.views, *self.shares))])
        return [fold for fold in every if fold.evolve is not None]

    def _folds(self) -> list[Fold]:
        folds: dict[Fold, None] = {}
        for handler in self.handlers.values():
            folds.update(dict.fromkeys(handler.states))
        for reaction in self.reactions:
            folds.update(dict.fromkeys(reaction.states))
        for publication in self.publications:
            folds.update(dict.fromkeys(publication.states))
        return list(folds)

    def _events(self) -> dict[type, None]:
        events: dict[type, None] = {}
        for event in self.records:
            if not is_a(event, Event):
                raise Invalid(
                    f"`records` lists `{label(event)}`, which is no event; a command is dispatched, a state goes to `views`",
                    entry=str(event),
                )
            events[event] = None
        for handler in self.handlers.values():
            events.update(dict.fromkeys(handler.yields))
        for reaction in self.reactions:
            self._check_sent(reaction)
            events.update(dict.fromkeys(reaction.events))
        for view in self.views:
            if not is_a(view, State):
                raise Invalid(f"`views` lists `{label(view)}`, which is no State", entry=str(view))
        for projection in self.projections:
            events.update(dict.fromkeys(projection.events))
        events.update(dict.fromkeys(self.called))
        for publication in self.publications:
            events.update(dict.fromkeys(publication.events))
        states = [*self.folds, *(fold_of(state) for state in (*self.views, *self.shares))]
        for fold in states:
            states += [fold_of(join.state) for join in fold.joins if fold_of(join.state) not in states]
            events.update(dict.fromkeys(fold.readings))
        recorded = {*self.records, *(event for handler in self.handlers.values() for event in handler.yields), *self.called}
        _check_bases(states, events, recorded)
        self._check_published(states, recorded)
        return events

    def _check_sent(self, reaction: Reaction) -> None:
        for command in (*reaction.sends, *reaction.later):
            if command not in self.handlers:
                raise Invalid(
                    f"`{label(reaction.function)}` sends `{command.__name__}`, which no decider of this app takes: add one to `deciders=[...]`",
                    function=label(reaction.function),
                    command=command.__name__,
                )

    def _check_published(self, states: Iterable[Fold], recorded: Collection[type]) -> None:
        """Raise `Invalid` where what is published is also something that happens here: it is said to others, and nothing in this app hears it."""
        for publication in self.publications:
            published = publication.publishes
            listening = [fold.state.__name__ for fold in states if published in fold.readings]
            others: list[Publication | Reaction | Projection] = [*self.publications, *self.reactions, *self.projections]
            listening += [other.name for other in others if published in other.events]
            if published in recorded or listening:
                where = f"`{listening[0]}` listens to it" if listening else "it is recorded here as a fact or a decision"
                raise Invalid(
                    f"`{published.__name__}` is published by `{publication.name}`, and {where}: what is published is an event of its own, for others",
                    event=published.__name__,
                )

    def _check_names(self) -> None:
        seen: dict[tuple[str, str, int], Any] = {}
        kinds: dict[str, list[Any]] = {
            "data": [*self.events, *self.handlers],
            "state": list(dict.fromkeys([*(fold.state for fold in self.folds), *self.views])),
            "decider": [handler.function for handler in self.handlers.values()],
            "gateway": [gateway.call for gateway in self.gateways],
        }
        for kind, things in kinds.items():
            for thing in things:
                name, version = name_of(thing)
                key = (kind, self.called.get(thing, name), version)
                if seen.setdefault(key, thing) is not thing:
                    raise Invalid(
                        f"two of one name and version: {seen[key]!r} and {thing!r} are both `{key[1]}` version {key[2]}; give one another name "
                        'with `@named("...")`',
                        name=key[1],
                    )
        self._check_listeners()
        check_tag_types(
            dict.fromkeys([*kinds["data"], *kinds["state"], *(join.state for fold in map(fold_of, kinds["state"]) for join in fold.joins)])
        )

    def _check_listeners(self) -> None:
        """See that the name of each reaction, publication and projection is its own: its progress, and what it holds, are kept under it."""
        seen: dict[str, str] = {TIMERS: "timers"}
        seen |= {name_of(command)[0]: f"the command `{command.__name__}`" for command in self.handlers}
        listeners: list[Reaction | Publication | Projection] = [*self.reactions, *self.publications, *self.projections]
        for listener in listeners:
            other = seen.setdefault(listener.name, own := f"the {listener.kind} `{label(listener.function)}`")
            if other is not own:
                raise Invalid(
                    f"`{listener.name}` is the name of {other}, and of {own}: list it once, or give one another name with `@named(...)`",
                    name=listener.name,
                )

    def _check_data(self) -> None:
        """See that whatever is recorded can be read again, that each event reaches each state, and that views can be kept."""
        for message in (*self.events, *self.handlers, *(publication.publishes for publication in self.publications)):
            decode_of(message)
        for fold in self.folds:
            for event in self.events:
                fold.follows(event)
        names: dict[str, type[State]] = {}
        for view in self.views:
            check_view(view, self.events)
            name = name_of(view)[0]
            other = names.setdefault(name.lower(), view)
            if other is not view:
                raise Invalid(
                    f"the views `{name_of(other)[0]}` and `{name}` are one name in SQL, which tells neither case nor version apart: "
                    'give one of them another with `@named("...")`',
                    view=name,
                )


def listed(form: str, given: T) -> T:
    """Return what was given where many are taken. `Invalid` for a single one, with what to write."""
    if _is_one(given):
        raise Invalid(f"a list is taken here: write `{form.format(label(given) if callable(given) else repr(given))}`")
    return given


def _is_one(given: object) -> bool:
    return isinstance(given, str | bytes | type) or not isinstance(given, Iterable)


def _check_bases(folds: Iterable[Fold], events: Iterable[type], recorded: Collection[type]) -> None:
    """Raise `Invalid` where a state takes a base class that nobody records: an event reaches a state by its own class, so nothing would ever happen."""
    for fold in folds:
        for event in fold.readings:
            below = [one.__name__ for one in events if one is not event and issubclass(one, event)]
            if below and event not in recorded:
                raise Invalid(
                    f"`{fold.state.__name__}.evolve` takes `{event.__name__}`, which nobody records: name its subclasses, "
                    f"`{' | '.join(below)}`, or list it in `records`",
                    state=fold.state.__name__,
                    event=event.__name__,
                )


def strict(cls: type[D], data: Mapping[str, Any]) -> D:
    """Make an instance of plain data, refusing fields that are missing, surplus or of a wrong type."""
    surplus = sorted(surplus_in(cls, data))
    if surplus:
        fields = sorted(field.encode_name for field in msgspec.structs.fields(cls))
        raise Invalid(f"`{cls.__name__}` has no field {', '.join(surplus)}; it has {', '.join(fields)}", type=cls.__name__, fields=surplus)
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise Invalid(f"`{cls.__name__}` is not valid: {error}", type=cls.__name__) from error
