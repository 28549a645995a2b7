"""Checks of a request's names, tensors and outputs against a signature: each error has the text that clients know."""

from collections.abc import Callable
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from headrace_batching.task import Array
from headrace_protos import Code, DataType
from headrace_protos.tensor import dtype_of
from headrace_server.backends.signature import PREDICT_METHOD, Signature, TensorSpec, find_signature
from headrace_server.errors import ServingError

FLOATS = TensorSpec("features:0", DataType.DT_FLOAT, (None, 4), ("N", ""))
FLAGS = TensorSpec("flags:0", DataType.DT_BOOL, (None,), ("N",))
WORDS = TensorSpec("words:0", DataType.DT_STRING, (None, None), ("N", "W"))
SCORES = TensorSpec("scores:0", DataType.DT_FLOAT, (None, 2), ("N", ""))
LABELS = TensorSpec("labels:0", DataType.DT_INT64, (None,), ("N",))

TWO = Signature({"features": FLOATS, "flags": FLAGS}, {"scores": SCORES, "labels": LABELS}, batched=True)
WIDTHS = Signature({"features": FLOATS, "words": WORDS}, {"scores": SCORES}, batched=True)


def refusal(call: Callable[[], object]) -> tuple[Code, str]:
    with pytest.raises(ServingError) as raised:
        call()
    return raised.value.code, raised.value.message


def floats(*shape: int) -> Array:
    return np.zeros(shape, np.float32)


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (FLOATS, "float32[?,4]"),
        (WORDS, "string[?,?]"),
        (TensorSpec("init", DataType.DT_INVALID, ()), "invalid[]"),  # every SavedModel has one
        (TensorSpec("table:0", DataType.DT_RESOURCE, ()), "resource[]"),
        (TensorSpec("lists:0", DataType.DT_VARIANT, (None,)), "variant[?]"),
        (TensorSpec("new:0", cast("DataType", 999), (2,)), "unknown dtype enum (999)[2]"),
    ],
)
def test_the_text_of_any_dtype(spec: TensorSpec, text: str) -> None:
    assert str(spec) == text


class TestFind:
    def test_an_empty_name_is_serving_default(self) -> None:
        assert find_signature({"serving_default": TWO, "other": WIDTHS}, "") == ("serving_default", TWO)

    def test_a_name_is_that_signature(self) -> None:
        assert find_signature({"serving_default": TWO, "other": WIDTHS}, "other") == ("other", WIDTHS)

    @pytest.mark.parametrize(("asked", "missed"), [("", "serving_default"), ("no such", "no such")])
    def test_a_missing_signature(self, asked: str, missed: str) -> None:
        assert refusal(lambda: find_signature({"other": TWO}, asked)) == (
            Code.FAILED_PRECONDITION,
            f'Serving signature key "{missed}" not found.',
        )

    def test_its_method_is_predict(self) -> None:
        assert TWO.method_name == PREDICT_METHOD == "tensorflow/serving/predict"


class TestNames:
    @pytest.mark.parametrize("aliases", [["features", "flags"], ["flags", "features"]])
    def test_all_inputs_in_any_order(self, aliases: list[str]) -> None:
        TWO.check_names(aliases)

    @pytest.mark.parametrize(
        ("aliases", "text"),
        [
            (
                ["flags"],
                "input size does not match signature: 1!=2 len({flags}) != len({features,flags}). "
                "Sent extra: {}. Missing but required: {features}.",
            ),
            (
                [],
                "input size does not match signature: 0!=2 len({}) != len({features,flags}). "
                "Sent extra: {}. Missing but required: {features,flags}.",
            ),
            (
                ["zeta", "flags", "alpha", "features"],
                "input size does not match signature: 4!=2 len({alpha,features,flags,zeta}) != len({features,flags}). "
                "Sent extra: {alpha,zeta}. Missing but required: {}.",
            ),
            (
                ["x", "y", "flags"],
                "input size does not match signature: 3!=2 len({flags,x,y}) != len({features,flags}). "
                "Sent extra: {x,y}. Missing but required: {features}.",
            ),
        ],
    )
    def test_more_or_fewer_inputs(self, aliases: list[str], text: str) -> None:
        assert refusal(lambda: TWO.check_names(aliases)) == (Code.INVALID_ARGUMENT, text)

    @pytest.mark.parametrize(
        ("aliases", "missing"), [(["flags", "feature"], "features(feed name: features:0)"), (["x", "y"], "features(")]
    )
    def test_a_wrong_name_among_the_right_number_of_inputs(self, aliases: list[str], missing: str) -> None:
        code, text = refusal(lambda: TWO.check_names(aliases))

        assert code == Code.INVALID_ARGUMENT
        assert text.startswith(f"Signature input alias: {missing}")
        assert text.endswith(
            ") not found in request and no default value provided. Inputs expected to be in the request "
            f"{{{','.join(sorted(aliases))}}}, or default input alias set: "
        )


