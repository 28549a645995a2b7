"""Which batch sizes get a separate session."""

import pytest

from headrace_batching import Options
from headrace_protos import DataType
from headrace_server.backends.onnx.sizes import most_sizes, padded_to, sizes_for, wants_sizes
from headrace_server.backends.signature import Signature, TensorSpec


def signature(*shape: int | None, batched: bool = True) -> Signature:
    spec = TensorSpec("x", DataType.DT_FLOAT, shape, ("",) * len(shape))
    return Signature({"x": spec}, {"x": spec}, batched=batched)


@pytest.mark.parametrize(
    ("options", "most", "sizes"),
    [
        (Options(max_batch_size=8), 16, (1, 2, 4, 8)),
        (Options(max_batch_size=6), 16, (1, 2, 4, 6)),
        (Options(max_batch_size=1), 16, (1,)),
        (Options(max_batch_size=64), 3, (1, 8, 64)),
        (Options(max_batch_size=64), 1, (64,)),
        (Options(max_batch_size=8, allowed_batch_sizes=(3, 8)), 16, (3, 8)),
        (Options(max_batch_size=8, allowed_batch_sizes=(1, 2, 3, 8)), 2, (2, 8)),
        (Options(max_batch_size=9, enable_large_batch_splitting=True, max_execution_batch_size=4), 16, (1, 2, 4)),
    ],
)
def test_powers_of_two_or_the_operators(options: Options, most: int, sizes: tuple[int, ...]) -> None:
    assert sizes_for(options, most) == sizes


def test_batches_are_padded_to_them_where_the_operator_names_none() -> None:
    named = Options(max_batch_size=8, allowed_batch_sizes=(3, 8))
    split = Options(max_batch_size=9, enable_large_batch_splitting=True, max_execution_batch_size=4)

    assert padded_to(Options(max_batch_size=8), (2, 8)).allowed_batch_sizes == (2, 8)
    assert padded_to(split, (1, 2, 4)).allowed_batch_sizes == (1, 2, 4, 9)
    assert padded_to(named, (3, 8)) == named


@pytest.mark.parametrize(("weights", "free", "most"), [(100, 4000, 10), (100, 100, 1), (0, 1 << 40, 16)])
def test_weights_take_a_quarter_of_the_free_memory_at_most(weights: int, free: int, most: int) -> None:
    assert most_sizes(weights, free) == most


def test_only_where_convolutions_meet_batches_of_one_shape() -> None:
    convolutions = frozenset({"Conv", "Relu"})

    assert wants_sizes(convolutions, [signature(None, 3, 8, 8)])
    assert not wants_sizes(frozenset({"Relu"}), [signature(None, 3, 8, 8)])
    assert not wants_sizes(convolutions, [signature(None, 3, None, None)])
    assert not wants_sizes(convolutions, [signature(None, 3, 8, 8, batched=False)])
