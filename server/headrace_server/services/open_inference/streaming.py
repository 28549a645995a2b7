"""ModelStreamInfer: requests and answers on one call. Source: Triton's stream_infer_handler.cc.

The requests run at the same time. Answers of models that answer once are sent in the order of their requests; those of
a model that streams are sent as they are computed. A failed request gets an answer that says so, and the stream
continues.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from typing import NamedTuple

from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.errors import status_of
from headrace_server.models.answers import reserve_apart
from headrace_server.models.call import Call
from headrace_server.services.open_inference.inference import RunError
from headrace_server.tasks import end_all


@dataclass(frozen=True, slots=True)
class StreamAnswer:
    """One answer to a request of a stream.

    Attributes:
        message: The message, without the parameter that marks the last answer.
        is_last: Whether no other answer to the request follows.
        is_only: Whether the model answers once, so that the answer must wait for its turn.
    """

    message: messages.ModelInferResponse
    is_last: bool = True
    is_only: bool = True


Answers = Callable[[messages.ModelInferRequest, Call], AsyncGenerator[StreamAnswer, None]]
Requests = AsyncIterator[messages.ModelInferRequest]
Responses = AsyncGenerator[messages.ModelStreamInferResponse, None]

FINAL_RESPONSE = "triton_final_response"
ENDS_BY_STATUS = ("triton_grpc_error", "true")
"""The metadata of a call whose first failed run should end the stream."""

MAX_RUNNING = 64
"""The maximum number of requests of one stream that run together; the next is read only after one has been answered."""

MAX_UNREAD = 16
"""The maximum number of answers that wait for a slow reader; requests with further answers wait for room."""


class _Unread(NamedTuple):
    """A waiting response, or the reason why there are no more; and a function that releases its request's memory."""

    response: messages.ModelStreamInferResponse | Exception
    release: Callable[[], None] = lambda: None


class Stream:
    """One call of ModelStreamInfer. In one event loop.

    Args:
        answers: Returns the answers to one request of the stream.
        call: How to deliver the answer, and the deadline.
    """

    def __init__(self, answers: Answers, call: Call) -> None:
        self._answers = answers
        self._call = call
        self._ends_by_status = ENDS_BY_STATUS in call.metadata
        self._running = asyncio.Semaphore(MAX_RUNNING)
        self._tasks: set[asyncio.Task[None]] = set()
        self._unread: asyncio.Queue[_Unread | None] = asyncio.Queue(MAX_UNREAD)

    async def responses(self, requests: Requests) -> Responses:
        """The answers to the requests, each as soon as it may be sent.

        Raises:
            Exception: The requests could not be read; or a run failed, and the call's metadata has `ENDS_BY_STATUS`.
        """
        reading = asyncio.create_task(self._read(requests))
        try:
            while (unread := await self._unread.get()) is not None:
                unread.release()  # from here on, the transport holds the response
                if isinstance(unread.response, Exception):
                    raise unread.response
                yield unread.response
        finally:
            await end_all((reading, *self._tasks))

    async def _read(self, requests: Requests) -> None:
        turn = asyncio.Event()
        turn.set()
        try:
            async for request in requests:
                await self._running.acquire()
                turn = self._begin(request, turn)
            while self._tasks:
                await asyncio.wait(self._tasks)
        except Exception as error:
            await self._unread.put(_Unread(error))
        await self._unread.put(None)

    def _begin(self, request: messages.ModelInferRequest, turn: asyncio.Event) -> asyncio.Event:
        """Starts to answer a request in its turn; returns the event that gives the next request its turn."""
        following = asyncio.Event()
        task = asyncio.create_task(self._answer(request, turn, following))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return following

    async def _answer(self, request: messages.ModelInferRequest, turn: asyncio.Event, following: asyncio.Event) -> None:
        passing: asyncio.Task[None] | None = None
        release = reserve_apart()
        try:
            async with aclosing(self._answers(request, self._call)) as answers:
                async for answer in answers:
                    if answer.is_only:
                        await turn.wait()
                    elif passing is None:
                        passing = asyncio.create_task(_pass(turn, following))  # not awaited: the turn may never end
                    answer.message.parameters[FINAL_RESPONSE].bool_param = answer.is_last
                    response = messages.ModelStreamInferResponse(infer_response=answer.message)
                    await self._unread.put(_Unread(response, release))
        except Exception as error:
            if passing is None:
                await turn.wait()
            await self._unread.put(_Unread(self._failure(request, error), release))
        finally:
            if passing is None:
                following.set()
            else:
                await passing
            self._running.release()

    def _failure(
        self, request: messages.ModelInferRequest, error: Exception
    ) -> messages.ModelStreamInferResponse | Exception:
        if self._ends_by_status and isinstance(error, RunError):
            return error
        response = messages.ModelStreamInferResponse(error_message=status_of(error)[1])
        response.infer_response.id = request.id
        return response


async def _pass(turn: asyncio.Event, following: asyncio.Event) -> None:
    """Waits for this request's turn, and passes it on to the next request."""
    await turn.wait()
    following.set()
