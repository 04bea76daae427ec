"""Gateways: the outside, asked through the `World`, with every answer recorded.

A decider that asks is first run under the lock like any other; its first question moves it outside, where it is started again in a worker thread, and
each question is answered as it comes. Then it is decided under the lock, with those answers. A new question sends it out once more, five rounds at most.
An answer is keyed by gateway, arguments and how often the same was asked before. What the decider hears is the answer as it will be read again.
"""

import asyncio
import contextlib
import copy
import hashlib
import inspect
import threading
import time
import typing
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeVar  # Any: answers are of any type

import msgspec

from happened.core.annotations import label, named_of_type, parameters_of, returned_by
from happened.core.errors import Closed, Error, GatewayFailed, Incompatible, Invalid, Overloaded, Unanswered
from happened.core.messages import CallId, name_of
from happened.core.plain import NO_DATA, encoded, strange_in
from happened.core.store import Row
from happened.core.tags import bare, nesting, scope_of
from happened.log.held import told
from happened.log.lifting import Lifts, Unlifted, Way, read_as
from happened.log.names import Name
from happened.log.row import ANSWER, ERASED, RECORD_BYTES_MAX, encode, taken_apart

THREADS_MAX = 32
"""So many awaited decisions ask the outside at once: each holds a thread until it is answered."""
CLOSE_SECONDS_MAX = 1.0
"""How long `close` waits for awaited gateways, which are cancelled; who holds up their loop is left behind."""
ROUNDS_MAX = 5
SHOWN_CHARACTERS_MAX = 1_000
"""Of an answer that is no answer so much is shown."""
ERROR_CHARACTERS_MAX = 10_000
"""Of what went wrong outside so much is recorded: a whole page may come in the place of an answer."""
ABOUT_BYTES = 2_000
"""What is recorded beside an answer and its question takes no more."""
ANSWERED = "answer"
"""What the answers of a gateway are among the classes that upcasts lead to."""

A = TypeVar("A")
P = ParamSpec("P")


class Gateway:
    """A table entry for a gateway where the defaults don't do: how long one attempt may take, and how many attempts there are.

    `noted`: before it is asked for a command, that is noted in the log. It costs a commit more, and so it is known of a call what else nobody could know:
    that it was made, and that its decision was lost in a crash.
    """

    def __init__(self, call: Callable[..., Any], *, wait_seconds_max: float = 10, attempts_max: int = 1, noted: bool = False) -> None:
        if wait_seconds_max <= 0 or attempts_max < 1:
            raise Invalid(
                f"gateway `{label(call)}` needs time and at least one attempt", wait_seconds_max=wait_seconds_max, attempts_max=attempts_max
            )
        self.call = call
        self.name = name_of(call)[0]
        self.wait_seconds_max = wait_seconds_max
        self.attempts_max = attempts_max
        self.noted = noted
        annotation = returned_by(call, "Decimal")
        if typing.get_origin(annotation) in (Awaitable, Coroutine):
            annotation = typing.get_args(annotation)[-1]
        try:
            self.decode = msgspec.json.Decoder(bare(annotation)[0]).decode
            strange = strange_in(bare(annotation)[0])
            if strange:
                raise TypeError(f"`{strange}` is no data")
        except (TypeError, ValueError) as error:
            raise Invalid(
                f"the answer of gateway `{label(call)}` can't be recorded and read again: {error}. Annotate it with plain data",
                gateway=self.name,
            ) from error
        self.key_parameter = next((parameter.name for parameter in parameters_of(call) if parameter.annotation is CallId), None)
        self.reading = Reading(self.name, bare(annotation)[0])

    def __repr__(self) -> str:
        """Tell which function it is, and how it is asked."""
        return f"<Gateway {self.name}: {self.attempts_max} x {self.wait_seconds_max:g} s>"


