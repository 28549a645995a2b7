"""Whole runs: what is kept, published and refused, for models as users have them."""

import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from headrace_toolkit import Data, Recipe, ToolkitError, convert, load, optimize
from headrace_toolkit.report import Line
from headrace_toolkit.result import Result

Optimized = Callable[..., Result]


def line(result: Result, beginning: str) -> Line:
    (found,) = [line for line in result.report.lines if line.name.startswith(beginning)]
    return found


def test_a_convolutional_network_becomes_static_int8(searched: Result) -> None:
    result = searched
    kept, base = line(result, "static int8"), line(result, "convert")
    assert kept.kept
    assert kept.name == "static int8, per channel, 7 bit"
    assert kept.bytes is not None
    assert base.bytes is not None
    assert base.metric is not None
    assert kept.metric is not None
    assert kept.bytes < 0.35 * base.bytes
    assert base.metric - kept.metric <= 0.005
    assert kept.time[32] <= 0.9
    assert line(result, "dynamic int8").why == "not tried: 3 Conv, which are slower in dynamic int8"
    assert line(result, "half").why.startswith("not tried: half floats are never faster on a CPU")
    assert [other.name for other in result.report.lines if other.kept][1:] == ["convert to ONNX", kept.name]


def test_a_perceptron_becomes_dynamic_int8(optimized: Optimized) -> None:
    kept = line(optimized("mlp", limits={"max_drop": 1.0}), "dynamic int8")
    assert kept.kept or "slower" in kept.why or "only" in kept.why  # at a width of 128 the gain is small


def test_without_rows_there_is_no_static_candidate(made: Path) -> None:
    result = optimize(load(made / "cnn.onnx"), None, Recipe(timing_seconds=0.1))
    assert line(result, "static int8").why == "not tried: there are no rows to calibrate on: give some with --data"
    assert result.report.notes == ("compared on 64 random rows: give some of yours with --data",)
    assert result.report.metric == "cosine"


def test_nothing_is_published_that_misses_the_limits(optimized: Optimized, tmp_path: Path) -> None:
    result = optimized("cnn", limits={"min_speedup": 1000}, timing_seconds=0.05)
    assert result.failed.startswith("no candidate meets the limits: nothing is published; headrace convert")
    assert result.report.verdict == result.failed
    with pytest.raises(ToolkitError, match="no candidate meets the limits"):
        result.publish(tmp_path)
    assert os.listdir(tmp_path) == []
    chain = optimized("cnn", step=[{"kind": "share", "values": 2}])
    assert re.fullmatch(r"accuracy is [\d.]+ points lower, more than 0.5: nothing is published", chain.failed)


def test_each_step_builds_on_the_one_before(optimized: Optimized) -> None:
    result = optimized("cnn", step=[{"kind": "simplify"}, {"kind": "quantize", "method": "static"}])
    assert [made.name for made in result.report.lines[2:]] == ["simplify", "static int8, per channel, 7 bit"]
    assert all(made.kept and made.time for made in result.report.lines[1:])
    with pytest.raises(ToolkitError, match="the model is already quantized"):
        optimized("cnn", step=[{"kind": "quantize"}, {"kind": "quantize"}])


def test_the_same_seed_makes_the_same_bytes(searched: Result, optimized: Optimized) -> None:
    assert searched.model.read_bytes() == optimized("cnn").model.read_bytes()


def test_the_published_files(searched: Result, tmp_path: Path) -> None:
    version = searched.publish(tmp_path / "digits")
    assert sorted(os.listdir(version)) == ["card.json", "model.onnx", "profile.json"]
    card = json.loads((version / "card.json").read_text())
    assert card["model"] == "digits"
    assert card["signature"] == {"inputs": {"x": "float32[N,1,8,8]"}, "outputs": {"logits": "float32[N,10]"}}
    assert card["rows"]["finding"] == "independent"
    assert card["files"]["model.onnx"]["bytes"] == (version / "model.onnx").stat().st_size
    assert card["report"]["steps"][0]["kept"]
    profile = json.loads((version / "profile.json").read_text())
    assert profile["rows"] == 540
    assert profile["inputs"]["x"]["row_shape"] == [1, 8, 8]
    assert len(profile["inputs"]["x"]["columns"]) == 64


def test_no_path_and_no_name_of_the_machine_is_published(searched: Result, tmp_path: Path) -> None:
    version = searched.publish(tmp_path / "m")
    for file in version.iterdir():
        content = file.read_bytes()
        paths = (str(tmp_path.parent), str(Path.home()), tempfile.gettempdir())
        assert not [path for path in paths if path.encode() in content], file.name
        if file.suffix == ".json":  # any short name may appear in a model's weights by chance
            assert not re.search(rf"\b{re.escape(os.uname().nodename)}\b", content.decode()), file.name


def model_of(file: Path, nodes: list[Any], x: list[Any], y: list[Any], **weights: Any) -> Path:
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, y)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), file)
    return file


CENTRED = [
    helper.make_node("ReduceMean", ["x"], ["m"], axes=[0], keepdims=1),
    helper.make_node("Sub", ["x", "m"], ["y"]),
]
DOUBLED = [helper.make_node("Add", ["x", "x"], ["y"])]


def test_labels_that_were_forgotten_are_noticed(tmp_path: Path) -> None:
    source = load(model_of(tmp_path / "doubles.onnx", DOUBLED, ["n", 4], ["n", 4]))
    np.savez(tmp_path / "rows.npz", x=np.ones((8, 4), np.float32), digit=np.zeros(8, np.int64))
    report = convert(source, Data.read(tmp_path / "rows.npz")).report
    assert "rows.npz: digit is no input: if it has the labels, name them with --labels" in report.notes
    np.savez(tmp_path / "rows.npz", x=np.ones((8, 4), np.float32))
    assert convert(source, Data.read(tmp_path / "rows.npz")).report.notes == ()


