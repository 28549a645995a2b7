"""The configured models, and how one configuration replaces another."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock

from headrace_protos import Code, ModelServerConfig
from headrace_protos import ModelConfig as ModelConfigMessage
from headrace_server.config.model_config import ModelConfig, VersionPolicy
from headrace_server.config.model_list import check_models, platform_of, policy_of
from headrace_server.config.paths import as_path
from headrace_server.config.platform import PLATFORM
from headrace_server.errors import ServingError, invalid, status_of
from headrace_server.models.manager import Manager
from headrace_server.models.overlay import Overlay
from headrace_server.models.rights import CodeTrust, ReloadRights
from headrace_server.models.source import Source
from headrace_server.models.version_policy import State, chosen
from headrace_server.models.versions import VersionStatus
from headrace_server.stores.mirrors import Mirrors
from headrace_server.stores.uris import is_remote

log = logging.getLogger(__name__)

PrepareLogging = Callable[[Iterable[ModelConfigMessage]], Callable[[], None]]


@dataclass(frozen=True, slots=True)
class _Chosen:
    """Chooses the versions that a policy wants; two choices with the same policy are equal."""

    policy: VersionPolicy

    def __call__(self, versions: Collection[int]) -> list[int]:
        return chosen(versions, self.policy)


class Configuration:
    """Applies configurations one after the other, as in TF Serving's ServerCore::ReloadConfig.

    Args:
        manager: Loads what the source finds, and keeps the labels.
        source: Watches the models.
        prepare_logging: Checks the logging configuration of each model, and returns a function that puts it into
            effect.
        configured: Called with the names of the models whenever a configuration has been accepted.
        labels_to_unavailable: As in `Manager.assign_labels`.
        rights: The rights of callers to configure models.
        code: Trusts the base paths that the operator has named.
        mirrors: The mirrors that fetch models from stores; None if there are no stores.

    Attributes:
        models: The models to serve.
    """

    def __init__(
        self,
        manager: Manager,
        source: Source,
        prepare_logging: PrepareLogging,
        *,
        configured: Callable[[Collection[str]], None] = lambda _: None,
        labels_to_unavailable: bool = False,
        rights: ReloadRights | None = None,
        code: CodeTrust | None = None,
        mirrors: Mirrors | None = None,
    ) -> None:
        self._manager = manager
        self._source = source
        self._prepare_logging = prepare_logging
        self._configured = configured
        self._labels_to_unavailable = labels_to_unavailable
        self._rights = rights or ReloadRights()
        self._code = code or CodeTrust()
        self._mirrors = mirrors
        self._operators = ModelServerConfig()
        self._lock = Lock()
        self._counting = Lock()
        self._waiting = 0
        self._current = ModelServerConfig()
        self.models = Overlay()

    def start(self, config: ModelServerConfig) -> None:
        """Applies the first configuration and waits, without limit, for its models.

        Raises:
            ServingError: As for `apply`.
        """
        with self._lock:
            self._trust(config)
            models = self._accept(config)
            self._source.update(self.models.wanted())
            self._source.start()
            self._wait({model.name for model in models}, 0, "servable(s)", lambda: False)
            self._manager.initial_load_done()

    def apply(self, config: ModelServerConfig) -> None:
        """Replaces the models and their labels as a whole, and waits for the models whose names are new. Any thread.

        Labels come first, so that a label on an unavailable version refuses the whole configuration. Models that are no
        longer listed are unloaded, but this does not wait until that is done. A model that has no version is waited for
        only until another configuration comes; otherwise a misspelt base path could never be corrected (TF Serving
        waits forever).

        Raises:
            ServingError: INVALID_ARGUMENT or FAILED_PRECONDITION if the configuration is refused and the old one stays;
                UNKNOWN if a new model has no version that loads, although the configuration stays in effect.
        """
        self.announce(config)()

    def announce(self, config: ModelServerConfig) -> Callable[[], None]:
        """Returns a function that applies a caller's configuration, which counts as waiting until then.

        Raises:
            ServingError: PERMISSION_DENIED, as for `ReloadRights.check`.
        """
        self._rights.check(config, self._operators)
        return self._announce(config, lambda: self._waiting > 0)

    def apply_at_once(self, config: ModelServerConfig) -> None:
        """Applies the operator's configuration; a model that has no version is not waited for.

        Raises:
            ServingError: As for `apply`.
        """
        self._trust(config)
        self._announce(config, lambda: True)()

    def awaited(self) -> list[ModelConfig]:
        """The configured models for which no version was ever found."""
        return [model for model in self.models.wanted() if not self._manager.statuses(model.name)]

    def serve(self, model: ModelConfig, *, anew: bool = False) -> VersionStatus | None:
        """Serves one model as given, until it is withdrawn or another configuration comes. Any thread.

        The model is loaded even if models are otherwise loaded when they are called, and versions that have failed to
        load are tried again.

        Args:
            model: The model, whether or not it is listed.
            anew: Whether to unload the model's versions first.

        Returns:
            Its highest version that is available or has failed; None if none was found.

        Raises:
            ServingError: UNAVAILABLE if the server is about to stop.
        """
        with self._lock:
            if anew:
                self._remove(model.name, ended=True)
            since = self._manager.mark()
            self.models.ask(model.name, model)
            self._source.update(self.models.wanted())
            self._source.poll([model.name])
            self._manager.retry(model.name)
            status = self._manager.wait_settled([model.name], since, lambda: True)[model.name]
            awaited = self._manager.begin_load(model.name)
            return status if awaited is None else awaited.result()

    def withdraw(self, name: str) -> None:
        """Stops serving a model until it is served again or another configuration lists it. Any thread.

        Returns once no call can find the model; calls that have found it are still answered.

        Raises:
            ServingError: UNAVAILABLE if the server is about to stop.
        """
        with self._lock:
            self._remove(name, ended=False)

    def _trust(self, config: ModelServerConfig) -> None:
        """Records what the operator has configured, whether or not it can be applied."""
        self._operators = config
        self._code.trust(map(self._base_path, config.model_config_list.config))

    def _remove(self, name: str, *, ended: bool) -> None:
        self.models.ask(name, None)
        self._source.update(self.models.wanted())
        self._manager.wait_withdrawn(name, ended=ended)

    def _announce(self, config: ModelServerConfig, impatient: Callable[[], bool]) -> Callable[[], None]:
        with self._counting:
            self._waiting += 1
        self._manager.wake()
        return partial(self._apply, config, impatient)

    def _apply(self, config: ModelServerConfig, impatient: Callable[[], bool]) -> None:
        with self._lock:
            with self._counting:
                self._waiting -= 1
            models = self._accept(config)
            since = self._manager.mark()
            added = {model.name for model in models} - self._source.names
            self._source.update(self.models.wanted())
            self._wait(added, since, "model(s)", lambda: impatient() and self._source.has_looked)

    def _accept(self, config: ModelServerConfig) -> list[ModelConfig]:
        """Checks a configuration in TF Serving's order, assigns its labels, and starts its request logs."""
        self._check_transition(config)
        listed = config.model_config_list.config
        check_models(listed)
        self._check_platforms(listed)
        models = [self._model(model) for model in listed]
        use_logging = self._prepare_logging(listed)
        self._watch_stores(models)
        # A file that is read again and again must not undo what callers have requested since.
        is_new = config != self._current
        self.models.list_all(models, anew=is_new)
        if is_new:
            _warn_of_nameless(models)
        before, self._current = self._current, config  # even if its labels are refused, as in TF Serving
        labels = _labels(config)
        self._manager.assign_labels(labels, to_unavailable=self._labels_to_unavailable)
        _log_labels(_labels(before), labels)
        use_logging()
        self._configured({model.name for model in models})
        return models

    def _model(self, message: ModelConfigMessage) -> ModelConfig:
        platform = platform_of(message)
        if platform != PLATFORM:
            raise invalid(f"Model {message.name} requests unsupported platform {platform}")
        policy, path = policy_of(message.model_version_policy), self._base_path(message)
        uri = message.base_path if self._mirrors is not None and is_remote(message.base_path) else ""
        return ModelConfig(message.name, path, policy, uri)

    def _watch_stores(self, models: Iterable[ModelConfig]) -> None:
        if self._mirrors is not None:
            for model in models:
                if model.uri:
                    self._mirrors.watch(model.name, model.uri, _Chosen(model.policy))

    def _base_path(self, message: ModelConfigMessage) -> Path:
        """The folder of a model's versions on this machine."""
        if self._mirrors is not None and is_remote(message.base_path):
            return self._mirrors.path(message.name, message.base_path)
        return as_path(message.base_path.removeprefix("file://"))

    def _check_transition(self, config: ModelServerConfig) -> None:
        kind = config.WhichOneof("config")
        if self._current.WhichOneof("config") and kind != "model_config_list":
            raise ServingError(
                Code.FAILED_PRECONDITION,
                "Cannot transition to requested config. It is only legal to transition from one ModelConfigList to "
                "another.",
            )
        if kind == "custom_model_config":
            raise invalid("ModelServer does not yet support custom model config.")

    def _check_platforms(self, listed: Iterable[ModelConfigMessage]) -> None:
        before = {model.name: platform_of(model) for model in self._current.model_config_list.config}
        for model in listed:
            if model.name in before and (platform := platform_of(model)) != before[model.name]:
                raise invalid(
                    f"Illegal to change a model's platform. For model {model.name} platform was {before[model.name]} "
                    f"and new platform requested is {platform}"
                )

    def _wait(self, names: Collection[str], since: int, what: str, given_up: Callable[[], bool]) -> None:
        settled = self._manager.wait_settled(sorted(names), since, given_up)
        failed = {name: status for name, status in settled.items() if status is None or status.state is State.END}
        if failed:
            listed = "".join(_failure(name, status) for name, status in failed.items())
            raise ServingError(Code.UNKNOWN, f"{len(failed)} {what} did not become available: {{{listed}}}")


def _warn_of_nameless(models: Iterable[ModelConfig]) -> None:
    """Logs a model that no request can call: as in TF Serving, it is served, but every request must name its model."""
    for model in models:
        if not model.name:
            log.warning("no request can call the model at %s: its configuration gives it no name", model.base_path)


def _labels(config: ModelServerConfig) -> dict[str, dict[str, int]]:
    """The version that each label names, by model."""
    return {model.name: dict(model.version_labels) for model in config.model_config_list.config}


def _log_labels(before: Mapping[str, Mapping[str, int]], labels: Mapping[str, Mapping[str, int]]) -> None:
    """Logs the labels that have changed: nothing else in the log shows which version a label names."""
    for name, own in labels.items():
        if own != before.get(name, {}):
            log.info("labels of model %s: %s", name, ", ".join(f"{key} {own[key]}" for key in sorted(own)) or "none")


def _failure(name: str, status: VersionStatus | None) -> str:
    if status is None:
        return f"{{{{name: {name}}} due to error: no version of it was found}}, "
    assert status.error is not None
    code, text = status_of(status.error)
    return f"{{{{name: {name} version: {status.version}}} due to error: {Code.Name(code)}: {text}}}, "
