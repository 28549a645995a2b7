"""Compiles the bare grpc++ responder with Debian's libgrpc++-dev, once per version of its sources."""

import hashlib
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

_SOURCE = Path(__file__).with_name("grpcpp_responder.cc")
_PROTO_PATH = Path(__file__).parents[2] / "protos" / "headrace_protos"
_SERVICE = "tensorflow_serving/apis/prediction_service.proto"
_TOOLS = ("protoc", "grpc_cpp_plugin", "g++", "pkg-config")


def missing() -> str | None:
    """Returns the name of a missing tool or library that the responder needs, or None if all are there."""
    absent = [tool for tool in _TOOLS if shutil.which(tool) is None]
    if absent:
        return ", ".join(absent)
    found = subprocess.run(["pkg-config", "--exists", "grpc++", "protobuf"], check=False).returncode == 0
    return None if found else "libgrpc++-dev"


def version() -> str:
    """Returns the version of grpc++ that the responder is linked with."""
    return _output("pkg-config", "--modversion", "grpc++").strip()


def build(folder: Path) -> Path:
    """Compiles the responder under `folder`, unless the same sources were compiled before; returns the executable."""
    protos = _protos(folder)
    digest = hashlib.sha256()
    for source in (_SOURCE, *(_PROTO_PATH / name for name in protos)):
        digest.update(source.read_bytes())
    place = folder / f"grpcpp-{digest.hexdigest()[:16]}"
    executable = place / "responder"
    if not executable.exists():
        place.mkdir(exist_ok=True)
        _compile(protos, place, executable)
    return executable


def _protos(folder: Path) -> list[str]:
    """Returns the service's .proto file and its imports, without those that libprotobuf itself contains."""
    folder.mkdir(parents=True, exist_ok=True)
    described = folder / "service.desc"
    _output("protoc", "-I", _PROTO_PATH, "--include_imports", "-o", described, _SERVICE)
    files = FileDescriptorSet.FromString(described.read_bytes()).file
    return [file.name for file in files if not file.name.startswith("google/protobuf/")]


def _compile(protos: list[str], place: Path, executable: Path) -> None:
    plugin = f"--plugin=protoc-gen-grpc={shutil.which('grpc_cpp_plugin')}"
    _output("protoc", "-I", _PROTO_PATH, f"--cpp_out={place}", *protos)
    _output("protoc", "-I", _PROTO_PATH, f"--grpc_out={place}", plugin, _SERVICE)
    sources = [_SOURCE, *sorted(place.rglob("*.cc"))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        objects = list(threads.map(lambda source: _object(source, place), sources))
    libraries = _output("pkg-config", "--libs", "grpc++", "protobuf").split()
    # Linked under another name first, so that an interrupted build does not look finished.
    unfinished = executable.with_suffix(".unfinished")
    _output("g++", "-o", unfinished, *objects, *libraries)
    unfinished.rename(executable)


def _object(source: Path, place: Path) -> Path:
    compiled = place / f"{source.name}.o"
    _output("g++", "-std=c++17", "-O2", "-DNDEBUG", "-I", place, "-c", source, "-o", compiled)
    return compiled


def _output(*command: str | Path) -> str:
    done = subprocess.run([str(part) for part in command], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{command[0]} failed:\n{done.stderr[-2000:]}")
    return done.stdout
