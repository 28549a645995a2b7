"""Handlers that record traced calls; without tracing, the handlers are unchanged."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import grpc

from headrace_protos import Code
from headrace_server.metrics.counting import Tally
from headrace_server.models.trace import CURRENT, MARK, PARENT, STATE
from headrace_server.transports.grpc.endpoint import ObserveCall, Tracing

Context = grpc.aio.ServicerContext[bytes, bytes]
Handle = Callable[[bytes, Context], Awaitable[bytes]]


def traced_handler(handle: Handle, tracing: Tracing | None) -> Handle:
    """A handler that records the traced calls of the given one."""
    if tracing is None:
        return handle

    async def traced(data: bytes, context: Context) -> bytes:
        metadata: Any = context.invocation_metadata()
        found = {name: value for name, value in metadata or () if name in (PARENT, STATE, MARK)}
        trace = tracing.begin(str(found.get(PARENT, "")), str(found.get(STATE, "")), marked=MARK in found)
        if trace is None:
            return await handle(data, context)
        token = CURRENT.set(trace)
        try:
            return await handle(data, context)
        finally:
            CURRENT.reset(token)
            tracing.end(trace)

    return traced


def noted(observe: ObserveCall, name: str, tracing: Tracing | None) -> ObserveCall:
    """Returns a function to call for each call that has ended; it records the model and the code of traced calls.

    Args:
        observe: Called for each call that has ended, traced or not.
        name: The method's name, with its service.
        tracing: Records traced calls; None if there are no traces.
    """
    return observe if tracing is None else _Noted(observe, name)


@dataclass(frozen=True, slots=True)
class _Noted:
    observe: ObserveCall
    name: str

    def __call__(self, model: str, code: str, seconds: float) -> None:
        """Counts one call."""
        if (trace := CURRENT.get()) is not None:
            trace.is_rpc(self.name, model, Code.Value(code))
        self.observe(model, code, seconds)

    def several(self, model: str, code: str, tally: Tally, total: float) -> None:
        """Counts calls that the transport reports together."""
        self.observe.several(model, code, tally, total)
