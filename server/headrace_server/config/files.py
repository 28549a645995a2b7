"""Parses the text-proto files that flags name."""

import logging
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from google.protobuf import text_format
from google.protobuf.message import Message

from headrace_batching import Options, OptionsError
from headrace_batching.option import options_of
from headrace_protos import POOL, BatchingParameters, Code
from headrace_server.config.run import Config
from headrace_server.errors import ServingError, invalid, unreadable

log = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)

HIDDEN = "this place is not as expected; it is not shown, since the file holds a key"


def check_can_be_read_again(path: str | Path) -> None:
    """Checks that a file can be read while calls are served: opening a pipe might wait for a writer forever.

    Raises:
        ServingError: FAILED_PRECONDITION if it is a pipe or a device; the file cannot be found.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        raise unreadable(path, error) from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise ServingError(
            Code.FAILED_PRECONDITION, f"{path}: it is a pipe or a device, which is read only at the start"
        )


def read_text_proto(
    path: str,
    message: M,
    *,
    unknown_fields: bool = False,
    secret: bool = False,
    complain: Callable[[str], object] = log.error,
) -> M:
    """Parses a file into a message.

    Args:
        path: The file.
        message: An empty message of the file's type.
        unknown_fields: Whether fields that the type does not have are skipped.
        secret: Whether the file holds a key, so that no part of it may be logged.
        complain: Takes the reason why the file cannot be parsed, before the error is raised.

    Raises:
        ServingError: The file cannot be read; INVALID_ARGUMENT if it cannot be parsed, with the text of TF
            Serving's proto_util.h; line, column and reason go to `complain`, as protobuf's own parser logs them.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        complain(f"Error parsing text-format {message.DESCRIPTOR.full_name}: {error}")
        raise invalid(f"Invalid protobuf file: '{path}'") from error
    try:
        return text_format.Parse(text, message, descriptor_pool=POOL, allow_unknown_field=unknown_fields)
    except text_format.ParseError as error:
        where = f"{error.GetLine()}:{error.GetColumn()}"
        reason = HIDDEN if secret else str(error).removeprefix(f"{where} : ")
        complain(f"Error parsing text-format {message.DESCRIPTOR.full_name}: {where}: {reason}")
        raise invalid(f"Invalid protobuf file: '{path}'") from error


def read_batching_parameters(path: str, *, threads: int | None = None) -> Options:
    """Reads the batching parameters in a file; those that it does not set keep TF Serving's defaults.

    Args:
        path: The file.
        threads: The default of num_batch_threads.

    Raises:
        ServingError: As for `read_text_proto`; INVALID_ARGUMENT for an invalid value.
    """
    parameters = read_text_proto(path, BatchingParameters())
    if threads is not None:
        parameters.num_batch_threads.value = threads
    return batching_options(parameters, path)


def batching_of(config: Config) -> Options:
    """How requests become batches in this run, unless a model says otherwise.

    Raises:
        ServingError: As for `read_batching_parameters`; INVALID_ARGUMENT if there is a file although batching is off.
            TF Serving's server.cc has the text.
    """
    options = _declared(config)
    return replace(options, latency_objective=config.latency_objective) if config.latency_objective else options


def _declared(config: Config) -> Options:
    if not config.batching_parameters_file:
        return config.batching
    if not config.enable_batching:
        raise invalid(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    return read_batching_parameters(config.batching_parameters_file)


def batching_options(parameters: BatchingParameters, path: str) -> Options:
    """The batching parameters in a message that a file holds.

    Raises:
        ServingError: INVALID_ARGUMENT, with the file's name, for an invalid value.
    """
    values = {
        name: getattr(parameters, name).value
        for name, field in parameters.DESCRIPTOR.fields_by_name.items()
        if name in options_of(Options) and field.message_type and parameters.HasField(name)
    }
    try:
        return Options(
            allowed_batch_sizes=tuple(parameters.allowed_batch_sizes),
            pad_variable_length_inputs=parameters.pad_variable_length_inputs,
            larger_alone="max_batch_size" not in values,
            **values,
        )
    except OptionsError as error:
        raise invalid(f"{path}: {error}") from error
