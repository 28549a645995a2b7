"""Servers for tests: one in this process on an event loop of its own, or the real command in another process."""

import asyncio
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from queue import Empty, Queue
from typing import Any, NamedTuple, TypeVar

from headrace_server import Config, Server
from headrace_server.commands.process import loop_factory
from tests.support.calls import ANSWER_WITHIN, MODEL, Caller

T = TypeVar("T")

START_WITHIN = 120.0
"""Seconds after which a server that should have started, or stopped, has failed."""

COMMAND = str(Path(sys.executable).with_name("headrace"))

_RUNNING = re.compile(r"Running gRPC ModelServer at 0\.0\.0\.0:(\d+) \.\.\.")
_SERVED = re.compile(r"\bserved \S+ serving_default: (\d+) requests, (\d+) rows in (\d+) batches", re.MULTILINE)
_OURS = ("batch-", "manager", "source", "load-", "unload-", "reload", "request-log")


class Served(NamedTuple):
    """The numbers of requests, rows and batches that a model ran, from the log of a stopped server."""

    requests: int
    rows: int
    batches: int


def read_served(log: Iterable[str]) -> Served:
    """Finds the numbers for Served in the log lines of a server with one model; zeros if the model ran nothing."""
    found = list(filter(None, map(_SERVED.search, log)))
    if not found:
        return Served(0, 0, 0)
    (match,) = found
    return Served(*map(int, match.groups()))


def eventually(holds: Callable[[], T], within: float = ANSWER_WITHIN) -> T:
    """Polls a condition until it is true, and returns its value.

    Raises:
        TimeoutError: The condition did not become true.
    """
    end = time.monotonic() + within
    while not (answer := holds()):
        if time.monotonic() > end:
            raise TimeoutError(str(holds))
        threading.Event().wait(0.002)
    return answer


def threads_of_servers() -> set[threading.Thread]:
    """The live threads of this process that belong to servers."""
    return {thread for thread in threading.enumerate() if thread.name.startswith(_OURS)}


class LoopThread:
    """An event loop that runs on a thread, of the kind that the command uses."""

    def __init__(self) -> None:
        self._started = threading.Event()
        self._thread = threading.Thread(target=self._run, name="event-loop")
        self._thread.start()
        self._started.wait()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout: float = START_WITHIN) -> T:
        """Runs a coroutine on that loop and waits for its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(timeout)

    def stop(self) -> None:
        """Ends the loop and the thread."""
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            self.loop = runner.get_loop()
            self.loop.call_soon(self._started.set)
            self.loop.run_forever()


class RunningServer:
    """A server in this process, started when it is made.

    Args:
        loop: The event loop that it runs on.
        config: The server's configuration; the port should be 0.
    """

    def __init__(self, loop: LoopThread, config: Config) -> None:
        self.base_path = Path(config.model_base_path)
        self._loop = loop
        self._server = loop.run(self._make(config))
        self._stopped = False
        try:
            self.port = loop.run(self._server.start())
        except Exception:
            loop.run(self._server.stop())
            raise
        self.caller = Caller(self.port)

    def stop(self) -> None:
        """Drains the server, unless that has been done."""
        if not self._stopped:
            self._stopped = True
            self._loop.run(self._server.stop())

    def close(self) -> None:
        """Drains the server if it still runs, and closes the channel to it."""
        self.stop()
        self.caller.close()

    async def _make(self, config: Config) -> Server:
        return Server(config)


class ServerProcess:
    """The `headrace serve` command.

    Args:
        base_path: The base path of the model.
        flags: More flags, each `--name=value`.
        headrace: The `headrace` command, if it is not this environment's.
    """

    def __init__(self, base_path: Path, *flags: str, headrace: Sequence[str | Path] = (COMMAND,)) -> None:
        command = [*headrace, "serve", "--port=0", f"--model_name={MODEL}", f"--model_base_path={base_path}", *flags]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace")
        self.log: list[str] = []
        self._lines: Queue[str] = Queue()
        self._reader = threading.Thread(target=self._read, name="stderr")
        self._reader.start()

    def wait_for(self, pattern: re.Pattern[str]) -> re.Match[str]:
        """Waits for a line of its log.

        Raises:
            TimeoutError: The line did not appear.
        """
        end = time.monotonic() + START_WITHIN
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, end - time.monotonic()))
            except Empty:
                raise TimeoutError(f"{pattern.pattern!r} is not in the log: {self.log}") from None
            if match := pattern.search(line):
                return match

    def started(self) -> Caller:
        """Waits until the server listens; returns a channel to it."""
        return Caller(int(self.wait_for(_RUNNING)[1]))

    def terminate(self) -> None:
        """Sends SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def ended(self) -> int:
        """Waits for the command to exit; returns the exit status."""
        status = self.process.wait(START_WITHIN)
        self._reader.join()
        return status

    def close(self) -> None:
        """Stops the command, by force if needed."""
        self.process.kill()
        self.ended()
        assert self.process.stderr is not None
        self.process.stderr.close()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line.rstrip("\n"))
            self._lines.put(line)
