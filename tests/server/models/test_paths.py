"""How a PATH on the command line is interpreted."""

import sys
from pathlib import Path

import pytest

from headrace_server.config.model_config import Latest, ModelConfig, Specific
from headrace_server.errors import ServingError
from headrace_server.models.paths import find_models


def touched(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def found(path: Path, name: str = "") -> list[tuple[str, Path, object]]:
    return [(model.name, model.base_path, model.policy) for model in find_models([str(path)], name)]


@pytest.mark.parametrize("file", ["iris.onnx", "iris.tflite", "iris.plan", "iris.engine"])
def test_a_file_is_a_model_called_by_its_stem(tmp_path: Path, file: str) -> None:
    path = touched(tmp_path / file)

    assert found(path) == [("iris", path, Latest())]


@pytest.mark.parametrize("file", ["model.onnx", "model.py"])
def test_a_file_called_model_has_its_folders_name(tmp_path: Path, file: str) -> None:
    assert [name for name, *_ in found(touched(tmp_path / "iris" / file))] == ["iris"]
    assert [name for name, *_ in found(touched(tmp_path / "wine" / "3" / file))] == ["wine"]


def test_a_flat_folder_is_its_file(tmp_path: Path) -> None:
    path = touched(tmp_path / "iris" / "model.onnx")

    assert found(path.parent) == [("iris", path, Latest())]


def test_a_flat_saved_model_is_its_folder(tmp_path: Path) -> None:
    folder = touched(tmp_path / "net" / "saved_model.pb").parent

    assert found(folder) == [("net", folder, Latest())]


def test_a_base_path(tmp_path: Path) -> None:
    touched(tmp_path / "iris" / "1" / "model.onnx")
    touched(tmp_path / "iris" / "2" / "model.onnx")

    assert found(tmp_path / "iris") == [("iris", tmp_path / "iris", Latest())]


def test_a_numbered_folder_is_that_version(tmp_path: Path) -> None:
    folder = touched(tmp_path / "iris" / "2" / "model.onnx").parent

    assert found(folder) == [("iris", tmp_path / "iris", Specific((2,)))]


def test_a_folder_of_models(tmp_path: Path) -> None:
    touched(tmp_path / "a.onnx")
    touched(tmp_path / "b" / "model.onnx")
    touched(tmp_path / "c" / "1" / "model.onnx")
    touched(tmp_path / "README.md")
    touched(tmp_path / ".hidden" / "model.onnx")

    assert [name for name, *_ in found(tmp_path)] == ["a", "b", "c"]


def test_relative_paths_and_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = touched(tmp_path / "iris.onnx")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    wanted = (ModelConfig("iris", path),)
    assert find_models(["iris.onnx"]) == find_models(["./iris.onnx"]) == find_models(["~/iris.onnx"]) == wanted


def test_a_name_that_is_given(tmp_path: Path) -> None:
    assert [name for name, *_ in found(touched(tmp_path / "iris.onnx"), "flowers")] == ["flowers"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("none", "there is no file or folder {root}/none"),
        ("notes.txt", "{root}/notes.txt is not a model: a model is a file"),
        ("empty", "{root}/empty holds no model: it holds nothing; a model is"),
        ("other", "{root}/other holds no model: it holds a.csv, notes.md; a model is"),
        ("lettered", "v1 is not a version number: call it 1"),
        ("ftp://host/iris", "ftp://host/iris: ftp:// is not supported: name a file, a folder, or one of s3://, gs://,"),
    ],
)
def test_a_path_without_a_model_is_refused_with_what_was_found(tmp_path: Path, path: str, said: str) -> None:
    touched(tmp_path / "notes.txt")
    (tmp_path / "empty").mkdir()
    touched(tmp_path / "other" / "a.csv")
    touched(tmp_path / "other" / "notes.md")
    touched(tmp_path / "lettered" / "v1" / "model.onnx")
    with pytest.raises(ServingError) as refused:
        find_models([path if "://" in path else str(tmp_path / path)])

    assert said.format(root=tmp_path) in refused.value.message


@pytest.mark.parametrize("uri", ["s3://bucket/iris", "gs://bucket/iris", "abfss://container@account/iris"])
def test_a_store_whose_package_is_missing_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, uri: str) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ServingError) as refused:
        find_models([uri])

    assert refused.value.message == f"{uri}: object stores need obstore: pip install 'headrace[stores]'"


def test_two_models_of_one_name(tmp_path: Path) -> None:
    one, two = touched(tmp_path / "a" / "iris.onnx"), touched(tmp_path / "b" / "iris.onnx")
    with pytest.raises(ServingError, match=f"two models are called iris: {one} and {two}"):
        find_models([str(one), str(two)])


def test_one_name_for_two_models(tmp_path: Path) -> None:
    touched(tmp_path / "a.onnx")
    touched(tmp_path / "b.onnx")
    with pytest.raises(ServingError, match="--model_name names one model, and there are 2: a, b"):
        find_models([str(tmp_path)], "c")
