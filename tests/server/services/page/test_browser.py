"""The live page in a real browser: read, clicked and typed into."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf import json_format

from headrace_protos import POOL, PredictRequest
from headrace_protos.tensor import to_array
from headrace_server.config.model_config import ModelConfig
from tests.conftest import TRANSPORTS, Run
from tests.support import models
from tests.support.calls import floats, predict_request
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import RunningServer

MARKUP = "<b onclick=alert(1)>a&b</b>"
"""A model name that would become an element if it were interpreted as markup."""


class Site:
    """A server with its page.

    Args:
        server: The server.
        port: The port of its REST API.
    """

    def __init__(self, server: RunningServer, port: int) -> None:
        self.server = server
        self.url = f"http://127.0.0.1:{port}/"
        self.rest = RestCaller(port)


@pytest.fixture(scope="module")
def transport() -> str:
    """The fastest transport: the page is the same on all, and its requests are tested on all."""
    return TRANSPORTS[-1]


def is_wrong(message: Any) -> bool:
    """Whether the browser's console has an error other than a refused call, which a test may intend."""
    return message.type == "error" and "Failed to load resource" not in message.text


@pytest.fixture(scope="module")
def site(running: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A server of two models: `sums`, and one with two inputs whose name is markup."""
    folder = tmp_path_factory.mktemp("models")
    models.linear(folder / "sums" / "1")
    models.two_inputs(folder / "pair" / "1")
    port = free_port()
    configs = (ModelConfig("sums", folder / "sums"), ModelConfig(MARKUP, folder / "pair"))
    server = running(models=configs, rest_api_port=port, model_base_path="", model_name="")
    site = Site(server, port)
    yield site
    site.rest.close()


@pytest.fixture
def page(browser: Any, site: Site) -> Iterator[Any]:
    """The loaded page with the model `sums` chosen; at the end it must not have had an error."""
    context = browser.new_context()
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda message: wrong.append(message.text) if is_wrong(message) else None)
    page.goto(f"{site.url}#model=sums")
    page.wait_for_selector("#model:not([hidden])")
    yield page
    context.close()
    assert wrong == []


def text(page: Any, selector: str) -> str:
    return str(page.inner_text(selector))


def choose(page: Any, model: str) -> None:
    page.get_by_role("button", name=model).click()
    page.wait_for_function("name => document.getElementById('model-name').textContent === name", arg=model)


def test_calls_are_shown_as_they_arrive(page: Any, site: Site) -> None:
    for _ in range(5):
        site.server.caller.call(predict_request({"x": floats([1, 2, 3, 4])}, name="sums"))
    site.rest.post("predict", {"instances": [[1, 2, 3, 4]]}, "/v1/models/sums")
    page.wait_for_function("() => document.getElementById('calls-panel').textContent.includes('gRPC Predict')")
    page.wait_for_function("() => document.getElementById('calls-panel').textContent.includes('REST predict')")
    assert re.search(r"run\s+[\d.]+ (µs|ms|s)", text(page, "#parts-panel"))
    assert "batches" in text(page, "#batches-panel")
    assert "float32[?,4]" in text(page, "#versions-panel")
    assert "available" in text(page, "#versions-panel")
    assert "resident memory" in text(page, "#server-panel")


def test_a_refusal_is_shown_with_its_code(page: Any, site: Site) -> None:
    site.rest.post("predict", {"instances": [[1]]}, "/v1/models/sums")
    page.wait_for_function("() => document.getElementById('calls-panel').textContent.includes('INVALID_ARGUMENT')")


def test_another_model_by_click_and_by_url(page: Any, browser: Any) -> None:
    choose(page, MARKUP)
    assert page.locator("#model-name b").count() == 0  # its name is shown as text
    assert page.locator("#try-inputs textarea").count() == 2
    again = browser.new_page()
    again.goto(page.url)
    again.wait_for_function("name => document.getElementById('model-name').textContent === name", arg=MARKUP)
    again.close()


def test_try_it(page: Any) -> None:
    page.fill("#try-inputs textarea", "[[1, 2, 3, 4], [0, 0, 0, 1]]")
    page.click("#try-send")
    page.wait_for_selector("#try-answer pre")
    assert text(page, "#try-answer p").startswith("200")
    assert json.loads(text(page, "#try-answer pre")) == {"outputs": [[10.0], [1.0]]}


def test_try_it_by_keyboard(page: Any) -> None:
    page.focus("#try-inputs textarea")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#try-answer pre")
    assert json.loads(text(page, "#try-answer pre")) == {"outputs": [[0.0]]}
    page.focus("#tab-0")
    page.keyboard.press("ArrowRight")
    assert text(page, "#try-code").startswith("grpcurl")
    assert page.evaluate("document.activeElement.id") == "tab-1"
    page.keyboard.press("ArrowLeft")
    assert text(page, "#try-code").startswith("curl")


def test_a_refusal_is_shown_with_the_servers_text(page: Any) -> None:
    page.fill("#try-inputs textarea", "[[1, 2]]")
    page.click("#try-send")
    page.wait_for_selector("#try-answer p.bad")
    assert "400" in text(page, "#try-answer p")
    assert "invalid dimensions" in text(page, "#try-answer pre")


def test_invalid_json_is_not_sent(page: Any) -> None:
    page.fill("#try-inputs textarea", "[[1, 2")
    assert text(page, "#try-code").startswith("# x must be JSON")
    page.click("#try-send")
    assert text(page, "#try-answer p").startswith("x must be JSON")


def code(page: Any, program: str) -> str:
    page.get_by_role("tab", name=program, exact=True).click()
    return str(page.text_content("#try-code"))


def test_the_same_call_as_curl(page: Any) -> None:
    page.fill("#try-inputs textarea", "[[1, 2, 3, 4]]")
    run = subprocess.run(shlex.split(code(page, "curl")), capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == {"outputs": [[10.0]]}


def test_the_same_call_as_python(page: Any) -> None:
    page.fill("#try-inputs textarea", "[[1, 2, 3, 4]]")
    run = subprocess.run([sys.executable, "-c", code(page, "Python")], capture_output=True, text=True, check=False)
    assert "[[10.]]" in run.stdout, run.stderr


def test_the_same_call_as_grpcurl(page: Any, site: Site) -> None:
    """The request for grpcurl, parsed as grpcurl parses it."""
    page.fill("#try-inputs textarea", "[[1, 2, 3, 4]]")
    words = shlex.split(code(page, "grpcurl"))
    assert words[:3] == ["grpcurl", "-plaintext", "-d"]
    assert words[4:] == [f"127.0.0.1:{site.server.port}", "tensorflow.serving.PredictionService/Predict"]
    request = json_format.Parse(words[3], PredictRequest(), descriptor_pool=POOL)
    response = site.server.caller.call(request)
    assert to_array(response.outputs["y"]).tolist() == [[10.0]]


def test_dark_and_light(page: Any) -> None:
    def ground() -> str:
        return str(page.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    page.click("#theme")
    dark = ground()
    assert light != dark
    page.reload()
    assert ground() == dark  # the choice is remembered
    page.click("#theme")
    assert ground() == light


def test_a_phone_scrolls_only_vertically(browser: Any, site: Site) -> None:
    phone = browser.new_page(viewport={"width": 360, "height": 740})
    phone.goto(site.url)
    phone.wait_for_selector("#tiles .tile")
    phone.wait_for_selector("#options-panel tr")
    assert phone.evaluate("document.scrollingElement.scrollWidth") <= 360
    for panel in ("#versions-panel", "#options-panel"):
        beyond = "tables => tables.filter(table => table.scrollWidth > table.clientWidth).length"
        assert phone.locator(f"{panel} .scrolls").evaluate_all(beyond) == 0
        assert (
            phone.locator(f"{panel} td").first.evaluate("cell => getComputedStyle(cell, '::before').content") != "none"
        )
    phone.close()


def test_pause(page: Any) -> None:
    page.click("#pause")
    page.wait_for_function("() => document.getElementById('link-text').textContent === 'paused'")
    seen: list[str] = []
    page.on("request", lambda request: seen.append(request.url))
    page.click("#options-all")
    page.wait_for_timeout(1500)  # an unpaused page would ask again in this time
    assert seen == []
    page.click("#pause")
    page.wait_for_function("() => document.getElementById('link-text').textContent === 'live'")


def test_all_options_on_demand(page: Any) -> None:
    assert "--model_name" not in text(page, "#options-panel tbody th")
    before = page.locator("#options-panel tbody tr").count()
    page.click("#options-all")
    assert page.locator("#options-panel tbody tr").count() > before + 20
    page.click("#options-all")
    assert page.locator("#options-panel tbody tr").count() == before


def test_everything_can_be_reached_by_the_tab_key(page: Any) -> None:
    page.click("#pause")
    reached: set[str] = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.dataset.model || ''"))
    assert {"theme", "sums", "try-version", "try-signature", "try-send", "tab-0", "try-copy", "options-all"} <= reached


def test_a_server_that_asks_for_a_token(browser: Any, site: Site) -> None:
    context = browser.new_context()
    page = context.new_page()
    sent: list[str | None] = []

    def guard(route: Any) -> None:
        sent.append(route.request.headers.get("authorization"))
        if sent[-1] == "Bearer secret":
            route.continue_()
        else:
            route.fulfill(status=401, headers={"WWW-Authenticate": "Bearer"}, body="")

    page.route("**/page/state*", guard)
    page.goto(site.url)
    page.wait_for_selector("#token:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "token-value"
    page.keyboard.type("secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#model:not([hidden])")
    assert page.is_hidden("#token")
    assert sent[0] is None
    assert sent[-1] == "Bearer secret"
    context.close()


def test_a_stopped_server_is_reported(running: Run, browser: Any) -> None:
    port = free_port()
    server = running(models.linear, rest_api_port=port)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#model:not([hidden])")
    server.stop()
    page.wait_for_selector("#link.lost")
    assert "no answer" in text(page, "#link-text")
    page.close()


def test_large_numbers_have_no_exponent(page: Any) -> None:
    found = page.evaluate(
        """async () => {
            const { short } = await import("/page/numbers.js");
            return [1234, 1.5e6, 999.6e6, 1e9, 12.34e9, 5e12].map(value => short(value));
        }"""
    )
    assert found == ["1,234", "1.5 M", "1,000 M", "1 G", "12.3 G", "5,000 G"]


def test_quantiles_are_those_of_prometheus(page: Any) -> None:
    """They are interpolated as histogram_quantile does it. Here, 10 values are at most 1, and 10 more are at most 2."""
    found = page.evaluate(
        """async () => {
            const { between, quantile } = await import("/page/numbers.js");
            const bounds = [1, 2, 4], half = { counts: [10, 10], sum: 0 };
            const grown = between({ counts: [10, 30, 5, 1], sum: 9 }, half);
            return [
                quantile(half, bounds, 0.5), quantile(half, bounds, 0.75),
                quantile({ counts: [], sum: 0 }, bounds, 0.5),
                quantile({ counts: [0, 0, 0, 3], sum: 0 }, bounds, 0.5), grown.counts, grown.sum,
                between({ counts: [1], sum: 1 }, half).counts,
            ];
        }"""
    )
    assert found == [1, 1.5, None, 4, [0, 20, 5, 1], 9, [1]]
