"""How arrays are encoded in requests and decoded from responses."""

from typing import Any

import ml_dtypes
import numpy as np
import pytest

from headrace_client import Client
from headrace_protos.tensor import to_array

from .service import Service

NUMBERS = [np.dtype(code) for code in "?bhiqBHIQefdFD"] + [
    np.dtype(ml_dtypes.bfloat16),
    np.dtype(ml_dtypes.float8_e4m3fn),
]


def echo(client: Client, value: Any) -> np.ndarray:
    return client.predict("half_plus_two", {"x": value}, signature="echo")["x"]


def test_an_answer_has_every_output_by_name(client: Client) -> None:
    answer = client.predict("half_plus_two", {"x": np.array([[1.0, 2.0], [3.0, 5.0]], np.float32)})

    assert answer.keys() == {"y", "rows"}
    assert answer["y"].dtype == np.float32
    np.testing.assert_array_equal(answer["y"], [[2.5, 3.0], [3.5, 4.5]])
    np.testing.assert_array_equal(answer["rows"], [2])


def test_an_answer_has_only_the_requested_outputs(client: Client) -> None:
    assert client.predict("half_plus_two", {"x": [1.0]}, outputs=["rows"]).keys() == {"rows"}


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
def test_numbers_of_every_dtype_come_back_as_they_went(client: Client, dtype: np.dtype) -> None:
    sent = np.arange(6).reshape(2, 3).astype(dtype)
    received = echo(client, sent)

    assert received.dtype == dtype
    np.testing.assert_array_equal(received, sent)


@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (1, 1, 1)], ids=str)
def test_shapes_come_back_as_they_went(client: Client, shape: tuple[int, ...]) -> None:
    assert echo(client, np.ones(shape, np.int16)).shape == shape


def test_a_view_that_skips_items_sends_only_its_own(client: Client) -> None:
    np.testing.assert_array_equal(echo(client, np.arange(10)[::3]), [0, 3, 6, 9])


@pytest.mark.parametrize(
    ("sent", "received"),
    [
        (["a", "été"], [b"a", "été".encode()]),
        ([b"\xff\0", b"", b"\0"], [b"\xff\0", b"", b"\0"]),
        ("alone", b"alone"),
        ([["a", "b"], ["c", "d"]], [[b"a", b"b"], [b"c", b"d"]]),
        (np.array([b"x\0", b"y"], dtype=object), [b"x\0", b"y"]),
        (np.array(["été", "x"]), ["été".encode(), b"x"]),
    ],
    ids=["text", "zero bytes", "scalar", "two axes", "objects", "numpy text"],
)
def test_strings_come_back_as_bytes(client: Client, sent: Any, received: Any) -> None:
    assert echo(client, sent).tolist() == received


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (1.5, "float32"),
        ([[1, 2.5]], "float32"),
        ([], "float32"),
        (7, "int32"),
        ([1, -(2**31)], "int32"),
        ([1, 2**31], "int64"),
        ([True], "bool"),
        (np.array([1.5]), "float64"),
        (np.float64(1.5), "float64"),
        (np.array([7]), "int64"),
    ],
    ids=str,
)
def test_plain_numbers_take_the_dtypes_of_tensorflow_and_arrays_keep_theirs(
    client: Client, value: Any, dtype: str
) -> None:
    received = echo(client, value)

    assert received.dtype == dtype
    np.testing.assert_array_equal(received, value)


def test_the_request_names_the_requested_outputs(client: Client, service: Service) -> None:
    client.predict("half_plus_two", {"x": [1.0]}, version=0, signature="echo", outputs=("x",))
    client.predict("half_plus_two", {"x": [1.0]}, label="stable")
    client.predict("half_plus_two", {"x": [1.0]})
    exact, labelled, newest = service.requests

    assert exact.model_spec.name == "half_plus_two"
    assert exact.model_spec.WhichOneof("version_choice") == "version"
    assert exact.model_spec.version.value == 0
    assert exact.model_spec.signature_name == "echo"
    assert list(exact.output_filter) == ["x"]
    assert labelled.model_spec.version_label == "stable"
    assert newest.model_spec.WhichOneof("version_choice") is None
    assert newest.model_spec.signature_name == ""
    assert not newest.output_filter


def test_inputs_travel_as_their_own_bytes(client: Client, service: Service) -> None:
    client.predict("half_plus_two", {"x": np.array([1.0, 2.0], np.float32)})
    tensor = service.requests[0].inputs["x"]

    assert tensor.tensor_content == np.array([1.0, 2.0], "<f4").tobytes()
    assert not tensor.float_val
    np.testing.assert_array_equal(to_array(tensor), [1.0, 2.0])


def test_messages_may_be_larger_than_the_default_of_grpc(client: Client) -> None:
    sent = np.random.default_rng(0).random((2, 1024, 1024), np.float32)

    assert sent.nbytes == 8 * 2**20
    np.testing.assert_array_equal(echo(client, sent), sent)


def test_a_model_may_have_no_inputs(client: Client, service: Service) -> None:
    client.predict("half_plus_two", {})

    assert [dict(request.inputs) for request in service.requests] == [{}]


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"model": ""}, "model must be a name"),
        ({"inputs": {"x": [slice(None)]}}, r"inputs\['x'\]: "),
        ({"inputs": {"x": [[1], [1, 2]]}}, r"inputs\['x'\]: "),
        ({"inputs": {"x": np.array(["2026-01-01"], "datetime64[D]")}}, r"inputs\['x'\]: "),
        ({"version": 3, "label": "stable"}, r"version \(3\) and label \('stable'\)"),
        ({"outputs": "y"}, "outputs must be a collection of names, not the one name 'y'"),
    ],
    ids=str,
)
def test_a_wrong_argument_is_named_and_never_sent(
    client: Client, service: Service, arguments: dict[str, Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        client.predict(**{"model": "half_plus_two", "inputs": {"x": [1.0]}, **arguments})

    assert service.requests == []
