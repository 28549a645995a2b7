"""Builds the house from a Config, runs it, drains it: owner of every long-lived object."""

import asyncio
import logging
from pathlib import Path

from headrace_batching import BatchThreads, Options
from headrace_protos import Code
from headrace_server.backends import auto as backends
from headrace_server.backends.base import BackendOptions
from headrace_server.config import Config
from headrace_server.config_files import read_batching_parameters
from headrace_server.errors import ServingError, invalid, status_of
from headrace_server.models.manager import Manager, Serving
from headrace_server.models.servable import Servable
from headrace_server.models.source import Source
from headrace_server.models.version_policy import State
from headrace_server.services.health import HealthService
from headrace_server.services.model import ModelService
from headrace_server.services.prediction import PredictionService
from headrace_server.services.reflection import ReflectionService
from headrace_server.transports.auto import make_queue, make_transport
from headrace_server.transports.base import Endpoint

log = logging.getLogger(__name__)


class Server:
    """One run of headrace. Made and used in one event loop; does nothing until `start`.

    Args:
        config: All that it is told.

    Raises:
        ServingError: INVALID_ARGUMENT or NOT_FOUND: an option, or a file that one names, makes no sense.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        _check(config)
        options = _batching(config)
        self._batching = options if config.enable_batching else None
        self._backend_options = _backend_options(config)
        queue = make_queue(config.transport)
        self._threads = BatchThreads(options.num_batch_threads, queue)
        self._manager = Manager(self._load, self._publish)
        self._source = Source(config.models, config.file_system_poll_wait_seconds, self._manager.aspire)
        self._health = HealthService()
        services = (
            PredictionService(self._manager, as_content=config.enable_serialization_as_tensor_content).service,
            ModelService(self._manager).service,
        )
        reflection = ReflectionService([service.name for service in services])
        self._transport = make_transport(
            config.transport,
            Endpoint(
                f"0.0.0.0:{config.port}",
                services,
                queue,
                (self._health.register, reflection.register),
                _channel_arguments(config.grpc_channel_arguments),
                as_content=config.enable_serialization_as_tensor_content,
            ),
        )

    async def start(self) -> int:
        """Loads the models, then listens: an open port means that they are ready. Returns the port.

        Raises:
            ServingError: A model has no version that loads, or the port is taken.
        """
        self._threads.start()
        self._manager.start()
        self._source.start()
        for model in self._config.models:
            await self._wait_for(model.name)
        self._health.serving()
        port = await self._transport.start()
        log.info("Running gRPC ModelServer at 0.0.0.0:%d ...", port)
        return port

    async def stop(self) -> None:
        """Drains: health says NOT_SERVING, what is in flight is answered, then everything is freed."""
        self._health.draining()
        await self._transport.stop(self._config.drain_seconds)
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        self._source.stop()
        self._manager.stop()
        self._threads.close()

    async def _wait_for(self, name: str) -> None:
        """TF Serving: waits without limit for one version that is available or has ended, and ends with the latter."""
        statuses = await asyncio.to_thread(self._manager.wait_settled, name)
        if any(status.state is State.AVAILABLE for status in statuses):
            return
        failed = next((status for status in statuses if status.error is not None), None)
        if failed is not None and failed.error is not None:
            code, text = status_of(failed.error)
            raise ServingError(
                Code.UNKNOWN,
                "1 servable(s) did not become available: "
                f"{{{{{{name: {name} version: {failed.version}}} due to error: {Code.Name(code)}: {text}}}, }}",
            )

    def _publish(self, serving: Serving) -> None:
        self._transport.publish(serving)

    def _load(self, name: str, version: int, path: Path) -> Servable:
        backend = backends.load(path, self._backend_options)
        return Servable(name, version, backend, self._threads, self._batching)


def _check(config: Config) -> None:
    """TF Serving: server.cc and server_core.cc have these texts."""
    if not config.model_base_path:
        raise invalid("--model_base_path is empty: name the folder that holds the model's numbered versions")
    for model in config.models:
        if not model.base_path.is_absolute():
            raise invalid(
                f"Expected model {model.name} to have an absolute path or URI; got base_path()={model.base_path}"
            )


def _batching(config: Config) -> Options:
    if not config.batching_parameters_file:
        return config.batching
    if not config.enable_batching:
        raise invalid(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    return read_batching_parameters(config.batching_parameters_file)


def _backend_options(config: Config) -> BackendOptions:
    return BackendOptions(
        intra_op_threads=config.tensorflow_intra_op_parallelism or config.tensorflow_session_parallelism,
        inter_op_threads=config.tensorflow_inter_op_parallelism or config.tensorflow_session_parallelism,
        providers=tuple(filter(None, config.onnxruntime_providers.split(","))),
        cpu_memory_arena=config.onnxruntime_cpu_memory_arena,
    )


def _channel_arguments(text: str) -> list[tuple[str, int | str]]:
    """`k=v,k=v`; a value that is a whole number is passed as one. TF Serving: server.cc."""
    arguments: list[tuple[str, int | str]] = []
    for item in filter(None, text.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise invalid(f"--grpc_channel_arguments: {item!r} is not of the form key=value")
        arguments.append((key, int(value) if value.lstrip("-").isdecimal() else value))
    return arguments
