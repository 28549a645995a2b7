"""Chooses the sizes of generated inputs beyond axis 0."""

from collections.abc import Iterator, Mapping
from math import prod

from headrace_server.backends.signature import TensorSpec

ROWS = None
"""Stands for an inner size that equals the number of rows."""


def inner_sizes(inputs: Mapping[str, TensorSpec], usual: int, *, distinct: bool) -> dict[str, tuple[int | None, ...]]:
    """The sizes of each input beyond axis 0: one per name, or per axis that has no name.

    Args:
        inputs: The inputs by alias.
        usual: The size of the first dimension that varies.
        distinct: Whether the sizes of other dimensions are larger, each by one.
    """
    batch = {spec.dims[0] for spec in inputs.values() if spec.dims} - {""}
    sizes: dict[str, int | None] = dict.fromkeys(batch, ROWS)

    def size_of(name: str) -> int | None:
        terms = [term.strip() for term in name.split("+")]
        if len(terms) > 1:  # such as `past_length + length`, as exporters write it
            return sum(int(term) if term.isdigit() else size_of(term) or usual for term in terms)
        return sizes.setdefault(name, usual + (len(sizes) - len(batch) if distinct else 0))

    def inner(spec: TensorSpec) -> Iterator[int | None]:
        for axis, size in enumerate(spec.shape[1:], start=1):
            name = spec.dims[axis] if axis < len(spec.dims) else ""
            yield size if size is not None else size_of(name or f"axis {axis}")

    return {alias: tuple(inner(spec)) for alias, spec in inputs.items()}


def elements(inputs: Mapping[str, TensorSpec], usual: int, *, distinct: bool) -> int:
    """The number of elements in a row of all inputs."""
    every = inner_sizes(inputs, usual, distinct=distinct).values()
    return sum(prod(1 if size is ROWS else size for size in sizes) for sizes in every)
