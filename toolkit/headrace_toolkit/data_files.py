"""Reads the arrays of .npz, .npy and .csv files, which need not be trusted."""

import csv
import math
import os
import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from headrace_batching.task import Array
from headrace_toolkit.errors import ToolkitError, first_line

ONE_ARRAY = ""
"""The name for the unnamed array of an .npy file, which is for a model's only input."""

_HEADS = (b"P", b"\x93", b"\x80")
"""The first byte of an .npz file, of an .npy file, and of a pickle, which has an error message of its own."""


def read_arrays(path: Path) -> dict[str, Array]:
    """The arrays of a .npz, .npy or .csv file by name.

    Raises:
        ToolkitError: The file cannot be read, or its content has another format. No code in it is run.
    """
    suffix = path.suffix.lower()
    if suffix not in (".npz", ".npy", ".csv"):
        raise ToolkitError(f"{path}: data is read from .npz, .npy and .csv files, and from file.py:function")
    try:
        if path.exists() and not path.is_file():  # opening a named pipe would block
            raise ToolkitError(f"{path} is not a file")
        return _read_table(path) if suffix == ".csv" else _read_numpy(path)
    except FileNotFoundError as error:
        raise ToolkitError(f"{path}: there is no such file") from error
    except OSError as error:
        raise ToolkitError(f"{path}: {error.strerror or first_line(error)}") from error


def _read_numpy(path: Path) -> dict[str, Array]:
    with path.open("rb") as opened:
        head = opened.read(1)
    if head not in _HEADS:
        raise ToolkitError(f"{path} is not a {path.suffix} file")
    try:
        with path.open("rb") as opened:  # opened here, since NumPy leaves the file of a bad archive open
            loaded = np.load(opened, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return {ONE_ARRAY: loaded}
            with loaded:
                _check_size(path, loaded.zip)
                arrays = {name: loaded[name] for name in loaded.files}
    except (OSError, ToolkitError):
        raise
    except MemoryError as error:
        raise ToolkitError(f"{path}: this machine has too little memory: {first_line(error)}") from error
    except Exception as error:  # what malicious bytes may raise in NumPy, in Python's parser, in zipfile and zlib
        if "pickle" in str(error):
            raise ToolkitError(
                f"{path}: contains an array of Python objects or a pickle, and loading those runs code from the file: "
                "save arrays of numbers or of strings (dtype str)"
            ) from error
        raise ToolkitError(f"{path} is not a {path.suffix} file: {first_line(error)}") from error
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise ToolkitError(f"{path} is not a .npz file: it contains {name!r}, which is not an array")
    return arrays


def _check_size(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuses an archive whose declared size does not fit into memory: a few kilobytes can expand to terabytes."""
    size = sum(member.file_size for member in archive.infolist())
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if size > memory:
        raise ToolkitError(f"{path} has {size / 1e9:,.0f} GB of arrays, and this machine has {memory / 1e9:,.0f} GB")


def _read_table(path: Path) -> dict[str, Array]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as opened:
            header, *lines = list(csv.reader(opened)) or [[]]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ToolkitError(f"{path} is not a table in UTF-8: {first_line(error)}") from error
    rows = [line for line in lines if line]
    if not header or len(set(header)) < len(header):
        raise ToolkitError(f"{path}: the first line must name the columns, each once")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise ToolkitError(f"{path}: line {number} has {len(row)} values, and the header {len(header)}")
    return {name: _column([row[index] for row in rows]) for index, name in enumerate(header)}


def _column(cells: Sequence[str]) -> Array:
    """Converts a column to integers, numbers (NaN for an empty cell), or strings."""
    try:
        return np.array([int(cell) for cell in cells], np.int64)
    except (ValueError, OverflowError):
        pass
    try:
        return np.array([float(cell) if cell.strip() else math.nan for cell in cells], np.float64)
    except ValueError:
        return np.array(cells, dtype=str)
