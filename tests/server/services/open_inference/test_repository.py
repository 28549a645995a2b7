"""The repository: an index, and models that are loaded and unloaded by name, in both APIs."""

import json
from pathlib import Path
from typing import Any

import pytest
from grpc import StatusCode

from headrace_protos.inference import grpc_service_pb2 as messages
from tests.conftest import Run
from tests.server.services.open_inference.calls import ROW, TEN, InferenceCaller, array, infer_request
from tests.server.services.open_inference.conftest import Infer
from tests.support import models
from tests.support.calls import MODEL, predict_request
from tests.support.running import RunningServer, eventually


@pytest.fixture(scope="module")
def server(running: Run) -> RunningServer:
    return running(models.linear, open_inference_admin="files")


@pytest.fixture(scope="module")
def caller(server: RunningServer) -> Any:
    caller = InferenceCaller(server.port)
    yield caller
    caller.close()


def index(caller: InferenceCaller, *, ready: bool = False) -> list[tuple[str, str, str, str]]:
    found = caller.call(messages.RepositoryIndexRequest(ready=ready)).models
    return [(model.name, model.version, model.state, model.reason) for model in found]


def load(name: str = MODEL, **parameters: tuple[str, Any]) -> messages.RepositoryModelLoadRequest:
    request = messages.RepositoryModelLoadRequest(model_name=name)
    for key, (field, value) in parameters.items():
        setattr(request.parameters[key], field, value)
    return request


def unload(name: str = MODEL) -> messages.RepositoryModelUnloadRequest:
    return messages.RepositoryModelUnloadRequest(model_name=name)


def batch_size(caller: InferenceCaller) -> int:
    size: int = caller.call(messages.ModelConfigRequest(name=MODEL)).config.max_batch_size
    return size


def test_unload_and_load(server: RunningServer, caller: InferenceCaller) -> None:
    assert index(caller) == [(MODEL, "1", "READY", "")]
    caller.call(unload())
    text = f"Request for unknown model: '{MODEL}'"
    assert caller.refusal(infer_request()) == (StatusCode.NOT_FOUND, f"{text} has no available versions")
    refusal = caller.refusal(infer_request(model_version="1"))
    assert refusal == (StatusCode.UNAVAILABLE, f"{text} version 1 is not at ready state")
    assert server.caller.refusal(predict_request({"x": ROW})).code == StatusCode.NOT_FOUND
    eventually(lambda: index(caller) == [(MODEL, "1", "UNAVAILABLE", "unloaded")])
    assert index(caller, ready=True) == []
    assert caller.call(messages.ServerReadyRequest()).ready
    assert not caller.call(messages.ModelReadyRequest(name=MODEL)).ready
    caller.call(unload())
    caller.call(load())
    assert array(caller.call(infer_request())).tolist() == TEN
    caller.call(load())
    assert server.caller.predict({"x": ROW})["y"].tolist() == TEN


def test_a_version_that_is_new_on_disk(server: RunningServer, caller: InferenceCaller) -> None:
    models.linear(server.base_path / "2", bias=1.0)
    caller.call(load())
    assert array(caller.call(infer_request())).item() == 11


def test_a_config_holds_until_the_model_is_unloaded(caller: InferenceCaller) -> None:
    config = {"backend": "onnxruntime", "max_batch_size": 2, "dynamic_batching": {"max_queue_delay_microseconds": 5}}
    caller.call(load(config=("string_param", json.dumps(config))))
    assert batch_size(caller) == 2
    caller.call(load())
    assert batch_size(caller) == 2
    caller.call(unload())
    caller.call(load())
    assert batch_size(caller) == 1000


def test_files_that_come_with_the_call(caller: InferenceCaller, tmp_path: Path) -> None:
    file = models.linear(tmp_path / "1", bias=5.0).read_bytes()
    request = load("sent", config=("string_param", "{}"), **{"file:7/model.onnx": ("bytes_param", file)})
    caller.call(request)
    response = caller.call(infer_request(model_name="sent"))
    assert (response.model_version, array(response).item()) == ("7", 15)
    caller.call(unload("sent"))
    assert caller.refusal(infer_request(model_name="sent")).code == StatusCode.NOT_FOUND
    code, _ = caller.refusal(load("sent"))
    assert code == StatusCode.INTERNAL


POLL = "failed to load '{}', failed to poll from model repository"


