"""The `headrace` command as a shell runs it: its flags, its exit status, and its messages on stderr."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest

from headrace_server.commands.flags import FLAGS
from headrace_server.commands.headrace import main
from tests.support.models import linear

COMMAND = str(Path(sys.executable).with_name("headrace"))
PATIENCE = 30.0  # seconds; far more than it ever takes


# Declared in TF Serving's main.cc.
TF_SERVING_FLAGS = frozenset(
    """
    port grpc_socket_path rest_api_port rest_api_num_threads rest_api_timeout_in_ms rest_api_enable_cors_support
    enable_batching allow_version_labels_for_unavailable_models batching_parameters_file
    enable_per_model_batching_parameters model_config_file model_config_file_poll_wait_seconds model_name
    model_base_path num_load_threads num_unload_threads max_num_load_retries load_retry_interval_micros
    file_system_poll_wait_seconds flush_filesystem_caches tensorflow_session_parallelism
    tensorflow_intra_op_parallelism tensorflow_inter_op_parallelism tensorflow_session_config_file ssl_config_file
    platform_config_file per_process_gpu_memory_fraction saved_model_tags grpc_channel_arguments grpc_max_threads
    enable_model_warmup num_request_iterations_for_warmup version monitoring_config_file use_alts_credentials
    remove_unused_fields_from_bundle_metagraph prefer_tflite_model num_tflite_pools
    num_tflite_interpreters_per_pool enable_signature_method_name_check xla_cpu_compilation_enabled
    xla_gpu_compilation_enabled enable_profiler thread_pool_factory_config_file mixed_precision
    skip_initialize_tpu enable_grpc_healthcheck_service enable_serialization_as_tensor_content
    """.split()
)


def headrace(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell runs it, in a terminal so wide that its help is not wrapped."""
    environment = {**os.environ, "COLUMNS": "500"}
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False
    )