class TestOutputs:
    def test_no_filter_is_every_output(self) -> None:
        assert TWO.check_outputs([]) == ("scores", "labels")

    def test_a_filter_is_what_it_names(self) -> None:
        assert TWO.check_outputs(["labels"]) == ("labels",)

    def test_the_order_of_a_filter_does_not_matter(self) -> None:
        assert TWO.check_outputs(["labels", "scores"]) == TWO.check_outputs([])

    @pytest.mark.parametrize("asked", [["score"], ["labels", "score"], ["score", "score"]])
    def test_an_unknown_output(self, asked: list[str]) -> None:
        assert refusal(lambda: TWO.check_outputs(asked)) == (
            Code.INVALID_ARGUMENT,
            "output tensor alias not found in signature: score Outputs expected to be in the set {labels,scores}.",
        )

    @pytest.mark.parametrize("asked", [["labels", "labels"], ["labels", "scores", "labels", "unknown"]])
    def test_an_output_named_twice(self, asked: list[str]) -> None:
        assert refusal(lambda: TWO.check_outputs(asked)) == (
            Code.INVALID_ARGUMENT,
            "duplicate output tensor alias: labels",
        )


class TestArrays:
    @pytest.mark.parametrize("rows", [0, 1, 3])
    def test_inputs_that_fit(self, rows: int) -> None:
        assert TWO.check_arrays({"flags": np.zeros(rows, bool), "features": floats(rows, 4)}) == ""

    @pytest.mark.parametrize(
        ("array", "provided"),
        [
            (np.zeros((1, 4), np.float64), "double"),
            (np.zeros((1, 4), np.float16), "half"),
            (np.zeros((1, 4), np.int32), "int32"),
            (np.zeros((1, 4), np.uint8), "uint8"),
            (np.zeros((1, 4), bool), "bool"),
            (np.zeros((1, 4), np.complex64), "complex64"),
            (np.zeros((1, 4), dtype_of(DataType.DT_BFLOAT16)), "bfloat16"),
            (np.full((1, 4), b"", object), "string"),
            (np.zeros((9, 9, 9), np.int64), "int64"),
        ],
    )
    def test_another_dtype(self, array: Array, provided: str) -> None:
        arrays = {"features": array, "flags": np.zeros(1, bool)}

        assert refusal(lambda: TWO.check_arrays(arrays)) == (
            Code.INVALID_ARGUMENT,
            f"Expects arg[0] to be float but {provided} is provided",
        )

    def test_the_position_is_that_of_the_input(self) -> None:
        arrays = {"flags": floats(1), "features": floats(1, 4)}

        assert refusal(lambda: TWO.check_arrays(arrays))[1] == "Expects arg[1] to be bool but float is provided"

    @pytest.mark.parametrize("shape", [(), (4,), (1, 4, 1)])
    def test_another_rank(self, shape: tuple[int, ...]) -> None:
        text = f"Invalid rank for input: features:0 Got: {len(shape)} Expected: 2"
        assert FLOATS.misfit(floats(*shape)) == text

    def test_another_width(self) -> None:
        text = "Got invalid dimensions for input: features:0 for the following indices index: 1 Got: 5 Expected: 4"
        assert FLOATS.misfit(floats(3, 5)) == text

    def test_every_wrong_dimension_is_named(self) -> None:
        spec = TensorSpec("image", DataType.DT_FLOAT, (2, None, 8))
        assert spec.misfit(floats(3, 5, 7)).endswith("index: 0 Got: 3 Expected: 2; index: 2 Got: 7 Expected: 8")

    def test_a_dimension_that_varies_takes_any_size(self) -> None:
        assert [WORDS.misfit(np.full((2, width), b"", object)) for width in (0, 1, 9)] == ["", "", ""]

    def test_without_a_declared_rank_every_shape_fits(self) -> None:
        spec = TensorSpec("x", DataType.DT_FLOAT, (), any_rank=True)
        assert [spec.misfit(np.zeros((), np.float32)), spec.misfit(floats(2, 3))] == ["", ""]

    def test_a_scalar_is_a_shape(self) -> None:
        spec = TensorSpec("x", DataType.DT_FLOAT, ())
        assert spec.misfit(np.zeros((), np.float32)) == ""
        assert spec.misfit(floats(2, 3)) == "Invalid rank for input: x Got: 2 Expected: 0"

    def test_a_dimension_of_0_fits_where_it_is_declared_or_counts_rows(self) -> None:
        x = TensorSpec("x", DataType.DT_FLOAT, (None, 0, None))
        batched = Signature({"x": x}, {}, batched=True)
        assert batched.check_arrays({"x": floats(0, 0, 1)}) == ""
        where = "Got invalid dimensions for input: x for the following indices index:"
        assert batched.check_arrays({"x": floats(2, 0, 0)}) == f"{where} 2 Got: 0 Expected: at least 1"
        alone = Signature({"x": x}, {})
        assert alone.check_arrays({"x": floats(0, 0, 1)}) == f"{where} 0 Got: 0 Expected: at least 1"
        assert Signature({"x": x}, {}, empty=True).check_arrays({"x": floats(0, 0, 0)}) == ""
        continued = Signature({"x": replace(x, appended=2)}, {}, batched=True)
        assert continued.check_arrays({"x": floats(2, 0, 0)}) == ""

    def test_the_first_shape_that_does_not_fit_is_returned_without_an_error(self) -> None:
        misfit = TWO.check_arrays({"flags": np.zeros((1, 1), bool), "features": floats(4)})
        assert misfit == "Invalid rank for input: features:0 Got: 1 Expected: 2"

    def test_a_wrong_dtype_counts_more_than_a_shape_before_it(self) -> None:
        arrays = {"flags": floats(1), "features": floats(4)}
        assert refusal(lambda: TWO.check_arrays(arrays))[1] == "Expects arg[1] to be bool but float is provided"


