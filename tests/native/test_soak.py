"""Runs scripts/soak for one second over each kind of connection; a full run takes at least ten minutes."""

import subprocess
import sys

import pytest

from scripts.soak.report import Outcome
from scripts.soak.tally import Tally
from scripts.soak.watch import Reading
from tests.conftest import ROOT

pytest.importorskip("headrace_native")

SECONDS = 1


@pytest.mark.parametrize("over", ["tcp", "tls", "unix"])
def test_callers_of_all_kinds_at_once(over: str) -> None:
    command = [sys.executable, "-m", "scripts.soak", f"--seconds={SECONDS}", f"--over={over}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


BEFORE = 11
"""The threads before the run."""

GREW = [
    pytest.param([12] * 40, False, id="no growth"),
    pytest.param([11, 13, 12, 11] * 10, False, id="some threads for a moment"),
    pytest.param([11] * 39 + [14], False, id="some threads at the very end"),
    pytest.param([11] * 20 + [12] * 20, False, id="one more thread of a pool"),
    pytest.param([11] * 20 + [13] * 20, True, id="two more threads that stay"),
    pytest.param([11 + look // 5 for look in range(40)], True, id="steady growth"),
]


@pytest.mark.parametrize(("threads", "grew"), GREW)
def test_lasting_threads_are_distinguished_from_temporary_ones(threads: list[int], grew: bool) -> None:
    readings = [Reading(50 + look, 1, 1, count) for look, count in enumerate(threads)]
    before = Reading(0, 1, 1, BEFORE)
    assert Outcome(100, Tally(), readings, before, before, drained=True).threads_grew is grew


@pytest.mark.parametrize(
    ("resting", "loaded", "grew"),
    [
        pytest.param([100] * 40, [100 + look for look in range(40)], False, id="only what callers make it hold"),
        pytest.param([100 - look for look in range(20)] + [100] * 20, [100] * 40, False, id="less in the first half"),
        pytest.param([50 + look for look in range(20)] + [100] * 20, [100] * 40, False, id="more in the first half"),
        pytest.param([1000] * 20 + [1000 + look for look in range(20)], [1000] * 40, True, id="more at rest"),
    ],
)
def test_memory_counts_while_the_server_holds_nothing_for_callers(
    resting: list[int], loaded: list[int], grew: bool
) -> None:
    def readings(sizes: list[int]) -> list[Reading]:
        return [Reading(look * 2.5, size, 1, BEFORE) for look, size in enumerate(sizes)]

    before = Reading(0, 1, 1, BEFORE)
    outcome = Outcome(100, Tally(), readings(loaded), before, before, drained=True, resting=readings(resting))
    assert outcome.good is not grew
