"""Puts the doubles where `import` finds them."""

import sys
from types import ModuleType
from typing import Any

import pytest

from .driver import Driver
from .machine import Machine


def install_cuda(monkeypatch: pytest.MonkeyPatch, machine: Machine) -> Driver:
    """From here on, `pycuda.driver` is the machine's."""
    package: Any = ModuleType("pycuda")
    package.driver = driver = Driver(machine)
    modules: dict[str, Any] = {"pycuda": package, "pycuda.driver": driver}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return driver
