"""The REST API's HTTP: bodies in any encoding and size, malicious ones, connections, and the socket."""

import gzip
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from headrace_server import Config
from tests.conftest import Rest, Run, Serve
from tests.support import models
from tests.support.calls import MODEL, floats
from tests.support.ports import free_port
from tests.support.rest_calls import PREFIX, ROW, TEN, RestCaller, children, curl, received
from tests.support.running import LoopThread, RunningServer, eventually

LARGE_ROWS = 30_000
DEEP = 100_000


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear, enable_batching=False)


@pytest.fixture(scope="module")
def large() -> bytes:
    return json.dumps({"instances": [[1, 2, 3, 4.5]] * LARGE_ROWS}).encode()


def test_gzip(linear: RestCaller) -> None:
    body = gzip.compress(json.dumps(ROW).encode())
    assert linear.post("predict", body, Content_Encoding="gzip").value == TEN
    assert linear.post("predict", body, Content_Encoding="x-gzip, identity").value == TEN


BROKEN = {
    "no gzip": b"{}",
    "cut short": gzip.compress(json.dumps(ROW).encode())[:-9],
    "nothing": b"",
    "too much": gzip.compress(bytes((100 << 20) + 1), 1),
}


@pytest.mark.parametrize("name", BROKEN)
def test_gzip_that_fails_counts_as_empty(linear: RestCaller, name: str) -> None:
    answer = linear.post("predict", BROKEN[name], Content_Encoding="gzip")
    assert answer.error == (400, "JSON Parse error: The document is empty")


def test_large_body_and_answer(linear: RestCaller, large: bytes) -> None:
    assert linear.post("predict", large).value == {"predictions": [[10.5]] * LARGE_ROWS}
    columns = linear.post("predict", large.replace(b"instances", b"inputs")).value
    assert columns == {"outputs": [[10.5]] * LARGE_ROWS}


def test_large_body_that_is_compressed(linear: RestCaller, large: bytes) -> None:
    answer = linear.post("predict", gzip.compress(large, 1), Content_Encoding="gzip")
    assert answer.value == {"predictions": [[10.5]] * LARGE_ROWS}


def test_large_body_of_strings(resting: Rest) -> None:
    caller = resting(partial(models.identity, dtype=8, dims=("N",)), enable_batching=False)
    values = [f"größer {number}" for number in range(20_000)]
    assert caller.predict({"instances": values}) == {"predictions": values}


