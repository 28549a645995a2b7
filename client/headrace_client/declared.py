"""The declarations of models, requested after a refusal: to correct the dtypes of arrays, or to explain the refusal."""

from collections.abc import Mapping
from dataclasses import dataclass

import grpc
import numpy as np
from numpy.typing import ArrayLike

from headrace_client.request import ModelMetadata, ServerError, Signature, TensorSpec, typed

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True, slots=True)
class Wanted:
    """The target of a call: a model, optionally a version or a label, and a signature."""

    model: str
    version: int | None
    label: str | None
    signature: str | None


class Declared:
    """The signatures of models that have refused a request of this client. Any number of threads.

    numpy creates float64 arrays where most models take float32. TF Serving refuses such an array; the client then
    rounds it and sends it again, and rounds later ones at once. Integers are narrowed if every value fits.

    Args:
        convert: Whether arrays are converted at all; if not, models' declarations only serve to explain a refusal.
    """

    def __init__(self, *, convert: bool) -> None:
        self._convert = convert
        self._signatures: dict[Wanted, Signature] = {}

    def fitted(self, wanted: Wanted, inputs: Mapping[str, ArrayLike]) -> Mapping[str, ArrayLike]:
        """The inputs in the dtypes that the model declares, as far as they are known."""
        signature = self._signatures.get(wanted)
        if signature is None or not self._convert:
            return inputs
        return {name: _converted(value, signature.inputs.get(name)) for name, value in inputs.items()}

    def should_ask(self, wanted: Wanted, error: ServerError, *, converted: bool) -> bool:
        """Whether the model's declaration may explain a refusal, and is unknown or may have changed.

        Args:
            wanted: The call's target.
            error: The refusal.
            converted: Whether an array had been converted to a known dtype.
        """
        return error.code is grpc.StatusCode.INVALID_ARGUMENT and (converted or wanted not in self._signatures)

    def learn(self, wanted: Wanted, metadata: ModelMetadata) -> None:
        """Stores what a model declares."""
        signature = metadata.signatures.get(wanted.signature or DEFAULT_SIGNATURE)
        if signature is not None:
            self._signatures[wanted] = signature

    def explained(self, wanted: Wanted, inputs: Mapping[str, ArrayLike], error: ServerError) -> ServerError:
        """The refusal, with each input that differs from the model's declaration."""
        signature = self._signatures.get(wanted)
        differing = [] if signature is None else list(_differences(signature, inputs))
        return ServerError(error.code, error.message, "; ".join(differing))


def _converted(value: ArrayLike, spec: TensorSpec | None) -> ArrayLike:
    """An array in the declared dtype if numpy's default is the only difference; any other value unchanged."""
    if spec is None or spec.dtype is None or not isinstance(value, np.ndarray | np.generic):
        return value
    if value.dtype == np.float64 and spec.dtype.kind == "f":
        return value.astype(spec.dtype)
    if value.dtype == np.int64 and spec.dtype.kind in "iu":
        narrow = value.astype(spec.dtype)
        return narrow if np.array_equal(narrow, value) else value
    return value


def _differences(signature: Signature, inputs: Mapping[str, ArrayLike]) -> list[str]:
    given = {name: np.asarray(typed(value)) for name, value in inputs.items()}
    return [
        f"{name}: the model takes {spec}, and "
        + (f"{TensorSpec(given[name].dtype, given[name].shape)} was sent" if name in given else "nothing was sent")
        for name, spec in signature.inputs.items()
        if name not in given or not _fits(spec, given[name])
    ] + [f"{name}: the model has no such input" for name in given if name not in signature.inputs]


def _fits(spec: TensorSpec, array: np.ndarray) -> bool:
    same_type = spec.dtype is None or array.dtype == spec.dtype or array.dtype.kind in "SUO"
    if spec.shape is None or not same_type:
        return same_type
    sizes = zip(spec.shape, array.shape, strict=False)
    return len(spec.shape) == array.ndim and all(want in (None, got) for want, got in sizes)
