"""Answers are counted against the budget of memory before a model computes them, on grpcio and uvicorn."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from queue import SimpleQueue
from typing import NamedTuple

import grpc
import numpy as np
import pytest

from headrace_server.errors import ServingError
from headrace_server.transports.budget import ANSWER_COPIES, Budget
from tests.conftest import Run
from tests.server.services.open_inference.calls import InferenceCaller, infer_request, tensor
from tests.support.budget import TOO_MUCH, held_in
from tests.support.calls import Caller, predict_request
from tests.support.frames import Connection, call
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import eventually

BUDGET_MB = 5
COLUMNS = 200_000
REFUSED = f".*{TOO_MUCH}"
CODE = """
import pathlib
import numpy as np
INPUTS = {"x": ("float32", [None, 1])}
OUTPUTS = {"y": ("float32", [None, %s])}
def predict(inputs):
    with pathlib.Path(__file__).with_name("runs").open("a") as file: file.write("1")
    return {"y": np.ones((len(inputs["x"]), 200_000), np.float32)}
"""

SIZED = """
import numpy as np
INPUTS = {"x": ("float32", [None, 1])}
OUTPUTS = {"y": ("float32", [None, None])}
def predict(inputs):
    return {"y": np.ones((len(inputs["x"]), int(inputs["x"][0, 0])), np.float32)}
"""

TWICE = """
[[steps]]
model = "sized"
inputs = { x = "x" }
outputs = { y = "y" }