class Reading:
    """How recorded answers of one gateway are read: what lies in them by the upcasts of an app, from the versions in which it was recorded."""

    def __init__(self, gateway: str, returns: Any, lifts: Lifts | None = None) -> None:
        self.told = f"the answer of {gateway}"
        """What the answers are called where upcasts are looked for."""
        self.answered: type[msgspec.Struct] = msgspec.defstruct("Answered", [("answer", returns)], frozen=True)
        self.values: dict[str, int] | None = _versions(_nested_in(self.answered)) or None
        """In which versions values lie in an answer that comes today, by their names."""
        self._gateway = gateway
        self._returns = returns
        self._decode = msgspec.json.Decoder(returns).decode
        self._lifts = lifts
        self._ways: dict[frozenset[tuple[str, int]], tuple[Name, Way | None]] = {}
        """By the versions in which values lie in an answer."""

    def by(self, lifts: Lifts) -> "Reading":
        """Return how they are read by these upcasts."""
        return Reading(self._gateway, self._returns, lifts)

    def read(self, answer: "Answer") -> Any:
        """Return a recorded answer as it is read today. `Incompatible` where it can't be."""
        try:
            if answer.values and answer.values != self.values and self._lifts is not None:
                return self._lifted(self._lifts, answer.values, answer.answer)
            return self._decode(answer.answer)
        except (msgspec.MsgspecError, Unlifted) as error:
            raise Incompatible(
                f"an answer of the gateway `{self._gateway}` was recorded that can't be read as what it returns today: {error}. Where a value in it "
                "has changed, give that the next version, and an upcast from the one before",
                gateway=self._gateway,
            ) from error

    def _lifted(self, lifts: Lifts, versions: Mapping[str, int], body: msgspec.Raw) -> Any:
        found = frozenset(versions.items())
        if found not in self._ways:
            name = Name(0, ANSWERED, self.told, 1, "", parts=_in_versions(_nested_in(self.answered), versions))
            self._ways[found] = name, lifts.way(name)
        name, way = self._ways[found]
        if way is None:
            return self._decode(body)
        [(cls, data)] = lifts.bodies(way, name, {"answer": msgspec.json.decode(body)})
        return read_as(cls, data).answer


def lifting(gateway: Gateway, lifts: Lifts) -> Gateway:
    """Return a gateway as an app has it, whose upcasts these are: the same entry may stand in the tables of several."""
    own = copy.copy(gateway)
    own.reading = gateway.reading.by(lifts)
    return own


def _nested_in(answered: type[msgspec.Struct]) -> list[Any]:
    """Return which values lie in an answer, and where; none in what could be changed after the fact."""
    try:
        return nesting(scope_of(answered))
    except Invalid:
        return []


def _versions(parts: Iterable[Any]) -> dict[str, int]:
    found: dict[str, int] = {}
    for _, _, name, version, below, _ in parts:
        found |= {name: version, **_versions(below)}
    return found


def _in_versions(parts: Iterable[Any], versions: Mapping[str, int]) -> list[Any]:
    """Return where values lie, each in the version in which it was recorded."""
    return [
        [field, holds, name, versions.get(name, version), _in_versions(below, versions), tag]
        for field, holds, name, version, below, tag in parts
    ]


def key_parameter_of(call: Callable[..., Any], gateway: Gateway) -> str | None:
    """Return by which name a function that is called for a gateway is given the key, if it takes one.

    One that stands in the gateway's place takes the key by the type, or by the name that it has there.
    """
    if call is gateway.call:
        return gateway.key_parameter
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):  # some functions in C don't tell
        return gateway.key_parameter
    by_name = any(one.name == gateway.key_parameter or one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters)
    return named_of_type(call, CallId) or (gateway.key_parameter if by_name else None)


