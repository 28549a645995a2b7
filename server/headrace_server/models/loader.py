"""Creates a servable from a version's folder, with the options of its model."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from headrace_batching import BatchThreads, Options, OptionsError
from headrace_server.backends import auto as backends
from headrace_server.backends.base import Backend, BackendOptions
from headrace_server.backends.signature import Signature
from headrace_server.config.files import read_batching_parameters
from headrace_server.config.isolation import IsolationOptions
from headrace_server.config.memory import available_memory
from headrace_server.config.model_toml import MODEL_FILE, NO_OPTIONS, ModelOptions, read_model_options
from headrace_server.errors import ServingError, invalid
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.containment import RUN_SECONDS, TRIAL_MEMORY, must_be_contained, risks_of
from headrace_server.models.ensemble import Members, make_ensemble
from headrace_server.models.rights import CodeTrust
from headrace_server.models.rows import BatchSettings, Loaded, decide
from headrace_server.models.sequences import Sequences
from headrace_server.models.servable import Servable
from headrace_server.processes.isolated import IsolatedBackend, Isolation
from headrace_server.processes.job import Job

log = logging.getLogger(__name__)

LoadVersion = Callable[[str, int, Path], Servable]
"""Makes a servable from a model's name, a version and its folder."""

NONE_SAID = IsolationOptions()

HEADROOM_PART = 4
"""Each model that must run in a worker process may use the container's memory divided by this."""

BATCHING_FILE = "batching_params.pbtxt"


class Asked(NamedTuple):
    """The version to load."""

    name: str
    version: int
    path: Path


