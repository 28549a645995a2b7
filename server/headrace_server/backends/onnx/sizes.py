"""Which batch sizes have an ONNX session of their own on a GPU, pure.

ONNX Runtime's CUDA provider has a plan of each convolution for the shape that it saw last, and makes another when the
shape changes, which takes longer than many batches. So each size that batches may have gets a session that sees no
other.
"""

from collections.abc import Iterable, Set
from dataclasses import replace

from headrace_batching import Options
from headrace_server.backends.signature import Signature

MAX_SIZES = 16

_PLANNED = frozenset({"Conv", "ConvTranspose", "FusedConv", "QLinearConv", "ConvInteger"})
_SHARE = 4  # of the memory that is free, the part that all these sessions' weights may take is one such


def wants_sizes(operators: Set[str], signatures: Iterable[Signature]) -> bool:
    """Whether a model is slow where its shapes change, and the size of the batch is all that changes in them."""
    if _PLANNED.isdisjoint(operators):
        return False
    return all(
        signature.batched and all(None not in spec.shape[1:] for spec in signature.inputs.values())
        for signature in signatures
    )


def most_sizes(weights: int, free: int) -> int:
    """The sessions that a GPU has room for.

    Args:
        weights: Bytes that each takes, at least.
        free: Bytes that nobody has taken.
    """
    return max(1, min(MAX_SIZES, free // _SHARE // max(weights, 1)))


def sizes_for(options: Options, most: int) -> tuple[int, ...]:
    """The operator's where there are any, else powers of two: no more than `most`, the largest among them."""
    limit = options.execution_limit
    sizes = [size for size in options.allowed_batch_sizes if size < limit]
    if not options.allowed_batch_sizes:
        sizes = [1 << power for power in range((limit - 1).bit_length())]
    sizes.append(limit)
    step = -(-len(sizes) // most)
    return tuple(sizes[::-1][::step][::-1])


def padded_to(options: Options, sizes: tuple[int, ...]) -> Options:
    """The parameters under which batches have these sizes, where the operator names none."""
    if options.allowed_batch_sizes:
        return options
    beyond = () if sizes[-1] == options.max_batch_size else (options.max_batch_size,)
    return replace(options, allowed_batch_sizes=(*sizes, *beyond))
