"""Plain infer calls over HTTP, which the native transport answers itself: byte for byte as Python answers them."""

import json
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from headrace_batching import LoopDelivery
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.open_inference.rest.service import OpenInferenceRest
from tests.conftest import Rest
from tests.server.services.open_inference.calls import ROW
from tests.support import models
from tests.support.calls import MODEL
from tests.support.rest_calls import Answer, RestCaller

INFER = f"/v2/models/{MODEL}/infer"
LENGTH = "Inference-Header-Content-Length"

# The native transport passes on every request with a query; the query has no other effect here.
BY_PYTHON = f"{INFER}?"

Body = tuple[bytes, dict[str, str]]
"""A body and its headers."""


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear, rest_api_enable_cors_support=True)


@pytest.fixture(scope="module")
def identities(resting: Rest) -> RestCaller:
    """A model with an input of every type."""
    return resting(partial(models.identities, dtypes={name: dtype for name, (dtype, _) in VALUES.items()}))


@pytest.fixture
def calls_of_python(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The paths of the infer calls that Python answers."""
    paths: list[str] = []
    answer = OpenInferenceRest.answer

    async def noted(self: OpenInferenceRest, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        paths.append(request.path + request.query)
        return await answer(self, request, delivery)

    monkeypatch.setattr(OpenInferenceRest, "answer", noted)
    return paths


def tensor(values: Any, datatype: str, shape: list[int], **fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": datatype, "shape": shape, "data": values, **fields}


def in_json(document: Any) -> Body:
    return json.dumps(document, ensure_ascii=False).encode(), {}


def behind(document: Any, raw: bytes) -> Body:
    text = json.dumps(document, ensure_ascii=False).encode()
    return text + raw, {LENGTH: str(len(text))}


def both(caller: RestCaller, body: Body) -> tuple[Answer, Answer]:
    """The answers of Rust and of Python."""
    data, headers = body
    return caller.send("POST", INFER, data, headers), caller.send("POST", BY_PYTHON, data, headers)


def same(answers: tuple[Answer, Answer]) -> bool:
    native, python = ({name: value for name, value in each.headers.items() if name != "date"} for each in answers)
    return native == python and answers[0][:2] == answers[1][:2]


FLOATS = [0.0, -0.0, 1e-5, 1e-7, 0.1, 1e15, 1e16, 1e17, 1.5e270, 5e-270, 2**53 + 1, 1e22, 3.0, 123456789.125]

VALUES: dict[str, tuple[int, list[Any]]] = {
    "FP32": (TensorProto.FLOAT, [*FLOATS[:8], 1e39, -1e39, 3.4e38, 1e-45]),
    "FP64": (TensorProto.DOUBLE, FLOATS),
    "INT8": (TensorProto.INT8, [0, -1, 127, 300, -300, 2**40]),
    "INT16": (TensorProto.INT16, [0, -1, 32767, 70000]),
    "INT32": (TensorProto.INT32, [0, -1, 2**31 - 1, 2**33]),
    "INT64": (TensorProto.INT64, [0, -1, 2**63 - 1, -(2**63)]),
    "UINT8": (TensorProto.UINT8, [0, 255, 256]),
    "UINT16": (TensorProto.UINT16, [0, 65535, 65536]),
    "UINT32": (TensorProto.UINT32, [0, 2**32 - 1, 2**32]),
    "UINT64": (TensorProto.UINT64, [0, 2**63]),
    "BOOL": (TensorProto.BOOL, [True, False]),
}
"""A model's inputs, each named after its datatype, and values for it."""

BINARY_OUTPUT = {"parameters": {"binary_data_output": True}}


def as_array(datatype: str, values: Any) -> Any:
    """Values as Triton reads them: narrow integers are truncated."""
    with np.errstate(all="ignore"):
        return np.array(values).astype({"FP32": "float32", "FP64": "float64"}.get(datatype, datatype.lower()))


def every_input(in_bytes: Collection[str] = (), **changed: Any) -> Body:
    """A body with all inputs, some as bytes, and some with other values."""
    inputs, raw = [], b""
    for datatype, (_, values) in VALUES.items():
        own = changed.get(datatype, values)
        sent: dict[str, Any] = {"name": datatype, "datatype": datatype, "shape": [1, len(own)]}
        if datatype in in_bytes:
            data = as_array(datatype, own).tobytes()
            sent["parameters"], raw = {"binary_data_size": len(data)}, raw + data
        else:
            sent["data"] = list(own)
        inputs.append(sent)
    return behind({"id": "é 1", "inputs": inputs, **changed.get("more", {})}, raw)


class TestEveryType:
    @pytest.mark.parametrize("in_bytes", [(), tuple(VALUES), ("INT8", "FP64")])
    def test_both_ways(
        self, identities: RestCaller, transport: str, in_bytes: Collection[str], calls_of_python: list[str]
    ) -> None:
        some = [
            {"name": f"out_{datatype}", "parameters": {"binary_data": datatype in ("BOOL", "FP32")}}
            for datatype in VALUES
        ]
        for more in ({}, BINARY_OUTPUT, {"outputs": some}):
            native, python = both(identities, every_input(in_bytes, more=more))
            assert native.status == 200, native.text
            assert same((native, python)), (native, python)
        assert_native(transport, calls_of_python)

    def test_floats_of_all_magnitudes(self, identities: RestCaller, transport: str, calls_of_python: list[str]) -> None:
        bits = np.random.default_rng(3).integers(0, 2**64, 4000, np.uint64)
        floats, doubles = bits.view(np.float32), bits.view(np.float64)
        native, python = both(identities, every_input(("FP32", "FP64"), FP32=floats, FP64=doubles))
        assert "NaN" in native.text
        assert native.text == python.text
        finite = {"FP32": floats[np.isfinite(floats)].tolist(), "FP64": doubles[np.isfinite(doubles)].tolist()}
        native, python = both(identities, every_input(**finite))
        assert native.status == 200, native.text
        assert native.text == python.text
        # The first was answered in Rust; the second has exponents, which Rust leaves to Python.
        expected = [BY_PYTHON, INFER, BY_PYTHON]
        assert transport == "grpcio" or calls_of_python == expected


def assert_native(transport: str, calls_of_python: list[str]) -> None:
    """Asserts that Python got only the calls with a query, if the native transport is installed."""
    assert transport == "grpcio" or set(calls_of_python) == {BY_PYTHON}


Change = Callable[[dict[str, Any]], object]

CHANGES: dict[str, Change] = {
    "an id": lambda body: body.update(id="7"),
    "an empty id": lambda body: body.update(id=""),
    "an id with escapes": lambda body: body.update(id='a"\n'),
    "an id that is not a string": lambda body: body.update(id=7),
    "priority": lambda body: body.update(parameters={"priority": 2}),
    "a reserved parameter": lambda body: body.update(parameters={"triton_x": 1}),
    "parameters that are not an object": lambda body: body.update(parameters=[]),
    "no parameters": lambda body: body.update(parameters={}),
    "an unknown member": lambda body: body.update(more=1),
    "all outputs": lambda body: body.update(outputs=[{"name": "y"}]),
    "no outputs": lambda body: body.update(outputs=[]),
    "an output twice": lambda body: body.update(outputs=[{"name": "y"}, {"name": "y"}]),
    "an unknown output": lambda body: body.update(outputs=[{"name": "z"}]),
    "classes": lambda body: body.update(outputs=[{"name": "y", "parameters": {"classification": 1}}]),
    "no inputs": lambda body: body.update(inputs=[]),
    "inputs that are not a list": lambda body: body.update(inputs=1),
    "another name": lambda body: body["inputs"][0].update(name="z"),
    "another type": lambda body: body["inputs"][0].update(datatype="FP64"),
    "an unknown type": lambda body: body["inputs"][0].update(datatype="fp32"),
    "a negative shape": lambda body: body["inputs"][0].update(shape=[1, -4]),
    "no rows": lambda body: body["inputs"][0].update(shape=[0, 4], data=[]),
    "another rank": lambda body: body["inputs"][0].update(shape=[4]),
    "too many columns": lambda body: body["inputs"][0].update(shape=[1, 5], data=[1, 2, 3, 4, 5]),
    "too few values": lambda body: body["inputs"][0].update(data=[1, 2, 3]),
    "too many values": lambda body: body["inputs"][0].update(data=[1, 2, 3, 4, 5]),
    "a value of another kind": lambda body: body["inputs"][0].update(data=[1, 2, 3, "4"]),
    "null": lambda body: body["inputs"][0].update(data=[1, 2, 3, None]),
    "NaN": lambda body: body["inputs"][0].update(data=[1, 2, 3, float("nan")]),
    "data that are not a list": lambda body: body["inputs"][0].update(data=1),
    "deep lists": lambda body: body["inputs"][0].update(data=[[[[[[[[[1, 2], 3, 4]]]]]]]]),
    "an empty list in the data": lambda body: body["inputs"][0].update(data=[1, 2, [], 3, 4]),
    "two kinds of data": lambda body: body["inputs"][0].update(parameters={"binary_data_size": 16}),
    "a hint": lambda body: body["inputs"][0].update(parameters={"hint": 1}),
    "an input twice": lambda body: body["inputs"].append(body["inputs"][0]),
    "too many rows": lambda body: body["inputs"][0].update(shape=[5000, 4], data=[1] * 20_000),
    "data before its name": lambda body: body["inputs"][0].update(name=body["inputs"][0].pop("name")),
}

TEXTS = {
    "no JSON": b"{",
    "an empty body": b"",
    "a list": b"[]",
    "JSON and more": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]} x',
    "a member twice": b'{"id":"1","id":"2","inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}',
    "no UTF-8": b'{"id":"\xff","inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[1,2,3,4]}]}',
    "numbers in many forms": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[-0,1E2,2e20,1e-400]}]}',
    "an invalid number": b'{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[01,2,3,4]}]}',
    "white space": b'\n{ "inputs" : [ {"name":"x","datatype":"FP32", "shape":[ 1 ,4], "data": [ 1 ,2,3,\t4 ] } ] } ',
}  # fmt: skip

