"""The gate on running servers: limits, changed files, cached verdicts and their expiry, and which calls are open."""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from errno import EMFILE
from pathlib import Path
from queue import Queue
from threading import Event
from typing import Any

import grpc
import pytest
from grpc_health.v1.health_pb2 import HealthCheckRequest

from headrace_protos import MultiInferenceRequest, ReloadConfigRequest
from headrace_protos.inference.grpc_service_pb2 import ModelInferRequest, ModelStreamInferResponse
from headrace_server.commands.headrace import main
from headrace_server.config.security import AuthOptions
from headrace_server.errors import ServingError, unreadable
from headrace_server.security.followed import FollowedFile
from headrace_server.security.gate import Gate
from headrace_server.security.keys import create_key, revoke_keys
from headrace_server.security.methods import Need
from headrace_server.security.tokens import Tokens
from headrace_server.security.visit import Visit
from tests.conftest import Make, Run
from tests.server.security.calls import APIS, OIP, RELOAD_PATH, Outcome, Target, ask_tf_serving, target_of
from tests.support import models
from tests.support.calls import MODEL, PREDICT, floats, predict_request
from tests.support.layers import WIDTH, leaky_sum, relu, stack
from tests.support.ports import free_port
from tests.support.running import RunningServer, eventually

HEALTH = "/grpc.health.v1.Health/Check"


class Set:
    """A server with a key and a policy, both of which tests may change."""

    def __init__(
        self, running: Run, folder: Path, policy: str, *, make: Make = models.linear, **config: object
    ) -> None:
        self.keys, self.policy = folder / "keys.json", folder / "policy.toml"
        self.header = "Bearer " + create_key(self.keys, "shop")
        self.policy.write_text(policy)
        port = free_port()
        auth = AuthOptions(keys_file=str(self.keys), policy_file=str(self.policy) if policy else "")
        self.server: RunningServer = running(make, rest_api_port=port, auth=auth, **config)
        self.target: Target = target_of(self.server.port, port)

    @property
    def gate(self) -> Gate:
        gate = self.server._server._gate
        assert gate is not None
        return gate

    def ask(self, api: str = "tf-serving-grpc", method: str = "predict") -> Outcome:
        return APIS[api](self.target, method, MODEL, self.header).outcome


ONLY_MODEL = '[[rules]]\nwho = ["key:shop"]\nmodels = ["model"]\n'


@pytest.mark.parametrize("api", APIS)
def test_a_limit_says_when_to_try_again(running: Run, tmp_path: Path, api: str) -> None:
    own = Set(running, tmp_path, ONLY_MODEL + "calls_per_second = 0.5\n")

    assert own.ask(api) is Outcome.OK
    refused = APIS[api](own.target, "predict", MODEL, own.header)
    assert refused.outcome is Outcome.EXHAUSTED
    assert "rule 1" in refused.text
    if "rest" in api:
        assert refused.headers["retry-after"] == "2"
    else:
        assert 1000 < int(refused.headers["grpc-retry-pushback-ms"]) <= 2000


@pytest.mark.parametrize("api", APIS)
def test_rows_count(running: Run, tmp_path: Path, api: str) -> None:
    own = Set(running, tmp_path, ONLY_MODEL + "rows_per_second = 0.25\n")
    many = predict_request({"x": floats(*[[1, 2, 3, 4]] * 32)}).SerializeToString()
    assert own.target.grpc(PREDICT, many, own.header).outcome is Outcome.OK

    refused = APIS[api](own.target, "predict", MODEL, own.header)
    assert refused.outcome is Outcome.EXHAUSTED
    hint = float(refused.headers.get("retry-after") or 0) or int(refused.headers["grpc-retry-pushback-ms"]) / 1e3
    assert 100 < hint < 130


def leaky(folder: Path) -> Path:
    """A model whose rows mix only if they have infinite or NaN values: such requests run alone."""
    stack([relu, leaky_sum], 1).write(folder)
    return folder


def predict(target: Target, row: list[float], header: str) -> Outcome:
    return target.grpc(PREDICT, predict_request({"x": floats(row)}).SerializeToString(), header).outcome


def predict_over_rest(target: Target, row: list[float], header: str) -> Outcome:
    return target.http("POST", f"/v1/models/{MODEL}:predict", {"instances": [row]}, header).outcome


def infer_over_rest(target: Target, row: list[float], header: str) -> Outcome:
    inputs = [{"name": "x", "datatype": "FP32", "shape": [1, len(row)], "data": row}]
    return target.http("POST", f"/v2/models/{MODEL}/infer", {"inputs": inputs}, header).outcome


