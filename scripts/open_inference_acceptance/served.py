"""A server with several models, and calls to it over both APIs."""

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from headrace_protos import ModelServerConfig, PredictRequest
from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest, ModelReadyRequest, ModelReadyResponse
from headrace_protos.tensor import to_proto
from scripts.bench.process import Server, StartError, running

SERVICE = "/inference.GRPCInferenceService/"
PREDICT = "/tensorflow.serving.PredictionService/Predict"

_DATATYPES = {"float32": "FP32", "int64": "INT64", "object": "BYTES"}
_SERVED = re.compile(r"served (\S+?):\d+ \S+: ([\d,]+) requests.*? mean ([\d.,]+) rows")


class Skipped(Exception):
    """Something that a check needs is missing."""


@dataclass(frozen=True)
class Models:
    """A folder of models, each with the text of its `model.toml`, its `model.py`, or its file."""

    folder: Path

    def add(self, name: str, *, toml: str = "", code: str = "", file: Path | None = None) -> Path:
        """Writes version 1 of a model, and returns its folder."""
        version = self.folder / name / "1"
        version.mkdir(parents=True)
        if toml:
            (self.folder / name / "model.toml").write_text(toml)
        if code:
            (version / "model.py").write_text(code)
        if file is not None:
            (version / "model.onnx").write_bytes(file.read_bytes())
        return version

    @contextmanager
    def served(self, *flags: str) -> Iterator[Server]:
        """Serves all models until the end of the block. After that, the `log` of the yielded object is complete."""
        config = ModelServerConfig()
        for base in sorted(self.folder.iterdir()):
            config.model_config_list.config.add(name=base.name, base_path=str(base), model_platform="tensorflow")
        file = self.folder.with_suffix(".config")
        file.write_text(str(config))
        headrace = str(Path(sys.executable).with_name("headrace"))

        def command(port: int) -> Sequence[str]:
            return [headrace, "serve", f"--port={port}", f"--model_config_file={file}", *flags]

        with running(command, self.folder.with_suffix(".log")) as server:
            self._await_all(server)
            yield server

    def _await_all(self, server: Server) -> None:
        with grpc.insecure_channel(server.address) as channel:
            ready = channel.unary_unary(
                f"{SERVICE}ModelReady", ModelReadyRequest.SerializeToString, ModelReadyResponse.FromString
            )
            for base in self.folder.iterdir():
                while not ready(ModelReadyRequest(name=base.name), wait_for_ready=True).ready:
                    if server.process.poll() is not None:
                        raise StartError(server.log.read_text()[-2000:])


def mean_rows(log: str) -> dict[str, float]:
    """The mean rows per batch of each model, from the log of a stopped server."""
    return {name: float(mean.replace(",", "")) for name, _, mean in _SERVED.findall(log)}


def predict_request(model: str, inputs: Mapping[str, np.ndarray]) -> PredictRequest:
    """A Predict of TensorFlow Serving's API."""
    request = PredictRequest()
    request.model_spec.name = model
    for name, array in inputs.items():
        to_proto(array, request.inputs[name])
    return request


def infer_request(model: str, inputs: Mapping[str, np.ndarray], **sequence: int | bool) -> ModelInferRequest:
    """A ModelInfer with raw contents; `sequence` is its parameters."""
    request = ModelInferRequest(model_name=model)
    for name, array in inputs.items():
        request.inputs.add(name=name, datatype=_DATATYPES[array.dtype.name], shape=array.shape)
        request.raw_input_contents.append(_raw(array))
    for name, value in sequence.items():
        parameter = request.parameters[name]
        if isinstance(value, bool):
            parameter.bool_param = value
        else:
            parameter.int64_param = value
    return request


def _raw(array: np.ndarray) -> bytes:
    if array.dtype.hasobject:
        return b"".join(len(item).to_bytes(4, "little") + item for item in array.ravel())
    return array.tobytes()
