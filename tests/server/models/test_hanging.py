"""A run that hangs in the server's own process: its callers get an error, and nothing else waits for it."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import numpy as np
import pytest

from headrace_batching import BatchThreads, Options, RunHangs, RunTimedOut
from headrace_protos import Code
from headrace_server.errors import status_of
from headrace_server.models.servable import Servable
from headrace_server.transports.grpc.selection import make_queue
from tests.support.running import eventually

from .backend import HELD, PATIENCE, Adder
from .scene import Requests, column

ONE = Options(num_batch_threads=1)


def played(scene: object) -> None:
    asyncio.run(scene)  # type: ignore[arg-type]


def test_callers_of_a_hanging_run_fail_and_other_models_go_on() -> None:
    hung, other = Adder(), Adder(number=1)
    threads = BatchThreads(1)
    threads.start()
    servable = Servable("hung", 1, hung, threads, ONE, run_timeout=0.5)
    neighbour = Servable("other", 1, other, threads, ONE)

    async def scene() -> None:
        requests, others = Requests(servable), Requests(neighbour)
        with pytest.raises(RunTimedOut) as raised:
            await requests.add(HELD)
        assert status_of(raised.value) == (Code.DEADLINE_EXCEEDED, "the run took more than 0.5 s and was abandoned")
        assert servable.hangs
        assert (await others.add(1))["sum"].tolist() == [[2]]
        with pytest.raises(RunHangs) as refused:
            await requests.add(1)
        assert status_of(refused.value)[0] == Code.UNAVAILABLE

        hung.go_on.set()
        await asyncio.to_thread(eventually, lambda: not servable.hangs)
        assert (await requests.add(1))["sum"].tolist() == [[1]]

    played(scene())
    servable.close()
    neighbour.close()
    threads.close()


def test_a_version_whose_run_was_abandoned_can_be_closed() -> None:
    hung = Adder()
    threads = BatchThreads(1)
    threads.start()
    servable = Servable("hung", 1, hung, threads, ONE, run_timeout=0.5)

    async def scene() -> None:
        with pytest.raises(RunTimedOut):
            await Requests(servable).add(HELD)

    played(scene())
    with ThreadPoolExecutor(1) as pool:
        pool.submit(servable.close).result(PATIENCE)
        pool.submit(threads.close).result(PATIENCE)
    assert hung.closed
    hung.go_on.set()


def test_a_run_in_time_is_not_affected() -> None:
    backend = Adder()
    threads = BatchThreads(2)
    threads.start()
    servable = Servable("m", 1, backend, threads, Options(), run_timeout=PATIENCE)

    async def scene() -> None:
        requests = Requests(servable)
        answers = await asyncio.gather(*(requests.ask({"x": column(n)}, ("sum",)) for n in range(50)))
        assert [answer["sum"].item() for answer in answers] == list(np.arange(50.0))

    played(scene())
    servable.close()
    threads.close()


def test_a_model_that_hangs_leaves_the_others_a_thread() -> None:
    """This holds without a time limit, too: a scheduler never uses the last free batch thread."""
    hung, other = Adder(), Adder(number=1)
    threads = BatchThreads(2)
    threads.start()
    servable, neighbour = Servable("hung", 1, hung, threads, ONE), Servable("other", 1, other, threads, ONE)

    async def scene() -> None:
        requests, others = Requests(servable), Requests(neighbour)
        held = [await requests.hold(hung), requests.add(HELD)]
        assert (await others.add(1))["sum"].tolist() == [[2]]
        hung.go_on.set()
        await asyncio.gather(*held)

    played(scene())
    servable.close()
    neighbour.close()
    threads.close()


class Elsewhere(Adder):
    """An Adder that pretends to run in a worker process."""

    runs_elsewhere = True


@pytest.mark.parametrize("queue", ["grpcio", *(["native"] if find_spec("headrace_native") else [])])
def test_models_that_hang_in_worker_processes_leave_the_others_all_threads(queue: str) -> None:
    hung, other = [Elsewhere() for _ in range(5)], Adder(number=1)
    threads = BatchThreads(1, make_queue(queue))
    threads.start()
    servables = [Servable(f"hung{number}", 1, each, threads, ONE) for number, each in enumerate(hung)]
    neighbour = Servable("other", 1, other, threads, ONE)

    async def scene() -> None:
        held = [await Requests(servable).hold(each) for servable, each in zip(servables, hung, strict=True)]
        others = Requests(neighbour)
        assert (await others.add(1))["sum"].tolist() == [[2]]
        assert threads.count == 6
        for each in hung:
            each.go_on.set()
        await asyncio.gather(*held)
        for servable in servables:
            await asyncio.to_thread(servable.close)
        assert threads.count == 1
        for _ in range(20):
            assert (await others.add(1))["sum"].tolist() == [[2]]

    played(scene())
    neighbour.close()
    threads.close()
