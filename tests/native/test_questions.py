"""Metadata and status requests: a cached answer is always what the service would answer, even after changes."""

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from google.protobuf.message import Message
from grpc_health.v1.health_pb2 import HealthCheckRequest

from headrace_protos import GetModelStatusRequest, ModelVersionStatus, ReloadConfigRequest
from headrace_protos.inference import grpc_service_pb2 as oip
from headrace_server import Config
from tests.server.services.open_inference.calls import SERVICE
from tests.support import models
from tests.support.calls import MODEL, Refusal, metadata_request, status_request
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import LoopThread, RunningServer, eventually

pytest.importorskip("headrace_native")

METADATA = "/tensorflow.serving.PredictionService/GetModelMetadata"
STATUS = "/tensorflow.serving.ModelService/GetModelStatus"
HEALTH = "/grpc.health.v1.Health/Check"

OVER_GRPC: list[tuple[str, Message]] = [
    (METADATA, metadata_request("signature_def")),
    (METADATA, metadata_request("signature_def", version=1)),
    (METADATA, metadata_request("signature_def", version_label="stable")),
    (METADATA, metadata_request("signature_def", name="absent")),
    (METADATA, metadata_request()),
    (STATUS, status_request()),
    (STATUS, status_request(version=1)),
    (STATUS, status_request(name="absent")),
    (STATUS, GetModelStatusRequest()),
    (HEALTH, HealthCheckRequest()),
    (HEALTH, HealthCheckRequest(service="PredictionService")),
    (HEALTH, HealthCheckRequest(service=MODEL)),
    (HEALTH, HealthCheckRequest(service="absent")),
    (f"{SERVICE}ServerLive", oip.ServerLiveRequest()),
    (f"{SERVICE}ServerReady", oip.ServerReadyRequest()),
    (f"{SERVICE}ServerMetadata", oip.ServerMetadataRequest()),
    (f"{SERVICE}ModelReady", oip.ModelReadyRequest(name=MODEL)),
    (f"{SERVICE}ModelReady", oip.ModelReadyRequest(name=MODEL, version="1")),
    (f"{SERVICE}ModelReady", oip.ModelReadyRequest(name="absent")),
    (f"{SERVICE}ModelMetadata", oip.ModelMetadataRequest(name=MODEL)),
    (f"{SERVICE}ModelMetadata", oip.ModelMetadataRequest(name=MODEL, version="2")),
]

OVER_REST = [
    f"/v1/models/{MODEL}",
    f"/v1/models/{MODEL}/versions/1",
    f"/v1/models/{MODEL}/versions/2/metadata",
    f"/v1/models/{MODEL}/metadata",
    f"/v1/models/{MODEL}/labels/stable/metadata",
    "/v1/models/absent",
    "/v2",
    "/v2/health/live",
    "/v2/health/ready",
    f"/v2/models/{MODEL}",
    f"/v2/models/{MODEL}/versions/1",
    f"/v2/models/{MODEL}/ready",
    "/v2/models/absent/ready",
    "/healthz",
]


class Asking:
    """A server that gets requests over gRPC and REST.

    Args:
        loop: The event loop of the server.
        folder: The folder with its configuration file.
        transport: The transport of its calls.
    """

    def __init__(self, loop: LoopThread, folder: Path, transport: str) -> None:
        port = free_port()
        settings = {"port": 0, "rest_api_port": port, "model_config_file": str(folder / "models.config")}
        (folder / "monitoring").write_text("prometheus_config { enable: true path: '/metrics' }")
        settings |= {"monitoring_config_file": str(folder / "monitoring"), "transport": transport}
        self.server = RunningServer(loop, Config(**settings, file_system_poll_wait_seconds=0.1))  # type: ignore[arg-type]
        self.rest = RestCaller(port)

    def close(self) -> None:
        self.rest.close()
        self.server.close()

    def ask(self, path: str, request: Message) -> bytes | Refusal:
        return self.server.caller.send_bytes(path, request.SerializeToString())

    def get(self, path: str) -> tuple[int, str, str | None]:
        answer = self.rest.get(path)
        return answer.status, answer.text, answer.headers.get("content-type")

    def states(self) -> dict[int, int]:
        statuses = self.server.caller.call(status_request()).model_version_status
        return {status.version: status.state for status in statuses}

    def reload(self, config: str) -> None:
        request = ReloadConfigRequest()
        text_format.Parse(config, request.config)
        self.server.caller.call(request)


def config_of(folder: Path, labels: str = "", policy: str = "all { }") -> str:
    """The configuration of the one model."""
    entry = f'name: "{MODEL}" base_path: "{folder / MODEL}" model_platform: "tensorflow" {labels}'
    return f"model_config_list {{ config {{ {entry} model_version_policy {{ {policy} }} }} }}"


def label(version: int) -> str:
    return f'version_labels {{ key: "stable" value: {version} }}'


