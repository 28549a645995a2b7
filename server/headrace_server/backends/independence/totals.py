"""Recognises, by its name, a dimension that is the number of all tokens, earlier and new, of an exported decoder."""

from collections.abc import Mapping
from dataclasses import replace

from headrace_server.backends.signature import TensorSpec

Specs = Mapping[str, TensorSpec]


def with_totals(inputs: Specs, outputs: Specs) -> tuple[Specs, Specs]:
    """The inputs and outputs, with the name `total_length` replaced by `past_length + length`.

    This applies only if exactly one name of an inner dimension contains `total`, and exactly one other contains `past`.
    The first of the remaining names of the inputs stands for `length`, which is 1 if no name remains.
    """
    batch = {spec.dims[0] for spec in inputs.values() if spec.dims}
    names = dict.fromkeys(name for spec in inputs.values() for name in spec.dims[1:] if name and name not in batch)
    totals = [name for name in names if "total" in name.lower()]
    pasts = [name for name in names if "past" in name.lower() and name not in totals]
    if len(totals) != 1 or len(pasts) != 1:
        return inputs, outputs
    new = next((name for name in names if name not in (*totals, *pasts)), "1")
    total, terms = totals[0], f"{pasts[0]} + {new}"

    def renamed(specs: Specs) -> Specs:
        return {
            alias: replace(spec, dims=tuple(terms if name == total else name for name in spec.dims))
            for alias, spec in specs.items()
        }

    return renamed(inputs), renamed(outputs)
