"""Every way in which Predict refuses a request: code and text, as a client sees them."""

from functools import partial
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from headrace_batching import Options
from headrace_protos import DataType, PredictRequest, TensorProto, TensorShapeProto
from tests.conftest import Run
from tests.support import models
from tests.support.calls import Caller, arrays, floats, predict_request
from tests.support.models import believed

ROW = floats([1, 2, 3, 4])
PAIR = floats([1, 2])
STRING_LENGTHS = b"\x01\x05"  # two strings with 6 bytes together


class Case(NamedTuple):
    request: Message
    code: StatusCode
    text: str


@pytest.fixture(scope="module")
def linear(running: Run) -> Caller:
    return running(models.linear, batching=Options(max_batch_size=8)).caller


@pytest.fixture(scope="module")
def pair(running: Run) -> Caller:
    return running(models.two_inputs).caller


def spec(**fields: Any) -> PredictRequest:
    return predict_request({"x": ROW}, **fields)


def invalid(request: Message, text: str) -> Case:
    return Case(request, StatusCode.INVALID_ARGUMENT, text)


def not_found(request: Message, text: str) -> Case:
    return Case(request, StatusCode.NOT_FOUND, text)


MODEL_SPEC = {
    "none": invalid(PredictRequest(), "Missing ModelSpec"),
    "no name": invalid(spec(name=""), "ModelSpec has no name specified."),
    "no name, but a label": invalid(spec(name="", version_label="a"), "ModelSpec has no name specified."),
    "unknown model": not_found(spec(name="nobody"), "Servable not found for request: Latest(nobody)"),
    "unknown version": not_found(spec(version=7), "Servable not found for request: Specific(model, 7)"),
    "version 0": not_found(spec(version=0), "Servable not found for request: Specific(model, 0)"),
    "version -1": not_found(spec(version=-1), "Servable not found for request: Specific(model, -1)"),
    "unknown label": invalid(spec(version_label="a"), "Unrecognized servable version label: a"),
    "empty label": invalid(spec(version_label=""), "Unrecognized servable version label: "),
    "label of an unknown model": invalid(
        spec(name="nobody", version_label="a"), "Unrecognized servable version label: a"
    ),
    "unknown signature": Case(
        spec(signature_name="other"), StatusCode.FAILED_PRECONDITION, 'Serving signature key "other" not found.'
    ),
    "unknown signature before wrong inputs": Case(
        predict_request({}, signature_name="other"),
        StatusCode.FAILED_PRECONDITION,
        'Serving signature key "other" not found.',
    ),
}


@pytest.mark.parametrize("name", MODEL_SPEC)
def test_model_spec(linear: Caller, name: str) -> None:
    request, *refusal = MODEL_SPEC[name]
    assert [*linear.refusal(request)] == refusal


