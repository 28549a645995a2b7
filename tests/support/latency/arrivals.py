"""Arrivals for tests of a latency objective: synthetic ones, each from a seed, and recorded ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

RECORDED = Path(__file__).parent / "recorded.npz"
"""Arrivals at a real server; recorded by `python -m scripts.objective record`."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The requests of one trace.

    Attributes:
        name: The name of the trace.
        times: The arrival times, in seconds from the beginning; increasing.
        rows: The number of rows of each request.
        slow_start: The number of seconds at the beginning in which runs take five times as long.
        stalls: Pauses of the whole machine: the beginning and the length of each, in seconds.
    """

    name: str
    times: Array
    rows: Array
    slow_start: float = 0.0
    stalls: tuple[tuple[float, float], ...] = ()


def traces(capacity: float, seconds: float, seed: int = 1) -> list[Arrivals]:
    """One trace of each kind.

    Args:
        capacity: The rows per second that the model can serve at most.
        seconds: The length of each trace.
        seed: The seed of the random numbers.
    """
    rng = np.random.default_rng(seed)

    def steady(part: float) -> Callable[[Array], Array]:
        return lambda at: np.full_like(at, part * capacity)

    def ramp(at: Array) -> Array:
        return 2.0 * capacity * at / seconds

    def day(at: Array) -> Array:
        return capacity * (0.55 - 0.5 * np.cos(4 * np.pi * at / seconds))

    mixed = _poisson(rng, lambda at: np.full_like(at, 0.2 * capacity), seconds)
    return [
        _of("light", _poisson(rng, steady(0.15), seconds)),
        _of("busy", _poisson(rng, steady(0.8), seconds)),
        _of("overload", _poisson(rng, steady(1.6), seconds)),
        _of("bursts", _bursts(rng, capacity, seconds)),
        _of("ramp", _poisson(rng, ramp, seconds)),
        _of("day", _poisson(rng, day, seconds)),
        Arrivals("mixed sizes", mixed, rng.choice([1, 2, 4, 8], len(mixed), p=[0.4, 0.2, 0.2, 0.2])),
        Arrivals("slow start", times := _poisson(rng, steady(0.6), seconds), np.ones(len(times), int), seconds / 10),
    ]


def recorded(capacity: float, seconds: float) -> Arrivals:
    """The recorded trace, scaled in time so that its rate is the model's capacity."""
    held = np.load(RECORDED)
    times, rows = held["times"], held["rows"].astype(int)
    last = capacity * seconds
    kept = int(np.searchsorted(np.cumsum(rows), last))
    times, rows = times[:kept], rows[:kept]
    return Arrivals("recorded", times * (rows.sum() / capacity / times[-1]), rows)


def _of(name: str, times: Array) -> Arrivals:
    return Arrivals(name, times, np.ones(len(times), int))


def _poisson(rng: np.random.Generator, rate: Callable[[Array], Array], seconds: float) -> Array:
    """Arrival times of a Poisson process whose rate may vary, drawn by thinning."""
    most = float(rate(np.linspace(0, seconds, 1000)).max())
    times = np.cumsum(rng.exponential(1 / most, int(most * seconds * 1.2) + 10))
    times = times[times < seconds]
    return times[rng.random(len(times)) < rate(times) / most]


def _bursts(rng: np.random.Generator, capacity: float, seconds: float) -> Array:
    """A low rate with bursts of two to three times the capacity, which last a tenth of a second to a second."""
    times = [_poisson(rng, partial(np.full_like, fill_value=0.2 * capacity), seconds)]
    begin = 0.5
    while begin < seconds:
        length, factor = rng.uniform(0.1, 1.0), rng.uniform(2.0, 3.0)
        burst = begin + _poisson(rng, partial(np.full_like, fill_value=factor * capacity), length)
        times.append(burst[burst < seconds])
        begin += length + rng.exponential(2.0)
    return np.sort(np.concatenate(times))
