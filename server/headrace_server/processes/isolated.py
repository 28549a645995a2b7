"""A backend whose model runs in processes of its own."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

import numpy as np

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code
from headrace_server.backends.signature import Signature
from headrace_server.errors import RunLost, ServingError
from headrace_server.processes.exchanges import create_free
from headrace_server.processes.job import Job
from headrace_server.processes.keeper import Keeper, Place, Places
from headrace_server.processes.native_runs import NativeRuns, runs_natively
from headrace_server.processes.shared_memory import OwnedMemory, Placed
from headrace_server.processes.slot import Ended, Message, Unread
from headrace_server.processes.streams import Stream
from headrace_server.processes.worker import ENDS_WITHIN, Worker, fit_batching

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that a run waits for a process to be restarted."""

LOAD_PATIENCE = 60.0
"""Seconds that the load of a model waits for a process to be restarted: a run of the trial may have ended it."""

ASKED_AT_MOST = 3
"""How many processes are asked, one after the other, for the batching parameters of a model before giving up."""

TRY_SECONDS = 60.0
"""Seconds that a run of a trial may take: its generated values may keep a model busy forever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Isolation:
    """How a model is isolated.

    Attributes:
        name: The model's name and its version, for errors and the log.
        workers: The number of processes, at least 1; each runs as many batches at the same time as the model supports.
        run_timeout: Seconds after which a run is ended together with its process; 0 means never.
        restarted: Called whenever a process has ended unexpectedly.
    """

    name: str
    workers: int = 1
    run_timeout: float = 0.0
    restarted: Callable[[], None] = lambda: None


class IsolatedBackend:
    """A model that is loaded and run in processes of its own. Inputs are joined directly in shared memory.

    Args:
        job: The work of each process.
        isolation: The number of processes and the other options.

    Attributes:
        runtime: The name of the model's runtime; empty if its backend does not name it.
        streams: Whether the model streams answers.
        answers_once: Whether the model can give a request a single answer, through `run`.

    Raises:
        LoadError: The model cannot be loaded.
    """

    def __init__(self, job: Job, isolation: Isolation) -> None:
        self._isolation = isolation
        self._memory = OwnedMemory()
        self._linked = job.linked
        self._places = Places(create_free(linked=job.linked))
        self._keepers: list[Keeper] = []
        try:
            for _ in range(isolation.workers):
                keeper = Keeper(isolation.name, job, self._memory, self._places, isolation.restarted)
                self._keepers.append(keeper)
            every = [keeper.loaded.result() for keeper in self._keepers]
        except BaseException:
            self.close()
            raise
        # In its own process, a crash on arrays without elements harms nothing else, so the model may see them.
        self._signatures = {name: replace(own, empty=True) for name, own in every[0].signatures.items()}
        self.runtime = every[0].runtime
        self.streams, self.answers_once = every[0].streams, every[0].answers_once
        self.evidence, self.hints = every[0].evidence, every[0].hints
        self.exact, self.most_rows = every[0].exact, every[0].most_rows

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The model's own signatures."""
        return self._signatures

    @property
    def runs_elsewhere(self) -> bool:
        """Whether a run only waits for another process; always true."""
        return True

    @property
    def is_down(self) -> bool:
        """Whether no process is running or starting."""
        return self._places.hopeless

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Runs a batch in a process; the outputs are views of shared memory.

        Raises:
            ServingError: The model's own error; UNAVAILABLE if no process is up.
            RunLost: The process has ended, or was ended because the run took too long.
        """
        return self._ask("run", signature, inputs, outputs)

    def try_run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Like `run`, but through the model's own `try_run`: what the runtime prints stays in the process."""
        return self._ask("try", signature, inputs, outputs)

    async def stream(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> AsyncGenerator[Arrays, None]:
        """The answers that the model gives to one request in one process, each computed when the caller asks for it.

        Raises:
            ServingError: As for `run`; the time limit of a run applies to each answer.
        """
        placed, held = await _in_thread(partial(self._memory.place, inputs), lambda both: self._memory.abandon(both[1]))
        try:
            opening = partial(self._open_stream, signature, outputs, placed)
            stream, worker = await _in_thread(opening, lambda both: both[0].close())
            async with aclosing(self._answers(stream, worker)) as answers:
                async for answer in answers:
                    yield answer
        finally:
            self._memory.abandon(held)  # the arrays are not reused, since the model may have kept them

    async def _answers(self, stream: Stream, worker: Worker) -> AsyncGenerator[Arrays, None]:
        seconds = self._isolation.run_timeout or None
        try:
            async with aclosing(stream.messages(seconds)) as messages:
                async for message in messages:
                    if message.kind == "end":
                        return
                    if message.kind == "failed":
                        code, text, *_ = message.content
                        raise ServingError(code, text)
                    yield stream.copy(message)
        except TimeoutError as error:
            self._places.drop(worker)  # so that no other request is sent to it while it is being ended
            worker.kill()
            text = f"an answer took more than {seconds:g} s, and its worker process was ended"
            raise self._lost(Code.DEADLINE_EXCEEDED, text) from error
        except Ended as error:
            ending = await asyncio.to_thread(worker.how_it_ended)
            raise self._lost(Code.INTERNAL, f"its worker process {ending} while it answered the request") from error
        finally:
            stream.close()

    def _open_stream(self, signature: str, outputs: Sequence[str], placed: Sequence[Placed]) -> tuple[Stream, Worker]:
        """Asks a process for the answers to a request; asks another process if that one has just ended."""
        for _ in range(ASKED_AT_MOST):
            place = self._places.for_stream(PATIENCE)
            if place is None:
                break
            try:
                return place.streams.ask(signature, outputs, placed), place.worker
            except Ended as error:
                if not place.worker.ended.wait(ENDS_WITHIN):
                    raise self._lost(Code.UNAVAILABLE, "its worker process accepts no more requests") from error
                self._places.drop(place.worker)
            except OSError as error:
                raise ServingError(Code.RESOURCE_EXHAUSTED, f"{self._isolation.name}: {error}") from error
        raise self._lost(Code.UNAVAILABLE, "no worker process is running; one is being started")

    def _ask(self, kind: str, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        placed, held = self._memory.place(inputs)
        place, message = self._converse((kind, signature, tuple(outputs)), placed)
        *_, kept = message.content
        if kept:
            self._memory.abandon([array for own, array in zip(placed, held, strict=True) if own.alias in kept])
        return self._answer(place, message)

    def _answer(self, place: Place, message: Message, *, learn: bool = False) -> Arrays:
        """The outputs in a message; raises the error in it. Frees the place."""
        *answer, _ = message.content
        if message.kind == "failed":
            code, text, ending = answer
            if ending:
                place.slot.close()
            else:
                self._places.put(place)
            raise ServingError(code, text)
        (number,) = answer
        if learn and place.exchange is not None and not any(own.is_copied for own, _ in message.arrays):
            place.exchange.learn(number, {own.alias: place.slot.mapped.array(own) for own, _ in message.arrays})
        try:
            return place.borrower.take(message, number)
        finally:  # also if strings cannot be unpickled
            if place.exchange is not None:
                place.exchange.lent()
            self._places.put(place)

    def native_run(self, signature: str) -> Mapping[str, object] | None:
        """See `base.RunsNatively`."""
        declared = self._signatures[signature]
        if not self._linked or not runs_natively(declared):
            return None
        run = partial(self.run, signature, outputs=tuple(declared.every_output))
        native = NativeRuns(signature, declared, self._memory, receive=self._receive, answer=self._answer, run=run)
        return {
            "places": self._places.free,
            "signature": list(self._signatures).index(signature),
            "seconds": self._isolation.run_timeout or None,
            "collect": native.collect,
            "prepare": native.prepare,
            "finish": native.finish,
            "settle": self._places.settle,
        }

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array for a joined input, in shared memory.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left.
        """
        return self._memory.empty(shape, dtype)

    def fit_batching(self, options: Options) -> Options:
        """The model's own parameters, with as many batches at a time as all processes together can run."""
        fitted = self._fit(options)
        return replace(fitted, max_running_batches=fitted.batches_at_once * len(self._keepers))

    def close(self) -> None:
        """Closes the model in each process, and ends all processes."""
        for keeper in self._keepers:
            keeper.close()
        self._memory.close()

    def _fit(self, options: Options) -> Options:
        """Asks a process for the model's parameters; asks the next one if it has ended."""
        for _ in range(ASKED_AT_MOST):
            place = self._places.take(LOAD_PATIENCE)
            if place is None:
                break
            try:
                fitted = fit_batching(place.slot, options)
            except Ended:
                place.slot.close()
                continue
            self._places.put(place)
            return fitted
        raise self._lost(Code.UNAVAILABLE, "no worker process is running")

    def _converse(self, question: tuple[Any, ...], placed: Sequence[Placed]) -> tuple[Place, Message]:
        """Sends a run to a process, and returns its answer; tries another process if the first ended before the run."""
        seconds = self._isolation.run_timeout or (TRY_SECONDS if question[0] == "try" else None)
        while (place := self._places.take(PATIENCE)) is not None:
            returned = place.returned()
            try:
                place.slot.send(*question, returned, placed=placed)
            except Unread:
                place.slot.close()
                continue
            except ServingError:  # the message is too long, and was not sent
                place.borrower.keep(returned)
                self._places.put(place)
                raise
            try:
                return place, self._receive(place, seconds)
            except Unread:
                place.slot.close()
        raise self._lost(Code.UNAVAILABLE, "no worker process is running; one is being started")

    def _receive(self, place: Place, seconds: float | None) -> Message:
        """Waits for the result of a run.

        Raises:
            Unread: The process had ended before the run could begin.
            RunLost: The process has ended during the run, or was ended because the run took too long or its answer is
                unreadable.
        """
        try:
            return place.slot.receive(seconds)
        except Unread:
            raise
        except TimeoutError as error:
            place.worker.kill()
            place.slot.close()
            limit = self._isolation.run_timeout or TRY_SECONDS
            text = f"a run took more than {limit:g} s, and its worker process was ended"
            raise self._lost(Code.DEADLINE_EXCEEDED, text) from error
        except Ended as error:
            place.slot.close()
            text = f"its worker process {place.worker.how_it_ended()} during the run"
            raise self._lost(Code.INTERNAL, text) from error
        except Exception as error:  # the answer is unreadable, so nobody knows which memory it has lent and freed
            place.worker.kill()
            place.slot.close()
            text = f"its worker process sent an unreadable answer, and was ended: {type(error).__name__}: {error}"
            raise self._lost(Code.INTERNAL, text) from error

    def _lost(self, code: Code, text: str) -> RunLost:
        return RunLost(code, f"{self._isolation.name}: {text}")


async def _in_thread(function: Callable[[], T], discard: Callable[[T], object]) -> T:
    """Runs a function in a thread, which continues if the caller is cancelled; its result is then discarded."""
    running = asyncio.create_task(asyncio.to_thread(function))

    def discard_result(ended: asyncio.Task[T]) -> None:
        if not ended.cancelled() and ended.exception() is None:
            discard(ended.result())

    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        running.add_done_callback(discard_result)
        raise
