"""Runs a search: creates the candidates, measures them in turn, and records why each is kept or not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.graph import Facts
from headrace_toolkit.report import Line
from headrace_toolkit.search import CANDIDATES, SMALLER, Circumstances, Outcome, Search, over_limit, verdicts, why_not
from headrace_toolkit.sources.base import Trainable
from headrace_toolkit.steps import auto
from headrace_toolkit.steps.base import Step
from headrace_toolkit.tables import Table
from headrace_toolkit.variants import Variant, timed, under_load
from headrace_toolkit.workshop import Workshop


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The outcome of a search.

    Attributes:
        kept: The variants that are kept, each made from the one before it.
        lines: The lines of all candidates, in order.
    """

    kept: tuple[Variant, ...]
    lines: tuple[Line, ...]


def search(asked: Search, base: Variant, before: Variant, workshop: Workshop) -> Found:
    """Tries candidates, and keeps those that meet the limits: first a smaller network, then a smaller form of its file.

    Args:
        asked: The candidates to try, and the limits.
        base: The converted model, to which times are relative.
        before: The origin of the candidates.
        workshop: The place where they are made.
    """
    searching = _Searching(asked, base, workshop)
    smaller, first_lines = searching.smaller(before)
    winner, lines = searching.best(smaller or before)
    kept = tuple(variant for variant in (smaller, winner) if variant is not None)
    return Found(kept=kept, lines=(*first_lines, *lines))


class _Searching:
    """One search."""

    def __init__(self, asked: Search, base: Variant, workshop: Workshop) -> None:
        self._base = base
        self._workshop = workshop
        self._names = asked.candidates or (*SMALLER, *CANDIDATES)
        limits = workshop.recipe.limits
        self._max_drop = limits.max_drop if asked.max_drop is None else asked.max_drop
        self._min_speedup = limits.min_speedup

    def smaller(self, before: Variant) -> tuple[Variant | None, list[Line]]:
        """The first smaller network within the limits, and a line for each that was tried."""
        lines: list[Line] = []
        if not isinstance(before.source, Trainable):
            return None, lines
        for name in filter(SMALLER.__contains__, self._names):
            step = _step(SMALLER, name)
            if self._workshop.grounds.training is None:
                lines.append(
                    Line(name=step.name, why="not tried: there are no rows to train on: give some with --train")
                )
                continue
            try:
                made = self._workshop.step(step, before)
            except ToolkitError as error:
                lines.append(Line(name=step.name, why=f"not kept: {error}"))
                continue
            (made,), start = self._timed([made], before)
            reason = over_limit(self._outcome(made, start), self._max_drop, self._min_speedup)
            made = made.with_line(kept=not reason, why=f"not kept: {reason}" if reason else "")
            lines.append(made.line)
            if not reason:
                return made, lines
        return None, lines

    def best(self, before: Variant) -> tuple[Variant | None, list[Line]]:
        """The winner of the candidates that change the file, and a line for each."""
        made: dict[str, Variant] = {}
        lines: dict[str, Line] = {}
        for name, step, reason in self._candidates(before):
            if reason:
                lines[name] = Line(name=step.name, why=f"not tried: {reason}")
                continue
            self._check_rows(step)
            try:
                made[name] = self._workshop.step(step, before).with_line(kept=False)
            except ToolkitError as error:
                lines[name] = Line(name=step.name, why=f"not kept: {error}")
        winner = self._judge(made, before)
        lines |= {name: variant.line for name, variant in made.items()}
        return made.get(winner), [lines[name] for name in self._names if name in lines]

    def _candidates(self, before: Variant) -> Iterator[tuple[str, Step, str]]:
        """Each candidate, its step, and why it is not worth trying; the reason is empty if it is."""
        workshop = self._workshop
        given = Circumstances(calibrated=workshop.grounds.calibration is not None, target=workshop.recipe.output.target)
        facts = Facts.of(before.file)
        for name in filter(CANDIDATES.__contains__, self._names):
            yield name, _step(CANDIDATES, name), why_not(name, facts, given)

    def _check_rows(self, step: Step) -> None:
        """Refuses calibration rows that are not finite, and so ends the search: every such step would fail."""
        calibration = self._workshop.grounds.calibration
        if step.needs.rows and calibration is not None:
            calibration.check_finite("calibration")

    def _judge(self, made: dict[str, Variant], before: Variant) -> str:
        """The name of the winner; empty if there is none. Sets the times and reasons of all variants."""
        others, start = self._timed(list(made.values()), before)
        made |= dict(zip(made, others, strict=True))
        outcomes = {name: self._outcome(variant, start) for name, variant in made.items()}
        winner, reasons = verdicts(outcomes, self._max_drop, self._min_speedup)
        for name, reason in reasons.items():
            made[name] = made[name].with_line(why=f"not kept: {reason}")
        if winner:
            made[winner] = made[winner].with_line(kept=True)
        return winner

    def _timed(self, made: list[Variant], before: Variant) -> tuple[list[Variant], Variant]:
        """The variants with their times, and with the times of their origins."""
        workshop = self._workshop
        with workshop.progress.step("time the candidates"):
            _, (start, *others) = timed(self._base, [before, *made], workshop.grounds, workshop.recipe.timing_seconds)
        if workshop.recipe.load:
            with workshop.progress.step("serve the candidates"):
                start, *others = under_load(
                    [start, *others], workshop.grounds, workshop.recipe.load, workshop.recipe.timing_seconds
                )
        return others, start

    def _outcome(self, variant: Variant, start: Variant) -> Outcome:
        return Outcome(
            name=variant.line.name,
            drop=self._workshop.grounds.drop(variant.line.metric),
            bytes=(variant.line.bytes or 0) / (start.line.bytes or 1),
            time=_time(variant, start),
            difference=variant.line.largest_difference or 0.0,
        )


def _time(variant: Variant, start: Variant) -> float:
    """CPU time relative to the origin's: per row under load if there was one, otherwise of a bare run."""
    if variant.line.served is None or start.line.served is None:
        return variant.time() / start.time()
    return variant.line.served.cpu_us / start.line.served.cpu_us


def _step(steps: Mapping[str, Mapping[str, Any]], name: str) -> Step:
    return auto.build(steps[name]["kind"], Table(name, steps[name], Path()))
