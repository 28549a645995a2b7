"""Writes the seeds of the fuzz targets, from real requests: python -m scripts.fuzz_seeds."""

import json
import shutil
import zlib
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from headrace_protos import (
    ClassificationRequest,
    Example,
    ModelSpec,
    MultiInferenceRequest,
    PredictRequest,
    PredictResponse,
)
from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest
from headrace_protos.tensor import to_proto
from headrace_protos.wire import varint

_SEEDS = Path(__file__).parents[1] / "native" / "fuzz" / "seeds"

# The order is that of the targets: signatures, then element types.
_SIGNATURES: list[dict[str, tuple[type, tuple[int, ...]]]] = [
    {"x": (np.float32, (4,))},
    {"x": (np.float32, (3,))},
    {"ids": (np.int64, ()), "mask": (np.bool_, ())},
    {"x": (np.int8, (3, 2)), "": (np.float16, ())},
    {"x": (np.uint32, (2,))},
    {"x": (np.float64, ()), "y": (np.uint64, ()), "z": (np.int32, (2,))},
]
_MODELS: list[tuple[dict[str, tuple[str, type, tuple[int, ...]]], list[str]]] = [
    ({"x": ("FP32", np.float32, (4,))}, ["y"]),
    ({"x": ("FP16", np.float16, (3,))}, ["z", "y"]),
    ({"ids": ("INT64", np.int64, ()), "mask": ("BOOL", np.bool_, ())}, ["y"]),
    ({"x": ("INT8", np.int8, (3, 2)), "i": ("UINT16", np.uint16, ())}, ["y", "a"]),
]
_FEATURES: list[dict[str, list[Any]]] = [
    {"x": [0.5, -1.5]},
    {"age": [-7], "w": [0.25, 1.0, 2.0]},
    {"b": [1], "n": [1, -2, 3, 4], "u": [4_000_000_000]},
    {"s": [b"one", b""]},
]
_SPEC = ModelSpec(name="model", signature_name="serving_default")
_BODIES: list[dict[str, Any]] = [
    {"x": [[1, -2.5], [3e-5, 4]]},
    {"x": [0.30471707880496979, -7, 1e200]},
    {"ids": [1, -9223372036854775808], "mask": [True, False]},
    {"x": [[[1, 2], [3, 300]], [[-1, 0], [5, 6]]]},
    {"a": [[1, 4294967295]], "b": [0.5], "c": [18446744073709551]},
]
_INFER_BODIES: list[tuple[dict[str, tuple[str, type, tuple[int, ...]]], list[str]]] = [
    ({"x": ("FP32", np.float32, (2,))}, ["y"]),
    ({"x": ("FP64", np.float64, ())}, ["y", "z"]),
    ({"ids": ("INT64", np.int64, (3,)), "mask": ("BOOL", np.bool_, (3,))}, ["y"]),
    ({"a": ("UINT16", np.uint16, ()), "b": ("INT8", np.int8, (2, 3)), "c": ("FP16", np.float16, ())}, ["y", "z"]),
]
_DTYPES = ["f4", "f8", "f2", "?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"]
_HEADERS = {
    "timeouts": [(0, "20m"), (1, "gzip"), (2, "identity,deflate, gzip"), (3, "application/grpc+proto")],
    "hours": [(0, "99999999H"), (1, "deflate"), (3, "application/grpc;x")],
    "wrong": [(0, "1.5S"), (1, "zstd"), (2, "gzip;q=1"), (3, "application/grpc-web")],
    "empty": [(0, ""), (1, ""), (2, ""), (3, "")],
    "binary": [(4, "AAECAwQ="), (4, "AAECAwQ"), (0, "1n")],
    "text": [(0, "100% \u00e9 \u00fc")],
}


