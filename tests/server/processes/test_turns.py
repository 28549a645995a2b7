"""The order of jobs: the smallest first, and one place that large jobs never take."""

import asyncio
from collections.abc import Awaitable, Callable

from headrace_server.processes.turns import Turns

LARGE = 100


class Jobs:
    """Jobs that run until the test ends them, by name, in the order in which they began."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._ended: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.began: list[str] = []

    async def start(self, name: str, size: int) -> None:
        self._ended[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, size))
        await settled()

    async def end(self, name: str) -> None:
        self._ended[name].set()
        await self.tasks[name]
        await settled()

    async def leave(self, name: str) -> None:
        self.tasks[name].cancel()
        await settled()

    async def _run(self, name: str, size: int) -> None:
        async with self._turns.turn(size):
            self.began.append(name)
            await self._ended[name].wait()


async def settled() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def play(scene: Callable[[Jobs], Awaitable[None]], most: int, most_large: int) -> list[str]:
    async def played() -> list[str]:
        jobs = Jobs(Turns(most, large=LARGE, most_large=most_large))
        await scene(jobs)
        for name in jobs.tasks:
            if not jobs.tasks[name].cancelled():
                await jobs.end(name)
        return jobs.began

    return asyncio.run(played())


def test_the_smallest_job_runs_first() -> None:
    async def scene(jobs: Jobs) -> None:
        for name, size in {"first": 5, "b": 3, "c": 3, "a": 1}.items():
            await jobs.start(name, size)
        await jobs.end("first")
        await jobs.end("a")

    assert play(scene, most=1, most_large=1) == ["first", "a", "b", "c"]


def test_large_jobs_leave_a_place_for_small_ones() -> None:
    async def scene(jobs: Jobs) -> None:
        for name in ("bomb 1", "bomb 2", "bomb 3"):
            await jobs.start(name, LARGE)
        await jobs.start("honest", 1)

        assert jobs.began == ["bomb 1", "honest"]

    assert play(scene, most=2, most_large=1) == ["bomb 1", "honest", "bomb 2", "bomb 3"]


def test_a_job_whose_caller_leaves_frees_its_place() -> None:
    async def scene(jobs: Jobs) -> None:
        for name in ("running", "waiting", "last"):
            await jobs.start(name, LARGE)
        await jobs.leave("waiting")
        assert jobs.began == ["running"]
        await jobs.leave("running")

    assert play(scene, most=2, most_large=1) == ["running", "last"]
