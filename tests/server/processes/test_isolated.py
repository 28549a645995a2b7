"""Models in worker processes: how arrays get there and back, and which faults of the process the server survives."""

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from headrace_batching import BatchThreads, Options
from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.errors import LoadError, RunLost, ServingError
from headrace_server.models.servable import Servable
from headrace_server.processes import isolated, slot
from headrace_server.processes.child import NICENESS
from headrace_server.processes.isolated import IsolatedBackend, Isolation
from headrace_server.processes.job import Job
from headrace_server.processes.keeper import Keeper
from headrace_server.processes.time_slices import LONG_NS
from headrace_server.processes.worker import Worker
from tests.support import models
from tests.support.running import START_WITHIN, eventually
from tests.support.scarcity import no_threads
from tests.support.slices import needs_slices, slice_of

from .python_models import (
    CRASHES,
    EXITS,
    FINE,
    HANGS,
    HOARDS,
    HOLDS,
    IS_KILLED,
    KEEPS,
    PRINTS,
    RAISES,
    STOPS,
    WRITES,
    rows,
    write,
)

NAME = "model m version 1"


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets runs wait longer for a process to be restarted: a busy machine takes more than five seconds."""
    monkeypatch.setattr(isolated, "PATIENCE", 60.0)


class Isolated:
    """A model in worker processes, and how often they have been restarted.

    Attributes:
        linked: Whether messages of runs cross through a link; `crossing` sets it.
    """

    linked = False

    def __init__(self, folder: Path, *, memory_limit: int = 0, batching: Options | None = None, **how: float) -> None:
        self.restarts = 0
        job = Job(folder, BackendOptions(batching=batching), memory_limit, linked=self.linked)
        isolation = Isolation(name=NAME, restarted=self._restarted, **how)  # type: ignore[arg-type]
        self.backend = IsolatedBackend(job, isolation)

    def run(self, kind: int, count: int = 1) -> Array:
        return self.backend.run("serving_default", {"x": rows(kind, count)}, ["y"])["y"]

    def lost(self, kind: int) -> tuple[Code, str]:
        with pytest.raises(RunLost) as raised:
            self.run(kind)
        return raised.value.code, raised.value.message

    def pids(self) -> list[int]:
        workers = [keeper._worker for keeper in self.backend._keepers]
        return [worker.pid for worker in workers if worker is not None]

    def _restarted(self) -> None:
        self.restarts += 1


CROSSINGS = ["socket", *(["link"] if find_spec("headrace_native") else [])]
"""The ways in which the messages of runs cross; all tests here must pass with both."""


@pytest.fixture(params=CROSSINGS, autouse=True)
def crossing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The way in which messages cross, for models that are made from now on."""
    way: str = request.param
    monkeypatch.setattr(Isolated, "linked", way == "link")
    return way


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("base") / "1")


@pytest.fixture
def model(folder: Path, crossing: str) -> Iterator[Isolated]:
    del crossing  # the fixture has set the way before the model is made
    before = set(threading.enumerate())
    isolated = Isolated(folder)
    yield isolated
    isolated.backend.close()
    assert set(threading.enumerate()) <= before


def test_its_batches_have_threads_of_their_own(model: Isolated) -> None:
    threads = BatchThreads(1)
    threads.start()
    servable = Servable("m", 1, model.backend, threads, Options())
    scheduler = servable._schedulers.of("serving_default")
    assert scheduler.call({"x": rows(FINE)}).result(START_WITHIN)["y"].shape == (1, 2)
    assert threads.count == 2
    servable.close()
    assert threads.count == 1
    threads.close()


def test_all_threads_of_a_process_have_a_lower_priority_than_the_server_and_share_its_session(model: Isolated) -> None:
    (pid,) = model.pids()
    own = os.getpriority(os.PRIO_PROCESS, 0)
    threads = [int(thread) for thread in os.listdir(f"/proc/{pid}/task")]
    assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in threads} == {min(19, own + NICENESS)}
    assert os.getsid(pid) == os.getsid(0)
    assert os.getpgid(pid) == pid


