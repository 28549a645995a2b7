"""Calls over TLS: which servers each transport trusts, which certificate it shows, and when `auto` uses grpcio."""

import socket
import ssl
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import grpc
import numpy as np
import pytest

from headrace_client import Client, Retry, ServerError
from tests.support.pem import Authority, Pem

from .conftest import Connect
from .service import Service, start

X = {"x": np.ones(1, np.float32)}
ONCE = Retry(attempts=1)
NAME = "grpc.ssl_target_name_override"

Secure = Callable[..., str]


class Authorities(NamedTuple):
    """Two certificate authorities: a trusted one, which has signed a certificate for localhost, and another one."""

    trusted: Authority
    localhost: Pem
    other: Authority


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> Authorities:
    trusted, other = Authority(tmp_path_factory.mktemp("trusted")), Authority(tmp_path_factory.mktemp("other"))
    return Authorities(trusted, trusted.sign("server"), other)


def certificate(folder: Path, *how: str) -> Pem:
    """A key, and a certificate that openssl makes from these arguments."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", "own.key", "-out", "own.pem", "-days", "2"]
    subprocess.run([*command, *files, *how], cwd=folder, check=True, capture_output=True)
    return Pem((folder / "own.key").read_text(), (folder / "own.pem").read_text())


def trusting(authority: Pem, pair: Pem | None = None) -> grpc.ChannelCredentials:
    """Credentials of a client that trusts an authority, and may show a certificate."""
    shown = (pair.key.encode(), pair.certificate.encode()) if pair else (None, None)
    return grpc.ssl_channel_credentials(authority.certificate.encode(), *shown)


@pytest.fixture
def secure(service: Service, authorities: Authorities) -> Iterator[Secure]:
    """Starts the service with a certificate; returns its target."""
    servers = []

    def begin(pair: Pem = authorities.localhost, clients: Authority | None = None) -> str:
        pairs = [(pair.key.encode(), pair.certificate.encode())]
        roots = clients.pem.certificate.encode() if clients else None
        credentials = grpc.ssl_server_credentials(pairs, roots, clients is not None)
        server, target = start(service, credentials=credentials)
        servers.append(server)
        return target

    yield begin
    service.release.set()
    for server in servers:
        server.stop(None).wait()


def refusal(client: Client) -> str:
    """The error of a call that cannot reach the server."""
    with pytest.raises(ServerError) as caught:
        client.predict("half_plus_two", X, timeout=20)
    assert caught.value.code is grpc.StatusCode.UNAVAILABLE
    return caught.value.message


def test_every_kind_of_call(connect: Connect, secure: Secure, authorities: Authorities) -> None:
    client = connect(secure(), credentials=trusting(authorities.trusted.pem))

    assert client.predict("half_plus_two", X)["y"] == [2.5]
    assert [answer["y"] for answer in client.predict_many("half_plus_two", [X] * 100)] == [[2.5]] * 100
    assert client.status("half_plus_two")[0].version == 3
    assert "serving_default" in client.metadata("half_plus_two").signatures


def test_large_messages(connect: Connect, secure: Secure, authorities: Authorities) -> None:
    client = connect(secure(), credentials=trusting(authorities.trusted.pem))
    array = np.random.default_rng(1).random(2_000_000, np.float32)

    assert (client.predict("half_plus_two", {"x": array}, signature="echo")["x"] == array).all()


def test_a_server_of_an_unknown_authority(
    connect: Connect, secure: Secure, authorities: Authorities, service: Service
) -> None:
    client = connect(secure(), credentials=trusting(authorities.other.pem), retry=ONCE)

    assert "certificate" in refusal(client).lower()
    assert service.requests == []


def test_the_authorities_of_the_machine_do_not_vouch_for_it(connect: Connect, secure: Secure, service: Service) -> None:
    refusal(connect(secure(), credentials=grpc.ssl_channel_credentials(), retry=ONCE))
    assert service.requests == []


def test_a_server_of_another_name(
    connect: Connect, secure: Secure, authorities: Authorities, tmp_path: Path, service: Service
) -> None:
    (tmp_path / "ca.pem").write_text(authorities.trusted.pem.certificate)
    (tmp_path / "ca.key").write_text(authorities.trusted.pem.key)
    how = ("-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=models", "-addext", "subjectAltName=DNS:models.internal")
    target = secure(certificate(tmp_path, *how, "-addext", "basicConstraints=critical,CA:FALSE"))
    trusted = trusting(authorities.trusted.pem)

    refusal(connect(target, credentials=trusted, retry=ONCE))
    refusal(connect(target, credentials=trusted, retry=ONCE, options=[(NAME, "models")]))
    assert service.requests == []
    named = connect(target, credentials=trusted, options=[(NAME, "models.internal")])
    assert named.predict("half_plus_two", X)["y"] == [2.5]


def test_an_address_is_a_name(connect: Connect, secure: Secure, authorities: Authorities, tmp_path: Path) -> None:
    port = secure().rpartition(":")[2]
    refusal(connect(f"127.0.0.1:{port}", credentials=trusting(authorities.trusted.pem), retry=ONCE))

    (tmp_path / "ca.pem").write_text(authorities.trusted.pem.certificate)
    (tmp_path / "ca.key").write_text(authorities.trusted.pem.key)
    how = ("-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=models", "-addext", "subjectAltName=IP:127.0.0.1")
    port = secure(certificate(tmp_path, *how, "-addext", "basicConstraints=critical,CA:FALSE")).rpartition(":")[2]
    client = connect(f"127.0.0.1:{port}", credentials=trusting(authorities.trusted.pem))
    assert client.predict("half_plus_two", X)["y"] == [2.5]


def test_a_certificate_that_has_expired(connect: Connect, secure: Secure, tmp_path: Path, service: Service) -> None:
    signing = pytest.importorskip("tests.support.signing", reason="cryptography is not installed")
    chain = signing.Chain(tmp_path)
    key, certificates = chain.signer(days=0)
    client = connect(
        secure(Pem(key.read_text(), certificates.read_text())),
        credentials=grpc.ssl_channel_credentials(chain.file.read_bytes()),
        retry=ONCE,
    )
    assert "certificate" in refusal(client).lower()
    assert service.requests == []


class TestMutual:
    def test_a_certificate_that_the_server_trusts(
        self, connect: Connect, secure: Secure, authorities: Authorities
    ) -> None:
        pair = authorities.other.sign("client")
        client = connect(secure(clients=authorities.other), credentials=trusting(authorities.trusted.pem, pair))
        assert client.predict("half_plus_two", X)["y"] == [2.5]

    @pytest.mark.parametrize("shown", ["none", "another"])
    def test_a_certificate_that_the_server_does_not_trust(
        self, connect: Connect, secure: Secure, authorities: Authorities, service: Service, shown: str
    ) -> None:
        pair = authorities.trusted.sign("client") if shown == "another" else None
        target = secure(clients=authorities.other)
        refusal(connect(target, credentials=trusting(authorities.trusted.pem, pair), retry=ONCE))
        assert service.requests == []


def test_a_server_without_tls(connect: Connect, target: str, authorities: Authorities, service: Service) -> None:
    refusal(connect(target, credentials=trusting(authorities.trusted.pem), retry=ONCE))
    assert service.requests == []


@contextmanager
def without_alpn(pair: Pem, folder: Path) -> Iterator[str]:
    """The target of a TLS server that does not choose HTTP/2."""
    (folder / "pair.pem").write_text(pair.key + pair.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "pair.pem")
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(1)
                except (ssl.SSLError, ConnectionError):
                    continue
                except OSError:
                    return

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"localhost:{listener.getsockname()[1]}"
        listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def test_a_server_that_does_not_choose_http2(connect: Connect, authorities: Authorities, tmp_path: Path) -> None:
    with without_alpn(authorities.localhost, tmp_path) as target:
        refusal(connect(target, credentials=trusting(authorities.trusted.pem), retry=ONCE))


@pytest.mark.parametrize("carrier", ["native"])
class TestNative:
    @pytest.fixture(autouse=True)
    def installed(self) -> None:
        pytest.importorskip("headrace_native")

    def test_grpcs_variable_names_the_authorities(
        self,
        connect: Connect,
        secure: Secure,
        authorities: Authorities,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        (tmp_path / "roots.pem").write_text(authorities.trusted.pem.certificate)
        monkeypatch.setenv("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", str(tmp_path / "roots.pem"))
        client = connect(secure(), credentials=grpc.ssl_channel_credentials())
        assert client.predict("half_plus_two", X)["y"] == [2.5]

    @pytest.mark.parametrize(
        ("authority", "pair", "reason"),
        [
            (b"", None, "there is no authority among the root certificates"),
            (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", None, "its TLS cannot use these"),
            (None, (b"no key", b"no certificate"), "its TLS cannot use these certificates"),
        ],
        ids=["none", "noise", "key"],
    )
    def test_credentials_that_cannot_be_used(
        self,
        carrier: str,
        authorities: Authorities,
        authority: bytes | None,
        pair: tuple[bytes, bytes] | None,
        reason: str,
    ) -> None:
        found = authorities.trusted.pem.certificate.encode() if authority is None else authority
        credentials = grpc.ssl_channel_credentials(found, *(pair or (None, None)))
        with pytest.raises(ValueError, match=f"transport='native' cannot be used: .*{reason}"):
            Client("localhost:1", credentials=credentials, transport=carrier)

    def test_a_key_of_another_certificate(self, carrier: str, authorities: Authorities) -> None:
        one, another = authorities.trusted.sign("one"), authorities.trusted.sign("another")
        mixed = trusting(authorities.trusted.pem, Pem(one.key, another.certificate))
        with pytest.raises(ValueError, match="its TLS cannot use these certificates"):
            Client("localhost:1", credentials=mixed, transport=carrier)


def test_a_name_that_no_certificate_has(authorities: Authorities) -> None:
    native = pytest.importorskip("headrace_native")
    limits = {"attempts": 1, "backoff": 0.1, "max_backoff": 0.1, "max_send": 1, "max_receive": 1}
    said = "the server's certificate cannot be for a b: call a DNS name or an IP address, or give the certificate's"
    tls = native.ClientTls(authorities.trusted.pem.certificate.encode(), None)
    with pytest.raises(ValueError, match=said):
        native.ClientChannel("localhost:1", [], limits, (tls, "a b"))


SELF_SIGNED = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost")


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of calls that each run of headrace-native's `call_many` was given, in order."""
    pytest.importorskip("headrace_native")
    from headrace_client.channels.native_impl import NativeChannel

    numbers: list[int] = []
    call_many = NativeChannel.call_many

    def counted(own: NativeChannel, calls: Sequence[Any], timeout: float | None, in_flight: int) -> list[Any]:
        numbers.append(len(calls))
        return call_many(own, calls, timeout, in_flight)

    monkeypatch.setattr(NativeChannel, "call_many", counted)
    return numbers


