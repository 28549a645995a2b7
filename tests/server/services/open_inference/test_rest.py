"""The protocol over HTTP: JSON, binary data after JSON, compression, paths, and errors of bad requests."""

import gzip
import json
import zlib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.conftest import Rest
from tests.server.services.open_inference.calls import ROW, UNKNOWN_ID, packed
from tests.support import models
from tests.support.calls import MODEL
from tests.support.rest_calls import Answer, RestCaller

INFER = f"/v2/models/{MODEL}/infer"
LENGTH = "Inference-Header-Content-Length"
BYTES = ROW.tobytes()


@pytest.fixture(scope="module")
def linear(resting: Rest) -> RestCaller:
    return resting(models.linear, open_inference_admin="files")


def tensor(data: Any = (1, 2, 3, 4), **fields: Any) -> dict[str, Any]:
    return {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": data, **fields}


def binary(size: int = 16, **fields: Any) -> dict[str, Any]:
    made = tensor(**fields, parameters={"binary_data_size": size})
    del made["data"]
    return made


def infer(caller: RestCaller, body: Any, headers: Mapping[str, str] | None = None) -> Answer:
    return caller.send("POST", INFER, body, headers)


def data(answer: Answer) -> Any:
    assert answer.status == 200, answer.text
    return answer.value["outputs"][0]["data"]


def behind(caller: RestCaller, document: Any, payload: bytes, **headers: str) -> Answer:
    """Sends JSON followed by binary data."""
    text = json.dumps(document).encode()
    return infer(caller, text + payload, {LENGTH: str(len(text)), **headers})


def parts(answer: Answer) -> tuple[Any, bytes]:
    """The JSON of an answer, and the bytes after it."""
    assert answer.status == 200, answer.text
    body = answer.text.encode(errors="surrogateescape")
    size = int(answer.headers[LENGTH.lower()])
    return json.loads(body[:size]), body[size:]


class TestJson:
    def test_flat_and_nested_data(self, linear: RestCaller) -> None:
        for values in ([1, 2, 3, 4], [[1, 2, 3, 4]], [[1, 2], [3, [4]]]):
            assert data(infer(linear, {"inputs": [tensor(values)]})) == [10]

    def test_the_members_of_an_answer(self, linear: RestCaller) -> None:
        answer = infer(linear, {"id": "42", "inputs": [tensor()], "unknown": {}})
        assert answer.headers["content-type"] == "application/json"
        assert answer.value == {
            "id": "42",
            "model_name": MODEL,
            "model_version": "1",
            "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [10.0]}],
        }
        assert "id" not in infer(linear, {"inputs": [tensor()]}).value

    def test_a_version_in_the_path(self, linear: RestCaller) -> None:
        path = f"/v2/models/{MODEL}/versions/1/infer"
        assert linear.send("POST", path, {"inputs": [tensor()]}).value["model_version"] == "1"
        answer = linear.send("POST", path.replace("1", "7"), {"inputs": [tensor()]})
        assert answer.error == (404, f"Request for unknown model: '{MODEL}' version 7 is not found")

    @pytest.mark.parametrize(
        ("dtype", "datatype", "values"),
        [
            (TensorProto.INT64, "INT64", [9007199254740993, -(2**63)]),
            (TensorProto.UINT64, "UINT64", [2**64 - 1, 0]),
            (TensorProto.INT32, "INT32", [-5, 7]),
            (TensorProto.UINT8, "UINT8", [255, 0]),
            (TensorProto.BOOL, "BOOL", [True, False]),
            (TensorProto.DOUBLE, "FP64", [0.1, -2.5e-300]),
            (TensorProto.STRING, "BYTES", ["", 'é中😀"\\']),
        ],
    )
    def test_values_survive(self, resting: Rest, dtype: int, datatype: str, values: list[Any]) -> None:
        caller = resting(partial(models.identity, dtype=dtype))
        answer = infer(caller, {"inputs": [tensor(values, datatype=datatype, shape=[1, 2])]})
        assert data(answer) == values

    def test_special_numbers(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dims=("N", 4)))
        body = '{"inputs":[{"name":"x","datatype":"FP32","shape":[1,4],"data":[NaN,Infinity,-Infinity,0.1]}]}'
        assert '"data":[NaN,Infinity,-Infinity,0.10000000149011612]' in infer(caller, body).text

    def test_large_numbers_are_infinite_floats(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dims=("N", 2)))
        answer = infer(caller, {"inputs": [tensor([1e39, -1e39], shape=[1, 2])]})
        assert '"data":[Infinity,-Infinity]' in answer.text

    def test_arrays_without_elements(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dims=("N", "W")))
        answer = infer(caller, {"inputs": [tensor([], shape=[2, 0])]})
        assert (answer.value["outputs"][0]["shape"], data(answer)) == ([2, 0], [])

    def test_a_large_body_is_read_and_written_in_another_process(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dims=("N", "W")))
        count = 200_000
        values = (np.arange(count) / 4).tolist()
        answer = infer(caller, {"inputs": [tensor(values, shape=[1, count])]})
        assert data(answer) == values

    def test_the_content_type_is_ignored(self, linear: RestCaller) -> None:
        body = json.dumps({"inputs": [tensor()]})
        for kind in ("text/plain", "application/octet-stream"):
            assert data(infer(linear, body, {"Content-Type": kind})) == [10]

    def test_parameters(self, linear: RestCaller) -> None:
        taken = {"mine": "x", "n": 7, "b": True, "f": 1.5, "priority": 2, "timeout": 20_000_000, "sequence_id": 3}
        assert data(infer(linear, {"parameters": taken, "inputs": [tensor(parameters={"hint": 1})]})) == [10]
        label = infer(linear, {"parameters": {"version_label": "stable"}, "inputs": [tensor()]})
        assert label.error == (400, "Unrecognized servable version label: stable")


