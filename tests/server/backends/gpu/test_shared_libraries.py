"""The libraries that a shared library needs, read from real files."""

import ctypes
import sys
from pathlib import Path

import numpy.linalg._umath_linalg as linear_algebra
import pytest

from headrace_server.backends.gpu.shared_libraries import needed, why_not_loadable

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux's libraries")

LIBRARY = Path(str(linear_algebra.__file__))


def test_names_the_linked_libraries() -> None:
    assert "libc.so.6" in needed(LIBRARY)


def test_a_file_that_is_not_a_library(tmp_path: Path) -> None:
    file = tmp_path / "library.so"
    file.write_bytes(b"MZ" + bytes(100))

    assert needed(file) == ()
    assert why_not_loadable(file) == ""


def test_the_first_missing_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> None:
        if name == "libc.so.6":
            raise OSError(f"{name}: cannot open shared object file: No such file or directory")

    monkeypatch.setattr(ctypes, "CDLL", load)
    assert why_not_loadable(LIBRARY) == "libc.so.6: cannot open shared object file: No such file or directory"
