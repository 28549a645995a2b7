"""Building engines: TensorRT's settings, the requirements of strong typing, progress, and the timing cache."""

import logging
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto as Onnx

from headrace_batching import Options
from headrace_protos import Code
from headrace_server.backends.signature import DEFAULT_SIGNATURE
from headrace_server.errors import ServingError
from headrace_server.security.models.private_files import PrivateFolder, copy_of
from tests.gpu_doubles.installed import install_tensorrt
from tests.support import models
from tests.support.gpu import Gpu


def refused(act: Callable[[], Any]) -> ServingError:
    with pytest.raises(ServingError) as raised:
        act()
    return raised.value


def quantized(folder: Path) -> Path:
    """`y` = `x` [N, 4], computed in int8."""
    file = models.identity(folder, dims=("N", 4))
    model = onnx.load(file)
    graph = model.graph
    del graph.node[:]
    graph.node.append(onnx.helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]))
    graph.node.append(onnx.helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"]))
    graph.initializer.append(onnx.helper.make_tensor("scale", Onnx.FLOAT, [], [0.5]))
    graph.initializer.append(onnx.helper.make_tensor("zero", Onnx.INT8, [], [0]))
    onnx.save_model(model, file)
    return file


def test_the_settings_that_tensorrt_gets(gpu: Gpu, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    options = Options(max_batch_size=8, allowed_batch_sizes=(2, 8))
    gpu.load(tmp_path / "1", options, tf32=False, workspace_mb=64, optimization_level=5).close()
    config = gpu.machine.built_with

    assert config.flags == set()
    assert config.builder_optimization_level == 5
    assert {pool.name: size for pool, size in config.pools.items()} == {"WORKSPACE": 64 << 20}
    assert [profile.shapes for profile in config.profiles] == [
        {"x": ([1, 4], [2, 4], [2, 4])},
        {"x": ([3, 4], [8, 4], [8, 4])},
    ]


def test_unset_options_are_left_to_tensorrt(gpu: Gpu, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    gpu.load(tmp_path / "1").close()
    config = gpu.machine.built_with

    assert {flag.name for flag in config.flags} == {"TF32"}
    assert config.pools == {}


@pytest.mark.parametrize("version", ["10.9.0.34", "11.4.0.106"])
def test_every_tensorrt_types_strongly(gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str) -> None:
    install_tensorrt(monkeypatch, gpu.machine, version)  # this double complains unless networks are strongly typed
    models.linear(tmp_path / "1")

    gpu.load(tmp_path / "1").close()


def test_a_model_in_which_nothing_varies_needs_no_profile(gpu: Gpu, tmp_path: Path) -> None:
    models.identity(tmp_path / "1", dims=(3, 2))
    backend = gpu.load(tmp_path / "1")
    x = np.ones((3, 2), np.float32)

    assert backend.run(DEFAULT_SIGNATURE, {"x": x}, ("y",))["y"].tolist() == x.tolist()
    assert not backend.signatures[DEFAULT_SIGNATURE].batched
    backend.close()


class TestPrecision:
    def test_only_the_inside_becomes_half_floats(self, gpu: Gpu, tmp_path: Path) -> None:
        models.wide(tmp_path / "1")
        x = np.random.default_rng(0).standard_normal((4, 64)).astype(np.float32)
        exact, half = gpu.load(tmp_path / "1"), gpu.load(tmp_path / "1", precision="fp16")
        wanted = exact.run(DEFAULT_SIGNATURE, {"x": x}, ("y",))["y"]
        got = half.run(DEFAULT_SIGNATURE, {"x": x}, ("y",))["y"]

        assert got.dtype == np.float32
        assert not np.array_equal(got, wanted)
        np.testing.assert_allclose(got, wanted, rtol=0.02, atol=0.05)
        del got, wanted
        exact.close()
        half.close()

    def test_the_copy_of_a_sealed_model_is_written_to_memory(
        self, gpu: Gpu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        build = import_module("headrace_server.backends.tensorrt.build")  # the one that imports `gpu`'s double
        half = build.half
        folders: list[Path] = []

        def kept(model: Path, folder: Path) -> Path:
            folders.append(folder)
            return Path(half(model, folder))

        monkeypatch.setattr(build, "half", kept)
        plain = models.wide(tmp_path / "1")
        with PrivateFolder("m", "1", is_sealed=True) as private:
            private.add({"model.onnx": copy_of(plain)})
            gpu.load(private.version, precision="fp16").close()
            monkeypatch.setattr(build, "SHARED_MEMORY", tmp_path / "missing")
            assert refused(partial(gpu.load, private.version, precision="fp16")).code == Code.FAILED_PRECONDITION
            gpu.load(plain.parent, precision="fp16").close()
            private.close()
        assert [folder.is_relative_to("/dev/shm") for folder in folders] == [True, False]
        assert not any(folder.exists() for folder in folders)

    def test_bfloat16_and_int8_must_come_from_the_file(self, gpu: Gpu, tmp_path: Path) -> None:
        models.linear(tmp_path / "1")
        for precision, needs in (("bf16", "bfloat16 weights"), ("int8", "QuantizeLinear and DequantizeLinear")):
            error = refused(partial(gpu.load, tmp_path / "1", precision=precision))
            assert error.code == Code.INVALID_ARGUMENT
            assert f'precision = "{precision}" needs a file that has {needs}' in error.message

    def test_a_quantized_file_is_taken(self, gpu: Gpu, tmp_path: Path) -> None:
        quantized(tmp_path / "1")
        backend = gpu.load(tmp_path / "1", precision="int8")
        x = np.array([[0.4, 1.1, -3, 100]], np.float32)

        answer = backend.run(DEFAULT_SIGNATURE, {"x": x}, ("y",))["y"].tolist()

        assert answer == [[0.5, 1, -3, 63.5]]
        backend.close()


class TestRefusals:
    def test_a_model_that_tensorrt_cannot_parse(self, gpu: Gpu, tmp_path: Path) -> None:
        file = models.linear(tmp_path / "1")
        model = onnx.load(file)
        model.graph.node[0].op_type = "TfIdfVectorizer"
        onnx.save_model(model, file)

        error = refused(lambda: gpu.load(tmp_path / "1"))

        assert error.code == Code.INVALID_ARGUMENT
        assert error.message.startswith(f"{file}: TensorRT cannot parse it: ")
        assert "TfIdfVectorizer" in error.message

    def test_a_file_that_is_not_a_model(self, gpu: Gpu, tmp_path: Path) -> None:
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "model.onnx").write_bytes(b"no model")

        assert refused(lambda: gpu.load(tmp_path / "1")).code == Code.INVALID_ARGUMENT

    def test_a_variable_dimension_without_a_range(self, gpu: Gpu, tmp_path: Path) -> None:
        models.row_sums(tmp_path / "1")

        error = refused(lambda: gpu.load(tmp_path / "1"))

        assert "dimension 1 of input x varies: say between which sizes" in error.message

    def test_an_engine_that_cannot_be_saved_still_runs(
        self, gpu: Gpu, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        models.linear(tmp_path / "1")
        (tmp_path / "file").write_text("no folder")

        gpu.load(tmp_path / "1", cache_folder=str(tmp_path / "file")).close()

        assert any(
            "the engine could not be saved, so the next load must build it again" in line for line in caplog.messages
        )


def test_timings_are_kept_for_the_next_build(gpu: Gpu, tmp_path: Path) -> None:
    models.linear(tmp_path / "1")
    for level in (1, 2):
        gpu.load(tmp_path / "1", optimization_level=level).close()
    (file,) = Path(gpu.options().tensorrt.cache_folder).glob("*.timings")
    first = file.stat().st_size
    assert gpu.machine.built_with.timings.content == b"TIMINGS:conv;conv;"

    file.write_bytes(b"damaged by somebody")
    gpu.load(tmp_path / "1", optimization_level=3).close()

    assert 0 < file.stat().st_size <= first


@pytest.mark.usefixtures("gpu")
def test_progress_is_logged_every_few_seconds(caplog: pytest.LogCaptureFixture) -> None:
    from headrace_server.backends.tensorrt.build import SAY_EVERY, Progress

    caplog.set_level(logging.INFO, "headrace_server")
    now = 0.0
    progress = Progress("m/1/model.onnx", lambda: now)
    progress.phase_start("Building Engine", None, 4)
    assert progress.step_complete("Building Engine", 0)
    progress.phase_start("Timing", "Building Engine", 1000)
    for step in range(20):  # this takes minutes, while the enclosing phase makes no progress
        now += SAY_EVERY / 8
        assert progress.step_complete("Timing", step)
    progress.phase_finish("Timing")
    for step in (1, 2, 3):
        now += SAY_EVERY
        assert progress.step_complete("Building Engine", step)
    progress.phase_finish("Building Engine")
    now += SAY_EVERY
    assert progress.step_complete("Building Engine", 3)

    assert [line.removeprefix("building an engine of m/1/model.onnx: ") for line in caplog.messages] == [
        "Building Engine, 1 of 4 steps; Timing, 8 of 1000 steps",
        "Building Engine, 1 of 4 steps; Timing, 16 of 1000 steps",
        "Building Engine, 2 of 4 steps",
        "Building Engine, 3 of 4 steps",
        "Building Engine, 4 of 4 steps",
    ]