@needs_slices
def test_all_threads_of_a_process_have_long_time_slices(model: Isolated) -> None:
    (pid,) = model.pids()
    assert {slice_of(int(thread)) for thread in os.listdir(f"/proc/{pid}/task")} == {LONG_NS}
    assert slice_of() < LONG_NS


def test_a_model_is_loaded_at_the_priority_of_the_server(tmp_path: Path) -> None:
    code = """
        import os
        import numpy as np
        INPUTS = {"x": ("float32", [None, 2])}
        OUTPUTS = {"y": ("float32", [None])}
        nice = os.getpriority(os.PRIO_PROCESS, 0)
        def predict(inputs):
            return {"y": np.full(len(inputs["x"]), nice, np.float32)}
        """
    model = Isolated(write(tmp_path / "1", code))
    assert model.run(FINE).tolist() == [os.getpriority(os.PRIO_PROCESS, 0)]
    model.backend.close()


ENDS = {
    EXITS: "its worker process ended with status 7 during the run",
    CRASHES: "its worker process was ended by SIGSEGV during the run",
    IS_KILLED: "its worker process was ended by SIGKILL during the run",
}


@pytest.mark.parametrize("kind", ENDS)
def test_a_process_that_ends_fails_its_run_and_is_started_again(model: Isolated, kind: int) -> None:
    assert model.lost(kind) == (Code.INTERNAL, f"{NAME}: {ENDS[kind]}")
    assert model.run(FINE).tolist() == [[1, 1]]
    assert model.restarts == 1


def test_a_process_that_ends_between_runs_fails_none(model: Isolated) -> None:
    (pid,) = model.pids()
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(model.run, FINE)
        os.kill(pid, signal.SIGKILL)
        assert answer.result().tolist() == [[1, 1]]
    assert model.run(FINE).tolist() == [[1, 1]]
    assert model.pids() != [pid]


FORKS = """
    import os, signal, time
    INPUTS, OUTPUTS = {"x": ("float32", [None, 2])}, {"y": ("float32", [None, 2])}
    def predict(inputs):
        if inputs["x"][0, 0] == 1009:
            if not os.fork(): time.sleep(3600)
            os.kill(os.getpid(), signal.SIGKILL)
        return {"y": inputs["x"] + 1}
    """

BECOMES_ANOTHER = """
    import os
    INPUTS, OUTPUTS = {"x": ("float32", [None, 2])}, {"y": ("float32", [None, 2])}
    def predict(inputs):
        if inputs["x"][0, 0] == 1009: os.execvp("sleep", ["sleep", "3600"])
        return {"y": inputs["x"] + 1}
    """


@pytest.mark.parametrize("code", [FORKS, BECOMES_ANOTHER])
def test_a_process_that_forks_or_becomes_another_is_ended_and_started_again(tmp_path: Path, code: str) -> None:
    model = Isolated(write(tmp_path, code))
    assert model.lost(IS_KILLED) == (Code.INTERNAL, f"{NAME}: its worker process was ended by SIGKILL during the run")
    assert model.run(FINE).tolist() == [[1, 1]]
    model.backend.close()


SLEEPS = """
    import ctypes, pathlib, time
    INPUTS, OUTPUTS = {"x": ("float32", [None, 2])}, {"y": ("float32", [None, 2])}
    def predict(inputs):
        kind = inputs["x"][0, 0]
        if kind: pathlib.Path(__file__).with_name("began").touch()
        if kind == 1003: time.sleep(3600)
        if kind == 1011: ctypes.PyDLL(None).sleep(3600)
        return {"y": inputs["x"] + 1}
    """


@pytest.mark.parametrize("kind", [HANGS, HOLDS])
def test_a_process_that_is_killed_fails_the_run_that_it_began(tmp_path: Path, kind: int) -> None:
    model = Isolated(write(tmp_path, SLEEPS))
    (pid,) = model.pids()
    with ThreadPoolExecutor(1) as pool:
        lost = pool.submit(model.lost, kind)
        eventually((tmp_path / "began").exists)
        os.kill(pid, signal.SIGKILL)
        assert lost.result() == (Code.INTERNAL, f"{NAME}: its worker process was ended by SIGKILL during the run")
    assert model.run(FINE).tolist() == [[1, 1]]
    model.backend.close()


