"""ONNX models on ONNX Runtime."""

import logging
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from threading import get_ident
from typing import Any

import numpy as np
import onnxruntime as ort

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_of
from headrace_server.backends.base import NO_RISKS, BackendOptions, Risks
from headrace_server.backends.gpu.cuda import Device
from headrace_server.backends.independence import Evidence
from headrace_server.backends.onnx.arena import LARGE_OUTPUT, arena_of
from headrace_server.backends.onnx.graph import Graph
from headrace_server.backends.onnx.layouts import Layout
from headrace_server.backends.onnx.model_files import ModelFiles
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.native_session import NativeSession, Session, run_options
from headrace_server.backends.onnx.on_gpu import OnGpu, device_for, free_memory
from headrace_server.backends.onnx.patience import Patience
from headrace_server.backends.onnx.prepared import Opened, Prepared
from headrace_server.backends.onnx.provider_options import Providers, for_one_shape, provider_options
from headrace_server.backends.onnx.providers import (
    CUDA,
    FATAL,
    GPU_LIBRARIES,
    be_quiet,
    choose,
    lacks_memory,
    open_session,
    says_no_memory,
    why_not,
)
from headrace_server.backends.onnx.signatures import Found, find_signatures, output_shapes
from headrace_server.backends.onnx.threads import SMALL, Pool, Pools
from headrace_server.backends.onnx.values import as_text, run_ort_values
from headrace_server.backends.signature import Signature
from headrace_server.errors import LoadError, ServingError, invalid

log = logging.getLogger(__name__)

SPIN_MICROSECONDS = 1000
"""How long a session's threads spin for work. Older versions of ONNX Runtime ignore it and spin longer."""

# ONNX Runtime's codes (OrtErrorCode) that have a canonical code; any other is INTERNAL.
_CODES: dict[str, Code] = {
    "INVALID_ARGUMENT": Code.INVALID_ARGUMENT,
    "INVALID_PROTOBUF": Code.INVALID_ARGUMENT,
    "INVALID_GRAPH": Code.INVALID_ARGUMENT,
    "NO_SUCHFILE": Code.NOT_FOUND,
    "NO_MODEL": Code.NOT_FOUND,
    "NOT_IMPLEMENTED": Code.UNIMPLEMENTED,
}


def load_onnx(model: Path, options: BackendOptions) -> "OnnxBackend":
    """Loads an ONNX file, with its external data if it has any.

    Raises:
        LoadError: ONNX Runtime refuses the file, or a provider is missing; the text names the file.
    """
    providers: Providers = ()
    try:
        opened = options.shared.get(Prepared, Prepared).take(model, options)
        providers = _providers(model, options) if opened is None else opened.providers
        device = device_for(providers, options.onnxruntime.device_id)
        try:
            backend = _load(model, options, providers, device, opened)
        finally:
            if device is not None:
                device.release()  # the backend has retained it for itself
    except ServingError as error:
        named = error.message.startswith(f"{model}: ")
        raise LoadError(error.code, error.message if named else f"{model}: {error.message}") from error
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        raise LoadError(_load_code(error, providers, options), f"{model} cannot be loaded: {error}") from error
    return backend


def _load(
    model: Path, options: BackendOptions, providers: Providers, device: Device | None, opened: Opened | None
) -> "OnnxBackend":
    free_before = 0 if device is None else free_memory(device)
    if opened is None:
        opened = _open(ModelFiles.of(model, options.shared), providers, options)
    files, session, needs = opened.files, opened.session, opened.needs
    graph, layout = files.graph(_runtime_version())
    files.check_whole()
    found = _found(session, options, graph, layout)
    signatures = found.by_name
    evidence = () if graph is None else graph.evidence
    # Shared with models of the same structure as long as one of them lives.
    needs = (*needs, graph, found, files.layouts, layout)
    if providers[0][0] not in GPU_LIBRARIES:
        steady = graph is not None and graph.steady
        risks = NO_RISKS if graph is None else graph.risks
        apart = frozenset[str]() if graph is None else graph.rows_apart
        return OnnxBackend(session, signatures, needs=needs, steady=steady, evidence=evidence, risks=risks, apart=apart)
    at_once = options.onnxruntime.gpu_instances
    if device is None or _has(DataType.DT_STRING, signatures):
        return OnnxBackend(session, signatures, at_once=at_once, evidence=evidence)
    on_gpu = OnGpu(session, device, free_before, at_once)
    if options.batching is not None and providers[0][0] == CUDA:
        again = partial(_session_again, files, for_one_shape(providers), options)
        on_gpu.open_sizes(model, signatures, options.batching, again)
    return OnnxBackend(session, signatures, on_gpu, at_once=at_once, evidence=evidence)


