"""The hints that `headrace serve` prints: which model they call, and which inputs are too large to type."""

from headrace_protos import DataType
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.commands.hints import hints


def takes(*shape: int | None, dtype: DataType = DataType.DT_FLOAT) -> Signature:
    """A signature with one input, x."""
    spec = TensorSpec("x", dtype, shape)
    return Signature(inputs={"x": spec}, outputs={"y": spec})


def test_the_model_with_the_shortest_inputs_is_called() -> None:
    serving = {
        "classifier": takes(None, 36),
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


def test_models_with_large_inputs_or_of_any_rank_are_left_out() -> None:
    of_any_rank = Signature(inputs={"x": TensorSpec("x", DataType.DT_FLOAT, (), any_rank=True)}, outputs={})
    serving = {"image": takes(None, 224, 224, 3), "any": of_any_rank}
    assert not list(hints(serving, port=8500, rest_port=8501))