def test_an_answer_returns_after_a_run_that_could_not_be_sent(model: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    model.run(FINE)
    with monkeypatch.context() as patched:
        patched.setattr(slot, "MAX_MESSAGE", 10)
        with pytest.raises(ServingError, match="too many arrays for one message"):
            model.run(FINE, 2)
    place = model.backend._places.take(0)
    assert place is not None
    assert place.borrower.give_back() == (0,)
    model.backend._places.put(place)


@pytest.mark.parametrize("kind", [HANGS, HOLDS])
def test_a_run_that_takes_too_long_is_ended_with_its_process(folder: Path, kind: int) -> None:
    model = Isolated(folder, run_timeout=1.0)
    text = f"{NAME}: a run took more than 1 s, and its worker process was ended"
    assert model.lost(kind) == (Code.DEADLINE_EXCEEDED, text)
    assert model.run(FINE).tolist() == [[1, 1]]
    model.backend.close()


@pytest.mark.parametrize("kind", [HANGS, HOLDS])
def test_the_place_of_a_run_that_takes_too_long_is_not_used_again(
    folder: Path, kind: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Isolated(folder, run_timeout=1.0)
    slow_to_end: list[Worker] = []
    with monkeypatch.context() as patched:
        patched.setattr(Worker, "kill", lambda worker: slow_to_end.append(worker))
        model.lost(kind)
        assert list(model.backend._places.free) == []
    slow_to_end[0].kill()
    assert model.run(FINE).tolist() == [[1, 1]]
    model.backend.close()


@pytest.mark.parametrize(
    ("kind", "text"), [(RAISES, r"ValueError: no \(model.py, line \d+, in predict\)"), (STOPS, "SystemExit: 3 ")]
)
def test_an_exception_fails_only_its_caller(model: Isolated, kind: int, text: str) -> None:
    (pid,) = model.pids()
    with pytest.raises(ServingError, match=text) as raised:
        model.run(kind)
    assert raised.value.code == Code.INTERNAL
    assert not isinstance(raised.value, RunLost)
    assert model.pids() == [pid]


def test_a_run_with_too_much_memory_fails_and_its_process_is_replaced(folder: Path) -> None:
    model = Isolated(folder, memory_limit=1 << 30)
    (pid,) = model.pids()
    with pytest.raises(ServingError, match="out of memory") as raised:
        model.run(HOARDS)
    assert raised.value.code == Code.RESOURCE_EXHAUSTED
    assert model.run(FINE).tolist() == [[1, 1]]
    assert model.pids() != [pid]
    model.backend.close()


def test_a_model_may_use_most_of_its_limit(tmp_path: Path) -> None:
    """The process must leave room for the model: headrace-native's allocator can reserve a gigabyte."""
    code = """
    import numpy as np
    INPUTS, OUTPUTS = {"x": ("float32", [None, 2])}, {"y": ("float32", [None, 2])}
    def predict(inputs):
        np.empty(1200 << 20, np.uint8)
        return {"y": inputs["x"] + 1}
    """
    model = Isolated(write(tmp_path, code), memory_limit=2 << 30)
    assert model.run(FINE).tolist() == [[1, 1]]
    model.backend.close()


def test_a_process_that_cannot_be_started_fails_the_load_and_leaves_no_descriptor(folder: Path, crossing: str) -> None:
    """The load runs in a process with few descriptors, and without other threads that open or close files."""
    code = f"""
import os, resource
from pathlib import Path
from headrace_server.backends.base import BackendOptions
from headrace_server.processes.isolated import IsolatedBackend, Isolation
from headrace_server.processes.job import Job
from headrace_server.processes.keeper import Keeper
job = Job(Path({str(folder)!r}), BackendOptions(), linked={crossing == "link"})
IsolatedBackend(job, Isolation(name="m")).close()
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
open_files = os.listdir("/proc/self/fd")
for count in range(8):
    free = [os.dup(0) for _ in range(count + 1)]
    for descriptor in free:
        os.close(descriptor)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free[count], hard))
    try:
        IsolatedBackend(job, Isolation(name="m"))
    except OSError as error:
        print(error.strerror)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert os.listdir("/proc/self/fd") == open_files
"""
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=START_WITHIN, check=False
    )
    assert (ran.stdout, ran.stderr) == ("Too many open files\n" * 8, "")


@pytest.mark.parametrize("name", ["worker-log-", "worker-"])
def test_a_model_without_a_thread_fails_its_load_and_leaves_no_process(folder: Path, name: str) -> None:
    def processes() -> set[str]:
        return {pid for tasks in Path("/proc/self/task").glob("*/children") for pid in tasks.read_text().split()}

    before, files = processes(), os.listdir("/proc/self/fd")
    with no_threads(name), pytest.raises(RuntimeError, match="can't start new thread"):
        Isolated(folder)
    eventually(lambda: processes() <= before)
    assert len(os.listdir("/proc/self/fd")) <= len(files)


def test_several_processes_without_threads_for_all(folder: Path) -> None:
    """The processes that could be started end with the load that failed."""
    before, started = threading.active_count(), []
    keep = Keeper._keep

    def noted(keeper: Keeper) -> None:
        started.append(keeper)
        keep(keeper)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Keeper, "_keep", noted)
        begin = threading.Thread.start

        def scarce(thread: threading.Thread) -> None:
            if started and thread.name == f"worker-{NAME}":
                raise RuntimeError("can't start new thread")
            begin(thread)

        patch.setattr(threading.Thread, "start", scarce)
        with pytest.raises(RuntimeError):
            Isolated(folder, workers=2)
    assert len(started) == 1
    eventually(lambda: threading.active_count() <= before)


