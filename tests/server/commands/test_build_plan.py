"""`headrace build`: the plan, its accuracy compared with ONNX Runtime, its latencies, and its error messages."""

import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace_server.commands.build import report
from headrace_server.commands.build_plan import BuildOrder, Built, build
from headrace_server.commands.headrace import main
from headrace_server.config.tensorrt import TensorrtOptions
from headrace_server.errors import ServingError
from tests.support import models
from tests.support.gpu import Gpu

Build = Callable[..., tuple[int, str, str]]


@pytest.fixture
def command(gpu: Gpu, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Build:
    """Runs `headrace build` on version 1 of a model; returns its exit status, output, and errors."""
    del gpu  # only the fixture's effect is needed

    def run(*flags: str, make: Callable[[Path], Path] = models.linear, toml: str = "") -> tuple[int, str, str]:
        make(tmp_path / "m" / "1")
        (tmp_path / "m" / "model.toml").write_text(toml)
        status = main(
            ["build", str(tmp_path / "m" / "1"), f"--tensorrt_cache_folder={tmp_path / 'c'}", "--runs=2", *flags]
        )
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def plan(tmp_path: Path) -> Path:
    return tmp_path / "m" / "1" / "model.plan"


def test_a_plan_that_the_server_can_load(gpu: Gpu, command: Build, tmp_path: Path) -> None:
    status, said, errors = command(toml="[batching]\nallowed_batch_sizes = [2, 8]\nmax_batch_size = 8")

    assert status == 0
    assert all(" INFO " in line for line in errors.splitlines())
    lines = said.splitlines()
    assert re.fullmatch(rf"{plan(tmp_path)}: \d+\.\d MB in \d+\.\d s", lines[0])
    assert lines[2:5] == [
        "Compared with ONNX Runtime on the CPU, over 64 rows:",
        "output  largest difference  mean  largest value    equal",
        lines[4],
    ]
    assert re.fullmatch(r"y +0 +0 +\d\.\d+ +100\.00%", lines[4])
    assert lines[6] == "One batch at a time, including the copies to and from the GPU:"
    assert lines[7].split() == ["rows", "median", "ms", "p99", "ms", "rows/s"]
    assert [line.split()[0] for line in lines[8:]] == ["2", "8"]
    backend = gpu.load(tmp_path / "m" / "1")
    assert backend.run("serving_default", {"x": np.ones((8, 4), np.float32)}, ("y",))["y"].tolist() == [[4]] * 8
    backend.close()


def test_the_plan_is_written_to_the_given_path(command: Build, tmp_path: Path) -> None:
    output = tmp_path / "elsewhere" / "x.engine"

    assert command(f"--output={output}")[0] == 0
    assert output.stat().st_size > 0
    assert not plan(tmp_path).exists()


def test_precision_and_profile_are_those_of_model_toml(gpu: Gpu, command: Build) -> None:
    toml = '[tensorrt]\nprecision = "fp16"\noptimization_level = 4\nopt_batch_size = 4\n[batching]\nmax_batch_size = 16'
    status, said, _ = command(make=models.wide, toml=toml)

    assert status == 0
    (line,) = [line for line in said.splitlines() if line.startswith("y ")]
    assert 0 < float(line.split()[1]) < 0.05
    assert gpu.machine.built_with.builder_optimization_level == 4
    assert gpu.machine.built_with.profiles[0].shapes == {"x": ([1, 64], [4, 64], [16, 64])}
    assert [line.split()[0] for line in said.splitlines()[-5:]] == ["1", "2", "4", "8", "16"]


def test_an_engine_that_differs_too_much_is_not_written(command: Build, tmp_path: Path) -> None:
    status, said, errors = command("--max_difference=1e-9", make=models.wide, toml='[tensorrt]\nprecision = "fp16"')

    assert (status, said) == (1, "")
    assert re.search(
        r"headrace: cannot build: FAILED_PRECONDITION: output y differs from ONNX Runtime's by up to \S+, which is "
        r"more than 1e-09: no plan is written$",
        errors.strip(),
    )
    assert not plan(tmp_path).exists()


class TestInputs:
    def test_the_operators_own_rows(self, command: Build, tmp_path: Path) -> None:
        np.savez(tmp_path / "x.npz", a=np.ones((5, 2), np.float64), b=np.zeros((5, 2), np.float32), labels=np.ones(5))

        status, said, _ = command(f"--inputs={tmp_path / 'x.npz'}", make=models.two_inputs)

        assert status == 0
        assert "over 5 rows:" in said
        assert re.search(r"^difference +0 +0 +1 +100\.00%$", said, re.MULTILINE)

    def test_one_array(self, command: Build, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.arange(400, dtype=np.float32).reshape(100, 4))

        status, said, _ = command(f"--inputs={tmp_path / 'x.npy'}", toml="[batching]\nmax_batch_size = 16")

        assert status == 0
        assert "over 100 rows:" in said

    def test_of_a_model_without_a_batch_axis(self, command: Build, tmp_path: Path) -> None:
        np.save(tmp_path / "x.npy", np.eye(3, dtype=np.float32))

        status, said, _ = command(f"--inputs={tmp_path / 'x.npy'}", make=models.positions)

        assert status == 0
        assert "over 1 rows:" in said

    @pytest.mark.parametrize(
        ("arrays", "said"),
        [
            ({"a": np.ones((2, 2))}, "has no b; it has a"),
            ({"a": np.ones((2, 2)), "b": np.ones((3, 2))}, "the arrays have different numbers of rows"),
            ({"a": np.ones((2, 2)), "b": np.ones((2, 3))}, "Got invalid dimensions for input: b"),
            ({"a": np.ones((2, 2)), "b": np.ones((2, 2), np.int64)}, "b has dtype int64, but the model takes float"),
            ({"a": np.ones((0, 2)), "b": np.ones((0, 2))}, "a is empty"),
        ],
    )
    def test_that_do_not_fit(
        self,
        command: Build,
        tmp_path: Path,
        arrays: dict[str, Any],
        said: str,
    ) -> None:
        np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)

        status, out, errors = command(f"--inputs={tmp_path / 'x.npz'}", make=models.two_inputs)

        assert (status, out) == (1, "")
        assert f"INVALID_ARGUMENT: {tmp_path / 'x.npz'}" in errors
        assert said in errors
        assert not plan(tmp_path).exists()

    def test_that_are_missing_are_reported_before_minutes_of_building(
        self, gpu: Gpu, command: Build, tmp_path: Path
    ) -> None:
        file = tmp_path / "x.npz"

        assert command(f"--inputs={file}")[2] == f"headrace: cannot build: NOT_FOUND: there is no file {file}\n"
        assert gpu.machine.built_with is None

    def test_that_are_not_arrays(self, command: Build, tmp_path: Path) -> None:
        (tmp_path / "x.npz").write_text("no arrays")
        assert "is neither an .npz nor an .npy file" in command(f"--inputs={tmp_path / 'x.npz'}")[2]


