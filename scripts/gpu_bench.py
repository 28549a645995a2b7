"""Compares headrace on this machine's GPU with the bare runtimes: python -m scripts.gpu_bench --report=FILE."""

import argparse
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path

import grpc
import numpy as np
import onnx
import onnxruntime

from headrace_protos import PredictRequest, PredictResponse
from headrace_protos.tensor import to_array, to_proto
from headrace_server.backends.tensorrt.half import half
from scripts.bench.cases import Load
from scripts.bench.gpu_bare import Bare, bare_cuda, bare_tensorrt
from scripts.bench.gpu_models import mlp_model, resnet50_model
from scripts.bench.load import PREDICT, Caller
from scripts.bench.machine import description
from scripts.bench.process import Server, running
from scripts.bench.requests import PREFIX_BYTES, framed

ONE_CALLER = Load(connections=1, streams=1)
LONE_CALLS = 400
PATIENCE = 600.0  # seconds in which an engine is built
_SERVED = re.compile(r"served \S+ serving_default: (\d+) requests, (\d+) rows in (\d+) batches")


@dataclass(frozen=True)
class Case:
    """A model, one of its rows, and the number of callers.

    Attributes:
        precision: `half` for a copy of the model that computes in half floats.
        difference: The allowed difference from the CPU's answer, relative to the largest value.
    """

    name: str
    title: str
    build: Callable[[], onnx.ModelProto]
    row: np.ndarray
    load: Load
    batch: int
    difference: float
    precision: str = "single"

    def save(self, folder: Path) -> Path:
        """Writes the model as version 1 and returns its base path."""
        base = folder / f"{self.name}-{self.precision}"
        version = base / "1"
        version.mkdir(parents=True)
        onnx.save(self.build(), version / "model.onnx")
        if self.precision == "half":
            half(version / "model.onnx", version)
        return base


_RANDOM = np.random.default_rng(7)
_IMAGE = _RANDOM.integers(0, 256, (1, 3, 224, 224), dtype=np.uint8)
_IMAGES = partial(Case, "resnet50", build=resnet50_model, row=_IMAGE, load=Load(8, 48), batch=64)
CASES = (
    Case(
        "mlp",
        "64 floats to 10 by three layers of 1024",
        mlp_model,
        _RANDOM.standard_normal((1, 64), np.float32),
        Load(8, 64),
        batch=256,
        difference=2e-3,
    ),
    _IMAGES(title="ResNet-50, images of 150,528 bytes", difference=5e-3),
    _IMAGES(title="ResNet-50 in half floats", precision="half", difference=2e-2),
)


@dataclass(frozen=True)
class Setup:
    """One way to serve a model."""

    title: str
    flags: tuple[str, ...] = ()
    toml: str = ""
    batching: str = ""

    @property
    def tensorrt(self) -> bool:
        """Whether the setup needs TensorRT."""
        return "[tensorrt]" in self.toml


_CUDA = "--onnxruntime_providers=CUDAExecutionProvider,CPUExecutionProvider"
_CPU = "--onnxruntime_providers=CPUExecutionProvider"
_NATIVE, _GRPCIO = "--transport=native", "--transport=grpcio"


def setups() -> Iterator[Setup]:
    """All measured ways."""
    yield Setup("CPU", (_NATIVE, _CPU))
    yield Setup("CPU, grpcio", (_GRPCIO, _CPU))
    yield Setup("CUDA", (_NATIVE, _CUDA))
    for instances in (1, 4):
        yield Setup(f"CUDA, instances: {instances}", (_NATIVE, _CUDA, f"--onnxruntime_gpu_instances={instances}"))
    yield Setup("CUDA, one batch thread", (_NATIVE, _CUDA), batching="num_batch_threads { value: 1 }\n")
    yield Setup("CUDA, channels last", (_NATIVE, _CUDA, "--onnxruntime_gpu_prefer_nhwc=true"))
    yield Setup("CUDA, grpcio", (_GRPCIO, _CUDA))
    yield Setup("CUDA, no batching", (_NATIVE, _CUDA, "--enable_batching=false"))
    for instances, more in ((1, ""), (1, "cuda_graphs"), (2, ""), (2, "cuda_graphs"), (2, "spin"), (4, "")):
        toml = f"[tensorrt]\ninstances = {instances}\n" + (f"{more} = true\n" if more else "")
        yield Setup(f"TensorRT, instances: {instances}" + (f", {more}" if more else ""), (_NATIVE,), toml)


@dataclass(frozen=True)
class Sample:
    """The result of one setup: under load, and for one caller at a time. Latencies in milliseconds."""

    rate: float
    p50: float
    p99: float
    batch: float
    cores: float
    lone_p50: float
    lone_p99: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints a table for each case when it has been measured; also writes all tables to a file if one is given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4, help="of each load")
    parser.add_argument("--only", default="", help="cases and setups whose title matches this regular expression")
    parser.add_argument("--no_tensorrt", action="store_true", help="measure CUDA alone")
    parser.add_argument(
        "--engines", type=Path, help="folder that keeps TensorRT's engines, which take minutes to build"
    )
    parser.add_argument("--report", type=Path, help="file for the tables")
    options = parser.parse_args(arguments)
    lines = [*description(), _gpu()]
    wanted = re.compile(options.only)
    with tempfile.TemporaryDirectory(prefix="headrace-gpu-") as folder:
        for case in CASES:
            chosen = [
                setup
                for setup in setups()
                if wanted.search(f"{case.name}-{case.precision}: {setup.title}")
                and not (setup.tensorrt and options.no_tensorrt)
            ]
            if chosen:
                lines += [
                    "",
                    *_measured(case, chosen, Path(folder), options.engines or Path(folder, "engines"), options.seconds),
                ]
                print("\n".join(lines), flush=True)
                if options.report:
                    options.report.write_text("\n".join(lines) + "\n")
    return 0