INPUTS = {
    "none": invalid(
        predict_request({}),
        "input size does not match signature: 0!=2 len({}) != len({a,b}). Sent extra: {}. Missing but required: {a,b}.",
    ),
    "one missing": invalid(
        predict_request({"b": PAIR}),
        "input size does not match signature: 1!=2 len({b}) != len({a,b}). Sent extra: {}. Missing but required: {a}.",
    ),
    "extra ones": invalid(
        predict_request({"a": PAIR, "b": PAIR, "d": PAIR, "c": PAIR}),
        "input size does not match signature: 4!=2 len({a,b,c,d}) != len({a,b}). Sent extra: {c,d}. "
        "Missing but required: {}.",
    ),
    "misnamed": invalid(
        predict_request({"a": PAIR, "c": PAIR}),
        "Signature input alias: b(feed name: b) not found in request and no default value provided. "
        "Inputs expected to be in the request {a,c}, or default input alias set: ",
    ),
    "names before tensors": invalid(
        predict_request({"a": TensorProto(), "c": PAIR}),
        "Signature input alias: b(feed name: b) not found in request and no default value provided. "
        "Inputs expected to be in the request {a,c}, or default input alias set: ",
    ),
    "tensors before outputs": invalid(
        predict_request({"a": TensorProto(), "b": PAIR}, outputs=["nothing"]), "tensor parsing error: a"
    ),
    "unknown output": invalid(
        predict_request({"a": PAIR, "b": PAIR}, outputs=["sum", "nothing"]),
        "output tensor alias not found in signature: nothing Outputs expected to be in the set {difference,sum}.",
    ),
    "output twice": invalid(
        predict_request({"a": PAIR, "b": PAIR}, outputs=["sum", "sum"]), "duplicate output tensor alias: sum"
    ),
    "outputs before dtypes": invalid(
        predict_request({"a": PAIR.astype(int), "b": PAIR}, outputs=["sum", "sum"]),
        "duplicate output tensor alias: sum",
    ),
    "wrong dtype": invalid(
        predict_request({"a": PAIR, "b": PAIR.astype("f8")}), "Expects arg[1] to be float but double is provided"
    ),
    "strings for numbers": invalid(
        predict_request({"a": np.array([[b"1", b"2"]], object), "b": PAIR}),
        "Expects arg[0] to be float but string is provided",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_and_outputs(pair: Caller, name: str) -> None:
    request, *refusal = INPUTS[name]
    assert [*pair.refusal(request)] == refusal


def test_different_numbers_of_rows_are_left_to_the_model(pair: Caller) -> None:
    """TF Serving refuses these if it batches: "Batching Run() input tensors must have equal 0th-dimension size"."""
    two = floats([1, 2], [3, 4])
    assert pair.predict({"a": PAIR, "b": two})["sum"].tolist() == (PAIR + two).tolist()
    refusal = pair.refusal(predict_request({"a": two, "b": floats([1, 2], [3, 4], [5, 6])}))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith("Dimension N of input: b Got: 3 Expected: 2")


def test_more_rows_than_a_batch_may_have(linear: Caller) -> None:
    request = predict_request({"x": np.zeros((9, 4), np.float32)})
    expected = (StatusCode.INVALID_ARGUMENT, "Task size 9 is larger than maximum input batch size 8")
    assert linear.refusal(request) == expected


def shaped(*sizes: int, **fields: Any) -> TensorProto:
    shape = TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])
    return TensorProto(**{"dtype": DataType.DT_FLOAT, "tensor_shape": shape, **fields})


UNDECODABLE = {
    "no dtype": TensorProto(float_val=[1]),
    "content too short": shaped(1, 4, tensor_content=bytes(15)),
    "content too long": shaped(1, 4, tensor_content=bytes(17)),
    "content for no dimensions": shaped(tensor_content=bytes(8)),
    "negative dimension": shaped(-1, 4, float_val=[1]),
    "most negative dimension": shaped(-(2**63), float_val=[1]),
    "two negative dimensions": shaped(-2, -2, float_val=[1]),
    "overflowing dimensions": shaped(2**62, 4, float_val=[1]),
    "overflow, then a zero": shaped(2**62, 4, 0),
    "terabytes by one value": shaped(2**38, 4, float_val=[1]),
    "terabytes of zeros": shaped(2**38, 4),
    "terabytes of strings": shaped(2**38, 4, dtype=DataType.DT_STRING, string_val=[b"a"]),
    "content of terabytes": shaped(2**38, 4, tensor_content=bytes(16)),
    "neither 0 nor 1": shaped(2, dtype=DataType.DT_BOOL, tensor_content=b"\1\2"),
    "strings that end early": shaped(2, dtype=DataType.DT_STRING, tensor_content=STRING_LENGTHS + b"abcde"),
    "strings with a byte left over": shaped(2, dtype=DataType.DT_STRING, tensor_content=STRING_LENGTHS + b"abcdefg"),
    "lengths that do not end": shaped(2, dtype=DataType.DT_STRING, tensor_content=b"\xff" * 4),
    "resource": shaped(1, dtype=DataType.DT_RESOURCE),
    "variant": shaped(1, dtype=DataType.DT_VARIANT),
    "reference": shaped(1, dtype=DataType.DT_FLOAT_REF, float_val=[1]),
    "unknown dtype": shaped(1, dtype=99),
    "rank 1000": shaped(*[1] * 1000, float_val=[1]),
}


@pytest.mark.parametrize("name", UNDECODABLE)
def test_tensor_that_cannot_be_decoded(linear: Caller, name: str) -> None:
    expected = (StatusCode.INVALID_ARGUMENT, "tensor parsing error: x")
    assert linear.refusal(predict_request({"x": UNDECODABLE[name]})) == expected


def test_rows_claimed_without_a_single_value(running: Run) -> None:
    caller = running(models.row_sums).caller
    where = "Got invalid dimensions for input: x for the following indices index: 1 Got: 0 Expected: at least 1"
    for rows in (2**40, 3):
        assert caller.refusal(predict_request({"x": shaped(rows, 0)})) == (StatusCode.INVALID_ARGUMENT, where)