@pytest.fixture
def pair(loop_thread: LoopThread, tmp_path: Path) -> Iterator[tuple[Path, Asking, Asking]]:
    """A folder with one model, and two servers of it: one on grpcio, one on the native transport."""
    models.linear(tmp_path / MODEL / "1")
    (tmp_path / "models.config").write_text(config_of(tmp_path))
    with ExitStack() as stack:
        servers = [Asking(loop_thread, tmp_path, transport) for transport in ("grpcio", "native")]
        for server in servers:
            stack.callback(server.close)
        yield tmp_path, servers[0], servers[1]


def same(bare: Asking, native: Asking) -> None:
    """Asserts that both servers answer every request alike, also when it is repeated."""
    for path, request in OVER_GRPC:
        expected = bare.ask(path, request)
        for _ in range(2):
            assert native.ask(path, request) == expected, (path, request)
    for target in OVER_REST:
        answer = bare.get(target)
        for _ in range(2):
            assert native.get(target) == answer, target


def test_every_answer_after_every_change(pair: tuple[Path, Asking, Asking]) -> None:
    folder, bare, native = pair
    available, end = ModelVersionStatus.AVAILABLE, ModelVersionStatus.END

    def both(expected: dict[int, int]) -> None:
        for server in (bare, native):
            eventually(lambda server=server: server.states() == expected)  # type: ignore[misc]
        same(bare, native)

    both({1: available})
    for server in (bare, native):
        server.reload(config_of(folder, label(1)))
    both({1: available})
    models.linear(folder / "new", columns=3)
    (folder / "new").rename(folder / MODEL / "2")
    both({1: available, 2: available})
    for server in (bare, native):
        server.reload(config_of(folder, label(2)))
    both({1: available, 2: available})
    shutil.rmtree(folder / MODEL / "1")
    both({1: end, 2: available})
    (folder / MODEL / "3").mkdir()
    both({1: end, 2: available, 3: end})
    for server in (bare, native):
        server.reload("model_config_list { }")
    both({1: end, 2: end, 3: end})


Ask = Callable[[Asking], Any]
KEPT: dict[str, Ask] = {
    **{f"{path} {request}": partial(Asking.ask, path=path, request=request) for path, request in OVER_GRPC},
    **{target: partial(Asking.get, path=target) for target in OVER_REST},
}


NOT_KEPT = {f"{HEALTH} {HealthCheckRequest(service=MODEL)}"}
"""A request for one model's health, which can change without an event: a run may hang."""


def is_ok(answer: Any) -> bool:
    return answer[0] == 200 if isinstance(answer, tuple) else isinstance(answer, bytes)


def test_no_request_is_computed_twice(pair: tuple[Path, Asking, Asking], loop_thread: LoopThread) -> None:
    _, _, native = pair
    before = {name: ask(native) for name, ask in KEPT.items()}
    is_kept = {name for name, answer in before.items() if is_ok(answer) and name not in NOT_KEPT}
    go_on = threading.Event()
    loop_thread.loop.call_soon_threadsafe(go_on.wait)
    try:
        assert {name: KEPT[name](native) for name in is_kept} == {name: before[name] for name in is_kept}
    finally:
        go_on.set()
    assert len(is_kept) > 20


def test_no_answer_after_a_reload_is_from_before_it(pair: tuple[Path, Asking, Asking]) -> None:
    """Callers send requests all the time. Once a reload has been answered, no caller gets an answer from before it."""
    folder, _, native = pair
    models.linear(folder / "new", columns=3)
    (folder / "new").rename(folder / MODEL / "2")
    eventually(lambda: len(native.states()) == 2 and set(native.states().values()) == {ModelVersionStatus.AVAILABLE})
    by_label = metadata_request("signature_def", version_label="stable")
    by_number = [native.ask(METADATA, metadata_request("signature_def", version=version)) for version in (1, 2)]
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            native.ask(METADATA, by_label)

    callers = [threading.Thread(target=keep_asking) for _ in range(4)]
    for caller in callers:
        caller.start()
    try:
        for turn in range(40):
            native.reload(config_of(folder, label(1 + turn % 2)))
            assert native.ask(METADATA, by_label) == by_number[turn % 2]
    finally:
        stop.set()
        for caller in callers:
            caller.join()


def test_kept_answers_are_counted(pair: tuple[Path, Asking, Asking]) -> None:
    folder, _, native = pair
    del folder
    for _ in range(5):
        native.ask(METADATA, metadata_request("signature_def"))
        native.get(f"/v1/models/{MODEL}")
    expected = (
        f'method="tensorflow.serving.PredictionService/GetModelMetadata",model_name="{MODEL}",code="OK"}} 5',
        f'serving:request_count{{model_name="{MODEL}",status="OK"}} 5',
    )
    eventually(lambda: all(line in native.rest.get("/metrics").text for line in expected))
