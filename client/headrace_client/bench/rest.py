"""REST: a model's inputs, the bodies of requests, and a connection that sends them."""

import base64
import errno
import http.client
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import numpy as np

from headrace_client.bench.apis import Arrays, bytes_of, datatype, spec_of
from headrace_client.bench.errors import BenchError
from headrace_client.bench.server import ServerFailure
from headrace_client.channels.misdirected import NO_TLS
from headrace_client.request import Signature, TensorSpec
from headrace_client.tls import Tls, tls_hint
from headrace_protos import DataType
from headrace_protos.tensor import TensorError, dtype_of

# The gRPC code for each HTTP status, as in the gateways of both APIs.
_CODES = {400: 3, 401: 16, 403: 7, 404: 5, 409: 10, 412: 9, 429: 8, 499: 1, 500: 13, 501: 12, 503: 14, 504: 4}
_ADDRESS = re.compile(r"(?P<scheme>https?://)?(\[[0-9a-fA-F:.]+\]|[^\s/:\[\]]+):(?P<port>\d{1,5})/?", re.ASCII)
_MOST_PORT = 65535
_NOT_HTTP = "the answer is not HTTP"
_CLOSED = "Remote end closed connection without response"
_ONE_SIDED_TLS = re.compile("WRONG_VERSION_NUMBER|RECORD_LAYER_FAILURE")
NOT_REST = (
    "this port does not speak REST without TLS: --rest_api_port of `headrace serve` sets the REST port, and --tls_ca "
    "turns TLS on"
)
_OK, _UNKNOWN, _DEADLINE, UNAVAILABLE = 0, 2, 4, 14


@dataclass(frozen=True, slots=True)
class RestRequest:
    """A request: GET without a body, otherwise POST."""

    path: str
    body: bytes = b""

    def __len__(self) -> int:
        return len(self.body)


class RestConnection:
    """One connection, which is opened again when it has ended.

    Args:
        target: A host and a port.
        headers: Headers that are sent with every request.
        timeout: The timeout of a request in seconds.
        tls: The certificates; None means no TLS.
    """

    def __init__(self, target: str, headers: Sequence[tuple[str, str]], timeout: float, tls: Tls | None = None) -> None:
        self._headers = {"content-type": "application/json", **dict(headers)}
        host = target.partition("://")[2] or target
        self._connection = (
            http.client.HTTPConnection(host.rstrip("/"), timeout=timeout)
            if tls is None
            else http.client.HTTPSConnection(host.rstrip("/"), timeout=timeout, context=tls.context)
        )

    def send(self, request: RestRequest) -> tuple[int, bytes]:
        """Sends a request; returns the gRPC code with which it ends, and the answer's body or the failure's message."""
        try:
            method = "POST" if request.body else "GET"
            self._connection.request(method, request.path, request.body or None, self._headers)
            answer = self._connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            return (_DEADLINE if isinstance(error, TimeoutError) else UNAVAILABLE), _reason(error).encode()
        return (_OK if answer.status == http.HTTPStatus.OK else _CODES.get(answer.status, _UNKNOWN)), body

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()


class RestServer:
    """A server that is asked, before a load begins, which inputs its models take.

    Args:
        target: A host and a port, such as `localhost:8501` or `http://localhost:8501`.
        metadata: Headers that are sent with every request.
        timeout: The timeout of a request in seconds.
        tls: The certificates; None means no TLS.

    Raises:
        BenchError: There is no such address, or TLS contradicts its scheme.
    """

    def __init__(
        self, target: str, metadata: Sequence[tuple[str, str]], timeout: float, tls: Tls | None = None
    ) -> None:
        self.target = target
        self._tls = tls
        address = _ADDRESS.fullmatch(target)
        if address is None or not 0 < int(address["port"]) <= _MOST_PORT:
            raise BenchError(f"the server must be HOST:PORT; was {target}")
        if address["scheme"] == "https://" and tls is None:
            raise BenchError(f"{target} needs --tls_ca, which turns TLS on")
        if address["scheme"] == "http://" and tls is not None:
            raise BenchError(f"{target} is without TLS, which {tls.ca} turns on: call https:// or leave out the scheme")
        self._connection = RestConnection(target, metadata, timeout, tls)

    def get(self, path: str) -> Mapping[str, Any]:
        """Requests the JSON document at a path, and returns it.

        Raises:
            ServerFailure: There is no document.
        """
        body = self.send(RestRequest(path))
        try:
            document: Mapping[str, Any] = json.loads(body)
        except ValueError as error:
            raise BenchError(f"{self.target} does not answer {path} in JSON") from error
        return document

    def send(self, request: RestRequest) -> bytes:
        """Sends a request, and returns the answer.

        Raises:
            ServerFailure: There is no answer.
        """
        code, body = self._connection.send(request)
        if code != _OK:
            raise ServerFailure(self.target, code, words(body), _hint(code, words(body), self._tls))
        return body

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


