"""What a model's description says about its rows, before anything is run."""

from collections.abc import Mapping
from dataclasses import dataclass

from headrace_server.backends.signature import TensorSpec


@dataclass(frozen=True, slots=True)
class Evidence:
    """A reason to doubt that rows are independent, whatever a trial has seen.

    Attributes:
        reason: What was seen, as the end of a sentence.
        advice: What an operator may do about it; empty where there is nothing to do.
    """

    reason: str
    advice: str = ""


def repeated_batch_name(inputs: Mapping[str, TensorSpec], outputs: Mapping[str, TensorSpec]) -> Evidence | None:
    """A dimension beyond the first that has the name of the inputs' first one: it grows with the batch."""
    batch = {spec.dims[0] for spec in inputs.values() if spec.dims} - {""}
    for alias, spec in (*inputs.items(), *outputs.items()):
        for name in spec.dims[1:]:
            if name in batch:
                return Evidence(f"{alias!r} has the batch's dimension {name!r} elsewhere than first in its shape")
    return None
