"""Single steps: their results, and their refusals."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from headrace_batching.task import Array
from headrace_toolkit import Data, ToolkitError
from headrace_toolkit.graph import Facts
from headrace_toolkit.running import OnnxModel
from headrace_toolkit.steps import auto
from headrace_toolkit.steps.base import Made, Work
from headrace_toolkit.steps.share import codebook
from headrace_toolkit.tables import Table
from tests.toolkit import models


def done(folder: Path, model: Path, kind: str, *, data: Data | None = None, target: str = "x86", **keys: Any) -> Made:
    """The result of a step on a model."""
    work = folder / kind
    work.mkdir()
    step = auto.build(kind, Table(kind, keys, folder))
    return step.run(Work(model=model, folder=work, calibration=data, target=target))


def answers(file: Path, x: Array) -> Array:
    return np.asarray(ort.InferenceSession(str(file), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0])


def rows(name: str, count: int = 64) -> Array:
    return models.pictures(models.digits().test_x[:count], (64,) if name == "mlp" else (1, 8, 8))


def calibration(made: Path, name: str) -> Data:
    return Data.read(made / name / "train.npz", "y").take(slice(0, 96))


def written(file: Path, nodes: list[Any], weights: dict[str, Array], dims: tuple[Any, ...], opset: int = 17) -> Path:
    """A model from `x` with some dimensions to `y` with unknown ones."""
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9), file)
    return file


def test_static(tmp_path: Path, made: Path) -> None:
    result = done(tmp_path, made / "cnn.onnx", "quantize", data=calibration(made, "cnn"), method="static")
    assert result.name == "static int8, per channel, 7 bit"
    assert result.model.stat().st_size < 0.35 * (made / "cnn.onnx").stat().st_size
    x = rows("cnn")
    same = answers(result.model, x).argmax(1) == answers(made / "cnn.onnx", x).argmax(1)
    assert same.mean() > 0.95
    assert [file.name for file in result.model.parent.iterdir()] == ["model.onnx"]


def test_static_makes_the_same_bytes_again(tmp_path: Path, made: Path) -> None:
    for again in ("a", "b"):
        (tmp_path / again).mkdir()
        done(tmp_path / again, made / "cnn.onnx", "quantize", data=calibration(made, "cnn"), method="static")
    first, second = ((tmp_path / again / "quantize" / "model.onnx").read_bytes() for again in ("a", "b"))
    assert first == second


def test_one_bright_row_affects_minmax_but_not_percentile(tmp_path: Path, made: Path) -> None:
    data = Data.read(made / "cnn" / "train.npz", "y").take(slice(0, 256))
    data.inputs["x"][3] *= 50
    wanted, same = answers(made / "cnn.onnx", rows("cnn", 256)).argmax(1), {}
    for calibrate in ("percentile", "minmax"):
        (tmp_path / calibrate).mkdir()
        keys = {"method": "static", "calibrate": calibrate}
        result = done(tmp_path / calibrate, made / "cnn.onnx", "quantize", data=data, **keys)
        assert any("calibration row 3: x reaches 50 times" in note for note in result.notes)
        same[calibrate] = (answers(result.model, rows("cnn", 256)).argmax(1) == wanted).mean()
    assert same["percentile"] > 0.97 > 0.94 > same["minmax"]


def test_dynamic(tmp_path: Path, made: Path) -> None:
    result = done(tmp_path, made / "mlp.onnx", "quantize", method="dynamic")
    assert result.name == "dynamic int8, per row, per channel, 7 bit"
    assert result.model.stat().st_size < 0.35 * (made / "mlp.onnx").stat().st_size
    before, after = (answers(file, rows("mlp")) for file in (made / "mlp.onnx", result.model))
    assert np.abs(before - after).max() < 0.1 * np.abs(before).max()
    assert Facts.of(result.model).operators["MatMulInteger"] == 3


@pytest.mark.parametrize(("per_row", "same"), [(True, True), (False, False)], ids=["per row", "as ONNX Runtime has it"])
def test_a_neighbour_changes_an_answer_only_without_per_row(
    tmp_path: Path, made: Path, per_row: bool, same: bool
) -> None:
    result = done(tmp_path, made / "mlp.onnx", "quantize", method="dynamic", per_row=per_row)
    x = rows("mlp", 8)
    loud = np.concatenate([x[:7], x[7:] * 1e4])
    np.testing.assert_equal((answers(result.model, x)[:7] == answers(result.model, loud)[:7]).all(), same)
    assert any("depends on the other rows of its batch" in note for note in result.notes) is not per_row


def test_dynamic_takes_8_bits_where_the_target_sums_in_32(tmp_path: Path, made: Path) -> None:
    result = done(tmp_path, made / "mlp.onnx", "quantize", method="dynamic", target="vnni")
    assert result.name.endswith("8 bit")
    weights = [
        numpy_helper.to_array(t) for t in onnx.load(result.model).graph.initializer if t.data_type == TensorProto.INT8
    ]
    assert max(int(np.abs(weight).max()) for weight in weights) == 127


SEQUENCE = [
    helper.make_node("Gather", ["table", "index"], ["rows"]),
    helper.make_node("Add", ["x", "rows"], ["sum"]),
    helper.make_node("MatMul", ["sum", "square"], ["product"]),
    helper.make_node("MatMul", ["sum", "wide"], ["other"]),
    helper.make_node("Concat", ["product", "other"], ["y"], axis=-1),
]


@pytest.mark.parametrize("opset", [11, 13, 17, 21])
def test_dynamic_of_sequences_and_embeddings(tmp_path: Path, opset: int) -> None:
    random = np.random.default_rng(0)
    weights: dict[str, Array] = {
        "table": random.standard_normal((100, 32)).astype(np.float32),
        "index": np.array([3, 99, 0, 7, 7], np.int64),
        "square": random.standard_normal((32, 32)).astype(np.float32),
        "wide": random.standard_normal((32, 8)).astype(np.float32),
    }
    file = written(tmp_path / "sequence.onnx", SEQUENCE, weights, ("N", 5, 32), opset)
    result = done(tmp_path, file, "quantize", method="dynamic")
    x = random.standard_normal((4, 5, 32)).astype(np.float32)
    before, after = answers(file, x), answers(result.model, x)
    assert after.shape == before.shape == (4, 5, 40)
    assert np.abs(before - after).max() < 0.05 * np.abs(before).max()
    operators = Facts.of(result.model).operators
    assert (operators["MatMulInteger"], operators["QuantizeLinear"]) == (2, 1)  # the two products share an activation
    assert result.model.stat().st_size < file.stat().st_size


def test_rows_of_zeros_stay_zeros(tmp_path: Path) -> None:
    weights = {"w": np.eye(4, dtype=np.float32)}
    file = written(tmp_path / "zeros.onnx", [helper.make_node("MatMul", ["x", "w"], ["y"])], weights, ("N", 4))
    result = done(tmp_path, file, "quantize", method="dynamic")
    assert not answers(result.model, np.zeros((2, 4), np.float32)).any()


def test_nodes_may_be_kept(tmp_path: Path, made: Path) -> None:
    name = onnx.load(made / "mlp.onnx").graph.node[0].name
    result = done(tmp_path, made / "mlp.onnx", "quantize", method="dynamic", keep=[name])
    assert Facts.of(result.model).operators["MatMulInteger"] == 2


def test_half(tmp_path: Path, made: Path) -> None:
    result = done(tmp_path, made / "cnn.onnx", "half")
    assert 0.49 < result.model.stat().st_size / (made / "cnn.onnx").stat().st_size < 0.54
    assert np.abs(answers(result.model, rows("cnn")) - answers(made / "cnn.onnx", rows("cnn"))).max() < 0.03
    assert OnnxModel(result.model).signature == OnnxModel(made / "cnn.onnx").signature
    assert not any("fast" in note for note in result.notes)


@pytest.mark.parametrize(("values", "most"), [(256, 0.38), (16, 0.23), (300, 0.6)])
def test_share(tmp_path: Path, made: Path, values: int, most: float) -> None:
    result = done(tmp_path, made / "cnn.onnx", "share", values=values)
    assert result.model.stat().st_size < most * (made / "cnn.onnx").stat().st_size
    same = answers(result.model, rows("cnn")).argmax(1) == answers(made / "cnn.onnx", rows("cnn")).argmax(1)
    assert same.mean() > 0.9


def test_a_codebook_is_a_fixed_point_of_k_means() -> None:
    weights = np.random.default_rng(0).standard_normal((40, 50)).astype(np.float32)
    centres, places = codebook(weights, 16)
    nearest = np.abs(weights[..., None] - centres).argmin(-1)
    assert (nearest == places).mean() > 0.999
    for number in np.unique(places):
        np.testing.assert_allclose(weights[places == number].mean(), centres[number], atol=1e-4)


def test_few_values_are_kept_exactly() -> None:
    weights = np.array([[-1.0, 0.0, 2.0]] * 5, np.float32)
    centres, places = codebook(weights, 16)
    np.testing.assert_array_equal(centres[places], weights)


def test_simplify(tmp_path: Path, made: Path) -> None:
    result = done(tmp_path, made / "cnn.onnx", "simplify")
    np.testing.assert_allclose(answers(result.model, rows("cnn")), answers(made / "cnn.onnx", rows("cnn")), atol=1e-4)
    assert "nodes became" in result.notes[0]


HUGE = {"w": np.full((4, 4), 1e30, np.float32)}
PRODUCT = [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")]


def test_errors_of_the_steps(tmp_path: Path, made: Path) -> None:
    huge = written(tmp_path / "huge.onnx", PRODUCT, HUGE, ("N", 4))
    relu = written(tmp_path / "relu.onnx", [helper.make_node("Relu", ["x"], ["y"])], {}, ("N", 4))
    (tmp_path / "first").mkdir()
    quantized = done(tmp_path / "first", made / "mlp.onnx", "quantize", method="dynamic").model
    cases: list[tuple[Path, str, dict[str, Any], str]] = [
        (huge, "half", {}, "half: 16 values of the weight w are beyond 65504, the largest half float"),
        (huge, "share", {}, "share: no weight has 1024 values or more"),
        (huge, "quantize", {"method": "dynamic", "keep": ["other"]}, "keep names the node other, which does not exist"),
        (relu, "quantize", {"method": "dynamic"}, "the model has no Conv, MatMul or Gemm to quantize"),
        (quantized, "quantize", {"method": "dynamic"}, "the model is already quantized"),
        (quantized, "half", {}, "the model is already quantized"),
        (made / "cnn.onnx", "quantize", {"method": "static"}, "there are no rows to calibrate on"),
    ]
    for number, (model, kind, keys, words) in enumerate(cases):
        (tmp_path / str(number)).mkdir()
        with pytest.raises(ToolkitError, match=words):
            done(tmp_path / str(number), model, kind, **keys)


def test_nothing_is_left_in_the_users_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    nodes = [
        helper.make_node("Inverse", ["x"], ["inverse"], domain="com.microsoft"),
        helper.make_node("MatMul", ["inverse", "w"], ["y"]),
    ]
    weights = {"w": np.eye(4, dtype=np.float32)}
    model = onnx.load(written(tmp_path / "inverse.onnx", nodes, weights, ("N", 4, 4)))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    onnx.save(model, tmp_path / "inverse.onnx")
    data = Data("rows", "", {"x": np.eye(4, dtype=np.float32)[None].repeat(8, 0)})
    done(tmp_path, tmp_path / "inverse.onnx", "quantize", data=data, method="static")
    # ONNX Runtime's shape inference writes the model to disk if it meets an operator whose shapes it does not know.
    assert list(Path.cwd().iterdir()) == []
