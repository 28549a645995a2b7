"""The number of replicas that examples/ray computes from the metrics of the current ones."""

import sys
from collections.abc import Sequence

import pytest

from tests.conftest import ROOT, Run
from tests.support import models

sys.path.insert(0, str(ROOT / "examples" / "ray"))
from scaling import replicas_for, waiting_rows  # type: ignore[import-not-found]


@pytest.mark.parametrize(
    ("current", "waiting", "wanted"),
    [
        (2, [], 2),
        (2, [3.0, 3.0], 2),
        (2, [8.0, 8.0], 4),
        (2, [9.0, 8.0], 5),
        (2, [100.0, 100.0], 8),
        (4, [0.0, 0.0, 0.0, 0.0], 3),
        (1, [0.0], 1),
        (2, [20.0, 0.0], 5),
    ],
)
def test_replicas_follow_the_waiting_rows(current: int, waiting: Sequence[float], wanted: int) -> None:
    assert replicas_for(current, waiting, target=4.0, least=1, most=8) == wanted


def test_the_waiting_rows_are_on_the_metrics_page(running: Run) -> None:
    server = running(models.linear)._server
    page = server.metrics()
    assert b"\nheadrace_queue_rows_per_busy_thread" in page
    assert waiting_rows(page) == 0.0
    assert waiting_rows(b"headrace_queue_rows_per_busy_thread 2.5\n") == 2.5
    assert (
        waiting_rows(
            b'headrace_queue_rows_per_busy_thread{model="a"} 1\nheadrace_queue_rows_per_busy_thread{model="b"} 7\n'
        )
        == 7
    )
