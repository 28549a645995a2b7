"""grpc.health.v1: serving once every configured model has a version ready, and no longer once the server drains."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio

# TF Serving sets the two bare names; the full ones are what other servers' clients ask for.
NAMES = (
    "",
    "ModelService",
    "PredictionService",
    "tensorflow.serving.ModelService",
    "tensorflow.serving.PredictionService",
)


class HealthService:
    """The state of the whole server under each name."""

    def __init__(self) -> None:
        self._servicer = aio.HealthServicer()

    def register(self, server: grpc.aio.Server) -> None:
        """Adds the service to a server."""
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def serving(self) -> None:
        """Says SERVING from now on."""
        for name in NAMES:
            await self._servicer.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def draining(self) -> None:
        """Says NOT_SERVING from now on, to those who watch at once."""
        await self._servicer.enter_graceful_shutdown()