[[steps]]
model = "sized"
inputs = { x = "x" }
outputs = { y = "z" }
"""


class Wide(NamedTuple):
    """A server with a model whose answers have 0.8 MB a row."""

    port: int
    folder: Path
    caller: Caller
    infer: InferenceCaller
    rest: RestCaller

    @property
    def runs(self) -> int:
        """How often the model has run."""
        return len((self.folder / "1" / "runs").read_text())

    @property
    def held(self) -> int:
        """The number of bytes that the budget counts as received."""
        return held_in(self.rest.get("/monitoring/prometheus/metrics").text)["received"]


@pytest.fixture(scope="module")
def transport() -> str:
    return "grpcio"


@pytest.fixture(scope="module", params=[COLUMNS, None], ids=["declared", "learned"])
def wide(running: Run, request: pytest.FixtureRequest) -> Iterator[Wide]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(CODE % request.param)
        (folder.parent / "model.toml").write_text("[isolation]\nworkers = 0\n[batching]\nenabled = true\n")

    port = free_port()
    server = running(write, rest_api_port=port, request_memory_mb=BUDGET_MB)
    with closing(InferenceCaller(server.port)) as infer, closing(RestCaller(port)) as rest:
        predict(wide := Wide(server.port, server.base_path, server.caller, infer, rest), 1)
        yield wide


def predict(wide: Wide, rows: int) -> str:
    try:
        wide.caller.call(predict_request({"x": np.ones((rows, 1), np.float32)}))
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    return ""


def infer(wide: Wide, rows: int) -> str:
    request = infer_request([tensor(shape=(rows, 1))], [bytes(4 * rows)])
    try:
        wide.infer.call(request)
    except grpc.RpcError as error:
        return f"{error.code().name} {error.details()}"
    return ""


def stream(wide: Wide, rows: int) -> str:
    request = infer_request([tensor(shape=(rows, 1))], [bytes(4 * rows)])
    (answer,) = wide.infer.stream([request])
    return str(answer.error_message)


def post(wide: Wide, rows: int) -> str:
    answer = wide.rest.post("predict", {"inputs": [[1.0]] * rows})
    return "" if answer.status == 200 else f"{answer.status} {answer.error[1]}"


def post_infer(wide: Wide, rows: int) -> str:
    body = {"inputs": [{"name": "x", "shape": [rows, 1], "datatype": "FP32", "data": [1.0] * rows}]}
    answer = wide.rest.send("POST", "/v2/models/model/infer", json.dumps(body))
    return "" if answer.status == 200 else f"{answer.status} {json.loads(answer.text)['error']}"


@pytest.mark.parametrize("ask", [predict, infer, stream, post, post_infer])
def test_an_answer_too_large_is_not_computed(wide: Wide, ask: Callable[[Wide, int], str]) -> None:
    before = wide.runs

    assert re.match(REFUSED, ask(wide, 5))
    assert wide.runs == before
    assert predict(wide, 1) == ""
    eventually(lambda: wide.held == 0)


def test_an_unread_answer_counts_twice_since_grpc_sends_a_copy(wide: Wide) -> None:
    with Connection(wide.port) as connection:  # which never enlarges its window of 64 KB
        connection.say(call(1, predict_request({"x": np.ones((1, 1), np.float32)}).SerializeToString()))
        eventually(lambda: wide.held >= 2 * 4 * COLUMNS)
    eventually(lambda: wide.held == 0)


def test_an_unread_answer_of_a_stream_counts_twice_as_well(wide: Wide) -> None:
    request = infer_request([tensor(shape=(1, 1))], [bytes(4)])
    with Connection(wide.port) as connection:
        connection.say(call(1, request.SerializeToString(), "/inference.GRPCInferenceService/ModelStreamInfer"))
        eventually(lambda: wide.held >= 2 * 4 * COLUMNS)
    eventually(lambda: wide.held == 0)


def test_after_a_large_answer_small_ones_are_computed_again(running: Run) -> None:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(SIZED)
        (folder.parent / "model.toml").write_text("[isolation]\nworkers = 0\n")

    server = running(write, request_memory_mb=BUDGET_MB)

    def ask(columns: int) -> None:
        server.caller.call(predict_request({"x": np.full((1, 1), columns, np.float32)}))

    ask(400_000)  # 1.6 MB: three times that is more than a call may occupy before its model has run
    with pytest.raises(grpc.RpcError, match=REFUSED):
        ask(1)
    ask(1)
    ask(1)


def test_a_stream_keeps_nothing_reserved_for_what_it_has_answered(running: Run, tmp_path: Path) -> None:
    for name, file, text in (("sized", "model.py", SIZED), ("twice", "../model.toml", TWICE)):
        (tmp_path / name / "1").mkdir(parents=True)
        (tmp_path / name / "1" / file).write_text(text)
    (tmp_path / "sized" / "model.toml").write_text("[isolation]\nworkers = 0\n")
    entries = [
        f'config {{ name: "{name}" base_path: "{tmp_path / name}" model_platform: "tensorflow" }}'
        for name in ("sized", "twice")
    ]
    config = tmp_path / "models.config"
    config.write_text(f"model_config_list {{ {' '.join(entries)} }}")
    server = running(model_config_file=str(config), request_memory_mb=BUDGET_MB)
    request = infer_request(
        [tensor(shape=(1, 1))], [np.array([[10_000]], np.float32).tobytes()], model_name="twice"
    )  # 40 KB for each of two steps
    turns: SimpleQueue[None] = SimpleQueue()
    with closing(InferenceCaller(server.port)) as infer:
        answers = infer.stream(request for _ in iter(turns.get, "never"))
        for _ in range(60):
            turns.put(None)
            assert next(answers).error_message == ""
        answers.cancel()


def test_memory_stays_reserved_until_the_answer_is_known() -> None:
    budget = Budget(120)
    with budget.hold(10) as held:
        held.reserve(10)
        held.reserve(5)
        assert budget.used == 10 + ANSWER_COPIES * 15
        held.unreserve()
        assert budget.used == 10 + ANSWER_COPIES * 5
        held.settle(20)
        assert budget.used == 30
        with pytest.raises(ServingError):
            held.reserve(30)
        assert budget.used == 30
    assert budget.used == 0


def test_a_call_that_has_ended_holds_nothing_more() -> None:
    budget = Budget(100)
    held = budget.hold(10)
    held.reserve(5)
    held.release()
    held.reserve(5)
    held.settle(5)
    held.shrink(5)
    assert (budget.used, held.size) == (0, 0)
