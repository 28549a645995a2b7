"""Hedged calls over grpcio: a call that takes long is sent again, and the first answer to any attempt is used.

gRPC for Python ignores a `hedgingPolicy` in a service config (seen with grpcio 1.85), so the attempts are made here.
The rules are gRPC's: gRFC A6, "gRPC Retry Design", section "Hedging Policy".
"""

# ASYNC109 prefers asyncio.timeout to a `timeout` parameter. But a `timeout` is also sent to the server as the call's
# deadline; asyncio.timeout would limit only the client.
# ruff: noqa: ASYNC109

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import Empty, SimpleQueue
from threading import Lock
from typing import Any, TypeVar

import grpc

from headrace_client.channels.base import Settings, Within
from headrace_client.channels.grpcio_impl import AsyncGrpcioChannel, GrpcioChannel, failed
from headrace_client.request import Call, Hedge, Retry, ServerError

Answer = TypeVar("Answer")

_FOLLOWED = (None, grpc.StatusCode.UNAVAILABLE)
"""The outcomes after which another attempt is made; None stands for an attempt that has not ended yet."""

BURST = 10.0
"""The number of calls that may be sent again at the beginning; also the maximum that can be saved up later."""


class Budget:
    """Limits the calls that are sent again to a share of all calls. Any thread."""

    def __init__(self, share: float) -> None:
        self._share = share
        self._left = BURST if share else 0.0
        self._lock = Lock()

    def earn(self) -> None:
        """Counts a call that is made."""
        with self._lock:
            self._left = min(BURST, self._left + self._share)

    def spend(self) -> bool:
        """Returns whether a call may be sent again; if so, counts it."""
        with self._lock:
            if self._left < 1:
                return False
            self._left -= 1
            return True


class _Attempts:
    """Decides when the next attempt of one call is made."""

    def __init__(self, hedge: Hedge, budget: Budget, timeout: float | None) -> None:
        self._hedge = hedge
        self._budget = budget
        self._within = Within(timeout)
        self._left = hedge.attempts - 1
        budget.earn()

    @property
    def timeout(self) -> float | None:
        """The timeout of an attempt that is made now."""
        return self._within.left

    @property
    def patience(self) -> float | None:
        """The seconds to wait before the next attempt; None if there will be none."""
        return self._hedge.delay if self._left else None

    def add(self) -> bool:
        """Returns whether another attempt should be made now. If so, it is counted."""
        if not (self._left and self._budget.spend()):
            self._left = 0
            return False
        self._left -= 1
        return True


def _once(settings: Settings) -> Settings:
    """The settings of a channel that makes each attempt once."""
    return replace(settings, retry=Retry(attempts=1))


class HedgedChannel(GrpcioChannel):
    """A channel of grpcio whose calls block. If a call is slow, it makes another attempt, according to `hedge`."""

    def __init__(self, settings: Settings, hedge: Hedge) -> None:
        super().__init__(_once(settings))
        self._hedge = hedge
        self._budget = Budget(hedge.share)

    def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""
        message, ended = call.message(), SimpleQueue[Any]()
        attempts, running = _Attempts(self._hedge, self._budget, timeout), set[Any]()

        def begin() -> None:
            attempt = self._methods[call.path].future(message, timeout=attempts.timeout, metadata=self._metadata)
            running.add(attempt)
            attempt.add_done_callback(ended.put)

        begin()
        try:
            while True:
                attempt = _next(ended, attempts.patience)
                running.discard(attempt)
                code = None if attempt is None else attempt.code()
                if code is grpc.StatusCode.OK:
                    return call.read(attempt.result())
                if code in _FOLLOWED and attempts.add():
                    begin()
                if code is not None and (code not in _FOLLOWED or not running):
                    raise failed(attempt) from attempt
        finally:
            for other in running:
                other.cancel()

    def call_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError."""

        def result(call: Call[Any]) -> Any:
            try:
                return self.call(call, timeout)
            except ServerError as error:
                return error

        with ThreadPoolExecutor(in_flight, "hedged") as threads:
            return list(threads.map(result, calls))


class AsyncHedgedChannel(AsyncGrpcioChannel):
    """A channel of grpcio for an event loop. It sends another attempt of a slow call, as `hedge` says."""

    def __init__(self, settings: Settings, hedge: Hedge) -> None:
        super().__init__(_once(settings))
        self._hedge = hedge
        self._budget = Budget(hedge.share)

    async def _send(self, path: str, message: bytes, timeout: float | None) -> bytes:
        attempts = _Attempts(self._hedge, self._budget, timeout)

        def begin() -> asyncio.Task[bytes]:
            attempt = asyncio.create_task(super(AsyncHedgedChannel, self)._send(path, message, attempts.timeout))
            attempt.add_done_callback(_seen)
            return attempt

        running = {begin()}
        try:
            while True:
                done, running = await asyncio.wait(
                    running, timeout=attempts.patience, return_when=asyncio.FIRST_COMPLETED
                )
                for attempt in done:
                    error = attempt.exception()
                    if not isinstance(error, ServerError) or error.code not in _FOLLOWED:
                        return attempt.result()  # raises the attempt's error if it failed
                if attempts.add():
                    running.add(begin())
                if not running:
                    return done.pop().result()
        finally:
            for other in running:
                other.cancel()


def _seen(attempt: asyncio.Task[bytes]) -> None:
    """Marks the error of an attempt as seen: asyncio would log the error of an attempt that nobody waits for."""
    if not attempt.cancelled():
        attempt.exception()


def _next(ended: "SimpleQueue[Any]", patience: float | None) -> Any:
    """Waits for the next attempt that ends; None if none ends in time."""
    try:
        return ended.get(timeout=patience)
    except Empty:
        return None
