"""Runs single steps: each writes a file into its own folder, which is measured on the common rows."""

from dataclasses import dataclass

from headrace_toolkit import check
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.grounds import Grounds, Messages, warn_of_shared
from headrace_toolkit.progress import Progress
from headrace_toolkit.recipe import Recipe
from headrace_toolkit.running import OnnxModel, in_parts
from headrace_toolkit.sources.base import Source, Trainable
from headrace_toolkit.steps.base import Made, Step, Work, in_silence
from headrace_toolkit.variants import Variant, examine
from headrace_toolkit.work_folder import WorkFolder

WRONG_ROWS = 0.05
"""The share of rows whose answers a conversion may change: trees may take another branch after rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Workshop:
    """Carries out the steps of one run.

    Attributes:
        recipe: The recipe whose steps are carried out.
        grounds: The basis for judging every variant.
        folder: The folder for the files.
        messages: Collects messages for the user.
        progress: Called with the progress.
    """

    recipe: Recipe
    grounds: Grounds
    folder: WorkFolder
    messages: Messages
    progress: Progress

    def step(self, step: Step, before: Variant) -> Variant:
        """The result of a step on a variant.

        Raises:
            ToolkitError: The step cannot be carried out, or its export answers differently from the module.
        """
        grounds = self.grounds
        if step.needs.rows and grounds.calibration is not None:
            grounds.calibration.check_finite("calibration")
        if step.needs.module and not isinstance(before.source, Trainable):
            raise ToolkitError(f"{step.name} can change only a module, but the step before it has changed the file")
        with self.progress.step(step.name) as advance:
            made = step.run(
                Work(
                    model=before.file,
                    folder=self.folder.new(),
                    source=before.source,
                    calibration=grounds.calibration,
                    training=grounds.training,
                    labels=self.recipe.data.labels,
                    target=self.recipe.output.target,
                    seed=self.recipe.seed,
                    advance=advance,
                )
            )
        if made.source is not None:
            self._check_export(step.name, made, made.source)
        if made.trained_on is not None:
            warn_of_shared(grounds.measured, made.trained_on, "trained", self.messages)
        name = made.name or step.name
        with self.progress.step(f"check {name}") as advance:
            variant = examine(name, made.model, made.source, grounds, advance)
        return variant.with_line(kept=True, notes=made.notes)

    def _check_export(self, name: str, made: Made, source: Source) -> None:
        """Refuses a file whose answers differ from those of the module that it was exported from."""
        model, rows = OnnxModel(made.model), self.grounds.measured.inputs
        answers = in_parts(model.run, model.signature, rows, in_silence)
        wanted = in_parts(source.run, source.signature, rows, in_silence)
        worst = max(difference.differing for difference in check.compare(wanted, answers))
        if worst > WRONG_ROWS:
            raise ToolkitError(
                f"{name}: exported to ONNX, it answers {worst:.0%} of the rows differently from the module"
            )
