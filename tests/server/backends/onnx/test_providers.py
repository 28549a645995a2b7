"""Which of ONNX Runtime's providers a model gets, what is logged about skipped ones, and which names are valid."""

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import onnxruntime as ort
import pytest

from headrace_protos import Code
from headrace_server.backends.base import BackendOptions
from headrace_server.backends.gpu.nvidia_driver import NoDriverError
from headrace_server.backends.onnx import providers as onnx_providers
from headrace_server.backends.onnx.loading import load_onnx
from headrace_server.backends.onnx.names import CPU
from headrace_server.backends.onnx.providers import CUDA, TENSORRT, Choice, choose, why_not
from headrace_server.config.onnxruntime import OnnxruntimeOptions
from headrace_server.errors import LoadError, ServingError
from tests.gpu_doubles.installed import install_cuda
from tests.gpu_doubles.machine import Machine
from tests.support import models

GPU_BUILD = (TENSORRT, CUDA, CPU)


class Broken:
    """Gives a reason why each provider does not work, and records which were tried."""

    def __init__(self, **reasons: str) -> None:
        self._reasons = reasons
        self.asked: list[str] = []

    def __call__(self, provider: str) -> str:
        self.asked.append(provider)
        return self._reasons.get(provider, "")


def chosen(
    wanted: Sequence[str] = ("auto",),
    available: Sequence[str] = GPU_BUILD,
    *,
    keeps_engines: bool = False,
    broken: Mapping[str, str] | None = None,
) -> Choice:
    return choose(wanted, available, Broken(**(broken or {})), keeps_engines=keeps_engines)


def refusal(wanted: Sequence[str], available: Sequence[str] = GPU_BUILD, **broken: str) -> tuple[Code, str]:
    with pytest.raises(ServingError) as raised:
        chosen(wanted, available, broken=broken)
    return raised.value.code, raised.value.message


class TestAuto:
    @pytest.mark.parametrize(
        ("available", "keeps_engines", "expected"),
        [
            ((CPU,), False, (CPU,)),
            (("AzureExecutionProvider", CPU), True, (CPU,)),
            ((CUDA, CPU), True, (CUDA, CPU)),
            (GPU_BUILD, False, (CUDA, CPU)),
            (GPU_BUILD, True, (TENSORRT, CUDA, CPU)),
        ],
    )
    def test_auto_takes_the_best_that_works(
        self, available: Sequence[str], keeps_engines: bool, expected: Sequence[str]
    ) -> None:
        assert chosen(available=available, keeps_engines=keeps_engines) == Choice(tuple(expected), {})

    def test_auto_skips_what_does_not_work_and_logs_the_reason(self) -> None:
        choice = chosen(broken={CUDA: "no GPU"})

        assert choice.providers == (CPU,)
        assert str(choice) == f"{CPU}; {CUDA} does not work: no GPU"

    def test_auto_takes_the_next_best(self) -> None:
        choice = chosen(keeps_engines=True, broken={TENSORRT: "no libnvinfer"})

        assert choice == Choice((CUDA, CPU), {TENSORRT: "no libnvinfer"})

    def test_auto_tries_nothing_after_one_that_works_and_no_cpu_provider(self) -> None:
        broken = Broken()
        choose(("auto",), GPU_BUILD, broken, keeps_engines=True)
        choose(("auto",), (CPU,), broken, keeps_engines=True)

        assert broken.asked == [TENSORRT]

    def test_auto_cannot_be_combined_with_names(self) -> None:
        code, text = refusal(("auto", CPU))

        assert (code, text) == (
            Code.INVALID_ARGUMENT,
            "ONNX Runtime's providers must be auto alone, or names; were auto, CPUExecutionProvider",
        )
        assert refusal(())[1].endswith("were none")


class TestNamed:
    def test_named_providers_are_used_in_their_order(self) -> None:
        assert chosen((TENSORRT, CUDA)).providers == (TENSORRT, CUDA)

    def test_a_provider_that_does_not_work_is_an_error_with_the_reason_and_its_requirements(self) -> None:
        code, text = refusal((TENSORRT, CUDA), **{CUDA: "there is no NVIDIA driver"})

        assert code == Code.FAILED_PRECONDITION
        assert text == (
            f"{CUDA} does not work: there is no NVIDIA driver; "
            "it needs the driver, and CUDA and cuDNN, which pip install 'headrace[gpu,cuda]' installs"
        )

    def test_a_missing_provider_is_an_error_that_says_what_to_install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_providers, "_installed", lambda name: name == "onnxruntime")

        assert refusal((CUDA, CPU), (CPU,)) == (
            Code.FAILED_PRECONDITION,
            f"onnxruntime_providers: this ONNX Runtime has no {CUDA}; it has {CPU}: "
            "pip uninstall onnxruntime, then pip install 'headrace[gpu]'",
        )

    def test_two_builds_that_hide_each_other(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_providers, "_installed", lambda _: True)

        text = refusal((CUDA,), (CPU,))[1]
        assert text.endswith(
            "onnxruntime and onnxruntime-gpu hide each other: pip uninstall both, then pip install 'headrace[gpu]'"
        )

    def test_distributions_are_found_by_name(self) -> None:
        assert onnx_providers._installed("pytest")
        assert not onnx_providers._installed("no-such-distribution")


