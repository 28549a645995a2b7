"""Warm-up without a server: the requests that it runs, the files that it refuses, and its runs on zeros."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message

from headrace_batching import BatchThreads, Options
from headrace_batching.task import Arrays
from headrace_protos import (
    ClassifyLog,
    Code,
    DataType,
    MultiInferenceLog,
    PredictionLog,
    PredictLog,
    PredictStreamedLog,
    RegressLog,
    SessionRunLog,
)
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.call import Call
from headrace_server.models.servable import Servable
from headrace_server.models.warmup import (
    MAX_RECORDS,
    QUICK_SECONDS,
    SYNTHETIC_SECONDS,
    Answer,
    Warmup,
    WarmupOptions,
    replay,
    run_on_zeros,
)
from tests.support.calls import predict_request
from tests.support.records import predict_log, write_warmup

from .backend import Adder

KINDS = ("predict_log", "classify_log", "regress_log", "multi_inference_log")


class Answered:
    """Accepts and records every kind of request."""

    def __init__(self, refuse: int | None = None) -> None:
        self._refuse = refuse
        self.requests: list[Message] = []

    @property
    def answers(self) -> Mapping[str, Answer]:
        return dict.fromkeys(KINDS, self._answer)

    async def _answer(self, request: Message, call: Call) -> None:
        assert call.deadline is None
        self.requests.append(request)
        if len(self.requests) == self._refuse:
            raise ServingError(Code.OUT_OF_RANGE, "refused")


def numbered(count: int) -> list[bytes]:
    return [predict_log(predict_request({"x": [float(i)]})) for i in range(count)]


def refusal(file: Path, answered: Answered, metrics: Metrics | None = None) -> tuple[Code, str]:
    with pytest.raises(ServingError) as caught:
        replay(file, answered.answers, 1, metrics or Metrics())
    return caught.value.code, caught.value.message


def test_each_request_is_sent_the_configured_number_of_times(tmp_path: Path) -> None:
    answered = Answered()
    replay(write_warmup(tmp_path, numbered(2)), answered.answers, 3, Metrics())
    first, second = (PredictionLog.FromString(record).predict_log.request for record in numbered(2))
    assert answered.requests == [first, first, first, second, second, second]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_goes_to_its_service(tmp_path: Path, kind: str) -> None:
    logs: dict[str, Message] = {
        "predict_log": PredictLog(),
        "classify_log": ClassifyLog(),
        "regress_log": RegressLog(),
        "multi_inference_log": MultiInferenceLog(),
    }
    log = PredictionLog(**{kind: logs[kind]})  # type: ignore[arg-type]
    answered = Answered()
    replay(write_warmup(tmp_path, [log.SerializeToString()]), {kind: answered.answers[kind]}, 1, Metrics())
    assert answered.requests == [getattr(log, kind).request]


def counted(metrics: Metrics, folder: Path, status: str) -> list[str]:
    """The records read from a version's warm-up file, and how often it was read."""
    labels = f'{{model_path="{folder}",status="{status}"}}'
    page = metrics.page().decode()
    names = (":tensorflow:serving:model_warmup_records_read", ":tensorflow:serving:model_warmup_latency_count")
    return [line.split()[-1] for name in names for line in page.splitlines() if line.startswith(name + labels)]


def test_files_that_were_read_are_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    replay(write_warmup(tmp_path, numbered(2)), Answered().answers, 3, metrics)
    assert counted(metrics, tmp_path, "OK") == ["2", "1"]


def test_files_with_a_request_that_failed_are_not_counted(tmp_path: Path) -> None:
    metrics = Metrics()
    refusal(write_warmup(tmp_path, numbered(2)), Answered(refuse=2), metrics)
    assert b"warmup" not in metrics.page()


def test_a_record_of_no_kind_is_skipped(tmp_path: Path) -> None:
    answered = Answered()
    replay(write_warmup(tmp_path, [b"", *numbered(1)]), answered.answers, 1, Metrics())
    assert len(answered.requests) == 1


@pytest.mark.parametrize(
    ("log", "number"),
    [
        (PredictionLog(session_run_log=SessionRunLog()), 5),
        (PredictionLog(predict_streamed_log=PredictStreamedLog()), 7),
    ],
)
def test_kinds_that_are_not_replayed(tmp_path: Path, log: PredictionLog, number: int) -> None:
    file = write_warmup(tmp_path, [log.SerializeToString()])
    assert refusal(file, Answered()) == (Code.UNIMPLEMENTED, f"Unsupported log_type for warmup: {number}")


