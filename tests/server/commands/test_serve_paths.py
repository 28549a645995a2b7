"""`headrace serve PATH`, and the commands that query the server: call, models, doctor."""

import asyncio
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_client.token import TOKEN_VARIABLE
from headrace_server import Config, Server
from headrace_server.commands import process, serve
from headrace_server.commands.call import checked_address
from headrace_server.commands.headrace import main
from headrace_server.commands.ports import refuse_taken_ports
from headrace_server.config.security import AuthOptions
from headrace_server.errors import ServingError
from tests.support.models import linear
from tests.support.ports import free_port
from tests.support.running import START_WITHIN

COMMAND = str(Path(sys.executable).with_name("headrace"))


@pytest.fixture(scope="module")
def log_and_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """The log lines of a server for a file and for a folder, and its address."""
    folder = tmp_path_factory.mktemp("models")
    linear(folder / "flat").rename(folder / "iris.onnx")
    linear(folder / "wine" / "1")
    port, rest = free_port(), free_port()
    arguments = ["iris.onnx", "wine", f"--port={port}", f"--rest_api_port={rest}"]
    process = subprocess.Popen([COMMAND, "serve", *arguments], cwd=folder, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line)
        if "try: curl" in line:
            break
    yield "".join(lines), f"localhost:{port}"
    process.terminate()
    process.communicate(timeout=START_WITHIN)
    assert process.returncode == 0


