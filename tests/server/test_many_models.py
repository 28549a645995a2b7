"""A server with many small models: its threads, its metrics page, and calls of each model."""

import os
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from headrace_protos import ModelServerConfig
from headrace_server import Config
from headrace_server.models.servable import Servable
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, arrays, floats, predict_request
from tests.support.ports import free_port
from tests.support.running import LoopThread, RunningServer

COUNT = 150
TASKS = Path("/proc/self/task")


def config(root: Path, count: int, transport: str, rest_port: int) -> Config:
    listed = ModelServerConfig()
    for number in range(count):
        name = f"m{number}"
        models.linear(root / name / "1", bias=float(number))
        listed.model_config_list.config.add(name=name, base_path=str(root / name), model_platform="tensorflow")
    (root / "models.config").write_text(str(listed))
    (root / "monitoring.config").write_text("prometheus_config { enable: true path: '/metrics' }")
    return Config(
        port=0,
        rest_api_port=rest_port,
        transport=transport,
        model_config_file=str(root / "models.config"),
        monitoring_config_file=str(root / "monitoring.config"),
        drain_seconds=5,
    )


def test_each_model_is_served_and_costs_no_threads_and_no_lines(
    tmp_path: Path, transport: str, loop_thread: LoopThread
) -> None:
    before = len(os.listdir(TASKS)) if TASKS.exists() else 0
    port = free_port()
    server = RunningServer(loop_thread, config(tmp_path, COUNT, transport, port))
    try:
        if TASKS.exists():
            assert len(os.listdir(TASKS)) - before < 60
        assert b"m149" not in page(port)
        for number in (0, 77, 149):
            request = predict_request({"x": floats([1, 2, 3, 4])}, name=f"m{number}")
            assert arrays(server.caller.call(request))["y"].tolist() == [[10 + number]]
        called = page(port)
        assert b'model_name="m149"' in called
        assert b"m148" not in called
    finally:
        server.close()


def page(port: int) -> bytes:
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=ANSWER_WITHIN) as answer:
        text: bytes = answer.read()
        return text


def test_a_model_whose_native_route_cannot_be_made_is_answered_by_python(
    tmp_path: Path, loop_thread: LoopThread, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    native_routes = pytest.importorskip("headrace_server.transports.grpc.native_routes")
    make = native_routes.PlainRoutes.of

    def refuse(self: Any, servable: Servable) -> Any:
        if servable.name == "m1":
            raise ValueError("no route")
        return make(self, servable)

    monkeypatch.setattr(native_routes.PlainRoutes, "of", refuse)
    server = RunningServer(loop_thread, config(tmp_path, 3, "native", free_port()))
    try:
        for number in range(3):
            request = predict_request({"x": floats([1, 2, 3, 4])}, name=f"m{number}")
            assert arrays(server.caller.call(request))["y"].tolist() == [[10 + number]]
    finally:
        server.close()
    assert [line for line in caplog.messages if "native route" in line] == [
        "model m1 gets no native route: Python answers all of its calls"
    ]
