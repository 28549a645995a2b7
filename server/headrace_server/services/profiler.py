"""tensorflow.ProfilerService: forwards calls of TensorBoard and similar tools to TensorFlow's own profiler."""

import asyncio
import logging
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import grpc

log = logging.getLogger(__name__)

Context = grpc.aio.ServicerContext[bytes, bytes]

SERVICE = "tensorflow.ProfilerService"
METHODS = ("Profile", "Terminate", "Monitor")

_NO_LIMIT = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]


class ProfilerService:
    """A proxy: TensorFlow's profiler can only listen on a port of its own, which it opens at the first call.

    That port is open on all interfaces, however the server's port is secured; TensorFlow can neither avoid that nor
    close the port before the process ends.
    """

    def __init__(self) -> None:
        self._starting = asyncio.Lock()
        self._channel: grpc.aio.Channel | None = None

    @property
    def useful(self) -> bool:
        """Whether there is something to profile: a model has loaded TensorFlow into this process."""
        return "tensorflow" in sys.modules

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server."""
        # Without (de)serialisers, grpcio passes the bytes unchanged.
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            name: grpc.unary_unary_rpc_method_handler(self._method(name)) for name in METHODS
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_registered_method_handlers(SERVICE, handlers)  # generated code calls both functions

    async def close(self) -> None:
        """Ends the channel to TensorFlow's profiler."""
        if self._channel is not None:
            await self._channel.close()

    def _method(self, name: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        async def forward(data: bytes, context: Context) -> bytes:
            channel = await self._connected(context)
            call: Any = channel.unary_unary(f"/{SERVICE}/{name}")
            try:
                answer: bytes = await call(data, timeout=context.time_remaining())
            except grpc.aio.AioRpcError as error:
                await context.abort(error.code(), error.details() or "")
            return answer

        return forward

    async def _connected(self, context: Context) -> grpc.aio.Channel:
        if not self.useful:
            await context.abort(
                grpc.StatusCode.FAILED_PRECONDITION, "No model runs in TensorFlow, so there is nothing to profile."
            )
        async with self._starting:
            if self._channel is None:
                port = _free_port()
                await asyncio.to_thread(_start, port)  # waits for a thread that may be importing TensorFlow
                log.warning("TensorFlow's profiler listens on port %d of all interfaces from now on", port)
                self._channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_NO_LIMIT)
            return self._channel


def _start(port: int) -> None:
    import tensorflow as tf

    tf.profiler.experimental.server.start(port)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
