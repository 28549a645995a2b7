"""Python models: a version's model.py with one function on batches, the four hooks of a handler, or a generator."""

import importlib.util
import itertools
import operator
import sys
import traceback
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from threading import Lock, current_thread, main_thread
from types import ModuleType
from typing import Any

import numpy as np

from headrace_batching import Options
from headrace_batching.task import Array, Arrays
from headrace_protos import Code, DataType
from headrace_protos.tensor import TensorError, enum_of
from headrace_server.backends.batch_axis import may_be_batched
from headrace_server.backends.generators import Generators
from headrace_server.backends.signature import DEFAULT_SIGNATURE, Signature, TensorSpec
from headrace_server.errors import LoadError, ServingError, invalid, unimplemented

Predict = Callable[[dict[str, Array]], Mapping[str, Any]]

HANDLER_CLASS = "Handler"

# Each version's module has a name of its own, so that two versions and the modules next to them never conflict.
_NUMBERS = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Context:
    """The argument of `initialize`. Handlers for TorchServe read its property `system_properties`.

    Attributes:
        folder: The version's folder, with all files that the model needs.
    """

    folder: Path

    @property
    def system_properties(self) -> dict[str, Any]:
        """`model_dir`, the version's folder, and `gpu_id`, which is None: a model chooses its device itself."""
        return {"model_dir": str(self.folder), "gpu_id": None}


def load_python(file: Path) -> "CallableBackend":
    """Runs a model.py, and its `initialize` if it has one.

    Raises:
        LoadError: INVALID_ARGUMENT if the file declares nothing that can be served; the code of a ServingError that it
            raises; INTERNAL with the line for any other exception.
    """
    module = _new_module(file)
    try:
        model = _run(file, module)
        backend = CallableBackend(module, model)
        _call(file.parent, getattr(model, "initialize", _nothing), Context(file.parent))
        return backend
    except ServingError as error:
        _forget(module)
        raise LoadError(error.code, f"{file}: {error.message}") from error


