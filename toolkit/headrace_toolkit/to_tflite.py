"""Converts a Keras model or a SavedModel to TFLite, compares it with the source, and measures it on LiteRT."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace_batching.task import Array
from headrace_server.backends.independence import Finding, Subject, Verdict, try_rows
from headrace_toolkit.conversion import check_answers, refusal_of_mixed
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.grounds import Grounds, Messages, Plan, settle
from headrace_toolkit.lite import LITE_FILE, Aliases, LiteModel, open_lite, write_aliases
from headrace_toolkit.measure import size_in_files
from headrace_toolkit.progress import Progress, Silent
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.report import Line, size
from headrace_toolkit.result import Result, report_of, too_far
from headrace_toolkit.rows import TRIAL_SECONDS, TRIED_ROWS
from headrace_toolkit.running import in_parts
from headrace_toolkit.sources.base import Source
from headrace_toolkit.sources.converted import Converted, SavedModel
from headrace_toolkit.sources.tensorflow import require_tensorflow
from headrace_toolkit.steps.quiet import quietly, stderr_aside
from headrace_toolkit.variants import line_of, time_ratios
from headrace_toolkit.work_folder import WorkFolder

FLOAT, DYNAMIC, HALF, INT8 = FORMS = ("float", "dynamic", "half", "int8")

_NAMES = {
    FLOAT: "convert to TFLite",
    DYNAMIC: "8-bit weights",
    HALF: "16-bit weights",
    INT8: "8-bit weights and activations",
}

_NUMBER = re.compile(r"\d+")

_Rows = Mapping[str, Array]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Made:
    """One TFLite file.

    Attributes:
        line: Its line in the report.
        file: The file, alone in its folder.
        model: The file, opened.
    """

    line: Line
    file: Path
    model: LiteModel


def convert_to_tflite(
    source: Source, data: Data | None, form: str, recipe: Recipe | None = None, progress: Progress | None = None
) -> Result:
    """Converts a source to a TFLite file.

    Args:
        source: A Keras model or a SavedModel, as `sources.auto.load` returns it.
        data: Rows; None takes random rows and compares with the source.
        form: `float`, `dynamic` (8-bit weights), `half` (16-bit weights) or `int8` (activations, too; needs rows).
        recipe: The limits, the seed and how the rows are divided; its steps are not carried out.
        progress: Called with the progress.

    Raises:
        ToolkitError: TensorFlow cannot convert the model to TFLite, or the file's answers differ from the source's.
    """
    if form not in FORMS:
        raise ToolkitError(f"--form must be one of {', '.join(FORMS)}; was {form}")
    if not isinstance(source, Converted) or source.saved_model is None:
        raise ToolkitError(
            f"{source.origin.name}: only Keras models and SavedModels can be converted to TFLite; this is a model of "
            f"{source.origin.framework}"
        )
    return _Run(source, form, recipe or Recipe(), progress or Silent()).result(data, source.saved_model)


class _Run:
    """One run, and its folder of temporary files."""

    def __init__(self, source: Source, form: str, recipe: Recipe, progress: Progress) -> None:
        self._source = source
        self._form = form
        self._recipe = recipe
        self._progress = progress
        self._messages = Messages(notes=["the server reads a model.tflite with --prefer_tflite_model"])
        self._folder = WorkFolder()
        self._saved_names: Mapping[str, str] = {}

    def result(self, data: Data | None, save: Callable[[Path], SavedModel]) -> Result:
        """Carries out the whole run."""
        plan = Plan(calibrates=self._form == INT8, classes=(), seed=self._recipe.seed)
        grounds = settle(self._source, data, self._recipe.data, plan, self._messages, self._progress)
        if self._form == INT8:
            _check_calibration(grounds)
        with self._progress.step("write a SavedModel"):
            saved = save(self._folder.new() / "saved_model")
        first = self._made(FLOAT, saved, grounds)
        check_answers(self._source, first.line, self._messages, form="TFLite")
        made = [first, *([] if self._form == FLOAT else [self._made(self._form, saved, grounds)])]
        verdict = self._verdict(made[-1].model, grounds)
        with self._progress.step("time the models"):
            made = _timed(made, grounds, self._recipe.timing_seconds)
        return self._conclude(made, grounds, verdict)

    def _made(self, form: str, saved: SavedModel, grounds: Grounds) -> _Made:
        name = _NAMES[form]
        with self._progress.step(name):
            content = _converted(self._source.origin.name, saved, form, self._calibration(grounds))
        interpreter = open_lite(content, name)
        aliases, self._saved_names = _aliases(interpreter, self._source)
        model = LiteModel(content, name, aliases)
        file = self._folder.new() / LITE_FILE
        file.write_bytes(write_aliases(content, model.signature, aliases))
        with self._progress.step(f"check {name}") as advance:
            answers = in_parts(model.run, model.signature, grounds.measured.inputs, advance)
        opened = size_in_files([file], lambda: open_lite(content, name))
        return _Made(line=line_of(name, answers, grounds, opened), file=file, model=model)

    def _calibration(self, grounds: Grounds) -> _Rows | None:
        """The rows to calibrate on, under the SavedModel's own names, which are read from the float file."""
        if grounds.calibration is None or not self._saved_names:
            return None
        return {saved: grounds.calibration.inputs[alias] for alias, saved in self._saved_names.items()}

    def _verdict(self, model: LiteModel, grounds: Grounds) -> Verdict:
        """Whether rows may share a batch, according to the server's own trial."""
        signature = model.signature
        if not signature.batched:
            return Verdict(Finding.NO_BATCH_AXIS, "the first dimension of the model does not vary")
        records = [] if grounds.random else [grounds.rows(TRIED_ROWS)]
        subject = Subject(run=model.run, inputs=signature.inputs, outputs=signature.outputs, records=records)
        verdict = try_rows(subject, TRIAL_SECONDS)
        if verdict.finding is Finding.DEPENDENT and self._recipe.output.batch:
            raise refusal_of_mixed(self._source, verdict)
        if not verdict.batched:
            self._messages.warnings.append(f"requests will run one by one: {verdict.reason}")
        return verdict

    def _conclude(self, made: list[_Made], grounds: Grounds, verdict: Verdict) -> Result:
        first, last = made[0], made[-1]
        failed = too_far(grounds, last.line.metric, self._recipe.limits.max_drop)
        lines = (replace(one.line, kept=one is last) for one in made)
        report = report_of(self._source.origin, grounds, lines, self._messages)
        return Result(
            report=replace(report, verdict=failed or _summary(first.line, last.line)),
            failed=failed,
            model=last.file,
            signature=last.model.signature,
            rows_verdict=verdict,
            labels=(),
            grounds=grounds,
            recipe=self._recipe,
            keep=self._folder,
        )


