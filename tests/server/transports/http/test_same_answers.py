"""REST answers are byte for byte the same from Python and the native transport, which parses plain bodies itself."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headrace_server import Config
from tests.conftest import TRANSPORTS
from tests.support import feature_models, models
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import LoopThread, RunningServer

Both = Callable[..., tuple[int, str]]

T = onnx.TensorProto
DTYPES = [
    T.FLOAT,
    T.DOUBLE,
    T.INT64,
    T.INT32,
    T.INT16,
    T.INT8,
    T.UINT8,
    T.UINT32,
    T.UINT64,
    T.BOOL,
    T.FLOAT16,
    T.STRING,
]
SIGNATURES = {
    "classes": {"method": "classify", "labels": ["lo", "größer"], "outputs": {"scores": "scores"}},
    "short": {"method": "classify", "labels": ["lo"], "outputs": {"scores": "scores"}},
    "values": {"method": "regress", "outputs": {"outputs": "price"}},
    "wide": {"method": "regress", "outputs": {"outputs": "scores"}},
}
MODELS: dict[str, Callable[[Path], Path]] = {
    **{T.DataType.Name(dtype).lower(): partial(models.identity, dtype=dtype) for dtype in DTYPES},
    "linear": models.linear,
    "pair": models.two_inputs,
    "flat": partial(models.identity, dims=("N",)),
    "deep": partial(models.identity, dims=("N", "A", "B"), dtype=T.INT32),
    "sums": models.row_sums,
    "lookup": models.lookup,
    "scalar": models.scalar_output,
    "positive": models.positive,
    "positions": partial(models.positions, in_rows=True),
    "square": partial(models.identity, dims=(2, 2)),
    "few": partial(models.identity, dims=(3,), dtype=T.STRING),
    "tariff": partial(feature_models.tariff, signatures=SIGNATURES),
    "words": feature_models.words,
    "serialized": feature_models.serialized,
}
LABELS = 'version_labels { key: "stable" value: 1 } version_labels { key: "gone" value: 7 }'

pytestmark = pytest.mark.skipif("native" not in TRANSPORTS, reason="headrace-native is not installed")


@pytest.fixture(scope="module")
def both(loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Sends a request to both transports; returns the status and the body, which must be the same."""
    with ExitStack() as stack:
        yield _both(stack, loop_thread, tmp_path_factory.mktemp("models"), enable_batching=True)


