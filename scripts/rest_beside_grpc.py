"""Measures how four callers who post 10 MB of JSON over REST affect sixteen gRPC callers of another model."""

import argparse
import json
import multiprocessing
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from statistics import median

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from scripts.bench.cases import CASES, Load
from scripts.bench.load import Caller
from scripts.bench.ort_loop import Loop
from scripts.bench.process import running
from scripts.bench.requests import PREFIX_BYTES, checked_answer, framed, request

GRPC_CALLERS = Load(connections=16, streams=1)
REST_CALLERS = 4
ROWS, COLUMNS = 500, 1000
WIDE = "wide"


@dataclass(frozen=True)
class Sample:
    """One load by the gRPC callers: calls per second, latencies in milliseconds, and bodies posted per second."""

    rate: float
    p50: float
    p99: float
    bodies: float


@dataclass(frozen=True)
class Round:
    """The results of the same load, without and with the REST callers."""

    quiet: Sample
    beside: Sample


def main() -> None:
    """Prints a table, one row per round, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = _measured(Path(folder), arguments.rounds, arguments.seconds)
    print(_table(rounds))


def _measured(folder: Path, rounds: int, seconds: float) -> list[Round]:
    case = CASES[0]
    loop = Loop(case, case.save(folder / case.name))
    _save_wide(folder / WIDE)
    message = folder / "message"
    body = _body()
    rest_port = _free_port()
    with running(partial(_command, folder, rest_port), folder / "server.log") as server:
        row = case.rows(1)
        size = checked_answer(server.address, request(case, row), loop.answer(row), values=True)
        message.write_bytes(framed(request(case, row)))
        caller = Caller(server.address, message, size + PREFIX_BYTES, GRPC_CALLERS)
        caller.warm_up(seconds)
        with _rest_callers(rest_port, body):
            caller.warm_up(1)  # the parsing process starts with the first body
        return [_round(caller, rest_port, body, seconds) for _ in range(rounds)]


def _round(caller: Caller, rest_port: int, body: bytes, seconds: float) -> Round:
    quiet = _sample(caller, seconds, None)
    with _rest_callers(rest_port, body) as posted:
        return Round(quiet, _sample(caller, seconds, posted))


def _sample(caller: Caller, seconds: float, posted: "Synchronized[int] | None") -> Sample:
    rate = caller.warm_up(seconds / 2)
    before = posted.value if posted else 0
    count = round(rate * seconds)
    answers = caller.run(count, caller.message.with_name("latencies"))
    after = posted.value if posted else 0
    p50, p99 = (np.percentile(answers.latencies, (50, 99)) / 1e3).tolist()
    return Sample(answers.requests_per_second, p50, p99, (after - before) * answers.requests_per_second / count)


@contextmanager
def _rest_callers(port: int, body: bytes) -> Iterator["Synchronized[int]"]:
    """Posts the body again and again from another process; yields how often it was answered."""
    spawn = multiprocessing.get_context("spawn")
    posted: Synchronized[int] = spawn.Value("i", 0)
    process = spawn.Process(target=_post_for_ever, args=(port, body, posted))
    process.start()
    try:
        yield posted
    finally:
        process.terminate()
        process.join()


def _post_for_ever(port: int, body: bytes, posted: "Synchronized[int]") -> None:
    threads = [threading.Thread(target=_post, args=(port, body, posted), daemon=True) for _ in range(REST_CALLERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _post(port: int, body: bytes, posted: "Synchronized[int]") -> None:
    connection = HTTPConnection("127.0.0.1", port)
    while True:
        connection.request("POST", f"/v1/models/{WIDE}:predict", body)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            print(answer.decode(), file=sys.stderr)
            return
        with posted.get_lock():
            posted.value += 1


def _body() -> bytes:
    """About 10 MB: 500 rows of 1000 numbers."""
    rows = np.random.default_rng(7).standard_normal((ROWS, COLUMNS))
    return json.dumps({"instances": rows.tolist()}).encode()


def _save_wide(base_path: Path) -> None:
    """Writes a model that adds up 1000 floats per row."""
    weights = numpy_helper.from_array(np.ones((COLUMNS, 1), np.float32), "w")
    values = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", size]) for name, size in (("x", COLUMNS), ("y", 1))
    ]
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])], "wide", values[:1], values[1:], [weights]
    )
    path = base_path / "1" / "model.onnx"
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def _command(folder: Path, rest_port: int, port: int) -> Sequence[str]:
    names = (CASES[0].name, WIDE)
    configs = (
        f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" }}' for name in names
    )
    file = folder / "models.config"
    file.write_text(f"model_config_list {{ {' '.join(configs)} }}")
    headrace = str(Path(sys.executable).with_name("headrace"))
    return [headrace, "serve", f"--port={port}", f"--rest_api_port={rest_port}", f"--model_config_file={file}"]


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _table(rounds: Sequence[Round]) -> str:
    lines = [
        "| gRPC calls/s, p50, p99 ms: quiet | beside REST | bodies/s | p99 ratio |",
        "|---|---|---|---|",
        *(_line(each.quiet, each.beside) for each in rounds),
    ]
    ratio = median(each.beside.p99 for each in rounds) / median(each.quiet.p99 for each in rounds)
    return "\n".join([*lines, "", f"ratio of the median p99s, with REST to without: {ratio:.2f}"])


def _line(quiet: Sample, beside: Sample) -> str:
    cells = [f"{each.rate:,.0f}, {each.p50:.1f}, {each.p99:.1f}" for each in (quiet, beside)]
    return f"| {' | '.join(cells)} | {beside.bodies:.1f} | {beside.p99 / quiet.p99:.2f} |"


if __name__ == "__main__":
    main()
