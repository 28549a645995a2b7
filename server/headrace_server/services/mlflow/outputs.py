"""Converts arrays to the body of an answer: `predictions`, by output or by record, byte for byte as in MLflow."""

import json
from binascii import b2a_base64
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_server.errors import invalid


def write_predictions(outputs: Arrays, output: str, rows: int | None) -> bytes:
    """The body of an answer.

    Args:
        outputs: The model's outputs, by alias.
        output: The output whose values are the predictions; empty means all outputs, by name.
        rows: The number of rows of the table that was sent, if the answer is to be a table, too.

    Raises:
        ServingError: INVALID_ARGUMENT if the values cannot be written as JSON.
    """
    if output:
        predictions: Any = _values(output, outputs[output])
    elif rows is not None and all(array.ndim and len(array) == rows for array in outputs.values()):
        columns = {name: _cells(name, array) for name, array in outputs.items()}
        predictions = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
    else:
        predictions = {name: _values(name, array) for name, array in outputs.items()}
    return json.dumps({"predictions": predictions}).encode()


def write_error(error_code: str, message: str) -> bytes:
    """The body of an answer that is an error."""
    return json.dumps({"error_code": error_code, "message": message}).encode()


def _cells(name: str, array: Array) -> Any:
    """The cells of an output, one for each record: a single value without a list around it, or a list."""
    return _values(name, array.reshape(len(array)) if array.size == len(array) else array)


def _values(name: str, array: Array) -> Any:
    if array.dtype.kind == "c":
        raise invalid(f"output '{name}' holds complex numbers, which JSON cannot express")
    if array.dtype.hasobject:
        return _texts(array.tolist())
    return (array.astype(np.float32) if array.dtype.kind == "V" else array).tolist()  # JSON has no bfloat16


def _texts(value: Any) -> Any:
    """Strings as text; bytes that are not UTF-8 become base64, as MLflow writes binary values."""
    if isinstance(value, list):
        return [_texts(item) for item in value]
    if isinstance(value, str):
        return value
    try:
        return bytes(value).decode()
    except UnicodeDecodeError:
        return b2a_base64(value).decode()
