"""Regress over features: which output is the value, and every error."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from grpc import StatusCode
from onnx import TensorProto

from headrace_protos import RegressionRequest
from tests.conftest import Run
from tests.support import feature_models, models
from tests.support.calls import Caller
from tests.support.examples import example, regress_request, values

ONE = example(age=[1], weights=[0.5, 1.5])
TWO = example(age=[2], weights=[3.0, 4.0])
SIGNATURES: feature_models.Signatures = {
    "named": {"method": "regress", "outputs": {"outputs": "price"}},
    "scores": {"method": "classify", "outputs": {"scores": "scores"}},
}


@pytest.fixture(scope="module")
def tariff(running: Run) -> Caller:
    return running(partial(feature_models.tariff, signatures=SIGNATURES)).caller


@pytest.fixture(scope="module")
def checked(running: Run) -> Caller:
    make = partial(feature_models.tariff, signatures=SIGNATURES)
    return running(make, enable_signature_method_name_check=True).caller


@pytest.mark.parametrize("name", ["", "named"])
def test_the_one_column_of_floats(tariff: Caller, name: str) -> None:
    response = tariff.call(regress_request(ONE, TWO, signature_name=name))
    assert values(response) == [4, 11]
    spec = response.model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("model", 1, name or "serving_default")


def test_a_vector(running: Run) -> None:
    caller = running(models.row_sums).caller
    assert values(caller.call(regress_request(example(x=[1.0, 2.0, 3.0]), example(x=[4.0, 5.0, 6.0])))) == [6, 15]


def test_features_of_a_context(tariff: Caller) -> None:
    assert values(tariff.call(regress_request(example(age=[1]), context=example(weights=[1.0, 2.0])))) == [5]


class Refused(NamedTuple):
    request: RegressionRequest
    text: str
    code: StatusCode = StatusCode.INVALID_ARGUMENT


REFUSED = {
    "no spec": Refused(RegressionRequest(), "Missing ModelSpec"),
    "no name": Refused(regress_request(ONE, name=""), "ModelSpec has no name specified."),
    "no model": Refused(
        regress_request(ONE, name="no"), "Servable not found for request: Latest(no)", StatusCode.NOT_FOUND
    ),
    "no signature": Refused(regress_request(ONE, signature_name="no"), "No signature was found with the name: no"),
    "no examples": Refused(regress_request(), "Input is empty."),
    "wrong feature": Refused(
        regress_request(example(age=[1.0], weights=[1.0, 2.0])),
        "Name: <unknown>, Key: age, Index: 0.  Data types don't match. Data type: float but expected type: int64",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(tariff: Caller, name: str) -> None:
    refused = REFUSED[name]
    assert tariff.refusal(refused.request) == (refused.code, refused.text)


@pytest.mark.parametrize(
    "make",
    [partial(feature_models.passed_on, dtype=TensorProto.DOUBLE), models.identity, models.two_inputs],
    ids=["no floats", "a table", "two tables"],
)
def test_a_model_without_a_column_names_its_signature(running: Run, make: Callable[[Path], Path]) -> None:
    refusal = running(make).caller.refusal(regress_request(example(x=[1.0])))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith("No regression outputs found in SignatureDef: inputs {\n  key: ")


@pytest.mark.parametrize(
    ("dtype", "dims", "value", "text"),
    [
        (TensorProto.FLOAT, ("N", 2), [1.0, 2.0], "[batch_size] or [batch_size, 1] but got [1,2]"),
        (TensorProto.FLOAT, ("N", 1, 1), [1.0], "[batch_size] or [batch_size, 1] but got [1,1,1]"),
        (TensorProto.DOUBLE, ("N", 1), [1.0], "Expected output Tensor of DT_FLOAT.  Got: DT_DOUBLE"),
        (TensorProto.STRING, ("N",), [b"1"], "Expected output Tensor of DT_FLOAT.  Got: DT_STRING"),
    ],
)
def test_an_output_that_is_not_a_column_of_floats(
    running: Run, dtype: int, dims: models.Dims, value: list[Any], text: str
) -> None:
    signatures = {"serving_default": {"method": "regress", "outputs": {"outputs": "y"}}}
    make = partial(feature_models.passed_on, dtype=dtype, dims=dims, signatures=signatures)
    refusal = running(make).caller.refusal(regress_request(example(x=value)))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.endswith(text)


def test_method_name_of_the_calls_kind(checked: Caller) -> None:
    assert values(checked.call(regress_request(ONE, signature_name="named"))) == [4]


@pytest.mark.parametrize(("name", "method"), [("", "predict"), ("scores", "classify")])
def test_method_name_of_another(checked: Caller, name: str, method: str) -> None:
    wanted = "tensorflow/serving/regress"
    text = f"Expected regression signature method_name to be {wanted}. Was: tensorflow/serving/{method}"
    assert checked.refusal(regress_request(ONE, signature_name=name)) == (StatusCode.INVALID_ARGUMENT, text)
