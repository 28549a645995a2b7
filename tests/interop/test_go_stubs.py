"""A Go program with stubs generated from the .proto files makes every call."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.interop.conftest import TwoModels
from tests.interop.go_build import built_client


@pytest.fixture(scope="session")
def go_client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built program."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no go command to build the client with")
    return built_client(go, tmp_path_factory.mktemp("go_client"))


def test_program_with_stubs_in_go(two_models: TwoModels, go_client: Path) -> None:
    client = [str(go_client), f"--address=127.0.0.1:{two_models.port}", f"--root={two_models.root}"]
    ended = subprocess.run(client, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
