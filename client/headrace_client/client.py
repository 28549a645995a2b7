"""The blocking client."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import numpy as np
from numpy.typing import ArrayLike

from headrace_client import request
from headrace_client.declared import Declared, Wanted
from headrace_client.request import Call, ModelMetadata, Retry, ServerError, VersionStatus

Answer = TypeVar("Answer")


class Client:
    """A connection to one server, for any number of threads at once.

    `target` is gRPC's: `host:port`, `unix:/path`, `dns:///name:port`. Without `credentials` nothing is encrypted.
    `timeout` is in seconds, for every call that gives none of its own; None waits as long as it takes.
    `convert` lets arrays of float64 and int64, numpy's defaults, become what a model declares.
    `options` are gRPC's channel arguments and take precedence over the defaults here: no bound on the size of a
    message, and the retries that `retry` describes.

    A context manager. Nothing connects before the first call, and no call may follow `close`.
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
            grpc.insecure_channel(target, arguments)
            if credentials is None
            else grpc.secure_channel(target, credentials, arguments)
        )
        self._methods: dict[str, grpc.UnaryUnaryMultiCallable[bytes, bytes]] = {
            path: self._channel.unary_unary(path) for path in request.PATHS
        }

    def predict(
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
            return self._send(request.predict(spec, fitted, outputs), timeout)
        except ServerError as error:
            refusal = error
        if self._declared.should_ask(wanted, refusal, converted=not request.same_dtypes(inputs, fitted)):
            self._learn(wanted, timeout)
        again = self._declared.fitted(wanted, inputs)
        if request.same_dtypes(again, fitted):
            raise self._declared.explained(wanted, fitted, refusal) from refusal.__cause__
        return self._send(request.predict(spec, again, outputs), timeout)

    def metadata(
        self, model: str, *, version: int | None = None, label: str | None = None, timeout: float | None = None
    ) -> ModelMetadata:
        """Return a model's signatures, of the version that `predict` would run.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        return self._send(request.metadata(request.model_spec(model, version, label)), timeout)

    def status(
        self, model: str, *, version: int | None = None, timeout: float | None = None
    ) -> tuple[VersionStatus, ...]:
        """Return the state of every version the server ever had of a model, or of the one asked for.

        TF Serving: highest version first; an unknown model or version is NOT_FOUND.

        Raises ValueError for an argument that cannot be sent, and ServerError for a call that failed.
        """
        return self._send(request.status(request.model_spec(model, version)), timeout)

    def _learn(self, wanted: Wanted, timeout: float | None) -> None:
        """Asks what a model declares; what is known stays where it cannot be asked."""
        with suppress(ServerError):
            metadata = self.metadata(wanted.model, version=wanted.version, label=wanted.label, timeout=timeout)
            self._declared.learn(wanted, metadata)

    def close(self) -> None:
        """Close the connection; calls under way in other threads end CANCELLED. Closing twice is fine."""
        self._closed = True
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _send(self, call: Call[Answer], timeout: float | None) -> Answer:
        if self._closed:
            raise ValueError(request.CLOSED)
        seconds = self._timeout if timeout is None else timeout
        try:
            response = self._methods[call.path](call.request, timeout=seconds)
        except grpc.RpcError as error:
            raise ServerError(error.code(), error.details() or "") from error
        return call.read(response)
