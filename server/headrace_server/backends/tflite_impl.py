"""TFLite models on LiteRT, in a pool of interpreters."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from ai_edge_litert.schema_py_generated import Model
from flatbuffers import flexbuffers

from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType, SignatureDef, TensorInfo
from headrace_protos.tensor import enum_of
from headrace_server.backends.base import BackendOptions, Risks
from headrace_server.backends.signature import DEFAULT_SIGNATURE, PREDICT_METHOD, Signature
from headrace_server.backends.signature_def import read_signature
from headrace_server.backends.tflite_graph import TfliteGraph
from headrace_server.errors import LoadError, ServingError, invalid

SIGNATURES = b"signature_defs_metadata"

Tensors = Mapping[str, Mapping[str, Any]]


def load_tflite(file: Path, options: BackendOptions) -> "TfliteBackend":
    """Reads a file into memory, and creates an interpreter for each batch that may run at the same time.

    Raises:
        LoadError: As in TF Serving, INVALID_ARGUMENT if it is not a TFLite model or its signatures are invalid, and
            INTERNAL if it cannot run or its signatures name unknown tensors; PERMISSION_DENIED or UNKNOWN if the file
            cannot be read.
    """
    try:
        content = file.read_bytes()
        begun = [_begin(content) for _ in range(options.tflite_interpreters)]
        graph = TfliteGraph(content)
        interpreters = [_Interpreter(content, each, assigns=graph.assigns_variables) for each in begun]
        definitions = _read_definitions(content)
        signatures = _signatures(definitions, interpreters[0]) if definitions else _generated(interpreters[0])
    except OSError as error:
        code = Code.PERMISSION_DENIED if isinstance(error, PermissionError) else Code.UNKNOWN
        raise LoadError(code, f"{file}: {error.strerror}") from error
    except ServingError as error:
        raise LoadError(error.code, f"{file}: {error.message}") from error
    except ValueError as error:
        raise LoadError(Code.INVALID_ARGUMENT, f"{file}: Cannot build FlatBufferModel from buffer. {error}") from error
    except RuntimeError as error:
        raise LoadError(Code.INTERNAL, f"{file}: {error}") from error
    return TfliteBackend(interpreters, signatures, graph.risks)


class TfliteBackend:
    """One TFLite model. If all its interpreters are busy, a call waits for one.

    Args:
        interpreters: Interpreters, all of the same model.
        signatures: The signatures by name; every tensor that they name exists.
        risks: See `base.MayEndProcess`.
    """

    runtime = "tflite"

    def __init__(
        self, interpreters: Iterable["_Interpreter"], signatures: Mapping[str, Signature], risks: Risks
    ) -> None:
        self._signatures = signatures
        self.risks = risks
        self._idle: SimpleQueue[_Interpreter] = SimpleQueue()
        for interpreter in interpreters:
            self._idle.put(interpreter)

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """The signatures in the file's metadata, or a `serving_default` made of its inputs and outputs."""
        return self._signatures

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Resizes an interpreter's inputs to the arrays' shapes, if they differ, and invokes it."""
        declared = self._signatures[signature]
        interpreter = self._idle.get()
        try:
            interpreter.invoke({declared.inputs[alias].name: array for alias, array in inputs.items()})
            return {alias: interpreter.output(declared.outputs[alias].name) for alias in outputs}
        finally:
            self._idle.put(interpreter)

    def close(self) -> None:
        """Frees the interpreters, none of which may be running."""
        self._idle = SimpleQueue()


class _Interpreter:
    """One interpreter: its tensors by name, and the shapes that its inputs have.

    Args:
        content: The content of the TFLite file.
        interpreter: The runtime's interpreter of the file.
        assigns: Whether runs assign to variables that the next run sees.
    """

    def __init__(self, content: bytes, interpreter: Interpreter, *, assigns: bool) -> None:
        self._content = content
        self._interpreter = interpreter
        self._assigns = assigns
        self.inputs: Tensors = {tensor["name"]: tensor for tensor in self._interpreter.get_input_details()}
        self.outputs: Tensors = {tensor["name"]: tensor for tensor in self._interpreter.get_output_details()}
        self._declared: dict[str, tuple[int, ...]] = {name: tuple(t["shape"]) for name, t in self.inputs.items()}
        self._shapes = dict(self._declared)

    def _forget(self) -> None:
        """Removes the data of a run, which belong to its caller, and resets the variables of the model."""
        if self._assigns:
            # No method of an interpreter resets the model's variables, so a new interpreter is created, which takes
            # about 0.6 ms.
            self._interpreter, self._shapes = _begin(self._content), dict(self._declared)
        else:
            self._interpreter.reset_all_variables()

    def invoke(self, arrays: Arrays) -> None:
        """Runs the model on arrays by their tensors' names.

        Raises:
            ServingError: INTERNAL. TF Serving's tflite_session.cc has the first words of the texts.
        """
        self._forget()
        self._resize(arrays)
        for name, array in arrays.items():
            self._try("Failed to set input tensor", self._interpreter.set_tensor, self.inputs[name]["index"], array)
        self._try("Failed to invoke TfLite interpreter", self._interpreter.invoke)

    def output(self, name: str) -> Array:
        """A copy of the tensor after the last run.

        Raises:
            ServingError: INTERNAL for a tensor that numpy cannot represent.
        """
        index = self.outputs[name]["index"]
        try:
            return np.asarray(self._interpreter.get_tensor(index))
        except ValueError as error:  # `get_tensor` refuses tensors without elements, such as a list of no boxes
            (tensor,) = (each for each in self._interpreter.get_output_details() if each["index"] == index)
            if all(tensor["shape"]):
                raise ServingError(Code.INTERNAL, f"Failed to read output tensor: {name}: {error}") from error
            dtype = np.dtype(tensor["dtype"])
            return np.empty(tensor["shape"], object if dtype.kind == "S" else dtype)

    def _resize(self, arrays: Arrays) -> None:
        changed = {name: array.shape for name, array in arrays.items() if array.shape != self._shapes.get(name)}
        if not changed:
            return
        before, self._shapes = self._shapes, {}  # unknown until the tensors are allocated
        for name, shape in changed.items():
            text = f"Failed to resize input tensor: {name}"
            self._try(text, self._interpreter.resize_tensor_input, self.inputs[name]["index"], shape)
        self._try("Failed to allocate tensors", self._interpreter.allocate_tensors)
        self._shapes = before | changed

    @staticmethod
    def _try(text: str, act: Any, *arguments: Any) -> None:
        try:
            act(*arguments)
        except (RuntimeError, ValueError) as error:
            raise ServingError(Code.INTERNAL, f"{text}: {error}") from error


def _begin(content: bytes) -> Interpreter:
    interpreter = Interpreter(model_content=content, num_threads=1)
    interpreter.allocate_tensors()
    return interpreter


def _read_definitions(content: bytes) -> dict[str, SignatureDef]:
    """The SignatureDefs in a file's metadata, which TF Serving reads, although converters no longer write them."""
    model = Model.GetRootAs(content, 0)
    for entry in map(model.Metadata, range(model.MetadataLength())):
        if entry.Name() == SIGNATURES:
            data = bytes(model.Buffers(entry.Buffer()).DataAsNumpy())
            try:
                items = flexbuffers.GetRoot(data).AsMap
                keys = [key.AsKey for key in items.Keys]
                return {key: SignatureDef.FromString(items[key].AsStringBytes) for key in keys}
            except Exception as error:  # errors of many kinds: the bytes may be anything
                raise invalid(f"Invalid SignatureDefs found in TfLite model: {error}") from error
    return {}


