"""The programs in examples/, each run as its page says, against a server with the digits model."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import ROOT
from tests.support.ports import free_port
from tests.support.running import COMMAND
from tests.support.tools import tool

EXAMPLES = ROOT / "examples"

READ = "a 1, 96% sure\n"
"""What every program prints for the image."""

ENDS_WITHIN = 600.0
"""Seconds for a program that may have to download its packages first."""


TORCH_PYTHON = ROOT / ".venv-torch" / "bin" / "python"
"""The Python with PyTorch, which `make test-torch` sets up."""


class Addresses(NamedTuple):
    """The addresses of one server's two APIs."""

    grpc: str
    rest: str


@pytest.fixture(scope="module")
def digits() -> Iterator[Addresses]:
    """A server with the digits model, started as the page says."""
    with serving(ROOT / "models" / "digits") as addresses:
        yield addresses


@contextmanager
def serving(models: Path) -> Iterator[Addresses]:
    """Serves a path until the end of the block."""
    port, rest = free_port(), free_port()
    command = [COMMAND, "serve", str(models), f"--port={port}", f"--rest_api_port={rest}"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            said = "".join(takewhile(lambda line: "Running gRPC" not in line, server.stderr))
            assert server.poll() is None, said
            yield Addresses(f"localhost:{port}", f"localhost:{rest}")
        finally:
            server.terminate()
            server.communicate()


def run(folder: Path, *command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs a program to its end."""
    return subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=ENDS_WITHIN,
        check=False,
    )


def test_python(digits: Addresses) -> None:
    ended = run(ROOT, sys.executable, "examples/python/client.py", digits.grpc)
    assert ended.stdout == READ, ended.stderr


def test_python_with_asyncio(digits: Addresses) -> None:
    ended = run(ROOT, sys.executable, "examples/python/async_client.py", digits.grpc)
    assert ended.stdout.startswith("100 answers: "), ended.stderr


@pytest.mark.parametrize("program", ["client.py", "async_client.py"])
def test_python_without_a_server_says_so_in_one_line(program: str) -> None:
    ended = run(ROOT, sys.executable, f"examples/python/{program}", f"localhost:{free_port()}")
    assert ended.returncode == 1
    assert ended.stderr.startswith("UNAVAILABLE: ")
    assert ended.stderr.count("\n") == 1


def test_curl(digits: Addresses) -> None:
    tool("curl")
    ended = run(ROOT, "sh", "examples/curl.sh", digits.rest)
    assert '"label": 1' in ended.stdout, ended.stderr


def test_node(digits: Addresses, tmp_path: Path) -> None:
    npm, node = tool("npm"), tool("node")
    shutil.copytree(EXAMPLES / "node", tmp_path / "examples" / "node", ignore=shutil.ignore_patterns("node_modules"))
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    folder = tmp_path / "examples" / "node"
    fetched = run(folder, npm, "ci", "--no-audit", "--no-fund", "--ignore-scripts")
    if fetched.returncode:
        pytest.skip(f"npm cannot fetch the packages: {fetched.stderr.strip().splitlines()[-1:]}")
    ended = run(folder, node, "client.js", digits.grpc)
    assert ended.stdout == READ, ended.stderr


def test_go(digits: Addresses, tmp_path: Path) -> None:
    go = tool("go")
    generated = shutil.ignore_patterns("bin", "protos")
    shutil.copytree(EXAMPLES / "go", tmp_path / "examples" / "go", ignore=generated)
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    folder = tmp_path / "examples" / "go"
    fetched = run(folder, go, "mod", "download")
    if fetched.returncode:
        pytest.skip(f"go cannot fetch the modules: {fetched.stderr.strip().splitlines()[-1:]}")
    # The same flags as for the other Go programs, so that their packages are compiled only once.
    flags = {"CGO_ENABLED": "0", "GOFLAGS": "-buildvcs=false -tags=grpcnotrace -ldflags=-w"}
    written = run(folder, "sh", "generate.sh", PROTOC=f"{sys.executable} -m grpc_tools.protoc", **flags)
    assert written.returncode == 0, written.stderr
    ended = run(folder, go, "run", ".", digits.grpc, **flags)
    assert ended.stdout == READ, ended.stderr


@pytest.mark.skipif("HEADRACE_TEST_JAVA" not in os.environ, reason="make test-examples compiles it: half a minute")
def test_java(digits: Addresses, tmp_path: Path) -> None:
    mvn = tool("mvn")
    shutil.copytree(EXAMPLES / "java", tmp_path / "examples" / "java", ignore=shutil.ignore_patterns("target"))
    (tmp_path / "protos").symlink_to(ROOT / "protos")
    folder = tmp_path / "examples" / "java"
    fetched = run(folder, mvn, "-q", "-B", "dependency:resolve")
    if fetched.returncode:
        pytest.skip("mvn cannot fetch the packages")
    ended = run(folder, mvn, "-q", "-B", "compile", "exec:java", f"-Dexec.args={digits.grpc}")
    assert READ in ended.stdout, ended.stdout + ended.stderr


def test_text(tmp_path: Path) -> None:
    shutil.copytree(EXAMPLES / "text", tmp_path / "text", ignore=shutil.ignore_patterns("words.txt", "*.onnx"))
    trained = run(tmp_path / "text", sys.executable, "train.py")
    assert trained.returncode == 0, trained.stderr
    with serving(tmp_path / "text" / "models") as addresses:
        given = 'text=["fog in the north", "cheese for all of them"]'
        ended = run(tmp_path, COMMAND, "call", "topic", given, f"--server={addresses.grpc}")
    assert json.loads(ended.stdout)["topic"] == ["weather", "food"], ended.stderr


@pytest.mark.skipif(not TORCH_PYTHON.exists(), reason="make test-torch sets up PyTorch, which is 5 GB")
def test_pytorch(tmp_path: Path) -> None:
    shutil.copy(EXAMPLES / "pytorch" / "net.py", tmp_path)
    # On a busy machine, threads that share a matrix product wait for each other, and take longer than one thread.
    trained = run(tmp_path, str(TORCH_PYTHON), "net.py", OMP_NUM_THREADS="1")
    assert trained.returncode == 0, trained.stderr
    convert = [
        "convert",
        "net.py:trained",
        "models/digits",
        "--data=test.npz",
        "--labels=label",
        "--outputs=label,probabilities",
    ]
    converted = run(tmp_path, str(TORCH_PYTHON.with_name("headrace")), *convert)
    assert converted.returncode == 0, converted.stderr
    with serving(tmp_path / "models" / "digits") as addresses:
        ended = run(ROOT, sys.executable, "examples/python/client.py", addresses.grpc)
    assert ended.stdout.startswith("a 1, "), ended.stderr
