"""Systems: what an app says of others in its tables, checked when the app is made, and where each of them is reached."""

from collections.abc import Iterable, Mapping
from typing import Any, NoReturn  # Any: a checker has not seen every caller

from happened.core.annotations import label
from happened.core.errors import Invalid, StoreFailed
from happened.core.messages import Event, name_of
from happened.core.state import State, fold_of
from happened.core.tags import is_a
from happened.shelf.tables import Table
from happened.transfer.channel import LogChannel


def listed_by_system(table: str, given: Any) -> dict[str, tuple[Any, ...]]:
    """Return a table of other systems' names and classes. `Invalid` for what is none."""
    try:
        items = dict[Any, Any](given).items()
    except (TypeError, ValueError):
        raise Invalid(f'`{table}` is a table by the other system\'s name: write {table}={{"crm": [...]}}, not {given!r}') from None
    found: dict[str, tuple[Any, ...]] = {}
    for system, classes in items:
        if not isinstance(system, str) or not system or "/" in system:
            raise Invalid(f"`{table}` names systems by text, without `/`, not by {system!r}")
        if isinstance(classes, str | bytes | type) or not hasattr(classes, "__iter__"):
            shown = getattr(classes, "__name__", repr(classes))
            raise Invalid(f'a list is taken here: write {table}={{"{system}": [{shown}]}}')
        found[system] = tuple(classes)
    return found


def check_subscriptions(subscriptions: Mapping[str, Iterable[Any]], own: Iterable[type]) -> dict[type, str]:
    """Return what each subscribed class is called in our log. `Invalid` for what is no event, and for one that something else records, too."""
    called: dict[type, str] = {}
    ours = set(own)
    for system, events in subscriptions.items():
        for event in events:
            if not is_a(event, Event):
                raise Invalid(f"`subscriptions` lists `{label(event)}` under `{system}`, which is no event", entry=str(event))
            if event in called or event in ours:
                raise Invalid(
                    f"`{event.__name__}` comes from `{system}` and from somewhere else, too: give each its own class, with the published name by `@named`",
                    event=event.__name__,
                )
            called[event] = f"{system}/{name_of(event)[0]}"
    return called


def check_shares(shares: Iterable[Any]) -> None:
    """Raise `Invalid` for what can't be shared: a state that is not folded from events alone, or two of one name."""
    seen: dict[str, Any] = {}
    for state in shares:
        if not is_a(state, State):
            raise Invalid(f"`shares` lists `{label(state)}`, which is no State", entry=str(state))
        fold = fold_of(state)
        if fold.evolve is None or fold.joins:
            what = "has no `evolve`" if fold.evolve is None else "asks for other states"
            raise Invalid(f"`{state.__name__}` {what}, and what is shared is folded from events alone", state=state.__name__)
        if state.__struct_config__.omit_defaults or state.__struct_config__.array_like:
            raise Invalid(f"`{state.__name__}` is written without the names of all its fields, so it can't be shared", state=state.__name__)
        if "/" in fold.name:
            raise Invalid(f"the name `{fold.name}` of a shared state has a `/`", state=state.__name__)
        if seen.setdefault(fold.name, state) is not state:
            raise Invalid(f"two shared states are called `{fold.name}`: give one another name with `@named`", name=fold.name)


def check_replicas(replicas: Mapping[str, Iterable[Any]]) -> dict[type[State], str]:
    """Return which system each replica is of. `Invalid` for a state that evolves by itself, or can't be kept as a table."""
    systems: dict[type[State], str] = {}
    seen: dict[tuple[str, str], Any] = {}
    for system, states in replicas.items():
        for state in states:
            if not is_a(state, State):
                raise Invalid(f"`replicas` lists `{label(state)}` under `{system}`, which is no State", entry=str(state))
            fold = fold_of(state)
            if fold.evolve is not None:
                raise Invalid(
                    f"`{state.__name__}` is a replica and has an `evolve`: it changes as `{system}` says, so leave that out",
                    state=state.__name__,
                )
            key = (system, fold.name)
            if state in systems or seen.setdefault(key, state) is not state:
                raise Invalid(f"the replica `{fold.name}` of `{system}` is listed twice", state=state.__name__)
            Table(state, "")
            systems[state] = system
    return systems


def check_channels(named: Iterable[str], given: Mapping[str, Any]) -> None:
    """Raise `Invalid` unless there is a channel for each system that is named, and for no other."""
    systems = set(named)
    missing, surplus = sorted(systems - set(given)), sorted(set(given) - systems)
    if missing:
        raise Invalid(
            f'the app listens to `{missing[0]}`, and it is not said where that is: open(channels={{"{missing[0]}": the running app, or the URL of its log}})',
            systems=missing,
        )
    if surplus:
        raise Invalid(f"the app has no subscription or replica of `{surplus[0]}`: `channels` names what it has", systems=surplus)


def nowhere() -> LogChannel:
    """Return the channel of a system that is left to other processes: nothing comes through it."""

    def left() -> NoReturn:
        raise StoreFailed("this process was opened without a channel to it")

    return LogChannel(left, lambda _store: True, own=False)


def is_channel(given: object) -> bool:
    """Say whether this has what a channel has."""
    return all(callable(getattr(given, name, None)) for name in ("origin", "read", "head", "recorded_at", "standing", "close"))
