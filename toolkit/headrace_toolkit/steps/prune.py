"""Pruning of single weights: the smallest ones of all layers become zero, at once or gradually during training.

Zeros make the compressed file smaller, and have no other effect: ONNX Runtime multiplies them like any other number.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import save
from headrace_toolkit.sources.base import Trainable
from headrace_toolkit.steps.base import Made, Needs, Work
from headrace_toolkit.steps.training import Finetune, Lesson, finetuned, loss_of, read_finetune, train, training_rows
from headrace_toolkit.tables import Table

SCHEDULES = ("once", "polynomial")

_ONLY_SMALLER = "zeros make only the compressed file smaller, and have no other effect"
_PART_OF_STEPS = 0.75
"""A schedule without an end reaches its amount after this part of the training, so that other weights can adapt."""

_LAYERS = ("Linear", "Conv1d", "Conv2d", "Conv3d", "ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")
_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The share of zero weights after each step of the training: a cubic that rises quickly and ends flat.

    Attributes:
        initial: The share at `begin`.
        final: The share from `end` on.
        begin: The step of the optimizer at which it begins.
        end: The step at which it ends.
    """

    initial: float
    final: float
    begin: int
    end: int

    def share(self, step: int) -> float:
        """The share after a step: TensorFlow's PolynomialDecay of power 3."""
        if step < self.begin:
            return 0.0
        left = 1 - min(1.0, (step - self.begin) / max(1, self.end - self.begin))
        return self.final + (self.initial - self.final) * left**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Prune:
    """Sets the weights with the smallest magnitude over all layers to zero.

    Attributes:
        amount: The share of the weights; None if `threshold` decides.
        threshold: Weights with a smaller magnitude become zero.
        schedule: `once`, or `polynomial` during the fine-tuning.
        initial: The share with which a schedule begins.
        begin: The step of the optimizer at which a schedule begins.
        end: The step at which it reaches the amount; 0 means three quarters of all steps.
        every: The number of steps from one change to the next.
        finetune: How the module is trained, while the zeros are kept; None means no training.
    """

    amount: float | None = 0.5
    threshold: float = 0.0
    schedule: str = "once"
    initial: float = 0.0
    begin: int = 0
    end: int = 0
    every: int = 1
    finetune: Finetune | None = None

    @property
    def name(self) -> str:
        """The step's name in reports."""
        what = f"{self.amount:.4g} of the weights zero" if self.amount is not None else f"zero below {self.threshold:g}"
        words = [what, *(["polynomial"] if self.schedule == "polynomial" else [])]
        return ", ".join([*words, *([self.finetune.shown] if self.finetune else [])])

    @property
    def needs(self) -> Needs:
        """The module, if it is to be fine-tuned."""
        return Needs(module=self.finetune is not None)

    def run(self, work: Work) -> Made:
        """The model with zeros.

        Raises:
            ToolkitError: The model has no layers with weights, or cannot be trained.
        """
        if isinstance(work.source, Trainable):
            return self._module(work, work.source)
        onnx = require("onnx", "prune", "toolkit")
        model = onnx.load(str(work.model))
        found = _zeros(self._in_graph(model))
        return Made(model=save(model, work.folder), notes=(found, _ONLY_SMALLER))

    def _in_graph(self, model: Any) -> Iterator[tuple[int, int]]:
        """Sets weights of a graph to zero; returns the number of zeros and the number of weights."""
        numpy_helper = require("onnx.numpy_helper", "prune", "toolkit")
        names = {node.input[1] for node in model.graph.node if node.op_type in _WEIGHTED and len(node.input) > 1}
        tensors = [t for t in model.graph.initializer if t.name in names and t.data_type == 1 and len(t.dims) > 1]
        arrays = [numpy_helper.to_array(tensor) for tensor in tensors]
        for tensor, array, mask in zip(tensors, arrays, self._masks(arrays, self.amount), strict=True):
            tensor.CopyFrom(numpy_helper.from_array(array * mask, tensor.name))
            yield int((~mask).sum()), mask.size

    def _module(self, work: Work, source: Any) -> Made:
        torch = require("torch", "prune", "torch")
        module = source.module()
        layers = [layer for layer in module.modules() if type(layer).__name__ in _LAYERS]
        masks: dict[Any, Any] = {}

        def mask(amount: float | None) -> None:
            arrays = [layer.weight.detach().numpy() for layer in layers]
            for layer, array in zip(layers, self._masks(arrays, amount), strict=True):
                masks[layer] = torch.from_numpy(array)

        def apply() -> None:
            with torch.no_grad():
                for layer, kept in masks.items():
                    layer.weight.mul_(kept)

        mask(self.amount if self.schedule == "once" else self.initial)
        apply()
        trained = self._trained(work, source, module, mask, apply)
        made = source.with_module(module)
        zeros = _zeros((int((layer.weight == 0).sum()), layer.weight.numel()) for layer in layers)
        exported = made.export(work.folder)
        return Made(model=exported.model, source=made, notes=(zeros, _ONLY_SMALLER), trained_on=trained)

    def _trained(self, work: Work, source: Any, module: Any, mask: Any, apply: Any) -> Any:
        """Fine-tunes while keeping the zeros; returns the rows that it was trained on."""
        if self.finetune is None:
            return None
        if self.finetune.function:
            rows = finetuned(source, module, self.finetune, work, self.name)
            apply()
            return rows
        rows = training_rows(work, self.finetune.train, self.name)
        lesson = Lesson(rows=rows, loss=loss_of(source, rows), how=self.finetune, seed=work.seed, advance=work.advance)
        plan = Schedule(initial=self.initial, final=self.amount or 0.0, begin=self.begin,
                        end=self.end or int(_PART_OF_STEPS * lesson.steps))  # fmt: skip
        if self.schedule == "polynomial" and plan.end > lesson.steps:
            raise ToolkitError(
                f"{self.name}: the schedule ends at step {plan.end}, but there are only {lesson.steps} steps"
            )

        def after(step: int) -> None:
            if self.schedule == "polynomial" and (step % self.every == 0 or step == plan.end) and step <= plan.end:
                mask(plan.share(step))
            apply()

        train(source, module, Lesson(rows=rows, loss=lesson.loss, how=lesson.how, seed=lesson.seed,
                                     advance=lesson.advance, after=after))  # fmt: skip
        return rows

    def _masks(self, weights: Sequence[Array], amount: float | None) -> list[Array]:
        """A mask of the weights to keep, for each array of them.

        Raises:
            ToolkitError: There are no weights.
        """
        if not weights:
            raise ToolkitError(f"{self.name}: there is no linear or convolutional layer")
        if amount is None:
            return [np.abs(array) >= self.threshold for array in weights]
        return smallest_out(weights, amount)