def test_output_and_log_lines_of_a_model_are_in_the_log_under_its_name(
    model: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "headrace_server")
    model.run(PRINTS)
    expected = {f"{NAME}: {line}" for line in ("printed", "to stderr", "WARNING logged")}
    eventually(lambda: expected <= set(caplog.messages))


class TestArrays:
    def test_inputs_that_a_model_keeps_are_not_written_over(self, model: Isolated) -> None:
        inputs = model.backend.empty((2, 2), np.dtype(np.float32))
        inputs[:] = KEEPS
        model.backend.run("serving_default", {"x": inputs}, ["y"])
        del inputs
        for _ in range(3):
            model.run(FINE, 2)
        kept = model.backend.run("serving_default", {"x": rows(FINE)}, ["kept"])["kept"]
        assert kept.tolist() == [4 * KEEPS]

    def test_inputs_that_a_failing_run_keeps_are_not_written_over(self, tmp_path: Path) -> None:
        code = """
        INPUTS, OUTPUTS = {"x": ("float32", [None])}, {"y": ("float32", [None])}
        kept = []
        def predict(inputs):
            if not kept:
                kept.append(inputs["x"])
                raise ValueError("no")
            return {"y": kept[0] + 0}
        """
        model = Isolated(write(tmp_path, code))
        with pytest.raises(ServingError, match="no"):
            model.backend.run("serving_default", {"x": np.full(1, 5, np.float32)}, ["y"])
        answer = model.backend.run("serving_default", {"x": np.full(1, 6, np.float32)}, ["y"])["y"]
        assert answer.tolist() == [5]
        model.backend.close()

    def test_outputs_that_a_caller_keeps_are_not_written_over(self, model: Isolated) -> None:
        answers = [model.run(FINE, count) for count in (1, 2, 2, 3)]
        model.run(RAISES + 100)
        assert [answer.tolist() for answer in answers] == [[[1, 1]] * count for count in (1, 2, 2, 3)]

    def test_a_model_may_write_into_its_inputs(self, model: Isolated) -> None:
        sent = rows(WRITES, 2)
        answer = model.backend.run("serving_default", {"x": sent}, ["y"])["y"]
        assert answer.tolist() == [[WRITES + 1] * 2] * 2
        assert sent.tolist() == [[WRITES] * 2] * 2

    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6, dtype=np.int64).reshape(2, 3),
            np.array([[True], [False]]),
            np.arange(12, dtype=np.float32).reshape(4, 3)[::2],
            np.broadcast_to(np.float32(7), (2, 3)),
            np.ones((2, 3), ml_dtypes.bfloat16),
            np.zeros((2, 0), np.float32),
            np.array([[b"a", b""], ["\N{SNOWMAN}".encode(), b"\0" * 5]], object),
            np.zeros((1 << 9, 1 << 12), np.float64),
        ],
        ids=lambda array: f"{array.dtype}{array.shape}",
    )
    def test_every_kind_of_array_crosses_both_ways(self, tmp_path: Path, array: Array) -> None:
        dtype = "string" if array.dtype == object else str(array.dtype)
        spec = f"({dtype!r}, [None, None])"
        code = f"import ml_dtypes\nINPUTS = {{'x': {spec}}}\nOUTPUTS = {{'y': {spec}}}\n"
        model = Isolated(write(tmp_path, f"{code}def predict(inputs): return {{'y': inputs['x']}}\n"))
        for _ in range(3):
            y = model.backend.run("serving_default", {"x": array}, ["y"])["y"]
            assert y.dtype == array.dtype
            assert np.array_equal(y, array)
        model.backend.close()

    def test_a_reused_address_is_read_again(self, tmp_path: Path) -> None:
        code = """
        INPUTS = {"x": ("float32", [None]), "s": ("string", [None])}
        OUTPUTS = {"y": ("float32", [None]), "t": ("string", [None])}
        def predict(inputs): return {"y": inputs["x"] + 1, "t": inputs["s"]}
        """
        model = Isolated(write(tmp_path, code))
        for number in range(3):
            sent = {"x": np.full(1, number, np.float32), "s": np.array([b"%d" % number], object)}
            answer = model.backend.run("serving_default", sent, ["y", "t"])
            assert (answer["y"].tolist(), answer["t"].tolist()) == ([number + 1], [b"%d" % number])
        model.backend.close()

    def test_a_view_of_an_input_keeps_its_memory(self, model: Isolated) -> None:
        first = model.backend.empty((2, 2), np.dtype(np.float32))
        first[:] = FINE
        view = first[1:].reshape(-1)
        del first
        model.backend.empty((2, 2), np.dtype(np.float32))[:] = 7
        assert view.tolist() == [FINE, FINE]

    def test_more_shapes_than_are_remembered(self, model: Isolated) -> None:
        kept = []
        for count in [*range(1, 150), *range(1, 150)]:
            inputs = model.backend.empty((count, 2), np.dtype(np.float32))
            inputs[:] = FINE + count
            kept.append(model.backend.run("serving_default", {"x": inputs}, ["y"])["y"])
        assert all((answer == 1 + len(answer)).all() for answer in kept)

    def test_the_answer_of_one_run_is_the_input_of_the_next(self, model: Isolated) -> None:
        first = model.run(FINE, 2)
        second = model.backend.run("serving_default", {"x": first}, ["y"])["y"]
        assert (first.tolist(), second.tolist()) == ([[1, 1]] * 2, [[2, 2]] * 2)

    def test_more_arrays_than_descriptors_fit_a_message(self, tmp_path: Path) -> None:
        code = """
        INPUTS = {f"x{n}": ("float32", [None]) for n in range(300)}
        OUTPUTS = {f"y{n}": ("float32", [None]) for n in range(300)}
        def predict(inputs): return {f"y{n}": inputs[f"x{n}"] + n for n in range(300)}
        """
        model = Isolated(write(tmp_path, code))
        sent = {f"x{n}": np.ones(1, np.float32) for n in range(300)}
        answers = model.backend.run("serving_default", sent, [f"y{n}" for n in range(300)])
        assert [answers[f"y{n}"].tolist() for n in range(300)] == [[n + 1.0] for n in range(300)]
        model.backend.close()


