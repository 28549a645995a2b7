"""The `tensorflow_model_server` command: how it parses flags, what it prints, and how it exits."""

import importlib
import os
import re
import signal
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import grpc
import pytest

from headrace_server.commands.flags import FLAGS
from headrace_server.commands.tensorflow_model_server import main, parse, usage
from tests.support.calls import PREDICT, floats, predict_request
from tests.support.models import linear

PROGRAM = "import sys; from headrace_server.commands.tensorflow_model_server import main; sys.exit(main())"
PATIENCE = 30.0  # seconds; far more than it ever takes

Capture = pytest.CaptureFixture[str]


@contextmanager
def started(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, "-c", PROGRAM, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        guard = Timer(PATIENCE, process.kill)
        guard.start()
        try:
            yield process
        finally:
            guard.cancel()
            process.kill()


def lines_until(process: "subprocess.Popen[str]", words: str) -> list[str]:
    """The command's stderr up to a line that contains the words."""
    assert process.stderr is not None
    lines = []
    for line in process.stderr:
        lines.append(line.rstrip("\n"))
        if words in line:
            return lines
    raise AssertionError(f"it ended without saying {words!r}: {lines}")


class TestParse:
    @pytest.mark.parametrize(
        ("argument", "name", "value"),
        [
            ("--port=1", "port", 1),
            ("--port=-1", "port", -1),
            ("--load_retry_interval_micros=60000000000", "load_retry_interval_micros", 60000000000),
            ("--per_process_gpu_memory_fraction=.5", "per_process_gpu_memory_fraction", 0.5),
            ("--model_name=", "model_name", ""),
            ("--model_name=a=b c", "model_name", "a=b c"),
            ("--enable_batching", "enable_batching", True),
            ("--enable_batching=true", "enable_batching", True),
            ("--enable_batching=false", "enable_batching", False),
            ("--version", "version", True),
        ],
    )
    def test_a_value(self, argument: str, name: str, value: object) -> None:
        parsed = parse([argument])

        assert parsed.values == {name: value}
        assert not parsed.unknown
        assert not parsed.complaints

    @pytest.mark.parametrize("arguments", [["--port", "1"], ["-port=1"], ["port=1"], ["--quux=1"], ["--port"], ["--"]])
    def test_arguments_that_are_not_flags(self, arguments: list[str]) -> None:
        parsed = parse(arguments)

        assert parsed.unknown == arguments
        assert not parsed.values
        assert not parsed.complaints

    @pytest.mark.parametrize(
        ("argument", "said"),
        [
            ("--port=many", "Couldn't interpret value many for flag port."),
            ("--port=", "Couldn't interpret value  for flag port."),
            ("--port=1.5", "Couldn't interpret value 1.5 for flag port."),
            ("--port=4294967296", "Couldn't interpret value 4294967296 for flag port."),
            ("--port=1_0", "Couldn't interpret value 1_0 for flag port."),
            ("--enable_batching=maybe", "Couldn't interpret value =maybe for flag enable_batching."),
            (
                "--per_process_gpu_memory_fraction=x",
                "Couldn't interpret value x for flag per_process_gpu_memory_fraction.",
            ),
        ],
    )
    def test_a_value_that_cannot_be_read(self, argument: str, said: str) -> None:
        assert parse([argument]).complaints == [said]

    def test_the_last_of_two_equal_flags_counts(self) -> None:
        assert parse(["--port=1", "--port=2"]).values == {"port": 2}

    def test_everything_after_two_dashes_is_unknown(self) -> None:
        parsed = parse(["--port=1", "--", "--port=2", "--model_name=m"])

        assert parsed.values == {"port": 1}
        assert parsed.unknown == ["--", "--port=2", "--model_name=m"]


class TestOutput:
    def test_usage_has_a_line_for_each_flag(self) -> None:
        first, second, *lines = usage().splitlines()

        assert (first, second) == (f"usage: {sys.argv[0]}", "Flags:")
        assert [line.partition("=")[0] for line in lines] == [f"\t--{name}" for name in [*FLAGS, "version"]]
        assert all(re.fullmatch(r"\t--\w+=.*\t(int32|int64|bool|string|float)\t.{20,}", line) for line in lines)

    @pytest.mark.parametrize(
        "line",
        [
            "\t--port=8500                        \tint32\t",
            '\t--model_name="default"             \tstring\t',
            "\t--enable_batching=false            \tbool\t",
            "\t--enable_grpc_healthcheck_service=false\tbool\t",
            "\t--load_retry_interval_micros=60000000\tint64\t",
            "\t--per_process_gpu_memory_fraction=0.000000\tfloat\t",
            "\t--version=false                    \tbool\t",
        ],
    )
    def test_a_line_of_the_usage(self, line: str) -> None:
        assert f"\n{line}" in usage()

    @pytest.mark.parametrize("arguments", [["--help"], ["--port=1", "--help"], ["--version", "--help", "--quux"]])
    def test_help(self, arguments: list[str], capsys: Capture) -> None:
        assert main(arguments) == 255
        assert capsys.readouterr().out == usage()

    def test_a_bad_value(self, capsys: Capture) -> None:
        assert main(["--port=x", "--enable_batching=y"]) == 255
        said = capsys.readouterr()
        assert said.out == usage()
        assert said.err.splitlines() == [
            "Couldn't interpret value x for flag port.",
            "Couldn't interpret value =y for flag enable_batching.",
        ]

    def test_version(self, capsys: Capture) -> None:
        assert main(["--version", "--quux"]) == 0
        assert re.fullmatch(
            r"TensorFlow ModelServer: \d+\.\d+\.\d+\nTensorFlow Library: (\d\S+|not installed)\n",
            capsys.readouterr().out,
        )

    def test_an_unknown_argument_is_reported_and_ignored(self, capsys: Capture) -> None:
        assert main(["--quux=1", "more", "--port=0"]) == 255
        said = capsys.readouterr().out
        assert said.startswith(f"unknown argument: --quux=1\n{usage()}Failed to start server. Error: ")


NO_PORT = "At least one of server_options.grpc_port or server_options.grpc_socket_path must be set."
TWO_CREDENTIALS = "Either use_alts_credentials must be false or ssl_config_file must be empty."
NO_MODEL = "Both server_options.model_base_path and server_options.model_config_file are empty!"
NO_BATCHING = "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
THREE_PARALLELISMS = (
    "Either configure server_options.tensorflow_session_parallelism or "
    "(server_options.tensorflow_intra_op_parallelism, server_options.tensorflow_inter_op_parallelism) separately. "
    "You cannot configure all."
)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], NO_MODEL),
        (["--model_base_path="], NO_MODEL),
        (["--port=0"], NO_PORT),
        (["--use_alts_credentials", "--ssl_config_file=/x"], TWO_CREDENTIALS),
        (["--model_base_path=/m", "--batching_parameters_file=/x"], NO_BATCHING),
        (
            [
                "--model_base_path=/m",
                "--tensorflow_session_parallelism=1",
                "--tensorflow_intra_op_parallelism=1",
                "--tensorflow_inter_op_parallelism=1",
            ],
            THREE_PARALLELISMS,
        ),
        (
            ["--model_base_path=m", "--model_name=x"],
            "Expected model x to have an absolute path or URI; got base_path()=m",
        ),
    ],
)
def test_options_that_cannot_be_combined(arguments: list[str], text: str, capsys: Capture) -> None:
    assert main(arguments) == 255
    assert capsys.readouterr().out == f"Failed to start server. Error: INVALID_ARGUMENT: {text}\n"


