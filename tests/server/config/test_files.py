"""Text-proto files: which options they set and leave unchanged, and the position in an error."""

from pathlib import Path

import pytest

from headrace_batching import Options
from headrace_protos import Code
from headrace_server.config.files import read_batching_parameters
from headrace_server.errors import ServingError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "batching.pbtxt"


def options_in(file: Path, text: str) -> Options:
    file.write_text(text)
    return read_batching_parameters(str(file))


def failure_of(file: Path) -> tuple[Code, str]:
    with pytest.raises(ServingError) as raised:
        read_batching_parameters(str(file))
    return raised.value.code, raised.value.message


def test_every_parameter_is_read(file: Path) -> None:
    text = """
    # as it stands in many a deployment
    max_batch_size { value: 128 }
    batch_timeout_micros: { value: 1500 },
    max_enqueued_batches { value: 7 }; num_batch_threads { value: 3 }
    thread_pool_name { value: 'my' "_threads" }
    allowed_batch_sizes: [ 8, 32 ] allowed_batch_sizes: 128
    pad_variable_length_inputs: true
    enable_large_batch_splitting { value: true }
    max_execution_batch_size { value: 64 }
    """

    assert options_in(file, text) == Options(
        max_batch_size=128,
        batch_timeout_micros=1500,
        max_enqueued_batches=7,
        num_batch_threads=3,
        allowed_batch_sizes=(8, 32, 128),
        pad_variable_length_inputs=True,
        enable_large_batch_splitting=True,
        max_execution_batch_size=64,
    )


def test_an_empty_file_keeps_every_default(file: Path) -> None:
    options = options_in(file, "")

    assert options == Options(larger_alone=True)
    assert (options.max_batch_size, options.batch_timeout_micros, options.max_enqueued_batches) == (1000, 0, 10)


def test_a_parameter_set_to_zero_is_not_a_default(file: Path) -> None:
    assert options_in(file, "max_enqueued_batches { value: 0 }").max_enqueued_batches == 0
    assert options_in(file, "max_enqueued_batches { }").max_enqueued_batches == 0


class TestUnreadable:
    def test_a_missing_file(self, file: Path) -> None:
        assert failure_of(file) == (Code.NOT_FOUND, f"{file}: No such file or directory")

    def test_a_folder(self, tmp_path: Path) -> None:
        assert failure_of(tmp_path) == (Code.FAILED_PRECONDITION, f"{tmp_path}: Is a directory")

    def test_bytes_that_are_not_text(self, file: Path, caplog: pytest.LogCaptureFixture) -> None:
        file.write_bytes(b"\xff\xfe max_batch_size")

        assert failure_of(file) == (Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{file}'")
        assert caplog.messages[0].startswith(
            "Error parsing text-format tensorflow.serving.BatchingParameters: 'utf-8' codec can't decode byte 0xff"
        )


class TestMalformed:
    @pytest.mark.parametrize(
        ("content", "where"),
        [
            ("max_batch_size { value: many }", "1:25"),
            ("# a comment\nmax_batch_size: 128", "2:17"),
            ("\n\n  no_such_parameter: 1", "3:3"),
            ("max_batch_size { value: 1 ", "1:25"),
            ("allowed_batch_sizes: 1.5", "1:22"),
            ("pad_variable_length_inputs: 7", "1:29"),
            ("max_batch_size { value: 1 } max_batch_size { value: 2 }", "1:44"),
        ],
    )
    def test_the_error_names_the_file_and_the_log_the_position(
        self, file: Path, content: str, where: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        file.write_text(content)

        assert failure_of(file) == (Code.INVALID_ARGUMENT, f"Invalid protobuf file: '{file}'")
        (line,) = caplog.messages
        reason = line.removeprefix(f"Error parsing text-format tensorflow.serving.BatchingParameters: {where}: ")
        assert reason != line
        assert reason[0].isalpha() or reason[0] == "'"

    # TF Serving: batching_session.cc and batch_scheduler_utils.h.
    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            ("num_batch_threads { value: 0 }", "num_batch_threads must be positive; was 0"),
            ("batch_timeout_micros { value: -1 }", "batch_timeout_micros must be non-negative; was -1"),
            ("max_batch_size { }", "max_batch_size must be positive; was 0"),
            (
                "allowed_batch_sizes: 8",
                "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 1000",
            ),
            (
                "max_batch_size { value: 8 } max_execution_batch_size { value: 9 } "
                "enable_large_batch_splitting { value: true }",
                "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
                "max_execution_batch_size. input_batch_size_limit: 8, max_execution_batch_size: 9",
            ),
        ],
    )
    def test_an_invalid_value(self, file: Path, content: str, reason: str) -> None:
        file.write_text(content)

        assert failure_of(file) == (Code.INVALID_ARGUMENT, f"{file}: {reason}")
