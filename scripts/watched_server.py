"""A server of the digits model for measurements of what monitoring costs, with its viewers and its collector.

    python -m scripts.watched_server [the arguments of headrace serve]

is a server that takes no rows for drift until SIGUSR1 arrives, and takes none again after SIGUSR2.
"""

import json
import re
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

import grpc
import numpy as np

from headrace_batching.task import Arrays
from headrace_server.commands.headrace import main as headrace
from headrace_server.commands.profile import profile_of_requests
from headrace_server.monitoring.drift import Watch
from headrace_server.monitoring.profiles import PROFILE_FILE
from scripts.bench.process import Server, await_listening, free_port, running

MODEL = "digits"
VIEWERS = 10

_BATCHES = 20
"""The number of batches after which a switched-off watch asks again whether it is on: 3 ms at 100,000 requests/s."""

_DIGITS = Path(__file__).parents[1] / "models" / MODEL
_COLLECTOR = "opentelemetry.proto.collector.trace.v1.TraceService"


@dataclass(frozen=True, slots=True)
class Watched:
    """A running server.

    Attributes:
        server: The server's process.
        rest: The server's REST port.
    """

    server: Server
    rest: int

    def watch_drift(self, *, on: bool) -> None:
        """Switches drift on or off."""
        self.server.process.send_signal(signal.SIGUSR1 if on else signal.SIGUSR2)


def main(arguments: Sequence[str]) -> int:
    """Runs the server."""
    Watch.take = _switched(Watch.take)  # type: ignore[method-assign]
    return headrace(["serve", *arguments])


def _switched(take: Callable[[Watch, Arrays, Arrays], int]) -> Callable[..., int]:
    """The same function, switched by signals; while it is off, a call costs as much as if no row is taken."""
    on = False

    def switch(number: int, _: object) -> None:
        nonlocal on
        on = number == signal.SIGUSR1

    signal.signal(signal.SIGUSR1, switch)
    signal.signal(signal.SIGUSR2, switch)

    def switched(self: Watch, inputs: Arrays, outputs: Arrays) -> int:
        if on:
            return take(self, inputs, outputs)
        # Otherwise the number of rows that it may take would grow while it is off, to ten times as many as usual.
        self._room, self._since = 0.0, time.monotonic()
        return _BATCHES

    return switched


def write_model(folder: Path) -> None:
    """Writes the model with a profile into a folder."""
    copytree(_DIGITS / "1", folder / MODEL / "1")
    rows = np.random.default_rng(1).normal(size=(1000, 64)).astype(np.float32)
    (folder / MODEL / "1" / PROFILE_FILE).write_text(json.dumps(profile_of_requests([{"image": rows}])))


@contextmanager
def serving(folder: Path, *flags: str) -> Iterator[Watched]:
    """Starts a server of the model, which is written into this folder."""
    write_model(folder)
    rest = free_port()

    def command(port: int) -> Sequence[str]:
        ports = (f"--port={port}", f"--rest_api_port={rest}")
        return [sys.executable, "-m", "scripts.watched_server", str(folder), *ports, *flags]

    with running(command, folder.with_suffix(".log")) as server:
        await_listening(server.process, rest, server.log, time.monotonic() + 60)  # REST starts after gRPC
        yield Watched(server, rest)


class Viewers:
    """Browsers that each ask for the page's state once a second, as the page does.

    Args:
        port: The server's REST port.
    """

    def __init__(self, port: int) -> None:
        self._turn = 0
        with ExitStack() as stack:
            connect = socket.create_connection
            self._sockets = [stack.enter_context(connect(("127.0.0.1", port), timeout=10)) for _ in range(VIEWERS)]
            self._open = stack.pop_all()

    def close(self) -> None:
        """Closes their connections."""
        self._open.close()

    def look(self, until: float) -> None:
        """Asks, one viewer after the other, until this time of the monotonic clock."""
        due = time.monotonic() + 0.5 / VIEWERS
        while due < until:
            time.sleep(max(0.0, due - time.monotonic()))
            self._ask(self._sockets[self._turn % VIEWERS])
            self._turn, due = self._turn + 1, due + 1 / VIEWERS
        time.sleep(max(0.0, until - time.monotonic()))

    def _ask(self, browser: socket.socket) -> None:
        # Does not use http.client, which takes longer for a request than the server does.
        browser.sendall(f"GET /page/state?model={MODEL} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        received, size = b"", -1
        while size < 0 or len(received) < size:
            if not (piece := browser.recv(1 << 16)):
                raise SystemExit("the page closed the connection")
            received += piece
            size = _size(received)


def _size(answer: bytes) -> int:
    """The size of the answer that begins with these bytes; -1 if its head is not complete."""
    head, end, _ = answer.partition(b"\r\n\r\n")
    if not end:
        return -1
    length = re.search(rb"content-length: (\d+)", head.lower())
    if not head.startswith(b"HTTP/1.1 200 ") or length is None:
        raise SystemExit(f"the page answered {head!r}")
    return len(head + end) + int(length[1])


class Collector:
    """A collector that only counts the bytes that it gets, so that the server has the CPUs.

    Attributes:
        received: The number of these bytes.
    """

    def __init__(self) -> None:
        self.received = 0
        methods: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Export": grpc.unary_unary_rpc_method_handler(self._export)
        }
        handlers = [grpc.method_handlers_generic_handler(_COLLECTOR, methods)]
        self._server = grpc.server(ThreadPoolExecutor(1), handlers=handlers)
        self.address = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def close(self) -> None:
        """Stops the collector."""
        self._server.stop(0).wait()

    def _export(self, request: bytes, context: object) -> bytes:
        del context
        self.received += len(request)
        return b""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
