"""The signatures of an ONNX model: its graph's inputs and outputs, or those in its metadata or `model.toml`."""

import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from headrace_protos import DataType
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.batch_axis import may_be_batched
from headrace_server.backends.onnx.names import METADATA_KEY, TYPE_NAMES
from headrace_server.backends.onnx.native_session import Session
from headrace_server.backends.signature import (
    CLASSIFY_METHOD,
    DEFAULT_SIGNATURE,
    PREDICT_METHOD,
    REGRESS_METHOD,
    Signature,
    TensorSpec,
)
from headrace_server.config.model_toml import SignatureOptions
from headrace_server.errors import ServingError, invalid

log = logging.getLogger(__name__)

EXAMPLES = "inputs"
"""The alias that TF Serving gives the single input that takes serialized tf.Examples."""

_METHODS = {"predict": PREDICT_METHOD, "classify": CLASSIFY_METHOD, "regress": REGRESS_METHOD}


def data_type_of(kind: str) -> DataType:
    """The type for a name that ONNX Runtime gives, such as `tensor(float)`."""
    return TYPE_NAMES[kind]


Shapes = tuple[tuple[int | str | None, ...], ...]
"""Shapes as ONNX Runtime declares them: dimensions that vary have a name, or None."""


@dataclass(frozen=True)
class Found:
    """The signatures of a model.

    Attributes:
        by_name: The signatures, by name.
        output_shapes: The shapes of the graph's outputs, in the graph's order.
        is_shared: Whether models with equal declarations share the signatures.
    """

    by_name: Mapping[str, Signature]
    output_shapes: Shapes
    is_shared: bool = True


def output_shapes(session: Session) -> Shapes:
    """The shapes of a graph's outputs. ONNX Runtime infers what the graph leaves open, in part from weights."""
    return tuple([tuple(output.shape) for output in session.get_outputs()])


def find_signatures(
    session: Session,
    options: BackendOptions,
    any_rank: frozenset[str] | None,
    *,
    empty: bool,
    appended: tuple[tuple[str, int], ...] = (),
) -> Found:
    """Like `signatures_of`, but also decides which have a batch axis; models with equal declarations share the result.

    Args:
        session: The loaded model.
        options: The options from `model.toml` and the flags.
        any_rank: As for `signatures_of`.
        empty: Whether the model may be given arrays without elements.
        appended: The axes along which the graph only continues inputs, with the inputs' names.

    Raises:
        ServingError: As for `signatures_of`.
    """
    make = partial(_found, session, options.signatures, any_rank, empty=empty, appended=dict(appended))
    sides = (session.get_inputs(), session.get_outputs(), session.get_overridable_initializers())
    declared = tuple(tuple((arg.name, arg.type, *arg.shape) for arg in side) for side in sides)
    if options.signatures or any(kind not in TYPE_NAMES for side in declared for _, kind, *_ in side):
        return replace(make(), is_shared=False)  # not shared: making them also logs lines about this model
    metadata = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
    return options.shared.get(("onnx signatures", declared, metadata, any_rank, empty, appended), make)


def _found(
    session: Session,
    declared: Mapping[str, SignatureOptions],
    any_rank: frozenset[str] | None,
    *,
    empty: bool,
    appended: Mapping[str, int],
) -> Found:
    signatures = signatures_of(session, declared, any_rank).items()
    return Found(
        {
            name: replace(
                each,
                inputs=_with_appended(each.inputs, appended),
                batched=may_be_batched(each.inputs),
                empty=empty or each.empty,
            )
            for name, each in signatures
        },
        output_shapes(session),
    )


def _with_appended(inputs: Mapping[str, TensorSpec], appended: Mapping[str, int]) -> Mapping[str, TensorSpec]:
    """The same inputs with the axes along which the graph only continues them."""
    if not appended:
        return inputs
    return {alias: replace(spec, appended=appended.get(spec.name)) for alias, spec in inputs.items()}


def signatures_of(
    session: Session, declared: Mapping[str, SignatureOptions], any_rank: Collection[str] | None = None
) -> dict[str, Signature]:
    """The signatures of a model, by name: `serving_default` is the whole graph unless it is defined otherwise.

    Whether the signatures have a batch axis is decided later.

    Args:
        session: The loaded model.
        declared: The signatures in `model.toml`; if empty, the model's metadata decide.
        any_rank: Inputs without a declared rank, which ONNX Runtime describes like scalars; None if they are unknown;
            then any input that looks like a scalar may have any shape.

    Raises:
        ServingError: INVALID_ARGUMENT if a tensor has a type that a request cannot contain, or a signature names a
            tensor that does not exist; the text names the tensor.
    """
    inputs = {arg.name: _input(_spec(arg), any_rank) for arg in session.get_inputs()}
    outputs = _tensors(session.get_outputs(), declared)
    signatures = make_signatures(inputs, outputs, session.get_modelmeta().custom_metadata_map, declared)
    optional = {arg.name: _spec(arg) for arg in session.get_overridable_initializers() if arg.type in TYPE_NAMES}
    return {name: _with_optional(signature, optional) for name, signature in signatures.items()}


