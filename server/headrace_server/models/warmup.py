"""Runs a version before it is served: the requests of its warm-up file, or zeros if it has none."""

import asyncio
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import contextmanager
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
from headrace_server.config.run import Config
from headrace_server.errors import ServingError, invalid, status_of, unreadable
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.call import Call
from headrace_server.models.loader import LoadVersion
from headrace_server.models.recorded import WARMUP_FILE
from headrace_server.models.servable import Servable
from headrace_server.models.tfrecord import CorruptRecordError, read_records

log = logging.getLogger(__name__)

MAX_RECORDS = 1000
MAX_SHOWN_BYTES = 512
MAX_SYNTHETIC_ROWS = 32
MAX_UNNAMED_ROWS = 128
SYNTHETIC_SECONDS = 5.0

QUICK_SECONDS = 0.0002
"""If the first run takes fewer seconds than this, later runs have nothing left to prepare that callers would notice."""

Answer = Callable[[Any, Call], Coroutine[Any, Any, object]]
Answers = Callable[[Servable], Mapping[str, Answer]]


@dataclass(frozen=True, slots=True)
class WarmupOptions:
    """An operator's settings for warm-up.

    Attributes:
        requests: Whether warm-up files are used.
        iterations: How often each request is sent, at least 1.
        synthetic: Whether a version without a warm-up file is run with zeros.
    """

    requests: bool = True
    iterations: int = 1
    synthetic: bool = True

    @classmethod
    def of(cls, config: Config) -> "WarmupOptions":
        """The warm-up options in a server's configuration."""
        return cls(
            requests=config.enable_model_warmup,
            iterations=max(1, config.num_request_iterations_for_warmup),
            synthetic=config.enable_model_warmup and config.enable_synthetic_warmup,
        )


class Warmup:
    """Warms versions up, so that the first caller's request is no slower than the next one's.

    Args:
        options: The options of warm-up.
        answers: Returns, for a servable, the functions that answer requests with it, by the `log_type` of the record.
        metrics: Counts warm-up files.
    """

    def __init__(self, options: WarmupOptions, answers: Answers, metrics: Metrics) -> None:
        self._options = options
        self._answers = answers
        self._metrics = metrics

    def after(self, load: LoadVersion) -> LoadVersion:
        """Like `load`, but returns servables that are warm; one that cannot be warmed up is freed."""

        def load_and_warm_up(name: str, version: int, path: Path) -> Servable:
            servable = load(name, version, path)
            try:
                self.run(path, servable)
            except BaseException:  # a model may call sys.exit
                servable.close()
                raise
            return servable

        return load_and_warm_up

    def run(self, folder: Path, servable: Servable) -> None:
        """Warms up a version that nothing else uses yet, on the thread that loads it.

        The requests of a warm-up file go through the version's batches; zeros go directly to its backend.

        Raises:
            ServingError, BatchingError: The file, or a request in it, is refused: the version must not be served.
        """
        file = os.path.join(folder, WARMUP_FILE)
        if self._options.requests and os.path.exists(file):  # false without access to the folder
            replay(Path(file), self._answers(servable), self._options.iterations, self._metrics)
        elif self._options.synthetic and servable.has_runs:
            run_on_zeros(
                servable.backend, servable.batching, signatures=servable.own_signatures, named=servable.names_sizes
            )


def replay(file: Path, answers: Mapping[str, Answer], iterations: int, metrics: Metrics) -> None:
    """Answers the requests of a warm-up file, one after the other.

    TF Serving's saved_model_warmup_util.cc has the texts, and the limit; if a request fails, nothing is counted.

    Args:
        file: TFRecords of PredictionLog.
        answers: The functions that answer requests, by `log_type`.
        iterations: How often each request is answered.
        metrics: Counts the file once it has been read or found corrupt.

    Raises:
        ServingError: DATA_LOSS for a corrupt file; INVALID_ARGUMENT for a record that is not a PredictionLog, or for
            too many records; UNIMPLEMENTED for a kind that is never replayed; or the error of the request.
        BatchingError: The error of the request.
    """
    began = time.monotonic()
    with asyncio.Runner() as runner:
        records, corruption = runner.run(_replay(file, answers, iterations))
    elapsed = time.monotonic() - began
    labels = str(file.parents[1]), "OK" if corruption is None else f"DATA_LOSS: {corruption}"
    metrics.warmup_latency.of(*labels).observe(elapsed * 1e6)
    metrics.warmup_records_read.of(*labels).add(records)
    if corruption is not None:
        text = f"{corruption}. Please verify your warmup data is in TFRecord format."
        log.error("%s: %s", file, text)
        raise ServingError(Code.DATA_LOSS, text) from corruption
    log.info("%s: %d warm-up requests answered in %.0f ms", file, records, elapsed * 1e3)


