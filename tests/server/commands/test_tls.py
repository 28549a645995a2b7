"""The flags of `headrace call`, `models` and `bench` for TLS, on servers with TLS and with mutual TLS."""

import logging
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from headrace_client.channels import auto
from headrace_client.channels.misdirected import NO_TLS
from headrace_protos import DataType
from headrace_server import Config
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.commands import serve
from headrace_server.commands.headrace import main
from tests.conftest import Run
from tests.support import models
from tests.support.pem import Authority, Pem, write
from tests.support.ports import free_port

QUICK = ("--concurrency=2", "--seconds=50ms", "--warmup=1ms")
CALL, MODELS, BENCH = ["call", "model"], ["models"], ["bench", "--model=model", *QUICK]
HAS_NATIVE = find_spec("headrace_native") is not None
CARRIERS = ["grpcio", *(["native"] if HAS_NATIVE else [])]


class Files(NamedTuple):
    """The paths of two authorities' certificates, and of two client pairs: one by each authority."""

    ca: str
    other: str
    cert: str
    key: str
    stranger_cert: str
    stranger_key: str


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    return Authority(tmp_path_factory.mktemp("ca")), Authority(tmp_path_factory.mktemp("other"))


@pytest.fixture(scope="module")
def pair(authorities: tuple[Authority, Authority]) -> Pem:
    return authorities[0].sign("server")


@pytest.fixture(scope="module")
def files(authorities: tuple[Authority, Authority], tmp_path_factory: pytest.TempPathFactory) -> Files:
    folder = tmp_path_factory.mktemp("files")
    client, stranger = authorities[1].sign("client"), authorities[0].sign("stranger")
    texts = (*(each.pem.certificate for each in authorities), client.certificate, client.key)
    found = []
    for name, text in zip(Files._fields, (*texts, stranger.certificate, stranger.key), strict=True):
        (folder / name).write_text(text)
        found.append(str(folder / name))
    return Files(*found)


@pytest.fixture(scope="module")
def config(pair: Pem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("tls") / "ssl.pbtxt", pair)


