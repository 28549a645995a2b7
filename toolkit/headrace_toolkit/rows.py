"""Whether rows of several callers may share a batch of a model: the server's own trial, on the user's rows."""

from collections.abc import Mapping
from pathlib import Path

from headrace_batching.task import Array
from headrace_server.backends.independence import Finding, Subject, Verdict, repeated_batch_name, try_rows
from headrace_server.backends.onnx.graph import read_graph
from headrace_toolkit.running import OnnxModel, rows_at_once

TRIED_ROWS = 16
"""The maximum number of the user's rows from which the trial makes its batches."""

TRIAL_SECONDS = 5.0
"""The seconds after which a trial is cut short."""


def try_model(file: Path, rows: Mapping[str, Array] | None) -> Verdict:
    """The verdict on a model's rows, as the server would reach it when it loads the file.

    Args:
        file: An ONNX model.
        rows: Some of the user's rows, by input name; with None the trial generates its own.
    """
    model = OnnxModel(file)
    signature = model.signature
    if (fixed := rows_at_once(signature)) is not None:
        return Verdict(Finding.NO_BATCH_AXIS, f"the first dimension is fixed at {fixed}")
    for name, spec in (*signature.inputs.items(), *signature.outputs.items()):
        if not spec.shape or spec.shape[0] is not None:
            return Verdict(Finding.NO_BATCH_AXIS, f"the first dimension of {name} does not vary")
    repeated, graph = repeated_batch_name(signature.inputs, signature.outputs), read_graph(file)
    subject = Subject(
        run=model.run,
        inputs=signature.inputs,
        outputs=signature.outputs,
        evidence=[*(graph.evidence if graph else ()), *([repeated] if repeated else [])],
        records=[] if rows is None else [rows],
    )
    return try_rows(subject, TRIAL_SECONDS)
