"""Server reflection: what a client without the .proto files can learn."""

import asyncio
import gc
from queue import Queue
from typing import Any

import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from tests.conftest import Run
from tests.support import models
from tests.support.calls import ANSWER_WITHIN, PREDICT, Caller, Refusal, arrays, floats, predict_request
from tests.support.running import eventually


@pytest.fixture(scope="module")
def caller(running: Run) -> Caller:
    return running(models.linear).caller


@pytest.fixture
def database(caller: Caller) -> ProtoReflectionDescriptorDatabase:
    return ProtoReflectionDescriptorDatabase(caller.channel)


def test_lists_the_services(database: ProtoReflectionDescriptorDatabase) -> None:
    assert sorted(database.get_services()) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
        "tensorflow.serving.ModelService",
        "tensorflow.serving.PredictionService",
    ]


def test_clients_of_v1_get_the_same_answers(caller: Caller, database: ProtoReflectionDescriptorDatabase) -> None:
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("grpc.reflection.v1.ServerReflection").methods_by_name["ServerReflectionInfo"]
    request: Any = GetMessageClass(method.input_type)
    call: Any = caller.channel.stream_stream("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    (answer,) = call(iter([request(list_services="").SerializeToString()]), timeout=ANSWER_WITHIN)
    response: Any = GetMessageClass(method.output_type).FromString(answer)
    assert [service.name for service in response.list_services_response.service] == sorted(database.get_services())


def test_does_not_list_services_that_are_not_served(running: Run) -> None:
    server = running(models.linear, enable_grpc_healthcheck_service=False)
    database = ProtoReflectionDescriptorDatabase(server.caller.channel)
    assert "grpc.health.v1.Health" not in database.get_services()
    unserved = server.caller.send_bytes("/grpc.health.v1.Health/Check", b"")
    assert isinstance(unserved, Refusal)
    assert unserved.code is StatusCode.UNIMPLEMENTED


def test_describes_every_service(database: ProtoReflectionDescriptorDatabase) -> None:
    pool = DescriptorPool(database)
    methods = {name: set(pool.FindServiceByName(name).methods_by_name) for name in database.get_services()}
    assert methods["tensorflow.serving.PredictionService"] >= {"Predict", "GetModelMetadata"}
    assert methods["tensorflow.serving.ModelService"] >= {"GetModelStatus"}
    assert methods["grpc.health.v1.Health"] >= {"Check", "Watch"}


def test_described_methods_can_be_called(caller: Caller, database: ProtoReflectionDescriptorDatabase) -> None:
    pool = DescriptorPool(database)
    predict = pool.FindServiceByName("tensorflow.serving.PredictionService").methods_by_name["Predict"]
    request: Any = GetMessageClass(predict.input_type)()
    request.model_spec.name = "model"
    tensor = GetMessageClass(pool.FindMessageTypeByName("tensorflow.TensorProto"))
    x = tensor(dtype=1, float_val=[1, 2, 3, 4], tensor_shape={"dim": [{"size": 1}, {"size": 4}]})
    request.inputs["x"].CopyFrom(x)
    answer = caller.send_bytes(PREDICT, request.SerializeToString())
    assert isinstance(answer, bytes)
    response: Any = GetMessageClass(predict.output_type).FromString(answer)
    assert list(response.outputs["y"].float_val) == [10]
    assert arrays(caller.call(predict_request({"x": floats([1, 2, 3, 4])})))["y"].tolist() == [[10]]


def test_describes_the_messages_in_metadata(database: ProtoReflectionDescriptorDatabase) -> None:
    """An Any names its message type, so that clients can look it up."""
    found = DescriptorPool(database).FindMessageTypeByName("tensorflow.serving.SignatureDefMap")
    assert [field.name for field in found.fields] == ["signature_def"]


@pytest.mark.parametrize("symbol", ["Nothing", "tensorflow.serving.PredictionService.Nothing", "nobody.Predict", ""])
def test_unknown_symbol(database: ProtoReflectionDescriptorDatabase, symbol: str) -> None:
    with pytest.raises(KeyError):
        database.FindFileContainingSymbol(symbol)


def test_finds_the_file_of_a_method(database: ProtoReflectionDescriptorDatabase) -> None:
    file = database.FindFileContainingSymbol("tensorflow.serving.PredictionService.Predict")
    assert file.name.endswith("prediction_service.proto")


def tasks() -> int:
    """The number of tasks that have not ended, of all event loops."""
    return sum(isinstance(each, asyncio.Task) and not each.done() for each in gc.get_objects())


def test_a_caller_who_leaves_leaves_nothing(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    """Python logs tasks that are dropped before they have ended, or whose exceptions nobody has seen."""
    stub = reflection_pb2_grpc.ServerReflectionStub(running(models.linear).caller.channel)
    requests: Queue[Any] = Queue()
    gc.collect()  # removes tasks that earlier tests have left
    caplog.clear()
    before = tasks()
    answers = stub.ServerReflectionInfo(iter(requests.get, None))
    requests.put(reflection_pb2.ServerReflectionRequest(list_services=""))
    assert next(answers).list_services_response.service
    assert tasks() > before
    answers.cancel()
    requests.put(None)
    eventually(lambda: tasks() <= before)
    gc.collect()
    assert not caplog.records
