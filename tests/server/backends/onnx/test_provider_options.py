"""An operator's settings, translated to ONNX Runtime's provider options, and where TensorRT's engines are cached."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from headrace_batching import Options
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.onnx import provider_options as onnx_provider_options
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.provider_options import (
    cuda_options,
    engine_key,
    memory_limit,
    profile_shapes,
    provider_options,
    tensorrt_options,
)
from headrace_server.backends.onnx.providers import TENSORRT
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.security.models.private_files import PrivateFolder, copy_of
from tests.support import models


def options(fraction: float = 0.0, batching: Options | None = None, **onnxruntime: Any) -> BackendOptions:
    return BackendOptions(
        onnxruntime=OnnxruntimeOptions(**onnxruntime), gpu_memory_fraction=fraction, batching=batching
    )


class TestWords:
    def test_cuda(self) -> None:
        assert cuda_options(OnnxruntimeOptions(), 0) == {
            "device_id": "0",
            "arena_extend_strategy": "kNextPowerOfTwo",
            "cudnn_conv_algo_search": "HEURISTIC",
            "prefer_nhwc": "0",
            "use_tf32": "1",
        }
        convolutions = {"gpu_convolution_search": "exhaustive", "gpu_prefer_nhwc": True, "gpu_tf32": False}
        given = OnnxruntimeOptions(device_id=3, gpu_arena_strategy="same_as_requested", **convolutions)  # type: ignore[arg-type]
        assert cuda_options(given, 1 << 30) == {
            "device_id": "3",
            "arena_extend_strategy": "kSameAsRequested",
            "cudnn_conv_algo_search": "EXHAUSTIVE",
            "prefer_nhwc": "1",
            "use_tf32": "0",
            "gpu_mem_limit": str(1 << 30),
        }

    def test_tensorrt(self) -> None:
        assert tensorrt_options(OnnxruntimeOptions(), 0) == {
            "device_id": "0",
            "trt_fp16_enable": "False",
            "trt_int8_enable": "False",
            "trt_engine_cache_enable": "False",
            "trt_timing_cache_enable": "False",
        }
        given = OnnxruntimeOptions(
            device_id=1,
            tensorrt_fp16=True,
            tensorrt_int8=True,
            tensorrt_engine_cache="/engines",
            tensorrt_timing_cache="/timings",
        )
        assert tensorrt_options(given, 5 << 20) == {
            "device_id": "1",
            "trt_fp16_enable": "True",
            "trt_int8_enable": "True",
            "trt_engine_cache_enable": "True",
            "trt_timing_cache_enable": "True",
            "trt_timing_cache_path": "/timings",
            "trt_max_workspace_size": str(5 << 20),
        }

    def test_the_cpu_has_none(self, tmp_path: Path) -> None:
        assert provider_options(CPU, tmp_path, options(device_id=1)) == {}


class TestMemoryLimit:
    def test_none(self) -> None:
        assert memory_limit(options()) == memory_limit(options(fraction=1.0)) == memory_limit(options(-1.0)) == 0

    def test_a_part_of_the_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_provider_options, "device_memory", {2: 8000}.__getitem__)

        assert memory_limit(options(fraction=0.25, device_id=2)) == 2000

    def test_a_number_goes_before_a_part(self) -> None:
        assert memory_limit(options(fraction=0.5, gpu_memory_limit_mb=3)) == 3 << 20


class TestProfile:
    def test_from_one_row_to_the_most(self) -> None:
        assert profile_shapes({"x": (None, 3, 8), "y": (None,)}, 32) == {
            "trt_profile_min_shapes": "x:1x3x8,y:1",
            "trt_profile_opt_shapes": "x:32x3x8,y:32",
            "trt_profile_max_shapes": "x:32x3x8,y:32",
        }

    @pytest.mark.parametrize("shape", [(None, None), (4, 2), ()])
    def test_none_where_not_the_batch_alone_varies(self, shape: Sequence[int | None]) -> None:
        assert profile_shapes({"x": (None, 3), "y": shape}, 32) == {}

    def test_is_of_what_the_model_declares_and_the_batching_allows(self, tmp_path: Path) -> None:
        file = models.linear(tmp_path, columns=4)
        found = provider_options(TENSORRT, file, options(batching=Options(max_batch_size=16)))

        assert found["trt_profile_max_shapes"] == "x:16x4"
        assert "trt_profile_max_shapes" not in provider_options(TENSORRT, file, options())
        assert "trt_profile_max_shapes" not in provider_options(
            TENSORRT, models.row_sums(tmp_path / "wide"), options(batching=Options())
        )


class TestEngines:
    """ONNX Runtime names a cached engine by the graph, and would run one model with the weights of another."""

    @pytest.fixture(autouse=True)
    def kept_in(self, tmp_path: Path) -> None:
        self.cache = tmp_path / "cache" / "engines"

    def engines(self, file: Path, **more: Any) -> str:
        given = options(tensorrt_engine_cache=str(self.cache), **more)
        return provider_options(TENSORRT, file, given)["trt_engine_cache_path"]

    def test_are_kept_where_no_other_weights_nor_options_find_them(self, tmp_path: Path) -> None:
        first = models.linear(tmp_path / "1", bias=1.0)
        kept = {
            self.engines(first),
            self.engines(models.linear(tmp_path / "2", bias=2.0)),
            self.engines(first, tensorrt_fp16=True),
            self.engines(first, batching=Options(max_batch_size=8)),
        }

        assert kept == set(map(str, self.cache.iterdir()))
        assert len(kept) == 4

    def test_are_not_kept_of_a_sealed_model(self, tmp_path: Path) -> None:
        with PrivateFolder("m", "1", is_sealed=True) as folder:
            folder.add({"model.onnx": copy_of(models.linear(tmp_path / "1"))})
            given = options(tensorrt_engine_cache=str(self.cache))
            found = provider_options(TENSORRT, folder.version / "model.onnx", given)
            folder.close()
        assert (found["trt_engine_cache_enable"], "trt_engine_cache_path" in found) == ("False", False)
        assert not self.cache.exists()

    def test_are_found_again(self, tmp_path: Path) -> None:
        assert self.engines(models.linear(tmp_path / "1")) == self.engines(models.linear(tmp_path / "2"))

    def test_weights_in_a_file_of_their_own_count(self, tmp_path: Path) -> None:
        file = models.external_data(tmp_path)
        before = engine_key(tmp_path, {})
        weights = tmp_path / models.WEIGHTS_FILE
        weights.write_bytes(bytes(weights.stat().st_size))

        assert engine_key(file.parent, {}) != before
