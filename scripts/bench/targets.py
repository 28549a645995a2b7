"""The targets of a case, each with the figure of this run."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from .contenders import AIO, GRPCPP, HEADRACE, NATIVE
from .figures import cpu_us, figure, latency_us, loop_cpu_us, loop_rows_per_second, loop_run_us, requests_per_second
from .measure import Results
from .scaling import (
    ALONE,
    BESIDE_IDLE,
    FOUR,
    FOUR_CALLERS,
    MANY_MODELS,
    ONE_MODEL,
    SIXTY_FOUR,
    THOUSAND,
    Scaling,
)


@dataclass(frozen=True)
class Verdict:
    """A target, the measured figure, and whether the figure meets the target."""

    what: str
    target: str
    measured: str
    met: bool


def verdicts(results: Results) -> Iterator[Verdict]:
    """Yields the targets of a case, without those of which one side was not measured."""
    yield from _TARGETS[results.case.name](results)


def scaling_verdicts(scaling: Scaling) -> Iterator[Verdict]:
    """Yields the native transport's targets for connections and models. A tenth more is within the noise."""
    points = scaling.samples.get(NATIVE)
    if points is None:
        return
    for what, more, fewer in (
        ("connections: CPU per request beside 996 idle ones, relative to none", BESIDE_IDLE, ALONE),
        ("connections: CPU per request on 64 busy ones, relative to 4", SIXTY_FOUR, FOUR),
        ("connections: CPU per request on 1,000 busy ones, relative to 4, 1,000 calls in flight", THOUSAND, FOUR),
        ("connections: CPU per request on 1,000 busy ones, relative to 4, one call on each", THOUSAND, FOUR_CALLERS),
        ("models: CPU per request with 200 loaded, relative to 1", MANY_MODELS, ONE_MODEL),
    ):
        yield at_most(what, 1.1, cpu_us(points[more]) / cpu_us(points[fewer]))


def _small(results: Results) -> Iterator[Verdict]:
    loaded, idle = results.loaded, results.idle
    if {NATIVE, GRPCPP} <= loaded.keys():
        ratio = requests_per_second(loaded[NATIVE]) / requests_per_second(loaded[GRPCPP])
        yield at_least("small: native transport's requests/s, relative to bare grpc++", 3, ratio)
        ratio = cpu_us(loaded[NATIVE]) / cpu_us(loaded[GRPCPP])
        yield at_most("small: native transport's CPU per request, relative to bare grpc++", 0.25, ratio)
    if {HEADRACE, AIO} <= loaded.keys():
        ratio = cpu_us(loaded[HEADRACE]) / cpu_us(loaded[AIO])
        yield at_most("small: grpc.aio transport's CPU per request, relative to bare grpc.aio", 1.5, ratio)
    if NATIVE in idle:
        over = latency_us(idle[NATIVE])[0] - loop_run_us(results, 1)
        yield at_most("small: native transport's median for one caller, less that of a bare run, in us", 100, over)


def _image(results: Results) -> Iterator[Verdict]:
    loaded = results.loaded
    if {NATIVE, GRPCPP} <= loaded.keys():
        ratio = requests_per_second(loaded[NATIVE]) / requests_per_second(loaded[GRPCPP])
        yield at_least("image: native transport's requests/s, relative to bare grpc++", 1, ratio)
        # The cheapest batch size, so that no more than the inference is subtracted.
        inference = min(loop_cpu_us(results, batch) for batch in results.loop)
        ratio = (cpu_us(loaded[NATIVE]) - inference) / cpu_us(loaded[GRPCPP])
        yield at_most("image: native transport's CPU per request, less inference, relative to bare grpc++", 1, ratio)


def _compute(results: Results) -> Iterator[Verdict]:
    loop = loop_rows_per_second(results, results.case.max_batch_size)
    for name, samples in results.loaded.items():
        ratio = requests_per_second(samples) / loop
        yield at_least(f"compute: rows/s of {name}, relative to the bare loop", 0.95, ratio)


_TARGETS: dict[str, Callable[[Results], Iterator[Verdict]]] = {
    "small": _small,
    "image": _image,
    "compute": _compute,
}


def at_least(what: str, least: float, value: float) -> Verdict:
    """Returns the verdict on a value that has a minimum."""
    return Verdict(what, f"at least {least:g}", figure(value), value >= least)


def at_most(what: str, most: float, value: float) -> Verdict:
    """Returns the verdict on a value that has a maximum."""
    return Verdict(what, f"at most {most:g}", figure(value), value <= most)
