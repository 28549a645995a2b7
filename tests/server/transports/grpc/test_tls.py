"""TLS and mutual TLS from an SSLConfig file, on TCP and on a UNIX socket, and certificates that change."""

import logging
import os
import socket
import ssl
from pathlib import Path

import grpc
import pytest

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.transports.grpc.grpcio_impl import tls_credentials
from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, PREDICT, Refusal, floats, predict_request, refusal_of
from tests.support.pem import Authority, Pem, write
from tests.support.ports import free_port

REQUEST = predict_request({"x": floats([1, 2, 3, 4])}).SerializeToString()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def first(authority: Authority) -> Pem:
    return authority.sign("first")


@pytest.fixture(scope="module")
def second(authority: Authority) -> Pem:
    return authority.sign("second")


def call(target: str, root: Pem, own: Pem | None = None) -> bytes | Refusal:
    """Sends one Predict over a new connection; returns the response's bytes, or the error."""
    key, certificate = (own.key.encode(), own.certificate.encode()) if own else (None, None)
    credentials = grpc.ssl_channel_credentials(root.certificate.encode(), key, certificate)
    options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
    with grpc.secure_channel(target, credentials, options) as channel:
        send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
        try:
            return send(REQUEST, timeout=ANSWER_WITHIN)
        except grpc.RpcError as error:
            return refusal_of(error)


def refused(answer: bytes | Refusal) -> bool:
    return isinstance(answer, Refusal) and answer.code is grpc.StatusCode.UNAVAILABLE


def test_tls_on_both_addresses(running: Run, authority: Authority, first: Pem, second: Pem, tmp_path: Path) -> None:
    file = write(tmp_path / "ssl.pbtxt", first)
    server = running(models.linear, ssl_config_file=str(file), grpc_socket_path=str(tmp_path / "s"), port=free_port())
    tcp = f"127.0.0.1:{server.port}"
    assert isinstance(call(tcp, authority.pem), bytes)
    assert isinstance(call(f"unix:{tmp_path / 's'}", authority.pem), bytes)
    assert server.caller.refusal(predict_request({"x": floats([1, 2, 3, 4])})).code is grpc.StatusCode.UNAVAILABLE
    assert refused(call(tcp, second)), "a client trusted a certificate that another one had signed"


def test_mutual_tls(running: Run, authority: Authority, first: Pem, second: Pem, tmp_path: Path) -> None:
    stranger_folder = tmp_path / "stranger"
    stranger_folder.mkdir()
    stranger = Authority(stranger_folder).sign("stranger")
    file = write(tmp_path / "ssl.pbtxt", first, custom_ca=authority.pem.certificate, client_verify=True)
    server = running(models.linear, ssl_config_file=str(file), grpc_socket_path=str(tmp_path / "s"))
    target = f"unix:{tmp_path / 's'}"
    assert server.port == 0
    assert isinstance(call(target, authority.pem, second), bytes)
    assert refused(call(target, authority.pem)), "a client without a certificate was let in"
    assert refused(call(target, authority.pem, stranger)), "a client of another authority was let in"


def test_mutual_tls_without_a_custom_authority_trusts_no_private_one(
    running: Run, authority: Authority, first: Pem, second: Pem, tmp_path: Path
) -> None:
    file = write(tmp_path / "ssl.pbtxt", first, client_verify=True)
    server = running(models.linear, ssl_config_file=str(file))
    assert refused(call(f"127.0.0.1:{server.port}", authority.pem, second))
    assert refused(call(f"127.0.0.1:{server.port}", authority.pem))


def test_a_client_that_does_not_ask_for_http2(running: Run, first: Pem, tmp_path: Path) -> None:
    server = running(models.linear, ssl_config_file=str(write(tmp_path / "ssl.pbtxt", first)))
    assert says_something(server.port, ["h2"])
    assert not says_something(server.port, [])
    assert not says_something(server.port, ["http/1.1"])


def test_a_new_certificate_is_used_for_the_next_connection(
    running: Run, authority: Authority, first: Pem, second: Pem, tmp_path: Path
) -> None:
    file = write(tmp_path / "ssl.pbtxt", first)
    server = running(models.linear, ssl_config_file=str(file))
    target = f"127.0.0.1:{server.port}"
    assert shown_by(server.port) == first.certificate
    write(file, second)
    assert shown_by(server.port) == second.certificate
    assert isinstance(call(target, authority.pem), bytes)