def _found(session: Session, options: BackendOptions, graph: Graph | None, layout: Layout | None) -> Found:
    """The signatures of a model; those of an earlier model with the same layout, if there is one."""
    on_cpu = session.get_providers() == [CPU]
    is_usual = on_cpu and not options.signatures
    known = layout.found if layout is not None and is_usual else None
    # The data of a weight may decide a shape: for example, how many columns a Slice leaves.
    if known is not None and known.output_shapes == output_shapes(session):
        return known
    any_rank = None if graph is None else graph.any_rank
    found = find_signatures(session, options, any_rank, empty=graph is not None and graph.runs_on_empty and on_cpu)
    if layout is not None and is_usual and found.is_shared:
        layout.found = found
    return found


def prepare_onnx(models: Iterable[Path], options: BackendOptions) -> object:
    """Begins to open the sessions of small CPU models that will be loaded next.

    Nothing is prepared where a model might run on a GPU, or without headrace_native.

    Returns: An object that must be kept until the models have been loaded.
    """
    prepared = options.shared.get(Prepared, Prepared)
    if find_spec("headrace_native") is not None and not GPU_LIBRARIES.keys() & set(ort.get_available_providers()):
        # A provider is missing, or headrace-native cannot be used: each load notices that, too.
        with suppress(ServingError, ImportError, RuntimeError):
            providers = _providers(Path(), options)  # without a GPU, they are the same for all models
            if [name for name, _ in providers] == [CPU]:
                session_options = _session_options(options, options.intra_op_threads or 1)
                be_quiet(session_options)
                prepared.prepare(models, options, providers, session_options, partial(_read_small, options=options))
    return prepared


def _read_small(model: Path, options: BackendOptions) -> ModelFiles | None:
    """A model's files, if it is a small one without external data, which each session must be given."""
    status = model.stat()
    if not stat.S_ISREG(status.st_mode) or status.st_size >= SMALL:  # opening a pipe would wait for a writer
        return None
    files = ModelFiles.of(model, options.shared)
    return files if files.external is None else None


def _open(files: ModelFiles, providers: Providers, options: BackendOptions) -> Opened:
    return Opened(files, providers, *_session(files, providers, options))


@cache
def _runtime_version() -> tuple[int, int]:
    major, minor, *_ = ort.__version__.split(".")
    return int(major), int(minor)


def _providers(model: Path, options: BackendOptions) -> Providers:
    """The providers for a model, each with its options; logs the choice if there was one."""
    onnxruntime, available = options.onnxruntime, ort.get_available_providers()
    choice = choose(
        onnxruntime.providers,
        available,
        partial(why_not, device=onnxruntime.device_id),
        keeps_engines=bool(onnxruntime.tensorrt_engine_cache),
    )
    if GPU_LIBRARIES.keys() & set(available):
        log.info("%s runs on %s", model, choice)
    return [(name, provider_options(name, model, options)) for name in choice.providers]


def _session(files: ModelFiles, providers: Providers, options: BackendOptions) -> tuple[Session, tuple[object, ...]]:
    """Creates a session on the first provider, and returns it with the objects that it needs.

    Raises:
        ServingError: ONNX Runtime silently skipped the provider.
    """
    pool = _pool(files, providers, options)
    session_options = _session_options(options, pool.threads)
    given = files.give(session_options, share=providers[0][0] not in GPU_LIBRARIES)
    session = open_session(files.source, session_options, providers)
    preferred = providers[0][0]
    if preferred not in session.get_providers():
        message = f"ONNX Runtime does not use {preferred}; it wrote the reason to stderr"
        raise ServingError(Code.FAILED_PRECONDITION, message)
    return session, (*given.shared, pool)


def _session_again(files: ModelFiles, providers: Providers, options: BackendOptions) -> Session:
    """Creates another session of a loaded model; raises an error if the weights have changed."""
    files.check_unchanged()
    return _session(files, providers, options)[0]


