"""Python models in worker processes behind a server: a fault in one process does not affect the other models."""

import os
import re
import signal
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import grpc
import numpy as np
import pytest
from grpc import StatusCode
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import HealthStub

from tests.conftest import Serve
from tests.server.processes.python_models import CRASHES, FINE, HANGS, IS_KILLED, PRINTS, rows, write
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, Caller, Refusal, predict_request, refusal_of
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import ServerProcess, eventually


class TwoModels:
    """A server with a Python model `python` and an ONNX model `other`."""

    def __init__(self, serve: Serve, folder: Path, *flags: str, options: str = "") -> None:
        write(folder / "python" / "1")
        (folder / "python" / "model.toml").write_text(options)
        models.linear(folder / "other" / "1", columns=2)
        config = folder / "models.config"
        entry = 'config {{ name: "{0}" base_path: "{1}/{0}" model_platform: "tensorflow" }}'
        entries = " ".join(entry.format(name, folder) for name in ("python", "other"))
        config.write_text(f"model_config_list {{ {entries} }}")
        self.server: ServerProcess = serve(folder, f"--model_config_file={config}", *flags)
        self.caller: Caller = self.server.started()

    def call(self, kind: int) -> object:
        return self.caller.predict({"x": rows(kind)}, outputs=["y"], name="python")["y"].tolist()

    def refusal(self, kind: int) -> Refusal:
        return self.caller.refusal(predict_request({"x": rows(kind)}, outputs=["y"], name="python"))

    def other(self) -> object:
        return self.caller.predict({"x": np.ones((1, 2), np.float32)}, name="other")["y"].tolist()

    def worker(self) -> int:
        """The ID of the Python model's process."""
        children = Path(f"/proc/{self.server.process.pid}/task").glob("*/children")
        pids = [int(pid) for file in children for pid in file.read_text().split()]
        (pid,) = [pid for pid in pids if b"worker_child" in Path(f"/proc/{pid}/cmdline").read_bytes()]
        return pid


@pytest.mark.parametrize(
    ("kind", "end"), [(CRASHES, "was ended by SIGSEGV"), (IS_KILLED, "was ended by SIGKILL")], ids=["crash", "kill"]
)
def test_a_process_that_ends_fails_only_its_current_batch(serving: Serve, tmp_path: Path, kind: int, end: str) -> None:
    both = TwoModels(serving, tmp_path)
    text = f"model python version 1: its worker process {end} during the run"
    assert both.refusal(kind) == (StatusCode.INTERNAL, text)
    assert both.other() == [[2]]
    assert both.call(FINE) == [[1, 1]]
    assert both.server.process.poll() is None


def test_a_process_that_is_killed_under_load(serving: Serve, tmp_path: Path) -> None:
    """Waiting requests are answered by the next process; no call of another model fails."""
    both = TwoModels(serving, tmp_path)
    ended: Counter[tuple[StatusCode, str]] = Counter()
    others: Counter[str] = Counter()
    stop = threading.Event()

    def call_python() -> None:
        while not stop.is_set():
            try:
                both.call(FINE)
                ended[StatusCode.OK, ""] += 1
            except grpc.RpcError as error:
                ended[tuple(refusal_of(error))] += 1  # type: ignore[index]

    def call_other() -> None:
        while not stop.is_set():
            others[str(both.other())] += 1

    callers = [threading.Thread(target=target) for target in [call_python] * 4 + [call_other]]
    for caller in callers:
        caller.start()
    pid = eventually(lambda: ended[StatusCode.OK, ""] > 20 and both.worker())
    os.kill(int(pid), signal.SIGKILL)
    before = ended[StatusCode.OK, ""]
    eventually(lambda: ended[StatusCode.OK, ""] > before + 20)
    stop.set()
    for caller in callers:
        caller.join()

    lost = (StatusCode.INTERNAL, "model python version 1: its worker process was ended by SIGKILL during the run")
    assert set(ended) <= {(StatusCode.OK, ""), lost}
    assert ended[lost] <= 4
    assert set(others) == {"[[2.0]]"}
    assert both.worker() != pid


def test_a_hanging_run_is_ended(serving: Serve, tmp_path: Path) -> None:
    both = TwoModels(serving, tmp_path, options="[isolation]\nrun_timeout = 1.0")
    text = "model python version 1: a run took more than 1 s, and its worker process was ended"
    assert both.refusal(HANGS) == (StatusCode.DEADLINE_EXCEEDED, text)
    assert both.other() == [[2]]
    assert both.call(FINE) == [[1, 1]]


def test_a_models_output_is_in_the_servers_log(serving: Serve, tmp_path: Path) -> None:
    both = TwoModels(serving, tmp_path)
    both.call(PRINTS)
    both.server.wait_for(re.compile(r"model python version 1: printed$"))


@pytest.mark.parametrize(
    ("flags", "options"), [(["--python_workers=0"], ""), ([], "[isolation]\nworkers = 0")], ids=["flag", "model.toml"]
)
def test_a_python_model_can_run_in_the_servers_own_process(
    serving: Serve, tmp_path: Path, flags: list[str], options: str
) -> None:
    both = TwoModels(serving, tmp_path, *flags, options=options)
    assert both.call(FINE) == [[1, 1]]
    with pytest.raises(ValueError, match="not enough values"):
        both.worker()


def test_restarts_are_counted(serving: Serve, tmp_path: Path) -> None:
    monitoring = tmp_path / "monitoring.config"
    monitoring.write_text("prometheus_config { enable: true }")
    port = free_port()
    both = TwoModels(serving, tmp_path, f"--rest_api_port={port}", f"--monitoring_config_file={monitoring}")
    both.refusal(CRASHES)
    with closing(RestCaller(port)) as rest:
        line = ':headrace:worker_restarts{model_name="python",version="1"} 1'
        eventually(lambda: line in rest.get("/monitoring/prometheus/metrics").text)


class TestAbandoned:
    """This model runs in the server's own process, which cannot be killed."""

    FLAGS = ("--python_workers=0", "--run_timeout=1.0")

    def test_a_hanging_python_run_is_answered_and_others_continue(self, serving: Serve, tmp_path: Path) -> None:
        both = TwoModels(serving, tmp_path, *self.FLAGS)
        timed_out = Refusal(StatusCode.DEADLINE_EXCEEDED, "the run took more than 1 s and was abandoned")
        assert both.refusal(HANGS) == timed_out
        assert both.other() == [[2]]
        hangs = "a run of this model hangs; no other starts before it has ended"
        assert both.refusal(FINE) == (StatusCode.UNAVAILABLE, hangs)
        assert [health(both.caller, name) for name in ("", "other", "python")] == ["SERVING", "SERVING", "NOT_SERVING"]
        both.server.terminate()
        assert both.server.ended() == 0

    def test_onnx_runtime_ends_its_run(self, serving: Serve, tmp_path: Path) -> None:
        models.counting(tmp_path / "1")
        caller = serving(tmp_path, "--run_timeout=1.0").started()
        refusal = caller.refusal(predict_request({"steps": np.array([1 << 40])}))
        assert refusal == (StatusCode.DEADLINE_EXCEEDED, "the run took more than 1 s and was abandoned")
        eventually(lambda: health(caller, "model") == "SERVING")
        assert caller.predict({"steps": np.array([3])})["y"].tolist() == [3]
        caller.close()


def health(caller: Caller, service: str) -> str:
    check = HealthStub(caller.channel).Check(HealthCheckRequest(service=service), timeout=ANSWER_WITHIN)
    return str(HealthCheckResponse.ServingStatus.Name(check.status))
