"""GetModelMetadata: the signatures of a model, as an Any."""

from typing import NamedTuple

import pytest
from google.protobuf.message import Message
from grpc import StatusCode

from headrace_protos import DataType, GetModelMetadataRequest, SignatureDefMap, TensorInfo, TensorShapeProto
from tests.conftest import Run
from tests.support import models
from tests.support.calls import Caller, metadata_request


class Case(NamedTuple):
    request: Message
    code: StatusCode
    text: str


@pytest.fixture(scope="module")
def linear(running: Run) -> Caller:
    return running(models.linear).caller


def float_info(name: str, *dims: TensorShapeProto.Dim) -> TensorInfo:
    return TensorInfo(name=name, dtype=DataType.DT_FLOAT, tensor_shape=TensorShapeProto(dim=dims))


@pytest.mark.parametrize("fields", [["signature_def"], ["signature_def", "signature_def"]])
def test_describes_the_signatures(linear: Caller, fields: list[str]) -> None:
    response = linear.call(metadata_request(*fields))
    assert dict(response.metadata).keys() == {"signature_def"}
    packed = response.metadata["signature_def"]
    assert packed.type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    signatures = SignatureDefMap()
    assert packed.Unpack(signatures)
    assert dict(signatures.signature_def).keys() == {"serving_default"}
    signature = signatures.signature_def["serving_default"]
    assert signature.method_name == "tensorflow/serving/predict"
    rows, columns, one = (TensorShapeProto.Dim(size=size, name=name) for size, name in ((-1, "N"), (4, ""), (1, "")))
    assert dict(signature.inputs) == {"x": float_info("x", rows, columns)}
    assert dict(signature.outputs) == {"y": float_info("y", rows, one)}


@pytest.mark.parametrize("version", [None, 1])
def test_names_model_and_version_alone(linear: Caller, version: int | None) -> None:
    request = metadata_request("signature_def", version=version, signature_name="ignored")
    spec = linear.call(request).model_spec
    assert (spec.name, spec.version.value, spec.signature_name) == ("model", 1, "")


REFUSED = {
    "no spec": Case(
        GetModelMetadataRequest(metadata_field=["signature_def"]), StatusCode.INVALID_ARGUMENT, "Missing ModelSpec"
    ),
    "no field, before the name": Case(
        metadata_request(name=""),
        StatusCode.INVALID_ARGUMENT,
        "GetModelMetadataRequest must specify at least one metadata_field",
    ),
    "unknown field, before the model": Case(
        metadata_request("signature_def", "weights", name="nobody"),
        StatusCode.INVALID_ARGUMENT,
        "Metadata field weights is not supported",
    ),
    "no name": Case(
        metadata_request("signature_def", name=""), StatusCode.INVALID_ARGUMENT, "ModelSpec has no name specified."
    ),
    "unknown model": Case(
        metadata_request("signature_def", name="nobody"),
        StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(nobody)",
    ),
    "unknown version": Case(
        metadata_request("signature_def", version=9),
        StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(model, 9)",
    ),
    "unknown label": Case(
        metadata_request("signature_def", version_label="a"),
        StatusCode.INVALID_ARGUMENT,
        "Unrecognized servable version label: a",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusals(linear: Caller, name: str) -> None:
    request, *refusal = REFUSED[name]
    assert [*linear.refusal(request)] == refusal
