"""Generators in worker processes: their answers, and how a failing one affects the others."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import numpy as np
import pytest
import uvloop

from headrace_batching.task import Arrays
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions, Streaming
from headrace_server.errors import RunLost, ServingError
from headrace_server.processes.isolated import IsolatedBackend, Isolation
from headrace_server.processes.job import Job
from headrace_server.processes.shared_memory import OwnedMemory
from headrace_server.processes.streams import WorkerStreams
from tests.support.running import eventually

from .python_models import (
    CRASHES,
    EXITS,
    FINE,
    FOREVER,
    HANGS,
    HOARDS,
    HOLDS,
    IS_KILLED,
    RAISES,
    STOPS,
    rows,
    write,
    write_stream,
)

NAME = "model m version 1"
MEMORY_LIMIT = 1 << 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_stream(tmp_path_factory.mktemp("base") / "1")


@pytest.fixture
def model(folder: Path) -> Iterator[IsolatedBackend]:
    before = set(threading.enumerate())
    with_limit = Job(folder, BackendOptions(), MEMORY_LIMIT)
    backend = IsolatedBackend(with_limit, Isolation(name=NAME, run_timeout=1.0))
    yield backend
    backend.close()
    left = {thread for thread in threading.enumerate() if not thread.name.startswith("asyncio")}
    assert left <= before


def ask(model: IsolatedBackend, kind: int, count: int = 1) -> AsyncGenerator[Arrays, None]:
    return model.stream("serving_default", {"x": rows(kind, count)}, ["y", "pid"])


async def answers(model: IsolatedBackend, kind: int, count: int = 1) -> list[Arrays]:
    return [answer async for answer in ask(model, kind, count)]


async def failed(model: IsolatedBackend, kind: int) -> tuple[int, ServingError]:
    """The number of answers before the error, and the error."""
    heard = 0
    try:
        async for _ in ask(model, kind):
            heard += 1
    except ServingError as error:
        return heard, error
    raise AssertionError("it has not failed")


def test_a_streaming_model_runs_in_another_process(model: IsolatedBackend) -> None:
    assert isinstance(model, Streaming)
    assert (model.streams, model.answers_once) == (True, False)
    heard = asyncio.run(answers(model, FINE, 3))
    assert [answer["y"].tolist() for answer in heard] == [[[number] * 2] * 3 for number in range(3)]
    assert heard[0]["pid"] != os.getpid()


def test_answers_stay_valid_for_the_caller(model: IsolatedBackend) -> None:
    """The process reuses its buffers, but large answers have memory of their own."""
    heard = asyncio.run(answers(model, FINE, 100_000))
    assert [(answer["y"].min(), answer["y"].max()) for answer in heard] == [(0, 0), (1, 1), (2, 2)]
    heard[0]["y"][...] = 7
    assert heard[1]["y"].max() == 1


def test_a_caller_who_leaves_during_the_start_leaves_nothing_open(model: IsolatedBackend) -> None:
    async def leave(steps: int) -> None:
        asking = asyncio.ensure_future(anext(ask(model, FOREVER)))
        for _ in range(steps):
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])

    async def talk() -> None:
        await answers(model, FINE)
        before = len(os.listdir("/proc/self/fd"))
        for steps in range(40):
            await leave(steps)
        assert len(await answers(model, FINE)) == 3
        await asyncio.to_thread(eventually, lambda: len(os.listdir("/proc/self/fd")) <= before)

    asyncio.run(talk())


ENDS = {EXITS: "ended with status 7", CRASHES: "was ended by SIGSEGV", IS_KILLED: "was ended by SIGKILL"}


@pytest.mark.parametrize("kind", ENDS)
def test_a_process_that_ends_fails_its_streams_and_the_next_is_answered(model: IsolatedBackend, kind: int) -> None:
    async def talk() -> None:
        heard, error = await failed(model, kind)
        assert heard == 3
        assert isinstance(error, RunLost)
        text = f"{NAME}: its worker process {ENDS[kind]} while it answered the request"
        assert (error.code, error.message) == (Code.INTERNAL, text)
        assert len(await answers(model, FINE)) == 3

    asyncio.run(talk())


@pytest.mark.parametrize(("kind", "text"), [(RAISES, "ValueError: no (model.py, line"), (STOPS, "SystemExit: 3 (mod")])
def test_an_exception_fails_only_its_stream(model: IsolatedBackend, kind: int, text: str) -> None:
    async def talk() -> None:
        async with aclosing(ask(model, FOREVER)) as other:
            pid = (await anext(other))["pid"]
            heard, error = await failed(model, kind)
            assert (heard, error.code) == (3, Code.INTERNAL)
            assert text in error.message
            assert (await anext(other))["pid"] == pid

    asyncio.run(talk())


def test_a_lack_of_memory_is_reported(model: IsolatedBackend) -> None:
    _, error = asyncio.run(failed(model, HOARDS))
    assert error.code == Code.RESOURCE_EXHAUSTED
    assert "out of memory" in error.message


@pytest.mark.parametrize("kind", [HANGS, HOLDS])
def test_an_answer_that_takes_too_long(model: IsolatedBackend, kind: int) -> None:
    async def talk() -> None:
        _, error = await failed(model, kind)
        text = f"{NAME}: an answer took more than 1 s, and its worker process was ended"
        assert (error.code, error.message) == (Code.DEADLINE_EXCEEDED, text)
        assert len(await answers(model, FINE)) == 3

    asyncio.run(talk())


def test_a_reader_who_waits_is_not_a_model_that_takes_too_long(model: IsolatedBackend) -> None:
    async def talk() -> None:
        async with aclosing(ask(model, FOREVER)) as slow:
            first = await anext(slow)
            await asyncio.sleep(1.2)  # longer than an answer may take
            assert (await anext(slow))["pid"] == first["pid"]

    asyncio.run(talk())


def test_streams_of_several_processes(folder: Path) -> None:
    """Each stream goes to the process with the fewest streams; the end of a process ends only its own streams."""
    backend = IsolatedBackend(Job(folder, BackendOptions()), Isolation(name=NAME, workers=2))

    async def talk() -> None:
        async with aclosing(ask(backend, FOREVER)) as one, aclosing(ask(backend, FOREVER)) as two:
            ended, other = int((await anext(one))["pid"]), int((await anext(two))["pid"])
            assert ended != other
            os.kill(ended, signal.SIGKILL)
            with pytest.raises(RunLost, match="was ended by SIGKILL"):
                await anext(one)
            assert (await anext(two))["pid"] == other
            assert len(await answers(backend, FINE)) == 3

    asyncio.run(talk())
    backend.close()


def test_a_program_that_outlives_its_process_keeps_no_stream_open(tmp_path: Path) -> None:
    code = """
        import os, signal

        INPUTS = {"x": ("float32", [None, 2])}
        OUTPUTS = {"y": ("float32", [None, 2])}

        def stream(inputs):
            os.system("setsid sleep 30 >/dev/null 2>&1 &")
            os.kill(os.getpid(), signal.SIGKILL)
            yield {"y": inputs["x"]}
    """
    backend = IsolatedBackend(Job(write(tmp_path / "1", code), BackendOptions()), Isolation(name=NAME))

    async def talk() -> None:
        with pytest.raises(RunLost, match="was ended by SIGKILL"):
            await asyncio.wait_for(anext(backend.stream("serving_default", {"x": rows(FINE)}, ["y"])), 10)

    asyncio.run(talk())
    backend.close()


def test_a_caller_who_leaves_during_an_answer(tmp_path: Path) -> None:
    code = """
        import asyncio
        from pathlib import Path

        INPUTS = {"x": ("float32", [None, 2])}
        OUTPUTS = {"y": ("float32", [None, 2])}

        async def stream(inputs):
            try:
                yield {"y": inputs["x"]}
                await asyncio.sleep(3600)
            finally:
                Path(__file__).with_name("closed").touch()
    """
    backend = IsolatedBackend(Job(write(tmp_path / "1", code), BackendOptions()), Isolation(name=NAME))

    async def talk() -> None:
        async with aclosing(backend.stream("serving_default", {"x": rows(FINE)}, ["y"])) as waiting:
            assert np.array_equal((await anext(waiting))["y"], rows(FINE))
            step = asyncio.ensure_future(anext(waiting))
            await asyncio.sleep(0)
            step.cancel()
            await asyncio.wait([step])

    asyncio.run(talk())
    assert eventually((tmp_path / "1" / "closed").exists)
    backend.close()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
@pytest.mark.parametrize("seconds", [None, 1e-6])
def test_a_cancelled_stream_leaves_no_socket_with_the_event_loop(
    seconds: float | None, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    """libuv aborts the process if a socket is closed before libuv begins to watch it."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    memory = OwnedMemory()
    streams = WorkerStreams(ours, memory)

    async def hear() -> bool:
        """Whether the event loop watches the socket when it is closed."""
        stream = streams.ask("serving_default", ["y"], [])
        descriptor = stream._slot.descriptor
        try:
            await anext(stream.messages(seconds))
        except (asyncio.CancelledError, TimeoutError):
            return asyncio.get_running_loop().remove_reader(descriptor)
        finally:
            stream.close()
        raise AssertionError("it was answered")

    async def give_up(steps: int) -> None:
        hearing = asyncio.ensure_future(hear())
        for _ in range(steps):
            await asyncio.sleep(0)
        hearing.cancel()
        assert not await hearing

    with theirs, asyncio.Runner(loop_factory=new_loop) as runner:
        for steps in range(1, 6):
            runner.run(give_up(steps))
            _, descriptors, _, _ = socket.recv_fds(theirs, 1 << 16, 1)
            os.close(descriptors[0])
    streams.close()
    memory.close()
