"""Draws the report's chart: requests per second, CPU per request and batch sizes, with a column for each case."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .contenders import AIO, GRPCPP, HEADRACE, NATIVE
from .figures import batch_shares, cpu_us, figure, loop_cpu_us, loop_rows_per_second, requests_per_second
from .measure import Results

_LOOP = "bare run loop"
_COLOURS = {AIO: "#b8c0c8", GRPCPP: "#7d8894", _LOOP: "#4c5661", HEADRACE: "#74b3ce", NATIVE: "#0b6e99"}


def draw(results: Sequence[Results], path: Path) -> None:
    """Writes the chart as a PNG."""
    size = (5 * len(results), 9)
    figure_, grid = plt.subplots(3, len(results), figsize=size, squeeze=False)
    figure_.set_layout_engine("constrained", hspace=0.08, wspace=0.06)
    for column, case in enumerate(results):
        model, _, what = case.case.title.partition(": ")
        _bars(grid[0][column], _speeds(case), f"{model}\n{what}\n\nRequests per second: more is better")
        _bars(grid[1][column], _costs(case), "Server CPU per request, us: less is better")
        _batches(grid[2][column], case)
    figure_.savefig(path, dpi=150)
    plt.close(figure_)


def _speeds(results: Results) -> dict[str, float]:
    speeds = {name: requests_per_second(samples) for name, samples in results.loaded.items()}
    return _with_loop(results, speeds, loop_rows_per_second(results, results.case.max_batch_size))


def _costs(results: Results) -> dict[str, float]:
    costs = {name: cpu_us(samples) for name, samples in results.loaded.items()}
    return _with_loop(results, costs, loop_cpu_us(results, results.case.max_batch_size))


def _with_loop(results: Results, values: dict[str, float], loop: float) -> dict[str, float]:
    # If no responder was measured, headrace is compared with the loop.
    return values if results.case.responders else {_LOOP: loop, **values}


def _bars(axes: Axes, values: Mapping[str, float], title: str) -> None:
    names = list(values)
    bars = axes.barh(
        [name.replace(", ", "\n") for name in names],
        list(values.values()),
        color=[_COLOURS[name] for name in names],
        height=0.65,
    )
    axes.bar_label(bars, [figure(value) for value in values.values()], padding=4, fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.margins(x=0.2)
    axes.invert_yaxis()
    axes.set_xticks([])
    _plain(axes, ("top", "right", "bottom"))


def _batches(axes: Axes, results: Results) -> None:
    shares = {name: batch_shares(samples) for name, samples in results.loaded.items()}
    shown = {name: ranges for name, ranges in shares.items() if ranges}
    if not shown:
        axes.set_axis_off()
        return
    ranges = sorted({rows for each in shown.values() for rows in each}, key=lambda rows: int(rows.partition("-")[0]))
    width = 0.8 / len(shown)
    for i, (name, each) in enumerate(shown.items()):
        places = [j + (i - (len(shown) - 1) / 2) * width for j in range(len(ranges))]
        axes.bar(places, [100 * each.get(rows, 0) for rows in ranges], width * 0.92, color=_COLOURS[name], label=name)
    axes.set_xticks(range(len(ranges)), ranges)
    axes.set_ylim(0, 100)
    if len(shown) > 1:
        axes.legend(frameon=False, fontsize=9)
    axes.set_title("Batches by their number of rows, %", fontsize=10, loc="left")
    _plain(axes, ("top", "right"))


def _plain(axes: Axes, hidden: Sequence[str]) -> None:
    axes.spines[list(hidden)].set_visible(False)
    axes.tick_params(length=0, labelsize=9)
