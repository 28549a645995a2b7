"""The compose file of examples/monitoring: its structure, its files, and that its services fit together."""

import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from headrace_server.commands.tensorflow_model_server import parse
from tests.conftest import ROOT
from tests.support.tools import tool

yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

FOLDER = ROOT / "examples" / "monitoring"


def read(name: str) -> Any:
    """A YAML file of the folder."""
    return yaml.safe_load((FOLDER / name).read_text())


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = read("compose.yml")["services"]
    return found


def ports_of(service: dict[str, Any]) -> dict[int, str]:
    """The published ports of a service: the address on the host by the port in the container."""
    published = [port.rpartition(":") for port in service["ports"]]
    return {int(inside): outside for outside, _, inside in published}


def files_of(service: dict[str, Any]) -> dict[str, Path]:
    """The mounted files and folders of a service: the place on the host by the place in the container."""
    mounts = [mount.split(":") for mount in service.get("volumes", [])]
    assert all(mount[2] == "ro" for mount in mounts)
    return {inside: (FOLDER / outside).resolve() for outside, inside, _ in mounts}


def test_every_service_has_an_image_and_only_keys_that_are_known(services: dict[str, dict[str, Any]]) -> None:
    known = {"image", "build", "command", "environment", "ports", "volumes", "depends_on", "stop_grace_period"}
    assert set(services) == {"headrace", "prometheus", "grafana"}
    for service in services.values():
        assert set(service) <= known
        assert service["image"]
        assert set(service.get("depends_on", [])) <= set(services)


def test_other_images_are_pinned(services: dict[str, dict[str, Any]]) -> None:
    for name in ("prometheus", "grafana"):
        assert services[name]["image"].rpartition(":")[2] not in ("", "latest")


def test_no_port_is_open_to_the_network(services: dict[str, dict[str, Any]]) -> None:
    hosts = [address for service in services.values() for address in ports_of(service).values()]
    assert all(address.startswith("127.0.0.1:") for address in hosts)
    assert len(set(hosts)) == len(hosts)


def test_mounted_and_built_files_are_in_the_repository(services: dict[str, dict[str, Any]]) -> None:
    build = services["headrace"]["build"]
    assert (FOLDER / build["context"] / build["dockerfile"]).is_file()
    for service in services.values():
        assert all(path.exists() for path in files_of(service).values())


def test_the_server_has_its_model_and_flags(services: dict[str, dict[str, Any]]) -> None:
    headrace = services["headrace"]
    assert (files_of(headrace)["/models"] / headrace["environment"]["MODEL_NAME"] / "1").is_dir()
    parsed = parse(headrace["command"])
    assert not parsed.unknown
    assert parsed.values["enable_metrics"] is True


def test_prometheus_scrapes_the_server(services: dict[str, dict[str, Any]]) -> None:
    (job,) = read("compose-prometheus.yml")["scrape_configs"]
    ((target,),) = (group["targets"] for group in job["static_configs"])
    name, _, port = target.rpartition(":")
    assert int(port) in ports_of(services[name])


def test_prometheus_reads_its_configuration_and_the_alerts(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for inside, outside in files_of(services["prometheus"]).items():
        (tmp_path / Path(inside).name).write_bytes(outside.read_bytes())
    command = [tool("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr


def test_grafana_finds_prometheus_and_the_dashboard(services: dict[str, dict[str, Any]]) -> None:
    (source,) = read("compose-grafana-source.yml")["datasources"]
    address = urlsplit(source["url"])
    assert address.hostname is not None
    assert address.port in ports_of(services[address.hostname])
    (provider,) = read("compose-grafana-dashboards.yml")["providers"]
    grafana = services["grafana"]
    shown = grafana["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert shown in files_of(grafana)
    assert Path(shown).parent == Path(provider["options"]["path"])
