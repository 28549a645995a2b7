"""Measures how the cost of a request changes with the number of open connections and of loaded models."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from .cases import Case, Load
from .contenders import GRPCPP, NATIVE, Contender, of_many_models
from .measure import Bench, Budget, Sample

BUSY = "busy"
IDLE = "idle"
MODELS = "models"


@dataclass(frozen=True)
class Point:
    """One load of the small model. The grpc++ responder is also measured unless the number of models differs.

    Attributes:
        group: The table that the load belongs to.
        load: The number of connections, and of calls on each.
        idle: The number of idle connections that are open in addition to the load's.
        models: The number of loaded models.
    """

    group: str
    load: Load
    idle: int = 0
    models: int = 1

    def __str__(self) -> str:
        if self.group == MODELS:
            return f"{self.models} loaded, one called"
        return f"{self.load}, {self.idle} idle ones" if self.group == IDLE else str(self.load)


_USUAL = Load(connections=4, streams=16)

FOUR, SIXTY_FOUR, THOUSAND = (Point(BUSY, load) for load in (Load(4, 250), Load(64, 16), Load(1000, 1)))
FOUR_CALLERS = Point(BUSY, Load(4, 1))
ALONE, BESIDE_IDLE = Point(IDLE, _USUAL), Point(IDLE, _USUAL, idle=996)
ONE_MODEL, MANY_MODELS = Point(MODELS, _USUAL), Point(MODELS, _USUAL, models=200)

POINTS = (
    Point(BUSY, Load(1, 1000)),
    FOUR,
    SIXTY_FOUR,
    THOUSAND,
    FOUR_CALLERS,
    ALONE,
    BESIDE_IDLE,
    ONE_MODEL,
    MANY_MODELS,
)


@dataclass(frozen=True)
class Scaling:
    """All samples, one per round: by the server's name and by point."""

    samples: dict[str, dict[Point, list[Sample]]] = field(default_factory=dict)


def measure_scaling(small: Case, contenders: list[Contender], budget: Budget, folder: Path) -> Scaling:
    """Measures the points round after round, with the native transport and the grpc++ responder."""
    scaling = Scaling()
    chosen = [contender for contender in contenders if contender.name in (NATIVE, GRPCPP)]
    for number in range(budget.rounds):
        for place, point in enumerate(POINTS):
            for contender in chosen:
                if point.group == MODELS and not contender.infers:
                    continue
                bench = Bench(replace(small, load=point.load), folder / f"{number}-{place}-{contender.infers}")
                server = of_many_models(contender, point.models) if point.group == MODELS else contender
                sample = bench.sample(server, point.load, budget.seconds, point.idle)
                scaling.samples.setdefault(contender.name, {}).setdefault(point, []).append(sample)
    return scaling
