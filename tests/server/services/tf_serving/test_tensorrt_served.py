"""A real server that runs TensorRT engines, on every transport, with many concurrent callers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from headrace_batching import Options
from headrace_batching.task import Array
from headrace_protos import Code, ModelVersionStatus
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.tensorrt import TensorrtOptions
from tests.conftest import Run
from tests.support import models
from tests.support.calls import Caller, Refusal, arrays, predict_request, refusal_of, status_request
from tests.support.gpu import REAL, Gpu
from tests.support.running import RunningServer, eventually

BATCHING = Options(max_batch_size=16, batch_timeout_micros=5_000, max_enqueued_batches=1000, num_batch_threads=4)
CALLERS = 32
LOOK_OFTEN = {"file_system_poll_wait_seconds": 0.02}
QUIET = {"enable_synthetic_warmup": False}


def planned(gpu: Gpu, folder: Path, **tensorrt: Any) -> Path:
    """A version with only a `model.plan`."""
    models.wide(folder)
    return gpu.plan(folder, BATCHING, **tensorrt)


def requests(count: int) -> list[Array]:
    random = np.random.default_rng(1)
    return [random.standard_normal((1 + number % 3, 64)).astype(np.float32) for number in range(count)]


def answers(caller: Caller, inputs: list[Array]) -> list[Array | Refusal]:
    """The answers to callers that all call at once."""

    def ask(x: Array) -> Array | Refusal:
        try:
            return arrays(caller.call(predict_request({"x": x}, as_content=True)))["y"]
        except grpc.RpcError as error:
            return refusal_of(error)

    with ThreadPoolExecutor(CALLERS) as threads:
        return list(threads.map(ask, inputs))


def by_onnx_runtime(folder: Path, inputs: list[Array]) -> list[Array]:
    on_cpu = BackendOptions(onnxruntime=OnnxruntimeOptions(providers=(CPU,)))
    backend = load_onnx(models.wide(folder), on_cpu)
    return [backend.run(DEFAULT_SIGNATURE, {"x": x}, ("y",))["y"] for x in inputs]


def assert_equal(got: list[Array | Refusal], expected: list[Array]) -> None:
    for answer, wanted in zip(got, expected, strict=True):
        assert not isinstance(answer, Refusal), answer
        np.testing.assert_allclose(answer, wanted, rtol=1e-3, atol=1e-4)


def start(running: Run, make: Any, **config: Any) -> RunningServer:
    return running(make, batching=BATCHING, **config)


@pytest.mark.parametrize("graphs", [False, True])
def test_answers_are_those_of_onnx_runtime(gpu: Gpu, running: Run, tmp_path: Path, graphs: bool) -> None:
    def make(folder: Path) -> Path:
        text = f"[tensorrt]\ncuda_graphs = {str(graphs).lower()}\ndevices = [0]\ninstances = 3\n"
        (folder.parent / "model.toml").write_text(text)
        return planned(gpu, folder)

    server = start(running, make, **QUIET)
    inputs = requests(300)

    assert_equal(answers(server.caller, inputs), by_onnx_runtime(tmp_path / "1", inputs))
    server.stop()
    batches = gpu.libcuda.launches if graphs else gpu.machine.calls["execute_async_v3"]
    assert 300 // BATCHING.max_batch_size < batches < 300


@pytest.mark.usefixtures("gpu")
def test_an_onnx_model_is_built_if_tensorrt_is_on(running: Run, tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        (folder.parent / "model.toml").write_text("[tensorrt]\ntf32 = false\n")
        return models.wide(folder)

    devices = (0,) if REAL else (0, 1)
    options = TensorrtOptions(enabled=True, devices=devices, cache_folder=str(tmp_path / "engines"))
    server = start(running, make, tensorrt=options)
    inputs = requests(60)

    assert_equal(answers(server.caller, inputs), by_onnx_runtime(tmp_path / "1", inputs))
    server.stop()
    assert len(list((tmp_path / "engines").glob("*.plan"))) == 1


@pytest.mark.usefixtures("gpu")
def test_a_request_that_the_engine_refuses_fails_alone(running: Run, tmp_path: Path) -> None:
    def make(folder: Path) -> Path:
        (folder.parent / "model.toml").write_text("[tensorrt]\ndimensions = { W = [1, 4, 8] }\n")
        return models.row_sums(folder)

    server = start(running, make, tensorrt=TensorrtOptions(cache_folder=str(tmp_path / "engines")), **QUIET)
    widths = [1 + number % 9 for number in range(45)]
    futures = [server.caller.begin(predict_request({"x": np.ones((1, width), np.float32)})) for width in widths]

    for width, future in zip(widths, futures, strict=True):
        if width <= 8:
            assert arrays(future.result())["y"].tolist() == [width]
        else:
            refusal = refusal_of(future.exception())
            assert refusal.code == grpc.StatusCode.INVALID_ARGUMENT
            assert refusal.text == "input x: dimension 1 is 9, and the engine was built for 1 to 8"
    server.stop()


def test_a_batch_without_enough_memory_is_run_in_halves(gpu: Gpu, running: Run) -> None:
    server = start(running, partial(planned, gpu), **QUIET)
    gpu.machine.memory = 1 << 16  # enough for the memory in use, and for a few rows

    inputs = [np.ones((number, 64), np.float32) for number in (16, 16, 1, 1, 1, 1)]
    got = answers(server.caller, inputs)

    refused = [answer for answer in got if isinstance(answer, Refusal)]
    assert {answer.code for answer in refused} <= {grpc.StatusCode.RESOURCE_EXHAUSTED}
    gpu.machine.memory = 1 << 30
    assert not isinstance(answers(server.caller, inputs)[0], Refusal)
    server.stop()


def states(caller: Caller) -> dict[int, tuple[int, int, str]]:
    return {
        status.version: (status.state, status.status.error_code, status.status.error_message)
        for status in caller.call(status_request()).model_version_status
    }


def test_a_new_plan_that_does_not_fit_leaves_the_old_version_serving(gpu: Gpu, running: Run) -> None:
    from tests.gpu_doubles.plans import Plan

    assert gpu.machine.devices
    server = start(running, partial(planned, gpu), **LOOK_OFTEN)
    plan = planned(gpu, server.base_path / "unfinished")
    plan.write_bytes(replace(Plan.parse(plan.read_bytes()), version="8.6.1").serialize())
    plan.parent.rename(server.base_path / "2")
    eventually(lambda: states(server.caller).get(2, (0,))[0] == ModelVersionStatus.END)

    _, code, text = states(server.caller)[2]
    assert code == Code.FAILED_PRECONDITION
    assert "build the plan here from its ONNX file" in text
    response = server.caller.call(predict_request({"x": np.ones((1, 64), np.float32)}))
    assert response.model_spec.version.value == 1
    server.stop()


def test_a_new_version_takes_over_under_load(gpu: Gpu, running: Run, tmp_path: Path) -> None:
    server = start(running, partial(planned, gpu), **LOOK_OFTEN)
    inputs = requests(200)
    expected = by_onnx_runtime(tmp_path / "1", inputs)
    with ThreadPoolExecutor(1) as thread:
        calling = thread.submit(answers, server.caller, inputs)
        planned(gpu, server.base_path / "unfinished").parent.rename(server.base_path / "2")
        eventually(lambda: states(server.caller).get(1, (0,))[0] == ModelVersionStatus.END)
        assert_equal(calling.result(), expected)
    server.stop()
