"""Reads figures about this machine's GPUs from NVIDIA's management library; there are none if it is missing."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from threading import Lock
from typing import Any

Reading = Callable[[Any, Any], int]
"""Asks the library (`pynvml`) for one number of one device, given its handle."""

_TEMPERATURE_GPU = 0  # nvmlTemperatureSensors_t


def utilization(nvml: Any, device: Any) -> int:
    """The percentage of the driver's last sample period in which a kernel ran."""
    return int(nvml.nvmlDeviceGetUtilizationRates(device).gpu)


def memory_used(nvml: Any, device: Any) -> int:
    """The number of bytes in use by all processes and the driver."""
    return int(nvml.nvmlDeviceGetMemoryInfo(device).used)


def memory_total(nvml: Any, device: Any) -> int:
    """The size of the memory in bytes."""
    return int(nvml.nvmlDeviceGetMemoryInfo(device).total)


def power(nvml: Any, device: Any) -> int:
    """The power drawn, in milliwatts."""
    return int(nvml.nvmlDeviceGetPowerUsage(device))


def temperature(nvml: Any, device: Any) -> int:
    """The temperature in degrees Celsius."""
    try:
        return int(nvml.nvmlDeviceGetTemperatureV(device, _TEMPERATURE_GPU))
    except (AttributeError, nvml.NVMLError_FunctionNotFound):  # packages and drivers from before 2025 lack it
        return int(nvml.nvmlDeviceGetTemperature(device, _TEMPERATURE_GPU))


class Gpus:
    """The GPUs that the driver knows, by number and UUID. Any thread.

    The library is loaded at the first reading; if it is missing, it is not looked for again.

    Args:
        load: Imports NVIDIA's management library, and returns it.
    """

    def __init__(self, load: Callable[[], Any] = lambda: import_module("pynvml")) -> None:
        self._load = load
        self._lock = Lock()
        self._nvml: Any = None
        self._closed = False

    def read(self, reading: Reading) -> list[tuple[tuple[str, str], int]]:
        """The number and the UUID of each GPU, with the value read; devices that cannot report it are left out."""
        found: list[tuple[tuple[str, str], int]] = []
        with self._lock:
            if self._opened():
                with suppress(self._nvml.NVMLError):
                    found.extend(self._read(reading))
        return found

    def close(self) -> None:
        """Closes the library; nothing can be read afterwards."""
        with self._lock:
            self._closed = True
            if self._nvml is not None:
                self._nvml.nvmlShutdown()
                self._nvml = None

    def _opened(self) -> bool:
        if self._nvml is None and not self._closed:
            self._nvml = self._open()
            self._closed = self._nvml is None
        return not self._closed

    def _open(self) -> Any:
        try:
            nvml = self._load()
        except ImportError:
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:  # the package is installed, but no driver
            return None
        return nvml

    def _read(self, reading: Reading) -> Iterator[tuple[tuple[str, str], int]]:
        for number in range(self._nvml.nvmlDeviceGetCount()):
            with suppress(self._nvml.NVMLError):
                device = self._nvml.nvmlDeviceGetHandleByIndex(number)
                labels = (str(number), str(self._nvml.nvmlDeviceGetUUID(device)))
                yield labels, reading(self._nvml, device)
