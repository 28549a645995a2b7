"""`headrace doctor`: shows the packages, CPUs and ports that a server can use here, and what could be installed."""

import argparse
import os
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from headrace_batching.cpus import schedulable_cpus
from headrace_server import telemetry

PORTS = (8500, 8501)

OPTIONAL = {
    "headrace-native": "the fast transport: install it from native/, which needs cargo",
    "onnxruntime": "ONNX models: pip install 'headrace[cpu]'",
    "tensorflow-cpu": "SavedModels: pip install 'headrace[tensorflow]'",
    "ai-edge-litert": "TFLite models: pip install 'headrace[tflite]'",
    "tensorrt": "TensorRT engines: pip install 'headrace[gpu]'",
    "uvicorn": "the REST API: pip install 'headrace[server]'",
    "uvloop": "a faster event loop: pip install 'headrace[server]'",
}
"""Optional distributions, and the use of each."""

STANDS_FOR = {"onnxruntime": ("onnxruntime-gpu",), "tensorflow-cpu": ("tensorflow",)}
"""For some distributions, others that provide the same modules."""


def add_command(commands: Any) -> None:
    """Adds the command to those of `headrace`.

    Args:
        commands: The object that `ArgumentParser.add_subparsers` returned.
    """
    parser = commands.add_parser(
        "doctor",
        help="show what this machine offers a server",
        description="Show what this machine offers a server: Python, CPUs, transports, runtimes, ports, telemetry.",
        allow_abbrev=False,
    )
    parser.set_defaults(command=_doctor, command_parser=parser)


def _doctor(parser: argparse.ArgumentParser, values: dict[str, Any]) -> int:
    del parser, values
    print("\n".join(lines()))
    return 0


def lines() -> Iterator[str]:
    """The findings, one per line."""
    yield f"headrace        {version('headrace')} on Python {platform.python_version()}, {platform.platform()}"
    yield f"CPUs            {schedulable_cpus()} of {os.cpu_count()}"
    yield f"transport       {'native' if find_spec('headrace_native') else 'grpcio'}"
    for name, brings in OPTIONAL.items():
        found = _installed(name)
        yield f"{name:<15} {found}" if found else f"{name:<15} is not installed; it provides {brings}"
    yield f"providers       {', '.join(_providers()) or 'none: ONNX Runtime is not installed'}"
    for port in PORTS:
        yield f"port {port}       {_port(port)}"
    for name, off in telemetry.OFF.items():
        state = "off" if os.environ.get(name) == off else f"set by {name}={os.environ.get(name)}"
        yield f"telemetry       ONNX Runtime's is {state}; headrace has none"


def _installed(name: str) -> str:
    for distribution in (name, *STANDS_FOR.get(name, ())):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return ""


def _providers() -> list[str]:
    if find_spec("onnxruntime") is None:
        return []
    import onnxruntime as ort

    return list(ort.get_available_providers())


def _port(port: int) -> str:
    try:
        with socket.socket(socket.AF_INET6 if socket.has_ipv6 else socket.AF_INET) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("", port))
    except OSError as error:
        return f"not free: {error.strerror}"
    return "free"
