"""Converts a source, checks it, does the steps of a recipe, measures them side by side, and says what is kept."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headrace_server.backends.independence import Finding, Verdict
from headrace_toolkit import mend
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.graph import Facts
from headrace_toolkit.grounds import Grounds, Plan, Told, settle
from headrace_toolkit.machine import this_machine
from headrace_toolkit.progress import Progress, Silent
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.report import Line, Report, Rows, size
from headrace_toolkit.result import Result
from headrace_toolkit.rows import TRIED_ROWS, try_model
from headrace_toolkit.running import OnnxModel
from headrace_toolkit.search import CANDIDATES, Circumstances, Outcome, Search, verdicts, why_not
from headrace_toolkit.sources.base import Source, Trainable
from headrace_toolkit.steps import auto
from headrace_toolkit.steps.base import Step, Work
from headrace_toolkit.tables import Table
from headrace_toolkit.variants import Variant, examine, timed
from headrace_toolkit.work_folder import WorkFolder

WRONG_ROWS = 0.05
"""The share of rows that a conversion may answer otherwise than its source: trees split on the edge of rounding."""


def optimize(
    source: Source, data: Data | None, recipe: Recipe | None = None, progress: Progress | None = None
) -> Result:
    """Converts a source and does a recipe's steps; without a recipe it tries the candidates and keeps the best.

    Args:
        source: As `load` gives it.
        data: Rows, with labels if accuracy is to be measured; None takes random rows and compares with the source.
        recipe: What is to be done. The source, the rows and the base path that it names are the caller's business.
        progress: Who is told how far the work is.

    Raises:
        ToolkitError: The source cannot be converted, or the converted model answers otherwise, or a step cannot be
            done.
    """
    return _Run(source, recipe or Recipe(), progress or Silent()).result(data)


def convert(
    source: Source, data: Data | None, recipe: Recipe | None = None, progress: Progress | None = None
) -> Result:
    """As `optimize`, without any step."""
    return optimize(source, data, replace(recipe or Recipe(), steps=()), progress)


class _Run:
    """One run, and its folder of files in work.

    Args:
        source: What is converted.
        recipe: What is done to it.
        progress: Who is told how far the work is.
    """

    def __init__(self, source: Source, recipe: Recipe, progress: Progress) -> None:
        self._source = source
        self._recipe = recipe
        self._progress = progress
        self._told = Told()
        self._folder = WorkFolder()

    def result(self, data: Data | None) -> Result:
        """Does all of it."""
        self._refuse_steps_without_module()
        with self._progress.step(f"convert {self._source.origin.name}"):
            exported = self._source.export(self._folder.new())
        self._told.notes += exported.notes
        plan = Plan(calibrates=self._calibrates(exported.model), classes=exported.labels, seed=self._recipe.seed)
        grounds = settle(self._source, data, self._recipe.data, plan, self._told, self._progress)
        self._check_rows(exported.model, grounds)
        first = self._examine("convert to ONNX", exported.model, self._source, grounds)
        self._check_conversion(first)
        chain, lines = self._do_steps(first, grounds)
        return self._conclude(chain, lines, grounds, exported.labels)

    def _refuse_steps_without_module(self) -> None:
        for step in self._recipe.steps:
            if not isinstance(step, Search) and step.needs.module and not isinstance(self._source, Trainable):
                raise ToolkitError(
                    f"{step.name} needs a module to change, and {self._source.origin.name} is a file: give a function "
                    "that returns the module, as file.py:function"
                )

    def _calibrates(self, model: Path) -> bool:
        """Whether some step may calibrate, so that rows must be kept for it."""
        return not Facts.of(model).trees and any(
            isinstance(step, Search) or step.needs.rows for step in self._recipe.steps
        )

    def _examine(self, name: str, file: Path, source: Source | None, grounds: Grounds) -> Variant:
        with self._progress.step(f"check {name}") as advance:
            return examine(name, file, source, grounds, advance)

    def _check_rows(self, file: Path, grounds: Grounds) -> None:
        """Mends what the exporter declared wrongly of the batch, and refuses a model whose rows influence each other.

        Raises:
            ToolkitError: They do, and the user has not said that the version is not to be batched.
        """
        self._told.notes += mend.mend_outputs(file, grounds.rows(mend.ROWS))
        verdict = self._try_rows(file, grounds)
        if verdict.finding is Finding.INDEPENDENT:
            mend.name_batch(file, OnnxModel(file).signature)
        elif verdict.finding is Finding.NO_BATCH_AXIS:
            self._told.warnings.append(f"requests will run one by one: {verdict.reason}; export the model with a first "
                                       "dimension that varies to have them batched")  # fmt: skip
        elif verdict.finding is Finding.DEPENDENT and self._recipe.output.batch:
            raise ToolkitError(
                f"{self._source.origin.name} mixes the rows of a batch: {verdict.reason}. Batched, one caller's rows "
                "would change another's answers; mend the model, or publish it with --batch=false"
            )
        else:
            self._told.warnings.append(f"requests will run one by one: {verdict.reason}")

    def _try_rows(self, file: Path, grounds: Grounds) -> Verdict:
        return try_model(file, None if grounds.random else grounds.rows(TRIED_ROWS))

    def _check_conversion(self, first: Variant) -> None:
        """Refuses a conversion that answers otherwise than its source.

        Raises:
            ToolkitError: More than a few rows differ.
        """
        differing = first.line.differing or 0.0
        if differing > WRONG_ROWS:
            raise ToolkitError(
                f"{self._source.origin.name}: converted to ONNX, it answers {differing:.0%} of the rows otherwise than "
                f"{self._source.origin.framework} itself, by up to {first.line.largest_difference:.3g}"
            )
        if differing:
            self._told.notes.append(
                f"{differing:.2%} of the rows differ from the source's answers by more than rounding"
            )

    def _do_steps(self, first: Variant, grounds: Grounds) -> tuple[list[Variant], list[Line]]:
        """The variants that stand on each other, and the lines of all that were tried, in order."""
        chain, lines = [first], list[Line]()
        for step in self._recipe.steps:
            if isinstance(step, Search):
                winner, tried = self._search(step, chain[0], chain[-1], grounds)
                chain += [] if winner is None else [winner]
                lines += tried
            else:
                made = self._step(step, chain[-1], grounds)
                chain.append(made)
                lines.append(made.line)
        return chain, lines

    def _step(self, step: Step, before: Variant, grounds: Grounds) -> Variant:
        if step.needs.rows and grounds.calibration is not None:
            grounds.calibration.check_finite("calibration")
        if step.needs.module and not isinstance(before.source, Trainable):
            raise ToolkitError(f"{step.name} needs a module to change, and the step before it has changed the file")
        with self._progress.step(step.name) as advance:
            made = step.run(
                Work(
                    model=before.file,
                    folder=self._folder.new(),
                    source=before.source,
                    calibration=grounds.calibration,
                    labels=self._recipe.data.labels,
                    target=self._recipe.output.target,
                    seed=self._recipe.seed,
                    advance=advance,
                )
            )
        variant = self._examine(made.name or step.name, made.model, made.source, grounds)
        return variant.with_line(kept=True, notes=made.notes)

    def _search(
        self, search: Search, base: Variant, before: Variant, grounds: Grounds
    ) -> tuple[Variant | None, list[Line]]:
        """The winner, and a line for each candidate.

        Args:
            search: What to try.
            base: The converted model, which times are ratios to.
            before: What the candidates are made of.
            grounds: What they are judged on.
        """
        given = Circumstances(calibrated=grounds.calibration is not None, target=self._recipe.output.target)
        facts, names = Facts.of(before.file), search.candidates or tuple(CANDIDATES)
        made: dict[str, Variant] = {}
        lines: dict[str, Line] = {}
        for name in names:
            step = auto.build(CANDIDATES[name]["kind"], Table(name, CANDIDATES[name], Path()))
            if reason := why_not(name, facts, given):
                lines[name] = Line(name=step.name, why=f"not tried: {reason}")
                continue
            if step.needs.rows and grounds.calibration is not None:
                grounds.calibration.check_finite("calibration")
            try:
                made[name] = self._step(step, before, grounds).with_line(kept=False)
            except ToolkitError as error:
                lines[name] = Line(name=step.name, why=f"not kept: {error}")
        winner = self._judge(search, made, base, before, grounds)
        lines |= {name: variant.line for name, variant in made.items()}
        return made.get(winner), [lines[name] for name in names]

    def _judge(self, search: Search, made: dict[str, Variant], base: Variant, before: Variant, grounds: Grounds) -> str:
        """The name of the winner, empty for none. The lines of all get their times and reasons."""
        with self._progress.step("time the candidates"):
            _, (start, *others) = timed(base, [before, *made.values()], grounds, self._recipe.timing_seconds)
        made |= dict(zip(made, others, strict=True))
        outcomes = {name: self._outcome(variant, start, grounds) for name, variant in made.items()}
        limits = self._recipe.limits
        max_drop = limits.max_drop if search.max_drop is None else search.max_drop
        winner, reasons = verdicts(outcomes, max_drop, limits.min_speedup)
        for name, reason in reasons.items():
            made[name] = made[name].with_line(why=f"not kept: {reason}")
        if winner:
            made[winner] = made[winner].with_line(kept=True)
        return winner

    def _outcome(self, variant: Variant, start: Variant, grounds: Grounds) -> Outcome:
        source = grounds.metric.score(grounds.expected)
        return Outcome(
            name=variant.line.name,
            drop=grounds.metric.drop(source, variant.line.metric or 0.0),
            bytes=(variant.line.bytes or 0) / (start.line.bytes or 1),
            time=variant.time() / start.time(),
            difference=variant.line.largest_difference or 0.0,
        )

    def _conclude(self, chain: list[Variant], lines: list[Line], grounds: Grounds, labels: tuple[str, ...]) -> Result:
        with self._progress.step("time the models"):
            first, *others = self._timed(chain, grounds)
        last = others[-1] if others else first
        lines = [self._retimed(line, others) for line in lines]
        source = Line(
            name=f"source: {self._source.origin}",
            metric=grounds.metric.score(grounds.expected),
            interval=grounds.metric.interval(grounds.metric.score(grounds.expected)),
            kept=True,
        )
        report = Report(
            source=self._source.origin,
            machine=this_machine(),
            metric=grounds.metric.name,
            share=grounds.metric.share,
            rows=_rows(grounds.measured),
            calibration=None if grounds.calibration is None else _rows(grounds.calibration),
            lines=(source, replace(first.line, kept=True), *lines),
            warnings=tuple(self._told.warnings),
            notes=tuple(self._told.notes),
        )
        verdict = self._try_rows(last.file, grounds)
        failed = self._failure(first, last, grounds) or self._mixing(last, verdict)
        return Result(
            report=replace(report, verdict=failed or _sentence(first, last, grounds, self._recipe.limits.max_drop)),
            failed=failed,
            model=last.file,
            signature=last.model.signature,
            rows_verdict=verdict,
            labels=labels,
            grounds=grounds,
            recipe=self._recipe,
            keep=self._folder,
        )

    def _timed(self, chain: list[Variant], grounds: Grounds) -> list[Variant]:
        """The chain with the times of those that no search has timed."""
        untimed = [variant for variant in chain[1:] if not variant.line.time]
        first, made = timed(chain[0], untimed, grounds, self._recipe.timing_seconds)
        found = dict(zip([variant.file for variant in untimed], made, strict=True))
        return [first, *(found.get(variant.file, variant) for variant in chain[1:])]

    def _retimed(self, line: Line, chain: Sequence[Variant]) -> Line:
        """A line whose times were taken at the end, with all of the chain."""
        if line.time or line.bytes is None:
            return line
        return next((variant.line for variant in chain if variant.line.name == line.name), line)

    def _failure(self, first: Variant, last: Variant, grounds: Grounds) -> str:
        """Why nothing is to be published; empty where the limits are met."""
        searched = any(isinstance(step, Search) for step in self._recipe.steps)
        if searched and last is first:
            return "no candidate meets the limits: nothing is published; headrace convert publishes the model as it is"
        limits = self._recipe.limits
        drop = grounds.metric.drop(grounds.metric.score(grounds.expected), last.line.metric or 0.0)
        if drop > limits.max_drop:
            return (
                f"{grounds.metric.name} is {drop:.2f} points lower, more than {limits.max_drop:g}: nothing is published"
            )
        if limits.min_speedup is not None and last.time() * limits.min_speedup > 1:
            return (
                f"a run takes {last.time():.2f} of the time, and must be {limits.min_speedup:g} times as fast: "
                "nothing is published"
            )
        return ""

    def _mixing(self, last: Variant, verdict: Verdict) -> str:
        """Why a model must not be published whose rows a step has mixed; empty where none has."""
        if verdict.finding is not Finding.DEPENDENT or not self._recipe.output.batch:
            return ""
        return f"{last.line.name} mixes the rows of a batch: {verdict.reason}: nothing is published"


def _rows(data: Data) -> Rows:
    return Rows(name=data.name, sha256=data.sha256, count=len(data))


def _sentence(first: Variant, last: Variant, grounds: Grounds, allowed: float) -> str:
    """The result in one sentence."""
    if last is first:
        return f"{size(first.line.bytes or 0)}, answers as the source does"
    drop = grounds.metric.drop(grounds.metric.score(grounds.expected), last.line.metric or 0.0)
    count = max(last.line.time)
    unit = "points" if grounds.metric.share else "percent"
    return (
        f"{(last.line.bytes or 0) / (first.line.bytes or 1):.2f} of the bytes, {last.time():.2f} of the time for "
        f"{count} row{'s' if count > 1 else ''}, {grounds.metric.name} {abs(drop):.2f} {unit} "
        f"{'lower' if drop > 0 or not drop else 'higher'} (allowed: {allowed:g})"
    )
