"""The named, typed, shaped inputs and outputs of a model's signature, and the checks of requests against them."""

from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from headrace_batching.padding import Padding
from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType, SignatureDef
from headrace_protos.tensor import TensorError, dtype_name, dtype_of, enum_of
from headrace_server.errors import ServingError, invalid

DEFAULT_SIGNATURE = "serving_default"
PREDICT_METHOD = "tensorflow/serving/predict"
CLASSIFY_METHOD = "tensorflow/serving/classify"
REGRESS_METHOD = "tensorflow/serving/regress"


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    Attributes:
        name: The tensor's name in the model.
        dtype: The element type in requests and responses.
        shape: The tensor's dimensions, None for a varying one.
        dims: Names of the dimensions, "" for one without a name; as long as `shape`.
        any_rank: Whether no rank is declared, so that any shape is accepted; `shape` is then empty.
        appended: The axis along which the model only continues the input, which may thus have a size of 0 there; None
            if there is no such axis.
    """

    name: str
    dtype: DataType
    shape: tuple[int | None, ...]
    dims: tuple[str, ...] = ()
    any_rank: bool = False
    appended: int | None = None

    @cached_property
    def array_dtype(self) -> np.dtype[Any]:
        """The dtype of the tensor's arrays; strings are objects."""
        return dtype_of(self.dtype)

    @cached_property
    def fixed(self) -> tuple[int, ...] | None:
        """The shape beyond axis 0 if all of it is known."""
        inner = tuple(size for size in self.shape[1:] if size is not None)
        return inner if len(inner) == len(self.shape) - 1 else None

    def __str__(self) -> str:
        """A text such as `float32[?,4]`."""
        shape = "..." if self.any_rank else ",".join("?" if size is None else str(size) for size in self.shape)
        return f"{self._dtype_text}[{shape}]"

    @property
    def _dtype_text(self) -> str:
        """The name of the dtype in numpy, or in TensorFlow if arrays cannot have it."""
        if self.dtype == DataType.DT_STRING:
            return "string"
        try:
            return str(self.array_dtype)
        except TensorError:
            return dtype_name(self.dtype).lower()

    def check_dtype(self, array: Array, position: int) -> None:
        """Compares an array's dtype with the declared one.

        Raises:
            ServingError: INVALID_ARGUMENT, in TensorFlow's words.
        """
        if array.dtype != self.array_dtype:
            got = dtype_name(enum_of(array.dtype))
            raise invalid(f"Expects arg[{position}] to be {dtype_name(self.dtype)} but {got} is provided")

    def misfit(self, array: Array) -> str:
        """How an array's shape differs from the declared one, in ONNX Runtime's words; empty if it does not."""
        if self.any_rank:
            return ""
        if array.ndim != len(self.shape):
            return f"Invalid rank for input: {self.name} Got: {array.ndim} Expected: {len(self.shape)}"
        if array.shape[1:] == self.fixed and self.shape[0] is None:
            return ""
        pairs = zip(array.shape, self.shape, strict=True)
        wrong = [(i, got, want) for i, (got, want) in enumerate(pairs) if want is not None and got != want]
        where = "; ".join(f"index: {i} Got: {got} Expected: {want}" for i, got, want in wrong)
        return f"Got invalid dimensions for input: {self.name} for the following indices {where}" if wrong else ""


