"""examples/ray: two replicas on this machine, and a rolling update under load without a failed call."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT
from tests.support import models
from tests.support.ports import free_port

ENDS_WITHIN = 560.0


@pytest.fixture(scope="module")
def bin_folder() -> Path:
    python = os.environ.get("HEADRACE_RAY_PYTHON")
    if not python:
        pytest.skip("HEADRACE_RAY_PYTHON names no Python with ray and headrace: run `make test-ray`")
    return Path(python).parent


@pytest.fixture(scope="module")
def port(bin_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Ray that runs only on this machine.

    All ports are given: on a busy machine it does not start otherwise.
    """
    ports = {
        name: free_port()
        for name in (
            "port",
            "metrics-export-port",
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "runtime-env-agent-port",
        )
    }
    command = [str(bin_folder / "ray"), "start", "--head", "--node-ip-address=127.0.0.1", "--num-cpus=2", "--block"]
    command += ["--include-dashboard=false", "--disable-usage-stats", "--object-store-memory=100000000"]
    command += [f"--temp-dir={tmp_path_factory.mktemp('r')}", *(f"--{name}={value}" for name, value in ports.items())]
    examples = str(ROOT / "examples" / "ray")
    environment = {
        **os.environ,
        "RAY_raylet_start_wait_time_s": "240",
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": f"{examples}:{Path(__file__).parent}",
    }
    log = (tmp_path_factory.mktemp("log") / "ray.log").open("w")
    ray = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        yield ports["port"]
    finally:
        ray.terminate()
        ray.wait(60)
        log.close()


def test_a_rolling_update_fails_no_call(bin_folder: Path, port: int, tmp_path: Path) -> None:
    models.linear(tmp_path / "old" / "1", bias=1)
    models.linear(tmp_path / "new" / "1", bias=2)
    command = [str(bin_folder / "python"), str(Path(__file__).with_name("driver.py")), str(port), str(tmp_path)]
    path = f"{ROOT / 'examples' / 'ray'}:{Path(__file__).parent}"
    environment = {**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ENDS_WITHIN)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))  # Ray also writes there
    seen = json.loads(line)
    print(json.dumps(seen, indent=1))
    assert seen["failures"] == []
    assert len(seen["before"]) == len(seen["after"]) == 2
    assert set(seen["answers"]) == {"11.0", "12.0"}
    assert min(seen["answers"].values()) >= 1000
    assert seen["old_at_the_end"] == 0
