"""Measures every kind of gRPC call beside a bare grpc++ responder of its messages: python -m scripts.bench.kinds."""

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median

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


@dataclass(frozen=True)
class Sample:
    """One load: requests a second, and the server's user and system time per request in microseconds."""

    requests_per_second: float
    cpu_us: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a table of medians, the servers by turns; nothing but a word where something that it takes is not here."""
    options = _parser().parse_args(arguments)
    missing = "h2load" if h2load_version() is None else grpcpp.missing()
    if missing:
        print(f"every kind of call is not measured: {missing} not found", file=sys.stderr)
        return 0
    print(table(kinds(), options.rounds, options.seconds))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.kinds", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3, help="times that all servers take their turn")
    parser.add_argument("--seconds", type=float, default=2.5, help="length of one load")
    return parser


def kinds() -> list[Kind]:
    """Return every kind of call."""
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


def table(measured: Sequence[Kind], rounds: int, seconds: float) -> str:
    """Return a table in Markdown of requests/s and CPU, and of the ratios to the bare responder."""
    lines = [
        f"Load average at the start: {os.getloadavg()[0]:.1f}.",
        "",
        "| call | server | requests/s | CPU per request, us | requests/s and CPU against the bare one |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for kind in measured:
        samples = _measure(kind, rounds, seconds)
        bare = _median(samples[BARE])
        for name, taken in samples.items():
            own = _median(taken)
            ratios = f"{own.requests_per_second / bare.requests_per_second:.2f}, {own.cpu_us / bare.cpu_us:.2f}"
            lines.append(f"| {kind.name} | {name} | {own.requests_per_second:,.0f} | {own.cpu_us:,.1f} | {ratios} |")
    return "\n".join(lines)


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


def _median(samples: Sequence[Sample]) -> Sample:
    rates = median(sample.requests_per_second for sample in samples)
    return Sample(rates, median(sample.cpu_us for sample in samples))


if __name__ == "__main__":
    sys.exit(main())