@pytest.mark.parametrize("ask", [predict, predict_over_rest, infer_over_rest])
def test_a_call_that_may_share_no_batch_counts_once(
    running: Run, tmp_path: Path, ask: Callable[[Target, list[float], str], Outcome]
) -> None:
    own = Set(running, tmp_path, ONLY_MODEL + "calls_per_second = 2\n", make=leaky)

    assert ask(own.target, [1.0] * WIDTH, own.header) is Outcome.OK
    assert ask(own.target, [1.1e30] * WIDTH, own.header) is Outcome.OK


def test_a_revoked_key_is_refused_after_the_next_poll(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, "")
    assert [own.ask(api) for api in APIS for _ in range(2)] == [Outcome.OK] * 8

    revoke_keys(own.keys, "shop")
    eventually(lambda: own.ask() is Outcome.UNAUTHENTICATED)
    assert [own.ask(api) for api in APIS] == [Outcome.UNAUTHENTICATED] * 4


def test_a_changed_policy_applies_after_the_next_poll(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL)
    assert own.ask() is Outcome.OK

    own.policy.write_text(ONLY_MODEL + "allow = false\n")
    eventually(lambda: own.ask() is Outcome.DENIED)
    own.policy.write_text("this is no policy")
    own.gate.look()
    assert own.ask() is Outcome.DENIED, "what was read before stays in force"
    own.policy.write_text(ONLY_MODEL)
    eventually(lambda: own.ask() is Outcome.OK)


def test_a_hanging_issuer_delays_no_other_change(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL)
    assert own.ask() is own.ask() is Outcome.OK
    fetching, answer = Event(), Event()

    class Hanging(Tokens):
        def __init__(self) -> None:
            """Has no keys."""

        def look(self) -> bool:
            fetching.set()
            return answer.wait(60) and False

    ways = replace(own.gate._ways, tokens=Hanging())
    gate = Gate(ways, own.gate._policy, [], own.gate.verdicts)
    own.gate.stop()
    gate.start()
    try:
        assert fetching.wait(60)
        own.policy.write_text(ONLY_MODEL + "allow = false\n")
        eventually(lambda: own.ask() is Outcome.DENIED)
        own.policy.write_text(ONLY_MODEL)
        eventually(lambda: own.ask() is Outcome.OK)
        revoke_keys(own.keys, "shop")
        eventually(lambda: own.ask() is Outcome.UNAUTHENTICATED)
        gate.stop()
    finally:
        answer.set()


def test_a_file_that_could_not_be_read_is_read_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file, failing = tmp_path / "file", [False]
    file.write_text("a")

    def read(path: Path) -> str:
        if failing[0]:
            raise unreadable(path, OSError(EMFILE, "Too many open files"))
        return path.read_text()

    followed = FollowedFile(file, read)
    file.write_text("revoked")
    failing[0] = True
    assert [followed.look(), followed.look()] == [False, False]
    assert (followed.value, caplog.text.count("Too many open files")) == ("a", 1)
    failing[0] = False
    assert [followed.look(), followed.look()] == [True, False]
    assert followed.value == "revoked"


def test_a_pipe_in_the_place_of_a_file_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "file"
    file.write_text("a")
    followed = FollowedFile(file, Path.read_text)
    file.unlink()
    os.mkfifo(file)
    assert [followed.look(), followed.look()] == [False, False]
    assert (followed.value, caplog.text.count("it is a pipe or a device")) == ("a", 1)
    file.unlink()
    file.write_text("b")
    assert (followed.look(), followed.value) == (True, "b")


def test_a_preflight_request_reads_no_page(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, "", rest_api_enable_cors_support=True)
    for path in ("/metrics", "/monitoring/prometheus/metrics", "/page/state", "/page/options"):
        assert own.target.http("OPTIONS", path).outcome is Outcome.UNAUTHENTICATED, path
    preflight = own.target.http("OPTIONS", f"/v2/models/{MODEL}/infer")
    assert (preflight.outcome, preflight.text) == (Outcome.OK, "")
    assert preflight.headers["access-control-allow-origin"] == "*"


