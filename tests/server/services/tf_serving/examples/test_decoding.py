"""tf.Examples decoded into arrays, and serialized: kinds, shapes, contexts, and errors."""

from typing import Any, NamedTuple

import numpy as np
import pytest

from headrace_protos import Code, DataType, Example, Feature, FloatList, Input
from headrace_protos.tensor import dtype_of
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError
from headrace_server.services.tf_serving.examples.decoding import read_examples
from tests.support.examples import example, examples

FLOATS = (DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_HALF, DataType.DT_BFLOAT16)
WHOLE = (DataType.DT_INT8, DataType.DT_INT16, DataType.DT_INT32, DataType.DT_INT64,
         DataType.DT_UINT8, DataType.DT_UINT16, DataType.DT_UINT32, DataType.DT_UINT64)  # fmt: skip
NO_KIND = Feature()
EMPTY = Feature(float_list=FloatList())


def takes(dtype: DataType, *shape: int | None) -> Signature:
    """One feature, `x`."""
    return Signature({"x": TensorSpec("x:0", dtype, shape)}, {}, features=True)


def parsed(signature: Signature, *every: Example, context: Example | None = None) -> Any:
    return read_examples(examples(*every, context=context)).arrays(signature)["x"]


def refusal(signature: Signature, *every: Example, context: Example | None = None) -> str:
    with pytest.raises(ServingError) as raised:
        parsed(signature, *every, context=context)
    assert raised.value.code == Code.INVALID_ARGUMENT
    return raised.value.message


@pytest.mark.parametrize("dtype", FLOATS)
def test_floats(dtype: DataType) -> None:
    x = parsed(takes(dtype, None, 2), example(x=[1.5, -2.0]), example(x=[0.25, 4.0]))
    assert (x.dtype, x.tolist()) == (dtype_of(dtype), [[1.5, -2], [0.25, 4]])


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_numbers(dtype: DataType) -> None:
    x = parsed(takes(dtype, None), example(x=[1]), example(x=[127]))
    assert (x.dtype, x.tolist()) == (dtype_of(dtype), [1, 127])


def test_booleans() -> None:
    x = parsed(takes(DataType.DT_BOOL, None, 3), example(x=[0, 1, -7]))
    assert (x.dtype, x.tolist()) == (np.dtype(bool), [[False, True, True]])


def test_strings() -> None:
    x = parsed(takes(DataType.DT_STRING, None, 2), example(x=[b"a\0", b""]), example(x=[b"\xff", b"b"]))
    assert x.tolist() == [[b"a\0", b""], [b"\xff", b"b"]]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((None,), (2,)),
        ((), (2,)),
        ((None, 6), (2, 6)),
        ((None, 2, 3), (2, 2, 3)),
        ((None, None), (2, 6)),
        ((None, 3, None), (2, 3, 2)),
        ((2, 6), (2, 6)),
    ],
)
def test_the_shape_is_the_inputs(shape: tuple[int | None, ...], expected: tuple[int, ...]) -> None:
    count = int(np.prod(expected)) // 2
    x = parsed(takes(DataType.DT_INT64, *shape), *[example(x=list(range(count)))] * 2)
    assert (x.shape, x[0].ravel().tolist()) == (expected, list(range(count)))


def test_no_values_for_a_shape_without_elements() -> None:
    assert parsed(takes(DataType.DT_FLOAT, None, None), example(x=EMPTY)).shape == (1, 0)
    assert parsed(takes(DataType.DT_FLOAT, None, 0), example(x=EMPTY)).shape == (1, 0)


def test_features_without_an_input_are_ignored() -> None:
    assert parsed(takes(DataType.DT_FLOAT, None), example(x=[1.0], y=[b"z"])).tolist() == [1]


def test_the_context_is_shared_and_the_examples_feature_overrides_it() -> None:
    signature = takes(DataType.DT_FLOAT, None)
    x = parsed(signature, example(), example(x=[2.0]), context=example(x=[1.0]))
    assert x.tolist() == [1, 2]


class Wrong(NamedTuple):
    dtype: DataType
    shape: tuple[int | None, ...]
    every: list[Example]
    text: str


FLOAT, INT64, STRING = DataType.DT_FLOAT, DataType.DT_INT64, DataType.DT_STRING
OTHER_TYPE = "Data types don't match. Data type: {} but expected type: {}"
OTHER_NUMBER = "Number of {} values != expected.  Values size: {} but output shape: {}"


