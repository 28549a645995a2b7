"""The real command with models on ONNX Runtime's CUDA provider, on every transport; only on a machine with a GPU."""

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from tests.conftest import Serve
from tests.server.backends.real_gpu import REAL, skip_without_cuda
from tests.support import models
from tests.support.calls import arrays, predict_request

pytestmark = pytest.mark.skipif(not REAL, reason="HEADRACE_TEST_GPU is not set")

RUNS_ON = re.compile(r"runs on CUDAExecutionProvider$")
Make = Callable[[Path], Path]


def by_the_cpu(file: Path, inputs: list[Array]) -> list[Array]:
    backend = load_onnx(file, BackendOptions(onnxruntime=OnnxruntimeOptions(providers=(CPU,))))
    return [backend.run(DEFAULT_SIGNATURE, {"x": x}, ("y",))["y"] for x in inputs]


@pytest.mark.parametrize(
    ("make", "row"),
    [(partial(models.linear, columns=64), (64,)), (models.wide, (64,)), (models.convolution, (1, 2, 2))],
)
def test_answers_are_the_cpus_and_the_process_ends_well(
    serving: Serve, tmp_path: Path, make: Make, row: tuple[int, ...]
) -> None:
    skip_without_cuda()
    parameters = tmp_path / "batching.txt"
    parameters.write_text("max_batch_size { value: 16 }")
    random = np.random.default_rng(1)
    inputs = [random.standard_normal((1 + number % 3, *row)).astype(np.float32) for number in range(200)]
    expected = by_the_cpu(make(tmp_path / "model" / "1"), inputs)
    process = serving(tmp_path / "model", f"--batching_parameters_file={parameters}", "--onnxruntime_gpu_tf32=false")
    process.wait_for(RUNS_ON)
    caller = process.started()
    with ThreadPoolExecutor(32) as threads:
        requests = [predict_request({"x": x}, as_content=True) for x in inputs]
        answers = [arrays(answer)["y"] for answer in threads.map(caller.call, requests)]

    for answer, wanted in zip(answers, expected, strict=True):
        np.testing.assert_allclose(answer, wanted, rtol=1e-4, atol=1e-5)
    caller.close()
    process.terminate()
    assert process.ended() == 0
