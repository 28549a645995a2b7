"""Trains a PyTorch module briefly: after weights or channels were removed, or a student on its teacher's answers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit import user_code
from headrace_toolkit.data import Data
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.sources.torch_call import named_outputs
from headrace_toolkit.sources.torch_module import ModuleSource
from headrace_toolkit.steps.base import Advance, Work
from headrace_toolkit.steps.quiet import quietly
from headrace_toolkit.tables import Table

PROBABILITIES = 1e-3
"""Rows of floats from 0 to 1 whose sum is 1 within this tolerance are probabilities, not logits."""

Loss = Callable[[Any, Any], Any]
"""Maps a module's outputs for some rows, and the numbers of those rows (a tensor), to the loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finetune:
    """How a module is trained after a step has changed it.

    Attributes:
        epochs: The number of passes over the rows.
        train: A file of rows to train on; empty means those of the recipe.
        rate: Adam's initial learning rate; it rises to three times that, and falls to nearly 0 at the end.
        batch: The number of rows in each step of the optimizer.
        function: `file.py:function`, called with the module, which it trains in place, instead of the built-in
            training.
    """

    epochs: int = 8
    train: str = ""
    rate: float = 1e-3
    batch: int = 64
    function: str = ""

    @property
    def shown(self) -> str:
        """The training as a part of a step's name."""
        return "fine-tuned" if self.function else f"{self.epochs} epochs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """The data and the settings with which a module is trained.

    Attributes:
        rows: The rows to train on.
        loss: The loss to minimise.
        how: Epochs, learning rate and rows per step.
        seed: The seed of the order of the rows.
        advance: Called with the number of finished epochs.
        after: Called after each step of the optimizer with its number, from 1 on.
    """

    rows: Data
    loss: Loss
    how: Finetune
    seed: int
    advance: Advance
    after: Callable[[int], None] | None = None

    @property
    def steps(self) -> int:
        """The number of steps of the optimizer."""
        return self.how.epochs * -(-len(self.rows) // self.how.batch)


def read_finetune(table: Table | None) -> Finetune | None:
    """The table `finetune = { ... }` of a recipe; None if it is missing.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    if table is None:
        return None
    options = Finetune(
        epochs=table.whole("epochs", 8, 1),
        train=table.file("train"),
        rate=table.number("rate", 1e-3, 1e-8, 1),
        batch=table.whole("batch", 64, 2),
        function=table.file("with"),
    )
    table.done()
    return options


def training_rows(work: Work, file: str, step: str) -> Data:
    """The rows to train on, adapted to the source.

    Raises:
        ToolkitError: There are no such rows, or they do not fit the source, or are not finite.
    """
    rows = work.training
    if file and work.source is not None:
        rows = Data.read(file, work.labels).fitted(work.source.signature)
    if rows is None:
        raise ToolkitError(f"{step} trains, and there are no rows to train on: give some with --train, or train = ...")
    rows.check_finite("training")
    return rows


def finetuned(source: ModuleSource, module: Any, how: Finetune, work: Work, step: str) -> Data | None:
    """Trains a module in place, as a recipe says; returns the rows, or None if the user's function trained it.

    Args:
        source: The source that the module was made of.
        module: The module to train.
        how: Epochs, learning rate and rows per step.
        work: The input of the step.
        step: The step's name, for messages.

    Raises:
        ToolkitError: There are no rows to train on, the labels fit no loss, or the user's function failed.
    """
    if how.function:
        user_code.call(how.function, module)
        module.eval()
        return None
    rows = training_rows(work, how.train, step)
    lesson = Lesson(rows=rows, loss=loss_of(source, rows), how=how, seed=work.seed, advance=work.advance)
    train(source, module, lesson)
    return rows


