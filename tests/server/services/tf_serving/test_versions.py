"""New versions go into service while callers call, and broken ones do not."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Event
from typing import NamedTuple

import pytest
from grpc import StatusCode

from headrace_protos import Code, ModelVersionStatus
from headrace_server.errors import ServingError
from tests.conftest import Make, Run
from tests.support import models
from tests.support.calls import Caller, arrays, floats, predict_request, status_request
from tests.support.running import RunningServer, eventually

CALLERS = 16
LOOK_OFTEN = {"file_system_poll_wait_seconds": 0.02}
X = floats([1, 2, 3, 4])


class Ran(NamedTuple):
    version: int
    y: float


def publish(server: RunningServer, version: int, bias: float) -> None:
    """Writes a version next to the others and renames it into place."""
    models.linear(server.base_path / "unfinished", bias=bias).parent.rename(server.base_path / str(version))


def predict(caller: Caller) -> Ran:
    response = caller.call(predict_request({"x": X}))
    return Ran(response.model_spec.version.value, arrays(response)["y"].item())


def states(caller: Caller) -> dict[int, tuple[int, int, str]]:
    return {
        status.version: (status.state, status.status.error_code, status.status.error_message)
        for status in caller.call(status_request()).model_version_status
    }


def has_ended(caller: Caller, version: int) -> bool:
    return version in (known := states(caller)) and known[version][0] == ModelVersionStatus.END


def test_swap_fails_no_call(running: Run) -> None:
    server = running(models.linear, **LOOK_OFTEN)
    stop = Event()

    def call_on() -> Counter[Ran]:
        answers: Counter[Ran] = Counter()
        while not stop.is_set():
            answers[predict(server.caller)] += 1
        return answers

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(call_on) for _ in range(CALLERS)]
        try:
            for version in (2, 3, 4):
                publish(server, version, bias=version * 100)
                eventually(partial(has_ended, server.caller, version - 1))
        finally:
            stop.set()
        answers: Counter[Ran] = sum((caller.result() for caller in callers), Counter())
    assert answers.keys() <= {Ran(1, 10), Ran(2, 210), Ran(3, 310), Ran(4, 410)}
    assert len(answers) > 1
    assert predict(server.caller) == Ran(4, 410)


def test_an_unloaded_version_is_not_found_by_its_number(running: Run) -> None:
    server = running(models.linear, **LOOK_OFTEN)
    publish(server, 2, bias=100)
    eventually(partial(has_ended, server.caller, 1))
    refusal = server.caller.refusal(predict_request({"x": X}, version=1))
    assert refusal == (StatusCode.NOT_FOUND, "Servable not found for request: Specific(model, 1)")
    assert server.caller.predict({"x": X}, version=2)["y"].tolist() == [[110]]


def test_a_model_is_removed_and_comes_back(running: Run) -> None:
    server = running(models.linear, **LOOK_OFTEN)
    (server.base_path / "1").rename(server.base_path / "aside")
    eventually(partial(has_ended, server.caller, 1))
    refusal = server.caller.refusal(predict_request({"x": X}))
    assert refusal == (StatusCode.NOT_FOUND, "Servable not found for request: Latest(model)")
    (server.base_path / "aside").rename(server.base_path / "1")
    eventually(lambda: states(server.caller)[1][0] == ModelVersionStatus.AVAILABLE)
    assert predict(server.caller) == Ran(1, 10)


def write_garbage(folder: Path) -> Path:
    folder.mkdir()
    file = folder / models.FILE
    file.write_bytes(b"\x08\x09 this is no model")
    return file


def test_broken_version_leaves_the_old_one_serving(running: Run) -> None:
    server = running(models.linear, **LOOK_OFTEN)
    write_garbage(server.base_path / "unfinished").parent.rename(server.base_path / "2")
    eventually(partial(has_ended, server.caller, 2))
    old, (_, code, text) = states(server.caller)[1], states(server.caller)[2]
    assert old == (ModelVersionStatus.AVAILABLE, 0, "")
    assert code != 0
    assert str(server.base_path / "2" / models.FILE) in text
    assert predict(server.caller) == Ran(1, 10)
    publish(server, 3, bias=100)
    eventually(lambda: predict(server.caller).version == 3)


@pytest.mark.parametrize("make", [write_garbage, partial(Path.mkdir, parents=True)], ids=["garbage", "nothing"])
def test_no_version_that_loads_is_an_error_at_start(running: Run, make: Make) -> None:
    with pytest.raises(ServingError) as raised:
        running(make)
    assert raised.value.code == Code.UNKNOWN
    assert raised.value.message.startswith("1 servable(s) did not become available: {{{name: model version: 1} due to ")
    assert "/1" in raised.value.message
