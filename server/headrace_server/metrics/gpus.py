"""What NVIDIA's management library says of this machine's GPUs, when somebody asks; nothing where there is none."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from importlib import import_module
from threading import Lock
from typing import Any

Reading = Callable[[Any, Any], int]
"""Asks the library (`pynvml`) for one number of one device, by its handle."""

_TEMPERATURE_GPU = 0  # nvmlTemperatureSensors_t


def utilization(nvml: Any, device: Any) -> int:
    """Percent of the time, over the driver's last sample period, in which a kernel ran."""
    return int(nvml.nvmlDeviceGetUtilizationRates(device).gpu)


def memory_used(nvml: Any, device: Any) -> int:
    """Bytes in use, by every process and the driver."""
    return int(nvml.nvmlDeviceGetMemoryInfo(device).used)


def memory_total(nvml: Any, device: Any) -> int:
    """Bytes that it has."""
    return int(nvml.nvmlDeviceGetMemoryInfo(device).total)


def power(nvml: Any, device: Any) -> int:
    """Milliwatts that it draws."""
    return int(nvml.nvmlDeviceGetPowerUsage(device))


def temperature(nvml: Any, device: Any) -> int:
    """Degrees Celsius."""
    try:
        return int(nvml.nvmlDeviceGetTemperatureV(device, _TEMPERATURE_GPU))
    except (AttributeError, nvml.NVMLError_FunctionNotFound):  # a package, or a driver, of before 2025
        return int(nvml.nvmlDeviceGetTemperature(device, _TEMPERATURE_GPU))


class Gpus:
    """The GPUs that the driver knows, by number and UUID. Any thread.

    The library is looked for at the first reading, and not again where it is not there.

    Args:
        load: Gives the library.
    """

    def __init__(self, load: Callable[[], Any] = lambda: import_module("pynvml")) -> None:
        self._load = load
        self._lock = Lock()
        self._nvml: Any = None
        self._closed = False

    def read(self, reading: Reading) -> list[tuple[tuple[str, str], int]]:
        """The number and the UUID of each GPU, with what is read of it; none of one that cannot tell."""
        found: list[tuple[tuple[str, str], int]] = []
        with self._lock:
            if self._opened():
                with suppress(self._nvml.NVMLError):
                    found.extend(self._read(reading))
        return found

    def close(self) -> None:
        """Lets go of the library; there is nothing to read any more."""
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
        except nvml.NVMLError:  # the package is there, and no driver
            return None
        return nvml

    def _read(self, reading: Reading) -> Iterator[tuple[tuple[str, str], int]]:
        for number in range(self._nvml.nvmlDeviceGetCount()):
            with suppress(self._nvml.NVMLError):
                device = self._nvml.nvmlDeviceGetHandleByIndex(number)
                labels = (str(number), str(self._nvml.nvmlDeviceGetUUID(device)))
                yield labels, reading(self._nvml, device)
