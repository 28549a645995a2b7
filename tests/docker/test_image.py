"""What the Docker images run: an entry point like TensorFlow Serving's and a health check; and what they install."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from headrace_client import Client
from tests.conftest import ROOT
from tests.support import models
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import START_WITHIN, ServerProcess, eventually

DOCKER = ROOT / "docker"
HERE = str(Path(sys.executable).parent)

HEALTHCHECK = re.compile(r"HEALTHCHECK .*\\\n    CMD \[(.*)\]")


def entered(tmp_path: Path, *flags: str, **environment: str) -> list[str]:
    """The arguments that the entry point passes to `tensorflow_model_server`."""
    server = tmp_path / "tensorflow_model_server"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    variables = {"PATH": f"{tmp_path}:/usr/bin:/bin", **environment}
    return subprocess.check_output([DOCKER / "entrypoint", *flags], text=True, env=variables).splitlines()


class TestEntryPoint:
    def test_serves_the_model_that_the_environment_names(self, tmp_path: Path) -> None:
        assert entered(tmp_path, MODEL_NAME="digits", MODEL_BASE_PATH="/my models") == [
            "--port=8500",
            "--rest_api_port=8501",
            "--model_name=digits",
            "--model_base_path=/my models/digits",
            "--enable_grpc_healthcheck_service=true",
        ]

    def test_has_the_originals_defaults(self, tmp_path: Path) -> None:
        assert entered(tmp_path)[2:4] == ["--model_name=model", "--model_base_path=/models/model"]

    def test_given_flags_follow_those_of_the_entry_point_and_override_them(self, tmp_path: Path) -> None:
        flags = ["--model_config_file=/models/a b.config", "--port=9000"]

        assert entered(tmp_path, *flags)[-2:] == flags

    def test_starts_a_server_that_answers_and_ends_at_sigterm(self, tmp_path: Path) -> None:
        models.linear(tmp_path / "models" / "digits" / "1")
        port, rest = free_port(), free_port()
        environment = {**os.environ, "MODEL_NAME": "digits", "MODEL_BASE_PATH": str(tmp_path / "models")}
        environment["PATH"] = f"{HERE}:{environment['PATH']}"
        command = [str(DOCKER / "entrypoint"), f"--port={port}", f"--rest_api_port={rest}"]
        server = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
        try:
            assert eventually(lambda: health(f"localhost:{port}") == 0, START_WITHIN)
            with Client(f"localhost:{port}") as client:
                assert client.predict("digits", {"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[4]]
            caller = RestCaller(rest)
            assert caller.get("/v1/models/digits").status == 200
            caller.close()
            server.terminate()
            assert server.wait(START_WITHIN) == 0  # the process is the server itself, not a shell that waits for it
        finally:
            server.kill()
            server.wait()


@pytest.fixture
def without_health(tmp_path: Path) -> Iterator[int]:
    """The port of a server without a health service."""
    with ExitStack() as stack:
        models.linear(tmp_path / "1")
        server = ServerProcess(tmp_path, "--enable_grpc_healthcheck_service=false")
        stack.callback(server.close)
        yield int(server.wait_for(re.compile(r"Running gRPC ModelServer at 0\.0\.0\.0:(\d+)"))[1])


class TestHealthCheck:
    @pytest.mark.parametrize("name", ["cpu", "gpu"])
    def test_the_health_check_of_the_image_asks_the_port_that_is_served(self, name: str) -> None:
        match = HEALTHCHECK.search((DOCKER / f"Dockerfile.{name}").read_text())

        assert match is not None
        assert match[1] == '"/opt/headrace/bin/python", "-m", "headrace_client.health", "localhost:8500"'

    def test_a_missing_server_is_not_ready(self) -> None:
        assert health(f"localhost:{free_port()}", "--timeout=1") == 1

    def test_a_server_without_a_health_service_is_not_ready(self, without_health: int) -> None:
        assert health(f"localhost:{without_health}") == 1


@pytest.mark.parametrize("name", ["cpu", "gpu"])
def test_the_sources_of_the_wheel_are_copied_into_the_image(name: str) -> None:
    """Otherwise, the first `docker build` after a new package would fail."""
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {package.partition("/")[0] for package in wheel["packages"]} | {"hatch_build.py", "pyproject.toml"}
    copied = re.findall(r"^COPY (?!--)(.*) /source/?\S*$", (DOCKER / f"Dockerfile.{name}").read_text(), re.MULTILINE)
    let_through = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)

    assert "custom" in wheel["hooks"], "the hook in hatch_build.py"
    assert needed <= {file for line in copied for file in line.split()}
    assert needed <= set(let_through)


@pytest.mark.parametrize(("extra", "runtime"), [("cpu", "onnxruntime"), ("gpu", "onnxruntime-gpu")])
def test_the_requirements_of_an_image_are_the_extras(extra: str, runtime: str) -> None:
    lines = subprocess.check_output([DOCKER / "requirements", extra], text=True).splitlines()
    names = [re.split(r"[<>=;\[]", line)[0] for line in lines]

    assert {"grpcio", "numpy", "uvicorn", runtime} <= set(names)
    assert not {"headrace", "pytest"} & set(names)
    assert len([name for name in names if name.startswith("onnxruntime")]) == 1


def test_the_constraints_of_the_gpu_image_are_within_the_extra() -> None:
    constrained = re.findall(r"^([\w-]+)==", (DOCKER / "constraints-gpu.txt").read_text(), re.MULTILINE)
    needed = subprocess.check_output([DOCKER / "requirements", "gpu"], text=True)

    assert constrained
    assert all(re.search(rf"^{name}\b", needed, re.MULTILINE) for name in constrained)


def health(*arguments: str) -> int:
    """The exit status of the health check."""
    command = [sys.executable, "-m", "headrace_client.health", *arguments]
    return subprocess.run(command, timeout=START_WITHIN, check=False).returncode
