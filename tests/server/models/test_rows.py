"""Which models' requests are batched: decided at load, by running the model, for real models of every kind."""

import logging
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from onnx.helper import make_node

from headrace_batching import Options
from headrace_server.backends.independence import Finding, Verdict
from headrace_server.backends.onnx.backend import OnnxBackend
from tests.support.calls import predict_request
from tests.support.graphs import FLOAT, INDEPENDENT, INT64, MIXING, Graph, quantized, rowwise
from tests.support.records import predict_log, write_warmup
from tests.support.shop import Shop

DEFAULT = "serving_default"
ANY = Options()

MIXED = [
    pytest.param(graph, id=f"{kind}: {name}") for kind, members in MIXING.items() for name, graph in members.items()
]


@pytest.mark.parametrize("graph", MIXED)
def test_rows_that_mix_run_one_by_one(shop: Shop, graph: Graph) -> None:
    verdict = shop.verdict(graph)

    assert verdict.finding in (Finding.DEPENDENT, Finding.UNDECIDED)
    assert verdict.reason


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_are_batched(shop: Shop, name: str) -> None:
    assert shop.verdict(INDEPENDENT[name]).finding is Finding.INDEPENDENT


@pytest.fixture
def unproved(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignores the proofs from graphs, so that every model goes through the trial."""
    monkeypatch.setattr(OnnxBackend, "rows_are_apart", lambda *_: False)


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("name", INDEPENDENT)
def test_a_trial_finds_the_same(shop: Shop, name: str) -> None:
    verdict = shop.verdict(INDEPENDENT[name])

    expected = Verdict(Finding.INDEPENDENT, runs=any_number(), seconds=any_number())
    assert replace(verdict, padding=None, unpadded="") == expected


def any_number() -> Any:
    class AnyNumber:
        def __eq__(self, other: object) -> bool:
            return isinstance(other, int | float) and other > 0

        __hash__ = None  # type: ignore[assignment]

    return AnyNumber()


@pytest.mark.usefixtures("unproved")
@pytest.mark.parametrize("name", ["categories in inputs of their own", "categories in columns", "numbers of months"])
def test_a_model_that_refuses_unknown_categories_is_independent_whatever_is_drawn(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    for seed in range(20):
        monkeypatch.setattr("headrace_server.backends.independence.trial._SEED", seed)
        assert shop.verdict(INDEPENDENT[name]).finding is Finding.INDEPENDENT, seed


@pytest.mark.usefixtures("unproved")
def test_a_busy_machine_changes_no_verdict(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Making every run look slow shortens the trial, which still finds all of these."""
    monkeypatch.setattr("headrace_server.models.rows.LEAST_SECONDS", 0.0)
    monkeypatch.setattr("headrace_server.models.rows.PART_OF_LOAD", 0.0)
    for members in MIXING.values():
        for graph in members.values():
            assert not shop.verdict(graph).batched
    for graph in INDEPENDENT.values():
        assert shop.verdict(graph).batched


@pytest.mark.parametrize("kind", MIXING)
def test_every_kind_has_three_members(kind: str) -> None:
    assert len(MIXING[kind]) >= 3


class TestSettings:
    """A setting in `model.toml` is followed, without a trial."""

    @pytest.mark.parametrize("key", ["enabled", "batch_axis"])
    def test_rows_that_mix_may_be_batched(self, shop: Shop, key: str) -> None:
        verdict = shop.verdict(quantized(), f"[batching]\n{key} = true")

        assert verdict == Verdict(Finding.ENABLED, "model.toml says so")

    @pytest.mark.parametrize("key", ["enabled", "batch_axis"])
    def test_independent_rows_may_run_one_by_one(self, shop: Shop, key: str) -> None:
        verdict = shop.verdict(INDEPENDENT["dense"], f"[batching]\n{key} = false")

        assert (verdict.finding, verdict.batched, verdict.runs) == (Finding.DISABLED, False, 0)

    def test_only_batch_axis_overrides_declared_shapes(self, shop: Shop) -> None:
        fixed = rowwise(make_node("Relu", ["x"], ["y"]))
        fixed = replace(fixed, inputs={"x": (FLOAT, [2, 4])}, outputs={"y": (FLOAT, [2, 4])})

        assert shop.verdict(fixed).finding is Finding.NO_BATCH_AXIS
        assert shop.verdict(fixed, "[batching]\nenabled = true").finding is Finding.NO_BATCH_AXIS
        assert shop.verdict(fixed, "[batching]\nbatch_axis = true").finding is Finding.ENABLED

    def test_there_is_no_trial_if_batching_is_off(self, shop: Shop) -> None:
        verdict = shop.verdict(INDEPENDENT["dense"], batching=None)

        assert verdict == Verdict(Finding.DISABLED, "batching is off")


class TestShown:
    def lines(self, shop: Shop, caplog: pytest.LogCaptureFixture, graph: Graph, toml: str = "") -> list[str]:
        caplog.set_level(logging.INFO, "headrace_server.models.rows")
        shop.verdict(graph, toml)
        return [record.getMessage() for record in caplog.records if record.name == "headrace_server.models.rows"]

    def test_one_line_names_the_output_its_change_and_the_remedy(
        self, shop: Shop, caplog: pytest.LogCaptureFixture
    ) -> None:
        (line,) = self.lines(shop, caplog, quantized())

        assert re.fullmatch(
            r"model m version 1, serving_default: requests run one by one: output 'y' changes by up to [\d.e-]+ of its "
            r"largest value when the other rows hold other values \(trial: \d+ runs, [\d.]+ ms\)\. To batch them, "
            r"quantize it statically .*; `enabled = true` under \[batching\] in model\.toml batches them even if that "
            r"changes answers",
            line,
        )

    def test_a_traced_batch_of_one(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        (line,) = self.lines(shop, caplog, MIXING["traced with a batch of one"]["a shape"])

        assert "requests run one by one: the model takes one row, but not 2: " in line
        assert "export it with a batch axis" in line

    def test_rows_whose_graph_proves_it(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        (line,) = self.lines(shop, caplog, INDEPENDENT["dense"])

        assert line.endswith(
            "no row depends on the others (each operator of its graph computes every row independently)"
        )

    @pytest.mark.usefixtures("unproved")
    def test_rows_that_are_independent(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        (line,) = self.lines(shop, caplog, INDEPENDENT["dense"])

        assert line.startswith(
            "model m version 1, serving_default: requests share batches: no row depends on the others (trial: "
        )

    def test_a_setting_in_model_toml(self, shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
        (line,) = self.lines(shop, caplog, quantized(), "[batching]\nenabled = true")

        assert line == "model m version 1, serving_default: requests share batches: model.toml says so"

    def test_a_metric(self, shop: Shop) -> None:
        shop.verdict(quantized())
        labels = 'model_name="m",version="1",signature="serving_default",verdict="dependent"'

        assert f":headrace:batching_verdict{{{labels}}} 1" in shop.metrics.page().decode().splitlines()
        shop.close()
        assert "batching_verdict" not in shop.metrics.page().decode()

    def test_onnx_runtime_prints_nothing_about_refused_trial_runs(
        self, shop: Shop, capfd: pytest.CaptureFixture[str]
    ) -> None:
        shop.verdict(MIXING["traced with a batch of one"]["a shape"])

        assert "onnxruntime" not in capfd.readouterr().err


@pytest.mark.usefixtures("unproved")
class TestRecords:
    """Inputs that cannot be generated are taken from the warm-up file."""

    def test_without_recorded_requests_the_trial_is_undecided(self, shop: Shop) -> None:
        verdict = shop.verdict(far_index())

        assert verdict.finding is Finding.UNDECIDED
        assert verdict.reason.startswith("the trial found no inputs that the model takes: ")
        assert "warm-up requests" in verdict.advice

    @pytest.mark.parametrize("rows", [1, 3])
    def test_recorded_requests_decide_the_trial(self, shop: Shop, rows: int) -> None:
        ids = 5000 + np.arange(2 * rows).reshape(rows, 2)
        write_warmup(shop.base_path / "1", [predict_log(predict_request({"ids": ids + number})) for number in range(4)])

        assert shop.verdict(far_index()).finding is Finding.INDEPENDENT


def far_index() -> Graph:
    """Accepts only numbers from 5,000 on."""
    nodes = [make_node("Sub", ["ids", "first"], ["i"]), make_node("Gather", ["table", "i"], ["y"])]
    constants = {"first": np.int64(5000), "table": np.arange(60, dtype=np.float32).reshape(20, 3)}
    return Graph(nodes, {"ids": (INT64, ["N", 2])}, {"y": (FLOAT, ["N", 2, 3])}, constants)
