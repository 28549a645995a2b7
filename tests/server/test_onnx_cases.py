"""What a bare ONNX Runtime session answers, a server answers, on every transport and over REST: ONNX's own cases.

`make conformance` runs all of them; otherwise the models that the package ships stand for the others.
"""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from headrace_batching.task import Array, Arrays
from headrace_server import Config
from tests.onnx_cases import Case, Outcome, cases, compare, sendable, served
from tests.rest_calls import RestCaller, free_port
from tests.running import LoopThread, RunningServer

ALL = os.environ.get("HEADRACE_CONFORMANCE") == "all"


class Serving(NamedTuple):
    server: RunningServer
    rest: RestCaller


@pytest.fixture(scope="session")
def every() -> list[Case]:
    return list(cases(nodes=ALL))


@pytest.fixture(scope="session")
def models(every: Sequence[Case], tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Case], Outcome, Path]:
    """The cases whose models load, what became of the others, and the folder that holds them."""
    base_path, outcome = tmp_path_factory.mktemp("cases"), Outcome()
    return served(every, base_path, outcome), outcome, base_path


@pytest.fixture(scope="module")
def serving(transport: str, models: tuple[list[Case], Outcome, Path], loop_thread: LoopThread) -> Iterator[Serving]:
    good, _, base_path = models
    entries = [
        f'config {{ name: "{case.name}" base_path: "{base_path / case.name}" model_platform: "tensorflow" }}'
        for case in good
    ]
    file = base_path / "models.pbtxt"
    file.write_text("model_config_list {\n" + "\n".join(entries) + "\n}\n")
    port = free_port()
    config = Config(port=0, model_config_file=str(file), rest_api_port=port, transport=transport)
    server = RunningServer(loop_thread, config)
    rest = RestCaller(port)
    yield Serving(server, rest)
    rest.close()
    server.close()


def test_their_models_load(models: tuple[list[Case], Outcome, Path]) -> None:
    good, outcome, _ = models
    assert outcome.failed == {}
    assert len(good) > (1000 if ALL else 90)


def test_they_are_answered_over_grpc(serving: Serving, models: tuple[list[Case], Outcome, Path]) -> None:
    outcome = compare(models[0], lambda case: serving.server.caller.predict(sendable(case.inputs), name=case.name))
    say("gRPC", outcome)
    assert outcome.failed == {}


def test_they_are_answered_over_rest(serving: Serving, models: tuple[list[Case], Outcome, Path]) -> None:
    outcome = compare(models[0], lambda case: over_rest(serving.rest, case))
    say("REST", outcome)
    assert outcome.failed == {}


def over_rest(rest: RestCaller, case: Case) -> Arrays:
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
    """An array of what is expected; where that has no elements, JSON does not tell its shape."""
    array = np.array(value, object if want.dtype == object else np.float64)
    return array.reshape(want.shape) if not want.size and not array.size else array


def say(channel: str, outcome: Outcome) -> None:
    print(f"{channel}: {outcome.passed} passed", *[f"; {count}: {why}" for why, count in outcome.known.items()], sep="")