class TestBinary:
    def test_bytes_both_ways(self, linear: RestCaller) -> None:
        answer = behind(linear, {"inputs": [binary()], "parameters": {"binary_data_output": True}}, BYTES)
        assert answer.headers["content-type"] == "application/octet-stream"
        document, raw = parts(answer)
        assert document["outputs"][0]["parameters"] == {"binary_data_size": 4}
        assert raw == np.array([10], np.float32).tobytes()

    def test_bytes_in_json_out(self, linear: RestCaller) -> None:
        answer = behind(linear, {"inputs": [binary()]}, BYTES)
        assert data(answer) == [10]
        assert LENGTH.lower() not in answer.headers

    def test_a_named_output_is_json_unless_it_says_otherwise(self, linear: RestCaller) -> None:
        named = {"inputs": [tensor()], "parameters": {"binary_data_output": True}, "outputs": [{"name": "y"}]}
        assert data(infer(linear, named)) == [10]
        named["outputs"] = [{"name": "y", "parameters": {"binary_data": True}}]
        assert parts(infer(linear, named))[1] == np.array([10], np.float32).tobytes()

    def test_json_and_bytes_in_one_call(self, resting: Rest) -> None:
        caller = resting(models.two_inputs)
        one = np.array([1, 2], np.float32)
        inputs = [tensor([3, 4], name="a", shape=[1, 2]), binary(8, name="b", shape=[1, 2])]
        every = [tensor([3, 4], name="a", shape=[1, 2]), tensor([1, 2], name="b", shape=[1, 2])]
        expected = infer(caller, {"inputs": every}).value["outputs"]
        assert behind(caller, {"inputs": inputs}, one.tobytes()).value["outputs"] == expected

    def test_a_body_of_bytes_alone(self, linear: RestCaller) -> None:
        assert parts(infer(linear, BYTES, {LENGTH: "0"}))[1] == np.array([10], np.float32).tobytes()
        answer = infer(linear, BYTES[:8], {LENGTH: "0"})
        size = f"{UNKNOWN_ID}input byte size mismatch for input 'raw_input' for model '{MODEL}'. Expected 16, got 8"
        assert answer.error == (400, size)

    def test_the_length_of_a_variable_dimension_is_computed(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dims=("N", "W")))
        document, raw = parts(infer(caller, BYTES, {LENGTH: "0"}))
        assert (document["outputs"][0]["shape"], raw) == ([1, 4], BYTES)

    def test_strings(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dtype=TensorProto.STRING))
        raw = packed(b"a", "é".encode())
        document = {"inputs": [binary(len(raw), datatype="BYTES", shape=[1, 2])]}
        assert data(behind(caller, document, raw)) == ["a", "é"]

    def test_a_large_tensor(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dims=("N", "W")))
        values = np.arange(1 << 18, dtype=np.float32)
        document = {
            "inputs": [binary(values.nbytes, shape=[1, values.size])],
            "parameters": {"binary_data_output": True},
        }
        assert parts(behind(caller, document, values.tobytes()))[1] == values.tobytes()

    def test_half_floats_have_no_json(self, resting: Rest) -> None:
        caller = resting(partial(models.identity, dtype=TensorProto.FLOAT16))
        half = {"datatype": "FP16", "shape": [1, 2]}
        answer = infer(caller, {"inputs": [tensor([1, 2], **half)]})
        text = "receiving FP16 data via JSON is not supported. Please use the binary data format for input x"
        assert answer.error == (400, text)
        raw = np.array([1, 2], np.float16).tobytes()
        answer = behind(caller, {"inputs": [binary(4, **half)]}, raw)
        text = "sending FP16 data via JSON is not supported. Please use the binary data format for output"
        assert answer.error == (400, text)


