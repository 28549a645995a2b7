"""Queries of the NVIDIA driver, and the errors if there is none, on a double that checks the driver's rules."""

import ctypes
from typing import Any

import pytest

from headrace_server.backends.gpu.nvidia_driver import NoDriverError, device_count, device_memory

NOT_INITIALIZED, NO_DEVICE, INVALID_DEVICE = 3, 100, 101
TEXTS = {NO_DEVICE: b"no CUDA-capable device is detected", INVALID_DEVICE: b"invalid device ordinal"}


class Driver:
    """Follows libcuda: nothing works before cuInit, and handles are not ordinals.

    Args:
        memories: The memory of each device in bytes; an empty list is a driver without devices.
    """

    def __init__(self, *memories: int) -> None:
        self._memories = memories
        self._initialised = False

    def cuInit(self, flags: int) -> int:  # noqa: N802
        assert flags == 0
        self._initialised = bool(self._memories)
        return 0 if self._memories else NO_DEVICE

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = len(self._memories)
        return self._status()

    def cuDeviceGet(self, handle: Any, ordinal: int) -> int:  # noqa: N802
        if not 0 <= ordinal < len(self._memories):
            return INVALID_DEVICE
        handle._obj.value = 70 + ordinal
        return self._status()

    def cuDeviceTotalMem_v2(self, size: Any, handle: Any) -> int:  # noqa: N802
        assert isinstance(size._obj, ctypes.c_size_t)
        size._obj.value = self._memories[handle.value - 70]
        return self._status()

    def cuGetErrorString(self, status: int, text: Any) -> int:  # noqa: N802
        text._obj.value = TEXTS.get(status)
        return 0

    def _status(self) -> int:
        return 0 if self._initialised else NOT_INITIALIZED


def install(monkeypatch: pytest.MonkeyPatch, *memories: int) -> None:
    monkeypatch.setattr(ctypes, "CDLL", {"libcuda.so.1": Driver(*memories)}.__getitem__)


def test_devices_and_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 80 << 30, 24 << 30)

    assert device_count() == 2
    assert device_memory(1) == 24 << 30


def test_a_missing_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, 80 << 30)
    with pytest.raises(NoDriverError, match="the NVIDIA driver reports an error: invalid device ordinal"):
        device_memory(1)


def test_a_driver_without_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch)
    with pytest.raises(NoDriverError, match=r"no CUDA-capable device is detected \(CUDA error 100\)"):
        device_count()


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", absent)
    with pytest.raises(NoDriverError, match=r"there is no NVIDIA driver \(libcuda.so.1: cannot open"):
        device_count()
