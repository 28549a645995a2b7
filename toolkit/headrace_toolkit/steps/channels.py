"""Pruning of whole channels by torch-pruning: gives a smaller network, which is what makes a model faster on a CPU."""

from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.sources.torch_module import ModuleSource
from headrace_toolkit.steps.base import Made, Needs, Work
from headrace_toolkit.steps.quiet import quietly
from headrace_toolkit.steps.training import Finetune, finetuned, read_finetune, training_rows
from headrace_toolkit.tables import Table

BY = ("magnitude", "activation", "random")

_SEEN = 256
"""The maximum number of rows whose activations are recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """Removes a share of the channels of each layer, and of all layers that are coupled with it.

    Attributes:
        amount: The share of the channels.
        by: Which channels are removed: those with the smallest `magnitude` of weights, those least used (`activation`),
            or any (`random`).
        round_to: The number of remaining channels is a multiple of this, if there are that many.
        ignore: Names of modules that keep their channels. The last layer always keeps its channels.
        finetune: How the module is trained afterwards; None skips this, which costs much accuracy.
    """

    amount: float = 0.5
    by: str = "magnitude"
    round_to: int = 8
    ignore: tuple[str, ...] = ()
    finetune: Finetune | None = None
    needs = Needs(module=True)

    @property
    def name(self) -> str:
        """The step's name in reports."""
        words = [f"{self.amount:.4g} of the channels removed"] + ([] if self.by == "magnitude" else [f"by {self.by}"])
        return ", ".join([*words, *([self.finetune.shown] if self.finetune else [])])

    def run(self, work: Work) -> Made:
        """Exports the smaller module at once: later, there would be no class that could load its weights.

        Raises:
            ToolkitError: The source has no PyTorch module, torch-pruning does not support it, or it cannot be trained.
        """
        source = work.source
        if not isinstance(source, ModuleSource):
            raise ToolkitError(f"{self.name} needs a PyTorch module")
        module = source.module()
        before = sum(weight.numel() for weight in module.parameters())
        self._shrink(source, module, work)
        made = source.with_module(module)
        self._check_outputs(source, made)
        trained = None if self.finetune is None else finetuned(source, module, self.finetune, work, self.name)
        after = sum(weight.numel() for weight in module.parameters())
        exported = source.with_module(module).export(work.folder)
        note = f"{after} of {before} weights are left ({after / before:.1%})"
        return Made(model=exported.model, source=source.with_module(module), notes=(note,), trained_on=trained)

    def _shrink(self, source: ModuleSource, module: Any, work: Work) -> None:
        torch = require("torch", "channels", "torch")
        pruning = require("torch_pruning", "channels", "torch")
        by_position, by_name = source.call.tensors(source.call.example)
        kinds = {
            "magnitude": lambda: pruning.importance.GroupMagnitudeImportance(p=2),
            "activation": pruning.importance.ActivationImportance,
            "random": pruning.importance.RandomImportance,
        }
        importance = kinds[self.by]()
        looking = importance.compute_importance(module) if self.by == "activation" else nullcontext()
        ignored = [*self._named(module), _last_layer(source, module)]
        # This does not run under `no_grad`, since torch-pruning needs gradients to find out which layers are coupled.
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), quietly(self.name):
            torch.manual_seed(work.seed)
            with looking:
                if self.by == "activation":
                    self._look(source, module, work)
                pruning.pruner.BasePruner(
                    module, by_name or by_position, importance=importance, pruning_ratio=self.amount,
                    ignored_layers=ignored, round_to=self.round_to,
                ).step()  # fmt: skip

    def _look(self, source: ModuleSource, module: Any, work: Work) -> None:
        """Runs some rows, whose activations torch-pruning records."""
        file = "" if self.finetune is None else self.finetune.train
        rows = training_rows(work, file, self.name)
        some = rows.take(np.arange(min(_SEEN, len(rows))))
        by_position, by_name = source.call.tensors(some.inputs)
        module(*by_position, **by_name)

    def _named(self, module: Any) -> list[Any]:
        known = dict(module.named_modules())
        for name in self.ignore:
            if name not in known:
                raise ToolkitError(f"{self.name}: ignore names the module {name}, which does not exist")
        return [known[name] for name in self.ignore]

    def _check_outputs(self, source: ModuleSource, made: ModuleSource) -> None:
        """Refuses a module whose answers have fewer columns."""
        before, after = (one.run(source.call.example) for one in (source, made))
        for name, array in before.items():
            if after[name].shape != array.shape:
                raise ToolkitError(
                    f"{self.name}: output {name} went from {list(array.shape)} to {list(after[name].shape)}: add the "
                    f"layer that makes it to ignore"
                )


def _last_layer(source: ModuleSource, module: Any) -> Any:
    """The last layer with weights: the one that makes the answers."""
    torch = require("torch", "channels", "torch")
    ran: list[Any] = []
    kinds = (torch.nn.Linear, torch.nn.modules.conv._ConvNd)  # noqa: SLF001  torch has no other name for it
    layers = [layer for layer in module.modules() if isinstance(layer, kinds)]
    if not layers:
        raise ToolkitError(f"{source.origin.name} has no linear or convolutional layer to remove channels from")
    hooks = [layer.register_forward_hook(lambda layer, *_: ran.append(layer)) for layer in layers]
    try:
        source.call.with_module(module).run(source.call.example)
    finally:
        for hook in hooks:
            hook.remove()
    return ran[-1]


def build(table: Table) -> Channels:
    """The step that a recipe's table describes.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    return Channels(
        amount=table.number("amount", 0.5, 0, 0.99),
        by=table.choice("by", BY, "magnitude"),
        round_to=table.whole("round_to", 8, 1),
        ignore=table.strings("ignore"),
        finetune=read_finetune(table.table("finetune")),
    )
