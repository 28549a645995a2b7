"""No small request is expensive: the work before admission grows no faster than a request's bytes.

If a request is refused for its size, the work does not grow at all. The tests count function calls, since times on a
shared machine mean little.
"""

import gc
import gzip
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

import pytest

from headrace_protos import DataType, Example, Input, PredictRequest, TensorProto
from headrace_protos.tensor import TensorError, to_array
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError
from headrace_server.services.json.reader import parse
from headrace_server.services.open_inference.rest.inputs import read_infer
from headrace_server.services.rpc import Method
from headrace_server.services.tf_serving.examples.decoding import read_examples
from headrace_server.services.tf_serving.prediction import MAX_PREDICT_FIELDS
from headrace_server.services.tf_serving.rest.examples import read_example_body
from headrace_server.services.tf_serving.rest.inputs import read_predict
from headrace_server.services.tf_serving.rest.large import inflate
from headrace_server.services.tf_serving.rest.routes import route

FLOATS = {"serving_default": {"x": DataType.DT_FLOAT}}
SIGNATURE = Signature({"x": TensorSpec("x", DataType.DT_FLOAT, (None, 1))}, {}, features=True)

PER_BYTE = 4.0
"""The most function calls per byte of a request, at some ten nanoseconds each."""

CONSTANT = 30_000
"""The most function calls for a request that is refused for its size."""


def work(act: Callable[[], object]) -> int:
    """The number of function calls, in Python and C, that `act` makes."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    gc.disable()  # garbage of other tests may call functions when it is collected
    sys.setprofile(count)
    try:
        with suppress(ServingError, TensorError):
            act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return calls


def predicted(body: bytes) -> object:
    return read_predict(parse(body), FLOATS)


def regressed(body: bytes) -> object:
    return read_example_body(parse(body))


BODIES: dict[str, tuple[Callable[[bytes], object], Callable[[int], bytes]]] = {
    "open lists": (predicted, lambda n: b"[" * n),
    "deep lists": (predicted, lambda n: b'{"instances":' + b"[" * n + b"]" * n + b"}"),
    "deep objects": (predicted, lambda n: b'{"instances":' + b'{"a":' * n + b"1" + b"}" * n + b"}"),
    "a name twice": (predicted, lambda n: b'{"a":1,"a":2,"instances":[' + b"0," * n + b"0]}"),
    "many names twice": (predicted, lambda n: b"{" + b'"a":1,' * n + b'"instances":[1]}'),
    "NaN": (predicted, lambda n: b'{"instances":[NaN,' + b"0," * n + b"0]}"),
    "digits": (predicted, lambda n: b'{"instances":[' + b"9" * n + b"]}"),
    "escapes": (predicted, lambda n: b'{"instances":["' + b"\\u0041" * n + b'"]}'),
    "one wrong value at the end": (predicted, lambda n: b'{"instances":[' + b"0," * n + b"null]}"),
    "one wrong row at the end": (predicted, lambda n: b'{"instances":[' + b"[0]," * n + b"[0,0]]}"),
    "one wrong record at the end": (predicted, lambda n: b'{"instances":[' + b'{"x":0},' * n + b'{"y":0}]}'),
    "empty lists": (predicted, lambda n: b'{"instances":[' + b"[]," * n + b"[]]}"),
    "examples": (regressed, lambda n: b'{"examples":[' + b'{"x":1},' * n + b'{"x":null}]}'),
    "not closed": (predicted, lambda n: b'{"instances":[' + b"0," * n),
}


@pytest.mark.parametrize("name", BODIES)
def test_json(name: str) -> None:
    read, make = BODIES[name]
    costs = [(work(lambda n=n: read(make(n))), len(make(n))) for n in (20_000, 60_000)]  # type: ignore[misc]

    (small, _), (large, size) = costs
    assert large <= 4 * small + 1000
    assert large <= PER_BYTE * size + CONSTANT


def tensor(n: int) -> TensorProto:
    proto = TensorProto(dtype=DataType.DT_STRING)
    proto.tensor_shape.dim.add(size=n)
    return proto


def content(n: int) -> TensorProto:
    proto = tensor(n)
    proto.tensor_content = bytes(n)
    return proto


def dimensions(n: int) -> TensorProto:
    proto = TensorProto(dtype=DataType.DT_FLOAT)
    proto.tensor_shape.MergeFromString(b"\x12\x00" * n)
    return proto


@pytest.mark.parametrize("make", [content, dimensions])
def test_tensors(make: Callable[[int], TensorProto]) -> None:
    proto = make(100_000)

    assert work(lambda: to_array(proto)) <= PER_BYTE * proto.ByteSize() + CONSTANT


def test_examples_are_decoded_up_to_the_first_that_is_wrong() -> None:
    empty = Input()
    empty.example_list.examples.extend([Example()] * 50_000)

    assert work(lambda: read_examples(empty).arrays(SIGNATURE)) <= 1000


def test_the_number_of_fields_is_counted_before_they_are_parsed() -> None:
    async def answer(*_: object) -> PredictRequest:
        raise AssertionError

    method = Method("Predict", PredictRequest, answer, MAX_PREDICT_FIELDS)

    assert work(lambda: method.parse(b"\x12\x00" * 1_000_000)) <= 10 * MAX_PREDICT_FIELDS


@pytest.mark.parametrize(
    "target", ["/v1/models/m/versions/{}", "/v1/models/m/labels/{}", "/v1/models/{}", "/v1/models/m/versions/0{}"]
)
def test_paths(target: str) -> None:
    assert work(lambda: route("GET", target.format("1" * 5000))) <= work(lambda: route("GET", target.format("1"))) + 10


def test_a_decompression_bomb_is_not_decompressed() -> None:
    bomb = gzip.compress(bytes(200 << 20), 1)

    assert work(lambda: inflate(bomb)) <= 20


def inferred(body: bytes) -> object:
    return read_infer(body, len(body), "m")


TENSOR = b'{"name":"%d","shape":[%s],"datatype":"FP32","data":[0]}'
MANY_TENSORS = {
    "inputs": lambda n: b'{"inputs":[' + b",".join(TENSOR % (i, b"1") for i in range(n)) + b"]}",
    "outputs": lambda n: b'{"inputs":[],"outputs":[' + b",".join(b'{"name":"%d"}' % i for i in range(n)) + b"]}",
    "dimensions": lambda n: b'{"inputs":[' + TENSOR % (0, b"4611686018427387904," * n + b"1") + b"]}",
}


@pytest.mark.parametrize("what", MANY_TENSORS)
def test_tensors_are_counted_before_they_are_read(what: str) -> None:
    body = MANY_TENSORS[what](20_000)
    document = parse(body)
    assert work(lambda: read_infer(body, len(body), "m", document)) < CONSTANT
    with pytest.raises(ServingError, match=f"at most \\d+ {what}; has 2000"):
        inferred(body)


def test_names_are_compared_in_linear_time() -> None:
    began = time.process_time()
    inferred(MANY_TENSORS["outputs"](4000))
    assert time.process_time() - began < 1
