"""Decides which batch sizes get their own ONNX session on a GPU. Pure functions.

ONNX Runtime's CUDA provider plans each convolution for the shape that it saw last, and plans again when the shape
changes, which takes longer than many batches. So each batch size gets a session that sees no other size.
"""

from collections.abc import Iterable, Set
from dataclasses import replace

from headrace_batching import Options
from headrace_server.backends.signature import Signature

MAX_SIZES = 16

_PLANNED = frozenset({"Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger"})
_SHARE = 4  # the weights of all these sessions may use the free memory divided by this


def wants_sizes(operators: Set[str], signatures: Iterable[Signature]) -> bool:
    """Whether changing shapes make a model slow, and its batches differ only in their size."""
    if _PLANNED.isdisjoint(operators):
        return False
    return all(
        signature.batched and all(None not in spec.shape[1:] for spec in signature.inputs.values())
        for signature in signatures
    )


def most_sizes(weights: int, free: int) -> int:
    """The number of sessions for which a GPU has room.

    Args:
        weights: The minimum number of bytes that each session needs.
        free: The number of free bytes.
    """
    return max(1, min(MAX_SIZES, free // _SHARE // max(weights, 1)))


def sizes_for(options: Options, most: int) -> tuple[int, ...]:
    """At most `most` batch sizes, the largest included: the operator's if there are any, otherwise powers of two."""
    limit = options.execution_limit
    sizes = [size for size in options.allowed_batch_sizes if size < limit]
    if not options.allowed_batch_sizes:
        sizes = [1 << power for power in range((limit - 1).bit_length())]
    sizes.append(limit)
    step = -(-len(sizes) // most)
    return tuple(sizes[::-1][::step][::-1])


def padded_to(options: Options, sizes: tuple[int, ...]) -> Options:
    """The parameters that give batches these sizes, if the operator sets none."""
    if options.allowed_batch_sizes:
        return options
    beyond = () if sizes[-1] == options.max_batch_size else (options.max_batch_size,)
    return replace(options, allowed_batch_sizes=(*sizes, *beyond))
