"""The relaxed form of a backend: loaded at the first request that needs it, once, and off the event loop."""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event, Lock

import numpy as np
import pytest

from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.backends.base import Backend
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature
from headrace_server.errors import LoadError, ServingError

from .backend import PATIENCE, SUM, Adder, X
from .scene import Requests, column, servable_of, serve, settled

MISFIT = "Invalid rank for input: x Got: 1 Expected: 2"


class Shapeless:
    """`sum` = `x`, of any shape, if it is not negative."""

    def __init__(self) -> None:
        self.signatures = {DEFAULT_SIGNATURE: Signature({"x": X}, {"sum": SUM}, batched=True)}
        self.shapes: list[tuple[int, ...]] = []

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        assert (signature, tuple(outputs)) == (DEFAULT_SIGNATURE, ("sum",))
        self.shapes.append(inputs["x"].shape)
        if (inputs["x"] < 0).any():
            raise ServingError(Code.INTERNAL, "x is negative\n")
        return {"sum": inputs["x"]}

    def close(self) -> None:
        raise AssertionError("whoever made it closes it")


class Strict(Adder):
    """An Adder that has a relaxed form, whose load can be held or fail."""

    def __init__(self, failure: Exception | None = None) -> None:
        super().__init__()
        self.shapeless = Shapeless()
        self.loads = 0
        self.loaded = Event()
        self._failure = failure
        self._lock = Lock()

    def relaxed(self) -> Backend:
        with self._lock:
            self.loads += 1
        self.entered.set()
        assert self.loaded.wait(PATIENCE)
        assert not self.closed
        if self._failure is not None:
            raise self._failure
        return self.shapeless


def vector(*values: float) -> Arrays:
    return {"x": np.array(values, np.float32)}


def test_what_fits_never_loads_it() -> None:
    backend = Strict()

    async def scene(requests: Requests) -> None:
        assert (await requests.add(1))["sum"].tolist() == [[1]]

    serve(backend, scene)
    assert backend.loads == 0


def test_many_requests_wait_for_one_load_and_others_go_on() -> None:
    backend = Strict()

    async def scene(requests: Requests) -> None:
        asked = [requests.ask(vector(number), ("sum",)) for number in range(20)]
        assert await asyncio.to_thread(backend.entered.wait, PATIENCE)
        assert (await requests.add(5))["sum"].tolist() == [[5]]
        backend.loaded.set()
        assert [(await answer)["sum"].tolist() for answer in asked] == [[number] for number in range(20)]

    serve(backend, scene)
    assert backend.loads == 1
    assert backend.shapeless.shapes == [(1,)] * 20


def test_a_caller_who_leaves_takes_nobody_along() -> None:
    backend = Strict()

    async def scene(requests: Requests) -> None:
        leaving, staying = requests.ask(vector(1), ("sum",)), requests.ask(vector(2), ("sum",))
        await settled()
        leaving.cancel()
        await settled()
        backend.loaded.set()
        assert (await staying)["sum"].tolist() == [2]
        assert leaving.cancelled()

    serve(backend, scene)


def test_each_of_another_shape_runs_alone() -> None:
    backend = Strict()
    backend.loaded.set()

    async def scene(requests: Requests) -> None:
        held = requests.ask(vector(0), ("sum",))
        await held
        asked = [requests.ask(vector(*range(n)), ("sum",)) for n in (1, 2, 2, 1)]
        assert [len((await answer)["sum"]) for answer in asked] == [1, 2, 2, 1]

    serve(backend, scene)
    assert sorted(backend.shapeless.shapes) == [(1,), (1,), (1,), (2,), (2,)]


def test_what_it_refuses_is_the_callers_fault() -> None:
    backend = Strict()
    backend.loaded.set()

    async def scene(requests: Requests) -> None:
        with pytest.raises(ServingError) as raised:
            await requests.ask(vector(-1), ("sum",))
        assert raised.value.code == Code.INVALID_ARGUMENT
        assert raised.value.message == f"{MISFIT}, and the model does not take it: x is negative"

    serve(backend, scene)


@pytest.mark.parametrize("failure", [LoadError(Code.FAILED_PRECONDITION, "too large"), MemoryError("none left")])
def test_where_there_is_none_the_declared_shapes_are_the_only_ones(failure: Exception) -> None:
    backend = Strict(failure)
    backend.loaded.set()
    assert refusals(backend, 3) == {(Code.INVALID_ARGUMENT, MISFIT)}
    assert backend.loads == 1


def test_a_backend_that_has_none() -> None:
    assert refusals(Adder(), 2) == {(Code.INVALID_ARGUMENT, MISFIT)}


def refusals(backend: Backend, count: int) -> set[tuple[Code, str]]:
    found = set()

    async def scene(requests: Requests) -> None:
        for _ in range(count):
            with pytest.raises(ServingError) as raised:
                await requests.ask(vector(1), ("sum",))
            found.add((raised.value.code, raised.value.message))

    serve(backend, scene)
    return found


def test_an_unload_waits_for_a_load_that_nobody_waits_for_any_more() -> None:
    backend = Strict()

    async def leave(requests: Requests) -> None:
        leaving = requests.ask(vector(1), ("sum",))
        assert await asyncio.to_thread(backend.entered.wait, PATIENCE)
        leaving.cancel()

    with ThreadPoolExecutor(1) as pool, servable_of(backend, None) as servable:

        async def play() -> None:
            await leave(Requests(servable))

        asyncio.run(play())
        closing = pool.submit(servable.close)
        assert not backend.closed
        backend.loaded.set()
        closing.result(PATIENCE)
        assert backend.closed
        backend.closed = False  # servable_of closes it once more


def test_rows_that_fit_are_not_held_up_by_scalars() -> None:
    """A scalar has no rows, which batching could not count."""
    backend = Strict()
    backend.loaded.set()

    async def scene(requests: Requests) -> None:
        scalar = requests.ask({"x": np.array(3, np.float32)}, ("sum",))
        fitting = requests.ask({"x": column(1, 2)}, ("sum",))
        assert (await scalar)["sum"].tolist() == 3
        assert (await fitting)["sum"].tolist() == [[1], [2]]

    serve(backend, scene)
