"""Weight sharing: each large weight is replaced by indices into a codebook of few values, which k-means finds.

The model becomes smaller, not faster.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import Facts, save
from headrace_toolkit.steps.base import Made, Needs, Work
from headrace_toolkit.tables import Table

FOUR_BITS = 16
"""Codebooks of up to this many values have 4-bit indices, which ONNX has from opset 21 on."""

_OPSET_OF_FOUR_BITS = 21
_ROUNDS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """k-means on the values of each weight separately.

    Attributes:
        values: How many different values a weight may have.
        smallest: Weights with fewer values stay as they are.
    """

    values: int = 256
    smallest: int = 1024
    needs = Needs()

    @property
    def name(self) -> str:
        """The step's name in reports."""
        return f"k-means, {self.values} values"

    def run(self, work: Work) -> Made:
        """The model with codebooks.

        Raises:
            ToolkitError: No weight is large enough.
        """
        onnx = require("onnx", "share", "toolkit")
        if not any(size >= self.smallest for size in Facts.of(work.model).sizes):
            raise ToolkitError(f"share: no weight has {self.smallest} values or more")
        model = onnx.load(str(work.model))
        model = self._with_opset(model)
        self._change(model.graph, work)
        return Made(model=save(model, work.folder))

    def _with_opset(self, model: Any) -> Any:
        onnx = require("onnx", "share", "toolkit")
        version = next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
        if self.values > FOUR_BITS or version >= _OPSET_OF_FOUR_BITS:
            return model
        try:
            return require("onnx.version_converter", "share", "toolkit").convert_version(model, _OPSET_OF_FOUR_BITS)
        except Exception as error:
            raise ToolkitError(
                f"share: 4-bit indices need opset {_OPSET_OF_FOUR_BITS}, and the model cannot be upgraded to it from "
                f"{version}; use 17 to 256 values instead"
            ) from error
        finally:
            del onnx

    def _change(self, graph: Any, work: Work) -> None:
        """Replaces each large weight by its indices and its codebook."""
        onnx = require("onnx", "share", "toolkit")
        kept, made, total = [], [], len(graph.initializer)
        for number, tensor in enumerate(graph.initializer):
            if tensor.data_type != onnx.TensorProto.FLOAT or int(np.prod(tensor.dims)) < self.smallest:
                kept.append(tensor)
                continue
            tensors, nodes = _shared(tensor, self.values)
            kept += tensors
            made += nodes
            work.advance(number + 1, total)
        nodes = [*made, *graph.node]
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(kept)


def codebook(weights: Array, values: int) -> tuple[Array, Array]:
    """k-means in one dimension: exact Lloyd steps on the sorted values, from evenly spaced centres.

    Args:
        weights: The weights, of any shape; all are finite.
        values: The maximum number of centres.

    Returns: The centres in order, float32 [values], and for each weight the index of its nearest centre, in the
        weight's shape.
    """
    ordered = np.sort(weights.ravel().astype(np.float64))
    sums = np.concatenate([[0.0], np.cumsum(ordered)])
    centres = np.linspace(ordered[0], ordered[-1], values)
    for _ in range(_ROUNDS):
        edges = np.searchsorted(ordered, (centres[1:] + centres[:-1]) / 2)
        cuts = np.concatenate([[0], edges, [ordered.size]])
        counts = np.diff(cuts)
        moved = np.where(counts > 0, np.diff(sums[cuts]) / np.maximum(counts, 1), centres)
        if np.array_equal(moved, centres):
            break
        centres = moved
    places = np.searchsorted((centres[1:] + centres[:-1]) / 2, weights.ravel()).reshape(weights.shape)
    return centres.astype(np.float32), places


def _shared(tensor: Any, values: int) -> tuple[list[Any], list[Any]]:
    """The tensors and nodes that replace a weight."""
    onnx = require("onnx", "share", "toolkit")
    numpy_helper = require("onnx.numpy_helper", "share", "toolkit")
    helper = require("onnx.helper", "share", "toolkit")
    centres, places = codebook(numpy_helper.to_array(tensor), values)
    name = tensor.name
    # from_array packs two 4-bit indices per byte; make_tensor would write varints of up to two bytes each.
    tensors = [
        numpy_helper.from_array(places.astype(_places_dtype(values)), f"{name}.places"),
        numpy_helper.from_array(centres, f"{name}.codebook"),
    ]
    nodes = [
        helper.make_node("Cast", [f"{name}.places"], [f"{name}.wide"], to=onnx.TensorProto.INT32),
        helper.make_node("Gather", [f"{name}.codebook", f"{name}.wide"], [name]),
    ]
    return tensors, nodes


def _places_dtype(values: int) -> Any:
    if values <= FOUR_BITS:
        return require("ml_dtypes", "share", "toolkit").uint4
    return np.uint8 if values <= 256 else np.uint16


def build(table: Table) -> Share:
    """The step that a recipe's table describes.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    return Share(values=table.whole("values", 256, 2, 65536), smallest=table.whole("smallest", 1024, 1))
