"""Half floats, which take half of the bytes, for GPUs: on a CPU, they are not faster."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import Facts, read, save, tensors_of
from headrace_toolkit.steps.base import Made, Needs, Work
from headrace_toolkit.steps.quiet import quietly
from headrace_toolkit.tables import Table

_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True, slots=True, kw_only=True)
class Half:
    """Weights and arithmetic in float16; inputs and outputs stay as they are.

    Attributes:
        keep: Names of nodes that stay in float32.
    """

    keep: tuple[str, ...] = ()
    needs = Needs()

    @property
    def name(self) -> str:
        """The step's name in reports."""
        return "half" + (f", {len(self.keep)} nodes kept" if self.keep else "")

    def run(self, work: Work) -> Made:
        """The model in half floats.

        Raises:
            ToolkitError: The model is a tree ensemble or already quantized, or a weight is beyond half floats.
        """
        onnx = require("onnx", "half", "toolkit")
        facts = Facts.of(work.model)
        if facts.trees:
            raise ToolkitError("half: ONNX Runtime loads no tree ensemble in half floats")
        if facts.quantized:
            raise ToolkitError("half: the model is already quantized")
        for name, count in beyond_half(read(work.model), work.model.parent):
            raise ToolkitError(
                f"half: {count} values of the weight {name} are beyond {_LARGEST:g}, the largest half float"
            )
        convert = require("onnxruntime.transformers.float16", "half", "toolkit").convert_float_to_float16
        with quietly("half"):
            model = convert(onnx.load(str(work.model)), keep_io_types=True, node_block_list=list(self.keep))
        return Made(model=save(model, work.folder))


def beyond_half(model: Any, folder: Path) -> Iterator[tuple[str, int]]:
    """Each float32 weight with values outside the range of half floats, and their number."""
    onnx = require("onnx", "half", "toolkit")
    numpy_helper = require("onnx.numpy_helper", "half", "toolkit")
    for tensor in tensors_of(model.graph):
        if tensor.data_type == onnx.TensorProto.FLOAT:
            count = int((np.abs(numpy_helper.to_array(tensor, str(folder))) > _LARGEST).sum())
            if count:
                yield tensor.name, count


def build(table: Table) -> Half:
    """The step that a recipe's table describes.

    Raises:
        ToolkitError: A key has an invalid value.
    """
    return Half(keep=table.strings("keep"))
