"""A client with several servers: they take turns, and no call fails when one of them stops."""

from collections.abc import Iterator

import grpc
import numpy as np
import pytest

from headrace_client import Client, ServerError
from headrace_client.channels.base import has_addresses
from tests.client.service import Service, start
from tests.conftest import ROOT, Run
from tests.support import models
from tests.support.calls import MODEL


@pytest.fixture
def servers() -> Iterator[list[tuple[Service, grpc.Server, str]]]:
    made = []
    for _ in range(2):
        service = Service()
        made.append((service, *start(service)))
    yield made
    for service, server, _ in made:
        service.release.set()
        server.stop(None).wait()


def test_calls_take_turns_and_a_stopping_server_fails_none(servers: list[tuple[Service, grpc.Server, str]]) -> None:
    ports = [target.rpartition(":")[2] for _, _, target in servers]
    x = np.ones(1, np.float32)
    with Client(f"ipv4:{','.join(f'127.0.0.1:{port}' for port in ports)}", timeout=30) as client:
        for _ in range(60):
            client.predict("half_plus_two", {"x": x})
        assert min(len(service.requests) for service, _, _ in servers) >= 10
        servers[0][1].stop(None).wait()
        for _ in range(20):
            assert client.predict("half_plus_two", {"x": x})["y"].tolist() == [2.5]


def test_a_service_config_for_each_method_takes_the_place_of_the_retries(
    servers: list[tuple[Service, grpc.Server, str]],
) -> None:
    page = (ROOT / "docs" / "scale.md").read_text()
    config = page.partition("```json\n")[2].partition("```")[0]
    service, _, target = servers[0]
    x = np.ones(1, np.float32)
    with Client(target, options=[("grpc.service_config", config)], transport="grpcio", timeout=30) as client:
        service.refusals = 2
        assert client.predict("half_plus_two", {"x": x})["y"].tolist() == [2.5]
        service.refusals = 1
        with pytest.raises(ServerError, match="UNAVAILABLE"):
            client.status("half_plus_two")


def test_a_list_of_addresses_is_taken_by_the_server(running: Run) -> None:
    ports = [running(models.linear).port for _ in range(2)]
    with Client(f"ipv4:{','.join(f'127.0.0.1:{port}' for port in ports)}", timeout=30) as client:
        for _ in range(4):
            assert client.predict(MODEL, {"x": [[1.0, 2.0, 3.0, 4.0]]})["y"].tolist() == [[10]]
    with Client(f"ipv4:127.0.0.1:{ports[0]}", timeout=30) as client:  # a list may have a single address
        assert client.predict(MODEL, {"x": [[1.0, 2.0, 3.0, 4.0]]})["y"].tolist() == [[10]]


@pytest.mark.parametrize(
    ("target", "several"),
    [
        ("dns:///iris:8500", True),
        ("ipv4:127.0.0.1:1,127.0.0.1:2", True),
        ("ipv4:127.0.0.1:1", False),
        ("localhost:8500", False),
        ("unix:/run/a,b", False),
    ],
)
def test_targets_with_several_addresses(target: str, several: bool) -> None:
    assert has_addresses(target) is several