def seeds() -> Iterator[tuple[str, str, bytes]]:
    """Yields the target, the name and the bytes of each seed."""
    for number, signature in enumerate(_SIGNATURES):
        for as_content in (False, True):
            message = _request(signature, as_content=as_content)
            name = f"{number}-{'content' if as_content else 'values'}"
            yield "predict", name, bytes([number, 7]) + message
            yield from _framed(name, message)
    strings = PredictRequest(model_spec=_SPEC)
    to_proto(np.array([[b"one", b""], [b"\xff", b"four"]], np.object_), strings.inputs["s"])
    yield "predict", "strings", b"\6\7" + strings.SerializeToString(deterministic=True)
    yield "predict", "many-inputs", b"\0\7" + b"\x12\x02\x12\x00" * 2_000
    for number, (inputs, outputs) in enumerate(_MODELS):
        yield "infer", f"{number}-short", bytes([number, 7]) + _infer(inputs).SerializeToString()
        yield "infer", f"{number}-full", bytes([number, 9]) + _full(inputs, outputs).SerializeToString()
    yield "infer", "many-parts", b"\0\7" + b"\x2a\x00\x32\x02\x0a\x00\x3a\x00" * 2_000
    yield from _examples()
    yield from _requests()
    yield from _bodies()
    yield from _example_bodies()
    yield from _infer_bodies()
    yield from _tensors()
    yield from _connections()
    yield from _answers()
    for name, lines in _HEADERS.items():
        yield "headers", name, b"\n".join(bytes([number]) + value.encode() for number, value in lines)


def _request(signature: dict[str, tuple[type, tuple[int, ...]]], *, as_content: bool) -> bytes:
    request = PredictRequest()
    request.model_spec.name = "model"
    request.model_spec.version.value = 3
    request.model_spec.signature_name = "serving_default"
    for alias, (dtype, inner) in signature.items():
        to_proto(_values(dtype, (5, *inner)), request.inputs[alias], as_content=as_content)
    return request.SerializeToString(deterministic=True)


def _infer(inputs: dict[str, tuple[str, type, tuple[int, ...]]]) -> Any:
    request = ModelInferRequest(model_name="model")
    for name, (datatype, dtype, inner) in inputs.items():
        request.inputs.add(name=name, datatype=datatype, shape=(5, *inner))
        request.raw_input_contents.append(_values(dtype, (5, *inner)).tobytes())
    return request


def _full(inputs: dict[str, tuple[str, type, tuple[int, ...]]], outputs: list[str]) -> Any:
    request = _infer(inputs)
    request.model_version, request.id = "3", "call \u00e9"
    for name in outputs:
        request.outputs.add(name=name)
    return request


def _examples() -> Iterator[tuple[str, str, bytes]]:
    """For each signature, a Classify of two Examples, one with a context, and a MultiInference of both."""
    for number, features in enumerate(_FEATURES):
        one = Example()
        for name, values in features.items():
            kind = {float: "float_list", int: "int64_list", bytes: "bytes_list"}[type(values[0])]
            getattr(one.features.feature[name], kind).value.extend(values)
        other = Example.FromString(one.SerializeToString())
        other.features.feature["unasked"].bytes_list.value.append(b"\xff")
        listed = ClassificationRequest(model_spec=_SPEC, input={"example_list": {"examples": [one, other]}})
        shared = ClassificationRequest(
            model_spec=_SPEC, input={"example_list_with_context": {"examples": [Example(), other], "context": one}}
        )
        tasks = [{"model_spec": _SPEC, "method_name": f"tensorflow/serving/{name}"} for name in ("classify", "regress")]
        multi = MultiInferenceRequest(tasks=tasks, input=shared.input)
        for kind, request in {"list": listed, "context": shared, "multi": multi}.items():
            chosen = bytes([number, kind == "multi", 7])
            yield "tf_examples", f"{number}-{kind}", chosen + request.SerializeToString(deterministic=True)
    yield "tf_examples", "many", b"\0\0\7" + b"\x0a\x03\x0a\x01m\x12\xff\x01\x0a\xfc\x01" + b"\x0a\x00" * 126


