"""Compares servers with a bare responder: samples of a load, their medians, and a table of the ratios."""

import argparse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True)
class Sample:
    """The figures of one load: requests per second, and the server's CPU time per request in microseconds."""

    requests_per_second: float
    cpu_us: float


def parser_of(module: str, description: str | None) -> argparse.ArgumentParser:
    """Returns the option parser of a benchmark that is run as `python -m scripts.bench.MODULE`."""
    parser = argparse.ArgumentParser(prog=f"python -m scripts.bench.{module}", description=description)
    parser.add_argument(
        "--rounds", type=int, default=3, help="number of rounds, in each of which every server is measured once"
    )
    parser.add_argument("--seconds", type=float, default=2.5, help="length of one load")
    return parser


def table(what: str, measured: Iterable[tuple[object, Mapping[str, Sequence[Sample]]]], bare: str) -> Iterator[str]:
    """Yields the lines of a Markdown table with requests/s, CPU, and their ratios to the bare responder's.

    Args:
        what: The first column's heading.
        measured: What was requested, and the samples of each server.
        bare: The bare responder's name.
    """
    yield f"| {what} | server | requests/s | CPU per request, us | requests/s and CPU against the bare one |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for asked, by_server in measured:
        base = _median(by_server[bare])
        for name, taken in by_server.items():
            own = _median(taken)
            ratios = f"{own.requests_per_second / base.requests_per_second:.2f}, {own.cpu_us / base.cpu_us:.2f}"
            yield f"| {asked} | {name} | {own.requests_per_second:,.0f} | {own.cpu_us:,.1f} | {ratios} |"


def _median(samples: Sequence[Sample]) -> Sample:
    rates = median(sample.requests_per_second for sample in samples)
    return Sample(rates, median(sample.cpu_us for sample in samples))
