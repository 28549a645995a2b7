"""Runs the stages of a sweep on one server, or on two in turn."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from headrace_client.bench.errors import BenchError
from headrace_client.bench.points import Point, of_result
from headrace_client.bench.rest import RestServer
from headrace_client.bench.rest_load import RestLoad
from headrace_client.bench.server import Server, native, native_tls
from headrace_client.bench.settings import MOST_UNDER_WAY, Settings, Stage
from headrace_client.bench.workload import Workload, prepare

Tell = Callable[[str, Stage, float, float, int, int], None]
"""Called with the server, the stage, its elapsed and its total seconds, and the numbers of ended and failed calls."""

LOOK = 0.2
_OPEN_CONNECTIONS = 4


def run(settings: Settings, tell: Tell) -> Iterator[Point]:
    """Measures every stage, and returns a point for each server and stage, in order.

    If there are several rounds, the one with the median number of calls per second is returned. Servers take turns in
    each round.

    Raises:
        BenchError: A server cannot be reached, or refuses a request.
    """
    with ExitStack() as stack:
        servers = []
        for target in settings.servers:
            kind: Any = RestServer if settings.over_rest else Server
            server = kind(target, settings.metadata, settings.timeout, settings.tls)
            stack.callback(server.close)
            servers.append((target, prepare(server, settings)))
        for stage in settings.stages:
            yield from _measured(servers, stage, settings, tell)


def _measured(servers: Sequence[tuple[str, Workload]], stage: Stage, settings: Settings, tell: Tell) -> Iterator[Point]:
    rounds: list[list[Point]] = [[] for _ in servers]
    for turn in range(settings.rounds):
        places = range(len(servers)) if turn % 2 == 0 else range(len(servers) - 1, -1, -1)
        for place in places:
            target, workload = servers[place]
            rounds[place].append(_load(target, workload, stage, settings, tell))
    for points in rounds:
        yield sorted(points, key=lambda point: point.rate)[len(points) // 2]


def _load(target: str, workload: Workload, stage: Stage, settings: Settings, tell: Tell) -> Point:
    plan = _plan(workload, stage, settings)
    kinds, tls = [(kind.weight, kind.requests) for kind in workload.kinds], settings.tls
    load: Any = (
        RestLoad(target, kinds, plan, tls)
        if settings.over_rest
        else native().Load(target, kinds, plan, **({} if tls is None else {"tls": native_tls(tls)}))
    )
    load.start(list(settings.metadata))
    total = plan["warmup"] + plan["seconds"]
    try:
        while not load.wait(LOOK):
            elapsed, _, ended, failed = load.progress()
            tell(target, stage, elapsed, total, ended, failed)
    except KeyboardInterrupt:
        load.stop()
        raise
    try:
        result = load.result()
    except ConnectionError as error:
        raise BenchError(f"{target}: {error}") from error
    names = [kind.name for kind in workload.kinds]
    calls = load.progress()[2]
    return of_result(target, stage, names, result, seconds=plan["seconds"], calls=calls, limit=settings.limit)


def _plan(workload: Workload, stage: Stage, settings: Settings) -> dict[str, Any]:
    closed = stage.kind == "closed"
    under_way = int(stage.value) if closed else MOST_UNDER_WAY
    connections = settings.connections or (min(_OPEN_CONNECTIONS, under_way) if closed else _OPEN_CONNECTIONS)
    plan: dict[str, Any] = {
        "threads": min(settings.threads, under_way, connections),
        "connections": connections,
        "concurrency": under_way,
        "rate": 0.0 if closed else stage.value,
        "poisson": stage.kind == "poisson",
        "times": [],
        "order": [],
        "warmup": settings.warmup,
        "seconds": settings.seconds,
        "timeout": settings.timeout,
        "seed": settings.seed,
    }
    if stage.kind == "recorded":
        times, order = workload.schedule(stage.value)
        # A recording is replayed unchanged, and all of it counts.
        plan |= {"times": times, "order": order, "rate": 0.0, "warmup": 0.0, "seconds": times[-1] + 1e-3}
    return plan
