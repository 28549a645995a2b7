"""Describes the machine and the versions that belong to a report's figures."""

import os
import platform
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import grpcpp
from .load import h2load_version

_PACKAGES = ("headrace", "headrace-native", "onnxruntime", "grpcio", "protobuf", "uvloop", "numpy")


def description() -> list[str]:
    """Returns sentences about the processor, the load before the run, and the versions; to be called before the run."""
    minute, _, quarter = os.getloadavg()
    when = datetime.now(UTC).date()
    return [
        f"{os.cpu_count()} cores, {_processor()}; Linux {platform.release().partition('-')[0]}; {when}.",
        f"Load average as the run began: {minute:.2f} over one minute, {quarter:.2f} over fifteen.",
        f"{', '.join(_versions())}.",
    ]


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _versions() -> list[str]:
    compiled = [] if grpcpp.missing() else [f"grpc++ {grpcpp.version()}"]
    packages = [f"{name} {found}" for name in _PACKAGES if (found := _version(name))]
    return [f"Python {platform.python_version()}", *packages, *compiled, h2load_version() or "no h2load"]


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
