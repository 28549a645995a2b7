"""The dashboard and the alerts: all their queries on a real Prometheus that scrapes a real server."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from headrace_batching import Options
from tests.conftest import ROOT, TRANSPORTS, Run
from tests.support import models
from tests.support.calls import floats, predict_request
from tests.support.ports import free_port
from tests.support.prometheus import Prometheus
from tests.support.running import eventually
from tests.support.tools import tool

FOLDER = ROOT / "examples" / "monitoring"
ALERTS = FOLDER / "headrace-alerts.yml"

NOTHING_HERE = re.compile("headrace_gpu_|headrace_refusals_total|headrace_drift_")
"""Queries that find nothing on a machine without GPUs, on a server without refusals, and without a profile."""


def dashboard() -> Any:
    return json.loads((FOLDER / "headrace-dashboard.json").read_text())


def queries() -> dict[str, str]:
    """Every query of the dashboard by its panel and letter, with Grafana's variables filled in."""
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$model", ".*").replace("$__rate_interval", "10s")
        for panel in dashboard()["panels"]
        for target in panel["targets"]
    }


def alerts() -> dict[str, str]:
    """The expression of each alert by its name."""
    yaml = pytest.importorskip("yaml")
    (group,) = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for rule in group["rules"]}


@pytest.fixture(scope="module")
def transport() -> str:
    """A Prometheus that has all metrics."""
    return TRANSPORTS[-1]


@pytest.fixture(scope="module")
def prometheus(running: Run, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that has scraped a server under load until rates are known."""
    tool("prometheus")
    port = free_port()
    options = Options(max_batch_size=4, allowed_batch_sizes=(2, 4))
    server = running(models.linear, rest_api_port=port, batching=options)
    found = Prometheus(tmp_path_factory.mktemp("prometheus"), port)
    try:
        eventually(found.is_ready)

        def grows() -> bool:
            server.caller.predict({"x": floats([1, 2, 3, 4])})
            server.caller.refusal(predict_request({"y": floats([1, 2, 3, 4])}))
            series = found.query('rate(headrace_requests_total{code="OK"}[10s]) > 0')
            return bool(series) and bool(found.query("rate(headrace_padding_rows_total[10s]) > 0"))

        eventually(grows)
        yield found
    finally:
        found.close()


@pytest.mark.parametrize("name", queries())
def test_a_query_of_the_dashboard(prometheus: Prometheus, name: str) -> None:
    found = prometheus.query(queries()[name])
    assert found or NOTHING_HERE.search(queries()[name])
    assert all(series["value"][1] != "NaN" for series in found), found


def test_a_healthy_server_fires_no_alert(prometheus: Prometheus) -> None:
    firing = {name: found for name, expression in alerts().items() if (found := prometheus.query(expression))}
    assert firing == {}


def test_every_metric_in_the_alerts_and_the_dashboard_exists(prometheus: Prometheus) -> None:
    named = set(re.findall(r"\b(?:headrace|process)_\w+", " ".join([*queries().values(), *alerts().values()])))
    missing = {name for name in named if not prometheus.query(name)}
    assert {name for name in missing if not NOTHING_HERE.search(name)} <= {
        "headrace_batch_failures_total",
        "headrace_worker_restarts_total",
    }


def test_the_alerts_fire_when_they_should(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    command = [tool("promtool"), "test", "rules", str(tmp_path / "alerts_test.yml")]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_promtool_accepts_the_configuration() -> None:
    run = subprocess.run(
        [tool("promtool"), "check", "config", FOLDER / "prometheus.yml"], capture_output=True, text=True
    )
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_dashboard_is_written_by_its_script() -> None:
    subprocess.run([sys.executable, "-m", "scripts.dashboard", "--check"], cwd=ROOT, check=True)


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in dashboard()["panels"]]
    cells = [(place["x"], place["y"]) for place in places]
    assert len(set(cells)) == len(cells)
    assert max(place["x"] + place["w"] for place in places) == 24
