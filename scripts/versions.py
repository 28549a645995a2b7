"""Versions of a model whose answers contain the version's number, for tests of loading under load."""

from pathlib import Path

import grpc
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from headrace_protos import (
    GetModelStatusRequest,
    GetModelStatusResponse,
    ModelServerConfig,
    PredictRequest,
    ReloadConfigRequest,
    ReloadConfigResponse,
)
from headrace_protos.tensor import to_proto

PREDICT = "/tensorflow.serving.PredictionService/Predict"
_MODEL_SERVICE = "/tensorflow.serving.ModelService"


def write_version(folder: Path, version: int, *, width: int = 256, layers: int = 16) -> None:
    """Writes a network of `layers` dense layers of `width` whose `y` float [N, 1] is the version, for any `x`."""
    weights = np.random.default_rng(version).standard_normal((layers, width, width), np.float32)
    names = ["x", *(f"h{layer}" for layer in range(1, layers + 1))]
    nodes = []
    for layer in range(layers):
        nodes.append(helper.make_node("MatMul", [names[layer], f"w{layer}"], [f"z{layer}"]))
        nodes.append(helper.make_node("Tanh", [f"z{layer}"], [names[layer + 1]]))
    nodes += [
        helper.make_node("MatMul", [names[-1], "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "version"], ["y"]),
    ]
    constants = {f"w{layer}": weights[layer] for layer in range(layers)}
    constants |= {"nothing": np.zeros((width, 1), np.float32), "version": np.array([version], np.float32)}
    graph = helper.make_graph(
        nodes,
        "version",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 1])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    folder.mkdir(parents=True)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save_model(model, folder / "model.onnx")


def predict_request(name: str, width: int = 256) -> bytes:
    """A Predict of one row of zeros."""
    request = PredictRequest()
    request.model_spec.name = name
    to_proto(np.zeros((1, width), np.float32), request.inputs["x"], as_content=True)
    return request.SerializeToString()


def models(root: Path, *names: str) -> ModelServerConfig:
    """The configuration of the models in folders with these names."""
    config = ModelServerConfig()
    config.model_config_list.SetInParent()
    for name in names:
        config.model_config_list.config.add(name=name, base_path=str(root / name), model_platform="tensorflow")
    return config


def reload(channel: grpc.Channel, config: ModelServerConfig) -> None:
    """Makes a server serve other models; returns once the new ones are served."""
    call: grpc.UnaryUnaryMultiCallable[ReloadConfigRequest, ReloadConfigResponse] = channel.unary_unary(
        f"{_MODEL_SERVICE}/HandleReloadConfigRequest",
        ReloadConfigRequest.SerializeToString,
        ReloadConfigResponse.FromString,
    )
    call(ReloadConfigRequest(config=config), timeout=60)


def states(channel: grpc.Channel, name: str) -> dict[int, int]:
    """The state of each version of a model."""
    call: grpc.UnaryUnaryMultiCallable[GetModelStatusRequest, GetModelStatusResponse] = channel.unary_unary(
        f"{_MODEL_SERVICE}/GetModelStatus",
        GetModelStatusRequest.SerializeToString,
        GetModelStatusResponse.FromString,
    )
    request = GetModelStatusRequest()
    request.model_spec.name = name
    return {status.version: status.state for status in call(request, timeout=60).model_version_status}