@dataclass(frozen=True)
class Signature:
    """One signature of a model.

    Attributes:
        inputs: Inputs by the alias that requests use.
        outputs: Outputs by alias.
        method_name: The calls that the signature is meant for, as in TF Serving.
        batched: Whether axis 0 of all inputs is the batch axis.
        any_shape: Whether the runtime accepts any shape that the operators accept, as TF Serving's does; shapes are
            then not compared with their declarations.
        empty: Whether the runtime may be given arrays without elements. Some runtimes crash on them; a dimension of 0
            on any other axis than that of the batch is then refused unless it is declared, or the model only continues
            the input along this axis.
        definition: What GetModelMetadata answers, if the model's file contains it; None if the answer is made from
            the inputs and outputs.
        defaults: Default arrays for inputs that a Predict may leave out, by alias.
        features: Whether the inputs are features of tf.Examples, each under its alias, which are extracted before the
            model runs; otherwise the single input `inputs` takes serialized Examples, and the graph parses them.
        labels: The classes of the output `scores`, by index, for a model that does not return them; otherwise empty.
        optional: Further inputs, for which the model has values of its own. A request that sends any of them
            runs alone.
        padding: How requests whose inputs differ in length share batches; None if they do not.
        bound: Requests share batches only if their floating-point numbers are all finite and at most this large; None
            means that all requests share batches.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method_name: str = PREDICT_METHOD
    batched: bool = False
    any_shape: bool = False
    empty: bool = False
    definition: SignatureDef | None = None
    defaults: Arrays = field(default_factory=dict)
    features: bool = False
    labels: tuple[str, ...] = ()
    optional: Mapping[str, TensorSpec] = field(default_factory=dict)
    padding: Padding | None = None
    bound: float | None = None

    def __str__(self) -> str:
        """A text such as `X float32[?,4] -> label int64[?]`."""
        return self._text

    @cached_property
    def _text(self) -> str:
        sides = (self.inputs, self.outputs)
        return " -> ".join(", ".join(f"{name} {spec}" for name, spec in side.items()) or "nothing" for side in sides)

    @cached_property
    def every_output(self) -> tuple[str, ...]:
        """The aliases of all outputs."""
        return tuple(self.outputs)

    @cached_property
    def one_shape(self) -> bool:
        """Whether all requests that pass the check have the same shape beyond axis 0."""
        return not self.any_shape and all(spec.fixed is not None for spec in self.inputs.values())

    @cached_property
    def sendable(self) -> Mapping[str, TensorSpec]:
        """Everything that a request may send, by alias."""
        return {**self.inputs, **self.optional} if self.optional else self.inputs

    def sends_optional(self, aliases: Collection[str]) -> bool:
        """Whether a request sends an input for which the model has a value of its own."""
        return bool(self.optional) and any(alias in self.optional for alias in aliases)

    def check_names(self, aliases: Collection[str]) -> None:
        """Compares a request's input aliases with the signature's.

        Raises:
            ServingError: INVALID_ARGUMENT. TF Serving's predict_util.cc has the texts and their order.
        """
        if self.optional:
            aliases = [alias for alias in aliases if alias not in self.optional]
        if len(aliases) > len(self.inputs) or (len(aliases) < len(self.inputs) and not self.defaults):
            asked, declared = set(aliases), set(self.inputs)
            raise invalid(
                f"input size does not match signature: {len(asked)}!={len(declared)} "
                f"len({_braced(asked)}) != len({_braced(declared)}). Sent extra: {_braced(asked - declared)}. "
                f"Missing but required: {_braced(declared - asked)}."
            )
        for alias, spec in self.inputs.items():
            if alias not in aliases and alias not in self.defaults:
                raise invalid(
                    f"Signature input alias: {alias}(feed name: {spec.name}) not found in request and no default value "
                    f"provided. Inputs expected to be in the request {_braced(aliases)}, "
                    f"or default input alias set: {','.join(sorted(self.defaults))}"
                )

    def complete(self, arrays: Arrays) -> Arrays:
        """A request's arrays, which include all inputs without a default, with the defaults of the missing inputs.

        Raises:
            ServingError: INVALID_ARGUMENT if an array belongs to no input. TF Serving reports this after it has decoded
                all arrays.
        """
        if not self.defaults:
            return arrays
        used = [alias for alias in self.inputs if alias in arrays]
        if len(used) != len(arrays):
            raise invalid(
                f"Inputs contains invalid name. Used request inputs: {','.join(sorted(used))}, "
                f"request input: {','.join(sorted(arrays))}"
            )
        return {**self.defaults, **arrays}

    def check_outputs(self, output_filter: Sequence[str]) -> tuple[str, ...]:
        """The outputs that a request wants, in the signature's order: those it names, or all.

        Raises:
            ServingError: INVALID_ARGUMENT if an output is unknown or named twice, as in TF Serving's predict_util.cc.
        """
        if not output_filter:
            return self.every_output
        for position, alias in enumerate(output_filter):
            if alias not in self.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {alias} "
                    f"Outputs expected to be in the set {_braced(self.outputs)}."
                )
            if alias in output_filter[:position]:
                raise invalid(f"duplicate output tensor alias: {alias}")
        return tuple(alias for alias in self.outputs if alias in output_filter)

    def check_arrays(self, arrays: Arrays) -> str:
        """Compares every array with its declaration; the names have been checked.

        Returns: How the first wrong shape differs from its declaration; empty if none does.

        Raises:
            ServingError: INVALID_ARGUMENT if a dtype differs from its declaration.
        """
        misfit = ""
        for position, (alias, spec) in enumerate(self.sendable.items()):
            if alias in self.optional and alias not in arrays:
                continue
            array = arrays[alias]
            spec.check_dtype(array, position)
            if not self.any_shape:
                misfit = misfit or spec.misfit(array)
            if not array.size and not self.empty:
                misfit = misfit or self._emptiness(spec, array)
        return misfit

    def _emptiness(self, spec: TensorSpec, array: Array) -> str:
        """Describes a dimension of 0 that the runtime must not get, in the form of `TensorSpec.misfit`."""
        first = 1 if self.batched else 0
        declared = {i for i, size in enumerate(spec.shape) if size == 0}
        allowed = declared | {spec.appended}
        zeros = [i for i, size in enumerate(array.shape) if size == 0 and i >= first and i not in allowed]
        where = "; ".join(f"index: {i} Got: 0 Expected: at least 1" for i in zeros)
        return f"Got invalid dimensions for input: {spec.name} for the following indices {where}" if where else ""

    def is_as_declared(self, arrays: Arrays) -> bool:
        """Whether all arrays have shapes that the model declares; checked arrays may differ only if `any_shape`."""
        return not self.any_shape or not any(spec.misfit(arrays[alias]) for alias, spec in self.inputs.items())

    def is_bounded(self, arrays: Arrays) -> bool:
        """Whether all floating-point numbers of a request are within the bound, if there is one."""
        bound = self.bound
        return bound is None or all(_is_within(bound, array) for array in arrays.values())

    def disagreement(self, arrays: Arrays) -> str:
        """How two dimensions to which the model gives the same name differ; empty if all such dimensions agree."""
        sizes: dict[str, int] = {}
        for spec, array in ((spec, arrays[alias]) for alias, spec in self.inputs.items() if alias in arrays):
            for name, size in zip(spec.dims, array.shape, strict=False):
                if name and sizes.setdefault(name, size) != size:
                    return f"Dimension {name} of input: {spec.name} Got: {size} Expected: {sizes[name]}"
        return ""

    def shape_key(self, arrays: Arrays, *, pad: bool) -> Hashable:
        """A key that must be equal for two checked requests to share a batch; their dtypes are known to be equal.

        Args:
            arrays: The request's arrays, by alias.
            pad: Whether each input is padded with its own first element if the signature has no padding.
        """
        if self.one_shape:
            return ()
        if self.padding is not None:
            return self.padding.key(arrays)
        if pad:
            return tuple(a.ndim if a.size else a.shape[1:] for a in map(arrays.__getitem__, self.inputs))
        return tuple(arrays[alias].shape[1:] for alias in self.inputs)


def _is_within(bound: float, array: Array) -> bool:
    """Whether all numbers are finite and have absolute values up to the bound; always true for integers."""
    if array.dtype.kind not in "fV" or not array.size:
        return True
    own = array[tuple(slice(1) if step == 0 else slice(None) for step in array.strides)]  # without repeated values
    if own.dtype.itemsize == 2:
        own = own.astype(np.float32)  # numpy compares half floats one by one, and does not know bfloat16's NaN
    return bool(own.max() <= bound and own.min() >= -bound)  # false for a NaN


def find_signature(signatures: Mapping[str, Signature], name: str) -> tuple[str, Signature]:
    """The name and the signature that a request selects; an empty name means `serving_default`.

    Raises:
        ServingError: FAILED_PRECONDITION, as in TF Serving's predict_util.cc (other calls return other codes).
    """
    key = name or DEFAULT_SIGNATURE
    try:
        return key, signatures[key]
    except KeyError:
        raise ServingError(Code.FAILED_PRECONDITION, f'Serving signature key "{key}" not found.') from None


def _braced(names: Collection[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"
