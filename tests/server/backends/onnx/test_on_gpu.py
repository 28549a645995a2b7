"""ONNX models on a GPU from load to unload, on a double that checks CUDA's rules, called directly and by a server."""

import gc
import logging
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from headrace_batching import Options
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions, BatchMemory, OnDevices
from headrace_server.backends.onnx import loading
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.providers import CUDA, TENSORRT, why_not
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.errors import LoadError, ServingError
from tests.conftest import Run
from tests.gpu_doubles.installed import install_cuda
from tests.gpu_doubles.machine import Machine
from tests.gpu_doubles.onnxruntime_gpu import GpuSession
from tests.server.backends.real_gpu import REAL, full_gpu, skip_without_cuda
from tests.support import models
from tests.support.calls import floats
from tests.support.running import RunningServer, eventually

DEFAULT = "serving_default"


class Opened:
    """Opens sessions on the machine, and records their providers."""

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self.providers: list[list[tuple[str, Mapping[str, str]]]] = []

    def __call__(
        self, model: str | bytes, options: ort.SessionOptions, providers: Sequence[tuple[str, Mapping[str, str]]]
    ) -> GpuSession:
        del options
        self.providers.append(list(providers))
        return GpuSession(self._machine, model, int(providers[0][1]["device_id"]))


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine with two GPUs and an ONNX Runtime for them; at the end it must be empty and have no complaints."""
    machine = Machine(devices=2, memory=1 << 24)
    install_cuda(monkeypatch, machine)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(loading, "why_not", lambda _, device: "" if device < 2 else f"no GPU {device}")
    yield machine
    gc.collect()
    machine.check_nothing_left()
    assert machine.complaints == []


@pytest.fixture
def opened(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Opened:
    opened = Opened(machine)
    monkeypatch.setattr(loading, "open_session", opened)
    return opened


def load(file: Path, batching: Options | None = None, **onnxruntime: Any) -> OnnxBackend:
    return load_onnx(file, BackendOptions(onnxruntime=OnnxruntimeOptions(**onnxruntime), batching=batching))


class TestLoaded:
    def test_auto_takes_the_gpu_and_says_so(
        self, opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "headrace_server")
        file = models.linear(tmp_path)
        backend = load(file, device_id=1, gpu_memory_limit_mb=2)
        cuda = {
            "device_id": "1",
            "arena_extend_strategy": "kNextPowerOfTwo",
            "cudnn_conv_algo_search": "HEURISTIC",
            "prefer_nhwc": "0",
            "use_tf32": "1",
            "gpu_mem_limit": str(2 << 20),
        }

        assert opened.providers == [[(CUDA, cuda), (CPU, {})]]
        assert caplog.messages == [f"{file} runs on {CUDA}"]
        assert isinstance(backend, BatchMemory)
        assert isinstance(backend, OnDevices)
        backend.close()

    @pytest.mark.usefixtures("opened")
    def test_knows_the_memory_that_its_load_took(self, tmp_path: Path) -> None:
        backend = load(models.linear(tmp_path), device_id=1)

        assert backend.device_memory() == {1: 4096}
        backend.close()
        assert backend.device_memory() == {}

    @pytest.mark.usefixtures("opened")
    def test_answers_from_its_own_memory(self, machine: Machine, tmp_path: Path) -> None:
        backend = load(models.linear(tmp_path))
        x = backend.empty((3, 4), np.dtype(np.float32))
        x[:] = 1
        y = backend.run(DEFAULT, {"x": x}, ["y"])["y"]
        backend.close()

        assert y.tolist() == [[4]] * 3  # an answer stays valid after the model is gone
        assert (machine.calls["memcpy_htod_async"], machine.calls["memcpy_dtoh_async"]) == (1, 1)
        with pytest.raises(ServingError, match="has been unloaded"):
            backend.run(DEFAULT, {"x": np.ones((1, 4), np.float32)}, ["y"])

    @pytest.mark.usefixtures("opened")
    def test_refusals_keep_their_codes(self, tmp_path: Path) -> None:
        backend = load(models.linear(tmp_path))
        with pytest.raises(ServingError) as raised:
            backend.run(DEFAULT, {"x": np.ones((1 << 21, 4), np.float32)}, ["y"])
        code = raised.value.code
        del raised
        backend.close()

        assert code == Code.RESOURCE_EXHAUSTED

    @pytest.mark.usefixtures("opened")
    def test_strings_take_the_runtimes_own_copies(self, tmp_path: Path) -> None:
        backend = load(models.identity(tmp_path, TensorProto.STRING))
        x = np.array([[b"a", b"b"]], object)

        assert backend.run(DEFAULT, {"x": x}, ["y"])["y"].tolist() == [["a", "b"]]
        backend.close()

    @pytest.mark.usefixtures("opened")
    def test_a_model_also_runs_without_pycuda(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "pycuda", None)
        monkeypatch.delitem(sys.modules, "pycuda.driver")
        with caplog.at_level(logging.WARNING, "headrace_server"):
            backend = load(models.linear(tmp_path))

        assert caplog.messages == ["pycuda is not installed: batches are copied to the GPU from pageable memory"]
        assert backend.run(DEFAULT, {"x": np.ones((1, 4), np.float32)}, ["y"])["y"].tolist() == [[4]]
        assert backend.device_memory() == {}
        backend.close()

    @pytest.mark.usefixtures("opened")
    def test_a_load_that_fails_leaves_nothing(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError) as raised:
            load(models.sequence_output(tmp_path))
        del raised

    @pytest.mark.usefixtures("machine")
    def test_a_provider_that_onnx_runtime_skips_is_a_load_error(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def on_cpu(model: str, *_: Any) -> ort.InferenceSession:
            return ort.InferenceSession(model, providers=[CPU])

        monkeypatch.setattr(loading, "open_session", on_cpu)
        with pytest.raises(LoadError, match=f"ONNX Runtime does not use {CUDA}") as raised:
            load(models.linear(tmp_path), providers=(CUDA,))
        assert raised.value.code == Code.FAILED_PRECONDITION

    @pytest.mark.usefixtures("opened")
    def test_a_missing_gpu_is_a_load_error(self, tmp_path: Path) -> None:
        with pytest.raises(LoadError, match=f"{CUDA} does not work: no GPU 2"):
            load(models.linear(tmp_path), providers=(CUDA,), device_id=2)


class TestConvolutions:
    """Whenever a session's shapes change, ONNX Runtime plans convolutions again, which takes longer than a batch."""

    BATCHING = Options(max_batch_size=8)

    def test_are_planned_once_for_each_size_of_a_batch(self, machine: Machine, opened: Opened, tmp_path: Path) -> None:
        backend = load(models.convolution(tmp_path), self.BATCHING)
        fitted = backend.fit_batching(self.BATCHING)
        machine.calls["plan"] = 0
        for rows in (8, 1, 8, 2, 1, 4, 8):
            x = np.full((rows, 1, 2, 2), rows, np.float32)
            assert backend.run(DEFAULT, {"x": x}, ["y"])["y"].tolist() == (2 * x).tolist()

        assert (machine.calls["plan"], len(opened.providers)) == (4, 1 + 4)
        grows = [dict(providers)[CUDA]["arena_extend_strategy"] for providers in opened.providers]
        assert grows == ["kNextPowerOfTwo", *["kSameAsRequested"] * 4]
        assert fitted == replace(self.BATCHING, allowed_batch_sizes=(1, 2, 4, 8), max_running_batches=2)
        backend.close()

    @pytest.mark.usefixtures("opened")
    def test_of_a_size_that_no_batch_has_are_still_run(self, tmp_path: Path) -> None:
        backend = load(models.convolution(tmp_path), Options(max_batch_size=8, allowed_batch_sizes=(4, 8)))
        x = np.ones((3, 1, 2, 2), np.float32)

        assert backend.run(DEFAULT, {"x": x}, ["y"])["y"].tolist() == (2 * x).tolist()
        backend.close()

    @pytest.mark.parametrize("gone", [True, False])
    def test_of_models_that_cannot_be_loaded_again_are_still_run(
        self, opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture, gone: bool
    ) -> None:
        """A changed file is not loaded again, either, since batches of that size would then use the new weights."""
        file = models.convolution(tmp_path)
        backend = load(file, self.BATCHING)
        if gone:
            file.unlink()
        else:
            os.utime(file, ns=(1, 1))
        x = np.ones((8, 1, 2, 2), np.float32)
        for _ in range(2):
            assert backend.run(DEFAULT, {"x": x}, ["y"])["y"].tolist() == (2 * x).tolist()

        (warning,) = [record.message for record in caplog.records if "8 rows have no session" in record.message]
        assert "model.onnx has changed since it was loaded" in warning
        assert len(opened.providers) == 1
        backend.close()

    def test_are_all_that_is_loaded_more_than_once(self, opened: Opened, tmp_path: Path) -> None:
        backend = load(models.linear(tmp_path), self.BATCHING, gpu_instances=3)
        backend.run(DEFAULT, {"x": np.ones((8, 4), np.float32)}, ["y"])

        assert backend.fit_batching(self.BATCHING) == replace(self.BATCHING, max_running_batches=3)
        assert len(opened.providers) == 1
        backend.close()