def test_the_native_transport_asks_python_once_for_each_caller_and_model(
    running: Run, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Set(running, tmp_path, ONLY_MODEL + "calls_per_second = 1000\n")
    seen: list[Need] = []
    admit = Gate.admit

    def counted(gate: Gate, visit: Visit, need: Need) -> None:
        seen.append(need)
        admit(gate, visit, need)

    monkeypatch.setattr(Gate, "admit", counted)

    assert [own.ask(api) for _ in range(5) for api in APIS] == [Outcome.OK] * 20
    assert len(seen) == (1 if transport == "native" else 20)
    own.gate.verdicts.clear()
    assert own.ask() is Outcome.OK
    assert len(seen) == (2 if transport == "native" else 21)


@pytest.mark.parametrize("api", [api for api in APIS if "grpc" in api])
def test_the_native_transport_refuses_a_limited_caller_without_python(
    running: Run, tmp_path: Path, transport: str, monkeypatch: pytest.MonkeyPatch, api: str
) -> None:
    own = Set(running, tmp_path, ONLY_MODEL + "calls_per_second = 0.01\n")
    seen: list[Need] = []
    admit = Gate.admit

    def counted(gate: Gate, visit: Visit, need: Need) -> None:
        seen.append(need)
        admit(gate, visit, need)

    monkeypatch.setattr(Gate, "admit", counted)
    assert own.ask(api) is Outcome.OK
    refused = [APIS[api](own.target, "predict", MODEL, own.header) for _ in range(5)]

    assert {each.outcome for each in refused} == {Outcome.EXHAUSTED}
    assert {each.text for each in refused} == {
        "key:shop has reached the limit of rule 1 of the policy; try again later"
    }
    assert all(98_000 < int(each.headers["grpc-retry-pushback-ms"]) <= 100_000 for each in refused)
    assert len(seen) == (1 if transport == "native" else 6)
    counted_calls = f'model_name="{MODEL}",code="RESOURCE_EXHAUSTED"}} 5\n'
    eventually(lambda: counted_calls in own.server._server._metrics.page().decode())


def test_a_verdict_from_before_a_change_is_not_kept(running: Run, tmp_path: Path, transport: str) -> None:
    if transport != "native":
        pytest.skip("grpcio caches no verdicts")
    own = Set(running, tmp_path, "")
    before = own.gate.verdicts.generation
    own.gate.verdicts.clear()

    from headrace_server.security.principal import Credentials
    from headrace_server.security.verdicts import Verdict

    stranger = Verdict(Credentials("Bearer stranger"), MODEL, None, None, low=False)
    own.gate.verdicts.put(before, stranger)
    assert ask_tf_serving(own.target, "predict", MODEL, "Bearer stranger").outcome is Outcome.UNAUTHENTICATED


def test_health_is_open_and_that_of_a_model_is_not(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, "")

    def ask(service: str, header: str = "") -> Outcome:
        return own.target.grpc(HEALTH, HealthCheckRequest(service=service).SerializeToString(), header).outcome

    assert ask("") is ask("inference.GRPCInferenceService") is Outcome.OK
    assert ask("", "Bearer of something else") is Outcome.OK
    assert ask(MODEL) is ask("no such model") is Outcome.UNAUTHENTICATED
    assert ask(MODEL, own.header) is Outcome.OK
    assert own.target.http("GET", "/").outcome is Outcome.OK
    assert own.target.http("GET", "/page/state").outcome is Outcome.UNAUTHENTICATED
    assert own.target.http("GET", "/page/state", header=own.header).outcome is Outcome.OK
    # No transport may repeat the answer to a caller who has not shown a key.
    state = f"/page/state?model={MODEL}"
    assert own.target.http("GET", state, header=own.header).outcome is Outcome.OK
    assert own.target.http("GET", state).outcome is Outcome.UNAUTHENTICATED
    assert own.target.http("GET", "/page/options").outcome is Outcome.UNAUTHENTICATED
    assert own.target.http("GET", "/metrics").outcome is Outcome.UNAUTHENTICATED
    assert own.target.http("GET", "/healthz").outcome is Outcome.OK
    assert own.target.http("GET", "/v2/health/ready").outcome is Outcome.OK
    assert own.target.http("GET", "/v2/models/model/ready").outcome is Outcome.UNAUTHENTICATED


def test_reflection_has_its_own_switch(running: Run, tmp_path: Path) -> None:
    keys = tmp_path / "keys.json"
    create_key(keys, "shop")

    def ask(*opened: str) -> grpc.StatusCode:
        server = running(models.linear, auth=AuthOptions(keys_file=str(keys), open=opened))
        path = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            send: Any = channel.stream_stream(path)
            call = send(iter([b""]), timeout=60)
            with suppress(grpc.RpcError):
                list(call)
            code: grpc.StatusCode = call.code()
            return code

    assert ask() is grpc.StatusCode.UNAUTHENTICATED
    assert ask("reflection") is not grpc.StatusCode.UNAUTHENTICATED


def test_several_headers_are_refused(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, "")
    request = predict_request({"x": floats([1, 2, 3, 4])})
    metadata = [("authorization", own.header), ("authorization", own.header)]

    with pytest.raises(grpc.RpcError) as error:
        own.server.caller.call(request, metadata=metadata)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    connection = own.target.connect()
    connection.putrequest("GET", "/v1/models/model")
    for _ in range(2):
        connection.putheader("Authorization", own.header)
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_reloading_takes_the_right_to_administer_every_model(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL + 'methods = ["admin"]\n')

    assert ask_tf_serving(own.target, "admin", MODEL, own.header).outcome is Outcome.DENIED
    assert own.server.caller.refusal(ReloadConfigRequest()).code is grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"jwt_issuer": "https://issuer.example"}, "--auth_jwt_issuer needs --auth_jwt_audience"),
        ({"jwt_audience": ("a",)}, "need --auth_jwt_issuer"),
        (
            {"jwt_issuer": "http://issuer.example", "jwt_audience": ("a",)},
            "--auth_jwt_issuer must be a URL that begins",
        ),
        ({"certificates": True}, "--auth_certificates needs --ssl_config_file"),
        ({"keys_file": "/no/such/file"}, "/no/such/file: No such file"),
        ({"policy_file": "/no/such/file"}, "/no/such/file: No such file"),
        ({"open": ("admin",)}, "--auth_open must be a list of health, reflection, metrics, page"),
    ],
)
def test_invalid_options(running: Run, options: dict[str, object], culprit: str) -> None:
    with pytest.raises(ServingError) as error:
        running(models.linear, auth=AuthOptions(**options))  # type: ignore[arg-type]

    assert culprit in error.value.message


