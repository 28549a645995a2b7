"""Converts a source, checks it, carries out a recipe's steps, compares them, and decides what to keep."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from headrace_server.backends.independence import Finding, Verdict
from headrace_toolkit.conversion import check_answers, check_rows, try_rows
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.graph import Facts
from headrace_toolkit.grounds import Grounds, Messages, Plan, settle
from headrace_toolkit.progress import Progress, Silent
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.report import Line, size
from headrace_toolkit.result import Result, report_of, too_far
from headrace_toolkit.search import Search
from headrace_toolkit.searching import search
from headrace_toolkit.sources.base import Source, Trainable
from headrace_toolkit.under_load import Served, best_setting
from headrace_toolkit.variants import Variant, examine, load_of, timed, under_load
from headrace_toolkit.work_folder import WorkFolder
from headrace_toolkit.workshop import Workshop


def optimize(
    source: Source, data: Data | None, recipe: Recipe | None = None, progress: Progress | None = None
) -> Result:
    """Converts a source and carries out a recipe's steps; without a recipe, tries the candidates and keeps the best.

    Args:
        source: The source, as returned by `load`.
        data: Rows, with labels if accuracy is to be measured; None means random rows and a comparison with the source.
        recipe: The steps. The source, the rows and the base path in it are left to the caller.
        progress: Called with the progress.

    Raises:
        ToolkitError: The source cannot be converted, or the converted model gives other answers, or a step cannot be
            carried out.
    """
    return _Run(source, recipe or Recipe(), progress or Silent()).result(data)


def convert(
    source: Source, data: Data | None, recipe: Recipe | None = None, progress: Progress | None = None
) -> Result:
    """Like `optimize`, without any steps."""
    return optimize(source, data, replace(recipe or Recipe(), steps=()), progress)


class _Run:
    """One run, and its folder of temporary files.

    Args:
        source: The source to convert.
        recipe: The steps for it.
        progress: Called with the progress.
    """

    def __init__(self, source: Source, recipe: Recipe, progress: Progress) -> None:
        self._source = source
        self._recipe = recipe
        self._progress = progress
        self._messages = Messages()
        self._folder = WorkFolder()

    def result(self, data: Data | None) -> Result:
        """Carries out the whole run."""
        self._refuse_steps_without_module()
        with self._progress.step(f"convert {self._source.origin.name}"):
            exported = self._source.export(self._folder.new())
        self._messages.notes += exported.notes
        plan = Plan(calibrates=self._calibrates(exported.model), classes=exported.labels, seed=self._recipe.seed)
        grounds = settle(self._source, data, self._recipe.data, plan, self._messages, self._progress)
        check_rows(self._source, exported.model, grounds, self._messages, batch=self._recipe.output.batch)
        with self._progress.step("check convert to ONNX") as advance:
            first = examine("convert to ONNX", exported.model, self._source, grounds, advance)
        check_answers(self._source, first.line, self._messages)
        chain, lines = self._do_steps(first, grounds)
        return self._conclude(chain, lines, grounds, exported.labels)

    def _refuse_steps_without_module(self) -> None:
        for step in self._recipe.steps:
            if not isinstance(step, Search) and step.needs.module and not isinstance(self._source, Trainable):
                raise ToolkitError(
                    f"{step.name} can change only a module, but {self._source.origin.name} is a file: give a function "
                    "that returns the module, as file.py:function"
                )

    def _calibrates(self, model: Path) -> bool:
        """Whether a step may calibrate, so that rows must be kept for it."""
        return not Facts.of(model).trees and any(
            isinstance(step, Search) or step.needs.rows for step in self._recipe.steps
        )

    def _do_steps(self, first: Variant, grounds: Grounds) -> tuple[list[Variant], list[Line]]:
        """The variants that build on each other, and the lines of everything that was tried, in order."""
        workshop = Workshop(
            recipe=self._recipe, grounds=grounds, folder=self._folder, messages=self._messages, progress=self._progress
        )
        chain, lines = [first], list[Line]()
        for step in self._recipe.steps:
            if isinstance(step, Search):
                found = search(step, chain[0], chain[-1], workshop)
                chain += found.kept
                lines += found.lines
            else:
                made = workshop.step(step, chain[-1])
                chain.append(made)
                lines.append(made.line)
        return chain, lines

    def _conclude(self, chain: list[Variant], lines: list[Line], grounds: Grounds, labels: tuple[str, ...]) -> Result:
        with self._progress.step("time the models"):
            first, *others = self._timed(chain, grounds)
        last = others[-1] if others else first
        first, last, suggested = self._under_load(first, last, grounds)
        others = [*others[:-1], last] if others else []
        lines = [self._retimed(line, others) for line in lines]
        report = report_of(self._source.origin, grounds, (replace(first.line, kept=True), *lines), self._messages)
        verdict = try_rows(last.file, grounds)
        tried = any(line.bytes is not None for line in lines)
        failed = self._failure(first, last, grounds, tried=tried) or self._mixing(last, verdict)
        return Result(
            report=replace(
                report,
                suggested=suggested,
                verdict=failed or _sentence(first, last, grounds, self._recipe.limits.max_drop),
            ),
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
        """The chain with the times of variants that no search has timed."""
        untimed = [variant for variant in chain[1:] if not variant.line.time]
        first, made = timed(chain[0], untimed, grounds, self._recipe.timing_seconds)
        found = dict(zip([variant.file for variant in untimed], made, strict=True))
        return [first, *(found.get(variant.file, variant) for variant in chain[1:])]

    def _under_load(self, first: Variant, last: Variant, grounds: Grounds) -> tuple[Variant, Variant, Served | None]:
        """The first and the last variant with their throughput, and how the last one serves best."""
        recipe = self._recipe
        if not recipe.load:
            return first, last, None
        with self._progress.step("serve the models"):
            both = [first] if last is first else [first, last]
            first, *others = under_load(both, grounds, recipe.load, recipe.timing_seconds)
            last = others[0] if others else first
            best = best_setting(last.model.run, load_of(last, grounds, recipe.load, recipe.timing_seconds))
        self._messages.notes.append(
            f"{recipe.load} calls of one row in flight: {best} with num_batch_threads {best.setting.threads} and "
            f"max_batch_size {best.setting.size}"
        )
        return first, last, best

    def _retimed(self, line: Line, chain: Sequence[Variant]) -> Line:
        """A line whose times were measured at the end, together with the whole chain."""
        if line.time or line.bytes is None:
            return line
        return next((variant.line for variant in chain if variant.line.name == line.name), line)

    def _failure(self, first: Variant, last: Variant, grounds: Grounds, *, tried: bool) -> str:
        """The reason why nothing may be published; empty if the limits are met."""
        searched = any(isinstance(step, Search) for step in self._recipe.steps)
        if searched and last is first:
            what = "no candidate meets the limits" if tried else "no candidate can help this model"
            return f"{what}: nothing is published; headrace convert publishes the model as it is"
        limits = self._recipe.limits
        if failed := too_far(grounds, last.line.metric, limits.max_drop):
            return failed
        if limits.min_speedup is not None and last.time() * limits.min_speedup > 1:
            return (
                f"a run takes {last.time():.2f} of the converted model's time, and must be {limits.min_speedup:g} "
                "times as fast: nothing is published"
            )
        return ""

    def _mixing(self, last: Variant, verdict: Verdict) -> str:
        """The reason why a model whose rows a step has mixed must not be published; empty if it may be."""
        if verdict.finding is not Finding.DEPENDENT or not self._recipe.output.batch:
            return ""
        return f"{last.line.name} mixes the rows of a batch: {verdict.reason}: nothing is published"


def _sentence(first: Variant, last: Variant, grounds: Grounds, allowed: float) -> str:
    """The result in one sentence."""
    if last is first:
        return f"{size(first.line.bytes or 0)}, answers as the source does"
    drop = grounds.drop(last.line.metric)
    count = max(last.line.time)
    unit = "points" if grounds.metric.share else "percent"
    return (
        f"{(last.line.bytes or 0) / (first.line.bytes or 1):.2f} of the converted model's bytes, {last.time():.2f} of "
        f"its time for {count} row{'s' if count > 1 else ''}, {grounds.metric.name} {abs(drop):.2f} {unit} "
        f"{'lower' if drop > 0 or not drop else 'higher'} (allowed: {allowed:g})"
    )