def test_a_missing_file(tmp_path: Path, capsys: Capture) -> None:
    file = tmp_path / "batching.pbtxt"
    arguments = [f"--model_base_path={tmp_path}", "--enable_batching", f"--batching_parameters_file={file}"]
    assert main(arguments) == 255
    assert capsys.readouterr().out.startswith(f"Failed to start server. Error: NOT_FOUND: {file}")


def test_channel_arguments_without_a_value_are_ignored(caplog: pytest.LogCaptureFixture) -> None:
    assert main(["--grpc_channel_arguments=grpc.keepalive,,grpc.x=1,=", "--model_base_path=m"]) == 255
    assert caplog.messages == ["--grpc_channel_arguments: 'grpc.keepalive' is ignored: it is not of the form key=value"]


def test_alts_outside_google_cloud(tmp_path: Path, capsys: Capture) -> None:
    linear(tmp_path / "1")
    assert main([f"--model_base_path={tmp_path}", "--use_alts_credentials"]) == 255
    assert capsys.readouterr().out.startswith(
        "Failed to start server. Error: INVALID_ARGUMENT: Failed to BuildAndStart gRPC server"
    )


def test_the_command_is_installed_by_its_name() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())
    module, _, function = project["project"]["scripts"]["tensorflow_model_server"].partition(":")

    assert getattr(importlib.import_module(module), function) is main


def test_the_command_serves_despite_an_unknown_flag_and_ends_at_a_signal(tmp_path: Path) -> None:
    linear(tmp_path / "models" / "1")
    path = tmp_path / "server.sock"
    flags = (f"--grpc_socket_path={path}", f"--model_base_path={tmp_path / 'models'}", "--mixed_precision=bfloat16")
    with started("--port=0", "--quux", *flags) as process:
        said = lines_until(process, f"Running gRPC ModelServer at UNIX socket {path} ...")
        with grpc.insecure_channel(f"unix:{path}") as channel:
            request = predict_request({"x": floats([1, 2, 3, 4])}, name="default")
            send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(PREDICT)
            assert send(request.SerializeToString(), timeout=PATIENCE)
        process.send_signal(signal.SIGTERM)
        assert process.wait(PATIENCE) == 0
        assert process.stdout is not None
        assert process.stdout.readline() == "unknown argument: --quux\n"
    assert sum("--mixed_precision is ignored: " in line for line in said) == 1
    assert not any("0.0.0.0" in line for line in said)
    assert not os.path.exists(path)
