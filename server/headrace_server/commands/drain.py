"""Ends the server's process in time, whatever the process is doing."""

import asyncio
import faulthandler
import logging
import os
import signal
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any

log = logging.getLogger(__name__)

FREE_WITHIN = 5.0
"""Seconds for freeing the models once every call has been answered; a load that hangs would take forever."""

HURRIED = 1.0
"""Seconds after a second signal in which results that have been computed are still sent to their callers."""

MARGIN = 0.5
"""Seconds after the drain in which the process may still end in an orderly way."""

BACKSTOP = 0.4
"""Seconds after the drain and `MARGIN`, after which a process whose interpreter does not respond is ended."""


class Ending:
    """Handles SIGTERM and SIGINT: the first drains the server, the second ends the drain, the third ends the process.

    Must be created in the server's event loop.

    Args:
        drain_seconds: How long calls in flight may take to finish.

    Attributes:
        stop: An event that the first signal sets.
    """

    def __init__(self, drain_seconds: float) -> None:
        self.stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._drain_seconds = drain_seconds
        self._loop = asyncio.get_running_loop()
        self._latest = 0.0
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._hear)

    async def end(self, stopping: Coroutine[Any, Any, None], drained: asyncio.Event) -> None:
        """Stops the server, and ends the process with status 0 if stopping takes too long.

        Args:
            stopping: Stops the server.
            drained: An event that is set once no call is in flight.
        """
        if not self.stop.is_set():
            self._begin()  # the server has not started
        task = asyncio.ensure_future(stopping)
        freed = asyncio.ensure_future(self._after(drained))
        hurry = asyncio.ensure_future(self._hurry.wait())
        await asyncio.wait(
            (task, freed, hurry), timeout=self._latest - self._loop.time(), return_when=asyncio.FIRST_COMPLETED
        )
        if self._hurry.is_set() and not task.done():
            await asyncio.wait((task,), timeout=HURRIED)
        if not task.done():
            log.warning("the server exits, and abandons the calls that still run")
            logging.shutdown()
            os._exit(0)
        freed.cancel()
        hurry.cancel()
        faulthandler.cancel_dump_traceback_later()
        await task

    async def pause(self, seconds: float) -> None:
        """Waits for this many seconds, or until a second signal."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._hurry.wait(), seconds)

    async def _after(self, drained: asyncio.Event) -> None:
        await drained.wait()
        await asyncio.sleep(FREE_WITHIN)

    def _hear(self) -> None:
        if not self.stop.is_set():
            self._begin()
            return
        self._hurry.set()
        _end_for_certain(HURRIED + BACKSTOP)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    def _begin(self) -> None:
        self.stop.set()
        self._latest = self._loop.time() + self._drain_seconds + MARGIN
        _end_for_certain(self._drain_seconds + MARGIN + BACKSTOP)


def _end_for_certain(seconds: float) -> None:
    """Makes a C thread end the process after this time, even if a model holds the interpreter lock.

    The thread dumps all tracebacks first.
    """
    faulthandler.dump_traceback_later(seconds, exit=True)
