"""The models of one run, from the search for their files to the moment when calls can find them."""

import os
from collections.abc import Callable, Collection, Mapping
from functools import partial
from pathlib import Path

from headrace_batching import BatchThreads
from headrace_batching.contract import TaskQueue
from headrace_protos import ModelServerConfig
from headrace_server.backends.base import BackendOptions
from headrace_server.config.files import batching_of
from headrace_server.config.model_toml import MODEL_FILE
from headrace_server.config.run import Config
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.config_poll import ConfigPoll
from headrace_server.models.configuration import Configuration
from headrace_server.models.ensemble import Members
from headrace_server.models.loader import Loader
from headrace_server.models.manager import Labels, Manager, Tallies
from headrace_server.models.manager_options import ManagerOptions
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
from headrace_server.security.models.names import MODEL_KEYS_VARIABLE
from headrace_server.security.options import make_opener
from headrace_server.services.servables import Servables
from headrace_server.services.tf_serving.prediction import PredictionService
from headrace_server.services.tf_serving.replay import warmup_answers
from headrace_server.services.tf_serving.request_log.files import RecordWriter
from headrace_server.services.tf_serving.request_log.logger import RequestLogger
from headrace_server.stores.mirrors import Mirrors, StoreCounts
from headrace_server.transports.grpc.endpoint import Transport


