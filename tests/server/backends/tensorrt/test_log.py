"""TensorRT has one log per process: its message about a failure reaches the failed model, and no other."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_protos import Code
from headrace_server.errors import LoadError
from tests.support import models
from tests.support.gpu import BATCHING, Gpu, gpu_of

NULL = TypeError("pybind11::init(): factory function returned nullptr")


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Gpu]:
    with gpu_of(monkeypatch, tmp_path, devices=2) as gpu:
        yield gpu


def test_tensorrt_does_not_start(gpu: Gpu, tmp_path: Path) -> None:
    file = models.linear(tmp_path / "1")
    for call in ("a builder", "a runtime"):
        gpu.machine.failures[call] = NULL
        with pytest.raises(LoadError) as raised:
            gpu.load(tmp_path / "1")
        assert raised.value.message == f"{file}: TensorRT cannot be started: TensorRT gives no reason"


def test_versions_that_overlap(gpu: Gpu, tmp_path: Path) -> None:
    """The double complains about a second logger, and about one that is freed before its runtime."""
    for version in ("1", "2"):
        models.linear(tmp_path / version)
    old = gpu.load(tmp_path / "1")
    new = gpu.load(tmp_path / "2")
    old.close()
    new.close()


def test_each_thread_gets_messages_of_its_own_failures_and_of_tensorrts_threads(gpu: Gpu) -> None:
    assert gpu.machine.devices
    from headrace_server.backends.tensorrt.engine import Log

    said, go = Log(), threading.Event()
    error = Log.Severity.ERROR

    def fail_elsewhere() -> None:
        said.log(error, "another model's: out of memory")
        go.wait(60)

    other = threading.Thread(target=fail_elsewhere)
    gone = threading.Thread(target=lambda: said.log(error, "a thread of TensorRT's"))
    for thread in (other, gone):
        thread.start()
    gone.join()
    said.log(error, "mine")

    failure = said.failure("it fails")
    go.set()
    other.join()

    assert failure.code == Code.INTERNAL
    assert sorted(failure.message.removeprefix("it fails: ").split("; ")) == ["a thread of TensorRT's", "mine"]


def test_earlier_messages_are_not_repeated(gpu: Gpu, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "model.plan").write_bytes(b"no plan")
    from headrace_server.backends.tensorrt.engine import LOG, Log

    LOG.log(Log.Severity.ERROR, "an error that nobody has asked for")

    with pytest.raises(LoadError) as raised:
        gpu.load(tmp_path / "2")

    assert "nobody has asked for" not in raised.value.message


def test_a_profile_that_tensorrt_does_not_take(gpu: Gpu, tmp_path: Path) -> None:
    assert gpu.machine.devices
    from headrace_server.backends.gpu.cuda import Device
    from headrace_server.backends.onnx.header import read_header
    from headrace_server.backends.tensorrt.build import build_plan
    from headrace_server.backends.tensorrt.profiles import Bounds

    model = models.linear(tmp_path / "1")
    wrong = {"x": Bounds((2, 4), (1, 4), (1, 4))}
    device = Device(0)
    with pytest.raises(Exception, match="TensorRT refuses the profile") as raised:
        build_plan(model, read_header(model.read_bytes()), [wrong], gpu.options(BATCHING).tensorrt, device)
    device.release()

    assert getattr(raised.value, "code", None) == Code.INTERNAL
