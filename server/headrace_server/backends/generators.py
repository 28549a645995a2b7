"""Runs a Python model's generator step by step: each answer is computed when the one before it has been taken."""

import asyncio
import inspect
import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Thread
from typing import Any, Protocol

from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.errors import ServingError

log = logging.getLogger(__name__)

Call = Callable[..., Any]
"""Calls the model's code with arguments, and converts its exceptions into a ServingError."""

Convert = Callable[[Any], Arrays]

MAX_THREADS = 16
"""The maximum number of steps of one model that run at the same time, if the model declares that it is THREAD_SAFE."""

_END = object()


class Steps(Protocol):
    """Runs the steps of generators outside the server's event loop."""

    def begin(self, inputs: Any) -> "Future[Any]":
        """Creates a generator for one request."""

    def next(self, generator: Any, convert: Convert) -> "Future[Any]":
        """Runs a generator's next step: its answer, converted before another step can overwrite it, or the end."""

    def end(self, generator: Any) -> None:
        """Closes the generator after its last step has ended. Any thread, without waiting."""

    def close(self) -> None:
        """Prevents further steps."""


class Generators:
    """The generators of one model; each one answers one request.

    Args:
        function: The model's `stream`: a generator function, or an asynchronous one.
        call: Calls the model's code.
        thread_safe: Whether steps of several generators may run at the same time.
    """

    def __init__(self, function: Callable[[Any], Any], call: Call, *, thread_safe: bool) -> None:
        if inspect.isasyncgenfunction(function):
            self._steps: Steps = _InLoop(function, call)
        else:
            self._steps = _OnThreads(function, call, MAX_THREADS if thread_safe else 1)

    async def answers(self, inputs: Any, convert: Convert) -> AsyncGenerator[Arrays, None]:
        """Yields what the model's generator yields, one value at a time, when the caller asks for it.

        If the caller closes the returned generator, the model's generator is closed once its current step has ended.

        Args:
            inputs: The arguments of the function.
            convert: Converts a yielded value into an answer.

        Raises:
            ServingError: The model raised.
        """
        generator = await _result(self._steps.begin(inputs))
        step: Future[Any] | None = None
        try:
            while True:
                step = self._steps.next(generator, convert)
                if (answer := await _result(step)) is _END:
                    break
                yield answer
        finally:
            # The caller may stop waiting in the middle of a step, which must then end first.
            if step is None or step.done():
                self._steps.end(generator)
            else:
                step.add_done_callback(lambda _: self._steps.end(generator))

    def close(self) -> None:
        """Prevents further steps."""
        self._steps.close()


class _OnThreads:
    """Runs plain generators on threads."""

    def __init__(self, function: Callable[[Any], Iterator[Any]], call: Call, count: int) -> None:
        self._function = function
        self._call = call
        self._threads = ThreadPoolExecutor(count, "stream")

    def begin(self, inputs: Any) -> "Future[Any]":
        return self._threads.submit(self._call, _begin, self._function, inputs)

    def next(self, generator: Any, convert: Convert) -> "Future[Any]":
        return self._threads.submit(self._call, _next, generator, convert)

    def end(self, generator: Any) -> None:
        with suppress(RuntimeError):  # the threads have been shut down
            self._threads.submit(self._call, _end, generator)

    def close(self) -> None:
        self._threads.shutdown()


class _InLoop:
    """Runs asynchronous generators in an event loop of their own: the server's own loop must never wait for a model."""

    def __init__(self, function: Callable[[Any], AsyncGenerator[Any, None]], call: Call) -> None:
        self._function = function
        self._call = call
        self._loop = asyncio.new_event_loop()
        self._closed = False
        self._thread = Thread(target=self._run, name="stream-loop", daemon=True)
        self._thread.start()

    def begin(self, inputs: Any) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(self._begin(inputs), self._loop)

    def next(self, generator: "_Asynchronous", convert: Convert) -> "Future[Any]":
        return asyncio.run_coroutine_threadsafe(generator.next(convert), self._loop)

    def end(self, generator: "_Asynchronous") -> None:
        asyncio.run_coroutine_threadsafe(generator.end(), self._loop)

    def close(self) -> None:
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _run(self) -> None:
        """Runs the loop until `close`, even if the model stops it, or one of the model's own tasks calls sys.exit."""
        while not self._closed:
            try:
                self._loop.run_forever()
            except BaseException:
                log.exception("a task of a model has ended the event loop, which continues")

    async def _begin(self, inputs: Any) -> "_Asynchronous":
        return _Asynchronous(self._call(self._function, inputs), self._call)


class _Asynchronous:
    """One asynchronous generator. A cancelled step takes a while to end, and only then may the generator be closed."""

    def __init__(self, generator: AsyncGenerator[Any, None], call: Call) -> None:
        self._generator = generator
        self._call = call
        self._step = asyncio.Lock()

    async def next(self, convert: Convert) -> Any:
        async with self._step:
            try:
                return convert(await anext(self._generator))
            except StopAsyncIteration:
                return _END
            except GeneratorExit:
                raise
            except BaseException as error:
                if _is_cancelled(error):
                    raise
                return self._call(_raise, error)

    async def end(self) -> None:
        async with self._step:
            await self._generator.aclose()


def _begin(function: Callable[[Any], Any], inputs: Any) -> Iterator[Any]:
    return iter(function(inputs))


def _next(generator: Iterator[Any], convert: Convert) -> Any:
    answer = next(generator, _END)
    return answer if answer is _END else convert(answer)


def _raise(error: BaseException) -> None:
    raise error


def _is_cancelled(error: BaseException) -> bool:
    """Whether an error has come from outside: this task has been cancelled."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0


async def _result(step: "Future[Any]") -> Any:
    """Waits for a step. A model that cancels its own step does not cancel the caller, who would wait forever."""
    try:
        return await asyncio.wrap_future(step)
    except asyncio.CancelledError as error:
        if _is_cancelled(error):
            raise
        raise ServingError(Code.INTERNAL, "the model has cancelled its own answer") from error


def _end(generator: Any) -> None:
    if hasattr(generator, "close"):
        generator.close()
