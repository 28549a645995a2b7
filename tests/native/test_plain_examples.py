"""Calls with tf.Examples that the native transport answers itself, with the same bytes as the service."""

import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message
from onnx import TensorProto as Onnx
from onnx import helper

from headrace_batching import Options
from headrace_protos import (
    BytesList,
    ClassificationResponse,
    Example,
    Feature,
    FloatList,
    Int64List,
    MultiInferenceResponse,
)
from tests.conftest import Run, Stop
from tests.support import feature_models, models
from tests.support.calls import ANSWER_WITHIN, SEEN, Caller, Refusal, refusal_of
from tests.support.examples import (
    CLASSIFY,
    REGRESS,
    classify_request,
    example,
    examples,
    labelled,
    multi_request,
    regress_request,
    task,
    values,
)
from tests.support.running import RunningServer

pytest.importorskip("headrace_native")

PREDICTION = "/tensorflow.serving.PredictionService/"

ONE = example(age=[1], weights=[0.5, 1.5])
TWO = example(age=[2], weights=[3.0, 4.0], unasked=[b"ignored"], more=[1, -1], most=[0.5])

SIGNATURES = {
    "named": {"method": "classify", "labels": ["lo", "größer"], "outputs": {"scores": "scores"}},
    "short": {"method": "classify", "labels": ["lo"], "outputs": {"scores": "scores"}},
    "regress": {"method": "regress", "outputs": {"outputs": "price"}},
    "wide": {"method": "regress", "outputs": {"outputs": "scores"}},
}


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="module")
def tariff(running: Run) -> RunningServer:
    return running(partial(feature_models.tariff, signatures=SIGNATURES), batching=Options(max_batch_size=16))


def method_of(request: Message) -> str:
    names = {"ClassificationRequest": "Classify", "RegressionRequest": "Regress"}
    return PREDICTION + names.get(request.DESCRIPTOR.name, "MultiInference")


def both_ways(caller: Caller, request: Message) -> tuple[bytes | Refusal, bytes | Refusal]:
    """The answers to a request, and to the same request with a change that sends it through the service."""
    data = request.SerializeToString()
    return caller.send_bytes(method_of(request), data), caller.send_bytes(method_of(request), data + SEEN)


def same(caller: Caller, request: Message) -> bytes | Refusal:
    plain, seen = both_ways(caller, request)
    assert plain == seen, request
    return plain


def is_plain(caller: Caller, request: Message) -> bool:
    """Whether a request is answered while no handler runs."""
    send: grpc.UnaryUnaryMultiCallable[bytes, bytes] = caller.channel.unary_unary(method_of(request))
    try:
        send(request.SerializeToString(), timeout=ANSWER_WITHIN)
    except grpc.RpcError as error:
        if refusal_of(error).code is not grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        return False
    return True


def of_both(*sent: Example, context: Example | None = None) -> list[Message]:
    """A request of each method."""
    tasks = [task(CLASSIFY, signature_name="named"), task(REGRESS, signature_name="regress"), task(CLASSIFY)]
    return [
        classify_request(*sent, context=context),
        classify_request(*sent, context=context, signature_name="named", version=1),
        regress_request(*sent, context=context, signature_name="regress"),
        multi_request(*tasks, input=examples(*sent, context=context)),
    ]


SENT: dict[str, tuple[Sequence[Example], Example | None]] = {
    "one": ([ONE], None),
    "two": ([ONE, TWO], None),
    "scores of 0": ([example(age=[0], weights=[0.0, -0.0]), example(age=[-1], weights=[1.0, float("nan")])], None),
    "a context": ([example(age=[1]), example(), ONE], example(age=[9], weights=[0.0, 1.0])),
    "an empty context": ([ONE], Example()),
    "sixteen": ([TWO] * 16, None),
}


@pytest.mark.parametrize("name", SENT)
def test_the_same_bytes_as_the_service(tariff: RunningServer, name: str) -> None:
    sent, context = SENT[name]
    for request in of_both(*sent, context=context):
        assert isinstance(same(tariff.caller, request), bytes)


@pytest.mark.parametrize("name", SENT)
@pytest.mark.usefixtures("blocked")
def test_needs_no_event_loop(tariff: RunningServer, name: str) -> None:
    sent, context = SENT[name]
    for request in of_both(*sent, context=context):
        assert is_plain(tariff.caller, request), request


