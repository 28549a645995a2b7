"""What `model.toml` beside a model's versions says of that one model: its runtime, its batching, its signatures."""

import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from headrace_batching import Options, OptionsError
from headrace_server.config.run import OnnxruntimeOptions
from headrace_server.config.tensorrt import PRECISIONS, Range
from headrace_server.errors import invalid, unreadable

MODEL_FILE = "model.toml"

METHODS = ("predict", "classify", "regress")

Check = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureOptions:
    """One signature of an ONNX model, which by itself has only a graph's inputs and outputs.

    Attributes:
        method: `predict`, `classify` or `regress`.
        inputs: The graph's input for each alias; empty takes the graph's own names.
        outputs: The graph's output for each alias; empty takes the graph's own names.
        labels: The classes by index, for a model that gives scores alone; None where there are none.
    """

    method: str = "predict"
    inputs: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    labels: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """What an operator decides about one model; what is not said is as for all models.

    Attributes:
        backend: Fields of `BackendOptions` that this model has otherwise.
        onnxruntime: Fields of `OnnxruntimeOptions` that this model has otherwise.
        tensorrt: Fields of `TensorrtOptions` that this model has otherwise.
        batching: Fields of `Options` that this model has otherwise; None turns batching off for it.
        signatures: Signatures by name; empty leaves the model with its own.
    """

    backend: Mapping[str, Any] = field(default_factory=dict)
    onnxruntime: Mapping[str, Any] = field(default_factory=dict)
    tensorrt: Mapping[str, Any] = field(default_factory=dict)
    batching: Mapping[str, Any] | None = field(default_factory=dict)
    signatures: Mapping[str, SignatureOptions] = field(default_factory=dict)

    def batching_over(self, options: Options | None) -> Options | None:
        """These batching parameters over those of all models, None for no batching.

        Raises:
            OptionsError: Together they make no sense.
        """
        if options is None or self.batching is None:
            return None
        return replace(options, **self.batching)


def read_model_options(base_path: Path) -> ModelOptions:
    """The options of the model under `base_path`; those of all models where it has no `model.toml`.

    Raises:
        ServingError: INVALID_ARGUMENT, with the file and the line or the key, for what makes no sense; or a file cannot
            be read.
    """
    path = base_path / MODEL_FILE
    try:
        text = path.read_bytes().decode()
    except (FileNotFoundError, NotADirectoryError):
        return ModelOptions()
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise invalid(f"{path}: {error}") from error
    try:
        return _options(base_path, tomllib.loads(text))
    except (tomllib.TOMLDecodeError, _WrongError) as error:
        raise invalid(f"{path}: {error}") from error


class _WrongError(ValueError):
    """A key has a value that makes no sense; the text begins with the key."""


def _options(base_path: Path, document: dict[str, Any]) -> ModelOptions:
    _known("", document, ("onnxruntime", "tensorrt", "batching", "signatures"))
    signatures = _table("signatures", document.get("signatures", {}))
    runtime = _checked("onnxruntime", document.get("onnxruntime", {}), {**_THREADS, **_ONNXRUNTIME})
    return ModelOptions(
        backend={key: value for key, value in runtime.items() if key in _THREADS},
        onnxruntime={key: value for key, value in runtime.items() if key in _ONNXRUNTIME},
        tensorrt=_tensorrt(document["tensorrt"]) if "tensorrt" in document else {},
        batching=_batching(document.get("batching", {})),
        signatures={name: _signature(base_path, f"signatures.{name}", table) for name, table in signatures.items()},
    )


def _tensorrt(table: Any) -> dict[str, Any]:
    """Who says how TensorRT is to run a model asks for it."""
    values = _checked("tensorrt", table, _TENSORRT)
    return {"enabled": True, **values}


def _batching(table: Any) -> dict[str, Any] | None:
    values = _checked("batching", table, {"enabled": _boolean, **_PARAMETERS})
    if not values.pop("enabled", True):
        return None
    try:
        Options(**{**_together(values), **values})
    except OptionsError as error:
        raise _WrongError(f"batching: {error}") from error
    return values


def _together(values: Mapping[str, Any]) -> dict[str, Any]:
    """What the parameters given are to be checked with: a size of their own where they name none."""
    sizes = values.get("allowed_batch_sizes")
    return {"max_batch_size": sizes[-1]} if sizes and "max_batch_size" not in values else {}