def missing(dtype: str) -> str:
    return f"Name: <unknown>, Feature: x (data type: {dtype}) is required but could not be found."


def at(index: int, text: str, *fields: object) -> str:
    return f"Name: <unknown>, Key: x, Index: {index}.  {text.format(*fields)}"


WRONG = {
    "missing": Wrong(FLOAT, (None,), [example(y=[1.0])], missing("float")),
    "missing number": Wrong(INT64, (None,), [example(x=[1]), example()], missing("int64")),
    "missing text": Wrong(STRING, (None,), [example()], missing("string")),
    "no kind": Wrong(FLOAT, (None,), [example(x=NO_KIND)], missing("float")),
    "whole numbers for floats": Wrong(FLOAT, (None,), [example(x=[1])], at(0, OTHER_TYPE, "int64", "float")),
    "floats for whole numbers": Wrong(
        INT64, (None,), [example(x=[1]), example(x=[1.0])], at(1, OTHER_TYPE, "float", "int64")
    ),
    "texts for floats": Wrong(FLOAT, (None,), [example(x=[b"1"])], at(0, OTHER_TYPE, "string", "float")),
    "floats for texts": Wrong(STRING, (None,), [example(x=[1.0])], at(0, OTHER_TYPE, "float", "string")),
    "too many": Wrong(FLOAT, (None, 1), [example(x=[1.0, 2.0])], at(0, OTHER_NUMBER, "float", 2, "[1]")),
    "too few, later": Wrong(
        FLOAT, (None, 2, 1), [example(x=[1.0, 2.0]), example(x=[1.0])], at(1, OTHER_NUMBER, "float", 1, "[2,1]")
    ),
    "none": Wrong(FLOAT, (None, 2), [example(x=EMPTY)], at(0, OTHER_NUMBER, "float", 0, "[2]")),
    "two for one": Wrong(INT64, (None,), [example(x=[1, 2])], at(0, OTHER_NUMBER, "int64", 2, "[]")),
    "a number of values that differs from the first Example's": Wrong(
        INT64, (None, None), [example(x=[1]), example(x=[1, 2])], at(1, OTHER_NUMBER, "int64", 2, "[1]")
    ),
    "two dimensions that vary": Wrong(
        INT64,
        (None, None, None),
        [example(x=[1])],
        "Feature: x has values for more than one varying dimension: (None, None, None)",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_features(name: str) -> None:
    wrong = WRONG[name]
    assert refusal(takes(wrong.dtype, *wrong.shape), *wrong.every) == wrong.text


@pytest.mark.parametrize(("dtype", "value"), [(DataType.DT_INT8, 128), (DataType.DT_UINT8, -1)])
def test_a_number_that_its_input_cannot_hold(dtype: DataType, value: int) -> None:
    text = refusal(takes(dtype, None), example(x=[value]))
    assert text.startswith(f"Feature: x has a value that {DataType.Name(dtype)[3:].lower()} cannot hold: ")


@pytest.mark.parametrize(
    "message", [Input(), examples(), examples(context=example(x=[1.0]))], ids=["unset", "no examples", "only a context"]
)
def test_no_examples(message: Input) -> None:
    with pytest.raises(ServingError, match=r"^Input is empty\.$") as raised:
        read_examples(message)
    assert raised.value.code == Code.INVALID_ARGUMENT


class TestSerialized:
    """A graph that parses Examples itself."""

    GRAPH = Signature({"inputs": TensorSpec("tf_example:0", DataType.DT_STRING, (None,))}, {})

    def serialized(self, *every: Example, context: Example | None = None) -> list[bytes]:
        array = read_examples(examples(*every, context=context)).arrays(self.GRAPH)["inputs"]
        assert (array.dtype, array.shape) == (np.dtype(object), (len(every),))
        return [bytes(item) for item in array]

    def test_each_is_what_was_sent(self) -> None:
        every = [example(x=[1.0], y=[b"\xff"]), example()]
        assert [Example.FromString(item) for item in self.serialized(*every)] == every

    def test_the_contexts_bytes_come_before_the_examples(self) -> None:
        shared, own = example(a=[1]), example(b=[2])
        (item,) = self.serialized(own, context=shared)
        assert item == shared.SerializeToString() + own.SerializeToString()
        assert Example.FromString(item) == example(a=[1], b=[2])
