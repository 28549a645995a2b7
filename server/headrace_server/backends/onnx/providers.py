"""Chooses ONNX Runtime's execution providers for a model: the best one that works, or the named ones."""

import io
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import onnxruntime as ort

from headrace_protos import Code
from headrace_server.backends.gpu.cuda import Device
from headrace_server.backends.gpu.nvidia_driver import NoDriverError, device_count
from headrace_server.backends.gpu.shared_libraries import why_not_loadable
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.native_session import Session, open_native
from headrace_server.errors import ServingError, invalid

log = logging.getLogger(__name__)

AUTO = "auto"
CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"

FATAL = 4
"""ONNX Runtime's log level at which it logs fatal errors only."""

GPU_LIBRARIES = {CUDA: "libonnxruntime_providers_cuda.so", TENSORRT: "libonnxruntime_providers_tensorrt.so"}

_REMEDIES = {
    CUDA: "it needs the driver, and CUDA and cuDNN, which pip install 'headrace[gpu,cuda]' installs",
    TENSORRT: "it needs the driver, and CUDA, cuDNN and TensorRT 10, which pip install 'headrace[gpu,cuda]' installs",
}

_NO_MEMORY = ("Failed to allocate memory", "is smaller than requested bytes", "out of memory", "ALLOC_FAILED")

_FULL = 256 << 20
"""The free memory, in bytes, below which CUDA's libraries cannot start; they do not report that as the reason."""

# A serialized ModelProto: `y` = Identity(`x`), float [N].
_PROBE = (
    b'\x08\x08:9\n\x10\n\x01x\x12\x01y"\x08Identity\x12\x01g'
    b"Z\x10\n\x01x\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01Nb\x10\n\x01y\x12\x0b\n\t\x08\x01\x12\x05\n\x03\x12\x01N"
    b"B\x04\n\x00\x10\r"
)

WhyNot = Callable[[str], str]
"""Takes the name of an available provider, and returns the reason why it does not work; empty if it works."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Which providers a model is to run on.

    Attributes:
        providers: The names of the providers, the preferred one first.
        passed_over: Better providers that do not work, each with the reason.
    """

    providers: tuple[str, ...]
    passed_over: Mapping[str, str]

    def __str__(self) -> str:
        reasons = "".join(f"; {name} does not work: {reason}" for name, reason in self.passed_over.items())
        return f"{self.providers[0]}{reasons}"


def choose(wanted: Sequence[str], available: Sequence[str], why_not: WhyNot, *, keeps_engines: bool) -> Choice:
    """The providers for a model.

    Args:
        wanted: `auto` alone, or names, the preferred one first.
        available: The providers that this ONNX Runtime was built with.
        why_not: Returns why a provider does not work. Called only for GPU providers that are available and might be
            chosen.
        keeps_engines: Whether TensorRT's engines are kept. If not, `auto` skips TensorRT, which would take minutes to
            build an engine at every load.

    Raises:
        ServingError: FAILED_PRECONDITION if a named provider is missing or does not work. INVALID_ARGUMENT if no
            provider was named, or if `auto` was named together with another one.
    """
    if not wanted or (AUTO in wanted and len(wanted) > 1):
        raise invalid(f"ONNX Runtime's providers must be {AUTO} alone, or names; were {', '.join(wanted) or 'none'}")
    if AUTO in wanted:
        return _best(available, why_not, keeps_engines=keeps_engines)
    for name in wanted:
        if name not in available:
            raise ServingError(Code.FAILED_PRECONDITION, f"onnxruntime_providers: {_missing(name, available)}")
        if reason := why_not(name) if name in GPU_LIBRARIES else "":
            raise ServingError(Code.FAILED_PRECONDITION, f"{name} does not work: {reason}; {_REMEDIES[name]}")
    return Choice(tuple(wanted), {})


def _best(available: Sequence[str], why_not: WhyNot, *, keeps_engines: bool) -> Choice:
    passed_over: dict[str, str] = {}
    ladder = [name for name in ((TENSORRT, CUDA) if keeps_engines else (CUDA,)) if name in available]
    for place, name in enumerate(ladder):
        if not (reason := why_not(name)):
            return Choice((*ladder[place:], CPU), passed_over)
        passed_over[name] = reason
    return Choice((CPU,), passed_over)


