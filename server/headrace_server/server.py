"""Builds the house from a Config, runs it, drains it: owner of every long-lived object."""

import asyncio
import logging
from functools import partial

from headrace_batching import BatchThreads, Options
from headrace_batching.options import schedulable_cpus
from headrace_protos import ModelServerConfig
from headrace_server.backends.base import BackendOptions
from headrace_server.config import Config
from headrace_server.config_files import read_batching_parameters, read_text_proto
from headrace_server.errors import invalid
from headrace_server.models.config_poll import ConfigPoll
from headrace_server.models.configuration import Configuration, check_models, single_model
from headrace_server.models.loader import Loader
from headrace_server.models.manager import Manager, ManagerOptions
from headrace_server.models.source import Source
from headrace_server.models.version_policy import preserve_availability, preserve_resources
from headrace_server.models.warmup import Warmup, WarmupOptions
from headrace_server.services.health import HealthService
from headrace_server.services.model import ModelService
from headrace_server.services.prediction import PredictionService
from headrace_server.services.record_files import RecordWriter
from headrace_server.services.reflection import ReflectionService
from headrace_server.services.request_log import RequestLogger
from headrace_server.services.warmup import warmup_answers
from headrace_server.transports.auto import make_transport
from headrace_server.transports.base import Endpoint

log = logging.getLogger(__name__)


_POLICIES = {"availability_preserving": preserve_availability, "resource_preserving": preserve_resources}


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
        self._first_models = _models(config)
        options = _batching(config)
        self._threads = BatchThreads(options.num_batch_threads)
        make_prediction = partial(PredictionService, as_content=config.enable_serialization_as_tensor_content)
        warmup = Warmup(_warmup_options(config), partial(warmup_answers, make_prediction))
        loader = Loader(
            _backend_options(config),
            self._threads,
            options if config.enable_batching else None,
            warmup.run,
            per_model_batching=config.enable_per_model_batching_parameters,
        )
        self._manager = Manager(loader.load, _manager_options(config))
        self._source = Source((), config.file_system_poll_wait_seconds, self._manager.aspire)
        self._records = RecordWriter()
        self._request_logger = RequestLogger(self._records)
        self._models = Configuration(
            self._manager,
            self._source,
            self._request_logger.prepare,
            labels_to_unavailable=config.allow_version_labels_for_unavailable_models,
        )
        self._config_poll = ConfigPoll(
            config.model_config_file, config.model_config_file_poll_wait_seconds, self._models.apply
        )
        self._model_service = ModelService(self._manager, self._models.apply)
        self._health = HealthService()
        services = (
            self._request_logger.logged(make_prediction(self._manager).service),
            self._model_service.service,
        )
        reflection = ReflectionService([service.name for service in services])
        self._transport = make_transport(
            config.transport,
            Endpoint(
                f"0.0.0.0:{config.port}",
                services,
                (self._health.register, reflection.register),
                _channel_arguments(config.grpc_channel_arguments),
            ),
        )

    async def start(self) -> int:
        """Loads the models, then listens: an open port means that they are ready. Returns the port.

        Raises:
            ServingError: A model has no version that loads, or the port is taken.
        """
        self._threads.start()
        self._manager.start()
        await asyncio.to_thread(self._models.start, self._first_models)
        self._config_poll.start()
        self._health.serving()
        port = await self._transport.start()
        log.info("Running gRPC ModelServer at 0.0.0.0:%d ...", port)
        return port

    async def stop(self) -> None:
        """Drains: health says NOT_SERVING, what is in flight is answered, then everything is freed."""
        self._health.draining()
        self._manager.let_go()
        await self._transport.stop(self._config.drain_seconds)
        await asyncio.to_thread(self._free)

    def _free(self) -> None:
        self._config_poll.stop()
        self._model_service.close()
        self._source.stop()
        self._manager.stop()
        self._threads.close()
        self._records.stop()


def _check(config: Config) -> None:
    """TF Serving: server.cc and server_core.cc have these texts."""
    if not config.model_base_path and not config.model_config_file:
        raise invalid("--model_base_path is empty: name the folder that holds the model's numbered versions")
    if config.aspired_version_policy not in _POLICIES:
        raise invalid(f"--aspired_version_policy is none of {', '.join(_POLICIES)}: {config.aspired_version_policy}")


def _models(config: Config) -> ModelServerConfig:
    """The first configuration; what is wrong with its list is said before anything is loaded."""
    if config.model_config_file:
        models = read_text_proto(config.model_config_file, ModelServerConfig())
    else:
        models = single_model(config.model_name, config.model_base_path)
    check_models(models.model_config_list.config)
    return models


def _manager_options(config: Config) -> ManagerOptions:
    return ManagerOptions(
        num_load_threads=config.num_load_threads,
        num_unload_threads=config.num_unload_threads,
        num_initial_load_threads=4 * schedulable_cpus(),
        max_num_load_retries=config.max_num_load_retries,
        load_retry_interval=max(0, config.load_retry_interval_micros) / 1e6,
        policy=_POLICIES[config.aspired_version_policy],
    )


def _batching(config: Config) -> Options:
    if not config.batching_parameters_file:
        return config.batching
    if not config.enable_batching:
        raise invalid(
            "server_options.batching_parameters_file is set without setting server_options.enable_batching to true."
        )
    return read_batching_parameters(config.batching_parameters_file)


def _warmup_options(config: Config) -> WarmupOptions:
    return WarmupOptions(
        requests=config.enable_model_warmup,
        iterations=max(1, config.num_request_iterations_for_warmup),
        synthetic=config.enable_model_warmup and config.enable_synthetic_warmup,
    )


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