@pytest.fixture(scope="module")
def both_alone(loop_thread: LoopThread, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    """Like `both`, but without batching: each request runs alone."""
    with ExitStack() as stack:
        yield _both(stack, loop_thread, tmp_path_factory.mktemp("models"), enable_batching=False)


def _both(stack: ExitStack, loop_thread: LoopThread, folder: Path, **options: Any) -> Both:
    configs = "".join(
        f'config {{ name: "{name}" base_path: "{folder / name}" model_platform: "tensorflow" {LABELS} }}\n'
        for name in MODELS
    )
    (folder / "models.config").write_text(f"model_config_list {{ {configs} }}")
    for name, make in MODELS.items():
        make(folder / name / "1")
    callers = [
        _caller(stack, loop_thread, folder, transport=transport, **options) for transport in ("grpcio", "native")
    ]

    def send(path: str, body: bytes | str, method: str = "POST", **headers: str) -> tuple[int, str]:
        body = body.encode() if isinstance(body, str) else body
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        python, native = (caller.send(method, f"/v1/models/{path}", body, named) for caller in callers)
        assert (native.status, native.text) == (python.status, python.text), body
        for name in ("content-type", "content-length"):
            assert native.headers.get(name) == python.headers.get(name)
        return native.status, native.text

    return send


def _caller(stack: ExitStack, loop_thread: LoopThread, folder: Path, **options: Any) -> RestCaller:
    port = free_port()
    settings = {"port": 0, "rest_api_port": port, "model_config_file": str(folder / "models.config")}
    settings["allow_version_labels_for_unavailable_models"] = True
    server = RunningServer(loop_thread, Config(**settings, **options))  # type: ignore[arg-type]
    stack.callback(server.close)
    caller = RestCaller(port)
    stack.callback(caller.close)
    return caller


SCALARS = (
    "0 1 -1 7 -0 -0.0 0.0 1.0 1.5 0.1 1e2 1E+2 1e-2 1e22 1e23 1e-22 1e-23 1e39 -1e39 1e-46 1e308 1e309 1e400 1e-400 "
    "0.30471707880496979 3.4028235677973366e38 3.4028236e38 1.17549435e-38 123456789 16777217 9007199254740993 "
    "127 128 -128 -129 255 256 300 32768 2147483647 2147483648 -2147483648 -2147483649 4294967295 4294967296 "
    "9223372036854775807 9223372036854775808 -9223372036854775808 -9223372036854775809 18446744073709551615 "
    "18446744073709551616 123456789012345678901234567890 1234567890123456789 01 1. .5 +1 1e 1e+ - -- NaN Infinity "
    '-Infinity Inf nan true false null True "a" "ö" "\\u00e9" "1" {"b64":"YQ=="} {"b64":"?"} [] [1] {} {"x":1}'
).split()

SHAPES = ('{"instances":[[%s,1],[1,%s]]}', '{"inputs": {"x": [[1, %s], [%s, 0]]}}')


@pytest.mark.parametrize("model", [name for name in MODELS if name in map(str.lower, T.DataType.keys())])
def test_every_scalar_for_every_dtype(both: Both, model: str) -> None:
    statuses = {both(f"{model}:predict", shape % (value, value))[0] for shape, value in product(SHAPES, SCALARS)}
    assert 400 in statuses


BODIES = [
    "",
    " ",
    "{",
    "{}",
    "[]",
    "1",
    '{"instances"',
    '{"instances":',
    '{"instances":[',
    '{"instances":[[1,2',
    '{"instances":[[1,2]]',
    '{"instances":[[1,2]]} tail',
    '\ufeff{"instances":[[1,2]]}',
    '{"instances":[[1,2]],}',
    '{"instances":[[1,2],]}',
    '{"instances":[[1,2,]]}',
    '{"instances":[,[1,2]]}',
    '{"instances":[[1 2]]}',
    '{"instances" [[1,2]]}',
    "{'instances':[[1,2]]}",
    '{"instances":[]}',
    '{"instances":[[]]}',
    '{"instances":[[],[]]}',
    '{"instances":1}',
    '{"instances":"x"}',
    '{"instances":null}',
    '{"instances":{}}',
    '{"instances":[1,2]}',
    '{"instances":[[1,2],[3]]}',
    '{"instances":[[1,2],3]}',
    '{"instances":[1,[2]]}',
    '{"instances":[[[1,2]]]}',
    '{"instances":[[1,2,3]]}',
    '{"instances":[[1,2,3,4]]}',
    '{"instances":[["a","\\u00f6"],["",{"b64":"YQ=="}]]}',
    '{"inputs":{"x":[["a","b"]]}}',
    '{"instances":[[1,2,3,4],[1,2,3,4,5]]}',
    '{"instances":[{"x":[1,2]},{"x":[3,4]}]}',
    '{"instances":[{"x":[1,2,3,4]}]}',
    '{"instances":[{"x":[1,2]},[3,4]]}',
    '{"instances":[[1,2],{"x":[3,4]}]}',
    '{"instances":[{"x":[1,2],"x":[3,4]}]}',
    '{"instances":[{"x":[1,2],"y":[3,4]}]}',
    '{"instances":[{"y":[1,2]}]}',
    '{"instances":[{}]}',
    '{"instances":[{"a":[1,2],"b":[3,4]}]}',
    '{"instances":[{"b":[1,2],"a":[3,4]},{"a":[0.5,0.25],"b":[1e-3,7]}]}',
    '{"instances":[{"a":[1,2]}]}',
    '{"instances":[{"a":[1,2],"b":[3]}]}',
    '{"instances":[{"a":[1,2],"b":[3,4],"c":1}]}',
    '{"inputs":[[1,2]]}',
    '{"inputs":[[1,2],[3,4]]}',
    '{"inputs":[]}',
    '{"inputs":1}',
    '{"inputs":{}}',
    '{"inputs":{"x":[[1,2]]}}',
    '{"inputs":{"x":[[1,2]],"y":1}}',
    '{"inputs":{"a":[[1,2],[3,4]],"b":[[5,6],[7,8]]}}',
    '{"inputs":{"a":[[1,2],[3,4]],"b":[[5,6]]}}',
    '{"inputs":{"a":[[1,2]],"b":[[5,6]],"c":[1]}}',
    '{"inputs":{"x":[1,2,3]}}',
    '{"inputs":{"x":[[[1,2],[3,4]]]}}',
    '{"inputs":[1,2,3]}',
    '{"inputs":[0,9,10]}',
    '{"instances":[0,9]}',
    '{"instances":[[[1,2],[3,4]],[[5,6],[7,8]]]}',
    '{"instances":[[[1],[2]],[[3]]]}',
    '{"inputs":[[1,2]],"instances":[[1,2]]}',
    '{"signature_name":"serving_default","instances":[[1,2]]}',
    '{"instances":[[1,2]],"signature_name":"serving_default"}',
    '{"signature_name":"","instances":[[1,2]]}',
    '{"signature_name":"nobody","instances":[[1,2]]}',
    '{"instances":[[1,2]],"signature_name":"nobody"}',
    '{"signature_name":7,"instances":[[1,2]]}',
    '{"signature_name":"serving\\u005fdefault","instances":[[1,2]]}',
    '{"signature_name":"","signature_name":"nobody","instances":[[1,2]]}',
    '{"more":[[[]]],"instances":[[1,2]]}',
    '{"inst\\u0061nces":[[1,2]]}',
    '\n{\t"instances" : [ [ 1 ,2 ] ,\r\n[ 3, 4 ] ] } ',
    '{"instances":' + "[" * 70 + "1" + "]" * 70 + "}",
    '{"instances":[' + ",".join(["[1,2]"] * 2000) + "]}",
    '{"instances":[' + ",".join(["1"] * 2000) + "]}",
    '{"inputs":[[' + ",".join(["1"] * 5000) + "]]}",
]


BODIED = ("float", "linear", "pair", "flat", "deep", "sums", "lookup", "scalar", "string", "positive", "positions")
TEXTS = [
    f'{{"instances":[{",".join(f"[{text},{text}]" for text in texts)}]}}'
    for texts in (
        [r'"a\"\\\/\b\f\n\r\t"', r'"\u00e9\u0000\u20AC"', r'"\ud83d\ude00"'],
        ['{"b64":""}', '{"b64":"YQ=="}', '{"b64":"/+8="}', '"plain"'],
        *([text] for text in (r'"\ud83d"', r'"\ude00"', r'"\x"', r'"\u12"', r'"\ud83d\u0041"', '"\n"')),
        *([f'{{"b64":{text}}}'] for text in ('"YQ"', '"Y Q=="', '"YR=="', '"YQ="', '"?"', "1", r'"YQ=\u003d"')),
        ['{"b64":"YQ==","x":1}'],
        ['{"b64":"YQ==","b64":"Yg=="}'],
    )
]


@pytest.mark.parametrize("model", BODIED)
def test_bodies_good_and_bad(both: Both, model: str) -> None:
    statuses = [both(f"{model}:predict", body)[0] for body in BODIES]
    assert {200, 400} <= set(statuses)


@pytest.mark.parametrize("model", ["square", *BODIED])
def test_the_same_bodies_without_batching(both_alone: Both, model: str) -> None:
    statuses = [both_alone(f"{model}:predict", body)[0] for body in BODIES]
    assert {200, 400} <= set(statuses)


@pytest.mark.parametrize("model", ["square", "few"])
def test_bodies_for_models_without_a_batch_axis(both: Both, model: str) -> None:
    statuses = [both(f"{model}:predict", body)[0] for body in (*BODIES, '{"instances":["a","b","c"]}')]
    assert {200, 400} <= set(statuses)


@pytest.mark.parametrize("model", ["string", "few", "words", "float"])
def test_texts(both: Both, model: str) -> None:
    for body in TEXTS:
        both(f"{model}:predict", body)
        both(f"{model}:predict", body.replace("instances", "inputs"))
        both(f"{model}:predict", body.replace("[[", "[").replace("]]", "]").replace("],[", ","))


@pytest.mark.parametrize(
    "path",
    [
        *("float", "float/versions/1", "float/versions/01", "float/versions/2", "nobody", "Float"),
        *("float/labels/stable", "float/labels/gone", "float/labels/none", "float/labels/st%61ble", "float/labels/"),
    ],
)
@pytest.mark.parametrize("verb", [":predict", ":Predict", ":predict?x", ":predict/", "", "/metadata", ":regress"])
def test_paths(both: Both, path: str, verb: str) -> None:
    for method in ("POST", "GET", "PUT"):
        both(path + verb, '{"instances":[[1,2]]}', method)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "identity", "deflate", "GZIP", ""])
