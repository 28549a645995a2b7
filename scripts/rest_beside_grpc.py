"""Measures how four callers who post 10 MB of JSON over REST affect sixteen gRPC callers of another model.

The REST callers need CPU time, too. With `--bodies_per_second`, they also send the same bodies to a process that only
reads them, which shows the effect of this CPU time alone.
"""

import argparse
import json
import multiprocessing
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.queues import Queue
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
    """The results of the same load: without and with the REST callers, and beside bodies that are only read."""

    quiet: Sample
    beside: Sample
    only_read: Sample | None


def main() -> None:
    """Prints a table, one row per round, and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=5, help="of each load")
    parser.add_argument("--bodies_per_second", type=float, help="of all REST callers; by default, as many as they can")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rounds = _measured(Path(folder), arguments.rounds, arguments.seconds, arguments.bodies_per_second)
    print(_table(rounds))


def _measured(folder: Path, rounds: int, seconds: float, pace: float | None) -> list[Round]:
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
        with _rest_callers(rest_port, body, pace):
            caller.warm_up(1)  # the parsing process starts with the first body
        with _reader() as reader_port:
            return [_round(caller, (rest_port, reader_port), body, seconds, pace) for _ in range(rounds)]


def _round(caller: Caller, ports: tuple[int, int], body: bytes, seconds: float, pace: float | None) -> Round:
    quiet, (rest_port, reader_port) = _sample(caller, seconds, None), ports
    with _rest_callers(rest_port, body, pace) as posted:
        beside = _sample(caller, seconds, posted)
    if pace is None:
        return Round(quiet, beside, None)
    with _rest_callers(reader_port, body, pace) as posted:
        return Round(quiet, beside, _sample(caller, seconds, posted))


def _sample(caller: Caller, seconds: float, posted: "Synchronized[int] | None") -> Sample:
    rate = caller.warm_up(seconds / 2)
    before = posted.value if posted else 0
    count = round(rate * seconds)
    answers = caller.run(count, caller.message.with_name("latencies"))
    after = posted.value if posted else 0
    p50, p99 = (np.percentile(answers.latencies, (50, 99)) / 1e3).tolist()
    return Sample(answers.requests_per_second, p50, p99, (after - before) * answers.requests_per_second / count)


@contextmanager
def _rest_callers(port: int, body: bytes, pace: float | None) -> Iterator["Synchronized[int]"]:
    """Posts the body again and again from another process; yields how often it was answered."""
    spawn = multiprocessing.get_context("spawn")
    posted: Synchronized[int] = spawn.Value("i", 0)
    process = spawn.Process(target=_post_for_ever, args=(port, body, pace, posted))
    process.start()
    try:
        yield posted
    finally:
        process.terminate()
        process.join()


def _post_for_ever(port: int, body: bytes, pace: float | None, posted: "Synchronized[int]") -> None:
    pause = REST_CALLERS / pace if pace else 0.0
    began = [time.monotonic() + number * pause / REST_CALLERS for number in range(REST_CALLERS)]
    threads = [threading.Thread(target=_post, args=(port, body, pause, due, posted), daemon=True) for due in began]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _post(port: int, body: bytes, pause: float, due: float, posted: "Synchronized[int]") -> None:
    """Posts the body every `pause` seconds from `due` on; a caller who is late does not catch up by more than one."""
    connection = HTTPConnection("127.0.0.1", port)
    while True:
        time.sleep(max(0.0, due - time.monotonic()))
        due = max(due, time.monotonic() - pause) + pause
        connection.request("POST", f"/v1/models/{WIDE}:predict", body)
        response = connection.getresponse()
        answer = response.read()
        if response.status != 200:
            print(answer.decode(), file=sys.stderr)
            return
        with posted.get_lock():
            posted.value += 1


@contextmanager
def _reader() -> Iterator[int]:
    """Runs a process that reads bodies and answers them; yields its port."""
    spawn = multiprocessing.get_context("spawn")
    ports: Queue[int] = spawn.Queue()
    process = spawn.Process(target=_read_for_ever, args=(ports,))
    process.start()
    try:
        yield ports.get(timeout=60)
    finally:
        process.terminate()
        process.join()


def _read_for_ever(ports: "Queue[int]") -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Reading) as server:
        ports.put(server.server_port)
        server.serve_forever()


class _Reading(BaseHTTPRequestHandler):
    """Reads bodies, 128 KB at a time as the server does."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        left = int(self.headers["Content-Length"])
        while left > 0 and (part := self.rfile.read1(min(left, 128 << 10))):
            left -= len(part)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Logs nothing."""


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
        "| gRPC calls/s, p50, p99 ms: quiet | beside REST | bodies/s | p99 ratio | beside bodies that are only read |",
        "|---|---|---|---|---|",
        *(_line(each) for each in rounds),
    ]
    quiet = median(each.quiet.p99 for each in rounds)
    ratio = median(each.beside.p99 for each in rounds) / quiet
    lines += ["", f"ratio of the median p99s, with REST to without: {ratio:.2f}"]
    only_read = [each.only_read.p99 for each in rounds if each.only_read]
    if only_read:
        lines.append(f"beside bodies that are only read: {median(only_read) / quiet:.2f}")
    return "\n".join(lines)


def _line(each: Round) -> str:
    quiet, beside, only_read = (_cell(sample) for sample in (each.quiet, each.beside, each.only_read))
    return f"| {quiet} | {beside} | {each.beside.bodies:.1f} | {each.beside.p99 / each.quiet.p99:.2f} | {only_read} |"


def _cell(sample: Sample | None) -> str:
    return f"{sample.rate:,.0f}, {sample.p50:.2f}, {sample.p99:.2f}" if sample else ""


if __name__ == "__main__":
    main()