class OnnxBackend:
    """One ONNX model in one session, with the signatures that its graph serves.

    Args:
        session: The model.
        signatures: The signatures by name; each names tensors of the graph.
        on_gpu: The model's resources on a GPU, which the backend now owns; None if ONNX Runtime makes the copies.
        at_once: How many batches should run at the same time; None for as many as there are threads.
        steady: Whether a run's cost depends on the shapes of its inputs alone.
        needs: Objects that must live as long as the session.
        evidence: Reasons in the model's graph to doubt that rows are independent.
        risks: The model's operators with which a request can crash the process.
        apart: The values of the model's graph in which each row is known to depend only on the same row of the inputs.
    """

    runtime = "onnxruntime"

    def __init__(
        self,
        session: Session,
        signatures: Mapping[str, Signature],
        on_gpu: OnGpu | None = None,
        *,
        at_once: int | None = None,
        steady: bool = False,
        needs: Sequence[object] = (),
        evidence: Sequence[Evidence] = (),
        risks: Risks = NO_RISKS,
        apart: Collection[str] = (),
    ) -> None:
        self._apart = apart
        self.evidence = evidence
        self.risks = risks
        self.most_rows = None
        self.provider: str = session.get_providers()[0]
        self._session: Session | None = session
        self._signatures = signatures
        self._on_gpu = on_gpu
        self._at_once = at_once
        self._steady = steady
        self._patience = Patience()
        self._needs = needs
        self._renamed = {name for name, signature in signatures.items() if _is_renamed(signature)}
        self._running: dict[int, Any] | None = None  # the options of the current runs, by thread
        self._arena = arena_of(session)
        # Arrays of these two dtypes must be converted before `session.run` takes them.
        self._strings = _has(DataType.DT_STRING, signatures)
        self._bfloat16 = _has(DataType.DT_BFLOAT16, signatures)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """`serving_default`, and those that the metadata or `model.toml` define."""
        return self._signatures

    @property
    def steady(self) -> bool:
        """Whether the model runs only on the CPU, and a run's duration does not depend on the values of the inputs."""
        return self._steady and self.exact

    @property
    def exact(self) -> bool:
        """Whether the model runs only on the CPU."""
        return self._session is not None and self._session.get_providers() == [CPU]

    def rows_are_apart(self, signature: str) -> bool:
        """Whether the graph proves that the rows of each of the signature's outputs are independent."""
        return self.exact and all(spec.name in self._apart for spec in self._signatures[signature].outputs.values())

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Runs the session. The outputs are views of ONNX Runtime's memory, which is freed with the last view."""
        if self._running is None:
            return self._run_signature(signature, inputs, outputs)
        options = self._running[get_ident()] = self._run_options()
        try:
            return self._run_signature(signature, inputs, outputs, options)
        finally:
            del self._running[get_ident()]

    def expect_termination(self) -> None:
        """Keeps the options of each run, through which ONNX Runtime can be asked to end the run."""
        self._running = {}

    def _run_options(self) -> Any:
        return ort.RunOptions() if self._session is None else run_options(self._session)

    def terminate(self, thread: int) -> None:
        """Ends a thread's run before its next operator."""
        if self._running is not None and (options := self._running.get(thread)) is not None:
            options.terminate = True

    def try_run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Like `run`, but ONNX Runtime logs nothing, and a run is ended if its values make it very long."""
        quiet = self._run_options()
        quiet.log_severity_level = FATAL
        if self._steady:
            return self._run_signature(signature, inputs, outputs, quiet)
        with self._patience.ends(quiet):
            return self._run_signature(signature, inputs, outputs, quiet)

    def _run_signature(self, signature: str, inputs: Arrays, outputs: Sequence[str], options: Any = None) -> Arrays:
        session = self._session
        if session is None:
            raise ServingError(Code.UNAVAILABLE, "the model has been unloaded")
        declared = self._signatures[signature]
        if self._strings:
            inputs = {
                alias: as_text(alias, array) if array.dtype == object else array for alias, array in inputs.items()
            }
        names, feed = outputs, inputs
        if signature in self._renamed:
            feed = {declared.sendable[alias].name: array for alias, array in inputs.items()}
            names = [declared.outputs[alias].name for alias in outputs]
        try:
            return dict(zip(outputs, self._run(session, names, feed, options), strict=True))
        except ServingError:
            raise
        except Exception as error:
            raise _failure(declared, inputs, error) from error

    def native_run(self, signature: str) -> Mapping[str, object] | None:
        """See `base.RunsNatively`."""
        session, declared = self._session, self._signatures[signature]
        if not isinstance(session, NativeSession):
            return None
        inputs = {spec.name: dtype_of(spec.dtype) for spec in declared.inputs.values()}

        def grew(shapes: Sequence[Sequence[int]]) -> None:
            if (arena := self._arena) is not None:
                pairs = zip(inputs.items(), shapes, strict=True)
                arena.grew({name: (tuple(shape), dtype) for (name, dtype), shape in pairs})

        outputs = [(alias, declared.outputs[alias].name) for alias in declared.every_output]
        return {
            "session": session.native,
            "inputs": list(inputs),
            "outputs": outputs,
            "grown": grew,
            "large": LARGE_OUTPUT,
        }

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """An array for a joined input: in page-locked memory if the model is on a GPU.

        Raises:
            ServingError: RESOURCE_EXHAUSTED if no memory is left.
        """
        return np.empty(shape, dtype) if self._on_gpu is None else self._on_gpu.empty(shape, dtype)

    def fit_batching(self, options: Options) -> Options:
        """On a GPU, allows only as many batches at a time as instances, so that other requests form the next batch."""
        if self._on_gpu is not None:
            options = self._on_gpu.fit_batching(options)
        return options if self._at_once is None else replace(options, max_running_batches=self._at_once)

    def device_memory(self) -> Mapping[int, int]:
        """The number of bytes that the load took on a GPU, by the GPU's number."""
        return {} if self._on_gpu is None else self._on_gpu.memory

    def close(self) -> None:
        """Frees the session; arrays from its runs stay valid."""
        if self._on_gpu is not None:
            self._on_gpu.close()
        self._session = self._on_gpu = self._arena = None
        self._needs = ()

    def free_unused(self) -> None:
        """See `base.KeepsMemory`."""
        if (arena := self._arena) is not None:
            arena.free_if_idle()

    def _run(self, session: Session, names: Sequence[str], inputs: Arrays, options: Any) -> Sequence[Array]:
        if self._on_gpu is not None:
            return self._on_gpu.run(names, inputs)
        if self._bfloat16:
            return run_ort_values(session, names, inputs)
        arena = self._arena
        if arena is not None:
            arena.before_run(inputs)
        outputs: Sequence[Array] = session.run(names, inputs, options)
        if arena is not None:
            arena.ran(inputs, outputs)
        return outputs


