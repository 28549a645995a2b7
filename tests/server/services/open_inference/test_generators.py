"""Python models that answer many times: over ModelStreamInfer, generate and generate_stream."""

import gc
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from queue import Queue
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos.inference import grpc_service_pb2 as messages
from headrace_server.services.open_inference.request import InferRequest
from tests.conftest import Rest, Run
from tests.server.services.open_inference.calls import InferenceCaller, array, infer_request, packed, tensor
from tests.server.services.open_inference.conftest import Infer
from tests.support.calls import ANSWER_WITHIN, MODEL, predict_request
from tests.support.ports import free_port
from tests.support.running import eventually

Make = Callable[[Path], Path]

DECLARED = """
import numpy as np
from pathlib import Path

INPUTS = {"count": ("int64", [1])}
OUTPUTS = {"number": ("int64", [1])}
"""

PLAIN = """
def stream(inputs):
    log = Path(__file__).with_name("log")
    try:
        for number in range(int(inputs["count"][0])):
            with log.open("a") as file:
                file.write(f"made {number}\\n")
            if number == 7:
                raise ValueError("seven is too many")
            yield {"number": np.array([number])}
    finally:
        with log.open("a") as file:
            file.write("closed\\n")
"""

ASYNCHRONOUS = PLAIN.replace("def stream", "import asyncio\n\n\nasync def stream").replace(
    "            yield", "            await asyncio.sleep(0)\n            yield"
)

WAITING = """
import asyncio


async def stream(inputs):
    try:
        yield {"number": np.array([0])}
        await asyncio.sleep(3600)
    finally:
        Path(__file__).with_name("log").write_text("closed")
"""

HARMFUL = """
import asyncio

async def harmful():
    raise SystemExit(3)

{kind} stream(inputs):
    yield {{"number": np.array([0])}}
    if inputs["count"][0] == 0:
        {harm}
    yield {{"number": np.array([1])}}
"""

KINDS = pytest.mark.parametrize("code", [PLAIN, ASYNCHRONOUS], ids=["plain", "asynchronous"])


@cache
def python(code: str) -> Make:
    """A maker of a model with this code; cached, so that tests can share a server."""

    def make(folder: Path) -> Path:
        folder.mkdir(parents=True)
        folder.joinpath("model.py").write_text(DECLARED + code)
        return folder

    return make


def in_processes(workers: int, code: str) -> Make:
    """A maker of a model with this code, which runs in a number of worker processes."""

    def make(folder: Path) -> Path:
        python(code)(folder).parent.joinpath("model.toml").write_text(f"[isolation]\nworkers = {workers}\n")
        return folder

    return make


def counting(count: int, **fields: Any) -> messages.ModelInferRequest:
    return infer_request([tensor("count", "INT64", (1,))], [np.array([count]).tobytes()], **fields)


def numbers(answers: list[messages.ModelStreamInferResponse]) -> list[int]:
    return [array(answer.infer_response).item() for answer in answers if answer.infer_response.outputs]


@KINDS
def test_answers_come_one_by_one(inferring: Infer, code: str) -> None:
    answers = list(inferring(python(code)).stream([counting(5, id="a")]))
    assert numbers(answers) == [0, 1, 2, 3, 4]
    assert {answer.infer_response.id for answer in answers} == {"a"}
    assert not any(answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers)


@KINDS
def test_an_empty_last_answer_on_request(inferring: Infer, code: str) -> None:
    asked = counting(2, parameters={"triton_enable_empty_final_response": True})
    *answers, last = inferring(python(code)).stream([asked])
    assert numbers(answers) == [0, 1]
    assert last.infer_response.parameters["triton_final_response"].bool_param
    assert (last.infer_response.model_name, list(last.infer_response.outputs)) == (MODEL, [])


@KINDS
def test_a_failure_after_some_answers(inferring: Infer, code: str) -> None:
    answers = list(inferring(python(code)).stream([counting(9, id="a"), counting(1, id="b")]))
    by_id = {each: [a for a in answers if a.infer_response.id == each] for each in ("a", "b")}
    assert numbers(by_id["a"]) == list(range(7))
    assert "seven is too many" in by_id["a"][-1].error_message
    assert "model.py" in by_id["a"][-1].error_message
    assert numbers(by_id["b"]) == [0]


def test_a_slow_stream_delays_no_other(inferring: Infer) -> None:
    requests: Queue[Any] = Queue()
    answers = inferring(python(WAITING)).stream(iter(requests.get, None))
    for _ in range(3):  # each answers once, and then blocks for an hour
        requests.put(counting(1))
        assert numbers([next(answers)]) == [0]
    answers.cancel()
    requests.put(None)


