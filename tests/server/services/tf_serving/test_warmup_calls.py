"""Calls with Examples: warm-up files may contain them, and request logs can be used as warm-up files."""

import logging
from pathlib import Path

import pytest
from google.protobuf.message import Message

from headrace_protos import Code, PredictionLog
from headrace_server.errors import ServingError
from tests.conftest import Run
from tests.support import feature_models
from tests.support.examples import (
    CLASSIFY,
    REGRESS,
    classify_request,
    example,
    examples,
    multi_request,
    regress_request,
    task,
)
from tests.support.records import write_warmup

ONE = example(age=[1], weights=[0.5, 1.5])

SIGNATURES: feature_models.Signatures = {
    "classify": {"method": "classify", "outputs": {"scores": "scores"}},
    "regress": {"method": "regress", "outputs": {"outputs": "price"}},
}


def record(kind: str, request: Message) -> bytes:
    log = PredictionLog()
    getattr(log, kind).request.CopyFrom(request)
    return log.SerializeToString()


def tariff(folder: Path, *records: bytes) -> Path:
    write_warmup(folder, records)
    return feature_models.tariff(folder, signatures=SIGNATURES)


def test_every_call_is_replayed_by_the_version_itself(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    records = [
        record("classify_log", classify_request(ONE, name="another", signature_name="classify")),
        record("regress_log", regress_request(ONE, version=9, signature_name="regress")),
        record(
            "multi_inference_log",
            multi_request(
                task(CLASSIFY, name="another", signature_name="classify"),
                task(REGRESS, name="another", version_label="stable", signature_name="regress"),
                input=examples(ONE),
            ),
        ),
    ]
    with caplog.at_level(logging.INFO):
        server = running(lambda folder: tariff(folder, *records))
    assert any("3 warm-up requests answered" in line for line in caplog.messages)
    server.caller.call(regress_request(ONE, signature_name="regress"))


@pytest.mark.parametrize(
    ("kind", "request_"),
    [
        ("classify_log", classify_request(ONE, signature_name="unknown")),
        ("regress_log", regress_request(ONE, signature_name="unknown")),
        ("multi_inference_log", multi_request(task(REGRESS, signature_name="unknown"), input=examples(ONE))),
    ],
)
def test_each_failing_call_keeps_the_version_from_service(running: Run, kind: str, request_: Message) -> None:
    with pytest.raises(ServingError, match=r"INVALID_ARGUMENT: .* unknown") as caught:
        running(lambda folder: tariff(folder, record(kind, request_)))
    assert caught.value.code == Code.UNKNOWN