def test_codings(both: Both, coding: str) -> None:
    for body in (b'{"instances":[[1,2]]}', b'{"instances":[[1,2,3]]}', b'{"instances":[["a",2]]}'):
        for sent in (body, gzip.compress(body), gzip.compress(body)[:-3], gzip.compress(body) + b"tail"):
            both("float:predict", sent, Content_Encoding=coding)


@pytest.mark.parametrize(("model", "kind"), [("float", np.float32), ("double", np.float64)])
def test_numbers_of_all_magnitudes(both: Both, model: str, kind: Any) -> None:
    bits = np.random.default_rng(5).integers(0, 256, size=12_000 * np.dtype(kind).itemsize, dtype=np.uint8)
    values = bits.view(kind)
    ties = np.arange(2000, dtype=kind) / 8 + 999_990
    powers = kind(2) ** np.arange(-140, 120, dtype=kind)
    tens = np.array([float(f"1e{power}") for power in range(-44, 38)], kind)
    numbers = np.concatenate([values[np.isfinite(values)], ties, powers, tens, -tens])
    for rows in np.array_split(numbers[: len(numbers) // 2 * 2].reshape(-1, 2), 20):
        body = json.dumps({"inputs": rows.tolist()})
        for key in ("inputs", "instances"):
            status, text = both(f"{model}:predict", body.replace("inputs", key))
            assert status == 200
        np.testing.assert_array_equal(np.array(json.loads(text)["predictions"], kind), rows)


LEAVES = st.one_of(
    st.sampled_from(["1", "-2.5", "1e3", "0", "true", "null", '"a"', "NaN", "-0", "7e-5"]),
    st.floats(allow_nan=False).map(repr),
    st.integers(-(2**65), 2**65).map(str),
)
LISTS = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3).map(lambda items: f"[{','.join(items)}]"), max_leaves=8
)
RECORDS = st.dictionaries(st.sampled_from(["x", "a", "b", "y"]), LISTS, max_size=3).map(
    lambda members: "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
)
VALUES = st.one_of(LISTS, RECORDS, st.lists(RECORDS, max_size=3).map(lambda items: f"[{','.join(items)}]"))
MEMBERS = st.tuples(st.sampled_from(["instances", "inputs", "signature_name", "other"]), VALUES)
DOCUMENTS = st.lists(MEMBERS, min_size=1, max_size=3).map(
    lambda members: "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}"
)


