"""What every transport does with a call: bytes to messages, timeouts to deadlines, failures to status codes."""

import time
from collections.abc import Awaitable, Callable
from typing import cast

import grpc
from google.protobuf.message import DecodeError

from headrace_batching import LoopDelivery, Priority
from headrace_protos import Code
from headrace_server.errors import status_of
from headrace_server.models.servable import Call
from headrace_server.services.rpc import Method, Service

Context = grpc.aio.ServicerContext[bytes, bytes]
Handle = Callable[[bytes, Context], Awaitable[bytes]]

PRIORITY_HEADER = "headrace-priority"
MAX_TEXT_BYTES = 1024

_STATUS = {status.value[0]: status for status in grpc.StatusCode}


def rpc_handlers(service: Service, delivery: LoopDelivery) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
    """A handler for each method of a service, by the method's name.

    Without (de)serialisers they are handed the bytes, and what cannot be parsed gets our answer, not the transport's.
    """
    return {method.name: grpc.unary_unary_rpc_method_handler(_handle(method, delivery)) for method in service.methods}


def _handle(method: Method, delivery: LoopDelivery) -> Handle:
    parse, answer = method.request.FromString, method.answer

    async def handle(data: bytes, context: Context) -> bytes:
        try:
            request = parse(data)
            response = await answer(request, _call(context, delivery))
            return response.SerializeToString()
        except DecodeError as error:
            await context.abort(
                grpc.StatusCode.INTERNAL, f"Failed to parse {method.request.DESCRIPTOR.full_name}: {error}"
            )
        except Exception as error:
            code, text = status(error)
            await context.abort(_STATUS[code], text)
        raise AssertionError  # abort has raised

    return handle


def _call(context: Context, delivery: LoopDelivery) -> Call:
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, whatever its stubs say
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(delivery, deadline, _priority(context))


def _priority(context: Context) -> Priority:
    # A tuple of pairs, whatever grpcio's type stubs say.
    metadata = cast("tuple[tuple[str, str | bytes], ...]", context.invocation_metadata())
    return Priority.LOW if (PRIORITY_HEADER, "low") in metadata else Priority.NORMAL


def status(error: Exception) -> tuple[Code, str]:
    """The code and the text that a caller gets for a failure."""
    code, text = status_of(error)
    return code, _truncated(text)


def _truncated(text: str) -> str:
    """TF Serving: grpc_status_util.cc."""
    raw = text.encode()
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    return raw[:MAX_TEXT_BYTES].decode(errors="ignore") + "...TRUNCATED"
