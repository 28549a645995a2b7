"""What every transport does with a call: bytes to messages, timeouts to deadlines, failures to status codes."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from headrace_batching import LoopDelivery, Priority
from headrace_protos import Code
from headrace_server.errors import status_of
from headrace_server.models.call import Call
from headrace_server.services.rpc import Method, Service
from headrace_server.transports.grpc.endpoint import ObserveCall, ObserveMethod

Context = grpc.aio.ServicerContext[bytes, bytes]
Handle = Callable[[bytes, Context], Awaitable[bytes]]

PRIORITY_HEADER = "headrace-priority"
MAX_TEXT_BYTES = 1024
CODE_NAMES = {code: name for name, code in Code.items()}

_STATUS = {status.value[0]: status for status in grpc.StatusCode}


def rpc_handlers(
    service: Service, delivery: LoopDelivery, observe: ObserveMethod
) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
    """A handler for each method of a service, by the method's name.

    Without (de)serialisers they are handed the bytes, and what cannot be parsed gets our answer, not the transport's.
    """
    return {
        method.name: grpc.unary_unary_rpc_method_handler(_handle(method, delivery, observe(service.name, method.name)))
        for method in service.methods
    }


def _handle(method: Method, delivery: LoopDelivery, observe: ObserveCall) -> Handle:
    parse, model_of, answer = method.request.FromString, _model_of(method), method.answer

    async def handle(data: bytes, context: Context) -> bytes:
        began = time.monotonic()
        model, code = "", Code.OK
        try:
            request = parse(data)
            model = model_of(request)
            response = await answer(request, _call(context, delivery, method.name))
            return response.SerializeToString()
        except DecodeError as error:
            code, text = Code.INTERNAL, f"Failed to parse {method.request.DESCRIPTOR.full_name}: {error}"
        except Exception as error:
            code, text = status_of(error)
        except asyncio.CancelledError:
            code = Code.DEADLINE_EXCEEDED if context.time_remaining() == 0 else Code.CANCELLED
            raise
        finally:
            observe(model, CODE_NAMES[code], time.monotonic() - began)
        await context.abort(_STATUS[code], _truncated(text))
        raise AssertionError  # abort has raised

    return handle


def _model_of(method: Method) -> Callable[[Any], str]:
    """How to read a request's model; no name for a method that is not about one."""
    if "model_spec" not in method.request.DESCRIPTOR.fields_by_name:
        return lambda _: ""
    return lambda request: str(request.model_spec.name)


def _call(context: Context, delivery: LoopDelivery, api: str) -> Call:
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, whatever its stubs say
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(delivery, deadline, _priority(context), api)


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
