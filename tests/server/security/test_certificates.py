"""Client certificates as credentials: over gRPC on both transports, and over HTTP on the native one."""

import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPSConnection
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from headrace_server.config.security import AuthOptions
from headrace_server.errors import ServingError
from headrace_server.security.keys import create_key
from tests.conftest import Run
from tests.server.security.calls import APIS, Outcome, Target, ask_tf_serving, methods_of
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, MODEL
from tests.support.pem import LEAF, Authority, Pem, write
from tests.support.ports import free_port
from tests.support.running import eventually

POLICY = """
[[rules]]
who = ["cert:trainer", "cert:spiffe://prod/shop", "key:shop"]
models = ["mod*"]
"""


class Mutual:
    """A server that identifies its clients by certificates, and clients of it."""

    def __init__(self, running: Run, folder: Path, transport: str) -> None:
        self.folder, self.authority = folder, Authority(folder)
        self.policy, keys, port = folder / "policy.toml", folder / "keys.json", free_port()
        self.policy.write_text(POLICY)
        self.header = "Bearer " + create_key(keys, "shop")
        file = write(
            folder / "ssl.pbtxt",
            self.authority.sign("server"),
            custom_ca=self.authority.pem.certificate,
            client_verify=True,
        )
        self.over_http = transport == "native"  # uvicorn is not configured with certificates
        http = {"rest_api_port": port, "rest_api_ssl_config_file": str(file)} if self.over_http else {}
        auth = AuthOptions(keys_file=str(keys), policy_file=str(self.policy), certificates=True)
        self._port = port
        self._grpc = running(models.linear, ssl_config_file=str(file), auth=auth, **http).port

    def client(self, pem: Pem | None) -> Target:
        root = self.authority.pem.certificate
        key, certificate = (pem.key.encode(), pem.certificate.encode()) if pem else (None, None)
        credentials = grpc.ssl_channel_credentials(root.encode(), key, certificate)
        options = [("grpc.ssl_target_name_override", "localhost"), ("grpc.use_local_subchannel_pool", 1)]
        context = ssl.create_default_context(cadata=root)
        if pem is not None:
            file = self.folder / "client.both"
            file.write_text(pem.key + pem.certificate)
            context.load_cert_chain(file)
        return Target(
            grpc.secure_channel(f"127.0.0.1:{self._grpc}", credentials, options),
            lambda: HTTPSConnection("localhost", self._port, context=context, timeout=ANSWER_WITHIN),
        )


@pytest.fixture(scope="module")
def mutual(running: Run, transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mutual]:
    return Mutual(running, tmp_path_factory.mktemp("mutual"), transport)  # type: ignore[return-value]


def outcomes(mutual: Mutual, pem: Pem | None, header: str = "") -> list[Outcome]:
    """The answers of every API and method, one after the other."""
    target = mutual.client(pem)
    apis = [api for api in APIS if mutual.over_http or "rest" not in api]
    return [
        APIS[api](target, method, MODEL, header).outcome
        for api in apis
        for method in methods_of(api)
        if method != "admin"
        for _ in range(2)
    ]


def test_the_common_name_says_who_calls(mutual: Mutual) -> None:
    assert set(outcomes(mutual, mutual.authority.sign("trainer"))) == {Outcome.OK}


def test_a_name_without_a_rule(mutual: Mutual) -> None:
    assert set(outcomes(mutual, mutual.authority.sign("stranger"))) == {Outcome.DENIED}


def test_callers_without_the_right_to_administer(mutual: Mutual) -> None:
    target = mutual.client(mutual.authority.sign("trainer"))
    for api in APIS:
        if "admin" in methods_of(api) and (mutual.over_http or "rest" not in api):
            assert APIS[api](target, "admin", MODEL, "").outcome is Outcome.DENIED


def test_every_api_refuses_other_clients(mutual: Mutual) -> None:
    for api in APIS:
        if "rest" in api and mutual.over_http:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                APIS[api](mutual.client(None), "predict", MODEL, "")


def test_a_uri_is_preferred_to_the_common_name(mutual: Mutual) -> None:
    command = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=stranger "
        "-CA ca.pem -CAkey ca.key -keyout uri.key -out uri.pem -addext subjectAltName=DNS:x,URI:spiffe://prod/shop"
    )
    subprocess.run([*command.split(), *LEAF], cwd=mutual.folder, check=True, capture_output=True)
    pem = Pem((mutual.folder / "uri.key").read_text(), (mutual.folder / "uri.pem").read_text())

    assert set(outcomes(mutual, pem)) == {Outcome.OK}


def test_a_key_is_preferred_to_the_certificate(mutual: Mutual) -> None:
    stranger, trainer = mutual.authority.sign("stranger"), mutual.authority.sign("trainer")

    assert set(outcomes(mutual, stranger, mutual.header)) == {Outcome.OK}
    assert set(outcomes(mutual, trainer, "Bearer wrong")) == {Outcome.UNAUTHENTICATED}


def valid_for(authority: Pem, left: timedelta) -> Pem:
    """A certificate that expires after this time, or has expired if the time is negative."""
    now, key = datetime.now(UTC), ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.certificate.encode())
    signer = serialization.load_pem_private_key(authority.key.encode(), None)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "trainer")]))
        .issuer_name(issuer.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=2))
        .not_valid_after(now + left)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return Pem(key.private_bytes(pem, *plain).decode(), made.public_bytes(pem).decode())


def test_certificates_that_are_missing_expired_or_of_another_authority_do_not_connect(mutual: Mutual) -> None:
    folder = mutual.folder / "other"
    folder.mkdir()
    for pem in (None, Authority(folder).sign("trainer"), valid_for(mutual.authority.pem, -timedelta(days=1))):
        assert ask_tf_serving(mutual.client(pem), "predict", MODEL, "").outcome is Outcome.OTHER


def test_a_certificate_that_expires_while_its_connection_is_open(mutual: Mutual) -> None:
    target = mutual.client(valid_for(mutual.authority.pem, timedelta(seconds=4)))
    own = [ask for api, ask in APIS.items() if "grpc" in api]  # over HTTP, these tests open a connection for each call

    assert {ask(target, "predict", MODEL, "").outcome for ask in own} == {Outcome.OK}
    eventually(lambda: ask_tf_serving(target, "predict", MODEL, "").outcome is Outcome.UNAUTHENTICATED)
    assert {ask(target, method, MODEL, "").outcome for ask in own for method in ("predict", "metadata")} == {
        Outcome.UNAUTHENTICATED
    }


def test_a_name_taken_out_of_the_policy_is_refused(mutual: Mutual) -> None:
    trainer = mutual.authority.sign("trainer")
    assert set(outcomes(mutual, trainer)) == {Outcome.OK}

    mutual.policy.write_text(POLICY.replace("cert:trainer", "cert:nobody"))
    eventually(lambda: set(outcomes(mutual, trainer)) == {Outcome.DENIED})
    mutual.policy.write_text(POLICY)
    eventually(lambda: set(outcomes(mutual, trainer)) == {Outcome.OK})


def test_certificates_need_tls(running: Run) -> None:
    with pytest.raises(ServingError, match="--auth_certificates needs --ssl_config_file"):
        running(models.linear, auth=AuthOptions(certificates=True))
