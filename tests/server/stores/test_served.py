"""A server whose models are in stores: serving, updates, outages, and the URIs that callers may name."""

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from headrace_protos import ModelServerConfig, ReloadConfigRequest
from headrace_server import Config
from headrace_server.config.model_config import ModelConfig
from headrace_server.config.stores import StoreOptions
from headrace_server.models.paths import find_models
from tests.support import models
from tests.support.calls import floats
from tests.support.running import LoopThread, RunningServer, eventually

from .files import Files, serving_files

X = floats([1, 2, 3, 4])


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> dict[float, bytes]:
    """Models that differ in the number that they add."""
    root = tmp_path_factory.mktemp("onnx")
    return {bias: models.linear(root / str(bias), bias=bias).read_bytes() for bias in (1.0, 2.0)}


@pytest.fixture
def files() -> Iterator[Files]:
    with serving_files() as files:
        yield files


def serve(loop: LoopThread, transport: str, uri: str, cache: Path) -> RunningServer:
    config = Config(
        port=0,
        transport=transport,
        models=(ModelConfig("model", Path(), uri=uri),),
        stores=StoreOptions(cache=str(cache), poll_seconds=1),
        file_system_poll_wait_seconds=0.05,
        max_num_load_retries=0,
    )
    return RunningServer(loop, config)


def answers(server: RunningServer) -> float:
    return float(server.caller.predict({"x": X})["y"][0, 0])


def test_a_new_file_is_served_and_the_old_one_through_an_outage(
    files: Files, onnx: dict[float, bytes], transport: str, loop_thread: LoopThread, tmp_path: Path
) -> None:
    files.content = {"/iris.onnx": onnx[1.0]}
    server = serve(loop_thread, transport, f"{files.url}/iris.onnx", tmp_path)
    try:
        assert answers(server) == 11
        files.refuse = 500
        mirrors = server._server._models.mirrors
        eventually(lambda: mirrors._watched["model"].failures >= 1)
        assert answers(server) == 11

        files.content["/iris.onnx"] = onnx[2.0]
        files.refuse = 0
        eventually(lambda: answers(server) == 12)

        files.content["/iris.onnx"] = onnx[1.0]  # back again
        eventually(lambda: answers(server) == 11)
    finally:
        server.close()

    files.refuse = 500  # a new run starts with the copy on disk
    again = serve(loop_thread, transport, f"{files.url}/iris.onnx", tmp_path)
    try:
        assert answers(again) == 11
    finally:
        again.close()


def test_a_caller_can_name_only_allowed_uris(
    files: Files, onnx: dict[float, bytes], loop_thread: LoopThread, tmp_path: Path
) -> None:
    files.content = {"/iris.onnx": onnx[1.0], "/private.onnx": onnx[2.0]}
    server = serve(loop_thread, "grpcio", f"{files.url}/iris.onnx", tmp_path)
    try:
        listed = ModelServerConfig()
        listed.model_config_list.config.add(
            name="other", base_path=f"{files.url}/private.onnx", model_platform="tensorflow"
        )
        refusal = server.caller.refusal(ReloadConfigRequest(config=listed))
        assert refusal.code is grpc.StatusCode.PERMISSION_DENIED
        assert refusal.text == f"Model other: {files.url}/private.onnx is not below any URI in --model_roots"
        assert not [path for _, path, _ in files.asked if "private" in path]
    finally:
        server.close()


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("s3://bucket/models/iris", "iris"),
        ("gs://bucket/models/iris/", "iris"),
        ("https://host/a/iris.tar.gz", "iris"),
        ("https://host/a/iris-2.0.onnx?signature=x", "iris-2.0"),
        ("hf://me/iris", "iris"),
        ("hf://me/iris@v1", "iris"),
        ("oci://host:5000/team/iris:v3", "iris"),
        ("models:/iris@champion", "iris"),
    ],
)
def test_a_uri_on_the_command_line_names_its_model(uri: str, name: str) -> None:
    (model,) = find_models([uri])
    assert (model.name, model.uri) == (name, uri)
