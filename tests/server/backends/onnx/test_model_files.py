"""External data: a loaded model's answers never change, whatever happens to its files, and equal tables are shared."""

import gc
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor,
    make_tensor_value_info,
    set_model_props,
)
from onnx.numpy_helper import from_array

from headrace_batching.task import Array
from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.backend import OnnxBackend
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.mentions import mentioned
from headrace_server.backends.onnx.model_files import ModelFiles, SharedTensor
from headrace_server.backends.shared import Shared
from headrace_server.errors import LoadError
from tests.support import models

DEFAULT = "serving_default"
ROWS, COLUMNS = 40_000, 8  # a table of more than a megabyte


def save(folder: Path, graph: onnx.GraphProto, *, ir_version: int = 10) -> Path:
    """Writes a model with all its weights in external files."""
    folder.mkdir(parents=True, exist_ok=True)
    model = make_model(graph, opset_imports=[make_opsetid("", 21)], ir_version=ir_version)
    how: dict[str, Any] = {"all_tensors_to_one_file": False, "size_threshold": 0, "convert_attribute": True}
    onnx.save_model(model, str(folder / models.FILE), save_as_external_data=True, **how)
    return folder / models.FILE


def table(folder: Path, value: float = 1.0) -> Path:
    """`y` float [N, 8] = the rows `i` of `table`, whose elements are all equal."""
    weights = from_array(np.full((ROWS, COLUMNS), value, np.float32), "table")
    nodes = [make_node("Gather", ["table", "i"], ["y"])]
    return save(folder, make_graph(nodes, "g", [info("i", TensorProto.INT64, ["N"])], [info("y")], [weights]))


def sums(folder: Path, value: float = 1.0) -> Path:
    """`y` = `i` + `offset`: an operator that reads its weights in place at each run."""
    weights = from_array(np.full((1, COLUMNS), value, np.float32), "offset")
    nodes = [make_node("Cast", ["i"], ["x"], to=TensorProto.FLOAT), make_node("Add", ["x", "offset"], ["y"])]
    return save(folder, make_graph(nodes, "g", [info("i", TensorProto.INT64, ["N", 1])], [info("y")], [weights]))


def constant(folder: Path, value: float = 1.0) -> Path:
    """`y` = the rows `i` of a table in a Constant node."""
    held = from_array(np.full((ROWS, COLUMNS), value, np.float32), "held")
    nodes = [make_node("Constant", [], ["table"], value=held), make_node("Gather", ["table", "i"], ["y"])]
    return save(folder, make_graph(nodes, "g", [info("i", TensorProto.INT64, ["N"])], [info("y")]))


def inner(folder: Path, value: float = 1.0) -> Path:
    """`y` = the rows `i` of a table inside a branch."""
    weights = from_array(np.full((ROWS, COLUMNS), value, np.float32), "table")
    branch = make_graph([make_node("Gather", ["table", "i"], ["y"])], "branch", [], [info("y")], [weights])
    nodes = [
        make_node("Shape", ["i"], ["shape"]),
        make_node("ReduceMin", ["shape"], ["least"], keepdims=0),
        make_node("Greater", ["least", "minus"], ["condition"]),
        make_node("If", ["condition"], ["y"], then_branch=branch, else_branch=branch),
    ]
    minus = make_tensor("minus", TensorProto.INT64, [], [-1])
    return save(folder, make_graph(nodes, "g", [info("i", TensorProto.INT64, ["N"])], [info("y")], [minus]))


def info(name: str, dtype: int = TensorProto.FLOAT, shape: Any = None) -> onnx.ValueInfoProto:
    return make_tensor_value_info(name, dtype, shape)


def load(file: Path, options: BackendOptions | None = None) -> OnnxBackend:
    return load_onnx(file, options or BackendOptions())


def answer(backend: OnnxBackend, row: int) -> Array:
    shape = (1,) * len(backend.signatures[DEFAULT].inputs["i"].shape)
    return backend.run(DEFAULT, {"i": np.full(shape, row, np.int64)}, ["y"])["y"]


def weights_of(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.name != models.FILE]


def shared_by(backend: OnnxBackend) -> list[SharedTensor]:
    return [needed for needed in backend._needs if isinstance(needed, SharedTensor)]


def overwrite(file: Path) -> None:
    """Writes into the file, as `rsync --inplace` does."""
    with file.open("r+b") as opened:
        opened.write(b"\x07" * file.stat().st_size)


def copy_over(file: Path) -> None:
    """Truncates and writes the file, as `cp` does."""
    file.write_bytes(b"\x07" * file.stat().st_size)


def truncate(file: Path) -> None:
    os.truncate(file, 1)


