"""Classify, Regress and Predict on a graph that parses Examples itself, as SavedModels do."""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_batching import BatchThreads, LoopDelivery
from headrace_batching.task import Arrays
from headrace_protos import Code, DataType, Example
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError
from headrace_server.models.call import Call
from headrace_server.models.manager import Manager
from headrace_server.models.servable import Servable
from headrace_server.services.tf_serving.prediction import PredictionService
from tests.support.calls import predict_request
from tests.support.examples import CLASSIFY, REGRESS, classify_request, example, multi_request, regress_request, task

INPUTS = {"inputs": TensorSpec("tf_example:0", DataType.DT_STRING, (None,))}
FLOATS = TensorSpec("scores:0", DataType.DT_FLOAT, (None, None))
TEXTS = TensorSpec("classes:0", DataType.DT_STRING, (None, None))
VALUES = TensorSpec("value:0", DataType.DT_FLOAT, (None,))

GOOD: Mapping[str, Signature] = {
    "both": Signature(INPUTS, {"classes": TEXTS, "scores": FLOATS}, CLASSIFY),
    "classes": Signature(INPUTS, {"classes": TEXTS}, CLASSIFY),
    "scores": Signature(INPUTS, {"scores": FLOATS, "more": VALUES}, CLASSIFY),
    "regress": Signature(INPUTS, {"outputs": VALUES}, REGRESS),
    "init": Signature({}, {}, ""),
}


class Graph:
    """Parses Examples and returns their features: `scores` [n, 2], `classes` [n, 2] and `value` [n].

    Attributes:
        change: A change to the arrays before they are returned.
        runs: The signature of each run.
    """

    def __init__(self, signatures: Mapping[str, Signature]) -> None:
        self.signatures = signatures
        self.change: Callable[[Any], Any] = lambda array: array
        self.runs: list[str] = []

    def run(self, signature: str, inputs: Arrays, outputs: Sequence[str]) -> Arrays:
        self.runs.append(signature)
        features = [Example.FromString(item).features.feature for item in inputs["inputs"]]
        scores = np.array([f["scores"].float_list.value for f in features], np.float32)
        tensors = {
            "scores:0": scores,
            "classes:0": np.array([f["classes"].bytes_list.value for f in features], object),
            "value:0": scores.sum(axis=1),
        }
        specs = self.signatures[signature].outputs
        return {alias: self.change(tensors[specs[alias].name]) for alias in outputs}

    def close(self) -> None:
        """Frees nothing."""


class Service:
    """A PredictionService over one graph, called without a transport."""

    def __init__(self, graph: Graph, threads: BatchThreads, *, check_method: bool) -> None:
        self.graph = graph
        manager = Manager(lambda name, version, _: Servable(name, version, graph, threads, None))
        manager.start()
        manager.aspire("model", {3: Path("3")})
        manager.wait_settled(["model"])
        self._manager = manager
        self._service = PredictionService(manager, check_method=check_method)

    def ask(self, request: Any) -> Any:
        """Sends a request; returns its response."""

        async def answer() -> Any:
            call = Call(LoopDelivery(asyncio.get_running_loop()))
            methods = {method.request: method.answer for method in self._service.service.methods}
            return await methods[type(request)](request, call)

        return asyncio.run(answer())

    def refusal(self, request: Any) -> tuple[Code, str]:
        """Sends a request that must fail; returns the error."""
        with pytest.raises(ServingError) as raised:
            self.ask(request)
        return raised.value.code, raised.value.message

    def close(self) -> None:
        self._manager.stop()


Serve = Callable[..., Service]


@pytest.fixture
def serve() -> Iterator[Serve]:
    threads = BatchThreads(1)
    threads.start()
    services: list[Service] = []

    def start(signatures: Mapping[str, Signature] = GOOD, *, check_method: bool = False) -> Service:
        services.append(Service(Graph(signatures), threads, check_method=check_method))
        return services[-1]

    yield start
    for service in services:
        service.close()
    threads.close()


