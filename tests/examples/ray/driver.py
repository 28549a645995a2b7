"""Runs in Ray's Python: deploys replicas, calls them without a pause, and prints what the callers saw.

python driver.py PORT update FOLDER     two replicas of the model FOLDER/old, replaced by those of FOLDER/new
python driver.py PORT scaling FOLDER    one replica of the slow model FOLDER/slow, which may become two

Ray listens on PORT.
"""

import asyncio
import json
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import ray
from ray import serve
from serving import Caller, application, directory  # type: ignore[import-not-found]  # of examples/ray

from headrace_batching import Options

CALLERS = 8
MANY_CALLERS = 32
MOST_FAILURES = 100
INPUT = {"x": [[1.0, 2.0, 3.0, 4.0]]}


class Load:
    """Sends calls without a pause until it is stopped."""

    def __init__(self, caller: Caller, callers: int = CALLERS) -> None:
        self._caller = caller
        self._callers = callers
        self._stopped = False
        self.answers: Counter[float] = Counter()
        self.failures: list[str] = []
        self.seconds: list[float] = []

    async def run(self) -> None:
        await asyncio.gather(*(self._call() for _ in range(self._callers)))

    async def more(self, answer: float, count: int = 1000) -> None:
        """Waits for more answers with one value."""
        until = self.answers[answer] + count
        while self.answers[answer] < until and len(self.failures) < MOST_FAILURES:  # noqa: ASYNC110  # it is polled
            await asyncio.sleep(0.05)

    async def by_each(self, values: int, count: int = 100) -> None:
        """Waits until `values` different values have been answered, each of them `count` times."""
        while len(self.answers) < values or min(self.answers.values()) < count:  # noqa: ASYNC110  # it is polled
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


@asynccontextmanager
async def loaded(callers: int = CALLERS) -> AsyncIterator[Load]:
    """A load that runs until the end of the block, where its last calls have been answered."""
    async with Caller("test") as caller:
        load = Load(caller, callers)
        running = asyncio.create_task(load.run())
        yield load
        load.stop()
        await running


async def updated(folder: Path) -> dict[str, Any]:
    """The answers and failures that callers got during an update from `old` to `new`."""
    deploy(folder / "old")
    before = await addresses()
    async with loaded() as load:
        await load.more(11.0)
        began = time.monotonic()
        await asyncio.to_thread(deploy, folder / "new")
        after = await settled(lambda found: len(found) == 2 and not set(found) & set(before))
        took = time.monotonic() - began
        old = load.answers[11.0]
        await load.more(12.0)
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


async def scaled(folder: Path) -> dict[str, Any]:
    """The answers and failures that callers got while waiting rows caused a second replica to start."""
    one_by_one = Options(max_batch_size=1, num_batch_threads=1, max_enqueued_batches=10 * MANY_CALLERS)
    deploy(folder / "slow", replicas=1, most_replicas=2, batching=one_by_one)
    before = await addresses()
    async with loaded(MANY_CALLERS) as load:
        began = time.monotonic()
        after = await settled(lambda found: len(found) == 2)
        took = time.monotonic() - began
        await load.by_each(2)
    return {
        "before": before,
        "after": after,
        "took": took,
        "answers": sorted(load.answers.values()),
        "failures": load.failures,
    }


async def settled(are_there: Callable[[list[str]], bool]) -> list[str]:
    """Waits until the addresses of the replicas are as expected, and returns them."""
    while not are_there(found := await addresses()):  # noqa: ASYNC110  # it is polled
        await asyncio.sleep(0.1)
    return found


async def addresses() -> list[str]:
    found: list[str] = await directory("test").addresses.remote()
    return found


def deploy(model: Path, **changes: Any) -> None:
    options = {"num_cpus": 0.5, "host": "127.0.0.1", "file_system_poll_wait_seconds": 0.1, **changes}
    serve.run(application("test", {"model": str(model)}, **options), name="test", route_prefix=None)


def main() -> None:
    port, scenario, folder = sys.argv[1], {"update": updated, "scaling": scaled}[sys.argv[2]], Path(sys.argv[3])
    ray.init(address=f"127.0.0.1:{port}", namespace="test", log_to_driver=False)
    serve.start(proxy_location="Disabled")
    print(json.dumps(asyncio.run(scenario(folder))), flush=True)
    serve.shutdown()


if __name__ == "__main__":
    main()
