"""The real onnxruntime-gpu without a GPU: `auto` serves on the CPU and logs it; an explicit CUDA is refused."""

import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from shutil import which

import numpy as np
import pytest

from headrace_batching import Options
from headrace_client import Client
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.provider_options import provider_options
from headrace_server.backends.onnx.providers import GPU_LIBRARIES
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from tests.conftest import ROOT, Serve
from tests.support import models
from tests.support.calls import MODEL
from tests.support.running import ServerProcess

HEADRACE = "from headrace_server.commands.headrace import main; raise SystemExit(main())"
IS_THERE = (
    "import onnxruntime, headrace_server; assert 'CUDAExecutionProvider' in onnxruntime.get_available_providers()"
)
HAS_GPU = "from headrace_server.backends.gpu.nvidia_driver import device_count; device_count()"


@pytest.fixture(scope="module")
def gpu_python() -> Path:
    """The Python of an environment with onnxruntime-gpu and headrace, on a machine without a GPU."""
    named = os.environ.get("HEADRACE_ONNXRUNTIME_GPU_PYTHON")
    python = Path(named) if named else ROOT / ".venv-onnxruntime-gpu" / "bin" / "python"
    if not python.exists() or _fails(python, IS_THERE):
        pytest.skip(f"{python} has no onnxruntime-gpu: run scripts/install-onnxruntime-gpu")
    if not _fails(python, HAS_GPU):
        pytest.skip("this machine has a GPU")
    return python


@pytest.fixture
def serve(gpu_python: Path) -> Iterator[Serve]:
    """Starts the command in the environment with onnxruntime-gpu: `serve(base_path, *flags)`."""
    with ExitStack() as stack:

        def start(base_path: Path, *flags: str) -> ServerProcess:
            process = ServerProcess(base_path, *flags, headrace=(gpu_python, "-c", HEADRACE))
            stack.callback(process.close)
            return process

        yield start


def test_auto_says_so_and_serves_on_the_cpu(serve: Serve, tmp_path: Path) -> None:
    file = models.linear(tmp_path / "1")
    server = serve(tmp_path)
    port = int(server.wait_for(re.compile(r"Running gRPC ModelServer at 0\.0\.0\.0:(\d+)"))[1])
    with Client(f"localhost:{port}") as client:
        assert client.predict(MODEL, {"x": np.ones((1, 4), np.float32)})["y"].tolist() == [[4]]
    said = [line for line in server.log if "ExecutionProvider" in line]

    assert len(said) == 1
    assert f"{file} runs on CPUExecutionProvider; CUDAExecutionProvider does not work: there is no NVIDIA" in said[0]


def test_a_driver_without_the_rest_is_not_enough(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime hardly reports that CUDA's libraries are missing or need a newer driver; headrace does."""
    if which("cc") is None:
        pytest.skip("no C compiler for the double of a driver")
    library = tmp_path / "driver" / "libcuda.so.1"
    library.parent.mkdir()
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, ROOT / "tests" / "doubles" / "libcuda.c"], check=True)
    monkeypatch.setenv("LD_LIBRARY_PATH", str(library.parent))
    models.linear(tmp_path / "model" / "1")
    server = serve(tmp_path / "model")
    server.wait_for(re.compile("Running gRPC ModelServer"))
    said = [line for line in server.log if "ExecutionProvider does not work" in line]

    assert len(said) == 1
    assert re.search(
        r"runs on CPUExecutionProvider; CUDA\w+ does not work: (lib\w+\.so\.\d+: |CUDA failure 35: )", said[0]
    )


@pytest.mark.parametrize("provider", ["CUDAExecutionProvider", "TensorrtExecutionProvider"])
def test_an_explicit_provider_is_refused_with_the_reason(serve: Serve, tmp_path: Path, provider: str) -> None:
    models.linear(tmp_path / "1")
    server = serve(tmp_path, f"--onnxruntime_providers={provider}", "--max_num_load_retries=0")

    assert server.ended() == 1
    assert re.search(rf"{provider} does not work: there is no NVIDIA driver .*; it needs the driver", server.log[-1])


def test_the_providers_know_every_option_that_they_get(gpu_python: Path, tmp_path: Path) -> None:
    found = subprocess.check_output([gpu_python, "-c", "import onnxruntime; print(onnxruntime.__file__)"], text=True)
    capi = Path(found.strip()).parent / "capi"
    caches = {"tensorrt_engine_cache": str(tmp_path / "engines"), "tensorrt_timing_cache": str(tmp_path / "timings")}
    backend_options = BackendOptions(
        onnxruntime=OnnxruntimeOptions(**caches, gpu_memory_limit_mb=1),  # type: ignore[arg-type]
        batching=Options(max_batch_size=2),
    )
    file = models.linear(tmp_path / "1")
    for provider, library in GPU_LIBRARIES.items():
        words, known = provider_options(provider, file, backend_options), (capi / library).read_bytes()
        assert [word for word in words if word.encode() not in known] == []


def _fails(python: Path, code: str) -> bool:
    return subprocess.run([python, "-c", code], capture_output=True, check=False).returncode != 0
