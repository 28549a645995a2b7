"""Runs a version before it is served: the requests of its warm-up file, or zeros where it has none."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from headrace_batching import LoopDelivery, Options
from headrace_batching.task import Array
from headrace_protos import Code, PredictionLog
from headrace_server.backends.base import Backend
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError, invalid, status_of
from headrace_server.models.servable import Call, Servable
from headrace_server.tfrecord import CorruptRecordError, read_records

log = logging.getLogger(__name__)

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")

MAX_RECORDS = 1000
MAX_SHOWN_BYTES = 512
MAX_SYNTHETIC_ROWS = 32
SYNTHETIC_SECONDS = 5.0

Answer = Callable[[Any, Call], Coroutine[Any, Any, object]]
Answers = Callable[[Servable], Mapping[str, Answer]]


@dataclass(frozen=True, slots=True)
class WarmupOptions:
    """What an operator decides about warm-up.

    Attributes:
        requests: Whether warm-up files are used.
        iterations: Times that each of their requests is sent, at least 1.
        synthetic: Whether a version without such a file is run on zeros.
    """

    requests: bool = True
    iterations: int = 1
    synthetic: bool = True


class Warmup:
    """Makes the first caller's request no slower than the next one's.

    Args:
        options: What is done.
        answers: For one servable, the functions that answer requests with it, by the `log_type` that holds them.
    """

    def __init__(self, options: WarmupOptions, answers: Answers) -> None:
        self._options = options
        self._answers = answers

    def run(self, folder: Path, servable: Servable, backend: Backend, batching: Options | None) -> None:
        """Warms up a version that nobody else uses yet, on the thread that loads it.

        Args:
            folder: The version's.
            servable: Answers the requests of its warm-up file, through its batches.
            backend: Its runtime, which zeros are given to directly.
            batching: How its requests become batches; None if they do not.

        Raises:
            ServingError, BatchingError: The file, or a request in it, is refused: the version must not be served.
        """
        file = folder / WARMUP_FILE
        if self._options.requests and os.path.exists(file):  # which takes one that cannot be seen for none
            replay(file, self._answers(servable), self._options.iterations)
        elif self._options.synthetic:
            run_on_zeros(backend, batching)


def replay(file: Path, answers: Mapping[str, Answer], iterations: int) -> None:
    """Answers the requests of a warm-up file, one after the other.

    TF Serving: saved_model_warmup_util.cc has the texts, and the limit.

    Args:
        file: TFRecords of PredictionLog.
        answers: The functions that answer requests, by `log_type`.
        iterations: Times that each request is answered.

    Raises:
        ServingError: DATA_LOSS for a file that is corrupt, INVALID_ARGUMENT for a record that is no PredictionLog or
            one too many, UNIMPLEMENTED for a kind that is never replayed; or the error of the request.
        BatchingError: The request's.
    """
    began = time.monotonic()
    with asyncio.Runner() as runner:
        records = runner.run(_replay(file, answers, iterations))
    milliseconds = (time.monotonic() - began) * 1e3
    log.info("%s: %d warm-up requests answered in %.0f ms", file, records, milliseconds)


async def _replay(file: Path, answers: Mapping[str, Answer], iterations: int) -> int:
    call = Call(LoopDelivery(asyncio.get_running_loop()))
    count = 0
    for count, record in enumerate(_prediction_logs(file), start=1):
        try:
            for _ in range(iterations):
                await _answer(record, answers, call)
        except Exception as error:
            log.error("%s: warm-up request %d failed: %s", file, count, status_of(error)[1])
            raise
        if count > MAX_RECORDS:
            raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}")
    return count


def _prediction_logs(file: Path) -> Iterator[PredictionLog]:
    try:
        with file.open("rb") as opened:
            for record in read_records(opened):
                yield _parsed(record, file)
    except CorruptRecordError as error:
        text = f"{error}. Please verify your warmup data is in TFRecord format."
        log.error("%s: %s", file, text)
        raise ServingError(Code.DATA_LOSS, text) from error
    except OSError as error:
        code = Code.PERMISSION_DENIED if isinstance(error, PermissionError) else Code.FAILED_PRECONDITION
        raise ServingError(code, f"{file}: {error.strerror}") from error


def _parsed(record: bytes, file: Path) -> PredictionLog:
    try:
        return PredictionLog.FromString(record)
    except DecodeError as error:
        shown = record[:MAX_SHOWN_BYTES].decode(errors="backslashreplace")
        raise invalid(f"Failed to parse warmup record: {shown} from {file}") from error


async def _answer(record: PredictionLog, answers: Mapping[str, Answer], call: Call) -> None:
    kind = record.WhichOneof("log_type")
    if kind is None:
        return
    if kind not in answers:
        number = PredictionLog.DESCRIPTOR.fields_by_name[kind].number
        raise ServingError(Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")
    await answers[kind](getattr(record, kind).request, call)


def run_on_zeros(backend: Backend, batching: Options | None, clock: Callable[[], float] = time.monotonic) -> None:
    """Runs every signature on zeros, in the batch sizes that it will see.

    A failure is the zeros' fault as likely as the model's, so it is only logged. A slow model is left alone after some
    seconds.

    Args:
        backend: Called on this thread.
        batching: Names the batch sizes; None for requests that run one by one.
        clock: In seconds.
    """
    end = clock() + SYNTHETIC_SECONDS
    for name, signature in backend.signatures.items():
        for rows in _batch_sizes(signature, batching):
            if clock() >= end:
                log.info("warm-up ends before %d rows of signature %s: the model is slow", rows, name)
                return
            try:
                backend.run(name, _zeros(signature, rows), signature.every_output)
            except Exception as error:
                log.info("signature %s cannot be warmed up with zeros: %s", name, status_of(error)[1])
                break


def _batch_sizes(signature: Signature, batching: Options | None) -> tuple[int, ...]:
    """The sizes that its batches will have; where any is allowed, the smallest and a moderate one."""
    if batching is None or not signature.batched:
        return (1,)
    most = batching.padded_rows(batching.execution_limit)
    if batching.allowed_batch_sizes:
        return tuple(size for size in batching.allowed_batch_sizes if size <= most)
    return (1, min(most, MAX_SYNTHETIC_ROWS)) if most > 1 else (1,)


def _zeros(signature: Signature, rows: int) -> dict[str, Array]:
    return {alias: _zero(spec, rows if signature.batched else 1) for alias, spec in signature.inputs.items()}


def _zero(spec: TensorSpec, rows: int) -> Array:
    """Zeros of the declared dtype, 1 for each dimension that varies but the batch; a string is empty."""
    shape = tuple(1 if size is None else size for size in spec.shape)
    if spec.shape and spec.shape[0] is None:
        shape = (rows, *shape[1:])
    zeros: Array = np.zeros(shape, spec.array_dtype)
    if zeros.dtype == object:
        zeros.fill(b"")
    return zeros
