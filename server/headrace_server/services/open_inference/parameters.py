"""The parameters of a gRPC request and of its tensors. The checks and texts are those of Triton's infer_handler.cc."""

from collections.abc import Mapping
from typing import Any

from headrace_batching import Priority
from headrace_protos.inference.grpc_service_pb2 import InferParameter
from headrace_server.errors import ServingError, invalid
from headrace_server.models.call import SequenceStep
from headrace_server.services.open_inference.regions import Place, Regions
from headrace_server.services.open_inference.request import Parameters

VERSION_LABEL = "version_label"
SIGNATURE = "signature_name"
REGION, REGION_SIZE, REGION_OFFSET = "shared_memory_region", "shared_memory_byte_size", "shared_memory_offset"
CLASSIFICATION = "classification"
EMPTY_FINAL_RESPONSE = "triton_enable_empty_final_response"

LOW_LEVEL = 2
"""The value of `priority` for requests that run after all others. 1 is the normal priority, any other the call's."""

MICROSECONDS = 1e6

_RESERVED = "triton_"

Sent = Mapping[str, InferParameter]


def read_parameters(sent: Sent) -> Parameters:
    """Reads a request's parameters; those without a meaning here are only checked.

    Raises:
        ServingError: INVALID_ARGUMENT if a parameter has the wrong type, or a reserved name.
    """
    for name, parameter in sent.items():
        _check(name, parameter)
    level = _number(sent, "priority")
    timeout = _number(sent, "timeout")
    return Parameters(
        signature=text_of(sent, SIGNATURE),
        priority=priority_of(level),
        timeout=timeout / MICROSECONDS if timeout > 0 else None,
        empty_final_response=sent[EMPTY_FINAL_RESPONSE].bool_param if EMPTY_FINAL_RESPONSE in sent else False,
        sequence=_sequence(sent),
    )


def priority_of(level: int) -> Priority | None:
    """The priority that a level means; None means that of the call."""
    return Priority.LOW if level == LOW_LEVEL else Priority.NORMAL if level == 1 else None


def text_of(sent: Sent, name: str) -> str:
    """The value of a parameter, which must be a string.

    Raises:
        ServingError: INVALID_ARGUMENT if it is not a string.
    """
    if name not in sent:
        return ""
    if sent[name].WhichOneof("parameter_choice") != "string_param":
        raise _wrong_type(name, "string_param")
    return sent[name].string_param


def read_place(sent: Sent, tensor: str, regions: Regions) -> Place | None:
    """The part of a shared memory region that a tensor names; None if it names none.

    Raises:
        ServingError: INVALID_ARGUMENT or NOT_FOUND.
    """
    region: str | None = _of_tensor(sent, REGION, "string_param", tensor)
    size = _of_tensor(sent, REGION_SIZE, "int64_param", tensor)
    offset = _of_tensor(sent, REGION_OFFSET, "int64_param", tensor)
    if region is None:
        for name, value in ((REGION_SIZE, size), (REGION_OFFSET, offset)):
            if value is not None:
                raise invalid(f"'{name}' can not be specified without '{REGION}' parameter for tensor '{tensor}'")
        return None
    if size is None:
        raise invalid(f"'{REGION_SIZE}' must be specified along with '{REGION}' parameter for tensor '{tensor}'")
    return regions.place(region, offset or 0, size)


def read_classes(sent: Sent) -> int:
    """The number of classes that a caller wants instead of an output; 0 means the output itself.

    Raises:
        ServingError: INVALID_ARGUMENT if the number is invalid, or the output is to be written to shared memory.
    """
    if CLASSIFICATION not in sent:
        return 0
    if REGION in sent:
        raise invalid(f"output can't set both '{REGION}' and '{CLASSIFICATION}'")
    if sent[CLASSIFICATION].WhichOneof("parameter_choice") != "int64_param":
        raise invalid(f"invalid value type for '{CLASSIFICATION}' parameter, expected int64_param")
    count = sent[CLASSIFICATION].int64_param
    if count <= 0:
        raise invalid(f"invalid value for '{CLASSIFICATION}' parameter, expected >= 0")
    return count


def _check(name: str, parameter: InferParameter) -> None:
    kind = parameter.WhichOneof("parameter_choice")
    if name in _EXPECTED:
        if kind not in _EXPECTED[name]:
            expected = " or ".join(_EXPECTED[name])
            raise _wrong_type(name, expected)
    elif name.startswith(_RESERVED):
        raise invalid(
            f"parameter keys starting with '{_RESERVED}' are reserved for Triton usage. Only the following keys "
            f"starting with '{_RESERVED}' are allowed: {EMPTY_FINAL_RESPONSE}"
        )
    elif kind in (None, "uint64_param"):
        raise _wrong_type(name, "int64_param, bool_param, or string_param")
    if name == "priority" and kind == "int64_param" and parameter.int64_param < 0:
        raise invalid("invalid value for 'priority', expected value >= 0.")


_EXPECTED: Mapping[str, tuple[str, ...]] = {
    "sequence_id": ("int64_param", "string_param"),
    "sequence_start": ("bool_param",),
    "sequence_end": ("bool_param",),
    "priority": ("int64_param", "uint64_param"),
    "timeout": ("int64_param",),
    EMPTY_FINAL_RESPONSE: ("bool_param",),
}


def _sequence(sent: Sent) -> SequenceStep | None:
    identity: Any = _value(sent["sequence_id"]) if "sequence_id" in sent else 0
    if not identity:
        return None
    start, end = (name in sent and sent[name].bool_param for name in ("sequence_start", "sequence_end"))
    return SequenceStep(identity, start=start, end=end)


def _number(sent: Sent, name: str) -> int:
    return int(_value(sent[name])) if name in sent else 0


def _value(parameter: InferParameter) -> Any:
    return getattr(parameter, parameter.WhichOneof("parameter_choice") or "int64_param")


def _of_tensor(sent: Sent, name: str, expected: str, tensor: str) -> Any:
    if name not in sent:
        return None
    if sent[name].WhichOneof("parameter_choice") != expected:
        raise invalid(f"invalid value type for '{name}' parameter for tensor '{tensor}', expected {expected}.")
    return getattr(sent[name], expected)


def _wrong_type(name: str, expected: str) -> ServingError:
    return invalid(f"invalid value type for '{name}' parameter, expected {expected}.")
