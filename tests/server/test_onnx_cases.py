"""A server answers what a bare ONNX Runtime session answers, on every transport and over REST: ONNX's own cases.

`make conformance` runs all cases; otherwise the models that the package ships are the sample.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_batching.task import Array, Arrays
from headrace_server import Config
from headrace_server.config.isolation import IsolationOptions
from tests.support.calls import Caller
from tests.support.onnx_cases import IN_PROCESS, Case, Outcome, cases, compare, sendable, served
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import LoopThread, RunningServer

ALL = os.environ.get("HEADRACE_CONFORMANCE") == "all"


AT_ONCE = 150
"""The number of models per server: all of them would load for longer than a test waits."""

Models = tuple[list[Case], Outcome, Path]


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    """The cases whose models load, the results of the others, and the folder with the models."""
    base_path, outcome = tmp_path_factory.mktemp("cases"), Outcome()
    return served(list(cases(nodes=ALL)), base_path, outcome), outcome, base_path


@contextmanager
def server_of(
    some: Sequence[Case], base_path: Path, transport: str, loop: LoopThread
) -> Iterator[tuple[RunningServer, int]]:
    entries = [
        f'config {{ name: "{case.name}" base_path: "{base_path / case.name}" model_platform: "tensorflow" }}'
        for case in some
    ]
    file = base_path / "models.pbtxt"
    file.write_text("model_config_list {\n" + "\n".join(entries) + "\n}\n")
    port = free_port()
    # Models in processes of their own run alike on any transport: once is enough.
    isolation = IN_PROCESS if transport == "grpcio" else IsolationOptions()
    config = Config(port=0, model_config_file=str(file), rest_api_port=port, transport=transport, isolation=isolation)
    server = RunningServer(loop, config)
    try:
        yield server, port
    finally:
        server.close()


def test_the_models_of_cases_load(models: Models) -> None:
    good, outcome, _ = models
    assert outcome.failed == {}
    assert len(good) > (1000 if ALL else 90)


def test_cases_are_answered_over_grpc_and_rest(transport: str, models: Models, loop_thread: LoopThread) -> None:
    good, _, base_path = models
    grpc, rest = Outcome(), Outcome()
    for some in (good[start : start + AT_ONCE] for start in range(0, len(good), AT_ONCE)):
        with server_of(some, base_path, transport, loop_thread) as (server, port), closing(RestCaller(port)) as http:
            compare(some, partial(over_grpc, server.caller), grpc)
            compare(some, partial(over_rest, http), rest)
    say(f"gRPC, {transport}", grpc)
    say(f"REST, {transport}", rest)
    assert grpc.failed == {}
    assert rest.failed == {}


def over_grpc(caller: Caller, case: Case) -> Arrays:
    return caller.predict(sendable(case.inputs), name=case.name)


def over_rest(rest: RestCaller, case: Case) -> Arrays:
    if case.inputs and not all(array.size for array in case.inputs.values()):
        raise ValueError("an input has no elements")
    body = json.dumps({"inputs": {alias: in_json(array) for alias, array in case.inputs.items()}})
    answer = rest.send("POST", f"/v1/models/{case.name}:predict", body)
    if answer.status != 200:
        raise ValueError(json.loads(answer.text)["error"])
    outputs: Any = answer.value["outputs"]
    if len(case.answers) == 1:
        outputs = {next(iter(case.answers)): outputs}
    return {name: from_json(outputs[name], want) for name, want in case.answers.items()}


def in_json(array: Array) -> Any:
    return array.astype(np.float64).tolist() if array.dtype.kind in "fV" else array.astype(object).tolist()


def from_json(value: Any, want: Array) -> Array:
    """The expected value as an array; JSON does not show the shape of an array without elements."""
    array = np.array(value, object if want.dtype == object else np.float64)
    return array.reshape(want.shape) if not want.size and not array.size else array


def say(channel: str, outcome: Outcome) -> None:
    print(f"{channel}: {outcome.passed} passed", *[f"; {count}: {why}" for why, count in outcome.known.items()], sep="")
