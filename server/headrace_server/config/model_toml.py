"""Reads `model.toml`, a file next to a model's versions that sets its runtime, batching and signatures."""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from headrace_batching import Options, OptionsError
from headrace_batching.option import option, options_of, per_model, refusal
from headrace_server.config.isolation import IsolationOptions
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.config.padding import PaddingOptions
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import invalid, unreadable

MODEL_FILE = "model.toml"


def _names(table: Any) -> bool:
    return all(isinstance(name, str) for name in table.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureOptions:
    """One signature of an ONNX model, whose graph only has inputs and outputs. `[signatures.NAME]`."""

    method: str = option("predict", "the method that the signature answers", choices=("predict", "classify", "regress"))
    inputs: Mapping[str, str] = option(
        dict,
        "the graph's input for each alias; the graph's own names if not given",
        fits=_names,
        words="a table of names",
    )
    outputs: Mapping[str, str] = option(
        dict,
        "the graph's output for each alias; the graph's own names if not given",
        fits=_names,
        words="a table of names",
    )
    labels: tuple[str, ...] | None = option(
        None,
        "the classes by index, for a model that returns only scores: a list, or a file with one label per line",
        kind=tuple,
        nullable=True,
        fits=bool,
        words="a list of at least one string, or the name of a file",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ThreadOptions:
    """The threads of a CPU runtime. Keys of `[onnxruntime]`, which override TF Serving's flags."""

    intra_op_threads: int = option(0, "threads within one operator; 0 lets the runtime choose", least=0)
    inter_op_threads: int = option(0, "operators that run at the same time; 0 lets the runtime choose", least=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOptions:
    """One step of an ensemble: a call of another model. `[[steps]]`."""

    model: str = option("", "the name of the model that the step calls", fits=bool, words="the name of a model")
    version: int = option(0, "the version that it calls; 0 is the latest", least=0)
    signature: str = option("", "the signature that it calls; serving_default if not given")
    inputs: Mapping[str, str] = option(
        dict,
        "for each of the model's inputs (the key), the name of the array that it takes (the value)",
        fits=_names,
        words="a table of names",
    )
    outputs: Mapping[str, str] = option(
        dict,
        "for each of the model's outputs (the key), the name of the array that it makes (the value)",
        fits=_names,
        words="a table of names",
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class StateOptions:
    """An output of a model that the next request of a sequence takes as an input. `[state.OUTPUT]`."""

    input: str = option(
        "", "the input that takes this output of the previous request", fits=bool, words="the name of an input"
    )
    initial: float = option(0.0, "the value of each element at the beginning of a sequence")
    shape: tuple[int, ...] = option(
        (), "the shape for one request, without a batch axis; the input's if not given", kind=tuple, item=int, least=0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class SequenceOptions:
    """How the sequences of a stateful model are kept. `[sequences]`."""

    idle_seconds: float = option(60.0, "seconds for which a sequence without requests is kept", least=0)
    max_sequences: int = option(1024, "sequences at the same time; further sequences are refused", least=1)


SIGNATURES = "signatures.NAME"
STATE = "state.NAME"


@dataclass(frozen=True, slots=True, kw_only=True)
class SharingOptions:
    """Whether requests share batches; if nothing is set, headrace tests it. Keys of `[batching]`."""

    enabled: bool | None = option(
        None,
        "true: batch without a trial, where the declared shapes have a batch axis; false: run requests one by one",
        kind=bool,
    )
    batch_axis: bool | None = option(
        None,
        "true: batch without a trial, whatever shapes are declared; false: run requests one by one",
        kind=bool,
    )


TABLES: Mapping[str, Mapping[str, Field[Any]]] = {
    "onnxruntime": {**options_of(ThreadOptions), **per_model(OnnxruntimeOptions)},
    "tensorrt": per_model(TensorrtOptions),
    "batching": {**options_of(SharingOptions), **options_of(PaddingOptions), **per_model(Options)},
    "isolation": per_model(IsolationOptions),
    SIGNATURES: options_of(SignatureOptions),
    "steps": options_of(StepOptions),
    STATE: options_of(StateOptions),
    "sequences": options_of(SequenceOptions),
}
"""Every table of the file, with its keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelOptions:
    """An operator's settings for one model; anything that is not set is as for all models.

    Attributes:
        backend: Fields of `backends.base.BackendOptions` that differ for this model.
        onnxruntime: Fields of `OnnxruntimeOptions` that differ for this model.
        tensorrt: Fields of `TensorrtOptions` that differ for this model.
        batching: Fields of `headrace_batching.Options` that differ for this model; None turns batching off for it.
        batched: Whether requests share batches, without a test; None means that a test decides.
        any_first_dimension: Whether `batched` applies even if the declared shapes contradict it.
        padding: How requests whose inputs differ in length can share batches.
        signatures: Signatures by name; if empty, the model has its own.
        steps: The calls to other models that make up this model; empty for a model that has a file.
        state: Outputs that the next request of a sequence takes as inputs, by alias; empty for a model without state.
        sequences: How sequences are kept.
        isolation: Fields of `IsolationOptions` that differ for this model.
    """

    backend: Mapping[str, Any] = field(default_factory=dict)
    onnxruntime: Mapping[str, Any] = field(default_factory=dict)
    tensorrt: Mapping[str, Any] = field(default_factory=dict)
    batching: Mapping[str, Any] | None = field(default_factory=dict)
    batched: bool | None = None
    any_first_dimension: bool = False
    padding: PaddingOptions = field(default_factory=PaddingOptions)
    signatures: Mapping[str, SignatureOptions] = field(default_factory=dict)
    steps: tuple[StepOptions, ...] = ()
    state: Mapping[str, StateOptions] = field(default_factory=dict)
    sequences: SequenceOptions = field(default_factory=SequenceOptions)
    isolation: Mapping[str, Any] = field(default_factory=dict)

    def batching_over(self, options: Options | None) -> Options | None:
        """Applies these batching parameters to those of all models; None means no batching.

        Raises:
            OptionsError: The options contradict each other.
        """
        if options is None or self.batching is None:
            return None
        if not self.batching:
            return options
        larger_alone = options.larger_alone and "max_batch_size" not in self.batching
        return replace(options, larger_alone=larger_alone, **self.batching)


NO_OPTIONS = ModelOptions()
"""The options of a model without a `model.toml`."""


def read_model_options(base_path: Path | str) -> ModelOptions:
    """Reads the options of the model under `base_path`; those of all models if it has no `model.toml`.

    Raises:
        ServingError: INVALID_ARGUMENT, with the file and the line or the key, for an invalid value; another code if a
            file cannot be read.
    """
    path = os.path.join(base_path, MODEL_FILE)
    try:
        with open(path, "rb") as file:
            text = file.read().decode()
    except (FileNotFoundError, NotADirectoryError):
        return NO_OPTIONS
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise invalid(f"{path}: {error}") from error
    try:
        return _options(Path(base_path), tomllib.loads(text))
    except (tomllib.TOMLDecodeError, _WrongError) as error:
        raise invalid(f"{path}: {error}") from error


class _WrongError(ValueError):
    """A key has an invalid value; the text begins with the key."""


def _options(base_path: Path, document: dict[str, Any]) -> ModelOptions:
    _known("", document, tuple(where.partition(".")[0] for where in TABLES))
    signatures = _table("signatures", document.get("signatures", {}))
    threads, onnxruntime = options_of(ThreadOptions), options_of(OnnxruntimeOptions)
    runtime = _checked("onnxruntime", document.get("onnxruntime", {}), TABLES["onnxruntime"])
    return ModelOptions(
        backend={key: value for key, value in runtime.items() if key in threads},
        onnxruntime={key: value for key, value in runtime.items() if key in onnxruntime},
        tensorrt=_tensorrt(document["tensorrt"]) if "tensorrt" in document else {},
        **_batching(document.get("batching", {})),
        isolation=_isolation(document.get("isolation", {})),
        signatures={name: _signature(base_path, f"signatures.{name}", table) for name, table in signatures.items()},
        steps=_steps(document.get("steps", [])),
        state={
            name: _state(f"state.{name}", table) for name, table in _table("state", document.get("state", {})).items()
        },
        sequences=SequenceOptions(**_checked("sequences", document.get("sequences", {}), TABLES["sequences"])),
    )


def _state(where: str, table: Any) -> StateOptions:
    state = StateOptions(**_checked(where, table, TABLES[STATE]))
    if not state.input:
        raise _WrongError(f"{where}.input must be given")
    return state


def _steps(tables: Any) -> tuple[StepOptions, ...]:
    """Several steps, `[[steps]]`, or a single one, `[steps]`."""
    if not isinstance(tables, list):
        return (_step("steps", tables),)
    return tuple(_step(f"steps[{number}]", table) for number, table in enumerate(tables, start=1))


def _step(where: str, table: Any) -> StepOptions:
    step = StepOptions(**_checked(where, table, TABLES["steps"]))
    for key in ("model", "outputs"):
        if not getattr(step, key):
            raise _WrongError(f"{where}.{key} must be given")
    return step


def _tensorrt(table: Any) -> dict[str, Any]:
    """The options in `[tensorrt]`. A model that has this table is run by TensorRT unless the table says otherwise."""
    values = _checked("tensorrt", table, TABLES["tensorrt"])
    ranges = {name: tuple(sizes) for name, sizes in values.get("dimensions", {}).items()}
    return {"enabled": True, **values, **({"dimensions": ranges} if ranges else {})}


def _batching(table: Any) -> dict[str, Any]:
    """The fields of `ModelOptions` that concern batching."""
    values = _checked("batching", table, TABLES["batching"])
    sharing = SharingOptions(**{key: values.pop(key) for key in options_of(SharingOptions) if key in values})
    padding = PaddingOptions(**{key: values.pop(key) for key in options_of(PaddingOptions) if key in values})
    if sharing.enabled is False:
        return {"batching": None, "batched": False}
    batched = sharing.enabled if sharing.batch_axis is None else sharing.batch_axis
    try:
        Options(**{**_together(values), **values})
    except OptionsError as error:
        raise _WrongError(f"batching: {error}") from error
    axis = sharing.batch_axis is True
    return {"batching": values, "batched": batched, "any_first_dimension": axis, "padding": padding}


def _isolation(table: Any) -> dict[str, Any]:
    values = _checked("isolation", table, TABLES["isolation"])
    options = IsolationOptions(**values)
    if options.workers == 0 and options.memory_limit_mb:
        raise _WrongError("isolation.memory_limit_mb limits worker processes, but isolation.workers is 0")
    return values


def _together(values: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters to validate the given ones with: `max_batch_size` is the largest allowed size unless it is given."""
    sizes = values.get("allowed_batch_sizes")
    return {"max_batch_size": sizes[-1]} if sizes and "max_batch_size" not in values else {}


def _signature(base_path: Path, where: str, table: Any) -> SignatureOptions:
    table = dict(_table(where, table))
    if isinstance(table.get("labels"), str):
        table["labels"] = _labels(base_path / table["labels"])
    values = _checked(where, table, TABLES[SIGNATURES])
    if "labels" in values and values.get("method") != "classify":
        raise _WrongError(f'{where}.labels: only a signature with method = "classify" has labels')
    return SignatureOptions(**values)


def _labels(path: Path) -> tuple[str, ...]:
    """Reads the labels in a file, one per line."""
    try:
        return tuple(path.read_text(encoding="utf-8").splitlines())
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        raise invalid(f"{path}: {error}") from error


def _checked(where: str, table: Any, options: Mapping[str, Field[Any]]) -> dict[str, Any]:
    """Checks a table, and returns the values of its keys, with lists as tuples."""
    _known(where, _table(where, table), options)
    for key, value in table.items():
        rule = options[key].metadata["rule"]
        if not rule.allows(value):
            raise _WrongError(refusal(f"{where}.{key}", rule, value))
    return {key: tuple(value) if isinstance(value, list) else value for key, value in table.items()}


def _table(where: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _WrongError(f"{where} must be a table; was {value!r}")
    return value


def _known(where: str, table: Mapping[str, Any], keys: Any) -> None:
    for key in table:
        if key not in keys:
            name = f"{where}.{key}".lstrip(".")
            close = get_close_matches(key, keys, n=1)
            raise _WrongError(f"{name}: unknown key" + (f"; did you mean {close[0]}?" if close else ""))
