"""The results of `headrace tune`: as a table, JSON, a chart, a page, and files for a server."""

import base64
import html
import io
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.report import columns
from headrace_toolkit.tune import LOADS, MOST_CALLS, Load, Tried, Tuning

_BEST, _OTHER, _LIMIT = "#1f6f8b", "#b8c4ca", "#c77700"

MODEL_TOML = "model.toml"
PARAMETERS = "batching_params.pbtxt"


def table(tuning: Tuning) -> str:
    """All results for a terminal."""
    best = tuning.best
    return "\n".join(
        [
            f"{tuning.place}: {tuning.objective.text}",
            "",
            *_curves(tuning),
            "",
            f"Chosen: batches of up to {best.size} rows, {best.threads} at once: {best.rate:,.0f} rows/s.",
            "Requests of one row, in headrace's own batches with this objective:",
            "",
            *columns(("requests/s", "in time/s", "refused/s", "latency", "rows/batch"), list(map(_load, tuning.loads))),
            "",
            *_limited(tuning),
            "allowed_batch_sizes: none; on a CPU a row of padding costs as much as a real one.",
        ]
    )


def document(tuning: Tuning) -> dict[str, Any]:
    """The data for JSON."""
    return {
        "model": str(tuning.place),
        "objective": tuning.objective.text,
        "chosen": _settings(tuning),
        "tried": [
            {
                "batches_at_once": each.threads.batches,
                "intra_op_threads": each.threads.intra_op,
                "batch_size": each.size,
                "rows_per_second": round(each.rate, 1),
                "within_reach": each.fits,
                "run_times": [
                    {"batch_size": round(size), "typical_ms": _ms(typical), "high_ms": _ms(high)}
                    for size, typical, high in zip(each.curve.sizes, each.curve.typical, each.curve.high, strict=True)
                ],
            }
            for each in tuning.tried
        ],
        "loads": [
            {
                "offered_per_second": round(each.offered, 1),
                "good_per_second": round(each.good, 1),
                "refused_per_second": round(each.refused, 1),
                "latency_ms": _ms(each.latency),
                "rows_per_batch": round(each.rows, 2),
            }
            for each in tuning.loads
        ],
    }


def parameters(tuning: Tuning) -> str:
    """TensorFlow Serving's batching parameters, for a server that does not know the objective."""
    chosen = _settings(tuning)
    return "".join(f"{name} {{ value: {chosen[name]} }}\n" for name in (
        "max_batch_size", "batch_timeout_micros", "max_enqueued_batches", "num_batch_threads"
    ))  # fmt: skip


def model_toml(tuning: Tuning) -> str:
    """The settings for one model of headrace, with the objective."""
    return (
        f'[batching]\nlatency_objective = "{tuning.objective.text}"\nmax_batch_size = {tuning.best.size}\n\n'
        f"[onnxruntime]\nintra_op_threads = {tuning.best.threads.intra_op}\ninter_op_threads = 1\n"
    )


def write(tuning: Tuning) -> list[Path]:
    """Writes both files next to the model, and returns their paths.

    Raises:
        ToolkitError: A file exists already, or cannot be written.
    """
    version = tuning.place if tuning.place.is_dir() else tuning.place.parent
    files = {version.parent / MODEL_TOML: model_toml(tuning), version / PARAMETERS: parameters(tuning)}
    for file in files:
        if file.exists():
            raise ToolkitError(
                f"{file} already exists, so nothing was written: remove it, or add the lines above to it"
            )
    for file, text in files.items():
        try:
            file.write_text(text)
        except OSError as error:
            raise ToolkitError(f"{file} cannot be written: {error.strerror}") from error
    return list(files)


