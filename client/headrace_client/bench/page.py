"""Shows points as a chart of throughput and latency, and as one self-contained HTML page."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

from headrace_client.bench.errors import require
from headrace_client.bench.points import Point
from headrace_client.bench.report import machine, milliseconds, notes, servers_of
from headrace_client.bench.settings import Settings

_COLOURS = ("#1f6f8b", "#c2571a", "#5b8c2a", "#7a4fa3")
_SHADES = {50.0: (":", 0.55), 90.0: ("--", 0.75), 99.0: ("-", 1.0)}
_TICKS = (50.0, 90.0, 99.0, 99.9, 99.99)
_MOST_SPECTRA = 8

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
p.note { border-left: 4px solid #c77700; padding: .3rem .8rem; background: #fff7ea; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, th:nth-child(2), td:nth-child(2) { text-align: left; }
div.wide { overflow-x: auto; }
img { max-width: 100%; margin: 1rem 0; }
p.facts { color: #666; }
"""


def require_charts() -> Any:
    """Imports `matplotlib.figure`.

    Raises:
        BenchError: matplotlib is not installed.
    """
    return require("matplotlib.figure", "a chart (--png, --html)", "'headrace[bench]'")


def chart(points: Sequence[Point]) -> bytes:
    """A chart of the latency by throughput, and of each point's latency by percentile, as a PNG.

    Raises:
        BenchError: matplotlib is not installed.
    """
    figure = require_charts().Figure(figsize=(12, 4.8), layout="constrained")
    curves, spectra = figure.subplots(1, 2)
    _draw_curves(curves, points)
    _draw_spectra(spectra, points)
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=130, metadata={"Software": ""})
    return written.getvalue()


def _draw_curves(axes: Any, points: Sequence[Point]) -> None:
    servers = servers_of(points)
    mixed = len({point.stage.kind == "closed" for point in points}) > 1
    for place, server in enumerate(servers):
        # A line connects the stages of one kind of load in the order of measurement.
        own = [point for point in points if point.server == server and point.latencies.pairs]
        for percent, (style, alpha) in _SHADES.items():
            label = f"p{percent:g}" if len(servers) == 1 else f"{server} p{percent:g}"
            for kind in dict.fromkeys(point.stage.kind == "closed" for point in own):
                some = [point for point in own if (point.stage.kind == "closed") == kind]
                loop = (", closed loop" if kind else ", open loop") if mixed else ""
                axes.plot(
                    [point.rate for point in some],
                    [(point.latencies.percentile(percent) or 0) * 1e3 for point in some],
                    style, marker="o" if kind else "s", markersize=4, alpha=alpha,
                    color=_COLOURS[place % len(_COLOURS)], label=label + loop,
                )  # fmt: skip
    if points[0].limit is not None:
        axes.axhline(points[0].limit * 1e3, color="#888", linewidth=0.9)
        axes.annotate(
            f"limit {milliseconds(points[0].limit)}", (0.99, points[0].limit * 1e3), (0, 3),
            xycoords=("axes fraction", "data"), textcoords="offset points", ha="right", fontsize=8, color="#666",
        )  # fmt: skip
    axes.set(title="Latency by throughput", xlabel="successful calls per second", ylabel="latency in ms")
    _finish(axes)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _draw_spectra(axes: Any, points: Sequence[Point]) -> None:
    several = len(servers_of(points)) > 1
    for place, point in enumerate(points[:_MOST_SPECTRA]):
        latencies = point.latencies
        total, seen, places, values = latencies.count, 0, [], []
        for seconds, count in latencies.pairs:
            seen += count
            places.append(1 / max(1 - seen / total, 1 / total))
            values.append(seconds * 1e3)
        colour = _COLOURS[servers_of(points).index(point.server)] if several else None
        label = f"{point.server}, {point.stage}" if several else str(point.stage)
        shade = 1.0 if not several else 0.4 + 0.6 * (place + 1) / min(len(points), _MOST_SPECTRA)
        axes.plot(places, values, label=label, color=colour, alpha=shade, linewidth=1.3)
    axes.set_xscale("log")
    axes.set_xticks([1 / (1 - percent / 100) for percent in _TICKS], [f"{percent:g}%" for percent in _TICKS])
    axes.set_xticks([], minor=True)
    axes.set_xlim(left=1)
    axes.set(title="Latency by percentile", xlabel="share of the calls that took no longer", ylabel="latency in ms")
    _finish(axes)


def _finish(axes: Any) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(color="#ddd", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)


def page(settings: Settings, points: Sequence[Point]) -> str:
    """The chart, a table and the facts about the run, as HTML.

    Raises:
        BenchError: matplotlib is not installed.
    """
    picture = base64.b64encode(chart(points)).decode()
    title = html.escape(f"Load on {' and '.join(settings.servers)}")
    remarks = "".join(f'<p class="note">{html.escape(text)}</p>\n' for text in notes(points))
    details = machine()
    facts = (
        f"{', '.join(settings.models) or settings.log}; {settings.seconds:g} s a point after {settings.warmup:g} s of "
        f"warm-up; latencies count from the planned start of a call. The load came from a machine with "
        f"{details['cpus']} CPUs "
        f"({details['architecture']})."
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>{_STYLE}</style>\n'
        f"</head>\n<body>\n<h1>{title}</h1>\n{remarks}"
        f'<img alt="Latency by throughput, and by percentile" src="data:image/png;base64,{picture}">\n'
        f'<div class="wide">{_table(points)}</div>\n<p class="facts">{html.escape(facts)}</p>\n</body>\n</html>\n'
    )


def _table(points: Sequence[Point]) -> str:
    heads = ["server", "load", "calls/s", "good/s", "p50", "p90", "p99", "p99.9", "max", "failed", "own CPU per call"]
    head = "".join(f"<th>{text}</th>" for text in heads)
    return f"<table>\n<tr>{head}</tr>\n" + "\n".join(_row(point) for point in points) + "\n</table>"


def _row(point: Point) -> str:
    latencies = point.latencies
    cells = [point.server, str(point.stage), f"{point.rate:,.0f}", f"{point.goodput:,.0f}"]
    cells += [milliseconds(latencies.percentile(percent)) for percent in (50, 90, 99, 99.9, 100)]
    cells += [f"{sum(point.failures.values()):,}", f"{point.cpu_per_call * 1e6:.1f} us"]
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
