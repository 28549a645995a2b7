"""`headrace bench` on real servers: what it counts, sends and prints, and how it reports bad arguments."""

import json
import re
import socket
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest

from headrace_client.bench.rest import NOT_REST
from headrace_protos import PredictRequest
from headrace_protos.tensor import to_proto
from headrace_server.commands.command_line import run_command
from headrace_server.models.tfrecord import frame
from tests.conftest import Run
from tests.support import models
from tests.support.ports import free_port
from tests.support.records import predict_log
from tests.support.running import RunningServer

pytest.importorskip("headrace_native")

QUICK = ("--seconds=300ms", "--warmup=50ms")


@pytest.fixture(scope="module", params=["native"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def rest_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(running: Run, rest_port: int) -> RunningServer:
    return running(models.linear, rest_api_port=rest_port)


@pytest.fixture(scope="module")
def address(server: RunningServer) -> str:
    return f"localhost:{server.port}"


@pytest.fixture(scope="module")
def rest(server: RunningServer, rest_port: int) -> str:
    del server
    return f"localhost:{rest_port}"


def bench(tmp_path: Path, *arguments: str) -> Any:
    """Runs the command and returns the numbers that it prints."""
    path = tmp_path / "numbers.json"
    assert run_command(["bench", *arguments, f"--json={path}"]) == 0
    return json.loads(path.read_text())


def test_a_constant_rate_makes_exactly_that_many_calls(tmp_path: Path, address: str) -> None:
    (point,) = bench(
        tmp_path, address, "--model=model", "--rate=200", "--arrivals=constant", "--seconds=500ms", "--warmup=100ms"
    )["points"]

    assert (point["ok"], point["failures"]) == (100, {})
    assert point["calls_per_second"] == 200
    assert sum(count for _, count in point["latency_histogram"]) == 100


def test_every_call_that_was_answered_is_counted(tmp_path: Path, running: Run, served: Any) -> None:
    server = running(models.linear)
    (point,) = bench(tmp_path, f"localhost:{server.port}", "--model=model", "--concurrency=4", "--seconds=300ms",
                     "--warmup=1us")["points"]  # fmt: skip

    # The request that is tried first, and the requests in flight when the time was up.
    assert point["ok"] + 1 <= served(server).requests <= point["ok"] + 1 + 4


def test_a_sweep_has_a_row_for_each_stage(tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = bench(tmp_path, address, "--model=model", "--concurrency=1,4", "--rate=50", "--limit=5s", *QUICK)
    out = capsys.readouterr().out

    assert [(point["load"], point["value"]) for point in numbers["points"]] == [
        ("closed", 1), ("closed", 4), ("poisson", 50),
    ]  # fmt: skip
    assert re.match(r"load +calls/s +p50 +p90 +p99 +p99.9 +max +good in 5,000 ms +failed +own CPU\n1 caller ", out)
    for point in numbers["points"]:
        assert 0 < point["goodput_per_second"] <= point["calls_per_second"]
        assert point["latency_percentiles"]["50"] <= point["latency_percentiles"]["99"]
        assert point["own_cpu_per_call"] > 0


@pytest.mark.parametrize("api", ["predict", "infer"])
def test_either_api_and_several_sizes(tmp_path: Path, address: str, api: str) -> None:
    (point,) = bench(
        tmp_path, address, "--model=model", f"--api={api}", "--rows=1,8", "--concurrency=2", *QUICK
    )["points"]  # fmt: skip

    assert point["failures"] == {}
    assert point["kinds"].keys() == {"model, 1 row", "model, 8 rows"}
    assert all(kind["codes"]["OK"] > 0 for kind in point["kinds"].values())


@pytest.mark.parametrize("api", ["rest-predict", "rest-infer"])
def test_rest(tmp_path: Path, rest: str, api: str) -> None:
    closed, constant = bench(
        tmp_path, rest, "--model=model", f"--api={api}", "--rows=2", "--concurrency=3", "--rate=40",
        "--arrivals=constant", "--seconds=500ms", "--warmup=100ms",
    )["points"]  # fmt: skip

    assert (closed["failures"], constant["failures"]) == ({}, {})
    assert closed["ok"] > 0
    assert constant["ok"] == 20


def test_the_server_may_be_a_flag(tmp_path: Path, address: str) -> None:
    (point,) = bench(tmp_path, f"--server={address}", "--model=model", "--concurrency=1", *QUICK)["points"]
    assert point["ok"] > 0


def test_the_server_is_named_once(capsys: pytest.CaptureFixture[str]) -> None:
    twice = "a:1 and --server both name the server: give only one of them"
    assert said(capsys, "a:1", "--server=b:1", "--model=m") == twice


def test_rest_sends_a_mix_at_random_times(tmp_path: Path, rest: str) -> None:
    (point,) = bench(
        tmp_path, f"http://{rest}", "--model=model", "--api=rest-predict", "--rows=1,3", "--rate=100", *QUICK
    )["points"]

    assert point["failures"] == {}
    assert all(kind["codes"]["OK"] > 0 for kind in point["kinds"].values())


@pytest.mark.parametrize(
    ("arguments", "wrong"),
    [
        (["--api=rest-predict", "--model=m"], "NOT_FOUND: "),
        (["--api=rest-infer", "--model=m"], "NOT_FOUND: "),
        (["--api=rest-predict", "--model=model", "--signature=s"], "model has no signature s: it has serving_default"),
        (["--api=rest-predict", "--log=calls"], "--log has gRPC requests"),
    ],
    ids=str,
)
def test_arguments_that_are_invalid_for_rest(
    capsys: pytest.CaptureFixture[str], rest: str, arguments: list[str], wrong: str
) -> None:
    assert wrong in said(capsys, rest, *arguments)


def test_rest_on_a_server_without_it(capsys: pytest.CaptureFixture[str], address: str, silent: str) -> None:
    assert said(capsys, address, "--api=rest-predict", "--model=m").startswith(f"{address}: UNAVAILABLE: ")
    assert said(capsys, silent, "--api=rest-infer", "--model=m", "--timeout=200ms").startswith(
        f"{silent}: DEADLINE_EXCEEDED: "
    )


@pytest.mark.parametrize("server", ["localhost:x", "localhost", "", "localhost:0", "localhost:70000", "ftp://h:1"])
def test_an_invalid_rest_address(capsys: pytest.CaptureFixture[str], server: str) -> None:
    assert said(capsys, server, "--api=rest-infer", "--model=m") == f"the server must be HOST:PORT; was {server}"


def test_rest_names_what_is_wrong_in_words(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"127.0.0.1:{listener.getsockname()[1]}"
    line = said(capsys, dead, "--api=rest-predict", "--model=m")

    assert line == f"{dead}: UNAVAILABLE: Connection refused"


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (b"SSH-2.0-OpenSSH_9.6\r\n", f"UNAVAILABLE: the answer is not HTTP ({NOT_REST})"),
        (b"HTTP/1.1 404 Not Found\r\n\r\n<!DOCTYPE html><p>no", "NOT_FOUND: the answer is HTML, not JSON"),
        (b"HTTP/1.1 200 OK\r\n\r\n<p>hello", "does not answer /v2/models/m in JSON"),
        (b"", f"UNAVAILABLE: Remote end closed connection without response ({NOT_REST})"),
    ],
    ids=["ssh", "a page of errors", "a page", "nothing"],
)
def test_another_program_listens(capsys: pytest.CaptureFixture[str], answer: bytes, line: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def once() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = Thread(target=once)
        thread.start()
        assert said(capsys, f"127.0.0.1:{listener.getsockname()[1]}", "--api=rest-infer", "--model=m").endswith(line)
        thread.join()


def test_two_servers_take_turns(tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    numbers = bench(
        tmp_path, "--compare", address, f"127.0.0.1:{address.split(':')[1]}", "--model=model", "--concurrency=1",
        "--rounds=3", "--seconds=100ms", "--warmup=20ms",
    )  # fmt: skip

    assert [point["server"].split(":")[0] for point in numbers["points"]] == ["localhost", "127.0.0.1"]
    assert capsys.readouterr().out.startswith("server ")


def test_rows_of_a_file_are_sent(tmp_path: Path, address: str) -> None:
    path = tmp_path / "rows.npz"
    np.savez(path, x=np.ones((10, 4)), unasked=np.zeros(3))
    (point,) = bench(tmp_path, address, "--model=model", f"--inputs={path}", "--rows=3", "--concurrency=1", *QUICK)[
        "points"
    ]

    assert point["failures"] == {}
    assert point["ok"] > 0


def log_of(path: Path, count: int) -> Path:
    request = PredictRequest(model_spec={"name": "model"})
    to_proto(np.ones((1, 4), np.float32), request.inputs["x"])
    path.write_bytes(b"".join(frame(predict_log(request)) for _ in range(count)))
    return path


def test_a_log_is_sent_again_as_it_was_recorded(tmp_path: Path, address: str) -> None:
    log = log_of(tmp_path / "log.tfrecord", 40)
    (point,) = bench(tmp_path, address, f"--log={log}", "--arrivals=recorded", "--speed=4")["points"]

    assert (point["load"], point["ok"], point["failures"]) == ("recorded", 40, {})


def test_the_requests_of_a_log_at_another_rate(tmp_path: Path, address: str) -> None:
    log = log_of(tmp_path / "log.tfrecord", 3)
    (point,) = bench(tmp_path, address, f"--log={log}", "--concurrency=2", *QUICK)["points"]

    assert point["failures"] == {}


def test_failures_are_counted_by_code(tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    request = PredictRequest(model_spec={"name": "model"})
    to_proto(np.ones((1, 4), np.float32), request.inputs["x"])
    wrong = PredictRequest(model_spec={"name": "model"})
    to_proto(np.ones((1, 3), np.float32), wrong.inputs["x"])
    log = tmp_path / "log.tfrecord"
    log.write_bytes(frame(predict_log(request)) + frame(predict_log(wrong)))
    (point,) = bench(tmp_path, address, f"--log={log}", "--concurrency=1", *QUICK)["points"]

    assert point["failures"].keys() == {"INVALID_ARGUMENT"}
    assert abs(point["ok"] - point["failures"]["INVALID_ARGUMENT"]) <= 1
    assert "ended INVALID_ARGUMENT: " in capsys.readouterr().out


def test_charts(tmp_path: Path, address: str) -> None:
    png, page = tmp_path / "chart.png", tmp_path / "page.html"
    bench(
        tmp_path,
        address,
        "--model=model",
        "--concurrency=1,2",
        "--limit=20ms",
        f"--png={png}",
        f"--html={page}",
        *QUICK,
    )
    text = page.read_text()

    assert png.read_bytes().startswith(b"\x89PNG")
    assert 'src="data:image/png;base64,' in text
    assert not re.search(r"https?://|<script|<link", text)
    assert text.count("<tr>") == 3


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The single line that the command prints when it cannot run."""
    assert run_command(["bench", *arguments, *QUICK]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0].removeprefix("headrace: ")


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that accepts connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def test_a_port_that_nothing_listens_on(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        dead = f"127.0.0.1:{listener.getsockname()[1]}"
    assert said(capsys, dead, "--model=m").startswith(f"{dead}: UNAVAILABLE: failed to connect to {dead}: Connection")


def test_a_missing_socket(capsys: pytest.CaptureFixture[str]) -> None:
    assert said(capsys, "unix:/nowhere", "--model=m") == (
        "unix:/nowhere: UNAVAILABLE: failed to connect to unix:/nowhere: No such file or directory (os error 2)"
    )


def test_a_server_that_does_not_answer(capsys: pytest.CaptureFixture[str], silent: str) -> None:
    assert said(capsys, silent, "--model=m", "--timeout=200ms") == f"{silent}: DEADLINE_EXCEEDED: Deadline Exceeded"


@pytest.mark.parametrize("server", ["a b:1", "localhost:x", "http://localhost:8500", ""])
def test_an_invalid_address(capsys: pytest.CaptureFixture[str], server: str) -> None:
    assert said(capsys, server, "--model=m") == f"the server must be HOST:PORT or unix:PATH; was {server}"


def test_an_unknown_model_or_signature(capsys: pytest.CaptureFixture[str], address: str) -> None:
    assert said(capsys, address, "--model=m") == f"{address}: NOT_FOUND: Servable not found for request: Latest(m)"
    assert said(capsys, address, "--model=model", "--signature=s") == (
        "model has no signature s: it has serving_default"
    )
    assert "NOT_FOUND" in said(capsys, address, "--model=m", "--api=infer")


@pytest.mark.parametrize(
    ("arrays", "wrong"),
    [
        ({"y": np.ones((2, 4))}, "has no array x, which model takes: it has y"),
        ({"x": np.ones((2, 3))}, "is float64[2,3], but the model takes float32[?,4]"),
        ({"x": np.ones(4)}, "is float64[4], but the model takes float32[?,4]"),
        ({"x": np.array([["a"] * 4])}, "but the model takes float32[?,4]"),
        ({"x": np.ones((0, 4))}, "has 0 rows, but a request needs 1 (--rows)"),
    ],
    ids=str,
)
def test_a_wrong_file_of_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, arrays: dict[str, np.ndarray], wrong: str
) -> None:
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays)  # type: ignore[arg-type]
    line = said(capsys, address, "--model=model", f"--inputs={path}")

    assert str(path) in line
    assert wrong in line


def claiming(path: Path, shape: str) -> None:
    """Writes a file with one array whose header declares a wrong shape; the header keeps its length."""
    np.savez(path, x=np.ones((2, 4)))
    with zipfile.ZipFile(path) as held:
        data = held.read("x.npy")
    with zipfile.ZipFile(path, "w") as held:
        held.writestr("x.npy", data.replace(b"(2, 4), }" + b" " * (len(shape) - 6), shape.encode() + b", }"))


def damaged(path: Path) -> None:
    """Writes a compressed file in which a byte in the middle has changed."""
    np.savez_compressed(path, x=np.random.default_rng(0).random((200, 4)))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def of_texts(path: Path) -> None:
    """Writes a zip with a member of the right name that is not an array."""
    with zipfile.ZipFile(path, "w") as held:
        held.writestr("x", "no array")


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda path: claiming(path, "(400000000000000, 4)"), "cannot be read: its arrays do not fit in memory"),
        (damaged, "cannot be read: it is not a .npz file of arrays"),
        (of_texts, "has no array x, which model takes: it has none"),
    ],
    ids=["larger than memory", "damaged", "texts"],
)
def test_an_impossible_file_of_arrays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, make: Callable[[Path], None], wrong: str
) -> None:
    path = tmp_path / "wrong.npz"
    make(path)

    assert said(capsys, address, "--model=model", f"--inputs={path}") == f"{path} {wrong}"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--inputs=m=a.npz"], "--inputs must be FILE, or NAME=FILE with the NAME of a --model; was 'm=a.npz'"),
        (["--model=model=0"], "--model must be NAME or NAME=WEIGHT, where WEIGHT is a number above 0; was 'model=0'"),
        (["--model=model="], "--model must be NAME or NAME=WEIGHT, where WEIGHT is a number above 0; was 'model='"),
        (["--metadata=a b=c"], "--metadata must be NAME=VALUE, in characters that a header may have; was 'a b=c'"),
        (["--metadata=a=\n"], "--metadata must be NAME=VALUE, in characters that a header may have; was 'a=\\n'"),
        (["--speed=2"], "--speed is for --arrivals=recorded"),
        (["--compare", "localhost:1", "localhost:2"], "--compare names both servers: no other server can be given"),
    ],
    ids=str,
)  # fmt: skip
def test_invalid_values(capsys: pytest.CaptureFixture[str], address: str, arguments: list[str], line: str) -> None:
    assert said(capsys, address, "--model=model", *arguments) == line


def test_a_file_of_results_that_is_a_folder(capsys: pytest.CaptureFixture[str], address: str, tmp_path: Path) -> None:
    assert said(capsys, address, "--model=model", f"--json={tmp_path}") == (
        f"{tmp_path} cannot be written: it is a folder"
    )


@pytest.mark.parametrize("content", [b"", b"no arrays", b"PK\3\4"], ids=["empty", "text", "half a zip"])
@pytest.mark.parametrize("flag", ["inputs", "log"])
def test_a_file_of_another_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], address: str, flag: str, content: bytes
) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    line = said(capsys, address, "--model=model", f"--{flag}={path}")

    assert line.startswith(str(path))


@pytest.mark.parametrize("flag", ["inputs", "log"])
def test_a_missing_file(capsys: pytest.CaptureFixture[str], address: str, flag: str) -> None:
    assert said(capsys, address, "--model=model", f"--{flag}=/nowhere/f") == (
        "/nowhere/f cannot be read: No such file or directory"
    )


def test_a_missing_folder(capsys: pytest.CaptureFixture[str], address: str) -> None:
    assert said(capsys, address, "--model=model", "--json=/nowhere/f.json") == (
        "/nowhere/f.json cannot be written: there is no folder /nowhere"
    )


def test_without_the_native_module(
    capsys: pytest.CaptureFixture[str], address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "headrace_native", None)
    assert said(capsys, address, "--model=model") == (
        "headrace bench needs headrace_native, which is not installed: pip install headrace-native"
    )


def test_without_matplotlib(
    capsys: pytest.CaptureFixture[str], address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert said(capsys, address, "--model=model", f"--png={tmp_path}/x.png").endswith("pip install 'headrace[bench]'")