@pytest.mark.usefixtures("opened")
def test_a_server_that_is_called_by_many_and_swaps_a_version_in(machine: Machine, running: Run) -> None:
    server = running(models.linear, batching=Options(max_batch_size=8, num_batch_threads=2))
    ask(server, 200)
    assert "memcpy_htod_async" in machine.calls

    models.linear(server.base_path / "new", bias=1.0).parent.rename(server.base_path / "2")
    eventually(lambda: server.caller.predict({"x": floats([0, 0, 0, 0])})["y"].tolist() == [[1]], within=20)
    page = server._server._metrics.page().decode()
    assert re.search(r':headrace:gpu_model_memory_bytes\{model_name="model",version="2",device="0"\} \d+', page)
    server.stop()


@pytest.mark.skipif(not REAL, reason="HEADRACE_TEST_GPU is not set")
@pytest.mark.parametrize("provider", [CUDA, TENSORRT])
def test_the_real_thing(tmp_path: Path, provider: str) -> None:
    skip_without_cuda()
    if reason := why_not(provider, 0):
        pytest.skip(reason)
    cache = {"tensorrt_engine_cache": str(tmp_path / "engines")} if provider == TENSORRT else {}
    backend = load(models.linear(tmp_path / "1"), Options(max_batch_size=64), providers=(provider,), **cache)
    x = backend.empty((64, 4), np.dtype(np.float32))
    x[:] = np.arange(256).reshape(64, 4)

    assert backend.run(DEFAULT, {"x": x}, ["y"])["y"].tolist() == x.sum(axis=1, keepdims=True).tolist()
    assert set(backend.device_memory()) == {0}
    backend.close()


