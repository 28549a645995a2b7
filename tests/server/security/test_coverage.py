"""Every call of the server has an access decision: adding one without a decision makes these tests fail."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from headrace_server import Config, Server
from headrace_server.config.mlflow import MlflowOptions
from headrace_server.config.security import AuthOptions
from headrace_server.security.methods import GRPC, V1, V2, Action
from headrace_server.services.http import HttpRequest
from headrace_server.services.open_inference.rest import routes as v2_routes
from headrace_server.services.ready import PATHS
from headrace_server.services.router import Router
from headrace_server.services.tf_serving.rest import routes as v1_routes
from headrace_server.transports.http.guard import GuardedApi, Needs
from tests.conftest import Run
from tests.server.security.calls import Outcome, target_of
from tests.support import models
from tests.support.ports import free_port


class Recorder:
    """The part of a server on which generated code registers methods."""

    def __init__(self) -> None:
        self.paths: set[str] = set()

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        self.paths |= {f"/{service}/{name}" for name in handlers}

    def add_generic_rpc_handlers(self, handlers: Any) -> None:
        """Ignored: the same methods are also registered by name."""


async def _made(config: Config) -> Server:
    return Server(config)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Server:
    folder = tmp_path_factory.mktemp("every")
    models.linear(folder / "1")
    monitoring = folder / "monitoring.pbtxt"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    (folder / "keys.json").write_text('{"keys": []}')
    config = Config(
        model_base_path=str(folder),
        enable_profiler=True,
        rest_api_port=free_port(),
        monitoring_config_file=str(monitoring),
        auth=AuthOptions(keys_file=str(folder / "keys.json")),
        mlflow=MlflowOptions(model="default"),
    )
    return asyncio.run(_made(config))


def test_every_method_of_every_grpc_service_has_a_decision(server: Server) -> None:
    endpoint: Any = server._transport
    endpoint = endpoint._endpoint
    recorder = Recorder()
    for register in endpoint.servicers:
        register(recorder)
    own = {f"/{each.name}/{method.name}" for each in endpoint.services for method in (*each.methods, *each.streams)}

    assert recorder.paths | own == set(GRPC)
    assert {need.action for need in GRPC.values()} <= set(Action)


def test_every_call_over_http_has_a_decision() -> None:
    assert {call for call, _, _ in v2_routes._ROUTES} == set(V2)
    assert {*v1_routes._VERBS, "status"} == set(V1)


def test_every_path_of_the_rest_port_has_a_decision(server: Server) -> None:
    rest: Any = server._rest
    guarded = rest._http._api
    assert isinstance(guarded, GuardedApi)
    router, needs = guarded._api, guarded._needs
    assert isinstance(router, Router)

    for path in (*router.paths, *server._pages):
        assert needs.of(HttpRequest("GET", path)).action is not None, f"{path} has no decision"


def test_a_path_without_a_decision_is_allowed_to_nobody() -> None:
    needs = Needs({"/metrics": Action.METRICS})

    assert needs.of(HttpRequest("GET", "/metrics")).action is Action.METRICS
    for path in PATHS:
        assert needs.of(HttpRequest("GET", path)).action is Action.HEALTH
    for path in ("/", "/invocations", "/metrics/", "/v3/models/m", "/v22", "//v1/models/m"):
        assert needs.of(HttpRequest("GET", path)).action is None


def test_a_method_without_a_decision_is_refused_to_everybody(running: Run, tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text(
        f'[[rules]]\nwho = ["anonymous"]\nmethods = {[str(action) for action in Action if action is not Action.PUBLIC]}'
    )
    port = free_port()
    auth = AuthOptions(policy_file=str(tmp_path / "policy.toml"))
    server = running(models.linear, rest_api_port=port, auth=auth)
    target = target_of(server.port, port)

    assert target.http("GET", "/invocations").outcome is Outcome.DENIED
    assert target.http("GET", "/v1/models/model").outcome is Outcome.OK