ONE = example(scores=[0.5, 0.25], classes=[b"cat", b"dog"])
TWO = example(scores=[1.0, 2.0], classes=[b"", b"b"])


def rows(result: Any) -> list[list[tuple[str, float]]]:
    return [[(c.label, c.score) for c in row.classes] for row in result.classifications]


def test_classify(serve: Serve) -> None:
    service = serve()
    expected = {
        "both": [[("cat", 0.5), ("dog", 0.25)], [("", 1), ("b", 2)]],
        "classes": [[("cat", 0), ("dog", 0)], [("", 0), ("b", 0)]],
        "scores": [[("", 0.5), ("", 0.25)], [("", 1), ("", 2)]],
    }
    for name, answer in expected.items():
        response = service.ask(classify_request(ONE, TWO, signature_name=name))
        assert rows(response.result) == answer
        assert (response.model_spec.version.value, response.model_spec.signature_name) == (3, name)


def test_regress(serve: Serve) -> None:
    service = serve()
    response = service.ask(regress_request(ONE, TWO, signature_name="regress"))
    assert [row.value for row in response.result.regressions] == [0.75, 3]
    service.graph.change = lambda array: array[:, None]
    response = service.ask(regress_request(ONE, signature_name="regress"))
    assert [row.value for row in response.result.regressions] == [0.75]


def test_tasks_whose_tensors_one_signature_has_share_its_run(serve: Serve) -> None:
    service = serve()
    names = [task(CLASSIFY, signature_name=name) for name in ("classes", "both", "scores")]
    response = service.ask(
        multi_request(*names, task(REGRESS, signature_name="regress"), input=classify_request(ONE).input)
    )
    assert [rows(result.classification_result) for result in response.results[:3]] == [
        [[("cat", 0), ("dog", 0)]],
        [[("cat", 0.5), ("dog", 0.25)]],
        [[("", 0.5), ("", 0.25)]],
    ]
    assert response.results[3].regression_result.regressions[0].value == 0.75
    assert service.graph.runs == ["both", "scores"]  # the second one also returns the tensor for the regression


def with_inputs(signature: Signature, *aliases: str) -> Signature:
    return replace(signature, inputs=dict.fromkeys(aliases, INPUTS["inputs"]))


