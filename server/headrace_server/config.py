"""Everything one run is told: frozen, every default written once, here."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headrace_batching import Options


def flag(default: Any, help_text: str) -> Any:
    """A field that is also a flag of the same name."""
    return field(default=default, metadata={"help": help_text})


@dataclass(frozen=True, slots=True)
class Latest:
    """Serve the highest versions, `count` of them."""

    count: int = 1


@dataclass(frozen=True, slots=True)
class All:
    """Serve every version."""


@dataclass(frozen=True, slots=True)
class Specific:
    """Serve these versions, those of them that exist."""

    versions: tuple[int, ...]


VersionPolicy = Latest | All | Specific


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """A model, where its versions are, and which of them to serve."""

    name: str
    base_path: Path
    policy: VersionPolicy = Latest()


@dataclass(frozen=True, kw_only=True)
class Config:
    """One run of the server. Fields that carry a help text are flags of the same name; TF Serving's where it has them.

    Attributes:
        batching: Batching parameters for programs that have them as an object; a file named by
            `batching_parameters_file` goes before them.
    """

    port: int = flag(8500, "TCP port for gRPC, on all interfaces")
    model_name: str = flag("default", "name that requests call the model by")
    model_base_path: str = flag("", "folder whose numbered folders are the model's versions; an absolute path")
    enable_batching: bool = flag(True, "run requests that wait at the same time as one batch")
    batching_parameters_file: str = flag("", "text-proto file of BatchingParameters; without it, TF Serving's defaults")
    file_system_poll_wait_seconds: int = flag(
        1, "seconds between two looks for new versions; 0 looks once, a negative value never"
    )
    enable_model_warmup: bool = flag(True, "send a version its warm-up requests before it is served")
    num_request_iterations_for_warmup: int = flag(0, "times that each warm-up request is sent; 0 or less is once")
    enable_synthetic_warmup: bool = flag(
        True, "run a version that has no warm-up requests on zeros before it is served"
    )
    model_config_file: str = flag("", "text-proto file of ModelServerConfig; goes before the two flags above")
    model_config_file_poll_wait_seconds: int = flag(
        0, "seconds after which the model configuration file is read and applied again; 0 or less never does"
    )
    allow_version_labels_for_unavailable_models: bool = flag(
        False, "let a label that is new, or stays with its version, name a version that is not loaded"
    )
    num_load_threads: int = flag(0, "versions loaded at once after the start; 0 is one, and no unload meanwhile")
    num_unload_threads: int = flag(0, "versions unloaded at once; 0 is one, and no load meanwhile")
    max_num_load_retries: int = flag(5, "tries to load a version after the first one that failed")
    load_retry_interval_micros: int = flag(60_000_000, "microseconds between two tries; a negative value is none")
    aspired_version_policy: str = flag(
        "availability_preserving",
        "what comes first as versions change, load or unload: availability_preserving or resource_preserving",
    )
    enable_per_model_batching_parameters: bool = flag(
        False, "take batching parameters from batching_params.pbtxt in a version's folder; none there, no batching"
    )
    tensorflow_session_parallelism: int = flag(0, "threads of a model, within and across its operators; 0 is automatic")
    tensorflow_intra_op_parallelism: int = flag(0, "threads within one operator of a model; 0 is automatic")
    tensorflow_inter_op_parallelism: int = flag(0, "operators of a model that run at once; 0 is automatic")
    onnxruntime_providers: str = flag(
        "CPUExecutionProvider", "ONNX Runtime's execution providers, separated by commas, the preferred one first"
    )
    onnxruntime_cpu_memory_arena: bool = flag(True, "keep the memory that ONNX Runtime has used once")
    enable_serialization_as_tensor_content: bool = flag(
        False,
        "answer with tensor_content, not with the typed *_val fields",
    )
    grpc_channel_arguments: str = flag("", "gRPC channel arguments for the server, as k=v,k=v")
    drain_seconds: float = flag(30.0, "on SIGTERM, seconds that calls in flight may take to end")
    transport: str = flag("auto", "what carries the bytes: auto (the fastest that is installed) or grpcio")
    batching: Options = field(default_factory=Options)
