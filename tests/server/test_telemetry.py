"""No dependency sends telemetry: none writes into the home folder, starts a thread, or opens a connection."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from headrace_server import telemetry
from tests.support.models import linear

VARIABLE = "ORT_DISABLE_TELEMETRY"

WITHOUT = (1, 29)
"""ONNX Runtime's first version whose Linux wheels have telemetry."""

LOAD = """
import os, sys, threading
import headrace_server
from pathlib import Path
from headrace_server.backends.auto import load
from headrace_server.backends.base import BackendOptions
import numpy as np
backend = load(Path(sys.argv[1]), BackendOptions(intra_op_threads=1, inter_op_threads=1))
backend.run("serving_default", {"x": np.ones((1, 4), np.float32)}, ("y",))
print(len(os.listdir("/proc/self/task")) - threading.active_count(), flush=True)
sys.stdin.read()
"""


class Loaded:
    """A separate process that has loaded and run an ONNX model; it would send telemetry to a socket of the test.

    Args:
        folder: The folder of its model and its home.
        chosen: Additional environment variables.
    """

    def __init__(self, folder: Path, **chosen: str) -> None:
        self.home = folder / "home"
        self.home.mkdir()
        linear(folder / "1")
        self._collector = socket.create_server(("127.0.0.1", 0))
        proxy = f"http://127.0.0.1:{self._collector.getsockname()[1]}"
        environment = {"HOME": str(self.home), "PATH": os.environ["PATH"], "https_proxy": proxy, **chosen}
        environment["OPENBLAS_NUM_THREADS"] = "1"  # otherwise numpy starts threads of its own
        self._process = subprocess.Popen(
            [sys.executable, "-c", LOAD, str(folder / "1")],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.threads = int(self._process.stdout.readline())

    def end(self) -> bool:
        """Ends the process, which flushes its telemetry; returns whether it contacted the collector."""
        self._process.communicate("")
        self._collector.setblocking(False)
        try:
            self._collector.accept()[0].close()
        except BlockingIOError:
            return False
        finally:
            self._collector.close()
        return True

    @property
    def files(self) -> list[Path]:
        """All files in its home."""
        return list(self.home.rglob("*"))


def test_a_loaded_model_sends_no_telemetry(tmp_path: Path) -> None:
    loaded = Loaded(tmp_path)

    asked = loaded.end()

    assert (loaded.files, loaded.threads, asked) == ([], 0, False)


@pytest.mark.skipif(
    tuple(map(int, onnxruntime.__version__.split(".")[:2])) < WITHOUT, reason="this ONNX Runtime has no telemetry"
)
def test_the_users_choice_is_kept(tmp_path: Path) -> None:
    loaded = Loaded(tmp_path, **{VARIABLE: "0"})

    loaded.end()

    assert loaded.files, "telemetry leaves the files that the other test looks for"
    assert loaded.threads > 0


def test_a_variable_that_is_set_is_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, "0")

    telemetry.turn_off()

    assert os.environ[VARIABLE] == "0"
