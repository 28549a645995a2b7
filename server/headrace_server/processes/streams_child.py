"""The worker process's side of requests with streamed answers: an event loop on a thread of its own."""

import asyncio
import socket
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, suppress

from headrace_batching.task import Array, Arrays
from headrace_server.backends.base import Streaming
from headrace_server.processes.lending import views
from headrace_server.processes.shared_memory import OwnedMemory
from headrace_server.processes.slot import Ended, Message, Slot

Fail = Callable[[Slot, BaseException], None]
"""Tells the server, over a slot, that a request has failed."""


def serve_streams(connection: socket.socket, backend: Streaming, fail: Fail) -> None:
    """Answers the requests that the server opens until the server has ended."""
    with suppress(Ended):
        asyncio.run(_Streams(connection, backend, fail).serve())


class _Streams:
    """All requests with streamed answers, in one event loop."""

    def __init__(self, connection: socket.socket, backend: Streaming, fail: Fail) -> None:
        self._outputs = OwnedMemory()
        self._door = Slot(connection, self._outputs)
        self._backend = backend
        self._fail = fail
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Answers each request that the server opens.

        Raises:
            Ended: The server has ended.
        """
        while True:
            message = await self._door.receive_in_loop()
            for descriptor in message.descriptors:  # there is none if this process may open no more files
                task = asyncio.create_task(self._answer(socket.socket(fileno=descriptor)))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    async def _answer(self, connection: socket.socket) -> None:
        """Answers one request until the server closes the connection, which it also does after the last answer."""
        slot = Slot(connection, self._outputs)
        wanted = asyncio.Semaphore(1)
        answering: asyncio.Task[None] | None = None
        try:
            request = await slot.receive_in_loop()
            answering = asyncio.create_task(self._send_answers(slot, request, wanted))
            while True:
                await slot.receive_in_loop()  # the message "next", which asks for an answer
                wanted.release()
        except Ended:
            if answering is not None:
                answering.cancel()
                await asyncio.wait([answering])
        finally:
            slot.close()

    async def _send_answers(self, slot: Slot, request: Message, wanted: asyncio.Semaphore) -> None:
        with suppress(Ended):
            try:
                await self._send_each(slot, self._answers(slot, request), wanted)
                slot.send("end")
            except (asyncio.CancelledError, Ended):
                raise
            except BaseException as error:  # a model that calls sys.exit fails its request, but ends nothing else
                self._fail(slot, error)

    async def _send_each(self, slot: Slot, answers: AsyncGenerator[Arrays, None], wanted: asyncio.Semaphore) -> None:
        held: list[Array] = []
        async with aclosing(answers):
            await wanted.acquire()
            async for answer in answers:
                placed, held = self._outputs.place(answer)
                slot.send("answer", placed=placed)
                await wanted.acquire()
        del held  # kept until now, since the server may have been reading the last answer

    def _answers(self, slot: Slot, request: Message) -> AsyncGenerator[Arrays, None]:
        signature, outputs = request.content
        return self._backend.stream(signature, views(request, slot.mapped), outputs)
