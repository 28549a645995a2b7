"""A GPU with TensorRT for tests: the double, or this machine's own if HEADRACE_TEST_GPU is set."""

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from headrace_batching import Options
from headrace_server.backends import auto
from headrace_server.backends.base import Backend, BackendOptions
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import LoadError
from tests.gpu_doubles.graphs import Libcuda
from tests.gpu_doubles.installed import install_tensorrt
from tests.gpu_doubles.machine import Machine
from tests.server.backends.real_gpu import full_gpu

REAL = bool(os.environ.get("HEADRACE_TEST_GPU"))

BATCHING = Options(max_batch_size=8)


class Gpu:
    """A place where models are built and loaded.

    Args:
        folder: The folder for the cache of built engines.
        machine: The machine of the double; None on a real GPU.
        libcuda: The double's calls for graphs.
    """

    def __init__(self, folder: Path, machine: Machine | None = None, libcuda: Libcuda | None = None) -> None:
        self._folder = folder
        self._machine = machine
        self._libcuda = libcuda

    @property
    def machine(self) -> Machine:
        """The double's machine; a test that uses it is for the double only."""
        if self._machine is None:
            pytest.skip("only the double can be inspected")
        return self._machine

    @property
    def libcuda(self) -> Libcuda:
        """The double's calls for graphs; like `machine`, only for tests of the double."""
        if self._libcuda is None:
            pytest.skip("only the double can be inspected")
        return self._libcuda

    @contextmanager
    def full(self) -> Iterator[None]:
        """Fills the GPU's memory; the double stays full."""
        if self._machine is None:
            with full_gpu():
                yield
        else:
            self._machine.memory = 200
            yield

    def options(self, batching: Options | None = BATCHING, **tensorrt: Any) -> BackendOptions:
        """The options that a model is loaded with."""
        exact = {"tf32": False} if REAL else {}  # so that answers equal those of ONNX Runtime on the CPU
        settings = {"enabled": True, "cache_folder": str(self._folder / "engines"), **exact, **tensorrt}
        return BackendOptions(batching=batching, tensorrt=TensorrtOptions(**settings))

    def load(self, version: Path, batching: Options | None = BATCHING, **tensorrt: Any) -> Backend:
        """Loads the model in a version's folder."""
        return auto.load(version, self.options(batching, **tensorrt))

    def plan(self, version: Path, batching: Options | None = BATCHING, **tensorrt: Any) -> Path:
        """Replaces the `model.onnx` in a version's folder by a `model.plan`."""
        from headrace_server.backends.onnx.header import read_header
        from headrace_server.backends.tensorrt.backend import CachedPlan

        model = version / "model.onnx"
        built = CachedPlan(model, read_header(model.read_bytes()), self.options(batching, **tensorrt)).build()
        (version / "model.plan").write_bytes(built)
        model.unlink()
        return version / "model.plan"


@contextmanager
def gpu_of(monkeypatch: pytest.MonkeyPatch, folder: Path, **machine: Any) -> Iterator[Gpu]:
    """A GPU on which nothing may be left at the end."""
    if REAL:
        skip_without_device()
        keep_kernels()
        yield Gpu(folder)
        return
    double = Machine(**machine)
    gpu = Gpu(folder, double, install_tensorrt(monkeypatch, double))
    yield gpu
    assert double.complaints == []
    double.check_nothing_left()


@cache
def keep_kernels() -> None:
    """Makes TensorRT keep its kernels, which take seconds to read for the first builder."""
    from headrace_server.backends.gpu.cuda import Device
    from headrace_server.backends.tensorrt.engine import LOG

    with Device(0):
        builder = ctypes.py_object(LOG.made(sys.modules["tensorrt"].Builder))
    ctypes.pythonapi.Py_IncRef(builder)  # freed with the process: at its end there is no context to free it in


def skip_without_device() -> None:
    """Skips the test, with a reason, if there is no GPU or its libraries are missing."""
    from headrace_server.backends.gpu.cuda import Device

    try:
        import tensorrt as trt

        Device(0).release()
    except (ImportError, LoadError) as error:
        pytest.skip(f"no GPU to test on: {error}")
    assert trt is sys.modules["tensorrt"]