def _missing(name: str, available: Sequence[str]) -> str:
    text = f"this ONNX Runtime has no {name}; it has {', '.join(available)}"
    if name not in GPU_LIBRARIES:
        return text
    if _installed("onnxruntime") and _installed("onnxruntime-gpu"):
        both = "onnxruntime and onnxruntime-gpu hide each other: pip uninstall both"
        return f"{text}. {both}, then pip install 'headrace[gpu]'"
    return f"{text}: pip uninstall onnxruntime, then pip install 'headrace[gpu]'"


def _installed(distribution: str) -> bool:
    with suppress(PackageNotFoundError):
        return bool(version(distribution))
    return False


def why_not(provider: str, device: int) -> str:
    """Tests a GPU provider: the driver, the device, the libraries, then a session with one operator.

    Without this check, ONNX Runtime would only write the problem to stderr, and continue on the CPU. Returns the reason
    why the provider does not work; empty if it works.

    Args:
        provider: CUDA or TENSORRT.
        device: The GPU's number.

    Raises:
        ServingError: RESOURCE_EXHAUSTED if it fails only because the GPU is full; a model for the GPU must not
            silently run on the CPU.
    """
    try:
        count = device_count()
    except NoDriverError as error:
        return str(error)
    if device >= count:
        return f"there is no GPU {device}: the driver has {count}"
    _load_installed_libraries()
    return why_not_loadable(Path(ort.__file__).parent / "capi" / GPU_LIBRARIES[provider]) or _probe(provider, device)


def _load_installed_libraries() -> None:
    """Loads NVIDIA's libraries from pip's folder, which the system's loader does not search."""
    with redirect_stdout(io.StringIO()) as said, suppress(AttributeError):  # older versions have no such function
        ort.preload_dlls()
    log.debug("%s", said.getvalue().rstrip())
    with suppress(ImportError, OSError):
        import_module("tensorrt_libs")


def _probe(provider: str, device: int) -> str:
    try:
        session = open_session(_PROBE, ort.SessionOptions(), [(provider, {"device_id": str(device)})])
    except Exception as error:  # ONNX Runtime's exceptions have no base class of their own
        if lacks_memory(error, device):
            message = f"GPU {device} has no memory left for ONNX Runtime: {error}"
            raise ServingError(Code.RESOURCE_EXHAUSTED, message) from error
        return _in_a_line(error)
    return "" if provider in session.get_providers() else "ONNX Runtime does not use it; it wrote the reason to stderr"


def _in_a_line(error: Exception) -> str:
    """CUDA's own error text, without ONNX Runtime's additions; the whole text if the error was not CUDA's."""
    text = " ".join(str(error).split())
    cuda = re.search(r"(CUDA|CUBLAS|CUDNN) failure \d+: [^;]*[^; ]", text)
    return cuda[0] if cuda else text


def says_no_memory(error: Exception) -> bool:
    """Whether an error of ONNX Runtime, whatever its code, means that an arena or CUDA has no memory left."""
    return any(words in str(error) for words in _NO_MEMORY)


def lacks_memory(error: Exception, device: int) -> bool:
    """Whether something on a GPU failed for lack of memory, by the error's text or because the GPU is full."""
    if says_no_memory(error):
        return True
    try:
        full = Device(device)
    except ModuleNotFoundError:
        return False
    except ServingError as refusal:
        return refusal.code == Code.RESOURCE_EXHAUSTED
    try:
        with full:
            return full.free_memory() < _FULL
    finally:
        full.release()


def open_session(
    model: str | bytes, options: ort.SessionOptions, providers: Sequence[tuple[str, Mapping[str, str]]]
) -> Session:
    """A session on these providers, each with its options; if one raises, the next is not tried."""
    be_quiet(options)
    if [name for name, _ in providers] == [CPU] and (native := open_native(model, options)) is not None:
        return native
    return ort.InferenceSession(model, sess_options=options, providers=list(providers), enable_fallback=0)


def be_quiet(options: ort.SessionOptions) -> None:
    """Lets ONNX Runtime log hardly anything about sessions with these options."""
    options.log_severity_level = FATAL  # other errors reach the caller as exceptions
    ort.set_default_logger_severity(3)  # errors only, since ONNX Runtime warns of every session for a GPU
