"""Pure functions on optimization profiles: which ones to build, which one a batch runs in, and how it is padded."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import inf, prod
from typing import NamedTuple

from headrace_batching import Options
from headrace_server.backends.signature import TensorSpec
from headrace_server.config.tensorrt import Range, TensorrtOptions
from headrace_server.errors import ServingError, invalid

Shape = tuple[int, ...]

MAX_PROFILES = 8
"""Up to this many allowed batch sizes get a profile each; if there are more, one profile serves all."""


class Bounds(NamedTuple):
    """The range of one input in one profile."""

    least: Shape
    usual: Shape
    most: Shape

    def admit(self, shape: Shape) -> bool:
        """Whether a shape is within the range."""
        if len(shape) != len(self.most):
            return False
        return all(low <= size <= high for low, size, high in zip(self.least, shape, self.most, strict=True))


Profile = Mapping[str, Bounds]
"""The bounds of each input, by name."""


def profiles_for(inputs: Mapping[str, TensorSpec], batching: Options | None, options: TensorrtOptions) -> list[Profile]:
    """The profiles to build an engine with: none if no input varies.

    If the first dimension of every input varies, it is the batch axis: it goes up to the largest batch, and the engine
    is tuned for each allowed size, in a profile of its own as long as there are few sizes.

    Args:
        inputs: The model's inputs.
        batching: How the model's requests become batches; None if each runs alone.
        options: The ranges of the other dimensions.

    Raises:
        ServingError: INVALID_ARGUMENT if a dimension that varies has no range, or a range names an unknown dimension.
    """
    batched = all(spec.shape and spec.shape[0] is None for spec in inputs.values())
    _check_known(inputs, options, batched=batched)
    if all(size is not None for spec in inputs.values() for size in spec.shape):
        return []
    if not batched:
        return [_profile(inputs, None, options)]
    return [_profile(inputs, rows, options) for rows in _row_ranges(batching, options)]


def choose(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int | None:
    """Of the profiles that admit the shapes, the one that is tuned for the nearest sizes; None if none admits them."""

    def distance(index: int) -> float:
        profile = profiles[index]
        if not all(profile[name].admit(shape) for name, shape in shapes.items()):
            return inf
        return sum(abs(prod(profile[name].usual) - prod(shape)) for name, shape in shapes.items())

    best = min(range(len(profiles)), key=distance)
    return None if distance(best) == inf else best


def misfit(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> ServingError:
    """An INVALID_ARGUMENT that says why no profile admits the shapes. The caller has checked their ranks."""
    for name, shape in shapes.items():
        for axis, size in enumerate(shape):
            low = min(profile[name].least[axis] for profile in profiles)
            high = max(profile[name].most[axis] for profile in profiles)
            if not low <= size <= high:
                return invalid(
                    f"input {name}: dimension {axis} is {size}, and the engine was built for {low} to {high}"
                )
    shown = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    return invalid(f"no optimization profile of the engine takes these sizes together: {shown}")


def least_rows(profiles: Sequence[Profile], shapes: Mapping[str, Shape]) -> int:
    """The number of rows that a batch needs for the nearest profile: its own number if a profile accepts that."""
    rows = min(shape[0] for shape in shapes.values())
    least = sorted({bounds.least[0] for profile in profiles for bounds in profile.values()})
    return next((low for low in (rows, *least) if low >= rows and _takes(profiles, shapes, low)), rows)


def fitted(options: Options, most: int, *, graphs: bool) -> Options:
    """The parameters with which no batch has more rows than the engine takes.

    Args:
        options: The operator's parameters.
        most: The maximum number of rows that the engine takes.
        graphs: Whether batches should have few sizes: powers of two, if the operator gives none.
    """
    if options.enable_large_batch_splitting:
        return replace(options, max_execution_batch_size=min(options.execution_limit, most))
    largest = min(options.max_batch_size, most)
    sizes = options.allowed_batch_sizes
    if sizes:
        sizes = (*(size for size in sizes if size < largest), largest)
    elif graphs:
        sizes = (*(1 << power for power in range((largest - 1).bit_length())), largest)
    larger_alone = options.larger_alone and largest == options.max_batch_size
    return replace(options, max_batch_size=largest, allowed_batch_sizes=sizes, larger_alone=larger_alone)


def _takes(profiles: Sequence[Profile], shapes: Mapping[str, Shape], rows: int) -> bool:
    return choose(profiles, {name: (rows, *shape[1:]) for name, shape in shapes.items()}) is not None


def _row_ranges(batching: Options | None, options: TensorrtOptions) -> list[Range]:
    most = batching.execution_limit if batching is not None else 1
    usual = min(options.opt_batch_size or most, most)
    sizes = [size for size in (batching.allowed_batch_sizes if batching else ()) if size <= most]
    if not sizes or sizes[-1] < most or len(sizes) > MAX_PROFILES or options.opt_batch_size:
        return [(1, usual, most)]
    # The profile of a size also takes fewer rows, since requests that run alone and warm-ups with zeros are not padded.
    return [(low + 1, size, size) for low, size in zip((0, *sizes), sizes, strict=False)]


def _profile(inputs: Mapping[str, TensorSpec], rows: Range | None, options: TensorrtOptions) -> Profile:
    profile = {}
    for name, spec in inputs.items():
        ranges = [_range(spec, axis, options) if axis or rows is None else rows for axis in range(len(spec.shape))]
        profile[name] = Bounds(*(tuple(sizes) for sizes in zip(*ranges, strict=True))) if ranges else Bounds((), (), ())
    return profile


def _range(spec: TensorSpec, axis: int, options: TensorrtOptions) -> Range:
    size = spec.shape[axis]
    if size is not None:
        return size, size, size
    for name in dimension_names(spec, axis):
        if name in options.dimensions:
            return options.dimensions[name]
    names = dimension_names(spec, axis)
    raise invalid(
        f"dimension {axis} of input {spec.name} varies: say between which sizes, with dimensions = {{ {names[0]!r} = "
        f"[least, usual, most] }} in [tensorrt] of model.toml ({' or '.join(map(repr, names))})"
    )


def dimension_names(spec: TensorSpec, axis: int) -> list[str]:
    """The names of a dimension in the options."""
    named = spec.dims[axis] if axis < len(spec.dims) else ""
    return [*([named] if named else []), f"{spec.name}.{axis}"]


def _check_known(inputs: Mapping[str, TensorSpec], options: TensorrtOptions, *, batched: bool) -> None:
    known = {
        name
        for spec in inputs.values()
        for axis, size in enumerate(spec.shape)
        if size is None and (axis or not batched)
        for name in dimension_names(spec, axis)
    }
    for name in options.dimensions:
        if name not in known:
            raise invalid(f"dimensions: no input has a dimension {name!r} that varies; there are {sorted(known)}")
