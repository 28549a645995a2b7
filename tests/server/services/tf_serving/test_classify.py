"""Classify over features: which outputs are classes and scores, labels, batches, and every error."""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from grpc import StatusCode
from onnx import TensorProto

from headrace_batching import Options
from headrace_protos import ClassificationRequest
from tests.conftest import Run, Stop
from tests.support import feature_models, models
from tests.support.calls import Caller
from tests.support.examples import classify_request, example, labelled

ONE = example(age=[1], weights=[0.5, 1.5])
TWO = example(age=[2], weights=[3.0, 4.0], unasked=[b"ignored"])


@pytest.fixture(scope="module")
def tariff(running: Run) -> Caller:
    signatures = {
        "named": {"method": "classify", "labels": ["lo", "hi"], "outputs": {"scores": "scores"}},
        "short": {"method": "classify", "labels": ["lo"], "outputs": {"scores": "scores"}},
        "regress": {"method": "regress", "outputs": {"outputs": "price"}},
    }
    return running(partial(feature_models.tariff, signatures=signatures)).caller


def test_scores_without_labels(tariff: Caller) -> None:
    response = tariff.call(classify_request(ONE, TWO))
    assert labelled(response) == [[("", 1.5), ("", 2.5)], [("", 5), ("", 6)]]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("model", 1, "serving_default")


def test_labels_by_index(tariff: Caller) -> None:
    response = tariff.call(classify_request(TWO, signature_name="named"))
    assert labelled(response) == [[("lo", 5), ("hi", 6)]]
    assert response.model_spec.signature_name == "named"


def test_features_of_a_context(tariff: Caller) -> None:
    response = tariff.call(classify_request(example(age=[1]), example(), context=example(age=[9], weights=[0.0, 1.0])))
    assert labelled(response) == [[("", 1), ("", 2)], [("", 9), ("", 10)]]


def test_classes_and_scores_of_the_model(running: Run) -> None:
    caller = running(feature_models.words).caller
    response = caller.call(classify_request(example(words=[b"cat", "größer".encode()], numbers=[0.5, 0.25])))
    assert labelled(response) == [[("cat", 0.5), ("größer", 0.25)]]


def test_examples_as_they_are_and_classes_alone(running: Run) -> None:
    sent = example(a=[b"text"])
    response = running(feature_models.serialized).caller.call(classify_request(sent))
    assert labelled(response) == [[(sent.SerializeToString().decode(), 0)]]


def test_the_one_table_of_floats_is_the_scores(running: Run) -> None:
    response = running(feature_models.forest).caller.call(classify_request(example(x=[0.0, 0.0])))
    assert labelled(response) == [[("", 0.5), ("", 0.5)]]


def test_examples_of_several_requests_share_a_batch(running: Run, served: Stop) -> None:
    server = running(feature_models.tariff, batching=Options(num_batch_threads=1, batch_timeout_micros=20_000))
    futures = [server.caller.begin(classify_request(*[ONE] * (1 + n % 3), example(age=[n], weights=[0.0, 1.0])))
               for n in range(60)]  # fmt: skip
    for n, future in enumerate(futures):
        assert labelled(future.result())[-1] == [("", n), ("", n + 1)]
    counts = served(server)
    assert (counts.requests, counts.rows) == (60, sum(2 + n % 3 for n in range(60)))
    assert counts.batches < 30


def test_more_examples_than_a_batch_may_have(running: Run) -> None:
    caller = running(feature_models.tariff, batching=Options(max_batch_size=2)).caller
    refusal = caller.refusal(classify_request(ONE, ONE, ONE))
    assert refusal == (StatusCode.INVALID_ARGUMENT, "Task size 3 is larger than maximum input batch size 2")


MISSING = "Name: <unknown>, Feature: weights (data type: float) is required but could not be found."


@dataclasses.dataclass
class Refused:
    request: ClassificationRequest
    text: str
    code: StatusCode = StatusCode.INVALID_ARGUMENT


NOT_FOUND = StatusCode.NOT_FOUND

