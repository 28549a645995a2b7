"""The requests of a load, ready to send: some of each kind, with weights, or those of a log."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from headrace_client.bench import apis
from headrace_client.bench.errors import BenchError
from headrace_client.bench.inputs import random_inputs, read_inputs
from headrace_client.bench.recorded import Recorded, read_log, times
from headrace_client.bench.rest import RestInfer, RestPredict
from headrace_client.bench.server import native
from headrace_client.bench.settings import Settings
from headrace_client.request import Signature


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of requests, which are counted together.

    Attributes:
        name: The name in reports.
        weight: The relative frequency of the kind.
        requests: `headrace_native.ClientRequest`s, or `rest.RestRequest`s, which are sent in turn.
        bytes: The size of one request.
    """

    name: str
    weight: float
    requests: Sequence[Any]
    bytes: int


@dataclass(frozen=True, slots=True)
class Workload:
    """The load for one server.

    Attributes:
        api: The API for the calls; `recorded` for the requests of a log.
        kinds: The kinds, at least one.
        recorded: The requests of a log, in order; empty without a log.
    """

    api: str
    kinds: Sequence[Kind]
    recorded: Sequence[Recorded] = ()

    def schedule(self, speed: float) -> tuple[list[float], list[int]]:
        """When to send each recorded request, in seconds from the start, and the index of its kind."""
        places = {kind.name: place for place, kind in enumerate(self.kinds)}
        return times(list(self.recorded), speed), [places[request.model] for request in self.recorded]


def prepare(server: Any, settings: Settings) -> Workload:
    """Makes the requests for a Server or a RestServer, and sends it one of each kind.

    Raises:
        BenchError: The server cannot be reached, does not know a model, or refuses a request; or inputs cannot be used.
    """
    workload = _of_log(settings) if settings.log is not None else _of_models(server, settings)
    for kind in workload.kinds:
        _try(server, kind)
    return workload


def _of_models(server: Any, settings: Settings) -> Workload:
    api = _api(server, settings)
    kinds = []
    for model, weight in settings.models.items():
        signature = api.signature(server, model)
        for rows in settings.rows:
            name = model if len(settings.rows) == 1 else f"{model}, {rows} row{'s' if rows > 1 else ''}"
            kinds.append(_kind(name, weight, _requests(api, model, signature, rows, settings)))
    return Workload(api.name, kinds)


def _api(server: Any, settings: Settings) -> apis.Api:
    if settings.api == "rest-predict":
        return RestPredict(settings.signature, settings.version)
    if settings.api == "rest-infer":
        return RestInfer(settings.version)
    first = next(iter(settings.models))
    return apis.choose(settings.api, server, first, settings.signature, settings.version)


def _requests(api: apis.Api, model: str, signature: Signature, rows: int, settings: Settings) -> list[Any]:
    path = settings.inputs.get(model, settings.inputs.get(""))
    if path is None:
        inputs = random_inputs(model, signature, rows, settings.seed)
    else:
        inputs = read_inputs(path, model, signature, rows)
    return [api.request(model, each) for each in inputs]


def _of_log(settings: Settings) -> Workload:
    assert settings.log is not None
    requests = [
        request for request in read_log(settings.log) if not settings.models or request.model in settings.models
    ]
    if not requests:
        raise BenchError(f"{settings.log} has no request for {', '.join(settings.models)}")
    by_model: dict[str, list[Any]] = {}
    for request in requests:
        sent = native().ClientRequest(request.path, request.message)
        by_model.setdefault(request.model, []).append(sent)
    # Without weights, models are called as often as in the log.
    kinds = [_kind(name, settings.models.get(name, len(sent)), sent) for name, sent in by_model.items()]
    return Workload("recorded", kinds, requests)


def _kind(name: str, weight: float, requests: Sequence[Any]) -> Kind:
    return Kind(name, weight, requests, len(requests[0]))


def _try(server: Any, kind: Kind) -> None:
    """Sends one request, so that a mistyped input is reported before the load, and a cold model is warmed up."""
    server.send(kind.requests[0])
