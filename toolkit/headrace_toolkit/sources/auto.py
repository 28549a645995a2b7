"""Determines the framework of a source, and imports only that one."""

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from headrace_toolkit import user_code
from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.sources.base import Origin, Source, SourceOptions
from headrace_toolkit.sources.files import kind_of, sha256_of

FILES: Mapping[str, str] = {
    "onnx": "onnx:OnnxSource",
    "pt2": "torch:exported_program",
    "torchscript": "torch:torchscript",
    "torch": "torch:saved",
    "safetensors": "torch:saved",
    "keras": "keras:read",
    "hdf5": "keras:read",
    "savedmodel": "savedmodel:read",
    "tflite": "tflite:read",
    "skops": "sklearn:read",
    "xgboost": "boosted:read_xgboost",
    "lightgbm": "boosted:read_lightgbm",
    "pickle": "sklearn:read_pickle",
    "torch_pickle": "torch:whole",
}
"""For each kind of file, the function that reads it:

`module:function` in this package, called with path and options.
"""

OBJECTS: Mapping[str, str] = {
    "torch": "torch:of_module",
    "keras": "keras:of_model",
    "sklearn": "sklearn:of_estimator",
    "xgboost": "boosted:of_xgboost",
    "lightgbm": "boosted:of_lightgbm",
}
"""For the package of an object's class, or of one of its bases, the function that makes its source.

It is called with the object, an `Origin` whose framework is empty, and the options.
"""


def load(source: str | Path | Any, options: SourceOptions | None = None) -> Source:
    """Reads a trained model.

    Args:
        source: A file, a folder, `file.py:function`, or the model itself.
        options: Facts that its framework does not record.

    Raises:
        ToolkitError: The source cannot be read; the text names it, and says what to do.
    """
    options = options or SourceOptions()
    if not isinstance(source, str | Path):
        return of_object(source, Origin(name=type(source).__name__, kind="", framework="", sha256=""), options)
    text = str(source)
    if user_code.names_function(text):
        file = Path(text.rpartition(":")[0])
        made = user_code.call(text)
        origin = Origin(name=Path(text).name, kind="", framework="", sha256=sha256_of(file))
        return load(made, options) if isinstance(made, str | Path) else of_object(made, origin, options)
    path = Path(source)
    return _maker(FILES[kind_of(path)])(path, options)


def of_object(model: Any, origin: Origin, options: SourceOptions) -> Source:
    """A source for a loaded model.

    Args:
        model: An object of one of the known frameworks.
        origin: The origin of the source; its kind and framework are not known yet.
        options: Facts that its framework does not record.

    Raises:
        ToolkitError: The model belongs to no known framework.
    """
    packages = [base.__module__.split(".")[0] for base in type(model).__mro__]
    for package in packages:
        if package in OBJECTS:
            return _maker(OBJECTS[package])(model, origin, options)
    raise ToolkitError(
        f"{origin.name} is a {type(model).__module__}.{type(model).__qualname__}; it must be a PyTorch module, a Keras "
        "model, a scikit-learn estimator, or an XGBoost or LightGBM booster"
    )


def _maker(name: str) -> Callable[..., Source]:
    module, _, function = name.partition(":")
    maker: Callable[..., Source] = getattr(import_module(f"headrace_toolkit.sources.{module}"), function)
    return maker
