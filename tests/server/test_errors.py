"""Every error, and the code and the text that its caller gets."""

import errno
import logging
import os
from typing import Any

import pytest

from headrace_batching import (
    BatchingError,
    BatchOutputError,
    Closed,
    DeadlineExceeded,
    InvalidTask,
    QueueFull,
    TaskTooLarge,
)
from headrace_protos import Code
from headrace_server.errors import LoadError, ServingError, invalid, not_found, status_of, unreadable


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TaskTooLarge(9, 8), Code.INVALID_ARGUMENT),
        (InvalidTask("no rows"), Code.INVALID_ARGUMENT),
        (QueueFull("so many wait"), Code.UNAVAILABLE),
        (DeadlineExceeded(), Code.RESOURCE_EXHAUSTED),
        (BatchOutputError("no batch axis"), Code.FAILED_PRECONDITION),
        (Closed(), Code.UNAVAILABLE),
        (invalid("wrong"), Code.INVALID_ARGUMENT),
        (not_found("nowhere"), Code.NOT_FOUND),
        (ServingError(Code.UNIMPLEMENTED, "not here"), Code.UNIMPLEMENTED),
        (LoadError(Code.NOT_FOUND, "no file"), Code.NOT_FOUND),
    ],
)
def test_a_known_failure_has_its_code_and_its_own_text(error: Exception, code: Code) -> None:
    assert status_of(error) == (code, str(error))


def test_a_lack_of_threads_passes() -> None:
    text = "the server has run out of a system resource: can't start new thread"
    assert status_of(RuntimeError("can't start new thread")) == (Code.UNAVAILABLE, text)


@pytest.mark.parametrize("code", [0, 17, 20, 99, -1, "NOT_FOUND", None])
def test_a_code_that_no_failure_has_becomes_internal(code: Any) -> None:
    assert status_of(ServingError(code, "odd")) == (Code.INTERNAL, "odd")


def test_a_call_for_which_there_is_no_memory_is_refused() -> None:
    text = "the server has too little memory"
    assert status_of(MemoryError()) == (Code.RESOURCE_EXHAUSTED, text)
    assert status_of(MemoryError("1 GiB")) == (Code.RESOURCE_EXHAUSTED, f"{text}: 1 GiB")


def test_every_failure_of_batching_is_mapped() -> None:
    unmapped = [kind for kind in BatchingError.__subclasses__() if status_of(_made(kind))[0] == Code.INTERNAL]

    assert unmapped == []


def test_an_unexpected_error_is_internal_with_its_traceback_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        assert status_of(_raised(ZeroDivisionError("by nothing"))) == (
            Code.INTERNAL,
            "ZeroDivisionError: by nothing",
        )

    assert "in _raised" in caplog.text


def test_a_known_failure_logs_nothing(caplog: pytest.LogCaptureFixture) -> None:
    status_of(invalid("wrong"))
    status_of(DeadlineExceeded())

    assert caplog.records == []


def _made(kind: type[BatchingError]) -> BatchingError:
    return kind.__new__(kind)


def _raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOENT, Code.NOT_FOUND),
        (errno.EACCES, Code.PERMISSION_DENIED),
        (errno.EISDIR, Code.FAILED_PRECONDITION),
        (errno.ENAMETOOLONG, Code.INVALID_ARGUMENT),
        (errno.EIO, Code.UNKNOWN),
    ],
)
def test_a_file_that_cannot_be_read(number: int, code: Code) -> None:
    error = unreadable("/etc/models", OSError(number, os.strerror(number)))
    assert status_of(error) == (code, f"/etc/models: {os.strerror(number)}")
