"""Servers on every transport, in this process and as the command, and a Python with TensorFlow."""

import gc
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import pytest

from headrace_server import Config
from headrace_server.commands.log import StderrHandler
from tests.support.calls import MODEL
from tests.support.gpu import Gpu, gpu_of
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import LoopThread, RunningServer, Served, ServerProcess, read_served, threads_of_servers

TRANSPORTS = ["grpcio", *(["native"] if find_spec("headrace_native") else [])]

ROOT = Path(__file__).parents[1]

Make = Callable[[Path], Path]
Run = Callable[..., RunningServer]
Rest = Callable[..., RestCaller]
Serve = Callable[..., ServerProcess]
Stop = Callable[[RunningServer], Served]


if find_spec("hypothesis"):
    # On a busy machine, any example takes longer than the 0.2 s that Hypothesis allows, and so does making its input.
    from hypothesis import HealthCheck, settings

    checks = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
    settings.register_profile("patient", deadline=None, suppress_health_check=checks)
    settings.load_profile("patient")


def pytest_collection_finish() -> None:
    """Excludes imported modules from garbage collection; otherwise each collection would take a third of a second."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def no_log_of_a_command_left() -> Iterator[None]:
    """A command that ran in this process must log only to its own test's stderr, without a limit."""
    logging.root.setLevel(logging.WARNING)
    for name in ("headrace_server", "headrace_batching", "headrace_toolkit"):
        logging.getLogger(name).setLevel(logging.NOTSET)
    yield
    for handler in [handler for handler in logging.root.handlers if isinstance(handler, StderrHandler)]:
        logging.root.removeHandler(handler)


@pytest.fixture(scope="session")
def tensorflow_python() -> Path:
    """The Python of an environment with tensorflow-cpu, tensorflow-serving-api and headrace."""
    named = os.environ.get("HEADRACE_TENSORFLOW_PYTHON")
    python = Path(named) if named else ROOT / ".venv-tensorflow" / "bin" / "python"
    if not python.exists():
        pytest.skip(f"{python} does not exist: run scripts/install, or set HEADRACE_TENSORFLOW_PYTHON")
    return python


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gpu]:
    """One or two GPUs with TensorRT: test doubles, unless HEADRACE_TEST_GPU is set."""
    with gpu_of(monkeypatch, tmp_path_factory.mktemp("gpu"), devices=2) as gpu:
        yield gpu


@pytest.fixture(scope="session")
def loop_thread() -> Iterator[LoopThread]:
    """The event loop of all servers in this process."""
    loop = LoopThread()
    yield loop
    loop.stop()


@pytest.fixture(scope="module", params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """Each transport in turn: all must answer alike."""
    return str(request.param)


@pytest.fixture(scope="module")
def running(transport: str, loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """Starts a server in this process: `running(*makers, **config)`.

    Each maker writes a version of the model into the folder that it gets; the first one writes version 1. At the end
    all servers are stopped and must not leave a thread behind.
    """
    before = threads_of_servers()
    with ExitStack() as stack:

        def run(*makers: Make, **config: object) -> RunningServer:
            base_path = tmp_path_factory.mktemp("model")
            for version, make in enumerate(makers, start=1):
                make(base_path / str(version))
            settings = {"port": 0, "model_name": MODEL, "model_base_path": str(base_path), "transport": transport}
            once = {"max_num_load_retries": 0}  # otherwise a broken model takes five minutes to fail
            server = RunningServer(loop_thread, Config(**{**settings, **once, **config}))  # type: ignore[arg-type]
            stack.callback(server.close)
            return server

        yield run
    assert threads_of_servers() <= before


@pytest.fixture(scope="module")
def resting(running: Run) -> Iterator[Rest]:
    """Starts a server with the REST API in this process, as `resting(*makers, **config)`, and connects to it."""
    with ExitStack() as stack:

        def run(*makers: Make, **config: object) -> RestCaller:
            port = free_port()
            running(*makers, **{"rest_api_port": port, **config})
            caller = RestCaller(port)
            stack.callback(caller.close)
            return caller

        yield run


@pytest.fixture
def served(caplog: pytest.LogCaptureFixture) -> Stop:
    """Stops a server and reads from its log how many requests, rows and batches its model ran."""
    caplog.set_level(logging.INFO, "headrace_server")

    def stop(server: RunningServer) -> Served:
        caplog.clear()
        server.stop()
        return read_served(caplog.messages)

    return stop


@pytest.fixture
def serving(transport: str) -> Iterator[Serve]:
    """Starts the command: `serving(base_path, *flags)`. Processes that still run at the end are killed."""
    with ExitStack() as stack:

        def serve(base_path: Path, *flags: str) -> ServerProcess:
            process = ServerProcess(base_path, f"--transport={transport}", *flags)
            stack.callback(process.close)
            return process

        yield serve
