"""Inputs and outputs as text, such as `float32[N,1,8,8]`: written for people and read from recipes and flags."""

import re

import numpy as np

from headrace_protos.tensor import enum_of
from headrace_server.backends.signature import TensorSpec
from headrace_toolkit.errors import ToolkitError

_DTYPES = {
    name: np.dtype(name)
    for name in ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
                 "uint64", "bool")
}  # fmt: skip

_FORM = re.compile(r"\s*(\w+)\s*\[(.*)\]\s*")


def read_spec(name: str, text: str) -> TensorSpec:
    """The spec that a text such as `float32[N,1,8,8]` describes: N or another name for a size that varies.

    Raises:
        ToolkitError: The text has another form.
    """
    match = _FORM.fullmatch(text)
    if not match or (match[1] not in _DTYPES and match[1] != "string"):
        raise ToolkitError(
            f"input {name} must be described like float32[N,1,8,8], of one of {', '.join(_DTYPES)}, string; "
            f"was {text!r}"
        )
    dims = [part.strip() for part in match[2].split(",")] if match[2].strip() else []
    if not all(dim.isdigit() or dim.isidentifier() for dim in dims):
        raise ToolkitError(f"input {name}: each dimension must be a number or a name; was {text!r}")
    return TensorSpec(
        name,
        enum_of(_DTYPES.get(match[1], np.dtype(object))),
        tuple(int(dim) if dim.isdigit() else None for dim in dims),
        tuple("" if dim.isdigit() else dim for dim in dims),
    )


def write_spec(spec: TensorSpec) -> str:
    """A spec as `read_spec` reads it; `?` for a size that varies and has no name."""
    names = [*spec.dims, *[""] * len(spec.shape)]
    sizes = [(names[axis] or "?") if size is None else str(size) for axis, size in enumerate(spec.shape)]
    kind = "string" if spec.array_dtype.kind == "O" else str(spec.array_dtype)
    return f"{kind}[{','.join(sizes)}]"