class Loader:
    """Loads versions for the manager.

    Args:
        backend: Options of the runtime for every model that has none of its own.
        threads: The threads that run batches.
        batching: Batching parameters for every model; None means no batching.
        metrics: Counts what the servables do.
        members: The access of ensembles to other models.
        isolation: Options of worker processes for every model that has none of its own.
        per_model_batching: Whether a version's own `batching_params.pbtxt` takes precedence over `batching`, and a
            version without one is not batched (TF Serving's `--enable_per_model_batching_parameters`).
        code: Decides which versions may hold a `model.py`.
        pad_unproved: Whether `pad_variable_length_inputs` pads each input with its own first element if no padding is
            known that leaves answers unchanged; otherwise, it then does not pad.
        marks_use: Whether servables record when they were last used.
        linked: Whether runs in worker processes may use headrace-native.
    """

    def __init__(
        self,
        backend: BackendOptions,
        threads: BatchThreads,
        batching: Options | None,
        metrics: Metrics,
        members: Members | None = None,
        *,
        isolation: IsolationOptions = NONE_SAID,
        per_model_batching: bool,
        code: CodeTrust | None = None,
        pad_unproved: bool = False,
        marks_use: bool = False,
        linked: bool = False,
    ) -> None:
        self._backend = replace(backend, batching=batching)
        self._threads = threads
        self._batching = batching
        self._metrics = metrics
        self._members = members
        self._isolation = isolation
        self._per_model_batching = per_model_batching
        self._code = code or CodeTrust()
        self._pad_unproved = pad_unproved
        self._marks_use = marks_use
        self._linked = linked
        self._overrides: dict[str, Mapping[str, Any]] = {}
        self._prepared: object = None

    def override_batching(self, name: str, parameters: Mapping[str, Any]) -> None:
        """Uses other batching parameters for versions of a model that are loaded from now on. Any thread.

        Args:
            name: The model's name.
            parameters: Fields of `Options`; an empty mapping restores what the operator has set.
        """
        self._overrides[name] = parameters

    def prepare(self, versions: Sequence[Asked]) -> None:
        """Begins the part of these loads that can be done in advance; drops earlier preparations."""
        self._prepared = None
        if versions and not self._isolation.workers_for(python=False):
            usual = (asked.path for asked in versions if _has_no_options(_base_path(asked.path)))
            self._prepared = backends.prepare(usual, self._backend)

    def load(self, name: str, version: int, path: Path) -> Servable:
        """Loads a version.

        Raises:
            ServingError: The version cannot be loaded; the text names the file. `ensemble.Unready` if other
                models must be loaded first.
        """
        model = read_model_options(_base_path(path))
        self._code.check(path, libraries=bool(model.onnxruntime.get("custom_op_libraries")))
        if model.steps and self._members is not None:
            ensemble = make_ensemble(path.parent, model.steps, self._members)
            return Servable(name, version, ensemble, self._threads, ensemble.batching, metrics=self._metrics)
        batching = self._batching_of(name, path, model)
        began = time.perf_counter()
        backend = self._load_backend(Asked(name, version, path), model, self._backend_options(model, batching))
        try:
            settings = BatchSettings(batching is not None, model.batched, model.any_first_dimension, model.padding)
            _check_pad_values(backend, model, path)
            seconds = time.perf_counter() - began
            verdicts = decide(Loaded(f"model {name} version {version}", path, backend, seconds, settings))
            return Servable(
                name,
                version,
                backend,
                self._threads,
                batching,
                verdicts=verdicts,
                metrics=self._metrics,
                keep_state=partial(_keep_state, name, path, model) if model.state else None,
                run_timeout=self._own_timeout(backend, model),
                marks_use=self._marks_use,
            )
        except BaseException:
            backend.close()
            raise

    def _own_timeout(self, backend: Backend, model: ModelOptions) -> float:
        """The limit on runs that no worker process supervises."""
        own = self._isolation_of(model)
        return 0.0 if isinstance(backend, IsolatedBackend) else own.run_timeout

    def _isolation_of(self, model: ModelOptions) -> IsolationOptions:
        return replace(self._isolation, **model.isolation) if model.isolation else self._isolation

    def _load_backend(self, asked: Asked, model: ModelOptions, options: BackendOptions) -> Backend:
        own = self._isolation_of(model)
        workers = own.workers_for(python=backends.is_python(asked.path))
        name = f"model {asked.name} version {asked.version}"
        if not workers:
            backend = backends.load(asked.path, options)
            if own.workers is not None or risks_of(backend) is None:
                return backend
            backend.close()  # so that the model is not in memory twice
            job = Job(asked.path, options, headroom=TRIAL_MEMORY)
            trial = partial(IsolatedBackend, job, Isolation(name=f"a trial of {name}", run_timeout=RUN_SECONDS))
            if not must_be_contained(name, backend, trial):
                return backends.load(asked.path, options)
        headroom = 0 if workers else available_memory() // HEADROOM_PART
        isolation = Isolation(
            name=name,
            workers=max(1, workers),
            run_timeout=own.run_timeout,
            restarted=self._metrics.worker_restarts.of(asked.name, str(asked.version)).add,
        )
        job = Job(asked.path, options, own.memory_limit_mb << 20, headroom, linked=self._linked)
        return IsolatedBackend(job, isolation)

    def _backend_options(self, model: ModelOptions, batching: Options | None) -> BackendOptions:
        if model is NO_OPTIONS and batching is self._batching:
            return self._backend
        return replace(
            self._backend,
            **model.backend,
            onnxruntime=replace(self._backend.onnxruntime, **model.onnxruntime),
            tensorrt=replace(self._backend.tensorrt, **model.tensorrt),
            signatures=model.signatures,
            batching=batching,
        )

    def _batching_of(self, name: str, path: Path, model: ModelOptions) -> Options | None:
        batching = self._batching
        if batching is not None and self._per_model_batching:
            batching = _read_batching(path / BATCHING_FILE, batching)
        try:
            batching = model.batching_over(batching)
            overrides = self._overrides.get(name, {})
            batching = replace(batching, **overrides) if batching is not None and overrides else batching
        except OptionsError as error:
            raise invalid(f"{path.parent / MODEL_FILE}: batching: {error}") from error
        if batching is None or not batching.pad_variable_length_inputs or self._pad_unproved:
            return batching
        log.warning("model %s: pad_variable_length_inputs pads only if answers stay the same", name)
        return replace(batching, pad_variable_length_inputs=False)


def _base_path(version: Path) -> str:
    """The folder above a version's; `Path.parent` takes twice as long, which shows with thousands of models."""
    return os.path.dirname(version)


def _has_no_options(base_path: str) -> bool:
    try:
        return read_model_options(base_path) is NO_OPTIONS
    except ServingError:  # the load of the model reports the error
        return False


def _check_pad_values(backend: Backend, model: ModelOptions, path: Path) -> None:
    if not model.padding.pad_values:
        return
    file = path.parent / MODEL_FILE
    aliases = {alias for signature in backend.signatures.values() for alias in signature.inputs}
    for alias in model.padding.pad_values:
        if alias not in aliases:
            raise invalid(f"{file}: batching.pad_values.{alias}: the model has no such input; it has {sorted(aliases)}")


def _keep_state(name: str, path: Path, model: ModelOptions, signature: Signature) -> Sequences:
    try:
        return Sequences(name, signature, model.state, model.sequences, time.monotonic)
    except ServingError as error:
        raise invalid(f"{path.parent / MODEL_FILE}: {error.message}") from error


def _read_batching(file: Path, shared: Options) -> Options | None:
    """The parameters in a version's folder; the threads and the objective are the same for all models."""
    if not file.exists():
        return None
    own = read_batching_parameters(str(file), threads=shared.num_batch_threads)
    return replace(own, latency_objective=shared.latency_objective)
