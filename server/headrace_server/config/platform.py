"""Applies the platform and session files on top of the flags."""

from dataclasses import replace

from headrace_protos import (
    ConfigProto,
    PlatformConfigMap,
    SavedModelBundleSourceAdapterConfig,
    SessionBundleConfig,
)
from headrace_server.config.files import batching_options, read_text_proto
from headrace_server.config.run import Config
from headrace_server.errors import invalid

PLATFORM = "tensorflow"


def with_files(config: Config) -> Config:
    """The configuration, changed by its platform file or, if there is none, by its session file.

    Fields of these files that have a meaning only inside TensorFlow are ignored, and so are unknown ones. TF Serving:
    server.cc. In TF Serving, the numbers of threads in a session file are never used; in headrace, flags take
    precedence over them.

    Raises:
        ServingError: NOT_FOUND or INVALID_ARGUMENT if a file cannot be read, or is invalid.
    """
    if config.platform_config_file:
        return _with_platform(config, _read_platform(config.platform_config_file))
    if config.tensorflow_session_config_file:
        session = read_text_proto(config.tensorflow_session_config_file, ConfigProto(), unknown_fields=True)
        return _with_session(config, session)
    return config


def _read_platform(path: str) -> SessionBundleConfig:
    platforms = read_text_proto(path, PlatformConfigMap(), unknown_fields=True).platform_configs
    if PLATFORM not in platforms:
        raise invalid(f"{path}: platform_configs must have an entry for {PLATFORM}, the platform of every model")
    packed = platforms[PLATFORM].source_adapter_config
    adapter = SavedModelBundleSourceAdapterConfig()
    if not packed.Unpack(adapter):
        kind = packed.TypeName() or "nothing"
        raise invalid(f"{path}: source_adapter_config must be a {adapter.DESCRIPTOR.full_name}; was {kind}")
    return adapter.legacy_config


def _with_platform(config: Config, bundle: SessionBundleConfig) -> Config:
    adapted = replace(
        config,
        enable_batching=bundle.HasField("batching_parameters"),
        enable_per_model_batching_parameters=bundle.enable_per_model_batching_params,
        batching_parameters_file="",
        batching=batching_options(bundle.batching_parameters, config.platform_config_file),
        saved_model_tags=",".join(bundle.saved_model_tags) or config.saved_model_tags,
        enable_model_warmup=bundle.enable_model_warmup,
        num_request_iterations_for_warmup=bundle.model_warmup_options.num_request_iterations.value,
        prefer_tflite_model=bundle.prefer_tflite_model,
        num_tflite_pools=bundle.num_tflite_pools or config.num_tflite_pools,
        num_tflite_interpreters_per_pool=bundle.num_tflite_interpreters_per_pool or 1,
        tensorflow_session_parallelism=0,
        tensorflow_intra_op_parallelism=0,
        tensorflow_inter_op_parallelism=0,
    )
    return _with_session(adapted, bundle.session_config)


def _with_session(config: Config, session: ConfigProto) -> Config:
    both = config.tensorflow_session_parallelism
    return replace(
        config,
        tensorflow_session_parallelism=0,
        tensorflow_intra_op_parallelism=(
            config.tensorflow_intra_op_parallelism or both or session.intra_op_parallelism_threads
        ),
        tensorflow_inter_op_parallelism=(
            config.tensorflow_inter_op_parallelism or both or session.inter_op_parallelism_threads
        ),
    )
