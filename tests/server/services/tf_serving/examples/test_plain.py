"""The checks for Classify and Regress give the same result with and without the error's text."""

from itertools import product

import pytest

from headrace_protos import DataType
from headrace_server.backends.signature import Signature, TensorSpec
from headrace_server.errors import ServingError
from headrace_server.services.tf_serving.examples import classification, regression

TEXT = TensorSpec("text", DataType.DT_STRING, (None,))
INPUTS: tuple[dict[str, TensorSpec], ...] = ({"inputs": TEXT}, {"x": TEXT}, {"inputs": TEXT, "x": TEXT}, {})
OUTPUTS: tuple[dict[str, TensorSpec], ...] = (
    {"outputs": TensorSpec("o", DataType.DT_FLOAT, (None, 1))},
    {"y": TensorSpec("y", DataType.DT_FLOAT, (None,))},
    {
        "scores": TensorSpec("s", DataType.DT_FLOAT, (None, 3)),
        "classes": TensorSpec("c", DataType.DT_STRING, (None, 3)),
    },
    {"scores": TensorSpec("s", DataType.DT_FLOAT, (None, 3))},
    {name: TensorSpec(name, DataType.DT_FLOAT, (None, 2)) for name in "abc"},
    {},
)
SIGNATURES = [
    Signature(inputs, outputs, features=features)
    for inputs, outputs, features in product(INPUTS, OUTPUTS, (False, True))
]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_output_of_regress_is_none_where_the_call_is_refused(signature: Signature) -> None:
    try:
        (expected,) = regression.wanted_outputs(signature, check_method=False)
    except ServingError:
        assert regression.output_of(signature) is None
    else:
        assert regression.output_of(signature) == expected


@pytest.mark.parametrize("signature", SIGNATURES)
def test_the_outputs_of_classify_are_none_where_the_call_is_refused(signature: Signature) -> None:
    try:
        expected = classification.wanted(signature, check_method=False)
    except ServingError:
        assert classification.outputs_of(signature) is None
    else:
        assert classification.outputs_of(signature) == expected
