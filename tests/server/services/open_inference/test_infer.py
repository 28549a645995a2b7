"""ModelInfer: the input and output values, in every form of the protocol."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode
from onnx import TensorProto

from headrace_batching import Options
from headrace_protos.inference.grpc_service_pb2 import ModelInferResponse
from tests.server.services.open_inference.calls import (
    TEN,
    InferenceCaller,
    array,
    infer_request,
    packed,
    tensor,
    unpacked,
    wanted,
)
from tests.server.services.open_inference.conftest import Infer
from tests.support import models
from tests.support.calls import MODEL


@pytest.fixture(scope="module")
def linear(inferring: Infer) -> InferenceCaller:
    return inferring(models.linear)


def test_raw_contents_there_and_back(linear: InferenceCaller) -> None:
    response: ModelInferResponse = linear.call(infer_request(id="seven"))
    assert (response.model_name, response.model_version, response.id) == (MODEL, "1", "seven")
    assert array(response).tolist() == TEN
    assert not response.outputs[0].HasField("contents")


def test_typed_contents(linear: InferenceCaller) -> None:
    sent = tensor(contents={"fp32_contents": [1, 2, 3, 4]})
    assert array(linear.call(infer_request([sent], []))).tolist() == TEN


def test_rows_keep_their_order(linear: InferenceCaller) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(3, 4)
    response = linear.call(infer_request([tensor(shape=(3, 4))], [rows.tobytes()]))
    assert array(response).tolist() == rows.sum(axis=1, keepdims=True).tolist()


def test_a_single_requested_output(inferring: Infer) -> None:
    caller = inferring(models.two_inputs)
    pair = [tensor(name, shape=(1, 2)) for name in ("b", "a")]  # in an order other than the model's
    raw = [np.array(values, np.float32).tobytes() for values in ([1, 2], [10, 20])]
    every = caller.call(infer_request(pair, raw))
    assert [output.name for output in every.outputs] == sorted(output.name for output in every.outputs)
    last = every.outputs[-1].name
    one = caller.call(infer_request(pair, raw, outputs=[wanted(last)]))
    assert [output.name for output in one.outputs] == [last]
    assert one.raw_output_contents[0] == every.raw_output_contents[-1]


def test_the_highest_version_and_a_requested_one(inferring: Infer, tmp_path: Path) -> None:
    config = tmp_path / "models.config"
    for version, bias in ((1, 0.0), (3, 1.0)):
        models.linear(tmp_path / "m" / str(version), bias=bias)
    config.write_text(
        f"""model_config_list {{ config {{ name: "{MODEL}" base_path: "{tmp_path / "m"}" model_platform: "tensorflow"
        model_version_policy {{ all {{}} }} version_labels {{ key: "stable" value: 1 }} }} }}"""
    )
    caller = inferring(model_config_file=str(config), allow_version_labels_for_unavailable_models=True)
    caller.await_ready(1, 3)
    asked = [{}, {"model_version": " 1"}, {"parameters": {"version_label": "stable"}}]
    answers = [caller.call(infer_request(**fields)) for fields in asked]  # type: ignore[arg-type]
    assert [(answer.model_version, array(answer).item()) for answer in answers] == [("3", 11), ("1", 10), ("1", 10)]
    both = infer_request(model_version="1", parameters={"version_label": "stable"})
    assert caller.refusal(both).code == StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("dtype", "datatype", "raw"),
    [
        (TensorProto.FLOAT16, "FP16", np.array([1, -2], np.float16).tobytes()),
        (TensorProto.BFLOAT16, "BF16", b"\x80\x3f\x00\x40"),
        (TensorProto.INT64, "INT64", np.array([2**62, -1], np.int64).tobytes()),
        (TensorProto.UINT64, "UINT64", np.array([2**64 - 1, 0], np.uint64).tobytes()),
        (TensorProto.BOOL, "BOOL", b"\x01\x00"),
        (TensorProto.STRING, "BYTES", packed(b"a\0b", "é".encode())),
    ],
)
def test_every_kind_of_datatype(inferring: Infer, dtype: int, datatype: str, raw: bytes) -> None:
    caller = inferring(partial(models.identity, dtype=dtype))
    response = caller.call(infer_request([tensor("x", datatype, (1, 2))], [raw]))
    assert (response.outputs[0].datatype, list(response.raw_output_contents)) == (datatype, [raw])


@pytest.mark.parametrize(
    ("dtype", "datatype", "field", "sent", "got"),
    [
        (TensorProto.INT8, "INT8", "int_contents", [300, -2], [44, -2]),
        (TensorProto.UINT16, "UINT16", "uint_contents", [70000, 2], [4464, 2]),
    ],
)
def test_narrow_integers_wrap(
    inferring: Infer, dtype: int, datatype: str, field: str, sent: list[int], got: list[int]
) -> None:
    caller = inferring(partial(models.identity, dtype=dtype))
    response = caller.call(infer_request([tensor("x", datatype, (1, 2), {field: sent})], []))
    assert np.frombuffer(response.raw_output_contents[0], datatype.lower()).tolist() == got


def test_an_array_without_elements(inferring: Infer) -> None:
    caller = inferring(partial(models.identity, dims=("N", "W")))
    response = caller.call(infer_request([tensor(shape=(2, 0))], [b""]))
    assert (list(response.outputs[0].shape), list(response.raw_output_contents)) == ([2, 0], [b""])


class TestParameters:
    @pytest.mark.parametrize(
        "parameters",
        [
            {"mine": "x", "yours": 7, "ours": True, "theirs": 1.5},
            {"sequence_id": 7, "sequence_start": True},
            {"sequence_id": "seven", "sequence_end": True},
            {"priority": 1},
            {"priority": 2},
            {"priority": 99},
            {"timeout": 0},
            {"timeout": 20_000_000},
            {"signature_name": "serving_default"},
            {"triton_enable_empty_final_response": True},
        ],
    )
    def test_accepted_parameters(self, linear: InferenceCaller, parameters: dict[str, Any]) -> None:
        response = linear.call(infer_request([tensor(hint="x")], outputs=[wanted(hint=1)], parameters=parameters))
        assert array(response).tolist() == TEN
        assert not response.parameters

    def test_priority_as_tritonclient_sends_it(self, linear: InferenceCaller) -> None:
        request = infer_request()
        request.parameters["priority"].uint64_param = 2
        assert array(linear.call(request)).tolist() == TEN

    def test_an_unknown_signature(self, linear: InferenceCaller) -> None:
        text = 'Serving signature key "nope" not found.'
        request = infer_request(parameters={"signature_name": "nope"})
        assert linear.refusal(request) == (StatusCode.INVALID_ARGUMENT, text)

    def test_an_unknown_label(self, linear: InferenceCaller) -> None:
        request = infer_request(parameters={"version_label": "stable"})
        text = "Unrecognized servable version label: stable"
        assert linear.refusal(request) == (StatusCode.INVALID_ARGUMENT, text)

    def test_a_timeout_that_passes_in_the_queue(self, inferring: Infer) -> None:
        caller = inferring(models.linear, batching=Options(batch_timeout_micros=1_000_000))
        request = infer_request(parameters={"timeout": 1})
        assert caller.refusal(request) == (StatusCode.UNAVAILABLE, "Request timeout expired")


@pytest.fixture(scope="module")
def scores(inferring: Infer) -> InferenceCaller:
    return inferring(partial(models.identity, dims=("N", 5)))


class TestClassification:
    def top(self, caller: InferenceCaller, count: int, rows: Any) -> tuple[list[int], list[bytes]]:
        values = np.array(rows, np.float32)
        request = infer_request(
            [tensor(shape=values.shape)], [values.tobytes()], outputs=[wanted(classification=count)]
        )
        response = caller.call(request)
        assert response.outputs[0].datatype == "BYTES"
        return list(response.outputs[0].shape), unpacked(response.raw_output_contents[0])

    def test_the_largest_of_each_row(self, scores: InferenceCaller) -> None:
        rows = [[0.125, 0.5, 0.25, 0.875, 0.375], [5, 4, 3, 2, 1]]
        best = [b"0.875000:3", b"0.500000:1", b"5.000000:0", b"4.000000:1"]
        assert self.top(scores, 2, rows) == ([2, 2], best)

    def test_equal_values_by_index(self, scores: InferenceCaller) -> None:
        assert self.top(scores, 2, [[1] * 5]) == ([1, 2], [b"1.000000:0", b"1.000000:1"])

    def test_more_classes_than_there_are(self, scores: InferenceCaller) -> None:
        shape, classes = self.top(scores, 99, [[5, 4, 3, 2, float("nan")]])
        assert shape == [1, 5]
        assert b"nan:4" in classes

    def test_without_a_batch_axis_the_tensor_is_one_row(self, inferring: Infer) -> None:
        caller = inferring(partial(models.identity, dims=(2, 2)))
        assert self.top(caller, 2, [[0, 1], [2, 3]]) == ([2], [b"3.000000:3", b"2.000000:2"])

    def test_labels(self, inferring: Infer) -> None:
        def labelled(folder: Path) -> Path:
            text = '[signatures.serving_default]\nmethod = "classify"\nlabels = ["cat", "dog"]\n'
            folder.parent.joinpath("model.toml").write_text(text)
            return models.identity(folder, dims=("N", 3))

        assert self.top(inferring(labelled), 3, [[1, 3, 2]])[1] == [b"3.000000:1:dog", b"2.000000:2", b"1.000000:0:cat"]

    def test_values_without_an_order(self, inferring: Infer) -> None:
        caller = inferring(partial(models.identity, dtype=TensorProto.STRING))
        request = infer_request(
            [tensor("x", "BYTES", (1, 2))], [packed(b"a", b"b")], outputs=[wanted(classification=1)]
        )
        text = "class result not available for output due to unsupported type 'BYTES'"
        assert caller.refusal(request) == (StatusCode.INVALID_ARGUMENT, text)


def test_large_messages(inferring: Infer) -> None:
    caller = inferring(partial(models.identity, dims=("N", "W")))
    values = np.arange(2 << 20, dtype=np.float32)
    response = caller.call(infer_request([tensor(shape=(1, values.size))], [values.tobytes()]))
    assert response.raw_output_contents[0] == values.tobytes()
