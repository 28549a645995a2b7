"""Builds the server from a `Config`, runs it and drains it; owns every long-lived object."""

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from headrace_server.config.checks import check
from headrace_server.config.files import batching_of
from headrace_server.config.model_config import ModelConfig
from headrace_server.config.model_list import first_models
from headrace_server.config.platform import with_files
from headrace_server.config.run import Config
from headrace_server.metrics.access_log import LoggedMethod
from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.exposition import Metric
from headrace_server.metrics.own import own_metrics, own_page
from headrace_server.models.memory import Trimmer
from headrace_server.models.servable import Servable
from headrace_server.monitoring.metric_pages import (
    build_info,
    held_memory,
    memory_gauges,
    memory_metrics,
    metric_pages,
    model_states,
)
from headrace_server.monitoring.room_metrics import room_metrics
from headrace_server.monitoring.traces import make_tracer
from headrace_server.security.gate import Gate
from headrace_server.security.options import make_gate
from headrace_server.served_models import ServedModels
from headrace_server.services.health import HealthService
from headrace_server.services.open_inference.models import Models
from headrace_server.services.open_inference.regions import Regions
from headrace_server.services.open_inference.repository import ModelRepository
from headrace_server.services.open_inference.rights import Rights
from headrace_server.services.open_inference.server import OpenInference
from headrace_server.services.open_inference.service import GrpcInferenceService
from headrace_server.services.open_inference.settings import LogSettings, TraceSettings
from headrace_server.services.profiler import ProfilerService
from headrace_server.services.reflection import ReflectionService
from headrace_server.services.rpc import Service
from headrace_server.services.servables import Servables
from headrace_server.services.tf_serving.model_service import ModelService
from headrace_server.services.tf_serving.prediction import PredictionService
from headrace_server.transports.grpc.addresses import addresses, channel_arguments, max_send_bytes
from headrace_server.transports.grpc.argument_names import complaints
from headrace_server.transports.grpc.endpoint import BoundsMemory, CallerBounds, Endpoint
from headrace_server.transports.grpc.selection import choose, make_queue, make_transport, make_verdicts
from headrace_server.transports.grpc.tls import read_ssl_config

if TYPE_CHECKING:
    from headrace_server.services.page.state import Shown
    from headrace_server.transports.http.transport import RestTransport

log = logging.getLogger(__name__)


