"""A server with more models than fit into its memory limit: every API loads what it calls, and no call fails."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from headrace_protos import ClassificationRequest, ModelServerConfig, ModelVersionStatus
from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server import Config, Server
from headrace_server.commands.headrace import main
from headrace_server.errors import ServingError
from tests.server.services.open_inference.calls import InferenceCaller, infer_request
from tests.support import models
from tests.support.caches import simulated_misses, zipf
from tests.support.calls import floats, metadata_request, predict_request, status_request
from tests.support.ports import free_port
from tests.support.prometheus import samples
from tests.support.rest_calls import RestCaller
from tests.support.running import LoopThread, RunningServer

NAMES = tuple(f"m{number}" for number in range(6))
X = floats([1, 2, 3, 4])
RESTING = "not in memory: the next call loads it"

STEPS = """
[[steps]]
model = "m1"
inputs = { x = "x" }
outputs = { y = "first" }

[[steps]]
model = "m2"
inputs = { x = "x" }
outputs = { y = "second" }
"""


class House:
    """A server with six models and an ensemble of two of them; two models may be in memory."""

    def __init__(self, root: Path, transport: str, loop_thread: LoopThread, **more: object) -> None:
        rest_port = free_port()
        self.server = RunningServer(loop_thread, config(root, transport, rest_port, **more))
        self.caller = self.server.caller
        self.inference = InferenceCaller(self.server.port)
        self.rest = RestCaller(rest_port)

    def predict(self, name: str) -> float:
        return float(self.caller.predict({"x": X}, name=name)["y"][0, 0])

    def in_memory(self) -> set[str]:
        return {
            entry.name
            for entry in self.inference.call(messages.RepositoryIndexRequest()).models
            if entry.state == "READY" and not entry.reason
        }

    def metric(self, line: str) -> float:
        """The value of a series; 0 if it does not exist."""
        return samples(self.rest.get("/metrics").text).get(line, 0.0)

    def close(self) -> None:
        self.rest.close()
        self.inference.close()
        self.server.close()


def config(root: Path, transport: str, rest_port: int, **more: object) -> Config:
    listed = ModelServerConfig()
    for number, name in enumerate((*NAMES, "both")):
        listed.model_config_list.config.add(name=name, base_path=str(root / name), model_platform="tensorflow")
        if name != "both":
            models.linear(root / name / "1", bias=float(number))
    (root / "both" / "1").mkdir(parents=True)
    (root / "both" / "model.toml").write_text(STEPS)
    (root / "models.config").write_text(str(listed))
    settings = {
        "port": 0,
        "rest_api_port": rest_port,
        "transport": transport,
        "model_config_file": str(root / "models.config"),
        "open_inference_admin": "write",
        "max_loaded_models": 2,
        "max_num_load_retries": 0,
        "drain_seconds": 5,
    }
    return Config(**{**settings, **more})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, transport: str, loop_thread: LoopThread) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"), transport, loop_thread)
    yield house
    house.close()


def test_every_method_of_every_api_loads_what_it_calls(house: House) -> None:
    request = ClassificationRequest()
    request.model_spec.name = "m3"
    body = {"instances": [[1, 2, 3, 4]]}
    infer = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}

    def asleep(name: str) -> None:
        """Calls other models until this one is unloaded."""
        for other in NAMES:
            if name in house.in_memory() and other != name:
                house.predict(other)
        assert name not in house.in_memory()

    asleep("m0")
    assert house.predict("m0") == 10
    asleep("m1")
    assert house.caller.call(metadata_request("signature_def", name="m1")).model_spec.version.value == 1
    asleep("m3")
    assert house.caller.refusal(request).code is grpc.StatusCode.INVALID_ARGUMENT
    assert "m3" in house.in_memory()  # an error in the request is reported once the model is loaded
    asleep("m4")
    assert house.rest.post("predict", body, "/v1/models/m4").value == {"predictions": [[14]]}
    asleep("m2")
    assert house.rest.send("POST", "/v2/models/m2/infer", infer).value["outputs"][0]["data"] == [12]
    asleep("m5")
    (answer,) = house.inference.stream([infer_request(model_name="m5")])
    assert answer.infer_response.outputs[0].name == "y"
    asleep("m3")
    assert house.inference.call(infer_request(model_name="m3")).outputs[0].name == "y"
    asleep("m4")
    assert house.inference.call(messages.ModelMetadataRequest(name="m4")).versions == ["1"]
    asleep("m4")
    assert house.inference.call(messages.ModelConfigRequest(name="m4")).config.name == "m4"
    assert len(house.in_memory()) <= 2 + 1  # the ensemble needs no memory of its own


def test_versions_at_rest_are_listed_and_ready(house: House, capsys: pytest.CaptureFixture[str]) -> None:
    house.predict("m0")
    house.predict("m1")
    (status,) = house.caller.call(status_request(name="m5")).model_version_status
    assert (status.state, status.status.error_message) == (ModelVersionStatus.AVAILABLE, RESTING)
    assert house.rest.get("/v1/models/m5").value["model_version_status"][0]["status"]["error_message"] == RESTING
    assert house.rest.get("/v2/models/m5/ready").status == 200
    assert house.inference.call(messages.ModelReadyRequest(name="m5")).ready
    assert main(["models", f"--server=localhost:{house.server.port}"]) == 0
    assert f"m5 v1: READY ({RESTING})" in capsys.readouterr().out
    assert house.in_memory() - {"both"} == {"m0", "m1"}  # these queries have not loaded anything


def test_a_load_through_the_repository_is_a_hint(house: House) -> None:
    house.predict("m0")
    house.predict("m1")
    house.inference.call(messages.RepositoryModelLoadRequest(model_name="m4"))
    assert "m4" in house.in_memory()
    waited = house.metric('headrace_model_load_wait_seconds_count{model="m4"}')
    assert house.predict("m4") == 14
    assert house.metric('headrace_model_load_wait_seconds_count{model="m4"}') == waited


def test_an_ensemble_loads_its_steps(house: House) -> None:
    house.predict("m4")
    house.predict("m5")
    answer = house.caller.predict({"x": X}, name="both")
    assert (answer["first"].item(), answer["second"].item()) == (11, 12)


def test_many_callers_of_more_models_than_fit_all_get_their_answers(house: House) -> None:
    sequence = zipf(NAMES, 300, seed=3, exponent=1)

    def call(name: str) -> bool:
        return house.predict(name) == 10 + NAMES.index(name)

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(call, sequence))


def test_sequential_calls_have_the_hit_rate_of_a_simulated_cache(house: House) -> None:
    for name in ("m0", "m1"):
        house.predict(name)
    before = waits(house)
    sequence = zipf(NAMES, 200, seed=3, exponent=1)
    for name in sequence:
        assert house.predict(name) == 10 + NAMES.index(name)
    # The native transport may record a run after its answer was sent, so two uses may be swapped.
    assert waits(house) - before == pytest.approx(simulated_misses(sequence, 2, warm=["m0", "m1"]), abs=4)
    assert house.metric("headrace_models_loaded_limit{}") == 2
    assert house.metric("headrace_models_at_rest{}") == len({*NAMES, "both"} - house.in_memory())
    assert sum(house.metric(f'headrace_model_evictions_total{{model="{name}"}}') for name in NAMES) > 0


def test_a_deadline_is_kept_and_an_unknown_model_is_still_unknown(house: House) -> None:
    refusal = house.caller.refusal(predict_request({"x": X}, name="other"))
    assert refusal == (grpc.StatusCode.NOT_FOUND, "Servable not found for request: Latest(other)")
    assert house.rest.get("/v2/models/other/ready").status == 404


def test_named_models_are_loaded_before_the_first_call(tmp_path: Path, transport: str, loop_thread: LoopThread) -> None:
    house = House(tmp_path, transport, loop_thread, preload_models=("m[45]",))
    try:
        assert house.in_memory() == {"m4", "m5"}
    finally:
        house.close()


def test_a_pattern_that_no_model_matches_is_logged(
    tmp_path: Path, transport: str, loop_thread: LoopThread, caplog: pytest.LogCaptureFixture
) -> None:
    House(tmp_path, transport, loop_thread, preload_models=("n*",)).close()
    assert "--preload_models: no model's name matches n*" in caplog.messages


def test_a_check_loads_every_model(tmp_path: Path) -> None:
    settings = config(tmp_path, "grpcio", 0, preload_models=("*",))
    (tmp_path / "m4" / "1" / "model.onnx").write_bytes(b"not a model")

    async def start() -> None:
        server = Server(settings)
        try:
            await server.start()
        finally:
            await server.stop()

    with pytest.raises(ServingError, match="model m4 version 1 cannot be loaded"):
        asyncio.run(start())


def waits(house: House) -> float:
    return sum(house.metric(f'headrace_model_load_wait_seconds_count{{model="{name}"}}') for name in NAMES)
