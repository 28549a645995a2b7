"""The real Prometheus and its promtool, if they are installed (Debian: apt-get install prometheus)."""

import json
import subprocess
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from tests.support.ports import free_port
from tests.support.tools import tool


def lint(page: str) -> str:
    """The problems that `promtool check metrics` reports for a page; empty if there are none."""
    run = subprocess.run([tool("promtool"), "check", "metrics"], input=page, capture_output=True, text=True)
    return run.stdout + run.stderr


def samples(page: str) -> dict[str, float]:
    """Every sample of a page by its name and labels, as they are written."""
    lines = (line.rpartition(" ") for line in page.splitlines() if not line.startswith("#"))
    return {series: float(number) for series, _, number in lines}


class Prometheus:
    """A running Prometheus that scrapes one server every second.

    A scrape must not take longer than the interval, and queries find nothing after a failed one: on a busy machine, an
    interval of a tenth of a second was too short.

    Args:
        folder: The folder for its data.
        port: The port of the server's REST API.
    """

    def __init__(self, folder: Path, port: int) -> None:
        config = folder / "prometheus.yml"
        target = f"{{targets: ['127.0.0.1:{port}']}}"
        config.write_text(
            f"scrape_configs:\n  - {{job_name: headrace, scrape_interval: 1s, static_configs: [{target}]}}\n"
        )
        self._port = free_port()
        command = [
            tool("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=error",
        ]
        self._process = subprocess.Popen(command)

    def is_ready(self) -> bool:
        """Whether Prometheus answers queries."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/-/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The current value of an expression: one entry for each series; raises its error."""
        asked = urllib.parse.urlencode({"query": expression})
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/api/v1/query?{asked}", timeout=30) as answer:
            found: list[dict[str, Any]] = json.load(answer)["data"]["result"]
        return found

    def close(self) -> None:
        """Stops Prometheus."""
        self._process.terminate()
        self._process.wait()
