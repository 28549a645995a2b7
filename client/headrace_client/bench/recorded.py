"""Requests that a server has logged: TFRecord files of PredictionLogs."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import DecodeError

from headrace_client.bench.errors import BenchError
from headrace_protos import PredictionLog

_LENGTH = struct.Struct("<Q")
_CHECKSUM = 4
_SERVICE = "/tensorflow.serving.PredictionService/"
_METHODS = {
    "predict_log": "Predict",
    "classify_log": "Classify",
    "regress_log": "Regress",
    "multi_inference_log": "MultiInference",
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """A request of a log: the model, the method, the message, and the second since 1970 at which it was logged."""

    model: str
    path: str
    message: bytes
    second: int


def read_log(path: Path) -> list[Recorded]:
    """Reads the requests of a log, in order.

    Raises:
        BenchError: The file cannot be read, is not a log of requests, or has no request in it.
    """
    try:
        found = [request for record in _records(path) if (request := _request(record)) is not None]
    except OSError as error:
        raise BenchError(f"{path} cannot be read: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise BenchError(f"{path} is not a request log (a TFRecord file of PredictionLogs)") from error
    if not found:
        raise BenchError(f"{path} has no request that could be sent again")
    return found


def times(requests: list[Recorded], speed: float) -> list[float]:
    """When to send each request in the replay, in seconds from its start.

    A log only records whole seconds: requests within one second are spread over it.

    Args:
        requests: The requests, in the order in which they were sent.
        speed: The factor by which the requests are sent faster than they were recorded.
    """
    seconds: dict[int, int] = {}
    for request in requests:
        seconds[request.second] = seconds.get(request.second, 0) + 1
    first, seen, found = requests[0].second, dict.fromkeys(seconds, 0), []
    for request in requests:
        part = seen[request.second] / seconds[request.second]
        seen[request.second] += 1
        found.append(max(0.0, request.second - first + part) / speed)
    return sorted(found)


def _records(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    at = 0
    while at < len(data):
        (length,) = _LENGTH.unpack(data[at : at + _LENGTH.size].ljust(_LENGTH.size, b"\xff"))
        begin = at + _LENGTH.size + _CHECKSUM
        at = begin + length + _CHECKSUM
        if at > len(data):
            raise ValueError("a record goes beyond the end of the file")
        yield data[begin : begin + length]


def _request(record: bytes) -> Recorded | None:
    log = PredictionLog.FromString(record)
    kind = log.WhichOneof("log_type")
    if kind not in _METHODS:
        return None
    request = getattr(log, kind).request
    spec = request.tasks[0].model_spec if kind == "multi_inference_log" and request.tasks else request.model_spec
    return Recorded(
        spec.name, f"{_SERVICE}{_METHODS[kind]}", request.SerializeToString(), log.log_metadata.timestamp_secs
    )
