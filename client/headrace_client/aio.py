"""The asyncio client."""

# A `timeout` here is a deadline that the server is told too, which asyncio.timeout could not do.
# ruff: noqa: ASYNC109

from collections.abc import Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio
import numpy as np
from numpy.typing import ArrayLike

from headrace_client import request
from headrace_client.declared import Declared, Wanted
from headrace_client.request import Call, ModelMetadata, Retry, ServerError, VersionStatus

Answer = TypeVar("Answer")


class AsyncClient:
    """A connection to one server, for any number of calls at once on the event loop it was built in.

    `target` is gRPC's: `host:port`, `unix:/path`, `dns:///name:port`. Without `credentials` nothing is encrypted.
    `timeout` is in seconds, for every call that gives none of its own; None waits as long as it takes.
    `convert` lets arrays of float64 and int64, numpy's defaults, become what a model declares.
    `options` are gRPC's channel arguments and take precedence over the defaults here: no bound on the size of a
    message, and the retries that `retry` describes.

    An asynchronous context manager. Nothing connects before the first call, and no call may follow `close`.
    """

    def __init__(
        self,
        target: str,
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float | None = None,
        retry: Retry = request.RETRY,
        convert: bool = True,
        options: Collection[tuple[str, Any]] = (),
    ) -> None:
        self._timeout = timeout
        self._closed = False
        self._declared = Declared(convert=convert)
        arguments = request.channel_options(retry, options)
        self._channel = (
            grpc.aio.insecure_channel(target, arguments)
            if credentials is None
            else grpc.aio.secure_channel(target, credentials, arguments)
        )
        self._methods: dict[str, grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]] = {
            path: self._channel.unary_unary(path) for path in request.PATHS
        }

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
        """Run a model on `inputs` and return its outputs by name, all of them unless `outputs` names some.

        Without a `version` or a `label` the newest version that is ready answers; without a `signature`,
        `serving_default`. What is not an array yet (numbers, lists) becomes float32 or int32, and int64 where it must,
        as in TF Serving. Arrays of numpy's default dtypes, float64 and int64, become what the model declares, unless
        `convert` is False; the others go as they are. The arrays returned may be read-only.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        spec = request.model_spec(model, version, label, signature)
        wanted = Wanted(model, version, label, signature)
        fitted = self._declared.fitted(wanted, inputs)
        try:
            return await self._send(request.predict(spec, fitted, outputs), timeout)
        except ServerError as error:
            refusal = error
        if self._declared.should_ask(wanted, refusal, converted=not request.same_dtypes(inputs, fitted)):
            await self._learn(wanted, timeout)
        again = self._declared.fitted(wanted, inputs)
        if request.same_dtypes(again, fitted):
            raise self._declared.explained(wanted, fitted, refusal) from refusal.__cause__
        return await self._send(request.predict(spec, again, outputs), timeout)

    async def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float | None = None
    ) -> ModelMetadata:
        """Return a model's signatures, of the version that `predict` would run.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        return await self._send(request.metadata(request.model_spec(model, version, label)), timeout)

    async def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> tuple[VersionStatus, ...]:
        """Return the state of every version the server ever had of a model, or of the one asked for.

        TF Serving: highest version first; an unknown model or version is NOT_FOUND.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        return await self._send(request.status(request.model_spec(model, version)), timeout)

    async def _learn(self, wanted: Wanted, timeout: float | None) -> None:
        """Asks what a model declares; what is known stays where it cannot be asked."""
        with suppress(ServerError):
            metadata = await self.metadata(wanted.model, version=wanted.version, label=wanted.label, timeout=timeout)
            self._declared.learn(wanted, metadata)

    async def close(self) -> None:
        """Close the connection; calls under way are cancelled. Closing twice is fine."""
        self._closed = True
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _send(self, call: Call[Answer], timeout: float | None) -> Answer:
        if self._closed:
            raise ValueError(request.CLOSED)
        seconds = self._timeout if timeout is None else timeout
        try:
            response = await self._methods[call.path](call.request, timeout=seconds)
        except grpc.RpcError as error:
            raise ServerError(error.code(), error.details() or "") from error
        return call.read(response)