class TestLongMessages:
    def test_a_long_error_between_short_answers(self, tmp_path: Path) -> None:
        code = """
        INPUTS, OUTPUTS = {"x": ("float32", [None, 2])}, {"y": ("float32", [None, 2])}
        def predict(inputs):
            if inputs["x"][0, 0]: raise ValueError("no" * 5000)
            return {"y": inputs["x"] + 1}
        """
        model = Isolated(write(tmp_path, code))
        for _ in range(3):
            assert model.run(FINE).tolist() == [[1, 1]]
            with pytest.raises(ServingError, match=r"(no){5000}"):
                model.run(RAISES)
        model.backend.close()

    def test_long_and_short_requests_in_turn(self, tmp_path: Path) -> None:
        code = """
        INPUTS = {"x" * n: ("float32", [None]) for n in (1, 5000)}
        OUTPUTS = {"y": ("float32", [None])}
        def predict(inputs): return {"y": sum(inputs.values())}
        """
        model = Isolated(write(tmp_path, code))
        for number in range(4):
            sent = {"x" * n: np.full(1, number, np.float32) for n in ([1] if number % 2 else [1, 5000])}
            answer = model.backend.run("serving_default", sent, ["y"])["y"]
            assert answer.tolist() == [number * len(sent)]
        model.backend.close()