@pytest.mark.skipif(not REAL, reason="HEADRACE_TEST_GPU is not set")
class TestWithoutMemory:
    def test_a_batch_that_the_arena_has_no_room_for(self, tmp_path: Path) -> None:
        skip_without_cuda()
        backend = load(
            models.wide(tmp_path / "1"), Options(max_batch_size=8), providers=(CUDA,), gpu_memory_limit_mb=64
        )
        with pytest.raises(ServingError) as raised:
            backend.run(DEFAULT, {"x": np.ones((1 << 20, 64), np.float32)}, ["y"])
        code = raised.value.code
        del raised

        assert code == Code.RESOURCE_EXHAUSTED
        assert backend.run(DEFAULT, {"x": np.ones((2, 64), np.float32)}, ["y"])["y"].shape[0] == 2
        backend.close()

    @pytest.mark.parametrize("providers", [("auto",), (CUDA,)])
    def test_a_gpu_that_is_full_is_a_load_error(self, tmp_path: Path, providers: tuple[str, ...]) -> None:
        skip_without_cuda()
        file = models.convolution(tmp_path / "1")
        with full_gpu(), pytest.raises(LoadError) as raised:
            load(file, Options(max_batch_size=8), providers=providers)

        assert raised.value.code == Code.RESOURCE_EXHAUSTED


def ask(server: RunningServer, calls: int) -> None:
    """Sends requests of one row, 16 at a time, and checks each answer."""

    def one(number: int) -> bool:
        return bool(server.caller.predict({"x": floats([number, 0, 0, 1])})["y"].tolist() == [[number + 1]])

    with ThreadPoolExecutor(16) as threads:
        assert all(threads.map(one, range(calls)))