class TestCompression:
    BODY = json.dumps({"inputs": [tensor()]}).encode()

    @pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
    def test_requests(self, linear: RestCaller, encoding: str, pack: Any) -> None:
        assert data(infer(linear, pack(self.BODY), {"Content-Encoding": encoding})) == [10]

    @pytest.mark.parametrize(
        ("accepted", "encoding"),
        [
            ("gzip", "gzip"),
            ("deflate", "deflate"),
            ("gzip, deflate", "gzip"),
            ("gzip;q=0.5, deflate;q=1.0", "deflate"),
            ("br, gzip", "gzip"),
            ("identity", None),
            ("*", None),
            ("gzip;q=0", None),
            ("gzip;q=x", None),
        ],
    )
    def test_answers(self, linear: RestCaller, accepted: str, encoding: str | None) -> None:
        answer = infer(linear, self.BODY, {"Accept-Encoding": accepted})
        assert answer.headers.get("content-encoding") == encoding
        body = answer.text.encode(errors="surrogateescape")
        unpack: Any = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding or "", bytes)
        assert json.loads(unpack(body))["outputs"][0]["data"] == [10]

    def test_unknown_encodings(self, linear: RestCaller) -> None:
        answer = infer(linear, self.BODY, {"Content-Encoding": "br"})
        assert answer.error == (501, "Unsupported compression type")
        assert answer.headers["accept-encoding"] == "gzip, deflate"

    @pytest.mark.parametrize(
        "pack",
        [bytes, lambda body: gzip.compress(body)[:-8], lambda _: gzip.compress(b"0" * (65 << 20))],
        ids=["plain", "cut short", "too much"],
    )
    def test_invalid_compressed_bodies(self, linear: RestCaller, pack: Callable[[bytes], bytes]) -> None:
        assert infer(linear, pack(self.BODY), {"Content-Encoding": "gzip"}).status == 400
        assert data(infer(linear, self.BODY)) == [10]


ABSENT = "Unable to parse '{0}': attempt to access non-existing object member '{0}'"
UNSIGNED = "Unable to parse '{0}': attempt to access JSON non-unsigned-integer as unsigned-integer"
ONE_OF = (
    "Input must set only one of the following fields: 'data', 'binary_data_size' in 'parameters', "
    "'shared_memory_region' in 'parameters'. But "
)
OUTPUT = {"inputs": [tensor()], "outputs": [{"name": "y"}]}


def without(field: str) -> dict[str, Any]:
    made = tensor()
    del made[field]
    return {"inputs": [made]}


def asked(**parameters: Any) -> dict[str, Any]:
    return {"inputs": [tensor()], "outputs": [{"name": "y", "parameters": parameters}]}


