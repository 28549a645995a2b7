"""The servers that are compared, and the command that starts each."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from headrace_protos import BatchingParameters, ModelServerConfig

from . import grpcpp
from .cases import Case

AIO = "grpc.aio, no model"
GRPCPP = "grpc++, no model"
HEADRACE = "headrace, grpc.aio"
NATIVE = "headrace, native"

# A function that returns a server's command from a case, the model's base path and a port.
Command = Callable[[Case, Path, int], Sequence[str]]


@dataclass(frozen=True)
class Contender:
    """A server, by its name in the report; `infers` is false for the responders, which run no model."""

    name: str
    command: Command
    infers: bool


def contenders(build: Path) -> list[Contender]:
    """Returns every server that can run here, and prints one line for each that cannot."""
    found = [Contender(AIO, _aio, infers=False)]
    if missing := grpcpp.missing():
        print(f"without the grpc++ responder: {missing} not found", file=sys.stderr)
    else:
        found.append(Contender(GRPCPP, partial(_grpcpp, grpcpp.build(build)), infers=False))
    found.append(Contender(HEADRACE, partial(headrace_command, "grpcio"), infers=True))
    if find_spec("headrace_native") is None:
        print("without the native transport: headrace-native is not installed", file=sys.stderr)
    else:
        found.append(Contender(NATIVE, partial(headrace_command, "native"), infers=True))
    return found


def of_many_models(contender: Contender, count: int) -> Contender:
    """Returns the same headrace with this many models loaded, including the case's."""
    return Contender(contender.name, partial(_of_many_models, contender.command, count), contender.infers)


def _of_many_models(command: Command, count: int, case: Case, base_path: Path, port: int) -> Sequence[str]:
    one = ("--model_name=", "--model_base_path=")
    config = ModelServerConfig()
    for name in [case.name, *(f"{case.name}-{number}" for number in range(1, count))]:
        config.model_config_list.config.add(name=name, base_path=str(base_path), model_platform="tensorflow")
    file = base_path.with_name("models.config")
    file.write_text(str(config))
    return [
        *(flag for flag in command(case, base_path, port) if not flag.startswith(one)),
        f"--model_config_file={file}",
    ]


def _aio(case: Case, _: Path, port: int) -> Sequence[str]:
    return [sys.executable, "-m", "scripts.bench.aio_responder", str(port), str(case.outputs)]


def _grpcpp(executable: Path, case: Case, _: Path, port: int) -> Sequence[str]:
    return [str(executable), str(port), str(case.outputs)]


def headrace_command(transport: str, case: Case, base_path: Path, port: int) -> Sequence[str]:
    """Returns the command that starts headrace on a port, with the batching of a case."""
    parameters = base_path.with_name("batching.pbtxt")
    parameters.write_text(str(_batching(case)))
    return [
        str(Path(sys.executable).with_name("headrace")),
        "serve",
        f"--port={port}",
        f"--transport={transport}",
        f"--model_name={case.name}",
        f"--model_base_path={base_path}",
        "--enable_batching",
        f"--batching_parameters_file={parameters}",
        f"--tensorflow_intra_op_parallelism={case.intra_op_threads}",
        "--tensorflow_inter_op_parallelism=1",
    ]


def _batching(case: Case) -> BatchingParameters:
    parameters = BatchingParameters()
    parameters.max_batch_size.value = case.max_batch_size
    parameters.batch_timeout_micros.value = case.batch_timeout_micros
    parameters.num_batch_threads.value = 1
    # Room for every call that the load keeps in flight, however few rows a batch has.
    parameters.max_enqueued_batches.value = case.load.connections * case.load.streams
    return parameters
