"""Writes the report: what was measured, on which machine, and each target with its figure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from .figures import (
    batch_shares,
    cpu_us,
    figure,
    latency_us,
    loop_cpu_us,
    loop_rows_per_second,
    loop_run_us,
    requests_per_second,
    user_us,
)
from .measure import Budget, Results, Sample
from .open_inference import Infers, infer_rows, infer_verdicts
from .scaling import BUSY, IDLE, MODELS, Scaling
from .targets import Verdict, scaling_verdicts, verdicts

_METHOD = """\
Each figure is the median of {rounds} rounds. In each round, every server is started again and measured with only
h2load running beside it on the same machine. A load lasts about {seconds:g} s, twice that for the compute-bound model
and half for one caller, after a warm-up. CPU is the user and system time of the server process over the load, per
request. Latency is from h2load's log of a second load, and is the time from the sending of a request to the end of its
answer. So it includes the wait for earlier calls. h2load counts a gRPC error as a success. Therefore, the bytes of all
answers are counted, and headrace's values are compared with the runtime's before and after the load. The bare
responders, "no model", decode the request and answer with zeros of the right shape. headrace has one batch thread, and
like the bare loop it runs each batch on one thread; its CPU time includes the inference.
"""


_INFERS = """\
Each connection over HTTP has one request in flight. The first column of CPU time is for the server and the processes
that it starts, and the last one for the server's own process alone: the Triton of nvidia-pytriton runs the model in a
process of its Python backend.
"""


@dataclass(frozen=True)
class Measured:
    """All measurements of one run."""

    results: Sequence[Results]
    scaling: Scaling
    infers: Infers


def report(machine: Sequence[str], budget: Budget, measured: Measured) -> str:
    """Returns the report in Markdown."""
    results, scaling, infers = measured.results, measured.scaling, measured.infers
    parts = ["# Benchmarks", "Written by `make bench`; only ratios within one run are meaningful."]
    parts += [*machine, _others(results, scaling)]
    parts.append(_METHOD.format(rounds=budget.rounds, seconds=budget.seconds))
    parts.append("![Requests per second, CPU per request and batch sizes](benchmarks.png)")
    checked = [verdict for case in results for verdict in verdicts(case)]
    checked += [*scaling_verdicts(scaling), *infer_verdicts(infers)]
    if checked:
        parts += ["## Targets", _targets(checked)]
    for case in results:
        parts += _case(case)
    if scaling.samples:
        parts += _scaling(scaling)
    if infers.samples:
        heads = ("", "load", "requests/s", "CPU us/request", "of the server's process")
        parts += ["## Open Inference Protocol", _INFERS, _table(heads, infer_rows(infers))]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _others(results: Iterable[Results], scaling: Scaling) -> str:
    loads = [rounds for case in results for rounds in (*case.loaded.values(), *case.idle.values())]
    loads += [rounds for points in scaling.samples.values() for rounds in points.values()]
    cores = [sample.other_cores for rounds in loads for sample in rounds]
    if not cores:
        return ""
    return (
        f"During the run, unrelated processes used {median(cores):.2f} cores at the median and {max(cores):.2f} at "
        "most; the closer these numbers are to zero, the more reliable the figures are."
    )


def _targets(checked: Iterable[Verdict]) -> str:
    rows = [(v.what, v.target, v.measured, "met" if v.met else "**missed**") for v in checked]
    return _table(("target", "asked", "measured", ""), rows)


def _case(results: Results) -> list[str]:
    case = results.case
    return [
        f"## {case.title}",
        f"This table is for {case.load}; batches have at most {case.max_batch_size} rows:",
        _servers(results.loaded),
        "This table is for one caller, who makes one call at a time:",
        _servers(results.idle),
        *_distributions(results),
        "The bare `InferenceSession.run` loop reaches these figures:",
        _loop(results),
    ]


def _servers(samples: dict[str, list[Sample]]) -> str:
    heads = (
        "",
        "requests/s",
        "lowest-highest",
        "CPU us/request",
        "p50 us",
        "p90 us",
        "p99 us",
        "peak MB",
        "h2load cores",
    )
    return _table(heads, [(name, *_server(rounds)) for name, rounds in samples.items()])


def _server(rounds: list[Sample]) -> list[str]:
    rates = [sample.requests_per_second for sample in rounds]
    return [
        figure(requests_per_second(rounds)),
        f"{figure(min(rates))}-{figure(max(rates))}",
        figure(cpu_us(rounds)),
        *map(figure, latency_us(rounds)),
        figure(median(sample.peak_rss_bytes for sample in rounds) / 1e6),
        f"{median(sample.caller_cores for sample in rounds):.2f}",
    ]


def _distributions(results: Results) -> list[str]:
    shares = {name: batch_shares(samples) for name, samples in results.loaded.items()}
    rows = [(name, _shares(ranges)) for name, ranges in shares.items() if ranges]
    return (
        ["Under the load, this share of the batches had each number of rows:", _table(("", "batches"), rows)]
        if rows
        else []
    )


def _shares(ranges: dict[str, float]) -> str:
    return ", ".join(f"{rows}: {share:.0%}" for rows, share in ranges.items())


_SCALING = {
    BUSY: "The first four rows of each server have 1,000 calls of the small model in flight, over more and more "
    "connections; its last row has four callers, each with one call. With one stream to a connection, every request "
    "and every answer is a TCP segment of its own; streams that share a connection also share segments:",
    IDLE: "In these rows, idle connections are open in addition to four busy ones:",
    MODELS: "In these rows, models that are not called are loaded in addition to the one that is called:",
}


def _scaling(scaling: Scaling) -> Iterable[str]:
    yield "## Many connections, many models"
    for group, title in _SCALING.items():
        rows = [
            (f"{name}: {point}", *_point(rounds))
            for name, points in scaling.samples.items()
            for point, rounds in points.items()
            if point.group == group
        ]
        yield title
        yield _table(("", "requests/s", "CPU us/request", "in user space", "p50 us", "p99 us", "peak MB"), rows)


def _point(rounds: list[Sample]) -> list[str]:
    p50, _, p99 = latency_us(rounds)
    peak = median(sample.peak_rss_bytes for sample in rounds) / 1e6
    return [*map(figure, (requests_per_second(rounds), cpu_us(rounds), user_us(rounds), p50, p99, peak))]


def _loop(results: Results) -> str:
    rows = [
        (
            str(batch),
            figure(loop_rows_per_second(results, batch)),
            figure(loop_run_us(results, batch)),
            figure(loop_cpu_us(results, batch)),
        )
        for batch in results.loop
    ]
    return _table(("rows a batch", "rows/s", "us/run", "CPU us/row"), rows)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows))