def half(file: Path) -> None:
    file.write_bytes(b"\x07" * (file.stat().st_size // 2))


def delete(file: Path) -> None:
    file.unlink()


@pytest.mark.parametrize("make", [table, sums, constant, inner])
@pytest.mark.parametrize("spoil", [overwrite, copy_over, truncate, half, delete])
def test_a_loaded_model_stays_as_it_is(
    tmp_path: Path, make: Callable[[Path], Path], spoil: Callable[[Path], None]
) -> None:
    backend = load(make(tmp_path))
    before = answer(backend, 1).copy()
    files = weights_of(tmp_path)
    assert files
    for file in files:
        spoil(file)

    assert (answer(backend, ROWS - 1) - before).max() in (0, ROWS - 2)  # `sums` adds the row number


def test_truncating_the_files_does_not_end_the_process(tmp_path: Path) -> None:
    """If the file were mapped, reading a page that is gone would end the process by SIGBUS."""
    table(tmp_path)
    program = f"""
import os, sys
from pathlib import Path
import numpy as np
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.loading import load_onnx
folder = Path({str(tmp_path)!r})
backend = load_onnx(folder / "model.onnx", BackendOptions())
for file in folder.iterdir():
    os.truncate(file, 0)
print(backend.run("serving_default", {{"i": np.arange({ROWS})}}, ["y"])["y"].sum())
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stdout.strip()) == (0, str(float(ROWS * COLUMNS)))


class TestLinks:
    @pytest.mark.parametrize("linked", ["weights", "model", "both"])
    def test_links_to_files_work_like_files(self, tmp_path: Path, linked: str) -> None:
        table(tmp_path / "store")
        version = tmp_path / "1"
        version.mkdir()
        for file in (tmp_path / "store").iterdir():
            is_weights = file.name != models.FILE
            if linked == "both" or is_weights == (linked == "weights"):
                (version / file.name).symlink_to(file)
            else:
                (version / file.name).write_bytes(file.read_bytes())

        assert (answer(load(version / models.FILE), 3) == 1).all()

    def test_a_link_to_a_link(self, tmp_path: Path) -> None:
        table(tmp_path / "store")
        for folder, target in (("middle", "store"), ("1", "middle")):
            (tmp_path / folder).mkdir()
            for file in (tmp_path / target).iterdir():
                (tmp_path / folder / file.name).symlink_to(f"../{target}/{file.name}")

        assert (answer(load(tmp_path / "1" / models.FILE), 3) == 1).all()


@pytest.mark.parametrize("make", [models.linear, models.external_data, table])
def test_a_path_of_arbitrary_bytes(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9 \xff\n"))
    make(tmp_path / "plain").parent.rename(folder)

    assert load(folder / models.FILE).signatures[DEFAULT].outputs.keys() == {"y"}


class TestSharing:
    def test_tables_of_one_file_are_held_once(self, tmp_path: Path) -> None:
        options = BackendOptions()
        table(tmp_path / "store")
        backends = []
        for version in ("1", "2"):
            (tmp_path / version).mkdir()
            for file in (tmp_path / "store").iterdir():
                (tmp_path / version / file.name).symlink_to(file)
            backends.append(load(tmp_path / version / models.FILE, options))
        first, second = map(shared_by, backends)
        assert len(first) == 1
        assert first == second

        backends[0].close()
        assert (answer(backends[1], 7) == 1).all()

    def test_tables_of_a_file_that_was_written_in_between_are_not_shared(self, tmp_path: Path) -> None:
        options = BackendOptions()
        old = load(table(tmp_path, 1.0), options)
        new = load(table(tmp_path, 2.0), options)

        assert (answer(old, 7) == 1).all()
        assert (answer(new, 7) == 2).all()

    def test_nothing_is_kept_after_the_last_model(self, tmp_path: Path) -> None:
        options = BackendOptions()
        backend = load(table(tmp_path), options)
        assert shared_by(backend)
        assert options.shared._objects
        backend.close()
        del backend
        gc.collect()

        assert len(options.shared._objects) == 0

    def test_weights_that_are_multiplied_are_not_shared(self, tmp_path: Path) -> None:
        """ONNX Runtime would copy them into another layout, so that they would be in memory twice."""
        assert shared_by(load(models.external_data(tmp_path))) == []


DTYPES = ["float16", "double", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "bool"]


@pytest.mark.parametrize("name", [*DTYPES, "bfloat16", "float8_e4m3fn", "int4"])
def test_weights_of_every_type(tmp_path: Path, name: str) -> None:
    """Includes types that numpy lacks, and an odd number of half-byte elements."""
    dtype = np.dtype(getattr(ml_dtypes, name)) if hasattr(ml_dtypes, name) else np.dtype(name)
    weights = from_array(np.array([1, 0, 1], np.float32).astype(dtype), "w")
    nodes = [make_node("Cast", ["w"], ["c"], to=TensorProto.FLOAT), make_node("Add", ["i", "c"], ["y"])]
    file = save(tmp_path, make_graph(nodes, "g", [info("i", TensorProto.FLOAT, ["N", 3])], [info("y")], [weights]))
    backend = load(file)

    assert backend.run(DEFAULT, {"i": np.zeros((1, 3), np.float32)}, ["y"])["y"].tolist() == [[1, 0, 1]]


class TestWrong:
    def edited(self, folder: Path, **entries: str | None) -> str:
        """The error for a model in which these entries of a tensor's external data were changed."""
        file = table(folder)
        model = onnx.load(str(file), load_external_data=False)
        (tensor,) = model.graph.initializer
        kept = {entry.key: entry.value for entry in tensor.external_data} | entries
        del tensor.external_data[:]
        for key, value in kept.items():
            if value is not None:
                tensor.external_data.add(key=key, value=value)
        onnx.save_model(model, str(file))
        with pytest.raises(LoadError) as raised:
            load(file)
        assert raised.value.code == Code.INVALID_ARGUMENT
        assert str(file) in raised.value.message
        return raised.value.message

    @pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../b", "", "./.."])
    def test_a_location_outside_the_models_folder(self, tmp_path: Path, location: str) -> None:
        text = self.edited(tmp_path, location=location)
        assert f"tensor 'table' says that its data are in {location!r}, outside the model's folder" in text

    @pytest.mark.parametrize(
        ("entries", "text"),
        [
            ({"offset": "-8"}, "the offset of its external data must be a whole number; was '-8'"),
            ({"length": "many"}, "the length of its external data must be a whole number; was 'many'"),
            ({"length": "4"}, f"has 4 bytes of external data; its shape needs {ROWS * COLUMNS * 4}"),
            ({"offset": "4"}, "External data of tensor 'table' are out of bounds"),
            ({"offset": "4", "length": None}, "External data of tensor 'table' are out of bounds"),
        ],
    )
    def test_invalid_numbers(self, tmp_path: Path, entries: dict[str, str | None], text: str) -> None:
        assert text in self.edited(tmp_path, **entries)

    @pytest.mark.parametrize(("number", "name"), [(TensorProto.STRING, "STRING"), (0, "UNDEFINED"), (99, "99")])
    def test_a_data_type_without_external_data_is_named(self, tmp_path: Path, number: int, name: str) -> None:
        file = table(tmp_path)
        model = onnx.load(str(file), load_external_data=False)
        model.graph.initializer[0].data_type = number
        file.write_bytes(model.SerializeToString())
        text = f"tensor 'table' has the ONNX data type {name}, which cannot be stored as external data"
        with pytest.raises(LoadError, match=text):
            load(file)

    def test_a_file_that_is_too_short_is_not_loaded(self, tmp_path: Path) -> None:
        file = table(tmp_path)
        truncate(weights_of(tmp_path)[0])
        with pytest.raises(LoadError, match="are out of bounds"):
            load(file)


def test_the_searched_word_may_lie_across_two_pieces(tmp_path: Path) -> None:
    for padding in range(1 << 20, (1 << 20) - 200, -20):
        file = table(tmp_path)
        model = onnx.load(str(file), load_external_data=False)
        model.doc_string = "x" * padding
        file.write_bytes(model.SerializeToString())
        assert ModelFiles.of(file, Shared()).external is not None


def test_a_model_that_only_mentions_a_location_has_no_external_data(tmp_path: Path) -> None:
    model = onnx.load(str(models.linear(tmp_path)))
    set_model_props(model, {"location": "here"})
    onnx.save_model(model, str(tmp_path / models.FILE))

    assert ModelFiles.of(tmp_path / models.FILE, Shared()).external is None


def test_words_in_the_data_of_weights_are_not_searched_for(tmp_path: Path) -> None:
    weights = np.frombuffer(b"location" * (1 << 16), np.float32)
    table = onnx.helper.make_node("Identity", ["weights"], ["y"])
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [weights.size])
    graph = onnx.helper.make_graph([table], "g", [], [output], [onnx.numpy_helper.from_array(weights, "weights")])
    file = tmp_path / models.FILE
    onnx.save_model(onnx.helper.make_model(graph), str(file))
    assert mentioned(file, {b"location", b"Identity"}) == {b"Identity"}

    file.write_bytes(file.read_bytes() + b"\x0b")  # the key of a protobuf group, which ONNX never uses
    assert mentioned(file, {b"location", b"Identity"}) == {b"location", b"Identity"}
