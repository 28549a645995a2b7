"""Compares every kind of gRPC call with a bare grpc++ responder: python -m scripts.bench.kinds."""

import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import onnx

from headrace_protos import (
    ClassificationRequest,
    Example,
    GetModelMetadataRequest,
    ModelSpec,
    MultiInferenceRequest,
    PredictRequest,
)
from headrace_protos.tensor import to_proto

from . import grpcpp
from .beside_bare import Sample, parser_of, table
from .cases import CASES, Load
from .contenders import headrace_command
from .load import Caller, h2load_version
from .models import fixed_model, small_model, string_model
from .process import Server, running
from .requests import PREFIX_BYTES, framed

_BUILD = Path(__file__).parents[2] / "build" / "bench"
_SERVICE = "/tensorflow.serving.PredictionService/"
_LOAD = Load(connections=4, streams=16)

BARE = "grpc++, no model"
NATIVE = "headrace, native"
GRPCIO = "headrace, grpc.aio"


@dataclass(frozen=True)
class Kind:
    """A kind of call: its method, its one message, and the model that answers it."""

    name: str
    method: str
    message: bytes
    build: Callable[[], onnx.ModelProto] = small_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table of medians, measured with the servers in turn, or a line about what is missing."""
    options = parser_of("kinds", __doc__).parse_args(arguments)
    missing = "h2load" if h2load_version() is None else grpcpp.missing()
    if missing:
        print(f"the kinds of calls are not measured: {missing} not found", file=sys.stderr)
        return 0
    print(f"Load average at the start: {os.getloadavg()[0]:.1f}.\n")
    measured = ((kind.name, _measure(kind, options.rounds, options.seconds)) for kind in kinds())
    print("\n".join(table("call", measured, BARE)))
    return 0


def kinds() -> list[Kind]:
    """Returns every kind of call."""
    spec, rows = ModelSpec(name=CASES[0].name), CASES[0].rows(1)
    example = Example()
    example.features.feature["x"].float_list.value.extend(rows[0].tolist())
    examples = {"example_list": {"examples": [example]}}
    classify = ClassificationRequest(model_spec=spec, input=examples)
    multi = MultiInferenceRequest(
        tasks=[{"model_spec": spec, "method_name": "tensorflow/serving/classify"}], input=examples
    )
    metadata = GetModelMetadataRequest(model_spec=spec, metadata_field=["signature_def"])
    strings = np.array([[b"a word", b"another"]], np.object_)
    return [
        Kind("Predict, plain", "Predict", _predict(rows)),
        Kind("Predict, outputs named", "Predict", _predict(rows, output_filter=["y"])),
        Kind("Predict, two strings", "Predict", _predict(strings), string_model),
        Kind("Predict, no batch axis", "Predict", _predict(rows[0]), fixed_model),
        Kind("Classify, one Example", "Classify", classify.SerializeToString()),
        Kind("MultiInference, one Example", "MultiInference", multi.SerializeToString()),
        Kind("GetModelMetadata", "GetModelMetadata", metadata.SerializeToString()),
    ]


def _predict(array: np.ndarray, **fields: list[str]) -> bytes:
    request = PredictRequest(model_spec=ModelSpec(name=CASES[0].name), **fields)  # type: ignore[arg-type]
    to_proto(array, request.inputs["x"], as_content=array.dtype != np.object_)
    return request.SerializeToString()


def _measure(kind: Kind, rounds: int, seconds: float) -> dict[str, list[Sample]]:
    responder = grpcpp.build(_BUILD)
    case = replace(CASES[0], build=kind.build)
    samples: dict[str, list[Sample]] = {}
    with tempfile.TemporaryDirectory(prefix="headrace-bench-") as name:
        folder = Path(name)
        case.save(folder / "model")
        (folder / "message").write_bytes(framed(kind.message))
        commands: dict[str, Callable[[int], Sequence[str]]] = {
            BARE: lambda port: [str(responder), str(port), str(case.outputs)],
            NATIVE: partial(headrace_command, "native", case, folder / "model"),
            GRPCIO: partial(headrace_command, "grpcio", case, folder / "model"),
        }
        for _ in range(rounds):
            for server_name, command in commands.items():
                with running(command, folder / "server.log") as server:
                    samples.setdefault(server_name, []).append(_sample(server, kind, folder / "message", seconds))
    return samples


def _sample(server: Server, kind: Kind, message: Path, seconds: float) -> Sample:
    with grpc.insecure_channel(server.address) as channel:
        call = channel.unary_unary(_SERVICE + kind.method, request_serializer=bytes, response_deserializer=bytes)
        size = len(call(kind.message, timeout=30))
    caller = Caller(server.address, message, size + PREFIX_BYTES, _LOAD, _SERVICE + kind.method)
    rate = caller.warm_up(seconds / 3)
    count = max(_LOAD.connections * _LOAD.streams, round(rate * seconds))
    before = server.cpu_seconds()
    answers = caller.run(count)
    return Sample(answers.requests_per_second, (server.cpu_seconds() - before) / count * 1e6)


if __name__ == "__main__":
    sys.exit(main())
