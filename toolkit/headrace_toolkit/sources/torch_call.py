"""Calls a PyTorch module with arrays by name: maps arguments and answers."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from headrace_batching.task import Array, Arrays
from headrace_protos.tensor import enum_of
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.running import random_inputs
from headrace_toolkit.sources.base import Origin, SourceOptions

OUTPUT = "output"
"""The name of a single output, for which PyTorch has none."""

TWO_ROWS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A module, and how it is called.

    Attributes:
        name: The module's name in messages.
        module: The module, in inference mode.
        arguments: For each input of the signature, in order, the name of the argument; empty for a positional one.
        signature: The inputs and the outputs.
        example: Two rows that it accepts, or as many as a fixed first dimension requires.
    """

    name: str
    module: Any
    arguments: tuple[str, ...]
    signature: Signature
    example: Mapping[str, Array]

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """The module's own answers.

        Raises:
            ToolkitError: The module refuses the inputs.
        """
        return dict(zip(self.signature.outputs, _answers(self, inputs).values(), strict=True))

    def with_module(self, module: Any) -> "Caller":
        """The same call for another module."""
        return replace(self, module=module)

    def tensors(self, inputs: Arrays) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The inputs as a module's arguments: positional ones, and named ones."""
        torch = require("torch", "PyTorch models", "torch")
        made = [torch.from_numpy(np.ascontiguousarray(inputs[name])) for name in self.signature.inputs]
        by_position = [tensor for tensor, argument in zip(made, self.arguments, strict=True) if not argument]
        by_name = {argument: tensor for tensor, argument in zip(made, self.arguments, strict=True) if argument}
        return tuple(by_position), by_name


def caller_of(module: Any, origin: Origin, options: SourceOptions) -> Caller:
    """How to call a module, whose inputs are known from the user's rows or description.

    Raises:
        ToolkitError: The inputs are not known, or the module does not accept them.
    """
    parameters = _parameters(module)
    specs, example = _inputs(module, origin, options, parameters)
    arguments = tuple(name if name in parameters else "" for name in specs)
    if len(specs) > 1 and not all(arguments):
        raise ToolkitError(
            f"{origin.name}: its forward takes {', '.join(parameters)}, but the inputs are {', '.join(specs)}: give "
            f"them the same names"
        )
    return _called(Caller(name=origin.name, module=module, arguments=arguments,
                          signature=Signature(specs, {}), example=example), options)  # fmt: skip


def program_caller(program: Any, origin: Origin, options: SourceOptions) -> Caller:
    """How to call an exported program, which records its inputs. A single input gets the user's name for it.

    Raises:
        ToolkitError: The program's inputs are not tensors.
    """
    torch = require("torch", "PyTorch models", "torch")
    given = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    specs = {}
    for name in program.graph_signature.user_inputs:
        value = given[name].meta["val"] if name in given else None
        if not isinstance(value, torch.Tensor):
            raise ToolkitError(f"{origin.name}: its argument {name} is not a tensor")
        specs[name] = _spec(name, value)
    arguments = tuple("" for _ in specs)
    wanted = list(options.inputs or options.example or specs)
    if len(specs) == 1 and len(wanted) == 1 and wanted[0]:
        specs = {wanted[0]: replace(next(iter(specs.values())), name=wanted[0])}
    rows = {name: spec.shape[0] or TWO_ROWS for name, spec in specs.items() if spec.shape}
    example = random_inputs(Signature(specs, {}), next(iter(rows.values()), TWO_ROWS), 0)
    return _called(Caller(name=origin.name, module=program.module(), arguments=arguments,
                          signature=Signature(specs, {}), example=example), options)  # fmt: skip


def named_outputs(answer: Any) -> dict[str, Any]:
    """A module's answer as tensors by name: `output`, `output_0` and so on, or its own keys and fields.

    Raises:
        ToolkitError: Something in it is not a tensor.
    """
    torch = require("torch", "PyTorch models", "torch")
    if isinstance(answer, torch.Tensor):
        return {OUTPUT: answer}
    if isinstance(answer, Mapping):
        named = {str(name): value for name, value in answer.items()}
    elif hasattr(answer, "_asdict"):
        named = dict(answer._asdict())
    elif isinstance(answer, list | tuple):
        named = {f"{OUTPUT}_{number}" if len(answer) > 1 else OUTPUT: value for number, value in enumerate(answer)}
    else:
        raise ToolkitError(f"it returns a {type(answer).__name__}; it must return tensors")
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ToolkitError(f"its answer {name} is a {type(value).__name__}; it must be a tensor")
    return named