def _gpu() -> str:
    """The GPU, its driver and the versions of the runtimes."""
    query = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    found = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
    with suppress(ImportError):
        found += f"; TensorRT {import_module('tensorrt').__version__}"
    return f"{found}; onnxruntime-gpu {onnxruntime.__version__}."


def _measured(case: Case, chosen: Sequence[Setup], folder: Path, engines: Path, seconds: float) -> list[str]:
    base = case.save(folder)
    expected = _on_cpu(case, base)
    rows = []
    for setup in chosen:
        print(f"{case.title}: {setup.title}", file=sys.stderr, flush=True)
        try:
            flags = (*setup.flags, f"--tensorrt_cache_folder={engines}")
            sample = _sample(case, replace(setup, flags=flags), base, expected, seconds)
            rows.append(_line(setup.title, sample))
        except Exception as error:
            rows.append(f"| {setup.title} | failed: {' '.join(str(error).split())[-300:]} |")
        print(rows[-1], file=sys.stderr, flush=True)
    bare = [*bare_cuda(base / "1", case.row, (1, case.batch), seconds / 2)]
    if any(setup.tensorrt for setup in chosen):
        bare += bare_tensorrt(base / "1", engines, case.row, case.batch, seconds / 2)
    return [
        f"## {case.title}",
        "",
        f"{case.load}, batches of at most {case.batch} rows.",
        "",
        "| | requests/s | p50 ms | p99 ms | mean batch | server's cores | one caller: p50 ms | p99 ms |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
        *rows,
        "",
        "| bare, one batch after the other | rows a batch | rows/s | ms a batch |",
        "|---|---:|---:|---:|",
        *(_bare_line(sample) for sample in bare),
    ]


def _sample(case: Case, setup: Setup, base: Path, expected: np.ndarray, seconds: float) -> Sample:
    (base / "model.toml").write_text(setup.toml)
    batching = base.parent / "batching.txt"
    batching.write_text(f"max_batch_size {{ value: {case.batch} }}\n{setup.batching}")
    message, log = base.parent / "message", base.parent / "server.log"
    request = PredictRequest()
    request.model_spec.name = case.name
    to_proto(case.row, request.inputs["x"], as_content=True)
    message.write_bytes(framed(request.SerializeToString()))
    command = partial(_command, case, setup, base, batching)
    with running(command, log, PATIENCE) as server:
        size = _checked(server, request, expected, case.difference)
        lone = Caller(server.address, message, size + PREFIX_BYTES, ONE_CALLER)
        lone.run(LONE_CALLS)
        alone = lone.run(LONE_CALLS, base.parent / "latencies").latencies
        caller = Caller(server.address, message, size + PREFIX_BYTES, case.load)
        count = max(1000, round(caller.warm_up(seconds) * seconds))
        cpu = server.cpu_seconds()
        answers = caller.run(count, base.parent / "latencies")
        cores = (server.cpu_seconds() - cpu) * answers.requests_per_second / count
    served = _SERVED.search(log.read_text())
    batch = (int(served[2]) - 2 * LONE_CALLS) / max(1, int(served[3]) - 2 * LONE_CALLS) if served else 1.0
    p50, p99 = np.percentile(answers.latencies, (50, 99)) / 1e3
    lone_p50, lone_p99 = np.percentile(alone, (50, 99)) / 1e3
    return Sample(answers.requests_per_second, p50, p99, batch, cores, lone_p50, lone_p99)


def _command(case: Case, setup: Setup, base: Path, batching: Path, port: int) -> list[str]:
    batched = [] if "--enable_batching=false" in setup.flags else [f"--batching_parameters_file={batching}"]
    return [
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        f"--port={port}",
        f"--model_name={case.name}",
        f"--model_base_path={base}",
        *batched,
        *setup.flags,
    ]


def _checked(server: Server, request: PredictRequest, expected: np.ndarray, difference: float) -> int:
    """Checks an answer, and returns its size in bytes.

    Raises:
        ValueError: The answer is wrong.
    """
    with grpc.insecure_channel(server.address) as channel:
        predict = channel.unary_unary(PREDICT, request_serializer=bytes, response_deserializer=bytes)
        answer: bytes = predict(request.SerializeToString(), timeout=PATIENCE, wait_for_ready=True)
    y = to_array(PredictResponse.FromString(answer).outputs["y"])
    off = float(np.abs(y - expected).max() / np.abs(expected).max())
    print(f"  differs from the CPU's by {off:.2g} of the largest value", file=sys.stderr, flush=True)
    if not off <= difference:
        raise ValueError(f"answers differ by {off:.2g}, more than {difference}")
    return len(answer)


def _on_cpu(case: Case, base: Path) -> np.ndarray:
    """The CPU's answer to the case's row, always computed in single precision."""
    model = base / "1" / "model.onnx"
    content = model.read_bytes() if case.precision == "single" else case.build().SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    y: np.ndarray = session.run(["y"], {"x": case.row})[0]
    return y


def _line(title: str, sample: Sample) -> str:
    cells = (
        f"{sample.rate:,.0f}",
        f"{sample.p50:.2f}",
        f"{sample.p99:.2f}",
        f"{sample.batch:.1f}",
        f"{sample.cores:.1f}",
        f"{sample.lone_p50:.2f}",
        f"{sample.lone_p99:.2f}",
    )
    return f"| {' | '.join((title, *cells))} |"


def _bare_line(bare: Bare) -> str:
    return f"| {bare.title} | {bare.batch} | {bare.rows_per_second:,.0f} | {bare.milliseconds:.3f} |"


if __name__ == "__main__":
    sys.exit(main())