def test_errors_in_large_bodies_name_the_culprit(linear: RestCaller, large: bytes) -> None:
    text = linear.post("predict", large.replace(b"4.5]]", b"null]]")).error[1]
    assert text.startswith(
        f"Failed to process element: {LARGE_ROWS - 1} of 'instances' list. Error: INVALID_ARGUMENT: "
    )
    assert re.fullmatch(r"JSON Parse error: .+ at offset: \d+", linear.post("predict", large[:-1]).error[1])
    assert linear.post("predict", large, "/v1/models/nobody").status == 404
    examples = {"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}] * 4000 + [{"x": None}]}
    assert linear.refusal(examples, "regress") == (400, "Feature: x has element with unexpected JSON type: Null")


def test_large_examples(linear: RestCaller) -> None:
    examples = {"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}] * 4000}
    assert linear.post("regress", examples).value == {"results": [10] * 4000}


POISON = {
    "deep lists": b'{"instances": ' + b"[" * DEEP + b"]" * DEEP + b"}",
    "deep objects": b'{"instances": ' + b'{"a":' * DEEP + b"1" + b"}" * DEEP + b"}",
    "deep and open": b'{"instances": ' + b"[" * DEEP,
    "ten megabytes of nothing": b" " * (10 << 20),
    "ten megabytes of zero bytes": bytes(10 << 20),
    "ten megabytes of quotes": b'{"' * (5 << 20),
    "ten megabytes of digits": b'{"instances": [' + b"1" * (10 << 20) + b"]}",
    "invalid UTF-8": b'{"instances": ["\xff\xfe\xc3"]}',
    "invalid UTF-8 as a key": b'{"\xff": [1]}',
    "huge exponent": b'{"instances": [1e999999999999999999]}',
    "huge negative exponent in a string": b'{"instances": ["1e-999999999999999999"]}',
}


@pytest.mark.parametrize("name", POISON)
def test_hostile_bodies(linear: RestCaller, name: str) -> None:
    status, text = linear.post("predict", POISON[name]).error
    assert status == 400
    assert len(text.encode(errors="surrogateescape")) < 1000
    assert linear.predict(ROW) == TEN


def test_deep_lists_next_to_the_input(linear: RestCaller) -> None:
    body = b'{"instances": [[1, 2, 3, 4]], "more": ' + b"[" * DEEP + b"]" * DEEP + b"}"
    assert "nested" in linear.post("predict", body).error[1] or "depth" in linear.post("predict", body).error[1]


def test_chunks(linear: RestCaller) -> None:
    def chunks() -> Iterator[bytes]:
        for byte in json.dumps(ROW).encode():
            yield bytes([byte])

    linear.connection.request("POST", f"{PREFIX}:predict", chunks(), encode_chunked=True)
    assert json.load(linear.connection.getresponse()) == TEN


def test_connection_is_kept(linear: RestCaller) -> None:
    linear.predict(ROW)
    before = linear.connection.sock
    linear.refusal("{")
    assert linear.predict(ROW) == TEN
    assert linear.connection.sock is before


def test_http_1_0_and_pipelining(linear: RestCaller) -> None:
    request = f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\n\r\n" * 2 + f"GET {PREFIX} HTTP/1.0\r\n\r\n"
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(request.encode())
        received = b"".join(iter(partial(connection.recv, 65536), b""))
    assert len(re.findall(rb"HTTP/1\.[01] 200 OK", received)) == received.count(b"AVAILABLE") == 3


@pytest.mark.parametrize("length", ["Content-Length: 31", "Transfer-Encoding: chunked"])
@pytest.mark.parametrize("cut", [0, 40, 230, 250])
def test_a_caller_who_offers_http_2(linear: RestCaller, cut: int, length: str) -> None:
    """Java's own HTTP client asks for this upgrade in every first request."""
    body = b'{"instances": [[1, 2, 3, 4]]}  '
    head = (
        f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        f"HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABkAAQBAAAAAAUAAEAA\r\n{length}\r\n\r\n"
    ).encode()
    whole = head + (b"1f\r\n" + body + b"\r\n0\r\n\r\n" if "chunked" in length else body)
    second = f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(whole[:cut])
        connection.sendall(whole[cut:] + second)
        answers = received(connection)
    assert answers.count(b"HTTP/1.1 200 ") == 2
    assert b"10.0" in answers


def test_a_tunnel_is_refused(linear: RestCaller) -> None:
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert received(connection).startswith(b"HTTP/1.1 501 ")


def test_bytes_that_are_not_http(linear: RestCaller) -> None:
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.sendall(b"\0\1\2\3\r\n\r\n")
        assert b"400" in connection.recv(1000)


def test_both_families(linear: RestCaller) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("there is no IPv6")
    with socket.create_connection(("::1", linear.port)) as connection:
        connection.sendall(f"GET {PREFIX} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_curl(linear: RestCaller, large: bytes) -> None:
    url = f"http://127.0.0.1:{linear.port}{PREFIX}"
    body = json.dumps(ROW)
    assert json.loads(curl("-d", body, f"{url}:predict")) == TEN
    assert json.loads(curl("-d", body, f"{url}/versions/1:predict")) == TEN
    assert json.loads(curl("-d", '{"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]}', f"{url}:regress")) == {"results": [10]}
    assert json.loads(curl(url))["model_version_status"][0]["state"] == "AVAILABLE"
    assert json.loads(curl(f"{url}/metadata"))["model_spec"]["version"] == "1"
    # A body this large makes curl wait for "100 Continue".
    answer = curl(
        "-H",
        "Expect: 100-continue",
        "-H",
        "Transfer-Encoding: chunked",
        "--data-binary",
        "@-",
        f"{url}:predict",
        data=large,
    )
    assert len(json.loads(answer)["predictions"]) == LARGE_ROWS
    assert curl("-o", "/dev/null", "-w", "%{http_code} %{content_type}", f"{url}:predict", "-d", "{") == (
        "400 application/json"
    )


def test_body_over_the_limit(resting: Rest) -> None:
    caller = resting(models.linear, rest_api_max_body_mb=1)
    answer = caller.post("predict", b" " * ((1 << 20) + 1))
    assert answer.error == (413, f"the body is larger than {1 << 20} bytes (--rest_api_max_body_mb)")
    assert caller.refusal(" " * (1 << 20))[0] == 400


def test_an_unfinished_body_is_dropped(linear: RestCaller, caplog: pytest.LogCaptureFixture) -> None:
    before = open_files()
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        head = f"POST {PREFIX}:predict HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n"
        connection.sendall(head.encode() + b" " * 500_000)
        eventually(lambda: open_files() > before + 1)
    eventually(lambda: open_files() <= before)
    assert not caplog.records


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_caller_who_leaves_frees_the_model(resting: Rest) -> None:
    caller = resting(models.counting, enable_batching=False)
    waiting = [RestCaller(caller.port) for _ in range(50)]
    for each in waiting:
        each.connection.request("POST", f"{PREFIX}:predict", '{"instances": [200000]}')
    for each in waiting:
        each.close()
    began = time.monotonic()
    assert caller.predict({"instances": [3]}) == {"predictions": [3]}
    assert time.monotonic() - began < 10


def test_grpc_calls_continue_during_a_large_body(running: Run, large: bytes) -> None:
    port = free_port()
    grpc = running(models.linear, rest_api_port=port, enable_batching=False).caller
    rest = RestCaller(port)
    rest.connection.request("POST", f"{PREFIX}:predict", large * 1)
    assert grpc.predict({"x": floats([1, 2, 3, 4])})["y"].tolist() == [[10]]
    assert rest.connection.getresponse().status == 200
    rest.close()


def test_a_killed_process_is_replaced(linear: RestCaller, large: bytes) -> None:
    assert linear.post("predict", large).status == 200
    for process in children("pool_child"):
        os.kill(process, signal.SIGKILL)
    answers = [linear.post("predict", large).status for _ in range(3)]
    assert answers[-1] == 200
    assert set(answers) <= {200, 503}


def test_port_that_is_taken(running: Run, caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        server = running(models.linear, rest_api_port=port)
    assert f"Failed to start HTTP Server at localhost:{port}" in caplog.text
    assert server.caller.predict({"x": floats([1, 2, 3, 4])})["y"].tolist() == [[10]]


def test_port_of_grpc(loop_thread: LoopThread, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    models.linear(tmp_path / "1")
    server = RunningServer(
        loop_thread, Config(port=port, rest_api_port=port, model_name=MODEL, model_base_path=str(tmp_path))
    )
    assert "server_options.http_port cannot be same as grpc_port." in caplog.text
    assert server.caller.predict({"x": floats([1, 2, 3, 4])})["y"].tolist() == [[10]]
    server.close()


def test_drain_answers_what_is_in_flight(serving: Serve, tmp_path: Path) -> None:
    models.counting(tmp_path / "1")
    port = free_port()
    process = serving(tmp_path, f"--rest_api_port={port}")
    process.wait_for(re.compile(rf"Exporting HTTP/REST API at:localhost:{port} \.\.\."))
    caller = RestCaller(port)
    caller.predict({"instances": [1]})
    caller.connection.request("POST", f"{PREFIX}:predict", '{"instances": [1000000]}')
    spent = cpu_seconds(process.process.pid)
    eventually(lambda: cpu_seconds(process.process.pid) > spent + 0.1)  # the model is running
    process.terminate()
    assert json.load(caller.connection.getresponse()) == {"predictions": [1000000]}
    assert process.ended() == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))
    caller.close()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) / os.sysconf("SC_CLK_TCK")


def test_arrays_are_as_sent(resting: Rest) -> None:
    caller = resting(partial(models.identity, dims=("N", 50)), enable_batching=False)
    sent = np.random.default_rng(0).normal(size=(2000, 50)).astype(np.float32)
    got = caller.predict({"instances": sent.tolist()})["predictions"]
    np.testing.assert_array_equal(np.array(got, np.float32), sent)


def test_no_http_server_is_imported_without_a_port() -> None:
    code = "import sys, headrace_server; print(sorted({'uvicorn', 'h11', 'orjson'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


HTTP_2 = ["--http2-prior-knowledge"]


def test_http_2_by_prior_knowledge(linear: RestCaller, transport: str, large: bytes) -> None:
    if transport != "native":
        pytest.skip("uvicorn speaks HTTP/1.1 alone")
    url = f"http://127.0.0.1:{linear.port}{PREFIX}"
    ending = ["-w", "\n%{http_version} %{http_code}"]
    body, _, end = curl(*HTTP_2, *ending, "-d", json.dumps(ROW), f"{url}:predict").rpartition("\n")
    assert (json.loads(body), end) == (TEN, "2 200")
    assert curl(*HTTP_2, *ending, "-d", "{", f"{url}:predict").endswith("\n2 400")
    assert curl(*HTTP_2, *ending, url).endswith("\n2 200")
    assert (
        len(json.loads(curl(*HTTP_2, "--data-binary", "@-", f"{url}:predict", data=large))["predictions"]) == LARGE_ROWS
    )


def test_the_first_letter_comes_alone(linear: RestCaller) -> None:
    """The first letter may belong to HTTP/2's preface or to a method."""
    with socket.create_connection(("127.0.0.1", linear.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for part in (b"P", f"UT {PREFIX} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode()):
            connection.sendall(part)
        assert received(connection).startswith(b"HTTP/1.1 400 ")
