"""Puts the doubles into the import system."""

import sys
from types import ModuleType
from typing import Any

import pytest

from headrace_server.backends.gpu import cuda_graph

from .driver import Driver
from .graphs import Libcuda
from .machine import Machine
from .plans import VERSION
from .tensorrt import Tensorrt

IMPORTERS = [f"headrace_server.backends.tensorrt.{part}" for part in ("engine", "instance", "build", "backend")]


def install_cuda(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Driver:
    """Replaces `pycuda.driver` by the machine's double from now on."""
    package: Any = ModuleType("pycuda")
    package.driver = driver = Driver(machine)
    modules: dict[str, Any] = {"pycuda": package, "pycuda.driver": driver}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return driver


def install_tensorrt(monkeypatch: pytest.MonkeyPatch, machine: Machine, version: str = VERSION) -> Libcuda:
    """Replaces `tensorrt`, pycuda and libcuda's graph calls by doubles, for modules that are not loaded yet."""
    forget_importers(monkeypatch)
    install_cuda(monkeypatch, machine)
    double: Any = Tensorrt(machine, version)
    monkeypatch.setitem(sys.modules, "tensorrt", double)
    libcuda = Libcuda(machine)
    monkeypatch.setattr(cuda_graph, "_library", lambda: libcuda)
    return libcuda


def forget_importers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unloads the modules that have imported TensorRT, now and after the test, so that they are imported again."""
    for name in IMPORTERS:
        monkeypatch.setitem(sys.modules, name, ModuleType(name))  # so that monkeypatch restores the current module
        del sys.modules[name]
