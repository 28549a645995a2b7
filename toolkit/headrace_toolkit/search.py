"""Decides which candidates are tried, in which order, and which one wins.

Pure functions of a model and measurements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from headrace_toolkit.graph import Facts
from headrace_toolkit.tables import Table

DYNAMIC = "dynamic"
STATIC = "static"
HALF = "half"
SHARE_256 = "share 256"
SHARE_16 = "share 16"

CANDIDATES: Mapping[str, Mapping[str, Any]] = {
    STATIC: {"kind": "quantize", "method": "static"},
    DYNAMIC: {"kind": "quantize", "method": "dynamic"},
    HALF: {"kind": "half"},
    SHARE_256: {"kind": "share", "values": 256},
    SHARE_16: {"kind": "share", "values": 16},
}
"""The step of each candidate, as a recipe would have it."""

SMALLER: Mapping[str, Mapping[str, Any]] = {
    "channels 50": {"kind": "channels", "amount": 0.5, "finetune": {"epochs": 16}},
    "channels 25": {"kind": "channels", "amount": 0.25, "finetune": {"epochs": 16}},
}
"""Steps that train a smaller network; they are tried first, and the others build on the first one within the limits."""

AS_FAST = 1.1
"""Up to this ratio of their times, two candidates count as equally fast; measured ratios are not more precise."""


CLIPPING = 2.0
"""Static int8 is preferred to dynamic int8 only if it is this many times as fast.

Static int8 clips values outside the range of its calibration rows, and for models with only matrix products its largest
difference is ten to twenty times as large.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The candidates of a search.

    Attributes:
        candidates: Names of `SMALLER` and `CANDIDATES`; empty means all.
        max_drop: How much worse the winner's metric may be; None means the recipe's limit.
    """

    candidates: tuple[str, ...] = ()
    max_drop: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """The settings that determine the candidates, in addition to the model.

    Attributes:
        calibrated: Whether there are rows to calibrate on.
        target: The machine that will run the model, one of `recipe.TARGETS`.
    """

    calibrated: bool
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The measurements of a candidate, compared with the converted model.

    Attributes:
        name: The candidate's name in messages.
        drop: How much worse the candidate's metric is.
        bytes: The file's size as a share of the converted model's.
        time: The time of a run with many rows, relative to the converted model's.
        difference: The largest difference from the source's answers.
    """

    name: str
    drop: float
    bytes: float
    time: float
    difference: float = 0.0


def build_search(table: Table) -> Search:
    """The search that a table of a recipe describes.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    names = table.strings("candidates")
    for name in names:
        if name not in CANDIDATES and name not in SMALLER:
            raise table.wrong("candidates", f"must be of {', '.join([*SMALLER, *CANDIDATES])}", name)
    limit = table.number("max_drop", 0.0, 0) if "max_drop" in table else None
    return Search(candidates=names, max_drop=limit)


def why_not(candidate: str, facts: Facts, given: Circumstances) -> str:
    """The reason why a candidate is not worth trying on a model; empty if it is."""
    if facts.quantized:
        return "the model is already quantized"
    if facts.trees:
        return "a tree ensemble has no weights to make smaller"
    if candidate == HALF and given.target != "gpu":
        return 'half floats are never faster on a CPU; target = "gpu" tries them'
    if candidate in (DYNAMIC, STATIC) and not facts.products + facts.convolutions:
        return "the model has no Conv, MatMul or Gemm to quantize"
    if candidate == DYNAMIC and facts.convolutions:
        return f"{facts.convolutions} Conv, which are slower in dynamic int8"
    if candidate == STATIC and not given.calibrated:
        return "there are no rows to calibrate on: give some with --data"
    if candidate in (SHARE_256, SHARE_16) and not any(size >= 1024 for size in facts.sizes):
        return "no weight has 1,024 values or more"
    return ""


def verdicts(outcomes: Mapping[str, Outcome], max_drop: float, min_speedup: float | None) -> tuple[str, dict[str, str]]:
    """Which candidate wins, and why the others do not.

    Of the candidates that meet both limits, the fastest wins; if several are equally fast, the smallest of them wins.

    Args:
        outcomes: The outcomes by candidate, in the order of preference.
        max_drop: How much worse the metric may be.
        min_speedup: How many times as fast as its origin a winner must be; None only requires that it is not slower.

    Returns: The winner's name, empty if none meets the limits; and a reason for each other candidate.
    """
    reasons = {name: over_limit(outcome, max_drop, min_speedup) for name, outcome in outcomes.items()}
    reasons[STATIC] = reasons.get(STATIC, "") or _clips_for_little(outcomes, reasons)
    fit = [name for name in outcomes if not reasons[name]]
    if not fit:
        return "", {name: reasons[name] for name in outcomes}
    fastest = min(outcomes[name].time for name in fit)
    winner = min((n for n in fit if outcomes[n].time <= fastest * AS_FAST), key=_size_of(outcomes, fit))
    for name in fit:
        if name != winner:
            slower = outcomes[name].time > outcomes[winner].time * AS_FAST
            best = _short(outcomes[winner])
            reasons[name] = f"slower than {best}" if slower else f"larger than {best}, and no faster"
    return winner, {name: reasons[name] for name in outcomes if name != winner}


def _clips_for_little(outcomes: Mapping[str, Outcome], reasons: Mapping[str, str]) -> str:
    """The reason why static int8 loses to dynamic int8; empty if it does not."""
    static, dynamic = outcomes.get(STATIC), outcomes.get(DYNAMIC)
    if static is None or dynamic is None or reasons[DYNAMIC] or static.time * CLIPPING <= dynamic.time:
        return ""
    return (
        f"only {dynamic.time / static.time:.1f} times as fast as {_short(dynamic)}, with "
        f"{static.difference / max(dynamic.difference, 1e-12):.0f} times its largest difference"
    )


def _short(outcome: Outcome) -> str:
    """The name without its settings, except for the size of a codebook."""
    return outcome.name if outcome.name.startswith("k-means") else outcome.name.partition(",")[0]


def _size_of(outcomes: Mapping[str, Outcome], order: Sequence[str]) -> Any:
    """Sizes within a twentieth count as equal; the first one in the order of preference then wins."""
    return lambda name: (round(outcomes[name].bytes * 20), order.index(name))


def over_limit(outcome: Outcome, max_drop: float, min_speedup: float | None) -> str:
    """The reason why a measurement does not meet the limits; empty if it does."""
    if outcome.drop > max_drop:
        return f"loses {outcome.drop:.2f} points, more than {max_drop:g}"
    if min_speedup is None:
        return "slower" if outcome.time > AS_FAST else ""
    return f"not {min_speedup:g} times as fast" if outcome.time * min_speedup > 1 else ""
