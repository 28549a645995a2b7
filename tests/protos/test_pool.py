"""The messages are in their own descriptor pool, next to TensorFlow's, with either implementation of protobuf."""

import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import any_pb2, descriptor_pool, json_format, text_format

from headrace_protos import (
    POOL,
    BatchingParameters,
    DataType,
    GetModelMetadataResponse,
    GetModelStatusResponse,
    ModelServerConfig,
    ModelSpec,
    ModelVersionStatus,
    PredictRequest,
    SignatureDef,
    SignatureDefMap,
    TensorInfo,
    TensorProto,
)

SIGNATURES = SignatureDefMap(
    signature_def={"serving_default": SignatureDef(inputs={"x": TensorInfo(dtype="DT_FLOAT")})}
)

ISOLATED = """
from google.protobuf import descriptor_pool
from google.protobuf.internal import api_implementation
import headrace_protos
assert api_implementation.Type() == {implementation!r}
for name in ("tensorflow.TensorProto", "tensorflow.serving.ModelSpec", "tensorflow.serving.ModelType"):
    try:
        descriptor_pool.Default().FindFileContainingSymbol(name)
    except KeyError:
        continue
    raise AssertionError(name)
metadata = headrace_protos.GetModelMetadataResponse().metadata["signature_def"]
metadata.Pack(headrace_protos.SignatureDefMap())
assert metadata.Unpack(headrace_protos.SignatureDefMap())
assert headrace_protos.TensorShapeProto.Dim(size=3).size == 3
"""

BESIDE = """
import importlib, sys
for name in {order!r}:
    importlib.import_module(name)
import headrace_protos, tensorflow
from tensorflow_serving.apis import predict_pb2
assert tensorflow.__version__
ours = headrace_protos.PredictRequest(model_spec={{"name": "m", "version": {{"value": 3}}}}, output_filter=["y"])
ours.inputs["x"].float_val.extend([1.0, 2.0])
theirs = predict_pb2.PredictRequest.FromString(ours.SerializeToString())
assert (theirs.model_spec.version.value, list(theirs.inputs["x"].float_val)) == (3, [1.0, 2.0])
theirs.inputs["z"].CopyFrom(tensorflow.make_tensor_proto([[7]]))
assert headrace_protos.PredictRequest.FromString(theirs.SerializeToString()).inputs["z"].int_val == [7]
assert type(ours) is not type(theirs)
"""

OURS, SERVING = "headrace_protos", "tensorflow_serving.apis.predict_pb2"


@pytest.mark.parametrize("implementation", ["upb", "python"])
def test_importing_leaves_the_default_pool_alone(implementation: str) -> None:
    run_python(
        Path(sys.executable),
        ISOLATED.format(implementation=implementation),
        PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION=implementation,
    )


@pytest.mark.parametrize(
    "order",
    [[OURS, "tensorflow", SERVING], ["tensorflow", OURS, SERVING], [SERVING, "tensorflow", OURS]],
    ids=["first", "between", "last"],
)
def test_importing_together_with_tensorflow_in_any_order(order: list[str], tensorflow_python: Path) -> None:
    run_python(tensorflow_python, BESIDE.format(order=order))


