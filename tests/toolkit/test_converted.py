"""An input whose name an exporter has generated gets the user's name."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from headrace_batching.task import Array, Arrays
from headrace_toolkit.sources.base import Origin, SourceOptions
from headrace_toolkit.sources.converted import converted

ROWS = np.ones((2, 4), np.float32)


def names_of(made: str, example: Arrays | None) -> list[str]:
    """The input names of a source whose exporter calls its input `made`; the source's own answers must still work."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("Relu", [made], ["y"])], "g",
        [value(made, TensorProto.FLOAT, ["N", 4])], [value("y", TensorProto.FLOAT, ["N", 4])],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)

    def answer(inputs: Arrays) -> list[Array]:
        return [inputs[made]]

    origin = Origin(name="model", kind="savedmodel", framework="", sha256="")
    source = converted(origin, model, answer, SourceOptions(example=example))
    names = list(source.signature.inputs)
    np.testing.assert_array_equal(source.run({names[0]: ROWS})["y"], ROWS)
    return names


@pytest.mark.parametrize("made", ["keras_tensor", "keras_tensor_12", "serving_default_x", "input_1", "args_0"])
def test_a_generated_name(made: str) -> None:
    assert names_of(made, {"image": ROWS}) == ["image"]
    assert names_of(made, None) == [made]
    assert names_of(made, {"image": ROWS, "other": ROWS}) == [made]
    assert names_of(made, {"": ROWS}) == [made]


@pytest.mark.parametrize("made", ["image", "pixels", "my_input"])
def test_a_chosen_name(made: str) -> None:
    assert names_of(made, {"other": ROWS}) == [made]
