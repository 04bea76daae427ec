"""Lifting: how what was recorded under an older name or version is read today.

A chain of upcasts leads from each recorded name and version to a class of today. What lies nested in a body is lifted first, by what the recorded schema
says lies there and in which version: so a new version of an address needs no new version of the events that hold one.
"""

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple  # Any: data before it has a type

import msgspec

from happened.core.errors import Incompatible, Invalid
from happened.core.messages import Data, Several, is_data, name_of
from happened.core.tags import EACH, VALUES, Scope, nesting, scope_of, steps_of_holding
from happened.core.upcasts import Step, UpcastEntry, steps_of
from happened.log.deciding import deciding
from happened.log.fingerprint import fingerprint_of
from happened.log.names import Name

VALUE = "value"
LISTS, MAPPINGS = "lists", "mappings"
THROUGH: Mapping[str, type[Any]] = {LISTS: list, MAPPINGS: dict}
"""Steps through however many of a kind, also none: an older release has recorded only how what lies innermost is held."""


def path_to(field: str, holds: str) -> str:
    """Return the path of what a field holds."""
    steps = [step for step in steps_of_holding(holds) if step not in THROUGH]
    return field + "".join("[...]" if step == VALUES else "[]" for step in steps)


class Unlifted(Exception):
    """A body can't be lifted: why, and the path of the field where that is known. It leaves this package as `Incompatible`, with a position."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(f"{reason}, at `{path}`" if path else reason)
        self.reason = reason
        self.path = path


class Way(NamedTuple):
    """How bodies of one recorded name are read today."""

    classes: frozenset[type]
    """What they may come to; none for a name that is retired."""
    steps: tuple[Step, ...]
    parts: Any
    """What lies nested in them, as far as it must be lifted."""
    digest: str
    """Changes with the code of any step: an index of what is read is valid for it."""


class Lifts:
    """All chains of one app. `Invalid` for gaps, forks, and names that nobody has: said when the app is made."""

    def __init__(
        self, entries: Iterable[UpcastEntry], classes: Mapping[tuple[str, str, int], type], called: Mapping[type, str] | None = None
    ) -> None:
        self.steps, self.retired = steps_of(entries, called)
        self._classes = classes
        self._values = _values_in(classes.values())
        self._today: dict[str, tuple[str, int]] = {name: (what, version) for what, name, version in classes}
        self._today |= {name: (VALUE, version) for name, version in self._values.items()}
        self._digests: dict[tuple[str, int], str] = {}
        for name in self.retired:
            if name in self._today or any(step.name == name for step in self.steps.values()):
                raise Invalid(f"`{name}` is retired, and a class or an upcast reads it: one of both", name=name)
        self.chains = {start: self._chain(start) for start in self.steps}
        for (name, version), chain in self.chains.items():
            self._check_splits(name, version, chain)

    def __bool__(self) -> bool:
        """Whether anything is read otherwise than it was written."""
        return bool(self.steps or self.retired)

    def way(self, name: Name) -> Way | None:
        """Return how bodies of a recorded name are read, `None` where that is as they stand there: by the class of that name and version, if there is one."""
        if name.name in self.retired:
            return Way(frozenset(), (), [], "retired")
        chain = self.chains.get((name.name, name.version), ())
        cls = self._classes.get((name.what, name.name, name.version))
        if not chain and cls is None:
            return None
        parts = self._parts(name, chain, cls)
        if not chain and not parts:
            return None
        classes = self._leads_to(name, chain, cls)
        digest = hashlib.sha256("\n".join([*map(self.digest_of, chain), *self._digests_in(parts)]).encode()).hexdigest()[:16]
        return Way(classes, tuple(chain), parts, digest)

    def digest_of(self, step: Step) -> str:
        """Return a text that changes with what a step does."""
        key = (step.name, step.version)
        if key not in self._digests:
            code = fingerprint_of(step.function).digest if step.function is not None else ""
            self._digests[key] = f"{step.name} {step.version} {step.to} {code}"
        return self._digests[key]

    def digests(self, classes: Iterable[type]) -> list[str]:
        """Return what of the chains matters to who reads these classes: what a view's fingerprint depends on, too."""
        wanted = set(classes)
        names = {name for (_, name, _), cls in self._classes.items() if cls in wanted}
        values = set(_values_in(wanted))
        found = [
            self.digest_of(step)
            for start, chain in self.chains.items()
            for step in chain
            if names & {one for each in chain for one in (each.to, *each.into)} or any(each.splits for each in chain) or start[0] in values
        ]
        return sorted(set(found))

    def told(self) -> dict[str, Any]:
        """Return the table as plain data: what is recorded of it with the wiring."""
        return {
            "steps": sorted(map(self.digest_of, self.steps.values())),
            "retired": sorted(self.retired),
            "earlier": [told for (name, version), chain in sorted(self.chains.items()) for told in self._earlier(name, version, chain)],
        }

    def splits_into(self, classes: Iterable[type]) -> bool:
        """Say whether one record may come to several events, any of these classes among them: whether there is one by now or not."""
        wanted = set(classes)
        names = {name for (_, name, _), cls in self._classes.items() if cls in wanted}
        return any(chain[-1].splits and (not chain[-1].into or names & set(chain[-1].into)) for chain in self.chains.values())

    def former_names(self, cls: type) -> frozenset[str]:
        """Return the names that a class had before."""
        own = {name for (_, name, _), found in self._classes.items() if found is cls}
        return frozenset(name for (name, _), chain in self.chains.items() if chain[-1].to in own)

    def lifted(self, way: Way, name: Name, data: Any, position: int) -> Any:
        """Return today's instance of what was recorded as this data; `Several` where that became several. `Incompatible`, with the position, where it fails."""
        try:
            found = [read_as(cls, body) for cls, body in self.bodies(way, name, data)]
        except Unlifted as error:
            raise Incompatible(
                f"`{name.name}` version {name.version} at position {position} can't be read by its upcasts: {error}",
                name=name.name,
                version=name.version,
                position=position,
            ) from error
        return Several(tuple(found)) if any(step.splits for step in way.steps) else found[0]

    def bodies(self, way: Way, name: Name, data: Any) -> Iterator[tuple[type, Any]]:
        """Yield the classes of today, and for each the data that it is to be read from. `Unlifted` where a step fails."""
        if way.parts:
            data = self._inside(way.parts, data)
        known = name.name
        for step in way.steps:
            known = step.to
            if step.by is None:
                continue
            found = _stepped(step, data)
            if not is_data(found):
                yield from self._several(step, found, name.what)
                return
            data = found
        yield self._class_of(known, name.what), data

    # --- within

    def _several(self, step: Step, found: Any, what: str) -> Iterator[tuple[type, Any]]:
        if not step.splits:
            raise Unlifted(
                f"`{step.said}` came to something else than a `dict` of data; one that comes to several events says so: annotate it "
                "`-> Iterable[tuple[str, h.Data]]`"
            )
        try:
            with deciding():  # it may be a generator, which runs only now
                pairs = [(self._class_of(name, what), data) for name, data in found]
        except Unlifted:
            raise
        except Exception as error:
            raise Unlifted(f"`{step.said}` does not come to pairs of name and data: {type(error).__name__}: {error}") from error
        yield from pairs

    def _class_of(self, name: str, what: str) -> type:
        cls = self._classes.get((what, name, self._today.get(name, ("", 0))[1]))
        if cls is None:
            raise Unlifted(f"no class of today is called `{name}`")
        return cls

    def _inside(self, parts: Any, data: Any) -> Any:
        """Lift what lies nested in data: what is inside first. What is given is not changed."""
        if not is_data(data):
            return data
        made: Data = dict(data)
        for field, holds, name, version, below, tag in parts:
            if made.get(field) is not None:
                try:
                    made[field] = self._each(steps_of_holding(holds), made[field], (name, version, below, tag))
                except Unlifted as error:
                    path = path_to(field, holds)
                    raise Unlifted(error.reason, f"{path}.{error.path}" if error.path else path) from error
        return made

    def _each(self, steps: Sequence[str], value: Any, part: Any) -> Any:
        if steps:
            step, inside = steps[0], steps[1:]
            if step in THROUGH:
                if not isinstance(value, THROUGH[step]):
                    return self._each(inside, value, part)
                inside = steps
            if step not in (VALUES, MAPPINGS) and isinstance(value, list):
                members = list[Any](value)  # pyright: ignore[reportUnknownArgumentType]  # of what is looked at one by one
                return [self._each(inside, one, part) if step in (EACH, LISTS, str(n)) else one for n, one in enumerate(members)]
            if step in (VALUES, MAPPINGS) and is_data(value):
                return {key: self._each(inside, one, part) for key, one in value.items()}
            return value
        if not is_data(value):
            return value
        name, version, below, tag = part
        if tag is not None and value.get(tag[0]) != tag[1]:
            return value
        found: Any = self._inside(below, value)
        for upcast in self.chains.get((name, version), ()):
            found = _stepped(upcast, found) if upcast.by is not None else found
        return found

    def _chain(self, start: tuple[str, int]) -> list[Step]:
        chain: list[Step] = []
        name, version = start
        while (step := self.steps.get((name, version))) is not None:
            if step in chain:
                raise Invalid(f"the upcasts of `{start[0]}` version {start[1]} go round in a circle", name=start[0])
            chain.append(step)
            if step.splits:
                return chain
            name, version = step.to, step.to_version
        today = self._today.get(name)
        if today is None:
            raise Invalid(
                f"the upcasts of `{start[0]}` version {start[1]} lead to `{name}` version {version}, and no class of this app is called that: "
                "list the class, rename with `to=`, or take the upcasts out where it is a value that no class holds any more",
                name=start[0],
                version=start[1],
            )
        if version < today[1]:
            raise Invalid(
                f"the upcasts of `{start[0]}` version {start[1]} end at `{name}` version {version}, and the class has version {today[1]}: "
                f"add the upcast of `{name}` version {version}",
                name=start[0],
                version=start[1],
            )
        if version > today[1]:
            raise Invalid(
                f"the upcasts of `{start[0]}` version {start[1]} lead to `{name}` version {version}, and the class has version {today[1]}: give the "
                f'class the new version, `@named("{name}", version={version})`, or take the upcast out',
                name=start[0],
                version=start[1],
            )
        return chain

    def _check_splits(self, name: str, version: int, chain: Sequence[Step]) -> None:
        last = chain[-1]
        if last.splits:
            what = {self._today[one][0] for one in last.into if one in self._today}
            missing = [one for one in last.into if one not in self._today]
            if missing:
                raise Invalid(
                    f"the upcast of `{name}` version {version} comes to `{missing[0]}`, which no class of this app is called", name=name
                )
            if what - {"event"} or name in self._values:
                raise Invalid(
                    f"the upcast of `{name}` version {version} comes to several: only an event may become several events", name=name
                )

    def _leads_to(self, name: Name, chain: Sequence[Step], cls: type | None) -> frozenset[type]:
        if not chain:
            return frozenset([cls]) if cls is not None else frozenset()
        last = chain[-1]
        if last.splits and not last.into:
            return frozenset(found for (what, _, _), found in self._classes.items() if what == name.what)
        names = last.into or (last.to,)
        return frozenset(found for (what, own, _), found in self._classes.items() if what == name.what and own in names)

    def _earlier(self, name: str, version: int, chain: Sequence[Step]) -> Iterator[dict[str, Any]]:
        """Yield what is to be told of a message that is read under other names than it was recorded by. `into` is empty where it may come to any event."""
        last = chain[-1]
        if last.splits:
            yield {"name": name, "version": version, "into": list(last.into)}
        elif last.to != name and last.to not in self._values:
            yield {"name": name, "version": version, "to": last.to}

    def _parts(self, name: Name, chain: Sequence[Step], cls: type | None) -> Any:
        """Return what must be lifted inside a body: as its recorded schema says; one that was recorded without that is taken as today's class, in version 1."""
        if name.parts is None:
            of = cls if cls is not None else next(iter(self._leads_to(name, chain, cls)), None)
            return self._needed(nesting(scope_of(of), known=False) if of is not None and len(self._leads_to(name, chain, cls)) == 1 else [])
        return self._needed(name.parts, nesting(scope_of(cls)) if cls is not None else [])

    def _needed(self, parts: Any, today: Any = ()) -> Any:
        """Return of what lies nested that which must be lifted; with where it lies today, where the class of this name and version says it in full."""
        needed: dict[tuple[str, str, str], Any] = {}
        for field, holds, name, version, below, tag in parts:
            inside = self._needed(below)
            chain = self.chains.get((name, version), ())
            if inside or chain:
                names = {name, *(step.to for step in chain)}
                full = [found for known, found, called, *_ in today if known == field and called in names and innermost(found) == holds]
                for place in full or [_former([found for known, found, *_ in parts if known == field], holds)]:
                    needed[field, place, name] = [field, place, name, version, inside, tag]
        return list(needed.values())

    def _digests_in(self, parts: Any) -> Iterator[str]:
        for field, _, name, version, below, _ in parts:
            yield field
            yield from map(self.digest_of, self.chains.get((name, version), ()))
            yield from self._digests_in(below)


