"""Checks that a program with TensorFlow and tensorflow-serving-api works, given the ports and the models' folder."""

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import numpy as np
import tensorflow as tf
from tensorflow.core.framework.types_pb2 import DT_FLOAT
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)
from tensorflow_serving.config.file_system_storage_path_source_pb2 import FileSystemStoragePathSourceConfig

from tests.interop import tensorflow_inference

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE
END = get_model_status_pb2.ModelVersionStatus.END

WITHIN = 60.0
"""Seconds after which a change by a reload must be visible."""

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


def main(ports: dict[str, int], root: str) -> None:
    """Runs every check; the first failure ends the program."""
    linear = channel_to(ports["linear"])
    check_predict(linear)
    check_metadata(linear)
    check_metadata_errors(linear)
    check_status(linear)
    check_errors(linear)
    for dtype, values in DTYPES.items():
        check_dtype(channel_to(ports[dtype]), dtype, values)
    two_models = channel_to(ports["two_models"])
    check_versions(two_models)
    check_reload(two_models, root)
    tensorflow_inference.main(ports["tariff"])


def channel_to(port: int) -> grpc.Channel:
    """An insecure channel to this machine."""
    return grpc.insecure_channel(f"127.0.0.1:{port}")


def predict(channel: grpc.Channel, x: Any, *outputs: str, **spec: Any) -> predict_pb2.PredictResponse:
    """One Predict of `x`, written as TensorFlow's own programs write it."""
    request = predict_pb2.PredictRequest(output_filter=outputs)
    request.model_spec.name = spec.get("name", "model")
    request.model_spec.signature_name = spec.get("signature_name", "serving_default")
    if "version" in spec:
        request.model_spec.version.value = spec["version"]
    if "version_label" in spec:
        request.model_spec.version_label = spec["version_label"]
    request.inputs["x"].CopyFrom(x)
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).Predict(request, timeout=WITHIN)


def check_predict(channel: grpc.Channel) -> None:
    """Every encoding of make_tensor_proto is understood; answers are read from float_val, as programs do."""
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
    """A model returns its input, sent as tensor_content and as values."""
    x = np.array(values, tf.as_dtype(dtype).as_numpy_dtype)
    made = tf.make_tensor_proto(x)
    listed = tf.make_tensor_proto(x[:1, :1], shape=[3, 2])
    np.testing.assert_array_equal(tf.make_ndarray(predict(channel, made).outputs["y"]), x)
    np.testing.assert_array_equal(tf.make_ndarray(predict(channel, listed).outputs["y"]), np.full((3, 2), x[0, 0]))
    assert predict(channel, made).outputs["y"].dtype == tf.as_dtype(dtype).as_datatype_enum


def check_metadata(channel: grpc.Channel) -> None:
    """The signature can be unpacked from the Any."""
    response = metadata(channel, "signature_def")
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    signature = signatures.signature_def[tf.saved_model.DEFAULT_SERVING_SIGNATURE_DEF_KEY]
    assert signature.method_name == tf.saved_model.PREDICT_METHOD_NAME
    x = signature.inputs["x"]
    assert tf.as_dtype(x.dtype) == tf.float32
    assert tf.TensorShape(x.tensor_shape).as_list() == [None, 4]
    assert tf.TensorShape(signature.outputs["y"].tensor_shape).as_list() == [None, 1]


def metadata(channel: grpc.Channel, *fields: str, name: str = "model") -> Any:
    """One GetModelMetadata."""
    request = get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)
    request.model_spec.name = name
    return prediction_service_pb2_grpc.PredictionServiceStub(channel).GetModelMetadata(request, timeout=WITHIN)


def check_metadata_errors(channel: grpc.Channel) -> None:
    """Metadata fields that cannot be requested, and an unknown model, are refused."""
    invalid, absent = grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
    check_refused(lambda: metadata(channel), invalid, "must specify at least one metadata_field")
    check_refused(lambda: metadata(channel, "other"), invalid, "Metadata field other is not supported")
    check_refused(lambda: metadata(channel, "signature_def", name="nobody"), absent, "Latest(nobody)")


def status(channel: grpc.Channel, name: str = "model", version: int | None = None) -> list[tuple[int, int, int]]:
    """The version, state and error code of each status in a GetModelStatus response, in its order."""
    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = name
    if version is not None:
        request.model_spec.version.value = version
    response = model_service_pb2_grpc.ModelServiceStub(channel).GetModelStatus(request, timeout=WITHIN)
    return [(each.version, each.state, each.status.error_code) for each in response.model_version_status]


def check_status(channel: grpc.Channel) -> None:
    """The one version is available; unknown versions and models have no status."""
    assert status(channel) == status(channel, version=1) == [(1, AVAILABLE, 0)]
    absent = grpc.StatusCode.NOT_FOUND
    check_refused(lambda: status(channel, version=9), absent, "Could not find version 9 of model model")
    check_refused(lambda: status(channel, "nobody"), absent, "Could not find any versions of model nobody")


def check_errors(channel: grpc.Channel) -> None:
    """Errors have the codes and the texts that programs check for."""
    good = tf.make_tensor_proto(np.zeros((1, 4), np.float32))
    wide = tf.make_tensor_proto(np.zeros((1, 5), np.float32))
    long = tf.make_tensor_proto(np.zeros((1, 4), np.int64))
    check_refusal(channel, good, grpc.StatusCode.NOT_FOUND, "Servable not found for request", version=9)
    check_refusal(channel, good, grpc.StatusCode.FAILED_PRECONDITION, "Serving signature key", signature_name="other")
    check_refusal(channel, wide, grpc.StatusCode.INVALID_ARGUMENT, "Got invalid dimensions for input: x")
    check_refusal(channel, long, grpc.StatusCode.INVALID_ARGUMENT, "to be float but int64 is provided")


