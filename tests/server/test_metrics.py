"""How counted batches read."""

from headrace_server.metrics import BatchCounts


def test_nothing_has_run() -> None:
    assert str(BatchCounts()) == "0 requests, 0 rows in 0 batches, mean 0.0 rows ()"


def test_sizes_are_told_in_powers_of_two() -> None:
    counts = BatchCounts()
    for rows in (0, 1, 2, 3, 4, 7, 8, 1000):
        counts.add(2, rows)

    assert str(counts) == (
        "16 requests, 1025 rows in 8 batches, mean 128.1 rows (0: 1, 1: 1, 2-3: 2, 4-7: 2, 8-15: 1, 512-1023: 1)"
    )
