"""The processes for large bodies: the effects of callers who leave, and of decompression bombs."""

import asyncio
import gzip
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from headrace_protos import Code
from headrace_server.errors import ServingError
from headrace_server.processes import pool
from headrace_server.processes.pool import LARGE_BYTES, JsonProcesses
from headrace_server.services.json.reader import parse
from headrace_server.services.tf_serving.rest.large import MAX_INFLATED_BYTES, inflate
from tests.support.running import eventually

WITHIN = 60.0


def spin(started: str) -> None:
    """A job that never ends."""
    Path(started).write_text(str(os.getpid()))
    while True:
        pass


def process() -> int:
    """The ID of the process that runs this function."""
    return os.getpid()


def hoard(size: int) -> int:
    """Allocates some bytes, and returns their number."""
    return len(bytearray(size))


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the processes import these functions."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[3]))


def play(scene: Callable[[JsonProcesses], Awaitable[None]], memory: int = 0) -> None:
    async def played() -> None:
        processes = JsonProcesses(1, memory)
        try:
            async with asyncio.timeout(WITHIN):
                await scene(processes)
        finally:
            await processes.close()

    asyncio.run(played())


def test_a_job_is_ended_when_its_caller_has_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.0)
    started = tmp_path / "started"

    async def scene(processes: JsonProcesses) -> None:
        working = asyncio.create_task(processes.run(spin, str(started), size=LARGE_BYTES))
        await asyncio.to_thread(eventually, lambda: started.exists() and started.read_text())
        working.cancel()
        number = int(started.read_text())
        await asyncio.to_thread(eventually, lambda: not Path("/proc", str(number)).exists())

        assert await processes.run(process, size=LARGE_BYTES) != number

    play(scene)


SERVER = """
import asyncio, sys
from headrace_server.processes.pool import LARGE_BYTES, JsonProcesses
from tests.server.processes.test_pool import spin

asyncio.run(JsonProcesses(1).run(spin, sys.argv[1], size=LARGE_BYTES))
"""


def test_a_job_is_ended_when_its_server_is_killed(tmp_path: Path) -> None:
    started = tmp_path / "started"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    with subprocess.Popen([sys.executable, "-c", SERVER, str(started)], env=environment) as server:
        try:
            eventually(lambda: started.exists() and started.read_text())
        finally:
            server.kill()
    child = Path("/proc", started.read_text())
    try:
        eventually(lambda: not child.exists() or "State:\tZ" in (child / "status").read_text())
    finally:
        with suppress(ProcessLookupError):
            os.kill(int(child.name), signal.SIGKILL)


def test_a_process_that_starts_for_a_caller_who_leaves_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    starting, may_start, started = threading.Event(), threading.Event(), list[pool._Process]()

    def start(memory: int) -> pool._Process:
        starting.set()
        assert may_start.wait(WITHIN)
        started.append(original(memory))
        return started[0]

    async def scene(processes: JsonProcesses) -> None:
        working = asyncio.create_task(processes.run(process, size=1))
        await asyncio.to_thread(starting.wait, WITHIN)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        asyncio.get_running_loop().call_later(pool.GRACE_SECONDS, may_start.set)

    original = pool._Process
    monkeypatch.setattr(pool, "_Process", start)
    monkeypatch.setattr(pool, "GRACE_SECONDS", 0.0)
    play(scene)
    assert started[0]._process.returncode is not None


def test_no_body_takes_more_memory_than_the_limit_of_a_process() -> None:
    async def scene(processes: JsonProcesses) -> None:
        with pytest.raises(ServingError, match=r"needs more memory .* \(--request_memory_mb\)") as refused:
            await processes.run(hoard, 1 << 30, size=1)
        assert refused.value.code == Code.RESOURCE_EXHAUSTED
        assert await processes.run(hoard, 32 << 20, size=1) == 32 << 20

    play(scene, memory=64 << 20)


def test_a_small_body_does_not_wait_for_a_large_one(tmp_path: Path) -> None:
    started = tmp_path / "started"

    async def scene(processes: JsonProcesses) -> None:
        large = [asyncio.create_task(processes.run(spin, str(started), size=LARGE_BYTES)) for _ in range(3)]

        assert await processes.run(process, size=1) > 0
        for working in large:
            working.cancel()

    play(scene)


def test_a_waiting_job_is_dropped_when_its_caller_has_left(tmp_path: Path) -> None:
    started, never = tmp_path / "started", tmp_path / "never"

    async def scene(processes: JsonProcesses) -> None:
        asyncio.create_task(processes.run(spin, str(started), size=LARGE_BYTES))  # noqa: RUF006 - closed with the rest
        await asyncio.to_thread(eventually, started.exists)
        waiting = asyncio.create_task(processes.run(spin, str(never), size=LARGE_BYTES))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.to_thread(eventually, lambda: len(processes._jobs) == 1)

    play(scene)
    assert not never.exists()


def test_a_process_imports_nothing_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "orjson.py").write_text("open('was-here', 'w')")
    monkeypatch.chdir(tmp_path)

    async def scene(processes: JsonProcesses) -> None:
        assert await processes.run(parse, b"{}", size=1) == {}

    play(scene)
    assert not (tmp_path / "was-here").exists()


def test_the_failure_of_a_function_reaches_its_caller() -> None:
    async def scene(processes: JsonProcesses) -> None:
        with pytest.raises(ServingError, match="invalid literal"):
            await processes.run(int, "x", size=1)

    play(scene)


@pytest.mark.parametrize("size", [MAX_INFLATED_BYTES + 1, 4 << 30])
def test_a_decompression_bomb_is_not_decompressed(size: int) -> None:
    claims = gzip.compress(b"{}")[:-4] + (size % 2**32).to_bytes(4, "little")
    held = inflate(claims)

    assert not held


def test_gzip_data_is_decompressed_up_to_its_declared_size() -> None:
    honest = gzip.compress(bytes(1 << 20))

    assert inflate(honest) == bytes(1 << 20)
    assert inflate(honest[:-4] + (1000).to_bytes(4, "little")) == b""