def check_refusal(channel: grpc.Channel, x: Any, code: grpc.StatusCode, text: str, **spec: Any) -> None:
    """Asserts that a Predict fails with this code and text."""
    check_refused(lambda: predict(channel, x, **spec), code, text)


def check_refused(call: Callable[[], Any], code: grpc.StatusCode, text: str) -> None:
    """Asserts that a call fails with this code and text."""
    try:
        call()
    except grpc.RpcError as error:
        refusal = (error.code(), error.details())
    else:
        raise AssertionError(text)
    assert refusal[0] is code, refusal
    assert text in str(refusal[1]), refusal


def total(channel: grpc.Channel, **spec: Any) -> float:
    """The answer of `sums` for rows whose sum is ten; it contains a hundred times the version."""
    response = predict(channel, tf.make_tensor_proto([[1.0, 2.0, 3.0, 4.0]]), name="sums", **spec)
    assert response.model_spec.version.value == response.outputs["y"].float_val[0] // 100
    assert not response.model_spec.version_label
    return float(response.outputs["y"].float_val[0])


def check_versions(channel: grpc.Channel) -> None:
    """Three versions served at the same time, by number and by label, listed from the highest."""
    assert status(channel, "sums") == [(3, AVAILABLE, 0), (2, AVAILABLE, 0), (1, AVAILABLE, 0)]
    assert status(channel, "sums", 2) == [(2, AVAILABLE, 0)]
    assert (total(channel), total(channel, version=2), total(channel, version_label="stable")) == (310, 210, 110)


def configured(root: str, *names: str) -> Any:
    """A ReloadConfigRequest that lists models, each with all versions."""
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    for name in names:
        model = request.config.model_config_list.config.add()
        model.name, model.base_path, model.model_platform = name, f"{root}/{name}", "tensorflow"
        model.model_version_policy.all.SetInParent()
    return request


def reload(channel: grpc.Channel, request: Any) -> Any:
    """One HandleReloadConfigRequest."""
    response = model_service_pb2_grpc.ModelServiceStub(channel).HandleReloadConfigRequest(request, timeout=WITHIN)
    assert (response.status.error_code, response.status.error_message) == (0, "")
    return response


def check_reload(channel: grpc.Channel, root: str) -> None:
    """Labels, every version policy, models that are added and removed, and refused lists."""
    request = configured(root, "sums")
    request.metric_names.append("/not/counted")
    request.config.model_config_list.config[0].version_labels.update({"stable": 2, "canary": 3})
    (metric,) = reload(channel, request).metric
    assert (metric.name, metric.int64_value_increase) == ("/not/counted", 0)
    assert (total(channel, version_label="stable"), total(channel, version_label="canary")) == (210, 310)
    await_states(channel, "tariff", {1: END})

    check_reload_errors(channel, root)
    assert total(channel, version_label="stable") == 210
    check_policies(channel, root)

    reload(channel, configured(root, "sums", "tariff"))
    assert status(channel, "tariff") == [(1, AVAILABLE, 0)]
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    check_refused(lambda: total(channel, version_label="stable"), invalid, "Unrecognized servable version label")


def check_reload_errors(channel: grpc.Channel, root: str) -> None:
    """A refused configuration leaves the served models unchanged."""
    unavailable = configured(root, "sums")
    unavailable.config.model_config_list.config[0].version_labels["stable"] = 9
    relative = configured(".", "sums")
    invalid = grpc.StatusCode.INVALID_ARGUMENT
    for request, code, text in [
        (model_management_pb2.ReloadConfigRequest(), invalid, "Only ModelConfigList is currently supported"),
        (configured(root, "sums", "sums"), invalid, "Illegal to list model sums multiple times in config list"),
        (relative, invalid, "Expected model sums to have an absolute path or URI; got base_path()=./sums"),
        (unavailable, grpc.StatusCode.FAILED_PRECONDITION, "Request to assign label to version 9 of model sums"),
    ]:
        check_refused(partial(reload, channel, request), code, text)


def check_policies(channel: grpc.Channel, root: str) -> None:
    """Versions that a policy drops are unloaded, and still listed."""
    policies: list[tuple[dict[str, Any], set[int]]] = [
        ({"specific": {"versions": [1, 3]}}, {1, 3}),
        ({"latest": {"num_versions": 2}}, {2, 3}),
        ({"latest": {}}, {3}),
        ({"all": {}}, {1, 2, 3}),
    ]
    for policy, serving in policies:
        request = configured(root, "sums")
        model = request.config.model_config_list.config[0]
        model.model_version_policy.CopyFrom(FileSystemStoragePathSourceConfig.ServableVersionPolicy(**policy))
        reload(channel, request)
        await_states(channel, "sums", {version: AVAILABLE if version in serving else END for version in (1, 2, 3)})


def await_states(channel: grpc.Channel, name: str, states: dict[int, int]) -> None:
    """Sends GetModelStatus until every version of a model is in its expected state."""
    end = time.monotonic() + WITHIN
    while (seen := {version: state for version, state, _ in status(channel, name)}) != states:
        assert time.monotonic() < end, (seen, states)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]), sys.argv[2])
