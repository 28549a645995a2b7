"""ModelStreamInfer: requests and answers on one call. Source: Triton's stream_infer_handler.cc.

The requests run at the same time. Answers come in the order of their requests, and a request that fails gets an answer
that says so, while the stream goes on.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.errors import status_of
from headrace_server.models.call import Call
from headrace_server.services.open_inference.inference import RunError

Infer = Callable[[messages.ModelInferRequest, Call], Awaitable[messages.ModelInferResponse]]
Requests = AsyncIterator[messages.ModelInferRequest]
Responses = AsyncGenerator[messages.ModelStreamInferResponse, None]

FINAL_RESPONSE = "triton_final_response"
ENDS_BY_STATUS = ("triton_grpc_error", "true")
"""Metadata of a call whose first failed run ends the stream."""

MAX_RUNNING = 64
"""Requests of one stream that run at once; the next is not read before one has been answered."""

MAX_UNREAD = 16
"""Answers that wait for a caller who reads slowly; whoever has the next one waits with it."""


class Stream:
    """One call of ModelStreamInfer. In one event loop.

    Args:
        infer: Answers one request.
        call: Where to answer, and until when.
    """

    def __init__(self, infer: Infer, call: Call) -> None:
        self._infer = infer
        self._call = call
        self._ends_by_status = ENDS_BY_STATUS in call.metadata
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unread: asyncio.Queue[messages.ModelStreamInferResponse | Exception | None] = asyncio.Queue(MAX_UNREAD)

    async def responses(self, requests: Requests) -> Responses:
        """The answers to the requests, as they come.

        Raises:
            Exception: The requests could not be read; or a run failed, and the caller wants to hear of it so.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            while (response := await self._unread.get()) is not None:
                if isinstance(response, Exception):
                    raise response
                yield response
        finally:
            every = (reading, *self._tasks)
            for task in every:
                task.cancel()
            await asyncio.gather(*every, return_exceptions=True)

    async def _read(self, requests: Requests) -> None:
        before: asyncio.Event | None = None
        try:
            async for request in requests:
                await self._running.acquire()
                after = asyncio.Event()
                task = asyncio.create_task(self._answer(request, before, after))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
                before = after
            if before is not None:
                await before.wait()
        except Exception as error:
            await self._unread.put(error)
        await self._unread.put(None)

    async def _answer(
        self, request: messages.ModelInferRequest, before: asyncio.Event | None, after: asyncio.Event
    ) -> None:
        """Answers one request, in its turn."""
        try:
            response = await self._respond(request)
            if before is not None:
                await before.wait()
            await self._unread.put(response)
        finally:
            after.set()
            self._running.release()

    async def _respond(self, request: messages.ModelInferRequest) -> messages.ModelStreamInferResponse | Exception:
        try:
            answer = await self._infer(request, self._call)
        except Exception as error:
            if self._ends_by_status and isinstance(error, RunError):
                return error
            response = messages.ModelStreamInferResponse(error_message=status_of(error)[1])
            response.infer_response.id = request.id
            return response
        answer.parameters[FINAL_RESPONSE].bool_param = True
        return messages.ModelStreamInferResponse(infer_response=answer)
