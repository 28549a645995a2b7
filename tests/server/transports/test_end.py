"""The end of the command in time, whatever its models and its callers do; `endings.py` has more situations."""

from pathlib import Path

import pytest

from .endings import SITUATIONS, WITHIN, play

SLACK = 3.0
"""Seconds, on a machine that does something else at the same time."""


@pytest.mark.parametrize(
    "name",
    [
        "a client that says nothing",
        "an open reflection stream",
        "half a REST body",
        "a run that hangs in a worker process",
        "a run that hangs in the server",
        "a first load that hangs",
        "a second load that hangs",
        "a warm-up file that is a FIFO",
    ],
)
def test_it_ends_in_time(tmp_path: Path, transport: str, name: str) -> None:
    seconds, status = play(SITUATIONS[name], transport, tmp_path / "m")
    assert seconds < WITHIN + SLACK
    assert status == 0
