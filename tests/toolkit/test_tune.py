"""`headrace tune`: what it finds, writes and refuses, as a user types it."""

import json
import subprocess
from pathlib import Path
from shutil import copytree

import pytest

from headrace_batching import LatencyObjective
from headrace_server.commands.headrace import main
from headrace_server.config.files import read_batching_parameters
from headrace_server.config.model_toml import read_model_options
from headrace_toolkit import tune as tune_module
from headrace_toolkit.tune import Threads, divide
from tests.support.running import COMMAND

DIGITS = Path(__file__).parents[2] / "models" / "digits"

OBJECTIVE = "p90 500ms"  # met on any machine, however busy


@pytest.fixture
def version(tmp_path: Path) -> Path:
    copytree(DIGITS, tmp_path / "digits")
    for left in ("model.toml", "1/batching_params.pbtxt"):
        (tmp_path / "digits" / left).unlink(missing_ok=True)
    return tmp_path / "digits" / "1"


def tune(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "tune", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def refused(capfd: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The error of the command, run in this process."""
    assert main(["tune", *map(str, arguments)]) == 1
    return capfd.readouterr().err


def test_a_server_reads_the_written_files(version: Path, tmp_path: Path) -> None:
    report = tmp_path / "found.json"
    ended = tune(version, f"--objective={OBJECTIVE}", "--seconds=2", "--write", f"--json={report}")
    assert ended.returncode == 0, ended.stderr
    found = json.loads(report.read_text())
    options = read_model_options(version.parent)
    parameters = read_batching_parameters(str(version / "batching_params.pbtxt"))

    assert options.batching == {"latency_objective": OBJECTIVE, "max_batch_size": found["chosen"]["max_batch_size"]}
    assert options.backend["intra_op_threads"] == found["chosen"]["intra_op_threads"]
    assert parameters.max_batch_size == found["chosen"]["max_batch_size"]
    assert parameters.batch_timeout_micros == found["chosen"]["batch_timeout_micros"] < 500_000
    assert all(load["good_per_second"] > 0 for load in found["loads"])
    assert found["tried"][0]["run_times"][0]["batch_size"] == 1

    again = tune(version, f"--objective={OBJECTIVE}", "--seconds=1", "--write")
    assert again.returncode == 1
    assert again.stderr.count("\n") == 1
    assert "model.toml already exists, so nothing was written" in again.stderr


def test_only_requested_files_are_written(version: Path, tmp_path: Path) -> None:
    before = sorted(version.parent.rglob("*"))
    png, page = tmp_path / "found.png", tmp_path / "found.html"
    ended = tune(version, f"--objective={OBJECTIVE}", "--seconds=1", f"--png={png}", f"--html={page}")

    assert ended.returncode == 0, ended.stderr
    assert f'latency_objective = "{OBJECTIVE}"' in ended.stdout
    assert png.read_bytes().startswith(b"\x89PNG")
    assert "data:image/png;base64," in page.read_text()
    assert sorted(version.parent.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (
            ["--objective=p99 -3ms"],
            '--objective must be a percentile from p50 to p99.99 and a time, such as "p99 20ms"',
        ),
        (["--objective=p101 2ms"], "was 'p101 2ms'"),
        (["--objective=20"], "was '20'"),
        (["--objective=p99 60us", "--seconds=0.2"], "is out of reach"),
        (["--objective=p99 1s", "--data=nothing.npz"], "nothing.npz"),
        (["--objective=p99 1s", "--json=/nowhere/x.json"], "/nowhere/x.json cannot be written: there is no folder"),
        (["--objective=p99 1s", "--png=/"], "/ cannot be written: it is a folder"),
    ],
)
def test_a_mistake_is_one_line(
    version: Path, capfd: pytest.CaptureFixture[str], arguments: list[str], text: str
) -> None:
    if "60us" in arguments[0]:
        (version / "model.onnx").unlink()
        (version / "model.py").write_text(
            "import time\nINPUTS = {'x': ('float32', [None])}\nOUTPUTS = {'y': ('float32', [None])}\n\n\n"
            "def predict(inputs):\n    time.sleep(0.001)\n    return {'y': inputs['x']}\n"
        )
    said = refused(capfd, version, *arguments)

    assert said.startswith("headrace: ")
    assert said.count("\n") == 1
    assert text in said


def test_a_missing_version(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    said = refused(capfd, tmp_path / "nobody", "--objective=p99 1s")

    assert said == f"headrace: there is no version {tmp_path}/nobody\n"


def test_a_folder_of_versions_is_refused(version: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (version.parent / "10").mkdir()
    said = refused(capfd, version.parent, "--objective=p99 1s")

    assert said == (
        f"headrace: {version.parent} is a folder of versions: name one of them, such as {version.parent}/10\n"
    )


def test_a_measurement_of_zero_seconds_is_refused(version: Path) -> None:
    ended = tune(version, "--objective=p99 1s", "--seconds=0")

    assert ended.stderr.startswith("headrace tune: --seconds must be a finite number above 0; was 0\n")


def test_busy_moments_do_not_change_the_times_of_other_sizes(version: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(_: object, size: int, *__: object) -> list[float]:
        return [0.02 if size in (1, 8, 32) else 0.0001] * 20  # the machine was busy during three sizes

    monkeypatch.setattr(tune_module, "_runs", runs)
    tried = tune_module._try(version, LatencyObjective.parse(OBJECTIVE), None, Threads(batches=1, intra_op=1), 1.0)

    assert tried.curve.sizes == tune_module.SIZES
    assert min(tried.curve.typical) >= 0.0001


def test_cpus_are_divided_in_powers_of_two() -> None:
    assert divide(1) == [Threads(batches=1, intra_op=1)]
    assert [(each.batches, each.intra_op) for each in divide(6)] == [(6, 1), (3, 2), (1, 4), (1, 6)]