def _signature(base_path: Path, where: str, table: Any) -> SignatureOptions:
    values = _checked(where, table, _SIGNATURE)
    if isinstance(values.get("labels"), str):
        values["labels"] = _labels(base_path / values["labels"])
    if "labels" in values and values.get("method") != "classify":
        raise _WrongError(f'{where}.labels: only a signature with method = "classify" has labels')
    return SignatureOptions(**values)


def _labels(path: Path) -> tuple[str, ...]:
    """One label a line."""
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise invalid(f"{path}: {error}") from error


def _checked(where: str, table: Any, checks: Mapping[str, Check]) -> dict[str, Any]:
    _known(where, _table(where, table), checks)
    values = {}
    for key, value in table.items():
        try:
            values[key] = checks[key](value)
        except ValueError as error:
            raise _WrongError(f"{where}.{key}: {error}; was {value!r}") from error
    return values


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongError(f"{where}: must be a table; was {value!r}")
    return value


def _known(where: str, table: Mapping[str, Any], keys: Any) -> None:
    for key in table:
        if key not in keys:
            name = f"{where}.{key}".lstrip(".")
            close = get_close_matches(key, keys, n=1)
            raise _WrongError(f"{name}: unknown key" + (f"; did you mean {close[0]}?" if close else ""))


def _whole(least: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"must be a whole number of at least {least}")
        return value

    return check


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _strings(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not value or not all(isinstance(item, str) for item in value):
        raise ValueError("must be a list of strings, and not empty")
    return tuple(value)


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("must be a string")
    return value


def _one_of(choices: Sequence[str]) -> Check:
    def check(value: Any) -> str:
        if value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return str(value)

    return check


def _sizes(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError("must be a list of whole numbers")
    return tuple(map(_whole(1), value))


def _names(value: Any) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(name, str) for name in value.values()):
        raise ValueError("must be a table of names")
    return value


def _file_or_strings(value: Any) -> str | tuple[str, ...]:
    return value if isinstance(value, str) else _strings(value)


def _check_of(option: Field[Any]) -> Check:
    """How the value of a flag is written in TOML."""
    if option.metadata["choices"]:
        return _one_of(option.metadata["choices"])
    return {bool: _boolean, int: _whole(0), str: _string, tuple: _strings}[type(option.default)]


_THREADS: Mapping[str, Check] = {"intra_op_threads": _whole(0), "inter_op_threads": _whole(0)}

_ONNXRUNTIME: Mapping[str, Check] = {option.name: _check_of(option) for option in fields(OnnxruntimeOptions)}


def _level(value: Any) -> int:
    if isinstance(value, bool) or value not in range(6):
        raise ValueError("must be 0 to 5")
    return int(value)


def _devices(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not value or len(set(map(str, value))) < len(value):
        raise ValueError("must be a list of different whole numbers, and not empty")
    return tuple(map(_whole(0), value))


def _dimensions(value: Any) -> dict[str, Range]:
    if not isinstance(value, dict):
        raise ValueError("must be a table of dimensions")
    return {name: _range(name, sizes) for name, sizes in value.items()}


def _range(name: str, sizes: Any) -> Range:
    if not isinstance(sizes, list) or len(sizes) != 3:
        raise ValueError(f"{name} must be three whole numbers: [least, usual, most]")
    least, usual, most = map(_whole(0), sizes)
    if not least <= usual <= most:
        raise ValueError(f"{name} must rise: [least, usual, most]")
    return least, usual, most


_TENSORRT: Mapping[str, Check] = {
    "enabled": _boolean,
    "devices": _devices,
    "instances": _whole(1),
    "cuda_graphs": _boolean,
    "spin": _boolean,
    "precision": _one_of(PRECISIONS),
    "tf32": _boolean,
    "workspace_mb": _whole(0),
    "optimization_level": _level,
    "opt_batch_size": _whole(0),
    "dimensions": _dimensions,
}

# As in TF Serving's BatchingParameters; the threads are one pool for all models.
_PARAMETERS: Mapping[str, Check] = {
    "max_batch_size": _whole(1),
    "batch_timeout_micros": _whole(0),
    "max_enqueued_batches": _whole(0),
    "allowed_batch_sizes": _sizes,
    "pad_variable_length_inputs": _boolean,
    "enable_large_batch_splitting": _boolean,
    "max_execution_batch_size": _whole(1),
}

_SIGNATURE: Mapping[str, Check] = {
    "method": _one_of(METHODS),
    "inputs": _names,
    "outputs": _names,
    "labels": _file_or_strings,
}