class Answer(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What was asked, and what came back: an answer, or an error."""

    gateway: str
    arguments: msgspec.Raw
    nth: int = 0
    answer: msgspec.Raw = msgspec.Raw(b"")
    error: str = ""
    us: int = 0
    attempt: int = 1
    lost: int = 0
    """How many calls were made for it before whose decisions were lost, where such calls are noted."""
    values: dict[str, int] | None = None
    """In which versions values lie in the answer, by their names. Not said of one that an older release of this framework has recorded."""


Question = tuple[str, bytes, int]


decode_answer = msgspec.json.Decoder(Answer).decode


def answers_in(row: Row) -> dict[int, Answer]:
    """Return the answers that a row holds, in order, by their places among the row's records; without what was erased."""
    return {
        ordinal: decode_answer(record.body)
        for ordinal, (_, record) in enumerate(taken_apart(row))
        if record.number == ANSWER and bytes(record.body) != ERASED
    }


class Answers:
    """The answers got for one command."""

    def __init__(self, known: Iterable[Answer] = ()) -> None:
        self.known: dict[Question, Answer] = {}
        self.noted: frozenset[str] = frozenset()
        """The notes that were made of calls for it."""
        self.over = False
        """Nobody waits for it any more."""
        for answer in known:
            self.put(answer)

    def put(self, answer: Answer) -> None:
        """Keep an answer."""
        self.known[answer.gateway, bytes(answer.arguments), answer.nth] = answer


class TimeOver(BaseException):
    """The caller's time is over, and an answer has not come. Not an `Exception`, so that a decider's own handlers let it pass."""


class NotNoted(BaseException):
    """A call could not be noted, and so is not made: trouble of the log, and no answer. Not an `Exception`, so that a decider's own handlers let it pass."""

    def __init__(self, error: Error) -> None:
        super().__init__(str(error))
        self.error = error


class NeedsOutside(BaseException):
    """A question has no answer yet. Not an `Exception`, so that a decider's own handlers let it pass."""


def call_id(command: str, question: Question) -> str:
    """Return the key that is offered to a gateway: the same each time the same is asked for the same command."""
    gateway, arguments, nth = question
    return f"{command}:{gateway}:{hashlib.sha256(arguments).hexdigest()[:16]}:{nth}"


class Wanted(NamedTuple):
    """One question."""

    gateway: Gateway
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    question: Question


class Answering(Protocol):
    """Who answers questions: the outside itself, or in a replay what stands in its place."""

    def gateway(self, call: Callable[..., Any]) -> Gateway:
        """Return the entry of a gateway; `Invalid` if it is not in the app's table."""
        ...

    def answer(self, wanted: Sequence[Wanted], command: str, loop: asyncio.AbstractEventLoop | None, deadline: float) -> list[Answer]:
        """Return the answers to questions, in their order."""
        ...


class Outside:
    """Where gateways run: sync ones in threads, async ones on the loop that called, or on one of its own."""

    def __init__(self, gateways: Iterable[Gateway], instead: Mapping[Callable[..., Any], Callable[..., Any]]) -> None:
        self.gateways = {gateway.call: gateway for gateway in gateways}
        for stub in instead:
            if stub not in self.gateways:
                raise Invalid(f"`{label(stub)}` is not among the app's gateways", gateway=label(stub))
        self.instead = dict(instead)
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        """The threads in which awaited decisions ask the outside, and wait for what is kept or copied."""
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def gateway(self, call: Callable[..., Any]) -> Gateway:
        """Return the entry of a gateway; `Invalid` if it is not in the app's table."""
        if not callable(call):
            raise Invalid(f"`{call!r}` can't be asked: give the gateway and what it is asked, as in `world.ask(freight, units)`")
        found = self.gateways.get(call)
        if found is None:
            raise Invalid(f"`{label(call)}` is not among the app's gateways: add it to `gateways=[...]`", gateway=label(call))
        return found

    def answer(self, wanted: Sequence[Wanted], command: str, loop: asyncio.AbstractEventLoop | None, deadline: float) -> list[Answer]:
        """Ask these questions at once, and return the answers in their order. Errors are answers too. `TimeOver` where they have not come in time.

        `Closed` where this, or the loop that they are awaited on, was closed meanwhile.
        """
        waiting = [self._start(one, command, loop) for one in wanted]
        try:
            return [future.result(max(deadline - time.monotonic(), 0.0)) for future in waiting]
        except TimeoutError as error:
            raise TimeOver from error
        except CancelledError as error:
            raise Closed("it was closed before the outside had answered") from error

    @staticmethod
    def deadline(seconds: float) -> float:
        """Return when so many seconds are over, by the clock that `answer` waits by."""
        return time.monotonic() + seconds

    def close(self) -> None:
        """Let the threads go. Who waits for one, or for an awaited gateway on a loop of our own, hears `Closed`."""
        with self._lock:
            self._closed = True
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        if self._loop is not None and self._thread is not None:
            with contextlib.suppress(TimeoutError):
                asyncio.run_coroutine_threadsafe(_all_cancelled(), self._loop).result(CLOSE_SECONDS_MAX)
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(CLOSE_SECONDS_MAX)
            if not self._thread.is_alive():
                self._loop.close()
            self._loop = None

    async def in_thread(self, deadline: float, function: Callable[P, A], *args: P.args, **kwargs: P.kwargs) -> A:
        """Call a function in a thread. `Overloaded` where none was free by a deadline, by the monotonic clock, `Closed` where this was closed before."""
        with self._lock:
            self._check_open()
            if self._pool is None:
                self._pool = ThreadPoolExecutor(THREADS_MAX, thread_name_prefix="happened-outside")
            queued = self._pool.submit(function, *args, **kwargs)
        called = asyncio.wrap_future(queued)
        try:
            await asyncio.wait([called], timeout=max(deadline - time.monotonic(), 0.0))
        except BaseException:
            called.cancel()
            raise
        if not called.done() and queued.cancel():
            raise Overloaded(
                f"{THREADS_MAX} decisions wait for the outside, and no thread was free in the time allowed; nothing was recorded"
            )
        if called.cancelled():  # not by this task, which would hear of it as it waits
            self._check_open()
        return await called

    def _check_open(self) -> None:
        if self._closed:
            raise Closed("the log is closed")

    def _start(self, one: Wanted, command: str, loop: asyncio.AbstractEventLoop | None) -> "Future[Answer]":
        call = self.instead.get(one.gateway.call, one.gateway.call)
        kwargs = dict(one.kwargs)
        key = key_parameter_of(call, one.gateway)
        if key is not None and key not in kwargs:
            kwargs[key] = CallId(call_id(command, one.question))
        if inspect.iscoroutinefunction(call):
            return asyncio.run_coroutine_threadsafe(self._ask_async(one, call, kwargs), loop or self._own_loop())
        return _Attempts(one, call, kwargs).future

    async def _ask_async(self, one: Wanted, call: Callable[..., Awaitable[Any]], kwargs: Mapping[str, Any]) -> Answer:
        gateway = one.gateway
        error: BaseException = TimeoutError()
        started = time.perf_counter()
        for attempt in range(1, gateway.attempts_max + 1):
            started = time.perf_counter()
            limit = asyncio.timeout(gateway.wait_seconds_max)
            try:
                async with limit:
                    got = await call(*one.args, **kwargs)
            except (Exception, asyncio.CancelledError, SystemExit) as failed:  # whatever the outside raises is recorded as its answer
                own = asyncio.current_task()
                if isinstance(failed, asyncio.CancelledError) and own is not None and own.cancelling():
                    raise  # it is this question that is cancelled, and not what the outside has waited for
                error = _too_late(gateway) if limit.expired() else failed
            else:
                return _answered(one, got, started, attempt)
        return _failed(one, error, started, gateway.attempts_max)

    def _own_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            self._check_open()
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(target=self._loop.run_forever, name="happened-gateways", daemon=True)
                self._thread.start()
            return self._loop


async def _all_cancelled() -> None:
    """Cancel all other tasks of this loop, and let them come to their end."""
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CLOSE_SECONDS_MAX)