class TestTheLog:
    def test_names_inputs_and_outputs_of_each_model(self, log_and_address: tuple[str, str]) -> None:
        for name in ("iris", "wine"):
            signature = "x float32[?,4] -> y float32[?,1], in batches of up to 1000 rows"
            assert f"model {name} version 1, serving_default: {signature}\n" in log_and_address[0]
            assert re.search(rf"model {name} version 1 loaded in \d+ ms on CPUExecutionProvider\n", log_and_address[0])

    def test_has_no_warning_if_nothing_is_wrong(self, log_and_address: tuple[str, str]) -> None:
        assert not re.search(r" (WARNING|ERROR) ", log_and_address[0])

    def test_says_that_the_server_is_open_to_the_network(self, log_and_address: tuple[str, str]) -> None:
        assert "anybody on the network can call this server: --host=127.0.0.1" in log_and_address[0]

    def test_names_the_transport(self, log_and_address: tuple[str, str]) -> None:
        assert re.search(r"gRPC is served by (headrace-native|grpcio) \d", log_and_address[0])

    def test_carries_date_and_zone(self, log_and_address: tuple[str, str]) -> None:
        lines = log_and_address[0].splitlines()
        assert all(re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} [A-Z]+ +\S", line) for line in lines)

    def test_ends_with_commands_that_work(self, log_and_address: tuple[str, str]) -> None:
        hints = re.findall(r"try: (.*)", log_and_address[0])
        assert len(hints) == 2
        for hint in hints:
            ran = subprocess.run(
                hint.replace("headrace", COMMAND, 1),
                shell=True,
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
            assert ran.returncode == 0, ran.stderr
            assert "0.0" in ran.stdout


class TestCall:
    def test_values_are_json(self, log_and_address: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["call", "iris", "x=[[1, 2, 3, 4], [0, 0, 0, 0]]", f"--server={log_and_address[1]}"]) == 0
        assert np.shape(json.loads(capsys.readouterr().out)["y"]) == (2, 1)

    def test_values_may_be_read_from_a_file(
        self, log_and_address: tuple[str, str], capsys: pytest.CaptureFixture[str], tmp_path: Path
    ) -> None:
        np.save(tmp_path / "x.npy", np.zeros((3, 4)))
        assert main(["call", "iris", f"x=@{tmp_path}/x.npy", f"--server={log_and_address[1]}"]) == 0
        assert json.loads(capsys.readouterr().out) == {"y": [[0.0]] * 3}

    def test_values_may_follow_flags(
        self, log_and_address: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["call", "iris", f"--server={log_and_address[1]}", "x=[[0, 0, 0, 0]]"]) == 0
        assert json.loads(capsys.readouterr().out) == {"y": [[0.0]]}

    @pytest.mark.parametrize("command", [["call", "iris"], ["models"]], ids=["call", "models"])
    @pytest.mark.parametrize(
        "address",
        ["", "localhost:x", "localhost:70000", ":8500", "http://localhost:8500", "localhost:" + "9" * 5000],
        ids=lambda address: address[:20],
    )
    def test_an_invalid_address_is_one_line(
        self, capsys: pytest.CaptureFixture[str], command: list[str], address: str
    ) -> None:
        assert main([*command, f"--server={address}"]) == 1
        assert capsys.readouterr().err.endswith(f"--server must be HOST:PORT or unix:PATH; was {address!r}\n")

    @pytest.mark.parametrize(
        "address",
        [
            "localhost",
            "[::1]",
            "[::1]:8500",
            "dns:///host",
            "ipv4:10.0.0.1:80,10.0.0.2:81",
            "localhost:" + "0" * 5000 + "1",
        ],
        ids=lambda address: address[:20],
    )
    def test_other_addresses_of_grpc_are_accepted(self, address: str) -> None:
        assert checked_address(address) == address

    @pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "x"])
    def test_a_timeout_is_above_0(self, capsys: pytest.CaptureFixture[str], seconds: str) -> None:
        with pytest.raises(SystemExit):
            main(["call", "iris", f"--timeout={seconds}"])
        first, _ = capsys.readouterr().err.splitlines()
        assert first == f"headrace call: --timeout must be a finite number above 0; was {seconds}"

    def test_a_token_that_cannot_be_sent(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(TOKEN_VARIABLE, "two\nlines")
        assert main(["call", "iris"]) == main(["models"]) == 1
        for line in capsys.readouterr().err.splitlines():
            assert line.endswith(f"{TOKEN_VARIABLE} must hold printable ASCII characters only")

    def test_without_values_prints_what_the_model_takes(
        self, log_and_address: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["call", "iris", f"--server={log_and_address[1]}"]) == 0
        assert capsys.readouterr().out == "iris: x float32[?,4] -> y float32[?,1]\n"

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["iris", "z=1"], "the model has no input z; its signature is x float32[?,4] -> y float32[?,1]"),
            (["iris", "x"], "'x' is not of the form NAME=VALUE\n"),
            (["iris", "h:1"], "'h:1' is not of the form NAME=VALUE; --server=h:1 names a server\n"),
            (["h:1", "x=1"], "h:1 is not a model's name; --server=h:1 names a server\n"),
            (["iris", 'x=[["a"]]'], "x must be float32[?,4]: could not convert string to float: 'a'"),
            (["iris", "x=[[1, 2, 3, 4]"], "x must be float32[?,4]: '[[1, 2, 3, 4]' is not JSON"),
            (["iris", "x=@/nowhere.npy"], "/nowhere.npy cannot be read: No such file or directory"),
            (["iris", "x=@/"], "/ cannot be read: Is a directory"),
            (["iris", "x=@/dev/null"], "/dev/null must be a .npy file of numbers or strings"),
            (["iris", f"x=@{__file__}"], "must be a .npy file of numbers or strings"),
            (["iris", "x=[[1,2,3,4]]", "x=[[1,2,3,4]]"], "the input x is given twice"),
            (["iris", "x=[[1,2,3,4]]", "--signature=s"], "iris has no signature s: it has serving_default"),
            (["nope"], "NOT_FOUND: Servable not found for request: Latest(nope)"),
        ],
    )
    def test_a_failure_is_one_line(
        self,
        log_and_address: tuple[str, str],
        capsys: pytest.CaptureFixture[str],
        arguments: list[str],
        said: str,
    ) -> None:
        assert main(["call", *arguments, f"--server={log_and_address[1]}"]) == 1
        error = capsys.readouterr().err
        assert error.startswith("headrace: the call failed: ")
        assert said in error
        assert error.count("\n") == 1


