"""Ports: a free one, one that is taken, and when one opens."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_protos import Code
from headrace_server.errors import ServingError
from tests import models
from tests.calls import floats
from tests.conftest import Run, Serve

X = floats([1, 2, 3, 4])


@pytest.fixture
def taken() -> Iterator[int]:
    """A port on which somebody else listens, willing to share it."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("0.0.0.0", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_log_names_the_free_port_that_it_took(serving: Serve, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    caller = serving(tmp_path).started()
    assert caller.predict({"x": X})["y"].tolist() == [[10]]
    caller.close()


def test_taken_port_is_an_error_that_names_it(serving: Serve, tmp_path: Path, taken: int) -> None:
    models.linear(tmp_path / "1")
    process = serving(tmp_path, f"--port={taken}")
    assert process.ended() == 1
    assert process.log[-1].startswith(
        f"headrace: cannot start: UNKNOWN: Failed to BuildAndStart gRPC server: 0.0.0.0:{taken}: "
    )
    assert not any("Traceback" in line for line in process.log)


def test_two_servers_never_share_a_port(running: Run) -> None:
    first = running(models.linear)
    with pytest.raises(ServingError, match=f"0.0.0.0:{first.port}") as raised:
        running(models.linear, port=first.port)
    assert raised.value.code == Code.UNKNOWN
    assert first.caller.predict({"x": X})["y"].tolist() == [[10]]


def test_port_opens_once_a_model_is_ready(serving: Serve, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    process = serving(tmp_path, f"--port={port}")
    process.wait_for(re.compile("No versions of servable model found under base path"))
    with pytest.raises(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        pass
    models.linear(tmp_path / "unfinished").parent.rename(tmp_path / "1")
    caller = process.started()
    assert caller.predict({"x": X})["y"].tolist() == [[10]]
    caller.close()


def test_broken_model_is_an_error_that_names_its_file(serving: Serve, tmp_path: Path) -> None:
    models.linear(tmp_path / "1").write_bytes(b"garbage")
    process = serving(tmp_path)
    assert process.ended() == 1
    assert process.log[-1].startswith("headrace: cannot start: UNKNOWN: 1 servable(s) did not become available: ")
    assert str(tmp_path / "1" / models.FILE) in process.log[-1]
