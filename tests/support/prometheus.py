"""The real Prometheus and its promtool, where they are installed (Debian: apt-get install prometheus)."""

import shutil
import subprocess

import pytest


def tool(name: str) -> str:
    """The path of `prometheus` or `promtool`; skips the test where it is not there."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"there is no {name} command")
    return found


def lint(page: str) -> str:
    """What `promtool check metrics` finds wrong with a page; empty for nothing."""
    run = subprocess.run([tool("promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
    return run.stdout + run.stderr


def samples(page: str) -> dict[str, float]:
    """Every sample of a page by its name and labels, as they are written."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {series: float(number) for series, _, number in lines}