class RestPredict:
    """TF Serving's REST predict, in columns.

    Args:
        signature: The signature to call.
        version: The model's version; None means the newest.
    """

    name = "rest-predict"

    def __init__(self, signature: str, version: int | None) -> None:
        self._signature = signature
        self._version = "" if version is None else f"/versions/{version}"

    def signature(self, server: RestServer, model: str) -> Signature:
        """The inputs and outputs of a model, from its metadata.

        Raises:
            BenchError: The server does not know the model, or does not answer.
        """
        document = server.get(f"/v1/models/{quote(model)}{self._version}/metadata")
        try:
            signatures = document["metadata"]["signature_def"]["signature_def"]
            if self._signature in signatures:
                sides = (signatures[self._signature][side] for side in ("inputs", "outputs"))
                return Signature(*({name: _info(tensor) for name, tensor in side.items()} for side in sides))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BenchError(f"{server.target} does not describe {model} in TF Serving's form") from error
        raise BenchError(f"{model} has no signature {self._signature}: it has {', '.join(sorted(signatures))}")

    def request(self, model: str, inputs: Arrays) -> RestRequest:
        """A request with all inputs."""
        body = {"signature_name": self._signature, "inputs": {name: _listed(each) for name, each in inputs.items()}}
        return RestRequest(f"/v1/models/{quote(model)}{self._version}:predict", json.dumps(body).encode())


class RestInfer:
    """The Open Inference Protocol's infer, in JSON.

    Args:
        version: The model's version; None means the newest.
    """

    name = "rest-infer"

    def __init__(self, version: int | None) -> None:
        self._version = "" if version is None else f"/versions/{version}"

    def signature(self, server: RestServer, model: str) -> Signature:
        """The inputs and outputs of a model, from its metadata.

        Raises:
            BenchError: The server does not know the model, or does not answer.
        """
        document = server.get(f"/v2/models/{quote(model)}{self._version}")
        try:
            inputs, outputs = (
                {tensor["name"]: spec_of(tensor["datatype"], tensor["shape"]) for tensor in document[side]}
                for side in ("inputs", "outputs")
            )
            return Signature(inputs, outputs)
        except (KeyError, TypeError) as error:
            raise BenchError(f"{server.target} does not describe {model} in Open Inference's form") from error

    def request(self, model: str, inputs: Arrays) -> RestRequest:
        """A request with all inputs."""
        tensors = [
            {"name": name, "datatype": datatype(each), "shape": each.shape, "data": _texts(each)}
            for name, each in inputs.items()
        ]
        return RestRequest(f"/v2/models/{quote(model)}{self._version}/infer", json.dumps({"inputs": tensors}).encode())


def words(body: bytes) -> str:
    """The message in a failure's body, on one line."""
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        text = body.decode(errors="replace")
    if text.lstrip().startswith("<"):
        return "the answer is HTML, not JSON"
    return " ".join(text.split())[:300]


def _hint(code: int, text: str, tls: Tls | None) -> str:
    """What may be wrong with the port or the certificates.

    A server of gRPC, or one with TLS, resets or closes the connection of a REST caller.
    """
    if tls is not None:
        return NO_TLS if _ONE_SIDED_TLS.search(text) else tls_hint(text, tls)
    return NOT_REST if code == UNAVAILABLE and text in (_NOT_HTTP, _CLOSED, os.strerror(errno.ECONNRESET)) else ""


def _reason(error: OSError | http.client.HTTPException) -> str:
    """Describes, in words, why there is no answer."""
    if isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        return _NOT_HTTP
    return getattr(error, "strerror", None) or str(error)


def _info(tensor: Mapping[str, Any]) -> TensorSpec:
    try:
        dtype: np.dtype[Any] | None = dtype_of(DataType.Value(tensor["dtype"]))
    except TensorError:
        dtype = None
    shape = tensor.get("tensor_shape", {})
    if shape.get("unknown_rank"):
        return TensorSpec(dtype, None)
    sizes = [int(dim["size"]) for dim in shape.get("dim", [])]
    return TensorSpec(dtype, tuple(None if size < 0 else size for size in sizes))


def _listed(array: np.ndarray) -> Any:
    if array.dtype != object:
        return array.tolist()
    items = [{"b64": base64.b64encode(bytes_of(item)).decode()} for item in array.ravel().tolist()]
    nested = np.empty(len(items), object)
    nested[:] = items
    return nested.reshape(array.shape).tolist()


def _texts(array: np.ndarray) -> Any:
    return (
        [bytes_of(item).decode(errors="replace") for item in array.ravel()] if array.dtype == object else array.tolist()
    )