def test_the_error_of_a_request_ends_it_and_names_the_request(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    answered = Answered(refuse=2)
    file = write_warmup(tmp_path, numbered(3))
    assert refusal(file, answered) == (Code.OUT_OF_RANGE, "refused")
    assert len(answered.requests) == 2
    assert f"{file}: warm-up request 2 failed: refused" in caplog.messages


def test_a_record_that_is_not_a_prediction_log(tmp_path: Path) -> None:
    file = write_warmup(tmp_path, [*numbered(1), b"\xffno"])
    answered = Answered()
    assert refusal(file, answered) == (Code.INVALID_ARGUMENT, f"Failed to parse warmup record: \\xffno from {file}")
    assert len(answered.requests) == 1


def test_a_long_record_that_is_not_a_prediction_log_is_cut_in_the_error(tmp_path: Path) -> None:
    file = write_warmup(tmp_path, [b"\xff" + b"x" * 1_000_000])
    _, text = refusal(file, Answered())
    assert len(text) < 1000
    assert text.endswith(f" from {file}")


def test_a_corrupt_record(tmp_path: Path) -> None:
    file = write_warmup(tmp_path, numbered(2))
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    offset = len(data) // 2 + 12
    text = f"corrupted record at {offset}"
    whole = f"{text}. Please verify your warmup data is in TFRecord format."
    metrics = Metrics()
    assert refusal(file, Answered(), metrics) == (Code.DATA_LOSS, whole)
    assert counted(metrics, tmp_path, f"DATA_LOSS: {text}") == ["1", "1"]


def test_a_file_that_is_not_a_tfrecord(tmp_path: Path) -> None:
    file = write_warmup(tmp_path, [])
    file.write_text("requests, one a line")
    code, text = refusal(file, Answered())
    assert code == Code.DATA_LOSS
    assert text.endswith(". Please verify your warmup data is in TFRecord format.")


def test_a_folder_in_place_of_the_file(tmp_path: Path) -> None:
    assert refusal(tmp_path, Answered()) == (Code.FAILED_PRECONDITION, f"{tmp_path}: Is a directory")


def test_more_than_a_thousand_records_are_refused(tmp_path: Path) -> None:
    answered = Answered()
    replay(write_warmup(tmp_path / "1", numbered(1) * MAX_RECORDS), answered.answers, 1, Metrics())
    assert len(answered.requests) == MAX_RECORDS
    file = write_warmup(tmp_path / "2", numbered(1) * (MAX_RECORDS + 1))
    text = f"Number of warmup records exceeds the maximum (1000) at {file}"
    assert refusal(file, Answered()) == (Code.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("batching", "sizes"),
    [
        (None, [1]),
        (Options(), [1, 32]),
        (Options(max_batch_size=1), [1]),
        (Options(max_batch_size=8), [1, 8]),
        (Options(max_batch_size=64, allowed_batch_sizes=(4, 16, 64)), [4, 16, 64]),
        (
            Options(
                max_batch_size=64,
                allowed_batch_sizes=(4, 16, 64),
                enable_large_batch_splitting=True,
                max_execution_batch_size=10,
            ),
            [4, 16],
        ),
    ],
)
def test_zeros_in_every_expected_batch_size(batching: Options | None, sizes: list[int]) -> None:
    backend = Adder()
    run_on_zeros(backend, batching, count(step=QUICK_SECONDS).__next__)
    assert backend.runs == [[0.0] * size for size in sizes]


def test_a_quick_model_is_run_in_no_size_that_nobody_names() -> None:
    backend, ticking = Adder(), partial(count, step=QUICK_SECONDS / 2)
    run_on_zeros(backend, Options(), ticking().__next__)
    assert backend.runs == [[0.0]]
    run_on_zeros(backend, Options(max_batch_size=8, allowed_batch_sizes=(4, 8)), ticking().__next__)
    assert backend.runs[1:] == [[0.0] * 4, [0.0] * 8]


def test_no_zeros_in_large_batches_by_default() -> None:
    fitted = Options(max_batch_size=1000, allowed_batch_sizes=(1, 128, 256, 1000))
    backend = Adder()
    run_on_zeros(backend, fitted, named=False)
    assert [len(x) for x in backend.runs] == [1, 128]


class Padded(Adder):
    """A backend that pads batches to sizes of its own."""

    def fit_batching(self, options: Options) -> Options:
        return replace(options, allowed_batch_sizes=options.allowed_batch_sizes or (64, options.max_batch_size))


@pytest.mark.parametrize(
    ("batching", "sizes"), [(Options(), [64]), (Options(allowed_batch_sizes=(500, 1000)), [500, 1000])]
)
def test_a_version_is_warmed_up_in_the_sizes_that_the_operator_names(
    tmp_path: Path, batching: Options, sizes: list[int]
) -> None:
    backend, threads = Padded(), BatchThreads(1)
    servable = Servable("m", 1, backend, threads, batching)
    Warmup(WarmupOptions(), lambda _: {}, Metrics()).run(tmp_path, servable)

    assert [len(x) for x in backend.runs] == sizes
    servable.close()


def test_a_model_without_a_batch_axis_is_run_once() -> None:
    backend = Adder(batched=False)
    run_on_zeros(backend, Options())
    assert backend.runs == [[0.0]]


class Recorder(Adder):
    """Records its input arrays; can be set to fail every run."""

    def __init__(self, *signatures: Signature, refuse: bool = False) -> None:
        super().__init__()
        self._all = {f"s{number}": signature for number, signature in enumerate(signatures)}
        self._refuse = refuse
        self.given: list[tuple[str, Arrays]] = []

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self._all

    def run(self, signature: str, inputs: Arrays, outputs: object) -> Arrays:
        self.given.append((signature, inputs))
        assert outputs == ("y",)
        if self._refuse:
            raise ServingError(Code.OUT_OF_RANGE, "no zeros, please")
        return {}


def signature_of(**inputs: tuple[DataType, tuple[int | None, ...]]) -> Signature:
    specs = {alias: TensorSpec(alias, dtype, shape) for alias, (dtype, shape) in inputs.items()}
    return Signature(specs, {"y": TensorSpec("y", DataType.DT_FLOAT, (None,))}, batched=True)


def test_zeros_are_of_the_declared_dtype_and_shape() -> None:
    backend = Recorder(
        signature_of(
            half=(DataType.DT_HALF, (None, 3, None)),
            text=(DataType.DT_STRING, (None,)),
            two=(DataType.DT_INT64, (2, 5)),
        )
    )
    run_on_zeros(backend, None)
    ((_, arrays),) = backend.given
    assert {alias: (array.dtype, array.shape) for alias, array in arrays.items()} == {
        "half": (np.dtype(np.float16), (1, 3, 1)),
        "text": (np.dtype(object), (1,)),
        "two": (np.dtype(np.int64), (2, 5)),
    }
    assert arrays["text"].tolist() == [b""]
    assert not arrays["half"].any()


def test_a_model_that_refuses_zeros_is_still_served(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "headrace_server")
    backend = Recorder(*[signature_of(x=(DataType.DT_FLOAT, (None, 2)))] * 2, refuse=True)
    run_on_zeros(backend, Options())
    assert [name for name, _ in backend.given] == ["s0", "s1"]  # s0 is not run again with another size
    assert "signature s0 cannot be warmed up with zeros: no zeros, please" in caplog.messages


def test_a_slow_model_is_run_once() -> None:
    backend = Adder()
    readings: Any = iter([0.0, 1.0, *[1.0 + SYNTHETIC_SECONDS] * 2])
    run_on_zeros(backend, Options(), readings.__next__)
    assert backend.runs == [[0.0]]


def test_a_version_that_cannot_be_warmed_up_is_freed(tmp_path: Path) -> None:
    write_warmup(tmp_path, numbered(1))
    backend = Adder()
    threads = BatchThreads(1)
    warmup = Warmup(WarmupOptions(), lambda servable: Answered(refuse=servable.version).answers, Metrics())

    def cold(name: str, version: int, path: Path) -> Servable:
        assert path == tmp_path
        return Servable(name, version, backend, threads, None)

    load = warmup.after(cold)
    with load("m", 2, tmp_path):
        assert not backend.closed
    with pytest.raises(ServingError, match="refused"):
        load("m", 1, tmp_path)
    assert backend.closed


def test_a_version_whose_warm_up_ends_the_process_is_freed(tmp_path: Path) -> None:
    class Exiting(Adder):
        def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
            raise SystemExit((signature, *inputs, *outputs))

    backend = Exiting()
    warmup = Warmup(WarmupOptions(), lambda _: {}, Metrics())
    load = warmup.after(lambda name, version, _: Servable(name, version, backend, BatchThreads(1), None))
    with pytest.raises(SystemExit):
        load("m", 1, tmp_path)
    assert backend.closed