def _has(dtype: DataType, signatures: Mapping[str, Signature]) -> bool:
    """Whether any input or output has this type."""
    specs = (spec for s in signatures.values() for spec in (*s.sendable.values(), *s.outputs.values()))
    return any(spec.dtype == dtype for spec in specs)


def _failure(signature: Signature, inputs: Arrays, error: Exception) -> ServingError:
    """The error that a caller gets for a failed run; if the inputs contradict each other, it says so."""
    code = _code_of(error)
    if code == Code.INTERNAL and (disagreement := signature.disagreement(inputs)):
        return invalid(f"{disagreement}, and the model refuses it: {str(error).strip()}")
    return ServingError(code, str(error))


def _is_renamed(signature: Signature) -> bool:
    return any(alias != spec.name for alias, spec in (*signature.inputs.items(), *signature.outputs.items()))


def _pool(files: ModelFiles, providers: Providers, options: BackendOptions) -> Pool:
    """The threads of a session: the number in the options, or the number for a model of this size."""
    if options.intra_op_threads or providers[0][0] in GPU_LIBRARIES:
        return Pool(options.intra_op_threads)
    return Pool(1) if files.size < SMALL else options.shared.get(Pools, Pools).take()


def _session_options(options: BackendOptions, threads: int) -> ort.SessionOptions:
    session = ort.SessionOptions()
    session.intra_op_num_threads = threads
    session.inter_op_num_threads = options.inter_op_threads
    session.enable_cpu_mem_arena = options.onnxruntime.cpu_memory_arena
    # After a run, the session's threads sleep: if they kept spinning, the transport would lack their cores.
    session.add_session_config_entry("session.force_spinning_stop", "1")
    # Before the first run, they would spin for tens of milliseconds. No run needs that, since its operators follow each
    # other within microseconds.
    session.add_session_config_entry("session.intra_op.spin_duration_us", str(SPIN_MICROSECONDS))
    for library in options.onnxruntime.custom_op_libraries:
        _register(session, library)
    return session


def _register(session: ort.SessionOptions, library: str) -> None:
    """Registers a library's operators with a session.

    Raises:
        ServingError: FAILED_PRECONDITION if it cannot be loaded, or is not such a library.
    """
    try:
        session.register_custom_ops_library(library)
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        message = f"the operators of {library} cannot be used: {error}"
        raise ServingError(Code.FAILED_PRECONDITION, message) from error


def _load_code(error: Exception, providers: Providers, options: BackendOptions) -> Code:
    code = _code_of(error)
    on_gpu = bool(providers) and providers[0][0] in GPU_LIBRARIES
    if code == Code.INTERNAL and on_gpu and lacks_memory(error, options.onnxruntime.device_id):
        return Code.RESOURCE_EXHAUSTED
    return code


def _code_of(error: Exception) -> Code:
    """The code of an error, from its text: `[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : ...`."""
    if says_no_memory(error):
        return Code.RESOURCE_EXHAUSTED
    parts = str(error).split(" : ", 3)
    return _CODES.get(parts[2], Code.INTERNAL) if len(parts) > 3 else Code.INTERNAL
