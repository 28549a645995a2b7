"""Configurations by RPC and from a file: many models, their labels, and reloads while the server serves."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from grpc import StatusCode

from headrace_protos import Code, ModelServerConfig, ModelVersionStatus, ReloadConfigRequest
from headrace_server.errors import ServingError
from tests.conftest import Run, Serve
from tests.support import models
from tests.support.calls import MODEL, Caller, Refusal, floats, predict_request, refusal_of, status_request
from tests.support.running import RunningServer, eventually

X = floats([1, 2, 3, 4])
AVAILABLE, END = ModelVersionStatus.AVAILABLE, ModelVersionStatus.END

Models = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Models:
    """Writes a model with some versions; each adds 100 times its number to the sum."""

    def make(name: str, *versions: int) -> Path:
        for version in versions:
            models.linear(tmp_path / name / str(version), bias=100 * version)
        return tmp_path / name

    return make


def config(*names: str, root: Path, labels: dict[str, int] | None = None) -> ModelServerConfig:
    """A list of models with all their versions; the labels are for the first model."""
    message = ModelServerConfig()
    message.model_config_list.SetInParent()
    for name in names:
        model = message.model_config_list.config.add(name=name, base_path=str(root / name), model_platform="tensorflow")
        model.model_version_policy.all.SetInParent()
    if labels:
        message.model_config_list.config[0].version_labels.update(labels)
    return message


def predict(caller: Caller, name: str, **spec: object) -> float:
    return float(caller.predict({"x": X}, name=name, **spec)["y"].item())


def states(caller: Caller, name: str) -> dict[int, int]:
    return {s.version: s.state for s in caller.call(status_request(name=name)).model_version_status}


@pytest.fixture
def server(running: Run, tmp_path: Path, make: Models) -> RunningServer:
    """Serves model `a`, versions 1 and 2, by a configuration file."""
    make("a", 1, 2)
    file = tmp_path / "models.config"
    file.write_text(str(config("a", root=tmp_path)))
    return running(model_base_path="", model_config_file=str(file), file_system_poll_wait_seconds=1)


def reload(server: RunningServer, message: ModelServerConfig, *metrics: str) -> dict[str, int]:
    response = server.caller.call(ReloadConfigRequest(config=message, metric_names=metrics))
    assert (response.status.error_code, response.status.error_message) == (0, "")
    return {metric.name: metric.int64_value_increase for metric in response.metric}


def refusal(server: RunningServer, message: ModelServerConfig) -> Refusal:
    return server.caller.refusal(ReloadConfigRequest(config=message))


def test_models_come_and_go(server: RunningServer, tmp_path: Path, make: Models) -> None:
    make("b", 5)
    assert reload(server, config("b", root=tmp_path), "unknown", "unknown", "other") == {"unknown": 0, "other": 0}
    assert predict(server.caller, "b") == 510
    eventually(lambda: states(server.caller, "a") == {1: END, 2: END})
    assert server.caller.refusal(predict_request({"x": X}, name="a")) == (
        StatusCode.NOT_FOUND,
        "Servable not found for request: Latest(a)",
    )
    reload(server, config(root=tmp_path))
    eventually(lambda: states(server.caller, "b") == {5: END})
    reload(server, config("a", "b", root=tmp_path))
    assert (predict(server.caller, "a"), predict(server.caller, "b")) == (210, 510)


def test_a_reload_that_waits_for_a_missing_path_ends_at_the_next(
    server: RunningServer, tmp_path: Path, make: Models
) -> None:
    make("b", 5)
    states(server.caller, "a")  # from now on, a connection exists, on which calls arrive in order
    slip = server.caller.begin(ReloadConfigRequest(config=config("a", "misspelt", root=tmp_path)))
    states(server.caller, "a")
    reload(server, config("a", "b", root=tmp_path))
    assert refusal_of(slip.exception()) == (
        StatusCode.UNKNOWN,
        "1 model(s) did not become available: {{{name: misspelt} due to error: no version of it was found}, }",
    )
    assert (predict(server.caller, "a"), predict(server.caller, "b")) == (210, 510)


def test_a_caller_cannot_cause_code_to_run(server: RunningServer, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "code" / "1").mkdir(parents=True)
    (tmp_path / "code" / "1" / "model.py").write_text(f"open({str(ran)!r}, 'w')")

    refused = refusal(server, config("a", "code", root=tmp_path))

    assert "model.py is code, and a caller has named its folder" in refused.text
    assert not ran.exists()
    assert predict(server.caller, "a") == 210


def test_reloads_can_be_turned_off(running: Run, tmp_path: Path, make: Models) -> None:
    server = running(model_base_path=str(make("a", 1)), model_name="a", allow_reload="false")

    refused = refusal(server, config(root=tmp_path))

    assert refused == (StatusCode.PERMISSION_DENIED, "HandleReloadConfigRequest is not allowed (--allow_reload=false)")
    assert predict(server.caller, "a") == 110


def test_labels_select_versions(server: RunningServer, tmp_path: Path) -> None:
    eventually(lambda: states(server.caller, "a") == {1: AVAILABLE, 2: AVAILABLE})
    reload(server, config("a", root=tmp_path, labels={"stable": 1, "canary": 2}))
    response = server.caller.call(predict_request({"x": X}, name="a", version_label="stable"))
    assert response.model_spec.version.value == 1
    assert not response.model_spec.version_label
    assert predict(server.caller, "a", version_label="canary") == 210

    assert refusal(server, config("a", root=tmp_path, labels={"stable": 3})) == (
        StatusCode.FAILED_PRECONDITION,
        "Request to assign label to version 3 of model a, which is not currently available for inference",
    )
    assert predict(server.caller, "a", version_label="stable") == 110

    reload(server, config("a", root=tmp_path))
    for name in ("a", "nobody"):
        assert server.caller.refusal(predict_request({"x": X}, name=name, version_label="stable")) == (
            StatusCode.INVALID_ARGUMENT,
            "Unrecognized servable version label: stable",
        )


@pytest.mark.parametrize("text", ["", 'custom_model_config { type_url: "x" }'], ids=["unset", "custom"])
def test_only_a_list_can_be_sent(server: RunningServer, text: str) -> None:
    message = ModelServerConfig()
    if text:
        message.custom_model_config.type_url = "x"
    assert refusal(server, message) == (
        StatusCode.INVALID_ARGUMENT,
        "ServerModelConfig type not supported by HandleReloadConfigRequest. "
        "Only ModelConfigList is currently supported",
    )


def test_a_rejected_list_changes_nothing(server: RunningServer, tmp_path: Path) -> None:
    assert refusal(server, config("b", "b", root=tmp_path)) == (
        StatusCode.INVALID_ARGUMENT,
        "Illegal to list model b multiple times in config list",
    )
    assert predict(server.caller, "a") == 210


def test_a_new_model_that_does_not_load(server: RunningServer, tmp_path: Path, make: Models) -> None:
    (make("broken", 3) / "3" / models.FILE).write_bytes(b"garbage")
    code, text = refusal(server, config("a", "broken", root=tmp_path))
    assert code == StatusCode.UNKNOWN
    assert text.startswith(
        "1 model(s) did not become available: {{{name: broken version: 3} due to error: INVALID_ARGUMENT: "
    )
    (status,) = server.caller.call(status_request(name="broken")).model_version_status
    assert (status.state, status.status.error_code) == (END, Code.INVALID_ARGUMENT)
    assert predict(server.caller, "a") == 210


def test_a_caller_who_leaves_does_not_end_the_reload(server: RunningServer, tmp_path: Path, make: Models) -> None:
    waiting = server.caller.begin(ReloadConfigRequest(config=config("a", "late", root=tmp_path)), timeout=0.2)
    assert waiting.exception() is not None
    assert predict(server.caller, "a") == 210
    make("late", 1)
    eventually(partial(known, server.caller, "late"))


def test_a_waiting_reload_does_not_delay_the_drain(server: RunningServer, tmp_path: Path) -> None:
    """The server waits without limit for a base path that does not exist."""
    waiting = server.caller.begin(ReloadConfigRequest(config=config("a", "nowhere", root=tmp_path)))
    assert eventually(
        lambda: predict(server.caller, "a") == 210
    )  # the waiting configuration names the newest version, which loads
    server.stop()
    assert refusal_of(waiting.exception()).code == StatusCode.UNAVAILABLE


def known(caller: Caller, name: str) -> bool:
    request = status_request(name=name)
    return caller.begin(request).exception() is None and AVAILABLE in states(caller, name).values()


def test_a_file_that_changes_is_applied(
    running: Run, tmp_path: Path, make: Models, caplog: pytest.LogCaptureFixture
) -> None:
    make("a", 1)
    make("b", 2)
    file = tmp_path / "models.config"
    file.write_text(str(config("a", root=tmp_path)))
    server = running(
        model_base_path="",
        model_config_file=str(file),
        model_config_file_poll_wait_seconds=0.02,
        file_system_poll_wait_seconds=0.02,
    )

    def write(*names: str) -> None:
        (tmp_path / "new").write_text(str(config(*names, root=tmp_path)))
        (tmp_path / "new").rename(file)

    file.write_text("nonsense")
    assert predict(server.caller, "a") == 110
    write("a", "misspelt")
    eventually(lambda: "{{name: misspelt} due to error: no version of it was found}" in caplog.text)
    write("b")
    eventually(partial(known, server.caller, "b"))
    eventually(lambda: states(server.caller, "a") == {1: END})


def test_labels_at_the_start_must_be_allowed(running: Run, tmp_path: Path, make: Models) -> None:
    make("a", 1)
    file = tmp_path / "models.config"
    file.write_text(str(config("a", root=tmp_path, labels={"stable": 1, "next": 2})))
    with pytest.raises(ServingError, match="Request to assign label to version 2 of model a, which is not currently"):
        running(model_base_path="", model_config_file=str(file))

    server = running(model_base_path="", model_config_file=str(file), allow_version_labels_for_unavailable_models=True)
    assert predict(server.caller, "a", version_label="stable") == 110
    assert server.caller.refusal(predict_request({"x": X}, name="a", version_label="next")) == (
        StatusCode.NOT_FOUND,
        "Servable not found for request: Specific(a, 2)",
    )


def test_an_invalid_policy(running: Run) -> None:
    with pytest.raises(ServingError, match="--aspired_version_policy must be one of availability_preserving"):
        running(models.linear, aspired_version_policy="latest")


def test_resource_preserving_unloads_the_old_version_first(running: Run) -> None:
    server = running(models.linear, aspired_version_policy="resource_preserving", file_system_poll_wait_seconds=0.02)
    models.linear(server.base_path / "unfinished", bias=100).parent.rename(server.base_path / "2")
    eventually(lambda: states(server.caller, MODEL) == {1: END, 2: AVAILABLE})
    assert predict(server.caller, MODEL) == 110


def test_an_empty_file_serves_nothing_yet(running: Run, tmp_path: Path, make: Models) -> None:
    make("a", 1)
    file = tmp_path / "models.config"
    file.touch()
    server = running(model_base_path="", model_config_file=str(file))
    assert server.caller.refusal(status_request(name="a")).code == StatusCode.NOT_FOUND
    reload(server, config("a", root=tmp_path))
    assert predict(server.caller, "a") == 110


def test_a_file_that_does_not_parse_ends_the_command(serving: Serve, tmp_path: Path) -> None:
    file = tmp_path / "models.config"
    file.write_text("model_config_list {\n  improper: 7\n}")
    process = serving(tmp_path, f"--model_config_file={file}")
    assert process.ended() == 1
    first, last = process.log[-2:]
    assert "Error parsing text-format tensorflow.serving.ModelServerConfig: 2:3: " in first
    assert last == f"headrace: cannot start: INVALID_ARGUMENT: Invalid protobuf file: '{file}'"
