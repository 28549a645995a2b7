"""Loads ONNX files: providers, threads, sessions and signatures."""

import logging
import stat
from collections.abc import Iterable
from contextlib import suppress
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path

import onnxruntime as ort

from headrace_protos import Code, DataType
from headrace_server.backends.base import NO_RISKS, BackendOptions
from headrace_server.backends.gpu.cuda import Device
from headrace_server.backends.independence import NO_HINTS
from headrace_server.backends.onnx.backend import OnnxBackend, has_type
from headrace_server.backends.onnx.failures import load_code
from headrace_server.backends.onnx.graph import Graph
from headrace_server.backends.onnx.layouts import Layout
from headrace_server.backends.onnx.model_files import ModelFiles
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.native_session import Session
from headrace_server.backends.onnx.on_gpu import OnGpu, device_for, free_memory
from headrace_server.backends.onnx.prepared import Opened, Prepared
from headrace_server.backends.onnx.provider_options import Providers, for_one_shape, provider_options
from headrace_server.backends.onnx.providers import CUDA, GPU_LIBRARIES, be_quiet, choose, open_session, why_not
from headrace_server.backends.onnx.signatures import Found, find_signatures, output_shapes
from headrace_server.backends.onnx.threads import SMALL, Pool, Pools
from headrace_server.errors import LoadError, ServingError

log = logging.getLogger(__name__)

SPIN_MICROSECONDS = 1000
"""How long a session's threads spin for work. Older versions of ONNX Runtime ignore it and spin longer."""


def load_onnx(model: Path, options: BackendOptions) -> OnnxBackend:
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
        raise LoadError(load_code(error, providers, options), f"{model} cannot be loaded: {error}") from error
    return backend


def _load(
    model: Path, options: BackendOptions, providers: Providers, device: Device | None, opened: Opened | None
) -> OnnxBackend:
    free_before = 0 if device is None else free_memory(device)
    if opened is None:
        opened = _open(ModelFiles.of(model, options.shared), providers, options)
    files, session, needs = opened.files, opened.session, opened.needs
    graph, layout = files.graph(_runtime_version())
    files.check_whole()
    found = _found(session, options, graph, layout)
    signatures = found.by_name
    evidence, hints = ((), NO_HINTS) if graph is None else (graph.evidence, graph.hints)
    make = partial(OnnxBackend, session, signatures, evidence=evidence, hints=hints)
    # Shared with models of the same structure as long as one of them lives.
    needs = (*needs, graph, found, files.layouts, layout)
    if providers[0][0] not in GPU_LIBRARIES:
        steady = graph is not None and graph.steady
        risks = NO_RISKS if graph is None else graph.risks
        apart = frozenset[str]() if graph is None else graph.rows_apart
        return make(needs=needs, steady=steady, risks=risks, apart=apart)
    at_once = options.onnxruntime.gpu_instances
    if device is None or has_type(DataType.DT_STRING, signatures):
        return make(at_once=at_once)
    on_gpu = OnGpu(session, device, free_before, at_once)
    if options.batching is not None and providers[0][0] == CUDA:
        again = partial(_session_again, files, for_one_shape(providers), options)
        on_gpu.open_sizes(model, signatures, options.batching, again)
    return make(on_gpu, at_once=at_once)


def _found(session: Session, options: BackendOptions, graph: Graph | None, layout: Layout | None) -> Found:
    """The signatures of a model; those of an earlier model with the same layout, if there is one."""
    on_cpu = session.get_providers() == [CPU]
    is_usual = on_cpu and not options.signatures
    known = layout.found if layout is not None and is_usual else None
    # The data of a weight may decide a shape: for example, how many columns a Slice leaves.
    if known is not None and known.output_shapes == output_shapes(session):
        return known
    any_rank = None if graph is None else graph.any_rank
    appended = () if graph is None or not on_cpu else graph.appended
    empty = graph is not None and graph.runs_on_empty and on_cpu
    found = find_signatures(session, options, any_rank, empty=empty, appended=appended)
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
        # Nothing is prepared if a provider is missing or headrace-native unusable: each load reports that itself.
        with suppress(ServingError, ImportError, RuntimeError):
            providers = _providers(Path(), options)  # without a GPU, they are the same for all models
            if [name for name, _ in providers] == [CPU]:
                session_options = _session_options(options, options.intra_op_threads or 1)
                be_quiet(session_options)
                prepared.prepare(models, options, providers, session_options, partial(_read_small, options=options))
    return prepared


def _read_small(model: Path, options: BackendOptions) -> ModelFiles | None:
    """A model's files; None if it is large, or has external data, which would have to be passed to each session."""
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
        ServingError: FAILED_PRECONDITION if the file cannot be loaded, or is not a library of operators.
    """
    try:
        session.register_custom_ops_library(library)
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        message = f"the operators of {library} cannot be used: {error}"
        raise ServingError(Code.FAILED_PRECONDITION, message) from error