REFUSED = {
    "no spec": Refused(ClassificationRequest(), "Missing ModelSpec"),
    "no name": Refused(classify_request(ONE, name=""), "ModelSpec has no name specified."),
    "no model": Refused(classify_request(ONE, name="no"), "Servable not found for request: Latest(no)", NOT_FOUND),
    "no version": Refused(
        classify_request(ONE, version=2), "Servable not found for request: Specific(model, 2)", NOT_FOUND
    ),
    "no signature": Refused(classify_request(ONE, signature_name="no"), "No signature was found with the name: no"),
    "no examples": Refused(classify_request(), "Input is empty."),
    "an unknown signature, checked before the examples": Refused(
        classify_request(signature_name="no"), "No signature was found with the name: no"
    ),
    "no feature": Refused(classify_request(example(age=[1])), MISSING),
    "a number of labels other than that of scores": Refused(
        classify_request(ONE, signature_name="short"),
        "The model has 1 labels for 2 scores",
        StatusCode.FAILED_PRECONDITION,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(tariff: Caller, name: str) -> None:
    refused = REFUSED[name]
    assert tariff.refusal(refused.request) == (refused.code, refused.text)


@pytest.mark.parametrize(
    "make",
    [partial(feature_models.passed_on, dtype=TensorProto.DOUBLE), models.two_inputs, models.lookup],
    ids=["no floats", "two tables of floats", "a column"],
)
def test_a_model_without_scores_names_its_signature(running: Run, make: Callable[[Path], Path]) -> None:
    refusal = running(make).caller.refusal(classify_request(example(x=[1.0])))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    start = (
        'Expected classification signature outputs to contain at least one of "classes" or "scores". Signature was: '
    )
    assert refusal.text.startswith(start + "inputs {\n  key: ")


def test_scores_that_are_not_a_table(running: Run) -> None:
    vector = {"method": "classify", "outputs": {"scores": "y"}}
    caller = running(partial(feature_models.passed_on, dims=("N",), signatures={"serving_default": vector})).caller
    refusal = caller.refusal(classify_request(example(x=[1.0])))
    text = "Expected Tensor shape: [batch_size num_classes] but got [1]"
    assert refusal == (StatusCode.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("alias", "dtype", "value", "text"),
    [
        ("scores", TensorProto.DOUBLE, [1.0, 2.0], "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE"),
        ("classes", TensorProto.INT64, [1, 2], "Expected classes Tensor of DT_STRING. Got: DT_INT64"),
        ("classes", TensorProto.FLOAT, [1.0, 2.0], "Expected classes Tensor of DT_STRING. Got: DT_FLOAT"),
        ("scores", TensorProto.STRING, [b"1", b"2"], "Expected scores Tensor of DT_FLOAT. Got: DT_STRING"),
    ],
)
def test_outputs_of_another_dtype(running: Run, alias: str, dtype: int, value: list[object], text: str) -> None:
    signature = {"method": "classify", "outputs": {alias: "y"}}
    caller = running(partial(feature_models.passed_on, dtype=dtype, signatures={"serving_default": signature})).caller
    assert caller.refusal(classify_request(example(x=value))) == (StatusCode.INVALID_ARGUMENT, text)


@pytest.fixture(scope="module")
def checked(running: Run) -> Caller:
    signatures = {
        "classify": {"method": "classify", "outputs": {"scores": "scores"}},
        "regress": {"method": "regress", "outputs": {"outputs": "price"}},
    }
    make = partial(feature_models.tariff, signatures=signatures)
    return running(make, enable_signature_method_name_check=True).caller


class TestMethodName:
    """With --enable_signature_method_name_check a signature answers only the calls that it was exported for."""

    def test_of_the_calls_kind(self, checked: Caller) -> None:
        assert labelled(checked.call(classify_request(ONE, signature_name="classify"))) == [[("", 1.5), ("", 2.5)]]

    @pytest.mark.parametrize(("name", "method"), [("", "predict"), ("regress", "regress")])
    def test_of_another_kind(self, checked: Caller, name: str, method: str) -> None:
        wanted = "tensorflow/serving/classify"
        text = f"Expected classification signature method_name to be {wanted}. Was: tensorflow/serving/{method}"
        refusal = checked.refusal(classify_request(ONE, signature_name=name))
        assert refusal == (StatusCode.INVALID_ARGUMENT, text)

    @pytest.mark.parametrize("name", ["", "classify", "regress"])
    def test_predict_accepts_all_three(self, checked: Caller, name: str) -> None:
        inputs = {"age": np.array([1]), "weights": np.array([[0.5, 1.5]], np.float32)}
        assert checked.predict(inputs, signature_name=name)


MODEL_TOML = """
[signatures.serving_default]
method = "classify"
outputs = { scores = "scores" }
labels = "labels.txt"
"""


def with_options(folder: Path) -> Path:
    """A version of a model with a model.toml and a file of labels."""
    folder.parent.joinpath("model.toml").write_text(MODEL_TOML)
    folder.parent.joinpath("labels.txt").write_text("lo\nhöher\n")
    return feature_models.tariff(folder)


def test_labels_from_model_toml(running: Run) -> None:
    caller = running(with_options, enable_signature_method_name_check=True).caller
    assert labelled(caller.call(classify_request(ONE))) == [[("lo", 1.5), ("höher", 2.5)]]
