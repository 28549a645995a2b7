"""Request logging: which calls are logged, what is recorded, and which configurations are valid."""

from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
from google.protobuf.text_format import Parse
from grpc import StatusCode

from headrace_protos import (
    ClassificationRequest,
    ClassificationResponse,
    Code,
    ModelConfig,
    MultiInferenceRequest,
    MultiInferenceResponse,
    PredictionLog,
    PredictRequest,
    PredictResponse,
    RegressionRequest,
    RegressionResponse,
    ReloadConfigRequest,
)
from headrace_server.errors import ServingError
from headrace_server.metrics.catalogue import Metrics
from headrace_server.services.tf_serving.request_log.files import RecordWriter
from headrace_server.services.tf_serving.request_log.logger import RequestLogger
from tests.conftest import Run
from tests.support import models
from tests.support.calls import MODEL, Refusal, arrays, floats, predict_request
from tests.support.ports import free_port
from tests.support.records import read_logs
from tests.support.rest_calls import RestCaller

NOW = 1_700_000_000.9


def configured(text: str, name: str = MODEL) -> ModelConfig:
    """A model with this `logging_config`."""
    return Parse(f'name: "{name}" logging_config {{ {text} }}', ModelConfig())


def to_file(folder: Path, rate: float = 1.0, name: str = MODEL) -> ModelConfig:
    collector = f'log_collector_config {{ type: "file" filename_prefix: "{folder}/{name}" }}'
    return configured(f"{collector} sampling_config {{ sampling_rate: {rate} }}", name)


class Logging:
    """A logger with fixed random draws, and the records that it has written."""

    def __init__(self, folder: Path, *configs: ModelConfig, chances: Iterator[float] | None = None) -> None:
        self._folder = folder
        self.metrics = Metrics()
        self._writer = RecordWriter(self.metrics)
        chance = (lambda: 0.0) if chances is None else chances.__next__
        self.logger = RequestLogger(self._writer, ["serve"], chance=chance, clock=lambda: NOW)
        self.logger.prepare(configs)()

    def written(self) -> list[PredictionLog]:
        self._writer.stop()
        return read_logs(self._folder.iterdir())


def answered(name: str = MODEL, value: float = 1) -> tuple[PredictRequest, PredictResponse]:
    request = predict_request({"x": floats([value])}, name=name)
    response = PredictResponse()
    response.model_spec.name = name
    response.model_spec.version.value = 7
    response.model_spec.signature_name = "serving_default"
    return request, response


def test_the_record_of_a_call(tmp_path: Path) -> None:
    logging = Logging(tmp_path, to_file(tmp_path, 0.25))
    request, response = answered()
    logging.logger.record(request, response)
    (record,) = logging.written()
    assert record.predict_log.request == request
    assert record.predict_log.response == response
    assert record.log_metadata.model_spec == response.model_spec  # the version that answered, not the requested one
    assert record.log_metadata.sampling_config.sampling_rate == 0.25
    assert record.log_metadata.saved_model_tags == ["serve"]
    assert record.log_metadata.timestamp_secs == int(NOW)


@pytest.mark.parametrize(
    ("request_type", "response_type", "kind"),
    [
        (ClassificationRequest, ClassificationResponse, "classify_log"),
        (RegressionRequest, RegressionResponse, "regress_log"),
    ],
)
def test_calls_with_examples(tmp_path: Path, request_type: type[Any], response_type: type[Any], kind: str) -> None:
    logging = Logging(tmp_path, to_file(tmp_path))
    request, response = request_type(), response_type()
    request.model_spec.name = MODEL
    response.model_spec.version.value = 3
    logging.logger.record(request, response)
    (record,) = logging.written()
    assert record.WhichOneof("log_type") == kind
    assert getattr(record, kind).request == request
    assert record.log_metadata.model_spec.version.value == 3


def test_several_calls_in_one(tmp_path: Path) -> None:
    logging = Logging(tmp_path, to_file(tmp_path))
    request, response = MultiInferenceRequest(), MultiInferenceResponse()
    for signature in ("a", "b"):
        request.tasks.add().model_spec.name = MODEL
        response.results.add().model_spec.signature_name = signature
    logging.logger.record(request, response)
    (record,) = logging.written()
    assert record.multi_inference_log.response == response
    assert record.log_metadata.model_spec.signature_name == "a"


