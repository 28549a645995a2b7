"""ONNX files: checks their weights, and gets their answers from ONNX Runtime without graph optimisations."""

from pathlib import Path
from typing import Any

from headrace_batching.task import Arrays
from headrace_server.backends.signature import Signature
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import nodes_of, not_finite, read, save, strip
from headrace_toolkit.running import OnnxModel, without_dictionaries
from headrace_toolkit.sources.base import Exported, Origin, SourceOptions
from headrace_toolkit.sources.files import sha256_of

_THIS_CPU_ONLY = ("com.microsoft.nchwc",)


class OnnxSource:
    """An ONNX file.

    Args:
        file: The model, with its external data in its own folder.
        options: Only `outputs` would apply, and is refused, since an ONNX file has names of its own.

    Raises:
        ToolkitError: The file cannot be read; external data is outside its folder or missing; weights are not finite;
            or it was optimised for one specific CPU.
    """

    def __init__(self, file: Path, options: SourceOptions) -> None:
        _refuse_options(file, options)
        self.file = file
        self.model = read(file)
        for name, count in not_finite(self.model, file.parent):
            raise ToolkitError(f"{file}: {count} values of the weight {name} are not finite")
        _refuse_cpu_specific(file, self.model)
        content, self._zipmaps = without_dictionaries(file)
        if content is not None:
            self.model = type(self.model).FromString(content)
        onnxruntime = require("onnxruntime", "ONNX models", "toolkit")
        self.origin = Origin(
            name=file.name, kind="onnx", framework=f"ONNX Runtime {onnxruntime.__version__}", sha256=sha256_of(file)
        )
        self._opened = OnnxModel(file, optimized=False)

    @property
    def signature(self) -> Signature:
        """The graph's own inputs and outputs."""
        return self._opened.signature

    def run(self, inputs: Arrays) -> Arrays:
        """ONNX Runtime's answers for the unoptimised graph."""
        return self._opened.run(inputs)

    def export(self, folder: Path) -> Exported:
        """The same model in one file, without the exporter's notes about its machine."""
        onnx = require("onnx", "ONNX models", "toolkit")
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        onnx.load_external_data_for_model(model, str(self.file.parent))
        strip(model)
        notes = tuple(
            f"{zipmap.output} is a list of dictionaries in {self.file.name}, which no tensor can contain; the version "
            f"has a tensor instead, with a column for each class ({', '.join(zipmap.classes)})"
            for zipmap in self._zipmaps
        )
        return Exported(model=save(model, folder), notes=notes)


def _refuse_options(file: Path, options: SourceOptions) -> None:
    for given, flag in ((options.inputs, "--inputs"), (options.outputs, "--outputs"), (options.build, "--build")):
        if given:
            raise ToolkitError(
                f"{file}: {flag} is only for sources without names of their own, but an ONNX file has them"
            )


def _refuse_cpu_specific(file: Path, model: Any) -> None:
    for node in nodes_of(model.graph):
        if node.domain in _THIS_CPU_ONLY:
            raise ToolkitError(
                f"{file}: node {node.name or node.op_type} has the domain {node.domain}: ONNX Runtime has optimised "
                "this model for one CPU; use the original model"
            )
