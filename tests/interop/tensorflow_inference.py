"""Calls Classify, Regress and MultiInference with TensorFlow and its messages, for tensorflow_client.py."""

from collections.abc import Callable
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    inference_pb2,
    input_pb2,
    prediction_service_pb2_grpc,
    regression_pb2,
)

CLASSIFY = tf.saved_model.CLASSIFY_METHOD_NAME
REGRESS = tf.saved_model.REGRESS_METHOD_NAME

# The served model's features: its inputs, as a TensorFlow graph would declare them.
FEATURES = {"age": tf.io.FixedLenFeature([], tf.int64), "weights": tf.io.FixedLenFeature([2], tf.float32)}


def feature(values: list[Any]) -> tf.train.Feature:
    """A feature of the kind that the first value has."""
    if isinstance(values[0], bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))
    if isinstance(values[0], int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
    return tf.train.Feature(float_list=tf.train.FloatList(value=values))


def example(**features: list[Any]) -> tf.train.Example:
    """An Example of features by name."""
    by_name = {name: feature(values) for name, values in features.items()}
    return tf.train.Example(features=tf.train.Features(feature=by_name))


ONE = example(age=[1], weights=[0.5, 1.5])
TWO = example(age=[2], weights=[3.0, 4.0], unasked=[b"ignored"])
LIST = input_pb2.Input(example_list=input_pb2.ExampleList(examples=[ONE, TWO]))
WITH_CONTEXT = input_pb2.Input(
    example_list_with_context=input_pb2.ExampleListWithContext(
        examples=[example(age=[1]), example(age=[2], weights=[3.0, 4.0])], context=example(age=[7], weights=[0.5, 1.5])
    )
)

WRONG = [
    example(age=[1]),
    example(age=[1.5], weights=[0.5, 1.5]),
    example(age=[b"1"], weights=[0.5, 1.5]),
    example(age=[1], weights=[1, 2]),
    example(age=[1], weights=[0.5]),
    example(age=[1, 2], weights=[0.5, 1.5]),
    tf.train.Example(features=tf.train.Features(feature={"age": feature([1]), "weights": tf.train.Feature()})),
    example(age=[1], weights=[0.5, 1.5, 2.5]),
]


def main(port: int) -> None:
    """Runs every check; the first failure ends the program."""
    stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(f"127.0.0.1:{port}"))
    for examples in (LIST, WITH_CONTEXT):
        check_classify(stub, examples)
        check_regress(stub, examples)
        check_multi_inference(stub, examples)
    for wrong in WRONG:
        check_refusal(stub, wrong)


def name_model(request: Any, signature: str = "") -> Any:
    """Fills a ModelSpec."""
    request.model_spec.name = "model"
    request.model_spec.signature_name = signature
    return request


def check_classify(stub: Any, examples: Any) -> None:
    """Checks the labels and scores of each example."""
    request = name_model(classification_pb2.ClassificationRequest(input=examples), "classify")
    response = stub.Classify(request, timeout=60)
    assert labelled(response.result) == [[("lo", 1.5), ("hi", 2.5)], [("lo", 5), ("hi", 6)]], response
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "classify"


def check_regress(stub: Any, examples: Any) -> None:
    """Checks the value of each example."""
    response = stub.Regress(name_model(regression_pb2.RegressionRequest(input=examples)), timeout=60)
    assert [row.value for row in response.result.regressions] == [4, 11], response
    assert response.model_spec.signature_name == tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY


def check_multi_inference(stub: Any, examples: Any) -> None:
    """Checks both results, of one version, in the requested order."""
    regress = name_model(inference_pb2.InferenceTask(method_name=REGRESS), "regress")
    classify = name_model(inference_pb2.InferenceTask(method_name=CLASSIFY), "classify")
    request = inference_pb2.MultiInferenceRequest(tasks=[regress, classify], input=examples)
    first, second = stub.MultiInference(request, timeout=60).results
    assert [row.value for row in first.regression_result.regressions] == [4, 11]
    assert labelled(second.classification_result) == [[("lo", 1.5), ("hi", 2.5)], [("lo", 5), ("hi", 6)]]
    assert (first.model_spec.signature_name, second.model_spec.signature_name) == ("regress", "classify")


def labelled(result: Any) -> list[list[tuple[str, float]]]:
    """The classes of each example."""
    return [[(c.label, c.score) for c in row.classes] for row in result.classifications]


def check_refusal(stub: Any, wrong: tf.train.Example) -> None:
    """The server's error for a bad Example is TensorFlow's own, without the operator's name around it."""
    examples = input_pb2.Input(example_list=input_pb2.ExampleList(examples=[ONE, wrong]))
    request = name_model(regression_pb2.RegressionRequest(input=examples))
    refused = raised(lambda: stub.Regress(request, timeout=60), grpc.RpcError)
    assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT, refused
    serialized = [ONE.SerializeToString(), wrong.SerializeToString()]
    error = raised(lambda: tf.io.parse_example(serialized, FEATURES), tf.errors.InvalidArgumentError)
    assert refused.details() in error.message, (refused.details(), error.message)


def raised(call: Callable[[], Any], kind: type[Any]) -> Any:
    """The error that a call raises."""
    try:
        answer = call()
    except kind as error:
        return error
    raise AssertionError(answer)
