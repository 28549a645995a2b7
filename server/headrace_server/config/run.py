"""The configuration of one run: frozen, with every default written once, here."""

from dataclasses import dataclass, field

from headrace_batching import Options
from headrace_batching.cpus import schedulable_cpus
from headrace_batching.objective import EXPECTATION, is_objective
from headrace_server.config.flag import flag
from headrace_server.config.isolation import IsolationOptions
from headrace_server.config.mlflow import MlflowOptions
from headrace_server.config.model_config import ModelConfig
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.security import AuthOptions
from headrace_server.config.signing import SigningOptions
from headrace_server.config.stores import StoreOptions
from headrace_server.config.tensorrt import TensorrtOptions

CPUS = schedulable_cpus()

ONLY_TENSORFLOW = "it has a meaning only inside TensorFlow"

MANY_BATCHES = 1_000_000
"""The maximum number of batches that wait if no limit is set; the memory for requests is then the limit."""

LAST_PORT = (1 << 16) - 1  # gRPC would take a larger one modulo 65536


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of one run of the server.

    Each field with a help text is a flag of the same name; a flag that TF Serving has as well has the same name in
    both.

    A field that is a group of options has flags with a prefix; `flags.config_of` makes a `Config` from a command line.

    Attributes:
        batching: Batching parameters as an object, for programs; a file named by `batching_parameters_file` takes
            precedence.
        models: Models as objects, for programs; if given, `model_name` and `model_base_path` are not used.
        pad_unproved: Whether `pad_variable_length_inputs` pads each input with its own first element, as TF Serving
            does, if no padding is known that leaves answers unchanged; otherwise, it then does not pad.
    """

    port: int = flag(
        8500,
        "TCP port for gRPC; 0 uses any free port, or none if there is a UNIX socket",
        least=0,
        most=LAST_PORT,
    )
    host: str = flag(
        "", "address that gRPC listens on, such as 127.0.0.1 or ::1; empty means all interfaces, IPv4 and IPv6"
    )
    grpc_socket_path: str = flag("", "UNIX socket for gRPC; an existing socket is replaced")
    rest_api_port: int = flag(
        0, "TCP port for HTTP/REST; must differ from the gRPC port; 0 disables REST", least=0, most=LAST_PORT
    )
    rest_api_host: str = flag(
        "", "address that HTTP/REST listens on, such as 127.0.0.1 or ::1; empty means all interfaces, IPv4 and IPv6"
    )
    rest_api_num_threads: int = flag(
        4 * CPUS, "threads for HTTP/REST", ignored="a REST call that waits occupies no thread"
    )
    rest_api_timeout_in_ms: int = flag(30000, "milliseconds that a REST call may take; 0 or less means no limit")
    rest_api_enable_cors_support: bool = flag(False, "add CORS headers to the answers of REST calls")
    enable_batching: bool = flag(True, "run requests that wait at the same time as one batch", tensorflow=False)
    latency_objective: str = flag(
        "",
        "the share of each model's requests to answer within a time, such as p99 20ms; it determines how long "
        "batches wait, how large they are and which requests are refused; empty means no objective",
        fits=is_objective,
        words=f"{EXPECTATION}, or empty",
    )
    allow_version_labels_for_unavailable_models: bool = flag(
        False, "accept a label for a version that is not loaded, if the label is new or already names that version"
    )
    batching_parameters_file: str = flag(
        "", "text-proto file of BatchingParameters; if not given, TF Serving's defaults apply"
    )
    enable_per_model_batching_parameters: bool = flag(
        False,
        "take batching parameters from a version's own batching_params.pbtxt; a version without it is not batched",
    )
    model_config_file: str = flag(
        "", "text-proto file of ModelServerConfig: the models to serve, instead of the one that other flags name"
    )
    model_config_file_poll_wait_seconds: float = flag(
        0,
        "seconds after which the model configuration file is read and applied again; 0 or less means never",
        kind=float,
    )
    model_name: str = flag(
        "default", "name by which requests call the model; with a PATH, its file or folder gives the name by default"
    )
    model_base_path: str = flag("", "folder whose numbered folders are the model's versions; an absolute path")
    max_loaded_models: int = flag(
        0,
        "versions, of all models together, in memory at the same time: others are loaded when they are called, and "
        "replace the least recently used ones; 0 means no limit",
        least=0,
    )
    model_memory_mb: int = flag(
        0,
        "MB that all versions in memory may use together, counted as 1.2 times the size of their files: others are "
        "loaded when they are called; 0 means no limit",
        least=0,
    )
    preload_models: tuple[str, ...] = flag(
        (),
        "models to load at the start even if a limit on memory is set (with a limit, a model is otherwise loaded at "
        "its first call): names, or patterns such as ranker-*, separated by commas",
    )
    num_load_threads: int = flag(
        0, "versions loaded at the same time after the start; 0 loads one at a time and pauses unloads", least=0
    )
    num_unload_threads: int = flag(
        0, "versions unloaded at the same time; 0 unloads one at a time and pauses loads", least=0
    )
    max_num_load_retries: int = flag(5, "retries after a version's first failed load", least=0)
    load_retry_interval_micros: int = flag(
        # TF Serving's default of a minute would make an operator wait five minutes to learn that a model is broken.
        1_000_000,
        "microseconds between two attempts to load a version; a negative value means no wait",
        tensorflow=60_000_000,
        int64=True,
    )
    file_system_poll_wait_seconds: float = flag(
        1, "seconds between two scans for new versions; 0 means a single scan, a negative value none", kind=float
    )
    flush_filesystem_caches: bool = flag(
        True,
        "drop the operating system's copies of model files after a load",
        ignored="the operating system frees its file cache when memory is needed",
    )
    tensorflow_session_parallelism: int = flag(
        0, "threads of a model, within and across its operators; 0 lets the runtime choose", int64=True
    )
    tensorflow_session_config_file: str = flag(
        "",
        "text-proto file of TensorFlow's ConfigProto, of which only the numbers of threads are used; flags override it",
    )
    tensorflow_intra_op_parallelism: int = flag(
        0, "threads within one operator of a model; 0 lets the runtime choose", int64=True
    )
    tensorflow_inter_op_parallelism: int = flag(
        0, "operators of a model that run at the same time; 0 lets the runtime choose", int64=True
    )
    use_alts_credentials: bool = flag(False, "secure gRPC with Google's ALTS, which works inside Google Cloud")
    ssl_config_file: str = flag(
        "", "text-proto file of SSLConfig: TLS, or mutual TLS, for gRPC; read again when it changes"
    )
    platform_config_file: str = flag(
        "", "text-proto file of PlatformConfigMap, instead of the flags on batching, sessions and warm-up"
    )
    per_process_gpu_memory_fraction: float = flag(
        0.0,
        "fraction of the GPU's memory that a model may use if onnxruntime_gpu_memory_limit_mb is 0; 0 means no limit",
        least=0,
    )
    saved_model_tags: str = flag("serve", "tags of the graph to load from a SavedModel, separated by commas")
    grpc_channel_arguments: str = flag("", "gRPC channel arguments for the server, as k=v,k=v")
    grpc_max_threads: int = flag(
        4 * CPUS, "threads for gRPC calls", ignored="a call that waits occupies no thread, so there is nothing to limit"
    )
    enable_model_warmup: bool = flag(True, "send a version its warm-up requests before it is served")
    num_request_iterations_for_warmup: int = flag(
        0, "number of times that each warm-up request is sent; 0 or less means once"
    )
    enable_synthetic_warmup: bool = flag(
        True, "before a version that has no warm-up requests is served, run it on inputs of zeros"
    )
    monitoring_config_file: str = flag(
        "", "text-proto file of MonitoringConfig: whether Prometheus may scrape, and where"
    )
    enable_metrics: bool = flag(
        True,
        "serve metrics for Prometheus on the REST port: headrace's own at /metrics, TF Serving's at "
        "/monitoring/prometheus/metrics",
        tensorflow=False,
    )
    drift_ratio: float = flag(
        0.01,
        "share of a model's rows that are compared with the profile.json next to the model; 0 compares none",
        least=0,
        most=1,
    )
    trace_endpoint: str = flag(
        "",
        "OpenTelemetry collector to which traces are sent by OTLP over gRPC, such as http://localhost:4317; empty "
        "turns traces off",
    )
    trace_ratio: float = flag(
        0.01, "of the requests without a traceparent header, the share that is traced", least=0, most=1
    )
    trace_rate: float = flag(100.0, "largest number of requests per second that are traced", least=0)
    enable_page: bool = flag(True, "serve the live page at / of the REST port", tensorflow=False)
    remove_unused_fields_from_bundle_metagraph: bool = flag(
        True, "free the parts of a SavedModel's graph that serving does not need", ignored=ONLY_TENSORFLOW
    )
    prefer_tflite_model: bool = flag(False, "load model.tflite if a version has one next to its SavedModel")
    num_tflite_pools: int = flag(CPUS, "TFLite interpreters of a model that run at the same time", by_cpus=True)
    num_tflite_interpreters_per_pool: int = flag(1, "TFLite interpreters that share one batch")
    enable_signature_method_name_check: bool = flag(
        False, "require that a signature was exported for the call's method"
    )
    xla_cpu_compilation_enabled: bool = flag(False, "compile SavedModels with XLA for the CPU", ignored=ONLY_TENSORFLOW)
    xla_gpu_compilation_enabled: bool = flag(
        False, "compile SavedModels with XLA for CPU and GPU", ignored=ONLY_TENSORFLOW
    )
    enable_profiler: bool = flag(
        False, "serve TensorFlow's profiler on the port for gRPC, where TensorFlow is installed", tensorflow=True
    )
    thread_pool_factory_config_file: str = flag(
        "", "text-proto file of ThreadPoolFactoryConfig", ignored=ONLY_TENSORFLOW
    )
    mixed_precision: str = flag("", "number type that SavedModels compute with", ignored=ONLY_TENSORFLOW)
    skip_initialize_tpu: bool = flag(False, "do not reset TPUs at the start", ignored=ONLY_TENSORFLOW)
    enable_grpc_healthcheck_service: bool = flag(True, "serve grpc.health.v1 on the port for gRPC", tensorflow=False)
    enable_serialization_as_tensor_content: bool = flag(
        False, "send answers in tensor_content, not in the typed *_val fields"
    )
    rest_api_ssl_config_file: str = flag(
        "",
        "text-proto file of SSLConfig: TLS, or mutual TLS, for HTTP/REST with headrace-native; read again when it "
        "changes",
    )
    rest_api_max_body_mb: int = flag(
        1024,
        "largest body of an HTTP/REST request, in MB, before decompression if it is compressed",
        least=1,
    )
    rest_api_json_processes: int = flag(
        max(1, CPUS // 2),
        "processes that read and write large JSON bodies; they start when they are needed",
        by_cpus=True,
        least=1,
    )
    aspired_version_policy: str = flag(
        "availability_preserving",
        "availability_preserving loads a new version before it unloads the old one; resource_preserving unloads first",
        choices=("availability_preserving", "resource_preserving"),
    )
    onnxruntime: OnnxruntimeOptions = field(default_factory=OnnxruntimeOptions, metadata={"prefix": "onnxruntime_"})
    tensorrt: TensorrtOptions = field(default_factory=TensorrtOptions, metadata={"prefix": "tensorrt_"})
    mlflow: MlflowOptions = field(default_factory=MlflowOptions, metadata={"prefix": "mlflow_"})
    stores: StoreOptions = field(default_factory=StoreOptions, metadata={"prefix": "model_store_"})
    isolation: IsolationOptions = field(default_factory=IsolationOptions, metadata={"prefix": ""})
    signing: SigningOptions = field(default_factory=SigningOptions, metadata={"prefix": ""})
    auth: AuthOptions = field(default_factory=AuthOptions, metadata={"prefix": "auth_"})
    drain_seconds: float = flag(30.0, "seconds after SIGTERM in which calls in flight may finish", least=0)
    lame_duck_seconds: float = flag(
        0.0,
        "seconds after SIGTERM in which calls are still accepted while the health and readiness checks fail, so that "
        "load balancers send no more calls; the drain follows",
        least=0,
    )
    log_level: str = flag("info", "lowest severity that is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = flag("text", "format of log lines: text, or json (one object per line)", choices=("text", "json"))
    access_log: bool = flag(
        False,
        "log every call with its method, model, status code, duration in milliseconds and ID, whatever log_level is; "
        "each call then goes through Python and takes more CPU time",
    )
    audit_log: str = flag(
        "",
        "file to which a line of JSON is added for every call, with its caller",
    )
    request_memory_mb: int = flag(
        0,
        "MB of memory for all callers together: for requests that are arriving or waiting, and answers that have not "
        "been read; 0 means a quarter of the container's memory",
        least=0,
    )
    request_expanded_mb: int = flag(
        256, "largest gRPC request after decompression, in MB; REST has a fixed limit of 100", least=1
    )
    connection_stall_seconds: float = flag(
        60.0,
        "seconds after which a connection that stalls within a request or does not read its answer is closed; 0 "
        "means never",
        least=0,
    )
    transport: str = flag(
        "auto",
        "implementation of gRPC and REST: auto (the fastest that is installed), grpcio or native",
        choices=("auto", "grpcio", "native"),
    )
    transport_threads: int = flag(
        max(1, CPUS // 4), "threads that the native transport spreads connections over", by_cpus=True, least=1
    )
    allow_reload: str = flag(
        "config-only",
        "what HandleReloadConfigRequest may do: nothing (false), serve other models that contain no code "
        "(config-only), or anything (true)",
        choices=("false", "config-only", "true"),
    )
    model_roots: tuple[str, ...] = flag(
        (),
        "folders and URIs of stores, separated by commas, that must contain the base paths which callers name; empty "
        "allows any folder and no URI",
    )
    code_roots: tuple[str, ...] = flag(
        (), "folders, separated by commas, in which a model.py may run even if a caller named the base path"
    )
    request_log_roots: tuple[str, ...] = flag(
        (), "folders, separated by commas, in which callers may have calls logged; empty allows no logging"
    )
    open_inference_admin: str = flag(
        "read",
        "what callers of the Open Inference Protocol may do besides inference: none, read (the repository's index, "
        "settings), write (load, unload, shared memory, settings) or files (load models that come with the call)",
        choices=("none", "read", "write", "files"),
    )
    batching: Options = field(default_factory=lambda: Options(larger_alone=True, max_enqueued_batches=MANY_BATCHES))
    models: tuple[ModelConfig, ...] = ()
    pad_unproved: bool = False