def innermost(holds: str) -> str:
    """Return what an older release has recorded of how a field holds something."""
    last = holds.rpartition("/")[-1]
    return EACH if last.isdigit() else last


def _former(of_field: Iterable[str], holds: str) -> str:
    """Return how a field holds something, of which an older release may have recorded only what lies innermost."""
    if any(innermost(one) != one for one in of_field):
        return holds
    return {EACH: f"{MAPPINGS}/{EACH}/{LISTS}", VALUES: f"{LISTS}/{VALUES}"}.get(holds, holds)


def read_as(cls: type[Any], data: Any) -> Any:
    """Return an instance of a class of today from lifted data. `Unlifted`, with the path of the field, where it does not fit."""
    try:
        return msgspec.convert(data, cls, str_keys=True)
    except (msgspec.MsgspecError, TypeError, ValueError) as error:
        raise unlifted(str(error)) from error


def unlifted(text: str) -> Unlifted:
    """Tell the path of the field from what an error of reading says; all members of a collection have one."""
    found = re.search(r" - at (`key` in )?`\$\.?(.*)`$", text)
    if found is None:
        return Unlifted(text)
    return Unlifted(f"{'a key: ' if found.group(1) else ''}{text[: found.start()]}", re.sub(r"\[\d+\]", "[]", found.group(2)))


def _stepped(step: Step, data: Any) -> Any:
    assert step.by is not None, "it was looked at before"
    try:
        with deciding():  # an upcast may no more dispatch than a decider may
            return step.by(data)
    except Exception as error:
        raise unlifted(f"`{step.said}` fails: {type(error).__name__}: {error}") from error


def _values_in(classes: Iterable[type]) -> dict[str, int]:
    """Return the names of the values that lie in these classes, with their newest versions."""
    found: dict[str, int] = {}

    def look(scope: Scope) -> None:
        for below in scope.parts:
            name, version = name_of(below.scope.cls)
            found[name] = max(version, found.get(name, 0))
            look(below.scope)

    for cls in classes:
        look(scope_of(cls))
    return found
