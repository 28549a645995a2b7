"""A model's description of itself: its metadata and its configuration, derived from the loaded version."""

from collections.abc import Callable, Mapping

from headrace_batching import Options
from headrace_protos.inference import model_config_pb2 as messages
from headrace_protos.inference.grpc_service_pb2 import ModelMetadataResponse
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.config.model_config import All, Latest, Specific, VersionPolicy
from headrace_server.models.sequences import Sequences
from headrace_server.models.servable import Servable
from headrace_server.services.open_inference.datatypes import datatype_of
from headrace_server.services.open_inference.inference import max_rows, signature_of
from headrace_server.services.open_inference.names import BATCHING

PolicyOf = Callable[[str], VersionPolicy | None]

_PLATFORMS: Mapping[str, str] = {
    "onnxruntime": "onnxruntime_onnx",
    "tensorrt": "tensorrt_plan",
    "tensorflow": "tensorflow_savedmodel",
    "tflite": "tensorflow_tflite",
    "ensemble": "ensemble",
}
_FILES: Mapping[str, str] = {
    "onnxruntime": "model.onnx",
    "tensorrt": "model.plan",
    "tensorflow": "model.savedmodel",
    "tflite": "model.tflite",
    "python": "model.py",
}


def metadata(servable: Servable, versions: list[int], signature: str = "") -> ModelMetadataResponse:
    """A model's metadata: shapes with the batch axis, -1 for every dimension that varies.

    Args:
        servable: The version, which the caller has leased.
        versions: The versions to list.
        signature: The name of the signature to describe; empty means the default.

    Raises:
        ServingError: INVALID_ARGUMENT if there is no such signature; UNIMPLEMENTED if the protocol has no such type.
    """
    _, declared = signature_of(servable, signature)
    message = ModelMetadataResponse(
        name=servable.name,
        versions=[str(version) for version in versions],
        platform=_PLATFORMS.get(servable.runtime, servable.runtime),
    )
    for specs, tensors in ((declared.inputs, message.inputs), (declared.outputs, message.outputs)):
        for alias, spec in specs.items():
            tensors.add(name=alias, datatype=datatype_of(spec.dtype).name, shape=_shape(spec))
    return message


def configuration(servable: Servable, policy: VersionPolicy, signature: str = "") -> messages.ModelConfig:
    """A model's ModelConfig. If the model batches, it has dimensions beyond the batch axis, and batching parameters.

    Args:
        servable: The version, which the caller has leased.
        policy: Which of the model's versions are served.
        signature: As for `metadata`.

    Raises:
        ServingError: As for `metadata`.
    """
    _, declared = signature_of(servable, signature)
    rows = max_rows(servable, declared)
    config = messages.ModelConfig(
        name=servable.name,
        platform=_PLATFORMS.get(servable.runtime, ""),
        backend="" if servable.steps else servable.runtime,
        version_policy=_policy(policy),
        max_batch_size=min(rows, 2**31 - 1),
        default_model_filename=_FILES.get(servable.runtime, ""),
        optimization=messages.ModelOptimizationPolicy(
            input_pinned_memory={"enable": False}, output_pinned_memory={"enable": False}
        ),
    )
    if servable.streams:
        config.model_transaction_policy.decoupled = True
    for step in servable.steps:
        config.ensemble_scheduling.step.add(
            model_name=step.model, model_version=step.version or -1, input_map=step.inputs, output_map=step.outputs
        )
    for name, verdict in servable.verdicts.items():
        config.parameters[f"{BATCHING}{name}"].string_value = verdict.effect
    _add_tensors(config, declared, without_rows=rows > 0)
    _add_batching(config, servable, batched=rows > 0)
    return config


def _add_tensors(config: messages.ModelConfig, declared: Signature, *, without_rows: bool) -> None:
    for alias, spec in declared.inputs.items():
        config.input.add(
            name=alias,
            data_type=datatype_of(spec.dtype).number,
            dims=_shape(spec)[without_rows:],
            optional=alias in declared.defaults,
        )
    for alias, spec in declared.outputs.items():
        config.output.add(name=alias, data_type=datatype_of(spec.dtype).number, dims=_shape(spec)[without_rows:])


def _add_batching(config: messages.ModelConfig, servable: Servable, *, batched: bool) -> None:
    if servable.steps:
        return
    options = servable.batching
    on_gpu = messages.ModelInstanceGroup.KIND_GPU if servable.on_gpus else messages.ModelInstanceGroup.KIND_CPU
    config.instance_group.add(
        name=f"{servable.name}_0",
        kind=on_gpu,
        count=options.num_batch_threads if options is not None else 1,
        gpus=servable.on_gpus,
    )
    if servable.sequences is not None:
        config.sequence_batching.CopyFrom(_sequence_batching(servable.sequences))
    elif options is not None and batched:
        config.dynamic_batching.CopyFrom(_dynamic_batching(options))


def _sequence_batching(sequences: Sequences) -> messages.ModelSequenceBatching:
    states = [
        messages.ModelSequenceBatching.State(input_name=own.input, output_name=alias)
        for alias, own in sequences.states.items()
    ]
    idle = round(sequences.options.idle_seconds * 1e6)
    return messages.ModelSequenceBatching(max_sequence_idle_microseconds=idle, direct={}, state=states)


def _dynamic_batching(options: Options) -> messages.ModelDynamicBatching:
    limit = 2**31 - 1
    return messages.ModelDynamicBatching(
        preferred_batch_size=[min(size, limit) for size in options.allowed_batch_sizes],
        max_queue_delay_microseconds=options.batch_timeout_micros,
        default_queue_policy=messages.ModelQueuePolicy(
            allow_timeout_override=True, max_queue_size=min(options.enqueued_limit * options.max_batch_size, limit)
        ),
        priority_levels=2,
        default_priority_level=1,
    )


def _policy(policy: VersionPolicy) -> messages.ModelVersionPolicy:
    match policy:
        case All():
            return messages.ModelVersionPolicy(all={})
        case Specific():
            return messages.ModelVersionPolicy(specific={"versions": policy.versions})
        case Latest():
            return messages.ModelVersionPolicy(latest={"num_versions": policy.count})


def _shape(spec: TensorSpec) -> list[int]:
    return [-1 if size is None else size for size in spec.shape]
