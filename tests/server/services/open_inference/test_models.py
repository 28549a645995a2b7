"""What the server reports about itself and its models: health, metadata, configuration, statistics, settings."""

import logging
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from grpc import StatusCode

from headrace_batching import Options
from headrace_protos.inference import grpc_service_pb2 as messages
from tests.conftest import Make, Run
from tests.server.services.open_inference.calls import InferenceCaller, infer_request, tensor
from tests.server.services.open_inference.conftest import Infer
from tests.support import models
from tests.support.calls import MODEL
from tests.support.graphs import INDEPENDENT, Graph, quantized
from tests.support.running import eventually
from tests.support.texts import NOT_PADDED, PADDED


@pytest.fixture(scope="module")
def linear(inferring: Infer) -> InferenceCaller:
    return inferring(models.linear, open_inference_admin="write")


def test_health(linear: InferenceCaller) -> None:
    assert linear.call(messages.ServerLiveRequest()).live
    assert linear.call(messages.ServerReadyRequest()).ready
    ready = {
        (name, version): linear.call(messages.ModelReadyRequest(name=name, version=version)).ready
        for name, version in ((MODEL, ""), (MODEL, "1"), (MODEL, "7"), ("nope", ""))
    }
    assert ready == {(MODEL, ""): True, (MODEL, "1"): True, (MODEL, "7"): False, ("nope", ""): False}


def test_the_server_says_what_works(linear: InferenceCaller) -> None:
    server = linear.call(messages.ServerMetadataRequest())
    assert server.name == "headrace"
    assert server.version
    assert "statistics" in server.extensions
    assert "trace" not in server.extensions


def test_metadata_has_the_batch_axis_and_the_config_has_not(linear: InferenceCaller) -> None:
    metadata = linear.call(messages.ModelMetadataRequest(name=MODEL))
    assert (metadata.name, list(metadata.versions), metadata.platform) == (MODEL, ["1"], "onnxruntime_onnx")
    assert [(each.name, each.datatype, list(each.shape)) for each in metadata.inputs] == [("x", "FP32", [-1, 4])]
    config = linear.call(messages.ModelConfigRequest(name=MODEL)).config
    assert (config.backend, config.max_batch_size) == ("onnxruntime", 1000)
    assert [(each.name, list(each.dims)) for each in config.input] == [("x", [4])]
    assert config.HasField("dynamic_batching")


PROVED = "batched: each operator of its graph computes every row independently"


@pytest.mark.parametrize(
    ("graph", "said"),
    [
        (PADDED["a sum"], f"{PROVED}; requests of different lengths are padded"),
        (
            NOT_PADDED["a mean"],
            f"{PROVED}; requests of different lengths run separately: output 'y' changes by .* if its input is padded",
        ),
        (quantized(), r"one by one: output .*"),
        (INDEPENDENT["dense"], PROVED),
    ],
)
def test_the_config_says_how_requests_run(inferring: Infer, graph: Graph, said: str) -> None:
    config = inferring(graph.write).call(messages.ModelConfigRequest(name=MODEL)).config

    assert re.fullmatch(said, config.parameters["headrace.batching.serving_default"].string_value)


@pytest.mark.parametrize(("make", "batching"), [(models.linear, False), (models.scalar_output, True)])
def test_a_model_that_is_not_batched_has_its_whole_shape(inferring: Infer, make: Make, batching: bool) -> None:
    caller = inferring(make, enable_batching=batching)
    config = caller.call(messages.ModelConfigRequest(name=MODEL)).config
    metadata = caller.call(messages.ModelMetadataRequest(name=MODEL))
    assert config.max_batch_size == 0
    assert [list(each.dims) for each in config.input] == [list(each.shape) for each in metadata.inputs]
    assert not config.HasField("dynamic_batching")


def test_how_batches_form(inferring: Infer) -> None:
    batching = Options(max_batch_size=8, allowed_batch_sizes=(2, 8), batch_timeout_micros=7, max_enqueued_batches=3)
    config = inferring(models.linear, batching=batching).call(messages.ModelConfigRequest(name=MODEL)).config
    dynamic = config.dynamic_batching
    assert (config.max_batch_size, list(dynamic.preferred_batch_size)) == (8, [2, 8])
    assert (dynamic.max_queue_delay_microseconds, dynamic.default_queue_policy.max_queue_size) == (7, 24)