class Silent(Outside):
    """An outside that nobody reaches: only the functions answer that were given in place of gateways. Any other question is `Unanswered`.

    `what_to_do` says what else could be done, where the caller can't give such functions: by default, that he can.
    """

    def __init__(self, gateways: Iterable[Gateway], instead: Mapping[Callable[..., Any], Callable[..., Any]], what_to_do: str = "") -> None:
        super().__init__(gateways, instead)
        self._what_to_do = what_to_do
        self.refused: Unanswered | None = None
        """The first question that had no answer: whoever asks may catch the error, and it is not to go unnoticed."""

    def answer(self, wanted: Sequence[Wanted], command: str, loop: asyncio.AbstractEventLoop | None, deadline: float) -> list[Answer]:
        """Let the given functions answer. `Unanswered` for a gateway that has none."""
        for one in wanted:
            if one.gateway.call not in self.instead:
                said = ", ".join([*map(repr, one.args), *(f"{name}={value!r}" for name, value in one.kwargs.items())])
                what_to_do = self._what_to_do or f"Say what it answers: `answers={{{label(one.gateway.call)}: a function}}`"
                error = Unanswered(
                    f"`{command}` asks `{one.gateway.name}({said})`, and no answer to that was recorded; nobody outside is asked here. {what_to_do}",
                    gateway=one.gateway.name,
                    id=command,
                )
                self.refused = self.refused or error
                raise error
        return super().answer(wanted, command, loop, deadline)