class CallableBackend:
    """One model.py, with the one signature that it declares.

    Args:
        module: The module, which the model now owns.
        model: The object that has the hooks: the module, or an instance of its class Handler. INPUTS, OUTPUTS and
            THREAD_SAFE may be on either.

    Raises:
        ServingError: INVALID_ARGUMENT if the model declares nothing that can be served.
    """

    runtime = "python"

    def __init__(self, module: ModuleType, model: object) -> None:
        self._module = module
        self._model: object = model
        self._file = Path(str(module.__file__))
        self._predict: Predict | None = _find_predict(model)
        inputs, outputs = (_specs(name, _declared(module, model, name)) for name in ("INPUTS", "OUTPUTS"))
        batched = may_be_batched(inputs)
        features = not _takes_examples(inputs)
        self._signature = Signature(inputs, outputs, batched=batched, empty=True, features=features)
        self._lock = None if _declared(module, model, "THREAD_SAFE") else Lock()
        self._generators = self._make_generators()

    @property
    def streams(self) -> bool:
        """Whether the model has a generator `stream`, which yields several answers to a request."""
        return self._generators is not None

    @property
    def answers_once(self) -> bool:
        """Whether the model has a function that answers a request once."""
        return self._predict is not _streams_only

    @property
    def signatures(self) -> Mapping[str, Signature]:
        """`serving_default` alone."""
        return {DEFAULT_SIGNATURE: self._signature}

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        """Calls the model, one batch at a time unless it is THREAD_SAFE, and checks the returned arrays."""
        del signature  # there is only one
        if self._predict is None:
            raise _unloaded()
        with self._lock or nullcontext():  # held until the outputs are copied, since the next batch may overwrite them
            return self._outputs(_call(self._file.parent, self._predict, _own(inputs)), outputs)

    async def stream(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> AsyncGenerator[Arrays, None]:
        """The answers that the model's generator gives to one request, each computed when the caller asks for it."""
        del signature  # there is only one
        if self._generators is None:
            raise _unloaded()
        convert = partial(self._outputs, outputs=outputs)
        async with aclosing(self._generators.answers(_own(inputs), convert)) as answers:
            async for answer in answers:
                yield answer

    def fit_batching(self, options: Options) -> Options:
        """Allows one batch at a time unless the model is THREAD_SAFE, so that no batch thread waits for a run."""
        return options if self._lock is None else replace(options, max_running_batches=1)

    def close(self) -> None:
        """Calls the model's `close`, and drops the model and its modules."""
        try:
            if self._generators is not None:
                self._generators.close()
            _call(self._file.parent, getattr(self._model, "close", _nothing))
        finally:
            self._predict = self._generators = None
            self._model = None
            _forget(self._module)
            self._module = ModuleType("unloaded")

    def _make_generators(self) -> Generators | None:
        function = getattr(self._model, "stream", None)
        if function is None:
            return None
        return Generators(function, partial(_call, self._file.parent), thread_safe=self._lock is None)

    def _outputs(self, results: Any, outputs: Sequence[str]) -> Arrays:
        if not isinstance(results, Mapping):
            raise self._wrong(f"returned a {type(results).__name__}, not a dict of arrays")
        return {alias: self._output(alias, results) for alias in outputs}

    def _output(self, alias: str, results: Mapping[str, Any]) -> Array:
        """A copy of the value that a model returned for an output; it shares no memory with the model or its inputs."""
        if alias not in results:
            raise self._wrong(f"returned no {alias!r}, only {', '.join(sorted(map(str, results))) or 'nothing'}")
        declared = self._signature.outputs[alias].array_dtype
        try:
            if declared.hasobject:
                return _texts(np.array(results[alias], object))
            return _numbers(np.asarray(results[alias]), declared)
        except (TypeError, ValueError) as error:
            kind = "string" if declared.hasobject else declared
            raise self._wrong(f"returned a value for {alias!r} that is not {kind}: {error}") from error

    def _wrong(self, text: str) -> ServingError:
        return ServingError(Code.INTERNAL, f"{self._file.name}: the model {text}")


class _Hooks:
    """The three steps that a request's arrays take through a model's hooks; the first and the last are optional."""

    def __init__(self, model: object) -> None:
        self._preprocess = getattr(model, "preprocess", _same)
        self._inference = model.inference  # type: ignore[attr-defined]
        self._postprocess = getattr(model, "postprocess", _same)

    def __call__(self, inputs: dict[str, Array]) -> Mapping[str, Any]:
        results: Mapping[str, Any] = self._postprocess(self._inference(self._preprocess(inputs)))
        return results


def _new_module(file: Path) -> ModuleType:
    """Creates a package for the file's folder, so that `from . import x` finds the modules next to it."""
    name = f"headrace_model_{next(_NUMBERS)}"
    spec = importlib.util.spec_from_file_location(name, file, submodule_search_locations=[str(file.parent)])
    assert spec is not None  # the file's name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look up a class's module there
    return module


def _run(file: Path, module: ModuleType) -> object:
    """Runs a new module and returns the object that has its hooks."""
    spec = module.__spec__
    assert spec is not None
    assert spec.loader is not None
    _call(file.parent, spec.loader.exec_module, module)
    handler = getattr(module, HANDLER_CLASS, None)
    return module if handler is None else _call(file.parent, handler)


def _forget(module: ModuleType) -> None:
    """Drops a model's modules, and the objects in them."""
    for name in [name for name in sys.modules if f"{name}.".startswith(f"{module.__name__}.")]:
        sys.modules.pop(name).__dict__.clear()


def _find_predict(model: object) -> Predict:
    if hasattr(model, "predict"):
        predict: Predict = model.predict
        return predict
    if hasattr(model, "inference"):
        return _Hooks(model)
    if hasattr(model, "stream"):
        return _streams_only
    raise invalid(
        "must define predict(inputs), inference(data) or stream(inputs) at module level or in a class Handler"
    )


def _streams_only(_inputs: dict[str, Array]) -> Mapping[str, Any]:
    """Refuses every request to a model that has only a generator."""
    raise unimplemented("the model streams its answers: call it through ModelStreamInfer or generate_stream")


def _unloaded() -> ServingError:
    return ServingError(Code.UNAVAILABLE, "the model has been unloaded")


def _own(inputs: Arrays) -> dict[str, Array]:
    """Arrays that a model may write into; read-only arrays, such as views of a request's message, are copied."""
    return {
        alias: array if array.flags.carray else np.require(array, requirements=["C", "W"])
        for alias, array in inputs.items()
    }


def _numbers(array: Array, declared: np.dtype[Any]) -> Array:
    """A copy in the declared dtype. A float64 that numpy made from float32 is rounded back; the kind never changes.

    Raises:
        TypeError: The array is of another kind.
        ValueError: It has an integer that is too large for the dtype.
    """
    copy = array.astype(declared, casting="same_kind", copy=True)
    if declared.kind in "iu" and array.dtype != declared and (copy != array).any():
        limits = np.iinfo(declared)
        raise ValueError(f"it has integers beyond {limits.min} to {limits.max}")
    return copy


def _texts(array: Array) -> Array:
    """The same array with all its elements as bytes: a reader of an answer need not know the model's own classes.

    Raises:
        TypeError, ValueError: An element is not a string.
    """
    texts = array.ravel().tolist()
    if set(map(type, texts)) <= {bytes}:
        return array
    converted = np.empty(len(texts), object)
    converted[:] = [_text(text) for text in texts]
    return converted.reshape(array.shape)


def _text(text: object) -> bytes:
    if isinstance(text, str):
        return str.encode(text)
    if isinstance(text, bytes):
        return bytes.__getitem__(text, slice(None))
    raise TypeError(f"it has an element of type {type(text).__name__}")


def _declared(module: ModuleType, model: object, name: str) -> Any:
    return getattr(model, name, getattr(module, name, None))


def _takes_examples(inputs: Mapping[str, TensorSpec]) -> bool:
    return list(inputs) == ["inputs"] and inputs["inputs"].dtype == DataType.DT_STRING


def _specs(name: str, declared: Any) -> dict[str, TensorSpec]:
    if not isinstance(declared, Mapping) or not declared:
        raise invalid(f'defines no {name} such as {{"x": ("float32", [None, 4])}}')
    return {alias: _spec(f"{name}[{alias!r}]", alias, declaration) for alias, declaration in declared.items()}


def _spec(where: str, alias: str, declaration: Any) -> TensorSpec:
    try:
        dtype, shape = declaration
        return TensorSpec(str(alias), _data_type(dtype), tuple(map(_size, shape)))
    except (TypeError, ValueError, TensorError) as error:
        raise invalid(f"{where} is {declaration!r}, not a dtype and a shape: {error}") from error


def _size(declared: Any) -> int | None:
    """A declared dimension; None if it varies, which TensorFlow and Triton write as -1."""
    if declared is None:
        return None
    size = operator.index(declared)
    if size < -1 or isinstance(declared, bool):
        raise ValueError(f"{declared} is not the size of a dimension, nor None or -1 for one that varies")
    return None if size == -1 else size


def _data_type(dtype: Any) -> DataType:
    return DataType.DT_STRING if isinstance(dtype, str) and dtype == "string" else enum_of(np.dtype(dtype))


def _call(folder: Path, function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a model's code. An exception names the line of the model's file; a ServingError is passed on unchanged.

    Raises:
        ServingError: The model's own, or INTERNAL.
    """
    try:
        return function(*arguments)
    except ServingError:
        raise
    except BaseException as error:  # also those that would end a thread or an event loop, such as SystemExit
        if isinstance(error, KeyboardInterrupt) and current_thread() is main_thread():
            raise
        text = f"{type(error).__name__}: {error}{_place(folder, error)}"
        raise ServingError(Code.INTERNAL, text) from error


def _place(folder: Path, error: BaseException) -> str:
    """The last line of the model's own files that led to an error."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(folder)]
    if not frames:
        return ""
    return f" ({Path(frames[-1].filename).relative_to(folder)}, line {frames[-1].lineno}, in {frames[-1].name})"


def _nothing(*_: object) -> None:
    return None


def _same(data: Any) -> Any:
    return data
