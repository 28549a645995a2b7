"""Sources of PyTorch: a module, an exported program, a TorchScript module; each converted by torch's own exporter."""

import copy
import io
import re
import traceback
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headrace_batching.task import Arrays
from headrace_server.backends.signature import Signature
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.graph import rename, save, strip
from headrace_toolkit.running import rows_at_once
from headrace_toolkit.sources.base import Exported, Origin
from headrace_toolkit.sources.torch_call import Caller
from headrace_toolkit.steps.quiet import quietly

SCRIPT_OPSET = 17

_MOST = 1 << 20
"""The maximum that torch is given for a size that varies, since torch requires one."""

_USER_CODE = re.compile(r'File "([^"]+)", line (\d+)')
_ANEW = "torch.export.export(module, (x,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Called:
    """The common base of the three kinds of sources.

    Attributes:
        origin: The origin of the model.
        call: The module, and how it is called.
        notes: Messages for the user.
    """

    origin: Origin
    call: Caller
    notes: tuple[str, ...] = ()

    @property
    def signature(self) -> Signature:
        """The module's inputs and outputs."""
        return self.call.signature

    def run(self, inputs: Arrays) -> Arrays:
        """PyTorch's own answers."""
        return self.call.run(inputs)

    def _written(self, model: Any, folder: Path) -> Exported:
        """A graph with the source's names, and without torch's notes about the machine."""
        inputs = [value.name for value in model.graph.input]
        outputs = [value.name for value in model.graph.output]
        names = [*self.signature.inputs, *self.signature.outputs]
        if len(names) != len(inputs) + len(outputs):
            raise ToolkitError(
                f"{self.origin.name}: the ONNX model has {len(inputs)} inputs and {len(outputs)} outputs, and the "
                f"module {len(self.signature.inputs)} and {len(self.signature.outputs)}: an argument has no effect"
            )
        # If the exporter were given a name that is also an operator's, the model would not load.
        rename(model, {name: f"{name}.exported" for name in set(names) & _inner_names(model)})
        rename(model, dict(zip([*(v.name for v in model.graph.input), *(v.name for v in model.graph.output)],
                               names, strict=True)))  # fmt: skip
        strip(model)
        return Exported(model=save(model, folder), notes=self.notes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModuleSource(_Called):
    """A module that steps may prune, shrink or train."""

    def module(self) -> Any:
        """A deep copy, for the caller to change."""
        try:
            return copy.deepcopy(self.call.module)
        except Exception as error:
            raise ToolkitError(f"{self.origin.name} cannot be copied: {first_line(error)}") from error

    def with_module(self, module: Any) -> "ModuleSource":
        """The same source for another module."""
        return replace(self, call=self.call.with_module(module.eval()), notes=())

    def export(self, folder: Path) -> Exported:
        """The module, traced by `torch.onnx.export` with sizes that vary."""
        torch = require("torch", "PyTorch models", "torch")
        require("onnxscript", "converting PyTorch models", "torch")
        by_position, by_name = self.call.tensors(self.call.example)
        shapes = self._shapes()
        arguments = {"args": by_position, "dynamic_shapes": tuple(shapes)} if by_position else {
            "kwargs": by_name, "dynamic_shapes": dict(zip(by_name, shapes, strict=True))}  # fmt: skip
        try:
            with quietly("export"):
                program = torch.onnx.export(self.call.module, dynamo=True, verbose=False, **arguments)
        except ToolkitError as error:
            raise ToolkitError(f"{self.origin.name} cannot be exported to ONNX: {_said(error)}") from error
        return self._written(program.model_proto, folder)

    def _shapes(self) -> list[dict[int, Any]]:
        """For each input, which of its sizes vary; those with the same name vary together."""
        torch = require("torch", "PyTorch models", "torch")
        named: dict[str, Any] = {}
        shapes = []
        for spec in self.signature.inputs.values():
            varying: dict[int, Any] = {}
            for axis, size in enumerate(spec.shape):
                if size is None:
                    name = "N" if axis == 0 else (spec.dims[axis] or f"{spec.name}_{axis}")
                    varying[axis] = named.setdefault(name, torch.export.Dim(name, min=1, max=_MOST))
            shapes.append(varying)
        return shapes


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramSource(_Called):
    """An exported program, whose sizes vary if they did when it was exported.

    Attributes:
        program: The `torch.export.ExportedProgram`.
    """

    program: Any

    def export(self, folder: Path) -> Exported:
        """The program, converted by `torch.onnx.export`."""
        torch = require("torch", "PyTorch models", "torch")
        require("onnxscript", "converting PyTorch models", "torch")
        try:
            with quietly("export"):
                made = torch.onnx.export(self.program, dynamo=True, verbose=False)
        except ToolkitError as error:
            raise ToolkitError(f"{self.origin.name} cannot be exported to ONNX: {_said(error)}") from error
        exported = self._written(made.model_proto, folder)
        if rows_at_once(self.signature) is None:
            return exported
        return replace(exported, notes=(*exported.notes, f"to let the number of rows vary, export it with {_ANEW}"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ScriptSource(_Called):
    """A TorchScript module, which only the older exporter supports."""

    def export(self, folder: Path) -> Exported:
        """The module, converted by the TorchScript exporter."""
        torch = require("torch", "PyTorch models", "torch")
        onnx = require("onnx", "converting PyTorch models", "torch")
        by_position, by_name = self.call.tensors(self.call.example)
        arguments = (*by_position, *by_name.values())
        names = {"input_names": [f"input_{number}" for number in range(len(arguments))],
                 "output_names": [f"output_{number}" for number in range(len(self.signature.outputs))]}  # fmt: skip
        axes = {
            given: {axis: (spec.dims[axis : axis + 1] or ("",))[0] or f"d{axis}" for axis, size in
                    enumerate(spec.shape) if size is None}
            for given, spec in zip([*names["input_names"], *names["output_names"]],
                                   [*self.signature.inputs.values(), *self.signature.outputs.values()], strict=True)
        }  # fmt: skip
        buffer = io.BytesIO()
        try:
            with quietly("export"):
                torch.onnx.export(self.call.module, arguments, buffer, dynamo=False, dynamic_axes=axes,
                                  opset_version=SCRIPT_OPSET, **names)  # fmt: skip
        except ToolkitError as error:
            raise ToolkitError(f"{self.origin.name} cannot be exported to ONNX: {_said(error)}") from error
        return self._written(onnx.load_from_string(buffer.getvalue()), folder)


def _inner_names(model: Any) -> set[str]:
    """The names of all values that are neither inputs nor outputs."""
    ends = {value.name for value in (*model.graph.input, *model.graph.output)}
    inner = {name for node in model.graph.node for name in node.output} | {w.name for w in model.graph.initializer}
    return inner - ends


def _said(error: BaseException) -> str:
    """The error in one line, with the line of the user's code, extracted from torch's long text."""
    chain = [error]
    while chain[-1].__cause__ is not None:
        chain.append(chain[-1].__cause__)
    said = first_line(chain[-1]).removesuffix(" Consider annotating your code using torch._check*().")
    place = next((found for one in reversed(chain) if (found := _place(one))), "")
    return said + (f" ({place})" if place else "")


def _place(error: BaseException) -> str:
    """The last line of code outside the libraries in an exception's traceback; empty if there is none."""
    named = [(file, int(line)) for file, line in _USER_CODE.findall(str(error))]
    raised = [(frame.filename, frame.lineno or 0) for frame in traceback.extract_tb(error.__traceback__)]
    own = [(file, line) for file, line in (*raised, *named)
           if "site-packages" not in file and "headrace_toolkit" not in file and file.endswith(".py")
           and "/lib/python3" not in file]  # fmt: skip
    return f"{Path(own[-1][0]).name}, line {own[-1][1]}" if own else ""
