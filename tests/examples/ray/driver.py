"""Runs in Ray's Python: two replicas, calls without a pause, and a rolling update; prints what it saw.

python driver.py PORT FOLDER        Ray listens on PORT; FOLDER has the models `old`, `new` and `slow`
"""

import asyncio
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import ray
from ray import serve
from serving import Caller, application, directory  # type: ignore[import-not-found]  # of examples/ray

CALLERS = 8
MOST_FAILURES = 100
INPUT = {"x": [[1.0, 2.0, 3.0, 4.0]]}


class Load:
    """Sends calls without a pause until it is stopped."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller
        self._stopped = False
        self.answers: Counter[float] = Counter()
        self.failures: list[str] = []
        self.seconds: list[float] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(CALLERS)))

    async def more(self, answer: float, count: int = 1000) -> None:
        """Waits for more answers with one value."""
        until = self.answers[answer] + count
        while self.answers[answer] < until and len(self.failures) < MOST_FAILURES:  # noqa: ASYNC110  # it is polled
            await asyncio.sleep(0.05)

    def stop(self) -> None:
        self._stopped = True

    async def _call(self) -> None:
        while not self._stopped and len(self.failures) < MOST_FAILURES:
            began = time.monotonic()
            try:
                answer = await self._caller.predict("model", INPUT, timeout=30)
                self.answers[float(answer["y"][0, 0])] += 1
                self.seconds.append(time.monotonic() - began)
            except Exception as error:
                self.failures.append(repr(error))


async def updated(folder: Path) -> dict[str, Any]:
    """What callers saw of an update from `old` to `new`."""
    async with Caller("test") as caller:
        before = await directory("test").addresses.remote()
        load = Load(caller)
        running = asyncio.create_task(load.run())
        await load.more(11.0)
        began = time.monotonic()
        await asyncio.to_thread(deploy, folder / "new")
        after = await settled(before)
        took = time.monotonic() - began
        old = load.answers[11.0]
        await load.more(12.0)
        load.stop()
        await running
    return {
        "before": before,
        "after": after,
        "took": took,
        "answers": {str(key): count for key, count in load.answers.items()},
        "old_at_the_end": load.answers[11.0] - old,
        "failures": load.failures,
        "p50": sorted(load.seconds)[len(load.seconds) // 2],
        "p99": sorted(load.seconds)[len(load.seconds) * 99 // 100],
        "longest": max(load.seconds),
    }


async def settled(before: list[str]) -> list[str]:
    """The addresses, once there are two and both are new."""
    while True:
        found: list[str] = await directory("test").addresses.remote()
        if len(found) == 2 and not set(found) & set(before):
            return found
        await asyncio.sleep(0.1)


def deploy(model: Path) -> None:
    own = application("test", {"model": str(model)}, num_cpus=0.5, host="127.0.0.1", file_system_poll_wait_seconds=0.1)
    serve.run(own, name="test", route_prefix=None)


def main() -> None:
    port, folder = sys.argv[1], Path(sys.argv[2])
    ray.init(address=f"127.0.0.1:{port}", namespace="test", log_to_driver=False)
    serve.start(proxy_location="Disabled")
    deploy(folder / "old")
    print(json.dumps(asyncio.run(updated(folder))), flush=True)
    serve.shutdown()


if __name__ == "__main__":
    main()
