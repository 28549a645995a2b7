"""TFLite files: runs one on LiteRT under chosen names, and writes these names into the file for the server."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from headrace_batching.task import Arrays
from headrace_protos import SignatureDef, TensorInfo
from headrace_protos.tensor import enum_of
from headrace_server.backends.signature import DEFAULT_SIGNATURE, PREDICT_METHOD, Signature, TensorSpec
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.steps.quiet import stderr_aside

LITE_FILE = "model.tflite"

_METADATA = "signature_defs_metadata"
"""TF Serving's tflite_session.cc reads a file's SignatureDefs from the metadata of this name."""


@dataclass(frozen=True, slots=True)
class Aliases:
    """The names of a file's tensors in requests.

    Attributes:
        inputs: Alias to the name of the tensor in the file.
        outputs: Alias to the name of the output tensor in the file.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)


class LiteModel:
    """A TFLite file in an interpreter with one thread.

    Args:
        content: The file's bytes.
        name: The model's name in messages.
        aliases: The aliases of its tensors.

    Raises:
        ToolkitError: LiteRT does not load it.
    """

    def __init__(self, content: bytes, name: str, aliases: Aliases) -> None:
        self._name = name
        self._interpreter = open_lite(content, name)
        self._inputs = _by_alias(self._interpreter.get_input_details(), aliases.inputs)
        self._outputs = _by_alias(self._interpreter.get_output_details(), aliases.outputs)
        self._shapes: dict[str, tuple[int, ...]] = {}
        inputs, outputs = _specs(self._inputs), _specs(self._outputs)
        batched = all(spec.shape and spec.shape[0] is None for spec in (*inputs.values(), *outputs.values()))
        self.signature = Signature(inputs=inputs, outputs=outputs, batched=batched)

    def run(self, inputs: Arrays) -> Arrays:
        """Runs the model on all rows.

        Raises:
            ToolkitError: LiteRT refuses the inputs.
        """
        try:
            self._resize(inputs)
            for alias, array in inputs.items():
                self._interpreter.set_tensor(self._inputs[alias]["index"], np.ascontiguousarray(array))
            self._interpreter.invoke()
            return {
                alias: np.array(self._interpreter.get_tensor(tensor["index"]))
                for alias, tensor in self._outputs.items()
            }
        except (RuntimeError, ValueError) as error:
            raise ToolkitError(f"{self._name}: LiteRT refuses a run: {first_line(error)}") from error

    def _resize(self, inputs: Arrays) -> None:
        shapes = {alias: array.shape for alias, array in inputs.items()}
        if shapes == self._shapes:
            return
        self._shapes = {}
        for alias, shape in shapes.items():
            self._interpreter.resize_tensor_input(self._inputs[alias]["index"], list(shape))
        self._interpreter.allocate_tensors()
        self._shapes = shapes


def open_lite(content: bytes, name: str) -> Any:
    """A LiteRT interpreter of the model in a TFLite file.

    Raises:
        ToolkitError: LiteRT does not load it.
    """
    interpreter_of = require("ai_edge_litert.interpreter", "TFLite files", "keras").Interpreter
    try:
        with stderr_aside():
            interpreter = interpreter_of(model_content=content, num_threads=1)
            interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise ToolkitError(f"{name}: LiteRT does not load it: {first_line(error)}") from error
    return interpreter


def write_aliases(content: bytes, signature: Signature, aliases: Aliases) -> bytes:
    """A TFLite file with a SignatureDef added to its metadata, so that the server knows the tensors by their aliases.

    Args:
        content: The file's bytes.
        signature: The signature, under the aliases.
        aliases: The aliases of its tensors.
    """
    schema = require("ai_edge_litert.schema_py_generated", "TFLite files", "keras")
    flatbuffers = require("flatbuffers", "TFLite files", "keras")
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    definition = SignatureDef(
        inputs=_infos(signature.inputs, aliases.inputs),
        outputs=_infos(signature.outputs, aliases.outputs),
        method_name=PREDICT_METHOD,
    )
    buffer, metadata = schema.BufferT(), schema.MetadataT()
    buffer.data = list(_one_entry(DEFAULT_SIGNATURE, definition.SerializeToString(deterministic=True)))
    model.buffers.append(buffer)
    metadata.name, metadata.buffer = _METADATA, len(model.buffers) - 1
    model.metadata = [*(model.metadata or []), metadata]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _one_entry(key: str, value: bytes) -> bytes:
    """A FlexBuffer map with one entry: a string of bytes, which need not be valid UTF-8."""
    flexbuffers = require("flatbuffers.flexbuffers", "TFLite files", "keras")
    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Key(key)
        builder.String(_Bytes(value))
    return bytes(builder.Finish())


class _Bytes(str):
    """Bytes that the builder of strings accepts in place of a text, by calling `encode`."""

    def __new__(cls, content: bytes) -> "_Bytes":
        made = super().__new__(cls)
        made.content = content
        return made

    content: bytes

    def encode(self, *_: object) -> bytes:
        return self.content


def _by_alias(details: list[dict[str, Any]], aliases: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    tensors = {detail["name"]: detail for detail in details}
    return {alias: tensors[name] for alias, name in aliases.items()}


def _specs(tensors: Mapping[str, Mapping[str, Any]]) -> dict[str, TensorSpec]:
    return {
        alias: TensorSpec(
            tensor["name"],
            enum_of(np.dtype(object) if np.dtype(tensor["dtype"]).kind == "S" else np.dtype(tensor["dtype"])),
            tuple(None if size < 0 else int(size) for size in tensor["shape_signature"]),
        )
        for alias, tensor in tensors.items()
    }


def _infos(specs: Mapping[str, TensorSpec], names: Mapping[str, str]) -> dict[str, TensorInfo]:
    infos = {}
    for alias, spec in specs.items():
        infos[alias] = TensorInfo(name=names[alias], dtype=spec.dtype)
        infos[alias].tensor_shape.SetInParent()
        for size in spec.shape:
            infos[alias].tensor_shape.dim.add(size=-1 if size is None else size)
    return infos
