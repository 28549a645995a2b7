"""ModelInfer's errors for bad requests: Triton's codes and texts, in Triton's order."""

from functools import partial
from typing import Any

import pytest
from grpc import StatusCode
from onnx import TensorProto

from headrace_protos.inference import grpc_service_pb2 as messages
from tests.conftest import Run
from tests.server.services.open_inference.calls import (
    ROW,
    TEN,
    UNKNOWN_ID,
    InferenceCaller,
    array,
    infer_request,
    packed,
    tensor,
    wanted,
)
from tests.server.services.open_inference.conftest import Infer
from tests.support import models
from tests.support.calls import MODEL
from tests.support.running import eventually

BYTES = ROW.tobytes()
NOTE = (
    "NOTE: Setting a non-zero max_batch_size in the model config requires a batch dimension to be prepended to each "
    "input shape. If you want to specify the full shape including the batch dim in your input dims config, try setting "
    "max_batch_size to zero. See the model configuration docs for more info on max_batch_size."
)
CONTENTS = {"fp32_contents": [1, 2, 3, 4]}


def counted(declared: int, got: list[str], missing: str) -> str:
    names = ",".join(f"'{name}'" for name in got)
    return (
        f"{UNKNOWN_ID}expected {declared} inputs but got {len(got)} inputs for model '{MODEL}'. "
        f"Got input(s) [{names}], but missing required input(s) {missing}. Please provide all required input(s)."
    )


def sized(expected: int, got: int) -> str:
    return f"{UNKNOWN_ID}input byte size mismatch for input 'x' for model '{MODEL}'. Expected {expected}, got {got}"


def shaped(got: str) -> str:
    return f"{UNKNOWN_ID}unexpected shape for input 'x' for model '{MODEL}'. Expected [-1,4], got {got}. {NOTE}"


def typed(got: str) -> str:
    return f"{UNKNOWN_ID}inference input 'x' data-type is '{got}', but model '{MODEL}' expects 'FP32'"


