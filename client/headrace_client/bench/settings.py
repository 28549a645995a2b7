"""The settings of one run of the load generator."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from headrace_client.bench import values
from headrace_client.bench.errors import BenchError
from headrace_client.tls import Tls, tls_of
from headrace_client.token import token_metadata

APIS = ("auto", "predict", "infer", "rest-predict", "rest-infer")
ARRIVALS = ("poisson", "constant", "recorded")
DEFAULT_CONCURRENCY = (1, 4, 16, 64)
MOST_UNDER_WAY = 10_000
"""The maximum number of calls that an open loop has in flight; later ones wait, and the wait counts as latency."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A load that a run measures, as one point of a sweep.

    Attributes:
        kind: `closed`, `poisson`, `constant` or `recorded`.
        value: The number of callers of a closed loop, the calls per second of an open one, or the factor
            by which a log is sent faster than it was recorded.
    """

    kind: str
    value: float

    def __str__(self) -> str:
        if self.kind == "closed":
            return f"{self.value:,.0f} callers" if self.value > 1 else "1 caller"
        return f"recorded x{self.value:g}" if self.kind == "recorded" else f"{self.value:,g}/s {self.kind}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of a run. Times are in seconds.

    Attributes:
        servers: The servers to measure, one or two: gRPC targets or URLs. Two take turns, stage by stage.
        api: One of `APIS`.
        models: The models to call, by name, each with its relative share of the calls.
        signature: The signature of TF Serving's models.
        version: The version of the models; None means the newest.
        inputs: The file with the input arrays of each model, by its name; the file under `""` is for all models.
        log: A file with logged requests.
        rows: How many rows a request has; if there are several numbers, requests of all these sizes are sent.
        stages: The stages to measure, in order.
        seconds: How long each stage is measured.
        warmup: How long each stage runs before it is measured.
        timeout: The timeout of a call.
        limit: The latency beyond which an answer does not count as good; None means no limit.
        connections: The number of connections; None means as many as suit the stage.
        threads: The number of threads of the load generator.
        rounds: How often each stage is measured; the median is reported.
        seed: The seed of random numbers.
        metadata: Metadata that is sent with every call.
        tls: The certificates of calls over TLS; None means no TLS.
    """

    servers: tuple[str, ...]
    api: str = "auto"
    models: Mapping[str, float] = field(default_factory=dict)
    signature: str = "serving_default"
    version: int | None = None
    inputs: Mapping[str, Path] = field(default_factory=dict)
    log: Path | None = None
    rows: tuple[int, ...] = (1,)
    stages: tuple[Stage, ...] = ()
    seconds: float = 5.0
    warmup: float = 1.0
    timeout: float = 10.0
    limit: float | None = None
    connections: int | None = None
    threads: int = 1
    rounds: int = 1
    seed: int = 1
    metadata: tuple[tuple[str, str], ...] = ()
    tls: Tls | None = None

    @property
    def over_rest(self) -> bool:
        """Whether servers are called over REST."""
        return self.api.startswith("rest-")


def read(given: Mapping[str, object]) -> Settings:
    """Reads the settings of a command line; `given` has the value of each flag, by the flag's name.

    Raises:
        BenchError: A value cannot be used.
    """
    flags = {name: value for name, value in given.items() if value is not None}
    single = {name: str(value) for name, value in flags.items() if isinstance(value, str)}
    log = Path(single["log"]) if "log" in single else None
    models = _models(_several(flags, "model"))
    if not models and log is None:
        raise BenchError("--model must name the model to call, unless --log has requests")
    read: dict[str, object] = {}
    for flag in ("seconds", "warmup", "timeout", "limit"):
        if flag in single:
            read[flag] = values.duration(flag, single[flag])
    for flag, most in (("connections", 10_000), ("threads", 64), ("rounds", 100), ("version", 2**62), ("seed", 2**62)):
        if flag in single:
            read[flag] = values.count(flag, single[flag], most)
    if "rows" in single:
        read["rows"] = values.counts("rows", single["rows"], 100_000)
    named = [flags[name] for name in ("address", "server") if name in flags]
    if "compare" in flags and named:
        raise BenchError("--compare names both servers: no other server can be given")
    if len(named) > 1:
        raise BenchError(f"{named[0]} and --server both name the server: give only one of them")
    api = values.choice("api", single.get("api", "auto"), APIS)
    if api.startswith("rest-") and log is not None:
        raise BenchError("--log has gRPC requests, which cannot be sent over REST")
    default = "localhost:8501" if api.startswith("rest-") else "localhost:8500"
    return Settings(
        servers=tuple(_several(flags, "compare")) or (str(named[0]) if named else default,),
        api=api,
        models=models,
        signature=single.get("signature", "serving_default"),
        inputs=_files(_several(flags, "inputs"), models),
        log=log,
        stages=_stages(single, log),
        metadata=_metadata(_several(flags, "metadata")),
        tls=_tls(flags),
        **read,  # type: ignore[arg-type]
    )


def _several(flags: Mapping[str, object], name: str) -> list[str]:
    given = flags.get(name, [])
    return [str(item) for item in given] if isinstance(given, list) else [str(given)]


def _metadata(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """The metadata of flags, and the token in the environment unless a flag has credentials."""
    given = tuple(values.metadata("metadata", text) for text in texts)
    if any(name.lower() == "authorization" for name, _ in given):
        return given
    try:
        return (*given, *token_metadata())
    except ValueError as error:
        raise BenchError(str(error)) from error


def _tls(flags: Mapping[str, object]) -> Tls | None:
    try:
        return tls_of(flags)
    except ValueError as error:
        raise BenchError(str(error)) from error


def _models(texts: list[str]) -> dict[str, float]:
    return dict(values.weighted("model", text) for text in texts)


def _files(texts: list[str], models: Mapping[str, float]) -> dict[str, Path]:
    files = {}
    for text in texts:
        name, equals, path = text.partition("=")
        if equals and name not in models:
            raise BenchError(f"--inputs must be FILE, or NAME=FILE with the NAME of a --model; was {text!r}")
        files[name if equals else ""] = Path(path if equals else text)
    return files


def _stages(single: Mapping[str, str], log: Path | None) -> tuple[Stage, ...]:
    arrivals = values.choice("arrivals", single.get("arrivals", "poisson"), ARRIVALS)
    stages = [Stage("closed", number) for number in _given(single, "concurrency")]
    if "speed" in single and arrivals != "recorded":
        raise BenchError("--speed is for --arrivals=recorded")
    if arrivals == "recorded":
        if log is None:
            raise BenchError("--arrivals=recorded needs the times in a --log")
        speeds = values.rates("speed", single.get("speed", "1"))
        return (*stages, *(Stage("recorded", speed) for speed in speeds))
    if "rate" in single:
        stages += [Stage(arrivals, rate) for rate in values.rates("rate", single["rate"])]
    return tuple(stages) or tuple(Stage("closed", number) for number in DEFAULT_CONCURRENCY)


def _given(single: Mapping[str, str], flag: str) -> tuple[int, ...]:
    return values.counts(flag, single[flag], MOST_UNDER_WAY) if flag in single else ()
