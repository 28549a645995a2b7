"""The live page of a model with a latency objective, on every transport: its estimates, and its choices."""

from typing import Any

import pytest

from tests.conftest import Run
from tests.support import models
from tests.support.calls import floats, predict_request
from tests.support.ports import free_port
from tests.support.rest_calls import RestCaller
from tests.support.running import RunningServer

OBJECTIVE = "p99 5s"


@pytest.fixture(scope="module")
def rest_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(running: Run, rest_port: int) -> RunningServer:
    """A server that has answered 40 calls of one row, one after the other."""
    made = running(models.linear, rest_api_port=rest_port, latency_objective=OBJECTIVE)
    for _ in range(40):
        made.caller.call(predict_request({"x": floats([1, 2, 3, 4])}))
    return made


@pytest.fixture
def objectives(server: RunningServer, rest_port: int) -> dict[str, Any]:
    del server
    rest = RestCaller(rest_port)
    (version,) = rest.get("/page/state").value["model"]["versions"]
    rest.close()
    found: dict[str, Any] = version["objectives"]
    return found


def opened(browser: Any, port: int, **context: Any) -> Any:
    page = browser.new_page(**context)
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#objective:not([hidden])")
    return page


def test_the_state_has_the_estimates_of_each_queue(objectives: dict[str, Any]) -> None:
    (beliefs,) = objectives.values()
    assert (beliefs["objective"], beliefs["objective_ms"]) == (OBJECTIVE, 5000)
    assert beliefs["runs"] >= 32  # the scheduler decides after each of the first runs, then a few times a second
    assert beliefs["run_times"][0]["batch_size"] == 1
    assert 0 < beliefs["run_times"][0]["typical_ms"] <= beliefs["run_times"][0]["high_ms"]
    assert beliefs["chosen"]["batch_size"] >= 1
    assert beliefs["rows_per_batch"] == 1


def test_the_page_says_what_was_chosen_and_why(server: RunningServer, browser: Any, rest_port: int) -> None:
    page = opened(browser, rest_port)
    said = page.inner_text("#objective-panel")
    assert OBJECTIVE in said
    assert " runs for up to " in said  # the reason, in the scheduler's words
    assert "a full batch has" in said
    first = page.locator("#objective-panel tbody tr").first.inner_text().split()
    assert first[0] == "1"  # the run time of a row, its slow run time and its rate
    assert first[-1].endswith("/s")
    assert f"objective {OBJECTIVE}" in page.inner_text("#versions-panel")
    for _ in range(40):
        server.caller.call(predict_request({"x": floats([1, 2, 3, 4])}))
    line = "() => document.querySelector('#objective-panel path').getAttribute('d').includes('L')"
    page.wait_for_function(line)  # the chart keeps moving
    page.close()


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("colours", ["dark", "light"])
def test_the_page_fits_a_phone(browser: Any, rest_port: int, colours: str) -> None:
    page = opened(browser, rest_port, viewport={"width": 360, "height": 740}, color_scheme=colours)
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 360
    page.close()


def test_a_model_without_an_objective_shows_none(running: Run, browser: Any) -> None:
    port = free_port()
    running(models.linear, rest_api_port=port)
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{port}/")
    page.wait_for_selector("#model:not([hidden])")
    assert page.is_hidden("#objective")
    page.close()
