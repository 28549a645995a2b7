"""Callers who follow the protocol: each call must end as expected, within its deadline, with its own correct answer."""

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from headrace_protos import (
    GetModelMetadataRequest,
    GetModelMetadataResponse,
    PredictRequest,
    PredictResponse,
)
from headrace_protos.inference import grpc_service_pb2 as inference
from headrace_protos.tensor import to_array, to_proto

from .frames import PREDICT
from .route import Route
from .served import LIMIT, SMALL, STREAMED, WEIGHTS, WIDE
from .tally import Tally

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STREAM = "/inference.GRPCInferenceService/ModelStreamInfer"
DEADLINE = 20.0
"""The seconds that a call without a tight deadline may take."""
UNKNOWN_FIELD = b"\x78\x01"
"""A field of a message, with the number 15 and the value 1. PredictRequest has no field of this number."""
SLACK = 60.0
"""A call is stuck this many seconds after its deadline: a busy machine may delay either side by ten."""


@dataclass(frozen=True)
class Target:
    """The server that the callers call: on some channels, or by REST."""

    channels: Sequence[grpc.aio.Channel]
    route: Route

    def predict(self) -> Any:
        """The Predict method, on one of the channels."""
        return random.choice(self.channels).unary_unary(PREDICT, bytes, PredictResponse.FromString)

    def count(self, count: int) -> Any:
        """Begins a call that a worker process answers with the numbers below `count`, one by one."""
        method: Any = random.choice(self.channels).stream_stream(
            STREAM, inference.ModelInferRequest.SerializeToString, inference.ModelStreamInferResponse.FromString
        )
        return method(iter([_count_request(count)]), timeout=DEADLINE)


Caller = Callable[[Target, Tally], Awaitable[None]]


async def plain(target: Target, tally: Tally) -> None:
    """Sends a Predict that is decoded without the interpreter."""
    rows = _rows()
    compression = random.choice([grpc.Compression.NoCompression] * 3 + [grpc.Compression.Gzip])
    answer = target.predict()(_request(rows), timeout=DEADLINE, compression=compression)
    await _right("plain", answer, rows, tally)


async def not_plain(target: Target, tally: Tally) -> None:
    """Sends a Predict that the Python service decodes, because it has a field that Rust does not know."""
    rows = _rows()
    answer = target.predict()(_request(rows) + UNKNOWN_FIELD, timeout=DEADLINE)
    await _right("not plain", answer, rows, tally)


async def metadata(target: Target, tally: Tally) -> None:
    """Calls another method, GetModelMetadata."""
    request = GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = SMALL
    channel = random.choice(target.channels)
    method: Any = channel.unary_unary(
        METADATA, GetModelMetadataRequest.SerializeToString, GetModelMetadataResponse.FromString
    )
    await _ends("metadata", method(request, timeout=DEADLINE), {"OK"}, DEADLINE, tally)


async def cancels(target: Target, tally: Tally) -> None:
    """Cancels a call while it is sent, queued, or answered."""
    call = target.predict()(_request(_rows()), timeout=DEADLINE)
    await asyncio.sleep(random.uniform(0, 0.005))
    call.cancel()
    await _ends("cancels", call, {"OK", "CANCELLED"}, DEADLINE, tally)


async def hurries(target: Target, tally: Tally) -> None:
    """Gives a call less time than it may need."""
    seconds = random.uniform(0.0001, 0.005)
    call = target.predict()(_request(_rows()), timeout=seconds)
    # TF Serving answers RESOURCE_EXHAUSTED if a request's time has run out in the queue.
    await _ends("short deadlines", call, {"OK", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}, seconds, tally)