async def _replay(file: Path, answers: Mapping[str, Answer], iterations: int) -> tuple[int, CorruptRecordError | None]:
    """Answers requests up to the end or a corrupt record, and returns how many there were."""
    call = Call(LoopDelivery(asyncio.get_running_loop()))
    count = 0
    try:
        for count, record in enumerate(_prediction_logs(file), start=1):
            with _named(file, count):
                for _ in range(iterations):
                    await _answer(record, answers, call)
            if count > MAX_RECORDS:
                raise invalid(f"Number of warmup records exceeds the maximum ({MAX_RECORDS}) at {file}")
    except CorruptRecordError as error:
        return count, error
    return count, None


@contextmanager
def _named(file: Path, number: int) -> Iterator[None]:
    """Logs which request failed; its error, which becomes the version's, does not say so."""
    try:
        yield
    except Exception as error:
        log.error("%s: warm-up request %d failed: %s", file, number, status_of(error)[1])
        raise


def _prediction_logs(file: Path) -> Iterator[PredictionLog]:
    try:
        with file.open("rb") as opened:
            for record in read_records(opened):
                yield _parsed(record, file)
    except OSError as error:
        raise unreadable(file, error) from error


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


def run_on_zeros(
    backend: Backend,
    batching: Options | None,
    clock: Callable[[], float] = time.monotonic,
    *,
    signatures: Mapping[str, Signature] | None = None,
    named: bool = True,
) -> None:
    """Runs every signature with zeros, in the batch sizes that it will see.

    A failure may be caused by the zeros as well as by the model, so it is only logged. The warm-up of a slow model ends
    after some seconds. If the first run is quick, and the operator has not named sizes, no other size is run.

    Args:
        backend: The backend, which is called on this thread.
        batching: Gives the batch sizes; None for requests that run one by one.
        clock: Returns the time, in seconds.
        signatures: The backend's signatures, with whether they are batched; None for those of the backend itself.
        named: Whether the operator sets the batch sizes. If not, only sizes up to a moderate one are run: memory for
            large batches that never come would be kept for nothing.
    """
    end = clock() + SYNTHETIC_SECONDS
    any_size = batching is not None and not batching.allowed_batch_sizes
    for name, signature in (signatures or backend.signatures).items():
        for rows in _batch_sizes(signature, batching, None if named else MAX_UNNAMED_ROWS):
            began = clock()
            if began >= end:
                log.info("warm-up ends before %d rows of signature %s: the model is slow", rows, name)
                return
            try:
                backend.run(name, _zeros(signature, rows), signature.every_output)
            except Exception as error:
                log.info("signature %s cannot be warmed up with zeros: %s", name, status_of(error)[1])
                break
            if any_size and clock() - began < QUICK_SECONDS:
                break


def _batch_sizes(signature: Signature, batching: Options | None, limit: int | None) -> tuple[int, ...]:
    """The batch sizes to run; if any size is allowed, the smallest and a moderate one."""
    if batching is None or not signature.batched:
        return (1,)
    most = batching.padded_rows(batching.execution_limit)
    if limit is not None:
        most = min(most, limit)
    if batching.allowed_batch_sizes:
        return tuple(size for size in batching.allowed_batch_sizes if size <= most)
    return (1, min(most, MAX_SYNTHETIC_ROWS)) if most > 1 else (1,)


def _zeros(signature: Signature, rows: int) -> dict[str, Array]:
    return {alias: _zero(spec, rows if signature.batched else 1) for alias, spec in signature.inputs.items()}


def _zero(spec: TensorSpec, rows: int) -> Array:
    """Zeros of the declared dtype, with size 1 for each varying dimension except the batch; a string is empty."""
    shape = tuple(1 if size is None else size for size in spec.shape)
    if spec.shape and spec.shape[0] is None:
        shape = (rows, *shape[1:])
    zeros: Array = np.zeros(shape, spec.array_dtype)
    if zeros.dtype == object:
        zeros.fill(b"")
    return zeros