_NO_PARAMETERS: tuple[Any, ...] = ([1], None, {})
BAD: list[tuple[Any, str]] = [
    ("{", "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
    ("", "failed to parse the request JSON buffer: The document is empty at 0"),
    ("[]", "failed to parse the request JSON buffer: it is not an object"),
    ({}, ABSENT.format("inputs")),
    ({"inputs": {}}, "Unable to parse 'inputs': attempt to access JSON non-array as array"),
    ({"inputs": [5]}, f"{ONE_OF}no field is set"),
    (without("name"), ABSENT.format("name")),
    (without("datatype"), ABSENT.format("datatype")),
    (without("shape"), ABSENT.format("shape")),
    (without("data"), f"{ONE_OF}no field is set"),
    ({"inputs": [tensor(parameters={"binary_data_size": 16})]}, f"{ONE_OF}set 'data' 'binary_data_size'"),
    ({"inputs": [tensor(name=1)]}, "Unable to parse 'name': attempt to access JSON non-string as string"),
    ({"inputs": [tensor(datatype="FLOAT")]}, "invalid datatype for input x"),
    ({"inputs": [tensor(shape=["a"])]}, UNSIGNED.format("shape")),
    ({"inputs": [tensor(shape=[-1, 4])]}, UNSIGNED.format("shape")),
    ({"inputs": [tensor(shape=[1.0, 4])]}, UNSIGNED.format("shape")),
    ({"inputs": [tensor(shape=[2**64, 4])]}, UNSIGNED.format("shape")),
    ({"inputs": [tensor([1, 2, 3])]}, "Unable to parse 'data': Shape does not match true shape of 'data' field"),
    ({"inputs": [tensor([1] * 5)]}, "Unable to parse 'data': Shape does not match true shape of 'data' field"),
    ({"inputs": [tensor(shape=[2**40, 4])]}, "Unable to parse 'data': Shape does not match true shape of 'data' field"),
    ({"inputs": [tensor(["1", 2, 3, 4])]}, "Unable to parse 'data': attempt to access JSON non-number as double"),
    ({"inputs": [tensor([True, 2, 3, 4])]}, "Unable to parse 'data': attempt to access JSON non-number as double"),
    ({"inputs": [tensor([{}, 2, 3, 4])]}, "Unable to parse 'data': attempt to access JSON non-number as double"),
    ({"inputs": [tensor(5)]}, "Unable to parse 'data': attempt to access JSON non-array as array"),
    (
        {"inputs": [tensor([1.5, 2, 3, 4], datatype="INT32")]},
        "Unable to parse 'data': attempt to access JSON non-signed-integer as signed-integer",
    ),
    (
        {"inputs": [tensor([-1, 2, 3, 4], datatype="UINT8")]},
        "Unable to parse 'data': attempt to access JSON non-unsigned-integer as unsigned-integer",
    ),
    (
        {"inputs": [tensor([1, 2, 3, 4], datatype="BYTES")]},
        "Unable to parse JSON bytes array: attempt to access JSON non-string as string",
    ),
    (
        {"inputs": [tensor([1, 2, 3, 4], datatype="INT32")]},
        f"{UNKNOWN_ID}inference input 'x' data-type is 'INT32', but model '{MODEL}' expects 'FP32'",
    ),
    ({"inputs": [tensor(name="z")]}, f"unexpected inference input 'z' for model '{MODEL}'"),
    ({"inputs": [tensor(), tensor()]}, f"{UNKNOWN_ID}input 'x' already exists in request"),
    ({**OUTPUT, "outputs": [{"name": "q"}]}, f"unexpected inference output 'q' for model '{MODEL}'"),
    ({**OUTPUT, "outputs": [{}]}, ABSENT.format("name")),
    ({**OUTPUT, "outputs": OUTPUT["outputs"] * 2}, f"{UNKNOWN_ID}output 'y' already exists in request"),
    (asked(binary_data="x"), "Unable to parse 'binary_data': attempt to access JSON non-boolean as boolean"),
    (
        asked(classification=-1),
        "Unable to set 'classification': attempt to access JSON non-unsigned-integer as unsigned-integer",
    ),
    (
        asked(classification=1, shared_memory_region="r"),
        "Output can't set both 'shared_memory_region' and 'classification'",
    ),
    (
        asked(binary_data=True, shared_memory_region="r"),
        "Output can't set both 'shared_memory_region' and 'binary_data'",
    ),
    ({"inputs": [tensor()], "id": 5}, "Unable to parse 'id': attempt to access JSON non-string as string"),
    (
        {"inputs": [tensor()], "parameters": 5},
        "failed to get request params.: attempt to get members for non-object",
    ),
    (
        {"inputs": [tensor()], "parameters": {"triton_x": 1}},
        "parameter keys starting with 'triton_' are reserved for Triton usage and should not be specified.",
    ),
    *(
        (
            {"inputs": [tensor()], "parameters": {"mine": value}},
            "parameter 'mine' has invalid type. It should be either 'int', 'bool', or 'string'.",
        )
        for value in _NO_PARAMETERS
    ),
    ({"inputs": [tensor()], "parameters": {"priority": -1}}, UNSIGNED.format("priority")),
    ({"inputs": [tensor()], "parameters": {"timeout": "x"}}, UNSIGNED.format("timeout")),
]


@pytest.mark.parametrize(("body", "text"), BAD)
def test_bad_bodies(linear: RestCaller, body: Any, text: str) -> None:
    assert infer(linear, body).error == (400, text)


@pytest.mark.parametrize(
    ("document", "payload", "text"),
    [
        (
            {"inputs": [binary()]},
            BYTES[:12],
            f"unexpected size for input 'x', expecting 4 additional bytes for model '{MODEL}'",
        ),
        ({"inputs": [binary()]}, BYTES + b"1234", f"unexpected additional input data for model '{MODEL}'"),
        (
            {"inputs": [binary(12)]},
            BYTES[:12],
            f"{UNKNOWN_ID}input byte size mismatch for input 'x' for model '{MODEL}'. Expected 16, got 12",
        ),
        ({"inputs": [binary("x")]}, BYTES, UNSIGNED.format("binary_data_size")),  # type: ignore[arg-type]
    ],
)
def test_bad_bytes(linear: RestCaller, document: Any, payload: bytes, text: str) -> None:
    assert behind(linear, document, payload).error == (400, text)


@pytest.mark.parametrize(
    ("length", "text"),
    [
        ("9999", "inference header size should be in range (0, 120), got: 9999"),
        ("-1", "inference header size should be in range (0, 120), got: -1"),
        ("many", f"Unable to parse {LENGTH}, got: many"),
        ("9" * 5000, f"Unable to parse {LENGTH}, got: {'9' * 5000}"),
    ],
)
def test_invalid_lengths_of_json(linear: RestCaller, length: str, text: str) -> None:
    assert infer(linear, b"x" * 120, {LENGTH: length}).error == (400, text)


@pytest.mark.parametrize(
    ("depth", "text"),
    [
        (101, "Unable to parse 'data': JSON nesting depth exceeds maximum allowed limit (100)"),
        (1100, "failed to parse the request JSON buffer: More than 256 lists and objects are nested."),
        (100_000, "failed to parse the request JSON buffer: More than 256 lists and objects are nested."),
    ],
)
def test_data_nested_deep(linear: RestCaller, depth: int, text: str) -> None:
    body = json.dumps({"inputs": [tensor("DATA")]}).replace('"DATA"', "[" * depth + "1" + "]" * depth)
    status, answer = infer(linear, body).error
    assert status == 400
    assert answer.startswith(text)


class TestPaths:
    def test_health(self, linear: RestCaller) -> None:
        assert linear.get("/v2/health/live").value == {"live": True}
        assert linear.get("/v2/health/ready").value == {"ready": True}
        assert linear.get(f"/v2/models/{MODEL}/ready").value == {"name": MODEL, "ready": True}
        assert linear.get("/v2/models/nope/ready").status == 404

    def test_metadata_and_config(self, linear: RestCaller) -> None:
        assert linear.get("/v2").value["name"] == "headrace"
        assert linear.get("/v2/models").value == {"models": [MODEL]}
        metadata = linear.get(f"/v2/models/{MODEL}").value
        assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}]
        config = linear.get(f"/v2/models/{MODEL}/config").value
        assert config["input"][0]["data_type"] == "TYPE_FP32"
        assert config["dynamic_batching"]["max_queue_delay_microseconds"] == 0

    def test_statistics_are_numbers(self, linear: RestCaller) -> None:
        infer(linear, {"inputs": [tensor()]})
        for path in (f"/v2/models/{MODEL}/stats", "/v2/models/stats", f"/v2/models/{MODEL}/versions/1/stats"):
            (stats,) = linear.get(path).value["model_stats"]
            assert type(stats["inference_stats"]["success"]["ns"]) is int
            assert stats["inference_stats"]["cache_hit"] == {"count": 0, "ns": 0}
        assert linear.get("/v2/models/nope/stats").error == (400, "requested model 'nope' is not available")

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("POST", "/v2/health/live", 405),
            ("HEAD", "/v2/health/live", 405),
            ("GET", INFER, 405),
            ("POST", f"/v2/models/{MODEL}", 405),
            ("GET", f"/v2/models/{MODEL}/nothing", 404),
            ("GET", f"/v2/models/{MODEL}/", 404),
            ("GET", f"/v2/models/{MODEL}/versions/x", 404),
            ("GET", f"/v2/models/{MODEL}/versions/", 404),
            ("GET", "/v2/", 404),
            ("GET", "/v2x", 404),
        ],
    )
    def test_unknown_paths(self, linear: RestCaller, method: str, path: str, status: int) -> None:
        assert linear.send(method, path).status == status

    def test_names_are_decoded(self, linear: RestCaller) -> None:
        assert linear.get(f"/v2/models/%6D{MODEL[1:]}").value["name"] == MODEL

    def test_tensorflow_servings_paths_are_on_the_same_port(self, linear: RestCaller) -> None:
        assert linear.predict({"instances": [[1, 2, 3, 4]]}) == {"predictions": [[10.0]]}


