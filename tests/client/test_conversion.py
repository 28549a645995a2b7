"""Arrays with numpy's default dtypes, sent to models that declare other dtypes, by both clients to a real server."""

import numpy as np
import pytest

from headrace_client import Client, ServerError
from tests.conftest import Run
from tests.support import models
from tests.support.running import RunningServer

from .conftest import Connect

X = np.arange(8.0).reshape(2, 4)


@pytest.fixture(scope="module")
def server(running: Run) -> RunningServer:
    return running(models.linear)


@pytest.fixture
def client(connect: Connect, server: RunningServer) -> Client:
    return connect(f"localhost:{server.port}")


def expected(client: Client) -> np.ndarray:
    return client.predict("model", {"x": X.astype(np.float32)})["y"]


def test_float64_becomes_float32(client: Client) -> None:
    np.testing.assert_array_equal(client.predict("model", {"x": X})["y"], expected(client))
    np.testing.assert_array_equal(client.predict("model", {"x": X})["y"], expected(client))  # now from cached metadata


def test_arrays_are_not_converted_if_convert_is_off(connect: Connect, server: RunningServer) -> None:
    client = connect(f"localhost:{server.port}", convert=False)
    with pytest.raises(ServerError) as refused:
        client.predict("model", {"x": X})

    assert refused.value.message == "Expects arg[0] to be float but double is provided"
    assert refused.value.hint == "x: the model takes float32[?,4], and float64[2,4] was sent"


def test_integers_are_not_rounded(client: Client) -> None:
    with pytest.raises(ServerError) as refused:
        client.predict("model", {"x": X.astype(np.int64)})

    assert refused.value.hint == "x: the model takes float32[?,4], and int64[2,4] was sent"


def test_a_list_is_described_as_it_was_sent(client: Client) -> None:
    with pytest.raises(ServerError) as refused:
        client.predict("model", {"x": [[1, 2, 3, 4]]})

    assert refused.value.message == "Expects arg[0] to be float but int32 is provided"
    assert refused.value.hint == "x: the model takes float32[?,4], and int32[1,4] was sent"


def test_a_wrong_shape_is_named(client: Client) -> None:
    with pytest.raises(ServerError, match=r"\(x: the model takes float32\[\?,4\], and float32\[2,3\] was sent\)$"):
        client.predict("model", {"x": np.zeros((2, 3), np.float32)})


def test_a_wrong_name_is_named(client: Client) -> None:
    with pytest.raises(
        ServerError, match=r"x: the model takes float32\[\?,4\], and nothing was sent; z: the model has"
    ):
        client.predict("model", {"z": X})


def test_an_array_alone_is_refused_in_words(client: Client) -> None:
    with pytest.raises(ValueError, match="inputs must be a mapping from the names of inputs to arrays, not ndarray"):
        client.predict("model", X)  # type: ignore[arg-type]


def test_other_failures_keep_their_text(client: Client) -> None:
    with pytest.raises(ServerError, match=r"^NOT_FOUND: Servable not found for request: Latest\(other\)$"):
        client.predict("other", {"x": X})


def test_predict_many_converts_too(client: Client) -> None:
    answers = client.predict_many("model", [{"x": X}, {"x": X.astype(np.float32)}, {"x": X}])

    for answer in answers:
        np.testing.assert_array_equal(answer["y"], expected(client))


def test_predict_many_names_the_error_of_one_request(client: Client) -> None:
    inputs = [{"x": X.astype(np.float32)}, {"x": np.zeros((2, 3), np.float32)}]
    right, wrong = client.predict_many("model", inputs, return_exceptions=True)

    assert right.keys() == {"y"}
    assert wrong.hint == "x: the model takes float32[?,4], and float32[2,3] was sent"