BOTH, REGRESSION = GOOD["both"], GOOD["regress"]
WRONG: dict[str, tuple[Signature, Any, str]] = {
    "classify: two inputs": (with_inputs(BOTH, "inputs", "b"), classify_request, "Expected one input Tensor."),
    "classify: no inputs": (with_inputs(BOTH), classify_request, "Expected one input Tensor."),
    "classify: no outputs": (
        replace(BOTH, outputs={}),
        classify_request,
        "Expected one or two output Tensors, found 0",
    ),
    "classify: three outputs": (
        replace(BOTH, outputs={"classes": TEXTS, "scores": FLOATS, "more": VALUES}),
        classify_request,
        "Expected one or two output Tensors, found 3",
    ),
    "classify: another input": (
        with_inputs(BOTH, "x"),
        classify_request,
        'No classification inputs found in SignatureDef: inputs {\n  key: "x"',
    ),
    "classify: other outputs": (
        replace(BOTH, outputs={"y": FLOATS}),
        classify_request,
        'Expected classification signature outputs to contain at least one of "classes" or "scores". '
        'Signature was: inputs {\n  key: "inputs"',
    ),
    "regress: two inputs": (with_inputs(REGRESSION, "inputs", "b"), regress_request, "Expected one input Tensor."),
    "regress: two outputs": (
        replace(REGRESSION, outputs={"outputs": VALUES, "scores": FLOATS}),
        regress_request,
        "Expected one output Tensor.",
    ),
    "regress: another input": (
        with_inputs(REGRESSION, "x"),
        regress_request,
        'No regression inputs found in SignatureDef: inputs {\n  key: "x"',
    ),
    "regress: another output": (
        replace(REGRESSION, outputs={"y": VALUES}),
        regress_request,
        'No regression outputs found in SignatureDef: inputs {\n  key: "inputs"',
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_signatures_are_checked_before_the_examples(serve: Serve, name: str) -> None:
    signature, request, text = WRONG[name]
    code, message = serve({"serving_default": signature}).refusal(request())
    assert code == Code.INVALID_ARGUMENT
    assert message.startswith(text)


def test_an_input_that_takes_no_strings_fails_like_its_run(serve: Serve) -> None:
    signature = replace(BOTH, inputs={"inputs": FLOATS})
    text = "Expects arg[0] to be float but string is provided"
    assert serve({"serving_default": signature}).refusal(classify_request(ONE)) == (Code.INVALID_ARGUMENT, text)


def cut_texts(array: Any) -> Any:
    return array[:, :1] if array.dtype == object else array


RESULTS: dict[str, tuple[Any, Any, str]] = {
    "classes: rank": (
        classify_request(ONE, signature_name="both"),
        lambda array: array[:, 0],
        "Expected Tensor shape: [batch_size num_classes] but got [1]",
    ),
    "classes: rows": (
        classify_request(ONE, signature_name="both"),
        lambda array: array.repeat(2, axis=0),
        "Expected classes output batch size of 1. Got: 2",
    ),
    "scores: rows": (
        classify_request(ONE, TWO, signature_name="scores"),
        lambda array: array[:1],
        "Expected scores output batch size of 2. Got: 1",
    ),
    "scores: dtype": (
        classify_request(ONE, signature_name="scores"),
        lambda array: array.astype(np.float64),
        "Expected scores Tensor of DT_FLOAT. Got: DT_DOUBLE",
    ),
    "classes and scores": (
        classify_request(ONE, signature_name="both"),
        cut_texts,
        "Tensors class and score should match in dim_size(1). Got 1 vs. 2",
    ),
    "value: shape": (
        regress_request(ONE, TWO, signature_name="regress"),
        lambda array: array[None],
        "Expected output Tensor shape to be either [batch_size] or [batch_size, 1] but got [1,2]",
    ),
    "value: rows": (
        regress_request(ONE, TWO, signature_name="regress"),
        lambda array: array[:1],
        "Input batch size did not match output batch size: 2 vs. 1",
    ),
    "value: dtype": (
        regress_request(ONE, signature_name="regress"),
        lambda array: array.astype(np.int32),
        "Expected output Tensor of DT_FLOAT.  Got: DT_INT32",
    ),
}


@pytest.mark.parametrize("name", RESULTS)
def test_results_that_do_not_fit(serve: Serve, name: str) -> None:
    request, change, text = RESULTS[name]
    service = serve()
    service.graph.change = change
    assert service.refusal(request) == (Code.INVALID_ARGUMENT, text)


def test_predict_of_a_signature_for_no_call(serve: Serve) -> None:
    """TF Serving answers this call with INTERNAL, and the other calls with INVALID_ARGUMENT."""
    text = (
        "Expected prediction signature method_name to be one of {tensorflow/serving/predict, "
        "tensorflow/serving/classify, tensorflow/serving/regress}. Was: "
    )
    request = predict_request({}, signature_name="init")
    assert serve(check_method=True).refusal(request) == (Code.INTERNAL, text)


def test_predict_with_a_default(serve: Serve) -> None:
    default = np.array([ONE.SerializeToString()], object)
    service = serve({"serving_default": replace(REGRESSION, defaults={"inputs": default})})
    assert list(service.ask(predict_request({})).outputs["outputs"].float_val) == [0.75]
    sent = np.array([TWO.SerializeToString()], object)
    assert list(service.ask(predict_request({"inputs": sent})).outputs["outputs"].float_val) == [3]
