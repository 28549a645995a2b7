"""The hints that `headrace serve` prints: which model they call, and which inputs are too long to type."""

from types import SimpleNamespace

from headrace_protos import DataType
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.commands.hints import default_signatures, hints


def takes(*shape: int | None, dtype: DataType = DataType.DT_FLOAT) -> Signature:
    """A signature with one input, x."""
    spec = TensorSpec("x", dtype, shape)
    return Signature(inputs={"x": spec}, outputs={"y": spec})


def test_the_model_with_the_shortest_inputs_is_called() -> None:
    serving = {
        "classifier": takes(None, 9),
        "tokenizer": takes(None, dtype=DataType.DT_STRING),
        "tree": takes(None, 4),
    }
    assert list(hints(serving, port=8500, rest_port=8501)) == [
        """try: headrace call tokenizer 'x=["text"]'""",
        """try: curl -d '{"inputs": {"x": ["text"]}}' http://localhost:8501/v1/models/tokenizer:predict""",
    ]


def test_the_first_of_equals_is_called_at_its_port() -> None:
    serving = {"b": takes(None, 1), "a": takes(None, 1)}
    assert list(hints(serving, port=1, rest_port=0)) == ["try: headrace call b 'x=[[0.0]]' --server=localhost:1"]


def test_a_server_that_asks_for_a_key() -> None:
    assert list(hints({"tree": takes(None, 1)}, port=8500, rest_port=8501, token=True)) == [
        "try: HEADRACE_TOKEN=... headrace call tree 'x=[[0.0]]'",
        """try: curl -H 'Authorization: Bearer ...' -d '{"inputs": {"x": [[0.0]]}}' """
        "http://localhost:8501/v1/models/tree:predict",
    ]


def test_a_server_with_tls() -> None:
    serving = {"tree": takes(None, 64)}
    assert list(hints(serving, port=1, rest_port=2, security="tls", rest_security="mutual")) == [
        "try: headrace call tree --server=localhost:1 --tls_ca=...",
        "try: curl --cacert ... --cert ... --key ... https://localhost:2/v1/models/tree/metadata",
    ]
    assert list(hints(serving, port=1, rest_port=2, security="mutual", rest_security="tls", token=True)) == [
        "try: HEADRACE_TOKEN=... headrace call tree --server=localhost:1 --tls_ca=... --tls_cert=... --tls_key=...",
        "try: curl --cacert ... -H 'Authorization: Bearer ...' https://localhost:2/v1/models/tree/metadata",
    ]


OF_ANY_RANK = Signature(inputs={"x": TensorSpec("x", DataType.DT_FLOAT, (), any_rank=True)}, outputs={})


def test_inputs_that_are_too_long_to_type_are_shown_instead() -> None:
    serving = {"wide": takes(None, 64), "image": takes(None, 224, 224, 3), "any": OF_ANY_RANK}
    assert list(hints(serving, port=8500, rest_port=8501)) == [
        "try: headrace call wide",
        "try: curl http://localhost:8501/v1/models/wide/metadata",
    ]


def test_a_model_whose_inputs_can_be_typed_comes_before_others() -> None:
    serving = {"any": OF_ANY_RANK, "wide": takes(None, 64), "tree": takes(None, 16)}
    assert [hint.split()[3] for hint in hints(serving, port=8500, rest_port=0)] == ["tree"]


def test_nothing_is_said_without_models() -> None:
    assert not list(hints({}, port=8500, rest_port=8501))


def test_a_model_that_only_streams_is_not_called() -> None:
    every = {
        name: {1: SimpleNamespace(signatures={"serving_default": takes(None, 1)}, answers_once=name == "tree")}
        for name in ("words", "tree")
    }
    assert list(default_signatures(every)) == ["tree"]
