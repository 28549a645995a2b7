"""A second, over each way to the server, of what scripts/soak does for ten minutes."""

import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytest.importorskip("headrace_native")

SECONDS = 1


@pytest.mark.parametrize("over", ["tcp", "tls", "unix"])
def test_callers_of_all_kinds_at_once(over: str) -> None:
    command = [sys.executable, "-m", "scripts.soak", f"--seconds={SECONDS}", f"--over={over}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
