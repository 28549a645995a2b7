"""Metrics of GPUs, read from a double that checks NVML's rules, and of a machine without GPUs."""

import asyncio
import threading

import pytest

from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.gpus import Gpus, power, utilization
from headrace_server.metrics.versions import Now
from headrace_server.services.http import HttpRequest
from headrace_server.services.tf_serving.rest.service import _page
from tests.gpu_doubles.nvml import Gpu, Nvml, OldPackage

BUSY = Gpu("GPU-a", utilization=87, used=3 << 30, total=80 << 30, milliwatts=312_500, celsius=61)
IDLE = Gpu("GPU-b", total=24 << 30, milliwatts=30_000, celsius=35)


def lines(metrics: Metrics) -> list[str]:
    """The page's lines on GPUs."""
    return [line for line in metrics.page().decode().splitlines() if line.startswith(":headrace:gpu_")]


def metrics_of(nvml: Nvml) -> Metrics:
    return Metrics(Gpus(lambda: nvml))


def test_every_device_has_a_line_for_each_metric() -> None:
    a, b = 'device="0",uuid="GPU-a"', 'device="1",uuid="GPU-b"'

    assert lines(metrics_of(Nvml([BUSY, IDLE]))) == [
        f":headrace:gpu_memory_total_bytes{{{a}}} {80 << 30}",
        f":headrace:gpu_memory_total_bytes{{{b}}} {24 << 30}",
        f":headrace:gpu_memory_used_bytes{{{a}}} {3 << 30}",
        f":headrace:gpu_memory_used_bytes{{{b}}} 0",
        f":headrace:gpu_power_milliwatts{{{a}}} 312500",
        f":headrace:gpu_power_milliwatts{{{b}}} 30000",
        f":headrace:gpu_temperature_celsius{{{a}}} 61",
        f":headrace:gpu_temperature_celsius{{{b}}} 35",
        f":headrace:gpu_utilization{{{a}}} 87",
        f":headrace:gpu_utilization{{{b}}} 0",
    ]


def test_only_values_that_a_device_does_not_support_are_left_out() -> None:
    metrics = metrics_of(Nvml([Gpu("GPU-a", utilization=None, milliwatts=None), IDLE]))
    said = [line for line in lines(metrics) if "utilization" in line or "GPU-a" in line]

    assert [line.partition("{")[0].removeprefix(":headrace:gpu_") for line in said] == [
        "memory_total_bytes",
        "memory_used_bytes",
        "temperature_celsius",
        "utilization",
    ]
    assert 'uuid="GPU-b"' in said[-1]


@pytest.mark.parametrize("library", [Nvml, OldPackage])
def test_an_older_driver_or_package_also_reports_the_temperature(library: type[Nvml]) -> None:
    said = lines(metrics_of(library([BUSY], old=True)))

    assert ':headrace:gpu_temperature_celsius{device="0",uuid="GPU-a"} 61' in said


def test_the_library_is_opened_by_the_first_page_and_closed_at_the_end() -> None:
    nvml = Nvml([BUSY])
    metrics = metrics_of(nvml)
    metrics.servable("m", 1).ran("Predict", 0.1)
    assert nvml.calls == []

    assert lines(metrics) == lines(metrics)
    assert (nvml.calls.count("nvmlInit"), nvml.sessions) == (1, 1)

    metrics.close()
    assert nvml.sessions == 0
    assert lines(metrics) == []  # a page that is requested while the server stops


def test_closing_without_a_page_does_not_open_the_library() -> None:
    nvml = Nvml([BUSY])
    metrics_of(nvml).close()

    assert nvml.calls == []


def test_without_a_driver_there_are_no_lines_and_one_attempt() -> None:
    nvml = Nvml([BUSY], driver=False)
    metrics = metrics_of(nvml)

    assert lines(metrics) + lines(metrics) == []
    assert nvml.calls == ["nvmlInit"]
    metrics.close()


def test_without_the_package_there_are_no_lines() -> None:
    def absent() -> None:
        raise ModuleNotFoundError("No module named 'pynvml'", name="pynvml")

    assert Gpus(absent).read(utilization) == []


def test_a_driver_that_disappears_leaves_no_lines() -> None:
    nvml = Nvml([BUSY])
    gpus = Gpus(lambda: nvml)
    assert len(gpus.read(power)) == 1

    def lost() -> int:
        raise nvml.NVMLError("GPU is lost")

    nvml.nvmlDeviceGetCount = lost  # type: ignore[method-assign]
    assert gpus.read(power) == []


def test_the_double_complains() -> None:
    nvml = Nvml([BUSY])
    with pytest.raises(AssertionError, match="nvmlDeviceGetCount before nvmlInit"):
        nvml.nvmlDeviceGetCount()
    nvml.nvmlInit()
    handle = nvml.nvmlDeviceGetHandleByIndex(0)
    nvml.nvmlShutdown()
    with pytest.raises(AssertionError, match="after nvmlShutdown"):
        nvml.nvmlDeviceGetUUID(handle)
    nvml.nvmlInit()
    with pytest.raises(KeyError):
        nvml.nvmlDeviceGetUUID(handle)
    with pytest.raises(AssertionError, match="deprecated"):
        nvml.nvmlDeviceGetTemperature(handle, 0)


def test_the_real_package_has_every_function() -> None:
    pynvml = pytest.importorskip("pynvml")

    assert [name for name in dir(Nvml) if name.startswith(("nvml", "NVML")) and not hasattr(pynvml, name)] == []


def test_memory_metrics_of_models_disappear_with_them() -> None:
    metrics = Metrics(Gpus(lambda: Nvml([])))
    first = metrics.servable("m", 1, Now(on_devices=lambda: {0: 5, 1: 7}))
    metrics.servable("m", 2)

    assert lines(metrics) == [
        ':headrace:gpu_model_memory_bytes{model_name="m",version="1",device="0"} 5',
        ':headrace:gpu_model_memory_bytes{model_name="m",version="1",device="1"} 7',
    ]
    first.close()
    assert lines(metrics) == []


def test_the_page_is_written_outside_the_event_loop_which_a_driver_could_block() -> None:
    def page() -> bytes:
        return threading.current_thread().name.encode()

    answer = asyncio.run(_page(HttpRequest("GET", "/metrics"), page))
    assert answer.body != threading.current_thread().name.encode()
