"""The output of libraries is suppressed, and no other output is."""

import os

import pytest

from headrace_toolkit import ToolkitError
from headrace_toolkit.steps.quiet import quietly, stderr_aside


def noisy(error: Exception) -> None:
    os.write(2, b"from C++\n")
    print("much")
    raise error


def test_output_of_cpp_code_to_stderr_is_suppressed(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before\n")
    with pytest.raises(ValueError, match="inside"), stderr_aside():
        noisy(ValueError("inside"))
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_output_of_python_code_is_suppressed_and_errors_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ToolkitError, match=r"^the conversion failed: KeyError: 'x'$"), quietly("the conversion"):
        noisy(KeyError("x"))
    assert capfd.readouterr().out == ""