def test_the_commands_take_a_token_from_the_environment(
    running: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    own = Set(running, tmp_path, "")
    server = f"--server=127.0.0.1:{own.server.port}"
    assert main(["call", MODEL, "x=[[1, 2, 3, 4]]", server]) == main(["models", server]) == 1
    assert capsys.readouterr().err.count("credentials are missing") == 2

    monkeypatch.setenv("HEADRACE_TOKEN", own.header.removeprefix("Bearer "))
    assert main(["call", MODEL, "x=[[1, 2, 3, 4]]", server]) == main(["models", server]) == 0
    assert "10.0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "path", [PREDICT, RELOAD_PATH, OIP + "ModelInfer", OIP + "RepositoryModelLoad", OIP + "ModelConfig"]
)
def test_no_message_is_parsed_for_a_caller_without_credentials(running: Run, tmp_path: Path, path: str) -> None:
    own = Set(running, tmp_path, ONLY_MODEL)
    assert own.target.grpc(path, b"\xff").outcome is Outcome.UNAUTHENTICATED
    assert own.target.grpc(path, b"\xff", own.header).outcome is Outcome.OTHER


def test_no_stream_begins_without_credentials(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL)
    send: Any = own.server.caller.channel.stream_stream(OIP + "ModelStreamInfer")
    with pytest.raises(grpc.RpcError) as error:
        list(send(iter(()), timeout=60))
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_rule_may_let_anybody_call_one_model(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL + '[groups]\nall = ["anonymous"]\n[[rules]]\nwho = ["group:all"]\n')
    assert {
        ask(own.target, method, MODEL, "").outcome for ask in APIS.values() for method in ("predict", "metadata")
    } == {Outcome.OK}
    assert ask_tf_serving(own.target, "admin", MODEL, "").outcome is Outcome.UNAUTHENTICATED


def test_a_refusal_names_the_first_model_that_is_not_allowed(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL)
    request = MultiInferenceRequest()
    for name in (MODEL, "other", "third"):
        request.tasks.add().model_spec.name = name
    refused = own.target.grpc(
        "/tensorflow.serving.PredictionService/MultiInference", request.SerializeToString(), own.header
    )
    assert (refused.outcome, refused.text) == (Outcome.DENIED, "key:shop has no right to predict of model other")


def test_each_request_of_a_stream_is_checked(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL)
    send: Any = own.server.caller.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        ModelInferRequest.SerializeToString,
        ModelStreamInferResponse.FromString,
    )
    requests: Queue[ModelInferRequest | None] = Queue()
    stream = send(iter(requests.get, None), timeout=60, metadata=(("authorization", own.header),))

    def ask(model: str) -> str:
        request = ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=[1, 4])
        request.raw_input_contents.append(floats([1, 2, 3, 4]).tobytes())
        requests.put(request)
        return str(next(stream).infer_response.model_name)

    assert [ask(MODEL), ask(MODEL)] == [MODEL, MODEL]
    revoke_keys(own.keys, "shop")
    own.gate.look()
    with pytest.raises(grpc.RpcError) as error:
        ask(MODEL)
    assert error.value.code() is grpc.StatusCode.UNAUTHENTICATED
    requests.put(None)


def test_a_stream_without_the_right(running: Run, tmp_path: Path) -> None:
    own = Set(running, tmp_path, ONLY_MODEL)
    send: Any = own.server.caller.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")
    other = ModelInferRequest(model_name="other").SerializeToString()
    for header, code in ((own.header, "PERMISSION_DENIED"), ("Bearer x", "UNAUTHENTICATED")):
        with pytest.raises(grpc.RpcError) as error:
            list(send(iter([other]), timeout=60, metadata=(("authorization", header),)))
        assert error.value.code().name == code
