"""The common part of all transports: converts the bytes, timeouts and failures of calls."""

import asyncio
import math
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, cast

import grpc
from google.protobuf.message import DecodeError

from headrace_batching import LoopDelivery, Priority
from headrace_protos import Code
from headrace_server.errors import status_of
from headrace_server.models.call import Call
from headrace_server.security.principal import Refused
from headrace_server.services.kept import KeepsAnswers, counted
from headrace_server.services.room import parse
from headrace_server.services.rpc import Method, Service, StreamMethod
from headrace_server.transports.grpc.endpoint import ObserveCall, ObserveMethod, Tracing
from headrace_server.transports.grpc.traced import noted, traced_handler
from headrace_server.transports.request_id import identified_handler

Context = grpc.aio.ServicerContext[bytes, bytes]
Handle = Callable[[bytes, Context], Awaitable[bytes]]
Handler = Any  # grpc.RpcMethodHandler, whose fields its type stubs omit
Trailers = tuple[tuple[str, str], ...]
HandleStream = Callable[[AsyncIterator[bytes], Context], AsyncIterator[bytes]]

LOW_PRIORITY = ("headrace-priority", "low")
"""The metadata by which a caller gives its call a low priority: other calls then run first."""

PUSHBACK = "grpc-retry-pushback-ms"
"""The key in a call's trailers for the milliseconds after which to send the call again."""

MAX_TEXT_BYTES = 1024
CODE_NAMES = {code: name for name, code in Code.items()}

STATUS = {status.value[0]: status for status in grpc.StatusCode}


class WrappedHandlers(grpc.GenericRpcHandler):
    """Handlers that are found by their path, each of which is wrapped at its first call.

    Args:
        handlers: The handlers to wrap.
        wrap: Returns the object that replaces a handler, given the method's path and the handler.
    """

    def __init__(self, handlers: grpc.GenericRpcHandler, wrap: Callable[[str, Handler], Handler]) -> None:
        self._handlers = handlers
        self._wrap = wrap
        self._known: dict[str, Handler] = {}

    def service(self, handler_call_details: Any) -> Handler:
        """The handler of a call's method; None if there is none."""
        path = handler_call_details.method
        if path not in self._known:
            found: Handler = self._handlers.service(handler_call_details)
            if found is None:
                return None
            self._known[path] = self._wrap(path, found)
        return self._known[path]


def rpc_handlers(
    service: Service,
    delivery: LoopDelivery,
    observe: ObserveMethod,
    tracing: Tracing | None = None,
    *,
    identified: bool = False,
) -> "dict[str, grpc.RpcMethodHandler[bytes, bytes]]":
    """A handler for each method of a service, by the method's name.

    If `identified`, the handlers record the ID of each call for the access log.

    Without (de)serialisers, handlers receive the bytes, and bytes that cannot be parsed get headrace's error.
    """
    handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
    for method in service.methods:
        counts = noted(observe(service.name, method.name), f"{service.name}/{method.name}", tracing)
        handle = traced_handler(_handle(method, delivery, counts), tracing)
        handlers[method.name] = grpc.unary_unary_rpc_method_handler(
            identified_handler(handle) if identified else handle
        )
    handlers |= {
        method.name: grpc.stream_stream_rpc_method_handler(
            _handle_stream(method, delivery, observe(service.name, method.name))
        )
        for method in service.streams
    }
    return handlers


def _handle(method: Method, delivery: LoopDelivery, observe: ObserveCall) -> Handle:
    parse, model_of, answer = method.parse, _model_of(method), method.answer

    async def handle(data: bytes, context: Context) -> bytes:
        began = time.monotonic()
        model, code = "", Code.OK
        trailers: Trailers = ()
        try:
            request = parse(data)
            model = model_of(request)
            response = await answer(request, _call(context, delivery, method.name))
            if method.lasting and isinstance(context, KeepsAnswers):
                context.keep(counted(partial(observe, model, CODE_NAMES[Code.OK])))
            return response.SerializeToString()
        except Exception as error:
            (code, text), trailers = _status(error, method), trailers_of(error)
        except asyncio.CancelledError:
            code = _code_of_cancelled(context)
            raise
        finally:
            observe(model, CODE_NAMES[code], time.monotonic() - began)
        await context.abort(STATUS[code], truncated(text), trailers)
        raise AssertionError  # abort raises

    return handle


def _handle_stream(method: StreamMethod, delivery: LoopDelivery, observe: ObserveCall) -> HandleStream:
    """Counts a stream as one call without a model: each of its requests may name another model."""
    answer = method.answer

    async def parsed(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
        async for data in requests:
            yield parse(method.request, data)

    async def handle(requests: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        began = time.monotonic()
        code, text = Code.OK, ""
        trailers: Trailers = ()
        call = replace(_call(context, delivery, method.name), metadata=_metadata(context))
        try:
            async with aclosing(answer(parsed(requests), call)) as responses:
                async for response in responses:
                    yield response.SerializeToString()
        except Exception as error:
            (code, text), trailers = _status(error, method), trailers_of(error)
        except (asyncio.CancelledError, GeneratorExit):
            code = _code_of_cancelled(context)
            raise
        finally:
            observe("", CODE_NAMES[code], time.monotonic() - began)
        if code != Code.OK:
            await context.abort(STATUS[code], truncated(text), trailers)

    return handle


def _status(error: Exception, method: Method | StreamMethod) -> tuple[Code, str]:
    if isinstance(error, DecodeError):
        return Code.INTERNAL, f"Failed to parse {method.request.DESCRIPTOR.full_name}: {error}"
    return status_of(error)


def _code_of_cancelled(context: Context) -> Code:
    return Code.DEADLINE_EXCEEDED if context.time_remaining() == 0 else Code.CANCELLED


def _model_of(method: Method) -> Callable[[Any], str]:
    """Returns a function that reads the model's name from a request, empty for a method that concerns no model."""
    fields = method.request.DESCRIPTOR.fields_by_name
    if "model_spec" in fields:
        return lambda request: str(request.model_spec.name)
    if "model_name" in fields:
        return lambda request: str(request.model_name)
    return lambda _: ""


def _call(context: Context, delivery: LoopDelivery, api: str) -> Call:
    remaining = cast("float | None", context.time_remaining())  # None without a deadline, despite grpcio's type stubs
    deadline = None if remaining is None else time.monotonic() + remaining
    return Call(delivery, deadline, _priority(context), api)


def _priority(context: Context) -> Priority:
    return Priority.LOW if LOW_PRIORITY in _metadata(context) else Priority.NORMAL


def _metadata(context: Context) -> tuple[tuple[str, str | bytes], ...]:
    # A tuple of pairs, despite grpcio's type stubs.
    return cast("tuple[tuple[str, str | bytes], ...]", context.invocation_metadata())


def status(error: Exception) -> tuple[Code, str]:
    """The code and the text that a caller gets for a failure."""
    code, text = status_of(error)
    return code, truncated(text)


def trailers_of(error: Exception) -> Trailers:
    """The trailers of a failed call; if waiting helps, they tell gRPC's own retries when to send the call again."""
    if not isinstance(error, Refused) or error.retry_after is None:
        return ()
    return ((PUSHBACK, str(math.ceil(error.retry_after * 1e3))),)


def truncated(text: str) -> str:
    """The text, cut to the length that a status may have, as in TF Serving's grpc_status_util.cc."""
    raw = text.encode()
    if len(raw) <= MAX_TEXT_BYTES:
        return text
    return raw[:MAX_TEXT_BYTES].decode(errors="ignore") + "...TRUNCATED"