def run_python(python: Path, source: str, **environment: str) -> None:
    path = str(Path(__file__).parents[2] / "protos")
    run = subprocess.run(
        [python, "-c", source],
        env={"PYTHONPATH": path, "PATH": "", **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert run.returncode == 0, run.stderr


def test_nothing_named_tensorflow_becomes_importable() -> None:
    folders = [path.name for path in (Path(__file__).parents[2] / "protos").iterdir() if path.is_dir()]
    assert [name for name in folders if name != "__pycache__"] == ["headrace_protos"]


def test_any_packs_and_unpacks() -> None:
    response = GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(SIGNATURES)
    unpacked = SignatureDefMap()
    assert response.metadata["signature_def"].type_url == "type.googleapis.com/tensorflow.serving.SignatureDefMap"
    assert response.metadata["signature_def"].Unpack(unpacked)
    assert unpacked == SIGNATURES


def test_protobufs_own_any_holds_our_messages() -> None:
    packed = any_pb2.Any()
    packed.Pack(SIGNATURES)
    assert packed.TypeName() == "tensorflow.serving.SignatureDefMap"
    unpacked = SignatureDefMap()
    assert packed.Unpack(unpacked)
    assert unpacked == SIGNATURES


def test_wrappers_tell_unset_from_zero() -> None:
    assert not ModelSpec(name="m").HasField("version")
    assert ModelSpec.FromString(ModelSpec(version={"value": 0}).SerializeToString()).HasField("version")


def test_text_format_reads_the_files_of_tensorflow_serving() -> None:
    batching = text_format.Parse(
        "max_batch_size { value: 128 } allowed_batch_sizes: 32 allowed_batch_sizes: 128", BatchingParameters()
    )
    assert (batching.max_batch_size.value, list(batching.allowed_batch_sizes)) == (128, [32, 128])
    config = text_format.Parse(
        """
        model_config_list: {
          config { name: 'm', base_path: "/models" "/m"; model_platform: "tensorflow"
                   model_version_policy { specific { versions: [1, 5] } }  # two
                   version_labels { key: "stable" value: 1 } }
        }
        """,
        ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path, model.version_labels["stable"]) == ("m", "/models/m", 1)
    assert list(model.model_version_policy.specific.versions) == [1, 5]


def test_text_format_finds_what_an_any_holds_in_our_pool() -> None:
    response = GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(SIGNATURES)
    text = text_format.MessageToString(response, descriptor_pool=POOL)
    assert "[type.googleapis.com/tensorflow.serving.SignatureDefMap]" in text
    assert text_format.Parse(text, GetModelMetadataResponse(), descriptor_pool=POOL) == response


def test_json_keeps_the_names_that_tensorflow_serving_keeps() -> None:
    status = GetModelStatusResponse(model_version_status=[ModelVersionStatus(version=1, state="AVAILABLE")])
    status.model_version_status[0].status.error_message = "x"
    assert json_format.MessageToDict(status) == {
        "model_version_status": [{"version": "1", "state": "AVAILABLE", "status": {"error_message": "x"}}]
    }


def test_json_finds_what_an_any_holds_in_our_pool() -> None:
    response = GetModelMetadataResponse()
    response.metadata["signature_def"].Pack(SIGNATURES)
    encoded = json_format.MessageToDict(response, descriptor_pool=POOL)
    assert encoded["metadata"]["signature_def"]["signatureDef"]["serving_default"]["inputs"]["x"]["dtype"] == "DT_FLOAT"
    assert json_format.ParseDict(encoded, GetModelMetadataResponse(), descriptor_pool=POOL) == response


def test_fields_left_out_survive_being_forwarded() -> None:
    later = b"\xca\x3e\x01x"  # field 1001, which no message here declares
    assert TensorProto.FromString(later).SerializeToString() == later


def test_classes_say_where_they_come_from() -> None:
    assert PredictRequest.__module__ == "headrace_protos.tensorflow_serving.apis.predict_pb2"
    assert TensorProto.DESCRIPTOR.file.pool is POOL
    assert POOL is not descriptor_pool.Default()
    request = PredictRequest(model_spec={"name": "m"})
    assert pickle.loads(pickle.dumps(request)) == request


def test_the_pool_knows_the_services() -> None:
    assert set(POOL.FindServiceByName("tensorflow.serving.PredictionService").methods_by_name) == {
        *("Classify", "Regress", "Predict", "MultiInference", "GetModelMetadata")
    }
    assert set(POOL.FindServiceByName("tensorflow.serving.ModelService").methods_by_name) == {
        *("GetModelStatus", "HandleReloadConfigRequest")
    }
    assert DataType.Name(1) == "DT_FLOAT"