@pytest.mark.parametrize(
    ("request_", "code", "text"),
    [
        (load("nope"), StatusCode.INTERNAL, POLL.format("nope")),
        (load(config=("string_param", "{")), StatusCode.INTERNAL, POLL.format(MODEL)),
        (load(config=("string_param", "[]")), StatusCode.INTERNAL, POLL.format(MODEL)),
        (load(config=("string_param", '{"max_batch_size": "many"}')), StatusCode.INTERNAL, POLL.format(MODEL)),
        (load("new", **{"file:1/model.onnx": ("bytes_param", b"x")}), StatusCode.INTERNAL, POLL.format("new")),
        (
            load(config=("bool_param", True)),
            StatusCode.INVALID_ARGUMENT,
            "invalid value type for load parameter 'config', expected string_param.",
        ),
        (load(mine=("string_param", "x")), StatusCode.INVALID_ARGUMENT, "unrecognized load parameter 'mine'."),
        (
            load(MODEL, **{"file:1/m": ("string_param", "x")}),
            StatusCode.INVALID_ARGUMENT,
            "invalid value type for load parameter 'file:1/m', expected bytes_param.",
        ),
        (
            load(config=("string_param", '{"response_cache": {"enable": true}}')),
            StatusCode.INVALID_ARGUMENT,
            "load parameter 'config' cannot change 'response_cache' here",
        ),
        (
            messages.RepositoryModelLoadRequest(repository_name="r", model_name=MODEL),
            StatusCode.UNIMPLEMENTED,
            "'repository_name' specification is not supported",
        ),
    ],
)
def test_refused_loads(caller: InferenceCaller, request_: Any, code: StatusCode, text: str) -> None:
    assert caller.refusal(request_) == (code, text)
    assert caller.call(messages.ModelReadyRequest(name=MODEL)).ready


@pytest.mark.parametrize("path", ["../../escaped", "1/../../escaped", "/etc/escaped", "1", "x/model.onnx", ""])
def test_files_do_not_leave_their_folder(caller: InferenceCaller, path: str) -> None:
    request = load("escapes", config=("string_param", "{}"), **{f"file:{path}": ("bytes_param", b"x")})
    assert caller.refusal(request).code == StatusCode.INVALID_ARGUMENT
    assert "escapes" not in [name for name, *_ in index(caller)]


@pytest.mark.parametrize("inner", ["1/a/b", "1/a/b/c"])
def test_a_file_that_is_also_a_folder(caller: InferenceCaller, inner: str) -> None:
    files = {f"file:{path}": ("bytes_param", b"x") for path in ("1/a", inner)}
    code, text = caller.refusal(load("both", config=("string_param", "{}"), **files))
    assert code == StatusCode.INVALID_ARGUMENT
    assert text.endswith("of model 'both' is in, or contains, another")


def test_callers_cannot_bring_code(caller: InferenceCaller) -> None:
    """As with HandleReloadConfigRequest, code is run only if the operator allows it."""
    request = load("code", config=("string_param", "{}"), **{"file:1/model.py": ("bytes_param", b"raise SystemExit")})
    code, text = caller.refusal(request)
    assert code == StatusCode.INVALID_ARGUMENT
    assert "--code_roots" in text
    caller.call(unload("code"))


def test_a_model_that_does_not_load(caller: InferenceCaller) -> None:
    request = load("broken", config=("string_param", "{}"), **{"file:1/model.onnx": ("bytes_param", b"x")})
    code, text = caller.refusal(request)
    assert code == StatusCode.INVALID_ARGUMENT
    assert text.startswith("load failed for model 'broken': version 1 is at UNAVAILABLE state: ")
    assert caller.refusal(load("broken")) == (code, text)  # it is tried again
    caller.call(unload("broken"))


def test_unloading_an_unknown_model(caller: InferenceCaller) -> None:
    caller.call(unload("nope"))
    request = unload()
    request.parameters["unload_dependents"].int64_param = 1
    text = "invalid value type for 'unload_dependents' parameter, expected bool_param."
    assert caller.refusal(request) == (StatusCode.INVALID_ARGUMENT, text)


class TestRights:
    NOT_ALLOWED = "explicit model load / unload is not allowed if polling is enabled"

    def test_to_read_by_default(self, inferring: Infer) -> None:
        caller = inferring(models.linear)
        assert index(caller) == [(MODEL, "1", "READY", "")]
        for request in (load(), unload()):
            assert caller.refusal(request) == (StatusCode.UNAVAILABLE, self.NOT_ALLOWED)
        assert array(caller.call(infer_request())).tolist() == TEN

    def test_to_write_without_files(self, inferring: Infer) -> None:
        caller = inferring(models.linear, open_inference_admin="write")
        caller.call(load())
        request = load("sent", config=("string_param", "{}"), **{"file:1/model.py": ("bytes_param", b"")})
        code, text = caller.refusal(request)
        assert code == StatusCode.UNIMPLEMENTED
        assert "--open_inference_admin=files" in text

    def test_to_refuse_everything(self, inferring: Infer) -> None:
        caller = inferring(models.linear, open_inference_admin="none")
        for request in (
            messages.RepositoryIndexRequest(),
            messages.LogSettingsRequest(),
            messages.TraceSettingRequest(),
            messages.SystemSharedMemoryStatusRequest(),
        ):
            assert caller.refusal(request).code == StatusCode.UNIMPLEMENTED
        assert array(caller.call(infer_request())).tolist() == TEN
