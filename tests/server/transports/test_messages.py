"""Messages of all kinds: large, too large, unknown, and invalid."""

import random
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from grpc import StatusCode

from headrace_protos import DataType, PredictRequest, TensorProto, TensorShapeProto
from tests.conftest import Run, Serve
from tests.support import models
from tests.support.calls import PREDICT, Caller, Refusal, floats, predict_request
from tests.support.running import ServerProcess

MEGABYTE = 1 << 20
X = floats([1, 2, 3, 4])


@pytest.fixture(scope="module")
def linear(running: Run) -> Caller:
    return running(models.linear).caller


@pytest.mark.parametrize("as_content", [False, True])
def test_twenty_megabytes_both_ways(running: Run, as_content: bool) -> None:
    caller = running(partial(models.identity, dims=("N", "W"))).caller
    x = np.arange(5_000_000, dtype=np.float32).reshape(1, -1)
    np.testing.assert_array_equal(caller.predict({"x": x}, as_content=as_content)["y"], x)


def test_message_over_the_limit(running: Run) -> None:
    # The other two values are not 32-bit integers, so they are passed on as text, which gRPC ignores.
    arguments = "grpc.max_receive_message_length=1000,a=99999999999,b=--5"
    caller = running(models.linear, grpc_channel_arguments=arguments).caller
    refusal = caller.refusal(predict_request({"x": np.zeros((100, 4), np.float32)}))
    assert refusal.code is StatusCode.RESOURCE_EXHAUSTED
    assert "1000" in refusal.text
    assert caller.predict({"x": X})["y"].tolist() == [[10]]


@pytest.mark.parametrize(
    "path",
    [
        "/tensorflow.serving.PredictionService/Nothing",
        "/tensorflow.serving.SessionService/SessionRun",
        "/nobody/Predict",
        "/",
    ],
)
def test_unknown_method(linear: Caller, path: str) -> None:
    answer = linear.send_bytes(path, b"")
    assert isinstance(answer, Refusal)
    assert answer.code is StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("data", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"GET / HTTP/1.1\r\n\r\n", b"\x12\x02\x0a\x7f"])
def test_garbage(linear: Caller, data: bytes) -> None:
    answer = linear.send_bytes(PREDICT, data)
    assert isinstance(answer, Refusal)
    assert answer.code is StatusCode.INTERNAL
    assert answer.text.startswith("Failed to parse tensorflow.serving.PredictRequest")


def test_damaged_requests_are_answered_and_affect_no_other(linear: Caller) -> None:
    whole = predict_request({"x": X}, as_content=True).SerializeToString()
    codes = {_code(linear.send_bytes(PREDICT, damaged(whole, random.Random(seed)))) for seed in range(300)}
    assert codes == {
        None,
        StatusCode.INTERNAL,
        StatusCode.INVALID_ARGUMENT,
        StatusCode.NOT_FOUND,
    }
    assert linear.predict({"x": X})["y"].tolist() == [[10]]


def damaged(whole: bytes, chance: random.Random) -> bytes:
    """Changes some bytes, and perhaps cuts off the end."""
    data = bytearray(whole)
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    return bytes(data[: chance.choice([len(data), chance.randrange(len(data))])])


def _code(answer: bytes | Refusal) -> StatusCode | None:
    if not isinstance(answer, Refusal):
        return None
    # No other error of headrace has this code.
    assert answer.code is not StatusCode.INTERNAL or answer.text.startswith("Failed to parse ")
    return answer.code


@pytest.mark.parametrize(("letter", "kept"), [("m", 985), ("é", 492)])
def test_long_texts_are_cut(linear: Caller, letter: str, kept: int) -> None:
    """TF Serving cuts at 1024 bytes; here, a character of several bytes stays whole."""
    refusal = linear.refusal(predict_request({"x": X}, name=letter * 2000))
    assert refusal.text == "Servable not found for request: Latest(" + letter * kept + "...TRUNCATED"


def test_text_of_the_longest_length_is_not_cut(linear: Caller) -> None:
    name = "m" * 984
    assert (
        linear.refusal(predict_request({"x": X}, name=name)).text == f"Servable not found for request: Latest({name})"
    )


def claims() -> list[PredictRequest]:
    """Messages of a few bytes that declare terabytes."""
    shapes = [(2**40, 1), (1, 2**40), (2**62,), (2**20, 2**20), (2**31, 2**31)]
    dtypes = [DataType.DT_FLOAT, DataType.DT_DOUBLE, DataType.DT_INT8, DataType.DT_BOOL, DataType.DT_STRING]
    return [
        predict_request({"x": TensorProto(dtype=dtype, tensor_shape=_shape(shape), **values)})
        for shape in shapes
        for dtype in dtypes
        for values in ({}, {"float_val": [1], "int_val": [1], "string_val": [b"a"]}, {"tensor_content": b"\x01" * 64})
    ]


def _shape(sizes: tuple[int, ...]) -> TensorShapeProto:
    return TensorShapeProto(dim=[TensorShapeProto.Dim(size=size) for size in sizes])


def test_a_claimed_shape_allocates_nothing(serving: Serve, tmp_path: Path) -> None:
    models.identity(tmp_path / "1", dims=("N", "W"))
    process = serving(tmp_path)
    caller = process.started()
    caller.predict({"x": X})
    before = peaks(process)
    for request in claims():
        refusal = caller.refusal(request)
        assert refusal.code is StatusCode.INVALID_ARGUMENT
        assert refusal.text in ("tensor parsing error: x", "Expects arg[0] to be float but string is provided")
    resident, virtual = peaks(process)
    caller.close()
    assert resident - before[0] < 32 * MEGABYTE
    assert virtual - before[1] < 512 * MEGABYTE


def peaks(process: ServerProcess) -> tuple[int, int]:
    """The peak memory of a process, resident and in its address space."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    kilobytes = dict(re.findall(r"^(VmHWM|VmPeak):\s+(\d+) kB$", status, re.MULTILINE))
    return int(kilobytes["VmHWM"]) * 1024, int(kilobytes["VmPeak"]) * 1024