def _values(dtype: Any, shape: tuple[int, ...]) -> "np.ndarray[Any, Any]":
    values = np.random.default_rng(7).integers(-100, 100, shape)
    return values.astype(dtype)


def _framed(name: str, message: bytes) -> Iterator[tuple[str, str, bytes]]:
    """Two uncompressed messages, and for each compression a compressed message before an uncompressed one.

    The first three bytes are the encoding and two limits.
    """
    plain = b"\0" + len(message).to_bytes(4, "big") + message
    yield "frames", f"{name}-plain", bytes([0, 1, 9]) + plain * 2
    for encoding, window in ((1, 15), (2, 31)):
        compressor = zlib.compressobj(wbits=window)
        small = compressor.compress(message) + compressor.flush()
        prefix = b"\1" + len(small).to_bytes(4, "big")
        yield "frames", f"{name}-{encoding}", bytes([encoding, 1, 5]) + prefix + small + plain


def _bodies() -> Iterator[tuple[str, str, bytes]]:
    """Bodies by row and by column: for the default signature and, with its name after the values, for the other one."""
    for number, columns in enumerate(_BODIES):
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        documents = [{"instances": rows}, {"inputs": columns}]
        documents += [
            {"instances": [1, -2], "signature_name": "other"},
            {"signature_name": "other", "inputs": {"x": [7]}},
        ]
        for kind, document in enumerate(documents):
            yield "rest", f"{number}-{kind}", bytes([number]) + json.dumps(document).encode()


def _example_bodies() -> Iterator[tuple[str, str, bytes]]:
    """For each signature, bodies with two Examples, with a named signature, and with a context."""
    for number, features in enumerate(_FEATURES):
        lists = {name: [_json(value) for value in values] for name, values in features.items()}
        single = {name: values[0] for name, values in lists.items()}
        documents: dict[str, dict[str, Any]] = {
            "list": {"examples": [lists, lists | {"unasked": [_json(b"\xff")]}]},
            "named": {"signature_name": "other", "examples": [single]},
            "context": {"context": lists, "examples": [{}, {"unasked": True}]},
        }
        for kind, document in documents.items():
            yield "rest_examples", f"{number}-{kind}", json.dumps(document).encode()
    yield "rest_examples", "twice", b'{"examples":[{"x":1,"x":2}]}'


def _requests() -> Iterator[tuple[str, str, bytes]]:
    """Connections with several requests: with the same head, with different heads, and with some that are not plain."""
    same = b"".join(_post(b"/v1/models/m:predict", b"{}" + b" " * size) for size in (0, 9, 300, 0))
    yield "requests", "same", same
    other = _post(b"/v1/models/n:predict", b"{}", b"X-Content-Length: 1", b"User-Agent: x")
    yield "requests", "others", _post(b"/a", b"1") + other + _post(b"/a", b"22") + other.replace(b" 1", b" 2")
    yield "requests", "closed", same + _post(b"/a", b"1", b"Connection: close")
    yield "requests", "chunked", same + b"POST /a HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"


def _post(path: bytes, body: bytes, *headers: bytes) -> bytes:
    lines = [b"POST %s HTTP/1.1" % path, b"Host: localhost:8501", *headers, b"Content-Length: %d" % len(body)]
    return b"\r\n".join([*lines, b"", body])


def _json(value: Any) -> Any:
    """The value in JSON: bytes become text if they are ASCII, and base64 otherwise."""
    if not isinstance(value, bytes):
        return value
    return value.decode() if value.isascii() else {"b64": b64encode(value).decode()}


