"""Models as exporters write them: dictionaries of probabilities, outputs that are not tensors, custom operators."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.helper import (
    make_graph,
    make_map_type_proto,
    make_model,
    make_node,
    make_opsetid,
    make_sequence_type_proto,
    make_tensor_type_proto,
    make_tensor_value_info,
    make_value_info,
)

from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.config.model_toml import SignatureOptions
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.errors import LoadError
from tests.conftest import Run
from tests.support.calls import arrays, floats, predict_request
from tests.support.models import FILE

DEFAULT = "serving_default"
NUMBERS, NAMES = (7, 8, 9), ("cat", "dog", "caf\u00e9")


def save(folder: Path, graph: onnx.GraphProto, *domains: tuple[str, int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    imports = [make_opsetid(*domain) for domain in domains]
    onnx.save_model(make_model(graph, opset_imports=imports, ir_version=8), str(folder / FILE))
    return folder / FILE


def classifier(folder: Path, classes: Sequence[int] | Sequence[str] = NUMBERS, *, own: bool = True) -> Path:
    """A classifier as skl2onnx writes it: `output_label`, and `output_probability`, a list of dictionaries.

    The probabilities of each row are the softmax of (x, 0, 0). `own` says whether ONNX's own operators are imported.
    """
    kind, key = ("int64s", TensorProto.INT64) if isinstance(classes[0], int) else ("strings", TensorProto.STRING)
    weights: dict[str, Any] = {"coefficients": [1.0, 0.0, 0.0], "intercepts": [0.0] * 3, "post_transform": "SOFTMAX"}
    weights["classlabels_ints" if kind == "int64s" else "classlabels_strings"] = classes
    labels: dict[str, Any] = {f"classlabels_{kind}": classes}
    nodes = [
        make_node("LinearClassifier", ["x"], ["output_label", "scores"], domain="ai.onnx.ml", **weights),
        make_node("ZipMap", ["scores"], ["output_probability"], domain="ai.onnx.ml", **labels),
    ]
    dictionary = make_map_type_proto(key, make_tensor_type_proto(TensorProto.FLOAT, []))
    outputs = [
        make_tensor_value_info("output_label", key, [None]),
        make_value_info("output_probability", make_sequence_type_proto(dictionary)),
    ]
    graph = make_graph(nodes, "g", [make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])], outputs)
    return save(folder, graph, ("ai.onnx.ml", 3), *([("", 17)] if own else []))


def pieces(folder: Path, *, alone: bool = False) -> Path:
    """`pieces`, a sequence of the rows of `x`; and, unless `alone` is set, `y` = `x`."""
    nodes = [make_node("SplitToSequence", ["x"], ["pieces"], axis=0), make_node("Identity", ["x"], ["y"])]
    sequence = make_sequence_type_proto(make_tensor_type_proto(TensorProto.FLOAT, [1, 2]))
    outputs = [make_value_info("pieces", sequence), make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]
    x = make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    return save(folder, make_graph(nodes[: 2 - alone], "g", [x], outputs[: 2 - alone]), ("", 17))


def optional_beside(folder: Path) -> Path:
    """`maybe`, an optional `x`; and `y` = `x`."""
    nodes = [make_node("Optional", ["x"], ["maybe"]), make_node("Identity", ["x"], ["y"])]
    maybe = onnx.helper.make_optional_type_proto(make_tensor_type_proto(TensorProto.FLOAT, ["N", 2]))
    outputs = [make_value_info("maybe", maybe), make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])]
    x = make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])
    return save(folder, make_graph(nodes, "g", [x], outputs), ("", 17))


def upper_case(folder: Path) -> Path:
    """`y` = the strings `x` in upper case, by an operator of onnxruntime-extensions."""
    node = make_node("StringUpper", ["x"], ["y"], domain="ai.onnx.contrib")
    values = [make_tensor_value_info(name, TensorProto.STRING, ["N"]) for name in "xy"]
    return save(folder, make_graph([node], "g", values[:1], values[1:]), ("", 17), ("ai.onnx.contrib", 1))


class TestZipMap:
    @pytest.mark.parametrize("classes", [NUMBERS, NAMES])
    @pytest.mark.parametrize("own", [True, False])
    def test_the_tensor_of_the_probabilities_is_served(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, classes: tuple[Any, ...], own: bool
    ) -> None:
        file = classifier(tmp_path, classes, own=own)
        backend = load_onnx(file, BackendOptions())
        spec = backend.signatures[DEFAULT].outputs["output_probability"]
        result = backend.run(DEFAULT, {"x": floats([0.0], [1.0])}, ["output_label", "output_probability"])

        assert spec.shape == (None, 3)
        powers = np.exp(np.array([[0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]))
        softmax = powers / powers.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(result["output_probability"], softmax, rtol=1e-6)
        assert result["output_label"][1] == classes[0]
        (warning,) = [message for message in caplog.messages if "zipmap=False" in message]
        assert f"{file}: output_probability is a list of dictionaries" in warning
        assert f"({', '.join(map(str, classes))})" in warning

    def test_a_signature_may_name_either(self, tmp_path: Path) -> None:
        signatures = {
            DEFAULT: SignatureOptions(outputs={"label": "output_label"}),
            "scores": SignatureOptions(outputs={"p": "output_probability"}),
        }
        backend = load_onnx(classifier(tmp_path), BackendOptions(signatures=signatures))

        assert backend.run(DEFAULT, {"x": floats([5.0])}, ["label"])["label"].tolist() == [7]
        assert backend.run("scores", {"x": floats([0.0])}, ["p"])["p"].shape == (1, 3)

    def test_a_classifier_is_called_like_any_model(self, running: Run) -> None:
        server = running(classifier)
        answer = arrays(server.caller.call(predict_request({"x": floats([0.0], [100.0])})))

        assert answer["output_label"].tolist() == [7, 7]
        np.testing.assert_allclose(answer["output_probability"][1], [1, 0, 0], atol=1e-6)


class TestOtherOutputs:
    @pytest.mark.parametrize("make", [pieces, optional_beside])
    def test_outputs_that_are_not_tensors_are_left_out(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, make: Any
    ) -> None:
        backend = load_onnx(make(tmp_path), BackendOptions())

        assert list(backend.signatures[DEFAULT].outputs) == ["y"]
        assert backend.run(DEFAULT, {"x": floats([1.0, 2.0])}, ["y"])["y"].tolist() == [[1, 2]]
        assert [message for message in caplog.messages if "which a tensor cannot contain: it is not served" in message]

    @pytest.mark.parametrize(
        ("alone", "signatures"),
        [(True, {}), (False, {DEFAULT: SignatureOptions(outputs={"p": "pieces"})})],
    )
    def test_the_version_does_not_load_without_another_output_or_if_a_signature_names_it(
        self, tmp_path: Path, alone: bool, signatures: dict[str, SignatureOptions]
    ) -> None:
        file = pieces(tmp_path, alone=alone)
        with pytest.raises(LoadError) as raised:
            load_onnx(file, BackendOptions(signatures=signatures))

        assert raised.value.code == Code.INVALID_ARGUMENT
        assert raised.value.message == f"{file}: 'pieces' is a seq(tensor(float)), which a tensor cannot contain"


class TestCustomOperators:
    @pytest.fixture
    def library(self) -> str:
        extensions = pytest.importorskip("onnxruntime_extensions")
        return str(extensions.get_library_path())

    def test_a_library_provides_custom_operators(self, tmp_path: Path, library: str) -> None:
        options = BackendOptions(onnxruntime=OnnxruntimeOptions(custom_op_libraries=(library,)))
        backend = load_onnx(upper_case(tmp_path), options)

        assert backend.run(DEFAULT, {"x": np.array([b"a", b"b"], object)}, ["y"])["y"].tolist() == ["A", "B"]

    def test_a_single_model_may_name_a_library(self, running: Run, library: str) -> None:
        def make(folder: Path) -> Path:
            text = f'[onnxruntime]\ncustom_op_libraries = ["{library}"]\n'
            (folder.parent / "model.toml").write_text(text)
            return upper_case(folder)

        request = predict_request({"x": np.array([b"a"], object)})
        assert arrays(running(make).caller.call(request))["y"].tolist() == [b"A"]

    def test_without_the_library_the_version_does_not_load(self, tmp_path: Path) -> None:
        file = upper_case(tmp_path)
        with pytest.raises(LoadError, match=r"ai\.onnx\.contrib"):
            load_onnx(file, BackendOptions())

    @pytest.mark.parametrize("name", ["missing.so", "text.so"])
    def test_a_file_that_is_not_a_library_is_named(self, tmp_path: Path, name: str) -> None:
        (tmp_path / "text.so").write_text("no library")
        library = str(tmp_path / name)
        with pytest.raises(LoadError) as raised:
            load_onnx(
                upper_case(tmp_path), BackendOptions(onnxruntime=OnnxruntimeOptions(custom_op_libraries=(library,)))
            )

        assert raised.value.code == Code.FAILED_PRECONDITION
        assert f"the operators of {library} cannot be used: " in raised.value.message


def test_an_input_that_is_not_a_tensor_is_still_an_error(tmp_path: Path) -> None:
    maybe = onnx.helper.make_optional_type_proto(make_tensor_type_proto(TensorProto.FLOAT, ["N"]))
    node = make_node("OptionalHasElement", ["o"], ["y"])
    graph = make_graph([node], "g", [make_value_info("o", maybe)], [make_tensor_value_info("y", TensorProto.BOOL, [])])
    file = save(tmp_path, graph, ("", 18))
    with pytest.raises(LoadError) as raised:
        load_onnx(file, BackendOptions())

    assert raised.value.code == Code.INVALID_ARGUMENT
