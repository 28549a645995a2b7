"""Calls with strings that the native transport answers itself, with the same bytes as the service: gRPC and REST."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import grpc
import numpy as np
import pytest
from onnx import TensorProto as Onnx
from onnx import helper

from headrace_batching import Options
from headrace_protos import ClassificationResponse, DataType, PredictResponse, TensorProto
from tests.conftest import Rest, Run, Stop
from tests.support import feature_models, models
from tests.support.calls import ANSWER_WITHIN, PREDICT, SEEN, Caller, Refusal, predict_request
from tests.support.examples import classify_request, example, labelled
from tests.support.rest_calls import RestCaller
from tests.support.running import RunningServer

pytest.importorskip("headrace_native")

CLASSIFY = "/tensorflow.serving.PredictionService/Classify"


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="module")
def words(running: Run) -> RunningServer:
    return running(feature_models.words, batching=Options(max_batch_size=16))


def request_of(*rows: list[bytes]) -> bytes:
    inputs = {"words": np.array(rows, np.object_), "numbers": np.ones((len(rows), 2), np.float32)}
    return predict_request(inputs).SerializeToString()


def same(caller: Caller, data: bytes, method: str = PREDICT) -> bytes | Refusal:
    """The answer to a request, which must be the same if the request has to go through the service."""
    plain, seen = caller.send_bytes(method, data), caller.send_bytes(method, data + SEEN)
    if method == PREDICT and isinstance(plain, bytes) and isinstance(seen, bytes):
        assert PredictResponse.FromString(plain) == PredictResponse.FromString(seen)
        assert len(plain) == len(seen)
    else:
        assert plain == seen
    return plain


ROWS = {
    "one": [[b"cat", b"dog"]],
    "empty ones": [[b"", b""], [b"x", b""]],
    "letters beyond ASCII": [["größer".encode(), "猫".encode()]],
    "zeros": [[b"a\0", b"\0"]],
    "long ones": [[b"a" * 70_000, b"b"], [b"c", b"d" * 300]],
    "sixteen": [[b"cat", b"%d" % number] for number in range(16)],
}


@pytest.mark.parametrize("name", ROWS)
def test_the_same_bytes_as_the_service(words: RunningServer, name: str) -> None:
    answer = same(words.caller, request_of(*ROWS[name]))
    assert isinstance(answer, bytes)
    classes = PredictResponse.FromString(answer).outputs["classes"]
    assert list(classes.string_val) == [word for row in ROWS[name] for word in row]


@pytest.mark.usefixtures("blocked")
def test_needs_no_event_loop(words: RunningServer) -> None:
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = words.caller.channel.unary_unary(PREDICT)
    answer = PredictResponse.FromString(send(request_of([b"cat", b"dog"]), timeout=ANSWER_WITHIN))
    assert list(answer.outputs["classes"].string_val) == [b"cat", b"dog"]
    sent = example(words=[b"cat", b"dog"], numbers=[0.5, 0.25])
    send = words.caller.channel.unary_unary(CLASSIFY)
    classified = ClassificationResponse.FromString(
        send(classify_request(sent).SerializeToString(), timeout=ANSWER_WITHIN)
    )
    assert labelled(classified) == [[("cat", 0.5), ("dog", 0.25)]]


REFUSED: dict[str, Callable[[TensorProto], object]] = {
    "not UTF-8": lambda proto: proto.string_val.__setitem__(0, b"\xff"),
    "too few": lambda proto: proto.string_val.pop(),
    "too many": lambda proto: proto.string_val.extend([b"a", b"b"]),
    "none": lambda proto: proto.ClearField("string_val"),
    "numbers": lambda proto: proto.int_val.extend([1, 2]),
    "as content": lambda proto: setattr(proto, "tensor_content", b"\1\1ab"),
    "another shape": lambda proto: setattr(proto.tensor_shape.dim[1], "size", 3),
    "another type": lambda proto: setattr(proto, "dtype", DataType.DT_FLOAT),
}


@pytest.mark.parametrize("name", REFUSED)
def test_other_requests_go_to_the_service(words: RunningServer, name: str) -> None:
    request = predict_request({"words": np.array([[b"cat", b"dog"]], np.object_), "numbers": np.ones((1, 2), "f4")})
    REFUSED[name](request.inputs["words"])
    same(words.caller, request.SerializeToString())


def test_a_bad_string_fails_no_other_request(running: Run) -> None:
    server = running(feature_models.words, batching=Options(num_batch_threads=1, batch_timeout_micros=50_000))
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.caller.channel.unary_unary(PREDICT)
    data = [request_of([b"\xff" if number == 7 else b"cat", b"%d" % number]) for number in range(20)]
    futures = [send.future(each, timeout=ANSWER_WITHIN) for each in data]
    for number, future in enumerate(futures):
        if number == 7:
            assert "input words holds a string that is not UTF-8" in str(future.exception())
        else:
            strings = PredictResponse.FromString(future.result()).outputs["classes"].string_val
            assert list(strings) == [b"cat", b"%d" % number]


def test_requests_are_joined_and_padded(running: Run, served: Stop) -> None:
    sizes = Options(num_batch_threads=1, batch_timeout_micros=50_000, max_batch_size=32, allowed_batch_sizes=(8, 32))
    server = running(feature_models.words, batching=sizes)
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = server.caller.channel.unary_unary(PREDICT)
    futures = [
        send.future(request_of(*[[b"%d" % number, b"x"]] * (1 + number % 3)), timeout=ANSWER_WITHIN)
        for number in range(30)
    ]
    for number, future in enumerate(futures):
        strings = PredictResponse.FromString(future.result()).outputs["classes"].string_val
        assert list(strings) == [b"%d" % number, b"x"] * (1 + number % 3)
    assert served(server).batches < 20


CLASSIFIED = {
    "classes and scores": example(words=[b"cat", "größer".encode()], numbers=[0.5, 0.25]),
    "a class that is empty": example(words=[b"", b"a"], numbers=[0.0, 0.25]),
    "a class that is not UTF-8": example(words=[b"\xff", b"a"], numbers=[0.5, 0.25]),
    "one word": example(words=[b"a"], numbers=[0.5, 0.25]),
    "numbers for words": example(words=[1, 2], numbers=[0.5, 0.25]),
}


@pytest.mark.parametrize("name", CLASSIFIED)
def test_classes_of_the_model(words: RunningServer, name: str) -> None:
    same(words.caller, classify_request(CLASSIFIED[name]).SerializeToString(), CLASSIFY)


def test_texts_of_a_context(words: RunningServer) -> None:
    request = classify_request(
        example(words=[b"a", b"b"]), example(), context=example(words=[b"c", b"d"], numbers=[0.5, 0.25])
    )
    answer = same(words.caller, request.SerializeToString(), CLASSIFY)
    assert isinstance(answer, bytes)
    assert labelled(ClassificationResponse.FromString(answer)) == [[("a", 0.5), ("b", 0.25)], [("c", 0.5), ("d", 0.25)]]


def test_examples_as_they_are(running: Run) -> None:
    server = running(feature_models.serialized, batching=Options())
    for request in (classify_request(example(a=[b"text"])), classify_request(example(a=[1]), context=example(b=[2]))):
        assert isinstance(same(server.caller, request.SerializeToString(), CLASSIFY), bytes)
    same(server.caller, classify_request().SerializeToString(), CLASSIFY)


BODIES = [
    {"instances": ["cat", "dog"]},
    {"instances": ["", 'größer " \\ \n \u0001 </>']},
    {"instances": [{"x": "a"}, {"x": "b"}]},
    {"inputs": ["a", "b"]},
    {"inputs": {"x": ["a"]}},
    {"instances": [{"b64": "aGk="}]},
    {"instances": [1]},
    {"instances": [["a"]]},
    {"instances": []},
    {"inputs": "a"},
]


def strings(folder: Path, dims: models.Dims = ("N",), output: str = "y") -> Path:
    """`y` = `x`, both strings."""
    values = [models._value(name, Onnx.STRING, dims) for name in ("x", output)]
    return models._write(folder, [helper.make_node("Identity", ["x"], [output])], values[:1], values[1:])


def both_ways(caller: RestCaller, body: object) -> set[str]:
    """The answers to a body, and to the same body with an escape in it, which only the service can read."""
    text = json.dumps(body, ensure_ascii=False)
    return {caller.post("predict", each.encode()).text for each in (text, text.replace('{"i', '{"\\u0069', 1))}


@pytest.mark.parametrize("output", ["y", "y_bytes"])
def test_rest(resting: Rest, output: str) -> None:
    caller = resting(partial(strings, output=output), batching=Options())
    for body in BODIES:
        answers = both_ways(caller, body)
        assert len(answers) == 1, (body, answers)


@pytest.mark.parametrize("output", ["y", "y_bytes"])
def test_rest_with_several_strings_a_row(resting: Rest, output: str) -> None:
    caller = resting(partial(strings, dims=("N", 2), output=output), batching=Options())
    for body in ({"instances": [["a", "b"], ["c", "d"]]}, {"inputs": [["a", "b"]]}, {"inputs": {"x": [["a"]]}}):
        answers = both_ways(caller, body)
        assert len(answers) == 1, (body, answers)


def test_rest_of_several_outputs(resting: Rest) -> None:
    caller = resting(feature_models.words, batching=Options())
    row = {"words": ["a", "ö"], "numbers": [0.5, 1]}
    for body in ({"instances": [row, row]}, {"inputs": {"words": [["a", "b"]], "numbers": [[1, 2]]}}):
        answers = both_ways(caller, body)
        assert len(answers) == 1, (body, answers)
