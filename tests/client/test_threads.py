"""Clients of threads that end: the native module must outlive the thread that needed it first."""

import subprocess
import sys

import pytest

pytest.importorskip("headrace_native")

_PROGRAM = """
import threading

from headrace_client import Client


def use():
    Client("127.0.0.1:1").close()


for _ in range(50):
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
"""


def test_the_thread_that_creates_the_first_client_may_end() -> None:
    ended = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, timeout=120)
    assert (ended.returncode, ended.stderr) == (0, b"")