def test_a_model_that_mixes_rows_is_published_only_without_batches(tmp_path: Path) -> None:
    source = load(model_of(tmp_path / "mixes.onnx", CENTRED, ["n", 4], ["n", 4]))
    with pytest.raises(ToolkitError, match=r"mixes\.onnx mixes the rows of a batch: output 'y'"):
        convert(source, None)
    result = convert(source, None, Recipe.of({"output": {"batch": False}}, tmp_path))
    assert result.rows_verdict.finding == "dependent"
    result.publish(tmp_path / "m")
    assert (tmp_path / "m" / "model.toml").read_text() == "[batching]\nenabled = false\n"
    (tmp_path / "m" / "model.toml").write_text("")
    with pytest.raises(ToolkitError, match="set \\[batching\\] enabled = false there"):
        result.publish(tmp_path / "m")


def test_a_fixed_batch_is_named(tmp_path: Path) -> None:
    result = convert(load(model_of(tmp_path / "one.onnx", DOUBLED, [1, 4], [1, 4])), None)
    assert "requests will run one by one: the first dimension is fixed at 1; export" in result.report.warnings[0]
    assert result.rows_verdict.finding == "no_batch_axis"


def test_an_output_declared_with_one_row_is_corrected(tmp_path: Path) -> None:
    result = convert(load(model_of(tmp_path / "label.onnx", DOUBLED, ["n", 4], [1, 4])), None)
    assert result.report.notes[1] == "output y was declared with one row, but has as many as its inputs: corrected"
    assert result.signature.outputs["y"].shape == (None, 4)
    assert result.rows_verdict.finding == "independent"


def test_names_of_the_batch_become_one(tmp_path: Path) -> None:
    result = convert(load(model_of(tmp_path / "names.onnx", DOUBLED, ["unk__40", 4], ["unk__41", 4])), None)
    dims = [spec.dims[0] for spec in (*result.signature.inputs.values(), *result.signature.outputs.values())]
    assert dims == ["N", "N"]


def test_an_exporters_notes_about_its_machine_are_removed(tmp_path: Path) -> None:
    file = model_of(tmp_path / "noted.onnx", DOUBLED, ["n", 4], ["n", 4])
    model = onnx.load(file)
    for place in (model, model.graph, model.graph.node[0], model.graph.input[0]):
        entry = place.metadata_props.add()
        entry.key, entry.value = "stack_trace", "/home/somebody/net.py"
        place.doc_string = "/home/somebody"
    onnx.save(model, file)
    assert b"somebody" not in convert(load(file), None).model.read_bytes()


def external(folder: Path, location: str) -> Path:
    """A model whose weight is in an external file."""
    file = model_of(folder / "model.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], ["n", 4], ["n", 4],
                    w=np.eye(4, dtype=np.float32))  # fmt: skip
    model = onnx.load(file)
    onnx.external_data_helper.set_external_data(model.graph.initializer[0], location=location, offset=0, length=64)
    model.graph.initializer[0].ClearField("raw_data")
    file.write_bytes(model.SerializeToString())
    return file


def test_external_data_comes_from_the_models_own_folder(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    weights = np.eye(4, dtype=np.float32).tobytes()
    (tmp_path / "outside.bin").write_bytes(weights)
    (inner / "link.bin").symlink_to(tmp_path / "outside.bin")
    (inner / "short.bin").write_bytes(weights[:60])
    (inner / "good.bin").write_bytes(weights)
    for location, words in (
        ("../outside.bin", "which is outside of the model's folder"),
        (str(tmp_path / "outside.bin"), "which is outside of the model's folder"),
        ("link.bin", "which is outside of the model's folder"),
        ("nowhere.bin", "and there is no such file"),
        ("short.bin", "which is cut short: 60 bytes of at least 64"),
    ):
        with pytest.raises(ToolkitError, match=f"the weight w lies in '{location}', {words}"):
            load(external(inner, location))
    result = convert(load(external(inner, "good.bin")), None)
    assert [file.name for file in result.model.parent.iterdir()] == ["model.onnx"]


def test_non_finite_weights_are_named(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    file = model_of(
        tmp_path / "nan.onnx", nodes, ["n", 2], ["n", 2], w=np.array([[np.nan, 1], [np.inf, 0]], np.float32)
    )
    with pytest.raises(ToolkitError, match=r"nan\.onnx: 2 values of the weight w are not finite"):
        load(file)


def test_rows_used_for_calibration_and_measurement_cause_a_warning(made: Path) -> None:
    data = Data.read(made / "cnn" / "test.npz", "y")
    recipe = Recipe.of({"data": {"calibration": str(made / "cnn" / "test.npz")}, "timing_seconds": 0.05}, made)
    result = optimize(load(made / "cnn.onnx"), data, recipe)
    assert "540 of the 540 measured rows are calibrated on, too" in result.report.warnings[0]


def test_calibration_rows_must_be_finite(made: Path) -> None:
    data = Data.read(made / "cnn" / "test.npz", "y")
    data.inputs["x"][::2] = np.nan
    with pytest.raises(ToolkitError, match=r"test\.npz: \d+ calibration rows are not finite: rows 0, "):
        optimize(load(made / "cnn.onnx"), data, Recipe(timing_seconds=0.05))
