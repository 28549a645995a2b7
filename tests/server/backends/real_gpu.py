"""Whether tests run on this machine's own GPU: where HEADRACE_TEST_GPU is set."""

import os

import pytest

from headrace_server.backends.onnx_providers import CUDA, why_not

REAL = bool(os.environ.get("HEADRACE_TEST_GPU"))


def skip_without_cuda() -> None:
    """Skips the test, with a word, where ONNX Runtime cannot run on a GPU, or there is no pycuda."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("no GPU to test on: onnxruntime-gpu is not installed")
    if reason := why_not(CUDA, 0):
        pytest.skip(f"no GPU to test on: {reason}")
    pytest.importorskip("pycuda.driver")
