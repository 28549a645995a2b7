"""Third-party programs: where `make test-stores` has put them, and how they are started."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

STARTS_WITHIN = 240.0
"""Seconds; MLflow's server takes more than a minute on a busy machine."""


def program(name: str, where: str = "bin") -> str:
    """The path of a program; skips the test if it is missing."""
    root = os.environ.get("HEADRACE_STORES")
    if not root:
        pytest.skip("HEADRACE_STORES names no folder with the stores' servers: run `make test-stores`")
    found = Path(root) / where / name
    if not found.exists():
        pytest.skip(f"{name} is not installed")
    return str(found)


def mlflow_python() -> Path:
    """The Python with MLflow; skips the test if there is none."""
    python = os.environ.get("HEADRACE_MLFLOW_PYTHON")
    if not python:
        pytest.skip("HEADRACE_MLFLOW_PYTHON names no Python with mlflow: run `make test-stores`")
    return Path(python)


@contextmanager
def started(command: Sequence[str], says: str, environment: dict[str, str] | None = None) -> Iterator[int]:
    """Runs a server during the block; yields the port that it prints.

    Args:
        command: The command to run.
        says: A regular expression for a line of its output, with the port as its group.
        environment: Additional environment variables.
    """
    own = {**os.environ, **(environment or {})}
    pipe, merged = subprocess.PIPE, subprocess.STDOUT
    server = subprocess.Popen(command, stdout=pipe, stderr=merged, text=True, env=own, start_new_session=True)
    lines: Queue[str] = Queue()

    def read() -> None:
        assert server.stdout is not None
        for line in server.stdout:
            lines.put(line)
        lines.put("")

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield _port(lines, re.compile(says))
    finally:
        os.killpg(server.pid, 9)
        server.wait()
        reader.join()
        assert server.stdout is not None
        server.stdout.close()


def _port(lines: "Queue[str]", says: re.Pattern[str]) -> int:
    seen = ""
    while line := lines.get(timeout=STARTS_WITHIN):
        seen += line
        if found := says.search(line):
            return int(found[1])
    raise AssertionError(f"it has ended: {seen}")