HEADERS = {
    "gzip is accepted": {"Accept-Encoding": "gzip"},
    "another encoding": {"Content-Encoding": "br"},
    "an invalid length": {LENGTH: "x"},
    "a length of 0": {LENGTH: "0"},
    "a length too large": {LENGTH: "100000"},
    "a length too small": {LENGTH: "20"},
}


def good() -> dict[str, Any]:
    return {"inputs": [tensor([1, 2, 3, 4], "FP32", [1, 4])]}


class TestEveryOtherBody:
    @pytest.mark.parametrize("change", CHANGES)
    def test_a_changed_document(self, linear: RestCaller, change: str) -> None:
        body = good()
        CHANGES[change](body)
        answers = both(linear, in_json(body))
        assert same(answers), answers

    @pytest.mark.parametrize("text", TEXTS)
    def test_a_text(self, linear: RestCaller, text: str) -> None:
        answers = both(linear, (TEXTS[text], {}))
        assert same(answers), answers

    @pytest.mark.parametrize("header", HEADERS)
    def test_headers(self, linear: RestCaller, header: str) -> None:
        data, _ = in_json(good())
        answers = both(linear, (data, HEADERS[header]))
        assert same(answers), answers

    def test_bytes_behind_that_do_not_fit(self, linear: RestCaller) -> None:
        sent = {"name": "x", "datatype": "FP32", "shape": [1, 4]}
        for size, raw in ((16, ROW.tobytes()), (16, b"1"), (15, b"1" * 15), (16, b"1" * 17), (-1, b""), ("16", b"")):
            answers = both(linear, behind({"inputs": [{**sent, "parameters": {"binary_data_size": size}}]}, raw))
            assert same(answers), answers

    def test_other_models_and_methods(self, linear: RestCaller) -> None:
        data, _ = in_json(good())
        for method, path in (
            ("POST", "/v2/models/unknown/infer"),
            ("POST", f"/v2/models/{MODEL}/versions/1/infer"),
            ("POST", f"/v2/models/{MODEL}/versions/9/infer"),
            ("POST", f"/v2/models/{MODEL}/versions/99999999999999999999/infer"),
            ("GET", INFER),
        ):
            answers = linear.send(method, path, data), linear.send(method, f"{path}?", data)
            assert same(answers), answers


def test_calls_are_counted_alike(linear: RestCaller) -> None:
    def counts() -> Any:
        stats = linear.get(f"/v2/models/{MODEL}/stats").value["model_stats"][0]
        return np.array([stats["inference_count"], stats["inference_stats"]["success"]["count"]])

    before = counts()
    for answer in both(linear, in_json(good())):
        assert answer.status == 200
    assert (counts() - before).tolist() == [2, 2]


def test_cors_headers(linear: RestCaller) -> None:
    native, python = both(linear, in_json(good()))
    assert same((native, python)), (native, python)
    assert native.headers["access-control-allow-origin"] == "*"
