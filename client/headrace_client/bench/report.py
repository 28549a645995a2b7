"""Points as a table for a terminal, and as JSON."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from headrace_client.bench.points import PERCENTILES, Point
from headrace_client.bench.settings import Settings

COLUMNS = ("load", "calls/s", "p50", "p90", "p99", "p99.9", "max", "failed", "own CPU")


def table(points: Sequence[Point]) -> str:
    """A row for each point, with latencies in milliseconds; then the failures, and warnings about the results."""
    limit = points[0].limit
    servers = servers_of(points)
    heads = [*(("server",) if len(servers) > 1 else ()), *COLUMNS]
    if limit is not None:
        heads.insert(-2, f"good in {milliseconds(limit)}")
    rows = [_row(point, with_server=len(servers) > 1) for point in points]
    widths = [max(len(row[column]) for row in [heads, *rows]) for column in range(len(heads))]
    left = 1 + (len(servers) > 1)
    lines = [_line(row, widths, left) for row in [heads, *rows]]
    return "\n".join([*lines, *_kinds(points), *notes(points)])


def servers_of(points: Sequence[Point]) -> list[str]:
    """The servers that were measured, in order."""
    return list(dict.fromkeys(point.server for point in points))


def _row(point: Point, *, with_server: bool) -> list[str]:
    latencies = point.latencies
    cells = [str(point.stage), f"{point.rate:,.0f}"]
    cells += [milliseconds(latencies.percentile(percent)) for percent in PERCENTILES]
    if point.limit is not None:
        cells.append(f"{point.goodput:,.0f}/s")
    cells += [f"{sum(point.failures.values()):,}", f"{point.cpu_per_call * 1e6:.1f} us"]
    return [point.server, *cells] if with_server else cells


def _line(row: Sequence[str], widths: Sequence[int], left: int) -> str:
    cells = [
        cell.ljust(width) if place < left else cell.rjust(width)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ]
    return "  ".join(cells).rstrip()


def _kinds(points: Sequence[Point]) -> list[str]:
    """A line for each kind of request of each point, if there are several."""
    lines = []
    for point in points:
        for kind in point.kinds if len(point.kinds) > 1 else ():
            latencies = kind.latencies
            p50, p99 = (milliseconds(latencies.percentile(percent)) for percent in (50, 99))
            calls = kind.codes.get("OK", 0) / point.seconds
            lines.append(f"  {point.server}, {point.stage}: {kind.name}: {calls:,.0f} calls/s, p50 {p50}, p99 {p99}")
    return lines


def notes(points: Sequence[Point]) -> list[str]:
    """The failures, and why the load generator itself may have limited the results."""
    lines = []
    for point in points:
        where = f"{point.server}, {point.stage}"
        for code, count in point.failures.items():
            text = point.texts.get(code, "")
            lines.append(f"{where}: {count:,} ended {code}" + (f": {text}" if text else ""))
        if doubt := point.doubt():
            lines.append(f"{where}: {doubt}")
    return lines


def milliseconds(seconds: float | None) -> str:
    """A time, formatted as `1.23 ms`; a dash if there is no value."""
    if seconds is None:
        return "-"
    number = seconds * 1e3
    return f"{number:.3f} ms" if number < 1 else f"{number:.2f} ms" if number < 100 else f"{number:,.0f} ms"


def as_json(settings: Settings, points: Sequence[Point]) -> dict[str, Any]:
    """All numbers, the settings, and the machine."""
    return {
        "headrace": version("headrace"),
        "machine": machine(),
        "servers": list(settings.servers),
        "models": dict(settings.models),
        "rows": list(settings.rows),
        "seconds": settings.seconds,
        "warmup": settings.warmup,
        "limit": settings.limit,
        "points": [point.as_json() for point in points],
    }


def machine() -> dict[str, Any]:
    """The machine that the load came from."""
    return {"architecture": platform.machine(), "cpus": os.cpu_count(), "python": platform.python_version()}
