"""Evidence about a model's rows that its description gives, before anything is run."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_server.backends.signature import TensorSpec


@dataclass(frozen=True, slots=True)
class Evidence:
    """A reason to doubt that rows are independent, even if a test found no dependence.

    Attributes:
        reason: The finding, as the end of a sentence.
        advice: Advice for the operator; empty if there is none.
    """

    reason: str
    advice: str = ""


def repeated_batch_name(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> Evidence | None:
    """Evidence if another dimension has the name of the batch's, so that it grows with the batch; otherwise None."""
    batch = {spec.dims[0] for spec in inputs.values() if spec.dims} - {""}
    for alias, spec in (*inputs.items(), *outputs.items()):
        for name in spec.dims[1:]:
            if name in batch:
                return Evidence(f"{alias!r} has the batch's dimension {name!r} at a position other than the first")
    return None
