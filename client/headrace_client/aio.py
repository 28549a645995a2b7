"""The asyncio client."""

# ASYNC109 prefers asyncio.timeout to a `timeout` parameter. But a `timeout` is also sent to the server as the call's
# deadline; asyncio.timeout would limit only the client.
# ruff: noqa: ASYNC109

import asyncio
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import ArrayLike

from headrace_client import request
from headrace_client.channels.auto import open_async_channel
from headrace_client.channels.base import AsyncChannel
from headrace_client.connection import Connection
from headrace_client.declared import Wanted
from headrace_client.predicting import Many, Predicting, check_in_flight
from headrace_client.request import Call, ModelMetadata, ServerError, VersionStatus

Answer = TypeVar("Answer")


class AsyncClient(Connection[AsyncChannel]):
    """A connection to one server, for any number of calls at the same time, on the event loop of its first call.

    `target` is a gRPC target: `host:port`, `unix:/path`, `dns:///name:port`, `ipv4:10.0.0.1:8500,10.0.0.2:8500`; with
    several addresses, as in the last two forms, calls go to each in turn. By default calls are not encrypted. `timeout`
    is the default timeout of a call, in seconds; None means no timeout. `convert` converts arrays of float64 and int64,
    numpy's defaults, to the dtypes that a model declares. `metadata` goes with every call, such as `[("authorization",
    "Bearer ...")]`. `options` are gRPC's channel arguments and take precedence over the defaults here: no bound on the
    size of a message, and the retries that `retry` describes; with `hedge`, slow calls are sent again instead.
    `transport` is `native` for headrace-native, `grpcio`, or `auto` for headrace-native if it is installed and supports
    the arguments. headrace-native supports neither proxies nor hedging. It supports TLS only with
    `grpc.ssl_channel_credentials`, and only the options on sizes and on the server's name. With `auto`, grpcio makes
    the calls of a server whose certificate headrace-native refuses.

    An asynchronous context manager. It connects at the first call; no call may follow `close`.
    Raises ValueError for a `transport` that does not support the arguments; calls on another event loop raise
    RuntimeError.
    """

    _open = staticmethod(open_async_channel)
    _loop: asyncio.AbstractEventLoop | None = None

    async def predict(
        self,
        model: str,
        inputs: Mapping[str, ArrayLike],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: Collection[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Runs a model on `inputs` and returns its outputs by name, or only those that `outputs` names.

        Without a `version` or a `label`, the newest version that is ready answers; without a `signature`,
        `serving_default` is used. Numbers and lists become arrays of float32 or int32, or of int64 if necessary, as in
        TF Serving. Arrays of numpy's default dtypes, float64 and int64, are converted to the dtype that the model
        declares, unless `convert` is False; other arrays are sent unchanged. The returned arrays may be read-only.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        predicting = Predicting(self._declared, Wanted(model, version, label, signature), outputs)
        call = predicting.call(inputs)
        try:
            return await self._send(call, timeout)
        except ServerError as error:
            refusal = error
        if predicting.should_ask(inputs, call, refusal):
            await self._learn(predicting.wanted, timeout)
        return await self._send(predicting.again(inputs, call, refusal), timeout)

    async def predict_many(
        self,
        model: str,
        inputs: Sequence[Mapping[str, ArrayLike]],
        *,
        version: int | None = None,
        label: str | None = None,
        signature: str | None = None,
        outputs: Collection[str] = (),
        timeout: float | None = None,
        in_flight: int = 64,
        return_exceptions: bool = False,
    ) -> list[Any]:
        """Runs a model on each of `inputs`, with up to `in_flight` calls at a time, and returns their outputs in order.

        Each is a separate call, like `predict`; the server may put them into one batch. `timeout` applies to each call
        from when it is sent. All calls are made, even if some fail; then the first failure is raised. With
        `return_exceptions`, each failure is returned in place of the call's outputs instead.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        check_in_flight(in_flight)
        many = Many(Predicting(self._declared, Wanted(model, version, label, signature), outputs), inputs)
        many.answers = await self._send_many(many.calls, timeout, in_flight)
        if many.should_ask():
            await self._learn(many.wanted, timeout)
        again = many.again()
        many.take(again, await self._send_many(list(again.values()), timeout, in_flight))
        return many.results(return_exceptions=return_exceptions)

    async def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float | None = None
    ) -> ModelMetadata:
        """Returns the signatures of the version of a model that `predict` would run.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        return await self._send(request.metadata(request.model_spec(model, version, label)), timeout)

    async def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> tuple[VersionStatus, ...]:
        """Returns the states of all versions of a model that the server has had, or of the given version.

        TF Serving lists the highest version first, and answers NOT_FOUND for an unknown model or version.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        return await self._send(request.status(request.model_spec(model, version)), timeout)

    async def _learn(self, wanted: Wanted, timeout: float | None) -> None:
        """Asks the server what a model declares. If that fails, the last known declaration is kept."""
        with suppress(ServerError):
            metadata = await self.metadata(wanted.model, version=wanted.version, label=wanted.label, timeout=timeout)
            self._declared.learn(wanted, metadata)

    async def close(self) -> None:
        """Closes the connection; calls in progress are cancelled. It may be called more than once."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call[Answer], timeout: float | None) -> Answer:
        self._check_loop()
        return await self._channel.call(call, self._within(timeout))

    async def _send_many(self, calls: Sequence[Call[Any]], timeout: float | None, in_flight: int) -> list[Any]:
        self._check_loop()
        return await self._channel.call_many(calls, self._within(timeout), in_flight)

    def _check_loop(self) -> None:
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            raise RuntimeError("this AsyncClient belongs to another event loop, that of its first call")
