"""Runs scripts/soak for one second over each kind of connection; a full run takes at least ten minutes."""

import random
import subprocess
import sys

import pytest

from scripts.bench.process import free_port
from scripts.soak.report import Outcome, report
from scripts.soak.served import EXACT_HEAP
from scripts.soak.tally import Tally
from scripts.soak.watch import Reading, outside_heap
from tests.conftest import ROOT

pytest.importorskip("headrace_native")

SECONDS = 1


@pytest.mark.parametrize("over", ["tcp", "tls", "unix"])
def test_callers_of_all_kinds_at_once(over: str) -> None:
    command = [sys.executable, "-m", "scripts.soak", f"--seconds={SECONDS}", f"--over={over}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"python -m scripts.soak --over {over} --seconds {SECONDS}`" in done.stdout


def test_two_runs_with_the_same_seed_do_not_choose_the_same_ports() -> None:
    def ports() -> list[int]:
        random.seed(7)
        return [free_port() for _ in range(4)]

    assert ports() != ports()


BEFORE = 11
"""The number of threads before the run."""

GREW = [
    pytest.param([12] * 40, False, id="no growth"),
    pytest.param([11, 13, 12, 11] * 10, False, id="some threads that end soon"),
    pytest.param([11] * 39 + [14], False, id="some threads that start at the very end"),
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
        pytest.param([100] * 40, [100 + look for look in range(40)], False, id="only memory held for callers"),
        pytest.param([100 - look for look in range(20)] + [100] * 20, [100] * 40, False, id="it shrinks at first"),
        pytest.param([50 + look for look in range(20)] + [100] * 20, [100] * 40, False, id="it grows at first"),
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


def test_free_memory_that_was_not_returned_is_no_growth() -> None:
    readings = [Reading(look * 2.5, 150 + look, 1, BEFORE, heap=50, other=100) for look in range(40)]
    before = Reading(0, 1, 1, BEFORE)
    assert Outcome(100, Tally(), readings, before, before, drained=True, resting=readings).good


@pytest.mark.parametrize(("pause", "command"), [(0.0, "--seconds 100`"), (0.1, "--seconds 100 --pause 0.1`")])
def test_the_report_names_its_command(pause: float, command: str) -> None:
    before = Reading(0, 1, 1, BEFORE)
    outcome = Outcome(100, Tally(), [before] * 2, before, before, drained=True)
    assert f"python -m scripts.soak --over tcp {command}" in report("tcp", [], outcome, [], pause)


SMAPS = """\
55d0c6a00000-55d0c6b00000 r-xp 00000000 fe:00 12 /usr/bin/a program
Rss:                   1 kB
55d0c8000000-55d0c9000000 rw-p 00000000 00:00 0 {0}[heap]
Rss:                  20 kB
7f10d0000000-7f10d2700000 rw-p 00000000 00:00 0
Rss:                 300 kB
Anonymous:           300 kB
7f10d2700000-7f10d4000000 ---p 00000000 00:00 0
Rss:                   0 kB
7f10d5000000-7f10d5100000 rw-p 00000000 00:00 0
Rss:                4000 kB
05d730000000-05d770000000 rw-p 00000000 00:00 0
Rss:               50000 kB
7ffd61a00000-7ffd61b00000 rw-p 00000000 00:00 0 {0}[stack]
Rss:              600000 kB
""".format(" " * 18)
"""The mappings of a program: its file, C's first heap, another heap and its rest, two of other allocators, a stack."""


def test_memory_of_other_allocators_is_distinguished_from_that_of_the_heaps() -> None:
    assert outside_heap(SMAPS.splitlines(keepends=True)) == 654_001 * 1024


FREED = """
import ctypes
from headrace_server.metrics.heap import read_memory
read_memory()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
before = read_memory()["heap_used"]
for size in range(24, 1024, 16):
    for block in [libc.malloc(size) for _ in range(7)]:
        libc.free(block)
print(read_memory()["heap_used"] - before)
"""


def test_a_freed_block_does_not_count_as_in_use() -> None:
    grown = subprocess.run([*EXACT_HEAP, sys.executable, "-c", FREED], capture_output=True, text=True, check=True)
    assert int(grown.stdout) < 20_000
