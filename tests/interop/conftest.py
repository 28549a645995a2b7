"""A server with two models for all kinds of clients, and Go command-line clients, built once per checkout."""

import os
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from headrace_protos import ModelServerConfig, ModelVersionStatus
from tests.conftest import ROOT, Run
from tests.support import feature_models, models
from tests.support.calls import Caller, status_request
from tests.support.ports import free_port
from tests.support.running import eventually

GHZ = "github.com/bojand/ghz/cmd/ghz@v0.93.0"
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"

SIGNATURES: feature_models.Signatures = {
    "classify": {"method": "classify", "outputs": {"scores": "scores"}, "labels": ["lo", "hi"]},
    "regress": {"method": "regress", "outputs": {"outputs": "price"}},
}

VERSIONS = (1, 2, 3)
LABELS = {"stable": 1, "a/b:c": 2}


class TwoModels(NamedTuple):
    """The ports of a server with `sums` and `tariff`, and the folder of the models.

    `sums` adds 100 times its version to the sum of a row; all `VERSIONS` of it are served, with `LABELS`. `tariff` has
    one version, with `SIGNATURES`.
    """

    port: int
    rest_port: int
    root: Path


@pytest.fixture(scope="module")
def two_models(running: Run, tmp_path_factory: pytest.TempPathFactory) -> TwoModels:
    """A server with all its interfaces open: gRPC, REST with CORS, and monitoring."""
    root = tmp_path_factory.mktemp("models")
    for version in VERSIONS:
        models.linear(root / "sums" / str(version), bias=100 * version)
    feature_models.tariff(root / "tariff" / "1", SIGNATURES)
    (root / "models.config").write_text(str(both(root)))
    (root / "monitoring.config").write_text("prometheus_config { enable: true }")
    rest_port = free_port()
    server = running(
        model_base_path="",
        model_config_file=str(root / "models.config"),
        allow_version_labels_for_unavailable_models=True,
        file_system_poll_wait_seconds=0.02,
        rest_api_port=rest_port,
        rest_api_enable_cors_support=True,
        monitoring_config_file=str(root / "monitoring.config"),
    )
    eventually(partial(serves_all, server.caller))
    return TwoModels(server.port, rest_port, root)


def both(root: Path) -> ModelServerConfig:
    """The configuration of the two models."""
    config = ModelServerConfig()
    for name in ("sums", "tariff"):
        model = config.model_config_list.config.add(name=name, base_path=str(root / name), model_platform="tensorflow")
        model.model_version_policy.all.SetInParent()
    config.model_config_list.config[0].version_labels.update(LABELS)
    return config


def serves_all(caller: Caller) -> bool:
    """Whether every version of `sums` is loaded; the start of a server waits for only one."""
    states = [version.state for version in caller.call(status_request(name="sums")).model_version_status]
    return states == [ModelVersionStatus.AVAILABLE] * len(VERSIONS)


@pytest.fixture(scope="session")
def ghz() -> Path:
    """The ghz command."""
    return installed(GHZ)


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """The grpcurl command."""
    return installed(GRPCURL)


def installed(package: str) -> Path:
    """The command of a Go package, built if that has not been done yet."""
    name, version = Path(package).name.split("@")
    command = ROOT / ".cache" / f"{name}-{version}" / name
    if not command.exists():
        go = shutil.which("go")
        if go is None:
            pytest.skip(f"{name} is not installed, and there is no go command to build it with")
        subprocess.run([go, "install", package], check=True, env={**os.environ, "GOBIN": str(command.parent)})
    return command
