"""grpc-go's interoperability client against a test service on each transport; grpcio's client for the other cases."""

import subprocess
from collections.abc import Callable, Coroutine, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest

from headrace_server.metrics.catalogue import Metrics
from headrace_server.transports.grpc.endpoint import Endpoint
from headrace_server.transports.grpc.selection import make_queue, make_transport
from tests.interop.conftest import installed
from tests.interop.testing_service import ECHO_INITIAL, ECHO_TRAILING, NAME, InteropService, messages
from tests.support.calls import ANSWER_WITHIN
from tests.support.pem import Authority, write
from tests.support.running import LoopThread, eventually

CLIENT = "google.golang.org/grpc/interop/client@v1.83.2"

CASES = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "custom_metadata",
    "status_code_and_message",
    "special_status_message",
    "unimplemented_method",
    "unimplemented_service",
]

SECURED = ["large_unary", "ping_pong", "custom_metadata"]


class Serving(NamedTuple):
    """A running service, and its port."""

    port: int
    service: InteropService
    types: Mapping[str, Any]


@pytest.fixture(scope="session")
def go_interop() -> Path:
    """grpc-go's client."""
    return installed(CLIENT)


@pytest.fixture(scope="session")
def types(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Any]:
    return messages(tmp_path_factory.mktemp("testing"))


@pytest.fixture(scope="module")
def start(transport: str, loop_thread: LoopThread, types: Mapping[str, Any]) -> Iterator[Callable[..., Serving]]:
    """Serves only the test service: `start(**fields of the endpoint)`."""
    stops: list[Callable[[], Coroutine[Any, Any, None]]] = []

    async def begin(**fields: Any) -> Serving:
        service = InteropService(types)
        endpoint = Endpoint(
            ["127.0.0.1:0"], (), Metrics().grpc_method, make_queue(transport), [service.register], **fields
        )
        made = make_transport(transport, endpoint)
        stops.append(lambda: made.stop(0))
        return Serving(await made.start(), service, types)

    yield lambda **fields: loop_thread.run(begin(**fields))
    for stop in stops:
        loop_thread.run(stop())


@pytest.fixture(scope="module")
def serving(start: Callable[..., Serving]) -> Serving:
    return start()


def said(client: Path, port: int, case: str, *flags: str) -> tuple[int, str]:
    """How a case ended, and its output."""
    command = [str(client), "-server_host=localhost", f"-server_port={port}", f"-test_case={case}", *flags]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return ended.returncode, ended.stderr


def said_of(client: Path, port: int, case: str) -> tuple[int, str]:
    """How a case of `CASES` ended, and its output.

    `cancel_after_begin` is tried up to three times: the client ends its requests right after the cancellation. If an
    answer to this end arrives before the client looks, the client returns the answer instead of CANCELLED.
    """
    for _ in range(3):
        ended = said(client, port, case)
        if case != "cancel_after_begin" or "got error code 0, want 1" not in ended[1]:
            break
    return ended


def test_cases_of_grpc_go(serving: Serving, go_interop: Path, transport: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        ended = dict(zip(CASES, pool.map(lambda case: said_of(go_interop, serving.port, case), CASES), strict=True))
    assert {case: text for case, (status, text) in ended.items() if status} == {}
    # This waits for the call that is cancelled after its first response. Other calls may end before their handlers
    # begin; grpc.aio reports this to some handlers as the end of the requests, and to others not at all.
    assert transport == "grpcio" or eventually(lambda: serving.service.cancelled)


def test_the_case_that_must_fail_fails(serving: Serving, go_interop: Path) -> None:
    status, text = said(go_interop, serving.port, "no_such_case")
    assert status != 0, text


def test_cases_over_tls(start: Callable[..., Serving], go_interop: Path, tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    file = write(tmp_path / "ssl.pbtxt", authority.sign("server"))
    serving = start(ssl_config_file=str(file))
    trust = ["-use_tls", "-use_test_ca", f"-ca_file={tmp_path / 'ca.pem'}", "-server_host_override=localhost"]
    ended = {case: said(go_interop, serving.port, case, *trust) for case in SECURED}
    assert {case: text for case, (status, text) in ended.items() if status} == {}


# grpc-go's client has no cases for compression.
@pytest.mark.parametrize("compression", [grpc.Compression.Gzip, grpc.Compression.Deflate])
def test_compressed_requests(serving: Serving, compression: grpc.Compression) -> None:
    types = serving.types
    payload = types["Payload"](body=bytes(271_828))
    with grpc.insecure_channel(f"127.0.0.1:{serving.port}", compression=compression) as channel:
        unary: Any = channel.unary_unary(
            f"/{NAME}/UnaryCall",
            types["SimpleRequest"].SerializeToString,
            types["SimpleResponse"].FromString,
        )
        response = unary(types["SimpleRequest"](response_size=314_159, payload=payload), timeout=ANSWER_WITHIN)
        assert response.payload.body == bytes(314_159)
        streaming: Any = channel.stream_unary(
            f"/{NAME}/StreamingInputCall",
            types["StreamingInputCallRequest"].SerializeToString,
            types["StreamingInputCallResponse"].FromString,
        )
        parts = [types["StreamingInputCallRequest"](payload=payload) for _ in range(3)]
        assert streaming(iter(parts), timeout=ANSWER_WITHIN).aggregated_payload_size == 3 * 271_828


@pytest.mark.parametrize("value", [b"", b"\0\1\xfe\xff", bytes(range(256))])
def test_binary_metadata_comes_back(serving: Serving, value: bytes) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{serving.port}") as channel:
        call: Any = channel.unary_unary(f"/{NAME}/EmptyCall")
        metadata = ((ECHO_INITIAL, "words, and more"), (ECHO_TRAILING, value))
        _, ended = call.with_call(b"", metadata=metadata, timeout=ANSWER_WITHIN)
        assert (ECHO_INITIAL, "words, and more") in ended.initial_metadata()
        assert (ECHO_TRAILING, value) in ended.trailing_metadata()


def test_a_slow_reader_stops_the_sender(start: Callable[..., Serving]) -> None:
    serving, most = start(), 200
    types, service = serving.types, serving.service
    request = types["StreamingOutputCallRequest"]()
    for _ in range(most):
        request.response_parameters.add(size=1 << 20)
    with grpc.insecure_channel(f"127.0.0.1:{serving.port}") as channel:
        streaming: Any = channel.unary_stream(
            f"/{NAME}/StreamingOutputCall",
            types["StreamingOutputCallRequest"].SerializeToString,
            types["StreamingOutputCallResponse"].FromString,
        )
        responses = streaming(request, timeout=ANSWER_WITHIN)
        next(responses)
        other: Any = channel.unary_unary(f"/{NAME}/EmptyCall")
        for _ in range(200):  # long enough for all calls to be made
            other(b"", timeout=ANSWER_WITHIN)
        assert service.sent < most // 4
        assert sum(1 for _ in responses) == most - 1
    assert service.sent == most
