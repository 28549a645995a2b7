"""Simplifies a graph: folds constants and removes no-ops. ONNX Runtime does so, too, so runs do not become faster."""

from dataclasses import dataclass

from headrace_toolkit.errors import require
from headrace_toolkit.graph import Facts, save
from headrace_toolkit.steps.base import Made, Needs, Work
from headrace_toolkit.steps.quiet import quietly
from headrace_toolkit.tables import Table


@dataclass(frozen=True, slots=True)
class Simplify:
    """Simplifies a graph with onnxslim."""

    name = "simplify"
    needs = Needs()

    def run(self, work: Work) -> Made:
        """The same model with fewer nodes.

        Raises:
            ToolkitError: onnxslim fails.
        """
        onnx = require("onnx", "simplify", "toolkit")
        onnxslim = require("onnxslim", "simplify", "toolkit")
        with quietly("simplify"):
            model = onnxslim.slim(onnx.load(str(work.model)))
        file = save(model, work.folder)
        before, after = (sum(Facts.of(model).operators.values()) for model in (work.model, file))
        return Made(
            model=file, notes=(f"{before} nodes became {after}; ONNX Runtime does the same when it loads a model",)
        )


def build(table: Table) -> Simplify:
    """The step that a recipe's table describes; it has no keys of its own."""
    del table
    return Simplify()