class TestStatistics:
    def stats(self, caller: InferenceCaller) -> Any:
        (stats,) = caller.call(messages.ModelStatisticsRequest(name=MODEL)).model_stats
        return stats

    def test_rows_runs_and_requests(self, running: Run) -> None:
        """Predict and ModelInfer are counted together: they are the same runs."""
        server = running(models.linear)
        caller = InferenceCaller(server.port)
        for _ in range(2):
            caller.call(infer_request([tensor(shape=(3, 4))], [np.ones((3, 4), np.float32).tobytes()]))
        server.caller.predict({"x": np.ones((5, 4), np.float32)})
        stats = eventually(lambda: s if (s := self.stats(caller)).execution_count == 3 else None)
        assert stats is not None
        assert (stats.inference_count, stats.inference_stats.success.count) == (11, 3)
        assert {each.batch_size: each.compute_infer.count for each in stats.batch_stats} == {3: 2, 5: 1}
        parts = [getattr(stats.inference_stats, part) for part in ("queue", "compute_input", "compute_infer")]
        assert {part.count for part in parts} == {3}
        assert sum(part.ns for part in parts) <= stats.inference_stats.success.ns
        assert stats.last_inference > 1_600_000_000_000
        caller.close()

    def test_refused_requests_count_nowhere_and_failed_ones_as_failed(self, inferring: Infer) -> None:
        caller = inferring(models.lookup)
        request = [tensor("index", "INT64", (1,))]
        caller.refusal(infer_request(request, [b"short"]))
        caller.refusal(infer_request(request, [np.array([99]).tobytes()]))
        stats = eventually(lambda: s if (s := self.stats(caller)).inference_stats.fail.count else None)
        assert stats is not None
        counts = (stats.inference_stats.success.count, stats.inference_stats.fail.count, stats.inference_count)
        assert counts == (0, 1, 0)

    def test_unknown_models_and_versions(self, linear: InferenceCaller) -> None:
        refusal = linear.refusal(messages.ModelStatisticsRequest(name="nope"))
        assert refusal == (StatusCode.INVALID_ARGUMENT, "requested model 'nope' is not available")
        refusal = linear.refusal(messages.ModelStatisticsRequest(name=MODEL, version="7"))
        text = f"requested model version is not available for model '{MODEL}'"
        assert refusal == (StatusCode.INVALID_ARGUMENT, text)
        assert len(linear.call(messages.ModelStatisticsRequest()).model_stats) == 1


@pytest.fixture
def log_level() -> Iterator[logging.Logger]:
    logger = logging.getLogger("headrace_server")
    before = logger.level
    yield logger
    logger.setLevel(before)


class TestLogSettings:
    def change(self, **values: Any) -> messages.LogSettingsRequest:
        request = messages.LogSettingsRequest()
        for name, (field, value) in values.items():
            setattr(request.settings[name], field, value)
        return request

    def test_the_level_follows(self, linear: InferenceCaller, log_level: logging.Logger) -> None:
        answer = linear.call(self.change(log_verbose_level=("uint32_param", 1)))
        assert answer.settings["log_verbose_level"].uint32_param == 1
        assert log_level.level == logging.DEBUG
        linear.call(self.change(log_verbose_level=("uint32_param", 0), log_info=("bool_param", False)))
        assert log_level.level == logging.WARNING
        linear.call(self.change(log_info=("bool_param", True)))

    @pytest.mark.parametrize(
        ("name", "value", "code", "text"),
        [
            (
                "log_file",
                ("string_param", "x"),
                StatusCode.UNIMPLEMENTED,
                "log file location can not be updated through network protocol",
            ),
            ("log_info", ("uint32_param", 1), StatusCode.INVALID_ARGUMENT, "expect boolean for 'log_info'"),
            (
                "log_verbose_level",
                ("bool_param", True),
                StatusCode.INVALID_ARGUMENT,
                "expect int32 for 'log_verbose_level'",
            ),
            (
                "log_format",
                ("string_param", "zz"),
                StatusCode.INVALID_ARGUMENT,
                "invalid argument for log_format, got: zz",
            ),
        ],
    )
    def test_refused(
        self, linear: InferenceCaller, name: str, value: tuple[str, Any], code: StatusCode, text: str
    ) -> None:
        assert linear.refusal(self.change(**{name: value})) == (code, text)


class TestTraceSettings:
    def change(self, model: str = "", **values: list[str]) -> messages.TraceSettingRequest:
        request = messages.TraceSettingRequest(model_name=model)
        for name, texts in values.items():
            request.settings[name].value.extend(texts)
        return request

    def rate(self, caller: InferenceCaller, request: messages.TraceSettingRequest) -> list[str]:
        return list(caller.call(request).settings["trace_rate"].value)

    def test_of_one_model_and_of_all(self, linear: InferenceCaller) -> None:
        assert self.rate(linear, self.change(trace_rate=["77"])) == ["77"]
        assert self.rate(linear, self.change(MODEL)) == ["77"]
        assert self.rate(linear, self.change(MODEL, trace_rate=["5"])) == ["5"]
        assert self.rate(linear, self.change(MODEL, trace_rate=[])) == ["77"]
        cleared = self.change()
        cleared.settings["trace_rate"].SetInParent()
        assert self.rate(linear, cleared) == ["1000"]

    @pytest.mark.parametrize(
        ("model", "values", "code", "text"),
        [
            ("", {"trace_rate": ["x"]}, StatusCode.INVALID_ARGUMENT, "Unable to parse 'trace_rate', got: x"),
            ("", {"trace_rate": ["1", "2"]}, StatusCode.INVALID_ARGUMENT, "expect only 1 value for 'trace_rate'"),
            (
                "",
                {"trace_file": ["x"]},
                StatusCode.UNIMPLEMENTED,
                "trace file location can not be updated through network protocol",
            ),
            (
                "",
                {"trace_level": ["TIMESTAMPS"]},
                StatusCode.INVALID_ARGUMENT,
                "Attempting to set invalid trace setting :trace file name is not given",
            ),
            ("nope", {}, StatusCode.INVALID_ARGUMENT, "Request for unknown model : nope"),
        ],
    )
    def test_refused(
        self, linear: InferenceCaller, model: str, values: dict[str, list[str]], code: StatusCode, text: str
    ) -> None:
        assert linear.refusal(self.change(model, **values)) == (code, text)