class TestAdministration:
    def test_the_repository(self, linear: RestCaller) -> None:
        ready = {"name": MODEL, "version": "1", "state": "READY"}
        assert linear.send("POST", "/v2/repository/index").value == [ready]
        assert linear.send("POST", "/v2/repository/index", {"ready": True}).value == [ready]
        load, unload = (f"/v2/repository/models/{MODEL}/{verb}" for verb in ("load", "unload"))
        assert linear.send("POST", unload).status == 200
        assert linear.get(f"/v2/models/{MODEL}/ready").status == 404
        assert linear.send("POST", load, {"parameters": {"config": '{"max_batch_size": 3}'}}).status == 200
        assert linear.get(f"/v2/models/{MODEL}/config").value["max_batch_size"] == 3
        assert linear.send("POST", load, {"parameters": {"file:1/model.onnx": "###"}}).status == 400
        assert linear.send("POST", "/v2/repository/models/nope/load").status == 500

    def test_shared_memory(self, linear: RestCaller) -> None:
        region = "/v2/systemsharedmemory/region/r"
        answer = linear.send("POST", f"{region}/register", {"byte_size": 64})
        assert answer.error == (400, "Shared memory register request has no 'key' field")
        answer = linear.send("POST", "/v2/systemsharedmemory/register", {"key": "r", "byte_size": 64})
        assert answer.error == (400, "'region name' is necessary to register system shared memory region")
        assert linear.get("/v2/systemsharedmemory/status").value == []
        assert linear.get(f"{region}/status").error == (404, "Unable to find system shared memory region: 'r'")
        assert linear.send("POST", "/v2/systemsharedmemory/unregister").status == 200
        assert linear.get("/v2/cudasharedmemory/status").value == []

    def test_settings(self, linear: RestCaller) -> None:
        settings = linear.get("/v2/logging").value
        assert linear.send("POST", "/v2/logging", {"log_info": None}).value == settings
        text = "log file location can not be updated through network protocol"
        assert linear.send("POST", "/v2/logging", {"log_file": "x"}).error == (501, text)
        trace = linear.send("POST", "/v2/trace/setting", {"trace_rate": "77"}).value
        assert (trace["trace_rate"], trace["trace_level"]) == ("77", ["OFF"])
        assert linear.send("POST", "/v2/trace/setting", {"trace_rate": None}).value["trace_rate"] == "1000"
        assert linear.send("POST", "/v2/trace/setting", {"trace_rate": [5]}).status == 400