class TestRefusals:
    def test_a_folder_without_a_model(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert main(["build", str(tmp_path)]) == 1
        assert capsys.readouterr().err == (
            f"headrace: cannot build: NOT_FOUND: {tmp_path} holds no model.onnx: give the folder of one version\n"
        )

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--input=x"], "unknown flag --input; did you mean --inputs?"),
            (["--port=1"], "unknown flag --port"),
            (["--runs=0"], "--runs must be a whole number of at least 1; was 0"),
            (
                ["--max_difference=-1"],
                "--max_difference must be a finite number of at least 0; was -1.0",
            ),
            (
                ["--max_difference=x"],
                "--max_difference must be a finite number of at least 0; was 'x'",
            ),
            (["more"], "unexpected argument 'more'"),
        ],
    )
    def test_invalid_flags(self, flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as raised:
            main(["build", "folder", *flags])

        assert raised.value.code == 2
        assert capsys.readouterr().err == f"headrace build: {said}\nTry 'headrace build --help'.\n"

    def test_errors_in_model_toml(self, command: Build) -> None:
        status, _, errors = command(toml="[tensorrt]\nprecison = 'fp16'")

        assert status == 1
        assert "tensorrt.precison: unknown key; did you mean precision?" in errors


@pytest.mark.usefixtures("gpu")
def test_the_latency_of_each_size_is_the_median_of_its_runs(tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    order = BuildOrder(version=tmp_path / "1", runs=3, tensorrt=TensorrtOptions(cache_folder=str(tmp_path / "c")))
    ticks = count(0)

    built = build(order, clock=lambda: next(ticks) ** 2 * 1e-3)

    assert all(latency.median > 0 for latency in built.latencies)
    assert [latency.rows for latency in built.latencies][:4] == [1, 2, 4, 8]
    assert built.latencies[0].median < built.latencies[0].p99


@pytest.mark.usefixtures("gpu")
def test_outputs_that_differ_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models.linear(tmp_path / "1")
    order = BuildOrder(version=tmp_path / "1", runs=1, tensorrt=TensorrtOptions(cache_folder=str(tmp_path / "c")))
    build(order)
    models.linear(tmp_path / "1", bias=0.25)  # ONNX Runtime runs this one; the plan is of the other model
    (cached,) = (tmp_path / "c").glob("*.plan")
    monkeypatch.setattr("headrace_server.backends.tensorrt.cache.model_key", lambda *_: cached.stem)

    (difference,) = build(order).differences

    assert difference.largest == pytest.approx(0.25, abs=1e-5)
    assert difference.mean == pytest.approx(0.25, abs=1e-5)
    assert difference.equal == 0


def test_a_report_of_nothing_that_differs() -> None:
    said = report(Built(Path("m.plan"), 1_500_000, 3.25, 0, (), ()))

    assert said.startswith("m.plan: 1.5 MB in 3.2 s\n")


@pytest.mark.usefixtures("gpu")
def test_a_plan_that_cannot_be_written(tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    (tmp_path / "file").write_text("")
    order = BuildOrder(
        version=tmp_path / "1",
        output=tmp_path / "file" / "model.plan",
        runs=1,
        tensorrt=TensorrtOptions(cache_folder=str(tmp_path / "c")),
    )

    with pytest.raises(ServingError, match=r"model\.plan cannot be written: "):
        build(order)
