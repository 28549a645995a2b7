"""Interprets a PATH of the command line: a model's file, a version's folder, a base path, or a folder of these."""

import os
from dataclasses import replace
from pathlib import Path

from headrace_server.backends.auto import MODEL_FILES, SAVED_MODEL_FILES, is_model_file
from headrace_server.config.model_config import ModelConfig, Specific
from headrace_server.errors import invalid, not_found, unreadable
from headrace_server.models.base_paths import versions_under
from headrace_server.security.models.names import SEALED_FILE
from headrace_server.stores.base import StoreError
from headrace_server.stores.uris import STORES, check_installed, is_remote, name_of

SHOWN = 6
"""The maximum number of a folder's entries that an error lists."""


def find_models(paths: list[str], name: str = "") -> tuple[ModelConfig, ...]:
    """The models that paths stand for, each with its name and its base path, in order.

    - A file (`iris.onnx`, `net.tflite`, `net.plan`, `model.py`): version 1 of a model named after the file's stem, or
      after the folder if the stem is `model`.
    - A folder that holds a model file: the same, named after the folder.
    - A base path, with numbered folders: its versions, by the usual policy.
    - A numbered folder: that version of the model in the parent folder.
    - A folder of such files and folders: each of them.
    - A URI of a store: the model there, named after the last part of the URI.

    Args:
        paths: The paths. Relative paths begin at the working directory; `~` is the home folder.
        name: The name of the model, if there is only one; empty to derive it from the path.

    Raises:
        ServingError: NOT_FOUND or INVALID_ARGUMENT if a path does not exist or holds no model, or if two models have
            one name.
    """
    models = [model for path in paths for model in _models_at(path)]
    if name:
        if len(models) != 1:
            found = ", ".join(model.name for model in models)
            raise invalid(f"--model_name names one model, and there are {len(models)}: {found}")
        models = [replace(models[0], name=name)]
    by_name: dict[str, ModelConfig] = {}
    for model in models:
        other = by_name.setdefault(model.name, model)
        if other is not model:
            raise invalid(f"two models are called {model.name}: {other.where} and {model.where}")
    return tuple(models)


def _models_at(text: str) -> list[ModelConfig]:
    if is_remote(text):
        try:
            check_installed(text)
        except StoreError as error:
            raise invalid(str(error)) from error
        return [ModelConfig(name_of(text), Path(), uri=text)]
    if "://" in text:
        raise invalid(
            f"{text}: {text.partition('://')[0]}:// is not supported: name a file, a folder, or one of {STORES}"
        )
    path = Path(os.path.abspath(os.path.expanduser(text)))
    if not path.exists():
        raise not_found(f"there is no file or folder {path}")
    if found := _model_at(path):
        return [found]
    models = [model for child in _children(path) if not _lettered(child.name) and (model := _model_at(child))]
    if not models:
        raise invalid(_nothing_at(path))
    return models


def _model_at(path: Path) -> ModelConfig | None:
    """The single model that a file or a folder holds; None if it holds none."""
    if path.is_file():
        return ModelConfig(_name_of(path), path) if is_model_file(path) else None
    names = set(os.listdir(path)) if os.access(path, os.R_OK | os.X_OK) else set()
    known = (*MODEL_FILES, SEALED_FILE) if path.name.isdecimal() else MODEL_FILES
    if held := next((file for file in known if file in names), None):
        if path.name.isdecimal():
            return ModelConfig(path.parent.name, path.parent, Specific((int(path.name),)))
        return ModelConfig(path.name, path / held if held not in SAVED_MODEL_FILES else path)
    if any(child.is_dir() for child in versions_under(path).values()):
        return ModelConfig(path.name, path)
    return None


def _name_of(file: Path) -> str:
    if file.stem != "model":
        return file.stem
    return file.parent.parent.name if file.parent.name.isdecimal() else file.parent.name


def _children(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    try:
        return sorted(child for child in path.iterdir() if not child.name.startswith("."))
    except OSError as error:
        raise unreadable(path, error) from error


def _lettered(name: str) -> bool:
    """Whether a folder is named as people name versions, such as `v1`, which the server does not accept."""
    return name[:1] in ("v", "V") and name[1:].isdecimal()


def _nothing_at(path: Path) -> str:
    expected = (
        "a model is a file (.onnx, .tflite, .plan, .engine, model.py), or a folder that holds one, or a SavedModel"
    )
    if path.is_file():
        return f"{path} is not a model: {expected}"
    names = [child.name for child in _children(path)]
    listed = ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "") if names else "nothing"
    lettered = next(filter(_lettered, names), None)
    hint = f"; {lettered} is not a version number: call it {lettered[1:]}" if lettered else ""
    return f"{path} holds no model: it holds {listed}; {expected}; versions are folders with numbers, such as 1{hint}"
