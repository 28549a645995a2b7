"""Builds Go programs: the client, whose stubs come from protoc and its plugins, and tools with pinned versions."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from tests.conftest import ROOT

SOURCE = Path(__file__).with_name("go_client")
PROTOS = ROOT / "protos" / "headrace_protos"

# The module name in go.mod, and the folder in the module for the stubs.
MODULE = "headrace.test/client"
STUBS = f"{MODULE}/protos"

# Omits parts that make a first build slow: trace pages, debugger tables, and C.
FLAGS = ("-tags=grpcnotrace", "-ldflags=-w")


def built_client(go: str, scratch: Path) -> Path:
    """The program, built again if one of its sources has changed.

    Args:
        go: The go command.
        scratch: An empty folder to build in.
    """
    sources = sorted(path for path in SOURCE.iterdir() if path.name.endswith((".go", ".mod", ".sum")))
    protos = sorted(PROTOS.rglob("*.proto"))
    program = ROOT / ".cache" / f"go_client-{fingerprint([*sources, *protos])}" / "client"
    if not program.exists():
        module = scratch / "module"
        shutil.copytree(SOURCE, module)
        plugins = scratch / "plugins"
        run(module, go, "install", *FLAGS, "tool", GOBIN=str(plugins))
        generate(protos, module, plugins)
        program.parent.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_name("unfinished")
        run(module, go, "build", *FLAGS, "-o", str(unfinished), ".")
        unfinished.replace(program)
    return program


def built_tool(go: str, source: Path, package: str, scratch: Path) -> Path:
    """A third-party program whose version our go.mod pins, built again if the pins have changed.

    Args:
        go: The go command.
        source: The folder with go.mod and go.sum.
        package: The package to build.
        scratch: An empty folder to build in.
    """
    pins = [source / "go.mod", source / "go.sum"]
    program = ROOT / ".cache" / f"{source.name}-{fingerprint(pins)}" / source.name
    if not program.exists():
        for file in pins:
            shutil.copy(file, scratch)
        program.parent.mkdir(parents=True, exist_ok=True)
        unfinished = program.with_name("unfinished")
        run(scratch, go, "build", *FLAGS, "-o", str(unfinished), package)
        unfinished.replace(program)
    return program


def fingerprint(files: list[Path]) -> str:
    """A short hash of the files."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def generate(protos: list[Path], module: Path, plugins: Path) -> None:
    """Writes the stubs of all services and messages into the module: one Go package per folder."""
    names = [file.relative_to(PROTOS) for file in protos]
    paths = {plugin: plugins / f"protoc-gen-{plugin}" for plugin in ("go", "go-grpc")}
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTOS}"]
    for plugin, path in paths.items():
        command += [f"--plugin={path}", f"--{plugin}_out={module}", f"--{plugin}_opt=module={MODULE}"]
        command += [f"--{plugin}_opt=M{name}={STUBS}/{name.parent}" for name in names]
    run(module, *command, *map(str, names))


def run(folder: Path, *command: str, **environment: str) -> None:
    """Runs a command in a folder.

    Raises:
        RuntimeError: The command failed; the text has its output.
    """
    variables = {**os.environ, "CGO_ENABLED": "0", **environment}
    ended = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise RuntimeError(f"{command[:4]} failed:\n{ended.stderr}")
