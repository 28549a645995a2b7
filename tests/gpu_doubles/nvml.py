"""A double of `pynvml` that checks NVML's rules, and reports an error where NVML's behaviour is undefined."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    """A double of pynvml's class."""


class NVMLError_FunctionNotFound(NVMLError):  # noqa: N801
    """The driver is older than the function."""


@dataclass
class Gpu:
    """The answers of one device; None is NOT_SUPPORTED."""

    uuid: str
    utilization: int | None = 0
    used: int = 0
    total: int = 1
    milliwatts: int | None = 0
    celsius: int = 0


@dataclass
class Nvml:
    """The library on a machine with these devices.

    Attributes:
        driver: Whether the machine has a driver.
        old: Whether the driver lacks the functions of newer ones.
        sessions: The number of initialisations that have not been shut down.
        calls: Every function that was called, in order.
    """

    gpus: list[Gpu]
    driver: bool = True
    old: bool = False
    sessions: int = 0
    calls: list[str] = field(default_factory=list)
    _handles: dict[int, Gpu] = field(default_factory=dict)

    NVMLError = NVMLError
    NVMLError_FunctionNotFound = NVMLError_FunctionNotFound

    def nvmlInit(self) -> None:  # noqa: N802
        self.calls.append("nvmlInit")
        if not self.driver:
            raise NVMLError("Driver Not Loaded")
        self.sessions += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self._called("nvmlShutdown")
        self.sessions -= 1
        self._handles.clear()

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        self._called("nvmlDeviceGetCount")
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        self._called("nvmlDeviceGetHandleByIndex")
        if index >= len(self.gpus):
            raise NVMLError("Invalid Argument")
        self._handles[1000 + index] = self.gpus[index]
        return 1000 + index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return self._gpu("nvmlDeviceGetUUID", handle).uuid

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        gpu = self._gpu("nvmlDeviceGetUtilizationRates", handle)
        return SimpleNamespace(gpu=_supported(gpu.utilization), memory=99)

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        gpu = self._gpu("nvmlDeviceGetMemoryInfo", handle)
        return SimpleNamespace(used=gpu.used, free=gpu.total - gpu.used, total=gpu.total)

    def nvmlDeviceGetPowerUsage(self, handle: int) -> int:  # noqa: N802
        return _supported(self._gpu("nvmlDeviceGetPowerUsage", handle).milliwatts)

    def nvmlDeviceGetTemperatureV(self, handle: int, sensor: int) -> int:  # noqa: N802
        if self.old:
            raise NVMLError_FunctionNotFound("Function Not Found")
        return self._temperature("nvmlDeviceGetTemperatureV", handle, sensor)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> int:  # noqa: N802
        if not self.old:
            raise AssertionError("nvmlDeviceGetTemperature is deprecated")
        return self._temperature("nvmlDeviceGetTemperature", handle, sensor)

    def _temperature(self, name: str, handle: int, sensor: int) -> int:
        if sensor:
            raise NVMLError("Invalid Argument")
        return self._gpu(name, handle).celsius

    def _gpu(self, name: str, handle: int) -> Gpu:
        self._called(name)
        return self._handles[handle]

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if not self.sessions:
            raise AssertionError(f"{name} before nvmlInit, or after nvmlShutdown")


class OldPackage(Nvml):
    """An older `nvidia-ml-py`, which lacks the newer call for temperatures."""

    def __getattribute__(self, name: str) -> Any:
        if name == "nvmlDeviceGetTemperatureV":
            raise AttributeError(name)
        return super().__getattribute__(name)


def _supported(value: int | None) -> int:
    if value is None:
        raise NVMLError("Not Supported")
    return value
