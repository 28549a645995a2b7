"""GetModelStatus: the state of each version."""

from typing import NamedTuple

import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from headrace_protos import GetModelStatusRequest, ModelVersionStatus
from tests.conftest import Run
from tests.support import models
from tests.support.calls import Caller, status_request
from tests.support.running import eventually

AVAILABLE, END = ModelVersionStatus.AVAILABLE, ModelVersionStatus.END


class Case(NamedTuple):
    request: Message
    code: StatusCode
    text: str


@pytest.fixture(scope="module")
def linear(running: Run) -> Caller:
    return running(models.linear).caller


def states(caller: Caller) -> list[tuple[int, int]]:
    return [(status.version, status.state) for status in caller.call(status_request()).model_version_status]


@pytest.mark.parametrize("spec", [{}, {"version": 1}, {"version_label": "unknown"}, {"signature_name": "unknown"}])
def test_available_version(linear: Caller, spec: dict[str, str]) -> None:
    (status,) = linear.call(status_request(**spec)).model_version_status
    assert (status.version, status.state) == (1, AVAILABLE)
    assert status.HasField("status")
    assert (status.status.error_code, status.status.error_message) == (0, "")


def test_highest_version_first_and_ended_ones_stay(running: Run) -> None:
    server = running(models.linear, models.linear, file_system_poll_wait_seconds=0.02)
    assert states(server.caller) == [(2, AVAILABLE)]
    models.linear(server.base_path / "unfinished").parent.rename(server.base_path / "10")
    eventually(lambda: states(server.caller) == [(10, AVAILABLE), (2, END)])
    (ended,) = server.caller.call(status_request(version=2)).model_version_status
    assert (ended.version, ended.state, ended.status.error_code) == (2, END, 0)


REFUSED = {
    "no spec": Case(GetModelStatusRequest(), StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"),
    "no name": Case(status_request(name=""), StatusCode.NOT_FOUND, "Could not find any versions of model "),
    "unknown model": Case(
        status_request(name="nobody"), StatusCode.NOT_FOUND, "Could not find any versions of model nobody"
    ),
    "unknown version": Case(status_request(version=3), StatusCode.NOT_FOUND, "Could not find version 3 of model model"),
    "version of an unknown model": Case(
        status_request(name="nobody", version=3), StatusCode.NOT_FOUND, "Could not find version 3 of model nobody"
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(linear: Caller, name: str) -> None:
    request, *refusal = REFUSED[name]
    assert [*linear.refusal(request)] == refusal
