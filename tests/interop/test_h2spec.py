"""h2spec, which checks conformance to HTTP/2, against the native transport."""

import shutil
import subprocess
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from tests.conftest import Run
from tests.interop.go_build import built_tool
from tests.support import models

pytest.importorskip("headrace_native")

H2SPEC = "github.com/summerwind/h2spec/cmd/h2spec"

# h2spec opens streams until one is refused. Without a limit, it would never end.
ARGUMENTS = "grpc.max_concurrent_streams=50"

# Cases that may fail, by their section number and description, with the reason.
EXPLAINED = {
    ("http2/3.5", "Sends invalid connection preface"): (
        "The server closes the connection without reading the bytes after the preface, so Linux sends a TCP reset; "
        "h2spec accepts only an orderly close."
    ),
    ("http2/4.2", "Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE"): (
        "h2spec's frame always has 20,000 bytes, but this server accepts 256 KiB, for large tensors."
    ),
}


@pytest.fixture(scope="module")
def transport() -> str:
    return "native"


@pytest.fixture(scope="session")
def h2spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go")
    if go is None:
        pytest.skip("there is no go command to build h2spec with")
    return built_tool(go, Path(__file__).with_name("h2spec"), H2SPEC, tmp_path_factory.mktemp("h2spec"))


def test_every_case(running: Run, h2spec: Path, tmp_path: Path) -> None:
    server = running(models.linear, grpc_channel_arguments=ARGUMENTS)
    report = tmp_path / "report.xml"
    command = [str(h2spec), f"--port={server.port}", "--timeout=1", f"--junit-report={report}"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    cases = list(ET.parse(report).iter("testcase"))
    assert len(cases) == 145
    failed = {(case.get("package"), case.get("classname")) for case in cases if case.find("error") is not None}
    assert failed <= EXPLAINED.keys(), ended.stdout
    assert not [case.get("classname") for case in cases if case.find("skipped") is not None]
