"""Warm-up of real models: through their own calls and batches, before any client can call them."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos import Code, ModelVersionStatus
from headrace_server.errors import ServingError
from tests.conftest import Run, Stop
from tests.support import models
from tests.support.calls import MODEL, Caller, predict_request, status_request
from tests.support.records import predict_log, write_warmup
from tests.support.running import eventually

Make = Callable[[Path], Path]

INSIDE, OUTSIDE = ({"index": np.array([index], np.int64)} for index in (3, 99))


def lookup(folder: Path, *records: bytes) -> Path:
    """`models.lookup` with a warm-up file."""
    write_warmup(folder, records)
    return models.lookup(folder)


def status(caller: Caller, version: int) -> tuple[int, int, str]:
    (found,) = caller.call(status_request(version=version)).model_version_status
    return found.state, found.status.error_code, found.status.error_message


def test_requests_go_through_the_calls_of_their_version(running: Run, served: Stop) -> None:
    elsewhere = predict_request(INSIDE, name="another", version=7)
    labelled = predict_request(INSIDE, version_label="stable")
    nowhere = predict_request(INSIDE)
    nowhere.ClearField("model_spec")
    records = map(predict_log, (elsewhere, labelled, nowhere))
    server = running(lambda folder: lookup(folder, *records), num_request_iterations_for_warmup=2)
    assert server.caller.predict(INSIDE)["y"].tolist() == [30]
    assert served(server).requests == 3 * 2 + 1


def test_a_failing_request_keeps_the_server_from_starting(running: Run) -> None:
    with pytest.raises(ServingError) as caught:
        running(lambda folder: lookup(folder, predict_log(predict_request(OUTSIDE))))
    assert caught.value.code == Code.UNKNOWN
    assert f"{{{{name: {MODEL} version: 1}} due to error: INVALID_ARGUMENT: " in caught.value.message
    assert "out of data bounds" in caught.value.message


def test_a_failing_request_keeps_a_version_from_service(running: Run) -> None:
    server = running(models.lookup, file_system_poll_wait_seconds=0.02)
    unknown = predict_request(INSIDE, signature_name="unknown")
    lookup(server.base_path / "unfinished", predict_log(unknown)).parent.rename(server.base_path / "2")

    def state_of_2() -> object:
        known = server.caller.call(status_request()).model_version_status
        return any(one.version == 2 and one.state == ModelVersionStatus.END for one in known)

    eventually(state_of_2)
    text = 'Serving signature key "unknown" not found.'
    assert status(server.caller, 2) == (ModelVersionStatus.END, Code.FAILED_PRECONDITION, text)
    assert status(server.caller, 1)[0] == ModelVersionStatus.AVAILABLE
    assert server.caller.refusal(predict_request(INSIDE, version=2)).code is StatusCode.NOT_FOUND
    assert server.caller.predict(INSIDE)["y"].tolist() == [30]


def test_a_corrupt_file_keeps_a_version_from_service(running: Run) -> None:
    def make(folder: Path) -> Path:
        write_warmup(folder, []).write_bytes(b"these are no records")
        return models.lookup(folder)

    with pytest.raises(ServingError, match="DATA_LOSS: corrupted record at 0"):
        running(make)


def test_warmup_can_be_turned_off(running: Run, served: Stop) -> None:
    server = running(lambda folder: lookup(folder, predict_log(predict_request(OUTSIDE))), enable_model_warmup=False)
    server.caller.predict(INSIDE)
    assert served(server).requests == 1


@pytest.mark.parametrize("make", [models.lookup, models.two_inputs, models.no_inputs, models.scalar_output])
def test_models_without_a_file_are_warmed_up_with_zeros(
    running: Run, served: Stop, caplog: pytest.LogCaptureFixture, make: Make
) -> None:
    caplog.set_level(logging.INFO, "headrace_server")
    server = running(make)
    assert not [message for message in caplog.messages if "cannot be warmed up" in message]
    assert served(server).requests == 0  # zeros are not counted as requests


@pytest.mark.parametrize(("enabled", "runs"), [(True, 1), (False, 0)])
def test_zeros_can_be_turned_off(running: Run, caplog: pytest.LogCaptureFixture, enabled: bool, runs: int) -> None:
    caplog.set_level(logging.INFO, "headrace_server")
    running(partial(models.lookup, size=0), enable_synthetic_warmup=enabled)
    assert sum("cannot be warmed up with zeros" in message for message in caplog.messages) == runs
