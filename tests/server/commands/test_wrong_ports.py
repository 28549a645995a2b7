"""What the commands and the client say of a port that speaks REST, or uses TLS, where gRPC without TLS was meant."""

from collections.abc import Callable
from importlib.util import find_spec

import grpc
import pytest

from headrace_client import Client, Retry, ServerError
from headrace_client.channels.misdirected import NO_TLS, NOT_PLAIN, REST
from headrace_server.commands.headrace import main
from tests.conftest import Run
from tests.support import models
from tests.support.pem import Authority, Pem, write
from tests.support.ports import free_port

COMMANDS = (["call", "model"], ["models"], *([["bench", "--model=model"]] if find_spec("headrace_native") else []))
CLIENTS = ("grpcio", *(["native"] if find_spec("headrace_native") else []))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pem:
    return Authority(tmp_path_factory.mktemp("authority")).sign("server")


@pytest.fixture(scope="module")
def ports(running: Run, pair: Pem, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """The gRPC, REST and TLS ports of servers with a model."""
    rest = free_port()
    plain = running(models.linear, rest_api_port=rest)
    file = write(tmp_path_factory.mktemp("tls") / "ssl.pbtxt", pair)
    secure = running(models.linear, ssl_config_file=str(file))
    return {"grpc": plain.port, "rest": rest, "tls": secure.port}


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: str(command[0]))
@pytest.mark.parametrize("kind", ["rest", "tls"])
def test_commands_say_which_port_to_call(
    ports: dict[str, int], command: list[str], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, f"--server=localhost:{ports[kind]}"]) == 1
    line = capsys.readouterr().err
    assert line.endswith((f" ({NOT_PLAIN})\n", f" ({REST})\n") if kind == "rest" else f" ({NOT_PLAIN})\n")


@pytest.mark.parametrize("transport_of_client", CLIENTS)
class TestClient:
    def hint(self, call: Callable[[], object]) -> str:
        with pytest.raises(ServerError) as caught:
            call()
        return caught.value.hint

    @pytest.mark.parametrize("kind", ["rest", "tls"])
    def test_without_tls(self, ports: dict[str, int], kind: str, transport_of_client: str) -> None:
        with Client(f"localhost:{ports[kind]}", transport=transport_of_client, retry=Retry(attempts=1)) as client:
            assert self.hint(lambda: client.status("model", timeout=20)) in {NOT_PLAIN, *([REST] * (kind == "rest"))}

    @pytest.mark.parametrize("kind", ["grpc", "rest"])
    def test_with_tls(self, ports: dict[str, int], kind: str, transport_of_client: str, pair: Pem) -> None:
        credentials = grpc.ssl_channel_credentials(pair.certificate.encode())
        target = f"localhost:{ports[kind]}"
        with Client(target, credentials=credentials, transport=transport_of_client, retry=Retry(attempts=1)) as client:
            assert self.hint(lambda: client.status("model", timeout=20)) == NO_TLS

    def test_a_refusal_of_the_right_port_has_no_hint(self, ports: dict[str, int], transport_of_client: str) -> None:
        with Client(f"localhost:{ports['grpc']}", transport=transport_of_client) as client:
            assert self.hint(lambda: client.status("unknown", timeout=20)) == ""


@pytest.mark.skipif("bench" not in str(COMMANDS), reason="headrace-native is not installed")
@pytest.mark.parametrize("kind", ["grpc", "tls"])
def test_bench_over_rest_says_which_port_to_call(
    ports: dict[str, int], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", f"localhost:{ports[kind]}", "--model=model", "--api=rest-predict"]) == 1
    assert "this port does not speak REST without TLS: --rest_api_port of `headrace serve`" in capsys.readouterr().err