def test_runtime_refuses_with_its_own_code_and_text(running: Run) -> None:
    caller = running(models.lookup).caller
    refusal = caller.refusal(predict_request({"index": np.array([10])}))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert "indices element out of data bounds, idx=10" in refusal.text


def test_inputs_that_do_not_fit_each_other(running: Run) -> None:
    """Without batching, the error names the dimension of the rows; with batching, another dimension that has a name."""
    pairs = {"a": np.ones((3, 2), np.float32), "b": np.ones((2, 2), np.float32)}
    refusal = running(models.two_inputs, enable_batching=False).caller.refusal(predict_request(pairs))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith("Dimension N of input: b Got: 2 Expected: 3, and the model refuses it: ")

    wide = running(partial(models.two_inputs, left=("N", "W"), right=("N", "W"))).caller
    refusal = wide.refusal(predict_request({"a": floats([1, 2, 3]), "b": floats([1, 2])}))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith("Dimension W of input: b Got: 2 Expected: 3, and the model refuses it: ")
    assert wide.predict({"a": floats([1, 2, 3]), "b": floats([1])})["sum"].tolist() == [[2, 3, 4]]  # `b` is broadcast


def test_text_that_is_not_utf8_names_its_input(running: Run) -> None:
    caller = running(partial(models.identity, dtype=onnx.TensorProto.STRING)).caller
    refusal = caller.refusal(predict_request({"x": np.array([[b"\xff", b""]], object)}))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert "input x" in refusal.text
    assert "UTF-8" in refusal.text


def test_output_with_other_rows_than_the_inputs(running: Run) -> None:
    """TF Serving refuses the answer if it batches, with FAILED_PRECONDITION."""
    caller = running(models.positive).caller
    answer = caller.predict({"x": np.array([-1, 1], np.float32)})
    assert {alias: array.tolist() for alias, array in answer.items()} == {"y": [-1, 1], "above": [1]}


def test_an_output_with_other_rows_of_a_model_batched_without_a_trial(running: Run) -> None:
    """A task that runs alone gets its answer as it is; tasks that share a batch are run again alone."""
    batching = Options(num_batch_threads=1, batch_timeout_micros=20_000)
    caller = running(believed(models.positive), batching=batching).caller
    sent = [np.array([number - 3, number], np.float32) for number in range(8)]
    futures = [caller.begin(predict_request({"x": x})) for x in sent]
    for x, future in zip(sent, futures, strict=True):
        assert arrays(future.result())["above"].tolist() == x[x > 0].tolist()


def test_a_scalar_output_of_a_model_batched_without_a_trial(running: Run) -> None:
    caller = running(believed(models.scalar_output)).caller
    assert caller.predict({"x": floats([1, 2], [3, 4])})["total"].shape == ()


MANY = 100_000


@pytest.fixture(scope="module")
def words(running: Run) -> Caller:
    texts = partial(models.identity, dtype=onnx.TensorProto.STRING, dims=("N", "M"))
    return running(texts, batching=Options(max_batch_size=8)).caller


class TestManyStrings:
    """Many strings are refused for their dtype or their number, before the server notices that they do not parse."""

    @staticmethod
    def many(shape: tuple[int, ...]) -> PredictRequest:
        request = predict_request({})
        dims = [TensorShapeProto.Dim(size=size) for size in shape]
        content = STRING_LENGTHS + bytes(MANY)
        tensor = TensorProto(dtype=DataType.DT_STRING, tensor_shape=TensorShapeProto(dim=dims), tensor_content=content)
        request.inputs["x"].CopyFrom(tensor)
        return request

    def test_for_a_model_that_takes_numbers(self, linear: Caller) -> None:
        refusal = linear.refusal(self.many((MANY,)))
        assert refusal.code is StatusCode.INVALID_ARGUMENT
        assert refusal.text == "Expects arg[0] to be float but string is provided"

    def test_of_more_rows_than_a_batch_may_have(self, words: Caller) -> None:
        refusal = words.refusal(self.many((MANY, 1)))
        assert refusal.code is StatusCode.INVALID_ARGUMENT
        assert f"Task size {MANY} is larger than maximum input batch size 8" in refusal.text

    @pytest.mark.parametrize("shape", [(1, MANY), (2**40, 2**40), (MANY + 3,) * 8, (1,) * 300])
    def test_valid_requests_are_decoded(self, words: Caller, shape: tuple[int, ...]) -> None:
        assert "tensor parsing error: x" in words.refusal(self.many(shape)).text