class TestWhyNot:
    def test_no_driver(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_providers, "device_count", _no_driver)

        assert why_not(CUDA, 0) == "there is no NVIDIA driver"

    def test_no_such_device(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(onnx_providers, "device_count", lambda: 2)

        assert why_not(CUDA, 2) == "there is no GPU 2: the driver has 2"

    def test_libraries_before_the_trial(self, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = self._with_driver(monkeypatch, "libcudart.so.13: cannot open")

        assert why_not(TENSORRT, 0) == "libcudart.so.13: cannot open"
        assert [library.name for library in asked] == ["libonnxruntime_providers_tensorrt.so"]

    def test_a_provider_that_onnx_runtime_skips(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._with_driver(monkeypatch, "")

        assert why_not(CUDA, 0)  # a CPU build of ONNX Runtime refuses the name; a GPU build skips the provider

    def test_a_full_gpu_is_an_error_and_not_a_reason_to_use_the_cpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_: object) -> None:
            raise RuntimeError("CUDA failure 2: out of memory ; GPU=0")

        self._with_driver(monkeypatch, "")
        monkeypatch.setattr(onnx_providers, "open_session", full)
        with pytest.raises(ServingError, match="GPU 0 has no memory left for ONNX Runtime: CUDA failure 2") as raised:
            choose(("auto",), GPU_BUILD, partial(why_not, device=0), keeps_engines=False)
        assert raised.value.code == Code.RESOURCE_EXHAUSTED

    @pytest.mark.parametrize("memory", [1 << 20, 1 << 30])
    def test_a_cuda_library_that_cannot_start_on_a_full_gpu_lacks_memory(
        self, monkeypatch: pytest.MonkeyPatch, memory: int
    ) -> None:
        """On a full GPU, cublasCreate was observed to report only that it is not initialized."""
        said = "CUBLAS failure 1: CUBLAS_STATUS_NOT_INITIALIZED"

        def fails(*_: object) -> None:
            raise RuntimeError(f"x.cc:129 {said} ; GPU=0 ; file=x.cc ; line=181 ; expr=cublasCreate(&cublas_handle_); ")

        self._with_driver(monkeypatch, "")
        machine = Machine(memory=memory)
        install_cuda(monkeypatch, machine)
        monkeypatch.setattr(onnx_providers, "open_session", fails)
        if memory < 1 << 28:
            with pytest.raises(ServingError, match="GPU 0 has no memory left for ONNX Runtime") as raised:
                choose(("auto",), GPU_BUILD, partial(why_not, device=0), keeps_engines=False)
            assert raised.value.code == Code.RESOURCE_EXHAUSTED
        else:
            assert why_not(CUDA, 0) == said
        machine.check_nothing_left()

    @pytest.mark.parametrize(
        ("said", "reason"),
        [
            (
                'x.cc:63 [ONNXRuntimeError] : 1 : FAIL : Parse "device_id": CUDA failure 35: CUDA driver version'
                " is insufficient for CUDA runtime version ; GPU=-1 ; file=x.cc ; line=70 ; expr=cudaGetDevice(&n); \n",
                "CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version",
            ),
            ("Please install\n TensorRT libraries ", "Please install TensorRT libraries"),
        ],
    )
    def test_the_reason_is_one_line(self, monkeypatch: pytest.MonkeyPatch, said: str, reason: str) -> None:
        def fails(*_: object) -> None:
            raise RuntimeError(said)

        self._with_driver(monkeypatch, "")
        monkeypatch.setattr(onnx_providers, "open_session", fails)
        assert why_not(CUDA, 0) == reason

    def test_a_provider_that_works_passes_the_trial(self) -> None:
        assert onnx_providers._probe(CPU, 0) == ""

    def _with_driver(self, monkeypatch: pytest.MonkeyPatch, reason: str) -> list[Path]:
        asked: list[Path] = []

        def why_not_loadable(library: Path) -> str:
            asked.append(library)
            return reason

        monkeypatch.setattr(onnx_providers, "device_count", lambda: 1)
        monkeypatch.setattr(onnx_providers, "_load_installed_libraries", lambda: None)
        monkeypatch.setattr(onnx_providers, "why_not_loadable", why_not_loadable)
        return asked


class TestLoad:
    def test_cuda_demanded_in_a_build_without_it(self, tmp_path: Path) -> None:
        if CUDA in ort.get_available_providers():
            pytest.skip("this ONNX Runtime was built for CUDA")
        with pytest.raises(LoadError, match=f"providers: this ONNX Runtime has no {CUDA}; .* pip install") as raised:
            load_onnx(models.linear(tmp_path), options(CUDA))
        assert raised.value.code == Code.FAILED_PRECONDITION

    def test_a_build_for_cpus_logs_no_choice(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "headrace_server")
        load_onnx(models.linear(tmp_path), options("auto"))

        assert caplog.messages == []

    def test_a_build_for_gpus_without_a_gpu_logs_that_it_runs_on_the_cpu(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ort, "get_available_providers", lambda: list(GPU_BUILD))
        monkeypatch.setattr(onnx_providers, "device_count", _no_driver)
        caplog.set_level(logging.INFO, "headrace_server")
        file = models.linear(tmp_path)
        load_onnx(file, options("auto"))

        assert caplog.messages == [f"{file} runs on {CPU}; {CUDA} does not work: there is no NVIDIA driver"]


def options(*providers: str) -> BackendOptions:
    return BackendOptions(onnxruntime=OnnxruntimeOptions(providers=providers))


def _no_driver() -> int:
    raise NoDriverError("there is no NVIDIA driver")
