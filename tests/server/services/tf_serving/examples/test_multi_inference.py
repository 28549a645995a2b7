"""MultiInference: results in the order of the tasks, as few runs as possible, and every error."""

from functools import partial
from typing import Any, NamedTuple

import pytest
from grpc import StatusCode

from headrace_protos import InferenceTask, MultiInferenceRequest
from tests.conftest import Run, Stop
from tests.support import feature_models
from tests.support.calls import Caller
from tests.support.examples import CLASSIFY, REGRESS, example, examples, multi_request, task

ONE = example(age=[1], weights=[0.5, 1.5])
TWO = example(age=[2], weights=[3.0, 4.0])
BOTH = examples(ONE, TWO)

SIGNATURES: feature_models.Signatures = {
    "classify": {"method": "classify", "outputs": {"scores": "scores"}, "labels": ["lo", "hi"]},
    "regress": {"method": "regress", "outputs": {"outputs": "price"}},
    "other_names": {"inputs": {"years": "age", "weights": "weights"}, "outputs": {"outputs": "price"}},
}


@pytest.fixture(scope="module")
def tariff(running: Run) -> Caller:
    return running(partial(feature_models.tariff, signatures=SIGNATURES)).caller


def of(method: str, signature: str = "", **spec: Any) -> InferenceTask:
    return task(method, signature_name=signature, **spec)


def details(response: Any) -> list[tuple[str, int, str, Any]]:
    """Each result: its version, signature and content."""
    return [
        (r.model_spec.name, r.model_spec.version.value, r.model_spec.signature_name, held(r)) for r in response.results
    ]


def held(result: Any) -> Any:
    if result.HasField("regression_result"):
        return [row.value for row in result.regression_result.regressions]
    return [[(c.label, c.score) for c in row.classes] for row in result.classification_result.classifications]


LABELLED = [[("lo", 1.5), ("hi", 2.5)], [("lo", 5), ("hi", 6)]]


def test_results_in_the_order_of_the_tasks(tariff: Caller) -> None:
    response = tariff.call(multi_request(of(REGRESS, "regress"), of(CLASSIFY, "classify"), input=BOTH))
    assert details(response) == [("model", 1, "regress", [4, 11]), ("model", 1, "classify", LABELLED)]
    response = tariff.call(multi_request(of(CLASSIFY, "classify"), of(REGRESS, "regress"), input=BOTH))
    assert details(response) == [("model", 1, "classify", LABELLED), ("model", 1, "regress", [4, 11])]


def test_one_task_of_the_default_signature(tariff: Caller) -> None:
    response = tariff.call(multi_request(of(REGRESS), input=BOTH))
    assert details(response) == [("model", 1, "serving_default", [4, 11])]


def test_the_first_task_decides_the_version(tariff: Caller) -> None:
    response = tariff.call(multi_request(of(REGRESS, version=1), of(CLASSIFY, "classify", version=9), input=BOTH))
    assert [row[1] for row in details(response)] == [1, 1]


def test_tasks_that_one_signature_answers_share_a_run(running: Run, served: Stop) -> None:
    server = running(partial(feature_models.tariff, signatures=SIGNATURES))
    tasks = [of(REGRESS, "regress"), of(CLASSIFY, "classify"), of(CLASSIFY)]
    response = server.caller.call(multi_request(*tasks, input=BOTH))
    assert [row[3] for row in details(response)] == [
        [4, 11],
        LABELLED,
        [[("", a), ("", b)] for a, b in ((1.5, 2.5), (5, 6))],
    ]
    assert served(server) == (1, 2, 1)


def test_other_feature_names_need_another_run(tariff: Caller) -> None:
    sent = examples(example(age=[1], years=[100], weights=[0.5, 1.5]))
    response = tariff.call(multi_request(of(REGRESS), of(REGRESS, "other_names"), input=sent))
    assert [row[3] for row in details(response)] == [[4], [202]]


class Refused(NamedTuple):
    request: MultiInferenceRequest
    text: str
    code: StatusCode = StatusCode.INVALID_ARGUMENT


REFUSED = {
    "no tasks": Refused(multi_request(input=BOTH), "ModelSpec has no name specified."),
    "no name": Refused(multi_request(of(REGRESS, name=""), input=BOTH), "ModelSpec has no name specified."),
    "no name, later": Refused(
        multi_request(of(REGRESS), of(CLASSIFY, "classify", name=""), input=BOTH),
        "Found ModelSpec with an empty model name.",
    ),
    "no model": Refused(
        multi_request(of(REGRESS, name="no"), input=BOTH),
        "Servable not found for request: Latest(no)",
        StatusCode.NOT_FOUND,
    ),
    "two models": Refused(
        multi_request(of(REGRESS), of(CLASSIFY, "classify", name="no"), input=BOTH),
        "All ModelSpecs in a MultiInferenceRequest must access the same model name.",
    ),
    "no signature": Refused(
        multi_request(of(REGRESS, "no"), input=BOTH), "Requested signature not found in model graph: no"
    ),
    "one signature twice": Refused(
        multi_request(of(REGRESS), of(CLASSIFY, "serving_default"), input=BOTH),
        "Duplicate evaluation of signature: serving_default",
    ),
    "no method": Refused(
        multi_request(of(""), input=BOTH), "Unsupported signature method_name: ", StatusCode.UNIMPLEMENTED
    ),
    "another method": Refused(
        multi_request(of("tensorflow/serving/predict"), input=BOTH),
        "Unsupported signature method_name: tensorflow/serving/predict",
        StatusCode.UNIMPLEMENTED,
    ),
    "an unknown signature, checked before the method": Refused(
        multi_request(of("tensorflow/serving/predict", "no"), input=BOTH),
        "Requested signature not found in model graph: no",
    ),
    "no examples": Refused(multi_request(of(REGRESS)), "Input is empty."),
    "a wrong task, checked before the examples": Refused(
        multi_request(of(REGRESS), of("")), "Duplicate evaluation of signature: serving_default"
    ),
    "a feature that one task lacks": Refused(
        multi_request(of(REGRESS), of(REGRESS, "other_names"), input=BOTH),
        "Name: <unknown>, Feature: years (data type: int64) is required but could not be found.",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(tariff: Caller, name: str) -> None:
    refused = REFUSED[name]
    assert tariff.refusal(refused.request) == (refused.code, refused.text)


def test_a_task_that_the_signature_cannot_answer(tariff: Caller) -> None:
    refusal = tariff.refusal(multi_request(of(CLASSIFY), of(REGRESS, "classify"), input=BOTH))
    assert refusal.code is StatusCode.INVALID_ARGUMENT
    assert refusal.text.startswith("No regression outputs found in SignatureDef: ")


def test_method_names_are_checked(running: Run) -> None:
    make = partial(feature_models.tariff, signatures=SIGNATURES)
    caller = running(make, enable_signature_method_name_check=True).caller
    assert details(caller.call(multi_request(of(REGRESS, "regress"), input=BOTH))) == [("model", 1, "regress", [4, 11])]
    text = f"Expected classification signature method_name to be {CLASSIFY}. Was: {REGRESS}"
    refusal = caller.refusal(multi_request(of(CLASSIFY, "regress"), input=BOTH))
    assert refusal == (StatusCode.INVALID_ARGUMENT, text)