class TestModels:
    def test_are_listed_with_their_signatures(
        self, log_and_address: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["models", f"--server={log_and_address[1]}"]) == 0
        proved = "batched: each operator of its graph computes every row independently"
        assert capsys.readouterr().out.splitlines() == [
            f"iris v1: x float32[?,4] -> y float32[?,1] ({proved})",
            f"wine v1: x float32[?,4] -> y float32[?,1] ({proved})",
        ]

    def test_the_server_may_come_without_a_flag(
        self, log_and_address: tuple[str, str], capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["models", log_and_address[1]]) == 0
        assert capsys.readouterr().out.startswith("iris v1: ")

    def test_the_server_is_named_once(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["models", "a:1", "--server=b:1"]) == 1
        assert capsys.readouterr().err == "headrace: a:1 and --server both name the server: give only one of them\n"

    def test_a_missing_server(self, capsys: pytest.CaptureFixture[str]) -> None:
        address = f"localhost:{free_port()}"
        assert main(["models", f"--server={address}"]) == 1
        assert capsys.readouterr().err.startswith(f"headrace: the call to the server at {address} failed: UNAVAILABLE")


class TestCheck:
    def serve(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [COMMAND, "serve", "--check", *arguments], capture_output=True, text=True, timeout=60, check=False
        )

    def test_a_model_that_loads(self, tmp_path: Path) -> None:
        linear(tmp_path / "1")
        with socket.create_server(("", 0)) as taken:  # a check does not need the port
            ran = self.serve(str(tmp_path), f"--port={taken.getsockname()[1]}")
        assert ran.returncode == 0, ran.stderr
        assert "x float32[?,4] -> y float32[?,1]" in ran.stderr
        assert ran.stdout == f"passed: every model loads and runs ({tmp_path.name} 1)\n"
        assert "served" not in ran.stderr  # it has answered no requests

    def test_a_model_that_is_to_be_in_memory_first_but_does_not_exist(self, tmp_path: Path) -> None:
        linear(tmp_path / "1")
        ran = self.serve(str(tmp_path), "--preload_models=nope")
        assert ran.returncode == 1
        assert ran.stderr.splitlines()[-1].endswith("--preload_models: no model is named nope")

    def test_a_model_that_does_not_load(self, tmp_path: Path) -> None:
        (tmp_path / "iris.onnx").write_bytes(b"no model")
        ran = self.serve(str(tmp_path / "iris.onnx"), "--load_retry_interval_micros=600000000")
        assert ran.returncode == 1
        assert [line for line in ran.stderr.splitlines() if "tried" in line] == []
        assert f"{tmp_path}/iris.onnx" in ran.stderr.splitlines()[-1]