class Server:
    """One run of headrace. It must be created and used in one event loop, and does nothing until `start`.

    Args:
        config: The configuration of the run.

    Raises:
        ServingError: INVALID_ARGUMENT or NOT_FOUND if an option, or a file that an option names, is invalid.
    """

    def __init__(self, config: Config) -> None:
        check(config)
        for path in filter(None, (config.ssl_config_file, config.rest_api_ssl_config_file)):
            read_ssl_config(path)  # report an error in it before the models are loaded
        self._config = config = with_files(config)
        self._metrics = Metrics()
        self._first_models = first_models(config)
        self._transport_name = choose(
            config.transport, alts=config.use_alts_credentials, ssl_config_file=config.ssl_config_file
        )
        self._own_metrics: tuple[Metric, ...] = ()
        self._pages = metric_pages(config, self._metrics, self.metrics)
        self._queue = make_queue(self._transport_name)
        self._gate = self._make_gate()
        self._tracer = make_tracer(config, self._transport_name)
        self._metrics.listen = None if self._tracer is None else self._tracer.ran
        self._models = ServedModels(
            config,
            self._metrics,
            self._queue,
            self._make_prediction,
            lambda: self._transport,
            linked=self._transport_name == "native",
        )
        self._model_service = ModelService(
            self._models.manager, self._models.configuration.announce, self._metrics.read_counter
        )
        self._health = HealthService(self._models.answers, self._models.changed)
        self.drained = asyncio.Event()
        self._port = 0
        self._profiler = ProfilerService()
        prediction = self._make_prediction(self._models.manager)
        self._open_inference = self._make_open_inference()
        services = (
            self._models.request_logger.logged(prediction.service),
            self._model_service.service,
            GrpcInferenceService(self._open_inference).service,
        )
        self._transport = make_transport(self._transport_name, self._endpoint(services))
        self._rest = self._rest_transport(prediction)
        self._trimmer = Trimmer(self._models.free_unused)
        self._own_metrics = tuple(self._make_own_metrics())
        if isinstance(self._transport, BoundsMemory):
            self._metrics.show(*memory_gauges(self._transport))

    @property
    def transport(self) -> str:
        """The transport of gRPC calls: `native` or `grpcio`."""
        return self._transport_name

    @property
    def serving(self) -> Mapping[str, Mapping[int, Servable]]:
        """The versions that are being served, by model and by number."""
        return self._models.serving

    def metrics(self) -> bytes:
        """The text of `/metrics`, for programs that run a server without REST. Any thread."""
        return own_page(self._metrics, self._own_metrics)

    def awaited(self) -> list[ModelConfig]:
        """The configured models for which no version was ever found."""
        return self._models.configuration.awaited()

    async def start(self) -> int:
        """Loads the models, then listens: an open port means that they are ready. Returns the TCP port; 0 if none.

        Raises:
            ServingError: A model has no version that loads, or the port is taken.
        """
        self._models.start()
        if self._tracer is not None:
            self._tracer.start()
        await asyncio.to_thread(self._models.load, self._first_models)
        if self._gate is not None:
            self._gate.start()
        self._health.serving()
        if self._config.enable_profiler and self._profiler.useful:
            log.info("Profiler service is enabled")
        port = self._port = await self._transport.start()
        if port:
            log.info("Running gRPC ModelServer at %s:%d ...", self._config.host or "0.0.0.0", port)
        if self._config.grpc_socket_path:
            log.info("Running gRPC ModelServer at UNIX socket %s ...", self._config.grpc_socket_path)
        if self._rest is not None:
            await self._rest.start()
        self._trimmer.start()
        return port

    def turn_away(self) -> None:
        """Reports that the server is not ready, so that load balancers send no more calls, but still answers calls."""
        self._health.draining()
        self._models.changed()

    async def stop(self) -> None:
        """Drains the server: health is NOT_SERVING, calls in flight are answered, then everything is freed."""
        self._health.draining()
        self._reflection.draining()
        self._models.manager.let_go()
        stopping = [self._transport.stop(self._config.drain_seconds)]
        if self._rest is not None:
            stopping.append(self._rest.stop(self._config.drain_seconds))
        await asyncio.gather(*stopping)
        self.drained.set()
        await self._trimmer.stop()
        await self._profiler.close()
        await asyncio.to_thread(self._free)

    def _make_gate(self) -> Gate | None:
        """The gate that all calls pass through; None if calls are neither refused nor written to an audit log."""
        auth, audit_log = self._config.auth, self._config.audit_log
        if not auth.guards and not audit_log:
            return None
        return make_gate(auth, audit_log, make_verdicts(self._transport_name, audits=bool(audit_log)))

    def _endpoint(self, services: Sequence[Service]) -> Endpoint:
        config = self._config
        health = (self._health,) if config.enable_grpc_healthcheck_service else ()
        names = [service.name for service in services] + [servicer.name for servicer in health]
        profiler = (self._profiler,) if config.enable_profiler else ()
        self._reflection = ReflectionService(names)
        servicers = (self._reflection, *health, *profiler)
        arguments = channel_arguments(config.grpc_channel_arguments)
        for complaint in complaints(arguments):
            log.warning("--grpc_channel_arguments: %s", complaint)
        return Endpoint(
            addresses(config),
            services,
            self._observe_method if config.access_log else self._metrics.grpc_method,
            self._queue,
            [servicer.register for servicer in servicers],
            arguments,
            as_content=config.enable_serialization_as_tensor_content,
            ssl_config_file=config.ssl_config_file,
            alts=config.use_alts_credentials,
            threads=config.transport_threads,
            bounds=CallerBounds.of(config),
            observe_rest=self._metrics.rest_verb if config.rest_api_port else None,
            regions=self._open_inference.regions,
            gate=self._gate,
            tracing=self._tracer,
            spans=None if self._tracer is None else self._tracer.spans,
            identified=config.access_log,
        )

    def _observe_method(self, service: str, method: str) -> LoggedMethod:
        return LoggedMethod(f"{service}/{method}", self._metrics.grpc_method(service, method))

    def _rest_transport(self, prediction: PredictionService) -> "RestTransport | None":
        config = self._config
        if not config.rest_api_port:
            return None
        # imported here so that a server without REST need not load its dependencies
        from headrace_server.services.page.service import PageApi
        from headrace_server.services.page.state import PageState
        from headrace_server.services.tf_serving.rest.service import RestOptions
        from headrace_server.transports.http.observing import audited, logged
        from headrace_server.transports.http.transport import Beside, RestTransport

        timeout, counts = config.rest_api_timeout_in_ms, self._metrics.rest_call
        options = RestOptions(
            timeout=timeout / 1e3 if timeout > 0 else None,
            cors=config.rest_api_enable_cors_support,
            pages=self._pages,
            observe=audited(logged(counts) if config.access_log else counts, self._gate),
            record=self._models.request_logger.record_made,
            is_ready=lambda: self._health.is_serving,
        )
        page = PageApi(PageState(self._shown())) if config.enable_page else None
        beside = Beside(self._models.manager, page, self._tracer, self._gate)
        return RestTransport(
            config, prediction, self._model_service, options, self._open_inference, self._transport, beside
        )

    def _shown(self) -> "Shown":
        from headrace_server.services.page.state import Shown

        return Shown(
            self._config,
            self._transport_name,
            self._metrics,
            self._models.manager,
            batching_of(self._config).num_batch_threads,
            grpc_port=lambda: self._port,
            held=lambda: held_memory(self._transport),
            more={"drift": self._models.drift.summary},
        )

    def _make_prediction(self, servables: Servables) -> PredictionService:
        return PredictionService(
            servables,
            as_content=self._config.enable_serialization_as_tensor_content,
            check_method=self._config.enable_signature_method_name_check,
            max_answer_bytes=max_send_bytes(self._config.grpc_channel_arguments),
        )

    def _make_own_metrics(self) -> Iterator[Metric]:
        """The metrics of the page with headrace's own names."""
        yield from own_metrics(self._metrics, lambda: self._models.batches_at_once)
        yield build_info(self._transport_name)
        yield model_states(self._models.manager)
        yield from self._models.drift.metrics(lambda: [own.labels for own in self._metrics.every_servable()])
        if isinstance(self._transport, BoundsMemory):
            yield from memory_metrics(self._transport)
        manager = self._models.manager
        if manager.rooms is not None:
            yield from room_metrics(manager, manager.rooms, self._metrics)

    def _make_open_inference(self) -> OpenInference:
        models, rights = self._models, Rights.named(self._config.open_inference_admin)
        return OpenInference(
            Models(models.manager, models.configuration.models.policy_of, lambda: self._health.is_serving),
            ModelRepository(models.manager, models.configuration, models.loader.override_batching, rights),
            Regions(),
            LogSettings(),
            TraceSettings(),
            rights,
        )

    def _free(self) -> None:
        if self._gate is not None:
            self._gate.stop()
        self._models.stop_reading()
        if self._tracer is not None:
            self._tracer.stop()
        self._model_service.close()
        self._models.stop()
        self._open_inference.close()
        self._metrics.close()
