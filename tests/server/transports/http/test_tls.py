"""TLS for REST, which only headrace-native has: certificates, client certificates, and both versions of HTTP."""

import json
import socket
import ssl
from contextlib import closing
from functools import partial
from http.client import HTTPSConnection
from pathlib import Path

import pytest

from headrace_server.errors import ServingError
from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN
from tests.support.pem import Authority, Pem, write
from tests.support.ports import free_port
from tests.support.rest_calls import PREFIX, curl


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server_pem(authority: Authority) -> Pem:
    return authority.sign("server")


@pytest.fixture(autouse=True)
def only_native(transport: str) -> None:
    if transport != "native":
        pytest.skip("uvicorn is given no certificates")


def status(port: int, authority: Authority, client: Path | None = None) -> int:
    """The answer to a model status request over TLS."""
    context = ssl.create_default_context(cadata=authority.pem.certificate)
    if client is not None:
        context.load_cert_chain(client)
    with closing(HTTPSConnection("localhost", port, context=context, timeout=ANSWER_WITHIN)) as connection:
        connection.request("GET", PREFIX)
        return connection.getresponse().status


def test_both_versions_of_http(running: Run, authority: Authority, server_pem: Pem, tmp_path: Path) -> None:
    file, port = write(tmp_path / "ssl.pbtxt", server_pem), free_port()
    running(models.linear, rest_api_port=port, rest_api_ssl_config_file=str(file))
    assert status(port, authority) == 200
    (tmp_path / "ca.pem").write_text(authority.pem.certificate)
    url = f"https://localhost:{port}{PREFIX}"
    for version, flag in (("1.1", "--http1.1"), ("2", "--http2")):
        said = curl(
            "--cacert", str(tmp_path / "ca.pem"), flag, "-o", "/dev/null", "-w", "%{http_version} %{http_code}", url
        )
        assert said == f"{version} 200"


def test_a_slow_reader_gets_all_of_a_large_answer(
    running: Run, authority: Authority, server_pem: Pem, tmp_path: Path
) -> None:
    """More than fits into the sockets' buffers: the last encrypted bytes have to wait until the client reads."""
    columns = 100_000
    file, port = write(tmp_path / "ssl.pbtxt", server_pem), free_port()
    running(partial(models.repeated, columns=columns), rest_api_port=port, rest_api_ssl_config_file=str(file))
    context = ssl.create_default_context(cadata=authority.pem.certificate)
    with closing(HTTPSConnection("localhost", port, context=context)) as connection:
        connection.sock = context.wrap_socket(little_buffered(port), server_hostname="localhost")
        for _ in range(3):
            connection.request("POST", f"{PREFIX}:predict", json.dumps({"instances": [[1 / 3]]}))
            predictions = json.loads(connection.getresponse().read())["predictions"]
            assert [len(row) for row in predictions] == [columns]


def little_buffered(port: int) -> socket.socket:
    """A connection whose both ends buffer some ten kilobytes."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1000)
    connection.settimeout(ANSWER_WITHIN)
    connection.connect(("127.0.0.1", port))
    return connection


def test_clients_that_must_show_a_certificate(
    running: Run, authority: Authority, server_pem: Pem, tmp_path: Path
) -> None:
    fields = {"custom_ca": authority.pem.certificate, "client_verify": True}
    file, port = write(tmp_path / "ssl.pbtxt", server_pem, **fields), free_port()
    running(models.linear, rest_api_port=port, rest_api_ssl_config_file=str(file))
    client = tmp_path / "client.pem"
    client.write_text("".join(authority.sign("client")))
    assert status(port, authority, client) == 200
    with pytest.raises((ssl.SSLError, ConnectionError)):
        status(port, authority)


def test_uvicorn_has_none(running: Run, server_pem: Pem, tmp_path: Path) -> None:
    file = str(write(tmp_path / "ssl.pbtxt", server_pem))
    with pytest.raises(ServingError, match="--rest_api_ssl_config_file needs the native transport"):
        running(models.linear, rest_api_port=free_port(), rest_api_ssl_config_file=file, transport="grpcio")


def test_an_error_in_the_file_is_reported_at_once(running: Run, tmp_path: Path) -> None:
    with pytest.raises(ServingError, match="nobody"):
        running(models.linear, rest_api_port=free_port(), rest_api_ssl_config_file=str(tmp_path / "nobody"))