def smallest_out(weights: Sequence[Array], amount: float) -> list[Array]:
    """A mask of the weights to keep when a share of them, those with the smallest magnitude, is removed.

    Args:
        weights: Arrays of any shapes.
        amount: The share of the weights to remove, from 0 to 1.
    """
    flat = np.concatenate([np.abs(array).ravel() for array in weights])
    count = round(amount * flat.size)
    kept = np.ones(flat.size, bool)
    kept[np.argpartition(flat, count - 1)[:count] if 0 < count < flat.size else slice(0, count)] = False
    ends = np.cumsum([array.size for array in weights])
    parts = np.split(kept, ends[:-1])
    return [part.reshape(array.shape) for part, array in zip(parts, weights, strict=True)]


def _zeros(counts: Iterator[tuple[int, int]]) -> str:
    pairs = list(counts)
    zeros, weights = sum(zero for zero, _ in pairs), sum(all_ for _, all_ in pairs)
    return f"{zeros} of {weights} weights are zero ({zeros / weights:.2%})"


def build(table: Table) -> Prune:
    """The step that a recipe's table describes.

    Raises:
        ToolkitError: A key has an invalid value, or keys do not go together.
    """
    by_threshold = "threshold" in table
    if by_threshold and "amount" in table:
        raise table.wrong("threshold", "and amount cannot be given together", "both")
    step = Prune(
        amount=None if by_threshold else table.number("amount", 0.5, 0, 1),
        threshold=table.number("threshold", 0.0, 0),
        schedule=table.choice("schedule", SCHEDULES, "once"),
        initial=table.number("initial", 0.0, 0, 1),
        begin=table.whole("begin", 0, 0),
        end=table.whole("end", 0, 0),
        every=table.whole("every", 1, 1),
        finetune=read_finetune(table.table("finetune")),
    )
    if step.schedule == "polynomial" and (step.finetune is None or step.finetune.function or step.amount is None):
        raise table.wrong("schedule", "needs an amount, and finetune with some epochs", "polynomial")
    return step
