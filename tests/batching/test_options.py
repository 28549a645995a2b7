"""The batching parameters: TF Serving's defaults, rules and error messages."""

from typing import Any

import pytest

from headrace_batching import Options, OptionsError
from headrace_batching.cpus import schedulable_cpus


def test_defaults_are_tf_servings() -> None:
    options = Options()

    assert options.max_batch_size == 1000
    assert options.batch_timeout_micros == 0
    assert options.max_enqueued_batches == 10
    assert options.allowed_batch_sizes == ()
    assert options.max_execution_batch_size is None
    assert not options.pad_variable_length_inputs
    assert not options.enable_large_batch_splitting


def test_a_thread_for_each_cpu_that_the_process_may_use() -> None:
    assert Options().num_batch_threads == schedulable_cpus()


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"max_batch_size": 0}, "max_batch_size must be positive; was 0"),
        ({"batch_timeout_micros": -1}, "batch_timeout_micros must be non-negative; was -1"),
        ({"num_batch_threads": 0}, "num_batch_threads must be positive; was 0"),
        ({"max_running_batches": 0}, "max_running_batches must be positive; was 0"),
        ({"num_batch_threads": -3}, "num_batch_threads must be positive; was -3"),
        ({"max_batch_size": 2**63}, "max_batch_size must be at most 9223372036854775807; was 9223372036854775808"),
        ({"num_batch_threads": 100_000}, "num_batch_threads must be at most 4096; was 100000"),
        ({"max_enqueued_batches": -1}, "max_enqueued_batches must be non-negative; was -1"),
        (
            {"max_enqueued_batches": 0, "enable_large_batch_splitting": True},
            "max_enqueued_batches must be positive; was 0",
        ),
        (
            {"max_execution_batch_size": 0, "enable_large_batch_splitting": True},
            "max_execution_batch_size must be positive; was 0",
        ),
        (
            {"allowed_batch_sizes": (4, 8), "max_batch_size": 16},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 16",
        ),
        (
            {"allowed_batch_sizes": (4, 8)},
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 1000",
        ),
        (
            {
                "allowed_batch_sizes": (4, 8),
                "max_batch_size": 16,
                "enable_large_batch_splitting": True,
                "max_execution_batch_size": 8,
            },
            "Last entry in allowed_batch_sizes must match max_batch_size; last entry was 8; expected 16",
        ),
        (
            {"allowed_batch_sizes": (8, 4, 16), "max_batch_size": 16},
            "allowed_batch_sizes must be positive and increasing; was [8, 4, 16]",
        ),
        (
            {"allowed_batch_sizes": (4, 4), "max_batch_size": 4},
            "allowed_batch_sizes must be positive and increasing; was [4, 4]",
        ),
        (
            {"allowed_batch_sizes": (0, 4), "max_batch_size": 4},
            "allowed_batch_sizes must be positive and increasing; was [0, 4]",
        ),
        (
            {"max_batch_size": 4, "enable_large_batch_splitting": True, "max_execution_batch_size": 5},
            "When enable_large_batch_splitting is true, input_batch_size_limit must be greater than or equal to "
            "max_execution_batch_size. input_batch_size_limit: 4, max_execution_batch_size: 5",
        ),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(values: dict[str, Any], text: str) -> None:
    with pytest.raises(OptionsError) as refusal:
        Options(**values)

    assert str(refusal.value) == text


@pytest.mark.parametrize(
    ("values", "limit"),
    [
        ({"max_batch_size": 16}, 16),
        ({"max_batch_size": 16, "enable_large_batch_splitting": True}, 16),
        ({"max_batch_size": 16, "enable_large_batch_splitting": True, "max_execution_batch_size": 4}, 4),
        ({"max_batch_size": 16, "max_execution_batch_size": 4}, 16),  # has no effect without splitting
        ({"max_batch_size": 16, "max_execution_batch_size": 64}, 16),
        ({"enable_large_batch_splitting": True}, 1000),
    ],
)
def test_the_largest_number_of_rows_of_a_batch(values: dict[str, Any], limit: int) -> None:
    assert Options(**values).execution_limit == limit


@pytest.mark.parametrize(("enqueued", "limit"), [(0, 1), (1, 1), (7, 7)])
def test_a_limit_of_0_enqueued_batches_counts_as_1(enqueued: int, limit: int) -> None:
    assert Options(max_enqueued_batches=enqueued).enqueued_limit == limit


@pytest.mark.parametrize(("rows", "padded"), [(0, 0), (1, 2), (2, 2), (3, 8), (8, 8), (9, 9)])
def test_rows_are_padded_to_the_next_allowed_size(rows: int, padded: int) -> None:
    assert Options(max_batch_size=8, allowed_batch_sizes=(2, 8)).padded_rows(rows) == padded


def test_rows_are_not_padded_without_allowed_sizes() -> None:
    assert Options().padded_rows(3) == 3


def test_the_timeout_is_in_seconds() -> None:
    assert Options(batch_timeout_micros=2500).timeout == 0.0025
