"""The output of libraries is suppressed, and no other output is."""

import os

import pytest

from headrace_toolkit import ToolkitError
from headrace_toolkit.steps.quiet import quietly, stderr_aside


def noisy(error: Exception) -> None:
    os.write(2, b"from C++\n")
    print("much")
    raise error


def test_what_cpp_writes_to_stderr_goes_nowhere(capfd: pytest.CaptureFixture[str]) -> None:
    os.write(2, b"before\n")
    with pytest.raises(ValueError, match="inside"), stderr_aside():
        noisy(ValueError("inside"))
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "before\nafter\n"


def test_what_python_prints_goes_nowhere_and_errors_are_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ToolkitError, match=r"^the conversion failed: KeyError: 'x'$"), quietly("the conversion"):
        noisy(KeyError("x"))
    assert capfd.readouterr().out == ""
