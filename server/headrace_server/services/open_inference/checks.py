"""Checks 8 to 18 of an inference request: the names in it, and whether each input is as the model declares.

The checks are Triton's, in Triton's order and words (core's infer_request.cc). Shapes must be as declared; only
TensorFlow Serving's Predict is more lenient.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos import DataType
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError, invalid
from headrace_server.services.open_inference.datatypes import BY_NAME, datatype_of
from headrace_server.services.open_inference.regions import Place
from headrace_server.services.open_inference.request import Content, InferRequest, InputTensor
from headrace_server.services.open_inference.strings import unpack

_NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)


@dataclass(frozen=True, slots=True)
class Checks:
    """The checks of one request against one signature.

    Attributes:
        request: The request to check.
        signature: The model's declaration.
        max_rows: The maximum number of rows of a request; 0 for a model that does not batch.
    """

    request: InferRequest
    signature: Signature
    max_rows: int

    def outputs(self) -> tuple[str, ...]:
        """Checks the requested outputs, and returns them sorted by name.

        Raises:
            ServingError: INVALID_ARGUMENT if the model has no such output.
        """
        for name in self.request.outputs:
            if name not in self.signature.outputs:
                raise invalid(f"unexpected inference output '{name}' for model '{self.request.model}'")
        return tuple(sorted(self.request.outputs or self.signature.outputs))

    def arrays(self) -> Arrays:
        """Checks the inputs; returns them as arrays, which may share the request's bytes, with the model's defaults.

        Raises:
            ServingError: INVALID_ARGUMENT if an input is not as declared.
        """
        self._check_count()
        for name in self.request.inputs:
            if name not in self.signature.sendable:
                raise invalid(f"unexpected inference input '{name}' for model '{self.request.model}'")
        if self.max_rows:
            self._check_rows()
        arrays = {
            name: self._array(self.request.inputs[name], spec)
            for name, spec in self.signature.sendable.items()
            if name in self.request.inputs
        }
        return self.signature.complete(arrays)

    def _check_count(self) -> None:
        declared, defaults = self.signature.sendable, {**self.signature.defaults, **self.signature.optional}
        sent = self.request.inputs
        required = [name for name in declared if name not in defaults]
        missing = [name for name in required if name not in sent]
        unknown = any(name not in declared for name in sent)  # the next check reports it
        if len(required) <= len(sent) <= len(declared) and (unknown or not missing):
            return
        expected = f"{len(declared)} inputs"
        if defaults:
            expected = f"number of inputs between {len(required)} and {len(declared)}"
        # Triton writes a lone bracket where no input is missing.
        raise self._refused(
            f"expected {expected} but got {len(sent)} inputs for model '{self.request.model}'. "
            f"Got input(s) [{_quoted(sent)}], but missing required input(s) "
            f"{'[' if missing else ''}{_quoted(missing)}]. Please provide all required input(s)."
        )

    def _check_rows(self) -> None:
        model, rows = self.request.model, None
        for name, tensor in self.request.inputs.items():
            if not tensor.shape:
                raise self._refused(f"input '{name}' has no shape but model requires batch dimension for '{model}'")
            if rows is not None and tensor.shape[0] != rows:
                raise self._refused(f"input '{name}' batch size does not match other inputs for '{model}'")
            rows = tensor.shape[0]
        if rows is not None and rows > self.max_rows:
            raise self._refused(f"inference request batch-size must be <= {self.max_rows} for '{model}'")

    def _array(self, tensor: InputTensor, spec: TensorSpec) -> Array:
        model, name = self.request.model, tensor.name
        want = datatype_of(spec.dtype).name
        if tensor.datatype != want:
            got = tensor.datatype if tensor.datatype in BY_NAME else "<invalid>"
            raise self._refused(f"inference input '{name}' data-type is '{got}', but model '{model}' expects '{want}'")
        if any(size < 0 for size in tensor.shape):
            got = _bracketed(tensor.shape)
            raise self._refused(
                f"All input dimensions should be specified for input '{name}' for model '{model}', got {got}"
            )
        if not (spec.any_rank or _fits(tensor.shape, spec.shape)):
            expected = _bracketed(-1 if size is None else size for size in spec.shape)
            raise self._refused(
                f"unexpected shape for input '{name}' for model '{model}'. Expected {expected}, "
                f"got {_bracketed(tensor.shape)}. {_NOTE if self.max_rows else ''}"
            )
        return self._strings(tensor) if spec.dtype == DataType.DT_STRING else self._numbers(tensor, spec)

    def _numbers(self, tensor: InputTensor, spec: TensorSpec) -> Array:
        content = tensor.content
        got = _size_of(content)
        shape = self._counted(tensor.shape)
        expected = prod(shape) * spec.array_dtype.itemsize
        if got != expected or shape != tensor.shape:
            raise self._refused(
                f"input byte size mismatch for input '{tensor.label or tensor.name}' for model '{self.request.model}'. "
                f"Expected {expected}, got {got}"
            )
        if isinstance(content, Place):  # the region is not read before its size is known to be right
            content = content.read()
        array: Array = content if isinstance(content, np.ndarray) else np.frombuffer(content, spec.array_dtype)
        return np.require(array, requirements="A").reshape(tensor.shape)  # bytes after JSON may begin at any offset

    def _counted(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape from which the expected size is computed: Triton expects one row even of an input that has none.

        So an input without rows is refused.
        """
        return (1, *shape[1:]) if self.max_rows and not shape[0] else shape

    def _strings(self, tensor: InputTensor) -> Array:
        count = prod(self._counted(tensor.shape))
        content = tensor.content
        if isinstance(content, np.ndarray):
            if len(content) == count and count == prod(tensor.shape):
                return content.reshape(tensor.shape)
            where = f"inference input '{tensor.name}' for model '{self.request.model}'"
            if len(content) > count:
                raise self._refused(f"unexpected number of string elements {count + 1} for {where}, expecting {count}")
            raise self._refused(f"expected {count} string elements for {where}, got {len(content)}")
        ends = (self.request.tag, self.request.model)
        if isinstance(content, Place):
            content = content.read()
        return unpack(content, count, tensor.name, ends).reshape(tensor.shape)

    def _refused(self, text: str) -> ServingError:
        return invalid(f"{self.request.tag}{text}")


def _size_of(content: Content) -> int:
    """The number of bytes of a tensor's content."""
    if isinstance(content, Place):
        return content.size
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def _fits(shape: Sequence[int], declared: Sequence[int | None]) -> bool:
    """Whether a shape matches its declaration."""
    pairs = zip(shape, declared, strict=False)
    return len(shape) == len(declared) and all(want is None or got == want for got, want in pairs)


def _bracketed(shape: Iterable[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _quoted(names: Iterable[str]) -> str:
    return ",".join(f"'{name}'" for name in names)
