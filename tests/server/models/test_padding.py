"""Which models' requests are padded: decided at load, by running the model."""

import logging
from dataclasses import replace

import numpy as np
import pytest

from headrace_batching import Options
from headrace_server.errors import ServingError
from tests.support.graphs import Graph
from tests.support.shop import Shop
from tests.support.texts import NOT_PADDED, PADDED, attention, masked_mean, reduced, two_lengths

DEFAULT = "serving_default"


@pytest.mark.parametrize("name", PADDED)
def test_models_that_can_be_padded_are(shop: Shop, name: str) -> None:
    verdict = shop.load(PADDED[name]).verdicts[DEFAULT]

    assert verdict.batched
    assert (verdict.padding is not None, verdict.unpadded) == (True, "")


@pytest.mark.parametrize("name", NOT_PADDED)
def test_models_that_cannot_be_padded_are_not(shop: Shop, name: str) -> None:
    verdict = shop.load(NOT_PADDED[name]).verdicts[DEFAULT]

    assert verdict.batched
    assert verdict.padding is None
    assert "output 'y' " in verdict.unpadded


def test_a_busy_machine_does_not_change_what_is_padded(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("headrace_server.backends.independence.padding.QUICK", float("inf"))
    assert all(shop.load(graph).verdicts[DEFAULT].padding is None for graph in NOT_PADDED.values())
    assert all(shop.load(graph).verdicts[DEFAULT].padding is not None for graph in PADDED.values())


@pytest.mark.parametrize(
    ("graph", "values", "told_apart"),
    [
        (attention(), {"x": 0, "mask": 0}, {"mask"}),
        (attention(inverted=True), {"x": 0, "mask": 1}, {"mask"}),
        (masked_mean(), {"x": 0, "mask": 0}, set()),
        (reduced("ReduceMax"), {"x": -np.inf}, set()),
        (reduced("ReduceMin"), {"x": np.inf}, set()),
        (two_lengths(), {"x": 0, "z": 0, "mask": 0}, {"mask"}),
    ],
)
def test_the_pad_values_are_found(shop: Shop, graph: Graph, values: dict[str, float], told_apart: set[str]) -> None:
    padding = shop.load(graph).signatures[DEFAULT].padding

    assert padding is not None
    assert {alias: value.item() for alias, value in padding.values.items()} == values
    assert padding.told_apart == told_apart


def test_outputs_are_cut_along_the_right_axes(shop: Shop) -> None:
    padding = shop.load(two_lengths()).signatures[DEFAULT].padding

    assert padding is not None
    assert (padding.inputs, padding.outputs) == ({"x": (0, None), "z": (1, None), "mask": (1,)}, {"y": (0, None)})


def test_a_length_that_another_dimension_is_computed_from_is_not_padded(shop: Shop) -> None:
    cached = replace(PADDED["a sum"], inputs={"x": (1, ["N", "past + T", 4]), "z": (1, ["N", "T"])})

    assert shop.load(cached).signatures[DEFAULT].padding is None


class TestSettings:
    """Settings in `model.toml`."""

    def test_nothing_is_padded(self, shop: Shop) -> None:
        assert shop.load(attention(), "[batching]\npad_lengths = false").signatures[DEFAULT].padding is None

    def test_a_configured_value_is_used_even_if_answers_change(self, shop: Shop) -> None:
        padding = shop.load(reduced("ReduceMean"), "[batching]\npad_values = { x = 0.5 }").signatures[DEFAULT].padding

        assert padding is not None
        assert padding.values["x"] == np.float32(0.5)

    def test_the_step_between_lengths_can_be_set(self, shop: Shop) -> None:
        padding = shop.load(attention(), "[batching]\nlength_step = 100").signatures[DEFAULT].padding

        assert padding is not None
        assert padding.limits[:2] == (100, 200)

    def test_a_value_for_no_input_is_refused_with_its_name(self, shop: Shop) -> None:
        with pytest.raises(
            ServingError, match=r"model.toml: batching.pad_values.maks: the model has no such input; it has"
        ):
            shop.load(attention(), "[batching]\npad_values = { maks = 0 }")


class TestAsTensorFlowServingPads:
    """`pad_variable_length_inputs` in a file of batching parameters."""

    ASKED = Options(pad_variable_length_inputs=True)

    def test_headrace_serve_uses_only_exact_paddings(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.WARNING)
        servable = shop.load(reduced("ReduceMean"), batching=self.ASKED)

        assert servable.batching is not None
        assert not servable.batching.pad_variable_length_inputs
        assert "pad_variable_length_inputs pads only if answers stay the same" in caplog.text

    def test_tensorflow_model_server_pads_with_the_first_element(self, shop: Shop) -> None:
        servable = shop.load(reduced("ReduceMean"), batching=self.ASKED, unproved=True)

        assert servable.batching is not None
        assert servable.batching.pad_variable_length_inputs
