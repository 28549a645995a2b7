"""Percentiles of histograms, conversion of a log's seconds, and when a measurement is unreliable."""

import pytest

from headrace_client.bench.latencies import Latencies, of_nanoseconds
from headrace_client.bench.points import KindPoint, Point
from headrace_client.bench.recorded import Recorded, times
from headrace_client.bench.settings import Stage

HUNDRED = of_nanoseconds([(number * 1_000_000, 1) for number in range(1, 101)])


@pytest.mark.parametrize(("percent", "seconds"), [(50, 0.05), (99, 0.099), (99.9, 0.1), (100, 0.1), (1, 0.001)])
def test_percentiles(percent: float, seconds: float) -> None:
    assert HUNDRED.percentile(percent) == pytest.approx(seconds)


def test_nothing_has_no_percentile() -> None:
    assert Latencies().percentile(50) is None
    assert Latencies().mean() is None


def test_histograms_are_joined() -> None:
    joined = of_nanoseconds([(5, 1), (7, 2)], [(5, 3)])
    assert joined.pairs == ((5e-9, 4), (7e-9, 2))


def point(*, busy: float = 0.1, lag: int = 0, kind: str = "poisson", limit: float | None = None) -> Point:
    return Point(
        server="s",
        stage=Stage(kind, 100),
        seconds=2.0,
        kinds=[KindPoint("m", HUNDRED, Latencies(), {"OK": 100, "UNAVAILABLE": 20})],
        lag=of_nanoseconds([(lag, 100)]),
        texts={"UNAVAILABLE": "full"},
        cpu=0.0024,
        busy=busy,
        calls=120,
        limit=limit,
    )


def test_calls_within_the_limit() -> None:
    assert point().goodput == point().rate == 50.0
    assert point(limit=0.0205).goodput == 10.0
    assert point().failures == {"UNAVAILABLE": 20}
    assert point().cpu_per_call == pytest.approx(20e-6)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"busy": 0.95}, "the load generator itself was busy 95% of the time"),
        ({"lag": 5_000_000}, "1 call in 100 began 5.0 ms late"),
        ({"lag": 5_000_000, "kind": "closed"}, ""),
        ({}, ""),
    ],
    ids=str,
)
def test_a_load_generator_that_is_itself_the_limit_is_reported(values: dict[str, float], said: str) -> None:
    doubt = point(**values).doubt()  # type: ignore[arg-type]
    assert said in doubt
    assert bool(said) == bool(doubt)


def test_requests_of_one_second_are_spread_over_that_second() -> None:
    requests = [Recorded("m", "/p", b"", second) for second in (100, 100, 101, 103)]
    assert times(requests, 1.0) == [0.0, 0.5, 1.0, 3.0]
    assert times(requests, 2.0) == [0.0, 0.25, 0.5, 1.5]