class TestPorts:
    @pytest.mark.parametrize("flag", ["port", "rest_api_port"])
    def test_a_port_in_use_is_named_before_a_model_is_loaded(self, tmp_path: Path, flag: str) -> None:
        linear(tmp_path / "1")
        with socket.create_server(("", 0)) as taken:
            port = taken.getsockname()[1]
            ran = subprocess.run(
                [COMMAND, "serve", str(tmp_path), "--port=0", f"--{flag}={port}"],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
            )
        assert ran.returncode == 1
        said = f"headrace: cannot start: UNAVAILABLE: port {port} is in use: choose another with --{flag}"
        assert ran.stderr.splitlines() == [said]

    @pytest.mark.parametrize("flag", ["", "rest_api_"])
    def test_a_port_in_use_at_another_address_is_free(self, flag: str) -> None:
        with socket.create_server(("127.0.0.2", 0)) as taken:
            port = taken.getsockname()[1]
            here: dict[str, Any] = {"port": 0, f"{flag}port": port, f"{flag}host": "127.0.0.1"}
            refuse_taken_ports(Config(**here))
            there = here | {f"{flag}host": "127.0.0.2"}
            with pytest.raises(ServingError, match=f"port {port} is in use"):
                refuse_taken_ports(Config(**there))

    @pytest.mark.parametrize("flag", ["host", "rest_api_host"])
    @pytest.mark.parametrize(
        ("host", "reason"), [("nowhere.invalid", ""), ("203.0.113.1", "Cannot assign requested address")]
    )
    def test_a_host_that_is_not_this_machine(self, flag: str, host: str, reason: str) -> None:
        values: dict[str, Any] = {flag: host, flag.replace("host", "port"): free_port()}
        with pytest.raises(ServingError) as raised:
            refuse_taken_ports(Config(**{"port": 0, **values}))
        assert raised.value.message.startswith(f"--{flag} must be an address of this machine; was '{host}': {reason}")
        assert "port" not in raised.value.message

    def test_two_equal_ports(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        linear(tmp_path / "1")
        assert main(["serve", str(tmp_path), "--port=8600", "--rest_api_port=8600"]) == 1
        assert "--rest_api_port must differ from --port; was 8600" in capsys.readouterr().err


def test_a_server_without_a_version_says_what_it_waits_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = f"nothing is served yet: the server waits for a version of iris, that is, for a folder such as {tmp_path}/1"
    heard = asyncio.Event()

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage() == said:
                heard.set()

    async def report() -> None:
        server = Server(Config(port=0, model_base_path=str(tmp_path), model_name="iris", transport="grpcio"))
        starting = asyncio.ensure_future(server.start())
        reporting = asyncio.ensure_future(process._report_awaited(server))
        await heard.wait()
        reporting.cancel()
        await server.stop()
        with pytest.raises(ServingError, match="stopping"):
            await starting

    monkeypatch.setattr(process, "REPORT_SECONDS", 0.01)
    listening = Listening()
    process.log.addHandler(listening)
    try:
        asyncio.run(asyncio.wait_for(report(), 30))
    finally:
        process.log.removeHandler(listening)
    assert heard.is_set()


def test_doctor_lists_what_is_available(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor"]) == 0
    said = capsys.readouterr().out
    assert re.search(r"^onnxruntime +\d", said, re.MULTILINE)
    assert re.search(r"^transport +(native|grpcio)$", said, re.MULTILINE)
    assert "ONNX Runtime's is off" in said


@pytest.mark.parametrize(
    ("options", "is_open"),
    [
        (Config(port=8500), True),
        (Config(port=8500, host="127.0.0.1"), False),
        (Config(port=8500, host="127.0.0.1", rest_api_port=8501), True),
        (Config(port=8500, host="::1", rest_api_port=8501, rest_api_host="localhost"), False),
        (Config(port=8500, auth=AuthOptions(keys_file="keys.json")), False),
        (Config(port=8500, ssl_config_file="ssl.pbtxt"), False),
    ],
)
def test_a_server_is_open_where_others_need_no_credentials(options: Config, is_open: bool) -> None:
    assert serve.is_open(options) == is_open


class TestWithoutTheServersDependencies:
    """An environment as after `pip install headrace`, without an extra."""

    @pytest.fixture
    def bare(self, tmp_path: Path) -> dict[str, str]:
        (tmp_path / "google_crc32c.py").write_text("raise ModuleNotFoundError('no', name='google_crc32c')\n")
        return {**os.environ, "PYTHONPATH": str(tmp_path)}

    def test_the_version_is_printed(self, bare: dict[str, str]) -> None:
        ran = subprocess.run([COMMAND, "--version"], env=bare, capture_output=True, text=True, check=True)
        assert re.fullmatch(r"headrace \d+\.\d+\.\d+\n", ran.stdout)

    def test_serving_names_the_extra(self, bare: dict[str, str], tmp_path: Path) -> None:
        linear(tmp_path / "m")
        ran = subprocess.run(
            [COMMAND, "serve", str(tmp_path / "m")], env=bare, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 1
        assert ran.stderr.splitlines()[-1] == (
            "headrace: the package google_crc32c is not installed: pip install 'headrace[cpu]' installs what a server "
            "needs (extras: cpu, gpu, tensorflow, tflite or server)"
        )


def test_the_version_imports_nothing_heavy() -> None:
    code = (
        "import sys; from headrace_server.commands.headrace import main; main(['--version']);"
        "print([name for name in ('numpy', 'grpc', 'google.protobuf', 'onnxruntime') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"