class ServedModels:
    """Finds, loads, publishes and frees the models. Does nothing until `start`.

    Args:
        config: The configuration of the run.
        metrics: Counts what the models do.
        queue: Holds the tasks that wait for the models' batch threads.
        make_prediction: Creates the service with which versions are warmed up.
        transport: Returns the transport of gRPC calls, which is told which versions are served. Called after the start.
        linked: Whether headrace_native runs batches in worker processes.

    Attributes:
        manager: Loads and unloads versions.
        configuration: The configured models.
        loader: Loads one version.
        mirrors: The remote stores.
        request_logger: Logs requests to models whose configuration says so.
        drift: Compares the inputs and outputs of models with earlier ones.
    """

    def __init__(
        self,
        config: Config,
        metrics: Metrics,
        queue: TaskQueue,
        make_prediction: Callable[[Servables], PredictionService],
        transport: Callable[[], Transport],
        *,
        linked: bool,
    ) -> None:
        self._config = config
        self._metrics = metrics
        self._transport = transport
        self.drift = Drift(config.drift_ratio)
        self._publishing = Publishing(self._publish, self._is_plain)
        code = CodeTrust.of(config)
        # One more thread than any model may use, so that a model that hangs leaves one for the others. Models in worker
        # processes have threads of their own.
        self._threads = BatchThreads(batching_of(config).num_batch_threads + 1, queue)
        self.loader = self._make_loader(code, linked=linked)
        self.manager = manager = self._make_manager(code, make_prediction)
        counts = StoreCounts(metrics.fetched, metrics.store_failed)
        self.mirrors = Mirrors(config.stores, lambda: self._source.look_again(), counts)
        self._source = Source(config.file_system_poll_wait_seconds, manager.aspire, manager.looked, manager.together)
        self._records = RecordWriter(metrics)
        self.request_logger = RequestLogger(
            self._records, config.saved_model_tags.split(","), changed=self._publishing.again
        )
        self.configuration = self._make_configuration(code)
        self._config_poll = ConfigPoll(
            config.model_config_file,
            config.model_config_file_poll_wait_seconds,
            self.configuration.apply_at_once,
        )

    @property
    def batches_at_once(self) -> int:
        """The maximum number of batches that run at the same time."""
        return self._threads.count - 1

    @property
    def serving(self) -> Mapping[str, Mapping[int, Servable]]:
        """The versions that are being served, by model and by number."""
        return self._publishing.serving

    def start(self) -> None:
        """Starts the threads that load and run models."""
        self._threads.start()
        self.manager.start()

    def load(self, models: ModelServerConfig) -> None:
        """Loads the first models, and watches the configuration file from then on.

        Raises:
            ServingError: A model has no version that loads.
        """
        self.configuration.start(models)
        preload(self.manager, self._config.preload_models)
        self._config_poll.start()

    def answers(self, name: str) -> bool | None:
        """Whether a model's default version answers requests; None for a model that is not configured."""
        versions = self.serving.get(name)
        if not versions:
            return None if self.configuration.models.served(name) is None else name in self._publishing.latest
        return not versions[max(versions)].hangs

    def changed(self) -> None:
        """Has the transport forget its kept answers, because they may be different now."""
        self._transport().forget_answers()

    def free_unused(self) -> None:
        """Frees memory that models keep for later runs. Any thread."""
        for versions in list(self.serving.values()):
            for servable in list(versions.values()):
                servable.free_unused()

    def stop_reading(self) -> None:
        """Stops checking the configuration file for changes."""
        self._config_poll.stop()

    def stop(self) -> None:
        """Unloads all models, and waits until their files and logs are closed."""
        self.mirrors.stop()
        self._source.stop()
        self.manager.stop()
        self._threads.close()
        self._records.stop()

    def _make_loader(self, code: CodeTrust, *, linked: bool) -> Loader:
        config = self._config
        members = Members(
            find=lambda name, version: self.manager.servable(name, version),
            lease=lambda name, version, deadline: self.manager.lease(name, version, deadline),
            wake=lambda name, version: self.manager.begin_load(name, version),
            base_path=self._base_path,
            is_awaited=self._is_awaited,
        )
        return Loader(
            BackendOptions.of(config),
            self._threads,
            batching_of(config) if config.enable_batching else None,
            self._metrics,
            members,
            isolation=config.isolation,
            per_model_batching=config.enable_per_model_batching_parameters,
            code=code,
            pad_unproved=config.pad_unproved,
            marks_use=bool(Bounds.of(config)),
            linked=linked,
        )

    def _make_manager(self, code: CodeTrust, make_prediction: Callable[[Servables], PredictionService]) -> Manager:
        """Creates the manager, whose versions are verified and unsealed, then loaded, watched, and warmed up."""
        config = self._config
        warmup = Warmup(WarmupOptions.of(config), partial(warmup_answers, make_prediction), self._metrics)
        load = warmup.after(self.drift.after(self.loader.load))
        opener = make_opener(config.signing, os.environ.get(MODEL_KEYS_VARIABLE, ""), (MODEL_FILE,))
        if opener is not None:
            load = opened_before(load, opener, code)
        return Manager(
            load,
            ManagerOptions.of(config),
            publish=self._publishing.publish,
            changed=self.changed,
            labelled=self._labelled,
            tallies=Tallies(self._metrics.load_waited, self._metrics.evicted),
            prepare=self.loader.prepare if opener is None else None,
        )

    def _make_configuration(self, code: CodeTrust) -> Configuration:
        return Configuration(
            self.manager,
            self._source,
            self.request_logger.prepare,
            configured=self._configured,
            labels_to_unavailable=self._config.allow_version_labels_for_unavailable_models,
            rights=ReloadRights.of(self._config),
            code=code,
            mirrors=self.mirrors,
        )

    def _configured(self, models: Collection[str]) -> None:
        self._metrics.configure(models)
        self.mirrors.keep(models)

    def _labelled(self, labels: Labels) -> None:
        self._transport().assign_labels(labels)

    def _publish(self, name: str, versions: Mapping[int, Servable], latest: int) -> None:
        self._transport().publish(name, versions, latest)

    def _is_awaited(self, name: str) -> bool:
        """Whether a model may have a version soon: it is configured, and no version of it has failed yet."""
        statuses = self.manager.statuses(name)
        under_way = any(status.state in (State.START, State.LOADING) for status in statuses)
        return under_way or (not statuses and self.configuration.models.served(name) is not None)

    def _is_plain(self, name: str) -> bool:
        """Whether the transport may answer a model's calls itself: no log records them, and methods are not checked."""
        return may_be_plain(
            name,
            checks_methods=self._config.enable_signature_method_name_check,
            logs=lambda model: self._config.access_log or self.request_logger.logs(model),
        )

    def _base_path(self, name: str) -> Path | None:
        """The configured base path of a model; None for a model that is not configured."""
        model = self.configuration.models.served(name)
        return None if model is None else model.base_path
