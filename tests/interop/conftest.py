"""Command-line clients written in Go, built once and kept in the checkout."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ROOT

GHZ = "github.com/bojand/ghz/cmd/ghz@v0.93.0"
GRPCURL = "github.com/fullstorydev/grpcurl/cmd/grpcurl@v1.9.3"


@pytest.fixture(scope="session")
def ghz() -> Path:
    """The ghz command."""
    return installed(GHZ)


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """The grpcurl command."""
    return installed(GRPCURL)


def installed(package: str) -> Path:
    """The command of a Go package, which is built where it has not been before."""
    name, version = Path(package).name.split("@")
    command = ROOT / ".cache" / f"{name}-{version}" / name
    if not command.exists():
        go = shutil.which("go")
        if go is None:
            pytest.skip(f"{name} is not there, nor the go command to build it with")
        subprocess.run([go, "install", package], check=True, env={**os.environ, "GOBIN": str(command.parent)})
    return command
