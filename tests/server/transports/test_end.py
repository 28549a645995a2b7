"""The command exits in time, whatever its models and its callers do; `make endings` tries all situations."""

from pathlib import Path

import pytest

from .endings import SITUATIONS, WITHIN, play

SLACK = 3.0
"""Seconds, on a machine that is also busy with other work."""


@pytest.mark.parametrize(
    "name",
    [
        "an open reflection stream",
        "a run that hangs in a worker process",
        "a warm-up file that is a FIFO",
    ],
)
def test_the_command_exits_in_time(tmp_path: Path, transport: str, name: str) -> None:
    seconds, status = play(SITUATIONS[name], transport, tmp_path / "m")
    assert seconds < WITHIN + SLACK
    assert status == 0
