"""examples/ray on this machine: a rolling update under load without a failed call, and a replica added under load."""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT
from tests.support import models
from tests.support.ports import free_port
from tests.support.running import eventually

ENDS_WITHIN = 1800.0
"""Seconds for one scenario. Ray starts several processes, and each imports hundreds of megabytes."""

STARTS_WITHIN = 900.0
RUNS = "Ray runtime started"
"""What `ray start` prints when a driver can connect."""

SLOW_MODEL = '''"""Returns the number of its process, after 50 ms."""

import os
import time

import numpy as np

INPUTS = {"x": ("float32", [None, 4])}
OUTPUTS = {"y": ("float32", [None, 1])}


def predict(inputs):
    time.sleep(0.05)
    return {"y": np.full((len(inputs["x"]), 1), os.getpid())}
'''
"""A float32 represents the number of each process exactly: they are below 2 to the power of 22."""


@pytest.fixture(scope="module")
def bin_folder() -> Path:
    python = os.environ.get("HEADRACE_RAY_PYTHON")
    if not python:
        pytest.skip("HEADRACE_RAY_PYTHON names no Python with ray and headrace: run `make test-ray`")
    return Path(python).parent


@pytest.fixture(scope="module")
def port(bin_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The port of a Ray cluster that runs only on this machine.

    All ports are given, since Ray does not start on a busy machine otherwise.
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
    command += ["--min-worker-port=0", "--max-worker-port=0"]  # Ray's default range includes the ports above
    command += [f"--temp-dir={tmp_path_factory.mktemp('r')}", *(f"--{name}={value}" for name, value in ports.items())]
    examples = str(ROOT / "examples" / "ray")
    environment = {
        **os.environ,
        "RAY_raylet_start_wait_time_s": str(int(STARTS_WITHIN)),
        "RAY_AUTH_MODE": "disabled",
        "PYTHONPATH": f"{examples}:{Path(__file__).parent}",
    }
    said = tmp_path_factory.mktemp("log") / "ray.log"
    with said.open("w") as log:
        ray = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            eventually(lambda: RUNS in said.read_text() or ray.poll() is not None, STARTS_WITHIN)
            assert ray.poll() is None, said.read_text()
            yield ports["port"]
        finally:
            ray.terminate()
            ray.wait(STARTS_WITHIN)


def drive(bin_folder: Path, port: int, scenario: str, folder: Path) -> dict[str, Any]:
    """The results of a scenario, as the driver prints them."""
    driver = str(Path(__file__).with_name("driver.py"))
    command = [str(bin_folder / "python"), driver, str(port), scenario, str(folder)]
    path = f"{ROOT / 'examples' / 'ray'}:{Path(__file__).parent}"
    environment = {**os.environ, "PYTHONPATH": path, "RAY_AUTH_MODE": "disabled"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=ENDS_WITHIN)
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("{"))  # Ray also writes there
    seen: dict[str, Any] = json.loads(line)
    print(json.dumps(seen, indent=1))
    return seen


def test_a_rolling_update_fails_no_call(bin_folder: Path, port: int, tmp_path: Path) -> None:
    models.linear(tmp_path / "old" / "1", bias=1)
    models.linear(tmp_path / "new" / "1", bias=2)
    seen = drive(bin_folder, port, "update", tmp_path)
    assert seen["failures"] == []
    assert len(seen["before"]) == len(seen["after"]) == 2
    assert set(seen["answers"]) == {"11.0", "12.0"}
    assert min(seen["answers"].values()) >= 1000
    assert seen["old_at_the_end"] == 0


def test_waiting_rows_add_a_replica(bin_folder: Path, port: int, tmp_path: Path) -> None:
    version = tmp_path / "slow" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(SLOW_MODEL)
    seen = drive(bin_folder, port, "scaling", tmp_path)
    assert seen["failures"] == []
    assert len(seen["before"]) == 1
    assert len(seen["after"]) == 2
    assert set(seen["before"]) < set(seen["after"])
    assert len(seen["answers"]) == 2
    assert min(seen["answers"]) >= 100
