"""The gate for gRPC: a call's caller is identified before its message is parsed, and checked before it is answered."""

import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any, Protocol, cast

import grpc

from headrace_batching import LoopDelivery
from headrace_server.errors import ServingError, status_of
from headrace_server.models.call import Call
from headrace_server.security.gate import Gate
from headrace_server.security.methods import GRPC, NOBODY, MethodNeed, Need
from headrace_server.security.principal import Credentials, unauthenticated
from headrace_server.security.visit import Visit, begin_visit, visit_now
from headrace_server.services.rpc import Method, Service, StreamMethod
from headrace_server.transports.grpc.endpoint import Endpoint, ObserveCall
from headrace_server.transports.grpc.handlers import (
    CODE_NAMES,
    STATUS,
    Handler,
    WrappedHandlers,
    rpc_handlers,
    trailers_of,
    truncated,
)

Handlers = Mapping[str, Handler]


class Guard(Protocol):
    """Creates the handlers that a transport registers."""

    def handlers(self, service: Service, delivery: LoopDelivery) -> Handlers:
        """The handlers of a service, by method."""

    def servicer(self, path: str, handler: Handler) -> Handler:
        """The handlers of one of grpcio's own servicers."""

    def generic(self, handlers: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        """Like `servicer`, but for handlers that are found by path."""


def guard_of(endpoint: Endpoint) -> Guard:
    """The guard of an endpoint, which does nothing if all calls are allowed."""
    return _Open(endpoint) if endpoint.gate is None else _Guarded(endpoint.gate, endpoint)


class _Open:
    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def handlers(self, service: Service, delivery: LoopDelivery) -> Handlers:
        own = self._endpoint
        return rpc_handlers(service, delivery, own.observe, own.tracing, identified=own.identified)

    def servicer(self, path: str, handler: Handler) -> Handler:
        del path
        return handler

    def generic(self, handlers: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        return handlers


class _Guarded:
    def __init__(self, gate: Gate, endpoint: Endpoint) -> None:
        self._gate = gate
        self._observe = endpoint.observe
        self._tracing = endpoint.tracing
        self._identified = endpoint.identified

    def handlers(self, service: Service, delivery: LoopDelivery) -> Handlers:
        methods = tuple(self._method(service.name, method) for method in service.methods)
        streams = tuple(self._stream(service.name, method) for method in service.streams)
        guarded = Service(service.name, methods, streams)
        own = rpc_handlers(guarded, delivery, self._observed, self._tracing, identified=self._identified)
        return {name: self._entering(f"/{service.name}/{name}", handler, admits=False) for name, handler in own.items()}

    def servicer(self, path: str, handler: Handler) -> Handler:
        return self._entering(path, handler, admits=True)

    def generic(self, handlers: grpc.GenericRpcHandler) -> grpc.GenericRpcHandler:
        return WrappedHandlers(handlers, self.servicer)

    def _method(self, service: str, method: Method) -> Method:
        """The same method, but each request must be admitted before it is answered."""
        need, admit = _need(f"/{service}/{method.name}"), self._admit

        async def answer(request: Any, call: Call) -> Any:
            admit(need.of(request))
            return await method.answer(request, call)

        return replace(method, answer=answer)

    def _stream(self, service: str, method: StreamMethod) -> StreamMethod:
        """The same method, but each request must be admitted, and the caller is checked again: a stream may be long."""
        need, gate = _need(f"/{service}/{method.name}"), self._gate

        async def admitted(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
            visit = _visit()
            async for request in requests:
                await gate.enter(visit, need.action)
                self._admit(need.of(request))
                yield request

        return replace(method, answer=lambda requests, call: method.answer(admitted(requests), call))

    def _admit(self, need: Need) -> None:
        self._gate.admit(_visit(), need)

    def _observed(self, service: str, method: str) -> ObserveCall:
        return _Audited(self._gate, f"{service}/{method}", self._observe(service, method))

    def _entering(self, path: str, handler: Handler, *, admits: bool) -> Handler:
        """A handler that first checks the caller."""
        entrance = _Entrance(self._gate, path, admits=admits)
        wrap, behaviour, make = _parts(handler)
        guarded = entrance.stream if wrap == "stream" else entrance.once
        return make(guarded(behaviour), handler.request_deserializer, handler.response_serializer)


class _Entrance:
    """The entry of calls of one method: it identifies callers, and checks them if `admits` says so."""

    def __init__(self, gate: Gate, path: str, *, admits: bool) -> None:
        self._gate = gate
        self._path = path
        self._need = _need(path)
        self._admits = admits

    def once(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def guarded(request: Any, context: Any) -> Any:
            visit = await self._enter(request, context)
            try:
                return await handle(request, context)
            finally:
                visit.leave()

        return guarded

    def stream(self, handle: Callable[..., Any]) -> Callable[..., Any]:
        async def guarded(request: Any, context: Any) -> AsyncIterator[Any]:
            visit = await self._enter(request, context)
            try:
                async with aclosing(handle(request, context)) as responses:
                    async for response in responses:
                        yield response
            finally:
                visit.leave()

        return guarded

    async def _enter(self, request: Any, context: Any) -> Visit:
        began = time.monotonic()
        visit = Visit(Credentials(peer=context.peer()))
        try:
            visit.credentials = _credentials(context)
            await self._gate.enter(visit, self._need.action)
            if self._admits:
                self._gate.admit(visit, self._need.of(request))
        except ServingError as error:
            code, text = status_of(error)
            self._gate.write(visit, self._path[1:], "", CODE_NAMES[code], time.monotonic() - began)
            await context.abort(STATUS[code], truncated(text), trailers_of(error))
        begin_visit(visit)
        return visit


class _Audited:
    """Logs each call of a method, and passes it on to be counted."""

    def __init__(self, gate: Gate, name: str, counts: ObserveCall) -> None:
        self._gate = gate
        self._name = name
        self._counts = counts
        self.several = counts.several

    def __call__(self, model: str, code: str, seconds: float) -> None:
        self._gate.write(_visit(), self._name, model, code, seconds)
        self._counts(model, code, seconds)


def _need(path: str) -> MethodNeed:
    """The right that a method needs; a method that is missing in the table is refused to everybody."""
    return GRPC.get(path, NOBODY)


def _visit() -> Visit:
    visit = visit_now()
    assert visit is not None  # each call has one, since it has entered the gate
    return visit


def _parts(handler: Handler) -> tuple[str, Callable[..., Any], Callable[..., Handler]]:
    """The way in which a handler answers, its function, and a constructor for a handler of the same kind."""
    if handler.request_streaming:
        return "stream", handler.stream_stream, grpc.stream_stream_rpc_method_handler
    if handler.response_streaming:
        return "stream", handler.unary_stream, grpc.unary_stream_rpc_method_handler
    return "once", handler.unary_unary, grpc.unary_unary_rpc_method_handler


def _credentials(context: Any) -> Credentials:
    """The credentials of a call.

    Raises:
        Refused: UNAUTHENTICATED if there are several authorization headers.
    """
    shown = [value for name, value in context.invocation_metadata() if name == "authorization"]
    if len(shown) > 1:
        raise unauthenticated("there must be one authorization header; there are several")
    pem = cast("Mapping[str, Any]", context.auth_context()).get("x509_pem_cert", ())
    certificate = ssl.PEM_cert_to_DER_cert(bytes(pem[0]).decode()) if pem else b""
    header = shown[0] if shown else ""
    return Credentials(header if isinstance(header, str) else header.decode("latin-1"), certificate, context.peer())