@pytest.fixture(scope="module")
def mutual_config(
    pair: Pem, authorities: tuple[Authority, Authority], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    path = tmp_path_factory.mktemp("mutual") / "ssl.pbtxt"
    return write(path, pair, custom_ca=authorities[1].pem.certificate, client_verify=True)


@pytest.fixture(scope="module")
def secure(running: Run, config: Path) -> int:
    """The port of a server with TLS."""
    return running(models.linear, ssl_config_file=str(config)).port


@pytest.fixture(scope="module")
def mutual(running: Run, mutual_config: Path) -> int:
    """The port of a server that asks clients for a certificate."""
    return running(models.linear, ssl_config_file=str(mutual_config)).port


@pytest.fixture(scope="module")
def rest(running: Run, mutual_config: Path, transport: str) -> int:
    """The REST port of a server that asks clients for a certificate."""
    if transport != "native":
        pytest.skip("only the native transport has TLS over REST")
    port = free_port()
    running(models.linear, rest_api_port=port, rest_api_ssl_config_file=str(mutual_config))
    return port


@pytest.fixture(
    params=[
        *((command, carrier) for command in (CALL, MODELS) for carrier in CARRIERS),
        *([(BENCH, "native")] if HAS_NATIVE else []),
    ],
    ids=lambda pair: f"{pair[0][0]}-{pair[1]}",
)
def command(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A command, whose client uses each transport in turn."""
    command, carrier = request.param
    if carrier == "grpcio":
        monkeypatch.setattr(auto, "PACKAGE", "no_such_package")
    return list(command)


def test_the_authority_turns_tls_on(secure: int, files: Files, command: list[str]) -> None:
    assert main([*command, f"--server=localhost:{secure}", f"--tls_ca={files.ca}"]) == 0


def test_a_certificate_for_the_server(mutual: int, files: Files, command: list[str]) -> None:
    shown = (f"--tls_ca={files.ca}", f"--tls_cert={files.cert}", f"--tls_key={files.key}")
    assert main([*command, f"--server=localhost:{mutual}", *shown]) == 0


def test_the_environment_names_the_files(
    mutual: int,
    files: Files,
    command: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, path in (("CA", files.ca), ("CERT", files.cert), ("KEY", files.key)):
        monkeypatch.setenv(f"HEADRACE_TLS_{name}", path)
    server = f"--server=localhost:{mutual}"
    assert main([*command, server]) == 0
    assert main([*command, server, f"--tls_ca={files.other}"]) == 1
    assert f"--tls_ca={files.other} must have the certificate of" in capsys.readouterr().err
    monkeypatch.setenv("HEADRACE_TLS_CA", "gone.pem")
    assert main([*command, server]) == 1
    assert "HEADRACE_TLS_CA=gone.pem cannot be read: No such file" in capsys.readouterr().err


def test_an_empty_flag_turns_tls_off(
    running: Run, files: Files, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = running(models.linear).port
    monkeypatch.setenv("HEADRACE_TLS_CA", files.ca)
    assert main([*command, f"--server=localhost:{port}", "--tls_ca="]) == 0


def test_a_certificate_that_is_its_own_authority(
    running: Run,
    authorities: tuple[Authority, Authority],
    tmp_path: Path,
    command: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    own = authorities[0].alone("own")
    (tmp_path / "own.pem").write_text(own.certificate)
    port = running(models.linear, ssl_config_file=str(write(tmp_path / "ssl.pbtxt", own))).port
    accepted = main([*command, f"--server=localhost:{port}", f"--tls_ca={tmp_path}/own.pem"]) == 0
    assert accepted == (command[0] != "bench")
    assert accepted or "create it with basicConstraints=CA:FALSE)" in capsys.readouterr().err


class TestRefusals:
    def said(self, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
        """What a command that fails says: one line."""
        assert main(list(arguments)) == 1
        line, end = capsys.readouterr().err.split("\n")
        assert end == ""
        return line

    def test_another_authority(
        self, secure: int, files: Files, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = self.said(capsys, *command, f"--server=localhost:{secure}", f"--tls_ca={files.other}")
        assert f"(the server's certificate is not trusted: --tls_ca={files.other} must have" in line

    def test_another_name(
        self, secure: int, files: Files, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = self.said(capsys, *command, f"--server=127.0.0.1:{secure}", f"--tls_ca={files.ca}")
        assert "(the server's certificate is for another name: --server must be" in line

    def test_no_certificate_for_the_server(
        self, mutual: int, files: Files, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        line = self.said(capsys, *command, f"--server=localhost:{mutual}", f"--tls_ca={files.ca}")
        assert "(perhaps the server asks for a certificate: --tls_cert and --tls_key name one, and its key)" in line

    def test_a_certificate_that_the_server_does_not_trust(
        self, mutual: int, files: Files, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        shown = (f"--tls_cert={files.stranger_cert}", f"--tls_key={files.stranger_key}")
        line = self.said(capsys, *command, f"--server=localhost:{mutual}", f"--tls_ca={files.ca}", *shown)
        assert f"(perhaps the server does not trust the certificate of --tls_cert={files.stranger_cert})" in line

    def test_a_server_without_tls(
        self, running: Run, files: Files, command: list[str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        port = running(models.linear).port
        assert f"({NO_TLS})" in self.said(capsys, *command, f"--server=localhost:{port}", f"--tls_ca={files.ca}")

    def test_files_that_cannot_be_used(
        self, files: Files, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        noise, gone = tmp_path / "noise.pem", tmp_path / "gone.pem"
        noise.write_bytes(b"\xff\x00noise")
        broken, locked = tmp_path / "broken.pem", tmp_path / "locked.pem"
        broken.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
        locked.write_text("-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n")
        ca, cert, key = f"--tls_ca={files.ca}", f"--tls_cert={files.cert}", f"--tls_key={files.key}"
        for given, reason in (
            ([f"--tls_ca={gone}"], f"--tls_ca={gone} cannot be read: No such file or directory"),
            ([f"--tls_ca={noise}"], f"--tls_ca={noise} has no certificate in PEM"),
            ([f"--tls_ca={files.key}"], f"--tls_ca={files.key} has no certificate in PEM"),
            ([f"--tls_ca={broken}"], f"--tls_ca={broken} has a certificate that cannot be read: "),
            ([ca, cert], f"{cert} is not enough: --tls_cert and --tls_key must be given together"),
            ([ca, key], f"{key} is not enough: --tls_cert and --tls_key must be given together"),
            ([cert, key], f"{cert} needs --tls_ca, which turns TLS on"),
            ([ca, f"--tls_cert={gone}", key], f"--tls_cert={gone} cannot be read: No such file or directory"),
            ([ca, f"--tls_cert={noise}", key], f"--tls_cert={noise} has no certificate in PEM"),
            ([ca, cert, f"--tls_key={noise}"], f"--tls_key={noise} has no key in PEM"),
            ([ca, cert, f"--tls_key={locked}"], f"--tls_key={locked} is encrypted: "),
            ([ca, f"--tls_cert={broken}", key], f"--tls_cert={broken} and {key} cannot be used: "),
            (
                [ca, cert, f"--tls_key={files.stranger_key}"],
                f"--tls_key={files.stranger_key} is not the key of the certificate in {cert}",
            ),
        ):
            assert reason in self.said(capsys, *command, "--server=localhost:1", *given)


class TestBenchOverRest:
    """`headrace bench` calls REST without headrace-native."""

    def bench(self, server: str, *flags: str) -> int:
        return main([*BENCH, "--api=rest-predict", f"--server={server}", *flags])

    @pytest.mark.parametrize("scheme", ["", "https://"])
    def test_mutual_tls(self, rest: int, files: Files, scheme: str) -> None:
        shown = (f"--tls_ca={files.ca}", f"--tls_cert={files.cert}", f"--tls_key={files.key}")
        assert self.bench(f"{scheme}localhost:{rest}", *shown) == 0

    def test_the_failure_names_the_flag(self, rest: int, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
        shown = (f"--tls_cert={files.cert}", f"--tls_key={files.key}")
        for server, flags, reason in (
            (f"localhost:{rest}", (f"--tls_ca={files.other}", *shown), "the server's certificate is not trusted"),
            (f"127.0.0.1:{rest}", (f"--tls_ca={files.ca}", *shown), "the server's certificate is for another name"),
            (f"localhost:{rest}", (f"--tls_ca={files.ca}",), "perhaps the server asks for a certificate"),
            (f"localhost:{rest}", (), "--tls_ca turns TLS on"),
            (f"https://localhost:{rest}", (), "needs --tls_ca, which turns TLS on"),
            (f"http://localhost:{rest}", (f"--tls_ca={files.ca}",), "leave out the scheme"),
        ):
            assert self.bench(server, *flags) == 1
            assert reason in capsys.readouterr().err

    def test_a_server_without_tls(self, running: Run, files: Files, capsys: pytest.CaptureFixture[str]) -> None:
        port = free_port()
        running(models.linear, rest_api_port=port)
        assert self.bench(f"localhost:{port}", f"--tls_ca={files.ca}") == 1
        assert f"({NO_TLS})" in capsys.readouterr().err


def test_the_start_names_the_flags(config: Path, mutual_config: Path, caplog: pytest.LogCaptureFixture) -> None:
    spec = TensorSpec("x", DataType.DT_FLOAT, (None, 1))
    version = SimpleNamespace(signatures={"serving_default": Signature({"x": spec}, {})}, answers_once=True)
    server: Any = SimpleNamespace(transport="grpcio", serving={"tree": {1: version}})
    gone = config.with_name("gone.pbtxt")
    with caplog.at_level(logging.INFO, "headrace_server"):
        for path in (config, mutual_config, gone):
            serve._say_what_serves(Config(port=1, ssl_config_file=str(path), transport="grpcio"), server)
    call = "try: headrace call tree 'x=[[0.0]]' --server=localhost:1 --tls_ca=..."
    said = [record.getMessage() for record in caplog.records if "try:" in record.getMessage()]
    assert said == [call, f"{call} --tls_cert=... --tls_key=...", call]