async def oversized(target: Target, tally: Tally) -> None:
    """Sends a message that is too large, or that expands to more than is allowed."""
    rows = np.zeros((LIMIT // 64 + 100, 16), np.float32)
    compression = random.choice([grpc.Compression.NoCompression, grpc.Compression.Gzip])
    call = target.predict()(_request(rows), timeout=DEADLINE, compression=compression)
    await _ends("oversized", call, {"RESOURCE_EXHAUSTED"}, DEADLINE, tally)


async def mistaken(target: Target, tally: Tally) -> None:
    """Sends a wrong request: a wrong shape or dtype, an unknown model, or malformed bytes."""
    wrong, code = random.choice(
        [
            (_request(np.zeros((1, 15), np.float32)), "INVALID_ARGUMENT"),
            (_request(np.zeros((1, 16), np.int32)), "INVALID_ARGUMENT"),
            (_request(_rows(), name="nobody"), "NOT_FOUND"),
            (b"\xff\xff\xff", "INTERNAL"),
        ]
    )
    await _ends("wrong requests", target.predict()(wrong, timeout=DEADLINE), {code}, DEADLINE, tally)


async def streams(target: Target, tally: Tally) -> None:
    """Makes a call that gets several answers, and reads them all."""
    count, begun = random.randrange(1, 5), time.monotonic()
    try:
        async with asyncio.timeout(DEADLINE + SLACK):
            answers = [answer.infer_response async for answer in target.count(count)]
    except (grpc.RpcError, TimeoutError) as error:
        tally.wrong("streams", _words(error))
        return
    numbers = [int.from_bytes(answer.raw_output_contents[0], "little") for answer in answers]
    if numbers == list(range(count)):
        tally.ended("streams", "OK", time.monotonic() - begun)
    else:
        tally.wrong("streams", f"other answers: {numbers}")


async def leaves_streams(target: Target, tally: Tally) -> None:
    """Cancels a call that gets several answers, before the first answer or between two answers."""
    call = target.count(5)
    await asyncio.sleep(random.uniform(0, 0.005))
    call.cancel()
    await _ends("leaves streams", call, {"OK", "CANCELLED"}, DEADLINE, tally)


async def rest(target: Target, tally: Tally) -> None:
    """Posts JSON, on a connection of its own."""
    rows = _rows()
    body = json.dumps({"instances": rows.tolist()}).encode()
    head = f"POST /v1/models/{SMALL}:predict HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}"
    reader, writer = await target.route.to_rest()
    writer.write(f"{head}\r\n\r\n".encode() + body)
    begun = time.monotonic()
    try:
        answer = await asyncio.wait_for(reader.read(), DEADLINE)
        got = json.loads(answer.partition(b"\r\n\r\n")[2])["predictions"]
        _compare("rest", np.array(got, np.float32), rows, time.monotonic() - begun, tally)
    except (KeyError, ValueError, TimeoutError) as error:
        tally.wrong("rest", repr(error))
    finally:
        writer.close()


async def _right(kind: str, call: Any, rows: npt.NDArray[Any], tally: Tally) -> None:
    begun = time.monotonic()
    try:
        answer = await asyncio.wait_for(call, DEADLINE + SLACK)
    except (grpc.RpcError, TimeoutError) as error:
        tally.wrong(kind, _words(error))
        return
    _compare(kind, to_array(answer.outputs["y"]), rows, time.monotonic() - begun, tally)


def _compare(kind: str, got: npt.NDArray[Any], rows: npt.NDArray[Any], seconds: float, tally: Tally) -> None:
    if got.shape == (len(rows), WEIGHTS.shape[1]) and np.allclose(got, rows @ WEIGHTS, rtol=1e-3, atol=1e-3):
        tally.ended(kind, "OK", seconds)
    else:
        tally.wrong(kind, f"another answer: {got}")


async def _ends(kind: str, call: Any, codes: set[str], deadline: float, tally: Tally) -> None:
    """Waits for the end of a call, which must be one of these."""
    begun = time.monotonic()
    try:
        code: str = (await asyncio.wait_for(call.code(), deadline + SLACK)).name
    except TimeoutError:
        tally.wrong(kind, "stuck")
        return
    except asyncio.CancelledError:
        code = "CANCELLED"
    if code in codes:
        tally.ended(kind, code, time.monotonic() - begun)
    else:
        tally.wrong(kind, f"{code}: {await call.details()}")


def _rows() -> npt.NDArray[Any]:
    """One to four rows that no other call has."""
    return np.random.default_rng(random.getrandbits(64)).standard_normal((random.randint(1, 4), 16), np.float32)


def _request(rows: npt.NDArray[Any], *, name: str = SMALL) -> bytes:
    request = PredictRequest()
    request.model_spec.name = name
    to_proto(rows, request.inputs["x"], as_content=random.random() < 0.5)
    return request.SerializeToString()


def _count_request(count: int) -> inference.ModelInferRequest:
    request = inference.ModelInferRequest(model_name=STREAMED)
    request.inputs.add(name="count", datatype="INT64", shape=[1])
    request.raw_input_contents.append(np.array([count], np.int64).tobytes())
    return request


def _words(error: Exception) -> str:
    return f"{error.code().name}: {error.details()}" if isinstance(error, grpc.aio.AioRpcError) else repr(error)


def large_request() -> bytes:
    """A small request with a large answer."""
    return _request(np.zeros((1, 16), np.float32), name=WIDE)


def small_request() -> bytes:
    """A request of one row."""
    return _request(np.zeros((1, 16), np.float32))


CALLERS: Sequence[Caller] = (
    *[plain] * 6,
    *[not_plain] * 3,
    metadata,
    cancels,
    cancels,
    hurries,
    oversized,
    mistaken,
    streams,
    leaves_streams,
    leaves_streams,
    rest,
    rest,
)
