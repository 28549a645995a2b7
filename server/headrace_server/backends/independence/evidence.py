"""What a model's description says about its rows before anything is run."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_server.backends.signature import TensorSpec


@dataclass(frozen=True, slots=True)
class Evidence:
    """A reason to doubt that rows are independent, even if a test found no dependence.

    Attributes:
        reason: What was found, as the end of a sentence.
        advice: What an operator can do about it; empty if nothing.
    """

    reason: str
    advice: str = ""


def repeated_batch_name(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> Evidence | None:
    """Another dimension with the name of the inputs' first one: it grows with the batch."""
    batch = {spec.dims[0] for spec in inputs.values() if spec.dims} - {""}
    for alias, spec in (*inputs.items(), *outputs.items()):
        for name in spec.dims[1:]:
            if name in batch:
                return Evidence(f"{alias!r} has the batch's dimension {name!r} at a position other than the first")
    return None
