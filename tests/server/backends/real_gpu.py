"""Access to this machine's GPU in tests that run with HEADRACE_TEST_GPU set."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from headrace_server.backends.gpu.cuda import Device
from headrace_server.backends.onnx.providers import CUDA, why_not
from headrace_server.errors import ServingError

REAL = bool(os.environ.get("HEADRACE_TEST_GPU"))


def skip_without_cuda() -> None:
    """Skips the test, with a reason, if ONNX Runtime cannot run on a GPU or pycuda is missing."""
    import onnxruntime

    if CUDA not in onnxruntime.get_available_providers():
        pytest.skip("no GPU to test on: onnxruntime-gpu is not installed")
    if reason := why_not(CUDA, 0):
        pytest.skip(f"no GPU to test on: {reason}")
    pytest.importorskip("pycuda.driver")


@contextmanager
def full_gpu() -> Iterator[None]:
    """Fills nearly all memory of this machine's GPU."""
    device, taken = Device(0), []
    with device:
        size = device.free_memory()
        while size >= 1 << 20:
            try:
                taken.append(device.allocate(size))
            except ServingError:
                size //= 2
    try:
        yield
    finally:
        with device:
            while taken:
                taken.pop().free()
        device.release()