@settings(max_examples=300)
@given(model=st.sampled_from(sorted(MODELS)), body=DOCUMENTS)
def test_any_document(both: Both, model: str, body: str) -> None:
    both(f"{model}:predict", body)


EXAMPLES = [
    '{"examples":[{"age":1,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":[1],"weights":[0.5,1.5]},{"weights":[-2e0,3.25],"age":-7,"more":"x"}]}',
    '{"signature_name":"classes","examples":[{"age":1,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":1,"weights":[0.5,1.5]}],"signature_name":"values"}',
    '{"signature_name":"short","examples":[{"age":1,"weights":[0.5,1.5]}]}',
    '{"signature_name":"wide","examples":[{"age":1,"weights":[0.5,1.5]}]}',
    '{"signature_name":"nobody","examples":[{"age":1,"weights":[0.5,1.5]}]}',
    '{"context":{"age":3},"examples":[{"weights":[0.5,1.5]},{"weights":[1.0,2.0],"age":1}]}',
    '{"examples":[{"weights":[0.5,1.5]}],"context":{"age":true}}',
    '{"context":{},"examples":[{"age":1,"weights":[0.5,1.5]}]}',
    '{"context":[],"examples":[{"age":1,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":true,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":1.0,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":1,"weights":[0.5,1]}]}',
    '{"examples":[{"age":1,"weights":[0,1]}]}',
    '{"examples":[{"age":1,"weights":[0.5,1.5,2.5]}]}',
    '{"examples":[{"age":1,"weights":[1e39,-1e39]}]}',
    '{"examples":[{"age":1,"weights":[1e-46,0.30471707880496979]}]}',
    '{"examples":[{"age":1,"weights":[-0.0,NaN]}]}',
    '{"examples":[{"age":-0,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":9223372036854775807,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":9223372036854775808,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":1,"weights":[]}]}',
    '{"examples":[{"age":1,"weights":null}]}',
    '{"examples":[{"age":1,"weights":[[0.5,1.5]]}]}',
    '{"examples":[{"age":1,"age":2,"weights":[0.5,1.5]}]}',
    '{"examples":[{"age":1}]}',
    '{"examples":[{}]}',
    '{"examples":[]}',
    '{"examples":{}}',
    '{"examples":[1]}',
    '{"examples":[{"age":1,"weights":[0.5,1.5]}],"other":[]}',
    '{"instances":[[1,2]]}',
    '{"examples":[{"words":["a","b"],"numbers":[0.5,0.25]}]}',
    r'{"examples":[{"words":["\u00e9\"",{"b64":"w6k="}],"numbers":[0.5,0.25]}]}',
    '{"examples":[{"words":["a",{"b64":"/w=="}],"numbers":[0.5,0.25]}]}',
    '{"examples":[{"words":["a",1],"numbers":[0.5,0.25]}]}',
    '{"examples":[{"x":1}]}',
    '{"examples":[' + ",".join(['{"age":1,"weights":[0.5,1.5]}'] * 2000) + "]}",
]
CALLS = [f"{path}:{verb}" for path in ("tariff", "words", "serialized", "float") for verb in ("classify", "regress")]