class _Attempts:
    """A question to a sync gateway: each attempt in a daemon thread, since a call that hangs can't be stopped, only left behind."""

    def __init__(self, one: Wanted, call: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        self.future: Future[Answer] = Future()
        threading.Thread(target=self._run, args=(one, call, kwargs), name="happened-ask", daemon=True).start()

    def _run(self, one: Wanted, call: Callable[..., Any], kwargs: Mapping[str, Any]) -> None:
        gateway = one.gateway
        error: BaseException = TimeoutError()
        started = time.perf_counter()
        for attempt in range(1, gateway.attempts_max + 1):
            started = time.perf_counter()
            done: Future[Any] = Future()
            threading.Thread(target=_call, args=(done, call, one.args, kwargs), name="happened-gateway", daemon=True).start()
            try:
                got = done.result(timeout=gateway.wait_seconds_max)
            except BaseException as failed:  # noqa: BLE001 - whatever the outside raises is recorded as its answer
                error = failed if done.done() else _too_late(gateway)
            else:
                self.future.set_result(_answered(one, got, started, attempt))
                return
        self.future.set_result(_failed(one, error, started, gateway.attempts_max))


def _call(done: "Future[Any]", call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    try:
        done.set_result(call(*args, **kwargs))
    except BaseException as error:  # noqa: BLE001 - handed to the thread that waits
        done.set_exception(error)


def _answered(one: Wanted, got: Any, started: float, attempt: int) -> Answer:
    gateway, arguments, nth = one.question
    try:
        body = encoded(got, encode)
        one.gateway.decode(body)
    except Exception as error:  # noqa: BLE001 - half a character, or what holds itself: it comes from outside
        said = f"the answer {_cut(repr(got), SHOWN_CHARACTERS_MAX)} is not what the gateway says it returns: {error}"
        return _failed(one, TypeError(said), started, attempt)
    size = len(body) + len(arguments) + ABOUT_BYTES
    if size > RECORD_BYTES_MAX:
        said = f"the answer takes {size:,} bytes, and a record may have {RECORD_BYTES_MAX:,}: keep large things outside, and answer where they are"
        return _failed(one, ValueError(said), started, attempt)
    return Answer(
        gateway, msgspec.Raw(arguments), nth, msgspec.Raw(body), us=_us(started), attempt=attempt, values=one.gateway.reading.values
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text):,} characters)"