def _with_optional(signature: Signature, optional: Mapping[str, TensorSpec]) -> Signature:
    """The same signatures with the inputs for which the model has values; requests use their names in the graph."""
    others = {name: spec for name, spec in optional.items() if name not in signature.inputs}
    return replace(signature, optional=others) if others else signature


def _tensors(outputs: Sequence[Any], declared: Mapping[str, SignatureOptions]) -> dict[str, TensorSpec]:
    """The outputs that a tensor can contain; the others are not served, and a log line says so.

    Raises:
        ServingError: INVALID_ARGUMENT if a tensor can contain none of them, or not the one that a signature in
            `model.toml` names.
    """
    others = [arg for arg in outputs if arg.type not in TYPE_NAMES]
    named = {name for options in declared.values() for name in options.outputs.values()}
    for arg in others:
        if arg.name in named or len(others) == len(outputs):
            raise _no_tensor(arg)
        log.warning("output %r is a %s, which a tensor cannot contain: it is not served", arg.name, arg.type)
    return {arg.name: _spec(arg) for arg in outputs if arg.type in TYPE_NAMES}


def make_signatures(
    inputs: Mapping[str, TensorSpec],
    outputs: Mapping[str, TensorSpec],
    metadata: Mapping[str, str],
    declared: Mapping[str, SignatureOptions],
) -> dict[str, Signature]:
    """Like `signatures_of`, but takes the inputs and outputs, by name, and the model's metadata."""
    declared = declared or _in_metadata(metadata.get(METADATA_KEY, ""))
    declared = {DEFAULT_SIGNATURE: SignatureOptions(), **declared}
    return {name: _signature(name, options, inputs, outputs) for name, options in declared.items()}


def _in_metadata(text: str) -> dict[str, SignatureOptions]:
    try:
        return {name: _options(**table) for name, table in json.loads(text or "{}").items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise invalid(f"its metadata {METADATA_KEY} is not valid: {error}") from error


def _options(method: Any = "predict", inputs: Any = None, outputs: Any = None, labels: Any = ()) -> SignatureOptions:
    if method not in _METHODS:
        raise ValueError(f"method must be one of {', '.join(_METHODS)}; was {method!r}")
    if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
        raise ValueError(f"labels must be a list of strings; was {labels!r}")
    return SignatureOptions(method=method, inputs=_names(inputs), outputs=_names(outputs), labels=tuple(labels))


def _names(value: Any) -> dict[str, str]:
    if value is not None and not all(isinstance(name, str) for name in value.values()):
        raise ValueError(f"inputs and outputs must be tables that map aliases to names of tensors; was {value!r}")
    return value or {}


def _signature(
    name: str, options: SignatureOptions, inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]
) -> Signature:
    chosen_inputs = _chosen(name, "input", options.inputs, inputs)
    chosen_outputs = _chosen(name, "output", options.outputs, outputs)
    if missing := set(inputs) - {spec.name for spec in chosen_inputs.values()}:
        raise invalid(f"signature {name} leaves out the model's input {', '.join(sorted(missing))}")
    return Signature(
        chosen_inputs,
        chosen_outputs,
        method_name=_METHODS[options.method],
        features=not _takes_examples(chosen_inputs),
        labels=tuple(options.labels or ()),
    )


def _chosen(
    name: str, kind: str, tensor_by_alias: Mapping[str, str], specs: Mapping[str, TensorSpec]
) -> dict[str, TensorSpec]:
    for alias, tensor in tensor_by_alias.items():
        if tensor not in specs:
            raise invalid(f"signature {name}: the model has no {kind} {tensor!r} for {alias!r}; it has {list(specs)}")
    return {alias: specs[tensor] for alias, tensor in tensor_by_alias.items()} if tensor_by_alias else dict(specs)


def _takes_examples(inputs: Mapping[str, TensorSpec]) -> bool:
    return list(inputs) == [EXAMPLES] and inputs[EXAMPLES].dtype == DataType.DT_STRING


def _input(spec: TensorSpec, any_rank: Collection[str] | None) -> TensorSpec:
    return replace(spec, any_rank=not spec.shape and (any_rank is None or spec.name in any_rank))


def _spec(arg: Any) -> TensorSpec:
    if arg.type not in TYPE_NAMES:
        raise _no_tensor(arg)
    shape = tuple(size if isinstance(size, int) else None for size in arg.shape)
    dims = tuple(size if isinstance(size, str) else "" for size in arg.shape)
    return TensorSpec(arg.name, TYPE_NAMES[arg.type], shape, dims)


def _no_tensor(arg: Any) -> ServingError:
    return invalid(f"{arg.name!r} is a {arg.type}, which a tensor cannot contain")
