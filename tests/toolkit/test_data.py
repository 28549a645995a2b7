"""Rows and labels: what is read, what is refused, and the error messages."""

import io
import os
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_protos import DataType
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_toolkit import Data, ToolkitError

PIXELS = Signature({"image": TensorSpec("image", DataType.DT_FLOAT, (None, 2, 2), ("N", "", ""))}, {})
PAIR = Signature({name: TensorSpec(name, DataType.DT_FLOAT, (None,), ("N",)) for name in ("a", "b")}, {})


def npz(folder: Path, **arrays: Any) -> Path:
    np.savez(folder / "rows.npz", **arrays)
    return folder / "rows.npz"


def test_arrays_are_fitted_to_the_inputs(tmp_path: Path) -> None:
    file = npz(tmp_path, image=np.arange(12).reshape(3, 2, 2), y=np.array([[1], [0], [1]]), other=np.zeros(3))
    data = Data.read(file, labels="y").fitted(PIXELS)
    assert list(data.inputs) == ["image"]
    assert data.inputs["image"].dtype == np.float32
    assert data.labels is not None
    assert data.labels.tolist() == [1, 0, 1]
    assert (len(data), data.name, len(data.sha256)) == (3, "rows.npz", 64)


def test_one_array_is_for_the_only_input(tmp_path: Path) -> None:
    np.save(tmp_path / "rows.npy", np.zeros((5, 2, 2)))
    assert len(Data.read(tmp_path / "rows.npy").fitted(PIXELS)) == 5


def test_a_table_is_joined_for_one_input_and_taken_apart_for_several(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,kind\n1,2.5,cat\n3,,dog\n")
    data = Data.read(tmp_path / "rows.csv", labels="kind")
    assert data.labels is not None
    assert data.labels.tolist() == ["cat", "dog"]
    assert data.fitted(PAIR).inputs["a"].tolist() == [1, 3]
    joined = Signature({"x": TensorSpec("x", DataType.DT_FLOAT, (None, 2), ("N", ""))}, {})
    np.testing.assert_array_equal(data.fitted(joined).inputs["x"], [[1, 2.5], [3, np.nan]])


def test_a_function_gives_arrays(tmp_path: Path) -> None:
    (tmp_path / "rows.py").write_text("import numpy as np\ndef load():\n    return {'a': [1.0], 'b': np.ones(1)}\n")
    data = Data.read(f"{tmp_path}/rows.py:load").fitted(PAIR)
    assert (len(data), data.name) == (1, "rows.py:load")


def test_rows_are_divided_by_the_seed_and_at_most_in_half(tmp_path: Path) -> None:
    data = Data.read(npz(tmp_path, a=np.arange(10.0), b=np.arange(10.0)))
    measured, calibration = data.split(256, seed=1)
    assert (len(measured), len(calibration)) == (5, 5)
    assert measured.shared_with(calibration) == 0
    assert sorted([*measured.inputs["a"], *calibration.inputs["a"]]) == list(range(10))
    again = data.split(256, seed=1)[1].inputs["a"]
    np.testing.assert_array_equal(again, calibration.inputs["a"])
    assert data.split(256, seed=2)[1].inputs["a"].tolist() != again.tolist()


REFUSED = [
    ({"images": np.zeros((3, 2, 2)), "y": np.zeros(3)}, "has no array for the model's input image; it has images"),
    (
        {"image": np.zeros((3, 4)), "y": np.zeros(3)},
        r"image has the shape \[3, 4\], but the model takes float32\[N,2,2\]",
    ),
    ({"image": np.full((3, 2, 2), "a"), "y": np.zeros(3)}, r"image is text, but the model takes float32\[N,2,2\]"),
    ({"image": np.zeros((3, 2, 2), complex), "y": np.zeros(3)}, "image is complex128, but the model takes"),
    ({"image": np.zeros((3, 2, 2)), "y": np.zeros(2)}, "3 rows in image and 2 labels in y"),
    ({"image": np.zeros((3, 2, 2)), "y": np.zeros((3, 2))}, r"labels 'y' have the shape \[3, 2\]"),
    ({"image": np.zeros((0, 2, 2)), "y": np.zeros(0)}, "image has no rows"),
    ({"image": np.zeros((3, 2, 2))}, "has no labels 'y'; it has image"),
    ({"y": np.zeros(3)}, "contains no arrays besides the labels 'y'"),
    ({"image": np.float32(1), "y": np.zeros(3)}, "image is a single value"),
]


@pytest.mark.parametrize(("arrays", "words"), REFUSED, ids=[words[:20] for _, words in REFUSED])
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, arrays: dict[str, Any], words: str) -> None:
    with pytest.raises(ToolkitError, match=words):
        Data.read(npz(tmp_path, **arrays), labels="y").fitted(PIXELS)