class TestDefaults:
    """TF Serving's predict_util.cc and TensorFlow's GetInputValues supply inputs that a request leaves out."""

    WITH_DEFAULT = replace(TWO, defaults={"flags": np.zeros(2, bool)})

    def test_an_input_with_a_default_may_be_missing(self) -> None:
        self.WITH_DEFAULT.check_names(["features"])
        sent = {"features": floats(2, 4)}
        assert self.WITH_DEFAULT.complete(sent) == {**self.WITH_DEFAULT.defaults, **sent}

    def test_a_sent_input_overrides_the_default(self) -> None:
        sent = {"features": floats(1, 4), "flags": np.ones(1, bool)}
        assert self.WITH_DEFAULT.complete(sent) == sent

    def test_an_input_without_one_may_not(self) -> None:
        text = (
            "Signature input alias: features(feed name: features:0) not found in request and no default value "
            "provided. Inputs expected to be in the request {flags}, or default input alias set: flags"
        )
        assert refusal(lambda: self.WITH_DEFAULT.check_names(["flags"])) == (Code.INVALID_ARGUMENT, text)

    def test_an_extra_input_is_refused_by_number(self) -> None:
        text = refusal(lambda: self.WITH_DEFAULT.check_names(["features", "flags", "more"]))[1]
        assert text.startswith("input size does not match signature: 3!=2 ")

    def test_a_wrong_name_in_place_of_one_with_a_default(self) -> None:
        sent = {"features": floats(1, 4), "flag": np.ones(1, bool)}
        self.WITH_DEFAULT.check_names(sent)
        text = "Inputs contains invalid name. Used request inputs: features, request input: features,flag"
        assert refusal(lambda: self.WITH_DEFAULT.complete(sent)) == (Code.INVALID_ARGUMENT, text)


class TestShapeKey:
    def test_if_all_sizes_are_known_everything_shares_a_batch(self) -> None:
        assert TWO.one_shape
        assert TWO.shape_key({}, pad=False) == TWO.shape_key({}, pad=True)

    def test_widths_that_differ_do_not_share_a_batch(self) -> None:
        assert not WIDTHS.one_shape
        keys = [key_of(rows, width, pad=False) for rows, width in ((1, 2), (5, 2), (1, 3))]

        assert keys[0] == keys[1]
        assert keys[0] != keys[2]

    def test_padded_widths_share_a_batch_unless_one_is_empty(self) -> None:
        keys = [key_of(rows, width, pad=True) for rows, width in ((1, 2), (1, 3), (1, 0), (0, 2))]

        assert keys[0] == keys[1]
        assert keys[2] not in keys[:2]


def key_of(rows: int, width: int, *, pad: bool) -> object:
    arrays = {"features": floats(rows, 4), "words": np.full((rows, width), b"", object)}
    return WIDTHS.shape_key(arrays, pad=pad)
