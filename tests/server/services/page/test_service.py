"""The live page over HTTP: its files, and the state that they request."""

import asyncio
import json
import re
from typing import Any

import pytest

from headrace_batching import LoopDelivery, Options
from headrace_server import Config
from headrace_server.config.signing import SigningOptions
from headrace_server.services.http import HttpAnswer, HttpRequest
from headrace_server.services.page.options import HIDDEN, options_in_force
from headrace_server.services.page.service import GUARDED_PATHS, OPTIONS_PATH, PATHS, STATE_PATH, PageApi
from headrace_server.services.page.state import PageState
from tests.conftest import Rest, Run
from tests.support import models
from tests.support.ports import free_port
from tests.support.rest_calls import ROW, RestCaller
from tests.support.running import eventually


@pytest.fixture(scope="module")
def caller(resting: Rest) -> RestCaller:
    caller = resting(models.linear, batching=Options(max_batch_size=4, allowed_batch_sizes=(2, 4)))
    caller.predict(ROW)
    caller.refusal("{")
    return caller


def state(caller: RestCaller, model: str = "model") -> dict[str, Any]:
    answer = caller.get(f"{STATE_PATH}?model={model}")
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    value: dict[str, Any] = answer.value
    return value


@pytest.mark.parametrize("path", PATHS)
def test_every_path(caller: RestCaller, path: str) -> None:
    answer = caller.get(path)
    assert answer.status == 200
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert caller.send("POST", path).status == 405


def test_nothing_is_loaded_from_other_servers(caller: RestCaller) -> None:
    texts = {path: caller.get(path).text for path in PATHS if path not in GUARDED_PATHS}
    loaded = re.findall(r"""(?:src|href)="([^"]+)"|url\(|from "([^"]+)"|import\(""", "\n".join(texts.values()))
    elsewhere = [link for link in map("".join, loaded) if re.match(r"\w+:|//", link) and link != "data:,"]
    assert loaded
    assert elsewhere == []
    assert 'src="page/app.js"' in texts["/"]


def test_the_figures_of_a_model(caller: RestCaller) -> None:
    shown = state(caller)
    assert shown["models"] == [{"name": "model", "versions": [[1, "AVAILABLE"]], "calls": 2}]
    (version,) = shown["model"]["versions"]
    assert [sum(version[key]["counts"]) for key in ("queue", "batch", "rows")] == [1, 1, 1]
    assert {part: sum(each["counts"]) for part, each in version["parts"].items()} == {"join": 1, "run": 1, "split": 1}
    assert (version["padding"], version["waiting"], version["refusals"]) == (1, 0, {})
    assert version["batching"]["queue_rows"] == 40
    assert sorted((call["protocol"], call["method"], call["code"]) for call in shown["model"]["calls"]) == [
        ("REST", "predict", "INVALID_ARGUMENT"),
        ("REST", "predict", "OK"),
    ]


def test_the_description_of_a_version(caller: RestCaller) -> None:
    (signature,) = state(caller)["model"]["versions"][0]["signatures"]
    assert signature["name"] == "serving_default"
    assert signature["inputs"] == [{"name": "x", "dtype": "DT_FLOAT", "shape": [None, 4], "text": "float32[?,4]"}]
    assert (signature["batched"], signature["verdict"]) == (True, "independent")


def test_the_server(caller: RestCaller, transport: str) -> None:
    shown = state(caller)
    assert shown["server"]["transport"] == transport
    assert shown["server"]["grpc_port"] > 0
    assert shown["memory"]["limit"] > 0
    assert shown["process"]["process_cpu_seconds_total"] > 0


def test_an_unknown_model_shows_the_first(caller: RestCaller) -> None:
    assert state(caller, "nobody")["model"]["name"] == "model"


def test_a_failed_version_has_its_error(running: Run) -> None:
    port = free_port()
    server = running(models.linear, rest_api_port=port, file_system_poll_wait_seconds=0.02)
    models.broken(server.base_path / "unfinished").parent.rename(server.base_path / "2")
    caller = RestCaller(port)

    def failed() -> list[str]:
        return [version.get("error", "") for version in state(caller)["model"]["versions"] if version["state"] == "END"]

    (error,) = eventually(failed)
    caller.close()
    assert "model.onnx cannot be loaded" in error


def test_off(resting: Rest) -> None:
    caller = resting(models.linear, enable_page=False)
    assert [caller.get(path).status for path in ("/", *GUARDED_PATHS)] == [404, 404, 404]


def test_the_options_are_not_part_of_every_state(caller: RestCaller) -> None:
    options = {option["name"]: option for option in caller.get(OPTIONS_PATH).value}
    assert options["model_name"]["value"] == "model"
    assert "options" not in state(caller)


def test_options_in_force() -> None:
    shown = {option["name"]: option for option in options_in_force(Config(port=1234, model_base_path="/m"))}
    assert (shown["port"]["value"], shown["port"]["default"]) == (1234, 8500)
    assert shown["onnxruntime_gpu_memory_limit_mb"]["value"] == 0
    assert "rest_api_num_threads" not in shown  # an option without an effect
    assert json.dumps(list(shown.values()))
    assert HIDDEN not in {option["value"] for option in shown.values()}
    config = Config(model_base_path="/m", signing=SigningOptions(model_keys_command="kms --password=secret"))
    assert "secret" not in json.dumps([option["value"] for option in options_in_force(config)])
    remote = Config(model_base_path="https://host/m.onnx?sig=secret")
    assert "secret" not in json.dumps([option["value"] for option in options_in_force(remote)])


def test_the_native_transport_repeats_a_fresh_state(
    running: Run, transport: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    answer = PageApi.answer

    async def counted(api: PageApi, request: HttpRequest, delivery: LoopDelivery) -> HttpAnswer:
        asked.append(request.query)
        return await answer(api, request, delivery)

    monkeypatch.setattr(PageApi, "answer", counted)
    port = free_port()
    running(models.linear, rest_api_port=port)
    caller = RestCaller(port)
    first, *_ = [state(caller)["time"] for _ in range(30)]
    assert len(asked) < 30 if transport == "native" else len(asked) == 30
    eventually(lambda: state(caller)["time"] > first)
    asked.clear()
    for query in ("?model=nobody", "?model=mode%6C", "?model=model&more=1", "") * 2:
        assert caller.get(STATE_PATH + query).status == 200
    assert len(asked) == 8
    caller.close()


class Counting(PageState):
    """Counts how often it is read."""

    def __init__(self) -> None:
        self.reads: list[str] = []

    def known(self, model: str) -> str:
        return model

    def read(self, model: str) -> dict[str, Any]:
        self.reads.append(model)
        return {"reads": len(self.reads)}


async def look(api: PageApi, delivery: LoopDelivery, model: str) -> int:
    answer = await api.answer(HttpRequest("GET", STATE_PATH, f"?model={model}"), delivery)
    reads: int = json.loads(bytes(answer.body))["reads"]
    return reads


def test_many_viewers_cost_as_much_as_one() -> None:
    async def run() -> list[int]:
        now = [100.0]
        counting = Counting()
        api, delivery = PageApi(counting, lambda: now[0]), LoopDelivery(asyncio.get_running_loop())
        seen = list(await asyncio.gather(*(look(api, delivery, "m") for _ in range(10))))
        now[0] += 0.6
        seen.append(await look(api, delivery, "m"))
        seen.append(await look(api, delivery, "other"))
        seen.append(await look(api, delivery, "m"))
        return seen

    assert asyncio.run(run()) == [1] * 10 + [2, 3, 2]