class TestAuto:
    """With `auto`, grpcio makes the final decision about a server's certificate."""

    @pytest.fixture
    def carrier(self) -> str:
        return "auto"

    def test_a_certificate_that_is_its_own_authority(self, connect: Connect, secure: Secure, tmp_path: Path) -> None:
        own = certificate(tmp_path, *SELF_SIGNED)
        client = connect(secure(own), credentials=trusting(own))

        assert client.predict("half_plus_two", X, timeout=20)["y"] == [2.5]
        assert client.status("half_plus_two")[0].version == 3

    def test_many_calls(self, connect: Connect, secure: Secure, tmp_path: Path) -> None:
        own = certificate(tmp_path, *SELF_SIGNED)
        client = connect(secure(own), credentials=trusting(own))
        assert [answer["y"] for answer in client.predict_many("half_plus_two", [X] * 20)] == [[2.5]] * 20

    def test_only_the_first_of_many_calls_tries_a_handshake_that_fails(
        self, secure: Secure, tmp_path: Path, tried: list[int]
    ) -> None:
        own = certificate(tmp_path, *SELF_SIGNED)
        with Client(secure(own), credentials=trusting(own)) as client:
            assert [answer["y"] for answer in client.predict_many("half_plus_two", [X] * 20)] == [[2.5]] * 20
        assert sum(tried) == 1

    def test_many_calls_go_together_once_a_handshake_has_succeeded(
        self, secure: Secure, authorities: Authorities, tried: list[int]
    ) -> None:
        with Client(secure(), credentials=trusting(authorities.trusted.pem)) as client:
            client.predict("half_plus_two", X)
            client.predict_many("half_plus_two", [X] * 20)
        assert max(tried) == 20

    def test_the_timeout_is_for_each_of_many_calls(
        self, secure: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The handshakes of many calls may take longer than one call may."""
        pytest.importorskip("headrace_native")
        from headrace_client.channels import base

        monkeypatch.setattr(base, "time", SimpleNamespace(monotonic=count(step=30).__next__))
        own = certificate(tmp_path, *SELF_SIGNED)
        with Client(secure(own), credentials=trusting(own)) as client:
            answers = client.predict_many("half_plus_two", [X] * 20, timeout=20)
        assert [answer["y"] for answer in answers] == [[2.5]] * 20

    def test_native_alone_refuses_such_a_certificate(self, secure: Secure, tmp_path: Path) -> None:
        pytest.importorskip("headrace_native")
        own = certificate(tmp_path, *SELF_SIGNED)
        with Client(secure(own), credentials=trusting(own), transport="native", retry=ONCE) as client:
            assert "TLS handshake: invalid peer certificate" in refusal(client)

    def test_a_certificate_without_alternative_names(
        self, connect: Connect, secure: Secure, authorities: Authorities, tmp_path: Path
    ) -> None:
        (tmp_path / "ca.pem").write_text(authorities.trusted.pem.certificate)
        (tmp_path / "ca.key").write_text(authorities.trusted.pem.key)
        how = ("-CA", "ca.pem", "-CAkey", "ca.key", "-subj", "/CN=localhost")
        target = secure(certificate(tmp_path, *how, "-addext", "basicConstraints=critical,CA:FALSE"))
        client = connect(target, credentials=trusting(authorities.trusted.pem))
        assert client.predict("half_plus_two", X, timeout=20)["y"] == [2.5]

    def test_a_certificate_that_grpcio_refuses_stays_refused(
        self, connect: Connect, secure: Secure, authorities: Authorities, service: Service
    ) -> None:
        client = connect(secure(), credentials=trusting(authorities.other.pem), retry=ONCE)
        for _ in range(2):
            assert "CERTIFICATE_VERIFY_FAILED" in refusal(client)
        assert service.requests == []
