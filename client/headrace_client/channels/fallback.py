"""Channels over TLS that change to grpcio if headrace-native's handshake fails.

rustls refuses some certificates that grpcio accepts, such as a self-signed one that is its own authority, one without
alternative names, or one with a key of an unusual size. So grpcio makes the final decision about a server's
certificate, and a server that it refuses stays refused.
"""

# ASYNC109 prefers asyncio.timeout to a `timeout` parameter. But a `timeout` is also sent to the server as the call's
# deadline; asyncio.timeout would limit only the client.
# ruff: noqa: ASYNC109

from collections.abc import Sequence
from threading import Lock
from typing import Any, TypeVar

from headrace_client.channels.base import Settings, Within, some_at_a_time
from headrace_client.channels.grpcio_impl import AsyncGrpcioChannel, GrpcioChannel
from headrace_client.channels.native_impl import AsyncNativeChannel, CallError, NativeChannel
from headrace_client.request import Call, ServerError

Answer = TypeVar("Answer")


class FallbackChannel:
    """A channel whose calls block. It changes from headrace-native to grpcio if the TLS handshake fails."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._native = NativeChannel(settings)
        self._answered = False  # whether a call over headrace-native has been answered
        self._grpcio: GrpcioChannel | None = None
        self._closed = False
        self._lock = Lock()

    def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""
        if self._grpcio is not None:
            return self._grpcio.call(call, timeout)
        within = Within(timeout)
        try:
            answer = self._native.call(call, timeout)
        except ServerError as error:
            other = self._fallback() if _has_tls_failed(error) else None
            if other is None:
                raise
        else:
            self._answered = True
            return answer
        return other.call(call, within.left)

    def call_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError.

        As long as no call has been answered, the first one is made alone, so that only one call tries a handshake that
        may fail.
        """
        alone = 0 if self._answered else 1
        first = self._call_some(calls[:alone], timeout, in_flight)
        return first + self._call_some(calls[alone:], timeout, in_flight)

    def _call_some(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        if self._grpcio is not None:
            return self._grpcio.call_many(calls, timeout, in_flight)
        results = self._native.call_many(calls, timeout, in_flight)
        self._answered = self._answered or not all(isinstance(result, ServerError) for result in results)
        failed = [place for place, result in enumerate(results) if _has_tls_failed(result)]
        other = self._fallback() if failed else None
        if other is not None:
            # The timeout is for each call, and the handshakes of many calls may have taken longer than that.
            again = other.call_many([calls[place] for place in failed], timeout, in_flight)
            for place, result in zip(failed, again, strict=True):
                results[place] = result
        return results

    def close(self) -> None:
        """Closes the connections and cancels the calls in flight."""
        with self._lock:
            self._closed = True
        self._native.close()
        if self._grpcio is not None:
            self._grpcio.close()

    def _fallback(self) -> GrpcioChannel | None:
        """Returns the channel for all calls from now on; None if the client has been closed."""
        with self._lock:
            if self._grpcio is None and not self._closed:
                self._grpcio = GrpcioChannel(self._settings)
            return None if self._closed else self._grpcio


class AsyncFallbackChannel:
    """A channel for an event loop. It changes from headrace-native to grpcio if the TLS handshake fails."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._native = AsyncNativeChannel(settings)
        self._answered = False  # whether a call over headrace-native has been answered
        self._grpcio: AsyncGrpcioChannel | None = None
        self._closed = False

    async def call(self, call: Call[Answer], timeout: float | None) -> Answer:
        """Makes a call and returns its answer; raises ServerError."""
        if self._grpcio is not None:
            return await self._grpcio.call(call, timeout)
        within = Within(timeout)
        try:
            answer = await self._native.call(call, timeout)
        except ServerError as error:
            other = self._fallback() if _has_tls_failed(error) else None
            if other is None:
                raise
        else:
            self._answered = True
            return answer
        return await other.call(call, within.left)

    async def call_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        """Makes calls, up to `in_flight` at a time; returns the result of each in order: an answer or a ServerError.

        The first one is made alone in the same case as with `FallbackChannel`.
        """
        alone = 0 if self._answered else 1
        first = await self._call_some(calls[:alone], timeout, in_flight)
        return first + await self._call_some(calls[alone:], timeout, in_flight)

    async def _call_some(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        return await some_at_a_time(lambda place: self.call(calls[place], timeout), len(calls), in_flight)

    async def close(self) -> None:
        """Closes the connections and cancels the calls in flight."""
        self._closed = True
        await self._native.close()
        if self._grpcio is not None:
            await self._grpcio.close()

    def _fallback(self) -> AsyncGrpcioChannel | None:
        """Returns the channel for all calls from now on; None if the client has been closed."""
        if self._grpcio is None and not self._closed:
            self._grpcio = AsyncGrpcioChannel(self._settings)
        return None if self._closed else self._grpcio


def _has_tls_failed(result: object) -> bool:
    """Whether a call failed because headrace-native's TLS handshake did."""
    cause = result.__cause__ if isinstance(result, ServerError) else None
    return isinstance(cause, CallError) and cause.tls_failed