def _signatures(definitions: Mapping[str, SignatureDef], model: _Interpreter) -> dict[str, Signature]:
    for definition in definitions.values():
        for kind, infos, tensors in (
            ("input", definition.inputs, model.inputs),
            ("output", definition.outputs, model.outputs),
        ):
            for alias, info in infos.items():
                info.name = _name_in(tensors, info.name, f"Signature {kind} {alias} references an unknown tensor")
    return {name: read_signature(definition) for name, definition in definitions.items()}


def _name_in(tensors: Tensors, name: str, text: str) -> str:
    """A tensor's name in the model, which may lack the `:0` that its name in the signature has."""
    for candidate in (name, _stem(name)):
        if candidate in tensors:
            return candidate
    raise ServingError(Code.INTERNAL, f"{text}: Unknown tensor '{name}'.")


def _generated(model: _Interpreter) -> dict[str, Signature]:
    """A `serving_default` of all inputs and outputs, under their names up to the first colon, as in TF Serving.

    If several have the same name, TF Serving serves one of them; here the others keep their whole names.
    """
    definition = SignatureDef(
        inputs=_by_stem(model.inputs),
        outputs=_by_stem(model.outputs),
        method_name=PREDICT_METHOD,
    )
    tensors = model.inputs.values()
    batched = bool(tensors) and all(
        len(tensor["shape_signature"]) and tensor["shape_signature"][0] < 0 for tensor in tensors
    )
    return {DEFAULT_SIGNATURE: replace(read_signature(definition), batched=batched)}


def _by_stem(tensors: Tensors) -> dict[str, TensorInfo]:
    infos: dict[str, TensorInfo] = {}
    for name, tensor in sorted(tensors.items()):
        alias = _stem(name)
        infos[name if alias in infos else alias] = _info(tensor)
    return infos


def _stem(name: str) -> str:
    return name.partition(":")[0]


def _info(tensor: Mapping[str, Any]) -> TensorInfo:
    dtype = np.dtype(tensor["dtype"])
    info = TensorInfo(name=tensor["name"], dtype=DataType.DT_STRING if dtype.kind == "S" else enum_of(dtype))
    info.tensor_shape.SetInParent()
    for size in tensor["shape"]:
        info.tensor_shape.dim.add(size=size)
    return info
