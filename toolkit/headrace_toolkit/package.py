"""Writes a published version as a folder for others, with a Dockerfile or for MLflow; nothing is built or sent."""

import contextlib
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from headrace_server.config.model_toml import MODEL_FILE as MODEL_OPTIONS_FILE
from headrace_toolkit.beside import changed_files
from headrace_toolkit.errors import ToolkitError, require
from headrace_toolkit.graph import MODEL_FILE
from headrace_toolkit.publish import CARD_FILE, PROFILE_FILE
from headrace_toolkit.steps.quiet import quietly

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")

DOCKERFILE = """\
# Serves {name} version {version}. Build headrace's own image first, in its checkout:
#   docker build --file docker/Dockerfile.cpu --tag headrace .
# then build this image, and run it:
#   docker build --tag {image} . && docker run --publish 8500:8500 --publish 8501:8501 {image}
ARG HEADRACE=headrace:latest
FROM ${{HEADRACE}}
COPY --chmod=755 models /models
ENV MODEL_NAME={name}
CMD ["--enable_batching=true"]
"""


def package(place: str, target: str, kind: str) -> tuple[str, ...]:
    """Writes a folder that others can build, or load.

    Args:
        place: A version's folder.
        target: The folder to write, which must not exist, or be empty.
        kind: `docker` or `mlflow`.

    Returns: The names of the written files and folders, in order.

    Raises:
        ToolkitError: The version cannot be read, or differs from its card, or the folder is in use.
    """
    version, folder = Path(place), Path(target)
    _check(version, folder, place)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".new-", dir=folder.absolute().parent) as work:
            made = Path(work) / "package"
            KINDS[kind](version, made)
            with contextlib.suppress(FileNotFoundError):
                folder.rmdir()
            made.rename(folder)
    except OSError as error:
        raise ToolkitError(f"{folder} cannot be written: {error.strerror}") from error
    return tuple(sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()))


def _check(version: Path, folder: Path, place: str) -> None:
    if not (version / MODEL_FILE).is_file() or not version.absolute().name.isdigit():
        raise ToolkitError(
            f"{place} is not a version's folder: name one, as in models/digits/1, with a {MODEL_FILE} in it"
        )
    if not _NAME.fullmatch(version.absolute().parent.name):
        raise ToolkitError(f"{place}: an image cannot have a model with the name {version.absolute().parent.name!r}")
    if changed := changed_files(place):
        raise ToolkitError(changed[0])
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ToolkitError(f"{folder} exists and is not empty: name another folder")


def _docker(version: Path, folder: Path) -> None:
    """Copies the version into models/, and writes a Dockerfile that builds on headrace's own image."""
    absolute = version.absolute()
    name = absolute.parent.name
    model = folder / "models" / name
    shutil.copytree(version, model / absolute.name)
    if (options := version.parent / MODEL_OPTIONS_FILE).is_file():
        shutil.copyfile(options, model / MODEL_OPTIONS_FILE)
    text = DOCKERFILE.format(name=name, version=absolute.name, image=name.lower())
    (folder / "Dockerfile").write_text(text, encoding="utf-8")


def _mlflow(version: Path, folder: Path) -> None:
    """Writes the format of `mlflow.onnx.save_model`, with the card and the profile as metadata and in files."""
    save_model = require("mlflow.onnx", "an MLflow folder", "mlflow").save_model
    onnx = require("onnx", "an MLflow folder", "toolkit")
    with quietly("writing the MLflow folder"):
        save_model(
            onnx.load(str(version / MODEL_FILE)),
            str(folder),
            signature=_signature(version),
            pip_requirements=["onnx", "onnxruntime"],
            metadata=_metadata(version),
        )
    for name in (CARD_FILE, PROFILE_FILE):
        if (version / name).is_file():
            shutil.copyfile(version / name, folder / name)


def _signature(version: Path) -> object:
    """The inputs and outputs for MLflow, which writes float32[N,1,8,8] as [-1,1,8,8]."""
    from headrace_toolkit.running import OnnxModel

    types = require("mlflow.types", "an MLflow folder", "mlflow")
    models = require("mlflow.models", "an MLflow folder", "mlflow")
    signature = OnnxModel(version / MODEL_FILE).signature
    schemas = [
        types.Schema([
            types.TensorSpec(_plain(spec.array_dtype), tuple(-1 if size is None else size for size in spec.shape), name)
            for name, spec in specs.items()
        ])
        for specs in (signature.inputs, signature.outputs)
    ]  # fmt: skip
    return models.ModelSignature(inputs=schemas[0], outputs=schemas[1])


def _plain(dtype: object) -> object:
    """The name of a dtype as MLflow writes it, which is `str` for strings."""
    numpy = require("numpy", "an MLflow folder", "toolkit")
    return numpy.dtype(str) if numpy.dtype(dtype).kind == "O" else dtype


def _metadata(version: Path) -> dict[str, object]:
    card = version / CARD_FILE
    document = json.loads(card.read_text(encoding="utf-8")) if card.is_file() else {}
    return {key: document[key] for key in ("model", "made", "versions", "rows") if key in document}


KINDS: Mapping[str, Callable[[Path, Path], None]] = {"docker": _docker, "mlflow": _mlflow}