OTHERS = {
    "no Examples": classify_request(),
    "a feature that is missing": classify_request(example(age=[1])),
    "a feature that is missing in the second Example": classify_request(ONE, example(weights=[0.5, 1.5])),
    "a feature of another kind": classify_request(example(age=[1.5], weights=[0.5, 1.5])),
    "texts for numbers": classify_request(example(age=[b"1"], weights=[0.5, 1.5])),
    "too many values": classify_request(example(age=[1, 2], weights=[0.5, 1.5])),
    "too few values": classify_request(example(age=[1], weights=[0.5])),
    "no values": classify_request(example(age=[1], weights=Feature(float_list=FloatList()))),
    "no kind": classify_request(example(age=[1], weights=Feature())),
    "an empty feature instead of the context's": classify_request(
        example(age=[1], weights=Feature()), context=example(weights=[1.0, 2.0])
    ),
    "a context with another kind of values": classify_request(example(age=[1]), context=example(weights=[b"1"])),
    "more Examples than a batch may have": classify_request(*[ONE] * 17),
    "no such model": classify_request(ONE, name="another"),
    "no such version": classify_request(ONE, version=2),
    "no such signature": classify_request(ONE, signature_name="another"),
    "a signature without values": regress_request(ONE, signature_name="named"),
    "fewer labels than scores": classify_request(ONE, signature_name="short"),
    "a regression with two columns": regress_request(ONE, signature_name="wide"),
    "no inferences": multi_request(input=examples(ONE)),
    "a task without a model name": multi_request(task(CLASSIFY), task(REGRESS, name=""), input=examples(ONE)),
    "a task for another model": multi_request(task(CLASSIFY), task(REGRESS, name="another"), input=examples(ONE)),
    "the same task twice": multi_request(
        task(CLASSIFY), task(CLASSIFY, signature_name="serving_default"), input=examples(ONE)
    ),
    "an unknown method": multi_request(task("another"), input=examples(ONE)),
    "inferences without Examples": multi_request(task(CLASSIFY)),
    "a task that cannot be answered": multi_request(
        task(CLASSIFY), task(REGRESS, signature_name="wide"), input=examples(ONE)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_errors_have_the_texts_of_the_service(tariff: RunningServer, name: str) -> None:
    assert isinstance(same(tariff.caller, OTHERS[name]), Refusal)


def test_an_invalid_request_in_a_batch_with_others(running: Run) -> None:
    server = running(
        partial(feature_models.tariff, signatures=SIGNATURES),
        batching=Options(num_batch_threads=1, batch_timeout_micros=50_000),
    )
    good = [server.caller.begin(multi_request(task(REGRESS, signature_name="regress"), input=examples(ONE)))
            for _ in range(20)]  # fmt: skip
    bad = [server.caller.begin(multi_request(task(CLASSIFY, signature_name="short"), input=examples(ONE)))
           for _ in range(20)]  # fmt: skip
    assert {future.result().SerializeToString() for future in good} == {good[0].result().SerializeToString()}
    refusals = {str(refusal_of(future.exception())) for future in bad}
    assert len(refusals) == 1
    assert "1 labels for 2 scores" in refusals.pop()


ELEMENTS: dict[str, tuple[int, list[Any]]] = {
    "float": (Onnx.FLOAT, [0.1, -2.5]),
    "double": (Onnx.DOUBLE, [0.1, -2.5]),
    "int8": (Onnx.INT8, [-128, 127]),
    "int16": (Onnx.INT16, [-(2**15), 2**15 - 1]),
    "int32": (Onnx.INT32, [-(2**31), 2**31 - 1]),
    "int64": (Onnx.INT64, [-(2**63), 2**63 - 1]),
    "uint8": (Onnx.UINT8, [0, 255]),
    "uint16": (Onnx.UINT16, [0, 65535]),
    "uint32": (Onnx.UINT32, [0, 2**32 - 1]),
    "uint64": (Onnx.UINT64, [0, 2**63 - 1]),
    "bool": (Onnx.BOOL, [0, -7]),
}


def cast(folder: Path, dtype: int, dims: models.Dims = ("N", 2)) -> Path:
    """Converts `x`, of an ONNX element type, to `y` float."""
    node = helper.make_node("Cast", ["x"], ["y"], to=Onnx.FLOAT)
    return models._write(folder, [node], [models._value("x", dtype, dims)], [models._value("y", Onnx.FLOAT, dims)])


@pytest.mark.parametrize("element", ELEMENTS)
def test_every_element_type(running: Run, element: str) -> None:
    dtype, extremes = ELEMENTS[element]
    server = running(partial(cast, dtype=dtype), batching=Options())
    data = same(server.caller, classify_request(example(x=extremes), example(x=extremes[::-1])))
    assert isinstance(data, bytes)
    assert is_plain(server.caller, classify_request(example(x=extremes)))
    if element not in ("float", "double", "int64", "bool"):
        beyond = 2**63 if element == "uint64" else extremes[1] + 1
        same(server.caller, classify_request(example(x=[beyond if beyond < 2**63 else -1, 0])))
    server.close()


def test_a_dimension_that_varies(running: Run) -> None:
    server = running(partial(cast, dtype=Onnx.FLOAT, dims=("N", "M")), batching=Options())
    for sizes in [(1,), (3, 3), (2, 3)]:
        same(server.caller, classify_request(*[example(x=[0.5] * size) for size in sizes]))


def test_repeated_features(tariff: RunningServer) -> None:
    """The last of two features with the same name counts, as in every protobuf map."""
    entries = ONE.features.SerializeToString(), example(age=[7]).features.SerializeToString()
    raw = _field(1, classify_request().model_spec.SerializeToString())
    raw += _field(2, _field(1, _field(1, _field(1, b"".join(entries)))))
    plain, seen = (tariff.caller.send_bytes(PREDICTION + "Classify", raw + more) for more in (b"", SEEN))
    assert plain == seen
    assert isinstance(plain, bytes)
    assert labelled(ClassificationResponse.FromString(plain)) == [[("", 7.5), ("", 8.5)]]


def _field(number: int, data: bytes) -> bytes:
    assert len(data) < 128
    return bytes([number << 3 | 2, len(data)]) + data


def test_any_request_is_answered_as_by_the_service(tariff: RunningServer) -> None:
    """Requests, also with changed bytes: Rust and Python give the same answer or the same error."""
    random_ = random.Random(7)
    for _ in range(300):
        request = random_.choice(of_both(*[_some(random_) for _ in range(random_.randrange(1, 5))]))
        data = bytearray(request.SerializeToString())
        for _ in range(random_.randrange(3)):
            data[random_.randrange(len(data))] = random_.choice([0, 1, 2, 10, 18, 127, 128, 255])
        path = method_of(request)
        plain, seen = (tariff.caller.send_bytes(path, bytes(data) + more) for more in (b"", SEEN))
        assert plain == seen, bytes(data)


def _some(random_: random.Random) -> Example:
    ages = [random_.randrange(-3, 300) for _ in range(random_.choice([1, 1, 2]))]
    weights = [random_.random() for _ in range(random_.choice([2, 2, 2, 1]))]
    features: dict[str, Any] = {
        "age": Feature(int64_list=Int64List(value=ages)),
        "weights": Feature(float_list=FloatList(value=weights)),
        "other": Feature(bytes_list=BytesList(value=[b"\xff"])),
    }
    names = random_.sample(list(features), random_.choice([2, 3, 3]))
    return example(**{name: features[name] for name in names})


def test_requests_share_batches_with_others_of_their_outputs(running: Run, served: Stop) -> None:
    server = running(
        partial(feature_models.tariff, signatures=SIGNATURES),
        batching=Options(num_batch_threads=1, batch_timeout_micros=50_000),
    )
    futures = [server.caller.begin(classify_request(*[ONE] * (1 + n % 3), example(age=[n], weights=[0.0, 1.0])))
               for n in range(60)]  # fmt: skip
    for n, future in enumerate(futures):
        assert labelled(future.result())[-1] == [("", n), ("", n + 1)]
    counts = served(server)
    assert (counts.requests, counts.rows) == (60, sum(2 + n % 3 for n in range(60)))
    assert counts.batches < 30


def test_one_run_serves_several_inferences(running: Run, served: Stop) -> None:
    server = running(partial(feature_models.tariff, signatures=SIGNATURES), batching=Options())
    request = multi_request(
        task(REGRESS, signature_name="regress"), task(CLASSIFY), task(CLASSIFY, signature_name="named"),
        input=examples(ONE, TWO),
    )  # fmt: skip
    response: MultiInferenceResponse = server.caller.call(request)
    assert [each.model_spec.signature_name for each in response.results] == ["regress", "serving_default", "named"]
    assert [each.WhichOneof("result") for each in response.results] == [
        "regression_result", "classification_result", "classification_result",
    ]  # fmt: skip
    assert [value.value for value in response.results[0].regression_result.regressions] == [4, 11]
    assert served(server).batches == 1


def test_a_large_context_goes_to_the_service(tariff: RunningServer) -> None:
    """A context is repeated for every Example: a small request must not expand to a huge one."""
    large = example(age=[1], weights=[0.5, 1.5], unasked=[0.5] * 10_000)
    assert isinstance(same(tariff.caller, classify_request(*[Example()] * 16, context=large)), bytes)


def test_values(tariff: RunningServer) -> None:
    response = tariff.caller.call(regress_request(ONE, TWO, signature_name="regress"))
    assert values(response) == [np.float32(4), np.float32(11)]