@pytest.fixture
def no_collection() -> Iterator[None]:
    def is_clean() -> bool:
        gc.collect()
        return not kept()

    eventually(is_clean)  # the calls of earlier tests may still be ending
    gc.disable()
    yield
    gc.enable()


def kept() -> int:
    """The number of requests in memory."""
    return sum(isinstance(each, InferRequest) for each in gc.get_objects())


@pytest.mark.usefixtures("no_collection")
def test_a_cancelled_stream_leaves_no_garbage(running: Run) -> None:
    with closing(InferenceCaller(running(python(WAITING)).port)) as caller:
        answers = caller.stream([counting(1)])
        assert numbers([next(answers)]) == [0]
        assert kept()
        answers.cancel()
        eventually(lambda: not kept())


def test_a_cancelled_stream_closes_its_generator(running: Run) -> None:
    server = running(python(WAITING))
    caller = InferenceCaller(server.port)
    requests: Queue[Any] = Queue()
    answers = caller.stream(iter(requests.get, None))
    requests.put(counting(1))
    next(answers)
    answers.cancel()
    requests.put(None)
    log = server.base_path / "1" / "log"
    assert eventually(lambda: log.exists() and log.read_text() == "closed")
    caller.close()


@KINDS
def test_a_slow_reader_pauses_the_generator(running: Run, code: str) -> None:
    """The number of answers that are made and not yet read is bounded by the buffers of gRPC and the stream."""
    server = running(python(code.replace("if number == 7", "if False")))
    caller = InferenceCaller(server.port)
    answers = caller.stream([counting(3_000)])
    next(answers)
    log = server.base_path / "1" / "log"
    assert len(log.read_text().splitlines()) < 3_000
    assert len(numbers(list(answers))) == 2_999
    caller.close()


def test_calls_that_need_a_single_answer_are_refused(running: Run) -> None:
    server = running(python(PLAIN))
    caller = InferenceCaller(server.port)
    text = "ModelInfer RPC doesn't support models with decoupled transaction policy"
    assert caller.refusal(counting(1)) == (StatusCode.UNIMPLEMENTED, text)
    predict = predict_request({"count": np.array([1])})
    assert server.caller.refusal(predict).code == StatusCode.UNIMPLEMENTED
    config = caller.call(messages.ModelConfigRequest(name=MODEL)).config
    assert config.model_transaction_policy.decoupled
    caller.close()


def test_a_model_with_stream_and_predict(inferring: Infer) -> None:
    both = f'{PLAIN}\n\ndef predict(inputs):\n    return {{"number": inputs["count"] * 2}}\n'
    caller = inferring(python(both))
    assert array(caller.call(counting(4))).item() == 8
    assert numbers(list(caller.stream([counting(2)]))) == [0, 1]


def test_invalid_answers(inferring: Infer) -> None:
    yielded = '[5, {"other": 5}, {"number": ["a"]}]'
    caller = inferring(python(f"def stream(inputs):\n    yield {yielded}[int(inputs['count'][0])]\n"))
    refused = [answer.error_message for answer in caller.stream([counting(number) for number in range(3)])]
    texts = ["a int, not a dict of arrays", "no 'number', only other", "a value for 'number' that is not int64"]
    assert [text in message for text, message in zip(texts, refused, strict=True)] == [True] * 3


HARMS = (
    "raise SystemExit(3)",
    "raise KeyboardInterrupt('k')",
    "raise asyncio.CancelledError('c')",
    "asyncio.current_task().cancel(); await asyncio.sleep(0)",
    "asyncio.get_running_loop().stop(); await asyncio.sleep(0); raise ValueError('v')",
    "await asyncio.create_task(harmful())",
)


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize(
    ("kind", "harm"), [*(("async def", harm) for harm in HARMS), *(("def", harm) for harm in HARMS[:3])]
)
def test_a_generator_that_harms_its_thread_fails_alone(inferring: Infer, kind: str, harm: str, workers: int) -> None:
    caller = inferring(in_processes(workers, HARMFUL.format(kind=kind, harm=harm)))
    for _ in range(2):
        *heard, failed = caller.stream([counting(0)])
        assert numbers(heard) == [0]
        assert failed.error_message
        assert numbers(list(caller.stream([counting(1)]))) == [0, 1]


