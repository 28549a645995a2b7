"""Writes Grafana's dashboard, examples/monitoring/headrace-dashboard.json; `--check` instead fails if it is stale."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).resolve().parents[1] / "examples" / "monitoring" / "headrace-dashboard.json"

WIDTH, HEIGHT, ACROSS = 8, 8, 3
FAILED = 'code!="OK"'
SOURCE = {"type": "prometheus", "uid": "${source}"}


class Query(NamedTuple):
    """A Prometheus query, and the legend of its lines."""

    expression: str
    legend: str


class Panel(NamedTuple):
    """A chart: its title, the unit of its values in Grafana's terms, its queries, and its description."""

    title: str
    unit: str
    queries: Sequence[Query]
    description: str


def rate(metric: str, *labels: str, extra: str = "") -> str:
    """The increase per second of a model's counters, by these labels and summed over all other labels."""
    selected = f'model=~"$model"{"," if extra else ""}{extra}'
    return f"sum by ({', '.join(labels)}) (rate({metric}{{{selected}}}[$__rate_interval]))"


def quantile(share: float, metric: str, *labels: str, extra: str = "") -> Query:
    """A percentile of a histogram."""
    name = " ".join(f"{{{{{label}}}}}" for label in labels)
    return Query(
        f"histogram_quantile({share}, {rate(f'{metric}_bucket', *labels, 'le', extra=extra)})",
        f"{name} {share * 100:g}%",
    )


def mean(metric: str, *labels: str) -> str:
    """The mean of a histogram's values."""
    return f"{rate(f'{metric}_sum', *labels)} / {rate(f'{metric}_count', *labels)}"


PANELS = (
    Panel(
        "Requests a second",
        "reqps",
        [Query(rate("headrace_requests_total", "model", "protocol", "method"), "{{model}} {{protocol}} {{method}}")],
        "Finished calls, by API.",
    ),
    Panel(
        "Calls that failed",
        "percentunit",
        [
            Query(
                f"{rate('headrace_requests_total', 'model', 'code', extra=FAILED)} / on (model) group_left "
                f"{rate('headrace_requests_total', 'model')}",
                "{{model}} {{code}}",
            )
        ],
        "Share of all calls of the model, by status code.",
    ),
    Panel(
        "Latency",
        "s",
        [quantile(share, "headrace_request_seconds", "model", extra='code="OK"') for share in (0.5, 0.95, 0.99)],
        "From reading the request to writing the answer.",
    ),
    Panel(
        "Time in the queue",
        "s",
        [quantile(share, "headrace_queue_seconds", "model") for share in (0.5, 0.99)],
        "How long requests wait for their batch to begin.",
    ),
    Panel(
        "Parts of a batch",
        "s",
        [Query(mean("headrace_batch_part_seconds", "model", "part"), "{{model}} {{part}}")],
        "Mean time to join the inputs, run the model, and split the outputs.",
    ),
    Panel(
        "Rows of a batch",
        "short",
        [Query(mean("headrace_batch_rows", "model"), "{{model}}")],
        "On average, without padding.",
    ),
    Panel(
        "Padding",
        "percentunit",
        [
            Query(
                f"{rate('headrace_padding_rows_total', 'model')} / "
                f"({rate('headrace_padding_rows_total', 'model')} + {rate('headrace_batch_rows_sum', 'model')})",
                "{{model}}",
            )
        ],
        "Share of the rows in batches that are padding.",
    ),
    Panel(
        "Rows that wait",
        "short",
        [Query('sum by (model) (headrace_queue_rows{model=~"$model"})', "{{model}}")],
        "Now, by model.",
    ),
    Panel(
        "Refusals a second",
        "reqps",
        [Query(rate("headrace_refusals_total", "model", "reason"), "{{model}} {{reason}}")],
        "Requests refused by a model's queue.",
    ),
    Panel(
        "Batch threads that are busy",
        "percentunit",
        [
            Query(
                "avg by (instance) (avg_over_time(headrace_batch_threads_busy_ratio[$__rate_interval]))", "{{instance}}"
            ),
        ],
        "Near 100%, the server has no spare capacity.",
    ),
    Panel(
        "Rows that wait for each busy thread",
        "short",
        [Query("headrace_queue_rows_per_busy_thread", "{{instance}}")],
        "A good signal for an autoscaler: it rises before the latency does.",
    ),
    Panel(
        "Versions by state",
        "short",
        [
            Query(
                'sum by (model, version, state) (headrace_model_state{model=~"$model"})',
                "{{model}}:{{version}} {{state}}",
            )
        ],
        "The state `end` means that a version has failed to load.",
    ),
    Panel(
        "CPU", "short", [Query("rate(process_cpu_seconds_total[$__rate_interval])", "{{instance}}")], "Cores in use."
    ),
    Panel(
        "Memory",
        "bytes",
        [
            Query("process_resident_memory_bytes", "{{instance}} resident"),
            Query("sum by (instance) (headrace_request_memory_bytes)", "{{instance}} held for callers"),
            Query("headrace_request_memory_limit_bytes", "{{instance}} limit for requests"),
        ],
        "Memory of the process, and the part of it that requests in progress use.",
    ),
    Panel(
        "Drift",
        "short",
        [Query('headrace_drift_stability_index{model=~"$model"}', "{{model}} {{input}}")],
        "Population stability index of inputs, compared with the profile next to the model; above 0.2 is a shift.",
    ),
    Panel(
        "GPUs",
        "percentunit",
        [
            Query("headrace_gpu_utilization_ratio", "{{instance}} {{device}} busy"),
            Query("headrace_gpu_memory_used_bytes / headrace_gpu_memory_bytes", "{{instance}} {{device}} memory"),
        ],
        "Empty without GPUs.",
    ),
)


def main() -> int:
    """Writes the file, or checks that it is up to date."""
    text = json.dumps(_dashboard(), indent=2) + "\n"
    if sys.argv[1:] != ["--check"]:
        FILE.write_text(text)
        return 0
    stale = FILE.read_text() != text
    if stale:
        print(f"{FILE} is stale: run python -m scripts.dashboard", file=sys.stderr)
    return int(stale)


def _dashboard() -> dict[str, Any]:
    return {
        "uid": "headrace",
        "title": "headrace",
        "tags": ["headrace"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "templating": {"list": [_source(), _models()]},
        "panels": [_panel(number, panel) for number, panel in enumerate(PANELS)],
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    row, column = divmod(number, ACROSS)
    return {
        "id": number + 1,
        "type": "timeseries",
        "title": panel.title,
        "description": panel.description,
        "datasource": SOURCE,
        "gridPos": {"x": column * WIDTH, "y": row * HEIGHT, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": [
            {
                "refId": chr(ord("A") + index),
                "datasource": SOURCE,
                "expr": query.expression,
                "legendFormat": query.legend,
            }
            for index, query in enumerate(panel.queries)
        ],
    }


def _source() -> dict[str, Any]:
    return {"name": "source", "label": "Source", "type": "datasource", "query": "prometheus"}


def _models() -> dict[str, Any]:
    return {
        "name": "model",
        "label": "Model",
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": "label_values(headrace_model_state, model)", "refId": "models"},
        "includeAll": True,
        "allValue": ".*",
        "multi": True,
        "refresh": 2,
    }


if __name__ == "__main__":
    sys.exit(main())
