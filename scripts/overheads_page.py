"""The page that `scripts.overheads` writes: what each activity costs, how certain that is, and if it is too much."""

import math
import os
import statistics
import time
from collections.abc import Mapping, Sequence

import numpy as np

from scripts.watched_server import VIEWERS

ANSWERS = "only answers"
LIMITS = {
    "nothing": 0.01,
    f"page, {VIEWERS} viewers": 0.01,
    "tracing off, 1% ask to be traced": 0.01,
    "traces of 1%": 0.03,
    "drift of 1%": 0.01,
}
"""What is measured, and the share of the requests per second, and of the CPU time of a request, that it may cost."""

Row = tuple[float, float, float, float]
"""The result of a slice: requests per second, CPU seconds per request, and the shares by which the former is lower and
the latter higher than just before and after."""

Rows = dict[str, list[Row]]


def estimate(values: Sequence[float]) -> tuple[float, float]:
    """The centre of values, and its standard error.

    The centre is the median of the means of all pairs. Wilcoxon's test gives the ranks of the means that lie one
    standard error from it. Values that other work on the machine makes very large hardly change either.
    """
    count = len(values)
    if count < 2:
        return (values or [math.nan])[0], math.inf
    array = np.asarray(values)
    means = np.sort(((array[:, None] + array) / 2)[np.triu_indices(count)])
    spread = math.sqrt(count * (count + 1) * (2 * count + 1) / 24)
    low, high = ((len(means) - 1) / 2 + side * spread for side in (-1, 1))
    ranks = range(len(means))
    error = float(np.interp(high, ranks, means) - np.interp(low, ranks, means)) / 2
    return float(np.median(means)), error


def verdict(limit: float, rows: Sequence[Row]) -> str:
    """Whether both shares are within the limit, by twice their standard errors."""
    shares = [estimate([row[column] for row in rows]) for column in (2, 3)]
    if any(share - 2 * error > limit for share, error in shares):
        return "no"
    return "yes" if all(share + 2 * error <= limit for share, error in shares) else "not shown"


def is_too_much(rows: Mapping[str, Sequence[Row]]) -> bool:
    """Whether anything costs more than it may."""
    return any(verdict(limit, rows[name]) == "no" for name, limit in LIMITS.items())


def page(rows: Mapping[str, Sequence[Row]]) -> str:
    """The whole page."""
    table = "\n".join(
        [_line(ANSWERS, rows[ANSWERS]), *(_line(name, rows[name], limit) for name, limit in LIMITS.items())]
    )
    times = min(len(rows[name]) for name in LIMITS)
    return f"""# What monitoring costs

Made by `python -m scripts.overheads` on {os.cpu_count()} CPUs, on {time.strftime("%Y-%m-%d")}. It measures servers of
the digits model under a load of 64 callers on 4 connections and 1,000 further requests per second, with the load
generator and the viewers on the same machine. While the load goes on, each activity is switched on for half a second
at a time (traces for a whole second, of which only the second half counts), in random order and at least {times} times
in all. It is compared with the half seconds just before and after, in which the server only answers. Each comparison
gives a relative change. The table has the median of the means of all pairs of these changes, with its standard
error. In the row "nothing", nothing is switched on: the difference is noise. In the row "tracing off", the server has
no `--trace_endpoint`. "Not shown" means that the noise is too large to tell; [the CPU time of the
monitoring code](overheads_counted.md) is measured directly.

| the server | requests/s | fewer requests/s | CPU per request | more CPU per request | limit | within the limit |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{table}
"""


def _line(name: str, rows: Sequence[Row], limit: float | None = None) -> str:
    rate, cpu = (statistics.median(row[column] for row in rows) for column in (0, 1))
    if limit is None:
        return f"| {name} | {rate:,.0f} | | {cpu * 1e6:.2f} us | | | |"
    (fewer, fewer_error), (more, more_error) = (estimate([row[column] for row in rows]) for column in (2, 3))
    return (
        f"| {name} | {rate:,.0f} | {fewer:+.2%} ± {fewer_error:.2%} | {cpu * 1e6:.2f} us "
        f"| {more:+.2%} ± {more_error:.2%} | {limit:.0%} | {verdict(limit, rows)} |"
    )