@pytest.mark.parametrize("spoil", ["no proto {", "", "other key", "pipe", None])
def test_an_invalid_new_file_leaves_the_old_certificate(
    running: Run, first: Pem, second: Pem, tmp_path: Path, spoil: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR)
    file = write(tmp_path / "ssl.pbtxt", first)
    server = running(models.linear, ssl_config_file=str(file))
    if spoil in (None, "pipe"):
        file.unlink()
        if spoil:
            os.mkfifo(file)
    elif spoil == "other key":
        write(file, Pem(second.key, first.certificate))
    else:
        file.write_text(spoil)
    assert shown_by(server.port) == first.certificate
    assert shown_by(server.port) == first.certificate
    assert [message for message in caplog.messages if message.startswith("the certificate is not replaced: ")]
    assert sum(str(file) in message for message in caplog.messages) == 1, "logged once, not for every connection"
    write(file, second)
    assert shown_by(server.port) == second.certificate


def test_a_change_of_client_verify_is_reported_to_need_a_restart(
    running: Run, first: Pem, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "ssl.pbtxt", first)
    server = running(models.linear, ssl_config_file=str(file))
    write(file, first, client_verify=True, custom_ca=first.certificate)
    assert shown_by(server.port) == first.certificate
    assert f"{file}: client_verify takes effect only after a restart" in caplog.messages


@pytest.mark.parametrize("spoil", ["a quote", "an end", "a name", "a line"])
def test_no_part_of_a_key_is_logged(first: Pem, tmp_path: Path, spoil: str, caplog: pytest.LogCaptureFixture) -> None:
    file = write(tmp_path / "ssl.pbtxt", first)
    text = file.read_text()
    secret = first.key.splitlines()[1]
    file.write_text(
        {
            "a quote": text.replace('server_key: "', "server_key: "),
            "an end": text[: text.index(secret) + len(secret)],
            "a name": text.replace(secret, '" ' + secret + ': "'),
            "a line": text.replace("\\n", "\n"),
        }[spoil]
    )

    assert said(file) == (Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{file}'")
    assert "it is not shown, since the file holds a key" in caplog.text
    assert not any(secret[start : start + 8] in caplog.text for start in range(0, len(secret), 8))


def test_files_that_cannot_be_used(first: Pem, second: Pem, tmp_path: Path) -> None:
    file = tmp_path / "ssl.pbtxt"
    assert said(file) == (Code.NOT_FOUND, f"{file}: No such file or directory")
    file.write_text("server_kee: 'x'")
    assert said(file)[1].startswith(f"Invalid protobuf file: '{file}'")
    for name, pem, more in (
        ("server_key", Pem("", ""), {}),
        ("server_cert", Pem(first.key, ""), {}),
        ("server_key", Pem("/etc/tls/key.pem", "/etc/tls/cert.pem"), {}),
        ("custom_ca", first, {"custom_ca": "/etc/tls/ca.pem"}),
    ):
        no_pem = f"{name} must hold the text of a PEM file, not its path; it has no -----BEGIN line"
        assert said(write(file, pem, **more)) == (Code.INVALID_ARGUMENT, f"{file}: {no_pem}")
    code, text = said(write(file, Pem(first.key, second.certificate)))
    assert code == Code.INVALID_ARGUMENT
    assert text.startswith(f"{file}: server_key and server_cert cannot be used together: ")
    _, text = said(write(file, first, custom_ca="-----BEGIN CERTIFICATE-----\nrubbish"))
    assert text.startswith(f"{file}: custom_ca cannot be used: ")


def said(file: Path) -> tuple[Code, str]:
    """The error for invalid credentials."""
    with pytest.raises(ServingError) as raised:
        tls_credentials(str(file))
    return raised.value.code, raised.value.message


def shown_by(port: int) -> str:
    """The certificate that a server shows a new client."""
    return ssl.get_server_certificate(("127.0.0.1", port), timeout=ANSWER_WITHIN)


def says_something(port: int, protocols: list[str]) -> bool:
    """Whether a server accepts a handshake in which a client offers some protocols."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(protocols)
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN) as connection:
        try:
            with context.wrap_socket(connection) as secured:
                return bool(secured.recv(1))
        except (ssl.SSLError, ConnectionResetError):
            return False