def test_a_share_of_the_calls(tmp_path: Path) -> None:
    logging = Logging(tmp_path, to_file(tmp_path, 0.5), chances=iter([0.0, 0.4999, 0.5, 0.9]))
    for value in range(4):
        logging.logger.record(*answered(value=value))
    kept = [record.predict_log.request.inputs["x"].float_val[0] for record in logging.written()]
    assert kept == [0, 1]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_none_or_all(tmp_path: Path, rate: float) -> None:
    logging = Logging(tmp_path, to_file(tmp_path, rate), chances=iter([0.0, 1 - 2**-53]))
    for _ in range(2):
        logging.logger.record(*answered())
    assert len(logging.written()) == 2 * rate


def test_the_first_configuration_for_all_tasks_has_the_rate(tmp_path: Path) -> None:
    config = to_file(tmp_path, 1.0)
    Parse(
        'per_task_sampling_configs { dc: "aa" sampling_rate: 0.1 } '
        "per_task_sampling_configs { task_index: 0 sampling_rate: 0.2 } "
        "per_task_sampling_configs { sampling_rate: 0.5 } "
        "per_task_sampling_configs { sampling_rate: 0.9 }",
        sampling := config.logging_config.sampling_config,
    )
    assert len(sampling.per_task_sampling_configs) == 4
    logging = Logging(tmp_path, config, chances=iter([0.3, 0.6]))
    for _ in range(2):
        logging.logger.record(*answered())
    (record,) = logging.written()
    assert record.log_metadata.sampling_config.sampling_rate == 0.5


def test_models_are_logged_by_name(tmp_path: Path) -> None:
    logging = Logging(tmp_path, to_file(tmp_path, name="a"), ModelConfig(name="b"))
    for name in ("a", "b", "c"):
        logging.logger.record(*answered(name))
    assert [record.log_metadata.model_spec.name for record in logging.written()] == ["a"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("", "No request-logger-creator provided.", id="empty"),
        pytest.param(
            'log_collector_config { type: "kafka" filename_prefix: "/tmp/a" }',
            "No request-logger-creator provided.",
            id="type",
        ),
        pytest.param(
            'log_collector_config { type: "file" filename_prefix: "/tmp/a" } custom_logging_config {}',
            "No request-logger-creator provided.",
            id="custom",
        ),
        pytest.param(
            'log_collector_config { type: "file" }',
            "Model model: filename_prefix must begin with a folder that exists; was ''",
            id="no-prefix",
        ),
        pytest.param(
            'log_collector_config { type: "file" filename_prefix: "/nowhere/calls" }',
            "Model model: filename_prefix must begin with a folder that exists; was '/nowhere/calls'",
            id="no-folder",
        ),
        pytest.param(
            'log_collector_config { type: "file" filename_prefix: "/tmp/a\\000b" }',
            "Model model: filename_prefix must begin with a folder that exists; was '/tmp/a\0b'",
            id="zero-byte",
        ),
        pytest.param(
            'log_collector_config { type: "file" filename_prefix: "/tmp/a" } sampling_config { sampling_rate: 1.5 }',
            "Model model: sampling_rate must be from 0 to 1; was 1.5",
            id="rate",
        ),
        pytest.param(
            'log_collector_config { type: "file" filename_prefix: "/tmp/a" } sampling_config { sampling_rate: nan }',
            "Model model: sampling_rate must be from 0 to 1; was nan",
            id="nan",
        ),
    ],
)
def test_invalid_configurations(tmp_path: Path, text: str, message: str) -> None:
    logging = Logging(tmp_path, to_file(tmp_path))
    with pytest.raises(ServingError) as caught:
        logging.logger.prepare([to_file(tmp_path, name="good"), configured(text)])
    assert (caught.value.code, caught.value.message) == (Code.INVALID_ARGUMENT, message)
    logging.logger.record(*answered())
    assert len(logging.written()) == 1  # earlier records are kept