def _aliases(interpreter: Any, source: Source) -> tuple[Aliases, dict[str, str]]:
    """The names of the tensors in requests, which are the source's, and the SavedModel's names for its inputs.

    Raises:
        ToolkitError: The file's inputs or outputs differ from the source's.
    """
    runner = interpreter.get_signature_runner()
    given = {name: detail["name"] for name, detail in runner.get_input_details().items()}
    made = {name: detail["name"] for name, detail in runner.get_output_details().items()}
    inputs = _paired("inputs", list(source.signature.inputs), list(given))
    outputs = _paired("outputs", list(source.signature.outputs), list(made))
    aliases = Aliases(
        inputs={alias: given[name] for alias, name in inputs.items()},
        outputs={alias: made[name] for alias, name in outputs.items()},
    )
    return aliases, inputs


def _paired(what: str, wanted: list[str], found: list[str]) -> dict[str, str]:
    """Maps the source's names to the file's: the same name, or that at the same position (`output_0`, `output_1`)."""
    if set(wanted) == set(found):
        return {name: name for name in wanted}
    if len(wanted) != len(found):
        raise ToolkitError(f"the TFLite file has the {what} {', '.join(found)}, but the source has {', '.join(wanted)}")
    ordered = sorted(found, key=lambda name: [int(number) for number in _NUMBER.findall(name)])
    return dict(zip(wanted, ordered, strict=True))


def _converted(name: str, saved: SavedModel, form: str, calibration: _Rows | None) -> bytes:
    """The bytes that TensorFlow's converter makes of a SavedModel.

    Raises:
        ToolkitError: TFLite does not support an operator.
    """
    tensorflow = require_tensorflow("tensorflow", "TFLite")
    with stderr_aside(), quietly(f"{name}: the conversion to TFLite"):
        converter = tensorflow.lite.TFLiteConverter.from_saved_model(
            str(saved.folder), signature_keys=[saved.signature]
        )
        if form != FLOAT:
            converter.optimizations = [tensorflow.lite.Optimize.DEFAULT]
        if form == HALF:
            converter.target_spec.supported_types = [tensorflow.float16]
        if form == INT8 and calibration is not None:
            converter.representative_dataset = lambda: _one_by_one(calibration)
        return bytes(converter.convert())


def _one_by_one(rows: _Rows) -> Iterator[dict[str, Array]]:
    for row in range(len(next(iter(rows.values())))):
        yield {name: array[row : row + 1] for name, array in rows.items()}


def _check_calibration(grounds: Grounds) -> None:
    if grounds.calibration is None:
        raise ToolkitError(
            "--form=int8 needs rows to calibrate the ranges of the activations on: give some with --data"
        )
    grounds.calibration.check_finite("calibration")


def _timed(made: list[_Made], grounds: Grounds, seconds: float) -> list[_Made]:
    """All files, each with the CPU time of a run relative to the first one's; their runs take turns."""
    ratios = time_ratios([one.model.run for one in made], made[0].model.signature, grounds, seconds)
    return [replace(one, line=replace(one.line, time=time)) for one, time in zip(made, ratios, strict=True)]


def _summary(first: Line, last: Line) -> str:
    """The result in one sentence."""
    if last is first:
        return f"{size(last.bytes or 0)}, answers as the source does"
    return (
        f"{(last.bytes or 0) / (first.bytes or 1):.2f} of the bytes of the float file, "
        f"{last.time[max(last.time)]:.2f} of its time for {max(last.time)} rows"
    )
