"""Compares an objective with a sweep of fixed settings on a virtual clock; writes a report and charts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.latency.arrivals import RECORDED, recorded, traces
from tests.support.latency.simulation import Model
from tests.support.latency.sweep import EVERY_SETTING, Comparison, best_over_all, compare

OBJECTIVE, SECONDS = "p99 150ms", 0.150

_PROMISED = 0.97
"""The minimum of the objective's good answers, in any trace, as a share of the best fixed setting's."""

_HEAD = ("trace", "requests", "good", "best's good", "ratio", "best", "p99", "best's p99", "cost", "best's cost")

_OURS, _BEST, _OTHERS = "#0b7285", "#e8590c", "#ced4da"


def simulate(seconds: float, out: Path) -> int:
    """Runs every trace; returns 1 if the objective does worse than promised."""
    model = Model()
    every = traces(model.capacity(SECONDS), seconds)
    if RECORDED.exists():
        every.append(recorded(0.8 * model.capacity(SECONDS), seconds))
    found = []
    for arrivals in every:
        found.append(compare(model, OBJECTIVE, arrivals, EVERY_SETTING))
        print(_line(found[-1]), flush=True)
    setting, best = best_over_all(found)
    ours = sum(each.good for each in found)
    text = report(found)
    (out / "latency-objective-simulated.md").write_text(text)
    images = out / "images"
    images.mkdir(exist_ok=True)
    _bars(found, images / "objective-goodput.png")
    _ramp(next(each for each in found if each.arrivals.name == "ramp"), images / "objective-ramp.png")
    print(f"over all traces: {ours:,} with the objective, {best:,} with the best fixed setting ({setting})")
    return 0 if ours > best and min(each.ratio for each in found) >= _PROMISED else 1


def report(found: Sequence[Comparison]) -> str:
    """The page with the table."""
    setting, best = best_over_all(found)
    usual = [each for each in found[0].fixed if each.waiting == max(one.waiting for one in found[0].fixed)]
    usual_best = max(usual, key=lambda one: sum(each.fixed[one] for each in found))
    usual_good = sum(each.fixed[usual_best] for each in found)
    ours = sum(each.good for each in found)
    rows = "\n".join(map(_row, found))
    return f"""# A latency objective on a virtual clock

Made by `python -m scripts.objective simulate`. The batches of a model take 20 ms plus 2 ms per row, give or take 5%,
and one in a thousand takes four times as long. The model runs on two threads with the objective `{OBJECTIVE}`, compared
with {len(found[0].fixed)} fixed settings: `max_batch_size` of 4 to 64, `batch_timeout_micros` of 0 to 60 ms, and
`max_enqueued_batches` of 1, 2 and 10. *Good* counts requests answered within 150 ms; *p99* is that of all answers,
including late ones; *cost* is the thread time per good answer. *Best* is the fixed setting that is best for the trace.

| {" | ".join(_HEAD)} |
| --- | ---: | ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: |
{rows}

Over all traces the objective has {ours:,} good answers. The best fixed setting over all of them
({setting}) has {best:,}: the objective has {ours / best:.3f} times as many. The best fixed setting with TensorFlow
Serving's bound of 10 waiting batches ({usual_best}) has {usual_good:,}: the objective has
{ours / usual_good:.2f} times as many.

![Good answers per trace](images/objective-goodput.png)

![A ramp from idle to twice the capacity](images/objective-ramp.png)
"""


def _row(each: Comparison) -> str:
    best = each.outcomes[each.best]
    good = max(1, each.fixed[each.best])
    return (
        f"| {each.arrivals.name} | {each.kept.offered:,} | {each.good:,} | {good:,} | {each.ratio:.3f} | {each.best} "
        f"| {each.kept.percentile(0.99) * 1e3:.0f} ms | {best.percentile(0.99) * 1e3:.0f} ms "
        f"| {each.kept.busy / max(1, each.good) * 1e3:.1f} ms | {best.busy / good * 1e3:.1f} ms |"
    )


def _line(each: Comparison) -> str:
    best = f"best fixed {each.fixed[each.best]:7,} ({each.best})"
    return f"{each.arrivals.name:12} {each.good:7,} good, {best}: {each.ratio:.3f}"


def _bars(found: Sequence[Comparison], file: Path) -> None:
    """Draws each setting's good answers relative to the best one's, by trace; marks ours and the best over all."""
    figure, axes = _figure(9, 4.2)
    best, _ = best_over_all(found)
    for place, each in enumerate(found):
        most = max(*each.fixed.values(), 1)
        jitter = np.linspace(-0.28, 0.28, len(each.fixed))
        shares = np.array(list(each.fixed.values())) / most
        axes.scatter(place + jitter, shares, s=9, color=_OTHERS, label="fixed settings" if not place else None)
        axes.scatter(place - 0.12, each.fixed[best] / most, s=60, marker="D", color=_BEST,
                     label=f"the best one over all traces: {best}" if not place else None)  # fmt: skip
        axes.scatter(place + 0.12, each.ratio, s=70, color=_OURS, label=f"objective {OBJECTIVE}" if not place else None)
    axes.axhline(0.97, color="#868e96", linewidth=0.8, linestyle=":")
    axes.set_xticks(range(len(found)), [each.arrivals.name for each in found], rotation=20)
    axes.set_ylim(0, 1.12)
    axes.set_ylabel("answers in time, relative to the best setting")
    axes.legend(loc="lower left", frameon=True, fontsize=8)
    figure.savefig(file, dpi=130)


def _ramp(each: Comparison, file: Path) -> None:
    """Draws the arrivals, the answers in time, and the choices, over a ramp."""
    import matplotlib.pyplot as plt

    figure, (above, below) = plt.subplots(2, 1, figsize=(9, 6), sharex=True, layout="constrained")
    end = float(each.arrivals.times[-1])
    edges = np.linspace(0, end, 41)
    width = edges[1]
    offered, _ = np.histogram(each.arrivals.times, edges)
    above.step(edges[:-1], offered / width, where="post", color="#868e96", label="requests")
    for outcome, color, label in (
        (each.kept, _OURS, f"in time with {OBJECTIVE}"),
        (each.outcomes[each.best], _BEST, f"in time with the best fixed setting: {each.best}"),
    ):
        good = [came for came, took in zip(outcome.answered_at, outcome.latencies, strict=True) if took <= each.seconds]
        above.step(edges[:-1], np.histogram(good, edges)[0] / width, where="post", color=color, label=label)
    above.set_ylabel("a second")
    above.legend(fontsize=8)
    times = [at for at, _ in each.kept.beliefs]
    below.plot(
        times, [belief.target.size for _, belief in each.kept.beliefs], color=_OURS, label="rows of a full batch"
    )
    below.plot(times, [belief.rows_per_batch for _, belief in each.kept.beliefs], color="#74b816", linewidth=0.8,
               label="rows of a batch")  # fmt: skip
    below.plot(times, [belief.target.wait * 1e3 for _, belief in each.kept.beliefs], color=_BEST, label="wait in ms")
    below.set_xlabel("seconds")
    below.legend(fontsize=8)
    for axes in (above, below):
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.25)
    figure.savefig(file, dpi=130)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.grid(axis="y", alpha=0.25)
    return figure, axes