BAD: list[tuple[dict[str, Any], str]] = [
    ({"inputs": [], "raw": []}, counted(1, [], "['x']")),
    ({"inputs": [tensor(), tensor("z")], "raw": [BYTES] * 2}, counted(1, ["x", "z"], "]")),
    ({"inputs": [tensor("z")]}, f"unexpected inference input 'z' for model '{MODEL}'"),
    ({"inputs": [tensor(), tensor()], "raw": [BYTES] * 2}, f"{UNKNOWN_ID}input 'x' already exists in request"),
    ({"outputs": [wanted(), wanted()]}, f"{UNKNOWN_ID}output 'y' already exists in request"),
    ({"outputs": [wanted("q")]}, f"unexpected inference output 'q' for model '{MODEL}'"),
    ({"inputs": [tensor(datatype="INT32")]}, typed("INT32")),
    ({"inputs": [tensor(datatype="fp32")]}, typed("<invalid>")),
    ({"inputs": [tensor(datatype="")]}, typed("<invalid>")),
    ({"inputs": [tensor(shape=(1, 3))], "raw": [BYTES[:12]]}, shaped("[1,3]")),
    ({"inputs": [tensor(shape=(4,))]}, shaped("[4]")),
    ({"inputs": [tensor(shape=(1, 2, 2))]}, shaped("[1,2,2]")),
    (
        {"inputs": [tensor(shape=())]},
        f"{UNKNOWN_ID}input 'x' has no shape but model requires batch dimension for '{MODEL}'",
    ),
    (
        {"inputs": [tensor(shape=(1, -1))]},
        f"{UNKNOWN_ID}All input dimensions should be specified for input 'x' for model '{MODEL}', got [1,-1]",
    ),
    (
        {"inputs": [tensor(shape=(-1, 4))]},
        f"{UNKNOWN_ID}All input dimensions should be specified for input 'x' for model '{MODEL}', got [-1,4]",
    ),
    (
        {"inputs": [tensor(shape=(1001, 4))], "raw": [BYTES * 1001]},
        f"{UNKNOWN_ID}inference request batch-size must be <= 1000 for '{MODEL}'",
    ),
    ({"raw": [BYTES[:12]]}, sized(16, 12)),
    ({"raw": [BYTES * 2]}, sized(16, 32)),
    ({"raw": [b""]}, sized(16, 0)),
    ({"inputs": [tensor(shape=(0, 4))], "raw": [b""]}, sized(16, 0)),
    ({"inputs": [tensor(shape=(0, 4))]}, sized(16, 16)),
    ({"inputs": [tensor(contents={})], "raw": []}, sized(16, 0)),
    ({"inputs": [tensor(contents={"fp32_contents": [1, 2]})], "raw": []}, sized(16, 8)),
    ({"raw": []}, f"unable to find data for input tensor 'x' for model '{MODEL}' in request."),
    (
        {"inputs": [tensor(contents=CONTENTS)]},
        f"contents field must not be specified when using raw_input_contents for 'x' for model '{MODEL}'",
    ),
    (
        {"inputs": [tensor(contents={**CONTENTS, "fp64_contents": [1]})], "raw": []},
        f"unexpected explicit tensor data for input tensor 'x' for model '{MODEL}', binary data was already supplied.",
    ),
    (
        {"inputs": [tensor(contents={"int64_contents": [1, 2, 3, 4]})], "raw": []},
        f"unexpected explicit tensor data for input tensor 'x' for model '{MODEL}' of type 'INT64', "
        "expected datatype 'FP32'",
    ),
    ({"id": "mine", "raw": [b""]}, sized(16, 0).replace("<id_unknown>", "mine")),
    (
        {"outputs": [wanted(classification=0)]},
        "invalid value for 'classification' parameter, expected >= 0",
    ),
    (
        {"outputs": [wanted(classification="2")]},
        "invalid value type for 'classification' parameter, expected int64_param",
    ),
    (
        {"outputs": [wanted(classification=1, shared_memory_region="r")]},
        "output can't set both 'shared_memory_region' and 'classification'",
    ),
    *(
        ({"parameters": {name: value}}, f"invalid value type for '{name}' parameter, expected {expected}.")
        for name, value, expected in (
            ("sequence_id", True, "int64_param or string_param"),
            ("sequence_start", 1, "bool_param"),
            ("sequence_end", "x", "bool_param"),
            ("priority", "x", "int64_param or uint64_param"),
            ("timeout", "x", "int64_param"),
            ("triton_enable_empty_final_response", 1, "bool_param"),
            ("signature_name", 1, "string_param"),
        )
    ),
    ({"parameters": {"priority": -1}}, "invalid value for 'priority', expected value >= 0."),
    (
        {"parameters": {"triton_x": True}},
        "parameter keys starting with 'triton_' are reserved for Triton usage. Only the following keys starting with "
        "'triton_' are allowed: triton_enable_empty_final_response",
    ),
]


@pytest.fixture(scope="module")
def linear(inferring: Infer) -> InferenceCaller:
    return inferring(models.linear)


@pytest.mark.parametrize(("request_", "text"), BAD)
def test_bad_requests(linear: InferenceCaller, request_: dict[str, Any], text: str) -> None:
    assert linear.refusal(infer_request(**request_)) == (StatusCode.INVALID_ARGUMENT, text)
    assert array(linear.call(infer_request())).tolist() == TEN


def test_a_parameter_without_a_value(linear: InferenceCaller) -> None:
    request = infer_request()
    request.parameters["mine"].SetInParent()
    text = "invalid value type for 'mine' parameter, expected int64_param, bool_param, or string_param."
    assert linear.refusal(request) == (StatusCode.INVALID_ARGUMENT, text)