class Shell:
    """The command, run in this process, so that tests need not start another process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def refused(self, *flags: str) -> str:
        """The error of `headrace serve` for flags that it refuses."""
        with pytest.raises(SystemExit) as raised:
            self._serve(*flags)
        message, hint = self._said().splitlines()
        assert (raised.value.code, hint) == (2, "Try 'headrace serve --help'.")
        return message.removeprefix("headrace serve: ")

    def not_started(self, *flags: str) -> str:
        """The error with which `headrace serve` fails to start."""
        assert self._serve(*flags) == 1
        *logged, message = self._said().splitlines()
        assert all(re.match(r"\d{4}-\d\d-\d\dT", line) for line in logged)
        assert message.startswith("headrace: cannot start: ")
        return message.removeprefix("headrace: cannot start: ")

    def _serve(self, *flags: str) -> int:
        # If the server did start, it would serve until it was stopped.
        guard = Timer(PATIENCE, os.kill, (os.getpid(), signal.SIGTERM))
        guard.start()
        try:
            return main(["serve", *flags])
        finally:
            guard.cancel()

    def _said(self) -> str:
        captured = self._capture.readouterr()
        assert captured.out == ""
        return captured.err


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.fixture(scope="module")
def help_text() -> str:
    return headrace("serve", "--help").stdout


@contextmanager
def serving(*arguments: str) -> "Iterator[subprocess.Popen[str]]":
    with subprocess.Popen([COMMAND, "serve", *arguments], stderr=subprocess.PIPE, text=True) as process:
        guard = Timer(PATIENCE, process.kill)
        guard.start()
        try:
            yield process
        finally:
            guard.cancel()
            process.kill()


def line_with(process: "subprocess.Popen[str]", words: str) -> str:
    """The next line of stderr that contains the words."""
    assert process.stderr is not None
    line = next((line for line in process.stderr if words in line), None)
    assert line is not None, f"it ended without saying {words!r}"
    return line


class TestHelp:
    def test_every_field_with_a_help_text_is_a_flag_and_nothing_else_is(self, help_text: str) -> None:
        assert set(re.findall(r"^ +(?:-h, )?--(\w+)", help_text, re.MULTILINE)) == {"help", "check", *FLAGS}

    @pytest.mark.parametrize("name", sorted(FLAGS))
    def test_every_flag_is_shown_with_what_it_does_and_its_default(self, name: str, help_text: str) -> None:
        default, text = FLAGS[name].default, FLAGS[name].metadata["help"]
        nothing = "empty" if "empty" in text else "none"
        shown = (",".join(map(str, default)) if isinstance(default, tuple) else str(default)) or nothing
        shown = shown.lower() if isinstance(default, bool) else shown
        note = "ignored" if FLAGS[name].metadata["ignored"] else f"default: {shown}"
        said = re.escape(text if "(default: " in text else f"{text} ({note})")

        assert re.search(rf"^ +--{name} .*\s+{said}$", help_text, re.MULTILINE)

    def test_the_command_alone_points_to_serve(self) -> None:
        ended = headrace("--help")

        assert ended.returncode == 0
        assert re.search(r"^ +serve +serve models$", ended.stdout, re.MULTILINE)
        assert "To begin: `headrace serve iris.onnx" in ended.stdout

    def test_no_command_at_all(self) -> None:
        ended = headrace()

        assert ended.returncode == 2
        assert ended.stderr == "headrace: the following arguments are required: COMMAND\nTry 'headrace --help'.\n"

    def test_version(self) -> None:
        ended = headrace("--version")

        assert ended.returncode == 0
        assert re.fullmatch(r"headrace \d+\.\d+\.\d+\n", ended.stdout)


class TestFlags:
    def test_a_misspelt_flag_is_answered_with_the_right_one(self, shell: Shell) -> None:
        assert shell.refused("--model_base_pth=/m") == (
            "unknown flag --model_base_pth; did you mean --model_base_path?"
        )

    def test_a_flag_that_resembles_no_other(self, shell: Shell) -> None:
        assert shell.refused("--quux", "7") == "unknown flag --quux"

    def test_a_flag_that_another_command_has(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["bench", "--preload_models=a"])
        assert "headrace bench: unknown flag --preload_models\n" in capsys.readouterr().err

    def test_a_part_of_a_name_is_not_a_flag(self, shell: Shell) -> None:
        assert shell.refused("--model_base=m").startswith("unknown flag --model_base")

    def test_every_flag_of_tf_serving_is_one_of_ours(self) -> None:
        assert set(FLAGS) > TF_SERVING_FLAGS - {"version"}

    @pytest.mark.parametrize("name", [name for name in FLAGS if FLAGS[name].metadata["ignored"]])
    def test_a_flag_without_an_effect_is_accepted_and_reported(
        self, shell: Shell, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        value = {bool: "true", int: "3", float: "0.5", str: "x"}[type(FLAGS[name].default)]
        shell.not_started("--model_base_path=not/absolute", f"--{name}={value}")

        assert caplog.messages == [f"--{name} is ignored: {FLAGS[name].metadata['ignored']}"]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("--port=many",), "--port must be a whole number from 0 to 65535; was 'many'"),
            (("--port=",), "--port must be a whole number from 0 to 65535; was ''"),
            (("--port",), "argument --port: expected one argument"),
            (("--drain_seconds=soon",), "--drain_seconds must be a finite number of at least 0; was 'soon'"),
            (("--enable_batching=maybe",), "--enable_batching must be true or false; was 'maybe'"),
        ],
    )
    def test_a_wrong_value_is_named_with_its_flag(self, shell: Shell, arguments: tuple[str, ...], said: str) -> None:
        assert shell.refused(*arguments) == said


class TestCannotStart:
    @pytest.mark.parametrize("flags", [(), ("--model_base_path=",)])
    def test_without_a_base_path(self, shell: Shell, flags: tuple[str, ...]) -> None:
        assert (
            shell.refused(*flags) == "no model was given: name its file or its folder, as in `headrace serve iris.onnx`"
        )

    @pytest.mark.parametrize("flags", [("--model_base_path=models/m",), ("--model_base_path", "models/m")])
    def test_a_relative_base_path(self, shell: Shell, flags: tuple[str, ...]) -> None:
        assert shell.not_started(*flags, "--model_name", "m") == (
            "INVALID_ARGUMENT: Expected model m to have an absolute path or URI; got base_path()=models/m"
        )

    def test_the_last_of_two_equal_flags_counts(self, shell: Shell) -> None:
        assert "got base_path()=second" in shell.not_started("--model_base_path=/first", "--model_base_path=second")

    def test_a_missing_batching_file(self, shell: Shell, tmp_path: Path) -> None:
        file = tmp_path / "none.pbtxt"

        assert shell.not_started(f"--model_base_path={tmp_path}", f"--batching_parameters_file={file}") == (
            f"NOT_FOUND: {file}: No such file or directory"
        )

    def test_a_batching_file_that_does_not_parse(self, shell: Shell, tmp_path: Path) -> None:
        file = tmp_path / "batching.pbtxt"
        file.write_text("max_batch_size { value: 8 }\nnum_batch_threads: 2\n")

        assert shell.not_started(f"--model_base_path={tmp_path}", f"--batching_parameters_file={file}") == (
            f"INVALID_ARGUMENT: Invalid protobuf file: '{file}'"
        )

    @pytest.mark.parametrize("off", [("--enable_batching=false",), ("--enable_batching", "0")])
    def test_a_batching_file_with_batching_off(self, shell: Shell, tmp_path: Path, off: tuple[str, ...]) -> None:
        assert shell.not_started(f"--model_base_path={tmp_path}", "--batching_parameters_file=/b.pbtxt", *off) == (
            "INVALID_ARGUMENT: server_options.batching_parameters_file is set "
            "without setting server_options.enable_batching to true."
        )

    def test_channel_arguments_without_a_value(self, shell: Shell, tmp_path: Path) -> None:
        said = shell.not_started(f"--model_base_path={tmp_path}", "--grpc_channel_arguments=a=1,grpc.keepalive")

        assert said == ("INVALID_ARGUMENT: --grpc_channel_arguments: 'grpc.keepalive' is not of the form key=value")

    @pytest.mark.parametrize("port", [-1, 65536, 70000])
    @pytest.mark.parametrize("name", ["port", "rest_api_port"])
    def test_a_port_out_of_range(self, shell: Shell, tmp_path: Path, name: str, port: int) -> None:
        said = shell.refused(f"--model_base_path={tmp_path}", f"--{name}={port}")

        assert said == f"--{name} must be a whole number from 0 to 65535; was {port}"

    @pytest.mark.parametrize("name", ["rest_api_max_body_mb", "rest_api_json_processes"])
    def test_too_few_threads(self, shell: Shell, tmp_path: Path, name: str) -> None:
        said = shell.refused(f"--model_base_path={tmp_path}", f"--{name}=0")

        assert said == f"--{name} must be a whole number of at least 1; was 0"

    def test_a_negative_number_of_threads(self, shell: Shell, tmp_path: Path) -> None:
        said = shell.refused(f"--model_base_path={tmp_path}", "--num_load_threads=-3")

        assert said == "--num_load_threads must be a whole number of at least 0; was -3"

    def test_a_model_without_a_name(self, shell: Shell, tmp_path: Path) -> None:
        said = shell.refused(f"--model_base_path={tmp_path}", "--model_name=")

        assert said == "--model_name must not be empty"

    @pytest.mark.parametrize("devices", ["", "0,0", "-1", "first"])
    def test_an_invalid_list_of_gpus(self, shell: Shell, tmp_path: Path, devices: str) -> None:
        said = shell.refused(f"--model_base_path={tmp_path}", f"--tensorrt_devices={devices}")

        assert said == (
            f"--tensorrt_devices must be a list of one or more different whole numbers of at least 0; was {devices!r}"
        )

    @pytest.mark.parametrize("seconds", ["-1.0", "nan", "inf"])
    def test_an_invalid_drain_time(self, shell: Shell, tmp_path: Path, seconds: str) -> None:
        said = shell.refused(f"--model_base_path={tmp_path}", f"--drain_seconds={seconds}")

        assert said == f"--drain_seconds must be a finite number of at least 0; was {seconds}"

    def test_a_transport_that_does_not_exist(self, shell: Shell, tmp_path: Path) -> None:
        said = shell.refused(f"--model_base_path={tmp_path}", "--transport=pigeon")

        assert said == "--transport must be one of auto, grpcio, native; was 'pigeon'"

    def test_a_model_that_does_not_load(self, tmp_path: Path) -> None:
        file = linear(tmp_path / "3")
        file.write_bytes(b"no model")

        ended = headrace(
            "serve", f"--model_base_path={tmp_path}", "--model_name=m", "--port=0", "--max_num_load_retries=0"
        )

        assert (ended.returncode, ended.stdout) == (1, "")
        assert ended.stderr.splitlines()[-1].startswith(
            "headrace: cannot start: UNKNOWN: 1 servable(s) did not become available: "
            f"{{{{{{name: m version: 3}} due to error: INVALID_ARGUMENT: {file} cannot be loaded: "
        )

    def test_a_missing_base_path_is_waited_for(self, tmp_path: Path) -> None:
        missing = tmp_path / "missing"
        with serving(f"--model_base_path={missing}", "--port=0") as process:
            assert f"Could not find base path {missing}" in line_with(process, "WARNING")
            process.send_signal(signal.SIGTERM)

            assert process.wait(PATIENCE) == 0


class TestServing:
    def test_the_server_reports_that_it_serves_and_ends_at_a_signal(self, tmp_path: Path) -> None:
        linear(tmp_path / "1")
        flags = ("--model_base_path", str(tmp_path), "--port", "0", "--enable_batching", "--drain_seconds=1")
        with serving(*flags) as process:
            running = line_with(process, "Running gRPC ModelServer")
            process.send_signal(signal.SIGINT)

            assert re.search(r"Running gRPC ModelServer at 0\.0\.0\.0:[1-9]\d* \.\.\.$", running)
            assert line_with(process, "the server drains")
            assert process.wait(PATIENCE) == 0


@pytest.mark.parametrize("command", ["serve", "build"])
def test_the_help_names_each_default_once_and_all_choices(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "(default: )" not in text
    assert ") (default: none)" not in text
    assert ("empty means all interfaces, IPv4 and IPv6 (default: empty)" in text) == (command == "serve")
    assert ("--log_level debug|info|warning|error" in text) == (command == "serve")
