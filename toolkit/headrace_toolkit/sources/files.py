"""Detects the format of a model file from its bytes, and computes its SHA-256."""

import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

from headrace_toolkit.errors import ToolkitError
from headrace_toolkit.sources.torch_archive import only_names_weights

KNOWN = (
    ".onnx (ONNX); file.py:function (PyTorch, Keras, scikit-learn, XGBoost, LightGBM); .pt2, .pt, .pth, .safetensors "
    "(PyTorch); .keras, .h5, a folder with saved_model.pb, .tflite (TensorFlow); .skops (scikit-learn); "
    ".json, .ubj (XGBoost); .txt (LightGBM); .pkl, .joblib with --trust_pickle"
)

_SUFFIXES: dict[str, tuple[str, ...]] = {
    "onnx": (".onnx",),
    "pt2": (".pt2",),
    "torchscript": (".pt", ".pth"),
    "torch": (".pt", ".pth"),
    "safetensors": (".safetensors",),
    "keras": (".keras",),
    "hdf5": (".h5", ".hdf5"),
    "tflite": (".tflite",),
    "skops": (".skops",),
    "xgboost": (".json", ".ubj"),
    "lightgbm": (".txt",),
    "pickle": (".pkl", ".pickle", ".joblib", ".pt", ".pth"),
    "torch_pickle": (".pt", ".pth", ".pkl"),
}

_NAMES = {
    "onnx": "an ONNX model",
    "pt2": "a PyTorch program (torch.export)",
    "torchscript": "a TorchScript file",
    "torch": "a file of torch.save",
    "safetensors": "a safetensors file",
    "keras": "a Keras model",
    "hdf5": "an HDF5 file",
    "tflite": "a TFLite model",
    "skops": "a skops file",
    "xgboost": "an XGBoost model",
    "lightgbm": "a LightGBM model",
    "pickle": "a pickle",
    "torch_pickle": "a whole PyTorch module in a pickle",
    "zip": "a zip archive",
    "": "no known format",
}

_HEAD = 1 << 16


def kind_of(path: Path) -> str:
    """The kind of model in a file or folder.

    Returns:
        `onnx`, `pt2`, `torchscript`, `torch` (what `torch.save` writes), `safetensors`, `keras`, `hdf5`, `savedmodel`,
        `tflite`, `skops`, `xgboost`, `lightgbm`, `pickle` or `torch_pickle` (a whole module that `torch.save` wrote).

    Raises:
        ToolkitError: There is no such file, it is empty, its content does not match its name, or its format is unknown.
    """
    if not path.exists():
        raise ToolkitError(f"{path}: there is no such file or folder")
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "savedmodel"
        raise ToolkitError(f"{path}: this folder contains no saved_model.pb; name a file. Known: {KNOWN}")
    if not path.is_file():  # opening a named pipe would block
        raise ToolkitError(f"{path} is not a file")
    head = _head(path)
    kind = _kind_by_bytes(path, head)
    named = {suffix for suffixes in _SUFFIXES.values() for suffix in suffixes}
    if path.suffix.lower() not in named:
        says = (
            f"{path.suffix!r} is not the suffix of a known kind of model" if path.suffix else "its name has no suffix"
        )
        raise ToolkitError(f"{path}: {says}, and its bytes look like {_NAMES[kind]}. Known: {KNOWN}")
    if path.suffix.lower() not in _SUFFIXES.get(kind, ()):
        raise ToolkitError(f"{path}: the suffix is {path.suffix}, but its bytes look like {_NAMES[kind]}")
    return kind


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's bytes, or of the names and bytes of a folder's files in order."""
    digest = hashlib.sha256()
    for file in sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]:
        if path.is_dir():
            digest.update(f"{file.relative_to(path)}\0".encode())
        for part in _parts(file):
            digest.update(part)
    return digest.hexdigest()


def _parts(file: Path) -> Iterator[bytes]:
    with file.open("rb") as opened:
        while part := opened.read(1 << 20):
            yield part


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as opened:
            head = opened.read(_HEAD)
    except OSError as error:
        raise ToolkitError(f"{path}: {error.strerror}") from error
    if not head:
        raise ToolkitError(f"{path}: the file is empty")
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ToolkitError(f"{path}: this is a Git LFS pointer, not the model itself: run git lfs pull")
    return head


def _kind_by_bytes(path: Path, head: bytes) -> str:
    if head[4:8] == b"TFL3":
        return "tflite"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if head.startswith(b"PK\x03\x04"):
        return _kind_by_names(path)
    if (
        head.startswith((b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"\x1f\x8b", b"BZh"))
        or head[:1] == b"\x78"
    ):
        return "pickle"  # joblib compresses; torch.save's old format is also a pickle
    if head.startswith(b"tree\n"):
        return "lightgbm"
    if head[:1] == b"{" and _is_xgboost(head):
        return "xgboost"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    return "onnx" if _is_onnx(head) else ""


def _kind_by_names(path: Path) -> str:
    """The kind of a zip archive."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile as error:
        raise ToolkitError(f"{path}: a truncated or damaged zip archive") from error
    inner = {name.split("/", 1)[-1] for name in names}
    if "schema.json" in names:
        return "skops"
    if "config.json" in names and "metadata.json" in names:
        return "keras"
    if any(name.startswith("code/") for name in inner):
        return "torchscript"
    if "data.pkl" in inner:
        return "torch" if _only_weights(path, names) else "torch_pickle"
    if any(name.startswith("models/") or name == "archive_format" for name in inner):
        return "pt2"
    return "zip"


def _only_weights(path: Path, names: list[str]) -> bool:
    """Whether a file that torch.save wrote contains only tensors."""
    (pickled,) = [name for name in names if name.split("/", 1)[-1] == "data.pkl"][:1]
    try:
        with zipfile.ZipFile(path) as archive:
            return only_names_weights(archive.read(pickled))
    except (ValueError, zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ToolkitError(f"{path}: the file of torch.save is damaged") from error


def _is_xgboost(head: bytes) -> bool:
    if b'"learner"' in head or b"learner" in head[:64]:  # JSON, or universal binary JSON
        return True
    try:
        return isinstance(json.loads(head), dict) and "learner" in json.loads(head)
    except ValueError:
        return False


def _is_onnx(head: bytes) -> bool:
    """Whether a file starts as a ModelProto: with an IR version in field 1, or with the producer's name in field 2."""
    return (head[0] == 0x08 and len(head) > 2 and 1 <= head[1] < 64) or head[0] == 0x12
