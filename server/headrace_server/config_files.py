"""Reads the text-proto files that flags name."""

from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from headrace_batching import Options, OptionsError
from headrace_protos import POOL, BatchingParameters
from headrace_server.errors import invalid, not_found

M = TypeVar("M", bound=Message)


def read_text_proto(path: str, message: M) -> M:
    """Parses a file into a message.

    Raises:
        ServingError: NOT_FOUND where it cannot be read; INVALID_ARGUMENT, with line and column, where it does not
            parse. TF Serving: server.cc has the text.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise not_found(f"{path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise invalid(f"Invalid protobuf file: '{path}': {error}") from error
    try:
        return text_format.Parse(text, message, descriptor_pool=POOL)
    except text_format.ParseError as error:
        name = message.DESCRIPTOR.full_name
        raise invalid(f"Invalid protobuf file: '{path}': Error parsing text-format {name}: {error}") from error


def read_batching_parameters(path: str) -> Options:
    """The batching parameters in a file; what it does not set keeps TF Serving's default.

    Raises:
        ServingError: As for `read_text_proto`; INVALID_ARGUMENT for a value that makes no sense.
    """
    parameters = read_text_proto(path, BatchingParameters())
    wrapped = (
        "max_batch_size",
        "batch_timeout_micros",
        "max_enqueued_batches",
        "num_batch_threads",
        "enable_large_batch_splitting",
        "max_execution_batch_size",
    )
    values = {name: getattr(parameters, name).value for name in wrapped if parameters.HasField(name)}
    try:
        return Options(
            allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
            pad_variable_length_inputs=parameters.pad_variable_length_inputs,
            **values,
        )
    except OptionsError as error:
        raise invalid(f"{path}: {error}") from error