def _infer_bodies() -> Iterator[tuple[str, str, bytes]]:
    """For each model, values in JSON where JSON has the type, and all values as binary data after the JSON."""
    for number, (inputs, outputs) in enumerate(_INFER_BODIES):
        for kind, in_bytes in (("json", ["FP16"]), ("bytes", [datatype for datatype, _, _ in inputs.values()])):
            tensors, behind = _infer_tensors(inputs, in_bytes)
            document = {"id": "call 7", "inputs": tensors, "parameters": {"binary_data_output": True}}
            if kind == "json":
                document["outputs"] = [{"name": name, "parameters": {"binary_data": True}} for name in outputs]
            text = json.dumps(document).encode()
            yield "infer_body", f"{number}-{kind}", bytes([number, len(behind)]) + text + behind


def _infer_tensors(
    inputs: dict[str, tuple[str, type, tuple[int, ...]]], in_bytes: list[str]
) -> tuple[list[dict[str, Any]], bytes]:
    tensors, behind = [], b""
    for name, (datatype, dtype, inner) in inputs.items():
        values = _values(dtype, (2, *inner))
        tensor: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(values.shape)}
        if datatype in in_bytes:
            tensor["parameters"], behind = {"binary_data_size": values.nbytes}, behind + values.tobytes()
        else:
            tensor["data"] = values.tolist()
        tensors.append(tensor)
    return tensors, behind


def _answers() -> Iterator[tuple[str, str, bytes]]:
    """Answers with numbers in each encoding; then one that is left to Python; then a body."""
    for kind, as_content in (("values", False), ("content", True)):
        for dtypes in (["f4", "f8"], ["?", "f2", "i8", "u4"]):
            response = PredictResponse(model_spec=_SPEC)
            for dtype in dtypes:
                to_proto(_values(dtype, (2, 3)), response.outputs[dtype], as_content=as_content)
            message = response.SerializeToString(deterministic=True)
            yield "answers", f"{len(dtypes)}-{kind}", message
    texts = PredictResponse(model_spec=_SPEC)
    to_proto(np.array([b"one", b""], np.object_), texts.outputs["s"])
    yield "answers", "strings", texts.SerializeToString(deterministic=True)
    yield "answers", "body", b"\0" + len(message).to_bytes(4, "big") + message
    yield "answers", "text", b"100%25 %C3%A9%zz%"


def _connections() -> Iterator[tuple[str, str, bytes]]:
    """Headers with and without padding, an authority in each of HPACK's encodings, and frames of other kinds."""
    named = b"\x40\x05:path\x04/a%b\x40\x0a:authority\x05a%2Fb\x83\x86"
    indexed = b"\xff\x00\x3f\x00\x41\x03%2F\x0f\x01\x01%\x01\x02%a"
    yield "connection", "headers", b"\5" + _frame(4, 0, b"") + _frame(1, 4, named) + _frame(0, 1, b"\x41\x03%2F")
    padded = _frame(1, 8 | 32, b"\2\0\0\0\0\3" + named[:20] + b"%%") + _frame(9, 4, named[20:])
    yield "connection", "padded", b"\7" + padded
    yield "connection", "indexed", b"\3" + _frame(1, 4 | 32, b"\0\0\0\0\3" + indexed) + _frame(6, 0, bytes(8))


def _frame(kind: int, flags: int, payload: bytes) -> bytes:
    return len(payload).to_bytes(3, "big") + bytes([kind, flags, 0, 0, 0, 1]) + payload


def _tensors() -> Iterator[tuple[str, str, bytes]]:
    for number, dtype in enumerate(_DTYPES):
        array = _values(dtype, (6,))
        proto = to_proto(array, as_content=True)
        yield "tensor", f"{dtype.replace('?', 'bool')}-content", bytes([number, 6, 3]) + proto.tensor_content
        packed = b"".join(varint(int(value) % 2**64) for value in array) if array.dtype.kind in "iub" else b""
        yield "tensor", f"{dtype.replace('?', 'bool')}-packed", bytes([number, 6, 3]) + packed


def main() -> None:
    """Replaces all seeds."""
    shutil.rmtree(_SEEDS, ignore_errors=True)
    for target, name, data in seeds():
        path = _SEEDS / target / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


if __name__ == "__main__":
    main()
