"""Reads the inputs of real requests from a version's warm-up file."""

from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np

from headrace_batching.task import Arrays
from headrace_protos import PredictionLog
from headrace_protos.tensor import to_array
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature
from headrace_server.models.tfrecord import read_records

WARMUP_FILE = Path("assets.extra", "tf_serving_warmup_requests")

MOST = 16
"""The maximum number of records that are read."""


def recorded_inputs(folder: Path, signatures: Mapping[str, Signature]) -> dict[str, list[Arrays]]:
    """Up to this many requests of each signature, by its name, whose inputs all have the same number of rows.

    A missing or corrupt file gives none: the warm-up reports the error.
    """
    found: dict[str, list[Arrays]] = {name: [] for name in signatures}
    try:
        with (folder / WARMUP_FILE).open("rb") as file:
            for record in islice(read_records(file), MOST):
                name, inputs = inputs_of(PredictionLog.FromString(record))
                if name in signatures and _fits(signatures[name], inputs):
                    found[name].append(inputs)
    except Exception:
        return found
    return found


def inputs_of(log: PredictionLog) -> tuple[str, Arrays]:
    """The signature that a logged request names, and its inputs; both are empty if such requests have no arrays."""
    kind = log.WhichOneof("log_type")
    if kind == "predict_log":
        request = log.predict_log.request
        return request.model_spec.signature_name or DEFAULT_SIGNATURE, {
            alias: to_array(tensor) for alias, tensor in request.inputs.items()
        }
    if kind in ("classify_log", "regress_log"):
        examples = getattr(log, kind).request
        name = examples.model_spec.signature_name or DEFAULT_SIGNATURE
        serialized = [example.SerializeToString() for example in examples.input.example_list.examples]
        return name, {"inputs": np.array(serialized, object)}
    return "", {}


def _fits(signature: Signature, inputs: Arrays) -> bool:
    if inputs.keys() != signature.inputs.keys():
        return False
    pairs: Iterator[bool] = (
        inputs[alias].dtype == spec.array_dtype and (not spec.shape or inputs[alias].ndim == len(spec.shape))
        for alias, spec in signature.inputs.items()
    )
    rows = {len(array) if array.ndim else 0 for array in inputs.values()}
    return all(pairs) and len(rows) == 1 and 0 not in rows