def _called(caller: Caller, options: SourceOptions) -> Caller:
    """The caller with its outputs, which are found by running it."""
    answers = _answers(caller, caller.example)
    names = options.outputs or tuple(answers)
    if len(names) != len(answers):
        raise ToolkitError(
            f"{caller.name} has {len(answers)} outputs ({', '.join(answers)}), but {len(names)} were named"
        )
    rows = len(next(iter(caller.example.values())))
    varies = all(spec.shape and spec.shape[0] is None for spec in caller.signature.inputs.values())
    outputs = {}
    for name, array in zip(names, answers.values(), strict=True):
        shape = tuple(None if axis == 0 and varies and size == rows else size for axis, size in enumerate(array.shape))
        outputs[name] = TensorSpec(name, enum_of(array.dtype), shape, tuple("" for _ in shape))
    return replace(caller, signature=Signature(caller.signature.inputs, outputs))


def _answers(caller: Caller, inputs: Arrays) -> dict[str, Array]:
    torch = require("torch", "PyTorch models", "torch")
    by_position, by_name = caller.tensors(inputs)
    try:
        with torch.no_grad():
            return {name: value.cpu().numpy() for name, value in
                    named_outputs(caller.module(*by_position, **by_name)).items()}  # fmt: skip
    except ToolkitError as error:
        raise ToolkitError(f"{caller.name}: {error}") from error
    except Exception as error:
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in inputs.items())
        raise ToolkitError(f"{caller.name} refuses {shapes}: {first_line(error)}") from error


def _parameters(module: Any) -> list[str]:
    """The names of the arguments of `forward`."""
    if hasattr(module, "forward") and hasattr(module.forward, "schema"):  # TorchScript
        return [argument.name for argument in module.forward.schema.arguments][1:]
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [name for name, parameter in inspect.signature(module.forward).parameters.items() if parameter.kind in kinds]


def _inputs(
    module: Any, origin: Origin, options: SourceOptions, parameters: Sequence[str]
) -> tuple[dict[str, TensorSpec], dict[str, Array]]:
    """The inputs, and rows with which to call the module."""
    if options.inputs:
        specs = dict(options.inputs)
        rows = next((spec.shape[0] for spec in specs.values() if spec.shape), None) or TWO_ROWS
        return specs, random_inputs(Signature(specs, {}), rows, 0)
    if options.example is None:
        raise ToolkitError(
            f"{origin.name}: a PyTorch module does not record its inputs: give rows with --data, or describe each "
            f"input, as in --signature={(parameters or ['x'])[0]}=float32[N,1,8,8]"
        )
    chosen = _chosen(origin, options.example, parameters)
    cast = _to_dtype_of(module)
    example = {name: cast(array[np.arange(TWO_ROWS) % len(array)]) for name, array in chosen.items()}
    shapes = {name: (None, *array.shape[1:]) for name, array in example.items()}
    return {
        name: TensorSpec(name, enum_of(array.dtype), shapes[name], ("N", *("" for _ in array.shape[1:])))
        for name, array in example.items()
    }, example


def _chosen(origin: Origin, example: Arrays, parameters: Sequence[str]) -> dict[str, Array]:
    """The user's arrays that the module takes, in the order of its arguments."""
    named = {name: example[name] for name in parameters if name in example}
    if named:
        return named
    if len(example) == 1:
        ((name, array),) = example.items()
        return {name or (parameters or ["x"])[0]: array}
    raise ToolkitError(
        f"{origin.name}: its forward takes {', '.join(parameters)}, but the data has {', '.join(example)}: name the "
        f"arrays after the arguments, or describe the input, as in --signature=x=float32[N,30]"
    )


def _to_dtype_of(module: Any) -> Callable[[Array], Array]:
    """Returns a function that casts floats to the dtype of the module's weights."""
    torch = require("torch", "PyTorch models", "torch")
    kinds = {torch.float32: np.float32, torch.float64: np.float64, torch.float16: np.float16}
    first = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    kind = np.float32 if first is None else kinds.get(first.dtype, np.float32)
    return lambda array: array.astype(kind) if array.dtype.kind == "f" else array


def _spec(name: str, value: Any) -> TensorSpec:
    """The spec of an exported program's input: symbolic sizes may vary."""
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    dims = tuple("" if isinstance(size, int) else ("N" if axis == 0 else str(size)) for axis, size in
                 enumerate(value.shape))  # fmt: skip
    dtype = np.dtype(str(value.dtype).removeprefix("torch."))
    return TensorSpec(name, enum_of(dtype), shape, dims)
