"""How a version's folder and its model's options become a servable, with or without batching."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from headrace_batching import BatchThreads, Options
from headrace_protos import Code
from headrace_server.backends import auto
from headrace_server.backends.base import BackendOptions
from headrace_server.config.isolation import IsolationOptions
from headrace_server.errors import ServingError
from headrace_server.metrics.catalogue import Metrics
from headrace_server.models.loader import Asked, Loader
from headrace_server.models.servable import Servable
from tests.support.models import linear

SHARED = Options(max_batch_size=32, num_batch_threads=3)


class Folder:
    """A model with one version, and the servable that a loader makes from it."""

    def __init__(self, base_path: Path, threads: BatchThreads) -> None:
        self.base_path = base_path
        self.version = base_path / "1"
        self._threads = threads
        linear(self.version)

    def load(self, batching: Options | None = SHARED, *, per_model: bool = False) -> Servable:
        loader = Loader(
            BackendOptions(),
            self._threads,
            batching,
            Metrics(),
            isolation=IsolationOptions(),
            per_model_batching=per_model,
        )
        return loader.load("m", 1, self.version)

    def batching(self, batching: Options | None = SHARED, *, per_model: bool = False) -> Options | None:
        servable = self.load(batching, per_model=per_model)
        servable.close()
        return servable._batching

    def refused(self, *, per_model: bool = False) -> tuple[Code, str]:
        with pytest.raises(ServingError) as raised:
            self.load(per_model=per_model)
        return raised.value.code, raised.value.message


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    threads = BatchThreads(1)
    threads.start()
    yield Folder(tmp_path, threads)
    threads.close()


def test_without_its_own_files_a_model_is_batched_like_all_others(folder: Folder) -> None:
    assert folder.batching() == SHARED
    assert folder.batching(None) is None


class TestPerModel:
    def test_the_versions_parameters_are_used_with_the_threads_of_all_models(self, folder: Folder) -> None:
        text = "max_batch_size { value: 4 } num_batch_threads { value: 9 }"
        (folder.version / "batching_params.pbtxt").write_text(text)

        assert folder.batching(per_model=True) == Options(max_batch_size=4, num_batch_threads=3)
        assert folder.batching() == SHARED
        assert folder.batching(None, per_model=True) is None

    def test_the_number_of_threads_cannot_be_set_per_model(self, folder: Folder) -> None:
        (folder.version / "batching_params.pbtxt").write_text("num_batch_threads { value: 0 }")

        assert folder.batching(per_model=True) == Options(num_batch_threads=3, larger_alone=True)

    def test_a_model_without_parameters_is_not_batched(self, folder: Folder) -> None:
        assert folder.batching(per_model=True) is None

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("max_batch_size: 4", "Invalid protobuf file: '{file}'"),
            (
                "allowed_batch_sizes: 4",
                "{file}: Last entry in allowed_batch_sizes must match max_batch_size; last entry was 4; expected 1000",
            ),
        ],
    )
    def test_a_version_with_invalid_parameters_does_not_load(self, folder: Folder, text: str, reason: str) -> None:
        file = folder.version / "batching_params.pbtxt"
        file.write_text(text)

        assert folder.refused(per_model=True) == (Code.INVALID_ARGUMENT, reason.format(file=file))


class TestModelOptions:
    def test_model_options_override_all_others(self, folder: Folder) -> None:
        (folder.version / "batching_params.pbtxt").write_text("max_batch_size { value: 4 }")
        (folder.base_path / "model.toml").write_text("[batching]\nbatch_timeout_micros = 7")

        assert folder.batching(per_model=True) == Options(max_batch_size=4, batch_timeout_micros=7, num_batch_threads=3)

    def test_batching_can_be_turned_off(self, folder: Folder) -> None:
        (folder.base_path / "model.toml").write_text("[batching]\nenabled = false")

        assert folder.batching() is None

    def test_the_runtime_gets_its_options(self, folder: Folder) -> None:
        (folder.base_path / "model.toml").write_text('[onnxruntime]\nproviders = ["NoSuchProvider"]')
        code, text = folder.refused()

        assert code == Code.FAILED_PRECONDITION
        assert "this ONNX Runtime has no NoSuchProvider" in text

    def test_a_version_with_invalid_parameters_does_not_load(self, folder: Folder) -> None:
        file = folder.base_path / "model.toml"
        file.write_text("[batching]\nmax_execution_batch_size = 33\nenable_large_batch_splitting = true")
        code, text = folder.refused()

        assert code == Code.INVALID_ARGUMENT
        assert text.startswith(f"{file}: batching: When enable_large_batch_splitting is true, ")


class TestPrepare:
    """A loader prepares only for models that have no options of their own and run in the server's process."""

    @pytest.fixture
    def prepared(self, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
        prepared: list[Path] = []
        monkeypatch.setattr(auto, "prepare", lambda versions, _: prepared.extend(versions))
        return prepared

    def prepare(self, root: Path, isolation: IsolationOptions) -> None:
        versions = [Asked(name, 1, root / name / "1") for name in ("usual", "own", "broken")]
        for asked in versions:
            linear(asked.path)
        (root / "own" / "model.toml").write_text("[onnxruntime]\nintra_op_threads = 2\n")
        (root / "broken" / "model.toml").write_text("[nonsense]\n")
        made = Loader(
            BackendOptions(), BatchThreads(1), SHARED, Metrics(), isolation=isolation, per_model_batching=False
        )
        made.prepare(versions)

    def test_models_with_options_are_left_out(self, tmp_path: Path, prepared: list[Path]) -> None:
        self.prepare(tmp_path, IsolationOptions())
        assert prepared == [tmp_path / "usual" / "1"]

    def test_nothing_is_prepared_for_worker_processes(self, tmp_path: Path, prepared: list[Path]) -> None:
        self.prepare(tmp_path, IsolationOptions(workers=1))
        assert prepared == []