def chart(tuning: Tuning) -> bytes:
    """Run times by size, and the results of the trial, as a PNG.

    Raises:
        ToolkitError: matplotlib is not installed.
    """
    figures = require("matplotlib.figure", "a chart", "toolkit")
    figure = figures.Figure(figsize=(11, 4.2), layout="constrained")
    times, loads = figure.subplots(1, 2)
    for each in tuning.tried:
        colour = _BEST if each is tuning.best else _OTHER
        label = str(each.threads)
        times.plot(each.curve.sizes, [1e3 * value for value in each.curve.typical], "o-", color=colour, label=label)
        times.fill_between(each.curve.sizes, [1e3 * value for value in each.curve.typical],
                           [1e3 * value for value in each.curve.high], color=colour, alpha=0.2)  # fmt: skip
    limit = tuning.objective.seconds * 1e3
    times.axhline(limit, color=_LIMIT, linewidth=1, linestyle="--", label=tuning.objective.text)
    times.axvline(tuning.best.size, color=_BEST, linewidth=0.8, linestyle=":")
    times.set(
        xscale="log", yscale="log", xlabel="rows of a batch", title="a run in ms: the median, and up to the percentile"
    )
    times.legend(fontsize=8)
    offered = [each.offered for each in tuning.loads]
    loads.plot(offered, [each.latency * 1e3 for each in tuning.loads], "o-", color=_BEST, label="latency in ms")
    loads.axhline(limit, color=_LIMIT, linewidth=1, linestyle="--", label=tuning.objective.text)
    loads.set(xlabel="requests/s", title="through the batcher", ylim=(0, None))
    share = loads.twinx()
    share.plot(
        offered, [100 * each.good / each.offered for each in tuning.loads], "s:", color="#5c940d", label="in time, %"
    )
    share.set_ylim(0, 105)
    loads.legend(fontsize=8, loc="lower left")
    share.legend(fontsize=8, loc="lower right")
    written = io.BytesIO()
    figure.savefig(written, format="png", dpi=130, metadata={"Software": ""})
    return written.getvalue()


def page(tuning: Tuning) -> str:
    """All results as one self-contained HTML page."""
    picture = base64.b64encode(chart(tuning)).decode()
    title = html.escape(f"{tuning.place}: {tuning.objective.text}")
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n<style>'
        "body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}"
        "img{max-width:100%}pre{overflow-x:auto;background:#f2f7f9;padding:.8rem}</style>\n</head>\n<body>\n"
        f'<h1>{title}</h1>\n<img alt="Run times by batch size, and latency by load" '
        f'src="data:image/png;base64,{picture}">\n<pre>{html.escape(table(tuning))}</pre>\n'
        f"<h2>{MODEL_TOML}</h2>\n<pre>{html.escape(model_toml(tuning))}</pre>\n"
        f"<h2>{PARAMETERS}</h2>\n<pre>{html.escape(parameters(tuning))}</pre>\n</body>\n</html>\n"
    )


def _settings(tuning: Tuning) -> dict[str, int]:
    best = tuning.best
    return {
        "max_batch_size": best.size,
        "batch_timeout_micros": round(tuning.wait * 1e6),
        "max_enqueued_batches": best.threads.batches,
        "num_batch_threads": best.threads.batches,
        "intra_op_threads": best.threads.intra_op,
    }


def _curves(tuning: Tuning) -> list[str]:
    """Run times of all divisions by size; the chosen size of each is marked."""
    sizes = sorted({round(size) for each in tuning.tried for size in each.curve.sizes})
    head = ("rows", *(str(each.threads) for each in tuning.tried), "")
    rows = [(str(size), *(_run(each, size, tuning) for each in tuning.tried), "") for size in sizes]
    lines = columns(head, rows)
    return ["Milliseconds of a run, the median and the objective's percentile; * marks the chosen size", "", *lines]


def _limited(tuning: Tuning) -> list[str]:
    if tuning.best.rate <= MOST_CALLS:
        return []
    return [f"Tried with up to {max(LOADS) * MOST_CALLS:,.0f} requests/s, the most that one Python thread can send."]


def _run(each: Tried, size: int, tuning: Tuning) -> str:
    if size > round(each.curve.sizes[-1]):
        return "-"
    mark = "*" if size == each.size and each is tuning.best else ""
    return f"{mark}{_ms(each.curve.typical_of(size)):g} .. {_ms(each.curve.high_of(size)):g}"


def _load(each: Load) -> tuple[str, ...]:
    return (f"{each.offered:,.0f}", f"{each.good:,.0f}", f"{each.refused:,.0f}", f"{_ms(each.latency):g} ms",
            f"{each.rows:.1f}")  # fmt: skip


def _ms(seconds: float) -> float:
    return float(f"{seconds * 1e3:.3g}")
