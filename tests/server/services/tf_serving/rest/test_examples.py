"""Bodies of :classify and :regress, converted to tf.Examples."""

import pytest

from headrace_protos import Code, Input
from headrace_server.errors import ServingError
from headrace_server.services.json.reader import parse
from headrace_server.services.tf_serving.rest.examples import read_example_body, read_input


def refusal(body: str) -> str:
    with pytest.raises(ServingError) as refused:
        read_input(parse(body.encode()))
    assert refused.value.code == Code.INVALID_ARGUMENT
    return refused.value.message


def test_kinds_follow_the_literals() -> None:
    body = rb"""{"examples": [
        {"f": [1.0, 2e3, NaN], "i": [2, -3], "b": [true, false], "s": ["\u00e9", {"b64": "/w=="}], "n": []}
    ]}"""
    (example,) = read_input(parse(body)).example_list.examples
    features = example.features.feature
    assert features["f"].float_list.value[:2] == [1, 2000]
    assert features["i"].int64_list.value == [2, -3]
    assert features["b"].int64_list.value == [1, 0]
    assert features["s"].bytes_list.value == ["é".encode(), b"\xff"]
    assert features["n"].WhichOneof("kind") is None


def test_a_value_is_a_list_of_one() -> None:
    (example,) = read_input(parse(b'{"examples": [{"x": 2.0}]}')).example_list.examples
    assert example.features.feature["x"].float_list.value == [2]


def test_context() -> None:
    message = read_input(parse(b'{"context": {"c": 1}, "examples": [{}, {"x": "y"}]}'))
    assert message.WhichOneof("kind") == "example_list_with_context"
    shared = message.example_list_with_context
    assert shared.context.features.feature["c"].int64_list.value == [1]
    assert len(shared.examples) == 2


def test_serialized_with_the_signature() -> None:
    name, serialized = read_example_body(parse(b'{"signature_name": "s", "examples": [{"x": 1}]}'))
    assert name == "s"
    assert len(Input.FromString(serialized).example_list.examples) == 1


REFUSED = {
    "{}": "JSON Value: {} When method is classify, key 'examples' is expected and was not found",
    '{"examples": 1}': "JSON Value: {\n    \"examples\": 1\n} Expecting 'examples' value to be an list/array",
    '{"examples": []}': "JSON Value: {\n    \"examples\": []\n} 'examples' value is an empty array",
    '{"examples": [{}, [1]]}': "Example must be JSON object but got JSON Array",
    '{"context": "c", "examples": [{}]}': "Example must be JSON object but got JSON String",
    '{"examples": [{"x": [1.0, 2]}]}': "Unexpected element type in feature: x expecting type: float",
    '{"examples": [{"x": [1, "a"]}]}': "Unexpected element type in feature: x expecting type: int64",
    '{"examples": [{"x": ["a", true]}]}': "Unexpected element type in feature: x expecting type: bytes",
    '{"examples": [{"x": null}]}': "Feature: x has element with unexpected JSON type: Null",
    '{"examples": [{"x": [[1]]}]}': "Feature: x has element with unexpected JSON type: Array",
    '{"examples": [{"x": {"y": 1}}]}': "Feature: x has element with unexpected JSON type: Object",
    '{"examples": [{"x": {"b64": "!"}}]}': "Unable to base64 decode",
    '{"examples": [{"x": 9223372036854775808}]}': "Feature: x has uint64_t element. Only int64_t is supported.",
    '{"context": 5}': "Example must be JSON object but got JSON Number",
}


@pytest.mark.parametrize("body", REFUSED)
def test_refused(body: str) -> None:
    assert refusal(body) == REFUSED[body]