class Writes:
    """A pickle of this class creates a file when it is loaded."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.file, "w")


def test_no_file_runs_code(tmp_path: Path) -> None:
    marker = tmp_path / "was_run"
    file = npz(tmp_path, image=np.array([Writes(str(marker))], dtype=object))
    plain = tmp_path / "rows.npy"
    plain.write_bytes(pickle.dumps(Writes(str(marker))))
    for bad in (file, plain):
        with pytest.raises(ToolkitError, match="runs code from the file"):
            Data.read(bad)
    assert not marker.exists()


def npy(header: str, body: bytes = b"") -> bytes:
    """An .npy file with any header."""
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + body


def archive(**members: bytes) -> bytes:
    """A zip archive of .npy members."""
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as opened:
        for name, content in members.items():
            opened.writestr(f"{name}.npy", content)
    return written.getvalue()


def changed(content: bytes, at: int, value: bytes) -> bytes:
    """An archive of one member with other bytes in the entry of its directory."""
    start = content.rindex(b"PK\x01\x02") + at
    return content[:start] + value + content[start + len(value) :]


ARRAY = npy("{'descr':'<f4','fortran_order':False,'shape':(2,)}", bytes(8))
HUGE = npy("{'descr':'<f4','fortran_order':False,'shape':(1000000000000,64)}")

HOSTILE_FILES = [
    ("rows.npy", HUGE, "this machine has too little memory"),
    ("rows.npz", archive(x=HUGE), "this machine has too little memory"),
    ("rows.npy", npy("{'descr':'<f4','fortran_order':False,'shape':(-3,)}"), "is not a .npy file"),
    ("rows.npy", npy("__import__('os').system('touch was_run')"), "is not a .npy file: malformed node"),
    ("rows.npy", npy("[" * 9000), "is not a .npy file"),
    ("rows.npy", npy("(" * 5000 + ")" * 5000), "is not a .npy file"),
    ("rows.npz", archive(x=b"text"), "it contains 'x', which is not an array"),
    ("rows.npz", archive(x=pickle.dumps(1)), "it contains 'x', which is not an array"),
    ("rows.npz", changed(archive(x=ARRAY), 8, b"\x01"), "is encrypted"),
    ("rows.npz", changed(archive(x=ARRAY), 10, b"\x4d"), "is not a .npz file"),
    ("rows.npz", archive(x=ARRAY)[:-30], "is not a .npz file"),
]


@pytest.mark.parametrize(("name", "content", "words"), HOSTILE_FILES)
def test_hostile_files_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(content)
    with pytest.raises(ToolkitError, match=words) as refused:
        Data.read(name)
    assert len(str(refused.value)) < 400
    assert os.listdir() == [name]


def test_an_archive_that_unpacks_to_more_than_the_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", lambda _: 1000)
    with pytest.raises(ToolkitError, match=r"rows\.npz has 0 GB of arrays, and this machine has 0 GB"):
        Data.read(npz(tmp_path, x=np.zeros(10**6)))


def test_names_in_an_archive_lead_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    data = Data.read(npz(tmp_path / "a", **{"../../x": np.zeros(2), "/y": np.zeros(2)}))
    assert list(data.inputs) == ["../../x", "/y"]
    assert sorted(os.listdir(tmp_path)) == ["a"]


@pytest.mark.parametrize("dtype", ["M8[s]", "complex64", [("a", "f4")]])
def test_labels_are_numbers_or_text(tmp_path: Path, dtype: Any) -> None:
    with pytest.raises(ToolkitError, match=r"labels 'y' are .*, and must be numbers or text"):
        Data.read(npz(tmp_path, x=np.zeros(2), y=np.zeros(2, dtype)), "y")


@pytest.mark.parametrize("name", ["pipe.npz", "folder.csv", "zero.npy"])
def test_special_files_are_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "zero.npy").symlink_to("/dev/zero")
    with pytest.raises(ToolkitError, match=f"{name} is not a file"):
        Data.read(tmp_path / name)


BAD_FILES = [
    ("rows.npz", b"not a zip", "is not a .npz file"),
    ("rows.txt", b"1 2", "data is read from .npz, .npy and .csv files"),
    ("rows.csv", b"a,a\n1,2\n", "must name the columns, each once"),
    ("rows.csv", b"a,b\n1\n", "line 2 has 1 values, and the header 2"),
    ("rows.csv", b"\xff\xfe", "is not a table in UTF-8"),
]


@pytest.mark.parametrize(("name", "content", "words"), BAD_FILES)
def test_files_of_another_format_are_refused(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ToolkitError, match=words):
        Data.read(tmp_path / name)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ToolkitError, match=r"nowhere\.npz: there is no such file"):
        Data.read(tmp_path / "nowhere.npz")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("def load():\n    return 1\n", "returned int; it must return a dictionary"),
        ("def other():\n    pass\n", "rows.py has no function load"),
        ("load = 1\n", "load must be a function; it is a int"),
        ("def load():\n    return 1 / 0\n", "failed in rows.py, line 2: ZeroDivisionError: division by zero"),
        ("import nothing_of_this_name\n", "failed in rows.py, line 1: ModuleNotFoundError"),
        ("def load(:\n", "failed in rows.py, line 1: SyntaxError"),
    ],
)
def test_a_function_that_fails_is_named_with_its_line(tmp_path: Path, code: str, words: str) -> None:
    (tmp_path / "rows.py").write_text(code)
    with pytest.raises(ToolkitError, match=words):
        Data.read(f"{tmp_path}/rows.py:load")


def test_rows_that_are_not_finite_are_numbered(tmp_path: Path) -> None:
    array = np.zeros((20, 2), np.float32)
    array[[3, 5], 1] = np.nan, np.inf
    data = Data.read(npz(tmp_path, x=array))
    with pytest.raises(ToolkitError, match="2 calibration rows are not finite: rows 3, 5"):
        data.check_finite("calibration")
    array[:] = np.nan
    with pytest.raises(ToolkitError, match="rows 0, 1, 2, 3, 4, 5, 6, 7, 8, 9 and 10 more"):
        Data.read(npz(tmp_path, x=array)).check_finite("calibration")
