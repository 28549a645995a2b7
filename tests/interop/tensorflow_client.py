"""What a program with TensorFlow and tensorflow-serving-api sees of a server; run by itself, with ports by model."""

import json
import sys
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DT_FLOAT
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

DTYPES: dict[str, list[Any]] = {
    "float32": [[0.5, -1.5], [float("inf"), 1e-45]],
    "float64": [[0.1, -1e308], [3.0, 4.0]],
    "float16": [[0.1, 65504], [6e-8, -2]],
    "bfloat16": [[0.1, 3e38], [1e-38, -2]],
    "int8": [[-128, 127], [0, 1]],
    "int16": [[-32768, 32767], [0, 1]],
    "int32": [[-(2**31), 2**31 - 1], [0, 1]],
    "int64": [[-(2**63), 2**63 - 1], [0, 1]],
    "uint8": [[0, 255], [1, 2]],
    "uint16": [[0, 65535], [1, 2]],
    "uint32": [[0, 2**32 - 1], [1, 2]],
    "uint64": [[0, 2**64 - 1], [1, 2]],
    "bool": [[True, False], [False, True]],
    "string": [[b"plain", b""], ["größer".encode(), b"\n"]],
}


def main(ports: dict[str, int]) -> None:
    """Runs every check; the first that fails ends the program."""
    linear = grpc.insecure_channel(f"127.0.0.1:{ports['linear']}")
    check_predict(linear)
    check_metadata(linear)
    check_status(linear)
    check_errors(linear)
    for dtype, values in DTYPES.items():
        check_dtype(grpc.insecure_channel(f"127.0.0.1:{ports[dtype]}"), dtype, values)


def predict(channel: grpc.Channel, x: Any, *outputs: str, **spec: Any) -> predict_pb2.PredictResponse:
    """One Predict of `x`, as TensorFlow's own programs write it."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = "model"
    request.model_spec.signature_name = spec.get("signature_name", "serving_default")
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    request.inputs["x"].CopyFrom(x)
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=10)


def check_predict(channel: grpc.Channel) -> None:
    """Every encoding that make_tensor_proto makes; answers are read as programs read them, from float_val."""
    rows = [[1.0, 2.0, 3.0, 4.0], [5.0, 6.0, 7.0, 8.0]]
    for x, expected in [
        (tf.make_tensor_proto(rows, dtype=tf.float32), [10, 26]),  # tensor_content
        (tf.make_tensor_proto(rows, dtype=tf.float32, shape=[2, 4]), [10, 26]),
        (tf.make_tensor_proto(np.array(rows, np.float32)), [10, 26]),
        (tf.make_tensor_proto(np.asfortranarray(np.array(rows, np.float32))), [10, 26]),
        (tf.make_tensor_proto(1.5, dtype=tf.float32, shape=[2, 4]), [6, 6]),  # one float_val for eight elements
        (tf.make_tensor_proto(np.zeros((2, 4), np.float32)), [0, 0]),
        (tf.make_tensor_proto(np.zeros((0, 4), np.float32)), []),
    ]:
        response = predict(channel, x)
        output = response.outputs["y"]
        assert list(output.float_val) == expected, (x, response)
        assert output.dtype == DT_FLOAT
        np.testing.assert_array_equal(tf.make_ndarray(output), np.reshape(expected, (-1, 1)))
        assert response.model_spec.name == "model"
        assert response.model_spec.version.value == 1
        assert response.model_spec.signature_name == "serving_default"
    assert predict(channel, tf.make_tensor_proto(rows, tf.float32), "y", version=1).outputs["y"].float_val[1] == 26


def check_dtype(channel: grpc.Channel, dtype: str, values: list[Any]) -> None:
    """A model that answers what it gets, by tensor_content and by values."""
    x = np.array(values, tf.as_dtype(dtype).as_numpy_dtype)
    made = tf.make_tensor_proto(x)
    listed = tf.make_tensor_proto(x[:1, :1], shape=[3, 2])
    np.testing.assert_array_equal(tf.make_ndarray(predict(channel, made).outputs["y"]), x)
    np.testing.assert_array_equal(tf.make_ndarray(predict(channel, listed).outputs["y"]), np.full((3, 2), x[0, 0]))
    assert predict(channel, made).outputs["y"].dtype == tf.as_dtype(dtype).as_datatype_enum


def check_metadata(channel: grpc.Channel) -> None:
    """The signature, unpacked from its Any."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=["signature_def"])
    request.model_spec.name = "model"
    response = prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=10)
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def[tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
    assert signature.method_name == tf.saved_model.PREDICT_METHOD_NAME
    x = signature.inputs["x"]
    assert tf.as_dtype(x.dtype) == tf.float32
    assert tf.TensorShape(x.tensor_shape).as_list() == [None, 4]
    assert tf.TensorShape(signature.outputs["y"].tensor_shape).as_list() == [None, 1]


def check_status(channel: grpc.Channel) -> None:
    """The one version is available."""
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "model"
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=10)
    (status,) = response.model_version_status
    assert status.version == 1
    assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert status.status.error_code == 0


def check_errors(channel: grpc.Channel) -> None:
    """Codes and texts that programs look for."""
    good = tf.make_tensor_proto(np.zeros((1, 4), np.float32))
    wide = tf.make_tensor_proto(np.zeros((1, 5), np.float32))
    long = tf.make_tensor_proto(np.zeros((1, 4), np.int64))
    check_refusal(channel, good, grpc.StatusCode.NOT_FOUND, "Servable not found for request", version=9)
    check_refusal(channel, good, grpc.StatusCode.FAILED_PRECONDITION, "Serving signature key", signature_name="other")
    check_refusal(channel, wide, grpc.StatusCode.INVALID_ARGUMENT, "Got invalid dimensions for input: x")
    check_refusal(channel, long, grpc.StatusCode.INVALID_ARGUMENT, "to be float but int64 is provided")


def check_refusal(channel: grpc.Channel, x: Any, code: grpc.StatusCode, text: str, **spec: Any) -> None:
    """A Predict that must fail."""
    try:
        predict(channel, x, **spec)
    except grpc.RpcError as error:
        refusal = (error.code(), error.details())
    else:
        raise AssertionError(text)
    assert refusal[0] is code, refusal
    assert text in str(refusal[1]), refusal


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