class TestAtOnce:
    CODE = """
    import threading, numpy as np
    INPUTS = {"x": ("float32", [None, 2])}
    OUTPUTS = {"y": ("float32", [None, 2])}
    THREAD_SAFE = True
    together = threading.Barrier(3)
    def predict(inputs):
        together.wait(60)
        return {"y": inputs["x"]}
    """

    def test_one_batch_at_a_time_unless_the_model_is_thread_safe(self, model: Isolated) -> None:
        assert model.backend.fit_batching(Options(num_batch_threads=4)).max_running_batches == 1

    def test_a_process_that_ends_during_a_run_is_followed_by_one_that_answers(self, model: Isolated) -> None:
        (pid,) = model.pids()
        os.kill(pid, signal.SIGSTOP)
        with ThreadPoolExecutor(1) as pool:
            fitted = pool.submit(model.backend.fit_batching, Options(num_batch_threads=4))
            os.kill(pid, signal.SIGKILL)
            assert fitted.result().max_running_batches == 1

    def test_a_load_waits_longer_than_a_call_for_a_process_that_starts(
        self, model: Isolated, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(isolated, "PATIENCE", 0.0)
        os.kill(model.pids()[0], signal.SIGKILL)
        assert model.backend.fit_batching(Options(num_batch_threads=4)).max_running_batches == 1

    def test_several_workers(self, folder: Path) -> None:
        model = Isolated(folder, workers=2)
        assert model.backend.fit_batching(Options(num_batch_threads=4)).max_running_batches == 2
        assert len(set(model.pids())) == 2
        model.backend.close()

    def test_a_thread_safe_model_runs_several_batches_in_one_process(self, tmp_path: Path) -> None:
        model = Isolated(write(tmp_path, self.CODE), batching=Options(num_batch_threads=3))
        assert model.backend.fit_batching(Options(num_batch_threads=3)).max_running_batches == 3
        with ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda number: model.run(number).tolist(), range(3)))
        assert answers == [[[number, number]] for number in range(3)]
        model.backend.close()


