"""The medians that tables, targets and the chart share, and the format of a figure."""

from statistics import median

from .measure import Results, Sample


def requests_per_second(samples: list[Sample]) -> float:
    """Returns the median of the requests per second over the rounds."""
    return median(sample.requests_per_second for sample in samples)


def cpu_us(samples: list[Sample]) -> float:
    """Returns the median CPU of a request, in microseconds."""
    return median(sample.cpu_us for sample in samples)


def user_us(samples: list[Sample]) -> float:
    """Returns the median CPU of a request in user space, in microseconds."""
    return median(sample.user_us for sample in samples)


def latency_us(samples: list[Sample]) -> list[float]:
    """Returns the medians of the 50th, 90th and 99th percentile."""
    return [median(column) for column in zip(*(sample.latency_us for sample in samples), strict=True)]


def loop_rows_per_second(results: Results, batch: int) -> float:
    """Returns the bare loop's median rows per second at a batch size."""
    return median(sample.rows_per_second for sample in results.loop[batch])


def loop_run_us(results: Results, batch: int) -> float:
    """Returns the bare loop's median time of a run, in microseconds."""
    return median(sample.run_us for sample in results.loop[batch])


def loop_cpu_us(results: Results, batch: int) -> float:
    """Returns the bare loop's median CPU of a row, in microseconds."""
    return median(sample.cpu_us_per_row for sample in results.loop[batch])


def batch_shares(samples: list[Sample]) -> dict[str, float]:
    """Returns each range of rows, smallest first, with its share of all batches; empty if none were logged."""
    total: dict[str, int] = {}
    for sample in samples:
        for rows, batches in sample.batches.items():
            total[rows] = total.get(rows, 0) + batches
    everything = sum(total.values())
    ordered = sorted(total, key=lambda rows: int(rows.partition("-")[0]))
    return {rows: total[rows] / everything for rows in ordered}


def figure(value: float) -> str:
    """Returns a number with three significant digits: 13.4, 134, 13,400."""
    if abs(value) < 100:
        return f"{value:.3g}"
    return f"{round(value, 3 - len(str(int(abs(value))))):,.0f}"
