"""Distillation: a smaller module learns the answers of the model before it, and the labels if they are known."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit import user_code
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.running import OnnxModel, in_parts
from headrace_toolkit.sources.base import SourceOptions
from headrace_toolkit.sources.torch import of_module
from headrace_toolkit.sources.torch_module import ModuleSource
from headrace_toolkit.steps.base import Made, Needs, Work, in_silence
from headrace_toolkit.steps.training import Finetune, Lesson, are_probabilities, output_of, train, trained_output
from headrace_toolkit.tables import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Distil:
    """A student that is taught by the model before it, which may come from any framework.

    The loss is `(1 - alpha) * cross_entropy(student, label) + alpha * T**2 * KL(softmax(teacher / T) || softmax(student
    / T))`; the first part covers only rows with a known label. A negative label means that it is unknown.

    Attributes:
        student: `file.py:function`, which returns a PyTorch module.
        alpha: The weight of the teacher's answers relative to the labels.
        temperature: How much the teacher's answers are smoothed.
        how: The epochs, the rows to train on, and the learning rate.
    """

    student: str
    alpha: float = 0.5
    temperature: float = 4.0
    how: Finetune = field(default_factory=lambda: Finetune(epochs=20, rate=3e-3))
    needs = Needs()

    @property
    def name(self) -> str:
        """The step's name in reports."""
        settings = f"alpha {self.alpha:g}, temperature {self.temperature:g}, {self.how.epochs} epochs"
        return f"distilled into {self.student.rpartition('/')[2]}, {settings}"

    def run(self, work: Work) -> Made:
        """The student, trained and exported.

        Raises:
            ToolkitError: The student is not a module, its answers have another shape than the teacher's, or the rows do
                not fit.
        """
        torch = require("torch", "distil", "torch")
        teacher = OnnxModel(work.model)
        rows = self._rows(work, teacher)
        answers = self._answers(teacher, rows)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(work.seed)
            module = user_code.call(self.student)
        student = self._student(module, teacher, rows)
        logits, notes = answers, tuple[str, ...]()
        if are_probabilities(answers):
            logits = np.log(np.maximum(answers, 1e-9))
            notes = ("the teacher answers with probabilities: their logarithms were used as logits",)
        lesson = Lesson(rows=rows, loss=self._loss(student, logits, rows), how=self.how, seed=work.seed,
                        advance=work.advance)  # fmt: skip
        train(student, student.call.module, lesson)
        if notes:
            student = student.with_module(torch.nn.Sequential(student.call.module, torch.nn.Softmax(1)))
        exported = student.export(work.folder)
        return Made(model=exported.model, source=student, notes=notes, trained_on=rows)

    def _rows(self, work: Work, teacher: OnnxModel) -> Data:
        rows = Data.read(self.how.train, work.labels) if self.how.train else work.training
        if rows is None:
            raise ToolkitError(f"{self.name}: there are no rows to train on: give some with --train, or train = ...")
        rows = rows.fitted(teacher.signature)
        rows.check_finite("training")
        if self.alpha < 1 and (rows.labels is None or rows.labels.dtype.kind not in "iu"):
            raise ToolkitError(
                f"{self.name}: alpha below 1 needs labels that are whole numbers, and there are none: name them with "
                "labels in [data], or set alpha = 1"
            )
        return rows

    def _answers(self, teacher: OnnxModel, rows: Data) -> Array:
        """The teacher's answer for each row, [rows, classes]."""
        answers = in_parts(teacher.run, teacher.signature, rows.inputs, in_silence)
        if len(answers) != 1:
            raise ToolkitError(
                f"{self.name}: the teacher has {len(answers)} outputs ({', '.join(answers)}), but the student has one"
            )
        (table,) = answers.values()
        if table.ndim != 2 or table.dtype.kind != "f":
            raise ToolkitError(f"{self.name}: the teacher must answer with a float for each class")
        return table

    def _student(self, module: Any, teacher: OnnxModel, rows: Data) -> ModuleSource:
        from headrace_toolkit.sources.base import Origin

        origin = Origin(name=self.student.rpartition("/")[2], kind="", framework="", sha256="")
        options = SourceOptions(outputs=tuple(teacher.signature.outputs), example=rows.inputs)
        source = of_module(module, origin, options)
        if not isinstance(source, ModuleSource):
            raise ToolkitError(f"{self.student} returned a {type(module).__name__}; it must return a torch.nn.Module")
        return source

    def _loss(self, student: ModuleSource, logits: Array, rows: Data) -> Callable[[Any, Any], Any]:
        torch = require("torch", "distil", "torch")
        functional = require("torch.nn.functional", "distil", "torch")
        wanted = torch.from_numpy(logits.astype(np.float32))
        labels = None if rows.labels is None else torch.from_numpy(rows.labels.astype(np.int64))
        name, heat = trained_output(student), self.temperature

        def loss(outputs: Any, which: Any) -> Any:
            scores = output_of(outputs, student, name)
            if scores.shape != wanted[which].shape:
                raise ToolkitError(
                    f"{self.name}: the student's answer to a row has shape {list(scores.shape[1:])}, the teacher's "
                    f"{list(wanted.shape[1:])}"
                )
            own, taught = functional.log_softmax(scores / heat, 1), functional.softmax(wanted[which] / heat, 1)
            soft = functional.kl_div(own, taught, reduction="batchmean")
            known = torch.zeros(len(which), dtype=torch.bool) if labels is None else labels[which] >= 0
            hard = scores.sum() * 0
            if labels is not None and known.any():
                hard = functional.cross_entropy(scores[known], labels[which][known])
            return (1 - self.alpha) * hard + self.alpha * heat**2 * soft

        return loss


def build(table: Table) -> Distil:
    """The step that a recipe's table describes.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    student = table.file("student")
    if not user_code.names_function(student):
        raise table.wrong("student", "must be file.py:function, which returns a smaller module", student)
    return Distil(
        student=student,
        alpha=table.number("alpha", 0.5, 0, 1),
        temperature=table.number("temperature", 4.0, 0.01, 100),
        how=Finetune(
            epochs=table.whole("epochs", 20, 1),
            train=table.file("train"),
            rate=table.number("rate", 3e-3, 1e-8, 1),
            batch=table.whole("batch", 64, 2),
        ),
    )