class TestLoads:
    @pytest.mark.parametrize(
        ("code", "failure", "text"),
        [
            ("def", Code.INTERNAL, "SyntaxError: invalid syntax"),
            ("import os; os._exit(3)", Code.INTERNAL, "its worker process ended with status 3"),
            ("import sys; sys.exit(3)", Code.INTERNAL, "SystemExit: 3"),
            ("import ctypes; ctypes.string_at(0)", Code.INTERNAL, "its worker process was ended by SIGSEGV"),
            ("", Code.INVALID_ARGUMENT, "must define predict(inputs), inference(data)"),
        ],
    )
    def test_a_model_that_cannot_be_loaded(self, tmp_path: Path, code: str, failure: Code, text: str) -> None:
        with pytest.raises(LoadError) as raised:
            Isolated(write(tmp_path, code))
        assert raised.value.code == failure
        assert text in raised.value.message
        assert str(tmp_path) in raised.value.message

    def test_a_process_that_cannot_be_started_again_leaves_the_others_up(self, tmp_path: Path) -> None:
        model = Isolated(write(tmp_path), workers=2)
        write(tmp_path, "def")
        model.lost(EXITS)
        eventually(lambda: model.restarts > 2)  # it ended, then could not be loaded twice
        assert not model.backend.is_down
        assert model.run(FINE).tolist() == [[1, 1]]
        model.backend.close()

    def test_a_model_that_cannot_be_loaded_again_is_unavailable_at_once(self, tmp_path: Path) -> None:
        model = Isolated(write(tmp_path))
        (tmp_path / "model.py").write_text("raise ValueError")
        model.lost(EXITS)
        eventually(lambda: model.restarts >= 2)
        code, text = model.lost(FINE)
        assert (code, text) == (Code.UNAVAILABLE, f"{NAME}: no worker process is running; one is being started")
        model.backend.close()

    def test_closing_calls_the_models_close(self, tmp_path: Path) -> None:
        code = """
        import pathlib
        INPUTS = {"x": ("float32", [None, 2])}
        OUTPUTS = {"y": ("float32", [None, 2])}
        def predict(inputs): return {"y": inputs["x"]}
        def close(): pathlib.Path(__file__).with_name("closed").touch()
        """
        model = Isolated(write(tmp_path, code))
        model.backend.close()
        assert (tmp_path / "closed").exists()
        assert model.restarts == 0

    def test_nothing_is_imported_from_the_working_directory(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("numpy", "orjson", "onnxruntime", "logging"):
            (tmp_path / f"{name}.py").write_text("import os; os._exit(9)")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("PYTHONPATH", f".{os.pathsep}")
        model = Isolated(folder)
        assert model.run(FINE).tolist() == [[1, 1]]
        model.backend.close()

    def test_any_backend_can_have_a_worker_process(self, tmp_path: Path) -> None:
        models.linear(tmp_path, columns=2)
        model = Isolated(tmp_path)
        assert model.run(FINE + 3, 2).tolist() == [[6], [6]]
        assert model.backend.signatures["serving_default"].batched
        model.backend.close()


@pytest.mark.parametrize("kind", [FINE, HANGS, HOLDS])
def test_the_workers_of_a_killed_server_end(folder: Path, kind: int, crossing: str) -> None:
    """This also works if the model keeps the interpreter lock, so that the worker cannot check on the server."""
    code = f"""
import sys, threading
from pathlib import Path
from headrace_server.backends.base import BackendOptions
from headrace_server.processes.isolated import IsolatedBackend, Isolation
from headrace_server.processes.job import Job
from headrace_server.processes.keeper import Keeper
import numpy as np
job = Job(Path({str(folder)!r}), BackendOptions(), linked={crossing == "link"})
backend = IsolatedBackend(job, Isolation(name="m"))
inputs = {{"x": np.full((1, 2), {kind}, np.float32)}}
run = threading.Thread(target=backend.run, args=("serving_default", inputs, ["y"]))
run.start()
if {kind == FINE}: run.join()
print(backend._keepers[0]._worker.pid, flush=True)
sys.stdin.read()
"""
    server = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    pid = int(server.stdout.readline())
    assert Path(f"/proc/{pid}").exists()
    server.kill()
    server.communicate()
    eventually(lambda: not _runs(pid))


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("asked", ["limit_data", "limit_data_to"])
def test_an_existing_limit_is_not_raised(asked: str) -> None:
    code = f"""
import resource
resource.setrlimit(resource.RLIMIT_DATA, (1 << 32, 1 << 32))
from headrace_server.processes import child
child.{asked}(1 << 40)
print(resource.getrlimit(resource.RLIMIT_DATA))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.split() == [f"({1 << 32},", f"{1 << 32})"]