def test_many_readers_slow_and_fast(inferring: Infer) -> None:
    caller = inferring(python(PLAIN.replace("if number == 7", "if False")))
    read: list[list[int]] = []

    def reader(slow: bool) -> None:
        answers = []
        for answer in caller.stream([counting(100)]):
            answers.append(answer)
            if slow:
                threading.Event().wait(0.001)
        read.append(numbers(answers))

    threads = [threading.Thread(target=reader, args=(number % 2 == 0,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(ANSWER_WITHIN)
    assert read == [list(range(100))] * 20


def test_streams_are_counted(inferring: Infer) -> None:
    caller = inferring(python(PLAIN))

    def counts() -> Any:
        (stats,) = caller.call(messages.ModelStatisticsRequest(name=MODEL)).model_stats
        return np.array([stats.inference_stats.success.count, stats.inference_stats.fail.count])

    before = counts()
    list(caller.stream([counting(2), counting(9)]))
    assert (counts() - before).tolist() == [1, 1]


def events(text: str) -> list[Any]:
    return [json.loads(part.removeprefix("data: ")) for part in text.split("\n\n") if part]


class TestGenerate:
    PATH = f"/v2/models/{MODEL}/generate"

    def test_a_stream_of_events(self, resting: Rest) -> None:
        answer = resting(python(PLAIN)).send("POST", f"{self.PATH}_stream", {"count": 3, "temperature": 0.5, "id": "a"})
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        expected = {"id": "a", "model_name": MODEL, "model_version": "1"}
        assert events(answer.text) == [{**expected, "number": number} for number in range(3)]

    def test_a_failure_after_some_answers(self, resting: Rest) -> None:
        found = events(resting(python(PLAIN)).send("POST", f"{self.PATH}_stream", {"count": 9}).text)
        assert [event["number"] for event in found[:-1]] == list(range(7))
        assert "seven is too many" in found[-1]["error"]

    def test_a_refusal_at_the_beginning(self, resting: Rest) -> None:
        caller = resting(python(PLAIN))
        assert caller.send("POST", f"{self.PATH}_stream", {}).status == 400
        assert caller.send("POST", f"{self.PATH}_stream", {"count": "many"}).status == 400
        assert caller.send("POST", f"{self.PATH}_stream", "{").status == 400
        assert caller.send("POST", "/v2/models/nope/generate_stream", {}).status == 404

    def test_nothing_to_stream(self, resting: Rest) -> None:
        answer = resting(python(PLAIN)).send("POST", f"{self.PATH}_stream", {"count": 0})
        assert (answer.status, answer.text) == (200, "")

    def test_one_answer(self, resting: Rest) -> None:
        caller = resting(python(PLAIN))
        assert caller.send("POST", self.PATH, {"count": [1]}).value["number"] == 0
        assert "exactly 1 response" in caller.send("POST", self.PATH, {"count": 2}).error[1]
        assert "exactly 1 response" in caller.send("POST", self.PATH, {"count": 0}).error[1]
        infer = caller.send("POST", f"/v2/models/{MODEL}/infer", {"inputs": []})
        assert infer.error == (501, "HTTP end point doesn't support models with decoupled transaction policy")

    def test_a_model_that_answers_once(self, resting: Rest) -> None:
        words = """
INPUTS = {"text": ("string", [None])}
OUTPUTS = {"shout": ("string", [None]), "length": ("int64", [None])}


def predict(inputs):
    texts = inputs["text"]
    return {"shout": [text.upper() for text in texts], "length": np.array([len(text) for text in texts])}
"""
        caller = resting(python(words))
        expected = {"model_name": MODEL, "model_version": "1", "length": 2, "shout": "HI"}
        assert caller.send("POST", self.PATH, {"text": "hi"}).value == expected
        assert events(caller.send("POST", f"{self.PATH}_stream", {"text": "hi"}).text) == [expected]

    def test_a_caller_who_leaves_closes_the_generator(self, running: Run) -> None:
        port = free_port()
        server = running(python(WAITING), rest_api_port=port)
        body = b'{"count": 1}'
        head = f"POST {self.PATH}_stream HTTP/1.1\r\nHost: h\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN) as connection:
            connection.sendall(head + body)
            while b"data: " not in connection.recv(4096):
                pass
        log = server.base_path / "1" / "log"
        assert eventually(lambda: log.exists() and log.read_text() == "closed")

    @pytest.mark.usefixtures("no_collection")
    def test_a_caller_who_leaves_leaves_no_garbage(self, running: Run) -> None:
        port = free_port()
        running(python(WAITING), rest_api_port=port)
        head = f"POST {self.PATH}_stream HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n".encode()
        with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_WITHIN) as connection:
            connection.sendall(head + b'{"count": 1}')
            while b"data: " not in connection.recv(4096):
                pass
            assert kept()
        eventually(lambda: not kept())


def test_strings(inferring: Infer) -> None:
    words = """
INPUTS = {"text": ("string", [1])}
OUTPUTS = {"word": ("string", [1])}


def stream(inputs):
    for word in inputs["text"][0].split():
        yield {"word": [word]}
"""
    request = infer_request([tensor("text", "BYTES", (1,))], [packed(b"one two")])
    answers = list(inferring(python(words)).stream([request]))
    assert [answer.infer_response.raw_output_contents[0] for answer in answers] == [packed(b"one"), packed(b"two")]