@pytest.mark.parametrize("call", [*CALLS, "tariff/labels/stable:classify", "tariff/versions/1:regress"])
def test_examples_good_and_bad(both: Both, both_alone: Both, call: str) -> None:
    for body in EXAMPLES:
        both(call, body)
        both_alone(call, body)


FEATURES = st.dictionaries(st.sampled_from(["age", "weights", "words", "numbers", "x"]), LISTS, max_size=3).map(
    lambda members: "{" + ",".join(f'"{name}":{value}' for name, value in members.items()) + "}"
)
EXAMPLE_DOCUMENTS = st.lists(
    st.tuples(
        st.sampled_from(["examples", "context", "signature_name", "other"]),
        st.one_of(FEATURES, st.lists(FEATURES, max_size=3).map(lambda items: f"[{','.join(items)}]"), LEAVES),
    ),
    min_size=1,
    max_size=3,
).map(lambda members: "{" + ",".join(f'"{name}":{value}' for name, value in members) + "}")


@settings(max_examples=200)
@given(call=st.sampled_from(CALLS), body=EXAMPLE_DOCUMENTS)
def test_any_document_of_examples(both: Both, call: str, body: str) -> None:
    both(call, body)


@settings(max_examples=300)
@given(
    body=st.sampled_from(BODIES).map(str.encode),
    at=st.integers(0, 10_000),
    what=st.sampled_from(
        [b"", b"0", b".", b"e", b"-", b'"', b"[", b"]", b"{", b"}", b",", b":", b" ", b"\\", b"\0", b"\xff"]
    ),
    cut=st.integers(0, 2),
)
def test_documents_with_a_byte_changed(both: Both, body: bytes, at: int, what: bytes, cut: int) -> None:
    at %= len(body) + 1
    both("float:predict", body[:at] + what + body[at + cut :])
