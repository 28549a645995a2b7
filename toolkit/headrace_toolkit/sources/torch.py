"""PyTorch's files: weights for a module that the user's code makes, exported programs, TorchScript, whole modules."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from headrace_toolkit import user_code
from headrace_toolkit.errors import ToolkitError, first_line, require
from headrace_toolkit.sources.base import Origin, Source, SourceOptions
from headrace_toolkit.sources.files import kind_of, sha256_of
from headrace_toolkit.sources.pickles import refuse_untrusted
from headrace_toolkit.sources.torch_archive import check_program, check_script
from headrace_toolkit.sources.torch_call import caller_of, program_caller
from headrace_toolkit.sources.torch_module import ModuleSource, ProgramSource, ScriptSource
from headrace_toolkit.steps.quiet import loading

_NAMED = 3
"""The maximum number of weights that a message names."""

_HOLDERS = ("state_dict", "model_state_dict", "model")
"""The keys under which a training loop's checkpoint keeps the weights among other things."""


def of_module(model: Any, origin: Origin, options: SourceOptions) -> Source:
    """An `nn.Module` in memory.

    Raises:
        ToolkitError: The module's inputs are not known, or it does not accept them.
    """
    torch = require("torch", "PyTorch models", "torch")
    origin = _named(origin, "torch")
    if isinstance(model, torch.jit.ScriptModule):
        return ScriptSource(origin=origin, call=caller_of(model.eval(), origin, options))
    if not isinstance(model, torch.nn.Module):
        raise ToolkitError(f"{origin.name} is a {type(model).__name__}; it must be a torch.nn.Module")
    was_training = model.training
    notes = ("the module was in training mode; it was exported in evaluation mode",) if was_training else ()
    return ModuleSource(origin=origin, call=caller_of(model.eval(), origin, options), notes=notes)


def saved(file: Path, options: SourceOptions) -> Source:
    """Weights that `torch.save` or safetensors wrote, loaded into the module that `options.build` makes.

    Raises:
        ToolkitError: No function makes the module, or the weights do not fit it.
    """
    if not options.build:
        raise ToolkitError(
            f"{file}: these are weights without their module: name the function that makes it with "
            f"--build=FILE.py:FUNCTION, or give "
            "a function that returns the module with its weights, as file.py:function"
        )
    weights = _weights(file)
    module = user_code.call(options.build)
    torch = require("torch", "PyTorch models", "torch")
    if not isinstance(module, torch.nn.Module):
        raise ToolkitError(f"{options.build} returned {type(module).__name__}; it must return a torch.nn.Module")
    if misfit := _misfit(weights, module.state_dict()):
        raise ToolkitError(f"{file} does not fit the module of {options.build}: {misfit}")
    module.load_state_dict(weights)
    return of_module(module.eval(), _origin(file), options)


def exported_program(file: Path, options: SourceOptions) -> Source:
    """A .pt2 file that `torch.export.save` wrote; it is inspected before torch loads it.

    Raises:
        ToolkitError: The file might run code, or torch does not load it.
    """
    check_program(file)
    torch = require("torch", "PyTorch models", "torch")
    with loading(file, "a program that torch loads"):
        program = torch.export.load(str(file))
    origin = _origin(file)
    return ProgramSource(origin=origin, call=program_caller(program, origin, options), program=program)


def torchscript(file: Path, options: SourceOptions) -> Source:
    """A TorchScript file; it is inspected before torch loads it.

    Raises:
        ToolkitError: The file's code reads or writes files, torch does not load it, or its inputs are not known.
    """
    check_script(file)
    torch = require("torch", "PyTorch models", "torch")
    with loading(file, "a TorchScript file that torch loads"):
        script = torch.jit.load(str(file), map_location="cpu")
    return of_module(script, _origin(file), options)


def whole(file: Path, options: SourceOptions) -> Source:
    """Loads a whole module from a pickle if the user trusts it, since loading one runs its author's code.

    Raises:
        ToolkitError: The user does not trust it, or it cannot be loaded.
    """
    from headrace_toolkit.sources.auto import of_object

    refuse_untrusted(file, options)
    torch = require("torch", "PyTorch models", "torch")
    try:
        module = torch.load(file, map_location="cpu", weights_only=False)
    except Exception as error:
        raise ToolkitError(f"{file} cannot be loaded: {type(error).__name__}: {first_line(error)}") from error
    return of_object(module, _origin(file), options)


def _weights(file: Path) -> Mapping[str, Any]:
    torch = require("torch", "PyTorch models", "torch")
    try:
        if kind_of(file) == "safetensors":
            loaded = require("safetensors.torch", "a .safetensors file", "torch").load_file(str(file))
        else:
            loaded = torch.load(file, map_location="cpu", weights_only=True)
    except ToolkitError:
        raise
    except Exception as error:
        raise ToolkitError(f"{file} cannot be loaded: {first_line(error)}") from error
    for holder in _HOLDERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(holder), Mapping):
            loaded = loaded[holder]
    if not isinstance(loaded, Mapping) or not all(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise ToolkitError(f"{file} contains no state dict: save module.state_dict()")
    return loaded


def _misfit(weights: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """The reason why weights do not fit a module; empty if they do."""
    missing = [name for name in wanted if name not in weights]
    extra = [name for name in weights if name not in wanted]
    shaped = [
        f"{name} {list(weights[name].shape)} for {list(wanted[name].shape)}"
        for name in wanted
        if name in weights and weights[name].shape != wanted[name].shape
    ]
    parts = (("it lacks", missing), ("it has extra weights:", extra), ("of another shape:", shaped))
    return "; ".join(f"{what} {_listed(names)}" for what, names in parts if names)


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _origin(file: Path) -> Origin:
    return _named(Origin(name=file.name, kind="", framework="", sha256=sha256_of(file)), "torch")


def _named(origin: Origin, kind: str) -> Origin:
    torch = require("torch", "PyTorch models", "torch")
    version = torch.__version__.partition("+")[0]
    return Origin(name=origin.name, kind=kind, framework=f"PyTorch {version}", sha256=origin.sha256)