def _failed(one: Wanted, error: BaseException, started: float, attempt: int) -> Answer:
    gateway, arguments, nth = one.question
    return Answer(gateway, msgspec.Raw(arguments), nth, error=_cut(told(error), ERROR_CHARACTERS_MAX), us=_us(started), attempt=attempt)


def _too_late(gateway: Gateway) -> TimeoutError:
    return TimeoutError(f"no answer within {gateway.wait_seconds_max:g} s")


def _us(started: float) -> int:
    return int((time.perf_counter() - started) * 1e6)


class Asking:
    """The questions of one run: knows the answers so far, and asks the rest if it may."""

    def __init__(
        self,
        outside: Answering,
        answers: Answers,
        command: str,
        loop: asyncio.AbstractEventLoop | None,
        *,
        may_ask: bool,
        deadline: float = 0.0,
        note: Callable[[str, Answers, Sequence[Question], float], Mapping[Question, int]] | None = None,
    ) -> None:
        self._note = note
        self._deadline = deadline
        self._outside = outside
        self._answers = answers
        self._command = command
        self._loop = loop
        self._may_ask = may_ask
        self._asked: dict[tuple[str, bytes], int] = {}

    def ask(self, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """Return one answer."""
        return self.ask_all(call, [(args, kwargs)])[0]

    def ask_all(self, call: Callable[..., Any], questions: Iterable[tuple[tuple[Any, ...], Mapping[str, Any]]]) -> list[Any]:
        """Return the answers, in the order of the questions."""
        gateway = self._outside.gateway(call)
        wanted = [Wanted(gateway, args, kwargs, self._question(gateway, args, kwargs)) for args, kwargs in questions]
        missing = [one for one in wanted if one.question not in self._answers.known]
        if missing:
            if not self._may_ask:
                raise NeedsOutside
            noted = [one.question for one in missing if one.gateway.noted]
            lost: Mapping[Question, int] = {}
            if noted and self._note is not None:
                try:
                    lost = self._note(self._command, self._answers, noted, max(self._deadline - time.monotonic(), 0.0))
                except Error as error:
                    raise NotNoted(error) from error
            for answer, one in zip(self._outside.answer(missing, self._command, self._loop, self._deadline), missing, strict=True):
                self._answers.put(msgspec.structs.replace(answer, lost=lost[one.question]) if one.question in lost else answer)
        return [_heard(gateway, self._answers.known[one.question]) for one in wanted]

    def _question(self, gateway: Gateway, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Question:
        try:
            arguments = encoded([*args, *([dict(kwargs)] if kwargs else ())], encode)
        except NO_DATA as error:
            raise Invalid(f"the arguments of gateway `{gateway.name}` can't be recorded: {error}", gateway=gateway.name) from error
        nth = self._asked.get((gateway.name, arguments), 0)
        self._asked[gateway.name, arguments] = nth + 1
        return gateway.name, arguments, nth


def questions_in(gateway: Callable[..., Any], questions: object) -> Iterator[tuple[Any, ...]]:
    """Yield the questions. `Invalid` for one that is no tuple: a text, too, could be taken for a row of arguments."""
    if not isinstance(questions, Iterable):
        raise Invalid(f"`ask_all` takes many questions to `{label(gateway)}`, not `{questions!r}`; `ask` takes one", gateway=label(gateway))
    asked: Any
    for asked in questions:  # pyright: ignore[reportUnknownVariableType]  # looked at in the next line
        if not isinstance(asked, tuple):
            raise Invalid(
                f"each question to `{label(gateway)}` is a tuple of arguments: `({asked!r},)`, not `{asked!r}`", gateway=label(gateway)
            )
        yield asked


def _heard(gateway: Gateway, answer: Answer) -> Any:
    if answer.error:
        raise GatewayFailed(
            f"gateway `{gateway.name}` failed: {answer.error}", gateway=gateway.name, error=answer.error, attempts=answer.attempt
        )
    return gateway.reading.read(answer)