@pytest.mark.parametrize(
    ("name", "version", "code", "text"),
    [
        ("nope", "", StatusCode.NOT_FOUND, "Request for unknown model: 'nope' is not found"),
        ("", "", StatusCode.NOT_FOUND, "Request for unknown model: '' is not found"),
        (MODEL, "7", StatusCode.NOT_FOUND, f"Request for unknown model: '{MODEL}' version 7 is not found"),
        *(
            (
                MODEL,
                version,
                StatusCode.INVALID_ARGUMENT,
                f"failed to get model version from specified version string '{version}' (details: stol), "
                "version should be an integral value > 0",
            )
            for version in ("x", "1x", "9" * 20, "9" * 5000)
        ),
        (
            MODEL,
            "-1",
            StatusCode.INVALID_ARGUMENT,
            "invalid model version specified '-1' , version should be an integral value > 0",
        ),
    ],
)
def test_models_and_versions(linear: InferenceCaller, name: str, version: str, code: StatusCode, text: str) -> None:
    named = {"name": name, "version": version}
    requests = [
        infer_request(model_name=name, model_version=version),
        messages.ModelMetadataRequest(**named),
        messages.ModelConfigRequest(**named),
    ]
    if code == StatusCode.INVALID_ARGUMENT:
        requests.append(messages.ModelReadyRequest(**named))
    for request in requests:
        refusal = linear.refusal(request)
        assert refusal.code == code
        assert refusal.text[:1000] == text[:1000]


def test_a_version_that_failed(running: Run) -> None:
    server = running(models.linear, file_system_poll_wait_seconds=1)
    caller = InferenceCaller(server.port)
    server.base_path.joinpath("2").mkdir()
    index = messages.RepositoryIndexRequest()
    eventually(lambda: [m for m in caller.call(index).models if (m.version, m.state) == ("2", "UNAVAILABLE")])
    text = f"Request for unknown model: '{MODEL}' version 2 is not at ready state"
    assert caller.refusal(infer_request(model_version="2")) == (StatusCode.UNAVAILABLE, text)
    assert array(caller.call(infer_request())).tolist() == TEN
    caller.close()


def test_rows_that_differ(inferring: Infer) -> None:
    caller = inferring(models.two_inputs)
    pair = [tensor("a", shape=(1, 2)), tensor("b", shape=(2, 2))]
    text = f"{UNKNOWN_ID}input 'b' batch size does not match other inputs for '{MODEL}'"
    assert caller.refusal(infer_request(pair, [b"\0" * 8, b"\0" * 16])) == (StatusCode.INVALID_ARGUMENT, text)


WHERE = f"for inference input 'x' for model '{MODEL}'"


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (packed(b"a"), f"{UNKNOWN_ID}expected 2 string elements {WHERE}, got 1"),
        (b"", f"{UNKNOWN_ID}expected 2 string elements {WHERE}, got 0"),
        (packed(b"a", b"", b"c", b"d"), f"{UNKNOWN_ID}unexpected number of string elements 3 {WHERE}, expecting 2"),
        (
            packed(b"a") + b"\1\0",
            f"{UNKNOWN_ID}incomplete string length indicator {WHERE}, expecting 4 bytes but only 2 bytes available. "
            "Please make sure the string length indicator is in one buffer.",
        ),
        (
            packed(b"a") + b"\xff\xff\xff\xffab",
            "incomplete string data for inference input 'x', expecting string of length 4294967295 but only 2 bytes "
            "available",
        ),
    ],
)
def test_strings(inferring: Infer, raw: bytes, text: str) -> None:

    caller = inferring(partial(models.identity, dtype=TensorProto.STRING))
    request = infer_request([tensor("x", "BYTES", (1, 2))], [raw])
    assert caller.refusal(request) == (StatusCode.INVALID_ARGUMENT, text)


def test_a_shape_that_claims_any_number_of_strings(inferring: Infer) -> None:
    caller = inferring(partial(models.identity, dtype=TensorProto.STRING, dims=("N", "W")))
    request = infer_request([tensor("x", "BYTES", (1, 2**50))], [packed(b"a")])
    text = f"{UNKNOWN_ID}expected {2**50} string elements {WHERE}, got 1"
    assert caller.refusal(request) == (StatusCode.INVALID_ARGUMENT, text)


def test_a_string_that_the_runtime_refuses(inferring: Infer) -> None:

    caller = inferring(partial(models.identity, dtype=TensorProto.STRING))
    request = infer_request([tensor("x", "BYTES", (1, 2))], [packed(b"\xff", b"a")])
    code, text = caller.refusal(request)
    assert code == StatusCode.INVALID_ARGUMENT
    assert "UTF-8" in text