def test_a_server_logs_its_answers_across_configurations(running: Run, tmp_path: Path) -> None:
    server = running(models.lookup, request_log_roots=(str(tmp_path),))
    logs = tmp_path / "logs"
    logs.mkdir()

    def reload(config: ModelConfig) -> ReloadConfigRequest:
        config.base_path, config.model_platform = str(server.base_path), "tensorflow"
        request = ReloadConfigRequest()
        request.config.model_config_list.config.append(config)
        return request

    def ask(index: int) -> PredictRequest:
        return predict_request({"index": np.array([index])})

    server.caller.call(ask(1))
    server.caller.call(reload(to_file(logs)))
    response = server.caller.call(ask(2))
    assert server.caller.refusal(ask(99)).code is StatusCode.INVALID_ARGUMENT
    refusal = Refusal(StatusCode.INVALID_ARGUMENT, "No request-logger-creator provided.")
    assert server.caller.refusal(reload(configured('log_collector_config { type: "kafka" }'))) == refusal
    server.caller.call(ask(3))
    server.caller.call(reload(ModelConfig(name=MODEL)))
    server.caller.call(ask(4))
    server.stop()
    first, second = read_logs(logs.iterdir())
    assert (first.predict_log.request, first.predict_log.response) == (ask(2), response)
    assert second.predict_log.request == ask(3)


def test_calls_over_rest_are_logged_too(running: Run, tmp_path: Path) -> None:
    logs, base_path = tmp_path / "logs", tmp_path / "model"
    logs.mkdir()
    models.linear(base_path / "1")
    config = to_file(logs)
    config.base_path, config.model_platform = str(base_path), "tensorflow"
    file = tmp_path / "models.pbtxt"
    file.write_text(f"model_config_list {{ config {{ {config} }} }}")
    port = free_port()
    server = running(model_base_path="", model_config_file=str(file), rest_api_port=port)
    caller = RestCaller(port)
    caller.predict({"instances": [[1, 2, 3, 4]], "signature_name": "serving_default"})
    caller.refusal({"instances": [[1, 2, 3]]})
    for verb in ("classify", "regress"):
        assert caller.post(verb, {"examples": [{"x": [1.0, 2.0, 3.0, 4.0]}]}).status == 200
    caller.close()
    server.stop()
    predict, classify, regress = read_logs(logs.iterdir())
    assert predict.predict_log.request == predict_request(
        {"x": floats([1, 2, 3, 4])}, as_content=True, signature_name="serving_default"
    )
    assert arrays(predict.predict_log.response)["y"].tolist() == [[10]]
    for record in (predict, classify, regress):
        assert (record.log_metadata.model_spec.name, record.log_metadata.model_spec.version.value) == (MODEL, 1)
    assert classify.classify_log.response.result.classifications[0].classes[0].score == 10
    assert regress.regress_log.response.result.regressions[0].value == 10


def test_a_server_does_not_start_with_an_unknown_collector(running: Run, tmp_path: Path) -> None:
    file = tmp_path / "models.pbtxt"
    config = configured('log_collector_config { type: "kafka" }')
    config.base_path, config.model_platform = str(tmp_path), "tensorflow"
    file.write_text(f"model_config_list {{ config {{ {config} }} }}")
    with pytest.raises(ServingError, match="No request-logger-creator provided"):
        running(model_base_path="", model_config_file=str(file))


class TestRecordsThatCannotBeMade:
    """An answered call stays answered, and counts as not logged."""

    @pytest.mark.parametrize(
        "error", [MemoryError(), ValueError("Failed to serialize proto"), RuntimeError("no thread")]
    )
    def test_its_messages_cannot_be_made(self, tmp_path: Path, error: Exception) -> None:
        def make() -> Any:
            raise error

        logging = Logging(tmp_path, to_file(tmp_path))
        logging.logger.record_made(MODEL, make)
        logging.logger.record(*answered())
        assert len(logging.written()) == 1
        counted = 'request_log_count{model_name="model",status_code="RESOURCE_EXHAUSTED"} 1'
        assert counted in logging.metrics.page().decode()

    def test_the_system_has_no_thread(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refused(_thread: Thread) -> None:
            raise RuntimeError("can't start new thread")

        logging = Logging(tmp_path, to_file(tmp_path))
        with monkeypatch.context() as scarce:
            scarce.setattr(Thread, "start", refused)
            logging.logger.record(*answered())
        logging.logger.record(*answered(value=2))
        assert len(logging.written()) == 1
