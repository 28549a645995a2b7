"""The generated modules are up to date with their sources."""

import subprocess
from pathlib import Path


def test_generated_modules_are_up_to_date() -> None:
    script = Path(__file__).parents[2] / "scripts" / "protos"
    run = subprocess.run([script, "--check"], capture_output=True, text=True, timeout=120, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
