"""Builds the server from a `Config`, runs it and drains it; owns every long-lived object."""

import asyncio
import logging
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

from headrace_batching import BatchThreads, Options
from headrace_server.backends.base import BackendOptions
from headrace_server.config.checks import check
from headrace_server.config.files import batching_of
from headrace_server.config.model_config import ModelConfig
from headrace_server.config.model_list import first_models
from headrace_server.config.model_toml import MODEL_FILE
from headrace_server.config.platform import with_files
from headrace_server.config.run import Config
from headrace_server.metrics.access_log import LoggedMethod
from headrace_server.metrics.catalogue import Metrics
from headrace_server.metrics.exposition import Metric
from headrace_server.metrics.own import own_metrics, own_page
from headrace_server.models.config_poll import ConfigPoll
from headrace_server.models.configuration import Configuration
from headrace_server.models.ensemble import Members
from headrace_server.models.loader import Loader
from headrace_server.models.manager import Labels, Manager, Tallies
from headrace_server.models.manager_options import ManagerOptions
from headrace_server.models.memory import Trimmer
from headrace_server.models.opened import opened_before
from headrace_server.models.plain import may_be_plain
from headrace_server.models.preloading import preload
from headrace_server.models.publishing import Publishing
from headrace_server.models.rights import CodeTrust, ReloadRights
from headrace_server.models.room import Bounds
from headrace_server.models.servable import Servable
from headrace_server.models.source import Source
from headrace_server.models.version_policy import State
from headrace_server.models.warmup import Warmup, WarmupOptions
from headrace_server.monitoring.drift import Drift
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
from headrace_server.security.models.names import MODEL_KEYS_VARIABLE
from headrace_server.security.options import make_gate, make_opener
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
from headrace_server.services.tf_serving.replay import warmup_answers
from headrace_server.services.tf_serving.request_log.files import RecordWriter
from headrace_server.services.tf_serving.request_log.logger import RequestLogger
from headrace_server.stores.mirrors import Mirrors, StoreCounts
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
        self._drift = Drift(config.drift_ratio)
        self._tracer = make_tracer(config, self._transport_name)
        self._metrics.listen = None if self._tracer is None else self._tracer.ran
        self._publishing = Publishing(self._tell_transport, self._is_plain)
        options, code = batching_of(config), CodeTrust.of(config)
        # One more thread than any model may use, so that a model that hangs leaves one for the others.
        self._threads = BatchThreads(options.num_batch_threads + 1, self._queue)
        loader = self._make_loader(options, code)
        self._manager = self._make_manager(loader, code)
        counts = StoreCounts(self._metrics.fetched, self._metrics.store_failed)
        self._mirrors = Mirrors(config.stores, lambda: self._source.look_again(), counts)
        manager = self._manager
        poll_seconds = config.file_system_poll_wait_seconds
        self._source = Source(poll_seconds, manager.aspire, manager.looked, manager.together)
        self._records = RecordWriter(self._metrics)
        self._request_logger = RequestLogger(
            self._records, config.saved_model_tags.split(","), changed=self._publishing.again
        )
        self._models = self._make_configuration(code)
        self._config_poll = ConfigPoll(
            config.model_config_file, config.model_config_file_poll_wait_seconds, self._models.apply_at_once
        )
        self._model_service = ModelService(self._manager, self._models.announce, self._metrics.read_counter)
        self._health = HealthService(self._answers, self._changed)
        self.drained = asyncio.Event()
        self._port = 0
        self._profiler = ProfilerService()
        prediction = self._make_prediction(self._manager)
        self._open_inference = self._make_open_inference(loader)
        services = (
            self._request_logger.logged(prediction.service),
            self._model_service.service,
            GrpcInferenceService(self._open_inference).service,
        )
        self._transport = make_transport(self._transport_name, self._endpoint(services))
        self._rest = self._rest_transport(prediction)
        self._trimmer = Trimmer(self._free_unused)
        self._own_metrics = tuple(self._make_own_metrics(options))
        if isinstance(self._transport, BoundsMemory):
            self._metrics.show(*memory_gauges(self._transport))

    @property
    def transport(self) -> str:
        """The transport of gRPC calls: `native` or `grpcio`."""
        return self._transport_name

    @property
    def serving(self) -> Mapping[str, Mapping[int, Servable]]:
        """The versions that are being served, by model and by number."""
        return self._publishing.serving

    def metrics(self) -> bytes:
        """The text of `/metrics`, for programs that run a server without REST. Any thread."""
        return own_page(self._metrics, self._own_metrics)

    def awaited(self) -> list[ModelConfig]:
        """The configured models for which no version was ever found."""
        return self._models.awaited()

    async def start(self) -> int:
        """Loads the models, then listens: an open port means that they are ready. Returns the TCP port; 0 if none.

        Raises:
            ServingError: A model has no version that loads, or the port is taken.
        """
        self._threads.start()
        self._manager.start()
        if self._tracer is not None:
            self._tracer.start()
        await asyncio.to_thread(self._models.start, self._first_models)
        await asyncio.to_thread(preload, self._manager, self._config.preload_models)
        self._config_poll.start()
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
        self._changed()

    async def stop(self) -> None:
        """Drains the server: health is NOT_SERVING, calls in flight are answered, then everything is freed."""
        self._health.draining()
        self._reflection.draining()
        self._manager.let_go()
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
            record=self._request_logger.record_made,
            is_ready=lambda: self._health.is_serving,
        )
        page = PageApi(PageState(self._shown())) if config.enable_page else None
        beside = Beside(self._manager, page, self._tracer, self._gate)
        return RestTransport(
            config, prediction, self._model_service, options, self._open_inference, self._transport, beside
        )

    def _shown(self) -> "Shown":
        from headrace_server.services.page.state import Shown

        return Shown(
            self._config,
            self._transport_name,
            self._metrics,
            self._manager,
            batching_of(self._config).num_batch_threads,
            grpc_port=lambda: self._port,
            held=lambda: held_memory(self._transport),
            more={"drift": self._drift.summary},
        )

    def _make_loader(self, options: Options, code: CodeTrust) -> Loader:
        config = self._config
        members = Members(
            find=lambda name, version: self._manager.servable(name, version),
            lease=lambda name, version, deadline: self._manager.lease(name, version, deadline),
            wake=lambda name, version: self._manager.begin_load(name, version),
            base_path=lambda name: None if (model := self._models.models.served(name)) is None else model.base_path,
            is_awaited=self._is_awaited,
        )
        return Loader(
            BackendOptions.of(config),
            self._threads,
            options if config.enable_batching else None,
            self._metrics,
            members,
            isolation=config.isolation,
            per_model_batching=config.enable_per_model_batching_parameters,
            code=code,
            pad_unproved=config.pad_unproved,
            marks_use=bool(Bounds.of(config)),
            linked=self._transport_name == "native",
        )

    def _make_manager(self, loader: Loader, code: CodeTrust) -> Manager:
        """Creates the manager, whose versions are verified and unsealed, then loaded, watched, and warmed up."""
        config = self._config
        warmup = Warmup(WarmupOptions.of(config), partial(warmup_answers, self._make_prediction), self._metrics)
        load = warmup.after(self._drift.after(loader.load))
        opener = make_opener(config.signing, os.environ.get(MODEL_KEYS_VARIABLE, ""), (MODEL_FILE,))
        if opener is not None:
            load = opened_before(load, opener, code)
        return Manager(
            load,
            ManagerOptions.of(config),
            publish=self._publishing.publish,
            changed=self._changed,
            labelled=self._labelled,
            tallies=Tallies(self._metrics.load_waited, self._metrics.evicted),
            prepare=loader.prepare if opener is None else None,
        )

    def _make_configuration(self, code: CodeTrust) -> Configuration:
        return Configuration(
            self._manager,
            self._source,
            self._request_logger.prepare,
            configured=self._configured,
            labels_to_unavailable=self._config.allow_version_labels_for_unavailable_models,
            rights=ReloadRights.of(self._config),
            code=code,
            mirrors=self._mirrors,
        )

    def _make_prediction(self, servables: Servables) -> PredictionService:
        return PredictionService(
            servables,
            as_content=self._config.enable_serialization_as_tensor_content,
            check_method=self._config.enable_signature_method_name_check,
            max_answer_bytes=max_send_bytes(self._config.grpc_channel_arguments),
        )

    def _make_own_metrics(self, options: Options) -> Iterator[Metric]:
        """The metrics of the page with headrace's own names."""
        yield from own_metrics(self._metrics, options.num_batch_threads)
        yield build_info(self._transport_name)
        yield model_states(self._manager)
        yield from self._drift.metrics(lambda: [own.labels for own in self._metrics.every_servable()])
        if isinstance(self._transport, BoundsMemory):
            yield from memory_metrics(self._transport)
        if self._manager.rooms is not None:
            yield from room_metrics(self._manager, self._manager.rooms, self._metrics)

    def _make_open_inference(self, loader: Loader) -> OpenInference:
        rights = Rights.named(self._config.open_inference_admin)
        return OpenInference(
            Models(self._manager, self._models.models.policy_of, lambda: self._health.is_serving),
            ModelRepository(self._manager, self._models, loader.override_batching, rights),
            Regions(),
            LogSettings(),
            TraceSettings(),
            rights,
        )

    def _configured(self, models: Collection[str]) -> None:
        self._metrics.configure(models)
        self._mirrors.keep(models)

    def _answers(self, name: str) -> bool | None:
        """Whether a model's default version answers requests; None for a model that is not configured."""
        versions = self._publishing.serving.get(name)
        if not versions:
            return None if self._models.models.served(name) is None else name in self._publishing.latest
        return not versions[max(versions)].hangs

    def _is_awaited(self, name: str) -> bool:
        """Whether a model may have a version soon: it is configured, and no version of it has failed yet."""
        statuses = self._manager.statuses(name)
        under_way = any(status.state in (State.START, State.LOADING) for status in statuses)
        return under_way or (not statuses and self._models.models.served(name) is not None)

    def _changed(self) -> None:
        self._transport.forget_answers()

    def _labelled(self, labels: Labels) -> None:
        self._transport.assign_labels(labels)

    def _tell_transport(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        self._transport.publish(name, versions, latest)

    def _is_plain(self, name: str) -> bool:
        """Whether the transport may answer calls of a model itself, since nothing else has to see them."""
        return may_be_plain(
            name,
            checks_methods=self._config.enable_signature_method_name_check,
            logs=lambda model: self._config.access_log or self._request_logger.logs(model),
        )

    def _free_unused(self) -> None:
        for versions in list(self.serving.values()):
            for servable in list(versions.values()):
                servable.free_unused()

    def _free(self) -> None:
        if self._gate is not None:
            self._gate.stop()
        self._config_poll.stop()
        if self._tracer is not None:
            self._tracer.stop()
        self._model_service.close()
        self._mirrors.stop()
        self._source.stop()
        self._manager.stop()
        self._threads.close()
        self._records.stop()
        self._open_inference.close()
        self._metrics.close()
