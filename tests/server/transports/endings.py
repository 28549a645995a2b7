"""Stops the server in many situations, over each transport, and reports how long each takes (`make endings`)."""

import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import numpy as np
from grpc_reflection.v1alpha import reflection_pb2

from tests.support import models
from tests.support.calls import Caller, predict_request
from tests.support.ports import free_port

DRAIN_SECONDS = 2
WITHIN = DRAIN_SECONDS + 1
PATIENCE = 60.0
COMMAND = Path(sys.executable).with_name("headrace")
TRANSPORTS = tuple(sys.argv[1:]) or ("native", "grpcio")

_SPECS = 'import ctypes, time\nINPUTS = {"x": ("float32", [None, 1])}\nOUTPUTS = {"y": ("float32", [None, 1])}\n'
HANGS = (
    _SPECS
    + "def predict(inputs):\n    if (inputs['x'] == 5001).any(): time.sleep(3600)\n    return {'y': inputs['x']}\n"
)
HOLDS = HANGS.replace("time.sleep(3600)", "ctypes.PyDLL(None).sleep(3600)")
HANGS_AT_ONCE = _SPECS + "def predict(inputs): time.sleep(3600)\n"
HANGS_AT_LOAD = _SPECS + "time.sleep(3600)\n"
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"
HALF = b"POST /v1/models/m:predict HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{"


class Server:
    """The command, with a model `m`, on ports of its own."""

    def __init__(self, base_path: Path, transport: str, *flags: str) -> None:
        self.base_path = base_path
        self.rest_port = free_port()
        self.held: list[Any] = []
        arguments = [
            "--model_name=m",
            f"--model_base_path={base_path}",
            "--port=0",
            f"--rest_api_port={self.rest_port}",
        ]
        arguments += [f"--transport={transport}", f"--drain_seconds={DRAIN_SECONDS}", *flags]
        self.process = subprocess.Popen([COMMAND, "serve", *arguments], stderr=subprocess.PIPE, text=True)
        self.log = ""
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def wait_for(self, pattern: str) -> "re.Match[str]":
        """Waits until the log contains the text."""
        end = time.monotonic() + PATIENCE
        while (match := re.search(pattern, self.log)) is None:
            if time.monotonic() > end or self.process.poll() is not None:
                raise TimeoutError(self.log)
            time.sleep(0.02)
        return match

    def port(self) -> int:
        """The gRPC port, once it is open."""
        self.wait_for("Exporting HTTP/REST")
        return int(self.wait_for(r"gRPC ModelServer at \S*?:(\d+) ")[1])

    def end(self) -> tuple[float, int]:
        """Sends SIGTERM; returns the seconds until the exit, and the status."""
        began = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
        status = self.process.wait()
        self._reader.join()
        return time.monotonic() - began, status

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self.log += line


Hold = Callable[[Server], None]


class Situation(NamedTuple):
    """A situation of a server that gets the signal to stop.

    Attributes:
        write: Writes version 1.
        hold: Brings the server into the situation, and waits until it is there.
        flags: Flags for the server.
    """

    write: Callable[[Path], object]
    hold: Hold
    flags: tuple[str, ...] = ()


def python(code: str) -> Callable[[Path], object]:
    """A maker of a model.py."""

    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        (folder / "model.py").write_text(code)

    return write


def rests(server: Server) -> None:
    """Makes a client whose call has been answered."""
    caller = Caller(server.port())
    caller.predict({"x": np.ones((1, 4), np.float32)}, name="m")
    server.held.append(caller)


def silent(server: Server) -> None:
    """Opens a connection, and then sends nothing."""
    connection = socket.create_connection(("127.0.0.1", server.port()))
    connection.sendall(HELLO)
    server.held.append(connection)


def half(server: Server) -> None:
    """Sends half of a REST body."""
    server.port()
    connection = socket.create_connection(("127.0.0.1", server.rest_port))
    connection.sendall(HALF)
    server.held.append(connection)


def reflects(server: Server) -> None:
    """Opens a reflection stream, and keeps it open."""
    channel = grpc.insecure_channel(f"127.0.0.1:{server.port()}")
    more = threading.Event()

    def asks() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")
        more.wait()

    path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
    response = reflection_pb2.ServerReflectionResponse.FromString
    next(channel.stream_stream(path, lambda request: request.SerializeToString(), response)(asks()))
    server.held += [more, channel]


def runs(inputs: dict[str, Any]) -> Hold:
    """A hold that makes a call whose run does not end."""

    def hold(server: Server) -> None:
        caller = Caller(server.port())
        caller.begin(predict_request(inputs, name="m"), timeout=PATIENCE)
        time.sleep(2.0)  # the start of the run is not reported, so wait for a while
        server.held.append(caller)

    return hold


def loads(server: Server) -> None:
    """Waits until the first load has begun."""
    server.wait_for("models to serve")
    time.sleep(1.0)


def loads_another(server: Server) -> None:
    """Adds version 2, and waits until its load has begun."""
    server.port()
    python(HANGS_AT_LOAD)(server.base_path / "hidden")
    (server.base_path / "hidden").rename(server.base_path / "2")
    time.sleep(2.0)  # the source scans once a second


def fifo(folder: Path) -> None:
    """Writes a model whose warm-up file is a pipe that never delivers a record."""
    models.linear(folder)
    extra = folder / "assets.extra"
    extra.mkdir()
    os.mkfifo(extra / "tf_serving_warmup_requests")


HANGING = runs({"x": np.full((1, 1), 5001, np.float32)})

SITUATIONS = {
    "a client that rests": Situation(models.linear, rests),
    "a client that says nothing": Situation(models.linear, silent),
    "an open reflection stream": Situation(models.linear, reflects),
    "half a REST body": Situation(models.linear, half),
    "a run that hangs in a worker process": Situation(python(HANGS), HANGING),
    "a run that holds the interpreter of a worker process": Situation(python(HOLDS), HANGING),
    "a run that hangs in the server": Situation(python(HANGS), HANGING, ("--python_workers=0",)),
    "a run of ONNX Runtime that does not end": Situation(models.counting, runs({"steps": np.array([1 << 40])})),
    "a first load that hangs": Situation(python(HANGS_AT_LOAD), loads),
    "a second load that hangs": Situation(models.linear, loads_another),
    "a first load that hangs in the server": Situation(python(HANGS_AT_LOAD), loads, ("--python_workers=0",)),
    "a warm-up that hangs": Situation(python(HANGS_AT_ONCE), loads),
    "a warm-up file that is a FIFO": Situation(fifo, loads),
}


def play(situation: Situation, transport: str, folder: Path) -> tuple[float, int]:
    """Brings a server into a situation and stops it; returns the seconds that this takes, and the status."""
    situation.write(folder / "1")
    server = Server(folder, transport, *situation.flags)
    try:
        situation.hold(server)
        return server.end()
    finally:
        if server.process.poll() is None:
            server.end()
        for held in server.held:
            (held.set if isinstance(held, threading.Event) else held.close)()


def main() -> int:
    """Runs all situations."""
    late = 0
    for transport in TRANSPORTS:
        for name, situation in SITUATIONS.items():
            with tempfile.TemporaryDirectory() as folder:
                seconds, status = play(situation, transport, Path(folder) / "m")
            fine = seconds < WITHIN and status == 0
            late += not fine
            print(f"{'ok  ' if fine else 'LATE'} {transport}, {name}: {seconds:.1f} s, status {status}", flush=True)
    print(f"{late} of {len(TRANSPORTS) * len(SITUATIONS)} did not end well within {WITHIN} s")
    return 1 if late else 0


if __name__ == "__main__":
    sys.exit(main())