def train(source: ModuleSource, module: Any, lesson: Lesson) -> None:
    """Trains a module in place with Adam, and leaves it in inference mode. The same seed makes the same weights.

    Args:
        source: Knows how the module is called.
        module: The module to train.
        lesson: The rows, the loss and the schedule.

    Raises:
        ToolkitError: The module or the loss refuses the rows or their labels.
    """
    torch = require("torch", "fine-tuning", "torch")
    call, how = source.call.with_module(module), lesson.how
    optimizer = torch.optim.Adam([p for p in module.parameters() if p.requires_grad], lr=how.rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, how.rate * 3, total_steps=lesson.steps)

    def learn(which: Any) -> None:
        optimizer.zero_grad()
        by_position, by_name = call.tensors(lesson.rows.take(which.numpy()).inputs)
        lesson.loss(module(*by_position, **by_name), which).backward()
        optimizer.step()

    step = 0
    what = f"training {source.origin.name} on {lesson.rows.name}"
    with torch.random.fork_rng(devices=[]), torch.enable_grad(), quietly(what):
        torch.manual_seed(lesson.seed)
        order = torch.Generator().manual_seed(lesson.seed)
        module.train()
        for epoch in range(how.epochs):
            for which in torch.randperm(len(lesson.rows), generator=order).split(how.batch):
                step += 1
                if len(which) > 1 or len(lesson.rows) == 1:  # batch norm fails on a single row, which has no variance
                    learn(which)
                schedule.step()
                if lesson.after is not None:
                    lesson.after(step)
            lesson.advance(epoch + 1, how.epochs)
    module.eval()


def loss_of(source: ModuleSource, rows: Data) -> Loss:
    """The loss: cross-entropy for classes, squared errors for numbers and for the source's own answers.

    Raises:
        ToolkitError: The labels are strings.
    """
    torch = require("torch", "fine-tuning", "torch")
    name = trained_output(source)
    if rows.labels is None:
        answers = torch.from_numpy(source.run(rows.inputs)[name])
        return lambda outputs, which: ((output_of(outputs, source, name) - answers[which]) ** 2).mean()
    if rows.labels.dtype.kind not in "iuf":
        raise ToolkitError(f"{rows.name}: labels must be numbers for training: give classes from 0 on")
    if rows.labels.dtype.kind == "f":
        wanted = torch.from_numpy(rows.labels.astype(np.float32))
        return lambda outputs, which: ((output_of(outputs, source, name).reshape(-1) - wanted[which]) ** 2).mean()
    classes = torch.from_numpy(rows.labels.astype(np.int64))
    sample = source.run(source.call.example)[name]
    return _of_classes(source, name, classes, are_probabilities(sample), sample.reshape(len(sample), -1).shape[1])


def trained_output(source: ModuleSource) -> str:
    """The first output of floats.

    Raises:
        ToolkitError: There is no output of floats.
    """
    for name, spec in source.signature.outputs.items():
        if spec.array_dtype.kind == "f":
            return name
    raise ToolkitError(f"{source.origin.name} has no float output that training could change")


def are_probabilities(table: Array) -> bool:
    """Whether each row is a distribution over classes."""
    if table.ndim != 2 or table.shape[1] < 2 or table.min() < 0:
        return False
    return bool((np.abs(table.sum(1) - 1) < PROBABILITIES).all())


def _of_classes(source: ModuleSource, name: str, classes: Any, probabilities: bool, columns: int) -> Loss:
    functional = require("torch.nn.functional", "fine-tuning", "torch")

    def loss(outputs: Any, which: Any) -> Any:
        scores, wanted = output_of(outputs, source, name), classes[which]
        if columns == 1:
            return functional.binary_cross_entropy_with_logits(scores.reshape(-1), wanted.to(scores.dtype))
        logits = (scores + 1e-9).log() if probabilities else scores
        return functional.cross_entropy(logits, wanted)

    return loss


def output_of(outputs: Any, source: ModuleSource, name: str) -> Any:
    """One of a module's outputs, by the source's name for it."""
    named: Mapping[str, Any] = dict(zip(source.signature.outputs, named_outputs(outputs).values(), strict=True))
    return named[name]
